//! The order of definitions: each after those it reads.

use crate::{
    Refusals,
    problem::code,
    reference::Reference,
    statement::{Located, Statement},
};
use custody_model::{DatasetName, Problem, SourceText};
use std::collections::BTreeMap;

/// A definition with the text it stands in.
#[derive(Clone, Debug)]
pub struct Definition<'a> {
    /// The text.
    pub source: &'a SourceText,
    /// The statement.
    pub statement: &'a Located<Statement>,
}

/// Indices into `definitions`, each after those that it reads; otherwise in the order of their names, so that the
/// order does not depend on the order of files. Names that no definition defines are left to the catalog, and
/// pinned references do not order: a version that is read by number exists already.
pub fn order(definitions: &[Definition<'_>]) -> Result<Vec<usize>, Refusals> {
    let mut by_name: BTreeMap<&DatasetName, usize> = BTreeMap::new();
    for (index, definition) in definitions.iter().enumerate() {
        let Some(name) = definition.statement.value.defines() else { continue };
        if let Some(first) = by_name.insert(&name.value, index) {
            let elsewhere = definitions.get(first).map_or("", |d| d.source.name.as_str());
            let problem = Problem::new(code::DEFINITION, format!("`{}` is defined twice", name.value))
                .help(format!("it is also defined in {elsewhere}"))
                .label(name.place.label("again here"));
            return Err(Refusals::one(problem, definition.source));
        }
    }
    let mut walk = Walk { definitions, by_name: &by_name, done: vec![false; definitions.len()], order: vec![] };
    for &index in by_name.values() {
        walk.visit(index)?;
    }
    Ok(walk.order)
}

struct Walk<'a> {
    definitions: &'a [Definition<'a>],
    by_name: &'a BTreeMap<&'a DatasetName, usize>,
    done: Vec<bool>,
    order: Vec<usize>,
}

impl<'a> Walk<'a> {
    fn references(&self, index: usize) -> Vec<&'a Reference> {
        self.definitions.get(index).map(|d| d.statement.value.references()).unwrap_or_default()
    }

    fn is_done(&self, index: usize) -> bool {
        self.done.get(index).copied().unwrap_or(true)
    }

    /// Depth first, without recursion: the path holds definitions with the number of references already followed.
    fn visit(&mut self, root: usize) -> Result<(), Refusals> {
        let mut path: Vec<(usize, usize)> = if self.is_done(root) { vec![] } else { vec![(root, 0)] };
        while let Some((index, followed)) = path.last_mut() {
            let (index, next) = (*index, *followed);
            *followed += 1;
            let Some(reference) = self.references(index).get(next).copied() else {
                path.pop();
                if let Some(done) = self.done.get_mut(index) {
                    *done = true;
                }
                self.order.push(index);
                continue;
            };
            let Some(&input) = self.by_name.get(&reference.name) else { continue };
            if matches!(reference.pin, custody_model::Pin::Newest) && !self.is_done(input) {
                if let Some(start) = path.iter().position(|(i, _)| *i == input) {
                    let cycle: Vec<usize> = path.iter().skip(start).map(|(i, _)| *i).collect();
                    return Err(self.cycle(&cycle, index, reference));
                }
                path.push((input, 0));
            }
        }
        Ok(())
    }

    fn cycle(&self, cycle: &[usize], closes: usize, reference: &Reference) -> Refusals {
        let name =
            |i: &usize| self.definitions.get(*i).and_then(|d| d.statement.value.defines()).map(|n| n.value.to_string());
        let names: Vec<String> = cycle.iter().chain(cycle.first()).filter_map(name).collect();
        let problem = Problem::new(code::CYCLE, format!("cycle: {}", names.join(" → ")))
            .help("pin one of the references to a published version: `VERSION n`")
            .label(reference.place().label("closes the cycle"));
        match self.definitions.get(closes) {
            Some(definition) => Refusals::one(problem, definition.source),
            None => Refusals::from_problem(problem),
        }
    }
}
