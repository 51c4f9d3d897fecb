//! What a committed version consists of: its schema, its files in order, its root; read from Delta commit 0 alone.
//!
//! `custody.*` in the commit's `commitInfo` holds what Delta has no place for: identity, content root, entry and run,
//! field ids, the digest and the bounds of each file.

use crate::{Place, StoreError, Warehouse, field_id, types::with_field_id};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use custody_model::{EntryId, FieldId, FileDigest, Hash};
use datafusion::scalar::ScalarValue;
use object_store::ObjectStoreExt;
use serde_json::{Value, json};
use std::{str::FromStr, sync::Arc};

/// The one commit of a version's Delta table.
pub(crate) const COMMIT: &str = "_delta_log/00000000000000000000.json";

/// Smallest and largest value of one ordering column in one file.
#[derive(Clone, PartialEq, Debug)]
pub struct Bounds {
    /// Absent when every value is NULL or too long to keep.
    pub min: Option<ScalarValue>,
    /// As `min`.
    pub max: Option<ScalarValue>,
    /// NULLs.
    pub nulls: u64,
}

/// A data file of a version.
#[derive(Clone, PartialEq, Debug)]
pub struct DataFile {
    /// Below the version's folder.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
    /// SHA3-256 of the bytes.
    pub sha3: Hash,
    /// Of each key and time, in that order.
    pub bounds: Vec<Bounds>,
}

/// A version as committed.
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    /// Where it lies.
    pub place: Place,
    /// Its columns, each with its field id in the field's metadata.
    pub schema: SchemaRef,
    /// The columns it is ordered by, before the times.
    pub keys: Vec<FieldId>,
    /// Event time, then known time, where declared.
    pub times: Vec<FieldId>,
    /// Its files in published order.
    pub files: Vec<DataFile>,
    /// Rows of all files.
    pub rows: u64,
    /// Merkle root over the values.
    pub content_root: Hash,
    /// Smallest and largest value of the first time column, microseconds.
    pub event_range: Option<(i64, i64)>,
    /// The ledger entry that makes, or was to make, it visible.
    pub entry: EntryId,
    /// The run that wrote it.
    pub run: EntryId,
}

impl Manifest {
    /// The files as the ledger records them.
    pub fn digests(&self) -> Vec<FileDigest> {
        self.files.iter().map(DataFile::digest).collect()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The ordering columns' positions in the schema: keys, then times.
    pub(crate) fn ordering(&self) -> Result<Vec<usize>, StoreError> {
        ordering(&self.schema, &self.keys, &self.times)
    }
}

impl DataFile {
    /// As the ledger records it.
    pub fn digest(&self) -> FileDigest {
        FileDigest { path: self.path.clone(), bytes: self.bytes, sha3: self.sha3 }
    }

    pub(crate) fn to_json(&self) -> Value {
        let bounds = |b: &Bounds| json!([b.min.as_ref().and_then(to_text), b.max.as_ref().and_then(to_text), b.nulls]);
        json!({
            "path": self.path, "bytes": self.bytes, "rows": self.rows, "sha3": self.sha3.to_string(),
            "bounds": self.bounds.iter().map(bounds).collect::<Vec<_>>(),
        })
    }
}

/// Positions of keys, then times.
pub(crate) fn ordering(schema: &Schema, keys: &[FieldId], times: &[FieldId]) -> Result<Vec<usize>, StoreError> {
    let ids = schema.fields().iter().map(|f| field_id(f)).collect::<Result<Vec<_>, _>>()?;
    keys.iter()
        .chain(times)
        .map(|id| {
            ids.iter().position(|i| i == id).ok_or_else(|| StoreError::Columns {
                found: format!("no column with field id {id}"),
                declared: "it as a key or time".into(),
            })
        })
        .collect()
}

/// A bound as text that reads back as the same value; `None` for values that are not kept.
fn to_text(value: &ScalarValue) -> Option<String> {
    match value {
        ScalarValue::Boolean(v) => v.map(|v| v.to_string()),
        ScalarValue::Int8(v) => v.map(|v| v.to_string()),
        ScalarValue::Int16(v) => v.map(|v| v.to_string()),
        ScalarValue::Int32(v) | ScalarValue::Date32(v) => v.map(|v| v.to_string()),
        ScalarValue::Int64(v) | ScalarValue::TimestampMicrosecond(v, _) => v.map(|v| v.to_string()),
        ScalarValue::Decimal128(v, ..) => v.map(|v| v.to_string()),
        ScalarValue::Utf8(v) => v.clone().filter(|v| v.len() <= 256),
        _ => None,
    }
}

fn from_text(text: &str, data_type: &DataType) -> Option<ScalarValue> {
    fn parse<T: FromStr>(text: &str) -> Option<Option<T>> {
        text.parse().ok().map(Some)
    }
    Some(match data_type {
        DataType::Boolean => ScalarValue::Boolean(parse(text)?),
        DataType::Int8 => ScalarValue::Int8(parse(text)?),
        DataType::Int16 => ScalarValue::Int16(parse(text)?),
        DataType::Int32 => ScalarValue::Int32(parse(text)?),
        DataType::Date32 => ScalarValue::Date32(parse(text)?),
        DataType::Int64 => ScalarValue::Int64(parse(text)?),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            ScalarValue::TimestampMicrosecond(parse(text)?, zone.clone())
        }
        DataType::Decimal128(precision, scale) => ScalarValue::Decimal128(parse(text)?, *precision, *scale),
        DataType::Utf8 => ScalarValue::Utf8(Some(text.to_string())),
        _ => return None,
    })
}

