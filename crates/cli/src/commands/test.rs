//! `custody test`: what queries of the project's `tests/*.slt` are expected to answer, each a governed and audited read.
//!
//! The files have sqllogictest's form: `connection NAME` says as which stand-in the next queries are asked (before it, as
//! oneself); `query` and its statement, `----`, and the rows, cells joined by one space; `query error` has words of the
//! message instead. An empty line ends each.

use super::{Done, Failed, query::asked_of};
use crate::context::Context;
use arrow::{
    array::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use custody_engine::{Engine, ReadRequest};
use custody_model::{Authentication, Label, Position, Problem, SourceText};
use std::{path::PathBuf, sync::Arc};

/// One query with what it should answer.
struct Case {
    line: usize,
    /// As whom; none: as oneself.
    who: Option<String>,
    sql: String,
    /// Whether it should fail.
    fails: bool,
    want: Vec<String>,
}

/// Exit code 1 where an answer is another.
pub(crate) async fn run(context: &Context) -> Result<Done, Failed> {
    let texts = texts(context)?;
    let mut cases = vec![];
    for text in &texts {
        cases.push(parse(text).map_err(|p| Failed::with(p, texts.clone()))?);
    }
    let engine = context.open(custody_engine::audit::WriterChoice::Cli).await?;
    let done = all(context, &engine, &texts, &cases).await;
    context.close(&engine).await?;
    let wrong = done.map_err(|p| Failed::with(p, texts.clone()))?;
    eprintln!(
        "{} queries in {} files: {} answer otherwise",
        cases.iter().map(Vec::len).sum::<usize>(),
        texts.len(),
        wrong.len()
    );
    let mut wrong = wrong.into_iter();
    match wrong.next() {
        None => Ok(Done::Well),
        Some(mut first) => {
            first.related.extend(wrong);
            Err(Failed::with(first, texts))
        }
    }
}

fn texts(context: &Context) -> Result<Vec<SourceText>, Problem> {
    let folder = context.root.join("tests");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path());
    let mut paths: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "slt")).collect();
    paths.sort();
    let text = |path: PathBuf| {
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Problem::new(2012, format!("`{}` cannot be read: {e}", path.display())))?;
        let name = path.strip_prefix(&context.root).unwrap_or(&path).display().to_string();
        Ok(SourceText::file(name, path, text))
    };
    paths.into_iter().map(text).collect()
}

fn place(problem: Problem, text: &SourceText, line: usize, said: &str) -> Problem {
    let at = |column| Position { line: line as u64, column };
    let width = text.text.lines().nth(line - 1).map_or(1, |l| l.chars().count().max(1)) as u64;
    let mut problem = problem.label(Label { start: at(1), end: at(width + 1), text: said.to_string() });
    problem.file = Some(text.name.clone());
    problem
}

fn parse(text: &SourceText) -> Result<Vec<Case>, Problem> {
    let (mut cases, mut who) = (vec![], None);
    let mut lines = (1..).zip(text.text.lines()).peekable();
    while let Some((line, words)) = lines.next() {
        match words.trim_end() {
            "" => {}
            comment if comment.starts_with('#') => {}
            connection if connection.starts_with("connection ") => {
                who = connection.strip_prefix("connection ").map(|name| name.trim().to_string());
            }
            kind @ ("query" | "query error") => {
                let mut sql = vec![];
                while let Some((_, l)) = lines.next_if(|(_, l)| !l.is_empty() && *l != "----") {
                    sql.push(l);
                }
                if lines.next_if(|(_, l)| *l == "----").is_none() || sql.is_empty() {
                    let problem = Problem::new(1807, "a query is followed by `----` and what it answers");
                    return Err(place(problem.help("an empty answer is nothing after `----`"), text, line, "this one"));
                }
                let mut want = vec![];
                while let Some((_, l)) = lines.next_if(|(_, l)| !l.is_empty()) {
                    want.push(l.trim_end().to_string());
                }
                let (who, sql) = (who.clone(), sql.join("\n"));
                cases.push(Case { line, who, sql, fails: kind == "query error", want });
            }
            other => {
                let problem = Problem::new(1807, format!("`{other}` is not part of a test"))
                    .help("`connection NAME`, `query`, `query error`, or a comment that begins with `#`");
                return Err(place(problem, text, line, "here"));
            }
        }
    }
    Ok(cases)
}

async fn all(
    context: &Context,
    engine: &Arc<Engine>,
    texts: &[SourceText],
    cases: &[Vec<Case>],
) -> Result<Vec<Problem>, Problem> {
    let mut wrong = vec![];
    for (text, cases) in texts.iter().zip(cases) {
        for case in cases {
            let subject = match &case.who {
                None => context.subject()?,
                Some(_) if !context.user.dev.impersonate => {
                    return Err(Problem::new(3203, "you may not act as others, which these tests do")
                        .help("`[dev] impersonate = true` in the user file allows it on this machine"));
                }
                Some(name) => context
                    .stand_in(name, Authentication::Impersonated)
                    .map_err(|p| place(p, text, case.line, "as whom"))?,
            };
            let answer = asked_of(&engine.session(subject), ReadRequest::sql(case.sql.clone())).await;
            if let Some(told) = differs(case, answer) {
                let problem = Problem::new(1806, told).help("if the answer is right, write it below `----`");
                wrong.push(place(problem, text, case.line, "this query"));
            }
        }
    }
    Ok(wrong)
}

/// What is wrong with the answer; none: it is as it should be.
fn differs(case: &Case, answer: Result<Vec<RecordBatch>, Problem>) -> Option<String> {
    match (answer, case.fails) {
        (Err(problem), true) => {
            let (told, want) = (problem.to_string(), case.want.join(" "));
            (!told.contains(&want)).then(|| format!("the query fails otherwise: {told}"))
        }
        (Ok(_), true) => Some("the query answers, and should fail".into()),
        (Err(problem), false) => Some(format!("the query fails: {problem}")),
        (Ok(batches), false) => {
            let got: Vec<String> = batches.iter().flat_map(lines).collect();
            let at = (0..got.len().max(case.want.len())).find(|i| got.get(*i) != case.want.get(*i))?;
            let row = |rows: &[String]| rows.get(at).map_or("no row".into(), |r| format!("`{r}`"));
            Some(format!("row {} is {}, should be {}", at + 1, row(&got), row(&case.want)))
        }
    }
}

fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let cells: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options)).collect();
    let cell = |formatter: &Result<ArrayFormatter<'_>, _>, row: usize| match formatter {
        Ok(formatter) => match formatter.value(row).to_string() {
            empty if empty.is_empty() => "(empty)".to_string(),
            text => text,
        },
        Err(_) => "?".to_string(),
    };
    (0..batch.num_rows()).map(|row| cells.iter().map(|c| cell(c, row)).collect::<Vec<_>>().join(" ")).collect()
}
