//! Rows for people and for programs. The only file that knows comfy-table.

use crate::{
    arguments::{Format, OutputArgs},
    render::cell,
};
use arrow::{
    array::RecordBatch,
    datatypes::SchemaRef,
    util::display::{ArrayFormatter, FormatOptions},
};
use custody_engine::GovernedRead;
use custody_model::Problem;
use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    path::PathBuf,
};

/// The format to use: asked for, or by where stdout leads.
pub(crate) fn chosen(format: Option<Format>) -> Format {
    format.unwrap_or(if io::stdout().is_terminal() { Format::Table } else { Format::Ndjson })
}

/// Prints a read to its end. Bytes are released to stdout or the file as they are counted in memory.
pub(crate) async fn read(mut read: GovernedRead, format: Option<Format>, args: &OutputArgs) -> Result<(), Problem> {
    let mut sink = match Sink::open(chosen(format), read.schema(), args, false) {
        Ok(sink) => sink,
        Err(problem) => {
            read.fail(&problem).await?;
            return Err(problem);
        }
    };
    while let Some(batch) = read.next().await {
        let batch = batch?;
        read.release(batch.num_rows() as u64, batch.get_array_memory_size() as u64).await?;
        if let Err(problem) = sink.write(&batch) {
            read.fail(&problem).await?;
            return Err(problem);
        }
    }
    read.finish().await?;
    sink.finish()
}

/// Prints batches that are no governed read.
pub(crate) fn batches(batches: &[RecordBatch], format: Option<Format>, args: &OutputArgs) -> Result<(), Problem> {
    print(batches, format, args, false)
}

/// Prints batches that are no governed read; JSON names every column of every row.
pub(crate) fn full_rows(batches: &[RecordBatch], format: Option<Format>, args: &OutputArgs) -> Result<(), Problem> {
    print(batches, format, args, true)
}

fn print(batches: &[RecordBatch], format: Option<Format>, args: &OutputArgs, nulls: bool) -> Result<(), Problem> {
    let Some(first) = batches.first() else { return Ok(()) };
    let mut sink = Sink::open(chosen(format), first.schema(), args, nulls)?;
    batches.iter().try_for_each(|b| sink.write(b))?;
    sink.finish()
}

