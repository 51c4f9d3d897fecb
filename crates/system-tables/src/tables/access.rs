//! `system.access`.

use crate::{
    Snapshot, SystemError,
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
        Payload::AccessGrant(given) => {
            Some(Touched { dataset: given.dataset, version: None, made_at: ControlSeq(0), target: None })
        }
        Payload::PolicyBundle(_)
        | Payload::AccessRequest(_)
        | Payload::AccessReview(_)
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

/// How a request ended.
pub(crate) struct End<'a> {
    pub(crate) outcome: Outcome,
    pub(crate) code: Option<&'a str>,
    pub(crate) measure: Measure,
}

/// How a request ended, by its own entry and by the later one that says so.
pub(crate) fn end<'a>(entry: &'a Entry, later: Option<&'a Entry>) -> End<'a> {
    let (outcome, measure) = later.map_or((entry.outcome, entry.measure), |e| (e.outcome, e.measure));
    let code = match (later.map(|e| &e.payload), &entry.payload) {
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

pub(crate) fn action(entry: &Entry) -> &'static str {
    match (&entry.payload, entry.verb) {
        (Payload::Denied(_), _) => "deny",
        (Payload::Bypass(_), _) => "bypass",
        (_, Verb::Maintain) => Verb::Admin.word(),
        (_, verb) => verb.word(),
    }
}

pub(crate) fn statement(payload: &Payload) -> Option<Hash> {
    match payload {
        Payload::ReadIntent(intent) | Payload::Read(intent, _) => Some(intent.statement_hash),
        Payload::Denied(denied) => denied.statement_hash,
        _ => None,
    }
}

/// By writer, seq, target, column and role.
pub(crate) fn column_reads(snapshot: &Snapshot, gate: &Gate<'_>, rows: &mut Rows) -> Result<(), SystemError> {
    snapshot.each_read(|stored| {
        let entry = &stored.entry;
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
        Ok(())
    })
}
