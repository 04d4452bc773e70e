//! How strongly a shop follows the course of the year: a factor of the season's logarithm, estimated from past snapshots.
//!
//! What a first fit predicts for every snapshot, with the season of all online shops in it, is held against what happened. Where
//! the labels of snapshots before Christmas are further above their predictions than those of other months, the shop's year is
//! the steeper one. Growth is estimated beside it, lest it be taken for a season, and is not carried on: a trend that was carried
//! on made predictions worse. Few snapshots, or those of one season alone, say little: then the factor stays near 1.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::model::calibration::shift_to;
use crate::model::heads::{Head, Prediction};
use crate::model::season::window;
use crate::spec::Loss;

/// How much factors of shops differ: their standard deviation around 1.
const AMONG_SHOPS: f64 = 0.5;
/// How much yearly growth differs, in logarithms.
const GROWTH: f64 = 0.3;
/// What else moves the level of a snapshot whose window overlaps with no other, in logarithms.
const NOISE: f64 = 0.1;
/// Customers with and without purchases below which a snapshot says nothing.
const FEW: usize = 30;
/// The factor's bounds: a shop without a season, and one of whose year half is December.
const BOUNDS: [f64; 2] = [0.0, 3.0];

/// By how much the labels of a snapshot lie above what was predicted with a factor of 1, in logarithms of purchases.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SnapshotLevel {
    /// Where its window begins.
    pub date: NaiveDate,
    /// Labels over predictions.
    pub off: f64,
}

impl SnapshotLevel {
    /// Of a snapshot's customers; `None` for a head without a season, or with too few labels to tell.
    pub fn of(head: &Head, date: NaiveDate, said: &[Option<Prediction>], labels: &[f64]) -> Option<Self> {
        let season = head.season?;
        let known = said.iter().zip(labels).filter(|(_, label)| !label.is_nan());
        let (said, labels): (Vec<f64>, Vec<f64>) =
            known.filter_map(|(said, label)| Some(((*said)?.point(), *label))).unzip();
        let count = |positive: bool| labels.iter().filter(|label| (**label > 0.0) == positive).count();
        if count(true).min(count(false)) < FEW {
            return None;
        }
        let total: f64 = labels.iter().sum();
        let off = match head.loss {
            Loss::Ziln => (total / said.iter().sum::<f64>()).ln(),
            _ => season.direction * shift_to(total, said.into_iter()),
        };
        off.is_finite().then_some(SnapshotLevel { date, off })
    }
}

/// The factor, as far as snapshots can tell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Amplitude {
    /// It multiplies the season's logarithm.
    pub factor: f64,
    /// Its standard deviation after the snapshots were seen.
    pub error: f64,
    /// How many there were.
    pub snapshots: usize,
}

/// The factor's posterior mean, for windows of `days` days: of a linear model of the levels in the season and in time, with
/// normal priors.
pub fn amplitude(days: u32, levels: &[SnapshotLevel]) -> Amplitude {
    let n = levels.len().max(1) as f64;
    let time =
        |level: &SnapshotLevel| f64::from(level.date.signed_duration_since(levels[0].date).num_days() as i32) / 365.25;
    let centred = |of: &dyn Fn(&SnapshotLevel) -> f64| -> Vec<f64> {
        let mean = levels.iter().map(of).sum::<f64>() / n;
        levels.iter().map(|level| of(level) - mean).collect()
    };
    let season = centred(&|level| window(level.date, days).ln());
    let time = centred(&time);
    let off = centred(&|level| level.off);
    // Windows that overlap share their noise: so many of them say what one does.
    let variance = NOISE * NOISE * overlapping(days, levels);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / variance;
    let (ss, tt, st) = (dot(&season, &season), dot(&time, &time), dot(&season, &time));
    let (so, to) = (dot(&season, &off), dot(&time, &off));
    let (ss, tt) = (ss + AMONG_SHOPS.powi(-2), tt + GROWTH.powi(-2));
    let determinant = ss * tt - st * st;
    let factor = 1.0 + (so * tt - to * st) / determinant;
    Amplitude { factor: factor.clamp(BOUNDS[0], BOUNDS[1]), error: (tt / determinant).sqrt(), snapshots: levels.len() }
}

