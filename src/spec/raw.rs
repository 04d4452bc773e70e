//! What a job file can say, key by key. The doc comments are what editors show (`tenure schema`).

mod column;
mod outcomes;
mod publish;
mod sequence;
mod tune;

use schemars::JsonSchema;
use serde::Serialize;

pub(super) use column::{RawColumn, RawColumnOptions};
pub(super) use outcomes::{RawAlert, RawOutcomes};
pub(super) use publish::{RawMaxShrink, RawPublish};
pub(super) use sequence::RawSequence;
pub(super) use tune::{ModeOrTune, RawTune};

use super::column::ColumnType;
use super::job::{Bound, Format, NaiveTimes, OnFail};
use super::network::{Direction, Schedule, SeasonSpec};
use super::read::{At, Keyed, OneOrMany, read_keys};
use super::recipe;
use super::values::{Days, EmbeddingName, Literal, LossName, Name, Span, Zone};
use super::version::Instant;

/// A Tenure job: one file describes one business.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Job")]
pub(super) struct RawJobSpec {
    /// The version of this format: 1.
    #[schemars(extend("const" = 1))]
    pub version: At<u64>,
    /// The job's name: lower-case letters, digits and `_`.
    pub name: At<Name>,
    /// Where the source tables are: `file://./lake` (from the job's root), `s3://bucket/prefix`, `gs://…` or `az://…`.
    pub lake: At<String>,
    /// Where a day begins, and on whose clock SQL works: an IANA name such as `Europe/Berlin`. See docs/time-zones.md. Default: `UTC`.
    #[schemars(extend("default" = "UTC"))]
    pub timezone: Option<At<Zone>>,
    /// What times without a zone mean: the clock of the job's `timezone` (`job`), or `UTC`. Default: `job`.
    pub naive_times: Option<At<NaiveTimes>>,
    /// The population, one row per customer. A job has either `entity` or `text_classifier`.
    pub entity: Option<At<RawEntity>>,
    /// The source tables by their names in SQL.
    pub tables: At<Keyed<RawTable>>,
    /// Staging SELECTs over tables, which features treat like tables; `*` stands for any part of a file's name.
    pub views: Option<At<Vec<At<String>>>>,
    /// Feature files.
    pub features: Option<At<Vec<At<String>>>>,
    /// Label files: what is to be predicted.
    pub labels: Option<At<Vec<At<String>>>>,
    /// What is predicted from the features.
    pub model: Option<At<RawModel>>,
    /// How the model is trained.
    pub train: Option<At<RawTrain>>,
    /// Lifecycle stages and value tiers.
    pub segments: Option<At<RawSegments>>,
    /// Past predictions beside what happened. Without it every head is compared and nothing raises an alert.
    pub outcomes: Option<At<RawOutcomes>>,
    /// Daily partial states, so that a night reads one day and not history. Without it every night reads all rows.
    pub state: Option<At<RawState>>,
    /// Where a night's tables go.
    pub publish: Option<At<RawPublish>>,
    /// A text-only job: one label per text, the encoder fine-tuned end to end.
    pub text_classifier: Option<At<RawTextClassifier>>,
}

read_keys!(RawJobSpec, "the job": version, name, lake, timezone, naive_times, entity, tables, views, features, labels, model, train,
    segments, outcomes, state, publish, text_classifier);

/// The population: one row per customer, from a table or from a query.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Entity")]
pub(super) struct RawEntity {
    /// The table with one row per customer.
    pub table: Option<At<String>>,
    /// Instead of a table: a SQL file with one row per customer, such as everyone who bought before as_of.
    pub query: Option<At<String>>,
    /// The key column, present in every feature file.
    pub key: At<String>,
    /// The time column of the table from which a row belongs to the population.
    pub since: Option<At<String>>,
}

read_keys!(RawEntity, "the entity": table, query, key, since);

