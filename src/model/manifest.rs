//! What a bundle knows about itself: what it was trained on, what it needs to score, how good it was.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::btyd::{BuyTillYouDie, Columns, Extrapolation};
use super::encoder::Tuned;
use super::heads::Head;
use super::network::NetworkShape;
use super::rfm::Rfm;
use crate::error::Problem;
use crate::features::FeatureColumn;
use crate::spec::nearest::nearest_name;
use crate::spec::{Loss, ModelSpec};
use crate::training::Evaluation;
use crate::{Error, Result, hash};

/// The version of the bundle's layout.
pub const LAYOUT: u32 = 5;

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BundleManifest {
    /// The version of the layout.
    pub layout: u32,
    /// The version of this program that trained it.
    pub tenure: String,
    /// Twelve digits that change whenever anything else here does.
    pub model_version: String,
    /// The job it belongs to.
    pub job: String,
    /// Nothing at or after this day was seen in training, labels included.
    pub trained_as_of: NaiveDate,
    /// The job's time zone.
    pub timezone: String,
    /// The key column.
    pub key: String,
    /// The features in the order of the inputs.
    pub features: Vec<FeatureEntry>,
    /// SHA-256 of every SQL file behind the features.
    pub sql: BTreeMap<String, String>,
    /// SHA-256 of every SQL file behind the labels.
    pub label_sql: BTreeMap<String, String>,
    /// The heads in the order of the outputs.
    pub heads: Vec<Head>,
    /// Per head, the days that its label looks ahead.
    pub horizon_days: BTreeMap<String, u32>,
    /// The text encoder, if there is one.
    pub text: Option<TextEntry>,
    /// The network's shape.
    pub network: NetworkShape,
    /// The regression on recency, frequency and monetary value, if a head has a share of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rfm: Option<Rfm>,
    /// Buy-till-you-die models, if the job has the columns for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub btyd: Option<BuyTillYouDie>,
    /// Heads that were not trained, and how they follow from those that were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extrapolations: Vec<Extrapolation>,
    /// How it was trained.
    pub training: TrainingSummary,
    /// How good it is on customers and dates that it had not seen, beside the baselines.
    pub validation: Option<Evaluation>,
    /// SHA-256 of the other files.
    pub files: BTreeMap<String, String>,
}

/// A feature as the model knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureEntry {
    /// Its name.
    pub name: String,
    /// Its Arrow type.
    #[serde(rename = "type")]
    pub data_type: String,
    /// The SQL file that it comes from.
    pub file: String,
}

impl From<&FeatureColumn> for FeatureEntry {
    fn from(column: &FeatureColumn) -> Self {
        FeatureEntry { name: column.name.clone(), data_type: column.data_type.to_string(), file: column.file.clone() }
    }
}

/// The text encoder in the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextEntry {
    /// The text columns in the order of the inputs.
    pub columns: Vec<String>,
    /// Longest text in tokens.
    pub max_length: usize,
    /// How much of the encoder learned; the network behind it is not counted.
    pub tuned: Tuned,
}

/// How a model was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingSummary {
    /// The dates of the snapshots, newest first.
    pub snapshots: Vec<NaiveDate>,
    /// Those that validated.
    pub validation_snapshots: Vec<NaiveDate>,
    /// How rows were told apart for validation.
    pub split: Split,
    /// Rows of the final fit.
    pub rows: usize,
    /// Rows that calibrated and are reported on, in turn.
    pub validation_rows: usize,
    /// Further rows, which stopped the first fit.
    #[serde(default)]
    pub stopping_rows: usize,
    /// Passes over the rows, chosen on validation.
    pub epochs: usize,
    /// The validation loss after them.
    pub validation_loss: f64,
    /// The seed of every random choice.
    pub seed: u64,
    /// The share of hidden units dropped in training.
    pub dropout: f64,
    /// Worth knowing: columns left out, labels corrected.
    pub notes: Vec<String>,
}

/// How validation rows were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// The newest snapshots; no label of a training snapshot reaches into them.
    ByTime,
    /// A fifth of the customers, because there are too few snapshots.
    ByCustomer,
}

impl BundleManifest {
    /// SHA-256 of what it says.
    fn hash(&self) -> String {
        hash::of_bytes(self.to_json())
    }

