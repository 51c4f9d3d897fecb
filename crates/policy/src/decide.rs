//! The decision: what a subject gets of a table.
//!
//! Per column Cedar is asked which permits and which forbids hold; the rung is the highest that a permit gives and no
//! forbid takes. Permits unite in Cedar, so a column of several classes is asked as if it were of each most specific
//! class alone, and as it is; the lowest answer counts. So a permit for one class never opens a column that is also of
//! another, while a permit that names the column or its table, and no class, holds in every one of these views. Then the
//! rung is lowered to one that the column's type and mask parameters support.
//!
//! INVARIANT: any error in Cedar, any row set that does not fit, and nothing at all is granted. Cedar itself would skip
//! the policy, a forbid too.
//!
//! Pure and total: no clock, no I/O, no panic.

use crate::{
    bundle::{Bundle, Indexed, RowSet},
    cedar::{self, TABLE_ACTIONS},
    digest::Digest,
    enforce,
    grant::{ColumnFacts, ColumnGrant, Grant, GroupFloor, Mask, RowGrant, RowPredicate, TableFacts},
    rows::Bound,
};
use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    PolicySet, Request, ResourceConstraint, RestrictedExpression,
};
use custody_model::{Class, ClassSet, DatasetName, Hash, PolicyId, Rung, Subject, SubjectKey};
use datafusion_common::ScalarValue;
use datafusion_expr::Expr;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    str::FromStr,
};

/// The id under which a dataset's PURPOSE clause denies.
const PURPOSES: &str = "builtin.purposes";

/// What the subject gets of the table. The same inputs give the same grant, hash included.
pub fn decide(bundle: &Bundle, subject: &Subject, facts: &TableFacts) -> Grant {
    decide_keyed(bundle, subject, subject_key(subject), facts, facts_hash(facts))
}

/// `decide`, where the caller has hashed subject and facts already.
pub(crate) fn decide_keyed(
    bundle: &Bundle,
    subject: &Subject,
    key: SubjectKey,
    facts: &TableFacts,
    facts_hash: Hash,
) -> Grant {
    let mut grant = match attempt(bundle, subject, facts) {
        Ok(grant) => grant,
        Err(failed) => nothing(bundle, facts, failed.0),
    };
    grant.hash = grant_hash(bundle, key, facts_hash, &grant);
    grant
}

/// SHA3-256 over all that a decision may look at in a subject: principal, kind, roles, attributes, purpose, environment,
/// stage, model and its version. Not the session, the token or the server's region.
pub fn subject_key(subject: &Subject) -> SubjectKey {
    let mut hash = Digest::new("custody/subject/v1");
    hash.text(&subject.principal.0).text(&subject.kind).texts(subject.roles.iter().map(String::as_str));
    hash.number(subject.attributes.len() as u64);
    for (name, values) in &subject.attributes {
        hash.text(name).texts(values.iter().map(String::as_str));
    }
    hash.text(&subject.purpose.0).text(&subject.environment).text(&subject.stage);
    hash.optional(subject.model.as_deref());
    hash.optional(subject.model_version.map(|v| v.to_string()).as_deref());
    SubjectKey(hash.finish())
}

/// SHA3-256 over a table's facts.
pub fn facts_hash(facts: &TableFacts) -> Hash {
    let mut hash = Digest::new("custody/facts/v2");
    hash.bytes(facts.dataset.0.as_bytes()).text(&facts.name.to_string()).text(&facts.owner.0);
    hash.texts(facts.purposes.iter().map(|p| p.0.as_str()));
    hash.number(facts.columns.len() as u64);
    for column in &facts.columns {
        hash.number(u64::from(column.field.0)).text(&column.name).text(&column.data_type.to_string());
        hash.texts(column.classes.iter().map(|c| c.0.as_str()));
        hash.number(column.approved.len() as u64);
        for (rung, until) in &column.approved {
            hash.text(rung.word()).bytes(&until.0.to_le_bytes());
        }
    }
    hash.number(facts.token_keys.len() as u64);
    for (key, version) in &facts.token_keys {
        hash.text(key).bytes(version.as_bytes());
    }
    hash.finish()
}

/// Policies that could not be evaluated, row sets that do not fit: never empty.
struct Failed(Vec<PolicyId>);

type Fallible<T> = Result<T, Failed>;

