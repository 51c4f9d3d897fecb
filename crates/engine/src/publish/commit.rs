//! From written files to a visible version: the `written` entry, Delta commit 0, lineage, and the publish entry, which is
//! claimed.

use super::{ENGINE_VERSION, Event, Prepared, PublishOptions, Published, compute::Wrote};
use crate::{
    entries::entry_id,
    pin::{Found, Storage, all_classes},
    session::Session,
};
use custody_catalog::Dataset;
use custody_model::{
    BlobRef, CatalogChange, ControlSeq, DatasetDefinition, DraftRecord, EntryId, EntryRef, ExpectationResult, Hash,
    LineageRecord, Outcome, Payload, Problem, Publish, RunState, Verb,
};
use custody_store::{Committed, Manifest, Place, Staged, Stamp, StoreError};
use std::sync::Arc;

impl Session {
    pub(super) fn own_draft(&self, prepared: &Prepared) -> Option<Found> {
        let catalog = self.engine.catalog();
        let draft = catalog.draft(&self.subject.principal, &prepared.definition.name)?;
        (draft.record.identity == prepared.identity).then(|| Found {
            at: draft.table.clone(),
            definition: Arc::new(draft.record.definition.clone()),
            labels: draft.record.labels.iter().map(all_classes).collect(),
            known: None,
            storage: Storage::Draft(draft.record.principal.clone(), draft.record.identity),
            revoked: None,
        })
    }

