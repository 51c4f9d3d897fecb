//! Requests for more access than policy alone gives, and what was given: both are recorded, and neither decides anything.

use crate::FoldError;
use custody_model::{
    AccessGrant, AccessRequest, AccessReview, Approvals, ControlSeq, DatasetId, EntryId, Principal, Purpose, Verdict,
    WallNanos,
};
use std::{collections::BTreeMap, sync::Arc};

/// Who did something to a request or to what was given, when, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Who.
    pub by: Principal,
    /// The control position.
    pub at: ControlSeq,
    /// Their time.
    pub wall: WallNanos,
    /// Why.
    pub because: String,
}

/// Somebody asks for more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AskedAccess {
    /// What for.
    pub record: AccessRequest,
    /// The entry.
    pub entry: EntryId,
    /// Who.
    pub requester: Principal,
    /// Their time.
    pub wall: WallNanos,
    /// Whether it was approved, and the answer; none: it waits.
    pub answer: Option<(bool, Answer)>,
}

/// An approved request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GivenAccess {
    /// What was given.
    pub record: AccessGrant,
    /// The entry.
    pub entry: EntryId,
    /// Who gave it.
    pub given: Answer,
    /// Who took it back.
    pub revoked: Option<Answer>,
}

/// All requests and all that was given.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Access {
    asked: BTreeMap<EntryId, Arc<AskedAccess>>,
    given: BTreeMap<EntryId, Arc<GivenAccess>>,
    /// Entries that gave something to a principal.
    of: BTreeMap<Principal, Vec<EntryId>>,
}

impl Access {
    pub(crate) fn asked(&self) -> &BTreeMap<EntryId, Arc<AskedAccess>> {
        &self.asked
    }

    pub(crate) fn given(&self) -> &BTreeMap<EntryId, Arc<GivenAccess>> {
        &self.given
    }

    /// What held at a position and time. INVARIANT: later entries do not change the answer.
    pub(crate) fn approvals(
        &self,
        principal: &Principal,
        purpose: &Purpose,
        dataset: DatasetId,
        at: ControlSeq,
        now: WallNanos,
    ) -> Approvals {
        let mut approvals = Approvals::new();
        let of = self.of.get(principal).into_iter().flatten();
        for given in of.filter_map(|entry| self.given.get(entry)) {
            let GivenAccess { record, given, revoked, .. } = given.as_ref();
            let holds = record.dataset == dataset
                && record.purpose == *purpose
                && given.at <= at
                && revoked.as_ref().is_none_or(|r| r.at > at)
                && record.expires > now;
            for field in record.columns.iter().filter(|_| holds) {
                let until = approvals.entry(*field).or_default().entry(record.rung).or_insert(record.expires);
                *until = record.expires.max(*until);
            }
        }
        approvals
    }

    pub(crate) fn ask(&mut self, record: &AccessRequest, entry: EntryId, requester: Principal, wall: WallNanos) {
        let asked = AskedAccess { record: record.clone(), entry, requester, wall, answer: None };
        self.asked.insert(entry, Arc::new(asked));
    }

    /// Nobody approves their own request, and none is answered twice.
    pub(crate) fn give(&mut self, record: &AccessGrant, entry: EntryId, given: Answer) -> Result<(), FoldError> {
        let asked = self.waiting(record.request)?;
        if asked.requester != record.principal || given.by == record.principal {
            return Err(FoldError::OwnRequest(record.request));
        }
        let answered = AskedAccess { answer: Some((true, given.clone())), ..asked };
        self.asked.insert(record.request, Arc::new(answered));
        self.of.entry(record.principal.clone()).or_default().push(entry);
        self.given.insert(entry, Arc::new(GivenAccess { record: record.clone(), entry, given, revoked: None }));
        Ok(())
    }

    pub(crate) fn review(&mut self, review: &AccessReview, answer: Answer) -> Result<(), FoldError> {
        match review.verdict {
            Verdict::Denied => {
                let denied = AskedAccess { answer: Some((false, answer)), ..self.waiting(review.of)? };
                self.asked.insert(review.of, Arc::new(denied));
            }
            Verdict::Revoked => {
                let given = self.given.get(&review.of).filter(|g| g.revoked.is_none());
                let given = given.ok_or(FoldError::UnknownAccess(review.of))?.as_ref().clone();
                self.given.insert(review.of, Arc::new(GivenAccess { revoked: Some(answer), ..given }));
            }
        }
        Ok(())
    }

    fn waiting(&self, request: EntryId) -> Result<AskedAccess, FoldError> {
        let asked = self.asked.get(&request).filter(|a| a.answer.is_none());
        Ok(asked.ok_or(FoldError::UnknownAccess(request))?.as_ref().clone())
    }
}
