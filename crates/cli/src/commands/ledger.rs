//! `ledger`: what was written down, and whether it still stands.

use super::{Done, Failed, build::out};
use crate::{
    arguments::{Format, LedgerCommand},
    context::Context,
    settings::duration,
};
use custody_engine::{VerifyOptions, clock::SystemClock, verify_ledger};
use custody_model::Problem;
use datafusion::scalar::ScalarValue;

pub(crate) async fn run(context: &Context, command: &LedgerCommand, format: Option<Format>) -> Result<Done, Failed> {
    let folder = context.root.join(&context.file.project.warehouse).join("ledger");
    match command {
        LedgerCommand::Verify { since, mirror, max_age } => {
            let mut notes = vec![];
            for path in since {
                notes.push(std::fs::read_to_string(path).map_err(|e| {
                    Problem::new(1801, format!("`{}` cannot be read: {e}", path.display()))
                        .help("custody ledger keep > FILE writes one")
                })?);
            }
            let options = VerifyOptions { notes, mirrors: mirror.clone(), max_age_seconds: duration(max_age)? };
            let report = verify_ledger(&folder, &options, &SystemClock)?;
            report.render().lines().for_each(out);
            let code = report.verdict.exit_code();
            Ok(if code == 0 { Done::Well } else { Done::With(code) })
        }
        LedgerCommand::Keep => {
            out_raw(&custody_engine::keep_checkpoints(&folder)?);
            Ok(Done::Well)
        }
        LedgerCommand::Tail { kind, output } => {
            let text = "SELECT writer, seq, kind, event_time, control_seq, leaf_hash FROM system.ledger.entries \
                        WHERE ($1 IS NULL OR kind = $1) ORDER BY event_time, writer, seq";
            let number = kind.as_ref().map(|word| {
                custody_model::Kind::ALL.into_iter().find(|k| k.word() == word).map(|k| k as i64).ok_or_else(|| {
                    Problem::new(2015, format!("no entry is of kind `{word}`"))
                        .help("publish, read.intent, read.outcome, denied, …")
                })
            });
            let number = number.transpose()?;
            super::query::ask(
                context,
                super::query::with(text, vec![ScalarValue::Int64(number)]),
                vec![],
                format,
                output,
            )
            .await
        }
    }
}

/// Text as it is: notes are signed bytes.
fn out_raw(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
