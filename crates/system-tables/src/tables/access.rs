//! `system.access`.

use crate::{
    Facts, Snapshot, SystemError,
    fold::Slot,
    gate::Gate,
    rows::{Cell, Rows},
};
use custody_model::{
    Actor, CatalogChange, ControlSeq, DatasetId, Entry, Hash, Measure, Node, Outcome, Payload, Rung, Target, Verb,
};

/// A dataset version that a request touched.
pub(crate) struct Touched<'a> {
    pub(crate) dataset: DatasetId,
    pub(crate) version: Option<u64>,
    pub(crate) made_at: ControlSeq,
    pub(crate) target: Option<&'a Target>,
}

impl Touched<'_> {
    /// Quarantined rows share the version and have ordinals of their own.
    pub(crate) fn ordinal(&self) -> u16 {
        self.target.and_then(|t| t.columns.last()).map_or(0, |c| c.ordinal)
    }
}

/// What a request touched: the object of a catalog change or publish first, then its targets.
pub(crate) fn touched(entry: &Entry) -> Vec<Touched<'_>> {
    let made = |dataset, version| Touched { dataset, version, made_at: entry.control_seq, target: None };
    let object = match &entry.payload {
        Payload::Publish(publish) => Some(made(publish.definition.id, Some(publish.version))),
        Payload::CatalogChange(change) => match change {
            CatalogChange::Source(snapshot) => Some(made(snapshot.definition.id, Some(snapshot.version))),
            CatalogChange::Draft(draft) => Some(made(draft.definition.id, None)),
            CatalogChange::View(view) => Some(made(view.definition.id, None)),
            CatalogChange::External { id, .. } => Some(made(*id, None)),
            CatalogChange::Attributes(change) => Some(made(change.dataset, None)),
            CatalogChange::Status(status) => Some(made(status.dataset, None)),
            CatalogChange::Model(model) => Some(made(model.training.dataset, Some(model.training.version))),
            CatalogChange::Token(_) | CatalogChange::Admin(_) => None,
        },
        // No version of ours came of it: the dataset alone is named.
        Payload::Asserted(claim) => claim.tables.first().map(|output| Touched {
            dataset: output.dataset,
            version: output.version,
            made_at: ControlSeq(0),
            target: None,
        }),
        Payload::PolicyBundle(_)
        | Payload::Run(_)
        | Payload::Lineage(_)
        | Payload::ReadIntent(_)
        | Payload::ReadProgress(_)
        | Payload::ReadOutcome(_)
        | Payload::Read(..)
        | Payload::Denied(_)
        | Payload::Bypass(_)
        | Payload::Key(_)
        | Payload::Heads(_)
        | Payload::Writer(_)
        | Payload::Erasure(_) => None,
    };
    let same = |t: &Target| object.as_ref().is_some_and(|o| o.dataset == t.dataset && o.made_at == t.made_at);
    let targets: Vec<Touched<'_>> = entry
        .targets
        .iter()
        .filter(|t| !same(t))
        .map(|t| Touched { dataset: t.dataset, version: Some(t.version), made_at: t.made_at, target: Some(t) })
        .collect();
    object.into_iter().chain(targets).collect()
}

/// Whether the viewer may see that this request touched this.
pub(crate) fn visible(gate: &Gate<'_>, actor: Option<&Actor>, touched: &Touched<'_>) -> bool {
    let own = gate.own(actor.map(|a| &a.principal));
    gate.all() || gate.owned(touched.dataset) || (own && gate.made(touched.dataset, touched.made_at))
}

/// How a request ended, as far as this snapshot goes.
struct End<'a> {
    outcome: Outcome,
    code: Option<&'a str>,
    measure: Measure,
}

fn end<'a>(snapshot: &'a Snapshot, slot: &'a Slot) -> End<'a> {
    let entry = &slot.stored.entry;
    let later = slot.end(&snapshot.chains).filter(|e| e.entry.control_seq <= snapshot.at());
    let (outcome, measure) = later.map_or((entry.outcome, entry.measure), |e| (e.entry.outcome, e.entry.measure));
    let code = match (later.map(|e| &e.entry.payload), &entry.payload) {
        (Some(Payload::ReadOutcome(outcome)), _) | (None, Payload::Read(_, outcome)) => outcome.code.as_deref(),
        (_, Payload::Denied(denied)) => Some(denied.code.as_str()),
        (_, Payload::Bypass(bypass)) => Some(bypass.technique.as_str()),
        _ => None,
    };
    match (later, &entry.payload) {
        // What an intent says of its own end is a plan.
        (None, Payload::ReadIntent(_)) => End { outcome: Outcome::Pending, code: None, measure: Measure::default() },
        _ => End { outcome, code, measure },
    }
}

