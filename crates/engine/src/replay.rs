//! Recorded decisions, made again: under the bundle they were made by, where each gives the grant hash that its entry
//! recorded; and under two bundles, to see who would gain or lose what.
//!
//! What holds here: a decision depends on bundle, subject and facts alone, and an entry holds what brings them back; so
//! equal ones are made once. Reads of `system` are decided otherwise and are left out.

use crate::{
    Engine,
    engine::CatalogTables,
    pin::{all_classes, facts, present},
    project::Project,
    session::Session,
};
use custody_catalog::Catalog;
use custody_ledger::{Position, Reader};
use custody_model::{ControlSeq, DatasetName, Entry, Hash, Payload, Problem, Rung, Subject, SubjectKey, WallNanos};
use custody_policy::{Bundle, Grant, decide, rows_text, subject_key};
use custody_store::FileDisk;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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

/// Who would get something else of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The dataset.
    pub dataset: DatasetName,
    /// Who read it.
    pub principal: String,
    /// What for.
    pub purpose: String,
    /// A column, or `rows`.
    pub what: String,
    /// Its rung, or the condition on rows, by the one bundle.
    pub before: String,
    /// By the other.
    pub after: String,
    /// Whether it is more, less, or neither.
    pub direction: Direction,
    /// How many recorded reads it concerns.
    pub reads: u64,
}

/// More or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Sees more.
    Gains,
    /// Sees less.
    Loses,
    /// Sees other rows.
    Differs,
}

impl Direction {
    /// `gains`, `loses`, `differs`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Gains => "gains",
            Self::Loses => "loses",
            Self::Differs => "differs",
        }
    }
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

/// Equal decisions: same subject, version, bundle and grant.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    subject: SubjectKey,
    made_at: ControlSeq,
    bundle: Option<Hash>,
    grant: Hash,
}