fn attempt(bundle: &Bundle, subject: &Subject, facts: &TableFacts) -> Fallible<Grant> {
    let mut grant = bare(bundle, facts);
    let table = Resource::new("Table", &facts.name.to_string())?;
    let asker = Asker::new(bundle, subject, facts, &table)?;
    let on_table = |action: &'static str| asker.ask_table_action(&table, action);

    let publish = on_table("publish")?;
    grant.publish = publish.allowed;
    let mut policies: BTreeSet<PolicyId> = publish.reasons.into_iter().collect();
    if enforce!("decide.purpose", !facts.purposes.is_empty() && !facts.purposes.contains(&subject.purpose)) {
        policies.insert(PURPOSES.into());
        grant.policies = policies.into_iter().collect();
        grant.columns = facts.columns.iter().map(no_column).collect();
        return Ok(grant);
    }

    let declassify = on_table("declassify")?;
    let explain_raw = on_table("explain_raw")?;
    grant.declassify = declassify.allowed;
    grant.explain_raw = !enforce!("decide.explain_raw", !explain_raw.allowed);
    policies.extend(declassify.reasons.into_iter().chain(explain_raw.reasons));

    grant.floor = floor(bundle, facts);
    let has_floor = grant.floor.is_some();
    grant.columns = columns(&asker, &table, has_floor)?;
    let (rows, why) = rows(&asker, &table)?;
    grant.rows = rows;
    policies.extend(why);
    grant.policies = policies.into_iter().collect();
    grant.valid_until = facts.columns.iter().flat_map(|c| c.approved.values().copied()).min();
    Ok(grant)
}

/// The grant that grants nothing.
fn nothing(bundle: &Bundle, facts: &TableFacts, failed: Vec<PolicyId>) -> Grant {
    Grant { columns: facts.columns.iter().map(no_column).collect(), failed, ..bare(bundle, facts) }
}

fn no_column(column: &ColumnFacts) -> ColumnGrant {
    ColumnGrant { field: column.field, name: column.name.clone(), rung: Rung::None, mask: None, policies: vec![] }
}

/// The same, with its columns still to come.
fn bare(bundle: &Bundle, facts: &TableFacts) -> Grant {
    Grant {
        columns: vec![],
        rows: RowGrant::Nothing,
        floor: None,
        durability: bundle.durability(&facts.name),
        explain_raw: false,
        publish: false,
        declassify: false,
        valid_until: None,
        policies: vec![],
        failed: vec![],
        hash: Hash::default(),
    }
}

/// The floor, where the version read has the column that it counts.
fn floor(bundle: &Bundle, facts: &TableFacts) -> Option<GroupFloor> {
    let (least, counting) = bundle.table(&facts.name)?.floor.as_ref()?;
    let named =
        |c: &&ColumnFacts| bundle.policy_name(&facts.name, c.field, &c.name).is_some_and(|name| name == counting);
    let column = facts.columns.iter().find(named)?;
    Some(GroupFloor { least: *least, counting: column.field })
}

/// Columns alike in all that a policy can look at: they get one decision.
struct Alike {
    /// The column's id, where some policy names it.
    named: Option<String>,
    /// Closed under UNDER.
    classes: ClassSet,
    approved: Vec<Rung>,
}

/// What Cedar says of a column as one of its views shows it.
struct Satisfied {
    /// Permits whose condition holds, by id, with the highest rung each gives.
    permits: Vec<(PolicyId, Rung)>,
    /// Forbids whose condition holds, by id, with the lowest rung each takes.
    forbids: Vec<(PolicyId, Rung)>,
}

impl Satisfied {
    /// Permits are closed downwards and forbids upwards, so the allowed rungs are those up to the highest permit and
    /// below the lowest forbid.
    fn rung(&self) -> Rung {
        let highest = self.permits.iter().map(|(_, rung)| *rung).max();
        let lowest = self.forbids.iter().map(|(_, rung)| *rung).min();
        let allowed = |r: &Rung| highest.is_some_and(|h| *r <= h) && lowest.is_none_or(|l| *r < l);
        cedar::RUNGS.into_iter().rev().find(allowed).unwrap_or(Rung::None)
    }
}

