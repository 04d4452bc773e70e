//! Probabilities: Platt scaling, isotonic regression, or nothing. Cross-validation on the calibrating rows decides, and the
//! more flexible of two has to be better beyond its standard error.

use super::Row;
use crate::model::calibration::{Carry, Curve, EDGE, Polyline, ProbabilityMap, logit, shift_to};
use crate::model::heads::sigmoid;
use crate::training::metrics::log_loss;

/// Nothing is fitted with fewer rows than this of one label.
const FEW: usize = 30;
/// Parts of the cross-validation.
const FOLDS: u32 = 5;
/// Newton steps at most.
const STEPS: usize = 50;
/// The gradient per row at which a fit has arrived.
const FLAT: f64 = 1e-10;
/// A slope below this would all but end the ranking.
const LEAST_SLOPE: f64 = 0.05;

/// The map that cross-validation chooses, for rows at the level of the labels; `None` with too few rows. Whoever uses it takes
/// it to the level of a model first: [`ProbabilityMap::at_level_of`].
pub(super) fn choose(rows: &[Row<f64>]) -> Option<ProbabilityMap> {
    let ones = rows.iter().filter(|row| row.label > 0.5).count();
    if ones.min(rows.len() - ones) < FEW {
        return None;
    }
    let shift = shift_to(ones as f64, rows.iter().map(|row| row.said));
    let levelled = |row: &Row<f64>| Row { said: sigmoid(logit(row.said) + shift), ..*row };
    let rows: Vec<Row<f64>> = rows.iter().map(levelled).collect();
    let mut losses = [const { Vec::new() }; 3];
    for fold in 0..FOLDS {
        let (held, others): (Vec<Row<f64>>, Vec<Row<f64>>) =
            rows.iter().copied().partition(|row| row.customer % FOLDS == fold);
        let curves = [Curve::None, platt(&others), isotonic(&others)];
        for (losses, curve) in losses.iter_mut().zip(&curves) {
            losses.extend(held.iter().map(|row| log_loss(&[row.label], &[curve.of(row.said)])));
        }
    }
    let mut chosen = 0;
    for candidate in 1..losses.len() {
        if better(&losses[chosen], &losses[candidate]) {
            chosen = candidate;
        }
    }
    let curve = match chosen {
        0 => Curve::None,
        1 => platt(&rows),
        _ => isotonic(&rows),
    };
    let loss = |losses: &Vec<f64>| losses.iter().sum::<f64>() / losses.len() as f64;
    let mean = ones as f64 / rows.len() as f64;
    let log_loss = losses.each_ref().map(loss);
    Some(ProbabilityMap { curve, log_loss, shift, rows: rows.len(), mean, carry: Carry::default() })
}

/// Whether the second losses are smaller than the first by more than the standard error of the difference.
fn better(simpler: &[f64], other: &[f64]) -> bool {
    let n = simpler.len() as f64;
    let gains = || simpler.iter().zip(other).map(|(a, b)| a - b);
    let mean = gains().sum::<f64>() / n;
    let variance = gains().map(|gain| (gain - mean).powi(2)).sum::<f64>() / (n - 1.0);
    mean > (variance / n).sqrt()
}

/// Platt scaling by Newton's method with backtracking and Platt's targets, which keep off 0 and 1 (Platt 1999; Lin, Lin, Weng
/// 2007).
fn platt(rows: &[Row<f64>]) -> Curve {
    let ones = rows.iter().filter(|row| row.label > 0.5).count() as f64;
    let targets = [1.0 / (rows.len() as f64 - ones + 2.0), (ones + 1.0) / (ones + 2.0)];
    let points: Vec<(f64, f64)> =
        rows.iter().map(|row| (logit(row.said), targets[usize::from(row.label > 0.5)])).collect();
    // ln(1 + e^z) − t z is the cross-entropy of target t and log-odds z.
    let loss = |[a, b]: [f64; 2]| -> f64 {
        points.iter().map(|(x, t)| (a * x + b, t)).map(|(z, t)| z.max(0.0) + (-z.abs()).exp().ln_1p() - t * z).sum()
    };
    let mut at = [1.0, 0.0];
    let mut value = loss(at);
    for _ in 0..STEPS {
        let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 1e-9, 0.0, 1e-9);
        for (x, t) in &points {
            let p = sigmoid(at[0] * x + at[1]);
            let (error, weight) = (p - t, p * (1.0 - p));
            ga += error * x;
            gb += error;
            haa += weight * x * x;
            hab += weight * x;
            hbb += weight;
        }
        let determinant = haa * hbb - hab * hab;
        if ga.abs().max(gb.abs()) <= FLAT * rows.len() as f64 || determinant <= 0.0 {
            break;
        }
        let step = [(hab * gb - hbb * ga) / determinant, (hab * ga - haa * gb) / determinant];
        let lengths = (0..20).map(|halvings| 0.5_f64.powi(halvings));
        let next = lengths.map(|length| [at[0] + length * step[0], at[1] + length * step[1]]);
        match next.map(|next| (next, loss(next))).find(|(_, found)| *found < value) {
            Some((next, found)) => (at, value) = (next, found),
            None => break,
        }
    }
    let [slope, intercept] = at;
    if slope < LEAST_SLOPE { Curve::None } else { Curve::Platt { slope, intercept } }
}

