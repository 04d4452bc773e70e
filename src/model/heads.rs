//! What the network's raw outputs mean: probabilities, values with their quantiles, numbers, classes. Plain Rust.

use serde::{Deserialize, Serialize};

use super::calibration::{Calibration, logit};
use super::preprocess::{normal_cdf, normal_quantile};
use super::rfm::RfmShare;
use super::season::{self, Season};
use crate::spec::{Direction, HeadSpec, Loss};

/// The serde form of [`Loss`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "Loss", rename_all = "snake_case")]
enum LossName {
    Bce,
    Ziln,
    Mse,
    Softmax,
}

/// One output of the model with all that turns raw outputs into scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The name of the score.
    pub name: String,
    /// The label column that it learned.
    pub label: String,
    /// Its loss.
    #[serde(with = "LossName")]
    pub loss: Loss,
    /// Family and horizon in days.
    pub family: Option<(String, u32)>,
    /// Where its probability goes as the horizon grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// The classes of a softmax head, sorted.
    pub classes: Vec<String>,
    /// Mean and standard deviation of the label, for mse; 0 and the mean, for ziln.
    pub scale: (f64, f64),
    /// The greatest exponent of a ziln head: the log of twice the greatest label seen.
    pub cap: f64,
    /// The biases it starts from: what the labels say without features.
    pub start: Vec<f64>,
    /// What validation corrected.
    #[serde(default)]
    pub calibration: Calibration,
    /// How the course of the year moves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub season: Option<Season>,
    /// What it takes from the RFM regression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rfm: Option<RfmShare>,
    /// Values too small to be told apart, if that was found to help.
    pub floor: Option<ValueFloor>,
}

/// Values below a threshold are published as their common mean: the total stays, the order among them goes, because
/// the validation snapshot showed that it was noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValueFloor {
    /// Values below this one are too small to be told apart.
    pub below: f64,
    /// What is published in their place.
    pub shared: f64,
    /// The share of customers that it was fitted on.
    pub share: f64,
    /// Spearman's correlation on the validation snapshot without and with it.
    pub spearman: (f64, f64),
}

/// What a head says about one customer; every number is finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prediction {
    /// bce: the probability that the label is 1.
    Probability(f64),
    /// ziln: the mean and the 10 %, 50 % and 90 % quantiles of a value ≥ 0.
    Value {
        /// The expected value.
        mean: f64,
        /// P(value = 0).
        zero: f64,
        /// p10, p50, p90.
        quantiles: [f64; 3],
    },
    /// mse: the expected number.
    Number(f64),
    /// softmax: the likeliest class and its probability.
    Class(usize, f64),
}

/// The levels of the published quantiles.
pub const QUANTILES: [f64; 3] = [0.1, 0.5, 0.9];

/// The least log-normal sigma: the square root of f32's machine epsilon, as in the reference implementation of the paper.
pub const MIN_SIGMA: f64 = 3.4526698300124e-4;

/// A zero-inflated log-normal distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ziln {
    /// P(value > 0).
    pub p: f64,
    /// Mean of ln(value) where it is positive.
    pub mu: f64,
    /// Standard deviation of ln(value) where it is positive.
    pub sigma: f64,
}

impl Ziln {
    /// From a head's first three raw outputs.
    pub fn of_raw(raw: &[f64]) -> Self {
        Ziln { p: sigmoid(raw[0]), mu: raw[1], sigma: softplus(raw[2]).max(MIN_SIGMA) }
    }

    /// p · exp(mu + sigma² / 2), with the exponent at most `cap`.
    pub fn mean(&self, cap: f64) -> f64 {
        self.p * (self.mu + self.sigma * self.sigma / 2.0).min(cap).exp()
    }

    /// Where the expected value is exp(`shift`) times what it is, and the log-odds of a value above 0 move by `shift`.
    pub fn in_season(&self, shift: f64) -> Ziln {
        let logit = logit(self.p);
        Ziln { p: sigmoid(logit + shift), mu: self.mu + season::of_buyers(logit, shift), sigma: self.sigma }
    }

