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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::{attacks::Warehouse, session::Session};
    use custody_model::{DatasetName, Pin};
    use std::sync::Arc;

    fn kept(session: &Session, name: &DatasetName) -> (Arc<super::Known>, custody_policy::Grant) {
        let found = session.find(name, Pin::Newest).unwrap();
        let anew = session.decide(&found.definition, &found.labels).unwrap();
        let grant = session.decide_found(&found).unwrap();
        assert_eq!(grant.hash, anew.hash);
        (found.known.unwrap(), custody_policy::Grant::clone(&grant))
    }

    /// What is kept decides as what is made anew does, is made once a fold, and does not outlive it.
    #[tokio::test]
    async fn facts_are_kept_with_their_fold() {
        let warehouse = Warehouse::new().await;
        let name: DatasetName = "raw.patients".parse().unwrap();
        let session = warehouse.engine.session(warehouse.principals["research"].clone());
        let (first, grant) = kept(&session, &name);
        assert!(Arc::ptr_eq(&first, &kept(&session, &name).0));
        assert!(grant.visible() && !grant.open());

        let admin = warehouse.engine.session(warehouse.principals["engineer"].clone());
        let mut project = crate::Project::load(warehouse.folder.path()).unwrap();
        let (path, text) = project.policies.iter_mut().find(|(path, _)| path.ends_with(".cedar")).unwrap();
        text.extend_from_slice(b"\nforbid (principal, action, resource in Table::\"raw.patients\");\n");
        assert!(!path.is_empty());
        admin.apply_policies(&project, "nobody", false).await.unwrap();
        let (second, grant) = kept(&session, &name);
        assert!(!Arc::ptr_eq(&first, &second) && !grant.visible());
    }
}
