//! `information_schema` for a session: schemata, tables and columns that the subject may see, and no settings.
//!
//! What holds here: it is made anew for each statement from the decisions of its subject, so that denied and unknown
//! read alike; it is read like any table, with its entry.

use crate::{
    pin::{PinnedTable, all_classes, not_found, present, version_not_found},
    provider::GovernedTable,
    schema_of,
    session::Session,
};
use custody_catalog::Catalog;
use custody_model::{
    ColumnDef, ControlSeq, DatasetDefinition, DatasetKind, DatasetName, FieldId, Hash, Pin, Problem, Rung, TableVersion,
};
use custody_policy::enforce;
use datafusion::{
    arrow::{
        array::{ArrayRef, RecordBatch, StringArray, UInt64Array},
        datatypes::DataType,
    },
    datasource::MemTable,
};
use std::{collections::BTreeSet, sync::Arc};

/// The schema's name.
pub(crate) const SCHEMA: &str = "information_schema";

/// Field ids of its columns, beyond those of `system`: entries name both by field alone.
const FIRST_FIELD: u32 = 60_000;

const TABLES: &[(&str, &[&str])] = &[
    ("schemata", &["catalog_name", "schema_name"]),
    ("tables", &["table_catalog", "table_schema", "table_name", "table_type"]),
    (
        "columns",
        &["table_catalog", "table_schema", "table_name", "column_name", "ordinal_position", "is_nullable", "data_type"],
    ),
];

/// The catalog of every name.
const CATALOG: &str = "custody";

/// A table that the subject may see.
struct Seen {
    name: DatasetName,
    kind: &'static str,
    /// Name, whether NULL is possible, type.
    columns: Vec<(String, bool, String)>,
}

impl Session {
    /// One of its tables, with the rows this subject may see.
    pub(crate) fn pin_information_schema(&self, name: &DatasetName, pin: Pin) -> Result<PinnedTable, Problem> {
        let Some(definition) = definition(name) else { return Err(not_found(name)) };
        if let Pin::Version(n) = pin {
            return Err(version_not_found(name, n));
        }
        let catalog = self.catalog();
        let batch = batch(&definition, &self.seen_tables(&catalog)?)?;
        let at = TableVersion {
            dataset: definition.id,
            name: name.clone(),
            version: catalog.at().0,
            made_at: ControlSeq(0),
            content: Hash::default(),
        };
        let rows =
            MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(|e| crate::problem::from_datafusion(&e))?;
        let grant = self.system_grant(&definition);
        let fields: Vec<FieldId> = definition.columns.iter().map(|c| c.field).collect();
        let plan = self.govern_table(&at, fields, Arc::new(rows), &grant)?;
        Ok(PinnedTable {
            reference: None,
            at,
            definition: Arc::new(definition),
            labels: [].into(),
            grant: Arc::new(grant),
            provider: Arc::new(GovernedTable::new(plan)),
            owner: None,
            beneath: vec![],
            entitlements: vec![],
        })
    }

    fn seen_tables(&self, catalog: &Catalog) -> Result<Vec<Seen>, Problem> {
        let mut seen = vec![];
        let governed = self.bundle().is_some();
        for dataset in catalog.datasets().filter(|_| governed) {
            let Some((_, definition, labels)) = dataset.readable() else { continue };
            let labels: Vec<_> = labels.iter().map(all_classes).collect();
            let definition = present(catalog, definition);
            let grant = self.decide(&definition, &labels)?;
            if enforce!("information.tables", !grant.visible()) {
                continue;
            }
            let shown = definition
                .columns
                .iter()
                .zip(&grant.columns)
                .filter(|(_, g)| !enforce!("information.columns", g.rung == Rung::None));
            let column = |(c, g): (&ColumnDef, &custody_policy::ColumnGrant)| {
                (c.name.clone(), c.nullable || g.mask.is_some(), c.data_type.to_string())
            };
            let kind = if dataset.view().is_some() { "VIEW" } else { "BASE TABLE" };
            seen.push(Seen { name: dataset.name().clone(), kind, columns: shown.map(column).collect() });
        }
        let column = |c: &ColumnDef| (c.name.clone(), c.nullable, c.data_type.to_string());
        for table in custody_system_tables::tables() {
            let columns = table.definition.columns.iter().map(column).collect();
            seen.push(Seen { name: table.definition.name.clone(), kind: "SYSTEM VIEW", columns });
        }
        for (table, _) in TABLES {
            let Some(definition) = DatasetName::new(SCHEMA, table).ok().as_ref().and_then(definition) else { continue };
            let columns = definition.columns.iter().map(column).collect();
            seen.push(Seen { name: definition.name, kind: "SYSTEM VIEW", columns });
        }
        seen.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(seen)
    }
}

fn definition(name: &DatasetName) -> Option<DatasetDefinition> {
    let mut field = FIRST_FIELD;
    let mut columns = vec![];
    for (table, names) in TABLES {
        for column in *names {
            field += 1;
            if *table == name.name() {
                let number = *column == "ordinal_position";
                let data_type = if number { DataType::UInt64 } else { DataType::Utf8 };
                columns.push(ColumnDef { field: FieldId(field), name: column.to_string(), data_type, nullable: false });
            }
        }
    }
    (!columns.is_empty()).then(|| DatasetDefinition {
        id: Catalog::new().new_dataset_id(name),
        name: name.clone(),
        kind: DatasetKind::System,
        columns,
        entity: None,
        keys: vec![],
        event_time: None,
        known_time: None,
        ttl: None,
        owner: String::new(),
        purposes: BTreeSet::new(),
        comment: None,
        sql: String::new(),
    })
}

fn batch(definition: &DatasetDefinition, seen: &[Seen]) -> Result<RecordBatch, Problem> {
    let rows: Vec<Vec<String>> = match definition.name.name() {
        "schemata" => {
            let schemas: BTreeSet<&str> = seen.iter().map(|t| t.name.schema()).collect();
            schemas.into_iter().map(|s| vec![CATALOG.into(), s.into()]).collect()
        }
        "tables" => seen
            .iter()
            .map(|t| vec![CATALOG.into(), t.name.schema().into(), t.name.name().into(), t.kind.into()])
            .collect(),
        _ => {
            let row = |t: &Seen, (i, (column, nullable, data_type)): (usize, &(String, bool, String))| {
                let nullable = if *nullable { "YES" } else { "NO" };
                let place = [CATALOG, t.name.schema(), t.name.name(), column].map(String::from);
                place.into_iter().chain([(i + 1).to_string(), nullable.into(), data_type.clone()]).collect()
            };
            seen.iter().flat_map(|t| t.columns.iter().enumerate().map(move |c| row(t, c))).collect()
        }
    };
    let column = |(i, c): (usize, &ColumnDef)| -> ArrayRef {
        let cells = rows.iter().map(|r| r.get(i).map(String::as_str).unwrap_or_default());
        match c.data_type {
            DataType::UInt64 => Arc::new(cells.map(|c| c.parse::<u64>().ok()).collect::<UInt64Array>()),
            _ => Arc::new(cells.map(Some).collect::<StringArray>()),
        }
    };
    RecordBatch::try_new(schema_of(definition), definition.columns.iter().enumerate().map(column).collect())
        .map_err(|e| Problem::bug(format!("a table of `{SCHEMA}` has no shape: {e}")))
}
