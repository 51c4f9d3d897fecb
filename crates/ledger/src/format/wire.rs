//! Domain nouns <-> CBOR values.
//!
//! The key numbers in the `record!` lists, the case numbers in `cases` and the code numbers in `codes!` are frozen:
//! they are in the byte format. New fields get new, higher keys and must be optional.
//!
//! What is empty is absent: an empty list, an empty text, `false` and `None` have no key, and a key that holds one of
//! them is refused, so that one value has one encoding. Inside an `Option`, `Some("")` and `Some([])` are present.
//! Sets and maps are arrays in strictly ascending order.

use super::{
    asserted::is_asserted,
    cbor::Value,
    lineage::{lineage_from_value, lineage_to_value},
};
use arrow_schema::DataType;
use custody_model::{
    AccessGrant, AccessRequest, AccessReview, Actor, AdminRecord, AttributeChange, Authentication, BlobRef,
    BypassRecord, CatalogChange, Class, ClassLabel, ColumnDef, ControlSeq, DatasetDefinition, DatasetId, DatasetKind,
    DatasetName, Denied, DraftRecord, Durability, EntryId, ErasureRecord, ExpectationResult, FieldId, FileDigest, Hash,
    HeadRecord, InputRef, KeyRecord, Kind, Lineage, LineageRecord, Measure, ModelRecord, OpenIntent, Outcome, Payload,
    PolicyBundleRecord, Principal, Publish, Purpose, ReadIntent, ReadOutcome, Reason, Relabelled, RoleSet, RunRecord,
    RunState, Rung, ScanFact, ScannedFile, SealedBox, Seq, SourceKind, SourceSnapshot, StatusRecord, Target,
    TargetColumn, TokenRecord, Verb, Verdict, ViewRecord, WallNanos, WriterEvent, WriterId,
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A value that is canonical CBOR, and still not what an entry holds at that place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unexpected content{}: {why}", if path.is_empty() { String::new() } else { format!(" at key {path}") })]
pub struct Unexpected {
    /// Keys from the outside in, joined by `.`.
    pub path: String,
    /// What was wrong.
    pub why: String,
}

pub(super) fn unexpected<T>(why: impl Into<String>) -> Result<T, Unexpected> {
    Err(Unexpected { path: String::new(), why: why.into() })
}

fn under<T>(key: u64, result: Result<T, Unexpected>) -> Result<T, Unexpected> {
    result.map_err(|e| {
        let rest = if e.path.is_empty() { String::new() } else { format!(".{}", e.path) };
        Unexpected { path: format!("{key}{rest}"), why: e.why }
    })
}

/// A noun with one encoding.
pub(super) trait Wire: Sized {
    /// Its value.
    fn value(&self) -> Value;
    /// The noun that a value stands for.
    fn read(value: Value) -> Result<Self, Unexpected>;
    /// Its value under a key; `None`: the key is absent.
    fn field(&self) -> Option<Value> {
        Some(self.value())
    }
    /// The noun under a key that may be absent.
    fn read_field(value: Option<Value>) -> Result<Self, Unexpected> {
        match value {
            Some(value) => Self::read(value),
            None => unexpected("missing"),
        }
    }
}

/// A map under construction.
#[derive(Default)]
pub(super) struct MapOut(Vec<(u64, Value)>);

impl MapOut {
    /// Adds a field under a key higher than all before.
    pub(super) fn put<T: Wire>(&mut self, key: u64, field: &T) {
        self.0.extend(field.field().map(|v| (key, v)));
    }

    /// Adds a value as it is.
    pub(super) fn put_value(&mut self, key: u64, value: Value) {
        self.0.push((key, value));
    }

    /// The map.
    pub(super) fn done(self) -> Value {
        Value::Map(self.0)
    }
}

/// A map being read; every key must be taken.
pub(super) struct MapIn(std::iter::Peekable<std::vec::IntoIter<(u64, Value)>>);

impl MapIn {
    pub(super) fn new(value: Value) -> Result<Self, Unexpected> {
        match value {
            Value::Map(pairs) => Ok(Self(pairs.into_iter().peekable())),
            other => unexpected(format!("expected a map, found {}", sort(&other))),
        }
    }

    /// The value under a key, if present. Keys are taken in ascending order.
    pub(super) fn take(&mut self, key: u64) -> Option<Value> {
        self.0.next_if(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The field under a key.
    pub(super) fn get<T: Wire>(&mut self, key: u64) -> Result<T, Unexpected> {
        let value = self.take(key);
        under(key, T::read_field(value))
    }

    /// Refuses keys that nobody took.
    pub(super) fn end(mut self) -> Result<(), Unexpected> {
        match self.0.next() {
            None => Ok(()),
            Some((key, _)) => under(key, unexpected("unknown key")),
        }
    }
}

fn sort(value: &Value) -> &'static str {
    match value {
        Value::Uint(_) => "an unsigned integer",
        Value::Negative(_) => "a negative integer",
        Value::Bytes(_) => "bytes",
        Value::Text(_) => "text",
        Value::Array(_) => "an array",
        Value::Map(_) => "a map",
        Value::Bool(_) => "a boolean",
    }
}

pub(super) fn items(value: Value) -> Result<Vec<Value>, Unexpected> {
    match value {
        Value::Array(items) => Ok(items),
        other => unexpected(format!("expected an array, found {}", sort(&other))),
    }
}

/// An array of exactly `N`.
pub(super) fn tuple<const N: usize>(value: Value) -> Result<[Value; N], Unexpected> {
    items(value)?.try_into().or_else(|v: Vec<Value>| unexpected(format!("expected {N} items, found {}", v.len())))
}

fn ascending<T: Wire + Ord>(value: Value) -> Result<Vec<T>, Unexpected> {
    let list = items(value)?.into_iter().map(T::read).collect::<Result<Vec<_>, _>>()?;
    if list.is_sorted_by(|a, b| a < b) { Ok(list) } else { unexpected("items that do not ascend") }
}

impl Wire for u64 {
    fn value(&self) -> Value {
        Value::Uint(*self)
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        match value {
            Value::Uint(n) => Ok(n),
            other => unexpected(format!("expected an unsigned integer, found {}", sort(&other))),
        }
    }
}

impl Wire for i64 {
    fn value(&self) -> Value {
        u64::try_from(*self).map_or_else(|_| Value::Negative(!*self as u64), Value::Uint)
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let (number, negative) = match value {
            Value::Uint(n) => (n, false),
            Value::Negative(n) => (n, true),
            other => return unexpected(format!("expected an integer, found {}", sort(&other))),
        };
        match i64::try_from(number) {
            Ok(n) => Ok(if negative { !n } else { n }),
            Err(_) => unexpected("an integer beyond 64 bits"),
        }
    }
}

macro_rules! small {
    ($($ty:ty),*) => {$(
        impl Wire for $ty {
            fn value(&self) -> Value {
                Value::Uint(u64::from(*self))
            }
            fn read(value: Value) -> Result<Self, Unexpected> {
                let number = u64::read(value)?;
                Self::try_from(number).or_else(|_| unexpected(format!("{number} is too large")))
            }
        }
    )*};
}
small!(u8, u16, u32);

impl Wire for bool {
    fn value(&self) -> Value {
        Value::Bool(*self)
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        match value {
            Value::Bool(b) => Ok(b),
            other => unexpected(format!("expected a boolean, found {}", sort(&other))),
        }
    }
    fn field(&self) -> Option<Value> {
        self.then_some(Value::Bool(true))
    }
    fn read_field(value: Option<Value>) -> Result<Self, Unexpected> {
        match value.map(Self::read).transpose()? {
            Some(false) => unexpected("false where absence says it"),
            Some(true) => Ok(true),
            None => Ok(false),
        }
    }
}

impl Wire for String {
    fn value(&self) -> Value {
        Value::Text(self.clone())
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        match value {
            Value::Text(text) => Ok(text),
            other => unexpected(format!("expected text, found {}", sort(&other))),
        }
    }
    fn field(&self) -> Option<Value> {
        (!self.is_empty()).then(|| self.value())
    }
    fn read_field(value: Option<Value>) -> Result<Self, Unexpected> {
        match value.map(Self::read).transpose()? {
            Some(text) if text.is_empty() => unexpected("empty where absence says it"),
            text => Ok(text.unwrap_or_default()),
        }
    }
}

/// Bytes; a type of its own because `Vec<u8>` would be a list of numbers.
pub(super) struct ByteString(pub(super) Vec<u8>);

impl Wire for ByteString {
    fn value(&self) -> Value {
        Value::Bytes(self.0.clone())
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        match value {
            Value::Bytes(bytes) => Ok(Self(bytes)),
            other => unexpected(format!("expected bytes, found {}", sort(&other))),
        }
    }
}

fn fixed<const N: usize>(value: Value) -> Result<[u8; N], Unexpected> {
    let bytes = ByteString::read(value)?.0;
    bytes.try_into().or_else(|b: Vec<u8>| unexpected(format!("expected {N} bytes, found {}", b.len())))
}

impl Wire for Hash {
    fn value(&self) -> Value {
        Value::Bytes(self.0.to_vec())
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        fixed(value).map(Self)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn value(&self) -> Value {
        Value::Array(self.iter().map(T::value).collect())
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let mut list = items(value)?.into_iter();
        match (list.next(), list.next()) {
            (first, None) => first.map(T::read).transpose(),
            _ => unexpected("more than one item"),
        }
    }
    fn field(&self) -> Option<Value> {
        self.as_ref().map(T::value)
    }
    fn read_field(value: Option<Value>) -> Result<Self, Unexpected> {
        value.map(T::read).transpose()
    }
}

impl<T: Wire> Wire for Box<T> {
    fn value(&self) -> Value {
        T::value(self)
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        T::read(value).map(Self::new)
    }
}

macro_rules! collection {
    ([$($bounds:tt)*] $ty:ty, $to:expr, $from:expr) => {
        impl<$($bounds)*> Wire for $ty {
            fn value(&self) -> Value {
                Value::Array(self.iter().map($to).collect())
            }
            fn read(value: Value) -> Result<Self, Unexpected> {
                $from(value)
            }
            fn field(&self) -> Option<Value> {
                (!self.is_empty()).then(|| self.value())
            }
            fn read_field(value: Option<Value>) -> Result<Self, Unexpected> {
                match value.map(Self::read).transpose()? {
                    Some(list) if list.is_empty() => unexpected("empty where absence says it"),
                    list => Ok(list.unwrap_or_default()),
                }
            }
        }
    };
}
collection!([T: Wire] Vec<T>, T::value, |v| items(v)?.into_iter().map(T::read).collect());
collection!([T: Wire + Ord] BTreeSet<T>, T::value, |v| Ok(ascending::<T>(v)?.into_iter().collect()));
collection!([V: Wire] BTreeMap<String, V>, |(k, v)| Value::Array(vec![k.value(), v.value()]), |v| {
    let mut map = Self::new();
    for pair in items(v)? {
        let [key, item] = tuple(pair)?;
        let key = String::read(key)?;
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return unexpected("keys that do not ascend");
        }
        map.insert(key, V::read(item)?);
    }
    Ok(map)
});

macro_rules! wrapper {
    ($($ty:ident($inner:ty)),* $(,)?) => {$(
        impl Wire for $ty {
            fn value(&self) -> Value {
                self.0.value()
            }
            fn read(value: Value) -> Result<Self, Unexpected> {
                <$inner>::read(value).map(Self)
            }
        }
    )*};
}
wrapper!(
    EntryId(Uuid),
    DatasetId(Uuid),
    FieldId(u32),
    ControlSeq(u64),
    Seq(u64),
    WallNanos(i64),
    Principal(String),
    Purpose(String),
    Class(String),
    RoleSet(u8),
);

impl Wire for Uuid {
    fn value(&self) -> Value {
        Value::Bytes(self.as_bytes().to_vec())
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        fixed(value).map(Self::from_bytes)
    }
}

impl Wire for WriterId {
    fn value(&self) -> Value {
        Value::Text(self.as_str().to_string())
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let text = String::read(value)?;
        Self::new(&text).map_or_else(|| unexpected(format!("`{text}` is not a writer")), Ok)
    }
}

impl Wire for DatasetName {
    fn value(&self) -> Value {
        Value::Text(self.to_string())
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        String::read(value)?.parse().or_else(|e: custody_model::BadName| unexpected(e.to_string()))
    }
}

/// A column type is its `Display` text, where `FromStr` gives the same type back. Types that carry field metadata
/// do not, and `encode` refuses them.
impl Wire for DataType {
    fn value(&self) -> Value {
        Value::Text(self.to_string())
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let text = String::read(value)?;
        match text.parse::<Self>() {
            Ok(parsed) if parsed.to_string() == text => Ok(parsed),
            _ => unexpected(format!("`{text}` is not a column type")),
        }
    }
}

/// Whether a column type survives its text.
pub(super) fn recordable(data_type: &DataType) -> bool {
    data_type.to_string().parse::<DataType>().is_ok_and(|parsed| parsed == *data_type)
}

macro_rules! codes {
    ($($ty:ident { $($case:ident = $code:literal),* $(,)? })*) => {$(
        impl Wire for $ty {
            fn value(&self) -> Value {
                Value::Uint(match self { $(Self::$case => $code),* })
            }
            fn read(value: Value) -> Result<Self, Unexpected> {
                match u64::read(value)? {
                    $($code => Ok(Self::$case),)*
                    other => unexpected(format!("unknown code {other}")),
                }
            }
        }
    )*};
}
codes! {
    Verb { Read = 1, Serve = 2, Metadata = 3, Publish = 4, Export = 5, Admin = 6, Maintain = 7 }
    Outcome { Success = 1, Failure = 2, Denied = 3, Unknown = 4, Pending = 5 }
    Rung { None = 0, Aggregate = 1, Redact = 2, Token = 3, Partial = 4, Raw = 5 }
    Authentication { Local = 1, Impersonated = 2, Token = 3, Engine = 4 }
    DatasetKind { Source = 1, FeatureView = 2, TrainingSet = 3, View = 4, External = 5, System = 6 }
    SourceKind { Delta = 1, Parquet = 2, Csv = 3, Json = 4 }
    Verdict { Denied = 1, Revoked = 2 }
    RunState { Started = 1, Written = 2, Ended = 3, Failed = 4 }
}

/// The default is absent.
impl Wire for Durability {
    fn value(&self) -> Value {
        Value::Uint(*self as u64)
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        match u64::read(value)? {
            0 => Ok(Self::Local),
            1 => Ok(Self::Peer),
            2 => Ok(Self::Object),
            other => unexpected(format!("unknown code {other}")),
        }
    }
    fn field(&self) -> Option<Value> {
        (*self != Self::Local).then(|| self.value())
    }
    fn read_field(value: Option<Value>) -> Result<Self, Unexpected> {
        match value.map(Self::read).transpose()? {
            Some(Self::Local) => unexpected("the default where absence says it"),
            found => Ok(found.unwrap_or_default()),
        }
    }
}

macro_rules! record {
    ($($ty:ident { $($key:literal $field:ident),* $(,)? })*) => {$(
        impl Wire for $ty {
            fn value(&self) -> Value {
                // Names every field, so that a new one does not compile until it has a key.
                let Self { $($field),* } = self;
                let mut map = MapOut::default();
                $(map.put($key, $field);)*
                map.done()
            }
            fn read(value: Value) -> Result<Self, Unexpected> {
                let mut map = MapIn::new(value)?;
                let record = Self { $($field: map.get($key)?),* };
                map.end()?;
                Ok(record)
            }
        }
    )*};
}
record! {
    BlobRef { 0 hash, 1 length }
    Actor {
        0 principal, 1 kind, 2 roles, 3 attributes, 4 authentication, 5 session, 6 on_behalf_of, 7 token, 8 address,
    }
    Target { 0 dataset, 1 version, 2 made_at, 3 grant, 4 row_sets, 5 columns, 6 owner, 7 classes }
    TargetColumn { 0 ordinal, 1 requested, 2 roles, 3 rung, 4 policies }
    Reason {
        0 purpose, 1 ticket, 2 environment, 3 stage, 4 region, 5 model, 6 model_version, 7 bundle, 8 exact, 9 durability,
    }
    Measure { 0 rows, 1 batches, 2 bytes, 3 micros, 4 upper_bound }
    ClassLabel { 0 explicit, 1 implicit }
    ColumnDef { 0 field, 1 name, 2 data_type, 3 nullable }
    DatasetDefinition {
        0 id, 1 name, 2 kind, 3 columns, 4 entity, 5 keys, 6 event_time, 7 known_time, 8 ttl, 9 owner, 10 purposes,
        11 comment, 12 sql,
    }
    SourceSnapshot { 0 definition, 1 version, 2 kind, 3 url, 4 snapshot, 5 files, 6 bytes }
    DraftRecord {
        0 principal, 1 definition, 2 identity, 3 content_root, 4 rows, 5 labels, 6 inputs, 7 lineage, 8 run,
    }
    ViewRecord { 0 definition, 1 definer, 2 labels }
    AttributeChange { 0 dataset, 1 owner, 2 purposes, 3 comment, 4 name }
    TokenRecord {
        0 jti, 1 revoked, 2 principal, 3 kind, 4 roles, 5 attributes, 6 purposes, 7 audience, 8 expires,
    }
    AdminRecord { 0 principal, 1 roles }
    StatusRecord { 0 dataset, 1 made_at, 2 revoked, 3 because }
    ModelRecord {
        0 name, 1 version, 2 training, 3 artifact, 4 artifact_bytes, 5 receipt_key, 6 because,
    }
    PolicyBundleRecord { 0 epoch, 1 hash, 2 blob, 3 approvers, 4 because, 5 relabelled }
    Relabelled { 0 made_at, 1 labels }
    FileDigest { 0 path, 1 bytes, 2 sha3 }
    InputRef { 0 dataset, 1 version, 2 made_at, 3 content }
    RunRecord {
        0 state, 1 job, 2 dataset, 3 plan, 4 engine_version, 5 seed, 6 identity, 7 inputs, 8 content_root, 9 files,
        10 publish_entry, 11 rows, 12 error, 13 git_commit, 14 git_dirty,
        15 quarantine_root, 16 quarantine_files, 17 expectations, 18 profile,
    }
    ExpectationResult { 0 check, 1 action, 2 checked, 3 violations }
    LineageRecord { 0 identity, 1 hash, 2 lineage }
    Publish {
        0 identity, 1 definition, 2 version, 3 because, 4 content_root, 5 rows, 6 event_range, 7 schema_hash, 8 inputs,
        9 labels, 10 lineage, 11 lineage_hash, 12 quarantine_root, 13 run, 14 plan, 15 engine_version, 16 seed,
        17 git_commit, 18 git_dirty, 19 quarantine_rows, 20 expectations, 21 profile,
    }
    ReadIntent { 0 statement, 1 statement_hash, 2 lineage_hash, 3 plan, 4 granted_bytes, 5 prediction }
    ReadOutcome { 0 code, 1 scans }
    ScanFact { 0 dataset, 1 version, 2 made_at, 3 rows, 4 opened, 5 files, 6 list }
    ScannedFile { 0 path, 1 row_groups, 2 skipped }
    Denied { 0 code, 1 statement_hash, 2 targets, 3 count }
    BypassRecord { 0 technique, 1 evidence }
    HeadRecord { 0 writer, 1 incarnation, 2 size, 3 root, 4 frame }
    OpenIntent { 0 intent, 1 seq, 2 granted_bytes }
    ErasureRecord { 0 subject, 1 keys, 2 approvers, 3 because }
    AccessRequest { 0 dataset, 1 columns, 2 rung, 3 purpose, 4 seconds, 5 because }
    AccessGrant { 0 request, 1 principal, 2 dataset, 3 columns, 4 rung, 5 purpose, 6 expires, 7 because }
    AccessReview { 0 of, 1 verdict, 2 because }
}

impl Wire for Lineage {
    fn value(&self) -> Value {
        lineage_to_value(self)
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        lineage_from_value(value)
    }
}

impl Wire for (i64, i64) {
    fn value(&self) -> Value {
        Value::Array(vec![self.0.value(), self.1.value()])
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let [a, b] = tuple(value)?;
        Ok((i64::read(a)?, i64::read(b)?))
    }
}

impl Wire for SealedBox {
    fn value(&self) -> Value {
        let Self { key, nonce, ciphertext } = self;
        Value::Array(vec![key.value(), Value::Bytes(nonce.to_vec()), Value::Bytes(ciphertext.clone())])
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let [key, nonce, ciphertext] = tuple(value)?;
        Ok(Self { key: String::read(key)?, nonce: fixed(nonce)?, ciphertext: ByteString::read(ciphertext)?.0 })
    }
}

impl Wire for KeyRecord {
    fn value(&self) -> Value {
        let Self { epoch, vkey, certificate, revoke } = self;
        let mut map = MapOut::default();
        map.put(0, epoch);
        map.put(1, vkey);
        map.put_value(2, Value::Bytes(certificate.clone()));
        map.put(3, revoke);
        map.done()
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let mut map = MapIn::new(value)?;
        let record = Self {
            epoch: map.get(0)?,
            vkey: map.get(1)?,
            certificate: map.get::<ByteString>(2)?.0,
            revoke: map.get(3)?,
        };
        map.end()?;
        Ok(record)
    }
}

/// One of several cases: `[number, content]`, or `[number]` where there is none.
fn case(number: u64, content: Option<Value>) -> Value {
    Value::Array([Some(Value::Uint(number)), content].into_iter().flatten().collect())
}

fn read_case(value: Value) -> Result<(u64, Option<Value>), Unexpected> {
    let mut list = items(value)?.into_iter();
    match (list.next(), list.next(), list.next()) {
        (Some(number), content, None) => Ok((u64::read(number)?, content)),
        _ => unexpected("expected a case number and its content"),
    }
}

impl Wire for CatalogChange {
    fn value(&self) -> Value {
        match self {
            Self::Source(record) => case(1, Some(record.value())),
            Self::Draft(record) => case(2, Some(record.value())),
            Self::View(record) => case(3, Some(record.value())),
            Self::External { id, name } => case(4, Some(Value::Array(vec![id.value(), name.value()]))),
            Self::Attributes(record) => case(5, Some(record.value())),
            Self::Token(record) => case(6, Some(record.value())),
            Self::Admin(record) => case(7, Some(record.value())),
            Self::Status(record) => case(8, Some(record.value())),
            Self::Model(record) => case(9, Some(record.value())),
        }
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        Ok(match read_case(value)? {
            (1, Some(v)) => Self::Source(Wire::read(v)?),
            (2, Some(v)) => Self::Draft(Wire::read(v)?),
            (3, Some(v)) => Self::View(Wire::read(v)?),
            (4, Some(v)) => {
                let [id, name] = tuple(v)?;
                Self::External { id: Wire::read(id)?, name: Wire::read(name)? }
            }
            (5, Some(v)) => Self::Attributes(Wire::read(v)?),
            (6, Some(v)) => Self::Token(Wire::read(v)?),
            (7, Some(v)) => Self::Admin(Wire::read(v)?),
            (8, Some(v)) => Self::Status(Wire::read(v)?),
            (9, Some(v)) => Self::Model(Wire::read(v)?),
            (other, _) => return unexpected(format!("unknown catalog change {other}")),
        })
    }
}

impl Wire for WriterEvent {
    fn value(&self) -> Value {
        match self {
            Self::Open { incarnation, open } => case(1, Some(Value::Array(vec![incarnation.value(), open.value()]))),
            Self::Close => case(2, None),
            Self::Heartbeat => case(3, None),
            Self::Recovery { segment, offset, length, hash } => {
                case(4, Some(Value::Array(vec![segment.value(), offset.value(), length.value(), hash.value()])))
            }
            Self::NoSpace => case(5, None),
            Self::ClockAnomaly { back } => case(6, Some(back.value())),
        }
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        Ok(match read_case(value)? {
            (1, Some(v)) => {
                let [incarnation, open] = tuple(v)?;
                Self::Open { incarnation: Wire::read(incarnation)?, open: Wire::read(open)? }
            }
            (2, None) => Self::Close,
            (3, None) => Self::Heartbeat,
            (4, Some(v)) => {
                let [segment, offset, length, hash] = tuple(v)?;
                Self::Recovery {
                    segment: Wire::read(segment)?,
                    offset: Wire::read(offset)?,
                    length: Wire::read(length)?,
                    hash: Wire::read(hash)?,
                }
            }
            (5, None) => Self::NoSpace,
            (6, Some(v)) => Self::ClockAnomaly { back: Wire::read(v)? },
            (other, _) => return unexpected(format!("unknown writer event {other}")),
        })
    }
}

/// A payload's value; its case is the entry's kind.
pub(super) fn payload_value(payload: &Payload) -> Value {
    match payload {
        Payload::CatalogChange(p) => p.value(),
        Payload::PolicyBundle(p) => p.value(),
        Payload::AccessGrant(p) => p.value(),
        Payload::AccessRequest(p) => p.value(),
        Payload::AccessReview(p) => p.value(),
        Payload::Run(p) => p.value(),
        Payload::Lineage(p) => p.value(),
        Payload::Asserted(p) => p.value(),
        Payload::Publish(p) => p.value(),
        Payload::ReadIntent(p) => p.value(),
        Payload::ReadProgress(granted) => granted.value(),
        Payload::ReadOutcome(p) => p.value(),
        Payload::Read(intent, outcome) => Value::Array(vec![intent.value(), outcome.value()]),
        Payload::Denied(p) => p.value(),
        Payload::Bypass(p) => p.value(),
        Payload::Key(p) => p.value(),
        Payload::Heads(p) => p.value(),
        Payload::Writer(p) => p.value(),
        Payload::Erasure(p) => p.value(),
    }
}

/// The payload of a kind.
pub(super) fn read_payload(kind: Kind, value: Value) -> Result<Payload, Unexpected> {
    Ok(match kind {
        Kind::CatalogChange => Payload::CatalogChange(Wire::read(value)?),
        Kind::PolicyBundle => Payload::PolicyBundle(Wire::read(value)?),
        Kind::AccessGrant => Payload::AccessGrant(Wire::read(value)?),
        Kind::AccessRequest => Payload::AccessRequest(Wire::read(value)?),
        Kind::AccessReview => Payload::AccessReview(Wire::read(value)?),
        Kind::Run => Payload::Run(Wire::read(value)?),
        Kind::Lineage if is_asserted(&value) => Payload::Asserted(Wire::read(value)?),
        Kind::Lineage => Payload::Lineage(Wire::read(value)?),
        Kind::Publish => Payload::Publish(Wire::read(value)?),
        Kind::ReadIntent => Payload::ReadIntent(Wire::read(value)?),
        Kind::ReadProgress => Payload::ReadProgress(Wire::read(value)?),
        Kind::ReadOutcome => Payload::ReadOutcome(Wire::read(value)?),
        Kind::Read => {
            let [intent, outcome] = tuple(value)?;
            Payload::Read(Wire::read(intent)?, Wire::read(outcome)?)
        }
        Kind::Denied => Payload::Denied(Wire::read(value)?),
        Kind::Bypass => Payload::Bypass(Wire::read(value)?),
        Kind::Key => Payload::Key(Wire::read(value)?),
        Kind::Heads => Payload::Heads(Wire::read(value)?),
        Kind::Writer => Payload::Writer(Wire::read(value)?),
        Kind::Erasure => Payload::Erasure(Wire::read(value)?),
    })
}
