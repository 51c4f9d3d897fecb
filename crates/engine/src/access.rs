//! Access beyond what policy alone gives: asked for, approved by somebody else, for a time, for one purpose.
//!
//! What holds here: an approval decides nothing. It is a fact that policies may look at (`resource.approved`), for the
//! principal and purpose that asked, until it ends or is taken back. Whether a name that was asked for exists, is told to
//! its owner and to role `policy_admin` alone.

use crate::{audit::Recorded, pin::not_found, session::Session};
use custody_catalog::{AskedAccess, Catalog};
use custody_model::{
    AccessGrant, AccessRequest, AccessReview, Approvals, ControlSeq, DatasetId, DatasetName, EntryId, FieldId, Outcome,
    Payload, Problem, Rung, Subject, Verb, Verdict, WallNanos,
};
use custody_policy::enforce;
use std::collections::BTreeSet;

/// The longest that access is asked for: a year and a day.
const MOST_SECONDS: u64 = 366 * 86_400;

/// What an approver gives, where it is less than what was asked for.
#[derive(Clone, Debug, Default)]
pub struct Narrower {
    /// Only these columns; none: all that were asked for.
    pub columns: BTreeSet<String>,
    /// A lower rung.
    pub rung: Option<Rung>,
    /// A shorter time, in seconds.
    pub seconds: Option<u64>,
}

/// What was approved of a dataset for a subject, at a position and time. Owners with whose rights a view reads have
/// none: what somebody was given is not theirs to hand on.
pub(crate) fn approvals(
    catalog: &Catalog,
    subject: &Subject,
    dataset: DatasetId,
    at: ControlSeq,
    now: WallNanos,
) -> Approvals {
    if enforce!("access.owner", subject.kind == Subject::OWNER) {
        return Approvals::new();
    }
    // Off: what is over still holds.
    let now = if enforce!("access.expired", true) { now } else { WallNanos(0) };
    catalog.approvals(&subject.principal, &subject.purpose, dataset, at, now)
}

fn wrong(what: impl Into<String>) -> Problem {
    Problem::new(2103, what.into())
}

impl Session {
    /// What is approved of a dataset for this subject now, or was when a recorded act was decided.
    pub(crate) fn approvals(&self, dataset: DatasetId) -> Approvals {
        let catalog = self.catalog();
        let now = self.then.as_ref().map_or_else(|| self.engine.clock.now(), |then| then.wall);
        approvals(&catalog, &self.subject, dataset, catalog.at(), now)
    }

    /// Asks for access. The answer is the same whether or not the names mean anything.
    pub async fn request_access(
        &self,
        dataset: &DatasetName,
        columns: BTreeSet<String>,
        rung: Rung,
        seconds: u64,
        because: &str,
    ) -> Result<Recorded, Problem> {
        if columns.is_empty() {
            return Err(wrong("access is asked for by column").help("--columns a,b"));
        }
        if rung == Rung::None {
            return Err(wrong("rung `none` is what everybody has").help("aggregate, redact, token, partial or raw"));
        }
        if seconds == 0 || seconds > MOST_SECONDS {
            return Err(wrong("access lasts from a second to 366 days").help("--for 30d"));
        }
        let record = AccessRequest {
            dataset: dataset.clone(),
            columns,
            rung,
            purpose: self.subject.purpose.clone(),
            seconds,
            because: because.to_string(),
        };
        self.control(Verb::Admin, Payload::AccessRequest(record), vec![]).await
    }

    /// Approves a request, or less than it asks for. Needs role `policy_admin` or the dataset; nobody approves their own.
    pub async fn approve_access(
        &self,
        request: EntryId,
        narrower: &Narrower,
        because: &str,
    ) -> Result<Recorded, Problem> {
        let given = self
            .claim(Verb::Admin, |catalog| {
                let asked = self.waiting(catalog, request)?;
                if enforce!("access.own", asked.requester == self.subject.principal) {
                    return Err(Problem::new(3107, "nobody approves what they asked for themselves")
                        .help("ask somebody with role `policy_admin`, or who owns the dataset"));
                }
                Ok(Payload::AccessGrant(self.given(catalog, asked, narrower, because)?))
            })
            .await;
        self.or_denied(given).await
    }