    /// The quantile at level `q`: 0 where it falls into the zero mass, and at most exp(cap).
    pub fn quantile(&self, q: f64, cap: f64) -> f64 {
        let inside = (q - (1.0 - self.p)) / self.p;
        if self.p <= 0.0 || inside <= 0.0 {
            return 0.0;
        }
        (self.mu + self.sigma * normal_quantile(inside.min(1.0 - 1e-12))).min(cap).exp()
    }

    /// P(value ≤ `value`), the inverse of [`Self::quantile`]: 1 above exp(cap).
    pub fn cdf(&self, value: f64, cap: f64) -> f64 {
        if value <= 0.0 {
            return 1.0 - self.p;
        }
        if value.ln() > cap {
            return 1.0;
        }
        1.0 - self.p + self.p * normal_cdf((value.ln() - self.mu) / self.sigma)
    }

    /// One distribution in place of several: their mean probability, and the first two moments of their mixture of logs.
    pub fn mix(members: &[Ziln]) -> Ziln {
        let n = members.len() as f64;
        let mean = |f: &dyn Fn(&Ziln) -> f64| members.iter().map(f).sum::<f64>() / n;
        let mu = mean(&|m| m.mu);
        let variance = mean(&|m| m.sigma * m.sigma + (m.mu - mu) * (m.mu - mu));
        Ziln { p: mean(&|m| m.p), mu, sigma: variance.sqrt() }
    }
}

impl Head {
    /// An untrained head.
    pub fn new(spec: &HeadSpec) -> Self {
        Head {
            name: spec.name.clone(),
            label: spec.label.clone(),
            loss: spec.loss.clone(),
            family: spec.family.clone(),
            direction: spec.direction,
            classes: Vec::new(),
            scale: (0.0, 1.0),
            cap: 0.0,
            start: Vec::new(),
            calibration: Calibration::default(),
            season: None,
            rfm: None,
            floor: None,
        }
    }

    /// Which raw output of a ziln head is the log of the expected value, in units of the label's mean, learned directly.
    pub const DIRECT: usize = 3;

    /// Where its probability goes as the horizon grows; where nothing says so it is that of churn.
    pub fn direction(&self) -> Direction {
        self.direction.unwrap_or(Direction::Falls)
    }

    /// Raw outputs per customer and member.
    pub fn width(&self) -> usize {
        match self.loss {
            Loss::Bce | Loss::Mse => 1,
            Loss::Ziln => 4,
            Loss::Softmax => self.classes.len(),
        }
    }

    /// What the members say together. `members` holds each member's raw outputs of this head; `None` where one of them is
    /// not finite.
    pub fn predict(&self, members: &[&[f64]]) -> Option<Prediction> {
        if members.iter().any(|raw| raw.iter().any(|v| !v.is_finite())) {
            return None;
        }
        let n = members.len() as f64;
        let prediction = match self.loss {
            Loss::Bce => {
                let mean = members.iter().map(|raw| sigmoid(raw[0])).sum::<f64>() / n;
                Prediction::Probability(self.calibration.probability(mean))
            }
            Loss::Mse => {
                let mean = members.iter().map(|raw| raw[0]).sum::<f64>() / n;
                Prediction::Number(self.scale.0 + self.scale.1 * mean)
            }
            Loss::Ziln => {
                let parts: Vec<Ziln> = members.iter().map(|raw| Ziln::of_raw(raw)).collect();
                let through = parts.iter().map(|z| z.mean(self.cap)).sum::<f64>() / n;
                let direct = members.iter().map(|raw| self.direct_mean(raw)).sum::<f64>() / n;
                // Two estimates of one mean: through the distribution it is off where the logs are not normal, directly it is
                // the noisier one.
                let mean = (through * direct).sqrt();
                let (zero, quantiles) = self.calibration.spread(&Ziln::mix(&parts), self.cap);
                Prediction::Value { mean: self.floored(mean * self.calibration.factor()), zero, quantiles }
            }
            Loss::Softmax => {
                let probabilities = mean_softmax(members);
                let (best, p) = probabilities
                    .iter()
                    .enumerate()
                    .fold((0, -1.0), |best, (i, p)| if *p > best.1 { (i, *p) } else { best });
                Prediction::Class(best, p)
            }
        };
        prediction.is_finite().then_some(prediction)
    }

    /// The expected value that a member of a ziln head states directly.
    fn direct_mean(&self, raw: &[f64]) -> f64 {
        (raw[Self::DIRECT] + self.scale.1.ln()).min(self.cap).exp()
    }

