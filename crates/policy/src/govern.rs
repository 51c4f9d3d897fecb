//! Puts a decision into the plan: filter first, mask above it, a barrier above both.
//!
//! What holds here: the query above sees only the columns and rows of the grant; a mask reads raw columns of rows that
//! passed; a column that the grant does not know is an error, not a column.

use crate::{
    Grant, RowGrant, RowPredicate, TokenKeys, ViewBoundary, barrier::Barrier, enforce, floor::Floor, markers, mask,
};
use custody_model::{FieldId, Rung, TableVersion};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, Result, plan_err};
use datafusion_expr::{Expr, Filter, LogicalPlan, Projection, lit, utils::conjunction, utils::disjunction};
use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

/// The governed relation over `scan`, whose columns are `fields` of `at`, in order.
///
/// Its columns are the grant's above `none`, in the scan's order and under the scan's names; masked ones are nullable.
/// A column at `aggregate` is raw, and the barrier says that only an aggregate over a floor may read it (`floor.rs`); where there
/// is no floor it is left out too.
pub fn govern(
    scan: LogicalPlan,
    at: &TableVersion,
    fields: &[FieldId],
    grant: &Grant,
    keys: &Arc<dyn TokenKeys>,
) -> Result<LogicalPlan> {
    Ok(governed(scan, at, fields, grant, keys)?.into_plan())
}

/// The governed relation over the planned text of a plain view: `definer` says that it read with its owner's rights, which
/// no predicate, plan or error of the reader's may see through, whatever the grant.
pub fn govern_view(
    text: LogicalPlan,
    at: &TableVersion,
    fields: &[FieldId],
    grant: &Grant,
    keys: &Arc<dyn TokenKeys>,
    definer: bool,
) -> Result<LogicalPlan> {
    let barrier = governed(text.clone(), at, fields, grant, keys)?;
    if enforce!("view.sealed", definer || !barrier.open()) {
        return Ok(barrier.sealed_over().into_plan());
    }
    Ok(ViewBoundary::new(at.name.to_string(), text).into_plan())
}

fn governed(
    scan: LogicalPlan,
    at: &TableVersion,
    fields: &[FieldId],
    grant: &Grant,
    keys: &Arc<dyn TokenKeys>,
) -> Result<Barrier> {
    if fields.len() != scan.schema().fields().len() {
        return plan_err!("table `{at}` has {} columns, {} are known", scan.schema().fields().len(), fields.len());
    }
    let (columns, kept, masked) = columns(&scan, at, fields, grant, keys)?;
    let floor = floor(&scan, at, fields, grant)?;
    if kept.is_empty() {
        return plan_err!("table `{}` not found", at.name);
    }
    let filtered = match predicate(&scan, &grant.rows)? {
        None => scan,
        Some(predicate) => LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(scan))?),
    };
    let projected = LogicalPlan::Projection(Projection::try_new(columns, Arc::new(filtered))?);
    Ok(Barrier::new(at.clone(), grant.hash, grant.open(), kept, &masked, projected)?.with_floor(floor))
}

/// The floor of the grant, where a column is at `aggregate`.
fn floor(scan: &LogicalPlan, at: &TableVersion, fields: &[FieldId], grant: &Grant) -> Result<Option<Floor>> {
    let only: BTreeSet<FieldId> = grant.columns.iter().filter(|c| c.rung == Rung::Aggregate).map(|c| c.field).collect();
    let Some(floor) = grant.floor.as_ref().filter(|_| !only.is_empty()) else { return Ok(None) };
    let Some(i) = fields.iter().position(|f| *f == floor.counting) else {
        return plan_err!("table `{at}` has no column for its group floor to count");
    };
    let counting = (Column::from(scan.schema().qualified_field(i)), floor.counting);
    Ok(Some(Floor { least: floor.least, only, counting, settled: false }))
}

type Columns = (Vec<Expr>, Vec<FieldId>, HashSet<FieldId>);

fn columns(
    scan: &LogicalPlan,
    at: &TableVersion,
    fields: &[FieldId],
    grant: &Grant,
    keys: &Arc<dyn TokenKeys>,
) -> Result<Columns> {
    let mut out: Columns = Default::default();
    for ((qualifier, field), id) in scan.schema().iter().zip(fields) {
        let Some(granted) = grant.columns.iter().find(|c| c.field == *id) else {
            return plan_err!("grant of `{at}` does not cover column `{}`", field.name());
        };
        let raw = Expr::Column(Column::from((qualifier, field)));
        let shown = match (granted.rung, &granted.mask) {
            (Rung::None, _) if enforce!("govern.columns", true) => continue,
            (Rung::Aggregate, _) if enforce!("govern.columns", grant.floor.is_none()) => continue,
            (Rung::Redact | Rung::Token | Rung::Partial, Some(how)) if enforce!("govern.masks", true) => {
                let by = granted.policies.first().map_or("", String::as_str);
                let masked = mask::expression(how, raw, field.data_type(), keys)?;
                out.2.insert(*id);
                markers::mask(by, granted.rung, masked).alias_qualified(qualifier.cloned(), field.name())
            }
            (Rung::Redact | Rung::Token | Rung::Partial, None) => {
                return plan_err!("grant of `{at}` has no mask for column `{}`", field.name());
            }
            (Rung::Raw, Some(_)) => return plan_err!("grant of `{at}` masks raw column `{}`", field.name()),
            (Rung::None | Rung::Aggregate | Rung::Redact | Rung::Token | Rung::Partial | Rung::Raw, _) => raw,
        };
        out.0.push(shown);
        out.1.push(*id);
    }
    Ok(out)
}

