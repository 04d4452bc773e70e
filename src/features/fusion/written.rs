//! States on their way into files: those of every block of days that is to be written.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use rayon::prelude::*;

use super::shard::Export;
use super::state::{BlockWriter, GroupState, Night, States};
use crate::Result;

/// The states of one source that are written.
pub(super) struct Writing {
    states: Arc<States>,
    group: GroupState,
    writers: Vec<BlockWriter>,
}

impl Writing {
    /// What a night writes; nothing where there is no room for it.
    pub fn new(night: &Night, states: &Arc<States>) -> Option<Self> {
        let folder = match states.folder() {
            Ok(folder) => folder,
            Err(error) => {
                states.give_up(&error);
                return None;
            }
        };
        let writers = night.targets.iter().map(|target| BlockWriter::new(target.block, &folder)).collect();
        Some(Writing { states: Arc::clone(states), group: night.group.clone(), writers })
    }

    /// Adds the states of a range of customers, whose keys these are.
    pub fn add(&mut self, keys: &ArrayRef, exports: Vec<Option<Export>>) -> Result<()> {
        for (writer, export) in self.writers.iter_mut().zip(exports) {
            if let Some(Export { customers, states }) = export {
                writer.add(take(keys, &UInt32Array::from(customers), None)?, &states)?;
            }
        }
        Ok(())
    }

    /// Writes the files and hands them over; a matrix does not wait for them where that fails.
    pub fn finish(self) {
        let folder = &self.group.identity[..16];
        match self.writers.into_par_iter().map(|writer| writer.finish(folder)).collect::<Result<Vec<_>>>() {
            Ok(written) => self.states.wrote(self.group, written),
            Err(error) => self.states.give_up(&error),
        }
    }
}
