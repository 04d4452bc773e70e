//! The course of the year: what a window of days is worth beside the average window of the same length.
//!
//! Snapshots of half a year say nothing of December, so a model that was trained in summer under-predicts it. Until a shop's
//! own years say better (`training::season`), its sales are taken to follow those of all online shops: the seasonal factors of quarterly U.S.
//! retail e-commerce, not adjusted over adjusted sales, from the Census Bureau's releases: 86.3 / 92.8 (Q1 2016), 37.2 / 39.7
//! (Q2 2010), 81.1 / 87.5 (Q3 2015), 245.3 / 206.7 billion dollars (Q4 2020).
//!
//! The factor stands as an offset beside the network, in training and in scoring alike: labels of a window teach what
//! customers would do in an average one, and a prediction is that, in the window ahead. It changes no order of customers:
//! every expected value is multiplied by the same factor, by more buyers and by more that each of them spends.

use chrono::{Datelike, Days, NaiveDate};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::heads::{Head, softplus};
use crate::Result;
use crate::spec::Loss;

/// Sales of a day in each quarter, over those of an average day.
const QUARTERS: [f64; 4] = [0.930, 0.937, 0.927, 1.187];

/// How the season moves a head.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Season {
    /// The days that the head's label looks ahead.
    pub days: u32,
    /// 1 where the label grows with sales, -1 where it falls: with the probability that nothing is bought.
    pub direction: f64,
    /// How strongly this shop follows the year of all shops: a factor of the season's logarithm.
    pub amplitude: f64,
}

impl Season {
    /// Of a head whose customers without any event in `days` days get the label `default`. A probability moves only if that
    /// says which way; numbers and classes do not.
    pub fn of(loss: &Loss, days: u32, default: Option<f64>) -> Option<Self> {
        let direction = match (loss, default) {
            (Loss::Ziln, _) | (Loss::Bce, Some(0.0)) => 1.0,
            (Loss::Bce, Some(1.0)) => -1.0,
            _ => return None,
        };
        (days > 0).then_some(Season { days, direction, amplitude: 1.0 })
    }

    /// What is added to log-odds and to the log of the expected value, for the window that begins on `date`.
    pub fn shift(&self, date: NaiveDate) -> f64 {
        self.direction * self.amplitude * window(date, self.days).ln()
    }
}

/// The mean factor of the `days` from `date` on, in all online shops.
pub fn window(date: NaiveDate, days: u32) -> f64 {
    let of = |day: u32| {
        let month = date.checked_add_days(Days::new(u64::from(day))).map_or(1, |date| date.month0());
        QUARTERS[month as usize / 3]
    };
    (0..days).map(of).sum::<f64>() / f64::from(days.max(1))
}

/// What the season of the window that begins on `date` adds to each head: see [`Season::shift`].
pub fn shifts(heads: &[Head], date: NaiveDate) -> Vec<f64> {
    heads.iter().map(|head| head.season.map_or(0.0, |season| season.shift(date))).collect()
}

/// How far the mean log of what buyers spend moves where the log-odds of buying, `logit` before, move by `shift`: so that the
/// expected value is exp(`shift`) times what it was, since not all of it comes from more buyers.
pub fn of_buyers(logit: f64, shift: f64) -> f64 {
    shift + softplus(-(logit + shift)) - softplus(-logit)
}

/// Adds the season to the raw outputs of rows, n × members × outputs; `dates` has the day of each row.
pub fn apply(heads: &[Head], raw: &mut [f64], members: usize, dates: &[NaiveDate]) {
    let outputs: usize = heads.iter().map(Head::width).sum();
    let mut known: Option<(NaiveDate, Vec<f64>)> = None;
    for (row, date) in raw.chunks_exact_mut((members * outputs).max(1)).zip(dates) {
        if known.as_ref().is_none_or(|(at, _)| at != date) {
            known = Some((*date, shifts(heads, *date)));
        }
        let Some((_, shifts)) = &known else { continue };
        for member in row.chunks_exact_mut(outputs) {
            let mut rest = member;
            for (head, shift) in heads.iter().zip(shifts).map(|(head, shift)| (head, *shift)) {
                let (raw, behind) = rest.split_at_mut(head.width());
                if head.loss == Loss::Ziln {
                    raw[1] += of_buyers(raw[0], shift);
                    raw[Head::DIRECT] += shift;
                }
                raw[0] += shift;
                rest = behind;
            }
        }
    }
}

