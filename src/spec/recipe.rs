//! The default recipe: what a job gets that does not say how its network looks and learns. Each number stands here alone;
//! the schema and docs/job-file.md take theirs from here.

use super::network::{Schedule, SeasonSpec};
use super::sequence::{Keep, SequenceEncoder};
use super::values::EmbeddingName;

/// Members of the ensemble.
pub(super) const MEMBERS: u64 = 16;
/// The embedding of numbers.
pub(super) const EMBEDDING: EmbeddingName = EmbeddingName::PiecewiseLinear;
/// Inputs that a number becomes.
pub(super) const EMBEDDING_WIDTH: u64 = 4;
/// Bins, or frequencies, of a number.
pub(super) const EMBEDDING_BINS: u64 = 12;
/// The widths of the hidden layers.
pub(super) const HIDDEN: [u64; 2] = [64, 32];
/// The share of hidden units that are dropped in training.
pub(super) const DROPOUT: f64 = 0.1;
/// Passes over the rows at most.
pub(super) const EPOCHS: u64 = 12;
/// Rows per step.
pub(super) const BATCH: u64 = 512;
/// AdamW's peak step size.
pub(super) const LEARNING_RATE: f64 = 2e-3;
/// AdamW's decoupled decay.
pub(super) const WEIGHT_DECAY: f64 = 1e-2;
/// The gradient's greatest norm.
pub(super) const CLIP_NORM: f64 = 1.0;
/// How the step size moves.
pub(super) const SCHEDULE: Schedule = Schedule::Cosine;
/// The part of the RFM regression beside the network.
pub(super) const RFM_SHARE: f64 = 0.4;
/// What is known of the course of a year.
pub(super) const SEASON: SeasonSpec = SeasonSpec::Retail;
/// Epochs without a better validation loss before training stops.
pub(super) const PATIENCE: u64 = 6;
/// Events per customer at most.
pub(super) const SEQUENCE_LENGTH: u64 = 32;
/// What reads them.
pub(super) const SEQUENCE_ENCODER: SequenceEncoder = SequenceEncoder::Gru;
/// The width of what reads them.
pub(super) const SEQUENCE_WIDTH: u64 = 32;
/// The layers of what reads them.
pub(super) const SEQUENCE_LAYERS: u64 = 1;
/// Whether the validation may leave them out.
pub(super) const SEQUENCE_KEEP: Keep = Keep::Auto;