fn columns(asker: &Asker<'_>, table: &Resource, has_floor: bool) -> Fallible<Vec<ColumnGrant>> {
    let (bundle, facts) = (asker.bundle, asker.facts);
    let of_table = bundle.table(&facts.name);
    let id_of_table = facts.name.to_string();
    let named_columns = bundle.named_columns.get(&id_of_table);

    // Which columns are alike, told by what they are made of: closing sets of classes is done once each.
    type Parts<'a> = (Option<&'a str>, &'a ClassSet, Option<&'a ClassSet>, Vec<Rung>);
    let mut groups: HashMap<Parts<'_>, usize> = HashMap::new();
    let mut alike: Vec<Alike> = vec![];
    let mut of_column = Vec::with_capacity(facts.columns.len());
    for column in &facts.columns {
        // A name that means another field in the bundle is not this column's.
        let name = match of_table {
            Some(policy) => policy.policy_name(column.field, &column.name),
            None => Some(column.name.as_str()),
        };
        let tags = name.zip(of_table).and_then(|(name, policy)| policy.tags(name));
        let tags = tags.filter(|_| enforce!("decide.tags", true));
        let named = name.filter(|name| named_columns.is_some_and(|columns| columns.contains(*name)));
        let parts = (named, &column.classes, tags, column.approved.keys().copied().collect::<Vec<_>>());
        let group = match groups.get(&parts) {
            Some(group) => *group,
            None => {
                let mut classes = bundle.close(&column.classes);
                classes.extend(tags.map(|tags| bundle.close(tags)).unwrap_or_default());
                let named = named.map(|name| format!("{id_of_table}.{name}"));
                alike.push(Alike { named, classes, approved: parts.3.clone() });
                groups.insert(parts, alike.len() - 1);
                alike.len() - 1
            }
        };
        of_column.push((name, group));
    }

    let answers = answers(asker, table, &alike)?;
    let column = |(column, (name, group)): (&ColumnFacts, (Option<&str>, usize))| {
        let (rung, policies) = answers.get(group).cloned().unwrap_or((Rung::None, vec![]));
        let classes = alike.get(group).map(|a| &a.classes);
        let (rung, mask) = supported(bundle, facts, name, classes, column, rung, has_floor);
        ColumnGrant { field: column.field, name: column.name.clone(), rung, mask, policies }
    };
    Ok(facts.columns.iter().zip(of_column).map(column).collect())
}

/// For each group of columns the highest rung that policy permits, its permits, then the forbids above it: the lowest
/// over the column as it is and as each of its classes alone.
fn answers(asker: &Asker<'_>, table: &Resource, alike: &[Alike]) -> Fallible<Vec<(Rung, Vec<PolicyId>)>> {
    // Every view of every group, each once.
    type View<'a> = (Option<&'a str>, ClassSet, &'a [Rung]);
    let mut known: HashMap<View<'_>, usize> = HashMap::new();
    let mut resources: Vec<(Resource, bool)> = vec![];
    let mut views_of: Vec<Vec<usize>> = vec![];
    for (i, group) in alike.iter().enumerate() {
        let specific = asker.bundle.most_specific(&group.classes);
        let mut sets = vec![group.classes.clone()];
        if specific.len() > 1 && enforce!("decide.lowest", true) {
            sets.extend(specific.into_iter().map(|class| asker.bundle.classes_under(class)));
        }
        let mut views = vec![];
        for set in sets {
            let view = (group.named.as_deref(), set, group.approved.as_slice());
            let at = match known.get(&view) {
                Some(at) => *at,
                None => {
                    // No policy can tell columns apart that none names, so their ids may be anything.
                    let id = group.named.clone().unwrap_or_else(|| format!("{}#{i}.{}", asker.facts.name, views.len()));
                    resources.push((Resource::column(&id, table, &view.1, view.2)?, group.named.is_some()));
                    known.insert(view, resources.len() - 1);
                    resources.len() - 1
                }
            };
            views.push(at);
        }
        views_of.push(views);
    }
    let unnamed = resources.iter().filter(|(_, named)| !named).map(|(resource, _)| resource.entity());
    let unnamed = unnamed.collect::<Fallible<Vec<_>>>()?;
    let entities = asker.entities.clone().add_entities(unnamed, None).map_err(internal)?;
    let mut steady = Known::default();
    let satisfied = resources
        .iter()
        .map(|(resource, named)| {
            if *named {
                let entities = asker.entities.clone().add_entities([resource.entity()?], None).map_err(internal)?;
                asker.satisfied(resource, &entities, &mut steady)
            } else {
                asker.satisfied(resource, &entities, &mut steady)
            }
        })
        .collect::<Fallible<Vec<_>>>()?;
    Ok(views_of
        .into_iter()
        .map(|views| {
            let mut lowest: Option<(Rung, &Satisfied)> = None;
            let mut forbids: BTreeSet<&PolicyId> = BTreeSet::new();
            for found in views.into_iter().filter_map(|at| satisfied.get(at)) {
                let rung = found.rung();
                if rung < Rung::Raw {
                    forbids.extend(found.forbids.iter().map(|(id, _)| id));
                }
                if lowest.is_none_or(|(other, _)| rung < other) {
                    lowest = Some((rung, found));
                }
            }
            let Some((rung, found)) = lowest else { return (Rung::None, vec![]) };
            let gave = found.permits.iter().filter(|(_, up_to)| rung > Rung::None && *up_to >= rung).map(|(id, _)| id);
            (rung, gave.chain(forbids).cloned().collect())
        })
        .collect())
}

