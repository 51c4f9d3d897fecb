//! `custody policy test`: what readers are expected to get, by the policies in the project's folder.

use crate::{
    arguments::{Format, OutputArgs},
    context::{self, Context},
    output,
    settings::StandIn,
};
use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, StringArray, UInt64Array},
    error::ArrowError,
};
use custody_engine::{Project, Reader, Session, Tested, read_expectations};
use custody_model::{Authentication, Problem, Subject};
use std::sync::Arc;

/// Prints every expectation when a format is asked for; fails with a place for each that does not hold.
pub(crate) async fn run(
    context: &Context,
    session: &Session,
    project: &Project,
    format: Option<Format>,
) -> Result<(), Problem> {
    let mut problems = vec![];
    let mut readers = vec![];
    for file in &project.policy_tests {
        match read_expectations(&file.name, &file.text) {
            Ok(found) => {
                for reader in found {
                    match subject(context, &file.name, &reader) {
                        Ok(subject) => readers.push((file.name.clone(), reader, subject)),
                        Err(problem) => problems.push(problem),
                    }
                }
            }
            Err(refused) => problems.extend(refused),
        }
    }
    all(problems)?;
    let tested = session.test_policies(project, &readers).await?;
    if format.is_some() {
        let batch = batch(&tested).map_err(|e| Problem::bug(format!("the list of expectations has no shape: {e}")))?;
        output::full_rows(&[batch], format, &OutputArgs { output: None, limit: 0 })?;
    }
    let unmet: Vec<Problem> = tested.iter().filter_map(|t| t.finding.problem.clone()).collect();
    eprintln!(
        "{} expectations of {} readers in {} files: {} do not hold",
        tested.len(),
        readers.len(),
        project.policy_tests.len(),
        unmet.len()
    );
    all(unmet)
}

fn all(problems: Vec<Problem>) -> Result<(), Problem> {
    let mut problems = problems.into_iter();
    let Some(mut first) = problems.next() else { return Ok(()) };
    first.related.extend(problems);
    Err(first)
}

/// The stand-in that a reader starts from, or nobody, with the reader's claims.
fn subject(context: &Context, file: &str, reader: &Reader) -> Result<Subject, Problem> {
    let (name, mut declared) = match &reader.stand_in {
        Some(name) => {
            let found = context.stand_ins()?.into_iter().find(|(n, _)| n == name);
            found.ok_or_else(|| {
                reader
                    .refused(file, 6201, format!("no principal `{name}` is declared"))
                    .help("tests/principals.toml declares stand-ins: [principals.NAME]")
            })?
        }
        None => ("anybody".to_string(), StandIn { roles: Default::default(), ..StandIn::default() }),
    };
    let claims = &reader.claims;
    let claim = |name: &str| claims.texts.get(name).cloned();
    if let Some(roles) = &claims.roles {
        declared.roles = roles.clone();
    }
    declared.attributes.extend(claims.attributes.clone());
    declared.kind = claim("kind").unwrap_or(declared.kind);
    declared.environment = claim("environment").unwrap_or(declared.environment);
    declared.stage = claim("stage").unwrap_or(declared.stage);
    let purpose = claim("purpose").or_else(|| declared.purposes.first().cloned());
    let purpose = purpose.unwrap_or_else(|| context.file.project.purpose.clone());
    let name = claim("principal").unwrap_or(name);
    let mut subject = context::subject(&name, &declared, purpose, Authentication::Impersonated);
    subject.model = claim("model");
    Ok(subject)
}

fn batch(tested: &[Tested]) -> Result<RecordBatch, ArrowError> {
    let text = |f: &dyn Fn(&Tested) -> String| {
        Arc::new(tested.iter().map(|t| Some(f(t))).collect::<StringArray>()) as ArrayRef
    };
    RecordBatch::try_from_iter([
        ("file", text(&|t| t.file.clone())),
        ("line", Arc::new(tested.iter().map(|t| t.finding.line).collect::<UInt64Array>()) as ArrayRef),
        ("reader", text(&|t| t.reader.clone())),
        ("dataset", text(&|t| t.dataset.to_string())),
        ("what", text(&|t| t.finding.what.clone())),
        ("expected", text(&|t| t.finding.expected.clone())),
        ("got", text(&|t| t.finding.got.clone())),
        ("policies", text(&|t| t.finding.policies.join(", "))),
        ("holds", Arc::new(tested.iter().map(|t| Some(t.finding.problem.is_none())).collect::<BooleanArray>())),
    ])
}
