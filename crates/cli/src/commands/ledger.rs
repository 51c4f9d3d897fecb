//! `ledger`: what was written down, and whether it still stands.

use super::{Done, Failed, build::out};
use crate::{
    arguments::{Format, LedgerCommand},
    context::Context,
    settings::duration,
};
use custody_engine::{Erased, VerifyOptions, clock::SystemClock, verify_ledger};
use custody_model::Problem;
use datafusion::scalar::ScalarValue;
use std::path::Path;

pub(crate) async fn run(context: &Context, command: &LedgerCommand, format: Option<Format>) -> Result<Done, Failed> {
    let folder = context.root.join(&context.file.project.warehouse).join("ledger");
    match command {
        LedgerCommand::Verify { since, mirror, anchor, max_age, ledger } => {
            let mut notes = vec![];
            for path in since {
                notes.push(kept(path)?);
            }
            let mut anchors = vec![];
            for path in anchor {
                let file = if path.is_dir() { path.join("checkpoint") } else { path.clone() };
                anchors.push((path.display().to_string(), kept(&file)?));
            }
            let max_age_seconds = duration(max_age)?;
            let options = VerifyOptions { notes, mirrors: mirror.clone(), anchors, max_age_seconds };
            let report = verify_ledger(ledger.as_ref().unwrap_or(&folder), &options, &SystemClock)?;
            report.render().lines().for_each(out);
            let code = report.verdict.exit_code();
            Ok(if code == 0 { Done::Well } else { Done::With(code) })
        }
        LedgerCommand::Keep => {
            out_raw(&custody_engine::keep_checkpoints(&folder)?);
            Ok(Done::Well)
        }
        LedgerCommand::Prove { reference, anchored, output } => {
            let (writer, seq) = custody_engine::entry_place(reference)?;
            // Whoever takes an entry out reads it: governed and recorded.
            let text = "SELECT raw FROM system.ledger.entries WHERE writer = $1 AND seq = $2";
            let values = vec![ScalarValue::from(writer.as_str()), ScalarValue::Int64(i64::try_from(seq).ok())];
            let rows = super::query::asked(context, super::query::with(text, values)).await?;
            let entry = rows.iter().find_map(|batch| match ScalarValue::try_from_array(batch.column(0), 0) {
                Ok(ScalarValue::Binary(bytes) | ScalarValue::LargeBinary(bytes) | ScalarValue::BinaryView(bytes)) => {
                    bytes
                }
                _ => None,
            });
            let entry = entry.ok_or_else(|| {
                Problem::new(1804, format!("there is no entry {writer}/{seq}, or its bytes are not for you"))
                    .help("custody ledger tail lists entries")
            })?;
            write(output, &custody_engine::prove_entry(&folder, &writer, seq, &entry, *anchored)?)?;
            Ok(Done::Well)
        }
        LedgerCommand::Consistency { older, newer, writer, output } => {
            let older = note_of(older, writer.as_deref())?;
            let newer = newer.as_ref().map(|path| note_of(path, writer.as_deref())).transpose()?;
            write(output, &custody_engine::prove_consistency(&folder, &older, newer.as_deref())?)?;
            Ok(Done::Well)
        }
        LedgerCommand::CheckProof { proof, root_key } => check_proof(proof, root_key),
        LedgerCommand::Peer { into } => keep_copy(into),
        LedgerCommand::Replicate { to, from } => {
            let done = match (to, from) {
                (Some(copy), _) => custody_engine::replicate(&folder, copy, &SystemClock)?,
                (None, Some(copy)) => custody_engine::restore(copy, &folder, &SystemClock)?,
                (None, None) => return Ok(Done::Well), // clap asks for one
            };
            let told = format!("{} files, {} bytes copied", done.files, done.bytes);
            out(if done.copied { &told } else { "nothing copied" });
            told_of(&done.report)
        }
        LedgerCommand::Drill { mirror } => {
            let scratch = folder.with_file_name(format!("drill-{}", std::process::id()));
            let drilled = custody_engine::drill(&folder, mirror, &scratch, &SystemClock)?;
            out(&format!("recovery time: {:.3} s for {} entries", drilled.took.as_secs_f64(), drilled.restored));
            out(&format!("recovery point: {} entries are not in the copy", drilled.behind));
            told_of(&drilled.report)
        }
        LedgerCommand::RotateKey { writer, revoke } => {
            let keys = folder.with_file_name("keys");
            let clock = std::sync::Arc::new(SystemClock);
            let epoch = custody_engine::audit::Recorder::rotate_key(&folder, &keys, writer, *revoke, clock)?;
            out(&format!("writer {writer} signs with epoch {epoch}"));
            Ok(Done::Well)
        }
        LedgerCommand::Erase { subject, because } => {
            let (engine, session) = context.session().await?;
            let erased = session.erase(&subject.as_str().into(), because).await;
            context.close(&engine).await?;
            match erased? {
                Erased::Asked(entry) => {
                    out(&format!("recorded as {entry}: another administrator must agree"));
                    out(&format!("custody ledger erase {subject} -m WHY"));
                }
                Erased::Done { entry, keys } => {
                    let keys = if keys == 1 { "1 key".to_string() } else { format!("{keys} keys") };
                    out(&format!("{keys} destroyed, recorded as {entry}: what was sealed for {subject} is unreadable"));
                }
            }
            Ok(Done::Well)
        }
        LedgerCommand::RootKey => {
            out(&custody_engine::root_key(&folder)?);
            Ok(Done::Well)
        }
        LedgerCommand::Status { output } => {
            let text = "SELECT w.writer, w.incarnation, w.head_seq + 1 AS entries, c.tree_size AS signed, w.last_beat, \
                        w.state FROM system.ledger.writers AS w LEFT JOIN system.ledger.checkpoints AS c \
                        ON split_part(c.origin, '/', 3) = w.writer ORDER BY w.writer";
            super::query::ask(context, super::query::with(text, vec![]), vec![], format, output).await
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

/// The verdict about a copy. A copy is as fresh as what it was held against: only what is wrong is an error.
fn told_of(report: &custody_engine::Report) -> Result<Done, Failed> {
    report.render().lines().for_each(out);
    let code = report.verdict.exit_code();
    Ok(if matches!(code, 1 | 4) { Done::With(code) } else { Done::Well })
}

/// Checks a proof against a root key, both in files, without a project.
pub(crate) fn check_proof(proof: &Path, root_key: &Path) -> Result<Done, Failed> {
    let bytes = std::fs::read(proof).map_err(|e| unreadable(proof, &e))?;
    let key = std::fs::read_to_string(root_key).map_err(|e| unreadable(root_key, &e))?;
    let (told, code) = custody_engine::check_proof(&bytes, &key);
    out(&told);
    Ok(if code == 0 { Done::Well } else { Done::With(code) })
}

/// Keeps a copy for the process at the other end, without a project.
pub(crate) fn keep_copy(into: &Path) -> Result<Done, Failed> {
    let kept = custody_engine::keep_copy(into, &mut std::io::stdin().lock(), &mut std::io::stdout().lock());
    kept.map_err(|e| Problem::new(1805, format!("the copy in `{}` is not kept on: {e}", into.display())))?;
    Ok(Done::Well)
}

fn unreadable(path: &Path, e: &std::io::Error) -> Problem {
    Problem::new(1802, format!("`{}` cannot be read: {e}", path.display()))
}

fn kept(path: &Path) -> Result<String, Problem> {
    let text = std::fs::read_to_string(path);
    text.map_err(|e| {
        Problem::new(1801, format!("`{}` cannot be read: {e}", path.display()))
            .help("custody ledger keep > FILE writes one")
    })
}

/// The one note in a file, or that of a writer.
fn note_of(path: &Path, writer: Option<&str>) -> Result<String, Problem> {
    let text = kept(path)?;
    let mut notes = custody_engine::split_notes(&text);
    notes.retain(|note| writer.is_none_or(|w| note.lines().next().is_some_and(|o| o.ends_with(&format!("/{w}")))));
    match (notes.pop(), notes.is_empty()) {
        (Some(note), true) => Ok(note),
        (Some(_), false) => Err(Problem::new(1803, format!("`{}` holds several writers' checkpoints", path.display()))
            .help("choose one with --writer")),
        (None, _) => Err(Problem::new(1803, format!("`{}` holds no such checkpoint", path.display()))
            .help("custody ledger keep > FILE writes them")),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    std::fs::write(path, bytes).map_err(|e| Problem::new(1802, format!("`{}` cannot be written: {e}", path.display())))
}

/// Text as it is: notes are signed bytes.
fn out_raw(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
