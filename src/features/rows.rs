//! The last look at the rows: batches of one size, no key missing, none twice.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::{BatchCoalescer, cast};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::lit;
use datafusion::prelude::DataFrame;
use futures::{Stream, StreamExt, stream};

use super::matrix::named;
use super::part::Part;
use crate::error::Place;
use crate::{Error, Result};

/// Rows per batch: always the same, so that whatever works batch by batch gives the same bits again.
pub const BATCH_ROWS: usize = 8192;

/// Something that may hold a key twice.
pub(super) struct Culprit {
    /// Its file, if it has one.
    pub file: Option<String>,
    /// What it is called.
    pub what: String,
    /// Its keys, under [`Part::KEY`].
    pub frame: DataFrame,
}

struct State {
    input: SendableRecordBatchStream,
    schema: SchemaRef,
    coalescer: BatchCoalescer,
    /// The last key of the batch before.
    last: Option<ArrayRef>,
    culprits: Vec<Culprit>,
    ended: bool,
}

/// Rows in batches of [`BATCH_ROWS`], sorted by their first column, which is never NULL and never twice the same.
pub(super) fn checked(
    input: SendableRecordBatchStream,
    schema: SchemaRef,
    culprits: Vec<Culprit>,
) -> impl Stream<Item = Result<RecordBatch>> + Send {
    let coalescer = BatchCoalescer::new(Arc::clone(&schema), BATCH_ROWS);
    let state = State { input, schema, coalescer, last: None, culprits, ended: false };
    stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        match state.next().await {
            Ok(Some(batch)) => Some((Ok(batch), Some(state))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
}

impl State {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.coalescer.next_completed_batch() {
                self.keys_are_unique(&batch).await?;
                return Ok(Some(batch));
            }
            if self.ended {
                return Ok(None);
            }
            match self.input.next().await {
                Some(batch) => {
                    let batch = self.typed(batch?)?;
                    self.coalescer.push_batch(batch)?;
                }
                None => {
                    self.ended = true;
                    self.coalescer.finish_buffered_batch()?;
                }
            }
        }
    }

    /// The batch in exactly the schema that was promised; a NULL key is an error.
    fn typed(&self, batch: RecordBatch) -> Result<RecordBatch> {
        if batch.num_columns() > 0 && batch.column(0).null_count() > 0 {
            let population = self.culprits.first();
            let what = population.map_or("the population", |p| p.what.as_str());
            let key = self.schema.field(0).name();
            let error = Error::user(format!("{what} has rows without a key: `{key}` is NULL"));
            let error = error.hint(format!("leave them out: `WHERE {key} IS NOT NULL`, or a `not_null` check"));
            return Err(match population.and_then(|p| p.file.clone()) {
                Some(file) => error.at(Place::file(file)),
                None => error,
            });
        }
        let columns = batch.columns().iter().zip(self.schema.fields()).map(|(array, field)| {
            if array.data_type() == field.data_type() { Ok(Arc::clone(array)) } else { cast(array, field.data_type()) }
        });
        let columns: Vec<ArrayRef> = columns.collect::<std::result::Result<_, _>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    async fn keys_are_unique(&mut self, batch: &RecordBatch) -> Result<()> {
        let keys = batch.column(0);
        if keys.is_empty() {
            return Ok(());
        }
        let all = match &self.last {
            Some(last) => arrow::compute::concat(&[last.as_ref(), keys.as_ref()])?,
            None => Arc::clone(keys),
        };
        self.last = Some(keys.slice(keys.len() - 1, 1));
        let (before, after) = (all.slice(0, all.len() - 1), all.slice(1, all.len() - 1));
        let same = arrow::compute::kernels::cmp::eq(&before, &after)?;
        let Some(row) = same.values().set_indices().next() else { return Ok(()) };
        let key = ScalarValue::try_from_array(&before, row)?;
        Err(blame(&self.culprits, &key).await?)
    }
}

/// Says who has the key twice.
async fn blame(culprits: &[Culprit], key: &ScalarValue) -> Result<Error> {
    for culprit in culprits {
        let rows = culprit.frame.clone().filter(named(Part::KEY).eq(lit(key.clone())))?.count().await?;
        if rows > 1 {
            let error = Error::user(format!("{} has the key `{key}` {rows} times", culprit.what))
                .hint("one row per key: add a `GROUP BY`, or a `unique` check on the table");
            return Ok(match &culprit.file {
                Some(file) => error.at(Place::file(file)),
                None => error,
            });
        }
    }
    Ok(Error::user(format!("the key `{key}` is there twice")))
}
