//! `lint`, `plan`, `run`, `publish`, `verify`: from project files to versions.

use super::{Done, Failed};
use crate::{
    arguments::{PublishArgs, SelectArgs},
    context::{Context, git, subject},
};
use custody_engine::{Contract, Event, PlannedView, PublishOptions, Reach};
use custody_model::{Authentication, Problem};
use indicatif::{ProgressBar, ProgressStyle};
use std::{io::IsTerminal, sync::Mutex, time::Duration};

pub(crate) fn lint(context: &Context) -> Result<Done, Failed> {
    let project = context.project().map_err(|p| Failed::with(p, read_texts(context)))?;
    eprintln!(
        "{} sources, {} feature views, {} plain views: no finding",
        project.sources.len(),
        project.features.len(),
        project.views.len()
    );
    Ok(Done::Well)
}

/// The project's texts, for places in problems of a project that does not load.
pub(crate) fn read_texts(context: &Context) -> Vec<custody_model::SourceText> {
    let mut texts = vec![];
    for folder in ["sources", "features", "views", "training", "policies", "policies/tests"] {
        let Ok(entries) = std::fs::read_dir(context.root.join(folder)) else { continue };
        for path in entries.flatten().map(|e| e.path()) {
            if let Ok(text) = std::fs::read_to_string(&path) {
                let name = path.strip_prefix(&context.root).unwrap_or(&path).display().to_string();
                texts.push(custody_model::SourceText::file(name, path, text));
            }
        }
    }
    texts
}

pub(crate) async fn plan(context: &Context, args: &SelectArgs) -> Result<Done, Failed> {
    let project = context.project().map_err(|p| Failed::with(p, read_texts(context)))?;
    let (engine, session) = context.session().await?;
    let mut readers = vec![];
    for (name, declared) in context.stand_ins()? {
        let purpose = declared.purposes.first().cloned().unwrap_or_else(|| context.file.project.purpose.clone());
        readers.push((name.clone(), subject(&name, &declared, purpose, Authentication::Impersonated)));
    }
    let planned = session.plan(&project, &args.select, &readers).await;
    context.close(&engine).await?;
    let views = planned.map_err(|p| Failed::with(p, read_texts(context)))?;
    views.iter().for_each(show);
    let changes = views.iter().any(|v| !v.because.is_empty() || v.contract == Contract::Metadata);
    Ok(if changes { Done::With(5) } else { Done::Well })
}

fn show(view: &PlannedView) {
    let name = &view.definition.name;
    let versions = match view.newest {
        Some(n) if view.because.is_empty() => format!("{n}"),
        Some(n) => format!("{n} -> {}", n + 1),
        None => "-> 1".into(),
    };
    out(&format!("{name} {versions}  {}", view.contract.word()));
    for reason in &view.because {
        out(&format!("  computed because {reason}"));
    }
    for (i, column) in view.definition.columns.iter().enumerate() {
        let ordinal = i as u32 + 1;
        let mut sources: Vec<String> = view
            .lineage
            .iter()
            .filter(|l| l.output_ordinal == ordinal)
            .map(|l| format!("{}.{} {}", l.source_dataset, l.source_column.as_deref().unwrap_or("*"), l.subtype))
            .collect();
        sources.dedup();
        let classes = view.classes.get(i).filter(|c| !c.is_empty()).map(|c| format!("; class {}", c.join(" + ")));
        out(&format!(
            "  {:<18} {:<26} {}{}",
            column.name,
            column.data_type.to_string(),
            sources.join(", "),
            classes.unwrap_or_default()
        ));
    }
    let mut rows: Vec<String> = view
        .lineage
        .iter()
        .filter(|l| l.output_ordinal == 0)
        .map(|l| format!("{}.{} {}", l.source_dataset, l.source_column.as_deref().unwrap_or("*"), l.subtype))
        .collect();
    rows.dedup();
    if !rows.is_empty() {
        out(&format!("  rows and order by {}", rows.join(", ")));
    }
    if !view.consumers.is_empty() {
        let consumers: Vec<_> = view.consumers.iter().map(ToString::to_string).collect();
        out(&format!("  consumers {}", consumers.join(", ")));
    }
    for (reader, reach) in &view.readers {
        out(&format!("  {reader:<14} {}", reach.as_ref().map_or_else(|| "not found".into(), |r| reached(view, r))));
    }
}

fn reached(view: &PlannedView, reach: &Reach) -> String {
    if reach.no_rows {
        return "no rows".into();
    }
    let mut by_rung: std::collections::BTreeMap<_, Vec<&str>> = std::collections::BTreeMap::new();
    for (column, rung) in view.definition.columns.iter().zip(&reach.rungs) {
        by_rung.entry(*rung).or_default().push(&column.name);
    }
    let mut parts: Vec<String> =
        by_rung.iter().rev().map(|(rung, columns)| format!("{rung}: {}", columns.join(", "))).collect();
    if !reach.row_sets.is_empty() {
        parts.push(format!("rows by {}", reach.row_sets.join(", ")));
    }
    parts.join("; ")
}

/// A line of data on stdout; a closed pipe ends quietly.
pub(crate) fn out(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{}", crate::render::cell(line));
}

