//! Whether a head keeps the RFM regression beside its network.

use crate::model::calibration::{EDGE, logit, shift_to};
use crate::model::heads::{Prediction, sigmoid};

/// By how much a loss is greater with the regression than without, per row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Harm {
    /// On average.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
}

/// Errors beyond which a harm is believed.
const SURE: f64 = 2.0;

/// What the regression does to the predictions of `labels`, if it is harm beyond doubt. Both predictions are moved to the level
/// of the labels first: it drifts between snapshots, and the regression follows that more slowly than a network of which it is
/// to be a part.
pub fn harm(alone: &[Option<Prediction>], joined: &[Option<Prediction>], labels: &[f64]) -> Option<Harm> {
    let known = alone.iter().zip(joined).zip(labels).filter(|(_, label)| !label.is_nan());
    let known = known.filter_map(|((alone, joined), label)| Some(((*alone)?, (*joined)?, *label)));
    let (mut predictions, mut known_labels) = ([Vec::new(), Vec::new()], Vec::new());
    for (alone, joined, label) in known {
        predictions[0].push(alone);
        predictions[1].push(joined);
        known_labels.push(label);
    }
    let [alone, joined] = predictions.map(|said| losses(&said, &known_labels));
    let n = labels.len().max(2) as f64;
    let more: Vec<f64> = joined.iter().zip(&alone).map(|(joined, alone)| joined - alone).collect();
    let mean = more.iter().sum::<f64>() / n;
    let variance = more.iter().map(|more| (more - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let harm = Harm { mean, error: (variance / n).sqrt() };
    (mean > SURE * harm.error).then_some(harm)
}

/// Losses of rows at the level of their labels: cross-entropy of a probability; of a value, that of its being positive and the
/// Poisson deviance of its mean.
fn losses(said: &[Prediction], labels: &[f64]) -> Vec<f64> {
    let total: f64 = labels.iter().sum();
    let count = labels.iter().filter(|label| **label > 0.0).count() as f64;
    let probability = |said: &Prediction| match said {
        Prediction::Value { zero, .. } => 1.0 - zero,
        other => other.point(),
    };
    let shift = shift_to(count, said.iter().map(probability));
    let predicted: f64 = said.iter().map(Prediction::point).sum();
    let unit = total / labels.len() as f64;
    let loss = |(said, label): (&Prediction, &f64)| {
        let p = sigmoid(logit(probability(said)) + shift).clamp(EDGE, 1.0 - EDGE);
        let cross_entropy = -(if *label > 0.0 { p } else { 1.0 - p }).ln();
        match said {
            Prediction::Value { mean, .. } => {
                let mean = (mean * total / predicted / unit).max(EDGE);
                cross_entropy + mean - label / unit * mean.ln()
            }
            _ => cross_entropy,
        }
    };
    said.iter().zip(labels).map(loss).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(mean: f64, zero: f64) -> Option<Prediction> {
        Some(Prediction::Value { mean, zero, quantiles: [0.0; 3] })
    }

    #[test]
    fn it_goes_where_it_hides_what_the_network_knows_and_stays_where_it_does_not() {
        let labels: Vec<f64> = (0..400).map(|i| f64::from(i % 4 == 0)).collect();
        let right = |certain: f64| -> Vec<_> {
            labels.iter().map(|l| Some(Prediction::Probability(0.25 + certain * (l - 0.25)))).collect()
        };
        assert!(harm(&right(0.9), &right(0.5), &labels).is_some());
        assert_eq!(harm(&right(0.5), &right(0.9), &labels), None);
        assert_eq!(harm(&right(0.5), &right(0.5), &labels), None);
        let values = |certain: f64| -> Vec<_> {
            labels.iter().map(|l| value(0.25 + certain * (l - 0.25), 0.75 - certain * (l - 0.25))).collect()
        };
        assert!(harm(&values(0.9), &values(0.5), &labels).is_some());
        assert_eq!(harm(&values(0.5), &values(0.9), &labels), None);
    }

    #[test]
    fn another_level_is_no_reason_and_a_missing_label_none_either() {
        let mut labels: Vec<f64> = (0..400).map(|i| f64::from(i % 4 == 0)).collect();
        let at = |shift: f64| -> Vec<_> {
            let p = |i: usize| sigmoid(logit(0.05 + 0.4 * f64::from(i.is_multiple_of(4))) + shift);
            (0..400).map(|i| Some(Prediction::Probability(p(i)))).collect()
        };
        let level = shift_to(100.0, at(0.0).iter().flatten().map(Prediction::point));
        assert_eq!(harm(&at(level), &at(level + 1.0), &labels), None);
        let values = |factor: f64| -> Vec<_> { (0..400).map(|i| value(factor * (1.0 + i as f64), 0.5)).collect() };
        labels[0] = f64::NAN;
        assert_eq!(harm(&values(1.0), &values(3.0), &labels), None);
    }
}
