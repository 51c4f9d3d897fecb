//! Cases are text files under `testdata/dialect`; `UPDATE_GOLDEN=1 cargo test -p custody-dialect` writes their
//! results, which are read in review.
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests")]

use crate::*;
use custody_model::{Pin, Problem, SourceText};
use std::{fmt::Write as _, fs, path::PathBuf};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/dialect"))
}

struct Case {
    title: String,
    input: String,
    expected: String,
}

fn cases(file: &str) -> Vec<Case> {
    let text = fs::read_to_string(folder().join(file)).unwrap();
    text.split("### ")
        .skip(1)
        .map(|case| {
            let (title, rest) = case.split_once('\n').unwrap();
            let (input, expected) =
                rest.split_once("\n----\n").or_else(|| rest.strip_prefix("----\n").map(|e| ("", e))).unwrap();
            Case { title: title.into(), input: input.into(), expected: expected.trim_end().into() }
        })
        .collect()
}

fn golden(file: &str) {
    let cases = cases(file);
    let mut wrong = String::new();
    let mut new = String::new();
    for Case { title, input, expected } in cases {
        let found = show(&SourceText::inline(&*input));
        if found.trim_end() != expected {
            write!(wrong, "### {title}\nexpected\n{expected}\nfound\n{found}\n").unwrap();
        }
        let gap = if input.is_empty() { "" } else { "\n" };
        write!(new, "### {title}\n{input}{gap}----\n{}\n\n", found.trim_end()).unwrap();
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(folder().join(file), new.trim_end().to_string() + "\n").unwrap();
    } else {
        assert!(wrong.is_empty(), "{file}: run with UPDATE_GOLDEN=1 and read the difference\n{wrong}");
    }
}

#[test]
fn gate() {
    golden("gate.txt");
}

#[test]
fn references() {
    golden("references.txt");
}

#[test]
fn statements() {
    golden("statements.txt");
}

#[test]
fn definitions() {
    golden("definitions.txt");
}

/// The documentation shows nothing that is refused.
#[test]
fn documented_statements_parse() {
    let mut seen = 0;
    for entry in fs::read_dir(folder().join("../../docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "md") {
            continue;
        }
        let page = fs::read_to_string(&path).unwrap();
        for block in page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let shown = show(&SourceText { name: name.clone(), path: None, text: block.into() });
            assert!(parse(&SourceText::inline(block)).is_ok(), "{name}: {block}\n{shown}");
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen} blocks");
}

// Plain renderings.

fn show(source: &SourceText) -> String {
    match parse(source) {
        Ok(statements) => statements.iter().map(summary).collect(),
        Err(refusals) => refusals.problems().iter().map(|p| render(p, source)).collect(),
    }
}

