//! `train-set build`, `replay`, `verify`.

use super::{
    Done, Failed,
    build::{Teller, read_texts, verify},
    query::name_and_pin,
};
use crate::{
    arguments::TrainSetCommand,
    context::{Context, git},
};
use custody_engine::PublishOptions;
use custody_model::Problem;

pub(crate) async fn run(context: &Context, command: &TrainSetCommand, quiet: bool) -> Result<Done, Failed> {
    match command {
        TrainSetCommand::Build { name, message, accept_breaking } => {
            build(context, name, message, *accept_breaking, quiet).await
        }
        TrainSetCommand::Replay { version } => replay(context, version, quiet).await,
        TrainSetCommand::Verify { version, deep } => verify(context, version, *deep).await,
    }
}

async fn build(
    context: &Context,
    name: &str,
    message: &str,
    accept_breaking: bool,
    quiet: bool,
) -> Result<Done, Failed> {
    let project = context.project().map_err(|p| Failed::with(p, read_texts(context)))?;
    let (engine, session) = context.session().await?;
    let (git_commit, git_dirty) = git(&context.root);
    let options = PublishOptions { because: message.into(), select: vec![], accept_breaking, git_commit, git_dirty };
    let teller = Teller::new(quiet);
    let done = session.build_training_set(&project, name, &options, &|e| teller.tell(&e)).await;
    context.close(&engine).await?;
    if done.map_err(|p| Failed::with(p, project.files))?.is_none() && !quiet {
        eprintln!("nothing changed: nothing computed, nothing published");
    }
    Ok(Done::Well)
}

async fn replay(context: &Context, version: &str, quiet: bool) -> Result<Done, Failed> {
    let (name, pin) = name_and_pin(version)?;
    let (engine, session) = context.session().await?;
    let teller = Teller::new(quiet);
    let done = session.replay_training_set(&name, pin, &|e| teller.tell(&e)).await;
    context.close(&engine).await?;
    let replayed = done?;
    if replayed.root == replayed.at.content {
        let bytes = if replayed.same_bytes { "byte for byte the files published" } else { "in other files" };
        eprintln!("{}: {} rows computed again, content root {}, {bytes}", replayed.at, replayed.rows, replayed.root);
        return Ok(if replayed.same_bytes { Done::Well } else { Done::With(5) });
    }
    let told = format!(
        "replay of `{}` gave {} rows with root {}, published was {}",
        replayed.at, replayed.rows, replayed.root, replayed.at.content
    );
    Err(Problem::new(4202, told)
        .help("a function, a key of a mask or a file is not what it was when it was built")
        .into())
}
