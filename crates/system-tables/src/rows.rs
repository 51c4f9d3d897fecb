//! Rows into batches: one cell a column, checked against the table's declared types.

use crate::{SystemError, schema::SystemTable};
use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, Float64Builder, Int64Builder, ListBuilder,
        RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
    },
    datatypes::DataType,
};
use custody_model::{ControlSeq, DatasetId, EntryId, FieldId, Hash, Node, Seq, WallNanos};
use std::{
    fmt::{Display, Write},
    sync::Arc,
};
use uuid::Uuid;

const BATCH: usize = 8192;

/// One value.
pub(crate) enum Cell<'a> {
    Null,
    Text(&'a str),
    /// Text that is formatted straight into the column.
    Show(&'a dyn Display),
    Id(Uuid),
    Int(i64),
    Unsigned(u64),
    Float(f64),
    Bool(bool),
    Time(WallNanos),
    Micros(i64),
    Digest(Hash),
    Bytes(&'a [u8]),
    List(Vec<&'a str>),
}

macro_rules! from {
    ($($from:ty, $value:ident => $cell:expr;)*) => {
        $(impl<'a> From<$from> for Cell<'a> {
            fn from($value: $from) -> Self {
                $cell
            }
        })*
    };
}

from! {
    &'a str, v => Cell::Text(v);
    &'a String, v => Cell::Text(v);
    &'a dyn Display, v => Cell::Show(v);
    i64, v => Cell::Int(v);
    u64, v => Cell::Unsigned(v);
    f64, v => Cell::Float(v);
    bool, v => Cell::Bool(v);
    WallNanos, v => Cell::Time(v);
    Hash, v => Cell::Digest(v);
    EntryId, v => Cell::Id(v.0);
    DatasetId, v => Cell::Id(v.0);
    ControlSeq, v => Cell::Unsigned(v.0);
    Seq, v => Cell::Unsigned(v.0);
    FieldId, v => Cell::Int(i64::from(v.0));
    Node, v => Cell::Int(v.0);
    Vec<&'a str>, v => Cell::List(v);
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Cell::Null, Into::into)
    }
}

enum Column {
    Text(StringBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
    Time(TimestampMicrosecondBuilder),
    Digest(FixedSizeBinaryBuilder),
    Bytes(BinaryBuilder),
    List(ListBuilder<StringBuilder>),
}

impl Column {
    fn new(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Utf8 => Self::Text(StringBuilder::new()),
            DataType::Int64 => Self::Int(Int64Builder::new()),
            DataType::Float64 => Self::Float(Float64Builder::new()),
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Timestamp(..) => Self::Time(TimestampMicrosecondBuilder::new().with_data_type(data_type.clone())),
            DataType::FixedSizeBinary(width) => Self::Digest(FixedSizeBinaryBuilder::new(*width)),
            DataType::Binary => Self::Bytes(BinaryBuilder::new()),
            DataType::List(_) => Self::List(ListBuilder::new(StringBuilder::new())),
            _ => return None,
        })
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(b) => Arc::new(b.finish()),
            Self::Int(b) => Arc::new(b.finish()),
            Self::Float(b) => Arc::new(b.finish()),
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Time(b) => Arc::new(b.finish()),
            Self::Digest(b) => Arc::new(b.finish()),
            Self::Bytes(b) => Arc::new(b.finish()),
            Self::List(b) => Arc::new(b.finish()),
        }
    }
}

/// The rows of one table.
pub(crate) struct Rows {
    table: &'static SystemTable,
    columns: Vec<Column>,
    len: usize,
    batches: Vec<RecordBatch>,
}

impl Rows {
    pub(crate) fn new(table: &'static SystemTable) -> Result<Self, SystemError> {
        let columns = table
            .schema
            .fields()
            .iter()
            .enumerate()
            .map(|(at, field)| {
                Column::new(field.data_type())
                    .ok_or_else(|| SystemError::Shape { table: table.definition.name.clone(), at })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { table, columns, len: 0, batches: vec![] })
    }

    pub(crate) fn push<const N: usize>(&mut self, cells: [Cell<'_>; N]) -> Result<(), SystemError> {
        let shape = |at| SystemError::Shape { table: self.table.definition.name.clone(), at };
        if N != self.columns.len() {
            return Err(shape(N));
        }
        for (at, (column, cell)) in self.columns.iter_mut().zip(cells).enumerate() {
            match (column, cell) {
                (Column::Text(b), Cell::Null) => b.append_null(),
                (Column::Text(b), Cell::Text(v)) => b.append_value(v),
                (Column::Text(b), Cell::Id(v)) => {
                    b.append_value(v.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
                }
                (Column::Text(b), Cell::Show(v)) => {
                    write!(b, "{v}").map_err(|_| shape(at))?;
                    b.append_value("");
                }
                (Column::Int(b), Cell::Null) => b.append_null(),
                (Column::Int(b), Cell::Int(v)) => b.append_value(v),
                (Column::Int(b), Cell::Unsigned(value)) => match i64::try_from(value) {
                    Ok(v) => b.append_value(v),
                    Err(_) => return Err(SystemError::TooLarge { column: self.table.column(at), value }),
                },
                (Column::Float(b), Cell::Null) => b.append_null(),
                (Column::Float(b), Cell::Float(v)) => b.append_value(v),
                (Column::Bool(b), Cell::Null) => b.append_null(),
                (Column::Bool(b), Cell::Bool(v)) => b.append_value(v),
                (Column::Time(b), Cell::Null) => b.append_null(),
                (Column::Time(b), Cell::Time(v)) => b.append_value(v.micros().0),
                (Column::Time(b), Cell::Micros(v)) => b.append_value(v),
                (Column::Digest(b), Cell::Null) => b.append_null(),
                (Column::Digest(b), Cell::Digest(v)) => b.append_value(v.as_bytes())?,
                (Column::Bytes(b), Cell::Null) => b.append_null(),
                (Column::Bytes(b), Cell::Bytes(v)) => b.append_value(v),
                (Column::List(b), Cell::Null) => b.append_null(),
                (Column::List(b), Cell::List(v)) => {
                    v.iter().for_each(|item| b.values().append_value(item));
                    b.append(true);
                }
                _ => return Err(shape(at)),
            }
        }
        self.len += 1;
        if self.len == BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), SystemError> {
        let arrays = self.columns.iter_mut().map(Column::finish).collect();
        self.batches.push(RecordBatch::try_new(self.table.schema.clone(), arrays)?);
        self.len = 0;
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<Vec<RecordBatch>, SystemError> {
        if self.len > 0 {
            self.flush()?;
        }
        Ok(self.batches)
    }
}