/// A source table.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Table")]
pub(super) struct RawTable {
    /// Its folder or file, relative to the lake, or a URL.
    pub path: At<String>,
    /// The format of its files. Default: `parquet`, or `csv` for a path that ends with `.csv`.
    pub format: Option<At<Format>>,
    /// Of a Delta table, the version to read instead of the newest one: `12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<At<u64>>,
    /// Of a Delta table, the time whose version to read instead of the newest one: `2026-06-30T00:00:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<At<Instant>>,
    /// Hive partition columns with their types, outermost first: `{dt: date}`.
    pub partition_by: Option<At<Keyed<ColumnType>>>,
    /// When a row happened; a table without it is visible whole at any date.
    pub event_time: Option<At<String>>,
    /// When a row became known; before that it is invisible.
    pub known_at: Option<At<String>>,
    /// What times without a zone mean in this table. Default: the job's `naive_times`.
    pub naive_times: Option<At<NaiveTimes>>,
    /// Of CSV files, what separates fields: `";"`, `"\\t"`. Default: `","`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<At<Literal>>,
    /// Of CSV files, what encloses texts with a delimiter or a line break in them; `none` for nothing. Default: `"`, doubled within.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quote: Option<At<Literal>>,
    /// Of CSV files, what stands before a quote within a text, where it is not doubled: `'\\'`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escape: Option<At<Literal>>,
    /// Of CSV files, what stands for NULL: `["", "NA"]`. Default: nothing at all (`""`), which is NULL in any column but a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub null_values: Option<At<OneOrMany<Literal>>>,
    /// Of CSV files, how dates are written, in the letters of `strftime`: `"%m/%d/%Y"`. Default: `2026-06-30`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date_format: Option<At<String>>,
    /// Of CSV files, how timestamps are written: `"%m/%d/%Y %H:%M"`. Default: `2026-06-30T12:00:00`, with an offset or without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_format: Option<At<String>>,
    /// Of CSV files, what stands before the fraction of a number: `","` or `"."`. Default: `"."`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decimal: Option<At<Literal>>,
    /// Its columns with their types: `amount: float64`, or `amount: {type: float64, from: "Order Total", optional: true}`.
    pub columns: At<Keyed<RawColumn>>,
    /// What must hold for its rows; a list of such maps where some need an `on_fail` of their own.
    pub checks: Option<At<OneOrMany<RawChecks>>>,
    /// Whether its folder may be without any file. Default: false, and then a night without files of it is refused.
    #[schemars(extend("default" = false))]
    pub may_be_empty: Option<At<bool>>,
    /// The share of its rows that it may lose from one night to the next; 1 turns the guard off. Default: that of
    /// `publish.max_shrink.tables`.
    #[schemars(range(min = 0, max = 1))]
    pub max_shrink: Option<At<f64>>,
}

read_keys!(RawTable, "a table": path, format, version, timestamp, partition_by, event_time, known_at, naive_times, delimiter,
    quote, escape, null_values, date_format, timestamp_format, decimal, columns, checks, may_be_empty, max_shrink);

/// What must hold for the rows of a table.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Checks")]
pub(super) struct RawChecks {
    /// Columns that are never NULL.
    pub not_null: Option<At<OneOrMany<String>>>,
    /// Columns that together are unique; of several rows the earliest is kept.
    pub unique: Option<At<OneOrMany<String>>>,
    /// Bounds of columns of numbers, dates and timestamps, both included: `{amount: {min: 0, max: 1e6}, ordered_at: {min:
    /// 2000-01-01}}`. NaN and infinities are outside any bounds.
    pub range: Option<At<Keyed<RawBounds>>>,
    /// The only values of a column: `{kind: [view, cart]}`.
    pub accepted_values: Option<At<Keyed<Vec<At<Literal>>>>>,
    /// The newest row is at most this old: `36h`.
    pub fresh_within: Option<At<Span>>,
    /// What to do with rows that break these checks: put them aside, end the run, or only count them. Default:
    /// `reject` for rows, `warn` for `fresh_within`.
    pub on_fail: Option<At<OnFail>>,
}

read_keys!(RawChecks, "the checks": not_null, unique, range, accepted_values, fresh_within, on_fail);

/// Bounds of a column, both included; one of them may be left out.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Bounds")]
pub(super) struct RawBounds {
    /// The least value: a number, or a date (`2000-01-01`) for dates and timestamps, from the beginning of that day in the job's
    /// time zone on.
    pub min: Option<At<Bound>>,
    /// The greatest value: a number, or a date, to the end of that day in the job's time zone.
    pub max: Option<At<Bound>>,
}

read_keys!(RawBounds, "a range": min, max);

/// Bounds, both included; one of them may be left out.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Range")]
pub(super) struct RawRange {
    /// The least value.
    pub min: Option<At<f64>>,
    /// The greatest value.
    pub max: Option<At<f64>>,
}

read_keys!(RawRange, "a range": min, max);

/// Daily partial states.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "State")]
pub(super) struct RawState {
    /// Their folder, relative to the lake, or a URL: `_state/`. Each job has a folder of its own in it.
    pub path: At<String>,
}

read_keys!(RawState, "the state": path);

