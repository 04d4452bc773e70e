//! Value tiers: exact quantiles of a score.

use datafusion::dataframe::DataFrame;
use datafusion::functions::math::expr_fn::isnan;
use datafusion::prelude::{ident, not};
use futures::StreamExt;

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;

use crate::Result;

/// The upper bound of each tier, ascending; empty where nobody has a score.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Thresholds(Vec<f64>);

impl Thresholds {
    /// The exact quantiles of the only column of `scores` (Float64) over its values, NULL and NaN left out. The
    /// q-quantile of n values is the ⌈q·n⌉-th smallest.
    pub async fn compute(scores: DataFrame, quantiles: &[(String, f64)]) -> Result<Self> {
        let name = scores.schema().field(0).name().clone();
        let scores = scores.filter(ident(&name).is_not_null().and(not(isnan(ident(&name)))))?;
        let count = scores.clone().count().await?;
        if count == 0 {
            return Ok(Thresholds::default());
        }
        let ranks: Vec<usize> = quantiles.iter().map(|(_, q)| rank(*q, count)).collect();
        let mut bounds = Vec::with_capacity(ranks.len());
        let mut seen = 0;
        let mut sorted = scores.sort(vec![ident(&name).sort(true, false)])?.execute_stream().await?;
        while let Some(batch) = sorted.next().await {
            let batch = batch?;
            let values = batch.column(0).as_primitive::<Float64Type>();
            while let Some(&rank) = ranks.get(bounds.len()) {
                if rank >= seen + values.len() {
                    break;
                }
                bounds.push(values.value(rank - seen));
            }
            seen += values.len();
        }
        Ok(Thresholds(bounds))
    }

    /// The tier of a score: the lowest whose bound is not below it, so that ties share the lower tier.
    pub fn tier_of(&self, score: f64) -> Option<usize> {
        if score.is_nan() {
            return None;
        }
        self.0.iter().position(|bound| score <= *bound)
    }

    /// The upper bound of a tier.
    pub fn bound(&self, tier: usize) -> Option<f64> {
        self.0.get(tier).copied()
    }
}

/// The place, from 0, of the q-quantile among `count` sorted values.
fn rank(quantile: f64, count: usize) -> usize {
    // 0.1 × 30 is a hair above 3 in floating point: that hair must not make it 4.
    let place = (quantile * count as f64 - 1e-9).ceil() as usize;
    place.clamp(1, count) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_of_a_quantile_is_exact() {
        assert_eq!(rank(0.1, 30), 2);
        assert_eq!(rank(0.5, 5), 2);
        assert_eq!(rank(0.5, 4), 1);
        assert_eq!(rank(0.95, 20), 18);
        assert_eq!(rank(1.0, 7), 6);
        assert_eq!(rank(0.0, 7), 0);
    }

    #[test]
    fn a_tie_with_the_bound_belongs_to_the_lower_tier() {
        let thresholds = Thresholds(vec![0.0, 0.0, 5.0, 9.0]);
        assert_eq!(thresholds.tier_of(0.0), Some(0));
        assert_eq!(thresholds.tier_of(0.1), Some(2));
        assert_eq!(thresholds.tier_of(9.0), Some(3));
        assert_eq!(thresholds.tier_of(f64::NAN), None);
    }
}
