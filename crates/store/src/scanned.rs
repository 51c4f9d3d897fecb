//! What an executed plan took from storage, told by its metrics.

use crate::source::SourceScan;
use custody_model::ScannedFile;
use datafusion::{
    datasource::source::DataSourceExec,
    physical_plan::{
        ExecutionPlan,
        metrics::{MetricValue, MetricsSet},
    },
};
use std::{collections::BTreeMap, sync::Arc};

/// What was taken by all scans of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scanned {
    /// Rows out of storage.
    pub rows: u64,
    /// Files opened, by path below the folder of the version or source.
    pub files: Vec<ScannedFile>,
}

/// Row groups of one file: read where that is counted, and left out.
#[derive(Default)]
pub(crate) struct Groups {
    /// `None`: the format has none.
    matched: Option<u64>,
    skipped: u64,
    bytes: u64,
}

/// What the storage leaves of an executed plan have read so far.
pub fn scanned(plan: &Arc<dyn ExecutionPlan>) -> Scanned {
    let mut out = Scanned::default();
    walk(plan, &mut out);
    out.files.sort();
    out
}

fn walk(plan: &Arc<dyn ExecutionPlan>, out: &mut Scanned) {
    if let Some(scan) = plan.downcast_ref::<SourceScan>() {
        let (rows, files) = scan.taken();
        out.rows += rows;
        out.files.extend(files);
    } else if plan.downcast_ref::<DataSourceExec>().is_some()
        && let Some(metrics) = plan.metrics()
    {
        out.rows += metrics.output_rows().unwrap_or(0) as u64;
        let mut files = BTreeMap::new();
        count(&metrics, &mut files);
        // A file that its statistics ruled out whole was never opened.
        let opened = files.into_iter().filter(|(_, groups)| groups.bytes > 0 || groups.skipped > 0);
        out.files.extend(opened.map(|(path, groups)| {
            let name = path.rsplit('/').next().unwrap_or(&path);
            groups.of(name.to_string())
        }));
    }
    plan.children().into_iter().for_each(|child| walk(child, out));
}

impl Groups {
    pub(crate) fn of(self, path: String) -> ScannedFile {
        ScannedFile { path, row_groups: self.matched, skipped: self.skipped }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.matched = match (self.matched, other.matched) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        self.skipped += other.skipped;
        self.bytes += other.bytes;
    }
}

/// Adds up the metrics that carry a file's name.
pub(crate) fn count(metrics: &MetricsSet, files: &mut BTreeMap<String, Groups>) {
    for metric in metrics.iter() {
        let Some(name) = metric.labels().iter().find(|l| l.name() == "filename").map(|l| l.value().to_string()) else {
            continue;
        };
        let groups = files.entry(name).or_default();
        let read = groups.matched.get_or_insert(0);
        match metric.value() {
            MetricValue::PruningMetrics { name, pruning_metrics } => {
                let (pruned, matched) = (pruning_metrics.pruned() as u64, pruning_metrics.matched() as u64);
                match name.as_ref() {
                    "row_groups_pruned_statistics" => {
                        groups.skipped += pruned;
                        *read += matched;
                    }
                    // These come after: what they leave out had passed the statistics.
                    "row_groups_pruned_bloom_filter" | "limit_pruned_row_groups" => {
                        groups.skipped += pruned;
                        *read = read.saturating_sub(pruned);
                    }
                    _ => {}
                }
            }
            MetricValue::Count { name, count } if name == "bytes_scanned" => groups.bytes += count.value() as u64,
            MetricValue::Count { name, count } if name == "row_groups_pruned_dynamic_filter" => {
                groups.skipped += count.value() as u64;
                *read = read.saturating_sub(count.value() as u64);
            }
            _ => {}
        }
    }
}
