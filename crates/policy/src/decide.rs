//! The decision: what a subject gets of a table.
//!
//! Per column Cedar is asked rung by rung from `raw` downwards; the first Allow is the rung. Permits unite in Cedar, so a
//! column of several classes is asked as if it were of each most specific class alone, and as it is; the lowest answer
//! counts. So a permit for one class never opens a column that is also of another, while a permit that names the
//! column or its table, and no class, holds in every one of these views. Then the rung is lowered to one that the
//! column's type and mask parameters support.
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
    AuthorizationError, Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy,
    PolicySet, PrincipalConstraint, Request, ResourceConstraint, RestrictedExpression,
};
use custody_model::{Class, ClassSet, Hash, PolicyId, Rung, Subject, SubjectKey};
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
    let mut grant = nothing(bundle, facts, vec![]);
    let table = Resource::new("Table", &facts.name.to_string())?;
    let asker = Asker::new(bundle, subject, facts, &table)?;
    let on_table = |action: &'static str| asker.ask_table_action(&table, action);

    let publish = on_table("publish")?;
    grant.publish = publish.allowed;
    let mut policies: BTreeSet<PolicyId> = publish.reasons.into_iter().collect();
    if enforce!("decide.purpose", !facts.purposes.is_empty() && !facts.purposes.contains(&subject.purpose)) {
        policies.insert(PURPOSES.into());
        grant.policies = policies.into_iter().collect();
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
    let column = |c: &ColumnFacts| ColumnGrant {
        field: c.field,
        name: c.name.clone(),
        rung: Rung::None,
        mask: None,
        policies: vec![],
    };
    Grant {
        columns: facts.columns.iter().map(column).collect(),
        rows: RowGrant::Nothing,
        floor: None,
        durability: bundle.durability(&facts.name),
        explain_raw: false,
        publish: false,
        declassify: false,
        valid_until: None,
        policies: vec![],
        failed,
        hash: Hash::default(),
    }
}

/// The floor, where the version read has the column that it counts.
fn floor(bundle: &Bundle, facts: &TableFacts) -> Option<GroupFloor> {
    let (least, counting) = bundle.table(&facts.name)?.floor.as_ref()?;
    let named =
        |c: &&ColumnFacts| bundle.policy_name(&facts.name, c.field, &c.name).is_some_and(|name| name == *counting);
    let column = facts.columns.iter().find(named)?;
    Some(GroupFloor { least: *least, counting: column.field })
}

/// Columns alike in all that a policy can look at get one decision.
#[derive(PartialEq, Eq, Hash)]
struct Alike {
    named: Option<String>,
    classes: ClassSet,
    approved: Vec<Rung>,
}

fn columns(asker: &Asker<'_>, table: &Resource, has_floor: bool) -> Fallible<Vec<ColumnGrant>> {
    let (bundle, facts) = (asker.bundle, asker.facts);
    let mut decided: HashMap<Alike, (Rung, Vec<PolicyId>)> = HashMap::new();
    let mut grants = vec![];
    for column in &facts.columns {
        let name = bundle.policy_name(&facts.name, column.field, &column.name);
        let mut classes = bundle.close(&column.classes);
        if let Some(name) = name.as_ref().filter(|_| enforce!("decide.tags", true)) {
            classes.extend(bundle.tags_of(&facts.name, name));
        }
        // A name that means another field in the bundle is not this column's.
        let id = match &name {
            Some(name) => format!("{}.{name}", facts.name),
            None => format!("{}.{}#{}", facts.name, column.name, column.field),
        };
        let alike = Alike {
            named: bundle.named_columns.contains(&id).then(|| id.clone()),
            classes,
            approved: column.approved.keys().copied().collect(),
        };
        let (rung, policies) = match decided.get(&alike) {
            Some(found) => found.clone(),
            None => {
                let answer = permitted(asker, table, &id, &alike)?;
                decided.insert(
                    Alike {
                        classes: alike.classes.clone(),
                        named: alike.named.clone(),
                        approved: alike.approved.clone(),
                    },
                    answer.clone(),
                );
                answer
            }
        };
        let (rung, mask) = supported(bundle, facts, name.as_deref(), &alike.classes, column, rung, has_floor);
        grants.push(ColumnGrant { field: column.field, name: column.name.clone(), rung, mask, policies });
    }
    Ok(grants)
}

/// The highest rung that policy permits, its permits, then the forbids above it: the lowest over the column as it is and as each of its classes alone.
fn permitted(asker: &Asker<'_>, table: &Resource, id: &str, alike: &Alike) -> Fallible<(Rung, Vec<PolicyId>)> {
    let specific = asker.bundle.most_specific(&alike.classes);
    let mut views = vec![alike.classes.clone()];
    if specific.len() > 1 && enforce!("decide.lowest", true) {
        views.extend(specific.into_iter().map(|class| asker.bundle.classes_under(class)));
    }
    let mut lowest: Option<(Rung, Vec<PolicyId>)> = None;
    let mut forbids = BTreeSet::new();
    for classes in views {
        let resource = Resource::column(id, table, &classes, &alike.approved)?;
        let question = asker.question(&resource, |p| p.columns)?;
        let mut found = (Rung::None, vec![]);
        for candidate in cedar::RUNGS.into_iter().rev() {
            let answer = question.ask(candidate.word())?;
            if answer.allowed {
                found = (candidate, answer.reasons);
                break;
            }
            forbids.extend(answer.reasons);
        }
        if lowest.as_ref().is_none_or(|(rung, _)| found.0 < *rung) {
            lowest = Some(found);
        }
    }
    let (rung, mut policies) = lowest.unwrap_or((Rung::None, vec![]));
    policies.extend(forbids);
    Ok((rung, policies))
}

