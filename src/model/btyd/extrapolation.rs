//! Predictions over a horizon that no past snapshot could show: a shorter head's, stretched by what the parametric models say
//! of all customers together.
//!
//! Values grow by one ratio and the probability of no purchase falls by one power, so the level and the order of customers are
//! the learned head's, and only the shape in time is the parametric model's. Stretching each customer by its own ratio was
//! measured and left out: it ranks churn worse and values no better. So was a season of the long window, and a correction by
//! the decay that past snapshots show: neither came nearer to what happened.

use serde::{Deserialize, Serialize};

use super::{BuyTillYouDie, Customer};
use crate::model::calibration::EDGE;
use crate::model::heads::{Head, Prediction, Ziln, make_monotone};

/// A head that was not trained, and the one that speaks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Extrapolation {
    /// The head.
    pub head: String,
    /// Its horizon in days.
    pub days: u32,
    /// The trained head of the same family.
    pub from: String,
    /// Its horizon in days.
    pub from_days: u32,
    /// How its predictions follow.
    pub stretch: Stretch,
}

/// How predictions change from the short horizon to the long one: for everybody alike, so that nobody changes places.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// Values are multiplied by this.
    pub value: f64,
    /// The probability of no purchase is raised to this power.
    pub power: f64,
}

impl Stretch {
    /// What `model` says of its customers together: how much more they will spend in `long` days than in `short`, and the
    /// power that turns the share of those who buy nothing in `short` days into that of `long`. Without customers or
    /// purchases to come, time alone.
    pub fn of(model: &BuyTillYouDie, customers: &[Customer], short: u32, long: u32) -> Self {
        let time = f64::from(long) / f64::from(short);
        let total = |days: u32| customers.iter().map(|customer| model.expected_value(customer, days)).sum::<f64>();
        let ratio = total(long) / total(short);
        let value = if ratio.is_finite() { ratio.max(1.0) } else { time };
        let silent: Vec<f64> = customers.iter().map(|customer| model.p_none(customer, short)).collect();
        let wanted = customers.iter().map(|customer| model.p_none(customer, long)).sum::<f64>();
        // The sum of powers falls as the power grows.
        let (mut low, mut high) = (1.0, 10.0 * time);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            let sum: f64 = silent.iter().map(|p| p.powf(middle)).sum();
            if sum > wanted { low = middle } else { high = middle }
        }
        let power = if customers.is_empty() { time } else { (low + high) / 2.0 };
        Stretch { value, power }
    }
}

impl Extrapolation {
    /// A prediction of the long head, with the calibration of the short one, `head`. `short` is its prediction; `raw` are its
    /// members' outputs, which say more about the spread of a value than three quantiles.
    fn prediction(&self, head: &Head, short: &Prediction, raw: &[&[f64]]) -> Prediction {
        let stretch = self.stretch;
        match short {
            Prediction::Probability(p) => Prediction::Probability(p.powf(stretch.power)),
            Prediction::Value { mean, .. } => {
                let members: Vec<Ziln> = raw.iter().map(|raw| stretched(&Ziln::of_raw(raw), stretch)).collect();
                let cap = head.cap + stretch.value.ln();
                let (zero, quantiles) = head.calibration.spread(&Ziln::mix(&members), cap);
                Prediction::Value { mean: mean * stretch.value, zero, quantiles }
            }
            Prediction::Number(value) => Prediction::Number(value * stretch.value),
            class @ Prediction::Class(..) => *class,
        }
    }
}

/// The same customer's value over the long horizon: likelier above 0, and greater by so much that the mean fits.
fn stretched(short: &Ziln, stretch: Stretch) -> Ziln {
    let p = short.p.clamp(EDGE, 1.0 - EDGE);
    let long = 1.0 - (1.0 - p).powf(stretch.power);
    Ziln { p: long, mu: short.mu + (stretch.value * p / long).ln(), sigma: short.sigma }
}

/// The heads of a model whose longest ones are extrapolated.
#[derive(Debug, Clone)]
pub struct Stretcher {
    heads: Vec<Head>,
    trained: Vec<Head>,
    extrapolations: Vec<Extrapolation>,
}

