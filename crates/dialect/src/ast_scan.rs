//! sqlparser's own source, read: every field that the syntax tree of a query can hold has a reader in the gate, or stands
//! below a clause that is refused.
//!
//! The gate takes structs apart without `..`, so that a new field of such a struct does not compile. What that cannot see
//! is a struct that nobody takes apart. Here all types reachable from `Query` are collected from the source of the very
//! crate that is linked; each struct must be taken apart in full somewhere in the gate, be read by position or name (then
//! its fields are listed here), or be refused, which a statement shows. All of it is pinned in
//! `testdata/dialect/ast.txt`: `UPDATE_GOLDEN=1` writes it anew after an upgrade; read the difference.
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests")]

use custody_model::SourceText;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Read without being taken apart: these fields, and no others.
const READ: &[(&str, &[&str])] =
    &[("AttachedToken", &["0"]), ("NamedWindowDefinition", &["0", "1"]), ("ObjectName", &["0"])];

/// Refused with everything in it.
const REFUSED: &[(&str, &str)] = &[
    ("DictionaryField", "SELECT {'a': 1} FROM raw.t"),
    ("ExceptSelectItem", "SELECT * EXCEPT (a) FROM raw.t"),
    ("HavingBound", "SELECT any_value(a HAVING MAX b) FROM raw.t"),
    ("IlikeSelectItem", "SELECT * ILIKE 'a%' FROM raw.t"),
    ("InterpolateExpr", "SELECT a FROM raw.t ORDER BY a WITH FILL INTERPOLATE (b AS b + 1)"),
    ("JsonPath", "SELECT a:b FROM raw.t"),
    ("JsonReturningClause", "SELECT json_object('a' VALUE 1 RETURNING jsonb) FROM raw.t"),
    ("LambdaFunctionParameter", "SELECT array_filter(a, (x INT) -> x > 1) FROM raw.t"),
    ("MapEntry", "SELECT MAP {'a': 1} FROM raw.t"),
    ("MemberOf", "SELECT 1 MEMBER OF (a) FROM raw.t"),
    ("ObjectNamePartFunction", "SELECT * FROM IDENTIFIER('raw.t')"),
    ("OptimizerHint", "SELECT /*+ fast */ a FROM raw.t"),
    ("ReplaceSelectItem", "SELECT * REPLACE (1 AS a) FROM raw.t"),
    ("Setting", "SELECT a FROM raw.t SETTINGS x = 1"),
    ("StructField", "SELECT STRUCT<a INT>(1) FROM raw.t"),
    ("TableSampleBucket", "SELECT * FROM raw.t TABLESAMPLE (BUCKET 1 OUT OF 2)"),
    ("TableSampleQuantity", "SELECT * FROM raw.t TABLESAMPLE (10 ROWS)"),
    ("TableSampleSeed", "SELECT * FROM raw.t TABLESAMPLE BERNOULLI (10) REPEATABLE (7)"),
];

/// A type of the syntax tree: its cases, or the one that a struct is; each with fields and their types.
struct Item {
    is_enum: bool,
    cases: Vec<(String, Vec<(String, String)>)>,
}

/// Where the source of the linked sqlparser lies.
fn sqlparser() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let told = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let path = told.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let path = path.map(Path::new).find(|p| p.to_string_lossy().contains("/sqlparser-")).unwrap();
    path.parent().unwrap().join("src/ast")
}

fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// Without comments and attributes.
fn bare(text: &str) -> String {
    let lines: String =
        text.lines().map(|l| l.split_once("//").map_or(l, |(code, _)| code)).flat_map(|l| [l, "\n"]).collect();
    let mut out = String::new();
    let mut rest = lines.as_str();
    while let Some(at) = rest.find("#[") {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        rest = &rest[block(rest).len() + 2..];
    }
    out + rest
}

/// What the bracket at the beginning encloses.
fn block(text: &str) -> &str {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[1..i];
        }
    }
    panic!("a bracket is not closed");
}

