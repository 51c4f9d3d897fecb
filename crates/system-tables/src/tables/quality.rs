//! `system.quality`.

use crate::{
    Facts, Snapshot, SystemError,
    gate::Gate,
    rows::{Cell, Rows},
};
use custody_catalog::VersionRecord;
use custody_model::{
    ColumnDef, Node,
    profile::{ColumnProfile, Profile},
};

/// Datasets by name, versions in order, expectations as declared. Counts tell of all rows: NULL for whoever does not see all.
pub(crate) fn expectations(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for dataset in snapshot.catalog.datasets().filter(|d| gate.dataset(d.id())) {
        for version in dataset.versions() {
            let results = version.publish().map(|p| p.expectations.as_slice()).unwrap_or_default();
            let open = gate.open(&version.table);
            for (ordinal, result) in (1i64..).zip(results) {
                rows.push([
                    version.entry.into(),
                    Cell::Show(dataset.name()),
                    version.table.version.into(),
                    ordinal.into(),
                    gate.literals(version.table.dataset).then_some(&result.check).into(),
                    (&result.action).into(),
                    open.then_some(result.checked).into(),
                    open.then_some(result.violations).into(),
                    open.then_some(result.violations == 0).into(),
                ])?;
            }
        }
    }
    Ok(())
}

/// A column by its ordinal, its profile, and that of its version without columns.
pub(crate) type Counted<'a> = (u16, &'a ColumnDef, ColumnProfile, Profile);

/// A version's columns that the viewer may count, with their profiles.
pub(crate) fn counted<'a>(
    version: &'a VersionRecord,
    gate: &Gate<'_>,
    facts: &dyn Facts,
) -> Result<Vec<Counted<'a>>, SystemError> {
    let Some(blob) = version.publish().and_then(|p| p.profile) else { return Ok(vec![]) };
    let columns = (1u16..).zip(&version.definition().columns);
    let seen: Vec<_> = columns.filter(|(at, _)| gate.countable(Node::new(version.table.made_at, *at))).collect();
    if seen.is_empty() {
        return Ok(vec![]);
    }
    let profile = facts.profile(&blob).map_err(SystemError::Facts)?;
    let whole = Profile { columns: vec![], ..profile };
    let mut out = vec![];
    for (at, column) in seen {
        if let Some(counted) = profile.columns.get(usize::from(at) - 1) {
            out.push((at, column, counted.clone(), whole.clone()));
        }
    }
    Ok(out)
}

/// Datasets by name, versions and columns in order.
pub(crate) fn profiles(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    facts: &dyn Facts,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    for dataset in snapshot.catalog.datasets().filter(|d| gate.dataset(d.id())) {
        for version in dataset.versions() {
            for (at, column, counted, whole) in counted(version, gate, facts)? {
                rows.push([
                    version.entry.into(),
                    Cell::Show(dataset.name()),
                    version.table.version.into(),
                    i64::from(at).into(),
                    (&column.name).into(),
                    whole.rows.into(),
                    counted.nulls.into(),
                    counted.distinct.into(),
                    counted.mean.into(),
                    (counted.cells.shown(&column.data_type).len() as u64).into(),
                    counted.small.into(),
                    whole.least.into(),
                ])?;
            }
        }
    }
    Ok(())
}

/// Datasets by name, versions, columns and cells in order.
pub(crate) fn profile_cells(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    facts: &dyn Facts,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    for dataset in snapshot.catalog.datasets().filter(|d| gate.dataset(d.id())) {
        for version in dataset.versions() {
            for (at, column, counted, _) in counted(version, gate, facts)? {
                for (cell, shown) in (1i64..).zip(counted.cells.shown(&column.data_type)) {
                    rows.push([
                        Cell::Show(dataset.name()),
                        version.table.version.into(),
                        i64::from(at).into(),
                        (&column.name).into(),
                        cell.into(),
                        (&shown.from).into(),
                        (&shown.to).into(),
                        shown.rows.into(),
                    ])?;
                }
            }
        }
    }
    Ok(())
}

/// Each version against the one before, columns by identity: both must be visible.
pub(crate) fn drift(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    facts: &dyn Facts,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    for dataset in snapshot.catalog.datasets().filter(|d| gate.dataset(d.id())) {
        let (mut before, mut base): (Vec<Counted<'_>>, Option<u64>) = (vec![], None);
        for version in dataset.versions() {
            let now = counted(version, gate, facts)?;
            for (at, column, counted, _) in &now {
                let same = |(_, earlier, ..): &&Counted<'_>| earlier.field == column.field;
                let of = before.iter().find(same).and_then(|(_, _, earlier, _)| counted.drift(earlier));
                let (Some(drift), Some(base)) = (of, base) else { continue };
                rows.push([
                    Cell::Show(dataset.name()),
                    version.table.version.into(),
                    base.into(),
                    i64::from(*at).into(),
                    (&column.name).into(),
                    drift.psi.into(),
                    drift.ks.into(),
                    drift.word().into(),
                ])?;
            }
            (before, base) = (now, Some(version.table.version));
        }
    }
    Ok(())
}