    fn floored(&self, mean: f64) -> f64 {
        match &self.floor {
            Some(floor) if mean < floor.below => floor.shared,
            _ => mean,
        }
    }
}

impl Prediction {
    /// The number that ranks customers: a probability, a mean, a number.
    pub fn point(&self) -> f64 {
        match self {
            Prediction::Probability(p) | Prediction::Class(_, p) => *p,
            Prediction::Value { mean, .. } => *mean,
            Prediction::Number(value) => *value,
        }
    }

    /// What metrics hold against a label: the point; of a class, whether it is the right one (1) or not (0).
    pub fn score(&self, label: f64) -> f64 {
        match self {
            Prediction::Class(class, _) => f64::from(*class as f64 == label),
            other => other.point(),
        }
    }

    fn is_finite(&self) -> bool {
        match self {
            Prediction::Value { mean, zero, quantiles } => {
                mean.is_finite() && zero.is_finite() && quantiles.iter().all(|q| q.is_finite())
            }
            other => other.point().is_finite(),
        }
    }
}

/// The mean of the members' class probabilities.
pub fn mean_softmax(members: &[&[f64]]) -> Vec<f64> {
    let mut mean = vec![0.0; members.first().map_or(0, |raw| raw.len())];
    for raw in members {
        let top = raw.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = raw.iter().map(|v| (v - top).exp()).sum();
        mean.iter_mut().zip(*raw).for_each(|(m, v)| *m += (v - top).exp() / total / members.len() as f64);
    }
    mean
}

/// Makes the horizons of each family monotone in one customer's calibrated predictions: probabilities go by the direction of
/// their heads, that of a value of 0 never rises and values never fall with the horizon. Pools adjacent violators, which is the nearest monotone sequence.
pub fn make_monotone(heads: &[Head], predictions: &mut [Prediction]) {
    for family in families(heads) {
        let rising = |of: &dyn Fn(&Prediction) -> f64| {
            pool_rising(&family.iter().map(|i| of(&predictions[*i])).collect::<Vec<_>>())
        };
        let sign = match family.first().map(|head| heads[*head].direction()) {
            Some(Direction::Falls) => -1.0,
            _ => 1.0,
        };
        let points = rising(&|p| match p {
            Prediction::Probability(p) => sign * p,
            other => other.point(),
        });
        let zeros = rising(&|p| if let Prediction::Value { zero, .. } = p { -zero } else { 0.0 });
        let quantiles: [Vec<f64>; 3] = std::array::from_fn(|level| {
            rising(&|p| if let Prediction::Value { quantiles, .. } = p { quantiles[level] } else { 0.0 })
        });
        for (place, head) in family.iter().enumerate() {
            match &mut predictions[*head] {
                Prediction::Probability(p) => *p = sign * points[place],
                Prediction::Number(value) => *value = points[place],
                Prediction::Value { mean, zero, quantiles: q } => {
                    (*mean, *zero) = (points[place], -zeros[place]);
                    for ((q, pooled), level) in q.iter_mut().zip(&quantiles).zip(QUANTILES) {
                        // A quantile within the probability of 0 is 0, also after both were pooled.
                        *q = if *zero >= level { 0.0 } else { pooled[place] };
                    }
                }
                Prediction::Class(..) => {}
            }
        }
    }
}

/// The heads of each family with two or more of one loss, shortest horizon first.
fn families(heads: &[Head]) -> Vec<Vec<usize>> {
    let mut found: Vec<(&str, &Loss, Vec<usize>)> = Vec::new();
    for (i, head) in heads.iter().enumerate() {
        let Some((family, _)) = head.family.as_ref().filter(|_| head.loss != Loss::Softmax) else { continue };
        match found.iter_mut().find(|(name, loss, _)| name == family && **loss == head.loss) {
            Some((_, _, members)) => members.push(i),
            None => found.push((family, &head.loss, vec![i])),
        }
    }
    let days = |i: &usize| heads[*i].family.as_ref().map_or(0, |(_, days)| *days);
    let sorted = found.into_iter().filter(|(_, _, members)| members.len() > 1).map(|(_, _, mut members)| {
        members.sort_by_key(days);
        members
    });
    sorted.collect()
}