/// Isotonic regression by pooling adjacent violators (Ayer et al. 1955), as a line through the centres of the blocks: between
/// two blocks it rises, so customers that the regression would tie keep their order. Each block counts one row more than it
/// has, at its mean prediction, which keeps its share off 0 and 1.
fn isotonic(rows: &[Row<f64>]) -> Curve {
    let mut sorted: Vec<(f64, f64)> = rows.iter().map(|row| (row.said.clamp(EDGE, 1.0 - EDGE), row.label)).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let equal = sorted.chunk_by(|a, b| a.0 == b.0);
    let blocks = pooled(equal.map(|block| Block {
        rows: block.len() as f64,
        said: block.iter().map(|(p, _)| p).sum(),
        label: block.iter().map(|(_, label)| label).sum(),
    }));
    let with_prior =
        |b: Block| Block { rows: b.rows + 1.0, said: b.said + b.said / b.rows, label: b.label + b.said / b.rows };
    let blocks = pooled(blocks.into_iter().map(with_prior));
    Curve::Isotonic(Polyline::through(blocks.into_iter().map(|b| [b.said / b.rows, b.label / b.rows])))
}

/// Rows of similar prediction.
#[derive(Debug, Clone, Copy)]
struct Block {
    rows: f64,
    said: f64,
    label: f64,
}

