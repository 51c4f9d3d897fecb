//! Expectations on sources: asked of the recorded snapshot before anything is computed of it.
//!
//! What holds here: the question is a read like any other, as whoever publishes, under their grants and with its own entry;
//! it tells them nothing that they could not ask. A source is never divided: `QUARANTINE` belongs to a view.

use super::Event;
use crate::{
    Engine,
    pin::PinnedTable,
    session::{ReadRequest, Session},
};
use custody_dialect::{Check, Expectation, OnViolation, Statement};
use custody_model::{DatasetDefinition, DatasetKind, DatasetName, ExpectationResult, Problem, SourceText};
use datafusion::arrow::{
    array::{Array, AsArray},
    compute::cast,
    datatypes::DataType,
};
use std::sync::PoisonError;

/// What a source promises, refused where it cannot be kept.
pub(super) fn possible(
    session: &Session,
    expectations: &[Expectation],
    definition: &DatasetDefinition,
) -> Result<(), Problem> {
    if let Some(e) = expectations.iter().find(|e| e.on_violation == OnViolation::Quarantine) {
        return Err(Problem::new(1124, "a source cannot put rows into quarantine: its files stay as they are")
            .help("write `ON VIOLATION FAIL` or `WARN`, or QUARANTINE in the view that reads the source")
            .label(e.place.label("here")));
    }
    if !expectations.is_empty() {
        let state = session.engine.state(&[], &session.subject)?;
        crate::expect::over_source(expectations, &state, definition)?;
    }
    Ok(())
}

impl Engine {
    /// Takes note of what a source of the project at hand promises.
    pub(super) fn promise(&self, name: &DatasetName, expectations: &[Expectation]) {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), expectations.to_vec());
    }
}

impl Session {
    /// Asks the sources among these what they promise. A broken `FAIL` is an error, a broken `WARN` is told.
    pub(super) async fn ask_sources(
        &self,
        pinned: &[PinnedTable],
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<(), Problem> {
        for table in pinned {
            if table.definition.kind != DatasetKind::Source {
                continue;
            }
            let promised =
                self.engine.promised.lock().unwrap_or_else(PoisonError::into_inner).get(&table.at.name).cloned();
            let expectations = promised.map_or_else(|| recorded(&table.definition), Ok)?;
            if expectations.is_empty() {
                continue;
            }
            let says = crate::hash_text(&crate::expect::says(&expectations));
            let asked = (self.subject.principal.clone(), table.at.dataset, table.at.made_at, says);
            if self.engine.kept_promises.lock().unwrap_or_else(PoisonError::into_inner).contains(&asked) {
                continue;
            }
            if let Some(owner) = &table.owner {
                tell(Event::Warning(format!(
                    "what `{}` promises is not asked: a view reads it with the rights of `{owner}`",
                    table.at.name
                )));
                continue;
            }
            let results = self.ask(table, &expectations).await?;
            let mut failed = vec![];
            for (e, result) in expectations.iter().zip(results) {
                if result.violations == 0 {
                    continue;
                }
                if e.on_violation == OnViolation::Fail {
                    failed.push(format!("{} of {} rows break `{}`", result.violations, result.checked, e.text));
                }
                tell(Event::Violated { view: table.at.name.clone(), result });
            }
            if !failed.is_empty() {
                let told = failed.join("; ");
                return Err(Problem::new(1147, format!("`{}` does not hold what it promises: {told}", table.at))
                    .help("correct the files; the next publish takes a new snapshot"));
            }
            self.engine.kept_promises.lock().unwrap_or_else(PoisonError::into_inner).insert(asked);
        }
        Ok(())
    }

    async fn ask(&self, table: &PinnedTable, expectations: &[Expectation]) -> Result<Vec<ExpectationResult>, Problem> {
        let name = format!("{} VERSION {}", table.at.name, table.at.version);
        let rows = expectations.iter().filter_map(|e| match &e.check {
            Check::Expr(_) => Some(format!("count(*) FILTER (WHERE NOT ({}))", e.text)),
            Check::Unique(_) => None,
        });
        let columns = std::iter::once("count(*)".to_string()).chain(rows);
        let columns: Vec<String> = columns.enumerate().map(|(i, c)| format!("{c} AS n{i}")).collect();
        let counts = self.counts(format!("SELECT {} FROM {name}", columns.join(", "))).await?;
        let (checked, mut counts) = (counts.first().copied().unwrap_or(0), counts.into_iter().skip(1));
        let mut results = vec![];
        for e in expectations {
            let violations = match &e.check {
                Check::Expr(_) => counts.next().unwrap_or(0),
                Check::Unique(columns) => {
                    let quoted: Vec<String> =
                        columns.iter().map(|c| format!("\"{}\"", c.value.replace('"', "\"\""))).collect();
                    let some: Vec<String> = quoted.iter().map(|c| format!("{c} IS NOT NULL")).collect();
                    let groups = format!(
                        "SELECT count(*) - 1 AS more FROM {name} WHERE {} GROUP BY {}",
                        some.join(" AND "),
                        quoted.join(", ")
                    );
                    self.counts(format!("SELECT sum(more) AS n FROM ({groups}) AS g"))
                        .await?
                        .first()
                        .copied()
                        .unwrap_or(0)
                }
            };
            let action = e.on_violation.word().to_lowercase();
            results.push(ExpectationResult { check: e.text.clone(), action, checked, violations });
        }
        Ok(results)
    }

    /// The first row of a query, as counts.
    async fn counts(&self, text: String) -> Result<Vec<u64>, Problem> {
        let mut read = self.read(ReadRequest::sql(text)).await?;
        let mut counts = vec![];
        while let Some(rows) = read.next().await {
            let rows = rows?;
            for column in rows.columns().iter().filter(|c| !c.is_empty()) {
                let whole = cast(column, &DataType::UInt64).map_err(|e| Problem::bug(format!("a count: {e}")))?;
                let whole = whole.as_primitive::<datafusion::arrow::datatypes::UInt64Type>();
                counts.push(if whole.is_valid(0) { whole.value(0) } else { 0 });
            }
            read.release(rows.num_rows() as u64, rows.get_array_memory_size() as u64).await?;
        }
        read.finish().await?;
        Ok(counts)
    }
}

/// The expectations in a source's recorded declaration.
fn recorded(definition: &DatasetDefinition) -> Result<Vec<Expectation>, Problem> {
    let mut statements = custody_dialect::parse(&SourceText::inline(definition.sql.clone())).map_err(crate::refused)?;
    match statements.pop().map(|s| s.value) {
        Some(Statement::Source(def)) => Ok(def.clauses.expectations),
        _ => Err(Problem::bug(format!("the declaration of `{}` is not a source's", definition.name))),
    }
}