pub(crate) async fn run(context: &Context, args: &SelectArgs, quiet: bool) -> Result<Done, Failed> {
    let project = context.project().map_err(|p| Failed::with(p, read_texts(context)))?;
    let (engine, session) = context.session().await?;
    let (git_commit, git_dirty) = git(&context.root);
    let options = PublishOptions { select: args.select.clone(), git_commit, git_dirty, ..PublishOptions::default() };
    let teller = Teller::new(quiet);
    let done = session.run(&project, &options, &|e| teller.tell(&e)).await;
    context.close(&engine).await?;
    done.map_err(|p| Failed::with(p, project.files))?;
    Ok(Done::Well)
}

pub(crate) async fn publish(context: &Context, args: &PublishArgs, quiet: bool) -> Result<Done, Failed> {
    let project = context.project().map_err(|p| Failed::with(p, read_texts(context)))?;
    let (engine, session) = context.session().await?;
    let (git_commit, git_dirty) = git(&context.root);
    let options = PublishOptions {
        because: args.message.clone(),
        select: args.select.select.clone(),
        accept_breaking: args.accept_breaking,
        git_commit,
        git_dirty,
    };
    let teller = Teller::new(quiet);
    let done = session.publish(&project, &options, &|e| teller.tell(&e)).await;
    context.close(&engine).await?;
    let published = done.map_err(|p| Failed::with(p, project.files))?;
    if published.is_empty() && !quiet {
        eprintln!("nothing changed: nothing computed, nothing published");
    }
    Ok(Done::Well)
}

pub(crate) async fn verify(context: &Context, version: &str, deep: bool) -> Result<Done, Failed> {
    let (name, pin) = super::query::name_and_pin(version)?;
    let (engine, session) = context.session().await?;
    let done = session.verify_version(&name, pin, deep).await;
    context.close(&engine).await?;
    let (at, findings) = done?;
    for finding in &findings {
        out(finding);
    }
    if findings.is_empty() {
        eprintln!("{at}: files{} as recorded", if deep { " and content root" } else { "" });
        return Ok(Done::Well);
    }
    Err(Problem::new(4201, format!("`{at}` is not what the ledger recorded")).into())
}

pub(crate) async fn gc(context: &Context) -> Result<Done, Failed> {
    let (engine, session) = context.session().await?;
    let done = session.leftovers().await;
    context.close(&engine).await?;
    let leftovers = done?;
    for leftover in &leftovers {
        out(&format!("{} {}", leftover.bytes, leftover.path));
    }
    let bytes: u64 = leftovers.iter().map(|l| l.bytes).sum();
    eprintln!("{} files of ended runs, {bytes} bytes", leftovers.len());
    Ok(Done::Well)
}

/// Shows progress: a bar on a terminal after half a second, lines for what is done.
pub(crate) struct Teller {
    quiet: bool,
    bar: Option<Mutex<Option<ProgressBar>>>,
}

impl Teller {
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| Mutex::new(None));
        Self { quiet, bar }
    }

    pub(crate) fn tell(&self, event: &Event) {
        if self.quiet {
            return;
        }
        if let Event::Computing { view, rows } = event {
            self.advance(&view.to_string(), *rows);
            return;
        }
        self.clear();
        match event {
            Event::Part { view, of, intervals } => {
                let n = intervals.len();
                eprintln!("  Computing {view} in {n} intervals of time; other rows are those of version {of}");
            }
            Event::Whole { view, why } => eprintln!("  Computing {view} in full: {why}"),
            Event::Snapshot { at, bytes } => eprintln!("   Recorded {at}  {} KiB", bytes / 1024),
            Event::SnapshotUnchanged { at } => eprintln!("  Unchanged {at}"),
            Event::Unchanged { view, version: Some(n) } => eprintln!("  Unchanged {view}@{n}"),
            Event::Unchanged { view, version: None } => eprintln!("  Unchanged draft of {view}"),
            Event::Drafted { view, rows, root } => eprintln!("    Drafted {view}  {rows} rows  root {}", root.short()),
            Event::Published(p) => eprintln!(
                "  Published {}  {} rows  root {}  entry {}{}",
                p.at,
                p.rows,
                p.at.content.short(),
                p.entry,
                if p.adopted { "  (from the draft)" } else { "" }
            ),
            Event::Violated { view, result } => eprintln!(
                "    warning: {view}: {} of {} rows break `{}` ({})",
                result.violations, result.checked, result.check, result.action
            ),
            Event::View { at } => eprintln!("   Recorded view {at}"),
            Event::ViewUnchanged { view } => eprintln!("  Unchanged view {view}"),
            Event::Warning(text) => eprintln!("    warning: {text}"),
            Event::Computing { .. } => {}
        }
    }

    fn advance(&self, view: &str, rows: u64) {
        let Some(slot) = &self.bar else { return };
        let mut slot = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bar = slot.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}  {human_pos} rows  {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        bar.set_message(view.to_string());
        bar.set_position(rows);
    }

    fn clear(&self) {
        let Some(slot) = &self.bar else { return };
        if let Some(bar) = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}
