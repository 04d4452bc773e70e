//! A number as the network likes it: by rank, and by size.

use serde::{Deserialize, Serialize};

use super::Encoding;

/// Knots of the rank transform at most.
const KNOTS: usize = 64;
/// The share of values that is clipped at either end.
const TAIL: f64 = 0.001;
/// A column counts as skewed, and is taken on a signed log scale, beyond this skewness.
const SKEWED: f64 = 1.0;

/// How a number is turned into a rank-normal input, a standardised input and, where values were missing, an indicator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NumberEncoding {
    /// What stands in for a missing value: the median.
    fill: f32,
    /// The 0.1 % and 99.9 % quantiles: values beyond count as these.
    range: (f32, f32),
    /// Whether sign(x)·ln(1 + |x|) is standardised in place of x.
    log: bool,
    /// Mean and standard deviation after clipping and log.
    scale: (f64, f64),
    /// Value and its normal score, ascending: between knots the score is linear.
    knots: Vec<(f32, f32)>,
    /// Whether values were missing in training.
    missing: bool,
}

impl NumberEncoding {
    /// Fits the rows given; NaN is missing.
    pub(super) fn fit(values: &[f32], rows: &[usize]) -> Encoding {
        let mut seen: Vec<f32> = rows.iter().map(|r| values[*r]).filter(|v| v.is_finite()).collect();
        let missing = seen.len() < rows.len();
        seen.sort_by(f32::total_cmp);
        let (Some(least), Some(greatest)) = (seen.first(), seen.last()) else {
            return Encoding::Dropped("it is missing in every training row".into());
        };
        if least == greatest && !missing {
            return Encoding::Dropped("it has one value in every training row".into());
        }
        let last = (seen.len() - 1) as f64;
        let quantile = |q: f64| seen[(q * last).round() as usize];
        let range = (quantile(TAIL), quantile(1.0 - TAIL));
        let clipped: Vec<f64> = seen.iter().map(|v| f64::from(v.clamp(range.0, range.1))).collect();
        let log = skewness(&clipped).abs() > SKEWED;
        let scaled: Vec<f64> = clipped.iter().map(|v| if log { signed_log(*v) } else { *v }).collect();
        let (mean, sd) = moments(&scaled);
        let sd = if sd.is_finite() && sd > 1e-12 * mean.abs().max(1.0) { sd } else { 0.0 };
        Encoding::Number(NumberEncoding {
            fill: quantile(0.5),
            range,
            log,
            scale: (mean, sd),
            knots: knots(&seen),
            missing,
        })
    }

    pub(super) fn width(&self) -> usize {
        2 + usize::from(self.missing)
    }

    /// Writes the inputs of one value: rank-normal, standardised, missing.
    pub(super) fn write(&self, value: f32, slot: &mut [f32]) {
        let there = value.is_finite();
        let value = if there { value } else { self.fill }.clamp(self.range.0, self.range.1);
        slot[0] = self.score(value);
        slot[1] = self.standard(value);
        if self.missing {
            slot[2] = f32::from(!there);
        }
    }

    fn standard(&self, value: f32) -> f32 {
        let (mean, sd) = self.scale;
        if sd == 0.0 {
            return 0.0;
        }
        let value = f64::from(value);
        let scaled = if self.log { signed_log(value) } else { value };
        ((scaled - mean) / sd).clamp(-8.0, 8.0) as f32
    }

    fn score(&self, value: f32) -> f32 {
        let after = self.knots.partition_point(|(x, _)| *x < value);
        match (after.checked_sub(1).and_then(|i| self.knots.get(i)), self.knots.get(after)) {
            (None, None) => 0.0,
            (None, Some((_, z))) | (Some((_, z)), None) => *z,
            (Some((x0, z0)), Some((x1, z1))) => {
                let share = (f64::from(value) - f64::from(*x0)) / (f64::from(*x1) - f64::from(*x0));
                (f64::from(*z0) + share * (f64::from(*z1) - f64::from(*z0))) as f32
            }
        }
    }
}

pub(super) fn signed_log(value: f64) -> f64 {
    value.signum() * value.abs().ln_1p()
}

/// Mean and standard deviation.
pub(super) fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

fn skewness(values: &[f64]) -> f64 {
    let (mean, sd) = moments(values);
    if sd == 0.0 || !sd.is_finite() {
        return 0.0;
    }
    values.iter().map(|v| ((v - mean) / sd).powi(3)).sum::<f64>() / values.len() as f64
}

