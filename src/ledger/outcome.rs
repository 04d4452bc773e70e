//! What became of the predictions that were made one horizon before a night.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

/// One head's past predictions beside what happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutcomeRecord {
    /// The head.
    pub head: String,
    /// Its label.
    pub label: String,
    /// The days from the prediction to this night.
    pub horizon_days: u32,
    /// The night that predicted.
    pub predicted_ds: NaiveDate,
    /// The model that it predicted with.
    pub model_version: String,
    /// The day up to which that model had learned, where the predictions say so.
    pub trained_as_of: Option<NaiveDate>,
    /// Customers in those predictions.
    pub customers: u64,
    /// Those without a score.
    pub unscored: u64,
    /// Those with a score whose label is not known.
    pub unlabelled: u64,
    /// Those with both, on whom everything below rests.
    pub judged: u64,
    /// The mean that was predicted; for classes the mean probability of the likeliest one.
    pub predicted_mean: Option<f64>,
    /// Its sum.
    pub predicted_sum: f64,
    /// The mean that came; for classes the share of those whose likeliest class was the right one.
    pub realised_mean: Option<f64>,
    /// Its sum.
    pub realised_sum: f64,
    /// The metrics by name; one that does not exist for these labels is absent.
    pub metrics: BTreeMap<String, f64>,
    /// The thresholds that were crossed, in words.
    #[serde(default)]
    pub alerts: Vec<String>,
}

impl OutcomeRecord {
    /// Whether the model that predicted had seen a part of what followed: it then looks better than it is.
    pub fn had_seen(&self) -> bool {
        self.trained_as_of.is_some_and(|trained| trained > self.predicted_ds)
    }
}

/// Outcomes as the lines of a table: a header, then one line per number, a column per head. Empty without outcomes.
pub fn outcome_lines(outcomes: &[OutcomeRecord]) -> Vec<Vec<String>> {
    if outcomes.is_empty() {
        return Vec::new();
    }
    let line = |name: &str, value: &dyn Fn(&OutcomeRecord) -> String| -> Vec<String> {
        std::iter::once(name.to_owned()).chain(outcomes.iter().map(value)).collect()
    };
    let mut lines = vec![
        line("outcomes", &|o| o.head.clone()),
        line("predicted on", &|o| o.predicted_ds.to_string()),
        line("by model", &|o| o.model_version.clone()),
        line("judged", &|o| o.judged.to_string()),
        line("predicted mean", &|o| number(o.predicted_mean)),
        line("realised mean", &|o| number(o.realised_mean)),
    ];
    let names: BTreeSet<&str> =
        outcomes.iter().flat_map(|outcome| outcome.metrics.keys()).map(String::as_str).collect();
    lines.extend(names.into_iter().map(|name| line(name, &|o| number(o.metrics.get(name).copied()))));
    lines
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(head: &str, metrics: &[(&str, f64)]) -> OutcomeRecord {
        OutcomeRecord {
            head: head.to_owned(),
            label: "churned_90d".to_owned(),
            horizon_days: 90,
            predicted_ds: NaiveDate::from_ymd_opt(2026, 4, 2).unwrap(),
            model_version: "0123abcd".to_owned(),
            trained_as_of: NaiveDate::from_ymd_opt(2026, 4, 2),
            customers: 10,
            unscored: 1,
            unlabelled: 0,
            judged: 9,
            predicted_mean: Some(0.5),
            predicted_sum: 4.5,
            realised_mean: None,
            realised_sum: 0.0,
            metrics: metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            alerts: Vec::new(),
        }
    }

    #[test]
    fn a_metric_that_a_head_lacks_is_a_dash() {
        let lines = outcome_lines(&[outcome("churn", &[("auc", 0.75)]), outcome("value", &[("mae", 123.456)])]);
        assert_eq!(lines[0], ["outcomes", "churn", "value"]);
        assert_eq!(lines[5], ["realised mean", "–", "–"]);
        assert_eq!(lines[6..], [["auc", "0.7500", "–"], ["mae", "–", "123.46"]]);
        assert!(outcome_lines(&[]).is_empty());
    }

    #[test]
    fn a_model_has_seen_what_lies_before_the_end_of_its_training() {
        let mut honest = outcome("churn", &[]);
        assert!(!honest.had_seen());
        honest.trained_as_of = NaiveDate::from_ymd_opt(2026, 4, 3);
        assert!(honest.had_seen());
    }
}
