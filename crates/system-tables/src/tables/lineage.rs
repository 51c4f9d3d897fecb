//! `system.lineage`.

use crate::{
    Hop, Snapshot, SystemError,
    edges::{EdgeKind, VersionLineage, column_of},
    gate::Gate,
    rows::{Cell, Rows},
};
use custody_model::{
    Atom, ClassSet, DatasetId, DatasetName, EntryId, Lineage, Node, Payload, RunRecord, RunState, ScannedFile,
    StoredEntry, TableVersion, Verb,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::ControlFlow,
    sync::Arc,
};

/// Everything here was seen by the engine itself.
const OBSERVED: &str = "observed";
/// Expressions are cut here, at a character.
const EXPRESSION: usize = 512;

/// A version whose dataset the viewer may see.
struct Shown<'a> {
    at: &'a VersionLineage,
    name: DatasetName,
    lineage: &'a Lineage,
}

fn shown<'a>(snapshot: &'a Snapshot, gate: &'a Gate<'_>) -> Result<impl Iterator<Item = Shown<'a>>, SystemError> {
    snapshot.complete()?;
    Ok(snapshot.lineages.versions.range(..=snapshot.at()).filter_map(move |(_, at)| {
        let table = &at.version.table;
        let name = snapshot.name(table.dataset, table.made_at, 0)?;
        let lineage = &at.record()?.lineage;
        gate.dataset(table.dataset).then_some(Shown { at, name, lineage })
    }))
}

/// By control position of the version, then source, target, kind.
pub(crate) fn edges(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    snapshot.complete()?;
    for at in snapshot.lineages.versions.range(..=snapshot.at()).map(|(_, at)| at) {
        let entry = at.entry().entry.id;
        let mut last = None;
        for edge in at.edges.iter().filter(|e| gate.edge(e)) {
            // Read by the user's statement and by policy: one edge.
            let row = (edge.source, edge.target, edge.kind, edge.masking, edge.exact);
            if last.replace(row) == Some(row) {
                continue;
            }
            rows.push([
                edge.source.into(),
                edge.target.into(),
                edge.kind.kind().into(),
                edge.kind.subtype().into(),
                edge.masking.into(),
                edge.exact.into(),
                OBSERVED.into(),
                entry.into(),
            ])?;
        }
    }
    Ok(())
}

/// One row of a closure. Every node of the graph is in the catalog or a system table.
pub(crate) fn hop(snapshot: &Snapshot, hop: &Hop, rows: &mut Rows) -> Result<(), SystemError> {
    let system;
    let (table, version, column) = match snapshot.catalog.column_of(hop.node) {
        Some(at) => {
            let name = snapshot.name(at.table.dataset, at.table.made_at, hop.node.ordinal());
            (name.unwrap_or(at.table.name), at.table.version, at.column.map_or("*", |c| c.name.as_str()))
        }
        None => {
            system = crate::tables().iter().find_map(|t| {
                let column = t.definition.columns.iter().find(|c| crate::system_node(c.field) == hop.node)?;
                Some((t.definition.name.clone(), column.name.as_str()))
            });
            match system {
                Some((name, column)) => (name, 0, column),
                None => return Ok(()),
            }
        }
    };
    rows.push([
        hop.node.into(),
        Cell::Show(&table),
        version.into(),
        column.into(),
        i64::from(hop.hop).into(),
        hop.kind.kind().into(),
        hop.kind.subtype().into(),
        hop.masking.into(),
        hop.exact.into(),
    ])
}

