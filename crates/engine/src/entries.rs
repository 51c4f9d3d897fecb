//! Entries as the engine writes them: who, what, why and to which columns.

use crate::{
    governed::GovernedPlan,
    pin::{PinnedTable, QUARANTINE, Statement},
    read::Totals,
    session::{ReadRequest, Session},
};
use custody_lineage::ColumnUse;
use custody_model::{
    Actor, ControlSeq, DatasetKind, Denied, Entry, EntryId, Hash, Measure, Outcome, Payload, Problem, ReadIntent,
    ReadOutcome, Reason, Rung, ScanFact, TableVersion, Target, TargetColumn, Verb,
};
use custody_policy::{Grant, enforce};
use std::time::Instant;
use uuid::Uuid;

/// The code under which an alert about policies stands in the ledger.
const UNEVALUATED: u16 = 3302;

impl Session {
    /// An entry by this subject, now, without targets.
    pub(crate) fn entry(&self, verb: Verb, outcome: Outcome, payload: Payload) -> Entry {
        let s = &self.subject;
        let now = self.engine.clock.now();
        Entry {
            id: entry_id(now),
            wall: now,
            reference: None,
            control_seq: self.engine.seen(),
            trace: None,
            actor: Some(Actor {
                principal: s.principal.clone(),
                kind: s.kind.clone(),
                roles: s.roles.clone(),
                attributes: s.attributes.clone(),
                authentication: s.authentication,
                session: s.session.clone(),
                on_behalf_of: None,
                token: s.token.clone(),
                address: None,
            }),
            verb,
            targets: vec![],
            outcome,
            reason: Reason {
                purpose: Some(s.purpose.clone()),
                ticket: None,
                environment: s.environment.clone(),
                stage: s.stage.clone(),
                region: s.region.clone(),
                model: s.model.clone(),
                model_version: s.model_version,
                bundle: self.engine.bundle_hash(),
                exact: None,
                durability: custody_model::Durability::Local,
            },
            measure: Measure::default(),
            payload,
        }
    }

    /// Refuses where an approval that a decision looked at has ended when its entry is made.
    pub(crate) fn unexpired(pinned: &[PinnedTable], entry: &Entry) -> Result<(), Problem> {
        let over = |table: &&PinnedTable| table.grant.valid_until.is_some_and(|until| until <= entry.wall);
        match pinned.iter().find(|t| enforce!("access.late", over(t))) {
            None => Ok(()),
            Some(_) => Err(Problem::new(3303, "an approval ended while the statement was planned")
                .help("ask again: it is decided anew")),
        }
    }

    /// The intent of a read: what it will touch, and how many bytes may leave before the next entry.
    pub(crate) fn intent_entry(
        &self,
        request: &ReadRequest,
        statement: &Statement,
        plan: &GovernedPlan,
    ) -> Result<Entry, Problem> {
        let intent = self.read_intent(request, statement, Some(plan), self.engine.settings.granted_bytes)?;
        let mut entry = self.entry(request.verb(), Outcome::Pending, Payload::ReadIntent(intent));
        entry.reference = request.follows();
        entry.control_seq = statement.at;
        entry.targets = targets(&statement.pinned, plan.uses());
        entry.reason.exact = Some(plan.lineage().exact);
        entry.reason.durability = statement.pinned.iter().map(|p| p.grant.durability).max().unwrap_or_default();
        Ok(entry)
    }

    /// A request that hands out no rows: one entry is intent and outcome.
    pub(crate) fn metadata_entry(
        &self,
        request: &ReadRequest,
        statement: &Statement,
        plan: Option<&GovernedPlan>,
    ) -> Result<Entry, Problem> {
        let intent = self.read_intent(request, statement, plan, 0)?;
        let payload = Payload::Read(intent, ReadOutcome { code: None, scans: vec![] });
        let mut entry = self.entry(Verb::Metadata, Outcome::Success, payload);
        entry.control_seq = statement.at;
        entry.targets = targets(&statement.pinned, plan.map_or(&[], |p| p.uses()));
        Ok(entry)
    }

