//! Rows as they are read, sorted by ranges of customers.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt16Array, UInt32Array};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::runtime::JoinSet;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::StreamExt;

use super::buckets::Buckets;
use super::keys::{KeyIndex, Keys, NOBODY};
use super::spill::Spill;
use super::stored::{StateRows, StoredStates};
use crate::{Error, Result, failpoint};

/// Customers in ranges of one size: those of the population, then strangers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranges {
    pub customers: usize,
    /// Customers that rows are of and that the population does not have. They begin with a range of their own.
    strangers: usize,
    /// A range holds 2 to this power.
    bits: u32,
}

/// More ranges than these would make pieces of a batch too small to be worth their while.
const MOST_RANGES: usize = 256;

impl Ranges {
    /// Ranges of at least so many customers.
    pub fn new(customers: usize, least: usize) -> Self {
        let size = least.max(customers.div_ceil(MOST_RANGES)).max(1).next_power_of_two();
        Ranges { customers, strangers: 0, bits: size.trailing_zeros() }
    }

    /// The same with strangers.
    pub fn and_strangers(self, strangers: usize) -> Self {
        Ranges { strangers, ..self }
    }

    /// How many ranges the population has.
    pub fn of_population(&self) -> usize {
        self.customers.div_ceil(1 << self.bits)
    }

    pub fn count(&self) -> usize {
        self.of_population() + self.strangers.div_ceil(1 << self.bits)
    }

    /// The range of a customer, and the place in it.
    pub fn place(&self, customer: u32) -> (usize, u32) {
        ((customer >> self.bits) as usize, customer & ((1 << self.bits) - 1))
    }

    /// The place of the first stranger.
    pub fn first_stranger(&self) -> usize {
        self.of_population() << self.bits
    }

    /// The first customer of a range, and how many there are; strangers are counted by themselves.
    pub fn part(&self, range: usize) -> (usize, usize) {
        let size = 1 << self.bits;
        match range.checked_sub(self.of_population()) {
            None => (range << self.bits, size.min(self.customers - (range << self.bits))),
            Some(own) => (own << self.bits, size.min(self.strangers - (own << self.bits))),
        }
    }
}

/// Rows of one range in a batch.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub batch: Arc<RecordBatch>,
    pub rows: Range<usize>,
}

/// The rows of one source, by range: the customer's place in the range, the bucket, then the columns; and its written states.
pub(super) struct Scattered {
    parts: Vec<Part>,
    states: StoredStates,
    /// Rows of customers that the population does not have, where they are kept: the key, then what was scanned.
    strangers: Vec<RecordBatch>,
}

/// What one stream of the source gave.
struct Part {
    ranges: Vec<Vec<Piece>>,
    spills: Vec<Spill>,
    /// Held until the rows are gone.
    memory: MemoryReservation,
    runtime: Arc<RuntimeEnv>,
}

/// How rows are sorted.
#[derive(Clone)]
pub(super) struct Scattering {
    /// The population's.
    pub keys: Keys,
    pub index: Arc<KeyIndex>,
    pub ranges: Ranges,
    pub buckets: Option<Arc<Buckets>>,
    pub runtime: Arc<RuntimeEnv>,
    /// Whether rows of customers that the population does not have are kept.
    pub keep_strangers: bool,
}

impl Scattered {
    /// Reads all streams of a source at once.
    pub async fn read(streams: Vec<SendableRecordBatchStream>, how: &Scattering) -> Result<Scattered> {
        let mut tasks = JoinSet::new();
        for stream in streams {
            tasks.spawn(Scatter::new(how).run(stream));
        }
        let mut found = Scattered { parts: Vec::new(), states: StoredStates::default(), strangers: Vec::new() };
        while let Some(part) = tasks.join_next().await {
            let (part, strangers) = part.map_err(|e| Error::task("a scan", e))??;
            found.parts.push(part);
            found.strangers.extend(strangers);
        }
        Ok(found)
    }

    /// The keys of kept rows of strangers.
    pub fn strangers(&self) -> impl Iterator<Item = &ArrayRef> {
        self.strangers.iter().map(|batch| batch.column(0))
    }

    /// Sorts the rows of strangers in, now that each has a place: `how` knows them in `ranges`.
    pub fn settle(&mut self, how: &Scattering) -> Result<()> {
        let mut scatter = Scatter::new(&Scattering { keep_strangers: false, ..how.clone() });
        for batch in std::mem::take(&mut self.strangers) {
            scatter.add(&batch, how.ranges.first_stranger() as u32)?;
        }
        for part in &mut self.parts {
            part.ranges.resize(how.ranges.count(), Vec::new());
        }
        self.parts.push(scatter.part);
        Ok(())
    }

    /// Adds written states.
    pub fn add_states(&mut self, states: StoredStates) {
        self.states = states;
    }

