//! A range of customers: their rows into states, their states into columns.

use std::collections::BTreeSet;
use std::ops::Range;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{UInt16Type, UInt32Type};

use super::accumulator::{Accumulator, Rows, Slots, accumulator};
use super::scatter::Piece;
use super::source::{Share, Source};
use crate::Result;

/// The columns of every aggregate of a source, window by window; those that nobody wants are not there.
type Columns = Vec<Vec<Option<ArrayRef>>>;

/// A customer who has more rows than there may be, by the place in the range.
pub(super) struct Excess(pub usize);

/// The columns of every aggregate of a source, in the windows that some wanted share has, for `customers` customers with these
/// rows.
pub(super) fn columns(
    source: &Source,
    customers: usize,
    pieces: &[Piece],
    wanted: impl Fn(&Share) -> bool,
) -> Result<Result<Columns, Excess>> {
    let buckets = source.buckets.count();
    let mut table = vec![0u32; customers * buckets];
    let mut count = 0;
    let mut jobs: Vec<Box<dyn Accumulator>> =
        source.jobs.iter().map(|job| accumulator(&job.function, &job.output)).collect();
    let mut slots: Vec<u32> = Vec::new();
    for Piece { batch, rows } in pieces {
        slot_of_rows(batch, rows, buckets, &mut table, &mut count, &mut slots);
        for (job, accumulator) in source.jobs.iter().zip(&mut jobs) {
            let column = |i: &usize| batch.column(i + 2);
            let filter = job.filter.as_ref().map(|i| column(i).as_boolean());
            let rows =
                Rows { slots: &slots, from: rows.start, values: job.arguments.iter().map(column).collect(), filter };
            accumulator.add(&rows, count as usize)?;
        }
    }
    let slots = Slots::new(&table, buckets, customers, count as usize);
    if let Some(slot) = jobs.iter().find_map(|accumulator| accumulator.repeated()) {
        return Ok(Err(Excess(slots.owners()[slot as usize].0 as usize)));
    }
    let mut columns: Columns = source.jobs.iter().map(|job| vec![None; job.windows.len()]).collect();
    let mut places: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); source.jobs.len()];
    for (job, window) in source.shares.iter().filter(|share| wanted(share)).flat_map(|share| &share.columns) {
        places[*job].insert(*window);
    }
    for (((job, accumulator), places), columns) in source.jobs.iter().zip(&mut jobs).zip(places).zip(&mut columns) {
        let windows: Vec<Range<usize>> = places.iter().map(|window| job.windows[*window].clone()).collect();
        for (place, column) in places.iter().zip(accumulator.finish(&slots, &windows)?) {
            columns[*place] = Some(column);
        }
    }
    Ok(Ok(columns))
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
