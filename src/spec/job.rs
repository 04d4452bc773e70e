//! What a job file means, once it is known to be right. Later code never checks these values again.

use std::path::PathBuf;
use std::time::Duration;

use chrono_tz::Tz;
use url::Url;

use super::column::{ColumnSpec, ColumnType};
use super::csv::CsvFormat;
use super::network::{Direction, EmbeddingSpec, Schedule, SeasonSpec};
use super::outcomes::OutcomesSpec;
use super::publish::PublishSpec;
use super::sequence::SequenceSpec;
use super::text::{TextClassifierTask, TextSpec};
use crate::error::Place;

/// A whole job: valid by construction, made by [`crate::spec::load`] alone.
#[derive(Debug, Clone)]
pub struct JobSpec {
    pub(super) parts: JobParts,
}

/// The fields behind [`JobSpec`], filled by validation.
#[derive(Debug, Clone)]
pub(super) struct JobParts {
    pub name: String,
    pub file: PathBuf,
    pub root: PathBuf,
    pub hash: String,
    pub lake: Url,
    pub timezone: Tz,
    pub tables: Vec<TableSpec>,
    pub task: Task,
}

/// A bound of a range.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub enum Bound {
    /// Of numbers.
    Number(f64),
    /// Of dates and timestamps: the whole day, in the job's time zone, is within the range.
    Day(chrono::NaiveDate),
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bound::Number(number) => number.fmt(f),
            Bound::Day(day) => day.fmt(f),
        }
    }
}

/// What the job is for.
#[derive(Debug, Clone)]
pub enum Task {
    /// Value, churn and stages of an entity's rows.
    Entity(Box<EntityTask>),
    /// One label per text: fine-tunes the encoder end to end.
    TextClassifier(Box<TextClassifierTask>),
}

impl JobSpec {
    /// The job's name: lower-case letters, digits and `_`.
    pub fn name(&self) -> &str {
        &self.parts.name
    }
    /// The job file as it was named on the command line.
    pub fn file(&self) -> &std::path::Path {
        &self.parts.file
    }
    /// The folder that relative paths start from: the parent of the `jobs` folder, or the job file's own folder.
    pub fn root(&self) -> &std::path::Path {
        &self.parts.root
    }
    /// SHA-256 of the meaning of the file (after environment variables, without comments and layout).
    pub fn hash(&self) -> &str {
        &self.parts.hash
    }
    /// Where the lake is; always ends with `/`.
    pub fn lake(&self) -> &Url {
        &self.parts.lake
    }
    /// Where a day begins.
    pub fn timezone(&self) -> Tz {
        self.parts.timezone
    }
    /// The source tables, in the order of the file.
    pub fn tables(&self) -> &[TableSpec] {
        &self.parts.tables
    }
    /// One table by name.
    pub fn table(&self, name: &str) -> Option<&TableSpec> {
        self.parts.tables.iter().find(|t| t.name == name)
    }
    /// What the job is for.
    pub fn task(&self) -> &Task {
        &self.parts.task
    }
    /// The entity task, or an error that says which commands a text classifier knows.
    pub fn entity_task(&self) -> crate::Result<&EntityTask> {
        match &self.parts.task {
            Task::Entity(task) => Ok(task),
            Task::TextClassifier(_) => {
                Err(crate::Error::user("this job trains a text classifier and has no customers")
                    .at(Place::file(self.parts.file.display().to_string()))
                    .hint("it knows `check` and `train`; a job with `entity:` knows them all"))
            }
        }
    }
}

/// The parts of a job about customers (or any other entity).
#[derive(Debug, Clone)]
pub struct EntityTask {
    /// The population.
    pub entity: EntitySpec,
    /// Staging views, in the order of the file (a glob's files by name); absolute paths.
    pub views: Vec<PathBuf>,
    /// Feature files, likewise.
    pub features: Vec<PathBuf>,
    /// Label files, likewise.
    pub labels: Vec<PathBuf>,
    /// What is predicted, if anything.
    pub model: Option<ModelSpec>,
    /// How it is trained.
    pub train: TrainSpec,
    /// The stages, if any.
    pub segments: Option<SegmentsSpec>,
    /// Which past predictions are compared with what happened.
    pub outcomes: OutcomesSpec,
    /// Where daily partial states are kept, if they are.
    pub state: Option<StateSpec>,
    /// Where the tables go.
    pub publish: Option<PublishSpec>,
}

