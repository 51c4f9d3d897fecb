//! Erasing a subject: the keys of its sealed fields are destroyed, the ledger's bytes stay as they are.
//!
//! What holds here: two administrators agree, and the entry that records it is durable before a key is destroyed. Whoever
//! folds that entry destroys what is left of the keys, so that neither a crash in between nor a process with a key in
//! memory keeps one. Leaves cover ciphertext: every proof stays valid.
//!
//! Deliberately absent: names of principals, which are identifiers of the log and no sealed fields, and backups of `keys/`,
//! which are their keeper's to shred.

use crate::{engine::Engine, session::Session};
use custody_model::{EntryRef, ErasureRecord, Outcome, Payload, Principal, Problem, Verb};
use std::collections::BTreeSet;

/// What became of a request to erase.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Erased {
    /// Recorded; a second administrator must agree.
    Asked(EntryRef),
    /// The keys are destroyed.
    Done {
        /// The entry that records it.
        entry: EntryRef,
        /// How many.
        keys: usize,
    },
}

impl Session {
    /// Asks for the erasure of a subject's sealed fields, or agrees to what another administrator has asked for. Needs
    /// role `admin`.
    pub async fn erase(&self, subject: &Principal, because: &str) -> Result<Erased, Problem> {
        let done = self.try_erase(subject, because).await;
        self.or_denied(done).await
    }

    async fn try_erase(&self, subject: &Principal, because: &str) -> Result<Erased, Problem> {
        self.needs("admin")?;
        self.engine.refresh().await?;
        let token = self.engine.keys.token("subject", subject.0.as_bytes())?;
        let me = self.subject.principal.clone();
        let asked = self.engine.catalog().erasure_asked(&token).cloned();
        if asked.as_ref().is_some_and(|asked| asked.approvers.contains(&me)) {
            return Err(Problem::new(
                3107,
                format!("`{me}` has asked for this erasure: another administrator must agree"),
            )
            .help("custody ledger erase SUBJECT -m WHY, by somebody else with role `admin`"));
        }
        // The key may have been replaced since it was asked for: what is destroyed is what there is now, too.
        let present = self.engine.keys.subject_key(subject)?;
        let keys: BTreeSet<String> = asked.iter().flat_map(|a| a.keys.iter().cloned()).chain(present).collect();
        if keys.is_empty() {
            return Err(Problem::new(1313, format!("no field is sealed for `{subject}` here"))
                .help("write the principal as `system.access.audit` names it"));
        }
        let count = keys.len();
        let approvers: Vec<Principal> = asked.into_iter().flat_map(|a| a.approvers).chain([me]).collect();
        let record = ErasureRecord { subject: token, keys, approvers, because: because.to_string() };
        let agreed = record.agreed();
        let outcome = if agreed { Outcome::Success } else { Outcome::Pending };
        // Folding the entry destroys the keys.
        let recorded = self.control_entry(self.entry(Verb::Admin, outcome, Payload::Erasure(record))).await?;
        Ok(if agreed { Erased::Done { entry: recorded.entry, keys: count } } else { Erased::Asked(recorded.entry) })
    }
}

impl Engine {
    /// Destroys what is left of keys that erasures name, in files and in memory.
    pub(crate) fn destroy_keys<'a>(&self, named: impl IntoIterator<Item = &'a String>) -> Result<(), Problem> {
        for id in named {
            if self.keys.destroy(id)? {
                tracing::info!("a subject's key is destroyed, as its erasure says");
            }
        }
        Ok(())
    }
}
