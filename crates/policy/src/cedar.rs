//! The Cedar side of a bundle: the fixed schema, and what a policy must be like.
//!
//! INVARIANT: permits of column actions are closed downwards (`up_to_*`), forbids upwards (`from_*`), and no condition
//! looks at the action. So the rungs that a column may be read at are always all those below some rung.

use crate::{
    ddl::lower,
    place::{FORM, Fault, NAME, Place, SYNTAX},
};
use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicyId as CedarId, PolicySet, Schema, ValidationMode, Validator,
    ffi::DetailedError, pst,
};
use custody_model::{PolicyId, Rung};
use std::fmt::Write as _;

/// The version of the schema below: part of every policy hash.
pub(crate) const SCHEMA_VERSION: u64 = 1;

/// Actions on row sets, guards and tables.
pub(crate) const TABLE_ACTIONS: [&str; 5] = ["see_rows", "skip_guard", "publish", "declassify", "explain_raw"];

/// The rungs that are actions, lowest first.
pub(crate) const RUNGS: [Rung; 5] = [Rung::Aggregate, Rung::Redact, Rung::Token, Rung::Partial, Rung::Raw];

/// The text of the fixed schema.
pub(crate) fn schema_text() -> String {
    let mut text = String::from(
        "entity Role;
entity Class in [Class];
entity Table = { owner: String, purposes: Set<String> };
entity Principal in [Role] = { kind: String } tags Set<String>;
entity Column in [Table, Class] = { approved: Set<String> };
entity RowSet in [Table];
entity Guard in [Table];
type Ctx = { purpose: String, environment: String, stage: String, model?: String, model_version?: String };
",
    );
    let mut line = |action: &str, groups: &[String], resource: &str| {
        let groups = if groups.is_empty() { String::new() } else { format!(" in [{}]", groups.join(", ")) };
        let _ = writeln!(
            text,
            "action {action}{groups} appliesTo {{ principal: Principal, resource: {resource}, context: Ctx }};"
        );
    };
    for rung in RUNGS {
        let up_to = RUNGS.iter().filter(|r| **r >= rung).map(|r| format!("up_to_{r}"));
        let from = RUNGS.iter().filter(|r| **r <= rung).map(|r| format!("from_{r}"));
        line(rung.word(), &up_to.chain(from).collect::<Vec<_>>(), "Column");
    }
    line("see_rows", &[], "RowSet");
    line("skip_guard", &[], "Guard");
    for action in ["publish", "declassify", "explain_raw"] {
        line(action, &[], "Table");
    }
    for rung in RUNGS {
        let _ = writeln!(text, "action up_to_{rung};\naction from_{rung};");
    }
    text
}

/// A policy of a file, under its own id.
pub(crate) struct FilePolicy {
    pub(crate) id: PolicyId,
    pub(crate) policy: Policy,
    pub(crate) at: Place,
}

/// Reads a file; reports everything in it that can be told without the other files.
pub(crate) fn parse(path: &str, text: &str, schema: &Schema) -> (Vec<FilePolicy>, Vec<Fault>) {
    let set = match text.parse::<PolicySet>() {
        Ok(set) => set,
        Err(errors) => return (vec![], errors.iter().map(|e| fault(SYNTAX, text, &DetailedError::from(e))).collect()),
    };
    let mut faults: Vec<Fault> = set
        .templates()
        .map(|t| {
            let at = find(text, &t.to_string(), 0).0;
            Fault::form("a template is not a policy: it has a slot instead of a principal or resource", at)
                .help("name the role, class or table in the policy")
        })
        .collect();
    let stem = path.rsplit('/').next().unwrap_or(path);
    let stem = stem.strip_suffix(".cedar").unwrap_or(stem);
    let mut policies: Vec<_> = set.policies().cloned().collect();
    policies.sort_by_key(number);
    let mut from = 0;
    let mut found = vec![];
    for policy in policies {
        let (at, next) = find(text, &policy.to_string(), from);
        from = next;
        let id = match policy.annotation("id") {
            Some(id) if !id.is_empty() => id.to_string(),
            _ => format!("{stem}.{}", policy.id()),
        };
        faults.extend(scope_faults(&id, &policy, at));
        let policy = policy.new_id(CedarId::new(&id));
        found.push(FilePolicy { id, policy, at });
    }
    faults.extend(validation_faults(text, &found, schema));
    (found, faults)
}

/// Cedar's own number in `policy7`: the place among the file's policies.
fn number(policy: &Policy) -> u64 {
    policy.id().to_string().trim_start_matches("policy").parse().unwrap_or(u64::MAX)
}

fn find(text: &str, part: &str, from: usize) -> (Place, usize) {
    match text.get(from..).and_then(|t| t.find(part)) {
        Some(start) => {
            let (start, end) = (from + start, from + start + part.len());
            (Place::bytes(text, start, end), end)
        }
        None => (Place::bytes(text, 0, 0), from),
    }
}

