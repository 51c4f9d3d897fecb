//! Lineage of a statement over tables that a DDL text declares: no warehouse, no policy, no data; nothing runs and nothing
//! is recorded. What a reviewer runs on a change.
//!
//! What holds here: the text goes through the gate, the plan through the same extractor as every read; a source that is
//! not declared is an error.

use crate::{
    explain::lineage_batch,
    governed::{EngineLeaves, limits},
    problem::from_datafusion,
    provider::GovernedTable,
    refused,
};
use async_trait::async_trait;
use custody_dialect::{AsOfRelations, Bare, BareStatement, FunctionKind, Located, dropped_modifiers, parse_bare};
use custody_lineage::{Leaf, Leaves, LineageRow, NodeRule, Refusal, Text};
use custody_model::{ControlSeq, DatasetId, DatasetName, FieldId, Hash, Label, Problem, SourceText, TableVersion};
use custody_policy::ViewBoundary;
use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    catalog::{
        MemoryCatalogProvider, MemorySchemaProvider, Session, TableProvider, default_table_source::source_as_provider,
    },
    common::{Constraints, DataFusionError, Result as DfResult, TableReference},
    execution::{SessionState, SessionStateBuilder},
    logical_expr::{DdlStatement, Expr, LogicalPlan, TableScan, TableType, UserDefinedLogicalNode},
    physical_plan::ExecutionPlan,
    prelude::SessionConfig,
    sql::parser::{CopyToSource, CopyToStatement, Statement as Parsed},
};
use std::{collections::HashMap, sync::Arc};

/// The rows of `EXPLAIN LINEAGE` for the one statement of `query`, over the tables and views of the DDL texts.
/// `source_version` is NULL.
pub async fn declared_lineage(ddl: &[SourceText], query: &SourceText) -> Result<RecordBatch, Problem> {
    lineage_batch(&declared_rows(ddl, query).await?, false)
}

async fn declared_rows(ddl: &[SourceText], query: &SourceText) -> Result<Vec<LineageRow>, Problem> {
    let mut world = Declared::new();
    for text in ddl {
        for statement in parse_bare(text).map_err(refused)? {
            world.declare(&statement).await.map_err(|p| in_text(p, &statement, text))?;
        }
    }
    let mut statements = parse_bare(query).map_err(refused)?.into_iter();
    let (Some(statement), None) = (statements.next(), statements.next()) else {
        let mut problem = Problem::new(1113, "a query text holds one statement").help("write one file a statement");
        problem.file = Some(query.name.clone());
        return Err(problem);
    };
    world.rows(&statement).await.map_err(|p| in_text(p, &statement, query))
}

/// The problem with the text it is in, and the statement where it has no better place.
fn in_text(mut problem: Problem, statement: &Located<BareStatement>, text: &SourceText) -> Problem {
    if problem.labels.is_empty() {
        problem.labels.push(Label { start: statement.start, end: statement.end, text: "in this statement".into() });
    }
    problem.file.get_or_insert_with(|| text.name.clone());
    problem
}

/// Declared tables, by number from 0.
struct Declared {
    state: SessionState,
    tables: Vec<Table>,
}

struct Table {
    name: String,
    columns: Vec<String>,
}

impl Declared {
    fn new() -> Self {
        let mut config = SessionConfig::new().with_information_schema(false);
        let options = config.options_mut();
        options.sql_parser.collect_spans = true;
        options.sql_parser.enable_subquery_sort_elimination = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .with_relation_planners(vec![Arc::new(AsOfRelations)])
            .build();
        Self { state, tables: vec![] }
    }

    async fn declare(&mut self, statement: &Located<BareStatement>) -> Result<(), Problem> {
        let BareStatement { statement: bare, functions: _ } = &statement.value;
        if !bare.declares() {
            return Err(Problem::new(1113, "a DDL text holds `CREATE TABLE` and `CREATE VIEW`")
                .help("the statement whose lineage is asked for belongs in a file of its own: --file; a table made by a query is declared as a view"));
        }
        let LogicalPlan::Ddl(ddl) = self.plan(&statement.value).await? else {
            return Err(Problem::bug("a declaration has a plan of another kind"));
        };
        match ddl {
            DdlStatement::CreateMemoryTable(table) => {
                let schema = Arc::clone(table.input.schema().inner());
                if table.if_not_exists && self.find(&table.name).await?.is_some() {
                    return Ok(());
                }
                let provider = DeclaredTable {
                    number: self.tables.len(),
                    schema: Arc::clone(&schema),
                    constraints: table.constraints,
                    defaults: table.column_defaults.into_iter().collect(),
                };
                self.tables.push(Table {
                    name: table.name.to_string(),
                    columns: schema.fields().iter().map(|f| f.name().clone()).collect(),
                });
                self.register(table.name, Arc::new(provider), table.or_replace).await
            }
            DdlStatement::CreateView(view) => {
                let plan = ViewBoundary::new(view.name.to_string(), Arc::unwrap_or_clone(view.input)).into_plan();
                // A plan under a name, as a governed table is; policy has no part in it.
                self.register(view.name, Arc::new(GovernedTable::new(plan)), view.or_replace).await
            }
            other => Err(Problem::bug(format!("a declaration became `{}`", other.name()))),
        }
    }

