//! Which tables there are, with their columns.
//!
//! INVARIANT: numbers of tables and positions of columns are frozen. Entries name a system column by the node
//! `(0, field id)` with field id = table number × 64 + position from 1, so a new table takes the next free number and
//! a new column goes to the end.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use custody_catalog::Catalog;
use custody_model::{ColumnDef, ControlSeq, DatasetDefinition, DatasetKind, DatasetName, FieldId, Node};
use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

/// One table of the catalog `system`.
#[derive(Clone, Debug)]
pub struct SystemTable {
    /// Its name, id and columns. Nobody owns it; the comment says what it is.
    pub definition: DatasetDefinition,
    /// The same columns for Arrow.
    pub schema: SchemaRef,
    pub(crate) table: Table,
    columns: &'static [Column],
}

impl SystemTable {
    pub(crate) fn column(&self, at: usize) -> &'static str {
        self.columns.get(at).map_or("?", |c| c.name)
    }
}

/// All tables, by frozen number.
pub fn tables() -> &'static [SystemTable] {
    static TABLES: LazyLock<Vec<SystemTable>> = LazyLock::new(|| SPECS.iter().map(system_table_of).collect());
    &TABLES
}

/// The table with this name.
pub fn system_table(name: &DatasetName) -> Option<&'static SystemTable> {
    tables().iter().find(|t| t.definition.name == *name)
}

/// `system.access.audit`, which is scanned rather than built.
pub fn is_audit(name: &DatasetName) -> bool {
    system_table(name).is_some_and(|t| t.table == Table::Audit)
}

/// The node of a system table's column, as entries and `system.catalog.columns` have it. A target's ordinal for such a
/// column is its field id.
pub fn system_node(field: FieldId) -> Node {
    Node::new(ControlSeq(0), u16::try_from(field.0).unwrap_or(u16::MAX))
}

/// What `lineage_upstream` and `lineage_downstream` return.
pub fn closure_schema() -> SchemaRef {
    CLOSURE.schema.clone()
}

pub(crate) static CLOSURE: LazyLock<SystemTable> = LazyLock::new(|| system_table_of(&CLOSURE_SPEC));

/// A table, for exhaustive matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Table {
    Datasets,
    Columns,
    Versions,
    Runs,
    LineageColumns,
    Inputs,
    Hops,
    Scans,
    Labels,
    Edges,
    Audit,
    ColumnReads,
    Bundles,
    Policies,
    RowSets,
    Tags,
    Grants,
    Denials,
    Entries,
    Checkpoints,
    Writers,
    Keys,
    Slo,
    Expectations,
    Models,
    Profiles,
    ProfileCells,
    Drift,
    AccessRequests,
    AccessGrants,
    Predictions,
    ModelDrift,
    Closure,
}

#[derive(Clone, Copy, Debug)]
enum Type {
    Text,
    Int,
    Float,
    Bool,
    Time,
    Digest,
    Bytes,
    List,
}

impl Type {
    fn arrow(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Digest => DataType::FixedSizeBinary(32),
            Self::Bytes => DataType::Binary,
            Self::List => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
        }
    }
}

#[derive(Debug)]
struct Column {
    name: &'static str,
    kind: Type,
    nullable: bool,
}

/// A column that always has a value.
const fn one(name: &'static str, kind: Type) -> Column {
    Column { name, kind, nullable: false }
}

/// A column that may be NULL: not recorded, or not for this viewer.
const fn opt(name: &'static str, kind: Type) -> Column {
    Column { name, kind, nullable: true }
}

struct Spec {
    table: Table,
    number: u32,
    schema: &'static str,
    name: &'static str,
    about: &'static str,
    columns: &'static [Column],
}

