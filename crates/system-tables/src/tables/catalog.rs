//! `system.catalog`.

use crate::{
    Facts, Snapshot, SystemError,
    gate::Gate,
    rows::{Cell, Rows},
    schema::{system_node, tables},
};
use custody_catalog::{Made, VersionRecord};
use custody_model::{DatasetDefinition, DatasetName, EntryId, FieldId, SourceKind, TableVersion};
use std::collections::BTreeSet;

fn column(definition: &DatasetDefinition, field: Option<FieldId>) -> Option<&str> {
    definition.column(field?).map(|c| c.name.as_str())
}

fn owner(owner: &str) -> Option<&str> {
    (!owner.is_empty()).then_some(owner)
}

/// By name.
pub(crate) fn datasets(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for dataset in snapshot.catalog.datasets().filter(|d| gate.dataset(d.id())) {
        let definition = dataset.definition();
        rows.push([
            Cell::Show(dataset.name()),
            dataset.id().into(),
            dataset.kind().word().into(),
            owner(dataset.owner()).into(),
            Cell::List(dataset.purposes().iter().map(|p| p.0.as_str()).collect()),
            Cell::Null,
            definition.entity.as_ref().into(),
            column(definition, definition.event_time).into(),
            column(definition, definition.known_time).into(),
            definition.ttl.as_ref().into(),
            Cell::Null,
            Cell::Null,
            "active".into(),
            dataset.created_at().into(),
            dataset.entry().into(),
        ])?;
    }
    Ok(())
}

/// Datasets by name, versions in order, ordinals; then drafts, each for its principal; then the system tables.
pub(crate) fn columns(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    facts: &dyn Facts,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    for dataset in snapshot.catalog.datasets().filter(|d| gate.dataset(d.id())) {
        for version in dataset.versions() {
            let lowered = declassified(snapshot, version);
            let origin = |field, classes: &[String]| origin(version, field, classes, &lowered);
            let shown = Shown {
                table: &version.table,
                name: dataset.name(),
                definition: version.definition(),
                owner: dataset.owner(),
                entry: version.entry,
            };
            shown.write(gate, facts, &origin, rows)?;
        }
        if let Some(view) = dataset.view() {
            let shown = Shown {
                table: &view.table,
                name: dataset.name(),
                definition: &view.record.definition,
                owner: dataset.owner(),
                entry: dataset.entry(),
            };
            shown.write(gate, facts, &|_, _| "propagated", rows)?;
        }
    }
    for draft in snapshot.catalog.drafts() {
        let shown = Shown {
            table: &draft.table,
            name: &draft.table.name,
            definition: &draft.record.definition,
            owner: &draft.record.definition.owner,
            entry: draft.entry,
        };
        shown.write(gate, facts, &|_, _| "propagated", rows)?;
    }
    for table in tables() {
        for (ordinal, column) in (1i64..).zip(&table.definition.columns) {
            rows.push([
                system_node(column.field).into(),
                Cell::Show(&table.definition.name),
                0i64.into(),
                ordinal.into(),
                column.field.into(),
                (&column.name).into(),
                Cell::Show(&column.data_type),
                column.nullable.into(),
                Cell::List(vec![]),
                "declared".into(),
                Cell::Null,
                Cell::Null,
            ])?;
        }
    }
    Ok(())
}

/// A version or draft whose columns are listed.
struct Shown<'a> {
    table: &'a TableVersion,
    name: &'a DatasetName,
    definition: &'a DatasetDefinition,
    owner: &'a str,
    entry: EntryId,
}

impl Shown<'_> {
    fn write(
        &self,
        gate: &Gate<'_>,
        facts: &dyn Facts,
        origin: &dyn Fn(FieldId, &[String]) -> &'static str,
        rows: &mut Rows,
    ) -> Result<(), SystemError> {
        for (ordinal, column) in (1..).zip(&self.definition.columns) {
            let node = self.table.node(ordinal);
            if !gate.column(node) {
                continue;
            }
            let classes = facts.classes(self.table, column.field);
            rows.push([
                node.into(),
                Cell::Show(self.name),
                self.table.version.into(),
                i64::from(ordinal).into(),
                column.field.into(),
                (&column.name).into(),
                Cell::Show(&column.data_type),
                column.nullable.into(),
                Cell::List(classes.iter().map(String::as_str).collect()),
                origin(column.field, &classes).into(),
                owner(self.owner).into(),
                self.entry.into(),
            ])?;
        }
        Ok(())
    }
}

