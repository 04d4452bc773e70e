//! A range of customers: their rows into states, their states into columns, or written down.

use std::collections::BTreeSet;
use std::ops::Range;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{UInt16Type, UInt32Type};

use super::accumulator::{Accumulator, Rows, accumulator};
use super::scatter::Piece;
use super::slots::{Output, Slots, SlotsBuilder};
use super::source::{Share, Source};
use super::state::Column;
use super::stored::StateRows;
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
    pub fn new(
        source: &'a Source,
        customers: usize,
        rows: &[Piece],
        states: Vec<StateRows>,
    ) -> Result<Result<Self, Excess>> {
        let buckets = source.buckets.count();
        let filled = Filled::by(rows, buckets);
        let mut table = vec![0u32; customers * filled.buckets.len()];
        rows.iter().flat_map(|piece| filled.places(piece, customers)).for_each(|place| table[place] = 1);
        let mut slots = SlotsBuilder::number(&mut table, &filled.buckets, buckets, customers);
        let own = slots.count();
        let mut jobs: Vec<Box<dyn Accumulator>> = source.jobs.iter().map(|job| accumulator(&job.function)).collect();
        let mut slot_of_row: Vec<u32> = Vec::new();
        for piece in rows {
            slot_of_row.clear();
            slot_of_row.extend(filled.places(piece, customers).map(|place| table[place]));
            for (job, accumulator) in source.jobs.iter().zip(&mut jobs) {
                let column = |i: &usize| piece.batch.column(i + 2);
                let filter = job.filter.as_ref().map(|i| column(i).as_boolean());
                let values = job.arguments.iter().map(column).collect();
                accumulator.add(&Rows { slots: &slot_of_row, from: piece.rows.start, values, filter }, own)?;
            }
        }
        for StateRows { bucket, customers, columns } in states {
            let first = slots.count();
            let mut columns = columns.into_iter();
            for (job, accumulator) in source.jobs.iter().zip(&mut jobs) {
                let width = job.function.state_columns().map_err(Error::bug)?;
                accumulator.load(first, columns.by_ref().take(width).flat_map(Column::into_arrays).collect())?;
            }
            slots.load(bucket, customers);
        }
        let slots = slots.finish();
        jobs.iter_mut().for_each(|accumulator| accumulator.seal(own, slots.count));
        let repeated = jobs.iter().find_map(|accumulator| accumulator.repeated());
        if let Some((customer, _)) = repeated.and_then(|slot| slots.owners()[slot as usize]) {
            return Ok(Err(Excess(customer as usize)));
        }
        Ok(Ok(Shard { source, jobs, slots }))
    }

    /// The columns of every aggregate in the windows that some wanted share has; an error has the aggregate that it is of.
    pub fn columns(&self, wanted: impl Fn(&Share) -> bool) -> Result<Columns, (usize, Error)> {
        let mut columns: Columns = self.source.jobs.iter().map(|job| vec![None; job.outputs.len()]).collect();
        let mut places: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.source.jobs.len()];
        for (job, output) in self.source.shares.iter().filter(|share| wanted(share)).flat_map(|share| &share.columns) {
            places[*job].insert(*output);
        }
        let jobs = self.source.jobs.iter().zip(&self.jobs);
        for (at, (((job, accumulator), places), columns)) in jobs.zip(places).zip(&mut columns).enumerate() {
            let outputs: Vec<&Output> = places.iter().map(|output| &job.outputs[*output]).collect();
            let finished = accumulator.finish(&self.slots, &outputs).map_err(|error| (at, error))?;
            for (place, column) in places.iter().zip(finished) {
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

/// The buckets that rows are in: those of one night lie in few of the many that past days have.
struct Filled {
    buckets: Vec<usize>,
    /// The place of each bucket among them.
    places: Vec<usize>,
}

impl Filled {
    fn by(pieces: &[Piece], buckets: usize) -> Self {
        let mut seen = vec![false; buckets];
        for piece in pieces {
            bucket_of(piece).iter().for_each(|bucket| seen[usize::from(*bucket)] = true);
        }
        let found: Vec<usize> = (0..buckets).filter(|bucket| seen[*bucket]).collect();
        let mut places = vec![0; buckets];
        found.iter().enumerate().for_each(|(place, bucket)| places[*bucket] = place);
        Filled { buckets: found, places }
    }

    /// The places of a piece's rows in a table of these buckets, customer by customer.
    fn places<'a>(&'a self, piece: &'a Piece, customers: usize) -> impl Iterator<Item = usize> + 'a {
        let own = &piece.batch.column(0).as_primitive::<UInt32Type>().values()[piece.rows.clone()];
        let place = |bucket: &u16| self.places[usize::from(*bucket)];
        own.iter().zip(bucket_of(piece)).map(move |(customer, bucket)| place(bucket) * customers + *customer as usize)
    }
}

fn bucket_of(piece: &Piece) -> &[u16] {
    &piece.batch.column(1).as_primitive::<UInt16Type>().values()[piece.rows.clone()]
}
