//! `testdata/declared/statements.txt`: a block `ddl`, then blocks `query NAME` with a statement, `----`, and its rows or its
//! refusal. `UPDATE_GOLDEN=1` writes it anew; read the diff.
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests")]

use super::*;
use std::fmt::Write;

fn text(name: &str, text: &str) -> SourceText {
    SourceText { name: name.into(), path: None, text: text.into() }
}

fn show(rows: &[LineageRow]) -> String {
    let mut out = String::new();
    for r in rows {
        let column = r.source_column.as_deref().unwrap_or("(rows)");
        write!(out, "{} {} {} {column} {} {}", r.output_ordinal, r.output_column, r.source_dataset, r.kind, r.subtype)
            .unwrap();
        if let Some(expression) = &r.expression {
            write!(out, " | {expression}").unwrap();
        }
        if !r.via_view.is_empty() {
            write!(out, " | via {}", r.via_view.join(" > ")).unwrap();
        }
        out.push_str(if r.exact { "\n" } else { " | not exact\n" });
    }
    out
}

#[tokio::test]
async fn statements_over_declared_tables() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/declared/statements.txt");
    let golden = std::fs::read_to_string(&path).unwrap();
    let (mut ddl, mut out) = (String::new(), vec![]);
    for block in golden.trim_end().split("\n\n") {
        let (head, body) = block.split_once('\n').unwrap_or((block, ""));
        if head == "ddl" {
            ddl = body.to_string();
            out.push(block.to_string());
        } else if head.starts_with("query ") {
            let statement = body.split_once("\n----").map_or(body, |(s, _)| s);
            let shown = match declared_rows(&[text("schema.sql", &ddl)], &text("query.sql", statement)).await {
                Ok(rows) => show(&rows),
                Err(problem) => {
                    let at = problem.labels.first().map(|l| format!(" at {}:{}", l.start.line, l.start.column));
                    format!("error{}: {problem}\n", at.unwrap_or_default())
                }
            };
            out.push(format!("{head}\n{statement}\n----\n{}", shown.trim_end()));
        } else {
            out.push(block.to_string());
        }
    }
    let out = out.join("\n\n") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, out).unwrap();
    } else {
        assert!(out == golden, "statements.txt differs; UPDATE_GOLDEN=1 writes it anew\n{out}");
    }
}

#[tokio::test]
async fn a_ddl_text_declares_and_nothing_else() {
    let refused = async |ddl: &str| {
        declared_lineage(&[text("schema.sql", ddl)], &text("query.sql", "SELECT 1 AS a")).await.unwrap_err().to_string()
    };
    assert!(refused("SELECT 1").await.starts_with("C1113 a DDL text holds `CREATE TABLE` and `CREATE VIEW`"));
    assert!(refused("CREATE TABLE t (a INT); CREATE TABLE t (b INT)").await.starts_with("C1129 `t` is declared twice"));
    assert!(refused("CREATE TABLE t (a NOTHING)").await.starts_with("C1103"));
    assert!(refused("CREATE TABLE t (a INT) PARTITION BY a").await.starts_with("C1"));
    assert!(refused("CREATE TABLE t AS SELECT 1 AS a").await.starts_with("C1113"));
    assert!(refused("CREATE VIEW v AS SELECT * FROM t").await.starts_with("C1102"));
}