/// A column as the commit keeps it. Nested types are structure, not text, so nothing hangs on how a type prints.
pub(crate) fn column_json(field: &Field) -> Result<Value, StoreError> {
    Ok(json!({"field": field_id(field)?.0, "name": field.name(), "nullable": field.is_nullable(),
        "type": type_json(field.data_type())}))
}

fn type_json(data_type: &DataType) -> Value {
    match data_type {
        DataType::List(child) => json!({"list": type_json(child.data_type()), "nullable": child.is_nullable()}),
        DataType::Struct(children) => json!({"struct": children.iter().map(|child| json!({
            "name": child.name(), "nullable": child.is_nullable(), "type": type_json(child.data_type()),
        })).collect::<Vec<_>>()}),
        other => json!(other.to_string()),
    }
}

fn type_from_json(value: &Value) -> Option<DataType> {
    if let Some(text) = value.as_str() {
        return text.parse().ok();
    }
    if let Some(child) = value.get("list") {
        let field = Field::new("element", type_from_json(child)?, value.get("nullable")?.as_bool()?);
        return Some(DataType::List(Arc::new(field)));
    }
    value.get("struct")?.as_array()?.iter().map(field_from_json).collect::<Option<_>>().map(DataType::Struct)
}

fn field_from_json(value: &Value) -> Option<Field> {
    let name = value.get("name")?.as_str()?;
    Some(Field::new(name, type_from_json(value.get("type")?)?, value.get("nullable")?.as_bool()?))
}

pub(crate) fn column_from_json(value: &Value) -> Option<Field> {
    let id = FieldId(u32::try_from(value.get("field")?.as_u64()?).ok()?);
    Some(with_field_id(field_from_json(value)?, id))
}

impl Warehouse {
    /// The version committed at a place; cached, as a version never changes. Drafts are read each time.
    pub async fn open_version(&self, place: &Place) -> Result<Arc<Manifest>, StoreError> {
        if let Some(manifest) = self.cached(place) {
            return Ok(manifest);
        }
        let manifest = Arc::new(self.load_version(place).await?);
        self.cache(&manifest);
        Ok(manifest)
    }

    /// Reads commit 0, whatever is cached.
    pub(crate) async fn load_version(&self, place: &Place) -> Result<Manifest, StoreError> {
        let path = self.file(place, COMMIT);
        let bytes = match self.store().get(&path).await {
            Ok(found) => found.bytes().await.map_err(|e| StoreError::io("reading", &path, e))?,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(StoreError::NoVersion { identity: place.identity(), path: place.folder() });
            }
            Err(e) => return Err(StoreError::io("reading", &path, e)),
        };
        let damaged =
            |what: &str| StoreError::Damaged { path: format!("{}/{COMMIT}", place.folder()), what: what.to_string() };
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged("it is not text"))?;
        let info = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find_map(|action| action.get("commitInfo").cloned())
            .ok_or_else(|| damaged("it has no commitInfo"))?;
        let manifest = parse(place, &info).ok_or_else(|| damaged("its `custody.*` entries cannot be read"))?;
        let identity = info.get("custody.identity").and_then(Value::as_str).unwrap_or_default();
        if identity != place.identity().to_string() {
            return Err(damaged("it holds another identity"));
        }
        // INVARIANT: what our readers read is what every other Delta reader reads.
        let adds: Vec<String> = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|action| action.get("add")?.get("path")?.as_str().map(str::to_string))
            .collect();
        if !adds.iter().eq(manifest.files.iter().map(|file| &file.path)) {
            return Err(damaged("its `add` actions are not the files it was written with"));
        }
        Ok(manifest)
    }
}

fn parse(place: &Place, info: &Value) -> Option<Manifest> {
    let text = |key: &str| info.get(key)?.as_str();
    let list = |key: &str| info.get(key)?.as_array();
    let ids =
        |key: &str| list(key)?.iter().map(|v| u32::try_from(v.as_u64()?).ok().map(FieldId)).collect::<Option<Vec<_>>>();
    let fields = list("custody.columns")?.iter().map(column_from_json).collect::<Option<Vec<_>>>()?;
    let schema = Arc::new(Schema::new(fields));
    let (keys, times) = (ids("custody.keys")?, ids("custody.times")?);
    let order = ordering(&schema, &keys, &times).ok()?;
    let file = |value: &Value| {
        let bounds = value.get("bounds")?.as_array()?;
        if bounds.len() != order.len() {
            return None;
        }
        let bound = |(value, column): (&Value, &usize)| {
            let data_type = schema.field(*column).data_type();
            let end = |i: usize| value.get(i)?.as_str().and_then(|text| from_text(text, data_type));
            Some(Bounds { min: end(0), max: end(1), nulls: value.get(2)?.as_u64()? })
        };
        Some(DataFile {
            path: value.get("path")?.as_str()?.to_string(),
            bytes: value.get("bytes")?.as_u64()?,
            rows: value.get("rows")?.as_u64()?,
            sha3: value.get("sha3")?.as_str()?.parse().ok()?,
            bounds: bounds.iter().zip(&order).map(bound).collect::<Option<_>>()?,
        })
    };
    let files = list("custody.files")?.iter().map(file).collect::<Option<Vec<_>>>()?;
    let range = info.get("custody.event_range").and_then(Value::as_array);
    Some(Manifest {
        place: place.clone(),
        keys,
        times,
        rows: files.iter().map(|f| f.rows).sum(),
        files,
        content_root: text("custody.content_root")?.parse().ok()?,
        event_range: range.and_then(|r| Some((r.first()?.as_i64()?, r.get(1)?.as_i64()?))),
        entry: text("custody.entry")?.parse().ok()?,
        run: text("custody.run")?.parse().ok()?,
        schema,
    })
}
