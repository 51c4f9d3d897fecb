//! `EXPLAIN`, `EXPLAIN LINEAGE`, `EXPLAIN POLICY`: answers about a statement, never its rows. Nothing runs; each is
//! recorded as one entry.
//!
//! What holds here: a plan is shown down to its barriers; what policy adds below shows only to those who may
//! `explain_raw` the table.

use crate::{
    barrier::logical_text,
    governed::GovernedPlan,
    pin::{PinnedTable, Statement},
    problem::from_datafusion,
    read::Told,
    session::{ReadRequest, Session},
};
use custody_dialect::ExplainKind;
use custody_lineage::{LineageRow, Text};
use custody_model::{FieldId, Problem, Rung, TableVersion};
use custody_policy::enforce;
use datafusion::arrow::{
    array::{ArrayRef, BooleanArray, ListBuilder, RecordBatch, StringArray, StringBuilder, UInt32Array, UInt64Array},
    datatypes::{Schema, SchemaRef},
};
use std::sync::Arc;

/// What a statement would give, without its rows.
#[derive(Clone, Debug)]
pub struct Described {
    /// The schema of the answer.
    pub schema: SchemaRef,
    /// Names and types of parameters whose values are still to come.
    pub parameters: SchemaRef,
    /// The entry that recorded the question.
    pub entry: custody_model::EntryRef,
    /// Its id, which the read that follows carries.
    pub id: custody_model::EntryId,
    /// The versions that names were pinned to.
    pub versions: Vec<TableVersion>,
    /// The grants that allowed them, by hash.
    pub grants: Vec<custody_model::Hash>,
    /// How many rows, where every grant is open and the request is a whole version.
    pub rows: Option<u64>,
}

impl Session {
    /// The schema of an answer: planned and decided like a read, recorded, not run.
    pub async fn describe(&self, request: &ReadRequest) -> Result<Described, Problem> {
        let statement = match self.pin(request).await {
            Ok(statement) => statement,
            Err(refused) => return Err(self.denied(request, &[], refused).await),
        };
        match self.described(request, &statement).await {
            Ok(described) => Ok(described),
            Err(refused) => Err(self.denied(request, &statement.pinned, refused).await),
        }
    }

    async fn described(&self, request: &ReadRequest, statement: &Statement) -> Result<Described, Problem> {
        let mut parameters = Arc::new(Schema::empty());
        let (schema, entry) = match (self.explanation(request, statement).await?, request) {
            (Some((batch, entry)), _) => (batch.schema(), entry),
            (None, ReadRequest::Sql { parameters: None, .. }) => {
                let (plan, wanted) = self.prepared(statement).await?;
                parameters = wanted;
                (plan.schema(), self.metadata_entry(request, statement, Some(&plan))?)
            }
            (None, _) => {
                let plan = self.govern(request, statement).await?;
                (plan.schema(), self.metadata_entry(request, statement, Some(&plan))?)
            }
        };
        let recorded = self.engine.recorder.record(entry).await?;
        let whole = match (request, statement.pinned.as_slice()) {
            (ReadRequest::Dataset { .. }, [table]) if table.grant.open() => Some(table),
            _ => None,
        };
        Ok(Described {
            schema,
            parameters,
            entry: recorded.entry,
            id: recorded.id,
            versions: statement.pinned.iter().filter(|t| t.owner.is_none()).map(|t| t.at.clone()).collect(),
            grants: statement.pinned.iter().map(|t| t.grant.hash).collect(),
            rows: whole.and_then(|t| self.engine.catalog().version_made_at(t.at.made_at)?.publish().map(|p| p.rows)),
        })
    }

    /// The answer to an `EXPLAIN`, recorded; `None` for any other statement.
    pub(crate) async fn explain(&self, request: &ReadRequest, statement: &Statement) -> Result<Option<Told>, Problem> {
        let Some((batch, entry)) = self.explanation(request, statement).await? else { return Ok(None) };
        let recorded = self.engine.recorder.record(entry).await?;
        Ok(Some(Told { batch, entry: recorded.entry }))
    }

    async fn explanation(
        &self,
        request: &ReadRequest,
        statement: &Statement,
    ) -> Result<Option<(RecordBatch, custody_model::Entry)>, Problem> {
        let Some(kind) = statement.explain else { return Ok(None) };
        let (batch, plan) = match kind {
            ExplainKind::Lineage => {
                let drafted = self.draft(statement, Text::Full).await?;
                let rows = lineage_rows(&statement.pinned, &self.lineage_to_views(drafted, &statement.pinned)?);
                (lineage_batch(&rows, true)?, None)
            }
            ExplainKind::Policy => (policy_batch(&statement.pinned)?, None),
            ExplainKind::Plan => {
                let plan = self.govern(request, statement).await?;
                (self.plan_batch(statement, &plan).await?, Some(plan))
            }
            ExplainKind::Analyze => {
                return Err(Problem::new(1125, "EXPLAIN ANALYZE is not supported yet")
                    .help("EXPLAIN shows the plan; run times would tell about rows that policy hides"));
            }
        };
        let entry = self.metadata_entry(request, statement, plan.as_ref())?;
        Ok(Some((batch, entry)))
    }