/// How many windows cover a day, on average.
fn overlapping(days: u32, levels: &[SnapshotLevel]) -> f64 {
    let dates = || levels.iter().map(|level| level.date);
    let (Some(first), Some(last)) = (dates().min(), dates().max()) else { return 1.0 };
    let span = last.signed_duration_since(first).num_days() as f64 + f64::from(days);
    (levels.len() as f64 * f64::from(days) / span).max(1.0)
}

#[cfg(test)]
mod tests {
    use chrono::Days;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::error::Place;
    use crate::model::season::Season;
    use crate::spec::HeadSpec;

    /// Monthly snapshots of a shop with that factor and growth.
    fn levels(from: &str, months: u64, factor: f64, growth: f64, noise: f64) -> Vec<SnapshotLevel> {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let first: NaiveDate = from.parse().unwrap();
        let level = |month: u64| {
            let date = first + Days::new(30 * month);
            let off = (factor - 1.0) * window(date, 90).ln() + growth * month as f64 / 12.0;
            SnapshotLevel { date, off: off + random.random_range(-noise..=noise) }
        };
        (0..months).map(level).collect()
    }

    #[test]
    fn years_of_snapshots_tell_a_shops_own_season() {
        for factor in [0.0, 1.0, 2.0] {
            let found = amplitude(90, &levels("2022-01-01", 48, factor, 0.2, 0.05));
            assert!((found.factor - factor).abs() < 0.3 && found.error < 0.3, "{factor}: {found:?}");
        }
    }

    #[test]
    fn snapshots_of_one_season_say_nothing() {
        // Windows from January to July: the quarters are worth the same within a hundredth.
        let found = amplitude(90, &levels("2026-01-01", 5, 2.0, 0.4, 0.05));
        assert!((found.factor - 1.0).abs() < 0.05 && found.error > 0.45, "{found:?}");
        assert_eq!(amplitude(90, &[]).factor, 1.0);
    }

    #[test]
    fn growth_is_not_taken_for_a_season() {
        // Half a year up to Christmas: what rises may be either.
        let found = amplitude(90, &levels("2026-03-01", 8, 1.0, 0.3, 0.0));
        assert!((found.factor - 1.0).abs() < 0.4 && found.error > 0.25, "{found:?}");
        let steady = amplitude(90, &levels("2022-01-01", 48, 1.0, 0.3, 0.0));
        assert!((steady.factor - 1.0).abs() < 0.05, "{steady:?}");
    }

    #[test]
    fn a_factor_beyond_all_sense_is_bounded() {
        assert_eq!(amplitude(90, &levels("2022-01-01", 48, 9.0, 0.0, 0.0)).factor, 3.0);
        assert_eq!(amplitude(90, &levels("2022-01-01", 48, -9.0, 0.0, 0.0)).factor, 0.0);
    }

    #[test]
    fn a_level_is_what_purchases_lie_above_their_predictions() {
        let head = |loss: Loss| {
            let (name, label) = ("h".to_owned(), "l".to_owned());
            let spec = HeadSpec {
                name,
                label,
                loss,
                family: None,
                direction: None,
                weight: 1.0,
                place: Place::file("job.yaml"),
            };
            Head { season: Season::of(&spec.loss, 90, Some(1.0)), ..Head::new(&spec) }
        };
        let date = NaiveDate::default();
        // Churn was predicted for half of the customers and came for a quarter: ln 3 less of it, ln 3 more purchases.
        let churn: Vec<f64> = (0..200).map(|i| f64::from(i % 4 == 0)).collect();
        let half = vec![Some(Prediction::Probability(0.5)); 200];
        let off = |head: &Head, said: &[Option<Prediction>], labels: &[f64]| {
            SnapshotLevel::of(head, date, said, labels).map(|level| level.off)
        };
        assert!((off(&head(Loss::Bce), &half, &churn).unwrap() - 3.0_f64.ln()).abs() < 1e-9);
        let value = vec![Some(Prediction::Value { mean: 1.0, zero: 0.5, quantiles: [0.0; 3] }); 200];
        let spent: Vec<f64> = churn.iter().map(|label| 8.0 * label).collect();
        assert!((off(&head(Loss::Ziln), &value, &spent).unwrap() - 2.0_f64.ln()).abs() < 1e-9);
        assert_eq!(off(&head(Loss::Ziln), &value[..100], &spent[..100]), None);
        assert_eq!(off(&Head { season: None, ..head(Loss::Bce) }, &half, &churn), None);
    }
}
