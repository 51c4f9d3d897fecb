//! `custody policy diff`: recorded decisions, made again over the catalog as it is; where a grant does not come out, over
//! the catalog as it was.

use crate::{
    Engine,
    access::approvals,
    checks::no_epoch,
    engine::CatalogTables,
    pin::{all_classes, facts, present},
    project::Project,
    session::Session,
};
use custody_catalog::Catalog;
use custody_ledger::{Position, Reader};
use custody_model::{ControlSeq, Hash, Problem, Subject, WallNanos};
pub(crate) use custody_policy::subject_of;
use custody_policy::{Bundle, Change, Grounds, Recorded, TableFacts, VersionRead};
use custody_store::FileDisk;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A bundle to decide by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// One that is or was active.
    Epoch(u64),
    /// The project's, active or not.
    Project,
}

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redecided {
    /// Recorded decisions looked at.
    pub decisions: u64,
    /// Different ones among them.
    pub distinct: usize,
    /// Entries whose grant hash does not come out again, as `entry dataset`.
    pub underived: Vec<String>,
    /// Who would gain or lose what, sorted.
    pub changes: Vec<Change>,
}

impl Session {
    /// Makes the decisions of all reads since `since` again. Needs role `policy_admin`; recorded as metadata.
    pub async fn replay(
        &self,
        project: &Project,
        old: &Choice,
        new: &Choice,
        since: WallNanos,
    ) -> Result<Redecided, Problem> {
        self.needs("policy_admin")?;
        self.engine.refresh().await?;
        let catalog = self.engine.catalog();
        let chosen = async |choice: &Choice| match choice {
            Choice::Project => self.check_policies(project).await,
            Choice::Epoch(epoch) => {
                self.engine.bundle_of(&catalog, |e| e.record.epoch == *epoch)?.ok_or_else(|| no_epoch(*epoch))
            }
        };
        let (old, new) = (chosen(old).await?, chosen(new).await?);
        self.record_metadata(&format!("replay {} {}", old.hash(), new.hash())).await?;
        let recorded = self.recorded(&catalog, since)?;
        let decisions = recorded.decisions();
        let groups = recorded.groups();
        let mut grounds = Grounds::default();
        let made_by: BTreeSet<Hash> = groups.iter().filter_map(|g| g.bundle).collect();
        for hash in made_by {
            if let Some(bundle) = self.engine.bundle_of(&catalog, |e| e.record.hash == hash)? {
                grounds.bundle(bundle);
            }
        }
        let (before, after) = (old.hash(), new.hash());
        grounds.bundle(old);
        grounds.bundle(new);
        let versions: BTreeSet<VersionRead> = groups.iter().map(|g| g.read.clone()).collect();
        grounds.versions(versions, |bundle, read| self.facts_of(bundle, &catalog, read));
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let replay = grounds.replay(&groups, before, after, threads);
        // Owners, purposes and classes may have been others then.
        let mut earlier: BTreeMap<ControlSeq, Arc<Catalog>> = BTreeMap::new();
        let mut underived = vec![];
        for group in replay.underived.into_iter().filter_map(|i| groups.get(i)) {
            let then = match earlier.get(&group.at) {
                Some(known) => Arc::clone(known),
                None => self.engine.catalog_at(group.at)?,
            };
            if !grounds.derives(group, |bundle| self.facts_of(bundle, &then, &group.read)) {
                underived.push(group.entry.clone());
            }
            earlier.insert(group.at, then);
        }
        underived.sort();
        let changes = replay.changes.into_iter().map(|(change, reads)| Change { reads, ..change }).collect();
        Ok(Redecided { decisions, distinct: groups.len(), underived, changes })
    }

    /// Recorded reads since a time, equal decisions together.
    fn recorded(&self, catalog: &Catalog, since: WallNanos) -> Result<Recorded, Problem> {
        let unreadable = |e: &dyn std::error::Error| {
            Problem::new(4006, format!("the ledger cannot be read: {e}")).help("custody ledger verify")
        };
        let reader = Reader::new(FileDisk::new(self.engine.settings.ledger()));
        let mut recorded = Recorded::default();
        for writer in reader.writers().map_err(|e| unreadable(&e))? {
            let (entries, _) = reader.tail(&writer, Position::default()).map_err(|e| unreadable(&e))?;
            for stored in entries.iter().filter(|s| s.entry.wall >= since) {
                let entry = &stored.entry;
                let approved =
                    |subject: &Subject, dataset| approvals(catalog, subject, dataset, entry.control_seq, entry.wall);
                recorded.add(entry, || format!("{}/{}", writer, stored.seq.0), approved);
            }
        }
        Ok(recorded)
    }

    /// The facts of a version; none where it is not a published one.
    fn facts_of(&self, bundle: &Bundle, catalog: &Catalog, read: &VersionRead) -> Option<TableFacts> {
        if let Some(view) = catalog.view_made_at(read.made_at) {
            let definition = present(catalog, &view.record.definition);
            return Some(self.engine.with_token_keys(bundle, facts(bundle, &definition, &read.classes)));
        }
        let version = catalog.version_made_at(read.made_at)?;
        let definition = present(catalog, version.definition());
        let labels: Vec<BTreeSet<_>> = version.labels().unwrap_or_default().iter().map(all_classes).collect();
        Some(self.engine.with_token_keys(bundle, facts(bundle, &definition, &labels)))
    }
}

impl Engine {
    /// A bundle that is or was active, loaded over the datasets of this catalog.
    pub(crate) fn bundle_of(
        &self,
        catalog: &Catalog,
        is: impl Fn(&custody_catalog::BundleEpoch) -> bool,
    ) -> Result<Option<Bundle>, Problem> {
        let damaged = |why: String| Problem::new(4003, format!("a policy bundle cannot be read: {why}"));
        let Some(epoch) = catalog.bundles().find(|e| is(e)) else { return Ok(None) };
        let bytes = self.recorder.get_blob(&epoch.record.blob)?.ok_or_else(|| damaged("its bytes are gone".into()))?;
        let files = crate::bundle_files::decode(&bytes).ok_or_else(|| damaged("its bytes are damaged".into()))?;
        Bundle::load(&files, &CatalogTables { catalog, declared: &[] })
            .map(Some)
            .map_err(|problems| damaged(problems.first().map(ToString::to_string).unwrap_or_default()))
    }
}