    pub(super) async fn make_draft(
        &self,
        prepared: &Prepared,
        options: &PublishOptions,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Found, Problem> {
        let place = Place::Draft {
            principal: self.subject.principal.clone(),
            dataset: prepared.definition.id,
            identity: prepared.identity,
        };
        let publish_entry = entry_id(self.engine.clock.now());
        let made = self.compute(prepared, &place, options, publish_entry, tell).await?;
        let record = DraftRecord {
            principal: self.subject.principal.clone(),
            definition: prepared.definition.clone(),
            identity: prepared.identity,
            content_root: made.manifest.content_root,
            rows: made.manifest.rows,
            labels: prepared.labels.clone(),
            inputs: prepared.inputs.clone(),
            lineage: prepared.drafted.lineage.clone(),
            run: made.run,
        };
        let change = CatalogChange::Draft(Box::new(record));
        self.control(Verb::Publish, Payload::CatalogChange(change), vec![]).await?;
        self.run_state(prepared, made.run, RunState::Ended, options, |_| {}).await?;
        tell(Event::Drafted {
            view: prepared.definition.name.clone(),
            rows: made.manifest.rows,
            root: made.manifest.content_root,
        });
        self.own_draft(prepared).ok_or_else(|| Problem::bug("a draft vanished while it was made"))
    }

    pub(crate) async fn publish_view(
        &self,
        prepared: &Prepared,
        options: &PublishOptions,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Published, Problem> {
        let place = Place::Version { dataset: prepared.definition.id, identity: prepared.identity };
        let (made, adopted) = match self.leftover(prepared, &place).await? {
            Some(made) => (made, false),
            None => match self.adopt_draft(prepared, &place, options).await? {
                Some(made) => (made, true),
                None => {
                    let publish_entry = entry_id(self.engine.clock.now());
                    (self.compute(prepared, &place, options, publish_entry, tell).await?, false)
                }
            },
        };
        let recorded = prepared.drafted.lineage.clone();
        let lineage_hash = custody_ledger::lineage_hash(&recorded);
        let mut lineage = self.entry(
            Verb::Publish,
            Outcome::Success,
            Payload::Lineage(LineageRecord { identity: prepared.identity, hash: lineage_hash, lineage: recorded }),
        );
        lineage.reference = Some(made.run);
        let lineage = self.engine.recorder.record(lineage).await?;
        let entry = self.claim_version(prepared, options, &made, lineage.id, lineage_hash).await?;
        self.run_state(prepared, made.run, RunState::Ended, options, |_| {}).await?;
        let catalog = self.engine.catalog();
        let version = catalog
            .version_by_identity(prepared.definition.id, &prepared.identity)
            .ok_or_else(|| Problem::bug("a version vanished while it was published"))?;
        Ok(Published { at: version.table.clone(), rows: made.manifest.rows, entry, adopted })
    }

    /// Claims the publish entry: the last act. A lost claim looks at what came between and tries again only if
    /// nothing it decided on has changed.
    pub(super) async fn claim_version(
        &self,
        prepared: &Prepared,
        options: &PublishOptions,
        made: &Made,
        lineage: EntryId,
        lineage_hash: Hash,
    ) -> Result<EntryRef, Problem> {
        let name = &prepared.definition.name;
        for _ in 0..1_000 {
            self.engine.refresh().await?;
            let catalog = self.engine.catalog();
            let known = catalog.dataset_by_id(prepared.definition.id);
            if let Some(winner) = known.and_then(Dataset::newest)
                && Some(winner.table.version) != prepared.newest
            {
                return Err(Problem::new(
                    7105,
                    format!("`{name}` was published by `{}` meanwhile, as version {}", winner.by, winner.table.version),
                )
                .help("custody publish again"));
            }
            for table in &prepared.pinned {
                if self.with_rights_of(&table.owner).decide(&table.definition, &table.labels)?.hash != table.grant.hash
                {
                    return Err(Problem::new(7106, "policy changed while publishing").help("custody publish again"));
                }
            }
            let publish = Publish {
                identity: prepared.identity,
                definition: prepared.definition.clone(),
                version: prepared.newest.unwrap_or(0) + 1,
                because: options.because.clone(),
                content_root: made.manifest.content_root,
                rows: made.manifest.rows,
                event_range: made.manifest.event_range,
                schema_hash: made.schema_hash,
                inputs: prepared.inputs.clone(),
                labels: prepared.labels.clone(),
                lineage,
                lineage_hash,
                quarantine_root: made.quarantine.map(|(root, _)| root),
                run: made.run,
                plan: prepared.plan_hash,
                engine_version: ENGINE_VERSION,
                seed: None,
                git_commit: options.git_commit.clone(),
                git_dirty: options.git_dirty,
                quarantine_rows: made.quarantine.map(|(_, rows)| rows),
                expectations: made.expectations.clone(),
                profile: made.profile,
            };
            let mut entry = self.entry(Verb::Publish, Outcome::Success, Payload::Publish(Box::new(publish)));
            entry.id = made.publish_entry;
            entry.reference = Some(made.run);
            entry.measure.rows = Some(made.manifest.rows);
            entry.control_seq = ControlSeq(self.engine.seen().0 + 1);
            match self.engine.recorder.control(entry).await {
                Ok(recorded) => {
                    self.engine.refresh().await?;
                    return Ok(recorded.entry);
                }
                Err(failed) if failed.taken() => {}
                Err(failed) => return Err(failed.into()),
            }
        }
        Err(Problem::new(7003, "the catalog changes too fast to add to it").help("try again"))
    }

    /// What a crash left at this place: adopted where a `written` entry vouches for it, else removed.
    pub(super) async fn leftover(&self, prepared: &Prepared, place: &Place) -> Result<Option<Made>, Problem> {
        let manifest = match self.engine.store.open_version(place).await {
            Ok(manifest) => manifest,
            Err(StoreError::NoVersion { .. }) => return Ok(None),
            Err(error) => return Err(error.problem()),
        };
        let written = self.engine.written(&prepared.identity)?;
        if let Some((run, record)) = written
            && record.content_root == Some(manifest.content_root)
            && let Some(publish_entry) = record.publish_entry
        {
            let schema_hash = custody_store::schema_hash(&manifest.schema).map_err(|e| e.problem())?;
            let quarantine = self.quarantine_of(prepared, record.quarantine_root).await?;
            let (expectations, profile) = (record.expectations, record.profile);
            if record.quarantine_root == quarantine.map(|(root, _)| root) {
                return Ok(Some(Made { manifest, run, publish_entry, schema_hash, quarantine, expectations, profile }));
            }
        }
        self.engine.store.remove(place).await.map_err(|e| e.problem())?;
        Ok(None)
    }

    /// Quarantined rows that are committed, where they are those recorded.
    async fn quarantine_of(&self, prepared: &Prepared, root: Option<Hash>) -> Result<Option<(Hash, u64)>, Problem> {
        let place = Place::Quarantine { dataset: prepared.definition.id, identity: prepared.identity };
        match self.engine.store.open_version(&place).await {
            Ok(found) if Some(found.content_root) == root => Ok(Some((found.content_root, found.rows))),
            Ok(_) | Err(StoreError::NoVersion { .. }) => Ok(None),
            Err(error) => Err(error.problem()),
        }
    }

    pub(super) async fn adopt_draft(
        &self,
        prepared: &Prepared,
        place: &Place,
        options: &PublishOptions,
    ) -> Result<Option<Made>, Problem> {
        let Some(found) = self.own_draft(prepared) else { return Ok(None) };
        let catalog = self.engine.catalog();
        let Some(draft) = catalog.draft(&self.subject.principal, &prepared.definition.name) else { return Ok(None) };
        // A draft leaves out what breaks an expectation; a version puts it into quarantine, so it is computed again.
        let written = self.engine.written(&prepared.identity)?;
        let (expectations, profile) = written.map(|(_, r)| (r.expectations, r.profile)).unwrap_or_default();
        if expectations.iter().any(|r| r.action == "quarantine" && r.violations > 0) {
            return Ok(None);
        }
        let run = draft.record.run;
        let publish_entry = entry_id(self.engine.clock.now());
        let from = Place::Draft {
            principal: self.subject.principal.clone(),
            dataset: prepared.definition.id,
            identity: prepared.identity,
        };
        let staged =
            self.engine.store.adopt_draft(&from, place, found.at.content, run).await.map_err(|e| e.problem())?;
        let wrote = Wrote { staged, quarantine: None, expectations, profile };
        Ok(Some(self.commit(prepared, wrote, options, run, publish_entry).await?))
    }

    /// The `written` entry, then Delta commit 0. Of two who wrote the same version, the later one takes what is there.
    pub(super) async fn commit(
        &self,
        prepared: &Prepared,
        wrote: Wrote,
        options: &PublishOptions,
        run: EntryId,
        publish_entry: EntryId,
    ) -> Result<Made, Problem> {
        let Wrote { staged, quarantine, expectations, profile } = wrote;
        self.run_state(prepared, run, RunState::Written, options, |r| {
            r.content_root = Some(staged.content_root());
            r.rows = Some(staged.rows());
            r.files = staged.digests();
            r.publish_entry = Some(publish_entry);
            r.quarantine_root = quarantine.as_ref().map(Staged::content_root);
            r.quarantine_files = quarantine.as_ref().map(Staged::digests).unwrap_or_default();
            r.expectations.clone_from(&expectations);
            r.profile = profile;
        })
        .await?;
        let root = staged.content_root();
        let schema_hash = staged.schema_hash().map_err(|e| e.problem())?;
        let stamp = Stamp { entry: publish_entry, at: self.engine.clock.now() };
        // Quarantine first: a version that is there has its quarantine.
        let quarantine = match quarantine {
            Some(rows) => {
                let (root, found) = (rows.content_root(), committed(rows, stamp).await?);
                Some((self.same_values(prepared, root, &found)?.content_root, found.rows))
            }
            None => None,
        };
        let manifest = committed(staged, stamp).await?;
        self.same_values(prepared, root, &manifest)?;
        let (publish_entry, run) = (manifest.entry, manifest.run);
        Ok(Made { publish_entry, run, manifest, schema_hash, quarantine, expectations, profile })
    }

    fn same_values<'a>(
        &self,
        prepared: &Prepared,
        root: Hash,
        found: &'a Arc<Manifest>,
    ) -> Result<&'a Arc<Manifest>, Problem> {
        if found.content_root != root {
            return Err(Problem::new(
                4008,
                format!("two runs of `{}` gave different values", prepared.definition.name),
            )
            .help("a query whose values depend on the order of rows cannot be published"));
        }
        Ok(found)
    }

