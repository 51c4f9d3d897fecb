//! Flight SQL's metadata commands: what drivers ask before and beside queries.
//!
//! What holds here: listings are those of the session, governed and recorded; types and nullability of every answer
//! are exactly the specification's, which ADBC checks.

use crate::status::{not_offered, status};
use arrow::array::RecordBatch;
use arrow_flight::sql::{
    Command, SqlInfo,
    metadata::{SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfoData, XdbcTypeInfoDataBuilder},
};
use custody_engine::Session;
use custody_model::{DatasetKind, Problem};
use std::sync::OnceLock;
use tonic::Status;

/// The name of the catalog that datasets are shown in; system tables are in `system`.
const DATA: &str = "custody";

/// Whether a command is answered here.
pub(crate) fn is_metadata(command: &Command) -> bool {
    matches!(
        command,
        Command::CommandGetCatalogs(_)
            | Command::CommandGetDbSchemas(_)
            | Command::CommandGetTables(_)
            | Command::CommandGetTableTypes(_)
            | Command::CommandGetSqlInfo(_)
            | Command::CommandGetXdbcTypeInfo(_)
    )
}

/// Answers a metadata command.
pub(crate) async fn answer(session: &Session, command: &Command) -> Result<RecordBatch, Status> {
    let built = match command.clone() {
        Command::CommandGetCatalogs(asked) => {
            let mut builder = asked.into_builder();
            builder.append(DATA);
            builder.append("system");
            builder.build()
        }
        Command::CommandGetDbSchemas(asked) => {
            let mut builder = asked.into_builder();
            let mut seen = std::collections::BTreeSet::new();
            for listed in session.datasets().await.map_err(|p| status(&p))? {
                let (catalog, schema) = place(&listed.name);
                if seen.insert((catalog, schema.to_string())) {
                    builder.append(catalog, schema);
                }
            }
            builder.build()
        }
        Command::CommandGetTables(asked) => {
            let mut builder = asked.into_builder();
            for listed in session.datasets().await.map_err(|p| status(&p))? {
                let (catalog, schema) = place(&listed.name);
                let kind = if listed.kind == DatasetKind::View { "VIEW" } else { "TABLE" };
                builder
                    .append(catalog, schema, listed.name.name(), kind, &crate::wire::wire_schema(&listed.schema))
                    .map_err(internal)?;
            }
            builder.build()
        }
        Command::CommandGetTableTypes(asked) => {
            let mut builder = asked.into_builder();
            builder.append("TABLE");
            builder.append("VIEW");
            builder.build()
        }
        Command::CommandGetSqlInfo(asked) => asked.into_builder(sql_info()?).build(),
        Command::CommandGetXdbcTypeInfo(asked) => asked.into_builder(types()?).build(),
        other => return Err(not_offered(&format!("`{}`", other.type_url().rsplit('.').next().unwrap_or_default()))),
    };
    built.map_err(internal)
}

fn place(name: &custody_model::DatasetName) -> (&'static str, &str) {
    match name.schema().strip_prefix("system.") {
        Some(schema) => ("system", schema),
        None => (DATA, name.schema()),
    }
}

fn sql_info() -> Result<&'static SqlInfoData, Status> {
    static INFO: OnceLock<Option<SqlInfoData>> = OnceLock::new();
    let made = INFO.get_or_init(|| {
        let mut builder = SqlInfoDataBuilder::new();
        builder.append(SqlInfo::FlightSqlServerName, "custody");
        builder.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
        builder.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
        builder.append(SqlInfo::FlightSqlServerReadOnly, true);
        builder.append(SqlInfo::FlightSqlServerSql, true);
        builder.append(SqlInfo::FlightSqlServerSubstrait, false);
        builder.append(SqlInfo::FlightSqlServerTransaction, 0i32);
        builder.append(SqlInfo::FlightSqlServerCancel, false);
        builder.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
        builder.build().ok()
    });
    made.as_ref().ok_or_else(|| internal("no SQL information"))
}

fn types() -> Result<&'static XdbcTypeInfoData, Status> {
    static TYPES: OnceLock<Option<XdbcTypeInfoData>> = OnceLock::new();
    TYPES
        .get_or_init(|| XdbcTypeInfoDataBuilder::new().build().ok())
        .as_ref()
        .ok_or_else(|| internal("no type information"))
}

fn internal(error: impl std::fmt::Display) -> Status {
    status(&Problem::bug(error))
}
