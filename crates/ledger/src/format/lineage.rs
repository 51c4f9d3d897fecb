//! Lineage <-> CBOR, and the lineage hash.
//!
//! ```text
//! {0: 1, 1: exact, 2: [input], 3: [atom], 4: [output], 5: [[code, atoms]], 7: [unknown], 9: atoms evaluated, 10: volatile}
//! input  [dataset, name, version, made at, content]
//! atom   {0: input, 1: field, 2: [view], 3: [[policy, rung]], 4: by policy, 5: [[rule, epoch]]}
//! output {0: name, 1: [[code, atoms]]}    codes 0–2 direct: identity, transformation, aggregation
//!                                         8–13: filter, join, group by, sort, window, conditional
//! atoms  first index, then gaps
//! ```
//!
//! With hops, whose texts have `?` for every literal, also `6: [[node, output, [[node, output]], text]]` in the lineage and
//! `2: [hop]`, outermost first, in an output; the hash ignores both. What others claim is told by key 8 in the map of the
//! whole payload (`asserted.rs`). Lists of atoms are written sorted and free of repeats.

use super::{
    cbor::{Value, to_bytes},
    wire::{MapIn, MapOut, Unexpected, Wire, items, tuple, unexpected},
};
use crate::tree::{Sha3, TreeHash};
use custody_model::{
    Atom, AtomIx, Direct, Hash, Hop, Indirect, Influence, Lineage, OutputFlow, RuleVersion, Rung, TableVersion,
};
use std::collections::{BTreeMap, BTreeSet};

/// SHA3-256 of the canonical form without hops.
pub fn lineage_hash(lineage: &Lineage) -> Hash {
    let mut bare = lineage.clone();
    bare.hops.clear();
    bare.outputs.iter_mut().for_each(|output| output.hops.clear());
    Sha3::digest(&[&to_bytes(&lineage_to_value(&bare))])
}

type Flows = (Vec<(Direct, AtomIx)>, Vec<Influence>);
type Groups = BTreeMap<u64, BTreeSet<AtomIx>>;

const DIRECT: [Direct; 3] = [Direct::Identity, Direct::Transformation, Direct::Aggregation];
const INDIRECT: [Indirect; 6] =
    [Indirect::Filter, Indirect::Join, Indirect::GroupBy, Indirect::Sort, Indirect::Window, Indirect::Conditional];

pub(super) fn direct_code(kind: Direct) -> u64 {
    match kind {
        Direct::Identity => 0,
        Direct::Transformation => 1,
        Direct::Aggregation => 2,
    }
}

pub(super) fn indirect_code(kind: Indirect) -> u64 {
    match kind {
        Indirect::Filter => 8,
        Indirect::Join => 9,
        Indirect::GroupBy => 10,
        Indirect::Sort => 11,
        Indirect::Window => 12,
        Indirect::Conditional => 13,
    }
}

pub(super) fn direct_of(code: u64) -> Option<Direct> {
    DIRECT.into_iter().find(|k| direct_code(*k) == code)
}

pub(super) fn indirect_of(code: u64) -> Option<Indirect> {
    INDIRECT.into_iter().find(|k| indirect_code(*k) == code)
}

/// Atoms in ascending order: the first, then the gap to each next one.
struct AtomList(BTreeSet<AtomIx>);

impl Wire for AtomList {
    fn value(&self) -> Value {
        let mut last = 0;
        Value::Array(self.0.iter().map(|ix| Value::Uint(u64::from(*ix - std::mem::replace(&mut last, *ix)))).collect())
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let mut last: Option<AtomIx> = None;
        let mut list = BTreeSet::new();
        for gap in items(value)? {
            let gap = AtomIx::read(gap)?;
            let next = match last {
                None => Some(gap),
                Some(_) if gap == 0 => return unexpected("an atom twice"),
                Some(ix) => ix.checked_add(gap),
            };
            let Some(ix) = next else { return unexpected("an atom index beyond 32 bits") };
            list.insert(ix);
            last = Some(ix);
        }
        Ok(Self(list))
    }
    fn field(&self) -> Option<Value> {
        (!self.0.is_empty()).then(|| self.value())
    }
    fn read_field(value: Option<Value>) -> Result<Self, Unexpected> {
        match value.map(Self::read).transpose()? {
            Some(list) if list.0.is_empty() => unexpected("empty where absence says it"),
            list => Ok(list.unwrap_or(Self(BTreeSet::new()))),
        }
    }
}

