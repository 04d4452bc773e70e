//! The row that comes first or last: its value, written down as bytes that compare as the columns do.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array, new_null_array};
use arrow::compute::{SortOptions, take};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows as Lines, SortField};

use super::accumulator::{Accumulator, Rows, Slots, of_type};
use crate::{Error, Result};

/// A row that leads its slot: where its bytes lie.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Leader {
    /// The lines that came with one batch, and one of them; `None` where there is no row yet.
    at: Option<(u32, u32)>,
}

/// The leading row of each slot.
pub(super) struct Pick {
    /// How the columns of the order are sorted: descending, NULL first.
    order: Vec<(bool, bool)>,
    /// Whether the last one leads.
    last: bool,
    /// Whether the value is what it is ordered by, and NULL does not count.
    extreme: bool,
    output: DataType,
    converters: Option<(RowConverter, RowConverter)>,
    lines: Vec<(Lines, Lines)>,
    states: Vec<Leader>,
}

impl Pick {
    /// The least value, or the greatest.
    pub fn extreme(last: bool, output: DataType) -> Self {
        Pick { extreme: true, ..Pick::ordered(vec![(false, false)], last, output) }
    }

    /// The value of the first row, or of the last.
    pub fn ordered(order: Vec<(bool, bool)>, last: bool, output: DataType) -> Self {
        Pick { order, last, extreme: false, output, converters: None, lines: Vec::new(), states: Vec::new() }
    }

    fn leads(lines: &[(Lines, Lines)], last: bool, new: Leader, old: Leader) -> bool {
        let key = |leader: Leader| leader.at.map(|(batch, row)| lines[batch as usize].0.row(row as usize));
        match (key(new), key(old)) {
            (None, _) => false,
            (_, None) => true,
            (Some(new), Some(old)) => new.cmp(&old) == if last { Ordering::Greater } else { Ordering::Less },
        }
    }
}

impl Accumulator for Pick {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.resize(slots, Leader::default());
        let arrays = rows.sliced();
        let Some((value, order)) = arrays.split_first() else { return Ok(()) };
        let order = if self.extreme { &arrays } else { order };
        let (keys, values) = match &mut self.converters {
            Some(converters) => converters,
            None => {
                let fields = order.iter().zip(&self.order).map(|(array, (descending, nulls_first))| {
                    let options = SortOptions { descending: *descending, nulls_first: *nulls_first };
                    SortField::new_with_options(array.data_type().clone(), options)
                });
                let keys = RowConverter::new(fields.collect())?;
                let values = RowConverter::new(vec![SortField::new(value.data_type().clone())])?;
                self.converters.insert((keys, values))
            }
        };
        let lines = (keys.convert_columns(order)?, values.convert_columns(&[Arc::clone(value)])?);
        let batch = self.lines.len() as u32;
        self.lines.push(lines);
        let (lines, states, last) = (&self.lines, &mut self.states, self.last);
        let mut visit = |row: usize, slot: usize| {
            let new = Leader { at: Some((batch, (row - rows.from) as u32)) };
            if Self::leads(lines, last, new, states[slot]) {
                states[slot] = new;
            }
        };
        match self.extreme {
            true => rows.each(visit),
            // NULL is a value like any other here: only the filter says which rows count.
            false => rows.of_filter().each(&mut visit),
        }
        Ok(())
    }

    fn finish(&mut self, slots: &Slots, windows: &[Range<usize>]) -> Result<Vec<ArrayRef>> {
        let (lines, last) = (&self.lines, self.last);
        let merge = |sum: &mut Leader, state: &Leader| {
            if Self::leads(lines, last, *state, *sum) {
                *sum = *state;
            }
        };
        let Some((_, values)) = &self.converters else {
            let nothing = new_null_array(&self.output, slots.customers);
            return Ok(windows.iter().map(|_| Arc::clone(&nothing)).collect());
        };
        slots.merged(windows, &self.states, merge, |sums| {
            let there: Vec<(u32, u32)> = sums.iter().filter_map(|leader| leader.at).collect();
            let rows = there.iter().map(|(batch, row)| lines[*batch as usize].1.row(*row as usize));
            let arrays = values.convert_rows(rows)?;
            let found = arrays.first().ok_or_else(|| Error::infra("a value is lost"))?;
            let mut next = 0u32;
            let places = sums.iter().map(|leader| {
                leader.at.map(|_| {
                    next += 1;
                    next - 1
                })
            });
            let places: UInt32Array = places.collect();
            let column = take(found, &places, None)?;
            of_type(&column, &self.output)
        })
    }
}
