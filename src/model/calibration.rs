//! What validation corrected in a head's predictions: its probabilities, the levels of its quantiles, its total. None of it
//! changes an order. Plain Rust; the fitting is in `training::calibrate`.

use serde::{Deserialize, Serialize};

use super::heads::{QUANTILES, Ziln, sigmoid};

/// Probabilities are kept this far from 0 and 1 before their log-odds are taken.
pub const EDGE: f64 = 1e-9;

/// A level is off by at most so much, in log-odds: probabilities between [`EDGE`] and its counterpart reach any mean.
const FARTHEST: f64 = 50.0;
/// Steps of the search for it.
const HALVINGS: usize = 55;

/// The corrections of one head, fitted on rows that the model had not seen; nothing where there were too few of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// bce: how probabilities are mapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<ProbabilityMap>,
    /// ziln: which levels of the predicted distribution the published quantiles are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantiles: Option<QuantileLevels>,
    /// ziln: what the values are multiplied by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
}

/// A map of probabilities and why it was chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbabilityMap {
    /// The map.
    pub curve: Curve,
    /// Cross-validated log loss on the rows that it was fitted on: as they came, by Platt scaling, by isotonic regression; all
    /// at the level of the labels.
    pub log_loss: [f64; 3],
    /// By how much that level was higher, in log-odds. It is no part of the map.
    pub shift: f64,
    /// These rows.
    pub rows: usize,
    /// The mean of these labels: the level at which the curve was fitted.
    #[serde(default)]
    pub mean: f64,
    /// What carries the predictions of a model to that level and back to their own.
    #[serde(default)]
    pub carry: Carry,
}

/// Log-odds that are added before a curve and after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Carry {
    /// From the level of the model to that of the curve.
    pub before: f64,
    /// Back, so that the mean of the predictions is what it was.
    pub after: f64,
}

impl ProbabilityMap {
    /// The calibrated probability.
    pub fn of(&self, p: f64) -> f64 {
        match (&self.curve, self.carry) {
            (Curve::None, _) => p,
            (curve, Carry { before, after }) if before == 0.0 && after == 0.0 => curve.of(p),
            (curve, Carry { before, after }) => sigmoid(logit(curve.of(sigmoid(logit(p) + before))) + after),
        }
    }

    /// The map for a model that says `plain` of some rows: the mean of what it makes of them is that of `plain`, whatever the
    /// curve. A curve was fitted at the level of labels; applied elsewhere, a distance from that level of `s` log-odds would
    /// become `slope` · `s`.
    pub fn at_level_of(&self, plain: &[f64]) -> ProbabilityMap {
        if self.curve == Curve::None || plain.is_empty() {
            return ProbabilityMap { carry: Carry::default(), ..self.clone() };
        }
        let before = shift_to(self.mean * plain.len() as f64, plain.iter().copied());
        let mapped = plain.iter().map(|p| self.curve.of(sigmoid(logit(*p) + before)));
        let after = shift_to(plain.iter().sum(), mapped);
        ProbabilityMap { carry: Carry { before, after }, ..self.clone() }
    }
}

/// A rising map of probabilities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curve {
    /// As they came.
    None,
    /// Log-odds become `slope` · log-odds + `intercept` (Platt 1999).
    Platt {
        /// Above 0.
        slope: f64,
        /// In log-odds.
        intercept: f64,
    },
    /// Isotonic regression (Zadrozny, Elkan 2002), straight between the centres of its blocks so that no order is lost.
    Isotonic(Polyline),
}

impl Curve {
    /// The calibrated probability.
    pub fn of(&self, p: f64) -> f64 {
        match self {
            Curve::None => p,
            Curve::Platt { slope, intercept } => sigmoid(slope * logit(p) + intercept),
            Curve::Isotonic(line) => line.at(p),
        }
    }
}

/// A line of straight pieces from (0, 0) to (1, 1), rising in every piece.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Polyline {
    /// What lies between the ends.
    points: Vec<[f64; 2]>,
}

