//! Small generalised linear models: logistic, and Gamma with a log link, by Newton's method with ridge. Inputs are piecewise
//! linear in ln(1 + x).

use serde::{Deserialize, Serialize};

use super::heads::{sigmoid, softplus};
use crate::{Error, Result};

/// Newton steps at most.
const STEPS: usize = 100;

/// The distribution of the label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// 0 or 1, logit link.
    Logistic,
    /// Positive, log link.
    Gamma,
}

/// Linear splines of ln(1 + max(x, 0)), standardised: per input the line and two hinges at a third and two thirds of the
/// range. A missing input counts as 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Splines {
    hinges: Vec<[f64; 2]>,
    scale: Vec<(f64, f64)>,
}

impl Splines {
    /// Fits knots and scales to rows of inputs.
    pub fn fit(rows: &[Vec<f64>]) -> Self {
        let width = rows.first().map_or(0, Vec::len);
        let range = |i: usize| {
            rows.iter()
                .map(|row| log(row[i]))
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)))
        };
        let hinges = (0..width).map(range).map(|(lo, hi)| [lo + (hi - lo) / 3.0, lo + (hi - lo) * 2.0 / 3.0]).collect();
        let mut splines = Splines { hinges, scale: vec![(0.0, 1.0); 3 * width] };
        let raw: Vec<Vec<f64>> = rows.iter().map(|row| splines.apply(row)).collect();
        let n = rows.len().max(1) as f64;
        for column in 0..3 * width {
            let mean = raw.iter().map(|row| row[column + 1]).sum::<f64>() / n;
            let sd = (raw.iter().map(|row| (row[column + 1] - mean).powi(2)).sum::<f64>() / n).sqrt();
            splines.scale[column] = (mean, if sd > 1e-12 { sd } else { 1.0 });
        }
        splines
    }

    /// The design row: 1, then three columns per input.
    pub fn apply(&self, row: &[f64]) -> Vec<f64> {
        let mut out = vec![1.0];
        for (i, hinges) in self.hinges.iter().enumerate() {
            let x = log(row[i]);
            for (j, value) in [x, (x - hinges[0]).max(0.0), (x - hinges[1]).max(0.0)].into_iter().enumerate() {
                let (mean, sd) = self.scale[3 * i + j];
                out.push((value - mean) / sd);
            }
        }
        out
    }
}

fn log(x: f64) -> f64 {
    if x.is_finite() { x.max(0.0).ln_1p() } else { 0.0 }
}

/// A fitted model: its first coefficient is the intercept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Glm {
    family: Family,
    coefficients: Vec<f64>,
}

impl Glm {
    /// Minimises the summed loss plus `ridge` / 2 times the squared coefficients, the intercept left out. `offsets` holds what
    /// each row's linear predictor has added to it.
    pub fn fit(family: Family, design: &[Vec<f64>], offsets: &[f64], labels: &[f64], ridge: f64) -> Result<Self> {
        let width = design.first().map_or(0, Vec::len);
        if width == 0 {
            return Err(Error::user("there is no row to fit a regression on"));
        }
        let mean = (labels.iter().sum::<f64>() / labels.len() as f64).max(1e-9);
        let mut w = vec![0.0; width];
        w[0] = match family {
            Family::Logistic => (mean.min(1.0 - 1e-9) / (1.0 - mean.min(1.0 - 1e-9))).ln(),
            Family::Gamma => mean.ln(),
        };
        let penalty = |i: usize| if i == 0 { 0.0 } else { ridge };
        let mut loss = objective(family, design, offsets, labels, ridge, &w);
        for _ in 0..STEPS {
            let mut gradient: Vec<f64> = (0..width).map(|i| penalty(i) * w[i]).collect();
            let mut hessian: Vec<Vec<f64>> = (0..width)
                .map(|i| (0..width).map(|j| if i == j { penalty(i) + 1e-9 } else { 0.0 }).collect())
                .collect();
            for ((x, offset), y) in design.iter().zip(offsets).zip(labels) {
                let (slope, curvature) = derivatives(family, dot(x, &w) + offset, *y);
                for i in 0..width {
                    gradient[i] += slope * x[i];
                    for j in 0..=i {
                        hessian[i][j] += curvature * x[i] * x[j];
                    }
                }
            }
            let direction = solve(hessian, &gradient);
            let decrement = dot(&direction, &gradient);
            // Halves the step until the loss falls.
            let mut size = 1.0;
            let moved = loop {
                let next: Vec<f64> = w.iter().zip(&direction).map(|(w, d)| w - size * d).collect();
                let next_loss = objective(family, design, offsets, labels, ridge, &next);
                if next_loss <= loss {
                    break Some((next, next_loss));
                }
                size /= 2.0;
                if size < 1e-6 {
                    break None;
                }
            };
            let Some((next, next_loss)) = moved else { break };
            (w, loss) = (next, next_loss);
            if decrement.abs() < 1e-9 * loss.abs().max(1.0) {
                break;
            }
        }
        Ok(Glm { family, coefficients: w })
    }

