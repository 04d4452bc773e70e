//! How many different days there are, where no bucket cuts a day in two: the days of two buckets can then be added up.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::Int64Type;

use super::accumulator::{Accumulator, Groups, Output, Rows, Slots, columns_of};
use super::distinct::Distinct;
use crate::Result;

/// The days of each slot.
pub(super) struct Days {
    /// Those of rows.
    days: Distinct,
    /// How many slots have rows.
    rows: usize,
    loaded: Vec<i64>,
    counts: Vec<i64>,
}

fn add(sum: &mut i64, days: &i64) {
    *sum += days;
}

impl Days {
    pub fn new() -> Self {
        Days { days: Distinct::days(), rows: 0, loaded: Vec::new(), counts: Vec::new() }
    }
}

impl Accumulator for Days {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.rows = slots;
        self.days.add(rows, slots)
    }

    fn load(&mut self, first: usize, states: &[ArrayRef]) -> Result<()> {
        let [counts] = columns_of(states)?;
        self.loaded.resize(first - self.rows, 0);
        self.loaded.extend_from_slice(counts.as_primitive::<Int64Type>().values());
        Ok(())
    }

    fn seal(&mut self, slots: usize) {
        self.counts = self.days.counts(self.rows);
        self.counts.append(&mut self.loaded);
        self.counts.resize(slots, 0);
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        let array = |sums: &[i64], _: &Output| Ok(Arc::new(Int64Array::from(sums.to_vec())) as ArrayRef);
        slots.merged(outputs, &self.counts, add, array)
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        Ok(vec![Arc::new(Int64Array::from(groups.merged(&self.counts, add)))])
    }
}
