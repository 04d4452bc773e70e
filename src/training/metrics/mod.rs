//! How good predictions are. Every metric is defined so that the order of the rows does not matter and ties are averaged;
//! only the deciles break ties, by the order of the rows, which is that of the key.
//!
//! Each metric is here in its plainest form; [`weighted`] has the form that a bootstrap repeats hundreds of times.

mod catalogue;
pub mod weighted;

pub use catalogue::{Better, Metric};

use crate::model::heads::QUANTILES;

/// The share of customers that count as the top of a ranking.
const TOP: f64 = 0.1;
/// Probabilities are clipped to this much from 0 and 1, for the log loss alone.
const EPSILON: f64 = 1e-6;
/// A perfect order with less Gini than this is no order: all labels are equal, and what is left is rounding.
const NO_ORDER: f64 = 1e-12;

/// Ranks from 1, ties averaged.
pub fn average_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for block in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = start as f64 + (block.len() + 1) as f64 / 2.0;
        block.iter().for_each(|row| ranks[*row] = rank);
        start += block.len();
    }
    ranks
}

/// Spearman's rank correlation; NaN where one side is constant.
pub fn spearman(labels: &[f64], scores: &[f64]) -> f64 {
    correlation(&average_ranks(labels), &average_ranks(scores))
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x - mean_a, y - mean_b);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    ab / (aa * bb).sqrt()
}

/// Labels in descending order of score; within equal scores every label is the mean of its block.
fn tie_averaged(labels: &[f64], scores: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut sorted = Vec::with_capacity(scores.len());
    for block in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let mean = block.iter().map(|row| labels[*row]).sum::<f64>() / block.len() as f64;
        sorted.extend(std::iter::repeat_n(mean, block.len()));
    }
    sorted
}

fn gini(labels: &[f64], scores: &[f64]) -> f64 {
    let sorted = tie_averaged(labels, scores);
    let total: f64 = sorted.iter().sum();
    let n = sorted.len() as f64;
    let mut running = 0.0;
    let area: f64 = sorted
        .iter()
        .map(|label| {
            running += label;
            running / total
        })
        .sum();
    (area - (n + 1.0) / 2.0) / n
}

/// Gini of the labels in descending order of score over that of the perfect order; NaN where no order is better than any.
pub fn normalized_gini(labels: &[f64], scores: &[f64]) -> f64 {
    let best = gini(labels, labels);
    if best.abs() < NO_ORDER { f64::NAN } else { gini(labels, scores) / best }
}

/// Area under the ROC curve for labels 0 and 1; NaN with one class.
pub fn auc(labels: &[f64], scores: &[f64]) -> f64 {
    let positive = labels.iter().filter(|l| **l == 1.0).count() as f64;
    let negative = labels.len() as f64 - positive;
    let ranks: f64 = average_ranks(scores).iter().zip(labels).filter(|(_, l)| **l == 1.0).map(|(rank, _)| rank).sum();
    (ranks - positive * (positive + 1.0) / 2.0) / (positive * negative)
}

/// Step-wise area under precision and recall, one threshold per distinct score; NaN without positives.
pub fn average_precision(labels: &[f64], scores: &[f64]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let positive: f64 = labels.iter().sum();
    let (mut hits, mut seen, mut area) = (0.0, 0.0, 0.0);
    for block in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let found: f64 = block.iter().map(|row| labels[*row]).sum();
        hits += found;
        seen += block.len() as f64;
        area += found / positive * (hits / seen);
    }
    area
}

/// Mean negative log-likelihood, natural logarithm.
pub fn log_loss(labels: &[f64], probabilities: &[f64]) -> f64 {
    let of = |(label, p): (&f64, &f64)| {
        let p = p.clamp(EPSILON, 1.0 - EPSILON);
        -(label * p.ln() + (1.0 - label) * (1.0 - p).ln())
    };
    labels.iter().zip(probabilities).map(of).sum::<f64>() / labels.len() as f64
}

/// Mean squared error of probabilities.
pub fn brier(labels: &[f64], probabilities: &[f64]) -> f64 {
    mean_of(labels, probabilities, |label, p| (p - label).powi(2))
}

/// Expected calibration error over ten bins of equal width.
pub fn calibration_error(labels: &[f64], probabilities: &[f64]) -> f64 {
    let mut bins = [(0.0, 0.0); 10];
    for (label, p) in labels.iter().zip(probabilities) {
        let bin = &mut bins[((p * 10.0) as usize).min(9)];
        bin.0 += p;
        bin.1 += label;
    }
    bins.iter().map(|(p, label)| (p - label).abs()).sum::<f64>() / labels.len() as f64
}

