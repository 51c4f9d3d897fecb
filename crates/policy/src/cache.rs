//! Decisions made before, bounded. A decision is pure, so its inputs' hashes are its key.

use crate::{Bundle, Grant, TableFacts, decide::decide_keyed, facts_hash, subject_key};
use custody_model::{Hash, Subject, SubjectKey};
use lru::LruCache;
use std::{
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

type Key = (Hash, SubjectKey, Hash);

/// A bounded cache of grants by policy hash, subject key and facts hash.
pub struct Decisions(Mutex<LruCache<Key, Arc<Grant>>>);

impl Decisions {
    /// Keeps the `capacity` grants used last.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::new(capacity)))
    }

    /// What `decide` says, from memory where it has said it before.
    pub fn decide(&self, bundle: &Bundle, subject: &Subject, facts: &TableFacts) -> Arc<Grant> {
        self.decide_keyed(bundle, subject, subject_key(subject), facts, facts_hash(facts))
    }

    /// `decide`, where the caller holds the hashes already. They must be those of this subject and these facts.
    pub fn decide_keyed(
        &self,
        bundle: &Bundle,
        subject: &Subject,
        subject_key: SubjectKey,
        facts: &TableFacts,
        facts_hash: Hash,
    ) -> Arc<Grant> {
        let key = (bundle.hash(), subject_key, facts_hash);
        if let Some(grant) = self.lock().get(&key) {
            return Arc::clone(grant);
        }
        let grant = Arc::new(decide_keyed(bundle, subject, subject_key, facts, facts_hash));
        if !bundle.waits_for().is_empty() {
            // The same bundle, loaded when its entitlement tables are there, may grant more.
            return grant;
        }
        self.lock().put(key, Arc::clone(&grant));
        grant
    }

    /// A panic elsewhere cannot leave a wrong grant behind: entries are put whole.
    fn lock(&self) -> MutexGuard<'_, LruCache<Key, Arc<Grant>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Decisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decisions({} of {})", self.lock().len(), self.lock().cap())
    }
}