/// Lowers a rung until type and parameters support it.
fn supported(
    bundle: &Bundle,
    facts: &TableFacts,
    name: Option<&str>,
    classes: &ClassSet,
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
                if let Some(mask) = bundle.mask(&facts.name, name, classes, rung, &column.data_type) {
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
    /// Policies whose head can hold for the subject.
    policies: Vec<&'a Indexed>,
    principal: EntityUid,
    context: Context,
    /// Actions, principal and table.
    entities: Entities,
}

/// A resource with the policies whose head can hold for it.
struct Question<'a> {
    asker: &'a Asker<'a>,
    resource: &'a Resource,
    set: Option<(PolicySet, Entities)>,
}

struct Answer {
    allowed: bool,
    /// The permits of an Allow, the forbids of a Deny, sorted.
    reasons: Vec<PolicyId>,
}

impl<'a> Asker<'a> {
    fn new(bundle: &'a Bundle, subject: &'a Subject, facts: &'a TableFacts, table: &Resource) -> Fallible<Self> {
        let principal = uid("Principal", &subject.principal.0)?;
        let roles = subject.roles.iter().map(|r| uid("Role", r)).collect::<Fallible<HashSet<_>>>()?;
        let policies = bundle
            .policies
            .iter()
            .filter(|p| match &p.principal {
                PrincipalConstraint::Any => true,
                PrincipalConstraint::Eq(uid) => *uid == principal,
                PrincipalConstraint::In(uid) => *uid == principal || roles.contains(uid),
                PrincipalConstraint::Is(kind) => kind == principal.type_name(),
                PrincipalConstraint::IsIn(kind, uid) => {
                    kind == principal.type_name() && (*uid == principal || roles.contains(uid))
                }
            })
            .collect();
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
        Ok(Self { bundle, subject, facts, policies, principal, context, entities })
    }

    /// Leaves out policies whose head cannot hold for the resource: they would be neither reasons nor errors.
    fn question(&'a self, resource: &'a Resource, acts: impl Fn(&Indexed) -> bool) -> Fallible<Question<'a>> {
        let is_in = |uid: &EntityUid| *uid == resource.uid || resource.ancestors.contains(uid);
        let fits = |p: &&&Indexed| match &p.resource {
            ResourceConstraint::Any => true,
            ResourceConstraint::Eq(uid) => *uid == resource.uid,
            ResourceConstraint::In(uid) => is_in(uid),
            ResourceConstraint::Is(kind) => kind == resource.uid.type_name(),
            ResourceConstraint::IsIn(kind, uid) => kind == resource.uid.type_name() && is_in(uid),
        };
        let chosen: Vec<Policy> =
            self.policies.iter().filter(|p| acts(p)).filter(fits).map(|p| p.policy.clone()).collect();
        if chosen.is_empty() {
            return Ok(Question { asker: self, resource, set: None });
        }
        let set = PolicySet::from_policies(chosen).map_err(internal)?;
        let mut entities = self.entities.clone();
        if entities.get(&resource.uid).is_none() {
            entities = entities.add_entities([resource.entity()?], None).map_err(internal)?;
        }
        Ok(Question { asker: self, resource, set: Some((set, entities)) })
    }

    fn ask_table_action(&self, resource: &Resource, action: &'static str) -> Fallible<Answer> {
        debug_assert!(TABLE_ACTIONS.contains(&action));
        self.question(resource, |p| p.actions.contains(action))?.ask(action)
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
        match set.expr.compile(&columns, Some(self.subject)) {
            Ok(expr) => Ok(expr),
            Err(_) if enforce!("decide.row_binding", true) => Err(Failed(vec![set.name.clone()])),
            Err(_) => Ok(Expr::Literal(ScalarValue::Boolean(Some(true)), None)),
        }
    }
}

impl Question<'_> {
    fn ask(&self, action: &str) -> Fallible<Answer> {
        let Some((set, entities)) = &self.set else { return Ok(Answer { allowed: false, reasons: vec![] }) };
        let (asker, resource) = (self.asker, self.resource);
        let action = uid("Action", action)?;
        let request = Request::new(asker.principal.clone(), action, resource.uid.clone(), asker.context.clone(), None)
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
        Ok(Answer {
            allowed: response.decision() == Decision::Allow,
            reasons: response
                .diagnostics()
                .reason()
                .map(ToString::to_string)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        })
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
