//! How many different days there are, where no bucket cuts a day in two: the days of two buckets can then be added up.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};

use super::accumulator::{Accumulator, Keeper, Kept, Rows};
use super::distinct::Distinct;
use super::simple::{add_count, count_column, counts};
use super::slots::{Groups, Output, Slots};
use crate::Result;

/// The days of each slot.
pub(super) struct Days {
    /// Those of rows.
    days: Distinct,
    counts: Kept<i64>,
}

impl Days {
    pub fn new() -> Self {
        Days { days: Distinct::days(), counts: Kept::default() }
    }
}

impl Accumulator for Days {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.days.add(rows, slots)
    }

    fn kept(&mut self) -> Option<&mut dyn Keeper> {
        Some(&mut self.counts)
    }

    fn seal(&mut self, rows: usize, _slots: usize) {
        self.counts.states = self.days.counts(rows);
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        self.counts.merged(slots, outputs, counts, add_count, count_column)
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        Ok(vec![Arc::new(Int64Array::from(self.counts.grouped(groups, counts, add_count)?))])
    }
}
