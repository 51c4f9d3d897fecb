//! The life of a publish, the mirror of a read.
//!
//! 1. Sources are recorded at what their files are now (`snapshot`).
//! 2. Each view is prepared: names pinned, grants decided, nothing that policy would drop (`require_complete`), plan,
//!    exact lineage, labels, identity (`prepare`).
//! 3. Same identity as a published version: nothing to do.
//! 4. A run entry `started`, the intent of the reads, then the sorted stream is written (`compute`), or a draft or a
//!    leftover of a crash with the same identity is adopted.
//! 5. A run entry `written`, Delta commit 0, the lineage entry, and last the publish entry: only now is it visible.
//!
//! Each step has a file of its own below `publish/`.
//!
//! What holds here: a crash between any two of these leaves either nothing visible or the whole version.

mod commit;
mod compute;
mod contract;
mod definition;
mod identity;
mod incremental;
mod local;
mod prepare;
mod record;
mod sources;
mod view;

use crate::{
    expect::Expected,
    governed::Drafted,
    pin::{Found, PinnedTable},
    project::{Declared, Project},
    session::Session,
};
pub(crate) use compute::Wrote;
pub(crate) use contract::contract;
use custody_dialect::ViewDef;
use custody_model::{
    ClassLabel, DatasetDefinition, DatasetKind, DatasetName, EntryRef, ExpectationResult, Hash, InputRef, Pin,
    Principal, Problem, SourceText, TableVersion,
};
pub(crate) use definition::renamed;
pub(crate) use prepare::require_complete;
use std::collections::{BTreeMap, BTreeSet};
pub(crate) use view::PreparedView;

/// Changes whenever the same plan over the same inputs may give other values.
pub const ENGINE_VERSION: u64 = 3;

/// What happens while a project is run or published, for whoever shows progress.
#[derive(Clone, Debug)]
pub enum Event {
    /// A source was recorded at a new snapshot.
    Snapshot {
        /// Which source, at which version.
        at: TableVersion,
        /// How many bytes its files have.
        bytes: u64,
    },
    /// A source is as it was recorded.
    SnapshotUnchanged {
        /// Which source, at which version.
        at: TableVersion,
    },
    /// Something a user should know once.
    Warning(String),
    /// A view is being computed.
    Computing {
        /// Which view.
        view: DatasetName,
        /// Rows so far.
        rows: u64,
    },
    /// A view that says `INCREMENTAL` is computed where its inputs changed.
    Part {
        /// Which view.
        view: DatasetName,
        /// The version that the other rows are taken from.
        of: u64,
        /// Times that are computed, microseconds, ends included.
        intervals: Vec<(i64, i64)>,
    },
    /// A view that says `INCREMENTAL` is computed in full.
    Whole {
        /// Which view.
        view: DatasetName,
        /// Why.
        why: String,
    },
    /// A view has no need of computing.
    Unchanged {
        /// Which view.
        view: DatasetName,
        /// The version that already has this identity; `None`: a draft has.
        version: Option<u64>,
    },
    /// Rows broke an expectation that does not stop the publish.
    Violated {
        /// Which view.
        view: DatasetName,
        /// What was found.
        result: ExpectationResult,
    },
    /// A plain view was recorded as it is now.
    View {
        /// Which view; its version counts its records.
        at: TableVersion,
    },
    /// A plain view is as it was recorded.
    ViewUnchanged {
        /// Which view.
        view: DatasetName,
    },
    /// A draft was made.
    Drafted {
        /// Which view.
        view: DatasetName,
        /// Its rows.
        rows: u64,
        /// Its content root.
        root: Hash,
    },
    /// A version became visible.
    Published(Published),
}

/// A version that a publish made visible, or found visible.
#[derive(Clone, Debug)]
pub struct Published {
    /// Which version.
    pub at: TableVersion,
    /// Its rows.
    pub rows: u64,
    /// The entry that made it visible.
    pub entry: EntryRef,
    /// Whether the draft's files were taken over.
    pub adopted: bool,
}

/// How to publish.
#[derive(Clone, Debug, Default)]
pub struct PublishOptions {
    /// Why; recorded.
    pub because: String,
    /// Which views, as `x`, `+x`, `x+`; none: all.
    pub select: Vec<String>,
    /// Whether consumers may break.
    pub accept_breaking: bool,
    /// The commit of the project's git repository.
    pub git_commit: Option<String>,
    /// Whether it has uncommitted changes.
    pub git_dirty: Option<bool>,
}

/// How a view's declaration relates to its newest version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Contract {
    /// Same identity and same attributes.
    None,
    /// Same identity; owner, purposes or comment differ.
    Metadata,
    /// Same columns, other values.
    Data,
    /// New columns.
    Additive,
    /// Columns gone or changed, or another key.
    Breaking,
    /// There is no version yet.
    New,
}

impl Contract {
    /// The word in `custody plan`.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "unchanged",
            Self::Metadata => "metadata",
            Self::Data => "data",
            Self::Additive => "additive",
            Self::Breaking => "breaking",
            Self::New => "new",
        }
    }
}