/// Parts between commas that stand in no bracket.
fn parts(text: &str) -> Vec<String> {
    let (mut out, mut depth, mut part) = (vec![], 0, String::new());
    for c in text.chars() {
        match c {
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' | '>' => depth -= 1,
            ',' if depth == 0 => {
                out.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    out.push(part);
    out.into_iter().map(|p| p.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|p| !p.is_empty()).collect()
}

/// Fields in braces by name, in parentheses by position.
fn fields(text: &str) -> Vec<(String, String)> {
    let named = text.starts_with('{');
    let parts = parts(block(text)).into_iter().map(|p| p.strip_prefix("pub ").map_or(p.clone(), str::to_string));
    parts
        .enumerate()
        .map(|(i, part)| match part.split_once(':').filter(|_| named) {
            Some((name, of)) => (name.trim().to_string(), of.trim().to_string()),
            None => (i.to_string(), part),
        })
        .collect()
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty())
}

fn items(source: &str) -> BTreeMap<String, Item> {
    let mut out = BTreeMap::new();
    for (keyword, is_enum) in [("pub struct ", false), ("pub enum ", true)] {
        for rest in source.split(keyword).skip(1) {
            let name = word(rest).to_string();
            let after = &rest[name.len()..];
            let Some(at) = after.find(['{', '(', ';']) else { continue };
            if after[at..].starts_with(';') {
                continue;
            }
            let cases = if is_enum {
                let variants = parts(block(&after[at..])).into_iter();
                variants
                    .map(|v| {
                        let inner = v.find(['{', '(']).map(|at| fields(&v[at..])).unwrap_or_default();
                        (word(&v).to_string(), inner)
                    })
                    .collect()
            } else {
                vec![(String::new(), fields(&after[at..]))]
            };
            out.insert(name, Item { is_enum, cases });
        }
    }
    out
}

/// Whether the gate takes this struct apart in full: all its fields by name, no `..`.
fn taken_apart(name: &str, item: &Item, gate: &str) -> bool {
    let wanted: BTreeSet<&str> = item.cases[0].1.iter().map(|(field, _)| field.as_str()).collect();
    gate.match_indices(&format!("{name} {{")).any(|(at, _)| {
        let before = gate[..at].chars().next_back();
        let whole = before.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let fields = parts(block(&gate[at + name.len() + 1..]));
        let fields: BTreeSet<&str> = fields.iter().map(|f| f.split([':', ' ']).next().unwrap()).collect();
        whole && fields == wanted
    })
}

#[test]
fn every_field_of_a_query_is_read_or_refused() {
    let mut source = String::new();
    sources(&sqlparser(), &mut source);
    let items = items(&bare(&source));
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let gate = ["gate.rs", "reference.rs", "types.rs", "asof.rs", "relations.rs", "rewrite.rs"];
    let gate: String = gate.iter().map(|f| bare(&fs::read_to_string(here.join(f)).unwrap())).collect();
    let named: BTreeSet<String> = gate
        .match_indices("::")
        .map(|(at, _)| {
            let before = gate[..at].rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            format!("{before}::{}", word(&gate[at + 2..]))
        })
        .collect();

    let (mut seen, mut open) = (BTreeSet::new(), vec!["Query".to_string()]);
    let mut golden = String::new();
    let mut wrong = vec![];
    while let Some(name) = open.pop() {
        // Whole statements within a query are refused as such.
        if name == "Statement" || !seen.insert(name.clone()) {
            continue;
        }
        let item = &items[&name];
        let refused = REFUSED.iter().any(|(n, _)| *n == name);
        let read = READ.iter().find(|(n, _)| *n == name);
        if !item.is_enum && !refused {
            let listed: Vec<&str> = item.cases[0].1.iter().map(|(field, _)| field.as_str()).collect();
            match read {
                Some((_, fields)) if *fields == listed => {}
                Some(_) => wrong.push(format!("`{name}` has other fields than those read: {listed:?}")),
                None if taken_apart(&name, item, &gate) => {}
                None => wrong.push(format!("nobody takes `{name}` apart: {listed:?}")),
            }
        }
        for (case, fields) in &item.cases {
            let known = !item.is_enum || named.contains(&format!("{name}::{case}"));
            if !known || refused {
                continue;
            }
            for (_, of) in fields {
                open.extend(words(of).filter(|w| items.contains_key(*w)).map(str::to_string));
            }
        }
    }
    for name in &seen {
        let item = &items[name];
        for (case, fields) in &item.cases {
            let how = match item.is_enum {
                true if named.contains(&format!("{name}::{case}")) => "named",
                true => "by default",
                false if REFUSED.iter().any(|(n, _)| n == name) => "refused",
                false if READ.iter().any(|(n, _)| n == name) => "read",
                false => "taken apart",
            };
            let fields: Vec<String> = fields.iter().map(|(field, of)| format!("{field}: {of}")).collect();
            let case = if case.is_empty() { String::new() } else { format!("::{case}") };
            golden.push_str(&format!("{name}{case} ({}) {how}\n", fields.join(", ")));
        }
    }
    for (name, _) in REFUSED.iter().map(|(n, t)| (n, Some(t))).chain(READ.iter().map(|(n, _)| (n, None))) {
        if !seen.contains(*name) {
            wrong.push(format!("`{name}` is listed here and no query holds it"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.len() > 100 && seen.contains("Select") && seen.contains("TableFactor"), "{}", seen.len());

    let file = here.join("../../../testdata/dialect/ast.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &golden).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    let differ: Vec<&str> = golden.lines().filter(|l| !expected.contains(*l)).collect();
    assert!(expected == golden, "sqlparser's syntax tree or the gate changed; new lines:\n{}", differ.join("\n"));
}

#[test]
fn what_is_listed_as_refused_is_refused_with_a_place() {
    for (name, text) in REFUSED {
        let refusals = crate::parse(&SourceText::inline(*text)).err().unwrap_or_else(|| panic!("{name}: {text}"));
        assert!(refusals.problems().iter().all(|p| !p.labels.is_empty()), "{name}: {text}: {refusals:?}");
    }
}

/// The scan itself finds a field that nobody reads.
#[test]
fn a_struct_that_is_not_taken_apart_in_full_is_found() {
    let items = items("pub struct A { pub a: u8, pub b: Option<Vec<B>>, } pub enum B { C, D(u8), E { f: A } }");
    assert!(taken_apart("A", &items["A"], "let A { a, b: _ } = x;"));
    for gate in ["let A { a, .. } = x;", "let A { a } = x;", "let BA { a, b } = x;", "x.a; x.b;"] {
        assert!(!taken_apart("A", &items["A"], gate), "{gate}");
    }
    let fields: Vec<_> = items["B"].cases.iter().map(|(name, f)| (name.as_str(), f.len())).collect();
    assert_eq!(fields, [("C", 0), ("D", 1), ("E", 1)]);
}