/// Daily partial states.
#[derive(Debug, Clone)]
pub struct StateSpec {
    /// The job's folder; absolute, under the lake unless it was given as a URL; always ends with `/`.
    pub url: Url,
}

/// The population: one row per entity.
#[derive(Debug, Clone)]
pub struct EntitySpec {
    /// Where the rows come from.
    pub source: EntitySource,
    /// The key column, present in every feature file.
    pub key: String,
    /// Where it stands.
    pub place: Place,
}

/// Where the population comes from.
#[derive(Debug, Clone)]
pub enum EntitySource {
    /// A declared table; `since` is the time column from which a row belongs to the population.
    Table {
        /// The table's name.
        table: String,
        /// Only rows with `since < as_of` belong; without it every visible row does.
        since: Option<String>,
    },
    /// A SELECT with one row per entity over tables and views.
    Query(PathBuf),
}

/// A source table.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// Its name in SQL.
    pub name: String,
    /// Where its declaration stands.
    pub place: Place,
    /// Its folder or file; absolute, under the lake unless it was given as a URL.
    pub url: Url,
    /// The format of its files.
    pub format: Format,
    /// Which version of a Delta table; `None` is the newest one.
    pub version: Option<super::TableVersion>,
    /// Hive partition columns, outermost first.
    pub partition_by: Vec<(String, ColumnType)>,
    /// When a row happened; a table without it is visible whole at any date.
    pub event_time: Option<String>,
    /// When a row became known.
    pub known_at: Option<String>,
    /// Its columns, in the order of the file.
    pub columns: Vec<ColumnSpec>,
    /// What must hold for its rows.
    pub checks: Vec<CheckSpec>,
    /// The job's time zone: what SQL shows of its timestamps.
    pub timezone: Tz,
    /// What its times without a zone mean.
    pub naive_times: NaiveTimes,
    /// Whether it may be without any file.
    pub may_be_empty: bool,
    /// The share of its rows that it may lose from one night to the next, where that is not the job's.
    pub max_shrink: Option<f64>,
    /// How its CSV files are written.
    pub csv: CsvFormat,
}

impl TableSpec {
    /// The time zone on whose clock its times without a zone were written.
    pub fn naive_zone(&self) -> Tz {
        match self.naive_times {
            NaiveTimes::Job => self.timezone,
            NaiveTimes::Utc => Tz::UTC,
        }
    }
}

/// What times without a zone mean: Parquet timestamps without one, texts without an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NaiveTimes {
    /// The clock of the job's time zone.
    #[default]
    Job,
    /// UTC.
    Utc,
}

/// File formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values with a header line.
    Csv,
}

/// One rule for a table's rows and what a break of it means.
#[derive(Debug, Clone)]
pub struct CheckSpec {
    /// The rule.
    pub rule: CheckRule,
    /// What to do with rows that break it.
    pub on_fail: OnFail,
    /// Where it stands.
    pub place: Place,
}

/// What must hold.
#[derive(Debug, Clone)]
pub enum CheckRule {
    /// The column is never NULL (and never NaN).
    NotNull(String),
    /// No two rows share these columns; of several, the earliest by event time is kept.
    Unique(Vec<String>),
    /// The value, where there is one, lies between the bounds, both included.
    Range {
        /// The column.
        column: String,
        /// The least value.
        min: Option<Bound>,
        /// The greatest value.
        max: Option<Bound>,
    },
    /// The value, where there is one, is one of these.
    Accepted {
        /// The column.
        column: String,
        /// The values, as text.
        values: Vec<String>,
    },
    /// The newest visible event is at most this old at as_of.
    FreshWithin(Duration),
}

/// What a broken check means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFail {
    /// The row goes to `rejects/` and no feature sees it. (For `fresh_within`: as `Warn`.)
    Reject,
    /// The run ends with exit code 1 and publishes nothing.
    Fail,
    /// The row stays; the run's record counts it, and a broken `fresh_within` ends the run with exit code 3.
    Warn,
}