/// A view that is ready to be computed.
pub(crate) struct Prepared {
    pub(crate) definition: DatasetDefinition,
    pub(crate) identity: Hash,
    pub(crate) plan_hash: Hash,
    pub(crate) inputs: Vec<InputRef>,
    pub(crate) labels: Vec<ClassLabel>,
    pub(crate) pinned: Vec<PinnedTable>,
    pub(crate) drafted: Drafted,
    pub(crate) contract: Contract,
    /// The newest version, where there is one.
    pub(crate) newest: Option<u64>,
    /// The version with this identity.
    pub(crate) same: Option<(TableVersion, u64)>,
    /// Whether some input is not computed yet, so that the identity is not final.
    pub(crate) provisional: bool,
    /// Whose recorded grants these are, under which bundle, where it is not the session's own.
    pub(crate) recorded: Option<(Principal, Hash)>,
    /// What must hold of its rows.
    pub(crate) expected: Vec<Expected>,
    /// How it can be computed in parts, where it says so.
    pub(crate) local: Option<local::Local>,
    /// The group floor on it.
    pub(crate) floor: Option<u64>,
}

/// What a definition says of its output.
pub(crate) struct Declaration<'a> {
    pub(crate) kind: DatasetKind,
    pub(crate) name: &'a DatasetName,
    pub(crate) key: &'a custody_dialect::Key,
    pub(crate) ttl: Option<String>,
    pub(crate) clauses: &'a custody_dialect::Clauses,
    pub(crate) text: &'a str,
}

/// Versions of this run that stand in for the catalog's.
pub(crate) type Overrides = BTreeMap<DatasetName, Found>;

impl Session {
    /// Computes drafts, private to this principal, of the views that changed.
    pub async fn run(
        &self,
        project: &Project,
        options: &PublishOptions,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<(), Problem> {
        let chosen = self.open_project(project, options, tell).await?;
        let mut overrides = Overrides::new();
        for name in &self.needed(project, &chosen) {
            if let Some(view) = project.views.get(name) {
                let prepared = self.prepare_view(project, view, &overrides).await?;
                overrides.insert(name.clone(), prepared.found());
                continue;
            }
            let declared = feature(project, name)?;
            let prepared = self.prepare(project, declared, &overrides).await?;
            if let Some((at, _)) = &prepared.same {
                tell(Event::Unchanged { view: name.clone(), version: Some(at.version) });
                continue;
            }
            let found = match self.own_draft(&prepared) {
                Some(found) => {
                    tell(Event::Unchanged { view: name.clone(), version: None });
                    found
                }
                None => {
                    let text = project.text(declared.file);
                    self.make_draft(&prepared, options, tell).await.map_err(|p| in_file(p, text))?
                }
            };
            overrides.insert(name.clone(), found);
        }
        Ok(())
    }

    /// Publishes the views that changed, each after what it reads. Gives the versions that became visible.
    pub async fn publish(
        &self,
        project: &Project,
        options: &PublishOptions,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Vec<Published>, Problem> {
        let chosen = self.open_project(project, options, tell).await?;
        let mut published = vec![];
        for name in &chosen {
            if let Some(view) = project.views.get(name) {
                let prepared = self.prepare_view(project, view, &Overrides::new()).await?;
                self.record_view(prepared, tell).await?;
                continue;
            }
            let declared = feature(project, name)?;
            let prepared = self.prepare(project, declared, &Overrides::new()).await?;
            if let Some((at, _)) = &prepared.same {
                if prepared.contract == Contract::Metadata {
                    self.change_attributes(&prepared.definition).await?;
                }
                tell(Event::Unchanged { view: name.clone(), version: Some(at.version) });
                continue;
            }
            if prepared.contract == Contract::Breaking && !options.accept_breaking {
                return Err(self.breaking(&prepared, Some(project)));
            }
            let text = project.text(declared.file);
            let version = self.publish_view(&prepared, options, tell).await.map_err(|p| in_file(p, text))?;
            tell(Event::Published(version.clone()));
            published.push(version);
        }
        Ok(published)
    }

    /// The chosen views, in order, with what they read of the project and the catalog does not have.
    pub(crate) fn needed(&self, project: &Project, chosen: &[DatasetName]) -> Vec<DatasetName> {
        let missing = |n: &DatasetName| project.views.contains_key(n) || self.find(n, Pin::Newest).is_none();
        let mut needed: BTreeSet<_> = chosen.iter().flat_map(|n| project.upstream(n, &missing)).collect();
        needed.extend(chosen.iter().cloned());
        project.order.iter().filter(|n| needed.contains(n)).cloned().collect()
    }

    /// Policies are those of the active bundle, sources are recorded, the selection is understood.
    async fn open_project(
        &self,
        project: &Project,
        options: &PublishOptions,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Vec<DatasetName>, Problem> {
        self.engine.refresh().await?;
        self.same_policies(project)?;
        let chosen = project.select(&options.select)?;
        let mut needed = BTreeSet::new();
        for name in &self.needed(project, &chosen) {
            needed.extend(project.read_by(name));
        }
        for (name, declared) in &project.sources {
            if needed.contains(name) || options.select.is_empty() {
                self.snapshot(project, declared, tell).await?;
            }
        }
        Ok(chosen)
    }
}

fn feature<'a>(project: &'a Project, name: &DatasetName) -> Result<&'a Declared<ViewDef>, Problem> {
    project.features.get(name).ok_or_else(|| Problem::new(6004, format!("no feature view `{name}` in this project")))
}

pub(crate) fn in_file(mut problem: Problem, text: Option<&SourceText>) -> Problem {
    if problem.file.is_none() && !problem.labels.is_empty() {
        problem.file = text.map(|t| t.name.clone());
    }
    problem
}