    fn read_intent(
        &self,
        request: &ReadRequest,
        statement: &Statement,
        plan: Option<&GovernedPlan>,
        granted_bytes: u64,
    ) -> Result<ReadIntent, Problem> {
        Ok(ReadIntent {
            statement: Some(self.engine.keys.seal(&self.subject.principal, "statement", &request.text())?),
            statement_hash: statement.hash,
            lineage_hash: plan.map(|p| custody_ledger::lineage_hash(p.lineage())),
            plan: plan.map_or(Hash::default(), GovernedPlan::fingerprint),
            granted_bytes,
            prediction: self.prediction.as_deref().map(String::from),
        })
    }

    /// How a read ended.
    pub(crate) fn outcome_entry(
        &self,
        outcome: Outcome,
        problem: Option<&Problem>,
        totals: Totals,
        scans: Vec<ScanFact>,
        began: Instant,
    ) -> Entry {
        let code = problem.map(|p| p.code.to_string());
        let mut entry = self.entry(Verb::Read, outcome, Payload::ReadOutcome(ReadOutcome { code, scans }));
        entry.measure = totals.measure(began);
        entry
    }

    /// Records a refusal and gives the problem back with the entry that recorded it. Where even that cannot be
    /// recorded, the answer says so instead: nothing is refused in silence.
    pub(crate) async fn denied(&self, request: &ReadRequest, pinned: &[PinnedTable], problem: Problem) -> Problem {
        if problem.code.exit_code() == 7 && problem.code.0 / 100 == 70 {
            return problem;
        }
        match self.denial(request, pinned, &problem) {
            Ok(entry) => match self.engine.recorder.record(entry).await {
                Ok(recorded) => Problem { entry: Some(recorded.entry), ..problem },
                Err(lost) => lost.into(),
            },
            Err(lost) => lost,
        }
    }

    /// Policies that could not be evaluated deny a table to everybody, which its readers must not learn. Operators do: an
    /// entry without an actor, so that only those see it who see all, names the table and the policies.
    pub(crate) async fn alert(&self, at: &TableVersion, grant: &Grant) -> Result<(), Problem> {
        tracing::error!(table = %at, policies = ?grant.failed, "policies cannot be evaluated: nothing of the table is granted");
        let payload = Payload::Denied(Denied {
            code: format!("C{UNEVALUATED}"),
            statement_hash: None,
            targets: vec![self.engine.keys.token("target", at.name.to_string().as_bytes())?],
            count: 1,
        });
        let mut entry = self.entry(Verb::Read, Outcome::Failure, payload);
        entry.actor = None;
        entry.targets = vec![Target {
            dataset: at.dataset,
            version: at.version,
            made_at: at.made_at,
            grant: Some(grant.hash),
            row_sets: vec![],
            columns: vec![TargetColumn {
                ordinal: 0,
                requested: false,
                roles: Default::default(),
                rung: Rung::None,
                policies: grant.failed.clone(),
            }],
            owner: None,
            classes: vec![],
        }];
        self.engine.recorder.record(entry).await?;
        Ok(())
    }

    fn denial(&self, request: &ReadRequest, pinned: &[PinnedTable], problem: &Problem) -> Result<Entry, Problem> {
        let names =
            if pinned.is_empty() { request.names() } else { pinned.iter().map(|p| p.at.name.to_string()).collect() };
        let targets = names.iter().map(|n| self.engine.keys.token("target", n.as_bytes())).collect::<Result<_, _>>()?;
        let outcome = if matches!(problem.code.exit_code(), 3 | 6) { Outcome::Denied } else { Outcome::Failure };
        let payload = Payload::Denied(Denied {
            code: problem.code.to_string(),
            statement_hash: request.statement_hash(),
            targets,
            count: 1,
        });
        Ok(self.entry(request.verb(), outcome, payload))
    }
}