/// Strict validation, each file on its own so that places are the file's. Warnings count as errors.
fn validation_faults(text: &str, policies: &[FilePolicy], schema: &Schema) -> Vec<Fault> {
    let mut set = PolicySet::new();
    for p in policies {
        // A duplicate id is reported when all files are known.
        let _ = set.add(p.policy.clone());
    }
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    let errors = result.validation_errors().map(DetailedError::from);
    let all = errors.chain(result.validation_warnings().map(DetailedError::from));
    // Cedar checks a policy once for each action and says the same of each, in no order.
    let mut faults: Vec<Fault> = all
        .map(|e| {
            let mut fault = fault(NAME, text, &e);
            if let Some(cut) = fault.message.rfind(" in context for Action::").or(fault.message.rfind(" for Action::"))
            {
                fault.message.truncate(cut);
            }
            fault
        })
        .collect();
    faults.sort_by_cached_key(|f| (f.at.map(|at| (at.start, at.end)), f.message.clone()));
    faults.dedup();
    faults
}

fn fault(code: u16, text: &str, error: &DetailedError) -> Fault {
    let spans = || error.source_locations.iter().chain(error.related.iter().flat_map(|r| &r.source_locations));
    Fault {
        code,
        message: lower(error.message.trim_end_matches('.')),
        help: Some(error.help.clone().unwrap_or_else(|| match code {
            SYNTAX => "docs/policy.md shows what a policy looks like".into(),
            _ => "docs/policy.md lists what principal, resource and context have, and of which type".into(),
        })),
        at: spans().next().map(|s| Place::bytes(text, s.loc.start, s.loc.end)),
    }
}

fn scope_faults(id: &str, policy: &Policy, at: Place) -> Vec<Fault> {
    let mut faults = vec![];
    let mut refuse =
        |message: String, help: &str| faults.push(Fault { code: FORM, message, help: Some(help.into()), at: Some(at) });
    let (word, prefix) = match policy.effect() {
        Effect::Permit => ("permit", "up_to_"),
        Effect::Forbid => ("forbid", "from_"),
    };
    let allowed =
        format!("a {word} names `action in Action::\"{prefix}raw\"` or another rung's, or actions on tables and rows");
    match policy.action_constraint() {
        ActionConstraint::Any => {
            if policy.effect() == Effect::Permit {
                refuse(format!("permit `{id}` names every action"), &allowed);
            }
        }
        ActionConstraint::Eq(action) => {
            if !TABLE_ACTIONS.contains(&action.id().unescaped()) {
                refuse(format!("{word} `{id}` names `{}`, not a group by `in`", action.id().unescaped()), &allowed);
            }
        }
        ActionConstraint::In(actions) => {
            for action in actions {
                let name = action.id().unescaped();
                let group = name.strip_prefix(prefix).is_some_and(|rung| RUNGS.iter().any(|r| r.word() == rung));
                if !group && !TABLE_ACTIONS.contains(&name) {
                    refuse(format!("{word} `{id}` names `{name}`"), &allowed);
                }
            }
        }
    }
    match policy.to_pst() {
        Ok(pst) => {
            let mentions = in_conditions(&pst, &|e| matches!(e, pst::Expr::Var(pst::Var::Action)));
            if mentions {
                refuse(
                    format!("a condition of `{id}` looks at the action"),
                    "name the actions in the head of the policy",
                );
            }
        }
        Err(error) => refuse(format!("policy `{id}` cannot be read back: {error}"), "write it in plain Cedar"),
    }
    faults
}

/// Whether the conditions of a policy are the same question for every column: they look neither at the resource nor at
/// an entity that a decision makes for one column alone.
pub(crate) fn steady(policy: &Policy) -> bool {
    let moving = |e: &pst::Expr| match e {
        pst::Expr::Var(pst::Var::Resource) => true,
        pst::Expr::Literal(pst::Literal::EntityUID(uid)) => {
            ["Column", "RowSet", "Guard"].contains(&uid.ty.to_string().as_str())
        }
        _ => false,
    };
    policy.to_pst().is_ok_and(|pst| !in_conditions(&pst, &moving))
}

fn in_conditions(policy: &pst::Policy, found: &dyn Fn(&pst::Expr) -> bool) -> bool {
    policy.body().clauses().iter().any(|clause| {
        let (pst::Clause::When(expr) | pst::Clause::Unless(expr)) = clause;
        expr.reduce(&|e| found(e).then_some(true), &|a, b| a || b, false)
    })
}

/// An entity's type and id as texts.
pub(crate) fn parts(uid: &EntityUid) -> (&str, &str) {
    (uid.type_name().basename(), uid.id().unescaped())
}
