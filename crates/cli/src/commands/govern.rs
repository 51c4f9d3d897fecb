//! `policy`, `token`: who may do what.

use super::{
    Done, Failed,
    build::{out, read_texts},
};
use crate::{
    arguments::{Format, OutputArgs, PolicyCommand, TokenCommand},
    context::Context,
    output,
    settings::{StandIn, attributes, duration},
};
use custody_flight::{TokenRequest, issue_token, revoke_token};
use custody_model::{Authentication, BadName, Problem};
use std::collections::BTreeSet;

pub(crate) async fn policy(context: &Context, command: &PolicyCommand) -> Result<Done, Failed> {
    let (engine, session) = context.session().await?;
    let done = match command {
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
        PolicyCommand::Decide { dataset, role, env, attr } => decide(context, &engine, dataset, role, env, attr).await,
    };
    context.close(&engine).await?;
    done.map_err(|p| Failed::with(p, read_texts(context)))?;
    Ok(Done::Well)
}

async fn decide(
    context: &Context,
    engine: &std::sync::Arc<custody_engine::Engine>,
    dataset: &str,
    roles: &[String],
    environment: &str,
    attr: &[String],
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
    let reach = engine.session(asker).decide_for(&name, &subject).await?;
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

pub(crate) async fn token(context: &Context, command: &TokenCommand, format: Option<Format>) -> Result<Done, Failed> {
    let (engine, session) = context.session().await?;
    let done = match command {
        TokenCommand::Issue { principal, kind, role, attr, stage, also, audience, expires } => {
            let mut purposes: BTreeSet<String> = also.iter().cloned().collect();
            purposes.insert(session.subject().purpose.0.clone());
            let request = TokenRequest {
                principal: principal.clone(),
                kind: kind.clone(),
                roles: role.iter().cloned().collect(),
                attributes: attributes(attr)?,
                purposes,
                stage: stage.clone(),
                model: None,
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