/// What is predicted from the features.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Model")]
pub(super) struct RawModel {
    /// The bundle's folder: what `train` writes and replaces, and `run` reads; one of its own, relative to the job's root.
    pub bundle: At<String>,
    /// Text columns and their encoder.
    pub text: Option<At<RawText>>,
    /// Each customer's newest events one by one, beside the features that sum them up.
    pub sequence: Option<At<RawSequence>>,
    /// What is predicted, one head each.
    pub heads: At<Vec<At<RawHead>>>,
    /// Members of the ensemble: networks that share their weight matrices (TabM) and are averaged. More of them cost time
    /// and steady what is predicted.
    #[schemars(range(min = 1, max = 256), extend("default" = recipe::MEMBERS))]
    pub members: Option<At<u64>>,
    /// How each number enters the network.
    pub embedding: Option<At<RawEmbedding>>,
    /// The widths of the hidden layers.
    #[schemars(extend("default" = recipe::HIDDEN))]
    pub hidden: Option<At<Vec<At<u64>>>>,
    /// The share of hidden units that are dropped in training.
    #[schemars(range(min = 0, max = 1), extend("default" = recipe::DROPOUT))]
    pub dropout: Option<At<f64>>,
    /// A SQL condition over the features; only customers where it holds are scored, others get NULL and a reason.
    pub minimum_data: Option<At<String>>,
    /// The features behind buy-till-you-die models (BG/NBD or Pareto/NBD, Gamma-Gamma): further inputs, a baseline, and the
    /// means to predict horizons that are longer than the history. Without them there are none.
    pub btyd: Option<At<RawBtyd>>,
}

read_keys!(RawModel, "the model": bundle, text, sequence, heads, members, embedding, hidden, dropout, minimum_data, btyd);

/// How each number enters the network: by its rank among the training rows, embedded in a few inputs. Its standardised
/// value, indicators and categories are inputs as they are.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "Embedding")]
pub(super) struct RawEmbedding {
    /// `piecewise_linear`: how far the number has come through each bin between its quantiles. `periodic`: sines and
    /// cosines of trained frequencies. `none`: as it is.
    #[schemars(extend("default" = recipe::EMBEDDING))]
    pub kind: Option<At<EmbeddingName>>,
    /// Inputs that a number becomes.
    #[schemars(range(min = 1, max = 256), extend("default" = recipe::EMBEDDING_WIDTH))]
    pub width: Option<At<u64>>,
    /// Bins of a number, those between equal quantiles taken together; of `periodic`, its frequencies.
    #[schemars(range(min = 1, max = 256), extend("default" = recipe::EMBEDDING_BINS))]
    pub bins: Option<At<u64>>,
}

read_keys!(RawEmbedding, "the embedding": kind, width, bins);

/// Feature columns that say when a customer bought, and for how much.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Btyd")]
pub(super) struct RawBtyd {
    /// Days since the first purchase.
    pub first: At<String>,
    /// Days since the last purchase.
    pub last: At<String>,
    /// Number of days with a purchase; several purchases on one day count once.
    pub days: At<String>,
    /// Mean spend of such a day; without it, values are left to the network.
    pub spend: Option<At<String>>,
}

read_keys!(RawBtyd, "the buy-till-you-die models": first, last, days, spend);

/// Text inputs of the model.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Text")]
pub(super) struct RawText {
    /// The feature columns that hold text.
    pub columns: At<Vec<At<String>>>,
    /// The encoder's folder (config.json, model.safetensors, tokenizer.json); relative to the job's root.
    pub encoder: At<String>,
    /// Longest text in tokens; the rest is cut. Default: 128.
    #[schemars(range(min = 3, max = 8192), extend("default" = 128))]
    pub max_length: Option<At<u64>>,
    /// How far the encoder learns with the network.
    #[schemars(extend("default" = "frozen"))]
    pub tune: Option<At<ModeOrTune>>,
    /// The peak of the encoder's step size, which follows the network's schedule: 5e-5 with `tune: full`, 1e-3 with `lora`,
    /// if nothing is said.
    pub learning_rate: Option<At<f64>>,
    /// Each block of the encoder learns with this share of the step size of the block above it.
    #[schemars(range(min = 0, max = 1), extend("default" = 1.0))]
    pub layer_decay: Option<At<f64>>,
}

read_keys!(RawText, "the text inputs": columns, encoder, max_length, tune, learning_rate, layer_decay);