/// Policies that are the same question for every column, by place: whether their conditions hold for the subject.
#[derive(Default)]
struct Known(HashMap<usize, bool>);

/// Lowers a rung until type and parameters support it.
fn supported(
    bundle: &Bundle,
    facts: &TableFacts,
    name: Option<&str>,
    classes: Option<&ClassSet>,
    column: &ColumnFacts,
    permitted: Rung,
    has_floor: bool,
) -> (Rung, Option<Mask>) {
    for rung in Rung::ALL.into_iter().rev().filter(|r| *r <= permitted) {
        match rung {
            Rung::None | Rung::Raw => return (rung, None),
            Rung::Aggregate => {
                if !enforce!("decide.supported", !has_floor) {
                    return (rung, None);
                }
            }
            Rung::Redact | Rung::Token | Rung::Partial => {
                // A column without a name in the bundle has its classes' parameters only.
                let name = name.unwrap_or_default();
                let mask = classes.and_then(|c| bundle.mask(&facts.name, name, c, rung, &column.data_type));
                if let Some(mask) = mask {
                    return (rung, Some(mask));
                }
            }
        }
    }
    (Rung::None, None)
}

/// OR of the permitted row sets AND every guard that is not skipped.
fn rows(asker: &Asker<'_>, table: &Resource) -> Fallible<(RowGrant, Vec<PolicyId>)> {
    let Some(policy) = asker.bundle.table(&asker.facts.name) else { return Ok((RowGrant::All, vec![])) };
    let mut why = vec![];
    let mut named = |kind: &str, action: &'static str, set: &RowSet| -> Fallible<bool> {
        let resource = Resource::below(kind, &format!("{}/{}", asker.facts.name, set.name), table)?;
        let answer = asker.ask_table_action(&resource, action)?;
        why.extend(answer.reasons);
        Ok(answer.allowed)
    };
    let mut sets = vec![];
    let mut any = false;
    let mut every = false;
    for set in &policy.row_sets {
        if enforce!("decide.row_sets", !named("RowSet", "see_rows", set)?) {
            continue;
        }
        any = true;
        let expr = asker.compile(set)?;
        every |= is_true(&expr);
        sets.push((set.name.clone(), expr));
    }
    if !policy.row_sets.is_empty() && !any {
        return Ok((RowGrant::Nothing, why));
    }
    if every {
        // A row set that every row is in leaves nothing for the others to add.
        sets.clear();
    }
    let mut guards = vec![];
    for guard in &policy.guards {
        if enforce!("decide.guards", !named("Guard", "skip_guard", guard)?) {
            let expr = asker.compile(guard)?;
            if !is_true(&expr) {
                guards.push((guard.name.clone(), expr));
            }
        }
    }
    let all = sets.is_empty() && guards.is_empty();
    Ok((if all { RowGrant::All } else { RowGrant::Where(RowPredicate { sets, guards }) }, why))
}

fn is_true(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(ScalarValue::Boolean(Some(true)), _))
}

