//! Predictions over a horizon that no past snapshot could show: a shorter head's, stretched by what the parametric models say
//! of all customers together.
//!
//! Values grow by one ratio and the probability of no purchase falls by one power, so the level and the order of customers are
//! the learned head's, and only the shape in time is the parametric model's. The season is that of the long window: the short
//! one's is taken off before. Stretching each customer by its own ratio was measured and left out: it ranks churn worse and
//! values no better. So was a correction by the decay that past snapshots show: it came no nearer to what happened.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::{BuyTillYouDie, Customer};
use crate::model::calibration::{EDGE, logit};
use crate::model::heads::{Head, Prediction, Ziln, make_monotone, sigmoid};
use crate::model::season::Season;
use crate::spec::Direction;

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
    /// A prediction of the long head, with the calibration of the short one, `head`, for windows that begin on `date`. `short`
    /// is its prediction; `raw` are its members' outputs, which say more about the spread of a value than three quantiles.
    fn prediction(&self, head: &Head, short: &Prediction, raw: &[&[f64]], date: NaiveDate) -> Prediction {
        let stretch = self.stretch;
        let [before, after] = [self.from_days, self.days]
            .map(|days| head.season.map_or(0.0, |season| Season { days, ..season }.shift(date)));
        match short {
            // The power is that of the probability of no purchase.
            Prediction::Probability(p) => {
                let plain = sigmoid(logit(*p) - before);
                let long = match head.direction() {
                    Direction::Falls => plain.powf(stretch.power),
                    Direction::Rises => 1.0 - (1.0 - plain).powf(stretch.power),
                };
                Prediction::Probability(sigmoid(logit(long) + after))
            }
            Prediction::Value { mean, .. } => {
                let of = |raw: &&[f64]| {
                    let plain = Ziln::of_raw(raw).in_season(-before);
                    stretched(&plain, stretch).in_season(after)
                };
                let members: Vec<Ziln> = raw.iter().map(of).collect();
                let cap = head.cap + stretch.value.ln();
                let (zero, quantiles) = head.calibration.spread(&Ziln::mix(&members), cap);
                Prediction::Value { mean: mean * stretch.value * (after - before).exp(), zero, quantiles }
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

    /// One prediction per head, in order, from those of the trained heads and the raw outputs behind them; `dates` has the day
    /// of each row.
    pub fn extend(
        &self,
        predicted: Vec<Option<Vec<Prediction>>>,
        raw: &[f64],
        dates: &[NaiveDate],
    ) -> Vec<Option<Vec<Prediction>>> {
        let outputs: usize = self.trained.iter().map(Head::width).sum();
        let members = raw.len().checked_div(outputs * predicted.len().max(1)).unwrap_or(0).max(1);
        let rows = predicted.into_iter().zip(raw.chunks(members * outputs.max(1))).zip(dates);
        rows.map(|((predicted, raw), date)| {
            let mut all = self.of_row(&predicted?, raw, outputs, *date)?;
            make_monotone(&self.heads, &mut all);
            Some(all)
        })
        .collect()
    }

    fn of_row(&self, trained: &[Prediction], raw: &[f64], outputs: usize, date: NaiveDate) -> Option<Vec<Prediction>> {
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
            Some(extrapolation.prediction(&self.trained[place], trained.get(place)?, &parts, date))
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
    use crate::model::season::apply;
    use crate::spec::{HeadSpec, Loss};

    #[test]
    fn a_stretched_head_has_the_calibration_of_the_head_that_it_comes_from() {
        let spec = HeadSpec {
            name: "ltv_90d".into(),
            label: "spend".into(),
            loss: Loss::Ziln,
            family: Some(("ltv".into(), 90)),
            direction: None,
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
        let Prediction::Value { mean, zero, quantiles } =
            extrapolation.prediction(&short, &said, &[&raw], NaiveDate::default())
        else {
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

    #[test]
    fn the_season_of_a_stretched_head_is_that_of_its_own_window() {
        let head = |loss: Loss| {
            let spec = HeadSpec {
                name: "short".into(),
                label: "short".into(),
                loss,
                family: None,
                direction: None,
                weight: 1.0,
                place: Place::file("job.yaml"),
            };
            Head { cap: 20.0, season: Season::of(&spec.loss, 90, Some(1.0)), ..Head::new(&spec) }
        };
        let extrapolation = Extrapolation {
            head: "long".into(),
            days: 365,
            from: "short".into(),
            from_days: 90,
            stretch: Stretch { value: 3.0, power: 2.0 },
        };
        // Two windows of a quarter of very different worth; those of a year are worth nearly the same.
        let at = |head: &Head, raw: [f64; 4], date: &str| {
            let date: NaiveDate = date.parse().unwrap();
            let mut raw = raw[..head.width()].to_vec();
            apply(std::slice::from_ref(head), &mut raw, 1, &[date]);
            let short = head.predict(&[&raw]).unwrap();
            (short, extrapolation.prediction(head, &short, &[&raw], date))
        };
        let churn = head(Loss::Bce);
        let [spring, autumn] = ["2026-04-01", "2026-10-01"].map(|date| at(&churn, [0.5, 0.0, 0.0, 0.0], date));
        assert!(spring.0.point() - autumn.0.point() > 0.03);
        assert!((spring.1.point() - autumn.1.point()).abs() < 0.003, "{spring:?} {autumn:?}");
        let value = head(Loss::Ziln);
        let [spring, autumn] = ["2026-04-01", "2026-10-01"].map(|date| at(&value, [0.5, 2.0, 0.3, 0.8], date));
        assert!(autumn.0.point() / spring.0.point() > 1.2);
        assert!((autumn.1.point() / spring.1.point() - 1.0).abs() < 0.01, "{spring:?} {autumn:?}");
        let (
            Prediction::Value { zero: a, quantiles: [.., c], .. },
            Prediction::Value { zero: b, quantiles: [.., d], .. },
        ) = (spring.1, autumn.1)
        else {
            panic!("no values")
        };
        assert!((a - b).abs() < 0.005 && (c / d - 1.0).abs() < 0.01, "{a} {b} {c} {d}");
    }
}
