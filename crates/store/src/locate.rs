//! Where a file differs from what was written: in which block, in which column.
//!
//! The content root says that something differs, not where. So each file's footer holds the first eight bytes of the leaf
//! of every block and column in it (`custody.leaves`, hexadecimal, in the order of the tree). They are a help for people:
//! whether a version is as published is told by the digests in the ledger and by the root, never by them.

use crate::{BLOCK_ROWS, Manifest, StoreError, Warehouse, root::column_leaf};
use arrow::{
    array::ArrayRef,
    datatypes::{Schema, SchemaRef},
};
use custody_model::Hash;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
        },
    },
    errors::ParquetError,
};
use std::{fs::File, path::PathBuf};

/// The key of a footer's leaves.
pub(crate) const LEAVES: &str = "custody.leaves";
/// Bytes of a leaf that a footer has.
const SHORT: usize = 8;
/// Differences named of a file; the others are counted.
const NAMED: usize = 16;

pub(crate) fn leaves_text(leaves: &[Hash]) -> String {
    leaves.iter().map(|leaf| leaf.to_string()[..SHORT * 2].to_string()).collect()
}

/// A file to look into.
struct Suspect {
    file: PathBuf,
    schema: SchemaRef,
    /// Its first block, and how many rows it was written with.
    block: u64,
    rows: u64,
}

impl Warehouse {
    /// What differs in the `n`-th file of a version, which has other bytes than were written.
    pub(crate) async fn locate(&self, manifest: &Manifest, n: usize) -> Result<Vec<String>, StoreError> {
        let Some(file) = manifest.files.get(n) else { return Ok(vec![]) };
        let before: u64 = manifest.files.iter().take(n).map(|f| f.rows).sum();
        let path = self.folder(&manifest.place).join(&file.path);
        let suspect = Suspect {
            file: path.clone(),
            schema: manifest.schema.clone(),
            block: before / BLOCK_ROWS as u64,
            rows: file.rows,
        };
        // A decoder that gives up on what is no Parquet any more ends its task, not the process.
        let looked = tokio::task::spawn_blocking(move || suspect.look()).await;
        Ok(looked.unwrap_or_else(|_| vec!["its pages cannot be decoded".into()]))
    }
}

impl Suspect {
    fn look(&self) -> Vec<String> {
        let metadata = match self.footer() {
            Ok(metadata) => metadata,
            Err(e) => return vec![format!("its footer cannot be read: {e}")],
        };
        let named: Vec<_> = metadata.schema().fields().iter().map(|f| (f.name(), f.data_type())).collect();
        let declared: Vec<_> = self.schema.fields().iter().map(|f| (f.name(), f.data_type())).collect();
        if named != declared {
            return vec!["its footer has other columns than the version".into()];
        }
        let rows = metadata.metadata().file_metadata().num_rows();
        if u64::try_from(rows) != Ok(self.rows) {
            return vec![format!("its footer counts {rows} rows, written were {}", self.rows)];
        }
        let noted = metadata.metadata().file_metadata().key_value_metadata();
        let noted = noted.and_then(|all| all.iter().find(|kv| kv.key == LEAVES)?.value.clone()).unwrap_or_default();
        let (mut found, mut more) = (vec![], 0);
        for (block, start) in (0..self.rows).step_by(BLOCK_ROWS).enumerate() {
            let end = (start + BLOCK_ROWS as u64).min(self.rows);
            for (ordinal, field) in self.schema.fields().iter().enumerate() {
                let at = (block * declared.len() + ordinal) * SHORT * 2;
                let what = match self.leaf(&metadata, block as u64, ordinal, start..end) {
                    Ok(leaf)
                        if noted.get(at..at + SHORT * 2).is_none_or(|noted| leaf.to_string().starts_with(noted)) =>
                    {
                        continue;
                    }
                    Ok(_) => "its values are not those that were written".to_string(),
                    Err(e) => format!("it cannot be read: {e}"),
                };
                if found.len() == NAMED {
                    more += 1;
                    continue;
                }
                let first = self.block * BLOCK_ROWS as u64 + start + 1;
                let last = self.block * BLOCK_ROWS as u64 + end;
                let block = self.block + block as u64;
                found.push(format!("block {block} (rows {first} to {last}), column `{}`: {what}", field.name()));
            }
        }
        if more > 0 {
            found.push(format!("and {more} more blocks of columns"));
        }
        if found.is_empty() {
            found.push(match noted.is_empty() {
                true => "its footer does not say which values it was written with".into(),
                false => "all blocks have the values that its footer was written with".into(),
            });
        }
        found
    }

    fn footer(&self) -> Result<ArrowReaderMetadata, ParquetError> {
        ArrowReaderMetadata::load(&File::open(&self.file)?, ArrowReaderOptions::new())
    }

    /// The leaf of a column's block as the file has it now.
    fn leaf(
        &self,
        metadata: &ArrowReaderMetadata,
        block: u64,
        ordinal: usize,
        rows: std::ops::Range<u64>,
    ) -> Result<Hash, String> {
        let told = |e: &dyn std::fmt::Display| e.to_string();
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(
            File::open(&self.file).map_err(|e| told(&e))?,
            metadata.clone(),
        );
        let mask = ProjectionMask::roots(builder.parquet_schema(), [ordinal]);
        let size = |n: u64| usize::try_from(n).map_err(|e| told(&e));
        let (skipped, wanted) = (size(rows.start)?, size(rows.end - rows.start)?);
        let selection = RowSelection::from(vec![RowSelector::skip(skipped), RowSelector::select(wanted)]);
        let reader = builder.with_projection(mask).with_row_selection(selection).build().map_err(|e| told(&e))?;
        let mut parts: Vec<ArrayRef> = vec![];
        for batch in reader {
            parts.push(batch.map_err(|e| told(&e))?.column(0).clone());
        }
        if parts.iter().map(|part| part.len()).sum::<usize>() != wanted {
            return Err("rows are missing".into());
        }
        let schema: &Schema = &self.schema;
        column_leaf(self.block + block, ordinal, schema.field(ordinal), &parts).map_err(|e| told(&e))
    }
}
