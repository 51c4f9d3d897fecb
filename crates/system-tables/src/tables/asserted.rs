//! Rows of `system.lineage` that others claim, after those that the engine saw itself.
//!
//! What holds here: a claim has no node, so no edge, label or closure comes of it. A row needs both ends to be visible
//! to the viewer; a column that ours does not have at that version, and any foreign dataset, only whoever sees all.

use crate::{
    Snapshot, SystemError,
    edges::EdgeKind,
    gate::Gate,
    rows::{Cell, Rows},
};
use custody_catalog::VersionRecord;
use custody_model::{
    AssertedLineage, AssertedSource, AssertedTable, ControlSeq, DatasetName, EntryId, FlowKind, Payload,
};
use std::sync::Arc;

/// What these rows say of themselves.
const ASSERTED: &str = "asserted";

/// A claim about a dataset that the viewer may see.
struct Claim<'a> {
    entry: EntryId,
    lineage: &'a AssertedLineage,
    output: &'a AssertedTable,
}

/// By writer and seq.
fn claims<'a>(snapshot: &'a Snapshot, gate: &'a Gate<'_>) -> impl Iterator<Item = Claim<'a>> {
    let slots =
        snapshot.chains.values().flat_map(|chain| chain.asserted.iter()).filter(|slot| snapshot.here(&slot.stored));
    slots.filter_map(|slot| {
        let Payload::Asserted(lineage) = &slot.stored.entry.payload else { return None };
        let output = lineage.tables.first().filter(|output| gate.dataset(output.dataset))?;
        Some(Claim { entry: slot.stored.entry.id, lineage, output })
    })
}

/// The present name of a claimed dataset.
fn name(snapshot: &Snapshot, table: &AssertedTable) -> DatasetName {
    snapshot.name(table.dataset, ControlSeq(0), 0).unwrap_or_else(|| table.name.clone())
}

/// The version that a claim is about, where it is one of ours: the newest where none is said.
fn version<'a>(snapshot: &'a Snapshot, table: &AssertedTable) -> Option<&'a Arc<VersionRecord>> {
    let dataset = snapshot.catalog.dataset_by_id(table.dataset)?;
    table.version.map_or_else(|| dataset.newest(), |number| dataset.version(number))
}

/// The ordinal of a claimed column, where the version has it.
fn ordinal(snapshot: &Snapshot, table: &AssertedTable, column: &str) -> Option<u16> {
    let definition = version(snapshot, table)?.definition();
    definition.ordinal(definition.column_named(column)?.field)
}

/// Whether the viewer may see the claimed column; `None`: which rows exist.
fn visible(snapshot: &Snapshot, gate: &Gate<'_>, table: &AssertedTable, column: Option<&str>) -> bool {
    let Some(column) = column else { return gate.dataset(table.dataset) };
    gate.all()
        || version(snapshot, table)
            .zip(ordinal(snapshot, table, column))
            .is_some_and(|(version, ordinal)| gate.column(version.table.node(ordinal)))
}

/// As claimed: what decides about all rows first, then by column. The ordinal is that of the version where it is one of
/// ours and has the column, else the place in the claim.
pub(crate) fn columns(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for claim in claims(snapshot, gate) {
        for source in &claim.lineage.rows {
            write_source(snapshot, gate, &claim, (0, "*"), source, rows)?;
        }
        for (place, output) in (1i64..).zip(&claim.lineage.outputs) {
            if !visible(snapshot, gate, claim.output, Some(&output.name)) {
                continue;
            }
            let place = ordinal(snapshot, claim.output, &output.name).map_or(place, i64::from);
            for source in &output.from {
                write_source(snapshot, gate, &claim, (place, &output.name), source, rows)?;
            }
        }
    }
    Ok(())
}

fn write_source(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    claim: &Claim<'_>,
    (ordinal, output): (i64, &str),
    source: &AssertedSource,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    let column = source.column.as_deref();
    let Some(table) = claim.lineage.tables.get(source.table as usize) else { return Ok(()) };
    if !visible(snapshot, gate, table, column) {
        return Ok(());
    }
    let kind = match source.kind {
        FlowKind::Direct(direct) => EdgeKind::Direct(direct),
        FlowKind::Indirect(indirect) => EdgeKind::Indirect(indirect),
    };
    rows.push([
        claim.entry.into(),
        Cell::Show(&name(snapshot, claim.output)),
        claim.output.version.unwrap_or(0).into(),
        ordinal.into(),
        output.into(),
        Cell::Show(&name(snapshot, table)),
        table.version.unwrap_or(0).into(),
        column.into(),
        kind.kind().into(),
        kind.subtype().into(),
        source.masking.into(),
        Cell::Null,
        Cell::List(vec![]),
        Cell::Null,
        // Nobody has checked it.
        false.into(),
        ASSERTED.into(),
    ])
}

/// As claimed.
pub(crate) fn inputs(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for claim in claims(snapshot, gate) {
        for input in claim.lineage.tables.iter().skip(1).filter(|input| gate.dataset(input.dataset)) {
            rows.push([
                claim.entry.into(),
                Cell::Show(&name(snapshot, claim.output)),
                claim.output.version.unwrap_or(0).into(),
                ASSERTED.into(),
                Cell::Show(&name(snapshot, input)),
                input.version.unwrap_or(0).into(),
            ])?;
        }
    }
    Ok(())
}
