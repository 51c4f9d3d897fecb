//! Errors of DataFusion as the one noun that crosses the doors.
//!
//! What holds here: a place is shown only where the planner gave one; a value that policy hides never gets here,
//! because a barrier has made such an error opaque below it.

use custody_model::{Label, Position, Problem};
use custody_policy::FloorRefusal;
use datafusion::common::{DataFusionError, SchemaError, Span};

/// Translates an error of planning or execution. The source's file name is the caller's to add.
pub fn from_datafusion(error: &DataFusionError) -> Problem {
    if let Some(problem) = carried(error) {
        return problem;
    }
    let all: Vec<_> = error.iter().collect();
    if all.len() > 1 {
        let mut problems = all.into_iter().map(single);
        if let Some(mut first) = problems.next() {
            first.related.extend(problems);
            return first;
        }
    }
    single(error)
}

/// A problem of ours that travelled through DataFusion.
fn carried(error: &DataFusionError) -> Option<Problem> {
    match error {
        DataFusionError::External(inner) => {
            let floor = inner.downcast_ref::<FloorRefusal>().map(|refusal| {
                Problem::new(3106, refusal.to_string())
                    .help("write count, sum, avg, stddev or corr of the bare column, grouped by columns of this table")
            });
            inner.downcast_ref::<Problem>().cloned().or(floor)
        }
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => carried(inner),
        DataFusionError::Shared(inner) => carried(inner),
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            arrow::error::ArrowError::ExternalError(e) => {
                e.downcast_ref::<Problem>().cloned().or_else(|| e.downcast_ref::<DataFusionError>().and_then(carried))
            }
            _ => None,
        },
        _ => None,
    }
}

fn single(error: &DataFusionError) -> Problem {
    let root = error.find_root();
    let mut problem = match root {
        DataFusionError::SchemaError(schema, _) => unknown_column(schema),
        DataFusionError::SQL(parser, _) => Problem::new(custody_dialect::code::SYNTAX, lower(&parser.to_string())),
        DataFusionError::Plan(text) => match unknown_function(text) {
            Some(problem) => problem,
            None => Problem::new(1102, lower(text)),
        },
        DataFusionError::NotImplemented(text) => {
            Problem::new(1103, lower(text)).help("write the statement without it; `docs/sql.md` lists the dialect")
        }
        DataFusionError::Configuration(text) => Problem::new(1104, lower(text)),
        DataFusionError::ResourcesExhausted(text) => Problem::new(7101, format!("not enough memory: {}", lower(text)))
            .help("read less at once, or raise `limits.memory_bytes`"),
        DataFusionError::ObjectStore(e) => Problem::new(7102, format!("storage failed: {e}")),
        DataFusionError::IoError(e) => Problem::new(7102, format!("storage failed: {e}")),
        DataFusionError::ParquetError(e) => Problem::new(7103, format!("a data file cannot be read: {e}")),
        DataFusionError::Internal(text) => Problem::bug(lower(text.lines().next().unwrap_or_default())),
        other => Problem::new(1201, format!("query failed: {}", lower(&strip(&other.to_string())))),
    };
    if problem.labels.is_empty()
        && let Some(diagnostic) = error.diagnostic()
        && let Some(span) = diagnostic.span
    {
        problem.labels.push(label(span, "here"));
    }
    problem
}

fn unknown_column(error: &SchemaError) -> Problem {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let mut problem = Problem::new(1101, format!("column `{}` not found", field.flat_name()));
            let name = field.name().to_lowercase();
            let mut near: Vec<_> = valid_fields
                .iter()
                .map(|c| (distance(&name, &c.name().to_lowercase()), c.flat_name()))
                .filter(|(d, _)| *d <= name.len().div_ceil(3))
                .collect();
            near.sort();
            if let Some((_, best)) = near.first() {
                problem = problem.help(format!("did you mean `{best}`?"));
            } else if !valid_fields.is_empty() && valid_fields.len() <= 12 {
                let names: Vec<_> = valid_fields.iter().map(|c| format!("`{}`", c.flat_name())).collect();
                problem = problem.help(format!("there are {}", names.join(", ")));
            }
            if let Some(span) = field.spans.first() {
                problem.labels.push(label(span, "no such column"));
            }
            problem
        }
        other => Problem::new(1102, lower(&other.to_string())),
    }
}

/// DataFusion proposes the nearest name it knows, however far; only a near one is worth reading.
fn unknown_function(text: &str) -> Option<Problem> {
    let (name, rest) = text.strip_prefix("Invalid function '")?.split_once('\'')?;
    let problem = Problem::new(1102, format!("there is no function `{name}`"));
    let near = rest.split('\'').nth(1).filter(|near| distance(name, near) <= name.len().div_ceil(3));
    Some(problem.help(match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`docs/sql.md` tells which functions there are".to_string(),
    }))
}

fn label(span: Span, text: &str) -> Label {
    Label {
        start: Position { line: span.start.line, column: span.start.column },
        end: Position { line: span.end.line, column: span.end.column.max(span.start.column + 1) },
        text: text.to_string(),
    }
}

/// House style: messages start in lower case and end without a full stop.
fn lower(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(std::iter::once(second)).chain(chars).collect()
        }
        _ => text.to_string(),
    }
}

/// DataFusion's own prefixes say nothing to a user.
fn strip(text: &str) -> String {
    ["Execution error: ", "Arrow error: ", "External error: ", "Compute error: "]
        .iter()
        .fold(text.to_string(), |t, prefix| t.replace(prefix, ""))
}

/// Edit distance, for suggestions.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_of_ours_survive_the_journey() {
        let ours = Problem::new(6001, "table `a.b` not found");
        let wrapped = DataFusionError::External(Box::new(ours.clone())).context("while planning");
        assert_eq!(from_datafusion(&wrapped), ours);
    }

    #[test]
    fn messages_are_in_house_style() {
        let p = from_datafusion(&DataFusionError::Plan("Projections require unique names.".into()));
        assert_eq!(p.to_string(), "C1102 projections require unique names");
        assert_eq!(distance("hdl_meen", "hdl_mean"), 1);
    }
}