/// What Cedar says to one action on a row set, a guard or the table itself, and by which policies; none where it fails.
pub(crate) fn ask(
    bundle: &Bundle,
    subject: &Subject,
    facts: &TableFacts,
    kind: &str,
    id: &str,
    action: &'static str,
) -> Option<(bool, Vec<PolicyId>)> {
    let table = Resource::new("Table", &facts.name.to_string()).ok()?;
    let asker = Asker::new(bundle, subject, facts, &table).ok()?;
    let below = if kind == "Table" { None } else { Some(Resource::below(kind, id, &table).ok()?) };
    let answer = asker.ask_table_action(below.as_ref().unwrap_or(&table), action).ok()?;
    Some((answer.allowed, answer.reasons))
}

/// An entity that is asked about, with all that it is in.
struct Resource {
    uid: EntityUid,
    ancestors: HashSet<EntityUid>,
    approved: Option<BTreeSet<String>>,
}

impl Resource {
    fn new(kind: &str, id: &str) -> Fallible<Self> {
        Ok(Self { uid: uid(kind, id)?, ancestors: HashSet::new(), approved: None })
    }

    fn below(kind: &str, id: &str, table: &Self) -> Fallible<Self> {
        Ok(Self { ancestors: HashSet::from([table.uid.clone()]), ..Self::new(kind, id)? })
    }

    fn column(id: &str, table: &Self, classes: &ClassSet, approved: &[Rung]) -> Fallible<Self> {
        let mut resource = Self::below("Column", id, table)?;
        for Class(class) in classes {
            resource.ancestors.insert(uid("Class", class)?);
        }
        resource.approved = Some(approved.iter().map(|r| r.word().to_string()).collect());
        Ok(resource)
    }

    fn entity(&self) -> Fallible<Entity> {
        let approved = self.approved.as_ref().map(|words| ("approved".to_string(), texts(words)));
        Entity::new(self.uid.clone(), approved.into_iter().collect(), self.ancestors.clone()).map_err(internal)
    }
}

fn texts<'a>(words: impl IntoIterator<Item = &'a String>) -> RestrictedExpression {
    RestrictedExpression::new_set(words.into_iter().map(|w| RestrictedExpression::new_string(w.clone())))
}

fn uid(kind: &str, id: &str) -> Fallible<EntityUid> {
    let kind = EntityTypeName::from_str(kind).map_err(internal)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

/// Cedar refused what we built ourselves: nothing is granted, and the failure says so.
fn internal(error: impl std::fmt::Display) -> Failed {
    Failed(vec![format!("builtin.cedar: {error}")])
}

/// Asks for one subject and table. Holds what all its questions share.
struct Asker<'a> {
    bundle: &'a Bundle,
    subject: &'a Subject,
    facts: &'a TableFacts,
    /// Policies whose head can hold for the subject, whatever the resource, by place in the bundle.
    anywhere: Vec<usize>,
    /// The others, by the one thing that the resource must be or be in.
    below: HashMap<&'a EntityUid, Vec<usize>>,
    principal: EntityUid,
    context: Context,
    /// Actions, principal and table.
    entities: Entities,
}

#[derive(Default)]
struct Answer {
    allowed: bool,
    /// The permits of an Allow, the forbids of a Deny, sorted.
    reasons: Vec<PolicyId>,
}

