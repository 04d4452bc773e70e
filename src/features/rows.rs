//! The last look at the rows: batches of one size, no key missing, none twice.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::{BatchCoalescer, cast};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::lit;
use datafusion::prelude::DataFrame;
use futures::{Stream, StreamExt, stream};

use super::matrix::named;
use super::part::Part;
use crate::error::Place;
use crate::lake::publish::PopulationCount;
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

/// Looks at the rows of one matrix.
pub(super) struct Checker {
    schema: SchemaRef,
    coalescer: BatchCoalescer,
    /// The last key of the batch before.
    last: Option<ArrayRef>,
    culprits: Vec<Culprit>,
    uncut: bool,
    /// The rows that there have to be, where that is known.
    expected: Option<PopulationCount>,
    given: usize,
}

/// Rows in batches of [`BATCH_ROWS`], sorted by their first column, which is never NULL and never twice the same.
pub(super) fn checked<E>(
    input: impl Stream<Item = Result<RecordBatch, E>> + Send + Unpin,
    checker: Checker,
) -> impl Stream<Item = Result<RecordBatch>> + Send
where
    Error: From<E>,
    E: Send,
{
    let state = Some((input, checker, VecDeque::new()));
    stream::unfold(state, |state| async move {
        let (mut input, mut checker, mut ready): (_, Checker, VecDeque<RecordBatch>) = state?;
        loop {
            if let Some(batch) = ready.pop_front() {
                return Some((Ok(batch), Some((input, checker, ready))));
            }
            let more = match input.next().await {
                Some(Ok(batch)) => checker.push(batch).await,
                Some(Err(error)) => Err(error.into()),
                None => match checker.finish().await {
                    Ok(last) => return Some((Ok(last?), None)),
                    Err(error) => Err(error),
                },
            };
            match more {
                Ok(batches) => ready.extend(batches),
                Err(error) => return Some((Err(error), None)),
            }
        }
    })
}

impl Checker {
    /// Of a matrix with this schema; the culprits are whom to ask when a key comes twice.
    pub(super) fn new(schema: SchemaRef, culprits: Vec<Culprit>) -> Self {
        let coalescer = BatchCoalescer::new(Arc::clone(&schema), BATCH_ROWS);
        Checker { schema, coalescer, last: None, culprits, uncut: false, expected: None, given: 0 }
    }

    /// Batches keep their sizes.
    pub(super) fn uncut(self) -> Self {
        Checker { uncut: true, ..self }
    }

    /// Rows that are missing at the end are an error.
    pub(super) fn of_population(self, population: PopulationCount) -> Self {
        Checker { expected: Some(population), ..self }
    }

    /// Whether a key comes twice, and who has it so.
    pub(super) async fn blame(&self, key: &ScalarValue) -> Result<Error> {
        blame(&self.culprits, key).await
    }

    /// Takes rows in; gives whole batches.
    pub(super) async fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        let batch = self.typed(batch)?;
        self.given += batch.num_rows();
        if self.uncut {
            self.keys_are_unique(&batch).await?;
            return Ok(vec![batch]);
        }
        let mut ready = Vec::new();
        let mut from = 0;
        // Whole batches pass as they are.
        while self.coalescer.is_empty() && batch.num_rows() - from >= BATCH_ROWS {
            ready.push(batch.slice(from, BATCH_ROWS));
            from += BATCH_ROWS;
        }
        self.coalescer.push_batch(batch.slice(from, batch.num_rows() - from))?;
        while let Some(batch) = self.coalescer.next_completed_batch() {
            ready.push(batch);
        }
        for batch in &ready {
            self.keys_are_unique(batch).await?;
        }
        Ok(ready)
    }

    /// The rows that are left.
    pub(super) async fn finish(&mut self) -> Result<Option<RecordBatch>> {
        self.coalescer.finish_buffered_batch()?;
        let last = self.coalescer.next_completed_batch();
        if let Some(batch) = &last {
            self.keys_are_unique(batch).await?;
        }
        if let Some(population) = self.expected {
            population.check("the matrix", self.given as u64)?;
        }
        Ok(last)
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