    async fn find(&self, name: &TableReference) -> Result<Option<Arc<dyn TableProvider>>, Problem> {
        let options = &self.state.config_options().catalog;
        let name = name.clone().resolve(&options.default_catalog, &options.default_schema);
        let schema = self.state.catalog_list().catalog(&name.catalog).and_then(|c| c.schema(&name.schema));
        match schema {
            Some(schema) => schema.table(&name.table).await.map_err(|e| from_datafusion(&e)),
            None => Ok(None),
        }
    }

    async fn register(
        &self,
        name: TableReference,
        provider: Arc<dyn TableProvider>,
        replace: bool,
    ) -> Result<(), Problem> {
        if self.find(&name).await?.is_some() && !replace {
            return Err(Problem::new(1129, format!("`{name}` is declared twice")).help("declare each table once"));
        }
        let wrong = |e| from_datafusion(&e);
        let options = &self.state.config_options().catalog;
        let name = name.resolve(&options.default_catalog, &options.default_schema);
        let catalogs = self.state.catalog_list();
        let catalog = catalogs.catalog(&name.catalog).unwrap_or_else(|| {
            let made = Arc::new(MemoryCatalogProvider::new());
            catalogs.register_catalog(name.catalog.to_string(), Arc::clone(&made) as _);
            made
        });
        let schema = match catalog.schema(&name.schema) {
            Some(schema) => schema,
            None => {
                let made = Arc::new(MemorySchemaProvider::new());
                catalog.register_schema(&name.schema, Arc::clone(&made) as _).map_err(wrong)?;
                made
            }
        };
        schema.deregister_table(&name.table).map_err(wrong)?;
        schema.register_table(name.table.to_string(), provider).map_err(wrong)?;
        Ok(())
    }

    async fn plan(&self, statement: &BareStatement) -> Result<LogicalPlan, Problem> {
        let kind = |name: &str| {
            if self.state.aggregate_functions().contains_key(name) {
                Some(FunctionKind::Aggregate)
            } else if self.state.window_functions().contains_key(name) {
                Some(FunctionKind::Window)
            } else {
                self.state.scalar_functions().contains_key(name).then_some(FunctionKind::Scalar)
            }
        };
        if let Some(problem) = dropped_modifiers(&statement.functions, kind).into_iter().next() {
            return Err(problem);
        }
        let parsed = match statement.statement.clone() {
            Bare::Table(s) | Bare::View(s) | Bare::Statement(s) => Parsed::Statement(s),
            Bare::Copy(query, target) => Parsed::CopyTo(CopyToStatement {
                source: CopyToSource::Query(query),
                target,
                partitioned_by: vec![],
                // How a file is written changes no column.
                stored_as: Some("CSV".into()),
                options: vec![],
            }),
        };
        self.state.statement_to_plan(parsed).await.map_err(|e| from_datafusion(&e))
    }

    async fn rows(&self, statement: &Located<BareStatement>) -> Result<Vec<LineageRow>, Problem> {
        if matches!(statement.value.statement, Bare::Table(_)) {
            return Err(Problem::from(Refusal::Statement("CREATE TABLE".into()))
                .help("declarations belong in the DDL text: --ddl"));
        }
        let plan = self.plan(&statement.value).await?;
        let lineage =
            custody_lineage::extract(&plan, &DeclaredLeaves, &[], &limits(Text::Full)).map_err(Problem::from)?;
        let number = |version: u64| usize::try_from(version).ok().and_then(|n| self.tables.get(n));
        let column = |at: &TableVersion, field: FieldId| {
            let column = usize::try_from(field.0).ok().and_then(|n| number(at.version)?.columns.get(n.checked_sub(1)?));
            column.cloned().unwrap_or_else(|| format!("#{field}"))
        };
        let mut rows = custody_lineage::rows(&lineage, &column, &|_| true);
        for row in &mut rows {
            if let Some(table) = number(row.source_version) {
                row.source_dataset.clone_from(&table.name);
            }
        }
        rows.sort();
        Ok(rows)
    }
}

/// A table without rows. Its number stands for it in the lineage.
#[derive(Debug)]
struct DeclaredTable {
    number: usize,
    schema: SchemaRef,
    constraints: Constraints,
    defaults: HashMap<String, Expr>,
}

#[async_trait]
impl TableProvider for DeclaredTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.constraints)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        self.defaults.get(column)
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Internal("a declared table has no rows".into()))
    }
}

/// Declared tables; all else as everywhere.
struct DeclaredLeaves;

impl Leaves for DeclaredLeaves {
    fn scan(&self, scan: &TableScan) -> Leaf {
        let Ok(provider) = source_as_provider(&scan.source) else { return Leaf::Unknown };
        let Some(table) = provider.downcast_ref::<DeclaredTable>() else { return EngineLeaves.scan(scan) };
        let Ok(name) = DatasetName::new("declared", &format!("t{}", table.number)) else { return Leaf::Unknown };
        let at = TableVersion {
            dataset: DatasetId(Default::default()),
            name,
            version: table.number as u64,
            made_at: ControlSeq(0),
            content: Hash::default(),
        };
        let columns = u32::try_from(table.schema.fields().len()).unwrap_or(0);
        Leaf::Table(at, (1..=columns).map(FieldId).collect())
    }

    fn node<'a>(&self, node: &'a dyn UserDefinedLogicalNode) -> NodeRule<'a> {
        EngineLeaves.node(node)
    }
}

#[cfg(test)]
mod tests;
