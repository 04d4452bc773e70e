//! The published form of predictions.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::heads::{Head, Prediction};
use crate::Result;
use crate::spec::{Loss, columns_of};

/// The reason of a row whose outputs are not all finite.
pub const NOT_FINITE: &str = "not finite";

/// The columns that scoring adds with these heads of a trained model, as [`crate::spec::score_columns`] has them.
pub fn score_columns_of(heads: &[Head]) -> Vec<(String, DataType, String)> {
    columns_of(&named(heads))
}

fn named(heads: &[Head]) -> Vec<(&str, &str, &Loss)> {
    heads.iter().map(|h| (h.name.as_str(), h.label.as_str(), &h.loss)).collect()
}

/// The schema of the scores of a model's heads; every column is nullable.
pub(super) fn score_schema(heads: &[Head]) -> SchemaRef {
    let fields = columns_of(&named(heads)).into_iter().map(|(name, data_type, _)| Field::new(name, data_type, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Predictions as a batch of the columns of [`score_columns_of`]; what is not finite is the reason of those that are missing.
pub fn score_batch(heads: &[Head], predicted: &[Option<Vec<Prediction>>]) -> Result<RecordBatch> {
    let reasons: Vec<Option<String>> =
        predicted.iter().map(|row| row.is_none().then(|| NOT_FINITE.to_owned())).collect();
    scores(heads, &score_schema(heads), predicted, &reasons)
}

/// Predictions as a batch; a row without them is NULL in every column but the reason.
pub(super) fn scores(
    heads: &[Head],
    schema: &SchemaRef,
    predicted: &[Option<Vec<Prediction>>],
    reasons: &[Option<String>],
) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (place, head) in heads.iter().enumerate() {
        let of_head = || predicted.iter().map(|row| row.as_ref().map(|row| row[place]));
        let mut number = |of: &dyn Fn(Prediction) -> f64| {
            columns.push(Arc::new(Float64Array::from_iter(of_head().map(|p| p.map(of)))));
        };
        match head.loss {
            Loss::Bce | Loss::Mse => number(&|p| p.point()),
            Loss::Ziln => {
                number(&|p| p.point());
                for level in 0..3 {
                    number(&|p| if let Prediction::Value { quantiles, .. } = p { quantiles[level] } else { p.point() });
                }
                number(&|p| if let Prediction::Value { zero, .. } = p { zero } else { p.point() });
            }
            Loss::Softmax => {
                let class = |p: Prediction| match p {
                    Prediction::Class(class, _) => head.classes.get(class).map(String::as_str),
                    _ => None,
                };
                columns.push(Arc::new(StringArray::from_iter(of_head().map(|p| p.and_then(class)))));
                columns.push(Arc::new(Float64Array::from_iter(of_head().map(|p| p.map(|p| p.point())))));
            }
        }
    }
    columns.push(Arc::new(StringArray::from_iter(reasons.iter().map(Option::as_deref))));
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}
