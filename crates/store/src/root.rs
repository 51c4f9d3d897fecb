//! The content root: a Merkle root over the values of a version, whatever files, batches or machines hold them.
//!
//! Blocks of 65,536 rows in the published order, one leaf for each (block, column), in that order; the tree is RFC 6962
//! with SHA3-256. Integers are big-endian, values little-endian as Arrow has them.
//!
//! ```text
//! leaf   = H(0x00 ‖ block u64 ‖ ordinal u32 ‖ type code u8 ‖ node)                 ordinals from 0
//! node   = rows u32 ‖ nulls u32 ‖ validity ‖ values
//! validity: absent when nulls = 0, else bits LSB first, padding zero
//! values:   fixed width: little-endian, null slots zero · Boolean: bits, null slots zero
//!           text, binary: u32 lengths of all rows (null: 0), then the bytes
//!           list: u32 lengths of all rows (null: 0), then the node of the child
//!           struct: the node of each child, its slots null where the parent is
//! floats:   every NaN as the canonical quiet NaN; −0.0 stays
//! schema = H("custody schema v1" ‖ columns u32 ‖ (field id u32 ‖ field)*)
//! field  = name length u32 ‖ name ‖ nullable u8 ‖ type
//! type   = code u8 ‖ (decimal: precision u8, scale i8 · list: child nullable u8, child type · struct: fields u32, field*)
//! root   = H(0x04 ‖ schema hash ‖ row count u64 ‖ tree root)
//! cell   = type code ‖ (0x00 when null | 0x01 ‖ u32 length ‖ bytes)
//! ```
//!
//! Layouts (views, dictionaries) are gone before hashing: [`crate::conform`] sees to it.

use crate::{StoreError, field_id, types::code};
use arrow::{
    array::{
        Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, GenericByteArray, PrimitiveArray, RecordBatch,
        UInt64Array,
    },
    buffer::{BooleanBuffer, NullBuffer},
    compute::{concat, take},
    datatypes::{
        ByteArrayType, DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type,
        Int32Type, Int64Type, Schema, TimestampMicrosecondType,
    },
};
use custody_ledger::{Sha3, Tree};
use custody_model::Hash;
use sha3::{Digest, Sha3_256};

#[cfg(target_endian = "big")]
compile_error!(
    "content roots hash Arrow's buffers where they lie, which are little-endian only on little-endian machines"
);

/// Rows in a block.
pub const BLOCK_ROWS: usize = 65_536;

/// SHA3-256 of some bytes.
pub fn sha3(bytes: &[u8]) -> Hash {
    Hash(Sha3_256::digest(bytes).into())
}

/// A count as the format has it.
fn count(n: usize, column: &str, what: &'static str) -> Result<[u8; 4], StoreError> {
    u32::try_from(n).map(u32::to_be_bytes).map_err(|_| StoreError::TooLarge { column: column.to_string(), what })
}

/// SHA3-256 over field ids, names, types and nullability, not layouts.
pub fn schema_hash(schema: &Schema) -> Result<Hash, StoreError> {
    fn data_type(hash: &mut Sha3_256, column: &str, kind: &DataType) -> Result<(), StoreError> {
        hash.update([code(column, kind)?]);
        match kind {
            DataType::Decimal128(precision, scale) => hash.update([*precision, scale.to_be_bytes()[0]]),
            DataType::List(child) => {
                hash.update([u8::from(child.is_nullable())]);
                data_type(hash, column, child.data_type())?;
            }
            DataType::Struct(children) => {
                hash.update(count(children.len(), column, "fields")?);
                children.iter().try_for_each(|child| field(hash, child))?;
            }
            _ => {}
        }
        Ok(())
    }
    fn field(hash: &mut Sha3_256, field: &Field) -> Result<(), StoreError> {
        hash.update(count(field.name().len(), field.name(), "names")?);
        hash.update(field.name());
        hash.update([u8::from(field.is_nullable())]);
        data_type(hash, field.name(), field.data_type())
    }
    let mut hash = Sha3_256::new_with_prefix("custody schema v1");
    hash.update(count(schema.fields().len(), "", "columns")?);
    for column in schema.fields() {
        hash.update(field_id(column)?.0.to_be_bytes());
        field(&mut hash, column)?;
    }
    Ok(Hash(hash.finalize().into()))
}