impl<'a> Asker<'a> {
    fn new(bundle: &'a Bundle, subject: &'a Subject, facts: &'a TableFacts, table: &Resource) -> Fallible<Self> {
        let principal = uid("Principal", &subject.principal.0)?;
        let roles = subject.roles.iter().map(|r| uid("Role", r)).collect::<Fallible<HashSet<_>>>()?;
        let by_principal = std::iter::once(&principal).chain(&roles).filter_map(|uid| bundle.by_principal.get(uid));
        let mut anywhere = vec![];
        let mut below: HashMap<&EntityUid, Vec<usize>> = HashMap::new();
        for at in by_principal.flatten().chain(&bundle.any_principal) {
            match bundle.policies.get(*at).map(|p| &p.resource) {
                Some(ResourceConstraint::Any | ResourceConstraint::Is(_)) => anywhere.push(*at),
                Some(ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid)) => {
                    below.entry(uid).or_default().push(*at);
                }
                None => {}
            }
        }
        let kind = ("kind".to_string(), RestrictedExpression::new_string(subject.kind.clone()));
        let tags = subject.attributes.iter().map(|(name, values)| (name.clone(), texts(values)));
        let principal_entity = Entity::new_with_tags(principal.clone(), [kind], roles, tags).map_err(internal)?;
        let attributes = HashMap::from([
            ("owner".to_string(), RestrictedExpression::new_string(facts.owner.0.clone())),
            ("purposes".to_string(), texts(facts.purposes.iter().map(|p| &p.0))),
        ]);
        let table_entity = Entity::new(table.uid.clone(), attributes, HashSet::new()).map_err(internal)?;
        let entities = bundle.actions.clone().add_entities([principal_entity, table_entity], None).map_err(internal)?;
        let text = |s: &str| RestrictedExpression::new_string(s.to_string());
        let mut context: BTreeMap<String, RestrictedExpression> = BTreeMap::from([
            ("purpose".into(), text(&subject.purpose.0)),
            ("environment".into(), text(&subject.environment)),
            ("stage".into(), text(&subject.stage)),
        ]);
        context.extend(subject.model.as_ref().map(|m| ("model".into(), text(m))));
        context.extend(subject.model_version.map(|v| ("model_version".into(), text(&v.to_string()))));
        let context = Context::from_pairs(context).map_err(internal)?;
        Ok(Self { bundle, subject, facts, anywhere, below, principal, context, entities })
    }

    /// Policies whose head can hold for the resource, by place: others would be neither reasons nor errors.
    fn about(&self, resource: &Resource, acts: impl Fn(&Indexed) -> bool) -> Vec<usize> {
        let named = std::iter::once(&resource.uid).chain(&resource.ancestors).filter_map(|uid| self.below.get(uid));
        let fits = |at: &&usize| {
            self.bundle.policies.get(**at).is_some_and(|policy| {
                let is = match &policy.resource {
                    ResourceConstraint::Any | ResourceConstraint::In(_) => true,
                    ResourceConstraint::Eq(uid) => *uid == resource.uid,
                    ResourceConstraint::Is(kind) | ResourceConstraint::IsIn(kind, _) => {
                        kind == resource.uid.type_name()
                    }
                };
                is && acts(policy)
            })
        };
        let mut found: Vec<usize> = named.flatten().chain(&self.anywhere).filter(fits).copied().collect();
        found.sort_unstable();
        found
    }

    fn set(&self, policies: &[usize]) -> Fallible<PolicySet> {
        let policies = policies.iter().filter_map(|at| self.bundle.policies.get(*at)).map(|p| p.policy.clone());
        PolicySet::from_policies(policies).map_err(internal)
    }

    /// The policies on a column whose conditions hold. No condition looks at the action and a head names rungs only by
    /// groups that are closed, so one question answers for all rungs: permits are asked for the lowest, which each of
    /// them gives, and forbids for the highest, which each of them takes. Of policies whose conditions are the same
    /// question for every column Cedar is asked once.
    fn satisfied(&self, resource: &Resource, entities: &Entities, known: &mut Known) -> Fallible<Satisfied> {
        let mut all = [vec![], vec![]];
        for (permit, action) in [(true, Rung::Aggregate), (false, Rung::Raw)] {
            let about = self.about(resource, |p| p.columns && p.permit == permit);
            let asked: Vec<usize> = about.iter().copied().filter(|at| !known.0.contains_key(at)).collect();
            let mut held = HashSet::new();
            if !asked.is_empty() {
                held = self.ask(resource, action.word(), &self.set(&asked)?, entities)?.reasons.into_iter().collect();
            }
            let mut found: Vec<(PolicyId, Rung)> = vec![];
            for at in about {
                let Some(policy) = self.bundle.policies.get(at) else { continue };
                let id: &str = policy.policy.id().as_ref();
                let holds = match known.0.get(&at) {
                    Some(holds) => *holds,
                    None => {
                        let holds = held.contains(id);
                        if policy.steady {
                            known.0.insert(at, holds);
                        }
                        holds
                    }
                };
                if holds {
                    found.push((id.to_string(), policy.rung));
                }
            }
            found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            all[usize::from(!permit)] = found;
        }
        let [permits, forbids] = all;
        Ok(Satisfied { permits, forbids })
    }

    /// What Cedar says to one action on one resource, by these policies.
    fn ask(&self, resource: &Resource, action: &str, set: &PolicySet, entities: &Entities) -> Fallible<Answer> {
        let action = uid("Action", action)?;
        let request = Request::new(self.principal.clone(), action, resource.uid.clone(), self.context.clone(), None)
            .map_err(internal)?;
        let response = Authorizer::new().is_authorized(&request, set, entities);
        let failed: Vec<PolicyId> = response
            .diagnostics()
            .errors()
            .map(|AuthorizationError::PolicyEvaluationError(e)| e.policy_id().to_string())
            .collect();
        if enforce!("decide.error", !failed.is_empty()) {
            return Err(Failed(failed));
        }
        let mut reasons: Vec<PolicyId> = response.diagnostics().reason().map(ToString::to_string).collect();
        reasons.sort_unstable();
        Ok(Answer { allowed: response.decision() == Decision::Allow, reasons })
    }

    fn ask_table_action(&self, resource: &Resource, action: &'static str) -> Fallible<Answer> {
        debug_assert!(TABLE_ACTIONS.contains(&action));
        let policies = self.about(resource, |p| p.actions.contains(action));
        if policies.is_empty() {
            return Ok(Answer::default());
        }
        let mut entities = self.entities.clone();
        if entities.get(&resource.uid).is_none() {
            entities = entities.add_entities([resource.entity()?], None).map_err(internal)?;
        }
        self.ask(resource, action, &self.set(&policies)?, &entities)
    }

    /// A row set over the version read. A column that is not in it, or not of a comparable type, denies the table.
    fn compile(&self, set: &RowSet) -> Fallible<Expr> {
        let columns = |column: &str| {
            let named = |c: &&ColumnFacts| {
                self.bundle.policy_name(&self.facts.name, c.field, &c.name).is_some_and(|name| name == column)
            };
            let found = self.facts.columns.iter().find(named)?;
            Some(Bound { name: found.name.clone(), data_type: found.data_type.clone() })
        };
        let entitlements = |table: &DatasetName, column: &str| self.bundle.entitlement(table, column);
        match set.expr.compile(&columns, &entitlements, Some(self.subject)) {
            Ok(expr) => Ok(expr),
            Err(_) if enforce!("decide.row_binding", true) => Err(Failed(vec![set.name.clone()])),
            Err(_) => Ok(Expr::Literal(ScalarValue::Boolean(Some(true)), None)),
        }
    }
}

