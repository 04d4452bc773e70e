//! The files of a checkpoint: which there are, what they say together, how they get into a bundle.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tch::nn::VarStore;

use super::pooling::read_if_there;
use super::{BertConfig, Pooling};
use crate::error::Place;
use crate::model::files::Files;
use crate::model::weights::{self, Tolerated};
use crate::text::Tokenizer;
use crate::{Error, Result, hash};

const WEIGHTS: &str = "model.safetensors";

/// What a checkpoint may consist of; the first three must be there.
const FILES: [&str; 6] =
    ["config.json", WEIGHTS, "tokenizer.json", "1_Pooling/config.json", "modules.json", "sentence_bert_config.json"];

/// A checkpoint's folder whose small files were read and fit together.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    files: Files,
    config: BertConfig,
    pooling: Pooling,
    max_length: usize,
}

#[derive(Deserialize)]
struct SentenceBert {
    max_seq_length: Option<usize>,
}

impl Checkpoint {
    /// Reads the configuration; the weights wait.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::user(format!("the encoder's folder `{}` is not there", dir.display()))
                .hint("`make encoder` fetches all-MiniLM-L6-v2; `encoder:` names the folder"));
        }
        Self::read(Files::of_folder(dir))
    }

    /// The same from files that a bundle holds.
    pub fn read(files: Files) -> Result<Self> {
        let config = BertConfig::read(&files)?;
        let pooling = Pooling::read(&files)?;
        let positions = usize::try_from(config.positions).unwrap_or_default();
        let sentences: Option<SentenceBert> = read_if_there(&files, "sentence_bert_config.json")?;
        let max_length = sentences.and_then(|found| found.max_seq_length).unwrap_or(positions).min(positions);
        Ok(Checkpoint { files, config, pooling, max_length })
    }

    /// The network's shape.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// How a text's vectors become one.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// The longest text in tokens that the checkpoint is meant for.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Fills a network with the weights.
    pub fn load_weights(&self, store: &VarStore, tolerated: &Tolerated) -> Result<()> {
        weights::load_from(store, &self.files, WEIGHTS, tolerated)
    }

    /// The tokenizer, cutting to `max_length` tokens; the network must have a position and a vector for all that comes out.
    pub fn tokenizer(&self, max_length: usize) -> Result<Tokenizer> {
        if max_length as i64 > self.config.positions {
            return Err(Error::user(format!(
                "texts of {max_length} tokens are longer than the encoder's {} positions",
                self.config.positions
            ))
            .at(Place::file(self.files.path("config.json").display().to_string())));
        }
        let text = self.files.read("tokenizer.json")?;
        let tokenizer = Tokenizer::parse(&text, self.files.path("tokenizer.json"), max_length)?;
        if tokenizer.vocabulary_size() as i64 > self.config.vocabulary {
            return Err(Error::user(format!(
                "the tokenizer has {} word pieces, and the encoder {}",
                tokenizer.vocabulary_size(),
                self.config.vocabulary
            ))
            .at(Place::file(tokenizer.file().display().to_string()))
            .hint("do both files come from one checkpoint?"));
        }
        Ok(tokenizer)
    }

    /// SHA-256 of every file that is there, by its path in the folder: what a bundle pins.
    pub fn hashes(&self) -> Result<BTreeMap<String, String>> {
        self.names().map(|name| Ok((name.to_owned(), hash::of_bytes(self.files.read(name)?)))).collect()
    }

    /// Copies every file that is there into another folder, which is made.
    pub fn copy_to(&self, goal: &Path) -> Result<()> {
        self.copy(goal, |_| true)
    }

    /// Copies every file but the weights: what a fine-tuned encoder shares with this one.
    pub fn copy_without_weights(&self, goal: &Path) -> Result<()> {
        self.copy(goal, |name| name != WEIGHTS)
    }

    fn copy(&self, goal: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
        for name in self.names().filter(|name| wanted(name)) {
            let to = goal.join(name);
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
            }
            // The bytes alone: a read-only source must not make a read-only bundle.
            std::fs::write(&to, self.files.read(name)?).map_err(|e| Error::io(&to, e))?;
        }
        Ok(())
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        FILES.into_iter().filter(|name| self.files.contains(name))
    }
}
