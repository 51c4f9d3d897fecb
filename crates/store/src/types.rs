//! Which Arrow types a version can hold, and what stands in for those it cannot.
//!
//! Delta narrows silently (nanoseconds to microseconds, UInt64 to Int64), so nothing reaches it that it would change.

use crate::StoreError;
use arrow::{
    array::{Array, RecordBatch, RecordBatchOptions},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};
use custody_model::FieldId;
use std::sync::Arc;

/// The key of a column's field id in an Arrow field's metadata.
pub const FIELD_ID: &str = "custody.field_id";

/// A field that carries its column's id.
pub fn with_field_id(field: Field, id: FieldId) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(FIELD_ID.to_string(), id.to_string());
    field.with_metadata(metadata)
}

/// The id of the column that a field is.
pub fn field_id(field: &Field) -> Result<FieldId, StoreError> {
    field.metadata().get(FIELD_ID).and_then(|id| id.parse().ok()).map(FieldId).ok_or_else(|| StoreError::Columns {
        found: format!("column `{}` without `{FIELD_ID}`", field.name()),
        declared: "a field id for each column".into(),
    })
}

/// The zone of every timestamp in a version.
pub(crate) const UTC: &str = "UTC";

pub(crate) fn is_utc(zone: &str) -> bool {
    zone == UTC || zone == "+00:00" || zone == "Z" || zone == "Etc/UTC"
}

/// The type's number in content roots.
pub(crate) fn code(column: &str, data_type: &DataType) -> Result<u8, StoreError> {
    Ok(match data_type {
        DataType::Boolean => 1,
        DataType::Int8 => 2,
        DataType::Int16 => 3,
        DataType::Int32 => 4,
        DataType::Int64 => 5,
        DataType::Float32 => 6,
        DataType::Float64 => 7,
        DataType::Decimal128(..) => 8,
        DataType::Date32 => 9,
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == UTC => 10,
        DataType::Binary => 11,
        DataType::Utf8 => 12,
        DataType::List(_) => 13,
        DataType::Struct(_) => 14,
        other => return Err(refuse(column, other)),
    })
}

fn refuse(column: &str, data_type: &DataType) -> StoreError {
    let cast = match data_type {
        DataType::Timestamp(..) => "TIMESTAMP",
        DataType::Date64 => "DATE",
        DataType::Float16 => "REAL",
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal256(..) => "DECIMAL(38, 9)",
        DataType::Null => "VARCHAR",
        DataType::Duration(_) => "BIGINT",
        DataType::FixedSizeBinary(_) | DataType::LargeBinary | DataType::BinaryView => "BYTEA",
        _ => "VARCHAR",
    };
    StoreError::Type { column: column.to_string(), data_type: data_type.clone(), cast }
}

/// The type that a column of a version has, given the type that a query gives it.
pub fn version_type(column: &str, data_type: &DataType) -> Result<DataType, StoreError> {
    Ok(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(..)
        | DataType::Date32
        | DataType::Binary
        | DataType::Utf8 => data_type.clone(),
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if is_utc(zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
        }
        DataType::Dictionary(_, values) => version_type(column, values)?,
        DataType::List(child) => {
            let element = version_type(column, child.data_type())?;
            DataType::List(Arc::new(Field::new("element", element, child.is_nullable())))
        }
        DataType::Struct(children) => DataType::Struct(
            children
                .iter()
                .map(|child| {
                    let data_type = version_type(&format!("{column}.{}", child.name()), child.data_type())?;
                    Ok(Field::new(child.name(), data_type, child.is_nullable()))
                })
                .collect::<Result<Fields, StoreError>>()?,
        ),
        other => return Err(refuse(column, other)),
    })
}