/// Blocks in which the share of 1 rises strictly.
fn pooled(blocks: impl Iterator<Item = Block>) -> Vec<Block> {
    let mut kept: Vec<Block> = Vec::new();
    for mut block in blocks {
        while let Some(before) = kept.last().copied()
            && before.label * block.rows >= block.label * before.rows
        {
            kept.pop();
            block = Block {
                rows: before.rows + block.rows,
                said: before.said + block.said,
                label: before.label + block.label,
            };
        }
        kept.push(block);
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::training::metrics::auc;

    /// Predictions over all log-odds, and labels by the truth behind a prediction.
    fn rows(n: u32, truth: impl Fn(f64) -> f64) -> Vec<Row<f64>> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let row = |customer| {
            let said = sigmoid(random.random_range(-4.0..4.0));
            Row { said, label: f64::from(random.random::<f64>() < truth(said)), customer }
        };
        (0..n).map(row).collect()
    }

    fn loss_with(curve: &Curve, rows: &[Row<f64>]) -> f64 {
        rows.iter().map(|row| log_loss(&[row.label], &[curve.of(row.said)])).sum::<f64>() / rows.len() as f64
    }

    #[test]
    fn probabilities_that_are_right_are_left_alone() {
        let found = choose(&rows(4000, |p| p)).unwrap();
        assert_eq!(found.curve, Curve::None, "{found:?}");
    }

    #[test]
    fn log_odds_that_are_twice_too_sure_are_halved() {
        let found = choose(&rows(4000, |p| sigmoid(0.5 * logit(p)))).unwrap();
        let Curve::Platt { slope, intercept } = found.curve else { panic!("{found:?}") };
        assert!((slope - 0.5).abs() < 0.06 && intercept.abs() < 0.1, "{slope} {intercept}");
        assert!(found.log_loss[1] < found.log_loss[0] && found.log_loss[1] <= found.log_loss[2] + 1e-3);
    }

    #[test]
    fn another_level_alone_is_left_to_the_final_fit() {
        let found = choose(&rows(4000, |p| sigmoid(logit(p) - 0.7))).unwrap();
        assert!(found.curve == Curve::None && (found.shift + 0.7).abs() < 0.1, "{found:?}");
    }

    /// A model that is not sure enough by a factor of 8, and too low by a level; its successor has another level again.
    #[test]
    fn a_later_model_keeps_its_level_under_the_slope_that_an_earlier_one_needed() {
        let timid = |p: f64, level: f64| sigmoid(logit(p) / 8.0 + level);
        let earlier = rows(6000, |p| p);
        let earlier: Vec<Row<f64>> = earlier.iter().map(|row| Row { said: timid(row.said, -0.4), ..*row }).collect();
        let found = choose(&earlier).unwrap();
        for level in [-0.4, 0.0, 0.3, 1.0] {
            let plain: Vec<f64> = (0..1000).map(|i| timid(sigmoid(f64::from(i) / 125.0 - 4.0), level)).collect();
            let map = found.at_level_of(&plain);
            let mean = |of: &dyn Fn(f64) -> f64| plain.iter().map(|p| of(*p)).sum::<f64>() / 1000.0;
            assert!((mean(&|p| map.of(p)) - mean(&|p| p)).abs() < 1e-6, "{level}: {map:?}");
            assert!(map.of(plain[900]) - map.of(plain[100]) > 0.7, "{level}: {map:?}");
        }
    }

    #[test]
    fn a_step_that_no_line_follows_takes_isotonic_regression() {
        let truth = |p: f64| if p < 0.3 { 0.05 } else { 0.79 };
        let found = choose(&rows(6000, truth)).unwrap();
        assert!(matches!(found.curve, Curve::Isotonic(_)), "{found:?}");
        for p in [0.05, 0.15, 0.5, 0.9] {
            assert!((found.curve.of(p) - truth(p)).abs() < 0.06, "{p}: {}", found.curve.of(p));
        }
    }

    #[test]
    fn a_model_that_knows_nothing_or_the_opposite_is_not_turned_round() {
        for truth in [|_: f64| 0.4, |p: f64| 1.0 - p] {
            let curve = platt(&rows(3000, truth));
            assert!(curve.of(0.2) < curve.of(0.8), "{curve:?}");
        }
    }

    #[test]
    fn platt_stands_where_the_gradient_is_0() {
        let rows = rows(500, |p| sigmoid(1.7 * logit(p) + 0.4));
        let Curve::Platt { slope, intercept } = platt(&rows) else { panic!() };
        let ones = rows.iter().filter(|row| row.label == 1.0).count() as f64;
        let target = |label: f64| if label == 1.0 { (ones + 1.0) / (ones + 2.0) } else { 1.0 / (500.0 - ones + 2.0) };
        let loss = |slope: f64, intercept: f64| -> f64 {
            let p = |row: &Row<f64>| sigmoid(slope * logit(row.said) + intercept);
            rows.iter()
                .map(|row| (target(row.label), p(row)))
                .map(|(t, p)| -t * p.ln() - (1.0 - t) * (1.0 - p).ln())
                .sum()
        };
        let least = loss(slope, intercept);
        for (a, b) in [(1e-3, 0.0), (-1e-3, 0.0), (0.0, 1e-3), (0.0, -1e-3)] {
            assert!(loss(slope + a, intercept + b) > least);
        }
    }

    #[test]
    fn too_few_of_one_label_fit_nothing() {
        assert_eq!(choose(&rows(1000, |_| 0.01)), None);
        assert_eq!(choose(&[]), None);
    }

    /// Pools the first pair that falls until none does.
    fn naive(values: &[(f64, f64)]) -> Vec<f64> {
        let mut blocks: Vec<Vec<f64>> = values.iter().map(|(_, label)| vec![*label]).collect();
        let mean = |block: &[f64]| block.iter().sum::<f64>() / block.len() as f64;
        while let Some(i) = (1..blocks.len()).find(|i| mean(&blocks[i - 1]) >= mean(&blocks[*i])) {
            let next = blocks.remove(i);
            blocks[i - 1].extend(next);
        }
        blocks.iter().flat_map(|block| std::iter::repeat_n(mean(block), block.len())).collect()
    }

    proptest! {
        #[test]
        fn pools_are_those_of_a_naive_search(labels in prop::collection::vec(any::<bool>(), 1..40)) {
            let values: Vec<(f64, f64)> =
                labels.iter().enumerate().map(|(i, label)| (i as f64, f64::from(u8::from(*label)))).collect();
            let found = pooled(values.iter().map(|(said, label)| Block { rows: 1.0, said: *said, label: *label }));
            let found = found.iter().flat_map(|b| std::iter::repeat_n(b.label / b.rows, b.rows as usize));
            for (found, expected) in found.zip(naive(&values)) {
                prop_assert!((found - expected).abs() < 1e-12);
            }
        }

        #[test]
        fn no_map_changes_an_order(
            said in prop::collection::vec((1e-4..0.9999f64, any::<bool>()), 2..200),
        ) {
            let rows: Vec<Row<f64>> = said
                .iter()
                .zip(0..)
                .map(|((said, label), customer)| Row { said: *said, label: f64::from(u8::from(*label)), customer })
                .collect();
            for curve in [platt(&rows), isotonic(&rows)] {
                let mapped: Vec<f64> = rows.iter().map(|row| curve.of(row.said)).collect();
                prop_assert!(mapped.iter().all(|p| (0.0..=1.0).contains(p)));
                let (labels, said): (Vec<f64>, Vec<f64>) = rows.iter().map(|row| (row.label, row.said)).unzip();
                let (before, after) = (auc(&labels, &said), auc(&labels, &mapped));
                prop_assert!(before.is_nan() || (before - after).abs() < 1e-3, "{curve:?}: {before} {after}");
            }
        }
    }

    #[test]
    fn a_calibrated_model_has_the_smaller_loss_on_other_rows() {
        let all = rows(12_000, |p| sigmoid(0.6 * logit(p) + 0.5));
        let (fitted, fresh) = all.split_at(6000);
        for curve in [platt(fitted), isotonic(fitted)] {
            assert!(loss_with(&curve, fresh) < loss_with(&Curve::None, fresh) - 0.02, "{curve:?}");
        }
    }
}
