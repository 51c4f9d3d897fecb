//! The differential run: our claims beside those of `datafusion-openlineage`, which reads the optimised plan.
//!
//! Every disagreement is a line of `testdata/differential/openlineage.txt` and carries one of the reasons explained there.
//! `UPDATE_GOLDEN=1` writes the file anew: known lines keep their reason, what [`reason`] does not decide gets `?`, which
//! fails until someone has looked.
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests")]

use crate::{
    tests::{World, queries},
    tpc::files,
};
use custody_model::{AtomIx, Direct, Lineage};
use datafusion::{
    common::TableReference,
    logical_expr::{CreateMemoryTable, DdlStatement, Expr, LogicalPlan, LogicalPlanBuilder},
};
use datafusion_openlineage::{DataFusionConfig, OpenLineageConfig, extract};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
};

/// A source column.
type Source = (String, String);

/// Kinds of influence.
type Kinds = BTreeSet<&'static str>;

/// What one extractor claims. The peer has no influences on a single output.
#[derive(Default)]
struct Claims {
    /// Per output and source the strongest kind of DIRECT.
    direct: BTreeMap<(usize, Source), &'static str>,
    /// What decides one output's value.
    field: BTreeMap<(usize, Source), Kinds>,
    /// What decides rows.
    rows: BTreeMap<Source, Kinds>,
}

fn ours(world: &World, lineage: &Lineage) -> Claims {
    let source = |atom: AtomIx| {
        let atom = lineage.atom(atom).unwrap();
        let table = lineage.table(atom).unwrap();
        Some((table.name.to_string().trim_start_matches("public.").to_string(), world.column(table, atom.field?)))
    };
    let mut claims = Claims::default();
    for (i, output) in lineage.outputs.iter().enumerate() {
        let mut strongest: BTreeMap<Source, Direct> = BTreeMap::new();
        for (kind, atom) in &output.direct {
            if let Some(source) = source(*atom) {
                let best = strongest.entry(source).or_insert(*kind);
                *best = (*best).max(*kind);
            }
        }
        claims.direct.extend(strongest.into_iter().map(|(source, kind)| ((i, source), kind.word())));
        for influence in &output.field {
            if let Some(source) = source(influence.atom) {
                claims.field.entry((i, source)).or_default().insert(influence.kind.word());
            }
        }
    }
    for influence in &lineage.dataset {
        if let Some(source) = source(influence.atom) {
            claims.rows.entry(source).or_default().insert(influence.kind.word());
        }
    }
    claims
}

/// The peer's claims about `plan`, or `None` where it gives none.
fn theirs(world: &World, plan: &LogicalPlan) -> Option<Claims> {
    let named = plan.schema().columns().into_iter().enumerate();
    let named: Vec<_> = named.map(|(i, column)| Expr::Column(column).alias(format!("c{i}"))).collect();
    let plan = LogicalPlanBuilder::from(plan.clone()).project(named).unwrap().build().unwrap();
    let plan = world.ctx.state().optimize(&plan).ok()?;
    let plan = LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(CreateMemoryTable {
        name: TableReference::bare("out"),
        constraints: Default::default(),
        input: Arc::new(plan),
        if_not_exists: false,
        or_replace: false,
        column_defaults: vec![],
        temporary: false,
    }));
    let found = extract(&plan, &OpenLineageConfig::for_datafusion());
    let resolved = found.outputs.first()?.column_lineage.clone()?;
    let source = |s: &datafusion_openlineage::column::SourceColumn| (s.dataset.name.clone(), s.column.clone());
    let mut claims = Claims::default();
    for (name, sources) in &resolved.fields {
        let i: usize = name.strip_prefix('c').unwrap().parse().unwrap();
        claims.direct.extend(sources.direct.iter().map(|(s, kind)| ((i, source(s)), kind.subtype())));
    }
    for (s, kinds) in &resolved.indirect {
        claims.rows.insert(source(s), kinds.iter().map(|kind| kind.subtype()).collect());
    }
    Some(claims)
}

