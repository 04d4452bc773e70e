//! Maximum likelihood for the purchase processes and the spend model.
//!
//! Parameters are fitted as logs, from several starts, on distinct histories with their counts. A weak normal prior on each
//! log keeps a fit that the data leaves open (one-time buyers only, five customers, constant spend) from running away; it
//! weighs as much as a fraction of one customer. Where there are many distinct histories the starts are tried on an even
//! part of them, and only the best goes on with all.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::optimizer::{Minimum, minimise};
use crate::failpoint;
use crate::model::btyd::{BetaGeometric, Customer, FitRecord, GammaGamma, History, ParetoNbd, PurchaseModel};

/// The prior's standard deviation of each log.
const SPREAD: f64 = 3.0;
/// Distinct rows on which all starts are tried.
const TRIED: usize = 10_000;
/// Rows of a sum that are added up by one thread; the sums are added in order, so that the number of threads changes no bit.
const CHUNK: usize = 512;

/// A row with the number of customers that have it.
type Counted<R> = Vec<(R, f64)>;

/// The purchase process of the greatest likelihood, and what became of each that was tried; `None` without customers.
pub fn purchases(customers: &[Customer]) -> Option<(PurchaseModel, Vec<FitRecord>)> {
    let rows = distinct(customers);
    let (bought, time) =
        rows.iter().fold((0.0, 0.0), |(bought, time), (h, n)| (bought + n * h.repeats, time + n * h.age));
    if time <= 0.0 {
        return None;
    }
    let count: f64 = rows.iter().map(|(_, n)| n).sum();
    let middle = Middle { rate: (bought + 0.5) / (time + time / count), age: time / count };
    let fits: Vec<(PurchaseModel, FitRecord)> =
        middle.families().iter().map(|starts| fit_process(&rows, starts)).collect();
    let best = fits.iter().max_by(|a, b| a.1.log_likelihood.total_cmp(&b.1.log_likelihood))?.0;
    Some((best, fits.into_iter().map(|(_, record)| record).collect()))
}

/// What all customers have in common: purchases per day, and days since the first purchase.
struct Middle {
    rate: f64,
    age: f64,
}

impl Middle {
    /// Per process, where it starts; the prior stands around the first start.
    fn families(&self) -> [Vec<PurchaseModel>; 3] {
        let alpha = |r: f64| r / self.rate;
        let beta_geometric = |first_may_be_last: bool| {
            let at = |r: f64, a: f64, b: f64| {
                PurchaseModel::BetaGeometric(BetaGeometric { r, alpha: alpha(r), a, b, first_may_be_last })
            };
            vec![at(0.7, 0.8, 2.5), at(0.3, 0.3, 1.0), at(2.0, 2.0, 10.0)]
        };
        let pareto = |r: f64, s: f64, share: f64| {
            PurchaseModel::ParetoNbd(ParetoNbd { r, alpha: alpha(r), s, beta: share * self.age })
        };
        let starts = vec![pareto(0.7, 0.7, 0.7), pareto(0.4, 0.3, 0.2), pareto(2.0, 2.0, 4.0)];
        [beta_geometric(false), beta_geometric(true), starts]
    }
}

fn fit_process(rows: &Counted<History>, starts: &[PurchaseModel]) -> (PurchaseModel, FitRecord) {
    let logs: Vec<[f64; 4]> = starts.iter().map(|start| start.parameters().map(f64::ln)).collect();
    let at = |logs: &[f64; 4]| starts[0].with(logs.map(f64::exp));
    let (found, iterations) = from_several(rows, &logs, |rows, logs: &[f64; 4]| {
        let model = at(logs);
        let slopes = |history: &History| {
            let (value, gradient) = model.value_and_gradient(history);
            (value, std::array::from_fn(|i| gradient[i] * logs[i].exp()))
        };
        objective(rows, slopes)
    });
    let model = at(&found.at);
    let record = record(model.name(), &model.parameters(), rows, &found, iterations, |h| model.log_likelihood(h));
    (model, record)
}