fn render(problem: &Problem, source: &SourceText) -> String {
    let mut out = format!("{} {}\n", problem.code, problem.message);
    for label in &problem.labels {
        let line = source.text.split('\n').nth(label.start.line as usize - 1).unwrap_or("").trim_end_matches('\r');
        let gutter = format!("  {}:{} | ", label.start.line, label.start.column);
        let before: String = line
            .chars()
            .chain(std::iter::repeat(' '))
            .take(label.start.column as usize - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let width = if label.end.line == label.start.line { label.end.column - label.start.column } else { 1 };
        let more = if label.end.line == label.start.line {
            String::new()
        } else {
            format!(" … {}:{}", label.end.line, label.end.column)
        };
        let carets = "^".repeat(width as usize);
        writeln!(out, "{gutter}{line}").unwrap();
        writeln!(out, "{}| {before}{carets}{more} {}", " ".repeat(gutter.len() - 2), label.text).unwrap();
    }
    if let Some(help) = &problem.help {
        writeln!(out, "  help: {help}").unwrap();
    }
    out
}

fn pin(pin: Pin) -> String {
    match pin {
        Pin::Newest => String::new(),
        Pin::Version(version) => format!("@{version}"),
        Pin::At(at) => format!("@{}µs", at.0),
    }
}

fn query(query: &GatedQuery) -> String {
    let mut out = String::new();
    for reference in query.references() {
        let at = reference.start;
        writeln!(out, "  reads {}{} at {}:{}", reference.name, pin(reference.pin), at.line, at.column).unwrap();
    }
    for call in query.functions() {
        let from = if call.in_from { " in FROM" } else { "" };
        let with = if call.modifiers.is_empty() { "" } else { " with " };
        let modifier = format!("{with}{}", call.modifiers.join(", "));
        let at = call.place.start;
        writeln!(out, "  calls {}{from}{modifier} at {}:{}", call.name, at.line, at.column).unwrap();
    }
    writeln!(out, "  text {}", query.text_normalised()).unwrap();
    out
}

fn key(key: &Key) -> String {
    let columns: Vec<&str> = key.columns.iter().map(|c| c.value.as_str()).collect();
    let known = key.known_time.as_ref().map(|k| format!(", known {}", k.value)).unwrap_or_default();
    format!("  key {} ({}), event {}{known}\n", key.entity.value, columns.join(", "), key.event_time.value)
}

fn clauses(clauses: &Clauses) -> String {
    let Clauses { owner, purposes, comment, expectations, renamed_from, renamed_columns } = clauses;
    let mut out = String::new();
    if let Some(owner) = owner {
        writeln!(out, "  owner {}", owner.value).unwrap();
    }
    for purpose in purposes {
        writeln!(out, "  purpose {}", purpose.value).unwrap();
    }
    if let Some(comment) = comment {
        writeln!(out, "  comment {comment}").unwrap();
    }
    for expectation in expectations {
        let kind = match &expectation.check {
            Check::Expr(_) => "expr",
            Check::Unique(_) => "unique",
        };
        writeln!(out, "  expect {kind} {} or {:?}", expectation.text, expectation.on_violation).unwrap();
    }
    if let Some(name) = renamed_from {
        writeln!(out, "  was {}", name.value).unwrap();
    }
    for renamed in renamed_columns {
        writeln!(out, "  column {} was {}", renamed.new.value, renamed.old.value).unwrap();
    }
    out
}

fn summary(statement: &Located<Statement>) -> String {
    let Located { value, text: _, start, end } = statement;
    let mut out = format!("{} {}:{}-{}:{}", value.words(), start.line, start.column, end.line, end.column);
    if let Some(name) = value.defines() {
        write!(out, " {}", name.value).unwrap();
    }
    out.push('\n');
    match value {
        Statement::Query(_) => {}
        Statement::Explain(kind, _) => writeln!(out, "  {kind:?}").unwrap(),
        Statement::Prepare(def) => writeln!(out, "  {} {:?}", def.name.value, def.parameters).unwrap(),
        Statement::Execute(def) => {
            let arguments: Vec<String> = def.arguments.iter().map(|a| a.to_string()).collect();
            writeln!(out, "  {} ({})", def.name.value, arguments.join(", ")).unwrap();
        }
        Statement::Source(def) => {
            writeln!(out, "  {} {}", def.format.word(), def.location.value).unwrap();
            for column in &def.columns {
                let null = if column.nullable { "" } else { " not null" };
                writeln!(out, "  {} {}{null}", column.name, column.data_type).unwrap();
            }
            out.push_str(&key(&def.key));
            out.push_str(&clauses(&def.clauses));
        }
        Statement::FeatureView(def) => {
            out.push_str(&key(&def.key));
            if let Some(ttl) = &def.ttl {
                writeln!(out, "  ttl {}", ttl.value).unwrap();
            }
            if def.match_strict.is_some() {
                out.push_str("  strict\n");
            }
            if let Some(incremental) = &def.incremental {
                writeln!(out, "  incremental by {} lookback {}", incremental.column.value, incremental.lookback)
                    .unwrap();
            }
            out.push_str(&clauses(&def.clauses));
        }
        Statement::TrainingSet(def) => {
            let TrainingDef { name: _, key: spine, label, spine: _, features, known_at, sample, split, clauses: more } =
                &**def;
            out.push_str(&key(spine));
            writeln!(out, "  label {}, {known_at:?}", label.value).unwrap();
            for item in features {
                let of = &item.reference;
                let columns = item.columns.as_ref().map_or("*".into(), |columns| {
                    columns.iter().map(|(c, a)| format!("{} as {}", c.value, a.value)).collect::<Vec<_>>().join(", ")
                });
                writeln!(out, "  feature {}{}: {columns}", of.name, pin(of.pin)).unwrap();
            }
            let by: Vec<_> = split.columns.iter().map(|c| c.value.as_str()).collect();
            if let Some(s) = sample {
                let by: Vec<_> = s.columns.iter().map(|c| c.value.as_str()).collect();
                writeln!(out, "  sample by {} {} in {} seed {}", by.join(", "), s.take, s.of, s.seed).unwrap();
            }
            writeln!(out, "  split by {} into {:?} seed {}", by.join(", "), split.parts, split.seed).unwrap();
            out.push_str(&clauses(more));
        }
        Statement::View(def) => {
            if def.definer {
                out.push_str("  definer\n");
            }
            for (word, value) in [("owner", def.owner.as_ref().map(|o| &o.value)), ("comment", def.comment.as_ref())] {
                if let Some(value) = value {
                    writeln!(out, "  {word} {value}").unwrap();
                }
            }
        }
    }
    if let Some(inner) = value.query() {
        out.push_str(&query(inner));
    }
    out
}

// Bounds.

fn first_problem(text: &str) -> String {
    match parse(&SourceText::inline(text)) {
        Ok(_) => "passes".into(),
        Err(refusals) => refusals.problems()[0].message.clone(),
    }
}

#[test]
fn bounds_hold_before_anything_is_parsed() {
    let chain = |n: usize, op: &str| format!("SELECT {}", vec!["1"; n + 1].join(op));
    let many = |n: usize, item: &str, between: &str| vec![item; n].join(between);
    for op in [" + ", " AND ", " OR ", " || ", " IS DISTINCT FROM ", " = "] {
        // sqlparser reads the right side of `IS DISTINCT FROM` by recursion, up to its own limit.
        let longest = if op.contains("DISTINCT") { 20 } else { MAX_CHAIN };
        assert_eq!(first_problem(&chain(longest, op)), "passes", "{op}");
        assert_eq!(first_problem(&chain(MAX_CHAIN + 1, op)), "more than 256 operators in a chain", "{op}");
    }
    // A keyword that is also a name does not hide a chain; neither do parentheses, casts or CASE.
    for chain in [
        format!("SELECT {}", many(300, "limit", " + ")),
        format!("SELECT {}", many(300, "values", " + ")),
        format!("SELECT {}", many(300, "1", " + end + ")),
        format!("SELECT '1'{}", "::TIMESTAMP WITH TIME ZONE".repeat(300)),
        format!("SELECT a{}", "::INT[]".repeat(300)),
        format!("SELECT a::INT{}", "[]".repeat(300)),
        format!("SELECT {}(1){}", "(1 + ".repeat(40), format!("{})", " + 1".repeat(10)).repeat(40)),
        format!("SELECT {}", many(300, "sum(x) WITHIN GROUP (ORDER BY y)", " + ")),
        format!("SELECT CASE WHEN {} THEN 1 END", many(300, "a", " AND ")),
        format!("SELECT {}", many(300, "CASE WHEN a THEN 1 END", " + ")),
        format!("SELECT 1{}", " AT TIME ZONE 'UTC'".repeat(300)),
        format!("SELECT 1{}", " COLLATE \"de\"".repeat(300)),
        format!("SELECT {} 1", "- ".repeat(300)),
        format!("SELECT {} 1", "NOT ".repeat(300)),
        format!("SELECT {} '1'", "INTERVAL ".repeat(300)),
        format!("SELECT 1 FROM raw.t{}", " PIVOT (sum(v) FOR t IN ('a'))".repeat(300)),
    ] {
        assert_eq!(first_problem(&chain), "more than 256 operators in a chain", "{}", &chain[..60]);
    }
    // Long but flat is fine.
    for flat in [
        format!("SELECT 1 FROM raw.t WHERE x IN ({})", many(5_000, "1", ", ")),
        format!("SELECT CASE {} END", "WHEN a = 1 AND b = 2 THEN 3 ".repeat(500)),
        format!("SELECT {}", many(1_000, "a + b", ", ")),
        format!("VALUES {}", many(1_000, "(1, 1 + 1)", ", ")),
    ] {
        assert_eq!(first_problem(&flat), "passes", "{}", &flat[..40]);
    }
    let refused = format!("SELECT floor({} TO DAY)", many(255, "1", " + "));
    assert_eq!(first_problem(&refused), "ceil or floor TO a time unit is not part of the dialect");
    assert_eq!(first_problem(&many(257, "SELECT 1", " UNION ALL ")), "passes");
    assert_eq!(first_problem(&many(258, "SELECT 1", " UNION ALL ")), "more than 256 set operations in a statement");
    let ctes = |n: usize| {
        let list: Vec<String> = (0..n).map(|i| format!("c{i} AS (SELECT 1)")).collect();
        format!("WITH {} SELECT * FROM c0", list.join(", "))
    };
    assert_eq!(first_problem(&ctes(256)), "passes");
    assert_eq!(first_problem(&ctes(257)), "more than 256 `WITH` names in a statement");
    assert_eq!(first_problem(&format!("SELECT 1 FROM {}", many(65, "raw.t", ", "))), "passes");
    assert_eq!(
        first_problem(&format!("SELECT 1 FROM {}", many(66, "raw.t", " CROSS JOIN "))),
        "more than 64 joins in a statement"
    );
    assert_eq!(first_problem(&format!("SELECT {}", many(2_000, "1", ", "))), "passes");
    assert_eq!(first_problem(&format!("SELECT {}", many(2_001, "1", ", "))), "more than 2000 columns");
    assert_eq!(first_problem(&format!("SELECT {}1{}", "(".repeat(51), ")".repeat(51))), "nested more than 50 deep");
    assert_eq!(first_problem(&format!("SELECT '{}'", "x".repeat(1 << 20))), "statement is larger than 1 MiB");
}

#[test]
fn modifiers_that_a_function_does_not_read() {
    let text = "SELECT abs(DISTINCT x), count(DISTINCT y), row_number() FILTER (WHERE z) OVER (ORDER BY t), \
                lag(x) IGNORE NULLS OVER (ORDER BY t), lower(x) OVER (), nosuch(DISTINCT x) FROM raw.t";
    let parsed = parse(&SourceText::inline(text)).unwrap();
    let kind = |name: &str| match name {
        "abs" | "lower" => Some(FunctionKind::Scalar),
        "count" => Some(FunctionKind::Aggregate),
        "row_number" | "lag" => Some(FunctionKind::Window),
        _ => None,
    };
    let problems = parsed[0].value.query().unwrap().dropped_modifiers(kind);
    let shown: Vec<String> =
        problems.iter().map(|p| format!("{} at {}", p.message, p.labels[0].start.column)).collect();
    assert_eq!(
        shown,
        [
            "`DISTINCT` has no meaning for scalar function `abs` at 8",
            "`FILTER` has no meaning for window function `row_number` at 44",
            "`OVER` has no meaning for scalar function `lower` at 132",
        ]
    );
}

#[test]
fn definitions_belong_in_project_files() {
    let refused = |text: &str| parse(&SourceText::inline(text)).unwrap()[0].refused_in_session().map(|p| p.message);
    assert_eq!(refused("SELECT 1"), None);
    assert_eq!(refused("CREATE VIEW a.b AS SELECT 1").unwrap(), "statement `CREATE VIEW` belongs in a project file");
}

#[test]
fn no_word_makes_the_parser_recurse_without_bound() {
    for word in sqlparser::keywords::ALL_KEYWORDS {
        for head in ["SELECT 1 + ", "SELECT 1 FROM raw.t "] {
            let text = format!("{head}{}", format!("{word} ").repeat(1_500));
            assert_ne!(first_problem(&text), "", "{word}");
        }
    }
}

// Order of definitions.

#[test]
fn definitions_come_after_what_they_read() {
    let view = |name: &str, from: &str| {
        format!("CREATE FEATURE VIEW features.{name} ENTITY e (id) EVENT TIME ts AS SELECT id, ts FROM {from}")
    };
    let order_of = |views: &[String]| {
        let sources: Vec<SourceText> = views
            .iter()
            .enumerate()
            .map(|(i, text)| SourceText { name: format!("features/{i}.sql"), path: None, text: text.clone() })
            .collect();
        let parsed: Vec<_> = sources.iter().map(|s| parse(s).unwrap().remove(0)).collect();
        let definitions: Vec<Definition<'_>> =
            sources.iter().zip(&parsed).map(|(source, statement)| Definition { source, statement }).collect();
        match order(&definitions) {
            Ok(order) => order
                .iter()
                .map(|&i| parsed[i].value.defines().unwrap().value.to_string())
                .collect::<Vec<_>>()
                .join(" "),
            Err(refusals) => {
                let problem = &refusals.problems()[0];
                let label = &problem.labels[0];
                format!(
                    "{} [{}:{}:{}]",
                    problem.message,
                    problem.file.as_deref().unwrap(),
                    label.start.line,
                    label.start.column
                )
            }
        }
    };
    let chain = [view("c", "features.b"), view("b", "features.a, raw.labs"), view("a", "raw.labs")];
    assert_eq!(order_of(&chain), "features.a features.b features.c");
    let cycle = [view("a", "raw.x, features.b"), view("b", "features.c"), view("c", "features.a")];
    assert_eq!(order_of(&cycle), "cycle: features.a → features.b → features.c → features.a [features/2.sql:1:82]");
    assert_eq!(order_of(&[view("a", "features.a")]), "cycle: features.a → features.a [features/0.sql:1:82]");
    assert_eq!(order_of(&[view("a", "features.a VERSION 1")]), "features.a");
    let twice = [view("a", "raw.x"), view("a", "raw.y")];
    assert_eq!(order_of(&twice), "`features.a` is defined twice [features/1.sql:1:21]");
    let long: Vec<String> = (0..3_000).map(|i| view(&format!("v{i}"), &format!("features.v{}", i + 1))).collect();
    assert!(order_of(&long).starts_with("features.v2999 features.v2998 "));
}

// Planning with DataFusion.

mod planning {
    use super::*;
    use arrow_schema::{DataType, Field, Schema, SchemaRef};
    use datafusion_common::{DFSchema, Result, TableReference, config::ConfigOptions, plan_err};
    use datafusion_expr::{
        AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF,
        planner::{ContextProvider, RelationPlanner, RelationPlannerContext, TypePlanner},
    };
    use datafusion_sql::planner::SqlToRel;
    use sqlparser::ast::{self, TableFactor};
    use std::sync::Arc;

    /// A table with a column that says which pin it is.
    #[derive(Debug)]
    struct Table(SchemaRef);

    impl TableSource for Table {
        fn schema(&self) -> SchemaRef {
            Arc::clone(&self.0)
        }
    }

    fn table(reference: &Reference) -> Arc<dyn TableSource> {
        let own = match reference.pin {
            Pin::Newest => "newest".to_string(),
            Pin::Version(version) => format!("v{version}"),
            Pin::At(at) => format!("at{}", at.0),
        };
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        Arc::new(Table(Arc::new(Schema::new(vec![field("id"), field(&own)]))))
    }

    /// A session without tables and functions.
    struct Session {
        options: ConfigOptions,
        relations: [Arc<dyn RelationPlanner>; 1],
    }

    impl Session {
        fn new(relations: Relations) -> Self {
            Self { options: ConfigOptions::default(), relations: [Arc::new(relations)] }
        }
    }

    impl ContextProvider for Session {
        fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
            plan_err!("raw table {name}")
        }

        fn get_function_meta(&self, _name: &str) -> Option<Arc<ScalarUDF>> {
            None
        }

        fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
            None
        }

        fn get_aggregate_meta(&self, _name: &str) -> Option<Arc<AggregateUDF>> {
            None
        }

        fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
            None
        }

        fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
            None
        }

        fn options(&self) -> &ConfigOptions {
            &self.options
        }

        fn udf_names(&self) -> Vec<String> {
            vec![]
        }

        fn higher_order_function_names(&self) -> Vec<String> {
            vec![]
        }

        fn udaf_names(&self) -> Vec<String> {
            vec![]
        }

        fn udwf_names(&self) -> Vec<String> {
            vec![]
        }

        fn create_cte_work_table(&self, _name: &str, schema: SchemaRef) -> Result<Arc<dyn TableSource>> {
            Ok(Arc::new(Table(schema)))
        }

        fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
            &self.relations
        }

        fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
            Some(Arc::new(Types))
        }
    }

    impl RelationPlannerContext for Session {
        fn context_provider(&self) -> &dyn ContextProvider {
            self
        }

        fn plan(&mut self, relation: TableFactor) -> Result<LogicalPlan> {
            plan_err!("{relation}")
        }

        fn sql_to_expr(&mut self, expr: ast::Expr, _schema: &DFSchema) -> Result<Expr> {
            plan_err!("{expr}")
        }

        fn sql_expr_to_logical_expr(&mut self, expr: ast::Expr, _schema: &DFSchema) -> Result<Expr> {
            plan_err!("{expr}")
        }

        fn normalize_ident(&self, ident: ast::Ident) -> String {
            ident.value
        }

        fn object_name_to_table_reference(&self, name: ast::ObjectName) -> Result<TableReference> {
            plan_err!("{name}")
        }
    }

    fn logical(text: &str, known: impl Fn(&Reference) -> bool) -> Result<LogicalPlan> {
        let parsed = parse(&SourceText::inline(text)).unwrap();
        let query = parsed[0].value.query().unwrap();
        let tables = query.references().iter().filter(|r| known(r)).map(|r| (r.clone(), table(r)));
        let session = Session::new(Relations::new(tables));
        SqlToRel::new(&session).sql_statement_to_plan(ast::Statement::Query(Box::new(query.clone().into_ast())))
    }

    fn plan(text: &str, known: impl Fn(&Reference) -> bool) -> String {
        match logical(text, known) {
            Ok(plan) => plan.schema().columns().iter().map(|c| c.flat_name()).collect::<Vec<_>>().join(", "),
            Err(error) => error.strip_backtrace().lines().next().unwrap_or_default().to_string(),
        }
    }

    #[test]
    fn pins_reach_the_planner() {
        let all = |text: &str| plan(text, |_| true);
        assert_eq!(all("SELECT * FROM raw.labs"), "raw.labs.id, raw.labs.newest");
        assert_eq!(all("SELECT * FROM raw.labs VERSION 7"), "raw.labs.id, raw.labs.v7");
        assert_eq!(
            all("SELECT * FROM Raw.Labs TIMESTAMP AS OF '1970-01-01T00:00:01Z'"),
            "raw.labs.id, raw.labs.at1000000"
        );
        assert_eq!(all("SELECT l.* FROM raw.labs VERSION 7 AS l"), "l.id, l.v7");
        assert_eq!(all("SELECT labs.v7, raw.labs.id FROM raw.labs VERSION 7"), "raw.labs.v7, raw.labs.id");
        assert_eq!(all("SELECT r.* FROM system.access.reads AS r"), "r.id, r.newest");
        assert_eq!(all("SELECT system.access.reads.id FROM system.access.reads"), "system.access.reads.id");
        assert_eq!(
            all("SELECT * FROM raw.a VERSION 1 AS a JOIN raw.a VERSION 2 AS b ON a.id = b.id"),
            "a.id, a.v1, b.id, b.v2"
        );
        assert_eq!(all("WITH labs AS (SELECT v3 FROM raw.labs VERSION 3) SELECT * FROM labs"), "labs.v3");
        assert_eq!(all("SELECT id FROM raw.a WHERE EXISTS (SELECT v4 FROM raw.b VERSION 4)"), "raw.a.id");
        assert_eq!(all("SELECT id FROM raw.a WHERE id IN (SELECT v4 FROM raw.b VERSION 4)"), "raw.a.id");
        assert_eq!(
            all(
                "WITH RECURSIVE r AS (SELECT v1 AS n FROM raw.a VERSION 1 UNION ALL SELECT n + 1 FROM r) SELECT * FROM r"
            ),
            "r.n"
        );
    }

    #[test]
    fn nothing_is_planned_that_was_not_given() {
        let not_found = "Error during planning: table `raw.labs` not found";
        assert_eq!(plan("SELECT 1 FROM raw.labs", |_| false), not_found);
        let newest = |text: &str| plan(text, |r| r.pin == Pin::Newest);
        assert_eq!(newest("SELECT 1 FROM raw.labs AS a, raw.labs VERSION 2 AS b"), not_found);
        assert_eq!(newest("SELECT 1 FROM raw.a WHERE EXISTS (SELECT 1 FROM raw.labs VERSION 2)"), not_found);
    }

    #[test]
    fn a_table_factor_that_did_not_pass_the_gate_is_refused() {
        for text in [
            "raw.labs TABLESAMPLE (10)",
            "raw.labs WITH ORDINALITY",
            "raw.labs PARTITION (p)",
            "raw.labs WITH (NOLOCK)",
            "raw.f(1)",
            "a.b.c.d",
            "\"Raw\".labs",
        ] {
            let factor = sqlparser::parser::Parser::new(&sqlparser::dialect::GenericDialect {})
                .try_with_sql(text)
                .unwrap()
                .parse_table_factor()
                .unwrap();
            let mut session = Session::new(Relations::default());
            assert!(Relations::default().plan_relation(factor, &mut session).is_err(), "{text}");
        }
    }

    #[test]
    fn timestamps_are_microseconds_utc() {
        let plan = logical("SELECT CAST(NULL AS TIMESTAMP) AS t, TIMESTAMP '2026-01-01' AS u", |_| true).unwrap();
        for field in plan.schema().fields() {
            assert_eq!(*field.data_type(), timestamp_type());
        }
        let none = ast::TimezoneInfo::None;
        assert!(Types.plan_type_field(&ast::DataType::Timestamp(Some(9), none)).is_err());
        assert!(Types.plan_type_field(&ast::DataType::Datetime(None)).is_err());
    }
}