/// Mean absolute error.
pub fn mae(labels: &[f64], scores: &[f64]) -> f64 {
    mean_of(labels, scores, |label, score| (score - label).abs())
}

/// Root of the mean squared error.
pub fn rmse(labels: &[f64], scores: &[f64]) -> f64 {
    mean_of(labels, scores, |label, score| (score - label).powi(2)).sqrt()
}

/// Where a value is expected four times in five: from its 10 % to its 90 % quantile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// p10.
    pub low: f64,
    /// p90.
    pub high: f64,
    /// P(value = 0).
    pub zero: f64,
}

impl Interval {
    /// How much of a label lies within. A positive one does if it stands from p10 to p90. A 0 stands for all the levels of
    /// its distribution from 0 to P(value = 0), and counts by the share of them between 10 % and 90 %. That is the mean of
    /// the randomised probability integral transform (Czado, Gneiting, Held 2009), and 0.8 on average if the distribution
    /// is right, however probable a 0 is.
    pub fn covers(&self, label: f64) -> f64 {
        let [low, _, high] = QUANTILES;
        if label > 0.0 {
            f64::from(self.low <= label && label <= self.high)
        } else if self.zero <= low {
            0.0
        } else {
            (self.zero.min(high) - low) / self.zero
        }
    }
}

/// How much of the labels lies within their intervals.
pub fn coverage(labels: &[f64], intervals: &[Interval]) -> f64 {
    labels.iter().zip(intervals).map(|(label, interval)| interval.covers(*label)).sum::<f64>() / labels.len() as f64
}

/// (total predicted − total) / total, signed; NaN where the total is 0.
pub fn total_bias(labels: &[f64], scores: &[f64]) -> f64 {
    let total: f64 = labels.iter().sum();
    if total == 0.0 { f64::NAN } else { (scores.iter().sum::<f64>() - total) / total }
}

/// What the ten groups of descending prediction say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deciles {
    /// Mean over the deciles of |mean predicted − mean label| / mean label; deciles with label 0 are left out.
    pub mape: f64,
    /// Sum over the deciles of |predicted − label| / total label.
    pub wape: f64,
}

/// Errors of the deciles; sizes differ by at most one, the larger ones first.
pub fn deciles(labels: &[f64], scores: &[f64]) -> Deciles {
    let n = scores.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let (mut ratios, mut gap, mut start) = (Vec::new(), 0.0, 0);
    for decile in 0..10 {
        let end = start + n / 10 + usize::from(decile < n % 10);
        let label: f64 = order[start..end].iter().map(|row| labels[*row]).sum();
        let score: f64 = order[start..end].iter().map(|row| scores[*row]).sum();
        gap += (score - label).abs();
        if label > 0.0 {
            ratios.push((score - label).abs() / label);
        }
        start = end;
    }
    let total: f64 = labels.iter().sum();
    Deciles { mape: mean(&ratios), wape: if total > 0.0 { gap / total } else { f64::NAN } }
}

/// The share of the labels' total that the tenth with the highest scores holds.
pub fn top_decile_share(labels: &[f64], scores: &[f64]) -> f64 {
    let sorted = tie_averaged(labels, scores);
    let top = (TOP * sorted.len() as f64).ceil() as usize;
    sorted[..top].iter().sum::<f64>() / sorted.iter().sum::<f64>()
}

