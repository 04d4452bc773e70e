//! From snapshots to a bundle: losses, fit, metrics, baselines, evaluation.

pub mod adamw;
mod average;
pub mod baselines;
pub mod btyd;
pub mod calibrate;
pub mod classification_report;
pub mod dataset;
pub mod dates;
pub mod evaluate;
pub mod evaluation;
pub mod event_file;
pub mod fine_tuning;
pub mod fit;
pub mod floor;
mod gather;
mod keep;
pub mod losses;
pub mod metrics;
pub mod schedule;
pub mod season;
mod select;
pub mod snapshots;
pub mod text_classifier;
pub mod text_vectors;
pub mod train;
pub mod tune;
pub mod validation;
pub mod watch;

pub use baselines::Baselines;
pub use evaluate::{Hindsight, evaluate_from};
pub use evaluation::{Evaluation, Grouping};
pub use snapshots::{LabelInfo, SnapshotSource};
pub use train::{TrainJob, TrainingReport, train_from, train_watched};
pub use tune::{TuneOptions, TuneReport, tune_from};
pub use watch::{TensorBoard, Unwatched, Watch};
