//! `lineage`: where a column comes from and what depends on it, DIRECT and INDIRECT, over the recorded graph.
//!
//! What holds here: one governed read gives nodes and edges; every format shows the same walk. Which rows exist stands in
//! the graph as a node of its own, so that what decides about rows is found behind every column.

use super::{
    Done, Failed,
    query::{asked_of, dataset, text_of, with},
};
use crate::{
    arguments::{Format, LineageArgs, OutputArgs},
    context::Context,
    output,
    render::cell,
};
use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder},
    datatypes::Int64Type,
    error::ArrowError,
};
use custody_engine::{ReadRequest, Session};
use custody_model::{ControlSeq, DatasetName, Problem};
use datafusion::scalar::ScalarValue;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Up: sources; down: consumers; `--to`: what lies between two columns.
pub(crate) async fn recorded(context: &Context, args: &LineageArgs, format: Option<Format>) -> Result<Done, Failed> {
    let from = Place::parse(&args.column)?;
    let to = args.to.as_deref().map(Place::parse).transpose()?;
    let (engine, session) = context.session().await?;
    let done = answer(&session, args, &from, to.as_ref(), format).await;
    context.close(&engine).await?;
    done?;
    Ok(Done::Well)
}

async fn answer(
    session: &Session,
    args: &LineageArgs,
    from: &Place,
    to: Option<&Place>,
    format: Option<Format>,
) -> Result<(), Problem> {
    let walk = |down| walk(session, from, args.at, args.depth, down, args.direct);
    let mut found = walk(args.down).await?;
    if found.nodes.is_empty() {
        return Err(Problem::new(6202, format!("{} not found", from.what())));
    }
    if let Some(to) = to
        && !found.keep_ways_to(to)
    {
        found = walk(true).await?;
        if !found.keep_ways_to(to) {
            let what = format!("no recorded lineage leads from `{from}` to `{to}`, in either direction");
            return Err(Problem::new(6203, what).help("`custody lineage` without `--to` lists what there is"));
        }
    }
    if !found.exact {
        eprintln!("some of this lineage is not exact: it names more sources than there may be");
    }
    match output::chosen(format) {
        Format::Tree => output::text(&found.tree()),
        Format::Dot => output::text(&found.dot()),
        Format::Openlineage => output::text(&session.lineage_events(&found.versions()).await?),
        Format::Table | Format::Json | Format::Ndjson | Format::Csv | Format::Arrow | Format::Parquet => {
            let rows = found.rows().map_err(|e| Problem::bug(format!("lineage does not become rows: {e}")))?;
            output::batches(&[rows], format, &OutputArgs { output: None, limit: 0 })
        }
    }
}

/// Lineage of one statement over declared tables: no project, no data.
pub(crate) async fn declared(ddl: &[PathBuf], query: &Path, format: Option<Format>) -> Result<Done, Failed> {
    if let Some(format) = format.filter(|f| f.draws_lineage()) {
        return Err(Problem::new(2019, format!("`--format {}` draws recorded lineage", format.word()))
            .help("with --ddl: `table`, `json`, `ndjson`")
            .into());
    }
    let ddl = ddl.iter().map(|path| text_of(path)).collect::<Result<Vec<_>, _>>()?;
    let query = text_of(query)?;
    let rows = custody_engine::declared_lineage(&ddl, &query).await;
    let texts = ddl.into_iter().chain([query]).collect();
    output::full_rows(&[rows.map_err(|p| Failed::with(p, texts))?], format, &OutputArgs { output: None, limit: 0 })?;
    Ok(Done::Well)
}

/// A dataset, or one column of it.
pub(crate) struct Place {
    dataset: DatasetName,
    column: Option<String>,
}

impl Place {
    fn parse(text: &str) -> Result<Self, Problem> {
        match text.rsplit_once('.').filter(|(name, _)| name.contains('.')) {
            Some((name, column)) => Ok(Self { dataset: dataset(name)?, column: Some(column.to_string()) }),
            None => Ok(Self { dataset: dataset(text)?, column: None }),
        }
    }

    /// One column.
    pub(crate) fn column(dataset: DatasetName, column: &str) -> Self {
        Self { dataset, column: Some(column.to_string()) }
    }

    fn what(&self) -> String {
        match &self.column {
            Some(column) => format!("column `{column}` of `{}`", self.dataset),
            None => format!("table `{}`", self.dataset),
        }
    }