/// By control position of the version, then as `EXPLAIN LINEAGE` sorts.
pub(crate) fn columns(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for shown in shown(snapshot, gate)? {
        let texts = gate.texts(shown.at.version.table.dataset);
        let mut flows: BTreeSet<Flow<'_>> = BTreeSet::new();
        for influence in &shown.lineage.dataset {
            flows.insert(Flow {
                ordinal: 0,
                output: "*",
                kind: EdgeKind::Indirect(influence.kind),
                atom: influence.atom,
                text: shown.lineage.text_of_rows(influence.kind, influence.atom),
            });
        }
        for output in &shown.lineage.outputs {
            let Some(ordinal) = shown.at.ordinal(&output.name) else { continue };
            let text = shown.lineage.text_of(output);
            let flow = |kind, atom, text| Flow { ordinal, output: &output.name, kind, atom, text };
            for (direct, atom) in &output.direct {
                let text = text.filter(|_| *direct != custody_model::Direct::Identity);
                flows.insert(flow(EdgeKind::Direct(*direct), *atom, text));
            }
            flows.extend(output.field.iter().map(|i| flow(EdgeKind::Indirect(i.kind), i.atom, text)));
        }
        for flow in flows {
            write_flow(snapshot, gate, &shown, &flow, texts, rows)?;
        }
    }
    Ok(())
}

/// An influence on an output, or on all of them.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flow<'a> {
    ordinal: u16,
    output: &'a str,
    kind: EdgeKind,
    atom: u32,
    text: Option<&'a str>,
}

fn write_flow(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    shown: &Shown<'_>,
    flow: &Flow<'_>,
    texts: bool,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    let table = &shown.at.version.table;
    let Some((atom, input)) = shown.lineage.atom(flow.atom).and_then(|a| Some((a, shown.lineage.table(a)?))) else {
        return Ok(());
    };
    let (source, column) = source(snapshot, atom, input);
    let seen = gate.column(table.node(flow.ordinal))
        && source.is_some_and(|node| gate.column(node))
        && (atom.by_policy.is_none() || gate.explained(input.dataset));
    let Some(name) = snapshot.name(input.dataset, input.made_at, source.map_or(0, Node::ordinal)).filter(|_| seen)
    else {
        return Ok(());
    };
    let mask = atom.masks.last();
    let masked = mask.map(|(policy, rung)| format!("mask({policy}, {rung})"));
    let text = flow.text.filter(|_| texts).map(|t| &t[..t.floor_char_boundary(EXPRESSION)]).or(masked.as_deref());
    rows.push([
        shown.at.entry().entry.id.into(),
        Cell::Show(&shown.name),
        table.version.into(),
        i64::from(flow.ordinal).into(),
        flow.output.into(),
        Cell::Show(&name),
        input.version.into(),
        column.into(),
        flow.kind.kind().into(),
        flow.kind.subtype().into(),
        (!atom.masks.is_empty()).into(),
        text.into(),
        Cell::List(atom.views.iter().map(String::as_str).collect()),
        atom.by_policy.as_ref().or(mask.map(|(policy, _)| policy)).into(),
        shown.lineage.exact.into(),
        OBSERVED.into(),
    ])
}

/// The node of an atom, and its column's name; row existence has no name.
fn source<'a>(snapshot: &'a Snapshot, atom: &Atom, input: &TableVersion) -> (Option<Node>, Option<&'a str>) {
    let Some(field) = atom.field else { return (Some(input.node(0)), None) };
    let node = column_of(input, field, &snapshot.catalog);
    let column = match node.and_then(|n| snapshot.catalog.column_of(n)) {
        Some(at) => at.column.map(|c| c.name.as_str()),
        None => crate::tables()
            .iter()
            .find_map(|t| t.definition.column(field).filter(|_| t.definition.id == input.dataset))
            .map(|c| c.name.as_str()),
    };
    (node, column)
}

/// By control position of the version, then as recorded.
pub(crate) fn inputs(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for shown in shown(snapshot, gate)? {
        for input in shown.lineage.inputs.iter().filter(|i| gate.dataset(i.dataset)) {
            let ordinal = if input.name.schema() == "quarantine" { 32_768 } else { 0 };
            let Some(name) = snapshot.name(input.dataset, input.made_at, ordinal) else { continue };
            rows.push([
                shown.at.entry().entry.id.into(),
                Cell::Show(&shown.name),
                shown.at.version.table.version.into(),
                OBSERVED.into(),
                Cell::Show(&name),
                input.version.into(),
            ])?;
        }
    }
    Ok(())
}

