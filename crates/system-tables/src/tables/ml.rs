//! `system.ml`: what models were given to predict from.

use super::{
    access::{touched, visible},
    quality::{Counted, counted},
};
use crate::{
    Facts, Snapshot, SystemError,
    edges::EdgeKind,
    gate::Gate,
    rows::{Cell, Rows},
};
use custody_catalog::{Model, VersionRecord};
use custody_model::{ControlSeq, Direct, Entry, Payload, Verb};
use std::collections::BTreeMap;

/// What a read was for. Planning one is not reading.
fn prediction(entry: &Entry) -> Option<&str> {
    match &entry.payload {
        _ if entry.verb == Verb::Metadata => None,
        Payload::ReadIntent(intent) | Payload::Read(intent, _) => intent.prediction.as_deref(),
        _ => None,
    }
}

/// By writer, seq and dataset: a row for each dataset version that a prediction was made from.
pub(crate) fn predictions(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    snapshot.each_read(|stored| {
        let entry = &stored.entry;
        let Some(id) = prediction(entry) else { return Ok(()) };
        let actor = entry.actor.as_ref();
        for touched in touched(entry).iter().filter(|t| visible(gate, actor, t)) {
            let Some(name) = snapshot.name(touched.dataset, touched.made_at, touched.ordinal()) else { continue };
            let by = actor.map(|a| &a.principal);
            rows.push([
                id.into(),
                entry.wall.into(),
                entry.reason.model.as_ref().into(),
                entry.reason.model_version.into(),
                Cell::Show(&name),
                touched.version.into(),
                by.filter(|by| gate.principal(Some(by), Some(touched.dataset))).map(|by| &by.0).into(),
                entry.reason.purpose.as_ref().map(|p| &p.0).into(),
                entry.id.into(),
            ])?;
        }
        Ok(())
    })
}

/// What a version of a model was given: how often, by version.
type Given = BTreeMap<(String, u64), BTreeMap<ControlSeq, u64>>;

/// Models by name, then what they were given, in order of publishing: a feature that a model learned from against the same
/// feature in each version it was given since. Both must be such that the viewer may count their values.
pub(crate) fn drift(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    facts: &dyn Facts,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    snapshot.complete()?;
    let mut given = Given::new();
    snapshot.each_read(|stored| {
        let entry = &stored.entry;
        let (Some(_), Some(model), Some(version)) =
            (prediction(entry), &entry.reason.model, entry.reason.model_version)
        else {
            return Ok(());
        };
        for touched in touched(entry).iter().filter(|t| visible(gate, entry.actor.as_ref(), t)) {
            let of = given.entry((model.clone(), version)).or_default();
            *of.entry(touched.made_at).or_default() += 1;
        }
        Ok(())
    })?;
    for model in snapshot.catalog.models().filter(|m| gate.dataset(m.record.training.dataset)) {
        let record = &model.record;
        let Some(served) = given.get(&(record.name.clone(), record.version)) else { continue };
        let Some(training) = snapshot.catalog.version_made_at(record.training.made_at) else { continue };
        let learned = counted(training, gate, facts)?;
        for (made_at, times) in served {
            let Some(version) = snapshot.catalog.version_made_at(*made_at) else { continue };
            for (of, now) in pairs(snapshot, training, &learned, version, &counted(version, gate, facts)?) {
                let Some(drift) = now.2.drift(&of.2) else { continue };
                row(rows, model, training, version, *times, [of, now], drift)?;
            }
        }
    }
    Ok(())
}

/// Columns of the training set with the column of a version that they come from unchanged.
fn pairs<'a, 'b>(
    snapshot: &Snapshot,
    training: &VersionRecord,
    learned: &'b [Counted<'a>],
    version: &VersionRecord,
    served: &'b [Counted<'a>],
) -> Vec<(&'b Counted<'a>, &'b Counted<'a>)> {
    let Some(lineage) = snapshot.lineages.versions.get(&training.table.made_at) else { return vec![] };
    let mut pairs = vec![];
    for edge in lineage.edges.iter().filter(|e| e.kind == EdgeKind::Direct(Direct::Identity)) {
        let Some(source) = snapshot.catalog.version_made_at(edge.source.made_at()) else { continue };
        if source.table.dataset != version.table.dataset {
            continue;
        }
        let at = usize::from(edge.source.ordinal());
        let Some(field) = at.checked_sub(1).and_then(|i| source.definition().columns.get(i)).map(|c| c.field) else {
            continue;
        };
        let of = learned.iter().find(|(at, ..)| *at == edge.target.ordinal());
        let now = served.iter().find(|(_, column, ..)| column.field == field);
        pairs.extend(of.zip(now));
    }
    pairs.sort_by_key(|(of, _)| of.0);
    pairs
}

fn row(
    rows: &mut Rows,
    model: &Model,
    training: &VersionRecord,
    version: &VersionRecord,
    times: u64,
    [of, now]: [&Counted<'_>; 2],
    drift: custody_model::profile::Drift,
) -> Result<(), SystemError> {
    rows.push([
        (&model.record.name).into(),
        model.record.version.into(),
        Cell::Show(&training.table.name),
        training.table.version.into(),
        (&of.1.name).into(),
        Cell::Show(&version.table.name),
        version.table.version.into(),
        (&now.1.name).into(),
        times.into(),
        drift.psi.into(),
        drift.ks.into(),
        drift.word().into(),
    ])
}