    fn given(
        &self,
        catalog: &Catalog,
        asked: &AskedAccess,
        narrower: &Narrower,
        because: &str,
    ) -> Result<AccessGrant, Problem> {
        let record = &asked.record;
        let dataset = catalog.dataset(&record.dataset).ok_or_else(|| not_found(&record.dataset))?;
        let more = |what: &str| wrong(format!("an approval gives no {what} than was asked for"));
        let names = if narrower.columns.is_empty() { &record.columns } else { &narrower.columns };
        if !names.is_subset(&record.columns) {
            return Err(more("more columns"));
        }
        let rung = narrower.rung.unwrap_or(record.rung);
        if rung > record.rung || rung == Rung::None {
            return Err(more("higher rung"));
        }
        let seconds = narrower.seconds.unwrap_or(record.seconds);
        if seconds > record.seconds || seconds == 0 {
            return Err(more("longer time"));
        }
        let field = |name: &String| {
            let column = dataset.definition().column_named(name);
            column.map(|c| c.field).ok_or_else(|| {
                Problem::new(6002, format!("column `{name}` of `{}` not found", record.dataset))
                    .help("approve the others with --columns")
            })
        };
        let columns = names.iter().map(field).collect::<Result<BTreeSet<FieldId>, _>>()?;
        let lasts = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        Ok(AccessGrant {
            request: asked.entry,
            principal: asked.requester.clone(),
            dataset: dataset.id(),
            columns,
            rung,
            purpose: record.purpose.clone(),
            expires: WallNanos(self.engine.clock.now().0.saturating_add(lasts)),
            because: because.to_string(),
        })
    }

    /// Denies a request. Needs role `policy_admin` or the dataset; whoever asked may withdraw.
    pub async fn deny_access(&self, request: EntryId, because: &str) -> Result<Recorded, Problem> {
        let denied = self
            .claim(Verb::Admin, |catalog| {
                let of = self.waiting(catalog, request)?.entry;
                Ok(Payload::AccessReview(AccessReview { of, verdict: Verdict::Denied, because: because.to_string() }))
            })
            .await;
        self.or_denied(denied).await
    }

    /// Takes back what was given, from the next decision on. Needs role `policy_admin` or the dataset; whoever has it may
    /// give it back.
    pub async fn revoke_access(&self, grant: EntryId, because: &str) -> Result<Recorded, Problem> {
        let revoked = self
            .claim(Verb::Admin, |catalog| {
                let given = catalog.access_given().get(&grant).filter(|g| g.revoked.is_none());
                let mine = |d: DatasetId| catalog.dataset_by_id(d).is_some_and(|d| self.owns(d.owner()));
                let may = |principal| principal == &self.subject.principal || self.holds("policy_admin");
                let given =
                    given.filter(|g| !enforce!("access.revoke", !(may(&g.record.principal) || mine(g.record.dataset))));
                let of = given.ok_or_else(|| nothing(grant))?.entry;
                Ok(Payload::AccessReview(AccessReview { of, verdict: Verdict::Revoked, because: because.to_string() }))
            })
            .await;
        self.or_denied(revoked).await
    }

    /// A request that waits, for whoever may answer it or made it; for others it is not there.
    fn waiting<'a>(&self, catalog: &'a Catalog, request: EntryId) -> Result<&'a AskedAccess, Problem> {
        let asked = catalog.access_asked().get(&request).filter(|a| a.answer.is_none());
        let may = |asked: &AskedAccess| {
            let owned = catalog.dataset(&asked.record.dataset).is_some_and(|d| self.owns(d.owner()));
            asked.requester == self.subject.principal || owned || self.holds("policy_admin")
        };
        let asked = asked.filter(|a| !enforce!("access.answer", !may(a)));
        asked.map(AsRef::as_ref).ok_or_else(|| nothing(request))
    }

    /// Whether this is the owner, or in the owning role. Nobody owns what has no owner.
    pub(crate) fn owns(&self, owner: &str) -> bool {
        !owner.is_empty() && (owner == self.subject.principal.0 || self.subject.roles.contains(owner))
    }

    /// Appends a control entry that is made of the catalog it follows: where another entry comes first, it is made again.
    pub(crate) async fn claim(
        &self,
        verb: Verb,
        mut make: impl FnMut(&Catalog) -> Result<Payload, Problem>,
    ) -> Result<Recorded, Problem> {
        for _ in 0..1_000 {
            self.engine.refresh().await?;
            let catalog = self.engine.catalog();
            let mut entry = self.entry(verb, Outcome::Success, make(&catalog)?);
            entry.control_seq = ControlSeq(catalog.at().0 + 1);
            // What others could not fold is not claimed.
            Catalog::clone(&catalog).apply(&entry).map_err(|e| Problem::bug(e.to_string()))?;
            match self.engine.recorder.control(entry).await {
                Ok(recorded) => {
                    self.engine.refresh().await?;
                    return Ok(recorded);
                }
                Err(failed) if failed.taken() => {}
                Err(failed) => return Err(failed.into()),
            }
        }
        Err(Problem::new(7003, "the catalog changes too fast to add to it").help("try again"))
    }
}

fn nothing(entry: EntryId) -> Problem {
    Problem::new(6005, format!("no access that waits for an answer, or holds, has the entry `{entry}`"))
        .help("custody access list")
}
