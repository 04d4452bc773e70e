//! The course of the year: what a window of days is worth beside the average window of the same length.
//!
//! Snapshots of half a year say nothing of December, so a model that was trained in summer under-predicts it. Until a shop's
//! own years say better, its sales are taken to follow those of all online shops: the seasonal factors of quarterly U.S.
//! retail e-commerce, not adjusted over adjusted sales, from the Census Bureau's releases: 86.3 / 92.8 (Q1 2016), 37.2 / 39.7
//! (Q2 2010), 81.1 / 87.5 (Q3 2015), 245.3 / 206.7 billion dollars (Q4 2020).
//!
//! The factor stands as an offset beside the network, in training and in scoring alike: labels of a window teach what
//! customers would do in an average one, and a prediction is that, in the window ahead. It changes no order of customers.

use chrono::{Datelike, Days, NaiveDate};
use serde::{Deserialize, Serialize};

use super::heads::Head;
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
        (days > 0).then_some(Season { days, direction })
    }

    /// What is added to log-odds and to the log of the expected value, for the window that begins on `date`.
    pub fn shift(&self, date: NaiveDate) -> f64 {
        self.direction * window(date, self.days).ln()
    }
}

/// The mean factor of the `days` from `date` on.
fn window(date: NaiveDate, days: u32) -> f64 {
    let of = |day: u32| {
        let month = date.checked_add_days(Days::new(u64::from(day))).map_or(1, |date| date.month0());
        QUARTERS[month as usize / 3]
    };
    (0..days).map(of).sum::<f64>() / f64::from(days.max(1))
}

/// What is added to each raw output of these heads for the windows that begin on `date`.
pub fn offsets(heads: &[Head], date: NaiveDate) -> Vec<f64> {
    let of = |head: &Head| {
        let mut added = vec![0.0; head.width()];
        if let Some(season) = &head.season {
            let shift = season.shift(date);
            added[0] = shift;
            if head.loss == Loss::Ziln {
                added[Head::DIRECT] = shift;
            }
        }
        added
    };
    heads.iter().flat_map(of).collect()
}

/// Adds the season to the raw outputs of rows, n × members × outputs; `dates` has the day of each row.
pub fn apply(heads: &[Head], raw: &mut [f64], members: usize, dates: &[NaiveDate]) {
    let outputs: usize = heads.iter().map(Head::width).sum();
    let mut known: Option<(NaiveDate, Vec<f64>)> = None;
    for (row, date) in raw.chunks_exact_mut((members * outputs).max(1)).zip(dates) {
        if known.as_ref().is_none_or(|(at, _)| at != date) {
            known = Some((*date, offsets(heads, *date)));
        }
        let Some((_, added)) = &known else { continue };
        row.chunks_exact_mut(outputs).for_each(|raw| raw.iter_mut().zip(added).for_each(|(raw, added)| *raw += added));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;
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

    #[test]
    fn each_row_gets_the_season_of_its_own_day() {
        let spec = |name: &str, loss: Loss| {
            let (name, label) = (name.to_owned(), name.to_owned());
            HeadSpec { name, label, loss, family: None, weight: 1.0, place: Place::file("job.yaml") }
        };
        let mut heads = [Head::new(&spec("churn", Loss::Bce)), Head::new(&spec("value", Loss::Ziln))];
        heads[0].season = Season::of(&Loss::Bce, 30, Some(1.0));
        heads[1].season = Season::of(&Loss::Ziln, 30, None);
        let dates = [day("2026-06-01"), day("2026-12-01")];
        let mut raw = vec![0.5; 2 * 2 * 5];
        apply(&heads, &mut raw, 2, &dates);
        for (row, date) in raw.chunks_exact(10).zip(dates) {
            let shift = heads[1].season.unwrap().shift(date);
            for member in row.chunks_exact(5) {
                assert_eq!(member, [0.5 - shift, 0.5 + shift, 0.5, 0.5, 0.5 + shift]);
            }
        }
    }
}
