//! The row that comes first or last: its value, written down as bytes that compare as the columns do.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array, new_null_array};
use arrow::compute::{SortOptions, take};
use arrow::row::{RowConverter, Rows as Lines, SortField};

use super::accumulator::{Accumulator, Rows, of_type};
use super::slots::{Groups, Output, Slots};
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
    converters: Option<(RowConverter, RowConverter)>,
    lines: Vec<(Lines, Lines)>,
    states: Vec<Leader>,
}

impl Pick {
    /// The least value, or the greatest.
    pub fn extreme(last: bool) -> Self {
        Pick { extreme: true, ..Pick::ordered(vec![(false, false)], last) }
    }

    /// The value of the first row, or of the last.
    pub fn ordered(order: Vec<(bool, bool)>, last: bool) -> Self {
        Pick { order, last, extreme: false, converters: None, lines: Vec::new(), states: Vec::new() }
    }

    /// Writes rows down, to be compared: the value, then what it is ordered by.
    fn write_down(&mut self, arrays: &[ArrayRef]) -> Result<u32> {
        let (value, order) = arrays.split_first().ok_or_else(|| Error::bug("a row without a value"))?;
        let order = if self.extreme { arrays } else { order };
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
        self.lines.push((keys.convert_columns(order)?, values.convert_columns(&[Arc::clone(value)])?));
        Ok(self.lines.len() as u32 - 1)
    }

    fn merge(&self) -> impl Fn(&mut Leader, &Leader) {
        let (lines, last) = (&self.lines, self.last);
        move |sum, state| {
            if Self::leads(lines, last, *state, *sum) {
                *sum = *state;
            }
        }
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
        let batch = self.write_down(&rows.sliced())?;
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

    fn load(&mut self, first: usize, states: Vec<ArrayRef>) -> Result<()> {
        let Some((there, arrays)) = states.split_first() else {
            return Err(Error::bug("the state of a value has no columns"));
        };
        self.states.resize(first, Leader::default());
        let batch = self.write_down(arrays)?;
        let there = there.as_boolean().values().iter().enumerate();
        let leader = |(row, there): (usize, bool)| Leader { at: there.then_some((batch, row as u32)) };
        self.states.extend(there.map(leader));
        Ok(())
    }

    fn seal(&mut self, _rows: usize, slots: usize) {
        self.states.resize(slots, Leader::default());
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        let Some((_, values)) = &self.converters else {
            return Ok(outputs.iter().map(|output| new_null_array(&output.data_type, slots.customers)).collect());
        };
        slots.merged(outputs, &self.states, self.merge(), |sums, output| {
            let sums = sums.values(|sum| sum[0]);
            let there: Vec<(u32, u32)> = sums.iter().filter_map(|leader| leader.at).collect();
            let rows = there.iter().map(|(batch, row)| self.lines[*batch as usize].1.row(*row as usize));
            let arrays = values.convert_rows(rows)?;
            let found = arrays.first().ok_or_else(|| Error::bug("a value is lost"))?;
            of_type(&spread(found, &sums)?, &output.data_type)
        })
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        let (keys, values) = self.converters.as_ref().ok_or_else(|| Error::bug("a value without a row"))?;
        let states = groups.merged(&self.states, self.merge());
        let lines =
            || states.iter().filter_map(|leader| leader.at).map(|(batch, row)| (&self.lines[batch as usize], row));
        let value = values.convert_rows(lines().map(|((_, values), row)| values.row(row as usize)))?;
        let key = match self.extreme {
            true => Vec::new(),
            false => keys.convert_rows(lines().map(|((keys, _), row)| keys.row(row as usize)))?,
        };
        let there = BooleanArray::from(states.iter().map(|leader| leader.at.is_some()).collect::<Vec<_>>());
        let mut columns: Vec<ArrayRef> = vec![Arc::new(there)];
        for array in value.iter().chain(&key) {
            columns.push(spread(array, &states)?);
        }
        Ok(columns)
    }
}

/// The values of those that have one, in their places among all.
fn spread(values: &ArrayRef, leaders: &[Leader]) -> Result<ArrayRef> {
    let mut next = 0u32;
    let places = leaders.iter().map(|leader| {
        leader.at.map(|_| {
            next += 1;
            next - 1
        })
    });
    Ok(take(values, &places.collect::<UInt32Array>(), None)?)
}
