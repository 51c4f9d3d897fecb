//! Readings of a lineage: what the user asked for, which columns played which part, rows of `EXPLAIN LINEAGE`.

use custody_model::{
    Atom, AtomIx, ColumnRole, Direct, FieldId, Hop, Indirect, Influence, Lineage, OutputFlow, PolicyId, RoleSet, Rung,
    TableVersion,
};
use std::collections::{BTreeMap, BTreeSet};

/// The part of a lineage that the user's statement reads, without what policy adds. The lineage itself is the
/// effective one.
pub fn requested(lineage: &Lineage) -> Lineage {
    let kept = |ix: AtomIx| lineage.atom(ix).is_some_and(|a| a.by_policy.is_none());
    let mut out = Lineage {
        exact: lineage.exact,
        unknown: lineage.unknown.clone(),
        volatile: lineage.volatile,
        inputs: vec![],
        atoms: vec![],
        outputs: vec![],
        dataset: lineage.dataset.iter().filter(|i| kept(i.atom)).copied().collect(),
        evaluated: lineage.evaluated.iter().filter(|a| kept(**a)).copied().collect(),
        hops: vec![],
        shapes: lineage.shapes,
    };
    for output in &lineage.outputs {
        out.outputs.push(OutputFlow {
            name: output.name.clone(),
            direct: output.direct.iter().filter(|(_, a)| kept(*a)).copied().collect(),
            field: output.field.iter().filter(|i| kept(i.atom)).copied().collect(),
            hops: output.hops.clone(),
        });
    }
    // An entitlement table is read by policy only, and says so by its row existence.
    let only_policy = |table: usize| {
        let of = || lineage.atoms.iter().filter(move |a| a.table as usize == table);
        of().all(|a| a.by_policy.is_some()) && of().any(|a| a.field.is_none())
    };
    let mut tables = BTreeMap::new();
    for (i, input) in lineage.inputs.iter().enumerate() {
        if !only_policy(i) {
            tables.insert(i as u32, out.inputs.len() as u32);
            out.inputs.push(input.clone());
        }
    }
    let mut atoms = BTreeMap::new();
    for (i, atom) in lineage.atoms.iter().enumerate() {
        if atom.by_policy.is_none()
            && let Some(table) = tables.get(&atom.table)
        {
            atoms.insert(i as u32, out.atoms.len() as u32);
            out.atoms.push(Atom { table: *table, ..atom.clone() });
        }
    }
    let to = |ix: &mut AtomIx| {
        if let Some(new) = atoms.get(ix) {
            *ix = *new;
        }
    };
    out.dataset.iter_mut().for_each(|i| to(&mut i.atom));
    out.evaluated.iter_mut().for_each(to);
    for output in &mut out.outputs {
        output.direct.iter_mut().for_each(|(_, a)| to(a));
        output.field.iter_mut().for_each(|i| to(&mut i.atom));
    }
    out.hops = lineage
        .hops
        .iter()
        .map(|hop| Hop {
            from: hop
                .from
                .iter()
                .filter_map(|(node, ix)| match *node {
                    Hop::ATOMS => atoms.get(ix).map(|new| (Hop::ATOMS, *new)),
                    node => Some((node, *ix)),
                })
                .collect(),
            ..hop.clone()
        })
        .collect();
    out
}

/// What a statement did with one column of one table version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnUse {
    /// The table.
    pub table: TableVersion,
    /// The column; `None`: which rows exist.
    pub field: Option<FieldId>,
    /// The parts it played; empty: it is only evaluated, so that it can make the statement fail.
    pub roles: RoleSet,
    /// The user's statement reads it; `false`: only policy does.
    pub requested: bool,
    /// Masks on the user's ways to it.
    pub masks: Vec<(PolicyId, Rung)>,
    /// Policies, row sets and guards that read it on their own.
    pub by_policy: Vec<PolicyId>,
}

fn role(kind: Indirect) -> ColumnRole {
    match kind {
        Indirect::Filter => ColumnRole::Filter,
        Indirect::Join => ColumnRole::Join,
        Indirect::GroupBy => ColumnRole::GroupBy,
        Indirect::Sort => ColumnRole::Sort,
        Indirect::Window => ColumnRole::Window,
        Indirect::Conditional => ColumnRole::Conditional,
    }
}