    fn holds(&self, column: &Column) -> bool {
        self.dataset.to_string() == column.dataset && self.column.as_ref().is_none_or(|name| *name == column.name)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.dataset)?;
        self.column.iter().try_for_each(|column| write!(f, ".{column}"))
    }
}

/// A column of a version.
#[derive(Clone)]
struct Column {
    dataset: String,
    version: i64,
    name: String,
    data_type: String,
    classes: Vec<String>,
}

impl Column {
    fn label(&self) -> String {
        format!("{}@{}.{}", cell(&self.dataset), self.version, cell(&self.name))
    }
}

/// A node of the graph and where its edges lead.
struct Reached {
    hop: i64,
    /// `None`: which rows of a version exist.
    column: Option<Column>,
    ways: Vec<Way>,
}

/// An edge, away from where the walk began.
#[derive(Clone)]
struct Way {
    to: i64,
    how: String,
    masked: bool,
}

/// What a walk found, by node.
pub(crate) struct Walk {
    down: bool,
    exact: bool,
    start: BTreeSet<i64>,
    nodes: BTreeMap<i64, Reached>,
}

/// Walks the graph from a column, or from all of a dataset's, as far as `depth` versions.
pub(crate) async fn walk(
    session: &Session,
    from: &Place,
    at: Option<u64>,
    depth: u32,
    down: bool,
    direct: bool,
) -> Result<Walk, Problem> {
    let rows = asked_of(session, request(from, at, depth, down, direct)).await?;
    let mut walk = Walk { down, exact: true, start: BTreeSet::new(), nodes: BTreeMap::new() };
    for batch in &rows {
        walk.take(batch).ok_or_else(|| Problem::bug("the walk's columns have other types"))?;
    }
    Ok(walk)
}

/// Nodes reached, each with its edges. An edge within a version (its rows decide about its columns) is no hop.
fn request(from: &Place, at: Option<u64>, depth: u32, down: bool, direct: bool) -> ReadRequest {
    let (near, far) = if down { ("source_node", "target_node") } else { ("target_node", "source_node") };
    let text = format!(
        "WITH RECURSIVE start AS (
           SELECT node FROM system.catalog.columns
           WHERE dataset = $1 AND ($2 IS NULL OR column_name = $2)
             AND version = coalesce($3, (SELECT max(version) FROM system.catalog.columns WHERE dataset = $1))),
         edges AS (
           SELECT {near} AS near, {far} AS far, subtype, masking, exact,
             CASE WHEN source_node / 65536 = target_node / 65536 THEN 0 ELSE 1 END AS cost
           FROM system.lineage.edges WHERE NOT $5 OR kind = 'DIRECT'),
         walk AS (
           SELECT node, 0 AS hop FROM start
           UNION ALL
           SELECT * FROM (SELECT DISTINCT e.far, w.hop + e.cost FROM walk AS w
             JOIN edges AS e ON e.near = w.node WHERE w.hop + e.cost <= $4)),
         reached AS (SELECT node, min(hop) AS hop FROM walk GROUP BY node)
         SELECT r.hop, r.node, c.dataset, c.version, c.column_name, c.data_type, c.classes,
           e.far, e.subtype, e.masking, e.exact
         FROM reached AS r
         LEFT JOIN system.catalog.columns AS c ON c.node = r.node
         LEFT JOIN edges AS e ON e.near = r.node AND r.hop + e.cost <= $4
         ORDER BY r.node, e.far, e.subtype, e.masking"
    );
    let values = vec![
        ScalarValue::from(from.dataset.to_string().as_str()),
        ScalarValue::Utf8(from.column.clone()),
        ScalarValue::Int64(at.and_then(|v| i64::try_from(v).ok())),
        ScalarValue::Int64(Some(i64::from(depth))),
        ScalarValue::Boolean(Some(direct)),
    ];
    with(&text, values)
}

