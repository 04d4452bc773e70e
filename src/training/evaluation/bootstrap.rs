//! How sure a number is: the bootstrap over customers (Efron 1979), with percentile intervals.
//!
//! A resample draws as many customers as there are, with replacement; a customer who is drawn k times counts k times with
//! all of its rows. Everything that is compared is measured on the same resamples, so that what two models have in common
//! cancels out of their difference.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Resamples where nothing else is asked for.
pub const RESAMPLES: usize = 500;
/// The same customers are drawn every time.
const SEED: u64 = 2004;
/// What lies outside of an interval on each side.
const TAIL: f64 = 0.025;
/// An interval needs the metric to exist in this share of the resamples.
const KNOWN: f64 = 0.95;

/// What `of` says of every resample, given how often each customer was drawn; in the order of the resamples.
pub(in crate::training) fn resampled<T: Send>(
    customers: usize,
    resamples: usize,
    of: impl Fn(&[f64]) -> T + Sync,
) -> Vec<T> {
    (0..resamples).into_par_iter().map(|resample| of(&draw(customers, resample))).collect()
}

fn draw(customers: usize, resample: usize) -> Vec<f64> {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    random.set_stream(resample as u64);
    let mut counts = vec![0.0; customers];
    (0..customers).for_each(|_| counts[random.random_range(0..customers)] += 1.0);
    counts
}

/// The 95 % interval of what the resamples gave; `None` where too many of them gave nothing.
pub(in crate::training) fn interval(resampled: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    let (mut all, mut known) = (0, Vec::new());
    for value in resampled {
        all += 1;
        known.extend(Some(value).filter(|v| v.is_finite()));
    }
    if known.is_empty() || (known.len() as f64) < KNOWN * f64::from(all) {
        return None;
    }
    known.sort_by(f64::total_cmp);
    Some([quantile(&known, TAIL), quantile(&known, 1.0 - TAIL)])
}

/// The quantile at level `q` of sorted values, interpolated between neighbours.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + part * (sorted[high] - sorted[low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resample_has_as_many_customers_as_there_are_and_comes_again() {
        let counts = draw(1000, 3);
        assert_eq!(counts.iter().sum::<f64>(), 1000.0);
        assert_eq!(counts, draw(1000, 3));
        assert_ne!(counts, draw(1000, 4));
    }

    #[test]
    fn resamples_come_in_order_whoever_computes_them() {
        let first = resampled(50, 20, |counts| counts[0]);
        assert_eq!(first, (0..20).map(|resample| draw(50, resample)[0]).collect::<Vec<_>>());
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_the_normal_law() {
        // The mean of 10,000 customers of which half have 1: standard error 0.005.
        let means = resampled(10_000, 2_000, |counts| counts[..5_000].iter().sum::<f64>() / 10_000.0);
        let [low, high] = interval(means.into_iter()).unwrap();
        assert!((low - (0.5 - 1.96 * 0.005)).abs() < 0.001, "{low}");
        assert!((high - (0.5 + 1.96 * 0.005)).abs() < 0.001, "{high}");
    }

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[1.0], 0.3), 1.0);
    }

    #[test]
    fn a_metric_that_often_does_not_exist_has_no_interval() {
        assert_eq!(interval((0..10).map(|i| if i == 0 { f64::NAN } else { 1.0 })), None);
        assert_eq!(interval(std::iter::repeat_n(1.0, 10)), Some([1.0, 1.0]));
        assert_eq!(interval(std::iter::empty()), None);
    }
}