impl Stretcher {
    /// Of all heads in the job's order; those that an extrapolation names were not trained.
    pub fn new(heads: &[Head], extrapolations: &[Extrapolation]) -> Self {
        Stretcher {
            heads: heads.to_vec(),
            trained: trained(heads, extrapolations),
            extrapolations: extrapolations.to_vec(),
        }
    }

    /// One prediction per head, in order, from those of the trained heads and the network's raw outputs.
    pub fn extend(&self, predicted: Vec<Option<Vec<Prediction>>>, raw: &[f64]) -> Vec<Option<Vec<Prediction>>> {
        let outputs: usize = self.trained.iter().map(Head::width).sum();
        let members = raw.len().checked_div(outputs * predicted.len().max(1)).unwrap_or(0).max(1);
        let rows = predicted.into_iter().zip(raw.chunks(members * outputs.max(1)));
        rows.map(|(predicted, raw)| {
            let mut all = self.of_row(&predicted?, raw, outputs)?;
            make_monotone(&self.heads, &mut all);
            Some(all)
        })
        .collect()
    }

    fn of_row(&self, trained: &[Prediction], raw: &[f64], outputs: usize) -> Option<Vec<Prediction>> {
        let place = |name: &str| self.trained.iter().position(|head| head.name == name);
        let of_head = |head: &Head| {
            if let Some(place) = place(&head.name) {
                return trained.get(place).copied();
            }
            let extrapolation = self.extrapolations.iter().find(|e| e.head == head.name)?;
            let place = place(&extrapolation.from)?;
            let start: usize = self.trained[..place].iter().map(Head::width).sum();
            let end = start + self.trained[place].width();
            let parts: Vec<&[f64]> = raw.chunks_exact(outputs).map(|member| &member[start..end]).collect();
            Some(extrapolation.prediction(&self.trained[place], trained.get(place)?, &parts))
        };
        self.heads.iter().map(of_head).collect()
    }
}

/// The heads that a network was trained for.
pub fn trained(heads: &[Head], extrapolations: &[Extrapolation]) -> Vec<Head> {
    heads.iter().filter(|head| extrapolations.iter().all(|e| e.head != head.name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;
    use crate::model::calibration::{Calibration, Polyline, QuantileLevels};
    use crate::spec::{HeadSpec, Loss};

    #[test]
    fn a_stretched_head_has_the_calibration_of_the_head_that_it_comes_from() {
        let spec = HeadSpec {
            name: "ltv_90d".into(),
            label: "spend".into(),
            loss: Loss::Ziln,
            family: Some(("ltv".into(), 90)),
            weight: 1.0,
            place: Place::file("job.yaml"),
        };
        let shares = Polyline::through([[0.2, 0.1], [0.6, 0.5], [0.95, 0.9]]);
        let quantiles = Some(QuantileLevels { shares, shift: [0.0; 2], rows: 500 });
        let calibration = Calibration { quantiles, ..Calibration::default() };
        let short = Head { cap: 20.0, calibration, ..Head::new(&spec) };
        let stretch = Stretch { value: 2.5, power: 1.8 };
        let extrapolation =
            Extrapolation { head: "ltv_270d".into(), days: 270, from: "ltv_90d".into(), from_days: 90, stretch };
        let raw = [0.3, 2.0, 0.5, 0.2];
        let said = short.predict(&[&raw]).unwrap();
        let Prediction::Value { mean, zero, quantiles } = extrapolation.prediction(&short, &said, &[&raw]) else {
            panic!("no value")
        };
        let long = stretched(&Ziln::of_raw(&raw), stretch);
        assert!((mean - 2.5 * said.point()).abs() < 1e-12);
        // The distribution's own mean grows alike.
        assert!((long.mean(20.0) - 2.5 * Ziln::of_raw(&raw).mean(20.0)).abs() < 1e-9);
        assert!(((1.0 - long.p) - (1.0 - Ziln::of_raw(&raw).p).powf(1.8)).abs() < 1e-12);
        let line = Polyline::through([[0.2, 0.1], [0.6, 0.5], [0.95, 0.9]]);
        assert_eq!(zero, line.at(1.0 - long.p));
        let levels = [0.2, 0.6, 0.95];
        for (quantile, level) in quantiles.iter().zip(levels) {
            assert!((quantile - long.quantile(level, 30.0)).abs() < 1e-9, "{quantiles:?}");
        }
    }
}
