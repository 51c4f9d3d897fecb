//! A grant as rows for people: `EXPLAIN POLICY`, `custody policy decide`, and the file of golden decisions.

use crate::{
    grant::{ColumnGrant, Grant, RowGrant},
    mask,
    rows::{nested, sql},
};
use custody_model::{DatasetName, Hash, PolicyId, Rung};

/// One column that the subject may see in some form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExplainRow {
    /// The table.
    pub table: DatasetName,
    /// The column.
    pub column: String,
    /// Its rung, above `none`.
    pub rung: Rung,
    /// Its mask as written in `CREATE MASK PARAMETERS`.
    pub mask: Option<String>,
    /// Row sets and guards that apply to the table.
    pub row_sets: Vec<PolicyId>,
    /// Permits that gave the rung and forbids above it.
    pub policies: Vec<PolicyId>,
    /// The grant.
    pub grant: Hash,
}

/// One row for each column above `none`, in the table's order.
pub fn explain(table: &DatasetName, grant: &Grant) -> Vec<ExplainRow> {
    let row = |column: &ColumnGrant| ExplainRow {
        table: table.clone(),
        column: column.name.clone(),
        rung: column.rung,
        mask: column.mask.as_ref().map(mask::describe),
        row_sets: grant.row_sets(),
        policies: column.policies.clone(),
        grant: grant.hash,
    };
    grant.columns.iter().filter(|c| c.rung > Rung::None).map(row).collect()
}

/// The condition on rows as SQL: `TRUE` for all, `FALSE` for none.
pub fn rows_text(rows: &RowGrant) -> String {
    match rows {
        RowGrant::All => "TRUE".into(),
        RowGrant::Nothing => "FALSE".into(),
        RowGrant::Where(predicate) => match (predicate.sets.as_slice(), predicate.guards.as_slice()) {
            ([(_, only)], []) | ([], [(_, only)]) => sql(only),
            (sets, guards) => {
                let sets: Vec<_> = sets.iter().map(|(_, e)| nested(e)).collect();
                let any = match sets.len() {
                    0 => None,
                    1 => Some(sets.concat()),
                    _ => Some(format!("({})", sets.join(" OR "))),
                };
                any.into_iter().chain(guards.iter().map(|(_, e)| nested(e))).collect::<Vec<_>>().join(" AND ")
            }
        },
    }
}