    pub(crate) async fn change_attributes(&self, d: &DatasetDefinition) -> Result<(), Problem> {
        let change = custody_model::AttributeChange {
            dataset: d.id,
            owner: Some(d.owner.clone()),
            purposes: Some(d.purposes.clone()),
            comment: d.comment.clone(),
            name: Some(d.name.clone()),
        };
        self.control(Verb::Admin, Payload::CatalogChange(CatalogChange::Attributes(change)), vec![]).await?;
        Ok(())
    }
}

/// Data that is written and committed, not yet visible.
pub(super) struct Made {
    pub(super) manifest: Arc<Manifest>,
    pub(super) run: EntryId,
    pub(super) publish_entry: EntryId,
    pub(super) schema_hash: Hash,
    /// Root and number of quarantined rows.
    pub(super) quarantine: Option<(Hash, u64)>,
    pub(super) expectations: Vec<ExpectationResult>,
    pub(super) profile: Option<BlobRef>,
}

/// What is committed at the place: ours, or what another wrote there first, and then ours is removed.
async fn committed(staged: Staged, stamp: Stamp) -> Result<Arc<Manifest>, Problem> {
    match staged.commit(stamp).await.map_err(|e| e.problem())? {
        Committed::New(manifest) => Ok(manifest),
        Committed::Exists { found, ours } => {
            ours.discard().await.map_err(|e| e.problem())?;
            Ok(found)
        }
    }
}
