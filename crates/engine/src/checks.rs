//! Checks of what is stored: a version against the ledger, the ledger against itself and outside memory.

mod as_of;

pub use as_of::Decided;
pub(crate) use as_of::no_epoch;

use crate::{
    audit::FolderSource,
    clock::Clock,
    pin::{Storage, not_found},
    session::Session,
};
use custody_ledger::verify::{Kept, Mirror, Outside, Report, TrustPolicy, keep, verify};
use custody_model::{DatasetName, Hash, Pin, Problem, TableVersion};
use custody_policy::enforce;
use custody_store::{Depth, Place};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

impl Session {
    /// Compares a version's files with the ledger; `deep` decodes them and recomputes the content root. Gives what
    /// differs. Needs the table to be visible, and is recorded as metadata.
    pub async fn verify_version(
        &self,
        name: &DatasetName,
        pin: Pin,
        deep: bool,
    ) -> Result<(TableVersion, Vec<String>), Problem> {
        self.engine.refresh().await?;
        let found = self.find(name, pin).ok_or_else(|| not_found(name))?;
        if enforce!("checks.verify", !self.decide(&found.definition, &found.labels)?.visible()) {
            return Err(not_found(name));
        }
        let place = match &found.storage {
            Storage::Version(identity) => Place::Version { dataset: found.at.dataset, identity: *identity },
            Storage::Draft(principal, identity) => {
                Place::Draft { principal: principal.clone(), dataset: found.at.dataset, identity: *identity }
            }
            Storage::Quarantine(identity) => Place::Quarantine { dataset: found.at.dataset, identity: *identity },
            Storage::View(_) => {
                return Err(Problem::new(1126, format!("`{name}` is a plain view: it stores nothing"))
                    .help("verify takes a published version: features.x@1"));
            }
            Storage::Source(_) | Storage::Planned => {
                return Err(Problem::new(1126, format!("`{name}` is a source: its files are checked at every read"))
                    .help("verify takes a published version: features.x@1"));
            }
        };
        self.record_metadata(&format!("verify {}", found.at)).await?;
        let mut findings = self.verify_place(&place, found.at.content, deep).await?;
        let published = self.catalog().version_made_at(found.at.made_at).and_then(|v| v.publish().cloned());
        if let (Some(root), Place::Version { dataset, identity }) = (published.and_then(|p| p.quarantine_root), place) {
            findings.extend(self.verify_place(&Place::Quarantine { dataset, identity }, root, deep).await?);
        }
        Ok((found.at, findings))
    }

    async fn verify_place(&self, place: &Place, root: Hash, deep: bool) -> Result<Vec<String>, Problem> {
        let manifest = match self.engine.store.open_version(place).await {
            Ok(manifest) => manifest,
            Err(error) => return Ok(vec![error.to_string()]),
        };
        let mut findings = vec![];
        if manifest.content_root != root {
            findings.push(format!("commit 0 names content root {}, the ledger {root}", manifest.content_root));
        }
        let recorded = self.engine.written_files(place)?;
        for file in manifest.digests().iter().filter(|f| recorded.get(&f.path) != Some(f)) {
            findings.push(format!("{}/{}: commit 0 says of it what no run recorded", place.folder(), file.path));
        }
        let depth = if deep { Depth::Deep } else { Depth::Files };
        let found_files = self.engine.store.verify(&manifest, depth).await.map_err(|e| e.problem())?;
        findings
            .extend(found_files.iter().filter(|f| f.kind.is_damage()).map(|f| format!("{}: {}", f.path, f.message)));
        Ok(findings)
    }
}

/// What the ledger is held against.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Checkpoints kept earlier, as [`keep_checkpoints`] gave them.
    pub notes: Vec<String>,
    /// Copies of the ledger folder.
    pub mirrors: Vec<PathBuf>,
    /// Checkpoints of the anchor that were kept elsewhere: each a name and the notes.
    pub anchors: Vec<(String, String)>,
    /// How old outside memory may be.
    pub max_age_seconds: u64,
}

/// Verifies every entry of every writer against itself and outside memory. Touches no lock; beside live writers it
/// stops at the sizes read first.
pub fn verify_ledger(folder: &Path, options: &VerifyOptions, clock: &dyn Clock) -> Result<Report, Problem> {
    if !folder.join("genesis").exists() {
        return Err(Problem::new(1303, format!("there is no ledger at `{}`", folder.display())));
    }
    let mirrors: Vec<(String, FolderSource)> =
        options.mirrors.iter().map(|m| (m.display().to_string(), FolderSource::new(m.clone()))).collect();
    let outside = Outside {
        since: options
            .notes
            .iter()
            .enumerate()
            .map(|(i, notes)| Kept { name: format!("kept notes {}", i + 1), notes: notes.clone() })
            .collect(),
        mirrors: mirrors.iter().map(|(name, files)| Mirror { name, files }).collect(),
        anchors: options
            .anchors
            .iter()
            .map(|(name, notes)| Kept { name: name.clone(), notes: notes.clone() })
            .collect(),
        max_age: Duration::from_secs(options.max_age_seconds),
        ..Outside::none(clock.now())
    };
    Ok(verify(&FolderSource::new(folder), &TrustPolicy { log: None, root: None }, &outside))
}

/// The present checkpoints of all writers, to be kept where whoever writes the ledger cannot reach.
pub fn keep_checkpoints(folder: &Path) -> Result<String, Problem> {
    keep(&FolderSource::new(folder)).map_err(|e| Problem::new(1307, format!("`{}` cannot be read: {}", e.path, e.why)))
}
