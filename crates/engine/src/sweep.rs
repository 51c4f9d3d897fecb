//! What ended runs left behind.
//!
//! What holds here: nothing that an entry of the ledger references is ever listed, whatever the folders look like; nor is
//! anything of a run that may still be writing.

use crate::session::Session;
use custody_model::{EntryId, Problem, RunState};
use custody_store::{Leftover, Place};
use std::collections::BTreeSet;

/// How old files without a run entry must be: a replay has none.
const UNRECORDED_AGE_NANOS: i128 = 24 * 3_600 * 1_000_000_000;

impl Session {
    /// Files of ended runs that no version, draft or quarantine holds, by path. Needs role `admin`; removes nothing.
    pub async fn leftovers(&self) -> Result<Vec<Leftover>, Problem> {
        let done = self.find_leftovers().await;
        self.or_denied(done).await
    }

    async fn find_leftovers(&self) -> Result<Vec<Leftover>, Problem> {
        self.needs("admin")?;
        self.engine.refresh().await?;
        self.record_metadata("gc").await?;
        let referenced = self.referenced()?;
        let now = self.engine.clock.now().0;
        let mut found = self.engine.store.leftovers().await.map_err(|e| e.problem())?;
        let mut ended = vec![];
        for leftover in found.drain(..) {
            if !referenced.contains(&leftover.path) && self.has_ended(&leftover.path, now)? {
                ended.push(leftover);
            }
        }
        Ok(ended)
    }

    /// Paths below the warehouse of everything that an entry references: files by their digests in `written` entries, and
    /// the commits of versions and drafts.
    fn referenced(&self) -> Result<BTreeSet<String>, Problem> {
        let catalog = self.engine.catalog();
        let mut places = vec![];
        for version in catalog.datasets().flat_map(|d| d.versions()).filter(|v| v.publish().is_some()) {
            let (dataset, identity) = (version.table.dataset, *version.identity());
            places.push(Place::Version { dataset, identity });
            places.push(Place::Quarantine { dataset, identity });
        }
        for draft in catalog.drafts() {
            let (dataset, identity) = (draft.table.dataset, draft.record.identity);
            places.push(Place::Draft { principal: draft.record.principal.clone(), dataset, identity });
        }
        let mut paths = BTreeSet::new();
        for place in places {
            let folder = place.folder();
            paths.insert(format!("{folder}/_delta_log/00000000000000000000.json"));
            let files = self.engine.written_files(&place)?;
            paths.extend(files.keys().map(|file| format!("{folder}/{file}")));
        }
        Ok(paths)
    }

    /// Whether whoever wrote this has ended: the run that its folder is named by, or, where no entry knows it, by age.
    fn has_ended(&self, path: &str, now: i64) -> Result<bool, Problem> {
        let Some(run) = path.split('/').find_map(|part| part.parse::<EntryId>().ok().filter(|_| is_run(part))) else {
            return Ok(true);
        };
        Ok(match self.engine.run_state(run)? {
            Some(RunState::Ended | RunState::Failed) => true,
            Some(RunState::Started | RunState::Written) => false,
            None => made_at(run).is_some_and(|made| i128::from(now) - made > UNRECORDED_AGE_NANOS),
        })
    }
}

/// Whether a folder's name is a run's: a UUIDv7. Datasets are UUIDv8.
fn is_run(part: &str) -> bool {
    part.len() == 36 && part.as_bytes().get(14) == Some(&b'7')
}

/// The time in a UUIDv7.
fn made_at(run: EntryId) -> Option<i128> {
    let (seconds, nanos) = run.0.get_timestamp()?.to_unix();
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
}
