//! Batches as Flight messages, counted before they leave.
//!
//! What holds here: the schema message goes out even when there is no row; string views and dictionaries are plain
//! strings on the wire, since not every client reads them; no message is larger than its target but for one huge row.

use arrow::{
    array::RecordBatch,
    compute::cast,
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use arrow_flight::{FlightData, SchemaAsIpc};
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use std::sync::Arc;

/// Body bytes a message aims at: tonic clients refuse above 4 MiB unless told otherwise.
const TARGET: usize = 2 << 20;

/// A message with what it counts for.
pub(crate) struct Message {
    pub(crate) data: FlightData,
    pub(crate) rows: u64,
}

impl Message {
    /// Bytes that leave.
    pub(crate) fn bytes(&self) -> u64 {
        (self.data.data_header.len() + self.data.data_body.len()) as u64
    }
}

/// The schema as clients see it.
pub(crate) fn wire_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> =
        schema.fields().iter().map(|f| f.as_ref().clone().with_data_type(wire_type(f.data_type()))).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn wire_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => wire_type(values),
        DataType::List(item) => {
            let inner = wire_type(item.data_type());
            DataType::List(Arc::new(item.as_ref().clone().with_data_type(inner)))
        }
        other => other.clone(),
    }
}

/// Makes messages of one stream.
pub(crate) struct Encoder {
    schema: SchemaRef,
    options: IpcWriteOptions,
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    context: IpcWriteContext,
}

impl Encoder {
    pub(crate) fn new(schema: &Schema) -> Self {
        Self {
            schema: wire_schema(schema),
            options: IpcWriteOptions::default(),
            generator: IpcDataGenerator::default(),
            dictionaries: DictionaryTracker::new(false),
            context: IpcWriteContext::default(),
        }
    }

    /// The first message.
    pub(crate) fn schema(&self) -> Message {
        Message { data: SchemaAsIpc::new(&self.schema, &self.options).into(), rows: 0 }
    }

    /// The messages of a batch, in order.
    pub(crate) fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<Message>, ArrowError> {
        let columns = batch
            .columns()
            .iter()
            .zip(self.schema.fields())
            .map(|(c, f)| if c.data_type() == f.data_type() { Ok(Arc::clone(c)) } else { cast(c, f.data_type()) })
            .collect::<Result<Vec<_>, _>>()?;
        let batch = RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            columns,
            &arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows())),
        )?;
        let rows = batch.num_rows();
        let row_bytes = batch.get_array_memory_size().div_ceil(rows.max(1)).max(1);
        let step = (TARGET / row_bytes).clamp(1, rows.max(1));
        let mut messages = vec![];
        let mut at = 0;
        while at < rows {
            let part = batch.slice(at, step.min(rows - at));
            let (dictionaries, encoded) =
                self.generator.encode(&part, &mut self.dictionaries, &self.options, &mut self.context)?;
            messages.extend(dictionaries.into_iter().map(|d| Message { data: d.into(), rows: 0 }));
            messages.push(Message { data: encoded.into(), rows: part.num_rows() as u64 });
            at += part.num_rows();
        }
        Ok(messages)
    }
}