/// The spend model of customers whose spend is known, and its fit; `None` where there are none.
pub fn spend(customers: &[Customer]) -> Option<(GammaGamma, FitRecord)> {
    let known = customers.iter().filter_map(|c| Some((c.history.repeats + 1.0, c.spend?)));
    let rows: Counted<(f64, f64)> = known.map(|row| (row, 1.0)).collect();
    if rows.is_empty() {
        return None;
    }
    let mean = rows.iter().map(|((_, mean), _)| mean.ln()).sum::<f64>() / rows.len() as f64;
    // The third is the log of q − 1: below it there is no mean to predict.
    let logs = [[2.0, 3.0], [1.0, 1.5], [10.0, 20.0]]
        .map(|[p, q]: [f64; 2]| [p.ln(), mean + ((q - 1.0) / p).ln(), (q - 1.0).ln()]);
    let at = |logs: &[f64; 3]| GammaGamma { p: logs[0].exp(), v: logs[1].exp(), q: 1.0 + logs[2].exp() };
    let (found, iterations) = from_several(&rows, &logs, |rows, logs: &[f64; 3]| {
        let model = at(logs);
        let slopes = |(days, mean): &(f64, f64)| {
            let [p, q, v] = model.gradient(*days, *mean);
            (model.log_likelihood(*days, *mean), [p * model.p, v * model.v, q * (model.q - 1.0)])
        };
        objective(rows, slopes)
    });
    let model = at(&found.at);
    let parameters = [model.p, model.q, model.v];
    let of = |(days, mean): &(f64, f64)| model.log_likelihood(*days, *mean);
    let record = record("Gamma-Gamma", &parameters, &rows, &found, iterations, of);
    Some((model, record))
}

fn record<R, const N: usize>(
    model: &str,
    parameters: &[f64],
    rows: &Counted<R>,
    found: &Minimum<N>,
    iterations: usize,
    of: impl Fn(&R) -> f64,
) -> FitRecord {
    FitRecord {
        model: model.to_owned(),
        parameters: parameters.to_vec(),
        log_likelihood: rows.iter().map(|(row, n)| n * of(row)).sum(),
        customers: rows.iter().map(|(_, n)| n).sum::<f64>() as usize,
        iterations,
        converged: found.converged,
    }
}

/// Distinct histories, sorted, with the number of customers that have them.
fn distinct(customers: &[Customer]) -> Counted<History> {
    let key = |c: &Customer| [c.history.repeats as u64, c.history.last as u64, c.history.age as u64];
    let mut counts = BTreeMap::new();
    customers.iter().for_each(|c| counts.entry(key(c)).or_insert((c.history, 0.0)).1 += 1.0);
    counts.into_values().collect()
}

/// The best minimum from several starts, and the steps to it.
fn from_several<R: Copy, const N: usize>(
    rows: &Counted<R>,
    starts: &[[f64; N]],
    sums: impl Fn(&[(R, f64)], &[f64; N]) -> (f64, [f64; N]),
) -> (Minimum<N>, usize) {
    let total: f64 = rows.iter().map(|(_, n)| n).sum();
    let centre = starts[0];
    let descend = |rows: &[(R, f64)], start: [f64; N]| {
        let part: f64 = rows.iter().map(|(_, n)| n).sum();
        minimise(start, |logs| {
            let (mut value, mut gradient) = sums(rows, logs);
            (value, gradient) = (-value / part, gradient.map(|g| -g / part));
            for i in 0..N {
                let off = (logs[i] - centre[i]) / SPREAD;
                value += 0.5 * off * off / total;
                gradient[i] += off / SPREAD / total;
            }
            (value, gradient)
        })
    };
    let step = rows.len().div_ceil(TRIED).max(1);
    let part: Counted<R> = rows.iter().copied().step_by(step).collect();
    let tried: Vec<Minimum<N>> = starts.iter().map(|start| descend(&part, *start)).collect();
    let iterations: usize = tried.iter().map(|m| m.iterations).sum();
    let best = tried.into_iter().min_by(|a, b| a.value.total_cmp(&b.value));
    let best = best.unwrap_or(Minimum { at: centre, value: f64::NAN, iterations: 0, converged: false });
    if step == 1 {
        return (best, iterations);
    }
    let all = descend(rows, best.at);
    let iterations = iterations + all.iterations;
    (all, iterations)
}

/// The sum over rows of a value and its gradient.
fn objective<R: Sync, const N: usize>(rows: &[(R, f64)], of: impl Fn(&R) -> (f64, [f64; N]) + Sync) -> (f64, [f64; N]) {
    let chunk = |rows: &[(R, f64)]| {
        failpoint::reach("train.btyd");
        rows.iter().fold((0.0, [0.0; N]), |(sum, gradient), (row, n)| {
            let (value, slope) = of(row);
            (sum + n * value, std::array::from_fn(|i| gradient[i] + n * slope[i]))
        })
    };
    let parts: Vec<(f64, [f64; N])> = rows.par_chunks(CHUNK).map(chunk).collect();
    parts.into_iter().fold((0.0, [0.0; N]), |(sum, gradient), (part, slope)| {
        (sum + part, std::array::from_fn(|i| gradient[i] + slope[i]))
    })
}