impl Polyline {
    /// Through these points and both ends; a point that does not rise above the one before, or is not inside, is left out.
    pub fn through(points: impl IntoIterator<Item = [f64; 2]>) -> Self {
        let mut kept: Vec<[f64; 2]> = Vec::new();
        for [x, y] in points {
            let [before_x, before_y] = kept.last().copied().unwrap_or([0.0, 0.0]);
            if before_x < x && x < 1.0 && before_y < y && y < 1.0 {
                kept.push([x, y]);
            }
        }
        Polyline { points: kept }
    }

    /// y at x.
    pub fn at(&self, x: f64) -> f64 {
        self.cross(x, 0)
    }

    /// x at y.
    pub fn inverse(&self, y: f64) -> f64 {
        self.cross(y, 1)
    }

    /// The points between the ends.
    pub fn points(&self) -> &[[f64; 2]] {
        &self.points
    }

    fn cross(&self, value: f64, from: usize) -> f64 {
        let value = value.clamp(0.0, 1.0);
        let above = self.points.partition_point(|point| point[from] < value);
        let low = if above == 0 { [0.0, 0.0] } else { self.points[above - 1] };
        let high = self.points.get(above).copied().unwrap_or([1.0, 1.0]);
        let part = (value - low[from]) / (high[from] - low[from]);
        low[1 - from] + part * (high[1 - from] - low[1 - from])
    }
}

/// Where the labels really fell among the levels of their predicted distributions (Kuleshov, Fenner, Ermon 2018).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantileLevels {
    /// From a predicted level to the share of labels at or below it, at the level of the labels.
    pub shares: Polyline,
    /// By how much that level was higher: log-odds of a positive value, and its mean logarithm. It is no part of the map.
    pub shift: [f64; 2],
    /// The rows that it was fitted on.
    pub rows: usize,
}

/// What the total was off by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Values are multiplied by this.
    pub factor: f64,
    /// Realised over predicted total, as it was measured.
    pub measured: f64,
    /// The standard error of its logarithm.
    pub error: f64,
    /// The rows that it was measured on.
    pub rows: usize,
}

impl Calibration {
    /// A calibrated probability.
    pub fn probability(&self, p: f64) -> f64 {
        self.probability.as_ref().map_or(p, |map| map.of(p))
    }

    /// What an expected value is multiplied by.
    pub fn factor(&self) -> f64 {
        self.level.map_or(1.0, |level| level.factor)
    }

    /// The probability of 0 and the published quantiles of a value with the given distribution and greatest exponent.
    pub fn spread(&self, value: &Ziln, cap: f64) -> (f64, [f64; 3]) {
        let shift = self.factor().ln();
        let scaled = Ziln { mu: value.mu + shift, ..*value };
        let level = |q: f64| self.quantiles.as_ref().map_or(q, |levels| levels.shares.inverse(q));
        let zero = self.quantiles.as_ref().map_or(1.0 - value.p, |levels| levels.shares.at(1.0 - value.p));
        (zero, QUANTILES.map(|q| scaled.quantile(level(q), cap + shift)))
    }

