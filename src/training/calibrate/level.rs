//! One factor for all values of a head: it moves the total and no order.
//!
//! What a factor measured on a validating snapshot says of later ones is a question of its own: where the total drifts, the
//! model that is fitted again on newer rows has followed a part of the drift already.

use std::collections::BTreeMap;

use super::{Row, Value};
use crate::model::calibration::Level;

/// The factor stays within these bounds.
const BOUNDS: [f64; 2] = [0.5, 2.0];
/// With fewer positive labels than this there is no factor.
const FEW_POSITIVE: usize = 30;

/// How the factor of a head is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LevelEstimator {
    /// There is none.
    Off,
    /// Realised over predicted total on the calibrating rows, shrunk towards 1 where it is not sure.
    Ratio,
}

impl LevelEstimator {
    /// The factor, if there is to be one and the rows can say it.
    pub(super) fn estimate(self, rows: &[Row<Value>]) -> Option<Level> {
        match self {
            LevelEstimator::Off => None,
            LevelEstimator::Ratio => ratio(rows),
        }
    }
}

/// Σ label / Σ predicted. Its logarithm is shrunk by the James-Stein factor 1 − (error / ln ratio)², at least 0; the error is
/// that of the delta method over customers.
fn ratio(rows: &[Row<Value>]) -> Option<Level> {
    let mut customers: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for row in rows {
        let of = customers.entry(row.customer).or_default();
        *of = (of.0 + row.label, of.1 + row.said.mean);
    }
    let (realised, predicted) = customers.values().fold((0.0, 0.0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    let positive = rows.iter().filter(|row| row.label > 0.0).count();
    if positive < FEW_POSITIVE || predicted <= 0.0 {
        return None;
    }
    let measured = realised / predicted;
    let squares: f64 = customers.values().map(|(label, said)| (label - measured * said).powi(2)).sum();
    let error = squares.sqrt() / realised;
    let off = measured.ln();
    let kept = if off == 0.0 { 0.0 } else { (1.0 - (error / off).powi(2)).max(0.0) };
    let factor = (kept * off).exp().clamp(BOUNDS[0], BOUNDS[1]);
    Some(Level { factor, measured, error, rows: rows.len() })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::model::heads::Ziln;

    /// A third buys; the model says `factor` times too little.
    fn rows(n: u32, factor: f64) -> Vec<Row<Value>> {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let row = |customer| {
            let z = Ziln { p: 0.33, mu: random.random_range(1.0..3.0), sigma: 1.0 };
            let said = Value { mean: z.mean(30.0) / factor, distribution: z };
            Row { said, label: z.quantile(random.random_range(0.0..1.0), 30.0), customer }
        };
        (0..n).map(row).collect()
    }

    #[test]
    fn a_total_that_is_surely_off_is_set_right_and_one_that_is_not_is_left() {
        let level = ratio(&rows(20_000, 1.3)).unwrap();
        assert!((level.factor - 1.3).abs() < 0.06, "{level:?}");
        assert!(level.factor < level.measured);
        let level = ratio(&rows(500, 1.02)).unwrap();
        assert!((level.factor - 1.0).abs() < (level.measured - 1.0).abs(), "{level:?}");
    }

    #[test]
    fn a_factor_keeps_within_its_bounds_and_needs_buyers() {
        assert_eq!(ratio(&rows(20_000, 5.0)).unwrap().factor, 2.0);
        assert_eq!(ratio(&rows(20_000, 0.1)).unwrap().factor, 0.5);
        assert_eq!(ratio(&rows(40, 1.0)), None);
        assert_eq!(ratio(&[]), None);
    }

    #[test]
    fn the_error_is_that_of_repeated_samples() {
        let ratios: Vec<f64> = rows(60_000, 1.0).chunks(300).map(|part| ratio(part).unwrap().measured.ln()).collect();
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        let spread = (ratios.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / ratios.len() as f64).sqrt();
        let error = rows(60_000, 1.0).chunks(300).map(|part| ratio(part).unwrap().error).sum::<f64>() / 200.0;
        assert!((error / spread - 1.0).abs() < 0.2, "{error} {spread}");
    }
}
