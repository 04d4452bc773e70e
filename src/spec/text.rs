//! Texts: among a model's inputs, or alone.

use std::path::PathBuf;

use super::tune::TuneSpec;
use crate::error::Place;

/// Text inputs of the model.
#[derive(Debug, Clone)]
pub struct TextSpec {
    /// The feature columns that hold text.
    pub columns: Vec<String>,
    /// A folder in the layout of Hugging Face (config.json, model.safetensors, tokenizer.json); absolute.
    pub encoder: PathBuf,
    /// Longest text in tokens; the rest is cut.
    pub max_length: usize,
    /// How far the encoder learns.
    pub tune: TuneSpec,
    /// The peak of the encoder's step size.
    pub learning_rate: f64,
    /// The share of the step size that each block of the encoder has of the one above it.
    pub layer_decay: f64,
}

/// A text-only job: one label per text.
#[derive(Debug, Clone)]
pub struct TextClassifierTask {
    /// The table to learn from.
    pub train: String,
    /// The table to report on.
    pub test: String,
    /// The text column, in both.
    pub text: String,
    /// The label column, in both.
    pub label: String,
    /// The pretrained encoder's folder; absolute.
    pub encoder: PathBuf,
    /// The bundle's folder; absolute.
    pub bundle: PathBuf,
    /// Where the job names it.
    pub bundle_place: Place,
    /// Longest text in tokens.
    pub max_length: usize,
    /// Passes over the training texts.
    pub epochs: usize,
    /// Texts per step.
    pub batch: usize,
    /// How far the encoder learns.
    pub tune: TuneSpec,
    /// AdamW's peak step size.
    pub learning_rate: f64,
    /// The share of the step size that each block of the encoder has of the one above it.
    pub layer_decay: f64,
    /// AdamW's decoupled decay.
    pub weight_decay: f64,
    /// The share of the steps in which the step size rises linearly from 0; it falls linearly to 0 afterwards.
    pub warmup: f64,
    /// The seed of every random choice.
    pub seed: u64,
}
