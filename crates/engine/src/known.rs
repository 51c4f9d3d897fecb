//! What a decision looks at in a version, made and hashed once for each fold of the catalog.
//!
//! Definition, classes and facts of a version follow from catalog and bundle alone, and hashing the facts of a wide table
//! takes longer than everything else in a decision that was made before.
//!
//! INVARIANT: an entry is a function of the fold that it is kept with, and names the bundle it was made under: a control
//! entry starts a new fold, and with it an empty memory. Where a token key cannot be had nothing is kept.

use crate::{
    Engine,
    pin::{all_classes, facts, present},
};
use custody_catalog::{Catalog, VersionRecord};
use custody_model::{Class, ControlSeq, DatasetDefinition, Hash};
use custody_policy::{Bundle, TableFacts, facts_hash};
use lru::LruCache;
use std::{
    collections::BTreeSet,
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

/// The classes that each column of a version carries, in order.
pub(crate) type Labels = Arc<[BTreeSet<Class>]>;

/// A version as decisions see it.
pub(crate) struct Known {
    /// With the name, owner and purposes that its dataset has now.
    pub(crate) definition: Arc<DatasetDefinition>,
    pub(crate) labels: Labels,
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) facts: TableFacts,
    pub(crate) hash: Hash,
}

impl Known {
    fn new(engine: &Engine, catalog: &Catalog, bundle: &Arc<Bundle>, version: &VersionRecord) -> Self {
        let definition = Arc::new(present(catalog, version.definition()));
        let labels: Labels = version.labels().unwrap_or_default().iter().map(all_classes).collect();
        let facts = engine.with_token_keys(bundle, facts(bundle, &definition, &labels));
        Self { hash: facts_hash(&facts), definition, labels, bundle: Arc::clone(bundle), facts }
    }

    fn complete(&self) -> bool {
        self.facts.token_keys.len() == self.bundle.token_keys(&self.facts.name).len()
    }
}

/// The versions of one fold that were asked for last.
pub(crate) struct KnownVersions(Mutex<LruCache<ControlSeq, Arc<Known>>>);

impl Default for KnownVersions {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::MIN.saturating_add(511))))
    }
}

impl fmt::Debug for KnownVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownVersions(..)")
    }
}

impl KnownVersions {
    /// The version, which is one of `catalog`, under `bundle`: those of the fold that this memory is kept with.
    pub(crate) fn get(
        &self,
        engine: &Engine,
        catalog: &Catalog,
        bundle: &Arc<Bundle>,
        version: &VersionRecord,
    ) -> Arc<Known> {
        let made_at = version.table.made_at;
        let held = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = held().get(&made_at) {
            return Arc::clone(known);
        }
        let known = Arc::new(Known::new(engine, catalog, bundle, version));
        if known.complete() {
            held().put(made_at, Arc::clone(&known));
        }
        known
    }
}