/// By control position of the version, then as recorded. The texts name columns on the way, so all of a version's hops
/// need `explain_raw` on it.
pub(crate) fn hops(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for shown in shown(snapshot, gate)?.filter(|s| gate.explained(s.at.version.table.dataset)) {
        let texts = gate.texts(shown.at.version.table.dataset);
        for (number, hop) in (0i64..).zip(&shown.lineage.hops) {
            let from: Vec<String> = hop.from.iter().map(|(node, output)| format!("{node}.{output}")).collect();
            rows.push([
                shown.at.entry().entry.id.into(),
                Cell::Show(&shown.name),
                shown.at.version.table.version.into(),
                OBSERVED.into(),
                number.into(),
                i64::from(hop.node).into(),
                i64::from(hop.output).into(),
                Cell::List(from.iter().map(String::as_str).collect()),
                texts.then_some(&hop.text).into(),
            ])?;
        }
    }
    Ok(())
}

/// In the order of reads, then by dataset and file. Which files and row groups were read tells about values, so a row
/// needs `explain_raw` on its dataset, and counts of rows an open grant.
pub(crate) fn scans(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    let mut ends: HashMap<EntryId, Arc<StoredEntry>> = HashMap::new();
    snapshot.each_entry(
        |_| 0,
        |stored| {
            if let (Payload::ReadOutcome(outcome), Some(request)) = (&stored.entry.payload, stored.entry.reference)
                && !outcome.scans.is_empty()
            {
                ends.entry(request).or_insert_with(|| Arc::clone(stored));
            }
            Ok(ControlFlow::Continue(()))
        },
    )?;
    snapshot.each_read(|stored| {
        let request = &stored.entry;
        let Some(Payload::ReadOutcome(outcome)) = ends.get(&request.id).map(|end| &end.entry.payload) else {
            return Ok(());
        };
        for scan in outcome.scans.iter().filter(|s| gate.texts(s.dataset)) {
            let Some(name) = snapshot.name(scan.dataset, scan.made_at, 0) else { continue };
            let counted = snapshot.catalog.version_made_at(scan.made_at).is_some_and(|v| gate.open(&v.table));
            let run = request.reference.filter(|_| request.verb == Verb::Publish);
            let mut row = |file: Option<&ScannedFile>| {
                rows.push([
                    request.id.into(),
                    run.into(),
                    Cell::Show(&name),
                    scan.version.into(),
                    scan.opened.into(),
                    Some(scan.rows).filter(|_| counted).into(),
                    file.map(|f| &f.path).into(),
                    file.and_then(|f| f.row_groups).into(),
                    file.map(|f| f.skipped).into(),
                ])
            };
            match scan.files.as_slice() {
                [] => row(None)?,
                files => files.iter().try_for_each(|file| row(Some(file)))?,
            }
        }
        Ok(())
    })
}

/// By control position of the version, ordinal, part, class; the rules that lowered the part after its classes.
pub(crate) fn labels(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for shown in shown(snapshot, gate)? {
        let version = &shown.at.version;
        let rules = rules(&shown);
        for (ordinal, label) in (1u16..).zip(version.labels().unwrap_or_default()) {
            if !gate.column(version.table.node(ordinal)) {
                continue;
            }
            let mut row = |part: &str, class: Option<&String>, rule: Option<&String>| {
                rows.push([
                    version.entry.into(),
                    Cell::Show(&shown.name),
                    version.table.version.into(),
                    OBSERVED.into(),
                    i64::from(ordinal).into(),
                    part.into(),
                    class.into(),
                    rule.into(),
                ])
            };
            let parts: [(&str, &ClassSet); 2] = [("explicit", &label.explicit), ("implicit", &label.implicit)];
            for (part, classes) in parts {
                classes.iter().try_for_each(|class| row(part, Some(&class.0), None))?;
                for rule in rules.get(&(ordinal, part)).into_iter().flatten() {
                    row(part, None, Some(rule))?;
                }
            }
        }
    }
    Ok(())
}

