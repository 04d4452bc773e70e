//! The metrics with a weight per row: a weight of k counts the row k times, so that a bootstrap sorts once and then only
//! counts. The functions of the parent module are the obvious version, and a property test holds the two together.

use super::{EPSILON, Interval, Metric, NO_ORDER, TOP};

/// Rows in descending order of some value.
#[derive(Debug, Clone)]
struct Order {
    /// Rows; those of equal value in their own order.
    rows: Vec<u32>,
    /// Where each block of equal values ends in `rows`.
    ends: Vec<u32>,
}

impl Order {
    fn of(values: &[f64]) -> Self {
        let mut rows: Vec<u32> = (0..values.len() as u32).collect();
        rows.sort_by(|a, b| values[*b as usize].total_cmp(&values[*a as usize]));
        let mut ends = Vec::new();
        let mut end = 0;
        for block in rows.chunk_by(|a, b| values[*a as usize] == values[*b as usize]) {
            end += block.len() as u32;
            ends.push(end);
        }
        Order { rows, ends }
    }

    /// Values by row, in this order.
    fn arrange<'a>(&'a self, by_row: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        self.rows.iter().map(|row| by_row[*row as usize])
    }

    /// Weight and weighted sum of each block; both slices are in this order.
    fn blocks(&self, weights: &[f64], values: &[f64]) -> Vec<Block> {
        let mut start = 0;
        let block = |end: &u32| {
            let range = start..*end as usize;
            start = range.end;
            let pairs = weights[range.clone()].iter().zip(&values[range]);
            pairs.fold(Block::default(), |sum, (w, v)| Block { weight: sum.weight + w, label: sum.label + w * v })
        };
        self.ends.iter().map(block).collect()
    }

    /// The weighted rank of each block, ties averaged, counted from the greatest value.
    fn ranks(&self, weights: &[f64]) -> Vec<f64> {
        let (mut start, mut before) = (0, 0.0);
        let rank = |end: &u32| {
            let weight: f64 = weights[start..*end as usize].iter().sum();
            start = *end as usize;
            before += weight;
            before - weight + (weight + 1.0) / 2.0
        };
        self.ends.iter().map(rank).collect()
    }
}

/// Rows of one score together.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    weight: f64,
    /// The weighted sum of their labels.
    label: f64,
}

/// Labels, sorted once for all models.
#[derive(Debug, Clone)]
pub struct Truth {
    order: Order,
    /// In that order.
    labels: Vec<f64>,
}

/// A [`Truth`] under weights: what every model is measured against.
#[derive(Debug)]
pub struct Drawn<'a> {
    weights: &'a [f64],
    total: Block,
    best_gini: f64,
    /// By row; empty where no metric needs it.
    label_ranks: Vec<f64>,
}

impl Truth {
    /// The labels by row.
    pub fn new(labels: &[f64]) -> Self {
        let order = Order::of(labels);
        let labels = order.arrange(labels).collect();
        Truth { order, labels }
    }

    /// With a weight per row: whole numbers, not all 0. `metrics` are those that will be asked for.
    pub fn draw<'a>(&self, weights: &'a [f64], metrics: &[Metric]) -> Drawn<'a> {
        let sorted: Vec<f64> = self.order.arrange(weights).collect();
        let blocks = self.order.blocks(&sorted, &self.labels);
        let total = sum(&blocks);
        let mut label_ranks = Vec::new();
        if metrics.contains(&Metric::Spearman) {
            label_ranks.resize(weights.len(), 0.0);
            let (ranks, mut start) = (self.order.ranks(&sorted), 0);
            for (rank, end) in ranks.into_iter().zip(&self.order.ends) {
                let rows = &self.order.rows[start..*end as usize];
                rows.iter().for_each(|row| label_ranks[*row as usize] = rank);
                start = *end as usize;
            }
        }
        Drawn { weights, total, best_gini: gini(&blocks, total), label_ranks }
    }
}

/// One model's scores, sorted once.
#[derive(Debug, Clone)]
pub struct Ranked {
    order: Order,
    // All in that order.
    labels: Vec<f64>,
    scores: Vec<f64>,
    log_losses: Vec<f64>,
    /// How much of the label lies within the row's interval; empty without intervals.
    covered: Vec<f64>,
}

impl Ranked {
    /// Labels, scores and intervals by row; `metrics` are those that will be asked for.
    pub fn new(labels: &[f64], scores: &[f64], intervals: Option<&[Interval]>, metrics: &[Metric]) -> Self {
        let order = Order::of(scores);
        let log_loss = |(label, p): (&f64, &f64)| {
            let p = p.clamp(EPSILON, 1.0 - EPSILON);
            -(label * p.ln() + (1.0 - label) * (1.0 - p).ln())
        };
        let log_losses: Vec<f64> = match metrics.contains(&Metric::LogLoss) {
            true => labels.iter().zip(scores).map(log_loss).collect(),
            false => vec![0.0; labels.len()],
        };
        let covered = intervals.map_or(Vec::new(), |intervals| {
            labels.iter().zip(intervals).map(|(label, interval)| interval.covers(*label)).collect()
        });
        Ranked {
            labels: order.arrange(labels).collect(),
            scores: order.arrange(scores).collect(),
            log_losses: order.arrange(&log_losses).collect(),
            covered: if covered.is_empty() { covered } else { order.arrange(&covered).collect() },
            order,
        }
    }