/// A block of rows, ready to be hashed anywhere.
#[derive(Debug)]
pub struct Block {
    number: u64,
    rows: Vec<RecordBatch>,
}

impl Block {
    /// The leaf of each column, in order.
    pub fn leaves(&self) -> Result<Vec<Hash>, StoreError> {
        let Some(first) = self.rows.first() else { return Ok(vec![]) };
        let schema = first.schema();
        schema.fields().iter().enumerate().map(|(i, field)| self.leaf(i, field)).collect()
    }

    /// Its rows, in order.
    pub(crate) fn rows(&self) -> &[RecordBatch] {
        &self.rows
    }

    fn leaf(&self, ordinal: usize, field: &Field) -> Result<Hash, StoreError> {
        let parts: Vec<ArrayRef> = self.rows.iter().map(|rows| rows.column(ordinal).clone()).collect();
        column_leaf(self.number, ordinal, field, &parts)
    }
}

/// The leaf of one column of a block.
pub(crate) fn column_leaf(number: u64, ordinal: usize, field: &Field, parts: &[ArrayRef]) -> Result<Hash, StoreError> {
    let name = field.name();
    let whole = match parts {
        [one] => one.clone(),
        _ => {
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            concat(&parts).map_err(|_| StoreError::TooLarge { column: name.clone(), what: "bytes" })?
        }
    };
    let mut hash = Sha3_256::new_with_prefix([0]);
    hash.update(number.to_be_bytes());
    hash.update(count(ordinal, name, "ordinals")?);
    hash.update([code(name, field.data_type())?]);
    node(&mut hash, name, &whole, None)?;
    Ok(Hash(hash.finalize().into()))
}

/// Collects rows into blocks, and leaves into the root.
#[derive(Debug)]
pub struct RootHasher {
    schema: Hash,
    rows: u64,
    blocks: u64,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    tree: Tree<Sha3>,
}

impl RootHasher {
    /// For rows of this schema.
    pub fn new(schema: &Schema) -> Result<Self, StoreError> {
        Ok(Self {
            schema: schema_hash(schema)?,
            rows: 0,
            blocks: 0,
            pending: vec![],
            pending_rows: 0,
            tree: Tree::new(),
        })
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes rows in published order; the blocks that became whole by them.
    pub fn push(&mut self, mut batch: RecordBatch) -> Vec<Block> {
        let mut whole = vec![];
        self.rows += batch.num_rows() as u64;
        while batch.num_rows() > 0 {
            let n = batch.num_rows().min(BLOCK_ROWS - self.pending_rows);
            self.pending.push(batch.slice(0, n));
            self.pending_rows += n;
            batch = batch.slice(n, batch.num_rows() - n);
            if self.pending_rows == BLOCK_ROWS {
                whole.extend(self.rest());
            }
        }
        whole
    }

    /// The last block, where rows are left.
    pub fn rest(&mut self) -> Option<Block> {
        if self.pending.is_empty() {
            return None;
        }
        let block = Block { number: self.blocks, rows: std::mem::take(&mut self.pending) };
        self.blocks += 1;
        self.pending_rows = 0;
        Some(block)
    }

    /// Takes the leaves of the next block, in order.
    pub fn add(&mut self, leaves: Vec<Hash>) {
        leaves.into_iter().for_each(|leaf| self.tree.push(leaf));
    }

    /// The root, once the leaves of every block were added.
    pub fn finish(self) -> Hash {
        let mut hash = Sha3_256::new_with_prefix([4]);
        hash.update(self.schema.0);
        hash.update(self.rows.to_be_bytes());
        hash.update(self.tree.root().0);
        Hash(hash.finalize().into())
    }
}

/// The content root of some rows, in one go.
pub fn content_root<'a>(schema: &Schema, rows: impl IntoIterator<Item = &'a RecordBatch>) -> Result<Hash, StoreError> {
    let mut root = RootHasher::new(schema)?;
    for batch in rows {
        for block in root.push(batch.clone()) {
            root.add(block.leaves()?);
        }
    }
    if let Some(block) = root.rest() {
        root.add(block.leaves()?);
    }
    Ok(root.finish())
}

