//! The matrix as a stream of record batches, one row per customer.

use std::pin::Pin;
use std::task::{Context, Poll};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures::Stream;

use crate::{AsOf, Result};

/// Record batches with one row per customer, sorted by key; the key is the first column and never NULL.
pub struct FeatureStream {
    schema: SchemaRef,
    as_of: AsOf,
    batches: Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>,
}

impl FeatureStream {
    /// Wraps a stream of batches of this schema.
    pub fn new(
        schema: SchemaRef,
        as_of: AsOf,
        batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    ) -> Self {
        FeatureStream { schema, as_of, batches: Box::pin(batches) }
    }

    /// The schema of every batch; the key comes first.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The date at which the rows look.
    pub fn as_of(&self) -> AsOf {
        self.as_of
    }
}

impl Stream for FeatureStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.as_mut().poll_next(cx)
    }
}