    async fn plan_batch(&self, statement: &Statement, plan: &GovernedPlan) -> Result<RecordBatch, Problem> {
        let raw = |at: &TableVersion, _| {
            !enforce!("explain.plan", !statement.pinned.iter().any(|t| t.at == *at && t.explains()))
        };
        let drafted = self.draft(statement, Text::None).await?;
        let optimised = drafted.state.optimize(&drafted.plan).map_err(|e| from_datafusion(&e))?;
        let logical = logical_text(&optimised, &raw).map_err(|e| from_datafusion(&e))?;
        let physical = plan.text(&raw);
        batch(vec![
            ("plan_type", Arc::new(StringArray::from(vec!["logical", "physical"])) as ArrayRef),
            ("plan", Arc::new(StringArray::from(vec![logical, physical]))),
        ])
    }
}

/// The rows of `EXPLAIN LINEAGE`: what policy adds shows only with `explain_raw`.
pub(crate) fn lineage_rows(pinned: &[PinnedTable], lineage: &custody_model::Lineage) -> Vec<LineageRow> {
    let find = |at: &TableVersion| pinned.iter().find(|t| t.at == *at);
    custody_lineage::rows(
        lineage,
        &|at: &TableVersion, field: FieldId| {
            find(at).and_then(|t| t.definition.column(field)).map_or_else(|| format!("#{field}"), |c| c.name.clone())
        },
        &|at: &TableVersion| !enforce!("explain.lineage", !find(at).is_some_and(PinnedTable::explains)),
    )
}

/// The batch of `EXPLAIN LINEAGE`. Tables that are only declared have no versions.
pub(crate) fn lineage_batch(rows: &[LineageRow], versions: bool) -> Result<RecordBatch, Problem> {
    let mut views = ListBuilder::new(StringBuilder::new());
    for row in rows {
        row.via_view.iter().for_each(|v| views.values().append_value(v));
        views.append(true);
    }
    let text =
        |f: &dyn Fn(&LineageRow) -> Option<String>| Arc::new(rows.iter().map(f).collect::<StringArray>()) as ArrayRef;
    batch(vec![
        ("output_ordinal", Arc::new(rows.iter().map(|r| r.output_ordinal).collect::<UInt32Array>()) as ArrayRef),
        ("output_column", text(&|r| Some(r.output_column.to_string()))),
        ("source_dataset", text(&|r| Some(r.source_dataset.to_string()))),
        (
            "source_version",
            Arc::new(rows.iter().map(|r| versions.then_some(r.source_version)).collect::<UInt64Array>()),
        ),
        ("source_column", text(&|r| r.source_column.clone())),
        ("kind", text(&|r| Some(r.kind.to_string()))),
        ("subtype", text(&|r| Some(r.subtype.to_string()))),
        ("masking", Arc::new(rows.iter().map(|r| Some(r.masking)).collect::<BooleanArray>())),
        ("expression", text(&|r| r.expression.clone())),
        ("via_view", Arc::new(views.finish())),
        ("policy_id", text(&|r| r.policy_id.clone())),
        ("exact", Arc::new(rows.iter().map(|r| Some(r.exact)).collect::<BooleanArray>())),
    ])
}

fn policy_batch(pinned: &[PinnedTable]) -> Result<RecordBatch, Problem> {
    let mut columns: [Vec<String>; 7] = Default::default();
    // What a view reads with its owner's rights is not the reader's business.
    for table in pinned.iter().filter(|t| !enforce!("view.policy", t.owner.is_some())) {
        for column in table.grant.columns.iter().filter(|c| !enforce!("explain.columns", c.rung == Rung::None)) {
            let mask = column.mask.as_ref().map(custody_policy::mask::describe).unwrap_or_default();
            let row = [
                table.at.to_string(),
                column.name.clone(),
                column.rung.word().to_string(),
                mask,
                table.grant.row_sets().join(", "),
                column.policies.join(", "),
                table.grant.hash.short(),
            ];
            columns.iter_mut().zip(row).for_each(|(c, v)| c.push(v));
        }
    }
    let names = ["table", "column", "rung", "mask", "row_sets", "policies", "grant"];
    batch(names.into_iter().zip(columns).map(|(n, c)| (n, Arc::new(StringArray::from(c)) as ArrayRef)).collect())
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, Problem> {
    RecordBatch::try_from_iter(columns).map_err(|e| Problem::bug(format!("an explanation has no shape: {e}")))
}
