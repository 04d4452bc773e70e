//! Conformal quantiles of values: which levels of the predicted distributions the labels really reach.
//!
//! Each label has a level in its own predicted distribution, the probability integral transform: F(y). If the distributions
//! were right these levels would be uniform; where they are not, the distribution R of the levels says which level to publish
//! as p10, p50 and p90 (Kuleshov, Fenner, Ermon 2018). A label of 0 has no single level: it stands anywhere up to P(value = 0),
//! which is a left-censored observation, so R is the product-limit estimate for those (Kaplan, Meier 1958, turned round). It
//! spreads a label of 0 as R itself spreads the levels below its P(value = 0), so that the transform by the recalibrated
//! distribution, averaged over that spread, is exactly uniform on the calibrating rows.
//!
//! The level of later labels is not known either. It was off by so much here, and is taken to be off as far then, up or down:
//! every label stands in two distributions, moved by that much either way. Where the level was met this changes nothing; where
//! it was not, intervals are the wider for it.

use super::{Row, Value};
use crate::model::calibration::{Polyline, QuantileLevels, logit, shift_to};
use crate::model::heads::{Ziln, sigmoid};

/// Nothing is fitted with fewer rows than this, or fewer positive labels.
const FEW: usize = 100;
const FEW_POSITIVE: usize = 30;
/// Shares are products of fractions: what they are off by.
const ROUNDING: f64 = 1e-9;
/// The distribution of the levels is kept at so many steps; p10, p50 and p90 are among them.
const STEPS: usize = 50;

/// Where a label stands in its predicted distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Standing {
    /// At this level.
    At(f64),
    /// At this level or below it: a label of 0.
    UpTo(f64),
}

impl Standing {
    fn level(self) -> f64 {
        match self {
            Standing::At(level) | Standing::UpTo(level) => level,
        }
    }
}

/// The levels of a head, of distributions around the level of the labels; `None` with too few rows.
pub(super) fn fit(rows: &[Row<Value>], cap: f64) -> Option<QuantileLevels> {
    let positive = || rows.iter().filter(|row| row.label > 0.0);
    let buyers = positive().count() as f64;
    if rows.len() < FEW || buyers < FEW_POSITIVE as f64 {
        return None;
    }
    let log_odds = shift_to(buyers, rows.iter().map(|row| row.said.distribution.p));
    let log_value = positive().map(|row| row.label.ln() - row.said.distribution.mu).sum::<f64>() / buyers;
    // At the level of the labels, and then as far off again in either direction.
    let standing = |row: &Row<Value>, off: f64| {
        let Ziln { p, mu, sigma } = row.said.distribution;
        let [log_odds, log_value] = [log_odds, log_value].map(|shift| (1.0 + off) * shift);
        let level = Ziln { p: sigmoid(logit(p) + log_odds), mu: mu + log_value, sigma }.cdf(row.label, cap + log_value);
        if row.label > 0.0 { Standing::At(level) } else { Standing::UpTo(level) }
    };
    let standings = rows.iter().flat_map(|row| [-1.0, 1.0].map(|off| standing(row, off))).collect();
    let shares = shares(standings, rows.len());
    Some(QuantileLevels { shares, shift: [log_odds, log_value], rows: rows.len() })
}

/// The line from levels to the shares of labels at or below them, with the correction for `n` rows of split conformal
/// prediction: of n + 1 exchangeable rows, the new one is as likely to take any rank.
fn shares(standings: Vec<Standing>, n: usize) -> Polyline {
    let steps = product_limit(standings);
    let rank = |share: f64| {
        let rank = share * (n as f64 + 1.0);
        let outward = if share < 0.5 { rank.floor() } else { rank.ceil() };
        if share == 0.5 { share } else { (outward / n as f64).clamp(0.0, 1.0) }
    };
    let points = (1..STEPS).map(|step| step as f64 / STEPS as f64).map(|share| [level_at(&steps, rank(share)), share]);
    Polyline::through(points)
}