/// As [`apply`], of the raw outputs [members, n, width] of one head whose shifts are `[n]`.
pub fn shifted(head: &Head, raw: &Tensor, shifts: &Tensor) -> Result<Tensor> {
    let first = raw.f_narrow(2, 0, 1)?;
    let shifts = shifts.f_view([1, -1, 1])?.f_expand_as(&first)?;
    let moved = first.f_add(&shifts)?;
    if head.loss != Loss::Ziln {
        let rest = raw.f_narrow(2, 1, raw.size3()?.2 - 1)?;
        return Ok(Tensor::f_cat(&[moved, rest], 2)?);
    }
    let of_buyers = shifts.f_add(&first.f_log_sigmoid()?)?.f_sub(&moved.f_log_sigmoid()?)?;
    let [mu, sigma, direct] =
        [raw.f_narrow(2, 1, 1)?, raw.f_narrow(2, 2, 1)?, raw.f_narrow(2, Head::DIRECT as i64, 1)?];
    Ok(Tensor::f_cat(&[moved, mu.f_add(&of_buyers)?, sigma, direct.f_add(&shifts)?], 2)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;
    use crate::model::heads::Ziln;
    use crate::spec::HeadSpec;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_is_worth_the_mean_of_its_days() {
        // By hand: 21 days of September, 69 of the fourth quarter.
        let expected = (21.0 * 0.927 + 69.0 * 1.187) / 90.0;
        assert!((window(day("2011-09-10"), 90) - expected).abs() < 1e-12);
        assert!((window(day("2012-01-01"), 366) - 0.996).abs() < 0.002);
    }

    #[test]
    fn buying_rises_with_the_season_and_churn_falls() {
        let buys = Season::of(&Loss::Bce, 30, Some(0.0)).unwrap().shift(day("2026-11-15"));
        let churns = Season::of(&Loss::Bce, 30, Some(1.0)).unwrap().shift(day("2026-11-15"));
        assert!(buys > 0.1 && churns == -buys);
        assert_eq!(Season::of(&Loss::Bce, 30, None), None);
        assert_eq!(Season::of(&Loss::Softmax, 30, Some(0.0)), None);
    }

    fn heads() -> [Head; 2] {
        let spec = |name: &str, loss: Loss| {
            let (name, label) = (name.to_owned(), name.to_owned());
            HeadSpec { name, label, loss, family: None, direction: None, weight: 1.0, place: Place::file("job.yaml") }
        };
        let mut heads = [Head::new(&spec("churn", Loss::Bce)), Head::new(&spec("value", Loss::Ziln))];
        heads[0].season = Season::of(&Loss::Bce, 30, Some(1.0));
        heads[1].season = Season::of(&Loss::Ziln, 30, None);
        heads
    }

    #[test]
    fn each_row_gets_the_season_of_its_own_day() {
        let heads = heads();
        let dates = [day("2026-06-01"), day("2026-12-01")];
        let mut raw = vec![0.5; 2 * 2 * 5];
        apply(&heads, &mut raw, 2, &dates);
        for (row, date) in raw.chunks_exact(10).zip(dates) {
            let shift = heads[1].season.unwrap().shift(date);
            for member in row.chunks_exact(5) {
                let of_buyers = 0.5 + of_buyers(0.5, shift);
                assert_eq!(member, [0.5 - shift, 0.5 + shift, of_buyers, 0.5, 0.5 + shift]);
            }
        }
    }

    #[test]
    fn an_expected_value_is_multiplied_by_the_season() {
        for raw in [[-6.0, 3.0, 0.2, 0.0], [0.1, 3.0, 0.2, 0.0], [8.0, 3.0, 0.2, 0.0]] {
            let shift: f64 = 0.15;
            let mut moved = raw;
            moved[1] += of_buyers(raw[0], shift);
            moved[0] += shift;
            let ratio = Ziln::of_raw(&moved).mean(20.0) / Ziln::of_raw(&raw).mean(20.0);
            assert!((ratio - shift.exp()).abs() < 1e-12, "{raw:?}: {ratio}");
        }
    }

    #[test]
    fn training_and_scoring_shift_alike() {
        let heads = heads();
        let date = day("2026-12-01");
        let mut plain = vec![0.3, -1.2, 2.0, 0.4, 0.7];
        let tensor = Tensor::from_slice(&plain).view([1, 1, 5]);
        let of = |head: usize, start: i64, width: i64| {
            let shift = Tensor::from_slice(&[shifts(&heads, date)[head]]);
            let moved = shifted(&heads[head], &tensor.narrow(2, start, width), &shift).unwrap();
            Vec::<f64>::try_from(&moved.view([-1])).unwrap()
        };
        let found = [of(0, 0, 1), of(1, 1, 4)].concat();
        apply(&heads, &mut plain, 1, &[date]);
        assert!(found.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} {plain:?}");
    }
}
