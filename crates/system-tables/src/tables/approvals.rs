//! `system.access.requests` and `grants`: for whoever asked, whoever owns the dataset, and whoever administers policies.

use crate::{
    Snapshot, SystemError,
    gate::Gate,
    rows::{Cell, Rows},
};

/// By the time of the entries that asked.
pub(crate) fn requests(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for asked in snapshot.catalog.access_asked().values() {
        let record = &asked.record;
        let owned = || snapshot.catalog.dataset(&record.dataset).is_some_and(|d| gate.owned(d.id()));
        if !(gate.own(Some(&asked.requester)) || gate.policy() || owned()) {
            continue;
        }
        let (state, answer) = match &asked.answer {
            None => ("open", None),
            Some((true, answer)) => ("approved", Some(answer)),
            Some((false, answer)) => ("denied", Some(answer)),
        };
        rows.push([
            asked.entry.into(),
            (&asked.requester.0).into(),
            Cell::Show(&record.dataset),
            Cell::List(record.columns.iter().map(String::as_str).collect()),
            record.rung.word().into(),
            (&record.purpose.0).into(),
            (&record.because).into(),
            record.seconds.into(),
            state.into(),
            answer.map(|a| &a.by.0).into(),
            answer.map(|a| &a.because).into(),
            asked.wall.into(),
            answer.map(|a| a.wall).into(),
        ])?;
    }
    Ok(())
}

/// By the time of the entries that gave.
pub(crate) fn grants(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for given in snapshot.catalog.access_given().values() {
        let record = &given.record;
        let Some(dataset) = snapshot.catalog.dataset_by_id(record.dataset) else { continue };
        if !(gate.own(Some(&record.principal)) || gate.policy() || gate.owned(record.dataset)) {
            continue;
        }
        let columns = record.columns.iter().filter_map(|field| dataset.definition().column(*field));
        rows.push([
            given.entry.into(),
            record.request.into(),
            (&record.principal.0).into(),
            Cell::Show(dataset.name()),
            Cell::List(columns.map(|c| c.name.as_str()).collect()),
            record.rung.word().into(),
            (&record.purpose.0).into(),
            (&given.given.by.0).into(),
            (&record.because).into(),
            given.given.wall.into(),
            record.expires.into(),
            given.revoked.as_ref().map(|r| r.wall).into(),
            given.revoked.as_ref().map(|r| &r.by.0).into(),
        ])?;
    }
    Ok(())
}
