//! Who wins, in words.

use serde::{Deserialize, Serialize};

use super::Standing;
use super::bootstrap;
use super::table::number;
use crate::training::metrics::{Better, Metric};

/// The model held against one other model by one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The metric.
    pub metric: String,
    /// Whether it is one of those that decide who wins.
    pub headline: bool,
    /// The other model.
    pub against: String,
    /// By how much the model is better; negative where it is worse.
    pub advantage: f64,
    /// The 95 % interval of the advantage, over the same resamples of the customers for both.
    pub interval: [f64; 2],
    /// What that means.
    pub outcome: Outcome,
}

/// Whether a difference is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The model is better: the interval lies above 0.
    Win,
    /// The interval holds 0.
    Tie,
    /// The model is worse: the interval lies below 0.
    Loss,
}

impl Outcome {
    /// What the interval of an advantage means.
    pub fn of(interval: [f64; 2]) -> Self {
        match interval {
            [low, _] if low > 0.0 => Outcome::Win,
            [_, high] if high < 0.0 => Outcome::Loss,
            _ => Outcome::Tie,
        }
    }

    /// `win`, `tie`, `loss`.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Win => "win",
            Outcome::Tie => "tie",
            Outcome::Loss => "loss",
        }
    }
}

/// Holds our value against another's, both also for every resample; `None` where the metric does not rank or nothing is
/// known of its spread.
pub(super) fn compare(
    metric: Metric,
    headline: bool,
    against: &str,
    (ours, other): (f64, f64),
    resampled: impl Iterator<Item = (f64, f64)>,
) -> Option<Comparison> {
    let sign = match metric.better() {
        Better::Higher => 1.0,
        Better::Lower => -1.0,
        Better::Neither => return None,
    };
    let advantage = |(ours, other): (f64, f64)| sign * (ours - other);
    let interval = bootstrap::interval(resampled.map(advantage))?;
    let outcome = Outcome::of(interval);
    let (metric, against) = (metric.name().to_owned(), against.to_owned());
    Some(Comparison { metric, headline, against, advantage: advantage((ours, other)), interval, outcome })
}

impl Comparison {
    /// `beats rfm by 0.0120 (0.0040 to 0.0200)`.
    pub fn in_words(&self) -> String {
        let [low, high] = self.interval;
        let between = |low: f64, high: f64| format!("({} to {})", number(low), number(high));
        let against = &self.against;
        match self.outcome {
            Outcome::Win => format!("beats {against} by {} {}", number(self.advantage), between(low, high)),
            Outcome::Tie => format!("a tie with {against} {}", between(low, high)),
            Outcome::Loss => format!("loses to {against} by {} {}", number(-self.advantage), between(-high, -low)),
        }
    }
}

impl Standing {
    /// Against whom, and on which headline metrics, the model wins, ties and loses; empty without another model.
    pub fn verdict(&self) -> String {
        let others = self.models.iter().skip(1).map(|other| &other.model);
        let against = others.filter_map(|other| {
            let found = Comparison::headlines(&self.comparisons, other);
            let of = |outcome: Outcome| -> Vec<&str> {
                found.iter().filter(|c| c.outcome == outcome).map(|c| c.metric.as_str()).collect()
            };
            let said = [
                (format!("beats {other}"), "beats it", of(Outcome::Win)),
                (format!("ties with {other}"), "ties", of(Outcome::Tie)),
                (format!("loses to {other}"), "loses", of(Outcome::Loss)),
            ];
            let mut parts: Vec<String> = Vec::new();
            for (first, later, metrics) in said.iter().filter(|(_, _, metrics)| !metrics.is_empty()) {
                let verb = if parts.is_empty() { first } else { *later };
                parts.push(format!("{verb} on {}", listed(metrics)));
            }
            (!parts.is_empty()).then(|| parts.join(", "))
        });
        against.collect::<Vec<_>>().join("; ")
    }

    /// Headline comparisons with one other model: won, tied, lost.
    pub fn tally(&self, against: &str) -> [usize; 3] {
        let found = Comparison::headlines(&self.comparisons, against);
        [Outcome::Win, Outcome::Tie, Outcome::Loss].map(|o| found.iter().filter(|c| c.outcome == o).count())
    }
}

/// `a`, `a and b`, `a, b and c`.
fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::evaluation::ModelMetrics;

    fn against(other: &str, metric: Metric, ours: f64, others: &[f64]) -> Comparison {
        let pairs = others.iter().map(|other| (ours, *other));
        compare(metric, true, other, (ours, others[0]), pairs).unwrap()
    }

    #[test]
    fn an_interval_above_zero_wins_and_one_below_loses() {
        let better = against("rfm", Metric::Auc, 0.80, &[0.78, 0.79, 0.77]);
        assert_eq!(better.in_words(), "beats rfm by 0.0200 (0.0105 to 0.0295)");
        let worse = against("rfm", Metric::Auc, 0.75, &[0.78, 0.79, 0.77]);
        assert_eq!(worse.in_words(), "loses to rfm by 0.0300 (0.0205 to 0.0395)");
        let tie = against("rfm", Metric::Auc, 0.78, &[0.78, 0.79, 0.77]);
        assert_eq!(tie.in_words(), "a tie with rfm (-0.0095 to 0.0095)");
    }

    #[test]
    fn of_an_error_the_smaller_one_wins() {
        let found = against("rfm", Metric::LogLoss, 0.30, &[0.35, 0.36]);
        assert_eq!((found.outcome, found.interval[0] > 0.0), (Outcome::Win, true));
    }

    #[test]
    fn a_metric_that_only_describes_has_no_winner() {
        let pairs = std::iter::once((1.0, 2.0));
        assert_eq!(compare(Metric::TotalBiasSigned, false, "rfm", (1.0, 2.0), pairs), None);
    }

    #[test]
    fn the_verdict_says_against_whom_and_on_what() {
        let model = |name: &str| ModelMetrics { model: name.into(), ..ModelMetrics::default() };
        let standing = Standing {
            models: vec![model("model"), model("persistence"), model("rfm")],
            comparisons: vec![
                against("persistence", Metric::Auc, 0.8, &[0.7]),
                against("persistence", Metric::Brier, 0.1, &[0.2]),
                against("rfm", Metric::Auc, 0.8, &[0.8, 0.81, 0.79]),
                against("rfm", Metric::LogLoss, 0.4, &[0.5]),
                against("rfm", Metric::Brier, 0.3, &[0.2]),
            ],
            ..Standing::default()
        };
        assert_eq!(
            standing.verdict(),
            "beats persistence on auc and brier; beats rfm on log_loss, ties on auc, loses on brier"
        );
        assert_eq!(standing.tally("rfm"), [1, 1, 1]);
    }
}
