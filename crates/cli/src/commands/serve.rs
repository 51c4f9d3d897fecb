//! `serve`: the Flight door, until SIGTERM or Ctrl-C.

use super::{Done, Failed};
use crate::{arguments::ServeArgs, context::Context};
use custody_engine::audit::WriterChoice;
use custody_flight::ServeOptions;
use custody_model::Problem;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) async fn run(context: &Context, args: &ServeArgs) -> Result<Done, Failed> {
    let engine = context.open(WriterChoice::Serve).await?;
    engine.follow_ahead();
    let options = ServeOptions {
        bind: args.bind.unwrap_or(context.file.serve.bind),
        audience: context.file.project.name.clone(),
        tls: args.tls_cert.clone().zip(args.tls_key.clone()),
        drain: Duration::from_secs(context.file.serve.drain_seconds),
    };
    let mut term = signal(SignalKind::terminate()).map_err(|e| Problem::new(7203, format!("no signals: {e}")))?;
    let stop = async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let sending = tokio::spawn(crate::outbox::keep_sending(
        engine.clone(),
        context.file.openlineage.clone(),
        context.root.clone(),
        context.root.join(&context.file.project.warehouse),
    ));
    let served = custody_flight::serve(engine.clone(), options, |address| eprintln!("serving {address}"), stop).await;
    sending.abort();
    context.close(&engine).await?;
    served?;
    Ok(Done::Well)
}
