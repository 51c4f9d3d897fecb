//! Every answer of policy about one table, for one subject: a row for each resource that is asked about, with each
//! action on it. The golden file of decisions, `custody policy test` and reviewers read these.

use crate::{
    bundle::{Bundle, RowSet},
    decide::{ask, decide},
    grant::{Grant, TableFacts},
    mask,
};
use custody_model::{PolicyId, Rung, Subject};

/// One answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The kind of resource in Cedar: `Column`, `RowSet`, `Guard`, `Table`.
    pub kind: &'static str,
    /// Its id in Cedar.
    pub resource: String,
    /// The action; of a column's five the highest that is allowed, `none` where none is.
    pub action: String,
    /// Whether it is allowed.
    pub allowed: bool,
    /// A column's mask as written in `CREATE MASK PARAMETERS`.
    pub mask: Option<String>,
    /// The policies that gave it or held it back.
    pub policies: Vec<PolicyId>,
}

/// Every answer about a table, with the grant that they make together: columns in order, row sets, guards, the table.
pub fn matrix(bundle: &Bundle, subject: &Subject, facts: &TableFacts) -> (Grant, Vec<Answer>) {
    let grant = decide(bundle, subject, facts);
    let mut answers: Vec<Answer> = grant
        .columns
        .iter()
        .map(|column| Answer {
            kind: "Column",
            resource: format!("{}.{}", facts.name, column.name),
            action: column.rung.word().to_string(),
            allowed: column.rung > Rung::None,
            mask: column.mask.as_ref().map(mask::describe),
            policies: column.policies.clone(),
        })
        .collect();
    let mut asked = |kind: &'static str, resource: String, action: &'static str, granted: Option<bool>| {
        let (said, policies) = ask(bundle, subject, facts, kind, &resource, action).unwrap_or_default();
        // A table's purposes, and any error, hold back what Cedar alone would give.
        let allowed = granted.unwrap_or(said && grant.visible());
        let policies = if allowed || !said { policies } else { vec![] };
        answers.push(Answer { kind, resource, action: action.into(), allowed, mask: None, policies });
    };
    if let Some(policy) = bundle.table(&facts.name) {
        let id = |set: &RowSet| format!("{}/{}", facts.name, set.name);
        policy.row_sets.iter().for_each(|set| asked("RowSet", id(set), "see_rows", None));
        policy.guards.iter().for_each(|guard| asked("Guard", id(guard), "skip_guard", None));
    }
    for (action, granted) in
        [("publish", grant.publish), ("declassify", grant.declassify), ("explain_raw", grant.explain_raw)]
    {
        asked("Table", facts.name.to_string(), action, Some(granted));
    }
    (grant, answers)
}
