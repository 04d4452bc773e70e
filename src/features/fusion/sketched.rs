//! Aggregates that may be about right: exact as long as there are few values, from a sketch where there are more.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{filter, interleave};
use arrow::datatypes::DataType;

use super::accumulator::{Accumulator, Rows, of_type};
use super::keys::NOBODY;
use super::sketch::Sketch;
use super::slots::{Groups, Output, Slots};
use crate::{Error, Result};

/// Values of a customer in a window, or in a block of days, that are known one by one: their sketch takes no more room than so many.
pub(super) const MOST: usize = 4096;

/// Values that are known one by one: their states are lists of them.
pub(super) trait Listed: Accumulator {
    /// No customer has more values than this in any window; `columns` is what came out of them.
    fn most(&self, slots: &Slots, columns: &[ArrayRef]) -> usize;
}

/// The values of slots that have few, and the sketches of the others, which were written down.
pub(super) struct Sketched<A, S> {
    few: A,
    many: Vec<(u32, S)>,
}

/// Groups that have many values.
type Many<S> = BTreeMap<usize, S>;

impl<A: Listed, S: Sketch> Sketched<A, S> {
    /// The same answers as those of an exact aggregate, as long as there are few values.
    pub fn new(few: A) -> Self {
        Sketched { few, many: Vec::new() }
    }

    /// The lists of groups, and the sketches of those that have many values, which are maybe not all in their lists.
    fn grouped(&self, groups: &Groups) -> Result<(ListArray, Many<S>)> {
        let lists = self.few.export(groups)?;
        let lists = lists.first().and_then(|lists| lists.as_list_opt::<i32>());
        let lists = lists.ok_or_else(|| Error::bug("values that are no list"))?;
        let new = groups.by_slot();
        let mut many: Many<S> = Many::new();
        for (slot, sketch) in &self.many {
            if let Some(group) = new.get(*slot as usize).filter(|group| **group != NOBODY) {
                of_group(&mut many, *group as usize)?.merge(sketch)?;
            }
        }
        for group in 0..lists.len() {
            if lists.value_length(group) as usize > MOST || many.contains_key(&group) {
                of_group(&mut many, group)?.add(&lists.value(group))?;
            }
        }
        Ok((lists.clone(), many))
    }
}

fn of_group<S: Sketch>(many: &mut Many<S>, group: usize) -> Result<&mut S> {
    Ok(match many.entry(group) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => new.insert(S::new()?),
    })
}

impl<A: Listed, S: Sketch> Accumulator for Sketched<A, S> {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.few.add(rows, slots)
    }

    fn load(&mut self, first: usize, mut states: Vec<ArrayRef>) -> Result<()> {
        let sketches = states.pop();
        let sketches = sketches.as_ref().and_then(|sketches| sketches.as_binary_opt::<i32>());
        let sketches = sketches.ok_or_else(|| Error::bug("a state has no sketches"))?;
        for (row, bytes) in sketches.iter().enumerate().filter_map(|(row, bytes)| Some((row, bytes?))) {
            if !bytes.is_empty() {
                self.many.push(((first + row) as u32, S::read(bytes)?));
            }
        }
        self.few.load(first, states)
    }

    fn seal(&mut self, rows: usize, slots: usize) {
        self.few.seal(rows, slots);
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        let columns = self.few.finish(slots, outputs)?;
        if self.many.is_empty() && self.few.most(slots, &columns) <= MOST {
            return Ok(columns);
        }
        let finish = |(column, output): (ArrayRef, &&Output)| {
            let (customers, groups) = slots.together(&output.window);
            let (_, many) = self.grouped(&groups)?;
            let answers = many.values().map(|sketch| sketch.answer(&output.function)).collect::<Result<Vec<_>>>()?;
            let whole = !output.data_type.is_floating();
            let answers = answers.into_iter().map(|answer| answer.map(|x| if whole { x.round() } else { x }));
            let answers = of_type(&(Arc::new(Float64Array::from_iter(answers)) as ArrayRef), &output.data_type)?;
            let mut places: Vec<(usize, usize)> = (0..slots.customers).map(|customer| (0, customer)).collect();
            many.keys().enumerate().for_each(|(place, group)| places[customers[*group] as usize] = (1, place));
            Ok(interleave(&[column.as_ref(), answers.as_ref()], &places)?)
        };
        columns.into_iter().zip(outputs).map(finish).collect()
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        let (mut lists, many) = self.grouped(groups)?;
        if !many.is_empty() {
            let kept = |group: usize| if many.contains_key(&group) { 0 } else { lists.value_length(group) as usize };
            let listed: Vec<bool> = (0..lists.len())
                .flat_map(|group| std::iter::repeat_n(!many.contains_key(&group), lists.value_length(group) as usize))
                .collect();
            let (first, all) = (lists.value_offsets()[0] as usize, listed.len());
            let values = filter(&lists.values().slice(first, all), &BooleanArray::from(listed))?;
            let offsets = OffsetBuffer::from_lengths((0..lists.len()).map(kept));
            let DataType::List(field) = lists.data_type().clone() else {
                return Err(Error::bug("values that are no list"));
            };
            lists = ListArray::try_new(field, offsets, values, None)?;
        }
        let sketches = (0..lists.len()).map(|group| many.get(&group).map_or(Vec::new(), Sketch::write));
        Ok(vec![Arc::new(lists), Arc::new(BinaryArray::from_iter_values(sketches))])
    }
}