/// The schema that a version of these columns has. Field metadata stays.
pub fn version_schema(schema: &Schema) -> Result<Schema, StoreError> {
    let fields = schema
        .fields()
        .iter()
        .map(|field| {
            let data_type = version_type(field.name(), field.data_type())?;
            Ok(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(field.metadata().clone()))
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    Ok(Schema::new(fields))
}

/// Rows as the declared schema has them: the same columns in the same order, layouts and stand-in types cast, nothing lost.
/// `before`: rows that went before, for messages.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef, before: u64) -> Result<RecordBatch, StoreError> {
    let have = batch.schema();
    if !have.fields().iter().map(|f| f.name()).eq(schema.fields().iter().map(|f| f.name())) {
        let names =
            |s: &Schema| format!("({})", s.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", "));
        return Err(StoreError::Columns { found: names(&have), declared: names(schema) });
    }
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (column, field) in batch.columns().iter().zip(schema.fields()) {
        let column = match column.data_type() == field.data_type() {
            true => column.clone(),
            false => {
                if version_type(field.name(), column.data_type())? != *field.data_type() {
                    return Err(StoreError::Columns {
                        found: format!("column `{}` of type `{}`", field.name(), column.data_type()),
                        declared: format!("`{}`", field.data_type()),
                    });
                }
                let checked = CastOptions { safe: false, ..Default::default() };
                cast_with_options(column, field.data_type(), &checked).map_err(|_| StoreError::Overflow {
                    column: field.name().clone(),
                    target: field.data_type().clone(),
                })?
            }
        };
        if !field.is_nullable()
            && let Some(nulls) = column.logical_nulls()
            && let Some(row) = (0..nulls.len()).find(|i| nulls.is_null(*i))
        {
            return Err(StoreError::Null { column: field.name().clone(), row: before + row as u64 + 1 });
        }
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|e: ArrowError| StoreError::Columns { found: e.to_string(), declared: "its schema".into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, StringViewArray, UInt64Array};

    #[test]
    fn types() {
        let check = |from: DataType, to: &str| {
            let found = match version_type("x", &from) {
                Ok(t) => t.to_string(),
                Err(e) => format!("{e}; {}", e.help().unwrap()),
            };
            assert_eq!(found, to, "{from}");
        };
        let ts = |unit, zone: Option<&str>| DataType::Timestamp(unit, zone.map(Into::into));
        check(DataType::Utf8View, "Utf8");
        check(DataType::UInt64, "Int64");
        check(DataType::UInt8, "Int16");
        check(DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), "Utf8");
        check(ts(TimeUnit::Microsecond, Some("+00:00")), "Timestamp(µs, \"UTC\")");
        check(
            ts(TimeUnit::Nanosecond, Some("UTC")),
            "column `x` has type `Timestamp(ns, \"UTC\")`, which versions cannot hold; write `CAST(x AS TIMESTAMP)`",
        );
        check(
            ts(TimeUnit::Microsecond, None),
            "column `x` has type `Timestamp(µs)`, which versions cannot hold; write `CAST(x AS TIMESTAMP)`",
        );
        check(
            DataType::Time64(TimeUnit::Nanosecond),
            "column `x` has type `Time64(ns)`, which versions cannot hold; write `CAST(x AS VARCHAR)`",
        );
        check(
            DataType::Decimal256(40, 2),
            "column `x` has type `Decimal256(40, 2)`, which versions cannot hold; write `CAST(x AS DECIMAL(38, 9))`",
        );
        check(
            DataType::List(Arc::new(Field::new("item", DataType::Float16, true))),
            "column `x` has type `Float16`, which versions cannot hold; write `CAST(x AS REAL)`",
        );
    }

    #[test]
    fn casts_lose_nothing() {
        let schema =
            Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("t", DataType::Utf8, true)]));
        let rows = |n: Vec<Option<u64>>| {
            let text: ArrayRef = Arc::new(StringViewArray::from_iter(n.iter().map(|_| Some("a"))));
            let n: ArrayRef = Arc::new(UInt64Array::from(n));
            RecordBatch::try_from_iter_with_nullable([("n", n, true), ("t", text, true)]).unwrap()
        };
        assert_eq!(conform(&rows(vec![Some(1)]), &schema, 0).unwrap().schema(), schema);
        let error = conform(&rows(vec![Some(u64::MAX)]), &schema, 0).unwrap_err();
        assert_eq!(error.to_string(), "column `n` holds a value that does not fit `Int64`");
        let error = conform(&rows(vec![Some(1), None]), &schema, 8192).unwrap_err();
        assert_eq!(error.to_string(), "column `n` is declared NOT NULL and holds NULL in row 8194");
        let error = conform(&rows(vec![]).project(&[1, 0]).unwrap(), &schema, 0).unwrap_err();
        assert_eq!(error.to_string(), "the rows have (t, n), the version declares (n, t)");
    }
}
