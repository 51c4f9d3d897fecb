//! Random policies: what `decide` says is what Cedar says when it is asked about each rung alone, and less policy, or a
//! larger label, never shows more.

use crate::{Bundle, ColumnFacts, Grant, RowGrant, TableFacts, Tables, bundle::Indexed, cedar, decide};
use arrow_schema::DataType;
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};
use custody_model::{Authentication, Class, ClassSet, DatasetName, FieldId, Principal, Purpose, Rung, Subject};
use proptest::{collection::vec, prelude::*, sample::select};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    str::FromStr,
};

const TABLE: &str = "lake.t";

/// `d` is UNDER `a`; the others are nobody's.
const CLASSES: [&str; 4] = ["a", "b", "c", "d"];

struct Nothing;

impl Tables for Nothing {
    fn columns(&self, _: &DatasetName) -> Option<Vec<(FieldId, String, DataType)>> {
        None
    }
}

/// A policy before it is text.
#[derive(Clone, Debug)]
struct Rule {
    permit: bool,
    principal: &'static str,
    /// Of the ladder, from 0; 5: see_rows of any row set, 6: skip_guard.
    action: usize,
    resource: &'static str,
    condition: &'static str,
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = (
        prop::bool::weighted(0.7),
        select(vec![
            "principal",
            "principal in Role::\"r\"",
            "principal in Role::\"s\"",
            "principal == Principal::\"u\"",
        ]),
        0..7_usize,
        select(vec![
            "resource",
            "resource in Table::\"lake.t\"",
            "resource in Class::\"a\"",
            "resource in Class::\"b\"",
            "resource in Class::\"c\"",
            "resource in Class::\"d\"",
            "resource == Column::\"lake.t.x\"",
        ]),
        select(vec![
            "",
            "when { context.purpose == \"p\" }",
            "unless { context.environment == \"prod\" }",
            "when { resource in Class::\"b\" }",
            "when { Column::\"lake.t.x\" in Class::\"b\" }",
            "when { principal.hasTag(\"region\") && principal.getTag(\"region\").contains(\"eu\") }",
        ]),
    );
    let rule = rule.prop_map(|(permit, principal, action, resource, condition)| Rule {
        permit,
        principal,
        action,
        resource,
        condition,
    });
    vec(rule, 1..9)
}

fn text(rules: &[Rule]) -> String {
    let mut text = String::new();
    for (i, rule) in rules.iter().enumerate() {
        let (word, group) = if rule.permit { ("permit", "up_to") } else { ("forbid", "from") };
        let of_rows = rule.action > 4;
        let action = match rule.action {
            5 => "action == Action::\"see_rows\"".to_string(),
            6 => "action == Action::\"skip_guard\"".to_string(),
            rung => format!("action in Action::\"{group}_{}\"", cedar::RUNGS[rung]),
        };
        let (resource, condition) = match (of_rows, rule.condition.contains("Class")) {
            (true, true) => ("resource", ""),
            (true, false) => ("resource", rule.condition),
            (false, _) => (rule.resource, rule.condition),
        };
        let _ = writeln!(text, "@id(\"p{i}\") {word} ({}, {action}, {resource}) {condition};", rule.principal);
    }
    text
}