/// One output of the model.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Head")]
pub(super) struct RawHead {
    /// The name of the output column.
    pub name: At<Name>,
    /// The label column that it learns.
    pub label: At<String>,
    /// `bce`: a probability. `ziln`: a value with many zeros. `mse`: a number. `softmax`: one of several classes.
    pub loss: At<LossName>,
    /// How much its loss counts in training beside the others'. It has no say in when to stop: there all count alike.
    /// Default: 1.
    #[schemars(extend("default" = 1.0))]
    pub weight: Option<At<f64>>,
    /// The same outcome over several horizons: a value is kept from falling as the horizon grows, and a probability goes by its
    /// `direction`.
    pub family: Option<At<RawFamily>>,
    /// Where the probability of a `bce` head with a `family` goes as the horizon grows: `rises` (will buy) or `falls` (churn).
    /// Without it the label's `@default` tells: 0 rises, 1 falls.
    pub direction: Option<At<Direction>>,
}

read_keys!(RawHead, "a head": name, label, loss, weight, family, direction);

/// Heads of one outcome over several horizons.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Family")]
pub(super) struct RawFamily {
    /// The outcome's name, the same for all of its heads.
    pub name: At<Name>,
    /// This head's horizon in days.
    #[schemars(range(min = 1))]
    pub days: At<u64>,
}

read_keys!(RawFamily, "a family": name, days);

/// How the model is trained. A first fit learns from the older snapshots and stops by the newest; the final fit learns from
/// all of them, for as many epochs and with the same step sizes. Four things keep it from learning rows by heart, and each has
/// a key: `weight_decay` is AdamW's decoupled decay, which plays the part of an L2 penalty and shrinks matrices and
/// embeddings alone (not biases, the members' scalings or frequencies); `model.dropout`; early stopping by `patience`; and
/// the average over `model.members`.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "Train")]
pub(super) struct RawTrain {
    /// The past dates that are learned from.
    pub snapshots: Option<At<RawSnapshots>>,
    /// The newest snapshots that validate. Default: 1.
    #[schemars(range(min = 1), extend("default" = 1))]
    pub validation_snapshots: Option<At<u64>>,
    /// Passes over the rows at most.
    #[schemars(range(min = 1), extend("default" = recipe::EPOCHS))]
    pub epochs: Option<At<u64>>,
    /// Rows per step.
    #[schemars(range(min = 1), extend("default" = recipe::BATCH))]
    pub batch: Option<At<u64>>,
    /// AdamW's peak step size, which the first steps rise to.
    #[schemars(extend("default" = recipe::LEARNING_RATE))]
    pub learning_rate: Option<At<f64>>,
    /// How the step size moves from epoch to epoch. `constant`: it stays. `cosine`: it falls along half a cosine, to nothing
    /// after `epochs`. `plateau`: it halves when the validation loss has not become better for half of `patience`.
    #[schemars(extend("default" = recipe::SCHEDULE))]
    pub schedule: Option<At<Schedule>>,
    /// What is known of the course of a year before the shop's own years tell. `retail`: a day of the fourth quarter is worth
    /// 1.27 days of the others, as in all online shops of the U.S.; predictions of values, and of probabilities whose label
    /// has a `@default`, follow it, as strongly as the shop's own snapshots show. `none`: every window is like every other.
    #[schemars(extend("default" = recipe::SEASON))]
    pub season: Option<At<SeasonSpec>>,
    /// AdamW's decoupled decay.
    #[schemars(extend("default" = recipe::WEIGHT_DECAY))]
    pub weight_decay: Option<At<f64>>,
    /// The gradient's greatest norm.
    #[schemars(extend("default" = recipe::CLIP_NORM))]
    pub clip_norm: Option<At<f64>>,
    /// Epochs without a better validation loss before training stops.
    #[schemars(range(min = 1), extend("default" = recipe::PATIENCE))]
    pub patience: Option<At<u64>>,
    /// The seed of every random choice. Default: 0.
    #[schemars(extend("default" = 0))]
    pub seed: Option<At<u64>>,
    /// The features behind the RFM regression; without them it is left out.
    pub rfm: Option<At<RawRfm>>,
}

read_keys!(RawTrain, "the training": snapshots, validation_snapshots, epochs, batch, learning_rate, schedule,
    season, weight_decay, clip_norm, patience, seed, rfm);