/// Prints text.
pub(crate) fn text(text: &str) -> Result<(), Problem> {
    let mut out = io::stdout().lock();
    done(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

enum Writing {
    Table { table: comfy_table::Table, shown: usize, total: u64, limit: usize },
    Json(arrow::json::ArrayWriter<Box<dyn Write + Send>>),
    Ndjson(arrow::json::LineDelimitedWriter<Box<dyn Write + Send>>),
    Csv(arrow::csv::Writer<Box<dyn Write + Send>>),
    Arrow(Box<arrow::ipc::writer::FileWriter<Box<dyn Write + Send>>>),
    Parquet(Box<parquet::arrow::ArrowWriter<Box<dyn Write + Send>>>),
}

struct Sink {
    writing: Writing,
    to: Option<(PathBuf, PathBuf)>,
}

impl Sink {
    fn open(format: Format, schema: SchemaRef, args: &OutputArgs, nulls: bool) -> Result<Self, Problem> {
        let binary = matches!(format, Format::Arrow | Format::Parquet);
        let to = args.output.as_ref().map(|path| {
            let mut name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
            name.push(".part");
            (path.with_file_name(name), path.clone())
        });
        if binary && to.is_none() && io::stdout().is_terminal() {
            let word = format.word();
            return Err(Problem::new(2008, format!("`{word}` is binary: redirect it or give --output")));
        }
        if matches!(format, Format::Json | Format::Ndjson) {
            let names: Vec<_> = schema.fields().iter().map(|f| f.name()).collect();
            if let Some((_, twice)) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
                return Err(Problem::new(2009, format!("column `{twice}` appears twice: give one an alias")));
            }
        }
        if format == Format::Csv
            && let Some(nested) = schema.fields().iter().find(|f| f.data_type().is_nested())
        {
            return Err(Problem::new(
                2016,
                format!("column `{}` is a list or struct, which CSV cannot hold", nested.name()),
            )
            .help("leave it out, or choose --format ndjson or parquet"));
        }
        let writer: Box<dyn Write + Send> = match &to {
            Some((part, _)) => Box::new(BufWriter::new(File::create(part).map_err(|e| failed(&e))?)),
            None => Box::new(BufWriter::new(io::stdout())),
        };
        let json = || arrow::json::WriterBuilder::new().with_explicit_nulls(nulls);
        let writing = match format {
            Format::Table => {
                let mut table = comfy_table::Table::new();
                table.load_preset(comfy_table::presets::NOTHING);
                table.set_header(schema.fields().iter().map(|f| cell(f.name())));
                let limit = if args.limit == 0 { usize::MAX } else { args.limit };
                Writing::Table { table, shown: 0, total: 0, limit }
            }
            Format::Json => Writing::Json(json().build::<_, arrow::json::writer::JsonArray>(writer)),
            Format::Ndjson => Writing::Ndjson(json().build::<_, arrow::json::writer::LineDelimited>(writer)),
            Format::Csv => {
                let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(writer);
                // The header stands over no rows as well.
                writer.write(&RecordBatch::new_empty(schema)).map_err(|e| failed(&e))?;
                Writing::Csv(writer)
            }
            Format::Arrow => Writing::Arrow(Box::new(
                arrow::ipc::writer::FileWriter::try_new(writer, &schema).map_err(|e| failed(&e))?,
            )),
            Format::Parquet => Writing::Parquet(Box::new(
                parquet::arrow::ArrowWriter::try_new(writer, schema, None).map_err(|e| failed(&e))?,
            )),
            Format::Tree | Format::Dot | Format::Openlineage => {
                return Err(Problem::bug(format!("rows are not printed as `{}`", format.word())));
            }
        };
        Ok(Self { writing, to })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), Problem> {
        match &mut self.writing {
            Writing::Table { table, shown, total, limit } => {
                *total += batch.num_rows() as u64;
                let options = FormatOptions::default().with_display_error(true).with_null("NULL");
                let columns = batch
                    .columns()
                    .iter()
                    .map(|c| ArrayFormatter::try_new(c.as_ref(), &options))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| failed(&e))?;
                for row in 0..batch.num_rows().min(limit.saturating_sub(*shown)) {
                    table.add_row(columns.iter().map(|c| cell(&c.value(row).to_string())));
                    *shown += 1;
                }
                Ok(())
            }
            Writing::Json(w) => w.write(batch).map_err(|e| failed(&e)),
            Writing::Ndjson(w) => w.write(batch).map_err(|e| failed(&e)),
            Writing::Csv(w) => w.write(batch).map_err(|e| failed(&e)),
            Writing::Arrow(w) => w.write(batch).map_err(|e| failed(&e)),
            Writing::Parquet(w) => w.write(batch).map_err(|e| failed(&e)),
        }
    }

    fn finish(self) -> Result<(), Problem> {
        match self.writing {
            Writing::Table { table, shown, total, .. } => {
                let mut out = io::stdout().lock();
                done(writeln!(out, "{table}"))?;
                if (shown as u64) < total {
                    eprintln!("showing {shown} of {total} rows; --limit 0 for all");
                }
            }
            Writing::Json(mut w) => {
                w.finish().map_err(|e| failed(&e))?;
                let mut inner = w.into_inner();
                done(writeln!(inner).and_then(|()| inner.flush()))?;
            }
            Writing::Ndjson(mut w) => {
                w.finish().map_err(|e| failed(&e))?;
                done(w.into_inner().flush())?;
            }
            Writing::Csv(w) => done(w.into_inner().flush())?,
            Writing::Arrow(mut w) => {
                w.finish().map_err(|e| failed(&e))?;
                done(w.into_inner().map_err(|e| failed(&e))?.flush())?;
            }
            Writing::Parquet(w) => done(w.into_inner().map_err(|e| failed(&e))?.flush())?,
        }
        match self.to {
            Some((part, path)) => std::fs::rename(part, path).map_err(|e| failed(&e)),
            None => Ok(()),
        }
    }
}

/// A reader that closed the pipe has had enough: that is no failure.
fn done(result: io::Result<()>) -> Result<(), Problem> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| failed(&e)),
    }
}

fn failed(error: &dyn std::fmt::Display) -> Problem {
    Problem::new(7201, format!("the output could not be written: {error}"))
}
