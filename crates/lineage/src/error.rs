//! Refusals: what has no lineage, and why.

use custody_model::{Label, Lineage, Position, Problem};
use datafusion_common::Spans;

/// Why a statement has no lineage.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// A statement that is not a query or a write of one.
    #[error("statement `{0}` has no lineage")]
    Statement(String),
    /// A scan whose provider is not one of ours.
    #[error("source of `{0}` cannot be identified")]
    Source(String),
    /// A column that no relation in scope has.
    #[error("column `{name}` cannot be resolved")]
    Column {
        /// As written.
        name: String,
        /// Where.
        spans: Spans,
    },
    /// A plan whose parts do not fit together, such as an output that no rule gives.
    #[error("plan node `{0}` is malformed")]
    Malformed(String),
    /// Too many nodes once sharing is expanded.
    #[error("statement expands to {nodes} plan nodes, limit {limit}")]
    Nodes {
        /// How many.
        nodes: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// Too many distinct sources.
    #[error("statement reads more than {0} sources")]
    Atoms(usize),
    /// Too deep a nesting.
    #[error("statement nests deeper than {0} levels")]
    Depth(usize),
    /// Recursive queries that need too many rounds.
    #[error("lineage of the recursive query `{0}` does not settle")]
    Rounds(String),
    /// A publish needs exact lineage.
    #[error("lineage of `{name}` is not exact: `{node}` is not understood")]
    NotExact {
        /// What is to be published.
        name: String,
        /// The first node that is not understood.
        node: String,
    },
}

/// Refuses a publish whose lineage is not exact.
pub fn require_exact(lineage: &Lineage, name: &str) -> Result<(), Refusal> {
    if lineage.exact {
        return Ok(());
    }
    let node = lineage.unknown.first().cloned().unwrap_or_else(|| "plan".into());
    Err(Refusal::NotExact { name: name.into(), node })
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Statement(_) => 1401,
            Refusal::Source(_) => 1402,
            Refusal::NotExact { .. } => 1403,
            Refusal::Nodes { .. } => 1404,
            Refusal::Atoms(_) => 1405,
            Refusal::Depth(_) => 1406,
            Refusal::Column { .. } => 1407,
            Refusal::Malformed(_) => 1408,
            Refusal::Rounds(_) => 1409,
        };
        let mut problem = Self::new(code, refusal.to_string());
        match &refusal {
            Refusal::Column { spans, .. } => {
                for span in spans.iter() {
                    problem = problem.label(Label {
                        start: Position { line: span.start.line, column: span.start.column },
                        end: Position { line: span.end.line, column: span.end.column },
                        text: "this column".into(),
                    });
                }
            }
            Refusal::Nodes { .. } | Refusal::Atoms(_) | Refusal::Depth(_) => {
                problem = problem.help("split the statement: publish a part of it as a feature view");
            }
            Refusal::NotExact { .. } => problem = problem.help("write the statement without it"),
            Refusal::Statement(_) | Refusal::Source(_) | Refusal::Malformed(_) | Refusal::Rounds(_) => {}
        }
        problem
    }
}
