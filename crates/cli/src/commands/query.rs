//! `sql`, `read`, `log`, `audit`: questions, each a governed and audited read.

use super::{Done, Failed};
use crate::{
    arguments::{AuditCommand, Format, OutputArgs, SqlArgs},
    context::Context,
    output,
};
use custody_engine::{ReadRequest, Session};
use custody_model::{DatasetName, Pin, Problem, SourceText};
use datafusion::{common::ParamValues, scalar::ScalarValue};
use std::{io::Read, path::Path};

pub(crate) async fn sql(context: &Context, args: &SqlArgs, format: Option<Format>) -> Result<Done, Failed> {
    let text = match (&args.command, &args.file) {
        (Some(command), _) => SourceText { name: "-c".into(), path: None, text: command.clone() },
        (None, Some(path)) => text_of(path)?,
        (None, None) => standard_input()?,
    };
    let request = ReadRequest::Sql { text: text.clone(), parameters: None, follows: None };
    let (engine, session) = context.session().await?;
    let done = match &args.prediction {
        Some(id) => match session.for_prediction(id) {
            Ok(session) => answer(&session, request, format, &args.output).await,
            Err(problem) => Err(problem),
        },
        None => answer(&session, request, format, &args.output).await,
    };
    context.close(&engine).await?;
    done.map_err(|p| Failed::with(p, vec![text]))?;
    Ok(Done::Well)
}

/// A file's text; `-`: standard input.
pub(crate) fn text_of(path: &Path) -> Result<SourceText, Problem> {
    if path.as_os_str() == "-" {
        return standard_input();
    }
    let text = std::fs::read_to_string(path)
        .map_err(|e| Problem::new(2012, format!("`{}` cannot be read: {e}", path.display())))?;
    Ok(SourceText { name: path.display().to_string(), path: None, text })
}

fn standard_input() -> Result<SourceText, Problem> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|e| Problem::new(2012, format!("standard input cannot be read: {e}")))?;
    Ok(SourceText { name: "standard input".into(), path: None, text })
}

pub(crate) async fn read(
    context: &Context,
    version: &str,
    args: &OutputArgs,
    format: Option<Format>,
) -> Result<Done, Failed> {
    let (name, pin) = name_and_pin(version)?;
    let format = format.or_else(|| match args.output.as_ref()?.extension()?.to_str()? {
        "parquet" => Some(Format::Parquet),
        "arrow" => Some(Format::Arrow),
        "csv" => Some(Format::Csv),
        "json" => Some(Format::Json),
        _ => None,
    });
    ask(context, ReadRequest::dataset(name, pin), vec![], format, args).await
}

pub(crate) async fn log(context: &Context, name: &str, format: Option<Format>) -> Result<Done, Failed> {
    let name = dataset(name)?;
    let text = "SELECT version, published_at, published_by, row_count, content_root, because \
                FROM system.catalog.versions WHERE dataset = $1 ORDER BY version";
    let rows = asked(context, with(text, vec![ScalarValue::from(name.to_string().as_str())])).await?;
    if rows.iter().all(|b| b.num_rows() == 0) {
        return Err(custody_engine::table_not_found(&name).into());
    }
    output::batches(&rows, format, &OutputArgs::default())?;
    Ok(Done::Well)
}

pub(crate) async fn audit(context: &Context, command: &AuditCommand, format: Option<Format>) -> Result<Done, Failed> {
    let AuditCommand::Search { principal, dataset, action, output } = command;
    let text = "SELECT event_time, action, principal, purpose, dataset, dataset_version, decision, outcome, code, rows, \
                writer, seq FROM system.access.audit \
                WHERE ($1 IS NULL OR principal = $1) AND ($2 IS NULL OR dataset = $2) AND ($3 IS NULL OR action = $3) \
                ORDER BY event_time, writer, seq";
    let values = vec![
        ScalarValue::Utf8(principal.clone()),
        ScalarValue::Utf8(dataset.clone()),
        ScalarValue::Utf8(action.clone()),
    ];
    ask(context, with(text, values), vec![], format, output).await
}

/// A statement with values for its placeholders.
pub(crate) fn with(text: &str, values: Vec<ScalarValue>) -> ReadRequest {
    ReadRequest::Sql {
        text: SourceText::inline(text),
        parameters: Some(ParamValues::List(values.into_iter().map(Into::into).collect())),
        follows: None,
    }
}

/// Opens, reads, prints, closes.
pub(crate) async fn ask(
    context: &Context,
    request: ReadRequest,
    texts: Vec<SourceText>,
    format: Option<Format>,
    args: &OutputArgs,
) -> Result<Done, Failed> {
    let (engine, session) = context.session().await?;
    let done = answer(&session, request, format, args).await;
    context.close(&engine).await?;
    done.map_err(|p| Failed::with(p, texts))?;
    Ok(Done::Well)
}

async fn answer(
    session: &Session,
    request: ReadRequest,
    format: Option<Format>,
    args: &OutputArgs,
) -> Result<(), Problem> {
    let read = session.read(request).await?;
    output::read(read, format, args).await
}

pub(crate) async fn asked(context: &Context, request: ReadRequest) -> Result<Vec<arrow::array::RecordBatch>, Failed> {
    let (engine, session) = context.session().await?;
    let rows = asked_of(&session, request).await;
    context.close(&engine).await?;
    Ok(rows?)
}

/// All rows of a read.
pub(crate) async fn asked_of(
    session: &Session,
    request: ReadRequest,
) -> Result<Vec<arrow::array::RecordBatch>, Problem> {
    session.read(request).await?.collect().await
}

/// `features.x`, `features.x@3`.
pub(crate) fn name_and_pin(text: &str) -> Result<(DatasetName, Pin), Problem> {
    match text.split_once('@') {
        None => Ok((dataset(text)?, Pin::Newest)),
        Some((name, version)) => {
            let version = version.trim_start_matches('v');
            let number = version.parse().map_err(|_| Problem::new(2013, format!("`{version}` is not a version")))?;
            Ok((dataset(name)?, Pin::Version(number)))
        }
    }
}

pub(crate) fn dataset(text: &str) -> Result<DatasetName, Problem> {
    text.parse().map_err(|e: custody_model::BadName| Problem::new(2014, e.to_string()))
}