/// Appends one value as splits and vector hashes see it. Lists and structs have no cell.
pub fn cell(array: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<(), StoreError> {
    let kind = array.data_type();
    let refuse = || StoreError::Type { column: "cell".into(), data_type: kind.clone(), cast: "VARCHAR" };
    out.push(code("cell", kind)?);
    if array.is_null(row) {
        out.push(0);
        return Ok(());
    }
    let one = array.slice(row, 1);
    let bytes = match kind {
        DataType::Boolean => vec![u8::from(one.as_boolean().value(0))],
        DataType::Utf8 => one.as_string::<i32>().value(0).as_bytes().to_vec(),
        DataType::Binary => one.as_binary::<i32>().value(0).to_vec(),
        DataType::List(_) | DataType::Struct(_) => return Err(refuse()),
        _ => fixed(&one).ok_or_else(refuse)?,
    };
    out.push(1);
    out.extend(count(bytes.len(), "cell", "bytes")?);
    out.extend(bytes);
    Ok(())
}

fn bits(hash: &mut Sha3_256, buffer: &BooleanBuffer) {
    let mut bytes = Vec::with_capacity(buffer.len().div_ceil(8) + 8);
    for chunk in buffer.bit_chunks().iter_padded() {
        bytes.extend(chunk.to_le_bytes());
    }
    bytes.truncate(buffer.len().div_ceil(8));
    hash.update(bytes);
}

fn node(hash: &mut Sha3_256, name: &str, array: &ArrayRef, outer: Option<&NullBuffer>) -> Result<(), StoreError> {
    let nulls = NullBuffer::union(outer, array.nulls()).filter(|nulls| nulls.null_count() > 0);
    hash.update(count(array.len(), name, "rows")?);
    hash.update(count(nulls.as_ref().map_or(0, NullBuffer::null_count), name, "rows")?);
    if let Some(nulls) = &nulls {
        bits(hash, nulls.inner());
    }
    let nulls = nulls.as_ref();
    match array.data_type() {
        DataType::Boolean => booleans(hash, array.as_boolean(), nulls),
        DataType::Int8 => primitives::<Int8Type>(hash, array.as_primitive(), nulls),
        DataType::Int16 => primitives::<Int16Type>(hash, array.as_primitive(), nulls),
        DataType::Int32 => primitives::<Int32Type>(hash, array.as_primitive(), nulls),
        DataType::Int64 => primitives::<Int64Type>(hash, array.as_primitive(), nulls),
        DataType::Date32 => primitives::<Date32Type>(hash, array.as_primitive(), nulls),
        DataType::Timestamp(..) => primitives::<TimestampMicrosecondType>(hash, array.as_primitive(), nulls),
        DataType::Decimal128(..) => primitives::<Decimal128Type>(hash, array.as_primitive(), nulls),
        DataType::Float32 => {
            let floats = array.as_primitive::<Float32Type>();
            match floats.values().iter().any(|v| v.is_nan()) {
                true => primitives(hash, &floats.unary::<_, Float32Type>(canonical_f32), nulls),
                false => primitives(hash, floats, nulls),
            }
        }
        DataType::Float64 => {
            let floats = array.as_primitive::<Float64Type>();
            match floats.values().iter().any(|v| v.is_nan()) {
                true => primitives(hash, &floats.unary::<_, Float64Type>(canonical_f64), nulls),
                false => primitives(hash, floats, nulls),
            }
        }
        DataType::Utf8 => texts(hash, name, array.as_string::<i32>(), nulls)?,
        DataType::Binary => texts(hash, name, array.as_binary::<i32>(), nulls)?,
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            let mut lengths = Vec::with_capacity(list.len() * 4);
            let mut gaps = false;
            for (i, pair) in offsets.windows(2).enumerate() {
                let length = (pair[1] - pair[0]) as usize;
                let null = nulls.is_some_and(|n| n.is_null(i));
                gaps |= null && length > 0;
                lengths.extend(count(if null { 0 } else { length }, name, "values")?);
            }
            hash.update(lengths);
            let (start, end) = (offsets[0] as usize, offsets[list.len()] as usize);
            let child = match gaps {
                false => list.values().slice(start, end - start),
                true => {
                    let kept: UInt64Array = (0..list.len())
                        .filter(|i| nulls.is_none_or(|n| n.is_valid(*i)))
                        .flat_map(|i| offsets[i] as u64..offsets[i + 1] as u64)
                        .collect();
                    take(list.values(), &kept, None)
                        .map_err(|_| StoreError::TooLarge { column: name.to_string(), what: "values" })?
                }
            };
            node(hash, name, &child, None)?;
        }
        DataType::Struct(_) => {
            for child in array.as_struct().columns() {
                node(hash, name, child, nulls)?;
            }
        }
        other => {
            return Err(StoreError::Type { column: name.to_string(), data_type: other.clone(), cast: "VARCHAR" });
        }
    }
    Ok(())
}