    /// The metrics under the weights of `drawn`; NaN where one does not exist for these rows.
    pub fn metrics(&self, drawn: &Drawn<'_>, metrics: &[Metric]) -> Vec<f64> {
        let weights: Vec<f64> = self.order.arrange(drawn.weights).collect();
        let blocks = self.order.blocks(&weights, &self.labels);
        let total = drawn.total;
        let mean =
            |of: &dyn Fn(usize) -> f64| weights.iter().enumerate().map(|(i, w)| w * of(i)).sum::<f64>() / total.weight;
        let error = |i: usize| self.scores[i] - self.labels[i];
        let bias = || match total.label {
            0.0 => f64::NAN,
            label => (mean(&|i| self.scores[i]) * total.weight - label) / label,
        };
        let deciles = match metrics.iter().any(|m| matches!(m, Metric::DecileMape | Metric::DecileWape)) {
            true => self.deciles(&weights, total),
            false => [f64::NAN; 2],
        };
        let of = |metric: &Metric| match metric {
            Metric::Auc => auc(&blocks, total),
            Metric::AveragePrecision => average_precision(&blocks, total),
            Metric::LogLoss => mean(&|i| self.log_losses[i]),
            Metric::Brier => mean(&|i| error(i) * error(i)),
            Metric::CalibrationError => self.calibration_error(&weights, total),
            Metric::Spearman => self.spearman(&weights, drawn),
            Metric::GiniNorm if drawn.best_gini.abs() < NO_ORDER => f64::NAN,
            Metric::GiniNorm => gini(&blocks, total) / drawn.best_gini,
            Metric::Mae => mean(&|i| error(i).abs()),
            Metric::Rmse => mean(&|i| error(i) * error(i)).sqrt(),
            Metric::TotalBiasSigned => bias(),
            Metric::TotalBias => bias().abs(),
            Metric::DecileMape => deciles[0],
            Metric::DecileWape => deciles[1],
            Metric::TopDecileShare => top_share(&blocks, total),
            Metric::TopDecileLift => top_share(&blocks, total) * total.weight / (TOP * total.weight).ceil(),
            Metric::IntervalCoverage if self.covered.is_empty() => f64::NAN,
            Metric::IntervalCoverage => mean(&|i| self.covered[i]),
            Metric::Accuracy => mean(&|i| self.scores[i]),
        };
        metrics.iter().map(of).collect()
    }

    fn calibration_error(&self, weights: &[f64], total: Block) -> f64 {
        let mut bins = [0.0; 10];
        for ((weight, label), p) in weights.iter().zip(&self.labels).zip(&self.scores) {
            bins[((p * 10.0) as usize).min(9)] += weight * (p - label);
        }
        bins.iter().map(|gap: &f64| gap.abs()).sum::<f64>() / total.weight
    }

    fn spearman(&self, weights: &[f64], drawn: &Drawn<'_>) -> f64 {
        let middle = (drawn.total.weight + 1.0) / 2.0;
        let (mut ab, mut aa, mut bb, mut start) = (0.0, 0.0, 0.0, 0);
        for (rank, end) in self.order.ranks(weights).into_iter().zip(&self.order.ends) {
            let a = rank - middle;
            let block = start..*end as usize;
            for (weight, row) in weights[block.clone()].iter().zip(&self.order.rows[block]) {
                let b = drawn.label_ranks[*row as usize] - middle;
                ab += weight * a * b;
                aa += weight * a * a;
                bb += weight * b * b;
            }
            start = *end as usize;
        }
        ab / (aa * bb).sqrt()
    }

    /// MAPE and WAPE of the deciles; a row across a border gives to each side as many of its copies as belong there.
    fn deciles(&self, weights: &[f64], total: Block) -> [f64; 2] {
        let n = total.weight as usize;
        let (mut row, mut left) = (0, weights.first().copied().unwrap_or(0.0));
        let (mut ratios, mut gap) = ((0.0, 0.0), 0.0);
        for decile in 0..10 {
            let mut room = (n / 10 + usize::from(decile < n % 10)) as f64;
            let (mut score, mut label) = (0.0, 0.0);
            while room > 0.0 && row < weights.len() {
                let taken = left.min(room);
                score += taken * self.scores[row];
                label += taken * self.labels[row];
                (left, room) = (left - taken, room - taken);
                if left == 0.0 {
                    row += 1;
                    left = weights.get(row).copied().unwrap_or(0.0);
                }
            }
            gap += (score - label).abs();
            if label > 0.0 {
                ratios = (ratios.0 + (score - label).abs() / label, ratios.1 + 1.0);
            }
        }
        [ratios.0 / ratios.1, if total.label > 0.0 { gap / total.label } else { f64::NAN }]
    }
}

