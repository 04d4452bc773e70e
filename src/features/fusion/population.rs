//! The keys of the matrices. Where the rows of a table are the population's, they are read once for both.

use arrow::array::{Array, RecordBatch, new_empty_array};
use arrow::compute::{cast, concat, sort};
use arrow::datatypes::DataType;
use datafusion::common::runtime::JoinSet;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::DataFrame;
use futures::StreamExt;

use super::keys::Keys;
use crate::{Error, Result, failpoint};

/// Rows as they were read, partition by partition.
pub(super) type Partitions = Vec<Vec<RecordBatch>>;

/// The population's keys, sorted. A key without a value stays, for the last look at the rows to find.
pub(super) async fn keys(population: DataFrame, key_type: &DataType) -> Result<Keys> {
    failpoint::reach("pass.population");
    keys_of(&population.collect_partitioned().await?, key_type)
}

/// The keys of rows, whose first column they are, sorted.
pub(super) fn keys_of(rows: &Partitions, key_type: &DataType) -> Result<Keys> {
    let rows = rows.iter().flatten().filter(|batch| batch.num_rows() > 0);
    let mut typed = rows.map(|batch| Keys::new(cast(batch.column(0), key_type)?)).collect::<Result<Vec<_>>>()?;
    // Threads share a sorted file out among themselves, in any order.
    typed.sort_by(Keys::by_firsts);
    let arrays: Vec<&dyn Array> = typed.iter().map(|keys| keys.array().as_ref()).collect();
    let keys = Keys::new(if arrays.is_empty() { new_empty_array(key_type) } else { concat(&arrays)? })?;
    if keys.ascend()? { Ok(keys) } else { Keys::new(sort(keys.array(), None)?) }
}

/// Every key of some sorted keys, sorted; of one population all, whatever is wrong with them.
pub(super) fn union(populations: &[Keys]) -> Result<Keys> {
    let (first, rest) = populations.split_first().ok_or_else(|| Error::bug("a pass without a date"))?;
    rest.iter().try_fold(first.clone(), |known, more| known.union(more))
}

/// All rows of some streams; `None` where memory has no room for them.
pub(super) async fn at_once(
    streams: Vec<SendableRecordBatchStream>,
    runtime: &RuntimeEnv,
) -> Result<Option<Partitions>> {
    let mut tasks = JoinSet::new();
    for (partition, mut stream) in streams.into_iter().enumerate() {
        let memory = MemoryConsumer::new("customers").register(&runtime.memory_pool);
        tasks.spawn(async move {
            let mut rows = Vec::new();
            while let Some(batch) = stream.next().await {
                let batch = batch?;
                failpoint::reach("pass.population");
                if memory.try_grow(batch.get_array_memory_size()).is_err() {
                    return Ok(None);
                }
                rows.push(batch);
            }
            Ok::<_, Error>(Some((partition, memory, rows)))
        });
    }
    let mut found = Vec::new();
    while let Some(read) = tasks.join_next().await {
        match read.map_err(|e| Error::task("a scan of the population", e))?? {
            Some(rows) => found.push(rows),
            None => return Ok(None),
        }
    }
    found.sort_by_key(|(partition, ..)| *partition);
    Ok(Some(found.into_iter().map(|(.., rows)| rows).collect()))
}
