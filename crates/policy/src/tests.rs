//! Bundles that load, bundles that are refused, and every decision as a table that is read in review.

use crate::{
    Answer, Bundle, ColumnFacts, Decisions, Grant, Mask, RowGrant, TableFacts, Tables, cedar, decide, enforce, explain,
    facts_hash, mask, matrix, policy_hash, rows_text, subject_key,
};
use arrow_schema::{DataType, TimeUnit};
use custody_model::{
    Authentication, Class, ClassSet, DatasetName, Durability, FieldId, PolicyId, Principal, Problem, Purpose, Rung,
    Subject, WallNanos,
};
use expect_test::{Expect, expect};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    num::NonZeroUsize,
    path::PathBuf,
};

/// Tables as text: `schema.table(column type, …)`, one a line.
struct Known(BTreeMap<DatasetName, Vec<(FieldId, String, DataType)>>);

impl Tables for Known {
    fn columns(&self, name: &DatasetName) -> Option<Vec<(FieldId, String, DataType)>> {
        self.0.get(name).cloned()
    }
}

fn known(text: &str) -> Known {
    let table = |line: &str| {
        let (name, columns) = line.trim().trim_end_matches(')').split_once('(').unwrap();
        let column = |(i, text): (usize, &str)| {
            let (name, data_type) = text.trim().split_once(' ').unwrap();
            let data_type = match data_type {
                "BIGINT" => DataType::Int64,
                "INT" => DataType::Int32,
                "VARCHAR" => DataType::Utf8,
                "DATE" => DataType::Date32,
                "DOUBLE" => DataType::Float64,
                "BOOLEAN" => DataType::Boolean,
                "TIMESTAMP" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                other => panic!("{other}"),
            };
            (FieldId(i as u32 + 1), name.to_string(), data_type)
        };
        (name.parse().unwrap(), columns.split(',').enumerate().map(column).collect())
    };
    Known(text.lines().filter(|l| !l.trim().is_empty()).map(table).collect())
}

const CLINIC: &str =
    "clinic.patients(patient_id BIGINT, mrn VARCHAR, birth_date DATE, region VARCHAR, consent BOOLEAN, hba1c DOUBLE)";

const DEMO: &str = "
raw.patients(id BIGINT, name VARCHAR, national_id VARCHAR, postcode VARCHAR, birth_date DATE, sex VARCHAR, weight DOUBLE, height DOUBLE, region VARCHAR, consent BOOLEAN, registered_at TIMESTAMP)
raw.labs(id BIGINT, ts TIMESTAMP, test VARCHAR, value DOUBLE, loaded_at TIMESTAMP)
raw.diagnoses(id BIGINT, ts TIMESTAMP, code VARCHAR, loaded_at TIMESTAMP)
raw.landmarks(id BIGINT, ts TIMESTAMP, died_2y BOOLEAN)
features.patient_profile(id BIGINT, ts TIMESTAMP, name VARCHAR, national_id VARCHAR, birth_date DATE, sex VARCHAR, bmi DOUBLE, postcode VARCHAR, region VARCHAR, consent BOOLEAN)";

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn load(files: &[(&str, &str)], known: &Known) -> Result<Bundle, Vec<Problem>> {
    let files: Vec<_> = files.iter().map(|(p, t)| (p.to_string(), t.as_bytes().to_vec())).collect();
    Bundle::load(&files, known)
}

fn from_disk(folder: &str, tables: &str) -> Bundle {
    from_disk_named(folder, "clinic", tables)
}

fn from_disk_named(folder: &str, stem: &str, tables: &str) -> Bundle {
    let file = |extension: &str| {
        let name = format!("{stem}.{extension}");
        let path = repository().join(folder).join(&name);
        (format!("policies/{name}"), std::fs::read(path).unwrap())
    };
    Bundle::load(&[file("cedar"), file("sql")], &known(tables)).unwrap_or_else(|p| panic!("{p:#?}"))
}

fn clinic() -> Bundle {
    from_disk("testdata/policies", CLINIC)
}

fn subject(role: &str, purpose: &str, environment: &str, region: &str) -> Subject {
    let regions: BTreeSet<String> = region.split(' ').filter(|r| !r.is_empty()).map(String::from).collect();
    Subject {
        principal: Principal(format!("local/{role}")),
        kind: if role == "training" { "service" } else { "user" }.into(),
        roles: BTreeSet::from([role.to_string()]),
        attributes: if regions.is_empty() { BTreeMap::new() } else { BTreeMap::from([("region".into(), regions)]) },
        purpose: Purpose::from(purpose),
        environment: environment.into(),
        stage: String::new(),
        region: None,
        model: None,
        model_version: None,
        authentication: Authentication::Impersonated,
        session: None,
        token: None,
    }
}

/// The facts of a table as declared, with no classes but the bundle's tags.
fn facts(tables: &str, name: &str) -> TableFacts {
    let columns = known(tables).columns(&name.parse().unwrap()).unwrap();
    TableFacts {
        dataset: format!("00000000-0000-8000-8000-{:012x}", name.len()).parse().unwrap(),
        name: name.parse().unwrap(),
        owner: Principal::from("clinic"),
        purposes: BTreeSet::new(),
        columns: columns
            .into_iter()
            .map(|(field, name, data_type)| ColumnFacts {
                field,
                name,
                data_type,
                classes: ClassSet::new(),
                approved: BTreeMap::new(),
            })
            .collect(),
        token_keys: BTreeMap::new(),
    }
}

fn label(facts: &mut TableFacts, column: &str, classes: &[&str]) {
    let column = facts.columns.iter_mut().find(|c| c.name == column).unwrap();
    column.classes.extend(classes.iter().map(|c| Class(c.to_string())));
}

/// What lineage gives the columns of a profile that is computed from `raw.patients`.
fn label_profile(facts: &mut TableFacts) {
    for column in ["id", "ts", "sex", "bmi", "region", "consent"] {
        label(facts, column, &["clinical"]);
    }
    for (column, class) in
        [("name", "identifier"), ("national_id", "identifier"), ("birth_date", "quasi"), ("postcode", "quasi")]
    {
        label(facts, column, &[class, "pii"]);
    }
}

fn show(grant: &Grant) -> String {
    let mut text = String::new();
    for column in &grant.columns {
        let mask = column.mask.as_ref().map(|m| format!(" {}", mask::describe(m))).unwrap_or_default();
        let _ = writeln!(text, "{}: {}{mask}", column.name, column.rung);
    }
    let _ = writeln!(text, "rows: {}", rows_text(&grant.rows));
    text
}

fn rung(grant: &Grant, column: &str) -> Rung {
    grant.columns.iter().find(|c| c.name == column).unwrap().rung
}