fn sum(blocks: &[Block]) -> Block {
    blocks.iter().fold(Block::default(), |sum, b| Block { weight: sum.weight + b.weight, label: sum.label + b.label })
}

/// The running share of the labels, summed over all rows; within a block the k-th of m rows has seen k/m of the block.
fn gini(blocks: &[Block], total: Block) -> f64 {
    let (mut area, mut before) = (0.0, 0.0);
    for block in blocks {
        area += block.weight * before + block.label * (block.weight + 1.0) / 2.0;
        before += block.label;
    }
    (area / total.label - (total.weight + 1.0) / 2.0) / total.weight
}

fn auc(blocks: &[Block], total: Block) -> f64 {
    let negative = total.weight - total.label;
    let (mut area, mut below) = (0.0, negative);
    for block in blocks {
        let others = block.weight - block.label;
        below -= others;
        area += block.label * (below + others / 2.0);
    }
    area / (total.label * negative)
}

fn average_precision(blocks: &[Block], total: Block) -> f64 {
    let (mut hits, mut seen, mut area) = (0.0, 0.0, 0.0);
    for block in blocks.iter().filter(|block| block.weight > 0.0) {
        hits += block.label;
        seen += block.weight;
        area += block.label / total.label * (hits / seen);
    }
    area
}

fn top_share(blocks: &[Block], total: Block) -> f64 {
    let (mut room, mut held) = ((TOP * total.weight).ceil(), 0.0);
    for block in blocks.iter().filter(|block| block.weight > 0.0) {
        let taken = block.weight.min(room);
        held += block.label * taken / block.weight;
        room -= taken;
    }
    held / total.label
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::Loss;

    /// Rows as often as their weights say.
    fn repeated<T: Copy>(values: &[T], weights: &[f64]) -> Vec<T> {
        values.iter().zip(weights).flat_map(|(v, w)| std::iter::repeat_n(*v, *w as usize)).collect()
    }

    /// Every metric of a loss is the same for weighted and for repeated rows.
    fn assert_same(loss: &Loss, rows: &[(f64, f64, u8)]) -> Result<(), TestCaseError> {
        let weights: Vec<f64> = rows.iter().map(|(_, _, w)| f64::from(*w)).collect();
        let (labels, scores): (Vec<f64>, Vec<f64>) = rows.iter().map(|(label, score, _)| (*label, *score)).unzip();
        let interval = |s: &f64| Interval { low: s / 2.0, high: s * 1.5, zero: 1.0 / (1.0 + s) };
        let intervals: Vec<Interval> = scores.iter().map(interval).collect();
        let metrics = Metric::of_loss(loss);
        let drawn = Truth::new(&labels);
        let drawn = drawn.draw(&weights, metrics);
        let found = Ranked::new(&labels, &scores, Some(&intervals), metrics).metrics(&drawn, metrics);
        let (labels, scores) = (repeated(&labels, &weights), repeated(&scores, &weights));
        let intervals = repeated(&intervals, &weights);
        for (metric, found) in metrics.iter().zip(found) {
            let plain = metric.of(&labels, &scores, Some(&intervals));
            let same =
                (found - plain).abs() <= 1e-9 * plain.abs().max(1.0) || (!found.is_finite() && !plain.is_finite());
            prop_assert!(same, "{}: {found}, not {plain}", metric.name());
        }
        Ok(())
    }

    /// Few distinct numbers make ties; a weight of 0 leaves a row out.
    fn rows(
        label: impl Strategy<Value = f64>,
        score: impl Strategy<Value = f64>,
    ) -> impl Strategy<Value = Vec<(f64, f64, u8)>> {
        prop::collection::vec((label, score, 0_u8..4), 1..60)
            .prop_filter("some row counts", |rows| rows.iter().any(|(_, _, w)| *w > 0))
    }

    proptest! {
        #[test]
        fn weighted_metrics_of_a_value_are_those_of_repeated_rows(
            rows in rows((0_u8..6).prop_map(|v| f64::from(v.saturating_sub(2)) * 7.5), (0_u8..12).prop_map(|v| f64::from(v) * 1.25)),
        ) {
            assert_same(&Loss::Ziln, &rows)?;
            assert_same(&Loss::Mse, &rows)?;
        }

        #[test]
        fn weighted_metrics_of_a_probability_are_those_of_repeated_rows(
            rows in rows((0_u8..2).prop_map(f64::from), (0_u8..=8).prop_map(|v| f64::from(v) / 8.0)),
        ) {
            assert_same(&Loss::Bce, &rows)?;
        }

        #[test]
        fn a_share_of_hits_is_that_of_repeated_rows(rows in rows(Just(1.0), (0_u8..2).prop_map(f64::from))) {
            assert_same(&Loss::Softmax, &rows)?;
        }
    }
}
