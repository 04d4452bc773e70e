//! Files that run as they are written: their rows, sorted by key, beside the population's.

use std::cmp::Ordering;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{cast, interleave};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;

use super::keys::Keys;
use crate::features::part::PartColumn;
use crate::{Error, Result};

/// A stream of rows that ascend by key, the key first and never NULL.
pub(super) struct Cursor {
    stream: SendableRecordBatchStream,
    key_type: DataType,
    columns: Vec<PartColumn>,
    /// What was read and not passed yet.
    held: Vec<(Keys, Vec<ArrayRef>)>,
    /// The next row of the newest batch.
    next: usize,
    ended: bool,
}

/// A key that a file has more than once.
#[derive(Debug)]
pub(in crate::features) struct Twice(pub ScalarValue);

impl Cursor {
    pub fn new(stream: SendableRecordBatchStream, key_type: DataType, columns: Vec<PartColumn>) -> Self {
        Cursor { stream, key_type, columns, held: Vec::new(), next: 0, ended: false }
    }

    /// The columns for these keys, which ascend from call to call; a key without a row has what no rows make.
    pub async fn attach(&mut self, keys: &Keys) -> Result<Result<Vec<ArrayRef>, Twice>> {
        // Of what earlier keys read, the newest batch alone may have rows left.
        let keep = self.held.len().saturating_sub(1);
        self.held.drain(..keep);
        let mut picked = Vec::with_capacity(keys.len());
        for row in 0..keys.len() {
            let mut place = (0, 0);
            while !keys.is_null(row) && self.more().await? {
                let Some((own, _)) = self.held.last() else { break };
                match own.compare(self.next, keys, row)? {
                    Ordering::Less => self.next += 1,
                    Ordering::Greater => break,
                    Ordering::Equal => {
                        place = (self.held.len(), self.next);
                        self.next += 1;
                        if self.more().await?
                            && let Some((own, _)) = self.held.last()
                            && own.compare(self.next, keys, row)? == Ordering::Equal
                        {
                            return Ok(Err(Twice(ScalarValue::try_from_array(keys.array(), row)?)));
                        }
                        break;
                    }
                }
            }
            picked.push(place);
        }
        let columns = self.columns.iter().enumerate().map(|(i, column)| {
            let empty = column.empty.cast_to(&column.data_type)?.to_array()?;
            let sources: Vec<&dyn arrow::array::Array> = std::iter::once(empty.as_ref())
                .chain(self.held.iter().map(|(_, columns)| columns[i].as_ref()))
                .collect();
            Ok(interleave(&sources, &picked)?)
        });
        columns.collect::<Result<Vec<_>>>().map(Ok)
    }

    /// Whether there is a next row; reads until there is one.
    async fn more(&mut self) -> Result<bool> {
        while !self.ended && self.held.last().is_none_or(|(keys, _)| self.next >= keys.len()) {
            match self.stream.next().await {
                Some(batch) => {
                    let (keys, columns) = self.typed(&batch?)?;
                    self.held.push((keys, columns));
                    self.next = 0;
                }
                None => self.ended = true,
            }
        }
        Ok(self.held.last().is_some_and(|(keys, _)| self.next < keys.len()))
    }

    fn typed(&self, batch: &RecordBatch) -> Result<(Keys, Vec<ArrayRef>)> {
        let (key, columns) = batch.columns().split_first().ok_or_else(|| Error::bug("a feature file without a key"))?;
        let typed = columns.iter().zip(&self.columns).map(|(array, column)| cast(array, &column.data_type));
        Ok((Keys::new(cast(key, &self.key_type)?)?, typed.collect::<std::result::Result<_, _>>()?))
    }
}
