//! Rows as they are read, sorted by ranges of customers.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt16Array, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::runtime::JoinSet;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::StreamExt;

use super::buckets::Buckets;
use super::keys::{KeyIndex, NOBODY};
use super::spill::Spill;
use crate::{Error, Result};

/// Customers in ranges of one size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranges {
    pub customers: usize,
    /// A range holds 2 to this power.
    bits: u32,
}

/// More ranges than these would make pieces of a batch too small to be worth their while.
const MOST_RANGES: usize = 256;

impl Ranges {
    /// Ranges of at least so many customers.
    pub fn new(customers: usize, least: usize) -> Self {
        let size = least.max(customers.div_ceil(MOST_RANGES)).max(1).next_power_of_two();
        Ranges { customers, bits: size.trailing_zeros() }
    }

    pub fn count(&self) -> usize {
        self.customers.div_ceil(1 << self.bits)
    }

    /// The first customer of a range, and how many there are.
    pub fn part(&self, range: usize) -> (usize, usize) {
        let from = range << self.bits;
        (from, (1 << self.bits).min(self.customers - from))
    }
}

/// Rows of one range in a batch.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub batch: Arc<RecordBatch>,
    pub rows: Range<usize>,
}

/// The rows of one source, by range: the customer's place in the range, the bucket, then the columns.
pub(super) struct Scattered {
    parts: Vec<Part>,
}

/// What one stream of the source gave.
struct Part {
    ranges: Vec<Vec<Piece>>,
    spills: Vec<Spill>,
    /// Held until the rows are gone.
    _memory: MemoryReservation,
}

impl Scattered {
    /// Reads all streams of a source at once.
    pub async fn read(
        streams: Vec<SendableRecordBatchStream>,
        index: Arc<KeyIndex>,
        ranges: Ranges,
        buckets: Option<Arc<Buckets>>,
        runtime: &Arc<RuntimeEnv>,
    ) -> Result<Scattered> {
        let mut tasks = JoinSet::new();
        for stream in streams {
            let scatter = Scatter {
                index: Arc::clone(&index),
                ranges,
                buckets: buckets.clone(),
                runtime: Arc::clone(runtime),
                part: Part {
                    ranges: vec![Vec::new(); ranges.count()],
                    spills: Vec::new(),
                    _memory: MemoryConsumer::new("feature pass").with_can_spill(true).register(&runtime.memory_pool),
                },
            };
            tasks.spawn(scatter.run(stream));
        }
        let mut parts = Vec::new();
        while let Some(part) = tasks.join_next().await {
            parts.push(part.map_err(|e| Error::infra("a scan was torn down").because(e))??);
        }
        Ok(Scattered { parts })
    }

    /// The rows of a range.
    pub fn of_range(&self, range: usize) -> Result<Vec<Piece>> {
        let mut rows = Vec::new();
        for part in &self.parts {
            for spill in &part.spills {
                let whole = |batch: RecordBatch| Piece { rows: 0..batch.num_rows(), batch: Arc::new(batch) };
                rows.extend(spill.read(range)?.into_iter().map(whole));
            }
            rows.extend(part.ranges[range].iter().cloned());
        }
        Ok(rows)
    }
}

struct Scatter {
    index: Arc<KeyIndex>,
    ranges: Ranges,
    buckets: Option<Arc<Buckets>>,
    runtime: Arc<RuntimeEnv>,
    part: Part,
}

impl Scatter {
    async fn run(mut self, mut stream: SendableRecordBatchStream) -> Result<Part> {
        while let Some(batch) = stream.next().await {
            self.add(&batch?)?;
        }
        Ok(self.part)
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let Some((places, columns)) = batch.columns().split_first() else { return Ok(()) };
        let places = self.index.places(places)?;
        let (buckets, columns) = match (&self.buckets, columns.split_first()) {
            (Some(buckets), Some((times, columns))) => (buckets.of_rows(times)?, columns),
            _ => (vec![0; places.len()], columns),
        };
        // A counting sort by range.
        let bits = self.ranges.bits;
        let mut ends = vec![0usize; self.ranges.count() + 1];
        places.iter().filter(|place| **place != NOBODY).for_each(|place| ends[(place >> bits) as usize + 1] += 1);
        for range in 1..ends.len() {
            ends[range] += ends[range - 1];
        }
        let begins = ends.clone();
        let kept = ends.last().copied().unwrap_or(0);
        if kept == 0 {
            return Ok(());
        }
        let mut order = vec![0u32; kept];
        for (row, place) in places.iter().enumerate().filter(|(_, place)| **place != NOBODY) {
            let at = &mut ends[(place >> bits) as usize];
            order[*at] = row as u32;
            *at += 1;
        }
        let within = (1u32 << bits) - 1;
        let local = order.iter().map(|row| places[*row as usize] & within);
        let bucket = order.iter().map(|row| buckets[*row as usize]);
        let mut sorted: Vec<ArrayRef> =
            vec![Arc::new(UInt32Array::from_iter_values(local)), Arc::new(UInt16Array::from_iter_values(bucket))];
        let order = UInt32Array::from(order);
        for column in columns {
            let taken = take(column, &order, None)?;
            // Texts would keep hold of everything that was read with them.
            sorted.push(match taken.as_string_view_opt() {
                Some(texts) => Arc::new(texts.gc()),
                None => taken,
            });
        }
        let sorted = Arc::new(RecordBatch::try_new(schema(columns), sorted)?);
        self.make_room(sorted.get_array_memory_size())?;
        for (range, pieces) in self.part.ranges.iter_mut().enumerate() {
            let (from, until) = (begins[range], begins[range + 1]);
            if from < until {
                pieces.push(Piece { batch: Arc::clone(&sorted), rows: from..until });
            }
        }
        Ok(())
    }

    /// Memory for so many bytes more; what is there goes to disk where it is short.
    fn make_room(&mut self, bytes: usize) -> Result<()> {
        if self.part._memory.try_grow(bytes).is_ok() {
            return Ok(());
        }
        if self.part._memory.size() > 0 {
            self.part.spills.push(Spill::write(&self.runtime.disk_manager, &mut self.part.ranges)?);
            self.part._memory.free();
        }
        Ok(self.part._memory.try_grow(bytes)?)
    }
}

fn schema(columns: &[ArrayRef]) -> SchemaRef {
    let field = |(i, column): (usize, &ArrayRef)| Field::new(format!("c{i}"), column.data_type().clone(), true);
    let first = [Field::new("customer", DataType::UInt32, false), Field::new("bucket", DataType::UInt16, false)];
    Arc::new(Schema::new(first.into_iter().chain(columns.iter().enumerate().map(field)).collect::<Vec<_>>()))
}
