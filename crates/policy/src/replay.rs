//! Recorded decisions, made again: under the bundle they were made by, where each gives the grant hash that its entry
//! recorded; and under two bundles, to see who would gain or lose what.
//!
//! What holds here: a decision depends on bundle, subject and facts alone, so equal ones are made once. Reads of `system`
//! are decided otherwise and are left out.

use crate::{
    bundle::Bundle,
    decide::{decide_keyed, facts_hash, subject_key},
    explain::rows_text,
    grant::{ColumnGrant, Grant, TableFacts},
    mask,
};
use custody_model::{
    Actor, Approvals, Class, ControlSeq, DatasetId, DatasetName, Entry, Hash, Payload, Principal, Reason, Rung,
    Subject, SubjectKey,
};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher},
    sync::Arc,
};

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

/// A version as an entry names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionRead {
    /// The control position that made it.
    pub made_at: ControlSeq,
    /// Of a plain view with its owner's rights: the classes that its columns inherited, in order.
    pub classes: Vec<BTreeSet<Class>>,
}

/// Recorded decisions, equal ones together.
#[derive(Default)]
pub struct Recorded {
    decisions: u64,
    groups: HashMap<(usize, ControlSeq, Option<Hash>, Hash), Group>,
    subjects: Vec<(Arc<Subject>, SubjectKey)>,
    /// Subjects by a quick hash of what an entry says of them: most entries are of a subject seen before.
    seen: HashMap<u64, Vec<usize>>,
    owners: HashMap<SubjectKey, usize>,
}

/// Equal decisions: same subject, version, bundle and grant.
#[derive(Clone, Debug)]
pub struct Group {
    /// Whoever read, as decisions saw them.
    pub subject: Arc<Subject>,
    key: SubjectKey,
    /// What was read.
    pub read: VersionRead,
    /// The bundle that decided.
    pub bundle: Option<Hash>,
    /// The hash of the grant, as recorded.
    pub grant: Hash,
    /// What was approved for the subject then.
    pub approvals: Approvals,
    /// The control position that the first of them was decided at.
    pub at: ControlSeq,
    /// The first of them.
    pub entry: String,
    /// How many there are.
    pub count: u64,
}

impl Recorded {
    /// Takes in what an entry says was decided; `reference` names the entry, `approved` says what was approved of a dataset
    /// for the subject when the entry was made.
    pub fn add(
        &mut self,
        entry: &Entry,
        reference: impl Fn() -> String,
        approved: impl Fn(&Subject, DatasetId) -> Approvals,
    ) {
        let (Payload::ReadIntent(_) | Payload::Read(..), Some(actor)) = (&entry.payload, &entry.actor) else { return };
        // What a service read for others was decided for them, not for it.
        if actor.on_behalf_of.is_some() || !entry.targets.iter().any(|t| t.grant.is_some()) {
            return;
        }
        for target in entry.targets.iter().filter(|t| t.made_at != ControlSeq(0)) {
            let Some(grant) = target.grant else { continue };
            let Some(who) = self.subject(actor, &entry.reason, target.owner.as_ref()) else { return };
            let Some((subject, key)) = self.subjects.get(who) else { return };
            self.decisions += 1;
            let group = self.groups.entry((who, target.made_at, entry.reason.bundle, grant)).or_insert_with(|| Group {
                subject: Arc::clone(subject),
                key: *key,
                read: VersionRead { made_at: target.made_at, classes: target.classes.clone() },
                bundle: entry.reason.bundle,
                grant,
                approvals: approved(subject, target.dataset),
                at: entry.control_seq,
                entry: reference(),
                count: 0,
            });
            group.count += 1;
        }
    }

    /// How many decisions were taken in.
    pub fn decisions(&self) -> u64 {
        self.decisions
    }

    /// Different ones among them, those of one subject side by side.
    pub fn groups(self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        groups.sort_by(|a, b| (a.key, &a.read, a.bundle, a.grant).cmp(&(b.key, &b.read, b.bundle, b.grant)));
        groups
    }

    /// Whoever acted, or the owner with whose rights a view read for them.
    fn subject(&mut self, actor: &Actor, reason: &Reason, owner: Option<&Principal>) -> Option<usize> {
        if let Some(owner) = owner {
            let subject = subject_by(actor, reason)?.as_owner(owner);
            let key = subject_key(&subject);
            let known = self.owners.get(&key).copied();
            return Some(known.unwrap_or_else(|| {
                self.owners.insert(key, self.subjects.len());
                self.subjects.push((Arc::new(subject), key));
                self.subjects.len() - 1
            }));
        }
        let mut hasher = DefaultHasher::new();
        (&actor.principal, &actor.kind, &actor.roles, &actor.attributes).hash(&mut hasher);
        (&reason.purpose, &reason.environment, &reason.stage, &reason.model, &reason.model_version).hash(&mut hasher);
        let same = |s: &Subject| {
            s.principal == actor.principal
                && s.kind == actor.kind
                && s.roles == actor.roles
                && s.attributes == actor.attributes
                && Some(&s.purpose) == reason.purpose.as_ref()
                && s.environment == reason.environment
                && s.stage == reason.stage
                && s.model == reason.model
                && s.model_version == reason.model_version
        };
        let quick = hasher.finish();
        let alike = self.seen.get(&quick).into_iter().flatten();
        let mut alike = alike.filter(|at| self.subjects.get(**at).is_some_and(|(s, _)| same(s)));
        if let Some(at) = alike.next() {
            return Some(*at);
        }
        let subject = subject_by(actor, reason)?;
        let key = subject_key(&subject);
        self.seen.entry(quick).or_default().push(self.subjects.len());
        self.subjects.push((Arc::new(subject), key));
        Some(self.subjects.len() - 1)
    }
}