#[test]
fn the_example_of_the_design() {
    let bundle = clinic();
    let check = |role, purpose, environment, expect: Expect| {
        let grant = decide(&bundle, &subject(role, purpose, environment, "eu"), &facts(CLINIC, "clinic.patients"));
        expect.assert_eq(&show(&grant));
    };
    check(
        "research",
        "research",
        "prod",
        expect![[r#"
        patient_id: none
        mrn: token hmac(key 'research', domain 'person')
        birth_date: partial year
        region: raw
        consent: none
        hba1c: raw
        rows: region = 'eu' AND (consent IS TRUE)
    "#]],
    );
    check(
        "care",
        "care",
        "prod",
        expect![[r#"
        patient_id: raw
        mrn: raw
        birth_date: raw
        region: raw
        consent: raw
        hba1c: raw
        rows: region IN ('eu')
    "#]],
    );
    check(
        "care",
        "care",
        "dev",
        expect![[r#"
        patient_id: raw
        mrn: token hmac(key 'research', domain 'person')
        birth_date: redact null
        region: raw
        consent: raw
        hba1c: raw
        rows: region IN ('eu')
    "#]],
    );
    let denied = decide(&bundle, &subject("care", "billing", "prod", "eu"), &facts(CLINIC, "clinic.patients"));
    assert!(!denied.visible() && denied.rows == RowGrant::Nothing);
}

/// Every subject of the golden file: role, purpose, environment, region.
type Who = (&'static str, &'static str, &'static str, &'static str);

const SUBJECTS: &[Who] = &[
    ("engineer", "research", "dev", ""),
    ("engineer", "research", "prod", ""),
    ("research", "research", "dev", "eu"),
    ("research", "research", "prod", "eu us"),
    ("research", "research", "prod", "us"),
    ("research", "research", "prod", ""),
    ("research", "care", "prod", "eu"),
    ("care", "care", "dev", "eu"),
    ("care", "care", "prod", "apac us"),
    ("care", "care", "prod", ""),
    ("training", "model_training", "dev", ""),
    ("training", "model_training", "prod", ""),
    ("training", "research", "prod", ""),
    ("billing", "billing", "prod", "eu"),
];

/// Those of `testdata/policies/corners.*`.
const CORNER_SUBJECTS: &[Who] = &[
    ("planning", "planning", "prod", ""),
    ("steward", "planning", "dev", ""),
    ("steward", "planning", "prod", ""),
    ("steward", "research", "prod", ""),
    ("reviewer", "planning", "prod", ""),
    ("reviewer", "care", "prod", ""),
];

/// `clinic.wards` may be read for two purposes, and its `note` is approved raw for whoever asks.
const CORNERS: &str = "clinic.wards(id BIGINT, patient BIGINT, ward VARCHAR, cost DOUBLE, note VARCHAR, open BOOLEAN)";

/// One line an answer: who, kind of resource, resource, action, decision, and by which policies.
fn golden(bundle: &Bundle, tables: &str, subjects: &[Who], out: &mut String) {
    for name in known(tables).0.keys() {
        let mut facts = facts(tables, &name.to_string());
        if name.schema() == "features" {
            label_profile(&mut facts);
        }
        if name.name() == "wards" {
            facts.purposes = ["planning", "care"].map(Purpose::from).into();
            facts.columns[4].approved.insert(Rung::Raw, WallNanos(7));
        }
        for (role, purpose, environment, region) in subjects {
            let (grant, answers) = matrix(bundle, &subject(role, purpose, environment, region), &facts);
            let region = if region.is_empty() { "-" } else { region };
            let who = format!("{role:<8} {purpose:<14} {environment:<4} {region:<7}");
            if answers.iter().all(|a| !a.allowed) {
                let _ = writeln!(out, "{who} Table  {name} not found");
                continue;
            }
            for Answer { kind, resource, action, allowed, mask, policies } in answers {
                let decision = mask.unwrap_or(if allowed { "yes" } else { "no" }.into());
                let line = format!("{who} {kind:<6} {resource:<37} {action:<11} {decision:<43} {}", policies.join(" "));
                let _ = writeln!(out, "{}", line.trim_end());
            }
            let _ = writeln!(out, "{who} rows   {:<37} {}", name.to_string(), rows_text(&grant.rows));
        }
        out.push('\n');
    }
}

/// The bundles of the golden file, with their tables and subjects.
fn golden_bundles() -> [(&'static str, Bundle, &'static str, &'static [Who]); 3] {
    [
        ("testdata/policies/clinic: the example of the design", clinic(), CLINIC, SUBJECTS),
        (
            "testdata/policies/corners: what neither of the others has",
            from_disk_named("testdata/policies", "corners", CORNERS),
            CORNERS,
            CORNER_SUBJECTS,
        ),
        ("crates/cli/demo/policies: the demo", from_disk("crates/cli/demo/policies", DEMO), DEMO, SUBJECTS),
    ]
}

#[test]
fn decisions_are_golden() {
    let mut text = String::from(
        "# role, purpose, environment, regions; kind of resource, resource, action (of a column the highest that is allowed),\n\
         # decision (of a masked column how), the policies that gave it or held it back\n\n",
    );
    for (title, bundle, tables, subjects) in golden_bundles() {
        let _ = writeln!(text, "# {title}\n");
        golden(&bundle, tables, subjects, &mut text);
    }
    let path = repository().join("testdata/decisions.golden");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    for (line, (new, old)) in text.lines().zip(stored.lines()).enumerate() {
        assert_eq!(
            new,
            old,
            "line {} of testdata/decisions.golden; UPDATE_GOLDEN=1 rewrites it, read the change",
            line + 1
        );
    }
    assert_eq!(text.lines().count(), stored.lines().count(), "UPDATE_GOLDEN=1 rewrites testdata/decisions.golden");
}

/// Kinds and actions come from the Cedar schema, resources from the bundles: whatever is added there and has no row
/// here fails.
#[test]
fn every_resource_and_action_has_a_golden_row() {
    let text = std::fs::read_to_string(repository().join("testdata/decisions.golden")).unwrap();
    // kind, resource, action, decision of each line.
    let rows: Vec<[&str; 4]> = text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#') && !l.ends_with("not found"))
        .map(|l| {
            let at = |from: usize, to: usize| l.get(from..l.len().min(to)).unwrap_or_default().trim();
            [at(37, 43), at(44, 81), at(82, 93), at(94, 138)]
        })
        .collect();
    let (schema, _) = cedar_policy::Schema::from_cedarschema_str(&cedar::schema_text()).unwrap();
    let mut asked = 0;
    for action in schema.actions() {
        let word = action.id().unescaped();
        for kind in schema.resources_for_action(action).into_iter().flatten() {
            asked += 1;
            let of_kind: Vec<_> = rows.iter().filter(|r| r[0] == kind.basename()).collect();
            assert!(!of_kind.is_empty(), "no row of kind `{kind}`");
            let found = |decision: fn(&str) -> bool| of_kind.iter().any(|r| r[2] == word && decision(r[3]));
            assert!(found(|d| d != "no"), "nobody may `{word}` a {kind}");
            // Whoever gets another rung of a column is refused the higher ones.
            let refused =
                if kind.basename() == "Column" { of_kind.iter().any(|r| r[2] == "none") } else { found(|d| d == "no") };
            assert!(refused, "nobody is refused to `{word}` a {kind}");
        }
    }
    assert_eq!(asked, 10);
    for (title, bundle, tables, _) in golden_bundles() {
        let columns = known(tables).0.into_iter().flat_map(|(t, c)| c.into_iter().map(move |c| format!("{t}.{}", c.1)));
        let sets = bundle.row_sets().into_iter().map(|r| format!("{}/{}", r.dataset, r.name));
        for resource in columns.chain(sets) {
            assert!(rows.iter().any(|r| r[1] == resource), "{title}: `{resource}` has no row");
        }
    }
}

#[test]
fn the_demo_differs_by_reader() {
    let bundle = from_disk("crates/cli/demo/policies", DEMO);
    let mut facts = facts(DEMO, "features.patient_profile");
    label_profile(&mut facts);
    let read = |role, purpose, environment| {
        let grant = decide(&bundle, &subject(role, purpose, environment, "eu"), &facts);
        let rungs = ["name", "birth_date", "bmi"].map(|column| rung(&grant, column));
        (rungs, rows_text(&grant.rows))
    };
    use Rung::{None, Partial, Raw, Redact, Token};
    let eu = "region = 'eu' AND (consent IS TRUE)";
    let own = "region IN ('eu')";
    assert_eq!(read("engineer", "research", "dev"), ([Raw, Raw, Raw], "TRUE".into()));
    assert_eq!(read("research", "research", "dev"), ([Token, Partial, Raw], eu.into()));
    assert_eq!(read("research", "research", "prod"), ([Token, Partial, Raw], eu.into()));
    assert_eq!(read("care", "care", "prod"), ([Raw, Raw, Raw], own.into()));
    assert_eq!(read("care", "care", "dev"), ([Token, Redact, Raw], own.into()));
    assert_eq!(read("training", "model_training", "prod"), ([Redact, Partial, Raw], "consent IS TRUE".into()));
    assert_eq!(read("billing", "billing", "prod"), ([None, None, None], "FALSE".into()));
}

/// What is wrong with a bundle, one line each.
fn check_refused(cedar: &str, sql: &str, expect: Expect) {
    let classes =
        "CREATE CLASSIFICATION pii; CREATE CLASSIFICATION identifier UNDER pii; CREATE CLASSIFICATION clinical;";
    let files = [("policies/p.cedar", cedar), ("policies/p.sql", sql), ("policies/z.sql", classes)];
    let problems = load(&files, &known(CLINIC)).expect_err("the bundle should be refused");
    let mut text = String::new();
    for p in problems {
        let at =
            p.labels.first().map(|l| format!("{}:{}-{}:{}", l.start.line, l.start.column, l.end.line, l.end.column));
        let _ = writeln!(text, "{} {} {}: {}", p.code, p.file.unwrap_or_default(), at.unwrap_or_default(), p.message);
        if let Some(help) = p.help {
            let _ = writeln!(text, "    help: {help}");
        }
    }
    expect.assert_eq(&text);
}

#[test]
fn refuses_cedar_that_could_mislead() {
    let check = |cedar, expect| check_refused(cedar, "", expect);
    check(
        "permit (principal, action in Action::\"up_to_raw\" resource);",
        expect![[r#"
            C1601 policies/p.cedar 1:50-1:58: unexpected token `resource`
                help: docs/policy.md shows what a policy looks like
        "#]],
    );
    check(
        "permit (principal, action in Action::\"up_to_raw\", resource) when { principal.nmae == \"x\" };",
        expect![[r#"
            C1602 policies/p.cedar 1:68-1:82: for policy `p.policy0`, attribute `nmae` on entity type `Principal` not found
                help: did you mean `kind`?
        "#]],
    );
    check(
        "permit (principal, action in Action::\"up_to_raw\", resource) when { principal.getTag(\"x\").contains(\"y\") };",
        expect![[r#"
            C1602 policies/p.cedar 1:68-1:103: for policy `p.policy0`, unable to guarantee safety of access to tag `"x"` on entity type `Principal`
                help: try testing for the tag's presence with `.hasTag("x") && ..`
        "#]],
    );
    check(
        "permit (principal == ?principal, action in Action::\"up_to_raw\", resource);",
        expect![[r#"
        C1605 policies/p.cedar 1:1-1:75: a template is not a policy: it has a slot instead of a principal or resource
            help: name the role, class or table in the policy
    "#]],
    );
    check(
        "permit (principal, action, resource);",
        expect![[r#"
        C1605 policies/p.cedar 1:1-1:38: permit `p.policy0` names every action
            help: a permit names `action in Action::"up_to_raw"` or another rung's, or actions on tables and rows
    "#]],
    );
    check(
        "permit (principal, action in Action::\"from_token\", resource);",
        expect![[r#"
        C1605 policies/p.cedar 1:1-1:62: permit `p.policy0` names `from_token`
            help: a permit names `action in Action::"up_to_raw"` or another rung's, or actions on tables and rows
    "#]],
    );
    check(
        "permit (principal, action == Action::\"raw\", resource);",
        expect![[r#"
        C1605 policies/p.cedar 1:1-1:55: permit `p.policy0` names `raw`, not a group by `in`
            help: a permit names `action in Action::"up_to_raw"` or another rung's, or actions on tables and rows
    "#]],
    );
    check(
        "forbid (principal, action in Action::\"up_to_raw\", resource);",
        expect![[r#"
        C1605 policies/p.cedar 1:1-1:61: forbid `p.policy0` names `up_to_raw`
            help: a forbid names `action in Action::"from_raw"` or another rung's, or actions on tables and rows
    "#]],
    );
    check(
        "forbid (principal, action, resource) when { action == Action::\"raw\" };",
        expect![[r#"
        C1605 policies/p.cedar 1:1-1:71: a condition of `p.policy0` looks at the action
            help: name the actions in the head of the policy
    "#]],
    );
    check(
        "permit (principal, action in Action::\"up_to_raw\", resource in Class::\"identifer\");",
        expect![[r#"
        C1602 policies/p.cedar 1:1-1:83: class `identifer` is not declared
            help: CREATE CLASSIFICATION identifer
    "#]],
    );
    check(
        "permit (principal, action == Action::\"see_rows\", resource == RowSet::\"clinic.patients/eu\");",
        expect![[r#"
            C1602 policies/p.cedar 1:1-1:92: row set `clinic.patients/eu` is not declared
                help: a row set is named `schema.table/name`, as declared by CREATE ROW SET
        "#]],
    );
    check(
        "permit (principal, action in Action::\"up_to_raw\", resource == Column::\"clinic.patients.hba2c\");",
        expect![[r#"
            C1602 policies/p.cedar 1:1-1:96: column `hba2c` of `clinic.patients` not found
        "#]],
    );
    check(
        "permit (principal, action in Action::\"up_to_raw\", resource == Table::\"clinic.patients\");",
        expect![[r#"
            C1602 policies/p.cedar 1:1-1:89: for policy `p.policy0`, policy is impossible: the policy expression evaluates to false for all valid requests
                help: docs/policy.md lists what principal, resource and context have, and of which type
            C1602 policies/p.cedar 1:1-1:89: for policy `p.policy0`, unable to find an applicable action given the policy scope constraints
                help: try replacing `==` with `in` in the resource clause
        "#]],
    );
    check(
        "@id(\"a\") permit (principal, action in Action::\"up_to_raw\", resource);\n@id(\"a\") forbid (principal, action, resource);",
        expect![[r#"
            C1603 policies/p.cedar 2:1-2:47: policy id `a` is used twice
                help: the other is in `policies/p.cedar`; give one of them another `@id`
        "#]],
    );
    check(
        "permit (principal, action in Action::\"up_to_raw\", resource in Table::\"system.access.audit\");",
        expect![[r#"
            C1605 policies/p.cedar 1:1-1:93: `system.access.audit` is governed by the built-in bundle of `system`
        "#]],
    );
}

#[test]
fn refuses_sql_that_is_not_total_typed_and_closed() {
    let check = |sql, expect| check_refused("", sql, expect);
    let row_set = |predicate: &str, expect| {
        check_refused("", &format!("CREATE ROW SET r ON clinic.patients AS {predicate}"), expect);
    };
    row_set(
        "hba1c / 2 > 1",
        expect![[r#"
        C1605 policies/p.sql 1:40-1:49: `hba1c / 2` is not allowed in a row set
            help: allowed are comparisons, IN, BETWEEN, LIKE, IS [NOT] NULL, TRUE, FALSE and DISTINCT FROM over columns, literals, `@attribute` and `@principal`, under AND, OR and NOT
    "#]],
    );
    row_set(
        "lower(region) = 'eu'",
        expect![[r#"
        C1605 policies/p.sql 1:40-1:52: `lower(region)` is not allowed in a row set
            help: allowed are comparisons, IN, BETWEEN, LIKE, IS [NOT] NULL, TRUE, FALSE and DISTINCT FROM over columns, literals, `@attribute` and `@principal`, under AND, OR and NOT
    "#]],
    );
    row_set(
        "CAST(region AS INT) = 1",
        expect![[r#"
        C1605 policies/p.sql 1:45-1:51: `CAST(region AS INT)` is not allowed in a row set
            help: allowed are comparisons, IN, BETWEEN, LIKE, IS [NOT] NULL, TRUE, FALSE and DISTINCT FROM over columns, literals, `@attribute` and `@principal`, under AND, OR and NOT
    "#]],
    );
    row_set(
        "regio = 'eu'",
        expect![[r#"
            C1602 policies/p.sql 1:40-1:45: column `regio` not found
                help: its columns are `patient_id`, `mrn`, `birth_date`, `region`, `consent`, `hba1c`
        "#]],
    );
    row_set(
        "region = 5",
        expect![[r#"
            C1604 policies/p.sql 1:49-1:50: `5` is not a value of type Utf8
                help: a literal is written as a value of the column that it meets; nothing is cast
        "#]],
    );
    row_set(
        "patient_id = 1.5",
        expect![[r#"
            C1604 policies/p.sql 1:53-1:56: `1.5` is not a value of type Int64
                help: a literal is written as a value of the column that it meets; nothing is cast
        "#]],
    );
    row_set(
        "birth_date > '12 Jan'",
        expect![[r#"
            C1604 policies/p.sql 1:53-1:61: `12 Jan` is not a value of type Date32
                help: a literal is written as a value of the column that it meets; nothing is cast
        "#]],
    );
    row_set(
        "consent = 'true'",
        expect![[r#"
            C1604 policies/p.sql 1:50-1:56: `true` is not a value of type Boolean
                help: a literal is written as a value of the column that it meets; nothing is cast
        "#]],
    );
    row_set(
        "region",
        expect![[r#"
            C1604 policies/p.sql 1:40-1:46: column `region` is Utf8, not Boolean
                help: a literal is written as a value of the column that it meets; nothing is cast
        "#]],
    );
    row_set(
        "region = NULL",
        expect![[r#"
        C1605 policies/p.sql 1:49-1:53: a comparison with NULL is never true
            help: write `IS NULL`
    "#]],
    );
    row_set(
        "region = birth_date",
        expect![[r#"
            C1604 policies/p.sql 1:40-1:59: columns `region` (Utf8) and `birth_date` (Date32) differ in type
                help: a literal is written as a value of the column that it meets; nothing is cast
        "#]],
    );
    row_set(
        "region LIKE mrn",
        expect![[r#"
        C1605 policies/p.sql 1:40-1:55: the pattern of LIKE must be a literal text
    "#]],
    );
    row_set(
        "region NOT IN (@region)",
        expect![[r#"
        C1605 policies/p.sql 1:55-1:62: attribute `@region` stands under a negation
            help: a subject without the attribute would see every row: say which rows are seen, not which are hidden
    "#]],
    );
    row_set(
        "NOT (region = @region)",
        expect![[r#"
        C1605 policies/p.sql 1:54-1:61: attribute `@region` stands under a negation
            help: a subject without the attribute would see every row: say which rows are seen, not which are hidden
    "#]],
    );
    row_set(
        "(region IN (@region)) IS NOT TRUE",
        expect![[r#"
        C1605 policies/p.sql 1:52-1:59: attribute `@region` stands under a negation
            help: a subject without the attribute would see every row: say which rows are seen, not which are hidden
    "#]],
    );
    row_set(
        "region <> @region",
        expect![[r#"
        C1605 policies/p.sql 1:50-1:57: attribute `@region` is a set and can only be compared by `=` or IN
    "#]],
    );
    row_set(
        "patient_id = @principal",
        expect![[r#"
            C1604 policies/p.sql 1:53-1:63: `@principal` is text and cannot be compared with Int64
                help: a literal is written as a value of the column that it meets; nothing is cast
        "#]],
    );
    check(
        "CREATE ROW SET r ON clinic.patients AS region IN (SELECT region FROM clinic.access);
         CREATE GUARD g ON clinic.access AS region IN (SELECT region FROM clinic.patients)",
        expect![[r#"
            C1603 policies/p.sql 1:40-1:84: row set `r` reads `clinic.access`, which has row sets
                help: what a row set reads is read as it is, so it may have none itself
            C1603 policies/p.sql 2:45-2:91: guard `g` reads `clinic.patients`, which has row sets
                help: what a row set reads is read as it is, so it may have none itself
        "#]],
    );
    row_set(
        "region = 'eu' region",
        expect![[r#"
        C1601 policies/p.sql 1:54-1:60: expected the end of the statement, found `region`
    "#]],
    );
    row_set(
        &vec!["consent"; 300].join(" AND "),
        expect![[r#"
        C1605 policies/p.sql 1:40-1:3635: more than 256 operators in a row set
    "#]],
    );
    check(
        "CREATE ROW SET r ON clinic.patients AS consent; CREATE GUARD r ON clinic.patients AS consent",
        expect![[r#"
            C1603 policies/p.sql 1:62-1:63: `clinic.patients` has two row sets or guards named `r`
                help: give one of them another name
        "#]],
    );
    check(
        "TAG COLUMN clinic.patients.mrm AS pii, secret; TAG COLUMN system.access.audit.principal AS pii",
        expect![[r#"
            C1602 policies/p.sql 1:28-1:31: column `mrm` of `clinic.patients` not found
                help: its columns are `patient_id`, `mrn`, `birth_date`, `region`, `consent`, `hba1c`
            C1602 policies/p.sql 1:40-1:46: class `secret` is not declared
                help: CREATE CLASSIFICATION secret
            C1605 policies/p.sql 1:79-1:88: `system.access.audit` is governed by the built-in bundle of `system`
        "#]],
    );
    check(
        "CREATE CLASSIFICATION a UNDER b; CREATE CLASSIFICATION b UNDER a; CREATE CLASSIFICATION pii",
        expect![[r#"
            C1603 policies/p.sql 1:1-1:32: class `a` is UNDER itself
                help: leave one UNDER of the circle out
            C1603 policies/p.sql 1:34-1:65: class `b` is UNDER itself
                help: leave one UNDER of the circle out
            C1603 policies/z.sql 1:23-1:26: class `pii` is declared twice
                help: keep one; UNDER takes several classes
        "#]],
    );
    check(
        "TAG COLUMN clinic.patients.birth_date AS pii; CREATE MASK PARAMETERS FOR pii (token = hmac(key 'k', domain 'd'))",
        expect![[r#"
            C1604 policies/p.sql 1:87-1:112: `hmac` needs text or Int64; `clinic.patients.birth_date` is Date32
                help: leave `token` out, or give this column its own: CREATE MASK PARAMETERS FOR COLUMN clinic.patients.birth_date
        "#]],
    );
    check(
        "CREATE MASK PARAMETERS FOR COLUMN clinic.patients.mrn (partial = year, redact = const('x'), redact = const(1))",
        expect![[r#"
            C1604 policies/p.sql 1:66-1:70: `year` needs a date or timestamp; `clinic.patients.mrn` is Utf8
                help: leave `partial` out, or give this column its own: CREATE MASK PARAMETERS FOR COLUMN clinic.patients.mrn
            C1603 policies/p.sql 1:102-1:110: `redact` of `clinic.patients.mrn` is given twice
            C1604 policies/p.sql 1:102-1:110: `const` needs a literal of the column's type; `clinic.patients.mrn` is Utf8
                help: leave `redact` out, or give this column its own: CREATE MASK PARAMETERS FOR COLUMN clinic.patients.mrn
        "#]],
    );
    check(
        "CREATE MASK PARAMETERS FOR COLUMN clinic.patients.hba1c (redact = const('x'))",
        expect![[r#"
            C1604 policies/p.sql 1:67-1:77: `const` needs a literal of the column's type; `clinic.patients.hba1c` is Float64
                help: leave `redact` out, or give this column its own: CREATE MASK PARAMETERS FOR COLUMN clinic.patients.hba1c
        "#]],
    );
    check(
        "TAG COLUMN clinic.patients.mrn AS pii, clinical; CREATE MASK PARAMETERS FOR pii (partial = first(2)); CREATE MASK PARAMETERS FOR clinical (partial = last(2))",
        expect![[r#"
            C1603 policies/p.sql 1:150-1:157: the classes of `clinic.patients.mrn` disagree on `partial`
                help: CREATE MASK PARAMETERS FOR COLUMN clinic.patients.mrn (partial = …)
        "#]],
    );
    check(
        "CREATE MASK PARAMETERS FOR pii (partial = first(0)); CREATE MASK PARAMETERS FOR pii (raw = null)",
        expect![[r#"
            C1605 policies/p.sql 1:49-1:50: `first(0)` masks nothing that is left
            C1602 policies/p.sql 1:86-1:89: `raw` is not a rung with parameters
                help: rungs with parameters are redact, token and partial
        "#]],
    );
    check(
        "CREATE GROUP FLOOR 1 ON clinic.patients COUNTING patient_id; CREATE DURABILITY paper ON clinic.patients",
        expect![[r#"
            C1605 policies/p.sql 1:25-1:40: a group floor below 2 hides nothing
            C1602 policies/p.sql 1:80-1:85: durability `paper` not found
                help: durabilities are local, peer and object
        "#]],
    );
    check(
        "CREATE DECLASSIFICATION d FOR AGGREGATE avg REMOVES secret FROM EXPLICIT",
        expect![[r#"
        C1602 policies/p.sql 1:53-1:59: class `secret` is not declared
            help: CREATE CLASSIFICATION secret
    "#]],
    );
    check(
        "CREATE VIEW v AS SELECT 1;\nTAG COLUMN mrn AS pii;\n'open",
        expect![[r#"
        C1601 policies/p.sql 3:1-3:1: unterminated string literal
    "#]],
    );
}

#[test]
fn settles_masks_for_a_column() {
    let sql = "CREATE CLASSIFICATION a; CREATE CLASSIFICATION b; TAG COLUMN clinic.patients.mrn AS a, b;
        CREATE MASK PARAMETERS FOR a (partial = first(2), redact = const('x')); CREATE MASK PARAMETERS FOR b (partial = last(2));
        CREATE MASK PARAMETERS FOR COLUMN clinic.patients.mrn (partial = last(4))";
    let bundle = load(&[("p.sql", sql)], &known(CLINIC)).unwrap();
    let table: DatasetName = "clinic.patients".parse().unwrap();
    let classes = bundle.tags_of(&table, "mrn");
    let mask = |rung, data_type| bundle.mask(&table, "mrn", &classes, rung, data_type);
    assert_eq!(mask(Rung::Partial, &DataType::Utf8), Some(Mask::Last(4)));
    assert_eq!(mask(Rung::Token, &DataType::Utf8), None);
    assert_eq!(mask(Rung::Redact, &DataType::Float64), Some(Mask::Null));
    assert_eq!(bundle.mask(&table, "other", &classes, Rung::Partial, &DataType::Utf8), None, "a and b disagree");
}

#[test]
fn a_policy_in_error_denies_everything() {
    let cedar = "
        permit (principal, action in Action::\"up_to_raw\", resource);
        forbid (principal, action in Action::\"from_raw\", resource) when { 9223372036854775807 + 1 == context.purpose.size };";
    assert!(load(&[("p.cedar", cedar)], &known(CLINIC)).is_err());
    let cedar = "
        permit (principal, action in Action::\"up_to_raw\", resource);
        @id(\"overflow\") forbid (principal, action in Action::\"from_raw\", resource in Class::\"c\") when { 9223372036854775807 + 1 == 0 };";
    let sql = "CREATE CLASSIFICATION c; TAG COLUMN clinic.patients.mrn AS c";
    let bundle = load(&[("p.cedar", cedar), ("p.sql", sql)], &known(CLINIC)).unwrap();
    let grant = decide(&bundle, &subject("research", "research", "prod", ""), &facts(CLINIC, "clinic.patients"));
    assert!(!grant.visible() && grant.rows == RowGrant::Nothing && !grant.explain_raw);
    assert_eq!(grant.failed, ["overflow"]);
}

#[test]
fn row_sets_bind_attributes_and_columns_by_field() {
    let sql = "CREATE ROW SET own ON clinic.patients AS region IN (@region) OR mrn = @principal;
        CREATE ROW SET numbers ON clinic.patients AS patient_id = @number";
    let cedar = "permit (principal, action in [Action::\"up_to_raw\", Action::\"see_rows\"], resource);";
    let bundle = load(&[("p.cedar", cedar), ("p.sql", sql)], &known(CLINIC)).unwrap();
    let rows = |subject: &Subject, facts: &TableFacts| rows_text(&decide(&bundle, subject, facts).rows);
    let mut facts = facts(CLINIC, "clinic.patients");
    let mut subject = subject("r", "p", "prod", "eu o'k");
    assert_eq!(rows(&subject, &facts), "((region IN ('eu', 'o''k') OR mrn = 'local/r') OR FALSE)");
    subject.attributes.clear();
    assert_eq!(rows(&subject, &facts), "((FALSE OR mrn = 'local/r') OR FALSE)");
    let numbers = ["7", "x"].map(String::from);
    subject.attributes.insert("number".into(), numbers.into());
    assert_eq!(rows(&subject, &facts), "((FALSE OR mrn = 'local/r') OR patient_id IN (7))");
    // Renamed: the bundle's name still means the field, and another column of the old name is not it.
    facts.columns[3].name = "area".into();
    facts.columns[5].name = "region".into();
    subject.attributes = BTreeMap::from([("region".into(), BTreeSet::from(["eu".into()]))]);
    assert_eq!(rows(&subject, &facts), "((area IN ('eu') OR mrn = 'local/r') OR FALSE)");
    // Not in this version: nothing is granted.
    facts.columns.remove(3);
    let grant = decide(&bundle, &subject, &facts);
    assert_eq!((grant.visible(), grant.failed.as_slice()), (false, ["own".to_string()].as_slice()));
}

#[test]
fn entitlements_are_of_one_shape() {
    let cedar = "permit (principal, action in [Action::\"up_to_raw\", Action::\"see_rows\"], resource);";
    let tables = format!("{CLINIC}\n care.teams(nurse VARCHAR, patient BIGINT, region VARCHAR, since DATE)");
    let load = |condition: &str| {
        let sql = format!("CREATE ROW SET r ON clinic.patients AS {condition}");
        super::tests::load(&[("p.cedar", cedar), ("p.sql", &sql)], &known(&tables))
    };
    let mut text = String::new();
    for condition in [
        "patient_id IN (SELECT patient FROM care.teams)",
        "region = 'eu' OR patient_id IN (SELECT patient FROM care.teams WHERE nurse = @principal AND region IN (@region))",
        "EXISTS (SELECT 1 FROM care.teams)",
        "patient_id = (SELECT patient FROM care.teams)",
        "patient_id NOT IN (SELECT patient FROM care.teams)",
        "NOT patient_id IN (SELECT patient FROM care.teams)",
        "patient_id IN (SELECT DISTINCT patient FROM care.teams)",
        "patient_id IN (SELECT patient FROM care.teams LIMIT 1)",
        "patient_id IN (SELECT patient FROM care.teams, care.teams)",
        "patient_id IN (SELECT patient FROM care.teams AS t)",
        "patient_id IN (SELECT patient FROM care.teams UNION SELECT 1)",
        "patient_id IN (SELECT patient FROM care.teams WHERE patient IN (SELECT patient FROM care.teams))",
        "patient_id IN (SELECT abs(patient) FROM care.teams)",
        "patient_id IN (SELECT patient FROM care.teams WHERE 1 / patient > 0)",
        "patient_id IN (SELECT patient FROM care.teams WHERE mrn = 'x')",
        "patient_id IN (SELECT region FROM care.teams)",
        "patient_id IN (SELECT person FROM care.teams)",
        "patient_id IN (SELECT patient FROM care.nothing)",
        "patient_id IN (SELECT principal FROM system.access.audit)",
        "patient_id IN (SELECT patient_id FROM clinic.patients)",
    ] {
        let told = match load(condition) {
            Ok(bundle) => {
                rows_text(&decide(&bundle, &subject("r", "p", "prod", "eu"), &facts(CLINIC, "clinic.patients")).rows)
            }
            Err(problems) => {
                problems.iter().map(|p| format!("{} {}", p.code, p.message)).collect::<Vec<_>>().join("; ")
            }
        };
        let _ = writeln!(text, "{condition}\n  {told}");
    }
    expect![[r#"
        patient_id IN (SELECT patient FROM care.teams)
          patient_id IN (SELECT patient FROM care.teams)
        region = 'eu' OR patient_id IN (SELECT patient FROM care.teams WHERE nurse = @principal AND region IN (@region))
          region = 'eu' OR (patient_id IN (SELECT patient FROM care.teams WHERE nurse = 'local/r' AND region IN ('eu')))
        EXISTS (SELECT 1 FROM care.teams)
          C1605 `EXISTS (SELECT 1 FROM care.teams)` is not allowed in a row set
        patient_id = (SELECT patient FROM care.teams)
          C1605 `(SELECT patient FROM care.teams)` is not allowed in a row set
        patient_id NOT IN (SELECT patient FROM care.teams)
          C1605 an entitlement stands under a negation
        NOT patient_id IN (SELECT patient FROM care.teams)
          C1605 an entitlement stands under a negation
        patient_id IN (SELECT DISTINCT patient FROM care.teams)
          C1605 this subquery is not an entitlement
        patient_id IN (SELECT patient FROM care.teams LIMIT 1)
          C1605 this subquery is not an entitlement
        patient_id IN (SELECT patient FROM care.teams, care.teams)
          C1605 this subquery is not an entitlement
        patient_id IN (SELECT patient FROM care.teams AS t)
          C1605 this subquery is not an entitlement
        patient_id IN (SELECT patient FROM care.teams UNION SELECT 1)
          C1605 this subquery is not an entitlement
        patient_id IN (SELECT patient FROM care.teams WHERE patient IN (SELECT patient FROM care.teams))
          C1605 an entitlement reads another table
        patient_id IN (SELECT abs(patient) FROM care.teams)
          C1605 `abs(patient)` is not allowed in a row set
        patient_id IN (SELECT patient FROM care.teams WHERE 1 / patient > 0)
          C1605 `1 / patient` is not allowed in a row set
        patient_id IN (SELECT patient FROM care.teams WHERE mrn = 'x')
          C1602 column `mrn` not found
        patient_id IN (SELECT region FROM care.teams)
          C1604 columns `patient_id` (Int64) and `region` (Utf8) differ in type
        patient_id IN (SELECT person FROM care.teams)
          C1602 column `person` of `care.teams` not found
        patient_id IN (SELECT patient FROM care.nothing)
          FALSE
        patient_id IN (SELECT principal FROM system.access.audit)
          C1605 `system.access.audit` is no dataset name
        patient_id IN (SELECT patient_id FROM clinic.patients)
          C1603 row set `r` reads `clinic.patients`, which has row sets
    "#]]
    .assert_eq(&text);
}

#[test]
fn row_sets_know_these_expressions() {
    let check = |predicate: &str, expect: &str| {
        let sql = format!("CREATE ROW SET r ON raw.patients AS {predicate}");
        let cedar = "permit (principal, action in [Action::\"up_to_raw\", Action::\"see_rows\"], resource);";
        let bundle = load(&[("p.cedar", cedar), ("p.sql", &sql)], &known(DEMO)).unwrap_or_else(|p| panic!("{p:#?}"));
        assert_eq!(bundle.row_sets()[0].predicate, predicate);
        let grant = decide(&bundle, &subject("r", "p", "prod", "eu us"), &facts(DEMO, "raw.patients"));
        assert_eq!(rows_text(&grant.rows), expect);
    };
    check("TRUE", "TRUE");
    check("FALSE", "FALSE");
    check("consent", "consent");
    check("NOT consent", "NOT consent");
    check("(consent) IS NOT FALSE", "consent IS NOT FALSE");
    check("name IS NULL OR consent IS NOT NULL", "(name IS NULL) OR (consent IS NOT NULL)");
    check("region IN ('eu', @region, 'x') AND id >= -5", "region IN ('eu', 'eu', 'us', 'x') AND id >= -5");
    check("@region = region", "region IN ('eu', 'us')");
    check("'us' IN (@region)", "'us' IN ('eu', 'us')");
    check("@principal = name", "'local/r' = name");
    check("id NOT BETWEEN 1 AND 10", "id NOT BETWEEN 1 AND 10");
    check("postcode NOT LIKE 'EC%'", "postcode NOT LIKE 'EC%'");
    check("weight IS DISTINCT FROM height", "weight IS DISTINCT FROM height");
    check("weight <> 1.5", "weight != 1.5");
    check("birth_date < '1970-01-01'", "birth_date < DATE '1970-01-01'");
    check("birth_date < DATE '1970-01-01'", "birth_date < DATE '1970-01-01'");
    check("registered_at > TIMESTAMP '2020-01-01 00:00:00'", "registered_at > TIMESTAMP '2020-01-01T00:00:00Z'");
    check("region = 'eu' OR (consent AND id = 1) OR id = 2", "(region = 'eu' OR (consent AND id = 1)) OR id = 2");
}

#[test]
fn bundles_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Bundle>();
    shared::<Decisions>();
}

#[test]
fn a_dataset_not_yet_known_is_bound_when_it_appears() {
    let sql = "CREATE CLASSIFICATION c; TAG COLUMN new.t.a AS c; CREATE ROW SET s ON new.t AS a = 5;
        CREATE MASK PARAMETERS FOR c (partial = year); CREATE DURABILITY peer ON new.t";
    let cedar = "permit (principal, action in [Action::\"up_to_partial\", Action::\"see_rows\"], resource in Table::\"new.t\");";
    let bundle = load(&[("p.cedar", cedar), ("p.sql", sql)], &known(CLINIC)).unwrap();
    let subject = subject("r", "p", "prod", "");
    let grant = |tables| decide(&bundle, &subject, &facts(tables, "new.t"));
    let fits = grant("new.t(a BIGINT, b VARCHAR)");
    assert_eq!((rung(&fits, "a"), rows_text(&fits.rows)), (Rung::Redact, "a = 5".to_string()));
    assert_eq!(fits.durability, Durability::Peer);
    assert!(!grant("new.t(b VARCHAR)").visible(), "no such column");
    assert!(!grant("new.t(a VARCHAR)").visible(), "5 is not text");
}

#[test]
fn classes_unite_and_never_raise() {
    let cedar = "
        permit (principal, action in Action::\"up_to_raw\", resource in Class::\"clinical\");
        permit (principal, action in Action::\"up_to_token\", resource in Class::\"identifier\");
        permit (principal, action in Action::\"up_to_partial\", resource) when { resource in Class::\"quasi\" };
        forbid (principal, action in Action::\"from_partial\", resource) unless { resource in Class::\"clinical\" || resource in Class::\"quasi\" || resource in Class::\"secret\" };
        forbid (principal, action, resource) when { resource in Class::\"quasi\" && resource in Class::\"identifier\" };";
    let names = ["clinical", "identifier", "quasi", "secret"];
    let mut sql: String = names.iter().map(|n| format!("CREATE CLASSIFICATION {n};")).collect();
    for n in names {
        let _ = write!(sql, "CREATE MASK PARAMETERS FOR {n} (token = hmac(key 'k', domain 'd'), partial = first(1));");
    }
    let bundle = load(&[("p.cedar", cedar), ("p.sql", &sql)], &known(CLINIC)).unwrap();
    let subject = subject("r", "p", "prod", "");
    let of = |classes: usize| {
        let mut facts = facts(CLINIC, "clinic.patients");
        let chosen: Vec<_> =
            names.iter().enumerate().filter(|(i, _)| classes & (1 << i) != 0).map(|(_, n)| *n).collect();
        label(&mut facts, "mrn", &chosen);
        rung(&decide(&bundle, &subject, &facts), "mrn")
    };
    assert_eq!((of(1), of(2), of(4), of(8)), (Rung::Raw, Rung::Token, Rung::Partial, Rung::None));
    assert_eq!(of(1 | 2), Rung::Token, "the permit for `clinical` does not open `identifier`");
    assert_eq!(of(2 | 4), Rung::None, "a forbid that needs both classes sees both");
    for a in 1..16 {
        for b in 1..16 {
            assert!(of(a | b) <= of(a).min(of(b)), "{a} {b}");
        }
    }
}

#[test]
fn a_permit_naming_a_column_opens_only_it() {
    let cedar = "
        permit (principal, action in Action::\"up_to_redact\", resource in Class::\"pii\");
        permit (principal, action in Action::\"up_to_raw\", resource == Column::\"clinic.patients.mrn\");
        permit (principal, action in Action::\"up_to_raw\", resource in Table::\"clinic.patients\") when { resource in Class::\"clinical\" };";
    let sql = "CREATE CLASSIFICATION pii; CREATE CLASSIFICATION clinical;
        TAG COLUMN clinic.patients.mrn, clinic.patients.region AS pii; TAG COLUMN clinic.patients.birth_date AS pii, clinical";
    let bundle = load(&[("p.cedar", cedar), ("p.sql", sql)], &known(CLINIC)).unwrap();
    let grant = decide(&bundle, &subject("r", "p", "prod", ""), &facts(CLINIC, "clinic.patients"));
    let rungs = ["mrn", "region", "birth_date", "hba1c"].map(|c| rung(&grant, c));
    assert_eq!(rungs, [Rung::Raw, Rung::Redact, Rung::Redact, Rung::None]);
}

#[test]
fn purposes_of_a_dataset_forbid_all_but_publish() {
    let cedar = "permit (principal, action in [Action::\"up_to_raw\", Action::\"publish\", Action::\"explain_raw\"], resource);";
    let bundle = load(&[("p.cedar", cedar)], &known(CLINIC)).unwrap();
    let mut facts = facts(CLINIC, "clinic.patients");
    facts.purposes.insert(Purpose::from("care"));
    let grant = |purpose| decide(&bundle, &subject("r", purpose, "prod", ""), &facts);
    let other = grant("research");
    assert_eq!((other.visible(), other.publish, other.explain_raw), (false, true, false));
    assert_eq!(other.policies, ["builtin.purposes", "p.policy0"]);
    assert!(grant("care").open());
}

#[test]
fn approvals_need_a_policy_and_end() {
    let cedar = "
        permit (principal, action in Action::\"up_to_raw\", resource) when { resource.approved.contains(\"raw\") };
        permit (principal, action in Action::\"up_to_redact\", resource);";
    let bundle = load(&[("p.cedar", cedar)], &known(CLINIC)).unwrap();
    let mut facts = facts(CLINIC, "clinic.patients");
    facts.columns[1].approved.insert(Rung::Raw, WallNanos(7));
    let grant = decide(&bundle, &subject("r", "p", "prod", ""), &facts);
    assert_eq!(
        (rung(&grant, "mrn"), rung(&grant, "hba1c"), grant.valid_until),
        (Rung::Raw, Rung::Redact, Some(WallNanos(7)))
    );
}

#[test]
fn aggregates_need_a_floor() {
    let cedar = "permit (principal, action in Action::\"up_to_aggregate\", resource);";
    let with = |sql| {
        let bundle = load(&[("p.cedar", cedar), ("p.sql", sql)], &known(CLINIC)).unwrap();
        let grant = decide(&bundle, &subject("r", "p", "prod", ""), &facts(CLINIC, "clinic.patients"));
        (rung(&grant, "hba1c"), grant.floor.map(|f| (f.least, f.counting)))
    };
    assert_eq!(with(""), (Rung::None, None));
    let floor = "CREATE GROUP FLOOR 20 ON clinic.patients COUNTING patient_id";
    assert_eq!(with(floor), (Rung::Aggregate, Some((20, FieldId(1)))));
}

#[test]
fn lists_what_a_bundle_holds() {
    let sql = "CREATE CLASSIFICATION pii; CREATE CLASSIFICATION identifier UNDER pii; TAG COLUMN clinic.patients.mrn AS identifier;
        CREATE DECLASSIFICATION mean FOR AGGREGATE avg, count REMOVES identifier FROM EXPLICIT, IMPLICIT WHEN GROUP SIZE >= 20 COUNTING patient_id;
        CREATE DECLASSIFICATION year FOR FUNCTION date_trunc REPLACES identifier WITH pii FROM EXPLICIT";
    let bundle = load(&[("p.sql", sql)], &known(CLINIC)).unwrap();
    let table: DatasetName = "clinic.patients".parse().unwrap();
    let both = ClassSet::from([Class("identifier".into()), Class("pii".into())]);
    assert_eq!(bundle.tags_of(&table, "mrn"), both);
    assert_eq!(bundle.tags_of_field(&table, FieldId(2), "renamed"), both);
    assert_eq!(bundle.tags()[0].field, Some(FieldId(2)));
    expect![[r#"
        [
            Declassification {
                version: RuleVersion {
                    rule: "mean",
                    epoch: 3,
                },
                target: Aggregates(
                    [
                        "avg",
                        "count",
                    ],
                ),
                removes: Class(
                    "identifier",
                ),
                replaces_with: None,
                from: {
                    Explicit,
                    Implicit,
                },
                group: Some(
                    (
                        20,
                        "patient_id",
                    ),
                ),
            },
            Declassification {
                version: RuleVersion {
                    rule: "year",
                    epoch: 3,
                },
                target: Function(
                    "date_trunc",
                ),
                removes: Class(
                    "identifier",
                ),
                replaces_with: Some(
                    Class(
                        "pii",
                    ),
                ),
                from: {
                    Explicit,
                },
                group: None,
            },
        ]
    "#]]
    .assert_debug_eq(&bundle.declassifications(3));
    let kinds: Vec<_> = bundle.policies().iter().map(|p| format!("{} {}", p.kind, p.id)).collect();
    expect![[r#"
        [
            "classification pii",
            "classification identifier",
            "declassification mean",
            "declassification year",
        ]
    "#]]
    .assert_debug_eq(&kinds);
}

#[test]
fn hashes_tell_all_that_decides() {
    let bundle = clinic();
    let base = subject("research", "research", "prod", "eu");
    let table = facts(CLINIC, "clinic.patients");
    let hash = |s: &Subject, t: &TableFacts| decide(&bundle, s, t).hash;
    assert_eq!(hash(&base, &table), hash(&base.clone(), &table.clone()));
    let changes: [fn(&mut Subject); 6] = [
        |s| s.principal = Principal::from("local/x"),
        |s| s.kind = "service".into(),
        |s| s.stage = "training".into(),
        |s| s.model = Some(String::new()),
        |s| s.environment = "dev".into(),
        |s| s.roles = ["resea", "rch"].map(String::from).into(),
    ];
    for change in changes {
        let mut other = base.clone();
        change(&mut other);
        assert_ne!(subject_key(&base), subject_key(&other));
        assert_ne!(hash(&base, &table), hash(&other, &table));
    }
    let mut elsewhere = base.clone();
    elsewhere.session = Some("s".into());
    elsewhere.region = Some("eu".into());
    assert_eq!(subject_key(&base), subject_key(&elsewhere));
    let mut other = table.clone();
    other.columns[0].data_type = DataType::Int32;
    assert_ne!(facts_hash(&table), facts_hash(&other));
    // A token key that was replaced makes other tokens, so a ticket of before must not fit.
    let keys: Vec<String> = bundle.token_keys(&table.name).into_iter().collect();
    assert_eq!(keys, ["research"]);
    let mut rotated = table.clone();
    rotated.token_keys.insert("research".into(), custody_model::Hash([7; 32]));
    assert_ne!(hash(&base, &table), hash(&base, &rotated));
    let cache = Decisions::new(NonZeroUsize::new(1).unwrap());
    let first = cache.decide(&bundle, &base, &table);
    assert!(std::sync::Arc::ptr_eq(&first, &cache.decide(&bundle, &base, &table)));
    cache.decide(&bundle, &base, &other);
    assert!(!std::sync::Arc::ptr_eq(&first, &cache.decide(&bundle, &base, &table)));
    assert_eq!(first.hash, hash(&base, &table));
    assert_eq!(policy_hash(&bundle.files().iter().rev().cloned().collect::<Vec<_>>()), bundle.hash());
    let name: DatasetName = "clinic.patients".parse().unwrap();
    let columns: Vec<PolicyId> = explain(&name, &first).into_iter().map(|r| r.column).collect();
    assert_eq!(columns, ["mrn", "birth_date", "region", "hba1c"]);
}

/// Every enforcement condition of `decide`, switched off, changes a decision that a test above pins.
#[test]
fn every_condition_matters() {
    let cedar = "
        permit (principal, action in [Action::\"up_to_raw\", Action::\"see_rows\"], resource in Table::\"clinic.patients\") when { context.stage == \"open\" };
        permit (principal, action in Action::\"up_to_raw\", resource in Class::\"a\");
        permit (principal, action in Action::\"up_to_aggregate\", resource in Class::\"b\");
        permit (principal, action in Action::\"up_to_raw\", resource == Column::\"clinic.patients.hba1c\");
        @id(\"overflow\") forbid (principal, action, resource) when { context.stage == \"error\" && 9223372036854775807 + 1 == 0 };";
    let sql = "CREATE CLASSIFICATION a; CREATE CLASSIFICATION b; CREATE CLASSIFICATION c; TAG COLUMN clinic.patients.hba1c AS c;
        TAG COLUMN clinic.patients.birth_date AS a;
        CREATE ROW SET s ON clinic.patients AS region = 'eu'; CREATE GUARD g ON clinic.patients AS consent";
    let bundle = load(&[("p.cedar", cedar), ("p.sql", sql)], &known(CLINIC)).unwrap();
    let decisions = || {
        let mut text = String::new();
        for stage in ["", "open", "error"] {
            for purposes in [vec![], vec![Purpose::from("other")]] {
                for drop_region in [false, true] {
                    let mut facts = facts(CLINIC, "clinic.patients");
                    facts.purposes = purposes.iter().cloned().collect();
                    label(&mut facts, "mrn", &["a", "b"]);
                    label(&mut facts, "patient_id", &["b"]);
                    if drop_region {
                        facts.columns.remove(3);
                    }
                    let mut subject = subject("r", "p", "prod", "");
                    subject.stage = stage.into();
                    let grant = decide(&bundle, &subject, &facts);
                    let _ = writeln!(text, "{}{}", show(&grant), grant.explain_raw);
                }
            }
        }
        text
    };
    let right = decisions();
    for id in enforce::IDS.iter().filter(|id| id.starts_with("decide.")) {
        assert_ne!(enforce::without(id, decisions), right, "`{id}` can be switched off unnoticed");
    }
}