/// The steps of the product-limit estimate: levels, rising, with the share just below each and at it.
fn product_limit(mut standings: Vec<Standing>) -> Vec<(f64, f64, f64)> {
    standings.sort_by(|a, b| a.level().total_cmp(&b.level()));
    let (mut steps, mut share, mut left) = (Vec::new(), 1.0, standings.len());
    for equal in standings.chunk_by(|a, b| a.level() == b.level()).rev() {
        let here = equal.iter().filter(|standing| matches!(standing, Standing::At(_))).count();
        if here > 0 {
            // A bound at this very level lets its label stand here as well, as often as the others do.
            let bounds = equal.len() - here;
            let below = share * (1.0 - here as f64 / (left - bounds) as f64);
            steps.push((equal[0].level(), below, share));
            share = below;
        }
        left -= equal.len();
    }
    steps.reverse();
    steps
}

/// The level with that share of labels at or below it. Below all positive labels there are only zeros, and they are spread
/// evenly.
fn level_at(steps: &[(f64, f64, f64)], share: f64) -> f64 {
    match steps {
        [(first, below, _), ..] if share <= *below => first * share / below,
        _ => steps.iter().find(|(_, _, at)| *at >= share - ROUNDING).map_or(1.0, |(level, ..)| *level),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::model::calibration::Calibration;
    use crate::training::metrics::{Interval, coverage};

    const CAP: f64 = 30.0;

    /// Customers who buy with different probabilities; `said` is what the model makes of the truth.
    fn rows(n: u32, seed: u64, said: impl Fn(Ziln) -> Ziln) -> Vec<Row<Value>> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let row = |customer| {
            let truth = Ziln { p: random.random_range(0.03..0.98), mu: random.random_range(0.0..4.0), sigma: 1.2 };
            let label = truth.quantile(random.random_range(0.0..1.0), CAP);
            Row { said: Value { mean: 1.0, distribution: said(truth) }, label, customer }
        };
        (0..n).map(row).collect()
    }

    fn covered(rows: &[Row<Value>], calibration: &Calibration) -> f64 {
        let interval = |row: &Row<Value>| {
            let (zero, [low, _, high]) = calibration.spread(&row.said.distribution, CAP);
            Interval { low, high, zero }
        };
        let labels: Vec<f64> = rows.iter().map(|row| row.label).collect();
        coverage(&labels, &rows.iter().map(interval).collect::<Vec<_>>())
    }

    fn calibrated(rows: &[Row<Value>]) -> Calibration {
        Calibration { quantiles: fit(rows, CAP), ..Calibration::default() }
    }

    /// What is said in place of the truth.
    type Said = fn(Ziln) -> Ziln;

    #[test]
    fn a_wrong_spread_covers_four_fifths_of_fresh_customers_after_calibration() {
        let wrong: [(&str, Said); 3] = [
            ("too narrow", |z| Ziln { sigma: 0.4, ..z }),
            ("too wide", |z| Ziln { sigma: 4.0, ..z }),
            ("too sure of who buys", |z| Ziln { p: sigmoid(4.0 * logit(z.p)), sigma: 0.5, ..z }),
        ];
        for (what, said) in wrong {
            let (known, fresh) = (rows(4000, 1, said), rows(40_000, 2, said));
            let (before, after) = (covered(&fresh, &Calibration::default()), covered(&fresh, &calibrated(&known)));
            assert!((before - 0.8).abs() > 0.03, "{what}: {before}");
            assert!((after - 0.8).abs() < 0.015, "{what}: {before} → {after}");
        }
    }

    #[test]
    fn distributions_that_are_right_keep_their_levels() {
        let levels = fit(&rows(20_000, 3, |z| z), CAP).unwrap();
        for level in [0.1, 0.3, 0.5, 0.9] {
            assert!((levels.shares.at(level) - level).abs() < 0.015, "{level}: {}", levels.shares.at(level));
        }
    }

    #[test]
    fn the_calibrating_rows_themselves_are_covered_exactly() {
        // At the level of the labels, as the calibration sees them.
        let known = rows(5000, 4, |z| Ziln { sigma: 0.5, ..z });
        let levels = fit(&known, CAP).unwrap();
        let [log_odds, log_value] = levels.shift;
        let shifted = |row: &Row<Value>| {
            let z = row.said.distribution;
            let distribution = Ziln { p: sigmoid(logit(z.p) + log_odds), mu: z.mu + log_value, ..z };
            Row { said: Value { distribution, ..row.said }, ..*row }
        };
        let known: Vec<Row<Value>> = known.iter().map(shifted).collect();
        let after = covered(&known, &Calibration { quantiles: Some(levels), ..Calibration::default() });
        assert!((after - 0.8).abs() < 4e-3, "{after}");
    }

    #[test]
    fn another_level_moves_no_interval_and_widens_it() {
        let known = rows(20_000, 5, |z| Ziln { p: sigmoid(logit(z.p) - 0.5), mu: z.mu + 0.7, ..z });
        let levels = fit(&known, CAP).unwrap();
        assert!((levels.shift[0] - 0.5).abs() < 0.05 && (levels.shift[1] + 0.7).abs() < 0.05, "{:?}", levels.shift);
        assert!((levels.shares.at(0.5) - 0.5).abs() < 0.02, "{}", levels.shares.at(0.5));
        assert!(levels.shares.inverse(0.1) < 0.09 && levels.shares.inverse(0.9) > 0.91, "{levels:?}");
        // The labels of later rows are off as far, up or down: on the average of both, four fifths are covered.
        let calibration = Calibration { quantiles: Some(levels), ..Calibration::default() };
        let off =
            |sign: f64| rows(40_000, 6, |z| Ziln { p: sigmoid(logit(z.p) - sign * 0.5), mu: z.mu + sign * 0.7, ..z });
        let mean = [1.0, -1.0].map(|sign| covered(&off(sign), &calibration)).iter().sum::<f64>() / 2.0;
        assert!((mean - 0.8).abs() < 0.015, "{mean}");
    }

    #[test]
    fn few_rows_make_wider_intervals_never_narrower() {
        let standings = |n: usize| (1..=n).map(|i| Standing::At(i as f64 / (n + 1) as f64)).collect();
        let (few, many) = (shares(standings(100), 100), shares(standings(100_000), 100_000));
        assert!(few.inverse(0.9) >= many.inverse(0.9) && few.inverse(0.1) <= many.inverse(0.1) + 1e-9);
    }

    #[test]
    fn too_few_rows_or_buyers_fit_nothing() {
        assert_eq!(fit(&rows(99, 6, |z| z), CAP), None);
        let mut known = rows(1000, 7, |z| z);
        known.iter_mut().skip(40).for_each(|row| row.label = 0.0);
        assert_eq!(fit(&known, CAP), None);
    }

    /// Efron's self-consistency, again and again until nothing moves: every label of 0 is spread over the levels below its
    /// bound as all labels are. Levels are those of the positive labels, and one below them.
    fn naive(standings: &[Standing]) -> Vec<(f64, f64)> {
        let at = |s: &Standing| matches!(s, Standing::At(_)).then_some(s.level());
        let mut levels: Vec<f64> = standings.iter().filter_map(at).chain([-1.0]).collect();
        levels.sort_by(f64::total_cmp);
        levels.dedup();
        let mut mass = vec![1.0 / levels.len() as f64; levels.len()];
        for _ in 0..20_000 {
            let mut next = vec![0.0; levels.len()];
            for standing in standings {
                let place = levels.partition_point(|level| *level <= standing.level()) - 1;
                match standing {
                    Standing::At(_) => next[place] += 1.0,
                    Standing::UpTo(_) => {
                        let below: f64 = mass[..=place].iter().sum();
                        (0..=place).for_each(|i| next[i] += mass[i] / below);
                    }
                }
            }
            next.iter_mut().for_each(|m| *m /= standings.len() as f64);
            mass = next;
        }
        levels
            .iter()
            .zip(&mass)
            .scan(0.0, |sum, (level, m)| {
                *sum += m;
                Some((*level, *sum))
            })
            .skip(1)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_product_limit_is_the_self_consistent_distribution(
            found in prop::collection::vec((1u8..12, any::<bool>()), 1..25),
        ) {
            let level = |l: u8| f64::from(l) / 12.0;
            let standings: Vec<Standing> = found
                .iter()
                .map(|(l, bought)| if *bought { Standing::At(level(*l)) } else { Standing::UpTo(level(*l)) })
                .collect();
            let steps = product_limit(standings.clone());
            for ((level, _, share), (expected_level, expected)) in steps.iter().zip(naive(&standings)) {
                prop_assert_eq!(*level, expected_level);
                prop_assert!((share - expected).abs() < 1e-3, "{steps:?} {:?}", naive(&standings));
            }
        }
    }
}