/// Declassification rules by output and part.
fn rules(shown: &Shown<'_>) -> BTreeMap<(u16, &'static str), BTreeSet<String>> {
    let mut rules: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    let mut add = |ordinal, part, atom| {
        for rule in shown.lineage.atom(atom).into_iter().flat_map(|a| &a.rules) {
            rules.entry((ordinal, part)).or_default().insert(format!("{}@{}", rule.rule, rule.epoch));
        }
    };
    for output in &shown.lineage.outputs {
        let Some(ordinal) = shown.at.ordinal(&output.name) else { continue };
        output.direct.iter().for_each(|(_, atom)| add(ordinal, "explicit", *atom));
        output.field.iter().chain(&shown.lineage.dataset).for_each(|i| add(ordinal, "implicit", i.atom));
    }
    rules
}

/// A run and its newest state.
struct Run<'a> {
    first: &'a StoredEntry,
    started: &'a RunRecord,
    last: &'a StoredEntry,
    newest: &'a RunRecord,
    rows: Option<u64>,
}

/// In the order in which writers started them.
pub(crate) fn runs(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    let mut runs: Vec<Run<'_>> = vec![];
    let mut places: BTreeMap<EntryId, usize> = BTreeMap::new();
    for slot in snapshot.chains.values().flat_map(|chain| chain.runs.iter()).filter(|slot| snapshot.here(&slot.stored))
    {
        let stored = slot.stored.as_ref();
        let Payload::Run(record) = &stored.entry.payload else { continue };
        if record.state == RunState::Started {
            places.insert(stored.entry.id, runs.len());
            runs.push(Run { first: stored, started: record, last: stored, newest: record, rows: None });
        }
    }
    // Later states may stand in another chain, when another process closed a crashed run.
    for slot in snapshot.chains.values().flat_map(|chain| chain.runs.iter()).filter(|slot| snapshot.here(&slot.stored))
    {
        let stored = slot.stored.as_ref();
        let Payload::Run(record) = &stored.entry.payload else { continue };
        let run = stored.entry.reference.and_then(|id| places.get(&id)).and_then(|at| runs.get_mut(*at));
        let Some(run) = run.filter(|_| record.state != RunState::Started) else { continue };
        run.rows = run.rows.or(record.rows);
        if record.state as u8 > run.newest.state as u8 {
            (run.last, run.newest) = (stored, record);
        }
    }
    for run in &runs {
        write_run(snapshot, gate, run, rows)?;
    }
    Ok(())
}

fn write_run(snapshot: &Snapshot, gate: &Gate<'_>, run: &Run<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    let (entry, record): (_, &RunRecord) = (&run.first.entry, run.newest);
    let actor = entry.actor.as_ref();
    let (principal, dataset): (_, DatasetId) = (actor.map(|a| &a.principal), record.dataset);
    if !gate.own(principal) && !gate.dataset(dataset) {
        return Ok(());
    }
    let named = gate.principal(principal, Some(dataset));
    let known = snapshot.catalog.dataset_by_id(dataset);
    let made = known.and_then(|d| d.versions().iter().rev().find(|v| v.identity() == &record.identity));
    let draft = || snapshot.catalog.drafts().find(|d| d.record.run == entry.id && gate.own(Some(&d.record.principal)));
    let table = made.map(|v| &v.table).or_else(|| draft().map(|d| &d.table));
    let counts = gate.raw() || table.is_some_and(|t| gate.open(t));
    let ended = matches!(record.state, RunState::Ended | RunState::Failed);
    rows.push([
        entry.id.into(),
        Cell::Show(known.map_or(&run.started.job, |d| d.name())),
        entry.reference.into(),
        record.state.word().into(),
        principal.filter(|_| named).map(|p| &p.0).into(),
        actor.and_then(|a| a.on_behalf_of.as_ref()).filter(|_| named).map(|p| &p.0).into(),
        entry.reason.purpose.as_ref().map(|p| &p.0).into(),
        (&entry.reason.environment).into(),
        Some(&entry.reason.stage).filter(|s| !s.is_empty()).into(),
        Cell::Null,
        run.started.plan.into(),
        run.started.git_commit.as_ref().into(),
        run.started.engine_version.into(),
        entry.wall.into(),
        ended.then_some(run.last.entry.wall).into(),
        Cell::Null,
        run.rows.filter(|_| counts).into(),
        record.error.as_ref().filter(|_| named).into(),
        run.last.entry.id.into(),
    ])
}
