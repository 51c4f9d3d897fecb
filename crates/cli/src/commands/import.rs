//! `import`: what other systems say of lineage.

use super::{Done, Failed};
use crate::{
    arguments::{Format, ImportCommand, OutputArgs},
    context::Context,
    output,
};
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use custody_engine::{ImportedLineage, MAX_IMPORT_BYTES, Session};
use custody_model::Problem;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

pub(crate) async fn run(context: &Context, command: &ImportCommand, format: Option<Format>) -> Result<Done, Failed> {
    let ImportCommand::Openlineage { file } = command;
    let text = read(file)?;
    let (engine, session) = context.session().await?;
    let done = openlineage(&session, &text, format).await;
    context.close(&engine).await?;
    done?;
    Ok(Done::Well)
}

async fn openlineage(session: &Session, text: &[u8], format: Option<Format>) -> Result<(), Problem> {
    let ImportedLineage { events, assertions, externals, known, without_outputs } =
        session.import_lineage(text).await?;
    let count = |n: u64| Arc::new(Int64Array::from_iter_values(i64::try_from(n))) as ArrayRef;
    let counts = RecordBatch::try_from_iter([
        ("events", count(events)),
        ("assertions", count(assertions)),
        ("externals", count(externals)),
        ("known", count(known)),
        ("without_outputs", count(without_outputs)),
    ]);
    let counts = counts.map_err(|e| Problem::bug(format!("the counts have no shape: {e}")))?;
    output::batches(&[counts], format, &OutputArgs::default())
}

/// The text, read no further than one byte beyond what is taken, so that the refusal is the importer's.
fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let most = MAX_IMPORT_BYTES as u64 + 1;
    let mut text = vec![];
    let (name, read) = if path.as_os_str() == "-" {
        ("standard input".to_string(), io::stdin().lock().take(most).read_to_end(&mut text))
    } else {
        let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut text));
        (format!("`{}`", path.display()), read)
    };
    read.map_err(|e| {
        Problem::new(2025, format!("{name} cannot be read: {e}")).help("a file of events, or - for standard input")
    })?;
    Ok(text)
}