fn canonical_f32(value: f32) -> f32 {
    if value.is_nan() { f32::from_bits(0x7fc0_0000) } else { value }
}

fn canonical_f64(value: f64) -> f64 {
    if value.is_nan() { f64::from_bits(0x7ff8_0000_0000_0000) } else { value }
}

fn booleans(hash: &mut Sha3_256, array: &BooleanArray, nulls: Option<&NullBuffer>) {
    match nulls {
        Some(nulls) => bits(hash, &(array.values() & nulls.inner())),
        None => bits(hash, array.values()),
    }
}

fn primitives<T: ArrowPrimitiveType>(hash: &mut Sha3_256, array: &PrimitiveArray<T>, nulls: Option<&NullBuffer>) {
    let bytes = array.values().inner().as_slice();
    match nulls {
        None => hash.update(bytes),
        Some(nulls) => {
            let mut bytes = bytes.to_vec();
            for (i, slot) in bytes.chunks_exact_mut(size_of::<T::Native>()).enumerate() {
                if nulls.is_null(i) {
                    slot.fill(0);
                }
            }
            hash.update(bytes);
        }
    }
}

fn texts<T: ByteArrayType<Offset = i32>>(
    hash: &mut Sha3_256,
    name: &str,
    array: &GenericByteArray<T>,
    nulls: Option<&NullBuffer>,
) -> Result<(), StoreError> {
    let offsets = array.value_offsets();
    let mut lengths = Vec::with_capacity(array.len() * 4);
    for (i, pair) in offsets.windows(2).enumerate() {
        let null = nulls.is_some_and(|n| n.is_null(i));
        lengths.extend(count(if null { 0 } else { (pair[1] - pair[0]) as usize }, name, "bytes")?);
    }
    hash.update(lengths);
    let bytes = array.value_data();
    match nulls {
        None => hash.update(&bytes[offsets[0] as usize..offsets[array.len()] as usize]),
        Some(nulls) => {
            for i in nulls.valid_indices() {
                hash.update(&bytes[offsets[i] as usize..offsets[i + 1] as usize]);
            }
        }
    }
    Ok(())
}

