//! The states of a block of days as a Parquet file: the key, then the states of every aggregate, a row per customer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::days::Block;
use super::manifest::{BlockState, StateFile};
use crate::features::fusion::whole::narrow;
use crate::{Error, Result, hash};

const KEY: &str = "key";
/// Which column of the file each column of the states is.
const PLACES: &str = "tenure.columns";
const ROW_GROUP_ROWS: usize = 1 << 20;
/// Rows that are read at a time: they stay in the cache, and their memory is used again.
const READ_ROWS: usize = 16 * 1024;

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
        self.batches.push(RecordBatch::try_new(schema(&columns), columns)?);
        Ok(())
    }

    /// Writes the file; `folder` is where it will be in the store.
    pub fn finish(self, folder: &str) -> Result<WrittenBlock> {
        let BlockWriter { block, path, batches } = self;
        let Some(first) = batches.first() else {
            return Ok(WrittenBlock { local: path, state: BlockState { block, rows: 0, file: None } });
        };
        let whole = concat_batches(&first.schema(), &batches)?;
        drop(batches);
        let mut bytes = Vec::new();
        let (places, columns) = different(whole.columns());
        let schema = schema(&columns);
        let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(&schema), Some(properties(&schema, &places)))?;
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

/// The columns of the states of a group.
#[derive(Debug, Clone)]
pub struct Layout {
    pub key_type: DataType,
    /// The columns of a state: whether they are numbers that may be kept in fewer bytes.
    pub states: Vec<bool>,
}

/// The states in a file's bytes; an error says what is wrong with them.
pub fn read(
    bytes: Bytes,
    state: &BlockState,
    layout: Option<&Layout>,
) -> std::result::Result<Vec<RecordBatch>, String> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    let Some(file) = &state.file else { return Err("it has no file".to_owned()) };
    if bytes.len() as u64 != file.bytes || crc32c::crc32c(&bytes) != file.crc32c {
        return Err("its bytes are not those that were written".to_owned());
    }
    let rows = usize::try_from(state.rows).unwrap_or_default();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| words(&e))?;
    let pairs = reader.metadata().file_metadata().key_value_metadata().into_iter().flatten();
    let places = pairs.filter(|pair| pair.key == PLACES).find_map(|pair| pair.value.clone()).unwrap_or_default();
    let reader = reader.with_batch_size(READ_ROWS).build().map_err(|e| words(&e))?;
    let places = places.split(' ').map(|place| place.parse::<usize>().ok()).collect::<Option<Vec<_>>>();
    let places = places.unwrap_or_default();
    let fits = |columns: &[ArrayRef]| match (layout, columns.split_first()) {
        (Some(layout), Some((key, states))) => {
            *key.data_type() == layout.key_type && states.len() == layout.states.len()
        }
        (_, first) => first.is_some(),
    };
    let (mut found, mut read) = (Vec::new(), 0);
    for batch in reader {
        let batch = batch.map_err(|e| words(&e))?;
        read += batch.num_rows();
        let columns = places.iter().map(|place| batch.columns().get(*place).cloned());
        let columns: Vec<ArrayRef> = columns.collect::<Option<_>>().unwrap_or_default();
        if !fits(&columns) {
            return Err("it has other columns than the manifest says".to_owned());
        }
        let columns = narrowed(columns, layout).map_err(|e| words(&e))?;
        found.push(RecordBatch::try_new(schema(&columns), columns).map_err(|e| words(&e))?);
    }
    match read == rows {
        true => Ok(found),
        false => Err(format!("it has {read} rows, and the manifest says {rows}")),
    }
}

/// The columns in as few bytes as may be.
fn narrowed(columns: Vec<ArrayRef>, layout: Option<&Layout>) -> Result<Vec<ArrayRef>> {
    let Some(layout) = layout else { return Ok(columns) };
    let mut found: Vec<(ArrayRef, ArrayRef)> = Vec::new();
    let may = std::iter::once(false).chain(layout.states.iter().copied());
    let columns = columns.into_iter().zip(may).map(|(column, may)| {
        // A column of the file may stand for several of the state.
        let known = found.iter().find(|(wide, _)| Arc::ptr_eq(wide, &column)).map(|(_, narrow)| Arc::clone(narrow));
        match known {
            _ if !may => Ok(column),
            Some(known) => Ok(known),
            None => {
                let narrow = narrow(Arc::clone(&column))?;
                found.push((column, Arc::clone(&narrow)));
                Ok(narrow)
            }
        }
    });
    columns.collect()
}

fn schema(columns: &[ArrayRef]) -> SchemaRef {
    let name = |i: usize| if i == 0 { KEY.to_owned() } else { format!("s{i}") };
    let field = |(i, column): (usize, &ArrayRef)| Field::new(name(i), column.data_type().clone(), i > 0);
    Arc::new(Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>()))
}

/// Whole numbers lie close together, and deltas make them small; amounts are a few different ones as long as a block is small.
fn properties(schema: &Schema, places: &[usize]) -> WriterProperties {
    let places: Vec<String> = places.iter().map(usize::to_string).collect();
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::LZ4_RAW)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_key_value_metadata(Some(vec![KeyValue::new(PLACES.to_owned(), places.join(" "))]))
        .set_created_by(concat!("tenure ", env!("CARGO_PKG_VERSION")).to_owned());
    for field in schema.fields().iter().filter(|field| *field.data_type() == DataType::Int64) {
        let path = ColumnPath::from(field.name().as_str());
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    properties.build()
}