fn action(entry: &Entry) -> &'static str {
    match (&entry.payload, entry.verb) {
        (Payload::Denied(_), _) => "deny",
        (Payload::Bypass(_), _) => "bypass",
        (_, Verb::Maintain) => Verb::Admin.word(),
        (_, verb) => verb.word(),
    }
}

fn statement(payload: &Payload) -> Option<Hash> {
    match payload {
        Payload::ReadIntent(intent) | Payload::Read(intent, _) => Some(intent.statement_hash),
        Payload::Denied(denied) => denied.statement_hash,
        _ => None,
    }
}

/// By writer, seq and part. `rows` and `bytes` stand on part 0 only, so sums count once.
pub(crate) fn audit(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    facts: &dyn Facts,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    for slot in snapshot.requests() {
        let entry = &slot.stored.entry;
        let touched = touched(entry);
        if touched.is_empty() {
            if gate.all() || gate.own(entry.actor.as_ref().map(|a| &a.principal)) {
                write_part(snapshot, gate, facts, slot, 0, None, rows)?;
            }
            continue;
        }
        for (part, touched) in (0i64..).zip(&touched) {
            if visible(gate, entry.actor.as_ref(), touched) {
                write_part(snapshot, gate, facts, slot, part, Some(touched), rows)?;
            }
        }
    }
    Ok(())
}

fn write_part(
    snapshot: &Snapshot,
    gate: &Gate<'_>,
    facts: &dyn Facts,
    slot: &Slot,
    part: i64,
    touched: Option<&Touched<'_>>,
    rows: &mut Rows,
) -> Result<(), SystemError> {
    let (stored, entry, reason) = (&slot.stored, &slot.stored.entry, &slot.stored.entry.reason);
    let (end, actor) = (end(snapshot, slot), entry.actor.as_ref());
    let denied = matches!(entry.payload, Payload::Denied(_) | Payload::Bypass(_));
    let name = touched.and_then(|t| snapshot.name(t.dataset, t.made_at, t.ordinal()));
    let version = touched.and_then(|t| match snapshot.catalog.draft_made_at(t.made_at) {
        Some(draft) => Some(draft.table.version),
        None => t.version,
    });
    let address = actor.and_then(|a| a.address.as_ref()).filter(|_| gate.sealed()).and_then(|a| facts.address(a));
    let text = |value: &'_ str| Some(value.to_owned()).filter(|v| !v.is_empty());
    let stage = text(&reason.stage);
    let once = |value: Option<u64>| value.filter(|_| part == 0);
    rows.push([
        entry.id.into(),
        part.into(),
        stored.writer.as_str().into(),
        stored.seq.into(),
        entry.control_seq.into(),
        entry.wall.into(),
        action(entry).into(),
        actor.map(|a| &a.principal.0).into(),
        Cell::List(actor.into_iter().flat_map(|a| &a.roles).map(String::as_str).collect()),
        actor.and_then(|a| a.on_behalf_of.as_ref()).map(|p| &p.0).into(),
        actor.and_then(|a| a.session.as_ref()).into(),
        address.as_ref().into(),
        reason.purpose.as_ref().map(|p| &p.0).into(),
        reason.ticket.as_ref().into(),
        (&reason.environment).into(),
        stage.as_ref().into(),
        reason.region.as_ref().into(),
        reason.model.as_ref().into(),
        reason.model_version.into(),
        name.as_ref().map_or(Cell::Null, |n| Cell::Show(n)),
        version.into(),
        if denied { "deny" } else { "allow" }.into(),
        reason.bundle.into(),
        touched.and_then(|t| t.target?.grant).into(),
        once(end.measure.rows).into(),
        once(end.measure.bytes).into(),
        end.measure.upper_bound.into(),
        end.outcome.word().into(),
        end.code.into(),
        end.measure.micros.into(),
        statement(&entry.payload).into(),
    ])
}

/// By writer, seq, target, column and role.
pub(crate) fn column_reads(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    for slot in snapshot.reads() {
        let entry = &slot.stored.entry;
        for touched in touched(entry) {
            let Some(target) = touched.target.filter(|_| visible(gate, entry.actor.as_ref(), &touched)) else {
                continue;
            };
            for column in &target.columns {
                let node = Node::new(target.made_at, column.ordinal);
                if !gate.column(node) || !(column.requested || gate.explained(target.dataset)) {
                    continue;
                }
                let mut row = |role: Option<&str>| {
                    rows.push([
                        entry.id.into(),
                        node.into(),
                        role.into(),
                        column.requested.into(),
                        column.rung.word().into(),
                        (column.rung < Rung::Raw).into(),
                        Cell::List(column.policies.iter().map(String::as_str).collect()),
                    ])
                };
                if column.roles.0 == 0 {
                    row(None)?;
                }
                column.roles.iter().try_for_each(|role| row(Some(role.word())))?;
            }
        }
    }
    Ok(())
}