fn predicate(scan: &LogicalPlan, rows: &RowGrant) -> Result<Option<Expr>> {
    match rows {
        RowGrant::All => Ok(None),
        RowGrant::Nothing if enforce!("govern.nothing", true) => Ok(Some(lit(false))),
        RowGrant::Nothing => Ok(None),
        RowGrant::Where(RowPredicate { sets, guards }) => {
            let marked = |(name, e): &(String, Expr)| Ok(markers::rows(name, qualify(e, scan)?));
            let sets = sets.iter().map(marked).collect::<Result<Vec<_>>>()?;
            let guards = guards.iter().map(marked).collect::<Result<Vec<_>>>()?;
            let sets = disjunction(sets).filter(|_| enforce!("govern.sets", true));
            let guards = guards.into_iter().filter(|_| enforce!("govern.guards", true));
            Ok(conjunction(sets.into_iter().chain(guards)))
        }
    }
}

/// Row predicates name raw columns without a table; the scan has them under one.
fn qualify(predicate: &Expr, scan: &LogicalPlan) -> Result<Expr> {
    let column = |e: Expr| match e {
        Expr::Column(c) if c.relation.is_none() => {
            let (qualifier, field) = scan.schema().qualified_field_with_unqualified_name(&c.name)?;
            Ok(Transformed::yes(Expr::Column(Column::from((qualifier, field)))))
        }
        other => Ok(Transformed::no(other)),
    };
    predicate.clone().transform(column).map(|t| t.data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnGrant, Mask, enforce, mask::hmac_sha3_256};
    use custody_model::{ControlSeq, DatasetId, DatasetName, Durability, Hash};
    use datafusion_common::arrow::datatypes::{DataType, Field, Schema};
    use datafusion_expr::{UserDefinedLogicalNodeCore, col, logical_plan::builder::table_scan};

    struct Keys;
    impl TokenKeys for Keys {
        fn mac(&self, key: &str, message: &[u8]) -> Option<[u8; 32]> {
            (key == "research").then(|| hmac_sha3_256(b"k", message))
        }
    }

    fn at() -> TableVersion {
        TableVersion {
            dataset: DatasetId(Default::default()),
            name: "clinic.patients".parse::<DatasetName>().unwrap(),
            version: 7,
            made_at: ControlSeq(3),
            content: Hash::default(),
        }
    }

    fn scan() -> LogicalPlan {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("mrn", DataType::Utf8, false),
            Field::new("region", DataType::Utf8, true),
            Field::new("consent", DataType::Boolean, true),
        ]);
        table_scan(Some("patients"), &schema, None).unwrap().build().unwrap()
    }

    fn column(field: u32, name: &str, rung: Rung, mask: Option<Mask>) -> ColumnGrant {
        ColumnGrant { field: FieldId(field), name: name.into(), rung, mask, policies: vec![format!("p{field}")] }
    }

    fn grant(rows: RowGrant) -> Grant {
        let token = Mask::Token { key: "research".into(), domain: "person".into() };
        Grant {
            columns: vec![
                column(1, "id", Rung::None, None),
                column(2, "mrn", Rung::Token, Some(token)),
                column(3, "region", Rung::Raw, None),
                column(4, "consent", Rung::None, None),
            ],
            rows,
            floor: None,
            durability: Durability::Local,
            explain_raw: false,
            publish: false,
            declassify: false,
            valid_until: None,
            policies: vec![],
            failed: vec![],
            hash: Hash([0x1a; 32]),
        }
    }

    fn governed(grant: &Grant) -> Result<LogicalPlan> {
        let keys: Arc<dyn TokenKeys> = Arc::new(Keys);
        govern(scan(), &at(), &[1, 2, 3, 4].map(FieldId), grant, &keys)
    }

    fn error(grant: &Grant) -> String {
        governed(grant).unwrap_err().strip_backtrace()
    }

    #[test]
    fn filters_first_masks_above() {
        let rows = RowGrant::Where(RowPredicate {
            sets: vec![("eu".into(), col("region").eq(lit("eu"))), ("us".into(), col("region").eq(lit("us")))],
            guards: vec![("consented".into(), col("consent").is_true())],
        });
        let plan = governed(&grant(rows)).unwrap();
        assert_eq!(
            plan.display_indent().to_string(),
            "Barrier: clinic.patients@7 grant=1a1a1a1a
  Projection: mask(Utf8(\"p2\"), Utf8(\"token\"), mask_token(patients.mrn)) AS mrn, patients.region
    Filter: (rows(Utf8(\"eu\"), patients.region = Utf8(\"eu\")) OR rows(Utf8(\"us\"), patients.region = Utf8(\"us\"))) \
             AND rows(Utf8(\"consented\"), patients.consent IS TRUE)
      TableScan: patients"
        );
        let barrier = Barrier::of_plan(&plan).unwrap();
        assert_eq!((barrier.fields(), barrier.open()), ([FieldId(2), FieldId(3)].as_slice(), false));
        assert!(barrier.schema().field(0).is_nullable(), "masked fields are nullable");
        assert_eq!(barrier.prevent_predicate_push_down_columns(), ["mrn", "region"].map(String::from).into());
        assert!(!barrier.supports_limit_pushdown());
        assert_eq!(barrier.necessary_children_exprs(&[1]), Some(vec![vec![1]]));
    }

    #[test]
    fn an_open_barrier_lets_everything_through() {
        let mut open = grant(RowGrant::All);
        open.columns.iter_mut().for_each(|c| (c.rung, c.mask) = (Rung::Raw, None));
        let plan = governed(&open).unwrap();
        let barrier = Barrier::of_plan(&plan).unwrap();
        assert!(barrier.open() && barrier.supports_limit_pushdown());
        assert!(barrier.prevent_predicate_push_down_columns().is_empty());
    }

    #[test]
    fn no_rows_still_reads_the_table() {
        let plan = governed(&grant(RowGrant::Nothing)).unwrap().display_indent().to_string();
        assert!(plan.contains("Filter: Boolean(false)\n      TableScan: patients"), "{plan}");
    }

    #[test]
    fn a_barrier_shows_its_own_fields_and_no_more() {
        let plan = governed(&grant(RowGrant::All)).unwrap();
        let barrier = Barrier::of_plan(&plan).unwrap();
        let input = barrier.input().as_ref().clone();
        let wider = Projection::try_new(
            vec![lit(1).alias("__datafusion_extracted_1"), Expr::Column(input.schema().columns()[1].clone())],
            Arc::new(input),
        )
        .unwrap();
        let over = barrier.over(LogicalPlan::Projection(wider)).unwrap();
        assert_eq!((over.schema().field_names(), over.fields()), (vec!["patients.region".into()], &[FieldId(3)][..]));
        assert_eq!(over.positions().unwrap(), [1]);
    }

    #[test]
    fn refuses_grants_that_do_not_fit() {
        let mut g = grant(RowGrant::All);
        g.columns.pop();
        assert!(error(&g).ends_with("grant of `clinic.patients@7` does not cover column `consent`"));
        let mut g = grant(RowGrant::All);
        g.columns[1].mask = None;
        assert!(error(&g).ends_with("grant of `clinic.patients@7` has no mask for column `mrn`"));
        let mut g = grant(RowGrant::All);
        g.columns[2].mask = Some(Mask::Null);
        assert!(error(&g).ends_with("grant of `clinic.patients@7` masks raw column `region`"));
        let mut g = grant(RowGrant::All);
        g.columns.iter_mut().for_each(|c| (c.rung, c.mask) = (Rung::Aggregate, None));
        assert!(error(&g).ends_with("table `clinic.patients` not found"));
    }

    #[test]
    fn every_switch_of_this_file_changes_the_plan() {
        let rows = || {
            RowGrant::Where(RowPredicate {
                sets: vec![("eu".into(), col("region").eq(lit("eu")))],
                guards: vec![("consented".into(), col("consent").is_true())],
            })
        };
        for (id, rows) in [
            ("govern.columns", rows()),
            ("govern.masks", rows()),
            ("govern.sets", rows()),
            ("govern.guards", rows()),
            ("govern.nothing", RowGrant::Nothing),
        ] {
            let show = || governed(&grant(rows.clone())).unwrap().display_indent().to_string();
            assert_ne!(show(), enforce::without(id, show), "{id}");
        }
        let plan = governed(&grant(rows())).unwrap();
        let barrier = Barrier::of_plan(&plan).unwrap();
        let wider = || {
            let input = barrier.input().as_ref().clone();
            let more = vec![Expr::Column(input.schema().columns()[1].clone()), lit(1).alias("more")];
            let over = LogicalPlan::Projection(Projection::try_new(more, Arc::new(input)).unwrap());
            barrier.over(over).unwrap().schema().fields().len()
        };
        let limit = || barrier.supports_limit_pushdown();
        let prevented = || barrier.prevent_predicate_push_down_columns().len();
        assert_ne!(wider(), enforce::without("barrier.schema", wider));
        assert_ne!(limit(), enforce::without("barrier.limit", limit));
        assert_ne!(prevented(), enforce::without("barrier.predicates", prevented));
        let here: Vec<_> = enforce::IDS.iter().filter(|id| id.starts_with("govern.")).collect();
        assert_eq!(here.len(), 5, "{here:?}");
        let here: Vec<_> = enforce::IDS.iter().filter(|id| id.starts_with("barrier.")).collect();
        assert_eq!(here.len(), 3, "{here:?}");
    }
}