    /// What was done, in words.
    pub fn notes(&self, head: &str) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(map) = &self.probability {
            let what = match &map.curve {
                Curve::None => "probabilities are left as they come".to_owned(),
                Curve::Platt { slope, intercept } => {
                    let intercept = slope * map.carry.before + intercept + map.carry.after;
                    format!("Platt scaling, log-odds times {slope:.4} plus {intercept:.4}, which keeps their mean")
                }
                Curve::Isotonic(line) => {
                    format!("isotonic regression in {} blocks, which keeps their mean", line.points().len())
                }
            };
            let [none, platt, isotonic] = map.log_loss;
            notes.push(format!(
                "`{head}`: {what}; cross-validated log loss on {} rows without their shift of {:+.2} log-odds: none \
                 {none:.4}, Platt {platt:.4}, isotonic {isotonic:.4}",
                map.rows, map.shift
            ));
        }
        if let Some(levels) = &self.quantiles {
            let [p10, p50, p90] = QUANTILES.map(|q| levels.shares.inverse(q));
            notes.push(format!(
                "`{head}`: p10, p50 and p90 are the predicted levels {p10:.3}, {p50:.3} and {p90:.3}, by {} rows without \
                 their shift of {:+.2} log-odds and {:+.0} %",
                levels.rows,
                levels.shift[0],
                100.0 * levels.shift[1].exp_m1()
            ));
        }
        if let Some(level) = self.level {
            notes.push(format!(
                "`{head}`: values are multiplied by {:.3}; {} rows came to {:.3} ± {:.3} times their prediction",
                level.factor, level.rows, level.measured, level.error
            ));
        }
        notes
    }
}

/// The log-odds of a probability, which is kept off 0 and 1.
pub fn logit(p: f64) -> f64 {
    let p = p.clamp(EDGE, 1.0 - EDGE);
    (p / (1.0 - p)).ln()
}

