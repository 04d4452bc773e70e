//! Which events of a customer the network reads one by one, and how.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Place;

/// The newest events of every customer as an input of the model.
#[derive(Debug, Clone)]
pub struct SequenceSpec {
    /// The SQL file with one row per event; absolute.
    pub events: PathBuf,
    /// Events per customer at most.
    pub length: usize,
    /// What reads them.
    pub encoder: SequenceEncoder,
    /// The encoder's width: a multiple of 4.
    pub width: usize,
    /// The encoder's layers.
    pub layers: usize,
    /// Whether the validation may leave it out.
    pub keep: Keep,
    /// Where it stands.
    pub place: Place,
}

/// What reads a sequence of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SequenceEncoder {
    /// A recurrent network.
    Gru,
    /// Self-attention.
    Transformer,
}

/// Whether a part of the model stays in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Only where the validation loss is better with it, by more than chance.
    Auto,
    /// In any case.
    Always,
}
