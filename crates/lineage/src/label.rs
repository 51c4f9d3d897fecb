//! Classes of each output, from its lineage.

use custody_model::{
    Atom, Class, ClassLabel, ClassSet, Declassification, FieldId, Lineage, Part, RuleVersion, TableVersion,
    UNCLASSIFIED,
};

/// The classes of each output column, in order.
///
/// An output's explicit part comes from DIRECT lineage, its implicit part from what decides it or every row. Row sets
/// are left out: they are policy's own. Masks lower nothing. A rule lowers only the copies of an atom that carry it,
/// and only the parts it names; a rule that `rules` does not know lowers nothing.
///
/// A DIRECT source without classes counts as [`UNCLASSIFIED`]; what merely decides does not.
pub fn labels(
    lineage: &Lineage,
    classes: &dyn Fn(&TableVersion, FieldId) -> ClassSet,
    rules: &dyn Fn(&RuleVersion) -> Option<Declassification>,
) -> Vec<ClassLabel> {
    let of = |ix: u32, part: Part| -> ClassSet {
        let Some(atom) = lineage.atom(ix).filter(|a| !is_row_set(a)) else { return ClassSet::new() };
        let (Some(table), Some(field)) = (lineage.table(atom), atom.field) else { return ClassSet::new() };
        let mut set = classes(table, field);
        let unclassified = Class(UNCLASSIFIED.into());
        match part {
            Part::Explicit if set.is_empty() => drop(set.insert(unclassified)),
            Part::Explicit => {}
            Part::Implicit => drop(set.remove(&unclassified)),
        }
        for rule in atom.rules.iter().filter_map(rules).filter(|r| r.from.contains(&part)) {
            if set.remove(&rule.removes) {
                set.extend(rule.replaces_with.clone());
            }
        }
        set
    };
    let everywhere: ClassSet = lineage.dataset.iter().flat_map(|i| of(i.atom, Part::Implicit)).collect();
    lineage
        .outputs
        .iter()
        .map(|output| ClassLabel {
            explicit: output.direct.iter().flat_map(|(_, atom)| of(*atom, Part::Explicit)).collect(),
            implicit: output
                .field
                .iter()
                .flat_map(|i| of(i.atom, Part::Implicit))
                .chain(everywhere.iter().cloned())
                .collect(),
        })
        .collect()
}

/// What a row set or guard reads; what a mask reads carries the mask.
fn is_row_set(atom: &Atom) -> bool {
    atom.by_policy.is_some() && atom.masks.is_empty()
}
