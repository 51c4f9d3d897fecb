//! `system.policy`.

use crate::{
    Facts, Snapshot, SystemError,
    gate::Gate,
    rows::{Cell, Rows},
    tables::access::{touched, visible},
};
use custody_model::{Actor, ControlSeq, Entry, Node, Payload, Purpose, Subject, Target, WallNanos};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// By epoch. Which bundle was active when is everybody's to know; who approved it is not.
pub(crate) fn bundles(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for bundle in snapshot.catalog.bundles() {
        let approvers = bundle.record.approvers.iter().map(|p| p.0.as_str()).collect::<Vec<_>>();
        rows.push([
            bundle.record.epoch.into(),
            bundle.record.hash.into(),
            gate.policy().then_some(approvers).into(),
            bundle.from.into(),
            bundle.to.into(),
        ])?;
    }
    Ok(())
}

/// As the bundle has them.
pub(crate) fn policies(gate: &Gate<'_>, facts: &dyn Facts, rows: &mut Rows) -> Result<(), SystemError> {
    facts
        .policies()
        .policies
        .iter()
        .filter(|_| gate.policy())
        .try_for_each(|p| rows.push([(&p.policy_id).into(), (&p.kind).into(), (&p.text).into()]))
}

/// As the bundle has them. Those of a dataset are for who may see what policy adds there.
pub(crate) fn row_sets(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    facts: &dyn Facts,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    for set in facts.policies().row_sets.iter().filter(|s| gate.policy() || gate.explained(s.dataset)) {
        let Some(name) = snapshot.name(set.dataset, ControlSeq(0), 0) else { continue };
        rows.push([(&set.name).into(), Cell::Show(&name), (&set.predicate).into()])?;
    }
    Ok(())
}

/// As the bundle has them. Tags of columns that the viewer may see in the newest version.
pub(crate) fn tags(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    facts: &dyn Facts,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    for tag in &facts.policies().tags {
        let Some(name) = snapshot.name(tag.dataset, ControlSeq(0), 0) else { continue };
        let node = snapshot.catalog.dataset_by_id(tag.dataset).and_then(|d| {
            let newest = d.newest()?;
            Some(newest.table.node(newest.definition().ordinal(tag.field)?))
        });
        if gate.policy() || node.is_some_and(|node| gate.column(node)) {
            rows.push([Cell::Show(&name), tag.field.into(), (&tag.class).into()])?;
        }
    }
    Ok(())
}

/// By grant hash and node, each once: the same decision holds for many reads.
pub(crate) fn grants(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    facts: &dyn Facts,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    let guards: BTreeSet<&str> =
        facts.policies().row_sets.iter().filter(|s| s.guard).map(|s| s.name.as_str()).collect();
    let mut grants = BTreeMap::new();
    snapshot.each_read(|stored| {
        for touched in touched(&stored.entry) {
            let Some(target) = touched.target.filter(|_| visible(gate, stored.entry.actor.as_ref(), &touched)) else {
                continue;
            };
            let Some(grant) = target.grant else { continue };
            for column in &target.columns {
                let node = Node::new(target.made_at, column.ordinal);
                if gate.column(node) && (column.requested || gate.explained(target.dataset)) {
                    grants.entry((grant, node)).or_insert_with(|| (Arc::clone(stored), target.clone(), column.clone()));
                }
            }
        }
        Ok(())
    })?;
    for ((grant, node), (stored, target, column)) in grants {
        let entry = &stored.entry;
        let Some(name) = snapshot.name(target.dataset, target.made_at, column.ordinal) else { continue };
        let explained = gate.explained(target.dataset);
        let (guarded, sets): (Vec<&str>, Vec<&str>) =
            target.row_sets.iter().map(String::as_str).filter(|_| explained).partition(|s| guards.contains(s));
        let subject = entry.actor.as_ref().map(|actor| facts.subject_key(&subject(actor, entry)));
        rows.push([
            grant.into(),
            entry.reason.bundle.into(),
            subject.into(),
            Cell::Show(&name),
            node.into(),
            column.rung.word().into(),
            Cell::List(sets),
            Cell::List(guarded),
            Cell::List(column.policies.iter().map(String::as_str).collect()),
            valid_until(snapshot, entry, &target).into(),
        ])?;
    }
    Ok(())
}

/// When the first approval ends that the decision looked at.
fn valid_until(snapshot: &Snapshot, entry: &Entry, target: &Target) -> Option<WallNanos> {
    // Owners with whose rights a view reads have none.
    let (actor, None) = (entry.actor.as_ref()?, &target.owner) else { return None };
    let purpose = entry.reason.purpose.as_ref()?;
    let at = (entry.control_seq, entry.wall);
    let approvals = snapshot.catalog.approvals(&actor.principal, purpose, target.dataset, at.0, at.1);
    approvals.values().flat_map(|rungs| rungs.values().copied()).min()
}

/// The subject that a decision was made for, as the entry recorded it.
fn subject(actor: &Actor, entry: &Entry) -> Subject {
    let reason = &entry.reason;
    Subject {
        principal: actor.principal.clone(),
        kind: actor.kind.clone(),
        roles: actor.roles.clone(),
        attributes: actor.attributes.clone(),
        purpose: reason.purpose.clone().unwrap_or_else(|| Purpose(String::new())),
        environment: reason.environment.clone(),
        stage: reason.stage.clone(),
        region: reason.region.clone(),
        model: reason.model.clone(),
        model_version: reason.model_version,
        authentication: actor.authentication,
        session: actor.session.clone(),
        token: actor.token.clone(),
    }
}

/// By writer and seq, one row for each name asked for.
pub(crate) fn denials(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    snapshot.each_request(|stored| {
        let entry = &stored.entry;
        let Payload::Denied(denied) = &entry.payload else { return Ok(()) };
        let principal = entry.actor.as_ref().map(|a| &a.principal);
        if !gate.all() && !gate.own(principal) {
            return Ok(());
        }
        let mut row = |token: Option<custody_model::Hash>| {
            rows.push([
                entry.id.into(),
                principal.map(|p| &p.0).into(),
                entry.reason.purpose.as_ref().map(|p| &p.0).into(),
                token.into(),
                Cell::List(vec![&denied.code]),
            ])
        };
        if denied.targets.is_empty() {
            row(None)?;
        }
        denied.targets.iter().try_for_each(|token| row(Some(*token)))
    })
}
