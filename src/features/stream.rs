//! The matrix as a stream of record batches, one row per customer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures::{Stream, StreamExt};

use super::NotFinite;
use super::explain::Explainer;
use crate::lake::publish::PopulationCount;
use crate::{AsOf, Result};

/// Record batches with one row per customer, sorted by key; the key is the first column and never NULL.
pub struct FeatureStream {
    schema: SchemaRef,
    as_of: AsOf,
    not_finite: NotFinite,
    batches: Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>,
    population: Option<PopulationCount>,
}

impl FeatureStream {
    /// Wraps a stream of batches of this schema.
    pub fn new(
        schema: SchemaRef,
        as_of: AsOf,
        batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    ) -> Self {
        let not_finite = NotFinite::default();
        FeatureStream { schema, as_of, not_finite, batches: Box::pin(batches), population: None }
    }

    /// The same with what is counted of numbers that are not finite.
    pub fn with_not_finite(self, not_finite: NotFinite) -> Self {
        FeatureStream { not_finite, ..self }
    }

    /// What is counted of numbers that are not finite while the rows come.
    pub fn not_finite(&self) -> &NotFinite {
        &self.not_finite
    }

    /// The same with errors in the words of the files that they come from.
    pub(super) fn explained(self, explainer: Explainer) -> Self {
        let explainer = Arc::new(explainer);
        let batches = self.batches.then(move |batch| {
            let explainer = Arc::clone(&explainer);
            async move {
                match batch {
                    Ok(batch) => Ok(batch),
                    Err(error) => Err(explainer.any_file(error).await),
                }
            }
        });
        FeatureStream { batches: Box::pin(batches), ..self }
    }

    /// The schema of every batch; the key comes first.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The same rows, of a population that was counted when it was read.
    pub fn with_population(self, population: Option<PopulationCount>) -> Self {
        FeatureStream { population, ..self }
    }

    /// How many rows there have to be, as the population says and not these rows; `None` where it was not counted.
    pub fn population(&self) -> Option<PopulationCount> {
        self.population
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
