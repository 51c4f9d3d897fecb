//! `access`: requests for more than policy alone gives, and their answers.

use super::{
    Done, Failed,
    build::out,
    query::{asked_of, dataset, with},
};
use crate::{
    arguments::{AccessCommand, Format, OutputArgs},
    context::Context,
    output,
    settings::duration,
};
use custody_engine::{Narrower, Session, audit::Recorded};
use custody_model::{EntryId, Problem, Rung};
use datafusion::common::ScalarValue;

pub(crate) async fn run(context: &Context, command: &AccessCommand, format: Option<Format>) -> Result<Done, Failed> {
    if matches!(command, AccessCommand::List) {
        return list(context, format).await;
    }
    let (engine, session) = context.session().await?;
    let done = act(&session, command).await;
    context.close(&engine).await?;
    let (recorded, told) = done?;
    eprintln!("{told}  entry {}", recorded.entry);
    out(&recorded.id.to_string());
    Ok(Done::Well)
}

/// The entry, whose id goes to stdout, and what happened.
async fn act(session: &Session, command: &AccessCommand) -> Result<(Recorded, &'static str), Problem> {
    match command {
        AccessCommand::Request { dataset: name, columns, rung, lasts, message } => {
            let name = dataset(name)?;
            let columns = columns.iter().cloned().collect();
            let entry = session.request_access(&name, columns, self::rung(rung)?, duration(lasts)?, message).await?;
            Ok((entry, "Requested: whoever owns the dataset, or holds `policy_admin`, answers"))
        }
        AccessCommand::Approve { request, columns, rung, lasts, message } => {
            let narrower = Narrower {
                columns: columns.iter().cloned().collect(),
                rung: rung.as_deref().map(self::rung).transpose()?,
                seconds: lasts.as_deref().map(duration).transpose()?,
            };
            let entry = session.approve_access(id(request)?, &narrower, message).await?;
            Ok((entry, "Approved, as far as policies look at `resource.approved`"))
        }
        AccessCommand::Deny { request, message } => Ok((session.deny_access(id(request)?, message).await?, "Denied")),
        AccessCommand::Revoke { grant, message } => {
            Ok((session.revoke_access(id(grant)?, message).await?, "Revoked, from the next decision on"))
        }
        AccessCommand::List => Err(Problem::bug("a list is no act")),
    }
}

async fn list(context: &Context, format: Option<Format>) -> Result<Done, Failed> {
    let text = "SELECT r.request_id, r.requester, r.dataset, r.columns, r.rung, r.purpose, r.reason, \
                CASE WHEN g.revoked_at IS NOT NULL THEN 'revoked' WHEN g.expires_at <= $1 THEN 'expired' ELSE r.state END \
                AS state, r.reviewer, r.answer, g.grant_id, g.columns AS given, g.rung AS given_rung, g.expires_at \
                FROM system.access.requests AS r LEFT JOIN system.access.grants AS g ON g.request_id = r.request_id \
                ORDER BY r.requested_at, r.request_id";
    let (engine, session) = context.session().await?;
    let now = ScalarValue::TimestampMicrosecond(Some(engine.clock().now().micros().0), Some("UTC".into()));
    let rows = asked_of(&session, with(text, vec![now])).await;
    context.close(&engine).await?;
    let rows = rows?;
    output::batches(&rows, format, &OutputArgs::default())?;
    Ok(Done::Well)
}

fn id(text: &str) -> Result<EntryId, Problem> {
    let wrong = || Problem::new(2021, format!("`{text}` is not the id of an entry")).help("custody access list");
    text.parse().map(EntryId).map_err(|_| wrong())
}

fn rung(word: &str) -> Result<Rung, Problem> {
    let rungs = Rung::ALL.into_iter().filter(|r| *r != Rung::None);
    let words: Vec<_> = rungs.clone().map(Rung::word).collect();
    rungs
        .into_iter()
        .find(|r| r.word() == word)
        .ok_or_else(|| Problem::new(2022, format!("`{word}` is not a rung of disclosure")).help(words.join(", ")))
}