    /// Its text in the bundle; equal manifests give equal bytes.
    pub fn to_json(&self) -> String {
        // Strings, finite numbers, maps with string keys: there is nothing here that JSON cannot say.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Names the version after everything else.
    pub(super) fn name_version(&mut self) {
        self.model_version = String::new();
        self.model_version = self.hash()[..12].to_owned();
    }

    /// `Err` with every difference between what the model learned and what the job has today: features, their types and
    /// SQL, heads.
    pub fn check(&self, model: &ModelSpec, columns: &[FeatureColumn], sql: &BTreeMap<String, String>) -> Result<()> {
        let mut problems = self.feature_problems(columns);
        problems.extend(self.sql_problems(sql));
        problems.extend(self.head_problems(model));
        problems.extend(self.btyd_problem(model));
        problems.extend(self.sequence_problem(model));
        let hint = "train again with `tenure train JOB`, or go back to what the model was trained on";
        for problem in &mut problems {
            problem.hint.get_or_insert_with(|| hint.to_owned());
        }
        Error::all(problems)
    }

    fn feature_problems(&self, columns: &[FeatureColumn]) -> Vec<Problem> {
        let mut problems = Vec::new();
        for wanted in &self.features {
            let Some(found) = columns.iter().find(|c| c.name == wanted.name) else {
                let mut problem =
                    Problem::new(format!("the model learned the feature `{}`, which is gone", wanted.name));
                let new =
                    columns.iter().map(|c| c.name.as_str()).filter(|n| self.features.iter().all(|f| f.name != *n));
                if let Some(name) = nearest_name(&wanted.name, new) {
                    problem =
                        problem.hint(format!("was it renamed to `{name}`? then train again with `tenure train JOB`"));
                }
                problems.push(problem);
                continue;
            };
            let found_type = found.data_type.to_string();
            if found_type != wanted.data_type {
                let types = format!("was {} in training and is {found_type} now", wanted.data_type);
                problems.push(Problem::new(format!("the feature `{}` {types}", wanted.name)));
            }
        }
        let new = columns.iter().filter(|c| self.features.iter().all(|f| f.name != c.name));
        problems.extend(
            new.map(|c| Problem::new(format!("the feature `{}` is new; the model has not learned it", c.name))),
        );
        problems
    }

    fn sql_problems(&self, sql: &BTreeMap<String, String>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (file, wanted) in &self.sql {
            match sql.get(file) {
                None => problems.push(Problem::new(format!("`{file}` is gone since the model was trained"))),
                Some(found) if found != wanted => {
                    problems.push(Problem::new(format!("`{file}` has changed since the model was trained")));
                }
                Some(_) => {}
            }
        }
        let new = sql.keys().filter(|file| !self.sql.contains_key(*file));
        problems.extend(new.map(|file| Problem::new(format!("`{file}` is new since the model was trained"))));
        problems
    }

    fn btyd_problem(&self, model: &ModelSpec) -> Option<Problem> {
        let found = model.btyd.as_ref().map(Columns::from);
        let same = self.btyd.as_ref().map(|btyd| &btyd.columns) == found.as_ref();
        let problem = || {
            let problem = Problem::new("the model was trained with other columns under `btyd`, or without them");
            model.btyd.iter().fold(problem, |problem, spec| problem.at(spec.place.clone()))
        };
        (!same).then(problem)
    }

    /// Columns and SQL of the events have been compared; how many of them are read shows in neither.
    fn sequence_problem(&self, model: &ModelSpec) -> Option<Problem> {
        let (trained, asked) = (self.network.sequence.as_ref()?, model.sequence.as_ref()?);
        let message = format!(
            "the model was trained on the {} newest events of a customer, and the job asks for {}",
            trained.length, asked.length
        );
        (trained.length != asked.length).then(|| Problem::new(message).at(asked.place.clone()))
    }

    fn head_problems(&self, model: &ModelSpec) -> Vec<Problem> {
        let mut problems = Vec::new();
        for head in &model.heads {
            let known = self.heads.iter().find(|h| h.name == head.name);
            match known {
                None => {
                    problems.push(Problem::new(format!("the model has no head `{}`", head.name)).at(head.place.clone()))
                }
                Some(known) if head.direction.is_some_and(|direction| direction != known.direction()) => {
                    let message = format!("the head `{}` was trained with another direction", head.name);
                    problems.push(Problem::new(message).at(head.place.clone()));
                }
                Some(known)
                    if (&known.loss, &known.label, &known.family) != (&head.loss, &head.label, &head.family) =>
                {
                    let message = format!("the head `{}` was trained on another label, loss or family", head.name);
                    problems.push(Problem::new(message).at(head.place.clone()));
                }
                Some(_) => {}
            }
        }
        for head in self.heads.iter().filter(|h| model.heads.iter().all(|m| m.name != h.name)) {
            problems.push(Problem::new(format!("the model has a head `{}`, which the job does not name", head.name)));
        }
        problems
    }
}

/// A loss as a job file writes it.
pub fn loss_name(loss: &Loss) -> &'static str {
    match loss {
        Loss::Bce => "bce",
        Loss::Ziln => "ziln",
        Loss::Mse => "mse",
        Loss::Softmax => "softmax",
    }
}