/// The bytes of one value of fixed width, canonical.
fn fixed(one: &ArrayRef) -> Option<Vec<u8>> {
    let bytes = |array: &ArrayRef, width: usize| -> Option<Vec<u8>> {
        let data = array.to_data();
        let start = data.offset() * width;
        data.buffers().first()?.get(start..start + width).map(<[u8]>::to_vec)
    };
    match one.data_type() {
        DataType::Float32 => Some(canonical_f32(one.as_primitive::<Float32Type>().value(0)).to_le_bytes().to_vec()),
        DataType::Float64 => Some(canonical_f64(one.as_primitive::<Float64Type>().value(0)).to_le_bytes().to_vec()),
        DataType::Decimal128(..) => bytes(one, 16),
        other => bytes(one, other.primitive_width()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::with_field_id;
    use arrow::{
        array::{
            Decimal128Array, Float64Array, Int32Array, Int64Array, ListBuilder, StringArray, StringBuilder,
            StructArray, TimestampMicrosecondArray,
        },
        datatypes::TimeUnit,
    };
    use custody_model::FieldId;
    use std::sync::Arc;

    fn table(columns: Vec<(u32, &str, bool, ArrayRef)>) -> RecordBatch {
        let fields: Vec<_> = columns
            .iter()
            .map(|(id, name, nullable, a)| {
                with_field_id(Field::new(*name, a.data_type().clone(), *nullable), FieldId(*id))
            })
            .collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|c| c.3).collect()).unwrap()
    }

    /// One column of each kind. `hidden` stands in null slots, where it may not show.
    fn sample(hidden: i64) -> RecordBatch {
        let mut tags = ListBuilder::new(StringBuilder::new()).with_field(Field::new("element", DataType::Utf8, true));
        tags.append_value([Some("a"), None]);
        tags.append_null();
        tags.append_value(Vec::<Option<&str>>::new());
        let valid = NullBuffer::from(vec![true, false, true]);
        let inner: Vec<(Arc<Field>, ArrayRef)> = vec![
            (
                Arc::new(Field::new("a", DataType::Int32, true)),
                Arc::new(Int32Array::new(
                    vec![1, hidden as i32, 0].into(),
                    Some(NullBuffer::from(vec![true, true, false])),
                )),
            ),
            (
                Arc::new(Field::new("b", DataType::Utf8, true)),
                Arc::new(StringArray::from(vec![Some("x"), Some("hidden"), Some("y")])),
            ),
        ];
        let (fields, arrays): (Vec<_>, Vec<_>) = inner.into_iter().unzip();
        let ok = BooleanArray::new(vec![true, hidden != 0, true].into(), Some(valid.clone()));
        let v = Float64Array::new(vec![0.5, hidden as f64, -0.0].into(), Some(valid.clone()));
        let d = Decimal128Array::new(vec![12345, hidden.into(), -1].into(), Some(valid.clone()));
        table(vec![
            (1, "id", false, Arc::new(Int64Array::from(vec![1, 2, 3]))),
            (2, "name", true, Arc::new(StringArray::from(vec![Some("ann"), None, Some("Ümit")]))),
            (3, "ok", true, Arc::new(ok)),
            (7, "v", true, Arc::new(v)),
            (
                5,
                "at",
                false,
                Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 1_700_000_000_000_000]).with_timezone("UTC")),
            ),
            (6, "tags", true, Arc::new(tags.finish())),
            (4, "st", true, Arc::new(StructArray::new(fields.into(), arrays, Some(valid)))),
            (8, "d", true, Arc::new(d.with_precision_and_scale(10, 2).unwrap())),
        ])
    }

    fn root(batches: &[RecordBatch]) -> String {
        content_root(&batches[0].schema(), batches).unwrap().to_string()
    }

    /// Computed by a second implementation in Python, from the module's header alone.
    #[test]
    fn golden() {
        let sample = sample(0);
        assert_eq!(
            schema_hash(&sample.schema()).unwrap().to_string(),
            "dc8cba59db317545cfa3236e15d518419647d3d95306d59a23369197a98b6a76"
        );
        assert_eq!(root(&[sample]), "5354bbf669f8975bb5a5f3d878d4555828a819f65e88fe0f254374df913727de");
        let ids =
            |range: std::ops::Range<i64>| table(vec![(1, "id", false, Arc::new(Int64Array::from_iter_values(range)))]);
        assert_eq!(root(&[ids(0..0)]), "8df20ab7a16b1c0f596ba8134929a22758755e5d4d8f8d6651ce87abc5d1f710");
        assert_eq!(root(&[ids(0..70_000)]), "b76f1c9b87290fd73cd9efe7e836ce721b76267638377e9f12b6e368d9973fe9");
        let nan =
            table(vec![(1, "v", false, Arc::new(Float64Array::from(vec![f64::from_bits(0xfff8_0000_0000_0001)])))]);
        let block = Block { number: 0, rows: vec![nan] };
        assert_eq!(
            block.leaves().unwrap()[0].to_string(),
            "a8f8d5ebfa3ae75c82a7dacf3957954d95de4949ed5ffdd56a717b20e1268250"
        );
    }

    #[test]
    fn batches_and_null_slots_do_not_show() {
        let whole = root(&[sample(0)]);
        assert_eq!(root(&[sample(77)]), whole);
        let parts: Vec<_> = (0..3).map(|i| sample(i).slice(i as usize, 1)).collect();
        assert_eq!(root(&parts), whole);
        // A null list whose slot covers values.
        let gap = |lengths: Vec<i32>, values: Vec<&str>| {
            let field = Arc::new(Field::new("element", DataType::Utf8, true));
            let mut offsets = vec![0];
            lengths.iter().for_each(|n| offsets.push(offsets.last().unwrap() + n));
            let list = arrow::array::ListArray::new(
                field,
                arrow::buffer::OffsetBuffer::new(offsets.into()),
                Arc::new(StringArray::from(values)),
                Some(NullBuffer::from(vec![true, false, true])),
            );
            root(&[table(vec![(1, "x", true, Arc::new(list))])])
        };
        assert_eq!(gap(vec![1, 2, 1], vec!["a", "b", "c", "d"]), gap(vec![1, 0, 1], vec!["a", "d"]));
        assert_ne!(gap(vec![1, 0, 1], vec!["a", "d"]), gap(vec![1, 0, 1], vec!["a", "e"]));
    }

    #[test]
    fn any_change_shows() {
        let ints = |id: u32, name: &str, nullable: bool, values: Vec<Option<i64>>| {
            (id, name.to_string(), nullable, Arc::new(Int64Array::from(values)) as ArrayRef)
        };
        let root = |columns: Vec<(u32, String, bool, ArrayRef)>| {
            root(&[table(columns.iter().map(|(id, n, nullable, a)| (*id, n.as_str(), *nullable, a.clone())).collect())])
        };
        let (a, b) = (|| ints(1, "a", true, vec![Some(1), Some(2)]), || ints(2, "b", true, vec![Some(1), Some(2)]));
        let roots = [
            root(vec![a(), b()]),
            root(vec![b(), a()]),
            root(vec![a(), ints(2, "c", true, vec![Some(1), Some(2)])]),
            root(vec![a(), ints(3, "b", true, vec![Some(1), Some(2)])]),
            root(vec![a(), ints(2, "b", false, vec![Some(1), Some(2)])]),
            root(vec![a(), ints(2, "b", true, vec![Some(1), None])]),
            root(vec![a(), ints(2, "b", true, vec![Some(1), Some(0)])]),
            root(vec![a(), ints(2, "b", true, vec![Some(2), Some(1)])]),
            root(vec![a()]),
            root(vec![
                ints(1, "a", true, vec![Some(1), Some(2), None]),
                ints(2, "b", true, vec![Some(1), Some(2), None]),
            ]),
        ];
        let distinct: std::collections::BTreeSet<_> = roots.iter().collect();
        assert_eq!(distinct.len(), roots.len());
    }

    #[test]
    fn cells() {
        let check = |array: ArrayRef, row: usize, expected: &[u8]| {
            let mut out = vec![];
            cell(&array, row, &mut out).unwrap();
            assert_eq!(out, expected);
        };
        check(Arc::new(Int64Array::from(vec![7, 258])), 1, &[5, 1, 0, 0, 0, 8, 2, 1, 0, 0, 0, 0, 0, 0]);
        check(Arc::new(StringArray::from(vec![None, Some("ab")])), 1, &[12, 1, 0, 0, 0, 2, b'a', b'b']);
        check(Arc::new(StringArray::from(vec![None, Some("ab")])), 0, &[12, 0]);
        check(Arc::new(BooleanArray::from(vec![true])), 0, &[1, 1, 0, 0, 0, 1, 1]);
        check(
            Arc::new(Decimal128Array::from(vec![1]).with_precision_and_scale(5, 0).unwrap()),
            0,
            &[8, 1, 0, 0, 0, 16, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        );
        assert!(cell(&StructArray::new_empty_fields(1, None), 0, &mut vec![]).is_err());
    }

    #[test]
    fn other_types_and_missing_ids_are_refused() {
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        let schema = Schema::new(vec![with_field_id(Field::new("t", nanos, true), FieldId(1))]);
        assert_eq!(
            schema_hash(&schema).unwrap_err().to_string(),
            "column `t` has type `Timestamp(ns, \"UTC\")`, which versions cannot hold"
        );
        let schema = Schema::new(vec![Field::new("t", DataType::Int64, true)]);
        assert!(schema_hash(&schema).unwrap_err().to_string().contains("without `custody.field_id`"));
    }
}