impl Totals {
    /// As an entry's measure.
    pub(crate) fn measure(self, began: Instant) -> Measure {
        Measure {
            rows: Some(self.rows),
            batches: Some(self.batches),
            bytes: Some(self.bytes),
            micros: Some(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)),
            upper_bound: false,
        }
    }
}

/// A UUIDv7 at this moment.
pub(crate) fn entry_id(now: custody_model::WallNanos) -> EntryId {
    let nanos = u64::try_from(now.0).unwrap_or(0);
    let stamp = uuid::Timestamp::from_unix(
        uuid::NoContext,
        nanos / 1_000_000_000,
        u32::try_from(nanos % 1_000_000_000).unwrap_or(0),
    );
    EntryId(Uuid::new_v7(stamp))
}

/// Every pinned table once, with the columns that the statement, or policy for it, reads; and the tables that policy looks
/// into on its own, without a grant.
pub(crate) fn targets(pinned: &[PinnedTable], uses: &[ColumnUse]) -> Vec<Target> {
    let mut seen = std::collections::BTreeSet::new();
    let mut targets: Vec<Target> = pinned
        .iter()
        .filter(|t| seen.insert((t.at.made_at, t.at.dataset, t.at.version, first_ordinal(t), t.owner.clone())))
        .map(|table| Target {
            dataset: table.at.dataset,
            version: table.at.version,
            made_at: table.at.made_at,
            grant: Some(table.grant.hash),
            row_sets: table.grant.row_sets(),
            columns: uses.iter().filter(|u| u.table == table.at).filter_map(|u| target_column(table, u)).collect(),
            owner: table.owner.clone(),
            classes: if table.definition.kind == DatasetKind::View { table.labels.to_vec() } else { vec![] },
        })
        .collect();
    let mut looked = std::collections::BTreeSet::new();
    let entitlements = pinned.iter().flat_map(|t| &t.entitlements);
    targets.extend(entitlements.filter(|e| looked.insert(e.at.clone())).map(|entitling| {
        let columns = uses.iter().filter(|u| u.table == entitling.at && !u.requested);
        let ordinal = |u: &ColumnUse| u.field.map_or(Some(0), |field| entitling.definition.ordinal(field));
        Target {
            dataset: entitling.at.dataset,
            version: entitling.at.version,
            made_at: entitling.at.made_at,
            grant: None,
            row_sets: vec![],
            columns: columns
                .filter_map(|u| {
                    let (requested, rung, policies) = (false, Rung::Raw, vec![]);
                    Some(TargetColumn { ordinal: ordinal(u)?, requested, roles: u.roles, rung, policies })
                })
                .collect(),
            owner: None,
            classes: vec![],
        }
    }));
    targets
}

/// Quarantined rows share the control position of their version: their columns are counted from here.
fn first_ordinal(table: &PinnedTable) -> u16 {
    if table.at.name.schema() == QUARANTINE { 32_768 } else { 0 }
}

fn target_column(table: &PinnedTable, used: &ColumnUse) -> Option<TargetColumn> {
    let Some(field) = used.field else {
        return Some(TargetColumn {
            ordinal: first_ordinal(table),
            requested: used.requested,
            roles: used.roles,
            rung: Rung::Raw,
            policies: vec![],
        });
    };
    let ordinal = if table.at.made_at == ControlSeq(0) {
        u16::try_from(field.0).ok()?
    } else {
        first_ordinal(table).checked_add(table.definition.ordinal(field)?)?
    };
    let grant = table.grant.columns.iter().find(|c| c.field == field);
    Some(TargetColumn {
        ordinal,
        requested: used.requested,
        roles: used.roles,
        rung: grant.map_or(Rung::None, |g| g.rung),
        policies: grant.map(|g| g.policies.clone()).unwrap_or_default(),
    })
}