/// The past dates that are learned from.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "Snapshots")]
pub(super) struct RawSnapshots {
    /// Time between snapshots, in whole days. Default: `30d`.
    #[schemars(extend("default" = "30d"))]
    pub every: Option<At<Days>>,
    /// At most this many. Default: 12.
    #[schemars(range(min = 2), extend("default" = 12))]
    pub count: Option<At<u64>>,
    /// History that the oldest snapshot must have before it, in whole days. Default: `60d`.
    #[schemars(extend("default" = "60d"))]
    pub warmup: Option<At<Days>>,
}

read_keys!(RawSnapshots, "the snapshots": every, count, warmup);

/// Feature columns that stand for recency, frequency and monetary value, for a regression that is a baseline and a steady
/// companion of the network.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Rfm")]
pub(super) struct RawRfm {
    /// Days since the last purchase.
    pub recency: At<String>,
    /// Number of purchases.
    pub frequency: At<String>,
    /// Mean value of a purchase.
    pub monetary: At<String>,
    /// The regression's part, from 0 to below 1, of the log-odds and log values that are published beside the network's; a head
    /// whose validation loss rises with it takes nothing. 0: it is a baseline alone.
    #[schemars(extend("default" = recipe::RFM_SHARE))]
    pub share: Option<At<f64>>,
}

read_keys!(RawRfm, "the RFM regression": recency, frequency, monetary, share);

/// Lifecycle stages and value tiers.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Segments")]
pub(super) struct RawSegments {
    /// The stages: the first whose condition holds wins; the last one has no `when`.
    pub stages: At<Vec<At<RawStage>>>,
    /// Tiers by quantile of a score.
    pub value_tiers: Option<At<RawTiers>>,
}

read_keys!(RawSegments, "the segments": stages, value_tiers);

/// One stage of life.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Stage")]
pub(super) struct RawStage {
    /// Its name.
    pub name: At<Name>,
    /// A SQL condition over features and scores.
    pub when: Option<At<String>>,
}

read_keys!(RawStage, "a stage": name, when);

/// Value tiers.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ValueTiers")]
pub(super) struct RawTiers {
    /// The score or feature column.
    pub by: At<String>,
    /// The tiers with their upper quantiles, ascending; the last one is 1.0.
    pub quantiles: At<Keyed<f64>>,
}

read_keys!(RawTiers, "the value tiers": by, quantiles);

/// A text-only job: one label per text.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "TextClassifier")]
pub(super) struct RawTextClassifier {
    /// The table to learn from.
    pub train: At<String>,
    /// The table to report on.
    pub test: At<String>,
    /// The text column, in both.
    pub text: At<String>,
    /// The label column, in both.
    pub label: At<String>,
    /// The pretrained encoder's folder; relative to the job's root.
    pub encoder: At<String>,
    /// The bundle's folder, which `train` writes and replaces; one of its own, relative to the job's root.
    pub bundle: At<String>,
    /// Longest text in tokens; the rest is cut. Default: 128.
    #[schemars(range(min = 3, max = 8192), extend("default" = 128))]
    pub max_length: Option<At<u64>>,
    /// Passes over the training texts. Default: 5.
    #[schemars(range(min = 1), extend("default" = 5))]
    pub epochs: Option<At<u64>>,
    /// Texts per step. Default: 16.
    #[schemars(range(min = 1), extend("default" = 16))]
    pub batch: Option<At<u64>>,
    /// How far the encoder learns. Default: `full`.
    #[schemars(extend("default" = "full"))]
    pub tune: Option<At<ModeOrTune>>,
    /// AdamW's peak step size. Default: 5e-5 with `tune: full`, 1e-3 with `lora`, 1e-2 with `frozen`.
    pub learning_rate: Option<At<f64>>,
    /// Layer-wise step sizes: each block of the encoder learns with this share of the step size of the block above it, the
    /// embeddings with the least; the head and the highest block have the whole. Default: 1.
    #[schemars(range(min = 0, max = 1), extend("default" = 1.0))]
    pub layer_decay: Option<At<f64>>,
    /// AdamW's decoupled decay. Default: 0.01.
    #[schemars(extend("default" = 0.01))]
    pub weight_decay: Option<At<f64>>,
    /// The share of the steps in which the step size rises from 0. Default: 0.1.
    #[schemars(range(min = 0, max = 1), extend("default" = 0.1))]
    pub warmup: Option<At<f64>>,
    /// The seed of every random choice. Default: 0.
    #[schemars(extend("default" = 0))]
    pub seed: Option<At<u64>>,
}

read_keys!(RawTextClassifier, "the text classifier": train, test, text, label, encoder, bundle, max_length, epochs,
    batch, tune, learning_rate, layer_decay, weight_decay, warmup, seed);