    /// The linear predictor of a design row: log-odds, or the log of the expected label.
    pub fn linear(&self, row: &[f64]) -> f64 {
        dot(row, &self.coefficients)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn objective(family: Family, design: &[Vec<f64>], offsets: &[f64], labels: &[f64], ridge: f64, w: &[f64]) -> f64 {
    let loss: f64 = design
        .iter()
        .zip(offsets)
        .zip(labels)
        .map(|((x, offset), y)| {
            let eta = dot(x, w) + offset;
            match family {
                Family::Logistic => softplus(eta) - y * eta,
                Family::Gamma => y * (-eta).exp() + eta,
            }
        })
        .sum();
    loss + ridge / 2.0 * w[1..].iter().map(|w| w * w).sum::<f64>()
}

/// First and second derivative of a row's loss by its linear predictor.
fn derivatives(family: Family, eta: f64, y: f64) -> (f64, f64) {
    match family {
        Family::Logistic => {
            let p = sigmoid(eta);
            (p - y, p * (1.0 - p))
        }
        Family::Gamma => {
            let ratio = y * (-eta).exp();
            (1.0 - ratio, ratio)
        }
    }
}

/// Solves H x = g for a symmetric positive definite H, given by its lower triangle (Cholesky).
fn solve(mut h: Vec<Vec<f64>>, g: &[f64]) -> Vec<f64> {
    let n = g.len();
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = h[i][j] - (0..j).map(|k| h[i][k] * h[j][k]).sum::<f64>();
            h[i][j] = if i == j { sum.max(1e-12).sqrt() } else { sum / h[j][j] };
        }
    }
    let mut x = g.to_vec();
    for i in 0..n {
        x[i] = (x[i] - (0..i).map(|k| h[i][k] * x[k]).sum::<f64>()) / h[i][i];
    }
    for i in (0..n).rev() {
        x[i] = (x[i] - (i + 1..n).map(|k| h[k][i] * x[k]).sum::<f64>()) / h[i][i];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<f64>> {
        (0..400).map(|i| vec![1.0, (i % 20) as f64 / 10.0 - 1.0, (i / 20) as f64 / 10.0 - 1.0]).collect()
    }

    #[test]
    fn a_gamma_regression_finds_the_log_linear_mean() {
        let labels: Vec<f64> = rows().iter().map(|x| (0.5 + 1.5 * x[1] - 0.7 * x[2]).exp()).collect();
        let glm = Glm::fit(Family::Gamma, &rows(), &[0.0; 400], &labels, 0.0).unwrap();
        for (found, true_value) in glm.coefficients.iter().zip([0.5, 1.5, -0.7]) {
            assert!((found - true_value).abs() < 1e-6, "{:?}", glm.coefficients);
        }
    }

    #[test]
    fn a_logistic_regression_finds_the_odds_of_two_groups() {
        // By hand: 30 of 40 in one group, 10 of 40 in the other, so the intercept is -ln 3 and the difference 2 ln 3.
        let design: Vec<Vec<f64>> = (0..80).map(|i| vec![1.0, f64::from(i < 40)]).collect();
        let labels: Vec<f64> = (0..80).map(|i| f64::from(!(30..70).contains(&i))).collect();
        let glm = Glm::fit(Family::Logistic, &design, &[0.0; 80], &labels, 0.0).unwrap();
        assert!((glm.coefficients[0] + 3.0_f64.ln()).abs() < 1e-6);
        assert!((glm.coefficients[1] - 2.0 * 3.0_f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn what_an_offset_explains_is_not_learned() {
        // One group of half ones; the other, whose odds are three times as high by its offset, has three quarters of ones.
        let design: Vec<Vec<f64>> = (0..80).map(|i| vec![1.0, f64::from(i < 40)]).collect();
        let offsets: Vec<f64> = (0..80).map(|i| if i < 40 { 3.0_f64.ln() } else { 0.0 }).collect();
        let labels: Vec<f64> = (0..80).map(|i| f64::from(!(30..60).contains(&i))).collect();
        let glm = Glm::fit(Family::Logistic, &design, &offsets, &labels, 0.0).unwrap();
        assert!(glm.coefficients.iter().all(|w| w.abs() < 1e-6), "{:?}", glm.coefficients);
    }

    #[test]
    fn separable_classes_stay_finite_under_the_ridge() {
        let labels: Vec<f64> = rows().iter().map(|x| f64::from(x[1] > 0.0)).collect();
        let glm = Glm::fit(Family::Logistic, &rows(), &[0.0; 400], &labels, 1.0).unwrap();
        assert!(glm.coefficients.iter().all(|w| w.is_finite() && w.abs() < 50.0));
        assert!(sigmoid(glm.linear(&[1.0, 0.9, 0.0])) > 0.9);
    }

    #[test]
    fn splines_take_missing_inputs_as_zero() {
        let splines = Splines::fit(&[vec![0.0], vec![10.0], vec![100.0]]);
        assert_eq!(splines.apply(&[f64::NAN]), splines.apply(&[0.0]));
        assert_eq!(splines.apply(&[-5.0]), splines.apply(&[0.0]));
        assert_eq!(splines.apply(&[3.0]).len(), 4);
    }
}
