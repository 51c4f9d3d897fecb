//! `policy`, `token`: who may do what.

use super::{
    Done, Failed,
    build::{out, read_texts},
    policy_test,
};
use crate::{
    arguments::{Format, OutputArgs, PolicyCommand, TokenCommand},
    context::Context,
    output,
    settings::{StandIn, attributes, duration},
};
use custody_engine::Choice;
use custody_flight::{TokenRequest, issue_token, revoke_token};
use custody_model::{Authentication, BadName, Problem, WallNanos};
use std::collections::BTreeSet;

pub(crate) async fn policy(context: &Context, command: &PolicyCommand, format: Option<Format>) -> Result<Done, Failed> {
    let (engine, session) = context.session().await?;
    let mut well = Done::Well;
    let done = match command {
        PolicyCommand::Diff { old, new, replay } => diff(context, &engine, &session, old, new, replay)
            .await
            .map(|differs| well = if differs { Done::With(5) } else { Done::Well }),
        PolicyCommand::Test => match context.project() {
            Ok(project) => policy_test::run(context, &session, &project, format).await,
            Err(problem) => Err(problem),
        },
        PolicyCommand::Check => match context.project() {
            Ok(project) => session.check_policies(&project).await.map(|bundle| {
                eprintln!("{} policies, {} row sets: no finding", bundle.policies().len(), bundle.row_sets().len());
            }),
            Err(problem) => Err(problem),
        },
        PolicyCommand::Apply { message, dry_run } => match context.project() {
            Ok(project) => session.apply_policies(&project, message, *dry_run).await.map(|applied| {
                let what = match (applied.unchanged, dry_run) {
                    (true, _) => "is active already",
                    (false, true) => "would become active",
                    (false, false) => "is active",
                };
                eprintln!("bundle {} {what} as epoch {}", applied.hash.short(), applied.epoch);
            }),
            Err(problem) => Err(problem),
        },
        PolicyCommand::Decide { dataset, role, env, attr, at } => {
            decide(context, &engine, dataset, role, env, attr, at.as_deref()).await
        }
    };
    context.close(&engine).await?;
    done.map_err(|p| Failed::with(p, read_texts(context)))?;
    Ok(well)
}

/// Prints who would gain or lose what; says whether anybody would, and fails where a recorded grant does not come out
/// again.
async fn diff(
    context: &Context,
    engine: &custody_engine::Engine,
    session: &custody_engine::Session,
    old: &str,
    new: &str,
    replay: &str,
) -> Result<bool, Problem> {
    let choice = |text: &str| match text {
        "project" => Ok(Choice::Project),
        epoch => epoch.parse().map(Choice::Epoch).map_err(|_| {
            Problem::new(2018, format!("`{epoch}` is no bundle")).help("an epoch, such as 3, or `project`")
        }),
    };
    let (old, new) = (choice(old)?, choice(new)?);
    let nanos = i64::try_from(duration(replay)?).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    let since = WallNanos(engine.clock().now().0.saturating_sub(nanos));
    let found = session.replay(&context.project()?, &old, &new, since).await?;
    for c in &found.changes {
        let who = format!("{} for {}", c.principal, c.purpose);
        let what = format!("{}.{}", c.dataset, c.what);
        out(&format!("{:<8} {who:<32} {what:<40} {} -> {} ({} reads)", c.direction.word(), c.before, c.after, c.reads));
    }
    eprintln!("{} decisions, {} different ones, {} changes", found.decisions, found.distinct, found.changes.len());
    if let Some(first) = found.underived.first() {
        let many = found.underived.len();
        return Err(Problem::new(
            4203,
            format!("{many} recorded grants do not come out again, the first of entry {first}"),
        )
        .help("custody ledger verify; a token key that was replaced changes grants too"));
    }
    Ok(!found.changes.is_empty())
}

async fn decide(
    context: &Context,
    engine: &std::sync::Arc<custody_engine::Engine>,
    dataset: &str,
    roles: &[String],
    environment: &str,
    attr: &[String],
    at: Option<&str>,
) -> Result<(), Problem> {
    let name = dataset.parse().map_err(|e: BadName| Problem::new(2014, e.to_string()))?;
    let declared = StandIn {
        roles: roles.iter().cloned().collect(),
        attributes: attributes(attr)?,
        environment: environment.to_string(),
        ..StandIn::default()
    };
    let asker = context.subject()?;
    let subject = crate::context::subject("anybody", &declared, asker.purpose.0.clone(), Authentication::Impersonated);
    let reach = engine.session(asker).decide_for(&name, &subject, at).await?;
    let Some((columns, rows)) = reach else {
        out(&format!("table `{name}` not found"));
        return Ok(());
    };
    for (column, rung, policies) in columns {
        out(&format!("{column:<20} {rung:<10} {policies}"));
    }
    out(&format!("{:<20} {rows}", "rows"));
    Ok(())
}

/// `mortality@1`.
fn model_version(text: &str) -> Result<(String, u64), Problem> {
    text.split_once('@')
        .and_then(|(name, version)| Some((name.to_string(), version.parse().ok()?)))
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| Problem::new(2013, format!("`{text}` does not name a model's version")).help("mortality@1"))
}

pub(crate) async fn token(context: &Context, command: &TokenCommand, format: Option<Format>) -> Result<Done, Failed> {
    let (engine, session) = context.session().await?;
    let done = match command {
        TokenCommand::Issue { principal, kind, role, attr, stage, also, model, audience, expires } => {
            let mut purposes: BTreeSet<String> = also.iter().cloned().collect();
            purposes.insert(session.subject().purpose.0.clone());
            let request = TokenRequest {
                principal: principal.clone(),
                kind: kind.clone(),
                roles: role.iter().cloned().collect(),
                attributes: attributes(attr)?,
                purposes,
                stage: stage.clone(),
                model: model.as_deref().map(model_version).transpose()?,
                audience: audience.clone().unwrap_or_else(|| context.file.project.name.clone()),
                seconds: duration(expires)?,
            };
            issue_token(&session, &engine, request).await.map(|token| out(&token))
        }
        TokenCommand::Revoke { jti } => {
            revoke_token(&session, &engine, jti).await.map(|()| eprintln!("token {jti} is revoked"))
        }
        TokenCommand::List => list(&session, format).await,
    };
    context.close(&engine).await?;
    done?;
    Ok(Done::Well)
}

async fn list(session: &custody_engine::Session, format: Option<Format>) -> Result<(), Problem> {
    let tokens = session.tokens().await?;
    output::batches(&[tokens], format, &OutputArgs { output: None, limit: 0 })
}