impl Walk {
    fn take(&mut self, batch: &RecordBatch) -> Option<()> {
        let int = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>().cloned();
        let text = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>().cloned();
        let flag = |name: &str| batch.column_by_name(name)?.as_boolean_opt().cloned();
        let (hops, nodes, versions, far): (_, _, _, Int64Array) =
            (int("hop")?, int("node")?, int("version")?, int("far")?);
        let (datasets, names, types, hows): (_, _, _, StringArray) =
            (text("dataset")?, text("column_name")?, text("data_type")?, text("subtype")?);
        let (masking, exact): (BooleanArray, _) = (flag("masking")?, flag("exact")?);
        let classes = batch.column_by_name("classes")?.as_list_opt::<i32>()?;
        for row in 0..batch.num_rows() {
            let node = nodes.value(row);
            let reached = match self.nodes.entry(node) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => {
                    let words = |list: ArrayRef| -> Option<Vec<String>> {
                        Some(list.as_string_opt::<i32>()?.iter().flatten().map(str::to_string).collect())
                    };
                    let column = match names.is_valid(row) {
                        true => Some(Column {
                            dataset: datasets.value(row).to_string(),
                            version: versions.value(row),
                            name: names.value(row).to_string(),
                            data_type: types.value(row).to_string(),
                            classes: words(classes.value(row))?,
                        }),
                        false => None,
                    };
                    if hops.value(row) == 0 && column.is_some() {
                        self.start.insert(node);
                    }
                    new.insert(Reached { hop: hops.value(row), column, ways: vec![] })
                }
            };
            if far.is_valid(row) {
                self.exact &= exact.value(row);
                let way = Way { to: far.value(row), how: hows.value(row).to_string(), masked: masking.value(row) };
                reached.ways.push(way);
            }
        }
        Some(())
    }

    /// Leaves only what lies on a way from the start to a place; `false`: none does.
    fn keep_ways_to(&mut self, to: &Place) -> bool {
        let mut kept: BTreeSet<i64> = self
            .nodes
            .iter()
            .filter(|(node, r)| !self.start.contains(node) && r.column.as_ref().is_some_and(|c| to.holds(c)))
            .map(|(node, _)| *node)
            .collect();
        // Backwards until nothing new leads there.
        loop {
            let more: Vec<i64> = self
                .nodes
                .iter()
                .filter(|(node, r)| !kept.contains(node) && r.ways.iter().any(|w| kept.contains(&w.to)))
                .map(|(node, _)| *node)
                .collect();
            if more.is_empty() {
                break;
            }
            kept.extend(more);
        }
        self.start.retain(|node| kept.contains(node));
        self.nodes.retain(|node, _| kept.contains(node));
        for reached in self.nodes.values_mut() {
            reached.ways.retain(|w| kept.contains(&w.to));
        }
        !self.start.is_empty()
    }

    /// Whether a column of this dataset was reached.
    pub(crate) fn reaches(&self, dataset: &str) -> bool {
        self.nodes.values().any(|r| r.column.as_ref().is_some_and(|c| c.dataset == dataset))
    }

    /// The control positions of the versions reached.
    fn versions(&self) -> BTreeSet<ControlSeq> {
        self.nodes.keys().map(|node| custody_model::Node(*node).made_at()).collect()
    }

    /// By node, the subtypes by which it was reached. What decides about rows stays that on its way through them.
    fn hows(&self) -> BTreeMap<i64, BTreeSet<&str>> {
        let mut hows: BTreeMap<i64, BTreeSet<&str>> =
            self.start.iter().map(|node| (*node, BTreeSet::from(["SELF"]))).collect();
        loop {
            let before: usize = hows.values().map(BTreeSet::len).sum();
            for (node, reached) in &self.nodes {
                for way in &reached.ways {
                    let told: BTreeSet<&str> = match way.how.as_str() {
                        "ROWS" if reached.column.is_none() => hows.get(node).cloned().unwrap_or_default(),
                        how => BTreeSet::from([how]),
                    };
                    hows.entry(way.to).or_default().extend(told);
                }
            }
            if hows.values().map(BTreeSet::len).sum::<usize>() == before {
                return hows;
            }
        }
    }

    /// One row a column: the shortest way's hops, and how it was reached.
    fn rows(&self) -> Result<RecordBatch, ArrowError> {
        let hows = self.hows();
        let mut found: Vec<(i64, &Column, i64)> =
            self.nodes.iter().filter_map(|(node, r)| Some((r.hop, r.column.as_ref()?, *node))).collect();
        found.sort_by_key(|(hop, c, node)| (*hop, c.dataset.clone(), c.version, *node));
        let list = |words: &mut dyn Iterator<Item = Vec<String>>| -> ArrayRef {
            let mut list = ListBuilder::new(StringBuilder::new());
            for words in words {
                list.append_value(words.into_iter().map(Some));
            }
            Arc::new(list.finish())
        };
        let text = |of: &dyn Fn(&Column) -> &str| -> ArrayRef {
            Arc::new(found.iter().map(|(_, c, _)| Some(of(c))).collect::<StringArray>())
        };
        let how = |node: &i64| hows.get(node).into_iter().flatten().map(ToString::to_string).collect::<Vec<_>>();
        RecordBatch::try_from_iter([
            ("hop", Arc::new(found.iter().map(|(hop, ..)| Some(*hop)).collect::<Int64Array>()) as ArrayRef),
            ("dataset", text(&|c| &c.dataset)),
            ("version", Arc::new(found.iter().map(|(_, c, _)| Some(c.version)).collect::<Int64Array>())),
            ("column_name", text(&|c| &c.name)),
            ("data_type", text(&|c| &c.data_type)),
            ("classes", list(&mut found.iter().map(|(_, c, _)| c.classes.clone()))),
            ("how", list(&mut found.iter().map(|(_, _, node)| how(node)))),
        ])
    }

    /// What a node is called.
    fn label(&self, node: i64) -> String {
        match self.nodes.get(&node).and_then(|r| r.column.as_ref()) {
            Some(column) => column.label(),
            None => {
                let made_at = custody_model::Node(node).made_at();
                let mut same = self.nodes.iter().filter(|(n, _)| custody_model::Node(**n).made_at() == made_at);
                match same.find_map(|(_, r)| r.column.as_ref()) {
                    Some(c) => format!("rows of {}@{}", cell(&c.dataset), c.version),
                    None => "rows".into(),
                }
            }
        }
    }

    /// For people: each column under what it leads to; what was shown once is not shown again.
    pub(crate) fn tree(&self) -> String {
        let (mut out, mut shown) = (String::new(), BTreeSet::new());
        for node in &self.start {
            let _ = writeln!(out, "{}{}", self.label(*node), self.classes(*node));
            self.branch(*node, "", &mut shown, &mut out);
        }
        out
    }

    fn branch(&self, node: i64, indent: &str, shown: &mut BTreeSet<i64>, out: &mut String) {
        if !shown.insert(node) {
            return;
        }
        let ways = self.nodes.get(&node).map(|r| r.ways.as_slice()).unwrap_or_default();
        for (i, way) in ways.iter().enumerate() {
            let last = i + 1 == ways.len();
            let again = shown.contains(&way.to) && self.nodes.get(&way.to).is_some_and(|r| !r.ways.is_empty());
            let _ = writeln!(
                out,
                "{indent}{} {:<14} {}{}{}{}",
                if last { "└─" } else { "├─" },
                way.how,
                self.label(way.to),
                self.classes(way.to),
                if way.masked { " masked" } else { "" },
                if again { " (above)" } else { "" },
            );
            self.branch(way.to, &format!("{indent}{}  ", if last { " " } else { "│" }), shown, out);
        }
    }

    fn classes(&self, node: i64) -> String {
        let classes = self.nodes.get(&node).and_then(|r| r.column.as_ref()).map(|c| c.classes.as_slice());
        match classes {
            Some([]) | None => String::new(),
            Some(classes) => format!(" [{}]", cell(&classes.join(", "))),
        }
    }

    /// For Graphviz; arrows point from source to output.
    fn dot(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut out = String::from("digraph lineage {\n  rankdir = LR;\n  node [shape = box];\n");
        for (node, reached) in &self.nodes {
            let shape = if reached.column.is_none() { " [shape = ellipse]" } else { "" };
            let _ = writeln!(out, "  {}{shape};", quoted(&self.label(*node)));
        }
        for (node, reached) in &self.nodes {
            for way in &reached.ways {
                let (source, target) = if self.down { (*node, way.to) } else { (way.to, *node) };
                let mask = if way.masked { ", masked" } else { "" };
                let (source, target) = (quoted(&self.label(source)), quoted(&self.label(target)));
                let _ = writeln!(out, "  {source} -> {target} [label = {}];", quoted(&format!("{}{mask}", way.how)));
            }
        }
        out.push_str("}\n");
        out
    }
}