// Random texts.

mod random {
    use super::*;

    fn inputs() -> Vec<String> {
        ["gate.txt", "references.txt", "statements.txt", "definitions.txt"]
            .iter()
            .flat_map(|file| cases(file))
            .map(|case| case.input)
            .collect()
    }

    struct SplitMix64(u64);

    impl SplitMix64 {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) as usize % bound.max(1)
        }
    }

    /// Whatever it says, it says it about a place in the text.
    fn sane(text: &str) {
        let source = SourceText::inline(text);
        let lines: Vec<usize> = text.split('\n').map(|l| l.chars().count()).collect();
        let inside = |p: custody_model::Position| {
            let line = usize::try_from(p.line).unwrap();
            line >= 1 && line <= lines.len() && p.column >= 1 && p.column as usize <= lines[line - 1] + 2
        };
        match parse(&source) {
            Ok(statements) => {
                for statement in statements {
                    assert!(inside(statement.start) && inside(statement.end), "{text}");
                    assert!(text.contains(&statement.text), "{text}");
                    for reference in statement.value.query().map_or(&[][..], |q| q.references()) {
                        assert!(inside(reference.start) && inside(reference.end), "{text}");
                    }
                }
            }
            Err(refusals) => {
                assert!(!refusals.problems().is_empty());
                for problem in refusals.problems() {
                    for label in &problem.labels {
                        assert!(
                            inside(label.start) && inside(label.end) && label.start < label.end,
                            "{text}\n{problem:?}"
                        );
                    }
                }
            }
        }
        normalise(text);
    }

    #[test]
    fn a_mutated_text_is_refused_or_parsed() {
        let inputs = inputs();
        let words = |text: &str| text.split_inclusive([' ', '(', ')', ',', '.']).map(String::from).collect::<Vec<_>>();
        let mut random = SplitMix64(7);
        for _ in 0..5_000 {
            let mut text = words(&inputs[random.below(inputs.len())]);
            let donor = words(&inputs[random.below(inputs.len())]);
            for _ in 0..random.below(6) {
                if text.is_empty() || donor.is_empty() {
                    break;
                }
                let at = random.below(text.len());
                match random.below(6) {
                    0 => drop(text.remove(at)),
                    1 => text.insert(at, text[at].clone()),
                    2 => text.insert(at, format!("{} ", donor[random.below(donor.len())])),
                    3 => text.truncate(at),
                    4 => text.insert(at, char::from_u32(random.below(0x3000) as u32).unwrap_or(' ').to_string()),
                    _ => text[at] = text[at].chars().rev().collect(),
                }
            }
            sane(&text.concat());
        }
    }

    #[test]
    fn any_characters() {
        let alphabet: Vec<char> = "aA0_ .,;:()[]{}<>=!|&^~+-*/%'\"`$?@#\\\n\t\rüẞ\u{301}\u{1f600}".chars().collect();
        let mut random = SplitMix64(8);
        for _ in 0..5_000 {
            let text: String = (0..random.below(60)).map(|_| alphabet[random.below(alphabet.len())]).collect();
            sane(&text);
        }
    }

    #[test]
    fn spacing_and_case_do_not_change_the_normal_form() {
        for text in inputs() {
            if text.contains(['\'', '"', '$']) || text.contains("--") || text.contains("/*") {
                continue;
            }
            let spaced = text.replace(' ', " \n\t /* x */ ").to_uppercase();
            assert_eq!(normalise(&text), normalise(&spaced), "{text}");
        }
        let normal = |text: &str| normalise(text).unwrap();
        assert_eq!(normal("SELECT 1, 'x' FROM a.b VERSION 5"), normal("select 22 , 'yy' from A.B version as of 6"));
        assert_eq!(normalise("SELECT 'unfinished"), None);
    }
}
