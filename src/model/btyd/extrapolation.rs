//! Predictions over a horizon that no past snapshot could show: a shorter head's, stretched customer by customer.
//!
//! A value grows by the ratio of the expected purchases in both horizons; the log-odds of no purchase move by the difference
//! that the purchase process sees between them. So the level and the order are the learned head's, and only the shape in time
//! is the parametric model's. A correction by the decay that past snapshots show from one short horizon to the next was
//! measured and left out: it follows the season of those few weeks, and made probabilities worse on every date tried.

use serde::{Deserialize, Serialize};

use super::{BuyTillYouDie, Customer};
use crate::model::calibration::{EDGE, logit};
use crate::model::heads::{Head, Prediction, Ziln, make_monotone, sigmoid};

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
    /// The stretch of a customer without purchases: the mean of all.
    pub typical: Stretch,
}

/// How a customer's prediction changes from the short horizon to the long one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// The value is multiplied by this.
    pub value: f64,
    /// The log-odds of no purchase move by this.
    pub logit: f64,
}

impl Extrapolation {
    /// The stretch of one customer.
    pub fn stretch(&self, model: &BuyTillYouDie, customer: Option<&Customer>) -> Stretch {
        let Some(customer) = customer else { return self.typical };
        let history = &customer.history;
        let (short, long) = (f64::from(self.from_days), f64::from(self.days));
        let orders = |days: f64| model.purchases.expected_purchases(history, days);
        let silent = |days: f64| logit(model.purchases.p_none(history, days));
        let stretch =
            Stretch { value: (orders(long) / orders(short)).max(1.0), logit: (silent(long) - silent(short)).min(0.0) };
        if stretch.value.is_finite() && stretch.logit.is_finite() { stretch } else { self.typical }
    }

    /// The mean stretch: of the expected values, and of the log-odds.
    pub fn mean_stretch(&self, model: &BuyTillYouDie, customers: &[Customer]) -> Stretch {
        let (mut before, mut after, mut logit) = (0.0, 0.0, 0.0);
        for customer in customers {
            let stretch = self.stretch(model, Some(customer));
            let value = model.expected_value(customer, self.from_days);
            before += value;
            after += value * stretch.value;
            logit += stretch.logit;
        }
        if before > 0.0 {
            Stretch { value: after / before, logit: logit / customers.len() as f64 }
        } else {
            Stretch { value: f64::from(self.days) / f64::from(self.from_days), logit: 0.0 }
        }
    }

    /// A prediction of the long head, with the calibration of the short one, `head`. `short` is its prediction; `raw` are its
    /// members' outputs, which say more about the spread of a value than three quantiles.
    fn prediction(&self, head: &Head, short: &Prediction, raw: &[&[f64]], stretch: Stretch) -> Prediction {
        match short {
            Prediction::Probability(p) => Prediction::Probability(sigmoid(logit(*p) + stretch.logit)),
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
    let long = sigmoid(logit(p) - stretch.logit);
    Ziln { p: long, mu: short.mu + (stretch.value * p / long).ln(), sigma: short.sigma }
}

/// The heads of a model whose longest ones are extrapolated.
#[derive(Debug, Clone)]
pub struct Stretcher {
    heads: Vec<Head>,
    trained: Vec<Head>,
    model: BuyTillYouDie,
    extrapolations: Vec<Extrapolation>,
}

impl Stretcher {
    /// Of all heads in the job's order; those that an extrapolation names were not trained.
    pub fn new(heads: &[Head], model: &BuyTillYouDie, extrapolations: &[Extrapolation]) -> Self {
        Stretcher {
            heads: heads.to_vec(),
            trained: trained(heads, extrapolations),
            model: model.clone(),
            extrapolations: extrapolations.to_vec(),
        }
    }

    /// One prediction per head, in order, from those of the trained heads and the network's raw outputs.
    pub fn extend(
        &self,
        customers: &[Option<Customer>],
        predicted: Vec<Option<Vec<Prediction>>>,
        raw: &[f64],
    ) -> Vec<Option<Vec<Prediction>>> {
        let outputs: usize = self.trained.iter().map(Head::width).sum();
        let members = raw.len().checked_div(outputs * predicted.len().max(1)).unwrap_or(0).max(1);
        let rows = customers.iter().zip(predicted).zip(raw.chunks(members * outputs.max(1)));
        rows.map(|((customer, predicted), raw)| {
            let mut all = self.of_row(customer.as_ref(), &predicted?, raw, outputs)?;
            make_monotone(&self.heads, &mut all);
            Some(all)
        })
        .collect()
    }

    fn of_row(
        &self,
        customer: Option<&Customer>,
        trained: &[Prediction],
        raw: &[f64],
        outputs: usize,
    ) -> Option<Vec<Prediction>> {
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
            let stretch = extrapolation.stretch(&self.model, customer);
            Some(extrapolation.prediction(&self.trained[place], trained.get(place)?, &parts, stretch))
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
            place: Place::file("job.yaml"),
        };
        let shares = Polyline::through([[0.2, 0.1], [0.6, 0.5], [0.95, 0.9]]);
        let quantiles = Some(QuantileLevels { shares, shift: [0.0; 2], rows: 500 });
        let calibration = Calibration { quantiles, ..Calibration::default() };
        let short = Head { cap: 20.0, calibration, ..Head::new(&spec) };
        let stretch = Stretch { value: 2.5, logit: -1.0 };
        let extrapolation = Extrapolation {
            head: "ltv_270d".into(),
            days: 270,
            from: "ltv_90d".into(),
            from_days: 90,
            typical: stretch,
        };
        let raw = [0.3, 2.0, 0.5];
        let said = short.predict(&[&raw]).unwrap();
        let Prediction::Value { mean, zero, quantiles } = extrapolation.prediction(&short, &said, &[&raw], stretch)
        else {
            panic!("no value")
        };
        let long = stretched(&Ziln::of_raw(&raw), stretch);
        assert!((mean - 2.5 * said.point()).abs() < 1e-12 && (mean - long.mean(20.0)).abs() < 1e-9);
        let line = Polyline::through([[0.2, 0.1], [0.6, 0.5], [0.95, 0.9]]);
        assert_eq!(zero, line.at(1.0 - long.p));
        let levels = [0.2, 0.6, 0.95];
        for (quantile, level) in quantiles.iter().zip(levels) {
            assert!((quantile - long.quantile(level, 30.0)).abs() < 1e-9, "{quantiles:?}");
        }
    }
}