/// The part each column played, by table and field, for the targets of an audit entry.
pub fn column_roles(lineage: &Lineage) -> Vec<ColumnUse> {
    let mut roles: BTreeMap<AtomIx, RoleSet> = BTreeMap::new();
    let mut play = |atom: AtomIx, part: Option<ColumnRole>| {
        let set = roles.entry(atom).or_default();
        if let Some(part) = part {
            set.insert(part);
        }
    };
    for output in &lineage.outputs {
        output.direct.iter().for_each(|(_, atom)| play(*atom, Some(ColumnRole::Project)));
        output.field.iter().for_each(|i| play(i.atom, Some(role(i.kind))));
    }
    lineage.dataset.iter().for_each(|i| play(i.atom, Some(role(i.kind))));
    lineage.evaluated.iter().for_each(|atom| play(*atom, None));

    #[derive(Default)]
    struct Found {
        roles: RoleSet,
        requested: bool,
        masks: BTreeSet<(PolicyId, Rung)>,
        by_policy: BTreeSet<PolicyId>,
    }
    let mut found: BTreeMap<(u32, Option<FieldId>), Found> = BTreeMap::new();
    for (ix, set) in roles {
        let Some(atom) = lineage.atom(ix) else { continue };
        let one = found.entry((atom.table, atom.field)).or_default();
        one.roles.0 |= set.0;
        match &atom.by_policy {
            Some(policy) => {
                one.by_policy.insert(policy.clone());
            }
            None => {
                one.requested = true;
                one.masks.extend(atom.masks.iter().cloned());
            }
        }
    }
    found
        .into_iter()
        .filter_map(|((table, field), one)| {
            Some(ColumnUse {
                table: lineage.inputs.get(table as usize)?.clone(),
                field,
                roles: one.roles,
                requested: one.requested,
                masks: one.masks.into_iter().collect(),
                by_policy: one.by_policy.into_iter().collect(),
            })
        })
        .collect()
}

/// A row of `EXPLAIN LINEAGE`, in the order of its columns.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LineageRow {
    /// From 1; 0: every output.
    pub output_ordinal: u32,
    /// The output's name; `*` for every output.
    pub output_column: String,
    /// The table.
    pub source_dataset: String,
    /// Its version.
    pub source_version: u64,
    /// The column; `None`: which rows exist.
    pub source_column: Option<String>,
    /// `DIRECT` or `INDIRECT`.
    pub kind: &'static str,
    /// `IDENTITY`, `FILTER`, …
    pub subtype: &'static str,
    /// Whether a mask stands in between.
    pub masking: bool,
    /// The outermost expression; `None` for the value itself.
    pub expression: Option<String>,
    /// Plain views on the way, outermost first.
    pub via_view: Vec<String>,
    /// The mask's policy, the row set or the guard.
    pub policy_id: Option<String>,
    /// Whether every node was understood.
    pub exact: bool,
}

/// The rows of `EXPLAIN LINEAGE`, sorted by all columns. `column` names a field of a table version; what policy reads
/// on its own shows only for tables where `explain_raw` holds, since it would name hidden columns.
pub fn rows(
    lineage: &Lineage,
    column: &dyn Fn(&TableVersion, FieldId) -> String,
    explain_raw: &dyn Fn(&TableVersion) -> bool,
) -> Vec<LineageRow> {
    let mut out = BTreeSet::new();
    let mut push = |ordinal: u32, name: &str, ix: AtomIx, way: Way, expression: Option<&str>| {
        let Some(atom) = lineage.atom(ix) else { return };
        let Some(table) = lineage.table(atom) else { return };
        if atom.by_policy.is_some() && !explain_raw(table) {
            return;
        }
        let masks: Vec<_> = atom.masks.iter().map(|(policy, rung)| format!("mask({policy}, {rung})")).collect();
        let (kind, subtype, expression) = match way {
            Way::Direct(Direct::Identity) => ("DIRECT", Direct::Identity.word(), masks.first().cloned()),
            Way::Direct(direct) => ("DIRECT", direct.word(), expression.map(str::to_string)),
            Way::Indirect(indirect) => ("INDIRECT", indirect.word(), expression.map(str::to_string)),
        };
        let policies: BTreeSet<_> =
            atom.masks.iter().map(|(policy, _)| policy.clone()).chain(atom.by_policy.clone()).collect();
        out.insert(LineageRow {
            output_ordinal: ordinal,
            output_column: name.to_string(),
            source_dataset: table.name.to_string(),
            source_version: table.version,
            source_column: atom.field.map(|field| column(table, field)),
            kind,
            subtype,
            masking: atom.by_policy.is_none() && !atom.masks.is_empty(),
            expression,
            via_view: atom.views.clone(),
            policy_id: (!policies.is_empty()).then(|| policies.into_iter().collect::<Vec<_>>().join(", ")),
            exact: lineage.exact,
        });
    };
    for Influence { kind, atom } in &lineage.dataset {
        push(0, "*", *atom, Way::Indirect(*kind), lineage.text_of_rows(*kind, *atom));
    }
    for (i, output) in lineage.outputs.iter().enumerate() {
        let ordinal = i as u32 + 1;
        let text = lineage.text_of(output);
        for (direct, atom) in &output.direct {
            push(ordinal, &output.name, *atom, Way::Direct(*direct), text);
        }
        for Influence { kind, atom } in &output.field {
            push(ordinal, &output.name, *atom, Way::Indirect(*kind), text);
        }
    }
    out.into_iter().collect()
}

enum Way {
    Direct(Direct),
    Indirect(Indirect),
}
