//! A range of customers: their rows into states, their states into columns, or written down.

use std::collections::BTreeSet;
use std::ops::Range;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{UInt16Type, UInt32Type};

use super::accumulator::{Accumulator, Output, Rows, Slots, accumulator};
use super::scatter::Piece;
use super::source::{Share, Source};
use crate::{Error, Result};

/// The columns of every aggregate of a source, window by window; those that nobody wants are not there.
type Columns = Vec<Vec<Option<ArrayRef>>>;

/// A customer who has more rows than there may be, by the place in the range.
pub(super) struct Excess(pub usize);

/// A range of customers, added up.
pub(super) struct Shard<'a> {
    source: &'a Source,
    jobs: Vec<Box<dyn Accumulator>>,
    slots: Slots,
}

/// The states of a block of days, to be written down: the customers by their places in the range, which ascend.
pub(super) struct Export {
    pub customers: Vec<u32>,
    pub states: Vec<ArrayRef>,
}

impl<'a> Shard<'a> {
    /// Adds up the rows and the written states of so many customers.
    pub fn new(source: &'a Source, customers: usize, rows: &[Piece], states: &[Piece]) -> Result<Result<Self, Excess>> {
        let buckets = source.buckets.count();
        let mut table = vec![0u32; customers * buckets];
        let mut count = 0;
        let mut jobs: Vec<Box<dyn Accumulator>> = source.jobs.iter().map(|job| accumulator(&job.function)).collect();
        let mut slots: Vec<u32> = Vec::new();
        for Piece { batch, rows } in rows {
            slot_of_rows(batch, rows, buckets, &mut table, &mut count, &mut slots);
            for (job, accumulator) in source.jobs.iter().zip(&mut jobs) {
                let column = |i: &usize| batch.column(i + 2);
                let filter = job.filter.as_ref().map(|i| column(i).as_boolean());
                let values = job.arguments.iter().map(column).collect();
                accumulator.add(&Rows { slots: &slots, from: rows.start, values, filter }, count as usize)?;
            }
        }
        let mut slots = Slots::new(&table, buckets, customers, count as usize);
        for Piece { batch, rows } in states {
            let states = batch.slice(rows.start, rows.len());
            let first = slots.count;
            let (customers, buckets) =
                (states.column(0).as_primitive::<UInt32Type>(), states.column(1).as_primitive::<UInt16Type>());
            slots.load(customers.values(), buckets.values());
            let mut columns = &states.columns()[2..];
            for (job, accumulator) in source.jobs.iter().zip(&mut jobs) {
                let width = job.function.state_columns().map_err(Error::infra)?;
                let (own, rest) =
                    columns.split_at_checked(width).ok_or_else(|| Error::infra("a state lacks columns"))?;
                accumulator.load(first, own)?;
                columns = rest;
            }
        }
        jobs.iter_mut().for_each(|accumulator| accumulator.seal(slots.count));
        let repeated = jobs.iter().find_map(|accumulator| accumulator.repeated());
        if let Some((customer, _)) = repeated.and_then(|slot| slots.owners()[slot as usize]) {
            return Ok(Err(Excess(customer as usize)));
        }
        Ok(Ok(Shard { source, jobs, slots }))
    }

    /// The columns of every aggregate in the windows that some wanted share has.
    pub fn columns(&self, wanted: impl Fn(&Share) -> bool) -> Result<Columns> {
        let mut columns: Columns = self.source.jobs.iter().map(|job| vec![None; job.outputs.len()]).collect();
        let mut places: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.source.jobs.len()];
        for (job, output) in self.source.shares.iter().filter(|share| wanted(share)).flat_map(|share| &share.columns) {
            places[*job].insert(*output);
        }
        let jobs = self.source.jobs.iter().zip(&self.jobs);
        for (((job, accumulator), places), columns) in jobs.zip(places).zip(&mut columns) {
            let outputs: Vec<&Output> = places.iter().map(|output| &job.outputs[*output]).collect();
            for (place, column) in places.iter().zip(accumulator.finish(&self.slots, &outputs)?) {
                columns[*place] = Some(column);
            }
        }
        Ok(columns)
    }

    /// The states of what lies in some buckets; `None` where there are no rows.
    pub fn export(&self, buckets: &Range<usize>) -> Result<Option<Export>> {
        let (customers, groups) = self.slots.together(buckets);
        if groups.count == 0 {
            return Ok(None);
        }
        let mut states = Vec::new();
        for accumulator in &self.jobs {
            states.extend(accumulator.export(&groups)?);
        }
        Ok(Some(Export { customers, states }))
    }
}

fn slot_of_rows(
    batch: &RecordBatch,
    rows: &Range<usize>,
    buckets: usize,
    table: &mut [u32],
    count: &mut u32,
    slots: &mut Vec<u32>,
) {
    let customers = &batch.column(0).as_primitive::<UInt32Type>().values()[rows.clone()];
    let bucket = &batch.column(1).as_primitive::<UInt16Type>().values()[rows.clone()];
    slots.clear();
    slots.extend(customers.iter().zip(bucket).map(|(customer, bucket)| {
        let slot = &mut table[*customer as usize * buckets + usize::from(*bucket)];
        if *slot == 0 {
            *count += 1;
            *slot = *count;
        }
        *slot - 1
    }));
}
