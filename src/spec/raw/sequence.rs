//! The events that the model reads one by one.

use schemars::JsonSchema;
use serde::Serialize;

use crate::spec::read::{At, read_keys};
use crate::spec::recipe;
use crate::spec::sequence::{Keep, SequenceEncoder};

/// The newest events of every customer as an input of the model.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Sequence")]
pub(in crate::spec) struct RawSequence {
    /// The SQL file with one row per event: the key, the event time (`-- @event_time COLUMN`), numbers and words. Relative
    /// to the job's root.
    pub events: At<String>,
    /// Events per customer at most; the newest count.
    #[schemars(range(min = 2, max = 256), extend("default" = recipe::SEQUENCE_LENGTH))]
    pub length: Option<At<u64>>,
    /// What reads them: `gru`, a recurrent network, or `transformer`, self-attention.
    #[schemars(extend("default" = recipe::SEQUENCE_ENCODER))]
    pub encoder: Option<At<SequenceEncoder>>,
    /// The encoder's width, a multiple of 4.
    #[schemars(range(min = 4, max = 256), extend("default" = recipe::SEQUENCE_WIDTH))]
    pub width: Option<At<u64>>,
    /// The encoder's layers.
    #[schemars(range(min = 1, max = 4), extend("default" = recipe::SEQUENCE_LAYERS))]
    pub layers: Option<At<u64>>,
    /// `auto`: the sequence stays in the model only where it makes the validation loss better by more than chance.
    /// `always`: it stays.
    #[schemars(extend("default" = recipe::SEQUENCE_KEEP))]
    pub keep: Option<At<Keep>>,
}

read_keys!(RawSequence, "the sequence": events, length, encoder, width, layers, keep);