fn grant_hash(bundle: &Bundle, key: SubjectKey, facts: Hash, grant: &Grant) -> Hash {
    let mut hash = Digest::new("custody/grant/v1");
    hash.bytes(bundle.hash().as_bytes()).bytes(key.0.as_bytes()).bytes(facts.as_bytes());
    hash.number(grant.columns.len() as u64);
    for column in &grant.columns {
        hash.number(u64::from(column.field.0)).text(column.rung.word());
        mask_parts(&mut hash, column.mask.as_ref());
    }
    match &grant.rows {
        RowGrant::All => hash.text("all"),
        RowGrant::Nothing => hash.text("nothing"),
        RowGrant::Where(p) => {
            hash.text("where").texts(p.sets.iter().map(|(id, _)| id.as_str()));
            hash.texts(p.guards.iter().map(|(id, _)| id.as_str()))
        }
    };
    let floor = grant.floor.as_ref().map(|f| (f.least, u64::from(f.counting.0))).unwrap_or_default();
    hash.number(floor.0).number(floor.1).number(grant.durability as u64);
    hash.flag(grant.explain_raw).flag(grant.publish).flag(grant.declassify);
    hash.optional(grant.valid_until.map(|until| until.0.to_string()).as_deref());
    hash.texts(grant.failed.iter().map(String::as_str));
    hash.finish()
}

fn mask_parts(hash: &mut Digest, mask: Option<&Mask>) {
    match mask {
        None => hash.text("none"),
        Some(Mask::Null) => hash.text("null"),
        Some(Mask::Const(value)) => hash.text("const").text(&value.data_type().to_string()).text(&value.to_string()),
        Some(Mask::Token { key, domain }) => hash.text("token").text(key).text(domain),
        Some(Mask::First(n)) => hash.text("first").number(u64::from(*n)),
        Some(Mask::Last(n)) => hash.text("last").number(u64::from(*n)),
        Some(Mask::Year) => hash.text("year"),
        Some(Mask::Month) => hash.text("month"),
        Some(Mask::Bucket(width)) => hash.text("bucket").number(*width),
    };
}
