//! How far a pretrained encoder learns from the texts of a job.

/// How far a pretrained encoder learns.
#[derive(Debug, Clone, PartialEq)]
pub enum TuneSpec {
    /// Not at all: each distinct text is embedded once, and what stands behind the encoder learns alone.
    Frozen,
    /// By corrections of low rank, which are merged into its weights in the end.
    Lora(LoraSpec),
    /// Every weight.
    Full,
}

impl TuneSpec {
    /// AdamW's peak step size where a job says none. Few and fresh weights bear larger steps than a whole pretrained
    /// network; docs/text.md has the measurements.
    pub fn learning_rate(&self) -> f64 {
        match self {
            TuneSpec::Frozen => 1e-2,
            TuneSpec::Lora(_) => 1e-3,
            TuneSpec::Full => 5e-5,
        }
    }
}

/// Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685).
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSpec {
    /// The rank of a correction.
    pub rank: usize,
    /// The correction is scaled by `alpha / rank`.
    pub alpha: f64,
    /// The layers that are corrected, in every block of the encoder.
    pub targets: Vec<LoraTarget>,
    /// The share of a correction's inputs that are dropped in training.
    pub dropout: f64,
}

impl Default for LoraSpec {
    fn default() -> Self {
        LoraSpec { rank: 8, alpha: 16.0, targets: vec![LoraTarget::Query, LoraTarget::Value], dropout: 0.0 }
    }
}

/// A dense layer in each block of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraTarget {
    /// What a token looks for.
    Query,
    /// What a token is found by.
    Key,
    /// What a token gives to those that look at it.
    Value,
    /// From the attention back to the token.
    AttentionOutput,
    /// Into the feed-forward network.
    Intermediate,
    /// Out of it.
    Output,
}

impl LoraTarget {
    /// Every layer with its name in a job file.
    pub const NAMES: [(&'static str, LoraTarget); 6] = [
        ("query", LoraTarget::Query),
        ("key", LoraTarget::Key),
        ("value", LoraTarget::Value),
        ("attention_output", LoraTarget::AttentionOutput),
        ("intermediate", LoraTarget::Intermediate),
        ("output", LoraTarget::Output),
    ];

    /// Its name in a job file.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, target)| *target == self).map_or("unknown", |(name, _)| name)
    }
}
