//! `system.ledger`.

use crate::{
    Facts, Snapshot, SystemError,
    gate::Gate,
    rows::{Cell, Rows},
};
use custody_model::{KeyRecord, Payload, Seq, WriterEvent};
use std::ops::ControlFlow;

/// By writer and seq. The bytes are the auditor's alone.
pub(crate) fn entries(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    snapshot.each_entry(
        |_| 0,
        |stored| {
            let entry = &stored.entry;
            let own = gate.own(entry.actor.as_ref().map(|a| &a.principal));
            // Here a control entry that stands in two chains is two entries.
            if entry.control_seq > snapshot.at() || !(gate.all() || own) {
                return Ok(ControlFlow::Continue(()));
            }
            rows.push([
                entry.id.into(),
                stored.writer.as_str().into(),
                stored.seq.into(),
                i64::from(entry.kind() as u16).into(),
                entry.wall.into(),
                entry.control_seq.into(),
                stored.leaf.into(),
                gate.raw().then_some(stored.raw.as_slice()).map_or(Cell::Null, Cell::Bytes),
            ])?;
            Ok(ControlFlow::Continue(()))
        },
    )
}

/// As they are kept.
pub(crate) fn checkpoints(gate: &Gate<'_>, facts: &dyn Facts, rows: &mut Rows) -> Result<(), SystemError> {
    if !gate.ledger() {
        return Ok(());
    }
    for row in facts.checkpoints().map_err(SystemError::Facts)? {
        rows.push([
            (&row.origin).into(),
            row.tree_size.into(),
            row.root.into(),
            (&row.note).into(),
            row.signed_at.into(),
        ])?;
    }
    Ok(())
}

/// By name. A writer that has not ended in order is open, or silent where it has said nothing for a while.
pub(crate) fn writers(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    facts: &dyn Facts,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    let silent = snapshot.silent(facts.now());
    for (writer, chain) in snapshot.chains.iter().filter(|_| gate.ledger()) {
        let here = |stored: &custody_model::StoredEntry| stored.entry.control_seq <= snapshot.at();
        let Some((newest, time)) = snapshot.newest(writer, chain)? else { continue };
        let (mut incarnation, mut closed_at) = (0, None);
        for slot in chain.life.iter().filter(|slot| here(&slot.stored)) {
            match &slot.stored.entry.payload {
                Payload::Writer(WriterEvent::Open { incarnation: opened, .. }) => incarnation = *opened,
                Payload::Writer(WriterEvent::Close) => closed_at = Some(slot.stored.seq),
                _ => {}
            }
        }
        rows.push([
            writer.as_str().into(),
            incarnation.into(),
            newest.into(),
            time.into(),
            match (closed_at == Some(newest), chain.head == Some(newest) && silent.contains(writer)) {
                (true, _) => "closed",
                (false, true) => "silent",
                (false, false) => "open",
            }
            .into(),
        ])?;
    }
    Ok(())
}

/// As the engine measures them.
pub(crate) fn slo(snapshot: &Snapshot, gate: &Gate<'_>, facts: &dyn Facts, rows: &mut Rows) -> Result<(), SystemError> {
    if !gate.ledger() {
        return Ok(());
    }
    for row in facts.slo(snapshot).map_err(SystemError::Facts)? {
        rows.push([row.metric.into(), row.value.into(), row.target.into(), row.ok.into()])?;
    }
    Ok(())
}

/// By writer and place. A key may sign trees larger than its entry's place, until the next key's.
pub(crate) fn keys(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for chain in snapshot.chains.values().filter(|_| gate.ledger()) {
        let keys: Vec<(Seq, &KeyRecord)> = chain
            .life
            .iter()
            .filter(|slot| slot.stored.entry.control_seq <= snapshot.at())
            .filter_map(|slot| match &slot.stored.entry.payload {
                Payload::Key(key) => Some((slot.stored.seq, key)),
                _ => None,
            })
            .collect();
        for (at, (seq, key)) in keys.iter().enumerate() {
            let next = keys.get(at + 1).map(|(seq, _)| seq.0 + 1);
            let revoked = keys.iter().any(|(_, other)| other.revoke == Some(key.epoch));
            rows.push([
                key.epoch.into(),
                (&key.vkey).into(),
                (seq.0 + 1).into(),
                next.into(),
                match (revoked, next) {
                    (true, _) => "revoked",
                    (false, Some(_)) => "retired",
                    (false, None) => "active",
                }
                .into(),
            ])?;
        }
    }
    Ok(())
}