    /// The rows of a range, and its written states. Every range is asked for once.
    pub fn of_range(&self, range: usize) -> Result<(Vec<Piece>, Vec<StateRows>)> {
        let mut rows = Vec::new();
        for part in &self.parts {
            part.of_range(range, &mut rows)?;
        }
        Ok((rows, self.states.of_range(range)?))
    }
}

impl Part {
    fn new(how: &Scattering) -> Self {
        let memory = MemoryConsumer::new("feature pass").with_can_spill(true).register(&how.runtime.memory_pool);
        let (ranges, runtime) = (vec![Vec::new(); how.ranges.count()], Arc::clone(&how.runtime));
        Part { ranges, spills: Vec::new(), memory, runtime }
    }

    fn of_range(&self, range: usize, rows: &mut Vec<Piece>) -> Result<()> {
        for spill in &self.spills {
            let whole = |batch: RecordBatch| Piece { rows: 0..batch.num_rows(), batch: Arc::new(batch) };
            rows.extend(spill.read(range)?.into_iter().map(whole));
        }
        rows.extend(self.ranges.get(range).into_iter().flatten().cloned());
        Ok(())
    }

    /// Memory for so many bytes more; what is there goes to disk where it is short.
    fn make_room(&mut self, bytes: usize) -> Result<()> {
        if self.memory.try_grow(bytes).is_ok() {
            return Ok(());
        }
        if self.memory.size() > 0 {
            self.spills.push(Spill::write(&self.runtime.disk_manager, &mut self.ranges)?);
            self.memory.free();
        }
        Ok(self.memory.try_grow(bytes)?)
    }
}

struct Scatter {
    how: Scattering,
    part: Part,
    strangers: Vec<RecordBatch>,
}

impl Scatter {
    fn new(how: &Scattering) -> Self {
        Scatter { how: how.clone(), part: Part::new(how), strangers: Vec::new() }
    }

    async fn run(mut self, mut stream: SendableRecordBatchStream) -> Result<(Part, Vec<RecordBatch>)> {
        while let Some(batch) = stream.next().await {
            failpoint::reach("pass.scan");
            self.add(&batch?, 0)?;
        }
        Ok((self.part, self.strangers))
    }

    /// Adds rows; places are counted from `first`.
    fn add(&mut self, batch: &RecordBatch, first: u32) -> Result<()> {
        let Some((keys, columns)) = batch.columns().split_first() else { return Ok(()) };
        let mut places = self.how.index.places(keys)?;
        if self.how.keep_strangers {
            let strange = |row: usize| places[row] == NOBODY && keys.is_valid(row);
            let rows: UInt32Array = (0..places.len()).filter(|row| strange(*row)).map(|row| row as u32).collect();
            if !rows.is_empty() {
                self.strangers.push(take_record_batch(batch, &rows)?);
            }
        }
        if first > 0 {
            places.iter_mut().filter(|place| **place != NOBODY).for_each(|place| *place += first);
        }
        let (buckets, columns) = match (&self.how.buckets, columns.split_first()) {
            (Some(buckets), Some((times, columns))) => (buckets.of_rows(times)?, columns),
            _ => (vec![0; places.len()], columns),
        };
        // A counting sort by range.
        let bits = self.how.ranges.bits;
        let mut ends = vec![0usize; self.how.ranges.count() + 1];
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
        // Rows that come sorted, as those of the population's own table often do, lie right as they are.
        let sorted_already = kept == places.len() && places.is_sorted();
        let within = (1u32 << bits) - 1;
        let local = order.iter().map(|row| places[*row as usize] & within);
        let bucket = order.iter().map(|row| buckets[*row as usize]);
        let mut sorted: Vec<ArrayRef> =
            vec![Arc::new(UInt32Array::from_iter_values(local)), Arc::new(UInt16Array::from_iter_values(bucket))];
        let order = UInt32Array::from(order);
        for column in columns {
            let taken = if sorted_already { Arc::clone(column) } else { take(column, &order, None)? };
            // Texts would keep hold of everything that was read with them.
            sorted.push(match taken.as_string_view_opt() {
                Some(texts) => Arc::new(texts.gc()),
                None => taken,
            });
        }
        let sorted = Arc::new(RecordBatch::try_new(schema(columns), sorted)?);
        self.part.make_room(sorted.get_array_memory_size())?;
        for (range, pieces) in self.part.ranges.iter_mut().enumerate() {
            let (from, until) = (begins[range], begins[range + 1]);
            if from < until {
                pieces.push(Piece { batch: Arc::clone(&sorted), rows: from..until });
            }
        }
        Ok(())
    }
}

fn schema(columns: &[ArrayRef]) -> SchemaRef {
    let field = |(i, column): (usize, &ArrayRef)| Field::new(format!("c{i}"), column.data_type().clone(), true);
    let first = [Field::new("customer", DataType::UInt32, false), Field::new("bucket", DataType::UInt16, false)];
    Arc::new(Schema::new(first.into_iter().chain(columns.iter().enumerate().map(field)).collect::<Vec<_>>()))
}