/// Outputs that a declassification rule lowered.
fn declassified<'a>(snapshot: &'a Snapshot, version: &VersionRecord) -> BTreeSet<&'a str> {
    let Some(lineage) = snapshot.lineages.versions.get(&version.table.made_at).and_then(|v| v.record()) else {
        return BTreeSet::new();
    };
    let lineage = &lineage.lineage;
    let ruled = |atom: &u32| lineage.atom(*atom).is_some_and(|a| !a.rules.is_empty());
    lineage
        .outputs
        .iter()
        .filter(|o| o.direct.iter().any(|(_, a)| ruled(a)) || o.field.iter().any(|i| ruled(&i.atom)))
        .map(|o| o.name.as_str())
        .collect()
}

/// Where the classes come from: rules that lowered them, the columns they were made of, or a tag.
fn origin(version: &VersionRecord, field: FieldId, classes: &[String], lowered: &BTreeSet<&str>) -> &'static str {
    if version.definition().column(field).is_some_and(|c| lowered.contains(c.name.as_str())) {
        return "declassified";
    }
    let came = |class: &String| {
        version.label(field).is_some_and(|l| l.explicit.iter().chain(&l.implicit).any(|c| c.0 == *class))
    };
    if classes.iter().any(came) { "propagated" } else { "declared" }
}

/// Datasets by name, versions in order.
pub(crate) fn versions(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for dataset in snapshot.catalog.datasets().filter(|d| gate.dataset(d.id())) {
        for version in dataset.versions() {
            let table = &version.table;
            let open = gate.open(table);
            let shown = |value: Option<Cell<'static>>| value.filter(|_| open).unwrap_or(Cell::Null);
            // Every published version is a Delta table of its own, written once.
            let delta = match &version.made {
                Made::Published(_) => Some(0),
                Made::Snapshot(s) => matches!(s.kind, SourceKind::Delta).then_some(table.version),
            };
            let publish = version.publish();
            let range = publish.and_then(|p| p.event_range);
            rows.push([
                Cell::Show(dataset.name()),
                table.version.into(),
                delta.into(),
                (*version.identity()).into(),
                shown(Some(table.content.into())),
                publish.map(|p| p.schema_hash).into(),
                gate.literals(table.dataset).then_some(&version.definition().sql).into(),
                publish.and_then(|p| p.git_commit.as_ref()).into(),
                publish.and_then(|p| p.git_dirty).into(),
                publish.map(|p| p.engine_version).into(),
                publish.and_then(|p| p.seed).into(),
                shown(publish.map(|p| p.rows.into())),
                shown(range.map(|r| Cell::Micros(r.0))),
                shown(range.map(|r| Cell::Micros(r.1))),
                Cell::Null,
                version.at.into(),
                gate.principal(Some(&version.by), Some(table.dataset)).then_some(&version.by.0).into(),
                version.because().into(),
                version.status.word().into(),
                version.entry.into(),
            ])?;
        }
    }
    Ok(())
}

/// By name, versions in order.
pub(crate) fn models(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for model in snapshot.catalog.models().filter(|m| gate.dataset(m.record.training.dataset)) {
        let training = &model.record.training;
        let Some(dataset) = snapshot.catalog.dataset_by_id(training.dataset) else { continue };
        rows.push([
            (&model.record.name).into(),
            model.record.version.into(),
            Cell::Show(dataset.name()),
            training.version.into(),
            model.record.artifact.into(),
            model.record.artifact_bytes.into(),
            model.at.into(),
            gate.principal(Some(&model.by), Some(training.dataset)).then_some(&model.by.0).into(),
            (&model.record.because).into(),
            model.entry.into(),
        ])?;
    }
    Ok(())
}