fn load(rules: &[Rule]) -> Bundle {
    let sql =
        "CREATE CLASSIFICATION a; CREATE CLASSIFICATION b; CREATE CLASSIFICATION c; CREATE CLASSIFICATION d UNDER a;
        CREATE ROW SET one ON lake.t AS x = '1'; CREATE ROW SET two ON lake.t AS x = '2';
        CREATE GUARD g ON lake.t AS y = '1'; CREATE GROUP FLOOR 5 ON lake.t COUNTING x;
        CREATE MASK PARAMETERS FOR COLUMN lake.t.x (token = hmac(key 'k', domain 'd'), partial = first(1));
        CREATE MASK PARAMETERS FOR COLUMN lake.t.y (token = hmac(key 'k', domain 'd'), partial = first(1));";
    let files = [("p.cedar".to_string(), text(rules).into_bytes()), ("p.sql".to_string(), sql.into())];
    Bundle::load(&files, &Nothing).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn subject(role: &str, purpose: &str, environment: &str, region: &str) -> Subject {
    Subject {
        principal: Principal::from("u"),
        kind: "user".into(),
        roles: BTreeSet::from([role.to_string()]),
        attributes: BTreeMap::from([("region".to_string(), BTreeSet::from([region.to_string()]))]),
        purpose: Purpose::from(purpose),
        environment: environment.into(),
        stage: String::new(),
        region: None,
        model: None,
        model_version: None,
        authentication: Authentication::Local,
        session: None,
        token: None,
    }
}

fn label(classes: usize) -> ClassSet {
    let chosen = CLASSES.into_iter().enumerate().filter(|(i, _)| classes & (1 << i) != 0);
    chosen.map(|(_, c)| Class(c.into())).collect()
}

/// Columns `x`, which policies name, and `y`, which none does.
fn facts(x: usize, y: usize) -> TableFacts {
    let column = |field, name: &str, classes| ColumnFacts {
        field: FieldId(field),
        name: name.into(),
        data_type: DataType::Utf8,
        classes: label(classes),
        approved: BTreeMap::new(),
    };
    TableFacts {
        dataset: "00000000-0000-8000-8000-000000000001".parse().unwrap(),
        name: TABLE.parse().unwrap(),
        owner: Principal::from("o"),
        purposes: BTreeSet::new(),
        columns: vec![column(1, "x", x), column(2, "y", y)],
        token_keys: BTreeMap::new(),
    }
}

fn rungs(grant: &Grant) -> Vec<Rung> {
    grant.columns.iter().map(|c| c.rung).collect()
}

fn uid(kind: &str, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(EntityTypeName::from_str(kind).unwrap(), EntityId::new(id))
}

/// Cedar, asked about every rung from the highest down, of every view, with every policy there is.
fn by_hand(bundle: &Bundle, subject: &Subject, column: &ColumnFacts) -> (Rung, Vec<String>) {
    let classes = bundle.close(&column.classes);
    let mut views = vec![classes.clone()];
    let specific = bundle.most_specific(&classes);
    if specific.len() > 1 {
        views.extend(specific.into_iter().map(|c| bundle.classes_under(c)));
    }
    let policies = PolicySet::from_policies(bundle.policies.iter().map(|p: &Indexed| p.policy.clone())).unwrap();
    let text = |s: &str| RestrictedExpression::new_string(s.into());
    let (principal, table) = (uid("Principal", &subject.principal.0), uid("Table", TABLE));
    let resource = uid("Column", &format!("{TABLE}.{}", column.name));
    let mut lowest: Option<(Rung, Vec<String>)> = None;
    let mut forbids = BTreeSet::new();
    for view in views {
        let tags = subject
            .attributes
            .iter()
            .map(|(name, values)| (name.clone(), RestrictedExpression::new_set(values.iter().map(|v| text(v)))));
        let roles: HashSet<_> = subject.roles.iter().map(|r| uid("Role", r)).collect();
        let kind = [("kind".to_string(), text(&subject.kind))];
        let above: HashSet<_> = view.iter().map(|c| uid("Class", &c.0)).chain([table.clone()]).collect();
        let empty = || RestrictedExpression::new_set([]);
        let entities: Vec<Entity> = vec![
            Entity::new_with_tags(principal.clone(), kind, roles, tags).unwrap(),
            Entity::new(
                table.clone(),
                HashMap::from([("owner".to_string(), text("o")), ("purposes".to_string(), empty())]),
                HashSet::new(),
            )
            .unwrap(),
            Entity::new(resource.clone(), HashMap::from([("approved".to_string(), empty())]), above).unwrap(),
        ];
        let entities: Entities = bundle.actions.clone().add_entities(entities, None).unwrap();
        let mut found = (Rung::None, vec![]);
        for rung in cedar::RUNGS.into_iter().rev() {
            let context = Context::from_pairs([
                ("purpose".to_string(), text(&subject.purpose.0)),
                ("environment".to_string(), text(&subject.environment)),
                ("stage".to_string(), text("")),
            ])
            .unwrap();
            let action = uid("Action", rung.word());
            let request = Request::new(principal.clone(), action, resource.clone(), context, None).unwrap();
            let response = Authorizer::new().is_authorized(&request, &policies, &entities);
            let mut reasons: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
            reasons.sort();
            if response.decision() == Decision::Allow {
                found = (rung, reasons);
                break;
            }
            forbids.extend(reasons);
        }
        if lowest.as_ref().is_none_or(|(rung, _)| found.0 < *rung) {
            lowest = Some(found);
        }
    }
    let (rung, mut policies) = lowest.unwrap();
    policies.extend(forbids);
    (rung, policies)
}

/// Whether every row that `less` shows is one that `more` shows, told by the names of row sets and guards.
fn shows_no_more(less: &RowGrant, more: &RowGrant) -> bool {
    match (less, more) {
        (RowGrant::Nothing, _) | (_, RowGrant::All) => true,
        (_, RowGrant::Nothing) | (RowGrant::All, _) => false,
        (RowGrant::Where(less), RowGrant::Where(more)) => {
            let sets =
                more.sets.is_empty() || (!less.sets.is_empty() && less.sets.iter().all(|s| more.sets.contains(s)));
            sets && more.guards.iter().all(|g| less.guards.contains(g))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decisions_are_those_of_cedar_and_less_never_shows_more(
        rules in rules(),
        (x, y) in (0..16_usize, 0..16_usize),
        extra in select(vec![1_usize, 2, 4]),
        role in select(vec!["r", "s", "q"]),
        purpose in select(vec!["p", "q"]),
        environment in select(vec!["prod", "dev"]),
        region in select(vec!["eu", "us"]),
    ) {
        let (bundle, subject) = (load(&rules), subject(role, purpose, environment, region));
        let table = facts(x, y);
        let grant = decide(&bundle, &subject, &table);
        prop_assert!(grant.failed.is_empty());
        for (column, decided) in table.columns.iter().zip(&grant.columns) {
            let (rung, policies) = by_hand(&bundle, &subject, column);
            prop_assert_eq!((decided.rung, &decided.policies), (rung, &policies), "{}", &column.name);
        }

        // Without one permit nothing rises and no row appears; without one forbid nothing falls and no row goes.
        for i in 0..rules.len() {
            let mut fewer = rules.clone();
            let removed = fewer.remove(i);
            let without = decide(&load(&fewer), &subject, &table);
            let (less, more) = if removed.permit { (&without, &grant) } else { (&grant, &without) };
            prop_assert!(rungs(less).iter().zip(rungs(more)).all(|(l, m)| *l <= m), "{removed:?}");
            prop_assert!(shows_no_more(&less.rows, &more.rows), "{removed:?}");
        }

        // A class more, that is not UNDER one that is there nor the other way round, raises nothing.
        let alone = |label: usize| if extra == 1 { label & !0b1000 } else { label };
        let (x, y) = (alone(x), alone(y));
        let (before, after) = (decide(&bundle, &subject, &facts(x, y)), decide(&bundle, &subject, &facts(x | extra, y | extra)));
        // An untagged column has no class to be asked as: any class may say more of it.
        for ((b, a), label) in rungs(&before).into_iter().zip(rungs(&after)).zip([x, y]) {
            prop_assert!(label == 0 || a <= b, "{label} {extra}: {b} {a}");
        }
    }
}
