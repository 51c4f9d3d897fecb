//! `system.quality`.

use crate::{
    Snapshot, SystemError,
    gate::Gate,
    rows::{Cell, Rows},
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