/// The nearest sequence (least squares) that never falls.
fn pool_rising(values: &[f64]) -> Vec<f64> {
    let mut blocks: Vec<(f64, usize)> = Vec::with_capacity(values.len());
    for value in values {
        let mut block = (*value, 1);
        while let Some((sum, n)) = blocks.last().copied()
            && sum / n as f64 > block.0 / block.1 as f64
        {
            blocks.pop();
            block = (block.0 + sum, block.1 + n);
        }
        blocks.push(block);
    }
    blocks.into_iter().flat_map(|(sum, n)| std::iter::repeat_n(sum / n as f64, n)).collect()
}

/// 1 / (1 + e^-x) without overflow.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// ln(1 + e^x) without overflow.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Place;

    fn head(name: &str, loss: Loss, family: Option<(&str, u32)>) -> Head {
        let family = family.map(|(name, days)| (name.to_owned(), days));
        let spec = HeadSpec {
            name: name.into(),
            label: name.into(),
            loss,
            weight: 1.0,
            family,
            direction: None,
            place: Place::file("job.yaml"),
        };
        Head { cap: 20.0, ..Head::new(&spec) }
    }

    proptest! {
        #[test]
        fn value_and_quantiles_are_finite_and_ordered_for_any_raw_output(
            raw in prop::array::uniform4(-1e4..1e4f64),
            other in prop::array::uniform4(-1e4..1e4f64),
        ) {
            let Some(Prediction::Value { mean, zero, quantiles: [p10, p50, p90] }) =
                head("v", Loss::Ziln, None).predict(&[&raw, &other]) else { panic!("no value") };
            prop_assert!(mean.is_finite() && mean >= 0.0 && p90.is_finite() && (0.0..=1.0).contains(&zero));
            prop_assert!(0.0 <= p10 && p10 <= p50 && p50 <= p90);
        }

        #[test]
        fn a_probability_goes_where_its_head_says(p in prop::array::uniform3(0.0..1.0f64), rises in any::<bool>()) {
            let direction = Some(if rises { Direction::Rises } else { Direction::Falls });
            let of = |days| Head { direction, ..head("buys", Loss::Bce, Some(("buys", days))) };
            let heads = [of(30), of(60), of(90)];
            let mut all = p.map(Prediction::Probability);
            make_monotone(&heads, &mut all);
            let said = all.map(|p| p.point());
            let sign = if rises { 1.0 } else { -1.0 };
            prop_assert!(said.windows(2).all(|pair| sign * pair[0] <= sign * pair[1]), "{p:?} {said:?}");
            let goes_there = p.windows(2).all(|pair| sign * pair[0] <= sign * pair[1]);
            prop_assert!(!goes_there || said == p, "what goes there already is left alone: {p:?} {said:?}");
        }

        #[test]
        fn horizons_of_one_family_are_monotone(
            values in prop::collection::vec((0.0..1.0f64, 1.0..1e6f64, 0.0..1.0f64), 3),
        ) {
            let heads = [
                head("c90", Loss::Bce, Some(("churn", 90))), head("c30", Loss::Bce, Some(("churn", 30))),
                head("c180", Loss::Bce, Some(("churn", 180))),
                head("v90", Loss::Ziln, Some(("ltv", 90))), head("v30", Loss::Ziln, Some(("ltv", 30))),
                head("v180", Loss::Ziln, Some(("ltv", 180))),
            ];
            let value = |v: f64, zero: f64| {
                let z = Ziln { p: 1.0 - zero, mu: v.ln(), sigma: 1.0 };
                Prediction::Value { mean: v, zero, quantiles: QUANTILES.map(|q| z.quantile(q, 20.0)) }
            };
            let mut all: Vec<Prediction> = values.iter().map(|(p, ..)| Prediction::Probability(*p)).collect();
            all.extend(values.iter().map(|(_, v, zero)| value(*v, *zero)));
            make_monotone(&heads, &mut all);
            let point: Vec<f64> = all.iter().map(Prediction::point).collect();
            prop_assert!(point[1] >= point[0] && point[0] >= point[2]);
            prop_assert!(point[4] <= point[3] && point[3] <= point[5]);
            let mut shorter = (1.0, [0.0; 3]);
            for place in [4, 3, 5] {
                let Prediction::Value { zero, quantiles, .. } = all[place] else { panic!("not a value") };
                prop_assert!(quantiles.windows(2).all(|w| w[0] <= w[1]));
                prop_assert!(zero <= shorter.0 && shorter.1.iter().zip(quantiles).all(|(short, long)| *short <= long));
                prop_assert!(QUANTILES.iter().zip(quantiles).all(|(level, q)| (q == 0.0) == (zero >= *level)));
                shorter = (zero, quantiles);
            }
        }
    }

    #[test]
    fn the_quantiles_are_those_of_the_distribution() {
        // By hand: half of the mass is zero, so p90 is the 80 % quantile of the log-normal: exp(1 + 2 · 0.8416212).
        let z = Ziln { p: 0.5, mu: 1.0, sigma: 2.0 };
        assert_eq!((z.quantile(0.1, 50.0), z.quantile(0.5, 50.0)), (0.0, 0.0));
        assert!((z.quantile(0.9, 50.0) / (1.0_f64 + 2.0 * 0.8416212335729143).exp() - 1.0).abs() < 1e-8);
        assert!((z.mean(50.0) - 0.5 * 3.0_f64.exp()).abs() < 1e-12);
        for q in [0.55, 0.7, 0.9, 0.999] {
            assert!((z.cdf(z.quantile(q, 50.0), 50.0) - q).abs() < 1e-8, "{q}");
        }
        assert_eq!((z.cdf(0.0, 50.0), z.cdf(1e30, 50.0)), (0.5, 1.0));
    }

    #[test]
    fn a_raw_output_that_is_not_finite_gives_no_prediction() {
        for loss in [Loss::Bce, Loss::Mse] {
            assert_eq!(head("x", loss, None).predict(&[&[1.0], &[f64::NAN]]), None);
        }
        assert_eq!(head("x", Loss::Ziln, None).predict(&[&[1.0, f64::NAN, 1.0, 1.0]]), None);
    }

    #[test]
    fn members_are_averaged_as_probabilities() {
        let Some(Prediction::Probability(p)) = head("x", Loss::Bce, None).predict(&[&[1e4], &[-1e4]]) else {
            panic!("no probability")
        };
        assert_eq!(p, 0.5);
    }

    #[test]
    fn values_below_the_floor_are_published_as_their_mean() {
        let floor = ValueFloor { below: 5.0, shared: 2.0, share: 0.5, spearman: (0.1, 0.2) };
        let head = Head { floor: Some(floor), ..head("v", Loss::Ziln, None) };
        let value = |mu: f64| head.predict(&[&[1e4, mu, -1e4, mu]]).unwrap().point();
        assert_eq!((value(0.0), value(1.5)), (2.0, 2.0));
        assert!((value(2.0) - 2.0_f64.exp()).abs() < 1e-5);
    }

    #[test]
    fn an_expected_value_lies_between_that_of_the_distribution_and_that_stated_directly() {
        let head = Head { scale: (0.0, 50.0), ..head("v", Loss::Ziln, None) };
        // By hand: through the distribution 8, directly 2 · 50 = 100 twice, so √800.
        let member = [1e4, 8.0_f64.ln(), -1e4, 2.0_f64.ln()];
        let found = head.predict(&[&member, &member]).unwrap().point();
        assert!((found - 800.0_f64.sqrt()).abs() < 1e-4, "{found}");
    }

    #[test]
    fn the_likeliest_class_is_named_with_its_probability() {
        let head = Head { classes: vec!["a".into(), "b".into(), "c".into()], ..head("c", Loss::Softmax, None) };
        let Some(Prediction::Class(class, p)) = head.predict(&[&[0.0, 3.0_f64.ln(), 0.0]]) else { panic!("no class") };
        assert_eq!(class, 1);
        assert!((p - 0.6).abs() < 1e-12);
    }

    #[test]
    fn violators_are_pooled_to_their_mean() {
        assert_eq!(pool_rising(&[1.0, 3.0, 2.0, 4.0]), [1.0, 2.5, 2.5, 4.0]);
        assert_eq!(pool_rising(&[3.0, 2.0, 1.0]), [2.0, 2.0, 2.0]);
    }
}
