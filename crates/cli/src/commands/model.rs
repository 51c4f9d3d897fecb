//! `deprecate`, `revoke`, `model register`, `model check`.

use super::{Done, Failed, build::out, query::name_and_pin};
use crate::{
    arguments::{ModelCommand, StatusArgs},
    context::Context,
};
use custody_engine::audit::WriterChoice;
use custody_model::{Pin, Problem};
use std::{fs, path::Path};

pub(crate) async fn status(context: &Context, args: &StatusArgs, revoke: bool) -> Result<Done, Failed> {
    let (name, pin) = name_and_pin(&args.version)?;
    if pin == Pin::Newest {
        return Err(Problem::new(2020, "which version?")
            .help(format!("write {name}@1: what is said is said of one"))
            .into());
    }
    let (engine, session) = context.session().await?;
    let done = session.set_status(&name, pin, revoke, &args.message).await;
    context.close(&engine).await?;
    let (at, entry) = done?;
    eprintln!("{} {at}  entry {entry}", if revoke { "   Revoked" } else { "Deprecated" });
    Ok(Done::Well)
}

pub(crate) async fn run(context: &Context, command: &ModelCommand) -> Result<Done, Failed> {
    match command {
        ModelCommand::Register { name, training_set, artifact, message, receipt } => {
            let (training, pin) = name_and_pin(training_set)?;
            let bytes = read(artifact)?;
            let (engine, session) = context.session().await?;
            let done = session.register_model(name, &training, pin, &bytes, message).await;
            context.close(&engine).await?;
            let registered = done?;
            let made = registered.receipt(&context.engine_settings(WriterChoice::Cli))?;
            fs::write(receipt, made)
                .map_err(|e| Problem::new(7202, format!("`{}` cannot be written: {e}", receipt.display())))?;
            let (version, training, entry) = (registered.version, &registered.training, &registered.entry);
            eprintln!("Registered {name}@{version} of {training}  entry {entry}");
            Ok(Done::Well)
        }
        ModelCommand::Check { receipt, artifact, root_key } => check(receipt, artifact, root_key),
    }
}

/// Checks a receipt: needs no project.
pub(crate) fn check(receipt: &Path, artifact: &Path, root_key: &Path) -> Result<Done, Failed> {
    let root_key = read(root_key)?;
    let root_key = String::from_utf8_lossy(&root_key);
    let (told, code) = custody_engine::check_receipt(&read(receipt)?, &read(artifact)?, root_key.trim());
    out(&told);
    Ok(Done::With(code))
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    fs::read(path).map_err(|e| Problem::new(2012, format!("`{}` cannot be read: {e}", path.display())))
}
