//! How well labels were guessed: per class and over all, as scikit-learn's `classification_report` defines it.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Precision, recall and their harmonic mean. A share of nothing is 0.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Scores {
    /// Of those taken for the class, the share that belongs to it.
    pub precision: f64,
    /// Of those that belong to the class, the share that was taken for it.
    pub recall: f64,
    /// `2 p r / (p + r)`.
    pub f1: f64,
}

/// One class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// The label.
    pub label: String,
    /// Its scores.
    #[serde(flatten)]
    pub scores: Scores,
    /// How many rows truly have it.
    pub support: usize,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassificationReport {
    /// Every class, in the order of the labels.
    pub classes: Vec<ClassScores>,
    /// The share of rows that were guessed right.
    pub accuracy: f64,
    /// The plain mean over the classes.
    pub macro_average: Scores,
    /// The mean over the classes, weighted by support.
    pub weighted_average: Scores,
    /// Rows in all.
    pub support: usize,
}

impl ClassificationReport {
    /// Compares true and guessed label numbers, row by row; there must be a row.
    pub fn new(labels: &[String], truth: &[usize], predicted: &[usize]) -> Result<Self> {
        let known = truth.iter().chain(predicted).all(|&label| label < labels.len());
        if truth.len() != predicted.len() || truth.is_empty() || !known {
            return Err(Error::bug("true and predicted labels do not fit together"));
        }
        let (mut right, mut true_count, mut guess_count) =
            (vec![0usize; labels.len()], vec![0usize; labels.len()], vec![0usize; labels.len()]);
        for (&t, &p) in truth.iter().zip(predicted) {
            true_count[t] += 1;
            guess_count[p] += 1;
            right[t] += usize::from(t == p);
        }
        let classes: Vec<ClassScores> = labels
            .iter()
            .enumerate()
            .map(|(k, label)| {
                let precision = share(right[k] as f64, guess_count[k] as f64);
                let recall = share(right[k] as f64, true_count[k] as f64);
                // As 2·right / (true + guessed): exact where `2pr / (p + r)` would round twice.
                let f1 = share(2.0 * right[k] as f64, (true_count[k] + guess_count[k]) as f64);
                ClassScores { label: label.clone(), scores: Scores { precision, recall, f1 }, support: true_count[k] }
            })
            .collect();
        Ok(ClassificationReport {
            accuracy: share(right.iter().sum::<usize>() as f64, truth.len() as f64),
            macro_average: mean(&classes, |_| 1.0),
            weighted_average: mean(&classes, |class| class.support as f64),
            support: truth.len(),
            classes,
        })
    }

    /// The report as a table for people.
    pub fn table(&self) -> String {
        let width =
            self.classes.iter().map(|c| c.label.chars().count()).max().unwrap_or(0).max("weighted average".len());
        let mut text = format!("{:width$}  precision  recall      f1  support\n", "");
        let mut line = |name: &str, s: &Scores, support: usize| {
            let _ = writeln!(text, "{name:width$}  {:9.3} {:7.3} {:7.3} {support:8}", s.precision, s.recall, s.f1);
        };
        for class in &self.classes {
            line(&class.label, &class.scores, class.support);
        }
        line("macro average", &self.macro_average, self.support);
        line("weighted average", &self.weighted_average, self.support);
        let _ = write!(text, "{:width$}  {:9} {:7} {:7.3} {:8}", "accuracy", "", "", self.accuracy, self.support);
        text
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn mean(classes: &[ClassScores], weight: impl Fn(&ClassScores) -> f64) -> Scores {
    let total: f64 = classes.iter().map(&weight).sum();
    let of = |value: fn(&Scores) -> f64| share(classes.iter().map(|c| weight(c) * value(&c.scores)).sum(), total);
    Scores { precision: of(|s| s.precision), recall: of(|s| s.recall), f1: of(|s| s.f1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_scikit_learn() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../fixtures/parity/classification_report.json")).unwrap();
        let words = |key: &str| -> Vec<String> { serde_json::from_value(golden[key].clone()).unwrap() };
        let labels = words("labels");
        let numbers = |key: &str| -> Vec<usize> {
            words(key).iter().map(|word| labels.iter().position(|label| label == word).unwrap()).collect()
        };
        let report = ClassificationReport::new(&labels, &numbers("truth"), &numbers("predicted")).unwrap();
        let same = |ours: &Scores, name: &str| {
            let theirs = &golden["report"][name];
            for (value, key) in [(ours.precision, "precision"), (ours.recall, "recall"), (ours.f1, "f1-score")] {
                assert!((value - theirs[key].as_f64().unwrap()).abs() < 1e-12, "{name} {key}: {value}, {theirs}");
            }
        };
        for class in &report.classes {
            same(&class.scores, &class.label);
            assert_eq!(class.support as f64, golden["report"][&class.label]["support"].as_f64().unwrap());
        }
        same(&report.macro_average, "macro avg");
        same(&report.weighted_average, "weighted avg");
        assert!((report.accuracy - golden["report"]["accuracy"].as_f64().unwrap()).abs() < 1e-12);
    }

    #[test]
    fn the_table_has_a_line_per_class_and_the_averages() {
        let report = ClassificationReport::new(&["a".into(), "größe".into()], &[0, 0, 1, 1], &[0, 1, 1, 1]).unwrap();
        insta::assert_snapshot!(report.table(), @r"
                          precision  recall      f1  support
        a                     1.000   0.500   0.667        2
        größe                 0.667   1.000   0.800        2
        macro average         0.833   0.750   0.733        4
        weighted average      0.833   0.750   0.733        4
        accuracy                              0.750        4
        ");
    }

    #[test]
    fn rows_that_do_not_fit_together_are_refused() {
        let labels = ["a".to_owned()];
        assert!(ClassificationReport::new(&labels, &[0], &[0, 0]).is_err());
        assert!(ClassificationReport::new(&labels, &[0], &[1]).is_err());
        assert!(ClassificationReport::new(&labels, &[], &[]).is_err());
    }
}
