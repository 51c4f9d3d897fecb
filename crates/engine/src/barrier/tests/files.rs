//! Whole files that nothing visible can come from are not opened: by partition and by statistics, for row sets and for
//! leakproof predicates, under a closed barrier as without one. A predicate over a masked column is none of the scan's.

use super::{Relation, barrier_session_state};
use crate::barrier::Decisions;
use custody_model::{ControlSeq, DatasetId, Durability, FieldId, Hash, Rung, TableVersion};
use custody_policy::{Barrier, ColumnGrant, Grant, Mask, RowGrant, RowPredicate, TokenKeys, govern};
use datafusion::arrow::{
    array::{ArrayRef, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Schema},
};
use datafusion::datasource::{physical_plan::FileScanConfig, provider_as_source, source::DataSourceExec};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, col, lit};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::physical_plan::collect;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use std::{fs, path::Path, sync::Arc};

struct NoKeys;

impl TokenKeys for NoKeys {
    fn mac(&self, _: &str, _: &[u8]) -> Option<[u8; 32]> {
        None
    }
}

/// `id` and `raw` 0 to 99 in the one file of a region, 100 to 199 in the other.
fn make(folder: &Path) {
    for region in ["eu", "us"] {
        let folder = folder.join(format!("region={region}"));
        fs::create_dir(&folder).unwrap();
        for (file, from) in [("low", 0), ("high", 100)] {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 100));
            let field = |name| Field::new(name, DataType::Int64, false);
            let schema = Arc::new(Schema::new(vec![field("id"), field("raw")]));
            let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(&numbers), numbers]).unwrap();
            let file = fs::File::create(folder.join(format!("{file}.parquet"))).unwrap();
            let mut writer = ArrowWriter::try_new(file, schema, None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
        }
    }
}

fn at() -> TableVersion {
    TableVersion {
        dataset: DatasetId(Default::default()),
        name: "test.t".parse().unwrap(),
        version: 1,
        made_at: ControlSeq(1),
        content: Hash::default(),
    }
}

/// `raw` in tens; the rows that `set` describes.
fn grant(set: Option<Expr>) -> Grant {
    let column = |(i, name): (usize, &str)| ColumnGrant {
        field: FieldId(i as u32 + 1),
        name: name.into(),
        rung: if name == "raw" { Rung::Partial } else { Rung::Raw },
        mask: (name == "raw").then_some(Mask::Bucket(10)),
        policies: vec!["p".into()],
    };
    Grant {
        columns: ["id", "raw", "region"].into_iter().enumerate().map(column).collect(),
        rows: set.map_or(RowGrant::All, |set| {
            RowGrant::Where(RowPredicate { sets: vec![("s".into(), set)], guards: vec![] })
        }),
        floor: None,
        durability: Durability::Local,
        explain_raw: false,
        publish: false,
        declassify: false,
        valid_until: None,
        hash: Hash([0x7f; 32]),
        failed: vec![],
        policies: vec![],
    }
}

/// Rows that came out, and files that were opened for them.
async fn read(folder: &Path, set: Option<Expr>, filter: &str, barrier: bool) -> (usize, usize) {
    let decisions = Arc::new(Decisions::default());
    decisions.record(&at(), Hash([0x7f; 32]));
    let mut config = SessionConfig::new().with_target_partitions(1).with_extension(decisions);
    config.options_mut().execution.parquet.pushdown_filters = true;
    let base = SessionStateBuilder::new().with_default_features().with_config(config);
    let state = if barrier { barrier_session_state(base) } else { base }.build();
    let session = SessionContext::new_with_state(state);
    let options = ParquetReadOptions::default().table_partition_cols(vec![("region".to_string(), DataType::Utf8)]);
    session.register_parquet("stored", folder.to_str().unwrap(), options).await.unwrap();
    let stored = provider_as_source(session.table_provider("stored").await.unwrap());
    let scan = LogicalPlanBuilder::scan("t", stored, None).unwrap().build().unwrap();
    let keys: Arc<dyn TokenKeys> = Arc::new(NoKeys);
    let governed = govern(scan, &at(), &[1, 2, 3].map(FieldId), &grant(set), &keys).unwrap();
    let relation = match barrier {
        true => governed,
        false => Barrier::of_plan(&governed).unwrap().input().as_ref().clone(),
    };
    session.register_table("t", Arc::new(Relation(relation))).unwrap();
    let state = session.state();
    let plan = state.create_logical_plan(&format!("SELECT id FROM t WHERE {filter}")).await.unwrap();
    let physical = state.create_physical_plan(&plan).await.unwrap();
    let rows = collect(Arc::clone(&physical), state.task_ctx()).await.unwrap();
    let (mut files, mut nodes) = (0, vec![physical]);
    while let Some(node) = nodes.pop() {
        if let Some(source) = node.downcast_ref::<DataSourceExec>() {
            // The partitions' files are listed; "2 total → 1 matched" are those that statistics ruled out when they came.
            let listed = source.data_source().downcast_ref::<FileScanConfig>().unwrap();
            files += listed.file_groups.iter().map(|group| group.len()).sum::<usize>();
            let metrics = node.metrics().unwrap().aggregate_by_name();
            let ruled_out = metrics.iter().map(|m| m.value()).find(|v| v.name() == "files_ranges_pruned_statistics");
            let numbers = ruled_out.unwrap().to_string();
            let numbers: Vec<usize> = numbers.split_whitespace().filter_map(|w| w.parse().ok()).collect();
            files -= numbers[0] - numbers[1];
        }
        nodes.extend(node.children().into_iter().cloned());
    }
    (rows.iter().map(RecordBatch::num_rows).sum(), files)
}

#[tokio::test]
async fn files_are_pruned_as_without_a_barrier() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let eu = || Some(col("region").eq(lit("eu")));
    let high = || Some(col("id").gt_eq(lit(100_i64)));
    for (set, filter, rows, files) in [
        // All there is, for comparison.
        (None, "TRUE", 400, 4),
        // A row set over the partition, over statistics.
        (eu(), "TRUE", 200, 2),
        (high(), "TRUE", 200, 2),
        // A leakproof predicate, alone and under each.
        (None, "id < 30", 60, 2),
        (eu(), "id < 30", 30, 1),
        (eu(), "id IN (3, 130)", 2, 2),
        (high(), "region = 'us'", 100, 1),
        // A masked column has no statistics, an expression that can fail stays above.
        (eu(), "raw >= 150", 50, 2),
        (eu(), "raw = 150", 10, 2),
        (eu(), "1000 / (id + 1) > 400", 2, 2),
    ] {
        for barrier in [true, false] {
            let found = read(folder.path(), set.clone(), filter, barrier).await;
            assert_eq!(found, (rows, files), "{filter} in {set:?}, barrier: {barrier}");
        }
    }
}