/// `[[code, atoms]]`, codes ascending.
struct Coded(Groups);

impl Wire for Coded {
    fn value(&self) -> Value {
        let group = |(code, atoms): (&u64, &BTreeSet<AtomIx>)| {
            Value::Array(vec![Value::Uint(*code), AtomList(atoms.clone()).value()])
        };
        Value::Array(self.0.iter().map(group).collect())
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let mut groups = Groups::new();
        for pair in items(value)? {
            let [code, atoms] = tuple(pair)?;
            let (code, atoms) = (u64::read(code)?, AtomList::read(atoms)?.0);
            if atoms.is_empty() || groups.last_key_value().is_some_and(|(last, _)| *last >= code) {
                return unexpected("codes that do not ascend or hold nothing");
            }
            groups.insert(code, atoms);
        }
        Ok(Self(groups))
    }
    fn field(&self) -> Option<Value> {
        (!self.0.is_empty()).then(|| self.value())
    }
    fn read_field(value: Option<Value>) -> Result<Self, Unexpected> {
        match value.map(Self::read).transpose()? {
            Some(list) if list.0.is_empty() => unexpected("empty where absence says it"),
            list => Ok(list.unwrap_or(Self(Groups::new()))),
        }
    }
}

fn group(direct: &[(Direct, AtomIx)], indirect: &[Influence]) -> Coded {
    let mut groups = Groups::new();
    for (kind, atom) in direct {
        groups.entry(direct_code(*kind)).or_default().insert(*atom);
    }
    for Influence { kind, atom } in indirect {
        groups.entry(indirect_code(*kind)).or_default().insert(*atom);
    }
    Coded(groups)
}

fn ungroup(coded: Coded) -> Result<Flows, Unexpected> {
    let (mut direct, mut indirect) = (vec![], vec![]);
    for (code, atoms) in coded.0 {
        match (direct_of(code), indirect_of(code)) {
            (Some(kind), _) => direct.extend(atoms.into_iter().map(|atom| (kind, atom))),
            (_, Some(kind)) => indirect.extend(atoms.into_iter().map(|atom| Influence { kind, atom })),
            (None, None) => return unexpected(format!("unknown influence {code}")),
        }
    }
    Ok((direct, indirect))
}

struct Input(TableVersion);

impl Wire for Input {
    fn value(&self) -> Value {
        let TableVersion { dataset, name, version, made_at, content } = &self.0;
        Value::Array(vec![dataset.value(), name.value(), version.value(), made_at.value(), content.value()])
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let [dataset, name, version, made_at, content] = tuple(value)?;
        Ok(Self(TableVersion {
            dataset: Wire::read(dataset)?,
            name: Wire::read(name)?,
            version: Wire::read(version)?,
            made_at: Wire::read(made_at)?,
            content: Wire::read(content)?,
        }))
    }
}

impl Wire for (String, Rung) {
    fn value(&self) -> Value {
        Value::Array(vec![self.0.value(), self.1.value()])
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let [policy, rung] = tuple(value)?;
        Ok((Wire::read(policy)?, Wire::read(rung)?))
    }
}

impl Wire for RuleVersion {
    fn value(&self) -> Value {
        Value::Array(vec![self.rule.value(), self.epoch.value()])
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let [rule, epoch] = tuple(value)?;
        Ok(Self { rule: Wire::read(rule)?, epoch: Wire::read(epoch)? })
    }
}

impl Wire for Atom {
    fn value(&self) -> Value {
        let Self { table, field, views, masks, by_policy, rules } = self;
        let mut map = MapOut::default();
        map.put(0, table);
        map.put(1, field);
        map.put(2, views);
        map.put(3, masks);
        map.put(4, by_policy);
        map.put(5, rules);
        map.done()
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let mut map = MapIn::new(value)?;
        let atom = Self {
            table: map.get(0)?,
            field: map.get(1)?,
            views: map.get(2)?,
            masks: map.get(3)?,
            by_policy: map.get(4)?,
            rules: map.get(5)?,
        };
        map.end()?;
        Ok(atom)
    }
}