struct Group {
    subject: Subject,
    at: ControlSeq,
    entry: String,
    count: u64,
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
            Choice::Epoch(epoch) => self.engine.bundle_of(&catalog, |e| e.record.epoch == *epoch)?.ok_or_else(|| {
                Problem::new(6005, format!("no bundle has epoch {epoch}"))
                    .help("SELECT epoch, policy_hash FROM system.policy.bundles lists them")
            }),
        };
        let (old, new) = (chosen(old).await?, chosen(new).await?);
        self.record_metadata(&format!("replay {} {}", old.hash(), new.hash())).await?;
        let (decisions, groups) = self.recorded(since)?;
        let mut replayed = Redecided { decisions, distinct: groups.len(), ..Redecided::default() };
        let mut made_by: HashMap<Hash, Option<Bundle>> = HashMap::new();
        let mut earlier: BTreeMap<ControlSeq, Arc<Catalog>> = BTreeMap::new();
        let mut changes: BTreeMap<Change, u64> = BTreeMap::new();
        for (key, group) in &groups {
            if let Some(hash) = key.bundle
                && !made_by.contains_key(&hash)
            {
                made_by.insert(hash, self.engine.bundle_of(&catalog, |e| e.record.hash == hash)?);
            }
            let by = key.bundle.and_then(|hash| made_by.get(&hash)).and_then(Option::as_ref);
            let same = |catalog: &Catalog| {
                let decided = by.and_then(|b| self.decided(b, &group.subject, catalog, key.made_at));
                decided.is_some_and(|(_, grant)| grant.hash == key.grant)
            };
            if !same(&catalog) {
                // Owners, purposes and classes may have been others then.
                let then = match earlier.get(&group.at) {
                    Some(known) => Arc::clone(known),
                    None => self.engine.catalog_at(group.at)?,
                };
                earlier.insert(group.at, Arc::clone(&then));
                if !same(&then) {
                    replayed.underived.push(group.entry.clone());
                }
            }
            let under = |bundle: &Bundle| self.decided(bundle, &group.subject, &catalog, key.made_at);
            if let (Some((name, before)), Some((_, after))) = (under(&old), under(&new)) {
                for change in differences(&name, &group.subject, &before, &after) {
                    *changes.entry(change).or_default() += group.count;
                }
            }
        }
        replayed.underived.sort();
        replayed.changes = changes.into_iter().map(|(change, reads)| Change { reads, ..change }).collect();
        Ok(replayed)
    }

    /// Recorded reads since a time, equal decisions together.
    fn recorded(&self, since: WallNanos) -> Result<(u64, HashMap<Key, Group>), Problem> {
        let unreadable = |e: &dyn std::error::Error| {
            Problem::new(4006, format!("the ledger cannot be read: {e}")).help("custody ledger verify")
        };
        let reader = Reader::new(FileDisk::new(self.engine.settings.ledger()));
        let (mut decisions, mut groups) = (0, HashMap::new());
        for writer in reader.writers().map_err(|e| unreadable(&e))? {
            let (entries, _) = reader.tail(&writer, Position::default()).map_err(|e| unreadable(&e))?;
            for stored in entries.iter().filter(|s| s.entry.wall >= since) {
                let Some(subject) = reader_of(&stored.entry) else { continue };
                let subject_key = subject_key(&subject);
                for target in stored.entry.targets.iter().filter(|t| t.made_at != ControlSeq(0)) {
                    let Some(grant) = target.grant else { continue };
                    decisions += 1;
                    let key = Key {
                        subject: subject_key,
                        made_at: target.made_at,
                        bundle: stored.entry.reason.bundle,
                        grant,
                    };
                    let group = groups.entry(key).or_insert_with(|| Group {
                        subject: subject.clone(),
                        at: stored.entry.control_seq,
                        entry: format!("{}/{}", writer, stored.seq.0),
                        count: 0,
                    });
                    group.count += 1;
                }
            }
        }
        Ok((decisions, groups))
    }

    /// The grant on a version by a bundle; none where the version is not a published one.
    fn decided(
        &self,
        bundle: &Bundle,
        subject: &Subject,
        catalog: &Catalog,
        made_at: ControlSeq,
    ) -> Option<(DatasetName, Grant)> {
        let version = catalog.version_made_at(made_at)?;
        let definition = present(catalog, version.definition());
        let labels: Vec<BTreeSet<_>> = version.labels().unwrap_or_default().iter().map(all_classes).collect();
        let facts = self.engine.with_token_keys(bundle, facts(bundle, &definition, &labels));
        Some((definition.name, decide(bundle, subject, &facts)))
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

/// Whoever read, as decisions saw them; none where the entry is no read.
fn reader_of(entry: &Entry) -> Option<Subject> {
    let others = entry.actor.as_ref().is_some_and(|a| a.on_behalf_of.is_some());
    if others || !matches!(entry.payload, Payload::ReadIntent(_) | Payload::Read(..)) {
        return None;
    }
    subject_of(entry)
}

/// Whoever acted, as decisions saw them.
pub(crate) fn subject_of(entry: &Entry) -> Option<Subject> {
    let (actor, reason) = (entry.actor.as_ref()?, &entry.reason);
    Some(Subject {
        principal: actor.principal.clone(),
        kind: actor.kind.clone(),
        roles: actor.roles.clone(),
        attributes: actor.attributes.clone(),
        purpose: reason.purpose.clone()?,
        environment: reason.environment.clone(),
        stage: reason.stage.clone(),
        region: reason.region.clone(),
        model: reason.model.clone(),
        model_version: reason.model_version,
        authentication: actor.authentication,
        session: None,
        token: None,
    })
}

fn differences(name: &DatasetName, subject: &Subject, before: &Grant, after: &Grant) -> Vec<Change> {
    let change = |what: &str, before: String, after: String, direction| Change {
        dataset: name.clone(),
        principal: subject.principal.0.clone(),
        purpose: subject.purpose.0.clone(),
        what: what.to_string(),
        before,
        after,
        direction,
        reads: 0,
    };
    let mut changes = vec![];
    for (a, b) in before.columns.iter().zip(&after.columns) {
        let direction = match a.rung.cmp(&b.rung) {
            std::cmp::Ordering::Less => Direction::Gains,
            std::cmp::Ordering::Greater => Direction::Loses,
            std::cmp::Ordering::Equal if a.mask == b.mask => continue,
            std::cmp::Ordering::Equal => Direction::Differs,
        };
        let word = |c: &custody_policy::ColumnGrant| match &c.mask {
            Some(mask) => format!("{} {}", c.rung, custody_policy::mask::describe(mask)),
            None => c.rung.to_string(),
        };
        changes.push(change(&a.name, word(a), word(b), direction));
    }
    // Without a column above `none` there are no rows to speak of.
    let rows = |grant: &Grant| match grant.columns.iter().any(|c| c.rung > Rung::None) {
        true => rows_text(&grant.rows),
        false => "FALSE".into(),
    };
    let (a, b) = (rows(before), rows(after));
    if a != b {
        let direction = match (a.as_str(), b.as_str()) {
            ("FALSE", _) | (_, "TRUE") => Direction::Gains,
            (_, "FALSE") | ("TRUE", _) => Direction::Loses,
            _ => Direction::Differs,
        };
        changes.push(change("rows", a, b, direction));
    }
    changes
}