/// How many times its fair share the tenth with the highest scores holds.
pub fn top_decile_lift(labels: &[f64], scores: &[f64]) -> f64 {
    let top = (TOP * labels.len() as f64).ceil() / labels.len() as f64;
    top_decile_share(labels, scores) / top
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn mean_of(labels: &[f64], scores: &[f64], of: impl Fn(f64, f64) -> f64) -> f64 {
    labels.iter().zip(scores).map(|(label, score)| of(*label, *score)).sum::<f64>() / labels.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12 * b.abs().max(1.0), "{a} is not {b}");
    }

    #[test]
    fn tied_values_share_their_mean_rank() {
        assert_eq!(average_ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
    }

    #[test]
    fn the_perfect_order_has_gini_one_and_the_reverse_minus_one() {
        let labels = [0.0, 1.0, 5.0, 2.0];
        close(normalized_gini(&labels, &labels), 1.0);
        close(normalized_gini(&labels, &labels.map(|l: f64| -l)), -1.0);
        close(normalized_gini(&labels, &[7.0; 4]), 0.0);
    }

    #[test]
    fn by_hand_four_customers() {
        // Scores rank customers c, a, b, d; churned are a and c.
        let (labels, scores) = ([1.0, 0.0, 1.0, 0.0], [0.8, 0.6, 0.9, 0.1]);
        close(auc(&labels, &scores), 1.0);
        close(average_precision(&labels, &scores), 1.0);
        close(brier(&labels, &scores), (0.04 + 0.36 + 0.01 + 0.01) / 4.0);
        // Bins 8, 6, 9, 1 hold one customer each.
        close(calibration_error(&labels, &scores), (0.2 + 0.6 + 0.1 + 0.1) / 4.0);
        close(log_loss(&labels, &scores), -(0.8_f64.ln() + 0.4_f64.ln() + 2.0 * 0.9_f64.ln()) / 4.0);
    }

    #[test]
    fn a_tie_across_the_border_of_the_top_counts_with_its_mean() {
        let mut labels = [0.0; 20];
        labels[0] = 10.0;
        let scores = [1.0; 20];
        close(top_decile_share(&labels, &scores), 0.1);
        close(top_decile_lift(&labels, &scores), 1.0);
        let mut scores = [0.0; 20];
        scores[0] = 1.0;
        close(top_decile_lift(&labels, &scores), 10.0);
    }

    #[test]
    fn a_decile_without_value_has_no_ratio() {
        let labels: Vec<f64> = (0..10).map(|i| if i < 5 { 10.0 } else { 0.0 }).collect();
        let scores: Vec<f64> = (0..10).map(|i| if i < 5 { 20.0 - i as f64 } else { 1.0 }).collect();
        let found = deciles(&labels, &scores);
        close(found.mape, (1.0 + 0.9 + 0.8 + 0.7 + 0.6) / 5.0);
        close(found.wape, (10.0 + 9.0 + 8.0 + 7.0 + 6.0 + 5.0) / 50.0);
    }

    #[test]
    fn total_bias_has_a_sign() {
        close(total_bias(&[2.0, 2.0], &[1.0, 1.0]), -0.5);
        assert!(total_bias(&[0.0], &[1.0]).is_nan());
    }

    #[test]
    fn a_zero_counts_by_the_share_of_its_atom_that_lies_between_the_levels() {
        let of = |zero: f64| Interval { low: 0.0, high: 5.0, zero };
        close(of(0.84).covers(0.0), 0.74 / 0.84);
        close(of(0.95).covers(0.0), 0.8 / 0.95);
        close(of(0.05).covers(0.0), 0.0);
        close(of(0.0).covers(0.0), 0.0);
        assert_eq!((of(0.84).covers(5.0), of(0.84).covers(5.1)), (1.0, 0.0));
        close(coverage(&[0.0, 3.0], &[of(0.84), of(0.5)]), (0.74 / 0.84 + 1.0) / 2.0);
    }

    #[test]
    fn a_distribution_that_is_right_covers_four_fifths_however_probable_a_zero_is() {
        for p in [0.02, 0.08, 0.16, 0.5, 0.93, 0.999] {
            let z = crate::model::heads::Ziln { p, mu: 1.0, sigma: 1.5 };
            let interval = Interval { low: z.quantile(0.1, 50.0), high: z.quantile(0.9, 50.0), zero: 1.0 - p };
            let labels: Vec<f64> = (0..100_000).map(|i| z.quantile((f64::from(i) + 0.5) / 1e5, 50.0)).collect();
            let found = coverage(&labels, &vec![interval; labels.len()]);
            assert!((found - 0.8).abs() < 1e-3, "{p}: {found}");
        }
    }

    #[test]
    fn metrics_are_those_of_scipy_and_scikit_learn() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../../fixtures/metrics/metrics.json")).unwrap();
        let column = |name: &str| -> Vec<f64> { serde_json::from_value(golden[name].clone()).unwrap() };
        let (value, score, churned, p) = (column("value"), column("score"), column("churned"), column("p"));
        let found = [
            ("spearman", spearman(&value, &score)),
            ("gini_norm", normalized_gini(&value, &score)),
            ("auc", auc(&churned, &p)),
            ("average_precision", average_precision(&churned, &p)),
            ("log_loss", log_loss(&churned, &p)),
            ("brier", brier(&churned, &p)),
            ("calibration_error", calibration_error(&churned, &p)),
            ("mae", mae(&value, &score)),
            ("rmse", rmse(&value, &score)),
            ("total_bias", total_bias(&value, &score)),
            ("decile_mape", deciles(&value, &score).mape),
            ("decile_wape", deciles(&value, &score).wape),
            ("top_decile_share", top_decile_share(&value, &score)),
            ("top_decile_lift", top_decile_lift(&value, &score)),
        ];
        for (name, found) in found {
            let expected = golden["metrics"][name].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "{name}: {found}, not {expected}");
        }
    }
}