/// What is predicted from the features.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// The bundle's folder: what `train` writes and `run` reads; absolute.
    pub bundle: PathBuf,
    /// Where the job names it.
    pub bundle_place: Place,
    /// Text columns and their encoder.
    pub text: Option<TextSpec>,
    /// Each customer's newest events, one by one.
    pub sequence: Option<SequenceSpec>,
    /// What is predicted, one head each.
    pub heads: Vec<HeadSpec>,
    /// Members of the ensemble.
    pub members: usize,
    /// How numbers enter the network.
    pub embedding: EmbeddingSpec,
    /// The widths of the trunk's hidden layers.
    pub hidden: Vec<usize>,
    /// The share of hidden units that are dropped in training.
    pub dropout: f64,
    /// A customer is scored only where this SQL condition over its features holds; others get NULL and a reason.
    pub minimum_data: Option<String>,
    /// The features that feed buy-till-you-die models; without them there are none.
    pub btyd: Option<BtydSpec>,
}

/// Feature columns that say when a customer bought, and for how much.
#[derive(Debug, Clone)]
pub struct BtydSpec {
    /// Days since the first purchase.
    pub first: String,
    /// Days since the last purchase.
    pub last: String,
    /// Number of days with a purchase.
    pub days: String,
    /// Mean spend of such a day.
    pub spend: Option<String>,
    /// Where it stands.
    pub place: Place,
}

/// One output of the model.
#[derive(Debug, Clone)]
pub struct HeadSpec {
    /// The name of the output column.
    pub name: String,
    /// The label column that it learns, from the label files.
    pub label: String,
    /// Its loss, which also says what it outputs.
    pub loss: Loss,
    /// The factor of its loss in training.
    pub weight: f64,
    /// Horizons of one family are made monotone.
    pub family: Option<(String, u32)>,
    /// Where the probability goes with the horizon; else the label's default tells.
    pub direction: Option<Direction>,
    /// Where it stands.
    pub place: Place,
}

/// What a head learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// A probability of a 0/1 label.
    Bce,
    /// A value ≥ 0 with many zeros: zero-inflated log-normal (Wang, Liu, Miao 2019, arXiv 1912.07753).
    Ziln,
    /// A number.
    Mse,
    /// One of several classes.
    Softmax,
}

/// How the model is trained.
#[derive(Debug, Clone)]
pub struct TrainSpec {
    /// Days between snapshots.
    pub every_days: u32,
    /// At most this many snapshots.
    pub count: usize,
    /// Days of history that the oldest snapshot must have before it.
    pub warmup_days: u32,
    /// The newest snapshots that validate: early stopping and reported metrics.
    pub validation_snapshots: usize,
    /// Passes over the rows at most.
    pub epochs: usize,
    /// Rows per step.
    pub batch: usize,
    /// AdamW's peak step size.
    pub learning_rate: f64,
    /// How it moves from there.
    pub schedule: Schedule,
    /// What is known of the course of a year.
    pub season: SeasonSpec,
    /// AdamW's decoupled decay.
    pub weight_decay: f64,
    /// The gradient's greatest norm.
    pub clip_norm: f64,
    /// Epochs without a better validation loss before training stops.
    pub patience: usize,
    /// The seed of every random choice.
    pub seed: u64,
    /// The features behind the RFM baseline; without them that baseline is left out.
    pub rfm: Option<RfmSpec>,
}

/// Feature columns that stand for recency, frequency and monetary value.
#[derive(Debug, Clone)]
pub struct RfmSpec {
    /// Days since the last purchase.
    pub recency: String,
    /// Number of purchases.
    pub frequency: String,
    /// Mean value of a purchase.
    pub monetary: String,
    /// The regression's part of what is published, from 0 to below 1.
    pub share: f64,
    /// Where it stands.
    pub place: Place,
}

/// Lifecycle stages and value tiers.
#[derive(Debug, Clone)]
pub struct SegmentsSpec {
    /// First match wins; the last has no condition.
    pub stages: Vec<StageSpec>,
    /// Tiers by quantile of a score.
    pub value_tiers: Option<ValueTiersSpec>,
}

/// One stage of life.
#[derive(Debug, Clone)]
pub struct StageSpec {
    /// Its name.
    pub name: String,
    /// A SQL condition over features and scores; `None` only for the last stage.
    pub when: Option<String>,
    /// Where the condition stands.
    pub place: Place,
}

/// Value tiers.
#[derive(Debug, Clone)]
pub struct ValueTiersSpec {
    /// The score or feature column.
    pub by: String,
    /// Tier names with their upper quantile, ascending, the last one 1.0.
    pub quantiles: Vec<(String, f64)>,
    /// Where it stands.
    pub place: Place,
}