/// Disagreements of one statement: what kind, what the peer says, what we say, with the columns it is about.
type Disagreements = BTreeMap<(&'static str, String, String), BTreeSet<String>>;

fn words(kinds: Option<&Kinds>) -> String {
    kinds.map_or("-".into(), |kinds| kinds.iter().copied().collect::<Vec<_>>().join("+"))
}

/// Where `a` (ours) and `b` (the peer's) differ.
fn compare(a: &Claims, b: &Claims) -> Disagreements {
    let mut out = Disagreements::new();
    let mut differ = |what, theirs: String, ours: String, of: String| {
        out.entry((what, theirs, ours)).or_default().insert(of);
    };
    let value = |(output, (table, column)): &(usize, Source)| format!("{output}<{table}.{column}");
    for (pair, kind) in &b.direct {
        match (a.direct.get(pair), a.field.get(pair)) {
            (Some(ours), _) if ours == kind => {}
            (Some(ours), _) => differ("value", kind.to_string(), ours.to_string(), value(pair)),
            (None, field) => differ("value", kind.to_string(), words(field), value(pair)),
        }
    }
    for (pair, kind) in &a.direct {
        if !b.direct.contains_key(pair) {
            differ("value", "-".into(), kind.to_string(), value(pair));
        }
    }
    for (pair, kinds) in &a.field {
        if !b.direct.contains_key(pair) && !b.rows.contains_key(&pair.1) {
            differ("value", "-".into(), words(Some(kinds)), value(pair));
        }
    }
    for source in a.rows.keys().chain(b.rows.keys()) {
        let (ours, theirs) = (a.rows.get(source), b.rows.get(source));
        if ours == theirs {
            continue;
        }
        let of_values: Kinds = a.field.iter().filter(|((_, s), _)| s == source).flat_map(|(_, k)| k).copied().collect();
        let ours = match ours {
            None if !of_values.is_empty() => format!("of a value: {}", words(Some(&of_values))),
            ours => words(ours),
        };
        differ("rows", words(theirs), ours, format!("{}.{}", source.0, source.1));
    }
    out
}

/// The reason of a disagreement that its kind alone tells.
fn reason(what: &str, theirs: &str, ours: &str) -> &'static str {
    const FIELD: [&str; 3] = ["CONDITIONAL", "SORT", "WINDOW"];
    match (what, theirs, ours) {
        ("rows", _, ours) if ours.starts_with("of a value") => "one-value",
        ("rows", theirs, ours) if theirs != "-" && ours != "-" => "renamed",
        ("value", theirs, ours) if theirs != "-" && ours.split('+').all(|kind| FIELD.contains(&kind)) => "decides",
        _ => "?",
    }
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/differential/openlineage.txt")
}

#[tokio::test]
async fn every_disagreement_is_explained() {
    let mut corpus = vec![];
    for suite in ["tpch", "tpcds"] {
        let (ddl, queries) = files(suite);
        corpus.push((suite, ddl, queries));
    }
    for file in ["combined", "nodes", "expressions", "subqueries", "recursion"] {
        let (ddl, queries) = queries(file);
        let queries = queries.into_iter().map(|sql| (sql.split_whitespace().collect::<Vec<_>>().join(" "), sql));
        corpus.push((file, ddl, queries.collect()));
    }
    let (mut lines, mut compared, mut without) = (vec![], 0, 0);
    for (suite, ddl, queries) in corpus {
        let mut world = World::new();
        for statement in &ddl {
            world.declare(statement).await.unwrap();
        }
        for (name, sql) in queries {
            let Ok(plan) = world.plan(&sql).await else { continue };
            let Ok(lineage) = world.extract_without_text(&plan) else { continue };
            if !lineage.exact || matches!(plan, LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_)) {
                continue;
            }
            compared += 1;
            let Some(theirs) = theirs(&world, &plan) else {
                without += 1;
                lines.push((format!("{suite}: {name} | nothing at all"), "no-lineage"));
                continue;
            };
            for ((what, theirs, ours), of) in compare(&ours(&world, &lineage), &theirs) {
                let of = of.into_iter().collect::<Vec<_>>().join(" ");
                let line = format!("{suite}: {name} | {what} | {theirs} | {ours} | {of}");
                lines.push((line, reason(what, &theirs, &ours)));
            }
        }
    }

    let text = fs::read_to_string(path()).unwrap();
    let (legend, known) = text.split_once("\n====\n").unwrap();
    let known: BTreeMap<&str, &str> = known.lines().filter_map(|line| line.rsplit_once(" | ")).collect();
    let reasons: BTreeSet<&str> =
        legend.lines().filter_map(|l| Some(l.strip_prefix("- ")?.split_once(':')?.0)).collect();
    let lines: Vec<String> = lines
        .into_iter()
        .map(|(line, told)| {
            let why = known.get(line.as_str()).copied().filter(|_| told == "?").unwrap_or(told);
            format!("{line} | {why}")
        })
        .collect();
    let new = format!(
        "{legend}\n====\n{compared} statements compared, {without} without lineage by the peer\n{}\n",
        lines.join("\n")
    );
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path(), &new).unwrap();
    }
    for line in &lines {
        let why = line.rsplit(" | ").next().unwrap();
        assert!(reasons.contains(why), "not explained: {line}");
    }
    if std::env::var_os("UPDATE_GOLDEN").is_none() && new != text {
        let differs = new.lines().zip(text.lines()).find(|(a, b)| a != b);
        panic!("run with UPDATE_GOLDEN=1 and read the diff; first difference (new, old): {differs:#?}");
    }
    let used: BTreeSet<&str> = lines.iter().filter_map(|line| line.rsplit(" | ").next()).collect();
    assert_eq!(used, reasons, "reasons used, and those explained");
}