/// Whoever acted, as decisions saw them; none where an entry has no actor or purpose.
pub fn subject_of(entry: &Entry) -> Option<Subject> {
    subject_by(entry.actor.as_ref()?, &entry.reason)
}

fn subject_by(actor: &Actor, reason: &Reason) -> Option<Subject> {
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

/// Bundles to decide by, and the facts of versions under each.
#[derive(Default)]
pub struct Grounds {
    bundles: HashMap<Hash, Bundle>,
    facts: HashMap<(Hash, VersionRead), (TableFacts, Hash)>,
}

impl Grounds {
    /// Adds a bundle.
    pub fn bundle(&mut self, bundle: Bundle) {
        self.bundles.insert(bundle.hash(), bundle);
    }

    /// Adds the facts that each bundle sees in these versions; `facts` gives none for what is not published.
    pub fn versions(
        &mut self,
        versions: impl IntoIterator<Item = VersionRead>,
        facts: impl Fn(&Bundle, &VersionRead) -> Option<TableFacts>,
    ) {
        for read in versions {
            for (hash, bundle) in &self.bundles {
                let of_version = facts(bundle, &read).map(|facts| {
                    let hash = facts_hash(&facts);
                    (facts, hash)
                });
                self.facts.extend(of_version.map(|f| ((*hash, read.clone()), f)));
            }
        }
    }

    /// Whether a grant comes out again from other facts than those of its version here.
    pub fn derives(&self, group: &Group, facts: impl Fn(&Bundle) -> Option<TableFacts>) -> bool {
        let Some(by) = group.bundle.and_then(|hash| self.bundles.get(&hash)) else { return false };
        facts(by).is_some_and(|facts| {
            let facts = facts.with_approvals(&group.approvals);
            decide_keyed(by, &group.subject, group.key, &facts, facts_hash(&facts)).hash == group.grant
        })
    }

    /// Makes every decision again: by its own bundle, and by two others to compare. Decisions are shared out among
    /// `threads`.
    pub fn replay(&self, groups: &[Group], old: Hash, new: Hash, threads: usize) -> Replay {
        let share = groups.len().div_ceil(threads.max(1)).max(1);
        let shares: Vec<(usize, &[Group])> = groups.chunks(share).enumerate().collect();
        let one = |(i, groups): (usize, &[Group])| self.replay_some(groups, i * share, old, new);
        let parts: Vec<Replay> = match shares.as_slice() {
            [] => vec![],
            [only] => vec![one(*only)],
            many => std::thread::scope(|scope| {
                let handles: Vec<_> = many.iter().map(|share| scope.spawn(|| one(*share))).collect();
                // A share whose thread died is done again here.
                handles.into_iter().zip(many).map(|(h, share)| h.join().unwrap_or_else(|_| one(*share))).collect()
            }),
        };
        let mut replay = Replay::default();
        for part in parts {
            replay.underived.extend(part.underived);
            for (change, reads) in part.changes {
                *replay.changes.entry(change).or_default() += reads;
            }
        }
        replay
    }

    fn replay_some(&self, groups: &[Group], from: usize, old: Hash, new: Hash) -> Replay {
        let mut replay = Replay::default();
        let mut made: HashMap<(Hash, SubjectKey, Hash), Arc<Grant>> = HashMap::new();
        let mut decided = |bundle: Hash, group: &Group| -> Option<Arc<Grant>> {
            let (facts, hash) = self.facts.get(&(bundle, group.read.clone()))?;
            let by = self.bundles.get(&bundle)?;
            if !group.approvals.is_empty() {
                let facts = facts.clone().with_approvals(&group.approvals);
                let hash = facts_hash(&facts);
                return Some(Arc::new(decide_keyed(by, &group.subject, group.key, &facts, hash)));
            }
            let grant = made
                .entry((bundle, group.key, *hash))
                .or_insert_with(|| Arc::new(decide_keyed(by, &group.subject, group.key, facts, *hash)));
            Some(Arc::clone(grant))
        };
        for (i, group) in groups.iter().enumerate() {
            let own = group.bundle.and_then(|bundle| decided(bundle, group));
            if own.is_none_or(|grant| grant.hash != group.grant) {
                replay.underived.push(from + i);
            }
            if let (Some(before), Some(after)) = (decided(old, group), decided(new, group))
                && let Some((facts, _)) = self.facts.get(&(new, group.read.clone()))
                && before != after
            {
                for change in differences(&facts.name, &group.subject, &before, &after) {
                    *replay.changes.entry(change).or_default() += group.count;
                }
            }
        }
        replay
    }
}

/// What a replay found.
#[derive(Debug, Default)]
pub struct Replay {
    /// Groups, by place, whose grant hash did not come out again from these facts.
    pub underived: Vec<usize>,
    /// Who would gain or lose what, with how many recorded reads; `reads` of a change itself is 0.
    pub changes: BTreeMap<Change, u64>,
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
            Ordering::Less => Direction::Gains,
            Ordering::Greater => Direction::Loses,
            Ordering::Equal if a.mask == b.mask => continue,
            Ordering::Equal => Direction::Differs,
        };
        let word = |c: &ColumnGrant| match &c.mask {
            Some(mask) => format!("{} {}", c.rung, mask::describe(mask)),
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