/// Values at even ranks, each with the normal score of its average rank, so that ties share one score.
fn knots(sorted: &[f32]) -> Vec<(f32, f32)> {
    let n = sorted.len();
    let steps = KNOTS.min(n);
    let mut knots: Vec<(f32, f32)> = Vec::with_capacity(steps);
    for step in 0..steps {
        let value = sorted[step * (n - 1) / (steps - 1).max(1)];
        if knots.last().is_some_and(|(x, _)| *x == value) {
            continue;
        }
        let first = sorted.partition_point(|v| *v < value);
        let end = sorted.partition_point(|v| *v <= value);
        let rank = (first + end) as f64 / 2.0 / n as f64;
        knots.push((value, normal_quantile(rank.clamp(TAIL, 1.0 - TAIL)) as f32));
    }
    knots
}

/// The standard normal's quantile function (Acklam's rational approximation, relative error below 1.2e-9).
pub(crate) fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        1.38357751867269e2,
        -3.066479806614716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 5] =
        [-5.447609879822406e1, 1.615858368580409e2, -1.556989798598866e2, 6.680131188771972e1, -1.328068155288572e1];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374_664_141_464_968,
        2.938163982698783,
    ];
    const D: [f64; 4] = [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416];
    let poly = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = |q: f64| poly(&C, q) / (poly(&D, q) * q + 1.0);
    if p <= 0.0 {
        f64::NEG_INFINITY
    } else if p >= 1.0 {
        f64::INFINITY
    } else if p < 0.02425 {
        tail((-2.0 * p.ln()).sqrt())
    } else if p > 1.0 - 0.02425 {
        -tail((-2.0 * (-p).ln_1p()).sqrt())
    } else {
        let q = p - 0.5;
        let r = q * q;
        poly(&A, r) * q / (poly(&B, r) * r + 1.0)
    }
}

/// Φ(x), to 1e-14: the Taylor series about 0 (Marsaglia 2004).
pub(crate) fn normal_cdf(x: f64) -> f64 {
    const HALF_LN_TAU: f64 = 0.918_938_533_204_672_7;
    if x.abs() > 8.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut sum, mut term, mut odd) = (x, x, 1.0);
    loop {
        odd += 2.0;
        term *= x * x / odd;
        let next = sum + term;
        if next == sum {
            return (0.5 + sum * (-0.5 * x * x - HALF_LN_TAU).exp()).clamp(0.0, 1.0);
        }
        sum = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_quantile_is_that_of_the_tables() {
        for (p, z) in [(0.5, 0.0), (0.975, 1.959963984540054), (0.9, 1.2815515655446004), (0.001, -3.090232306167813)] {
            assert!((normal_quantile(p) - z).abs() < 1e-8, "{p}");
            assert!((normal_cdf(z) - p).abs() < 1e-14, "{p}");
        }
    }

    #[test]
    fn the_normal_law_and_its_quantiles_undo_each_other() {
        for step in 1..2000 {
            let p = f64::from(step) / 2000.0;
            assert!((normal_cdf(normal_quantile(p)) - p).abs() < 1e-8, "{p}");
        }
        let far: Vec<f64> = (-40..=40).map(|x| normal_cdf(f64::from(x))).collect();
        assert!(far.windows(2).all(|pair| pair[0] <= pair[1]) && (far[0], far[80]) == (0.0, 1.0));
    }

    #[test]
    fn equal_values_share_the_score_of_their_average_rank() {
        let values: Vec<f32> = [vec![0.0; 60], (1..=40).map(|v| v as f32).collect()].concat();
        let found = knots(&values);
        assert_eq!(found[0].0, 0.0);
        assert!((f64::from(found[0].1) - normal_quantile(0.3)).abs() < 1e-6);
        assert!(found.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1));
    }

    #[test]
    fn a_heavy_tail_is_taken_on_a_log_scale() {
        let values: Vec<f32> = (0..1000).map(|i| (i as f32 / 100.0).exp()).collect();
        let rows: Vec<usize> = (0..values.len()).collect();
        let Encoding::Number(number) = NumberEncoding::fit(&values, &rows) else { panic!("dropped") };
        assert!(number.log);
        let even: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        let Encoding::Number(number) = NumberEncoding::fit(&even, &rows) else { panic!("dropped") };
        assert!(!number.log);
    }

    #[test]
    fn the_score_never_falls_as_the_value_rises() {
        let values: Vec<f32> = (0..500).map(|i| ((i * 7919) % 501) as f32 * 0.1).collect();
        let rows: Vec<usize> = (0..values.len()).collect();
        let Encoding::Number(number) = NumberEncoding::fit(&values, &rows) else { panic!("dropped") };
        let scores: Vec<f32> = (-10..600).map(|i| number.score(i as f32 * 0.1)).collect();
        assert!(scores.windows(2).all(|w| w[0] <= w[1]));
    }
}
