//! The states of a block of days on their way into a Parquet file: the key, then the states of every aggregate, a row per customer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::days::Block;
use super::form::Form;
use super::manifest::{BlockState, StateFile};
use crate::{Error, Result, failpoint, hash};

const KEY: &str = "key";
/// Where a file says what its columns are.
pub(super) const ABOUT: &str = "tenure.columns";
const ROW_GROUP_ROWS: usize = 1 << 20;
/// The rows of a page.
pub(super) const PAGE_ROWS: usize = 4 * 1024;

/// The states of a block until they are written.
pub struct BlockWriter {
    block: Block,
    path: PathBuf,
    batches: Vec<RecordBatch>,
}

/// A block that was written to a local file, or that has no rows and no file.
#[derive(Debug)]
pub struct WrittenBlock {
    pub local: PathBuf,
    pub state: BlockState,
}

impl BlockWriter {
    /// A file below `folder`; it is there once the states are.
    pub fn new(block: Block, folder: &Path) -> Self {
        let path = folder.join(format!("{}_{}.parquet", block.level, block.index));
        BlockWriter { block, path, batches: Vec::new() }
    }

    /// Appends states.
    pub fn add(&mut self, keys: ArrayRef, states: &[ArrayRef]) -> Result<()> {
        let columns: Vec<ArrayRef> = std::iter::once(keys).chain(states.iter().cloned()).collect();
        self.batches.push(RecordBatch::try_new(schema(&columns, |_| true), columns)?);
        Ok(())
    }

    /// Writes the file; `folder` is where it will be in the store.
    pub fn finish(self, folder: &str) -> Result<WrittenBlock> {
        failpoint::reach("state.write");
        let BlockWriter { block, path, batches } = self;
        let Some(first) = batches.first() else {
            return Ok(WrittenBlock { local: path, state: BlockState { block, rows: 0, file: None } });
        };
        let whole = concat_batches(&first.schema(), &batches)?;
        drop(batches);
        let mut bytes = Vec::new();
        let (places, columns) = different(whole.columns());
        let written = columns.into_par_iter().map(Form::of).collect::<Result<Vec<_>>>()?;
        let (forms, columns): (Vec<Form>, Vec<ArrayRef>) = written.into_iter().unzip();
        // A column without NULL needs no bits that say so.
        let schema = schema(&columns, |column| column.null_count() > 0);
        let properties = properties(&columns, &schema, &About { places, forms })?;
        let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(&schema), Some(properties))?;
        writer.write(&RecordBatch::try_new(schema, columns)?)?;
        writer.close()?;
        std::fs::write(&path, &bytes).map_err(|e| Error::io(&path, e))?;
        let (days, hash) = (block.days(), hash::of_bytes(&bytes));
        let name = format!("{folder}/{}-{}_{}.parquet", days.start, days.end, &hash[..16]);
        let file = StateFile { path: name, bytes: bytes.len() as u64, crc32c: crc32c::crc32c(&bytes) };
        Ok(WrittenBlock { local: path, state: BlockState { block, rows: whole.num_rows() as u64, file: Some(file) } })
    }
}

/// The different columns, and which of them each column is: the newest order's time is often that of the first one too.
fn different(columns: &[ArrayRef]) -> (Vec<usize>, Vec<ArrayRef>) {
    let (mut places, mut found): (Vec<usize>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for column in columns {
        let place = found.iter().position(|known| known == column);
        places.push(place.unwrap_or(found.len()));
        if place.is_none() {
            found.push(Arc::clone(column));
        }
    }
    (places, found)
}

/// What the columns of a file are.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct About {
    /// Which of them each column of the states is, the key first.
    pub places: Vec<usize>,
    pub forms: Vec<Form>,
}

/// The columns of the states of a group.
#[derive(Debug, Clone)]
pub struct Layout {
    pub key_type: DataType,
    /// How many columns a state has.
    pub states: usize,
}

fn schema(columns: &[ArrayRef], nullable: impl Fn(&ArrayRef) -> bool) -> SchemaRef {
    let name = |i: usize| if i == 0 { KEY.to_owned() } else { format!("s{i}") };
    let field =
        |(i, column): (usize, &ArrayRef)| Field::new(name(i), column.data_type().clone(), i > 0 && nullable(column));
    Arc::new(Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>()))
}

/// Whole numbers lie close together, and deltas make them small. Packing numbers further is worth its time where they repeat.
fn properties(columns: &[ArrayRef], schema: &Schema, about: &About) -> Result<WriterProperties> {
    let about = serde_json::to_string(about).map_err(|e| Error::bug("columns cannot be described").because(e))?;
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::LZ4_RAW)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_key_value_metadata(Some(vec![KeyValue::new(ABOUT.to_owned(), about)]))
        .set_created_by(concat!("tenure ", env!("CARGO_PKG_VERSION")).to_owned());
    for (column, field) in columns.iter().zip(schema.fields()) {
        let Some(numbers) = column.as_primitive_opt::<Int64Type>() else { continue };
        let path = ColumnPath::from(field.name().as_str());
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED);
        let same = numbers.values().windows(2).filter(|pair| pair[0] == pair[1]).count();
        if 2 * same < numbers.len() {
            properties = properties.set_column_compression(path, Compression::UNCOMPRESSED);
        }
    }
    Ok(properties.build())
}