impl Wire for Hop {
    fn value(&self) -> Value {
        let Self { node, output, from, text } = self;
        let from = from.iter().map(|(node, output)| Value::Array(vec![node.value(), output.value()])).collect();
        Value::Array(vec![node.value(), output.value(), Value::Array(from), text.value()])
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let [node, output, from, text] = tuple(value)?;
        let pair = |value| {
            let [node, output] = tuple(value)?;
            Ok((Wire::read(node)?, Wire::read(output)?))
        };
        let from = items(from)?.into_iter().map(pair).collect::<Result<_, Unexpected>>()?;
        Ok(Self { node: Wire::read(node)?, output: Wire::read(output)?, from, text: Wire::read(text)? })
    }
}

impl Wire for OutputFlow {
    fn value(&self) -> Value {
        let Self { name, direct, field, hops } = self;
        let mut map = MapOut::default();
        map.put(0, name);
        map.put(1, &group(direct, field));
        map.put(2, hops);
        map.done()
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let mut map = MapIn::new(value)?;
        let name = map.get(0)?;
        let (direct, field) = ungroup(map.get(1)?)?;
        let hops = map.get(2)?;
        map.end()?;
        Ok(Self { name, direct, field, hops })
    }
}

pub(super) fn lineage_to_value(lineage: &Lineage) -> Value {
    let Lineage { exact, unknown, volatile, inputs, atoms, outputs, dataset, evaluated, hops, shapes: _ } = lineage;
    let mut map = MapOut::default();
    map.put(0, &1_u64);
    map.put(1, exact);
    map.put(2, &inputs.iter().cloned().map(Input).collect::<Vec<_>>());
    map.put(3, atoms);
    map.put(4, outputs);
    map.put(5, &group(&[], dataset));
    map.put(6, hops);
    map.put(7, unknown);
    map.put(9, &AtomList(evaluated.iter().copied().collect()));
    map.put(10, volatile);
    map.done()
}

pub(super) fn lineage_from_value(value: Value) -> Result<Lineage, Unexpected> {
    let mut map = MapIn::new(value)?;
    let form: u64 = map.get(0)?;
    if form != 1 {
        return unexpected(format!("lineage form {form} is newer than this binary reads (1)"));
    }
    let exact = map.get(1)?;
    let inputs: Vec<Input> = map.get(2)?;
    let atoms: Vec<Atom> = map.get(3)?;
    let outputs: Vec<OutputFlow> = map.get(4)?;
    let (direct, dataset) = ungroup(map.get(5)?)?;
    let hops: Vec<Hop> = map.get(6)?;
    let unknown = map.get(7)?;
    let evaluated: Vec<AtomIx> = map.get::<AtomList>(9)?.0.into_iter().collect();
    let volatile = map.get(10)?;
    map.end()?;
    if !direct.is_empty() {
        return unexpected("a direct flow into every output");
    }
    let used = outputs.iter().flat_map(|o| o.direct.iter().map(|d| d.1).chain(o.field.iter().map(|i| i.atom)));
    let mut used = used.chain(dataset.iter().map(|i| i.atom)).chain(evaluated.iter().copied());
    if used.any(|ix| ix as usize >= atoms.len()) || atoms.iter().any(|a| a.table as usize >= inputs.len()) {
        return unexpected("an index out of range");
    }
    let of_atom = |(node, ix): &(u32, u32)| *node != Hop::ATOMS || (*ix as usize) < atoms.len();
    if outputs.iter().flat_map(|o| &o.hops).any(|ix| *ix as usize >= hops.len())
        || !hops.iter().flat_map(|h| &h.from).all(of_atom)
    {
        return unexpected("a hop out of range");
    }
    let shapes = !hops.is_empty();
    let inputs = inputs.into_iter().map(|i| i.0).collect();
    Ok(Lineage { exact, unknown, volatile, inputs, atoms, outputs, dataset, evaluated, hops, shapes })
}