#[expect(clippy::expect_used, reason = "the names stand below and are checked by a test")]
fn system_table_of(spec: &'static Spec) -> SystemTable {
    let name = DatasetName::new(spec.schema, spec.name).expect("names of system tables are dataset names");
    let columns: Vec<ColumnDef> = (1..)
        .zip(spec.columns)
        .map(|(position, c)| ColumnDef {
            field: FieldId(spec.number * 64 + position),
            name: c.name.into(),
            data_type: c.kind.arrow(),
            nullable: c.nullable,
        })
        .collect();
    let fields: Vec<Field> = columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), c.nullable)).collect();
    SystemTable {
        definition: DatasetDefinition {
            id: Catalog::new().new_dataset_id(&name),
            name,
            kind: DatasetKind::System,
            columns,
            entity: None,
            keys: vec![],
            event_time: None,
            known_time: None,
            ttl: None,
            owner: String::new(),
            purposes: BTreeSet::new(),
            comment: Some(spec.about.into()),
            sql: String::new(),
        },
        schema: Arc::new(Schema::new(fields)),
        table: spec.table,
        columns: spec.columns,
    }
}

use Type::{Bool, Bytes, Digest, Float, Int, List, Text, Time};

const SPECS: &[Spec] = &[
    Spec {
        table: Table::Datasets,
        number: 1,
        schema: "system.catalog",
        name: "datasets",
        about: "what there is, who owns it and what it may be read for",
        columns: &[
            one("dataset", Text),
            one("dataset_id", Text),
            one("kind", Text),
            opt("owner", Text),
            one("purposes", List),
            opt("domain", Text),
            opt("entity", Text),
            opt("event_time", Text),
            opt("known_time", Text),
            opt("ttl", Text),
            opt("residency", Text),
            opt("retention_days", Int),
            one("status", Text),
            one("created_at", Time),
            one("entry_id", Text),
        ],
    },
    Spec {
        table: Table::Columns,
        number: 2,
        schema: "system.catalog",
        name: "columns",
        about: "every column of every version, with its classes now; those of the system tables too",
        columns: &[
            one("node", Int),
            one("dataset", Text),
            one("version", Int),
            one("ordinal", Int),
            one("field_id", Int),
            one("column_name", Text),
            one("data_type", Text),
            one("nullable", Bool),
            one("classes", List),
            one("origin", Text),
            opt("owner", Text),
            opt("entry_id", Text),
        ],
    },
    Spec {
        table: Table::Versions,
        number: 3,
        schema: "system.catalog",
        name: "versions",
        about: "every published version and every recorded snapshot of a source",
        columns: &[
            one("dataset", Text),
            one("version", Int),
            opt("delta_version", Int),
            one("identity", Digest),
            opt("content_root", Digest),
            opt("schema_hash", Digest),
            opt("sql_text", Text),
            opt("git_commit", Text),
            opt("git_dirty", Bool),
            opt("engine_version", Int),
            opt("seed", Int),
            opt("row_count", Int),
            opt("event_min", Time),
            opt("event_max", Time),
            opt("known_max", Time),
            one("published_at", Time),
            opt("published_by", Text),
            opt("because", Text),
            one("status", Text),
            one("entry_id", Text),
        ],
    },
    Spec {
        table: Table::Runs,
        number: 4,
        schema: "system.lineage",
        name: "runs",
        about: "every run of a feature view or training set",
        columns: &[
            one("run_id", Text),
            one("job", Text),
            opt("parent", Text),
            one("state", Text),
            opt("principal", Text),
            opt("on_behalf_of", Text),
            opt("purpose", Text),
            one("environment", Text),
            opt("stage", Text),
            opt("statement_hash", Digest),
            one("plan_hash", Digest),
            opt("git_commit", Text),
            one("engine_version", Int),
            one("started_at", Time),
            opt("ended_at", Time),
            opt("rows_in", Int),
            opt("rows_out", Int),
            opt("error", Text),
            one("entry_id", Text),
        ],
    },
    Spec {
        table: Table::LineageColumns,
        number: 5,
        schema: "system.lineage",
        name: "columns",
        about: "what each column of a published version is made of, as EXPLAIN LINEAGE shows it",
        columns: &[
            one("entry_id", Text),
            one("dataset", Text),
            one("version", Int),
            one("output_ordinal", Int),
            one("output_column", Text),
            one("source_dataset", Text),
            one("source_version", Int),
            opt("source_column", Text),
            one("kind", Text),
            one("subtype", Text),
            one("masking", Bool),
            opt("expression", Text),
            one("via_view", List),
            opt("policy_id", Text),
            one("exact", Bool),
            one("origin", Text),
        ],
    },
    Spec {
        table: Table::Inputs,
        number: 6,
        schema: "system.lineage",
        name: "inputs",
        about: "which versions a published version was made from",
        columns: &[
            one("entry_id", Text),
            one("dataset", Text),
            one("version", Int),
            one("origin", Text),
            one("input", Text),
            one("input_version", Int),
        ],
    },
    Spec {
        table: Table::Hops,
        number: 7,
        schema: "system.lineage",
        name: "hops",
        about: "the expressions between the inputs and the columns of a published version",
        columns: &[
            one("entry_id", Text),
            one("dataset", Text),
            one("version", Int),
            one("origin", Text),
            one("hop", Int),
            one("node", Int),
            one("output", Int),
            one("from", List),
            opt("text", Text),
        ],
    },
    Spec {
        table: Table::Labels,
        number: 8,
        schema: "system.lineage",
        name: "labels",
        about: "the classes a column came with, and the declassification rules that lowered them",
        columns: &[
            one("entry_id", Text),
            one("dataset", Text),
            one("version", Int),
            one("origin", Text),
            one("ordinal", Int),
            one("part", Text),
            opt("class", Text),
            opt("rule", Text),
        ],
    },
    Spec {
        table: Table::Edges,
        number: 9,
        schema: "system.lineage",
        name: "edges",
        about: "column to column; `*` (ordinal 0) stands for which rows exist",
        columns: &[
            one("source_node", Int),
            one("target_node", Int),
            one("kind", Text),
            one("subtype", Text),
            one("masking", Bool),
            one("exact", Bool),
            one("origin", Text),
            one("entry_id", Text),
        ],
    },
    Spec {
        table: Table::Audit,
        number: 10,
        schema: "system.access",
        name: "audit",
        about: "every request with its outcome, one row for each dataset version it touched",
        columns: &[
            one("entry_id", Text),
            one("part", Int),
            one("writer", Text),
            one("seq", Int),
            one("control_seq", Int),
            one("event_time", Time),
            one("action", Text),
            opt("principal", Text),
            one("roles", List),
            opt("on_behalf_of", Text),
            opt("session", Text),
            opt("client_addr", Text),
            opt("purpose", Text),
            opt("ticket", Text),
            one("environment", Text),
            opt("stage", Text),
            opt("region", Text),
            opt("model", Text),
            opt("model_version", Int),
            opt("dataset", Text),
            opt("dataset_version", Int),
            one("decision", Text),
            opt("policy_hash", Digest),
            opt("grant_hash", Digest),
            opt("rows", Int),
            opt("bytes", Int),
            one("upper_bound", Bool),
            one("outcome", Text),
            opt("code", Text),
            opt("duration_us", Int),
            opt("statement_hash", Digest),
        ],
    },
    Spec {
        table: Table::ColumnReads,
        number: 11,
        schema: "system.access",
        name: "column_reads",
        about: "every column that a read touched, by role; `requested = false`: policy read it, not the user",
        columns: &[
            one("entry_id", Text),
            one("node", Int),
            opt("role", Text),
            one("requested", Bool),
            one("rung", Text),
            one("masked", Bool),
            one("policy_ids", List),
        ],
    },
    Spec {
        table: Table::Bundles,
        number: 12,
        schema: "system.policy",
        name: "bundles",
        about: "which policy bundle was active when",
        columns: &[
            one("epoch", Int),
            one("policy_hash", Digest),
            opt("approvers", List),
            one("from_seq", Int),
            opt("to_seq", Int),
        ],
    },
    Spec {
        table: Table::Policies,
        number: 13,
        schema: "system.policy",
        name: "policies",
        about: "the policies of the active bundle",
        columns: &[one("policy_id", Text), one("kind", Text), one("text", Text)],
    },
    Spec {
        table: Table::RowSets,
        number: 14,
        schema: "system.policy",
        name: "row_sets",
        about: "the row sets and guards of the active bundle",
        columns: &[one("name", Text), one("dataset", Text), one("predicate", Text)],
    },
    Spec {
        table: Table::Tags,
        number: 15,
        schema: "system.policy",
        name: "tags",
        about: "the classes that the active bundle gives to columns",
        columns: &[one("dataset", Text), one("field_id", Int), one("class", Text)],
    },
    Spec {
        table: Table::Grants,
        number: 16,
        schema: "system.policy",
        name: "grants",
        about: "decisions as reads recorded them, one row a column",
        columns: &[
            one("grant_hash", Digest),
            opt("policy_hash", Digest),
            opt("subject_key", Digest),
            one("dataset", Text),
            one("node", Int),
            one("rung", Text),
            one("row_sets", List),
            one("guards", List),
            one("why", List),
            opt("valid_until", Time),
        ],
    },
    Spec {
        table: Table::Denials,
        number: 17,
        schema: "system.policy",
        name: "denials",
        about: "requests refused, with keyed tokens of the names asked for",
        columns: &[
            one("entry_id", Text),
            opt("principal", Text),
            opt("purpose", Text),
            opt("target_token", Digest),
            one("reasons", List),
        ],
    },
    Spec {
        table: Table::Entries,
        number: 18,
        schema: "system.ledger",
        name: "entries",
        about: "every entry of every writer",
        columns: &[
            one("entry_id", Text),
            one("writer", Text),
            one("seq", Int),
            one("kind", Int),
            one("event_time", Time),
            one("control_seq", Int),
            one("leaf_hash", Digest),
            opt("raw", Bytes),
        ],
    },
    Spec {
        table: Table::Checkpoints,
        number: 19,
        schema: "system.ledger",
        name: "checkpoints",
        about: "signed tree heads",
        columns: &[
            one("origin", Text),
            one("tree_size", Int),
            one("root", Digest),
            one("note", Text),
            one("signed_at", Time),
        ],
    },
    Spec {
        table: Table::Writers,
        number: 20,
        schema: "system.ledger",
        name: "writers",
        about: "who writes the ledger, and how far each has got",
        columns: &[
            one("writer", Text),
            one("incarnation", Int),
            one("head_seq", Int),
            one("last_beat", Time),
            one("state", Text),
        ],
    },
    Spec {
        table: Table::Keys,
        number: 21,
        schema: "system.ledger",
        name: "keys",
        about: "signing keys, with the tree sizes they may sign",
        columns: &[
            one("epoch", Int),
            one("vkey", Text),
            one("from_size", Int),
            opt("to_size", Int),
            one("state", Text),
        ],
    },
    Spec {
        table: Table::Expectations,
        number: 22,
        schema: "system.quality",
        name: "expectations",
        about: "what each expectation of a published version found",
        columns: &[
            one("entry_id", Text),
            one("dataset", Text),
            one("version", Int),
            one("ordinal", Int),
            opt("expectation", Text),
            one("action", Text),
            opt("checked", Int),
            opt("violations", Int),
            opt("passed", Bool),
        ],
    },
    Spec {
        table: Table::Models,
        number: 23,
        schema: "system.catalog",
        name: "models",
        about: "registered models, with the training set each learned from",
        columns: &[
            one("model", Text),
            one("version", Int),
            one("dataset", Text),
            one("dataset_version", Int),
            one("artifact", Digest),
            one("artifact_bytes", Int),
            one("registered_at", Time),
            opt("registered_by", Text),
            one("because", Text),
            one("entry_id", Text),
        ],
    },
    Spec {
        table: Table::Scans,
        number: 26,
        schema: "system.lineage",
        name: "scans",
        about: "what reads and runs took from storage, a row for each file; `file` NULL: more than 4,096 files",
        columns: &[
            one("entry_id", Text),
            opt("run_id", Text),
            one("dataset", Text),
            one("version", Int),
            one("files", Int),
            opt("rows", Int),
            opt("file", Text),
            opt("row_groups", Int),
            opt("row_groups_skipped", Int),
        ],
    },
    Spec {
        table: Table::Slo,
        number: 27,
        schema: "system.metrics",
        name: "slo",
        about: "what the ledger promises of itself, and how it stands in this process",
        columns: &[one("metric", Text), opt("value", Int), one("target", Int), one("ok", Bool)],
    },
    Spec {
        table: Table::Profiles,
        number: 28,
        schema: "system.quality",
        name: "profiles",
        about: "what the values of each column of a published version look like",
        columns: &[
            one("entry_id", Text),
            one("dataset", Text),
            one("version", Int),
            one("ordinal", Int),
            one("column_name", Text),
            one("row_count", Int),
            opt("null_count", Int),
            opt("distinct_count", Int),
            opt("mean", Float),
            one("cells", Int),
            one("small_rows", Int),
            one("least_rows", Int),
        ],
    },
    Spec {
        table: Table::ProfileCells,
        number: 29,
        schema: "system.quality",
        name: "profile_cells",
        about: "how many rows of a published version have which values; cells of few rows are not kept",
        columns: &[
            one("dataset", Text),
            one("version", Int),
            one("ordinal", Int),
            one("column_name", Text),
            one("cell", Int),
            one("from_value", Text),
            one("to_value", Text),
            one("row_count", Int),
        ],
    },
    Spec {
        table: Table::Drift,
        number: 30,
        schema: "system.quality",
        name: "drift",
        about: "how far the values of a version are from those of the version before",
        columns: &[
            one("dataset", Text),
            one("version", Int),
            one("base_version", Int),
            one("ordinal", Int),
            one("column_name", Text),
            one("psi", Float),
            opt("ks", Float),
            one("state", Text),
        ],
    },
    Spec {
        table: Table::AccessRequests,
        number: 31,
        schema: "system.access",
        name: "requests",
        about: "who asked for more access than policy alone gives, and the answer",
        columns: &[
            one("request_id", Text),
            one("requester", Text),
            one("dataset", Text),
            one("columns", List),
            one("rung", Text),
            one("purpose", Text),
            one("reason", Text),
            one("seconds", Int),
            one("state", Text),
            opt("reviewer", Text),
            opt("answer", Text),
            one("requested_at", Time),
            opt("decided_at", Time),
        ],
    },
    Spec {
        table: Table::AccessGrants,
        number: 32,
        schema: "system.access",
        name: "grants",
        about: "access that was approved, until when; what it permits is for policies to say",
        columns: &[
            one("grant_id", Text),
            one("request_id", Text),
            one("principal", Text),
            one("dataset", Text),
            one("columns", List),
            one("rung", Text),
            one("purpose", Text),
            one("approved_by", Text),
            one("because", Text),
            one("valid_from", Time),
            one("expires_at", Time),
            opt("revoked_at", Time),
            opt("revoked_by", Text),
        ],
    },
    Spec {
        table: Table::Predictions,
        number: 33,
        schema: "system.ml",
        name: "predictions",
        about: "which dataset versions each prediction was made from",
        columns: &[
            one("prediction_id", Text),
            one("event_time", Time),
            opt("model", Text),
            opt("model_version", Int),
            one("dataset", Text),
            opt("dataset_version", Int),
            opt("principal", Text),
            opt("purpose", Text),
            one("entry_id", Text),
        ],
    },
    Spec {
        table: Table::ModelDrift,
        number: 34,
        schema: "system.ml",
        name: "drift",
        about: "how far the values that a model is given are from those it learned from",
        columns: &[
            one("model", Text),
            one("model_version", Int),
            one("training_set", Text),
            one("training_version", Int),
            one("feature", Text),
            one("dataset", Text),
            one("dataset_version", Int),
            one("column_name", Text),
            one("predictions", Int),
            one("psi", Float),
            opt("ks", Float),
            one("state", Text),
        ],
    },
];

const CLOSURE_SPEC: Spec = Spec {
    table: Table::Closure,
    number: 0,
    schema: "system.lineage",
    name: "closure",
    about: "every column on the way from or to a column",
    columns: &[
        one("node", Int),
        one("dataset", Text),
        one("version", Int),
        one("column_name", Text),
        one("hop", Int),
        one("kind", Text),
        one("subtype", Text),
        one("masking", Bool),
        one("exact", Bool),
    ],
};
