//! Values too small to be told apart.
//!
//! Where most customers will spend nothing, the order among the many smallest predictions is mostly noise, and rank
//! correlation pays for it. The floor publishes one common value, their mean, for all predictions below a threshold: the
//! total stays what it was. It is used only if the validation snapshot, which the judged model has not seen, shows that
//! Spearman's correlation gains and the ranking of the value (normalized Gini) stays.

use super::metrics::{normalized_gini, spearman};
use crate::model::heads::ValueFloor;

/// Spearman's correlation must gain at least this much.
const GAIN: f64 = 0.005;
/// Normalized Gini may lose at most this share of itself.
const GINI_LOSS: f64 = 0.001;
/// Shares of customers that are tried, in steps.
const STEPS: usize = 18;
const STEP: f64 = 0.05;

/// The share of customers whose values should be pooled, and Spearman's correlation without and with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FloorShare {
    share: f64,
    spearman: (f64, f64),
}

/// Finds the share on predictions of customers that the model has not seen; `None` where no floor helps.
pub fn find(labels: &[f64], predicted: &[f64]) -> Option<FloorShare> {
    let plain = spearman(labels, predicted);
    let gini = normalized_gini(labels, predicted);
    let mut best: Option<FloorShare> = None;
    for step in 1..=STEPS {
        let share = step as f64 * STEP;
        let floor = FloorShare { share, spearman: (plain, f64::NAN) }.at(predicted)?;
        let pooled: Vec<f64> = predicted.iter().map(|v| if *v < floor.below { floor.shared } else { *v }).collect();
        let with = spearman(labels, &pooled);
        let keeps_gini = normalized_gini(labels, &pooled) >= gini - GINI_LOSS * gini.abs();
        if keeps_gini && with >= best.map_or(plain + GAIN, |b| b.spearman.1) {
            best = Some(FloorShare { share, spearman: (plain, with) });
        }
    }
    best
}

impl FloorShare {
    /// The floor of a model that predicted these values for the newest snapshot.
    pub fn at(&self, predicted: &[f64]) -> Option<ValueFloor> {
        let mut sorted = predicted.to_vec();
        sorted.sort_by(f64::total_cmp);
        let below = *sorted.get((self.share * sorted.len() as f64) as usize)?;
        let pooled = &sorted[..sorted.partition_point(|v| *v < below)];
        if pooled.is_empty() {
            return Some(ValueFloor { below, shared: below, share: 0.0, spearman: self.spearman });
        }
        let shared = pooled.iter().sum::<f64>() / pooled.len() as f64;
        Some(ValueFloor { below, shared, share: self.share, spearman: self.spearman })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nine tenths buy nothing and are predicted in the order of their number; the rest are predicted well.
    fn mostly_zero() -> (Vec<f64>, Vec<f64>) {
        let labels: Vec<f64> = (0..1000).map(|i| if i >= 900 { i as f64 } else { 0.0 }).collect();
        let predicted: Vec<f64> =
            (0..1000).map(|i| if i >= 900 { i as f64 } else { ((i * 37) % 900) as f64 / 1e4 }).collect();
        (labels, predicted)
    }

    #[test]
    fn noise_among_the_smallest_is_pooled_and_the_total_stays() {
        let (labels, predicted) = mostly_zero();
        let found = find(&labels, &predicted).unwrap();
        let floor = found.at(&predicted).unwrap();
        assert!(floor.share > 0.8 && floor.spearman.1 > floor.spearman.0 + 0.1, "{floor:?}");
        let pooled: f64 = predicted.iter().map(|v| if *v < floor.below { floor.shared } else { *v }).sum();
        assert!((pooled / predicted.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_good_order_is_left_alone() {
        let labels: Vec<f64> = (0..500).map(f64::from).collect();
        assert_eq!(find(&labels, &labels), None);
    }
}