/// How far all log-odds have to move for the probabilities to add up to `total`, which lies between 0 and their number.
pub fn shift_to(total: f64, probabilities: impl Iterator<Item = f64>) -> f64 {
    let log_odds: Vec<f64> = probabilities.map(logit).collect();
    let (mut low, mut high) = (-FARTHEST, FARTHEST);
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        let sum: f64 = log_odds.iter().map(|z| sigmoid(z + middle)).sum();
        if sum < total { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_line() -> impl Strategy<Value = Polyline> {
        prop::collection::vec(prop::array::uniform2(0.0..1.0f64), 0..12).prop_map(|mut points| {
            points.sort_by(|a, b| a[0].total_cmp(&b[0]));
            Polyline::through(points)
        })
    }

    proptest! {
        #[test]
        fn a_polyline_and_its_inverse_undo_each_other_and_rise(line in any_line(), a in 0.0..1.0f64, b in 0.0..1.0f64) {
            prop_assert!((line.inverse(line.at(a)) - a).abs() < 1e-6);
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(line.at(low) <= line.at(high) && (0.0..=1.0).contains(&line.at(high)));
            prop_assert!((line.at(0.0), line.at(1.0)) == (0.0, 1.0));
        }

        #[test]
        fn a_level_survives_any_slope_any_line_and_any_shift(
            z in prop::collection::vec(-3.0..3.0f64, 20..200), mean in 0.05..0.95f64, moved in -4.0..4.0f64,
            slope in 0.05..40.0f64, intercept in -30.0..30.0f64, line in any_line(), platt in any::<bool>(),
        ) {
            let curve = if platt { Curve::Platt { slope, intercept } } else { Curve::Isotonic(line) };
            let map = ProbabilityMap { curve, log_loss: [0.0; 3], shift: 0.0, rows: 1000, mean, carry: Carry::default() };
            let plain: Vec<f64> = z.iter().map(|z| sigmoid(z + moved)).collect();
            let map = map.at_level_of(&plain);
            let meant = plain.iter().sum::<f64>() / plain.len() as f64;
            let said = plain.iter().map(|p| map.of(*p)).sum::<f64>() / plain.len() as f64;
            prop_assert!((said - meant).abs() < 1e-3, "{said} for {meant}: {map:?}");
            let mut sorted = plain.clone();
            sorted.sort_by(f64::total_cmp);
            prop_assert!(sorted.windows(2).all(|pair| map.of(pair[0]) <= map.of(pair[1]) + 1e-12));
        }

        #[test]
        fn calibrated_quantiles_are_finite_and_ordered_and_agree_with_the_atom(
            shares in any_line(), p in 0.0..=1.0f64, mu in -20.0..20.0f64, sigma in 1e-3..20.0f64, factor in 0.5..2.0f64,
        ) {
            let calibration = Calibration {
                quantiles: Some(QuantileLevels { shares, shift: [0.0; 2], rows: 1000 }),
                level: Some(Level { factor, measured: factor, error: 0.1, rows: 1000 }),
                ..Calibration::default()
            };
            let (zero, quantiles) = calibration.spread(&Ziln { p, mu, sigma }, 20.0);
            prop_assert!((0.0..=1.0).contains(&zero));
            prop_assert!(quantiles.iter().all(|q| q.is_finite() && *q >= 0.0));
            prop_assert!(quantiles.windows(2).all(|pair| pair[0] <= pair[1]), "{quantiles:?}");
            for (level, quantile) in QUANTILES.iter().zip(quantiles) {
                let doubt = (zero - level).abs() < 1e-9;
                prop_assert!(doubt || (quantile == 0.0) == (zero >= *level) || mu < -10.0, "{zero} {quantiles:?}");
            }
        }
    }

    #[test]
    fn without_corrections_everything_is_as_it_came() {
        let (calibration, value) = (Calibration::default(), Ziln { p: 0.6, mu: 1.0, sigma: 0.5 });
        assert_eq!((calibration.probability(0.3), calibration.factor()), (0.3, 1.0));
        let (zero, quantiles) = calibration.spread(&value, 20.0);
        assert_eq!((zero, quantiles), (1.0 - 0.6, QUANTILES.map(|q| value.quantile(q, 20.0))));
    }

    #[test]
    fn a_factor_moves_quantiles_like_the_mean() {
        let level = Level { factor: 1.5, measured: 1.6, error: 0.1, rows: 10 };
        let value = Ziln { p: 0.95, mu: 1.0, sigma: 0.5 };
        let (_, plain) = Calibration::default().spread(&value, 20.0);
        let (_, scaled) = Calibration { level: Some(level), ..Calibration::default() }.spread(&value, 20.0);
        plain.iter().zip(scaled).for_each(|(a, b)| assert!((1.5 * a - b).abs() < 1e-9, "{a} {b}"));
    }

    #[test]
    fn platt_maps_log_odds() {
        let curve = Curve::Platt { slope: 2.0, intercept: -0.5 };
        assert!((logit(curve.of(0.7)) - (2.0 * logit(0.7) - 0.5)).abs() < 1e-12);
    }

    /// Everybody is within a tenth of a log-odds of 0.58 and the curve was fitted at 0.49: without the way to that level and
    /// back the mean would be 0.9999.
    #[test]
    fn a_steep_slope_does_not_multiply_a_shift() {
        let plain: Vec<f64> = (0..100).map(|i| sigmoid(0.27 + 0.002 * f64::from(i))).collect();
        let curve = Curve::Platt { slope: 30.0, intercept: 1.0 };
        let mean = |of: &dyn Fn(f64) -> f64| plain.iter().map(|p| of(*p)).sum::<f64>() / 100.0;
        assert!(mean(&|p| curve.of(p)) > 0.999);
        let map =
            ProbabilityMap { curve, log_loss: [0.0; 3], shift: -0.36, rows: 500, mean: 0.49, carry: Carry::default() };
        let map = map.at_level_of(&plain);
        assert!((mean(&|p| map.of(p)) - mean(&|p| p)).abs() < 1e-9);
        assert!(map.of(plain[99]) - map.of(plain[0]) > 0.5, "the slope still tells customers apart");
    }

    #[test]
    fn a_shift_moves_the_sum_of_probabilities_to_the_total() {
        let p = [0.1, 0.5, 0.9, 1.0, 0.0];
        let shift = shift_to(3.0, p.into_iter());
        let sum: f64 = p.iter().map(|p| sigmoid(logit(*p) + shift)).sum();
        assert!((sum - 3.0).abs() < 1e-9, "{sum}");
        assert!(shift_to(2.5, p.into_iter()).abs() < 1e-9);
    }
}
