//! The files of a checkpoint: which there are, what they say together, how they get into a bundle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{BertConfig, Pooling};
use crate::error::Place;
use crate::text::Tokenizer;
use crate::{Error, Result, hash};

/// What a checkpoint may consist of; the first three must be there.
const FILES: [&str; 6] = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "1_Pooling/config.json",
    "modules.json",
    "sentence_bert_config.json",
];

/// A checkpoint's folder whose small files were read and fit together.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    dir: PathBuf,
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
        let config = BertConfig::load(dir)?;
        let pooling = Pooling::load(dir)?;
        let positions = usize::try_from(config.positions).unwrap_or_default();
        let max_length = sentence_length(dir)?.unwrap_or(positions).min(positions);
        Ok(Checkpoint { dir: dir.to_path_buf(), config, pooling, max_length })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
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

    /// The file of the weights.
    pub fn weights(&self) -> PathBuf {
        self.dir.join("model.safetensors")
    }

    /// The tokenizer, cutting to `max_length` tokens; the network must have a position and a vector for all that comes out.
    pub fn tokenizer(&self, max_length: usize) -> Result<Tokenizer> {
        if max_length as i64 > self.config.positions {
            return Err(Error::user(format!(
                "texts of {max_length} tokens are longer than the encoder's {} positions",
                self.config.positions
            ))
            .at(Place::file(self.dir.join("config.json").display().to_string())));
        }
        let tokenizer = Tokenizer::load(&self.dir, max_length)?;
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
        self.files().map(|name| Ok((name.to_owned(), hash::of_file(&self.dir.join(name))?))).collect()
    }

    /// Copies every file that is there into another folder, which is made.
    pub fn copy_to(&self, goal: &Path) -> Result<()> {
        self.copy(goal, |_| true)
    }

    /// Copies every file but the weights: what a fine-tuned encoder shares with this one.
    pub fn copy_without_weights(&self, goal: &Path) -> Result<()> {
        self.copy(goal, |name| name != "model.safetensors")
    }

    fn copy(&self, goal: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
        for name in self.files().filter(|name| wanted(name)) {
            let to = goal.join(name);
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
            }
            let from = self.dir.join(name);
            // The bytes alone: a read-only source must not make a read-only bundle.
            let bytes = std::fs::read(&from).map_err(|e| Error::io(&from, e))?;
            std::fs::write(&to, bytes).map_err(|e| Error::io(&to, e))?;
        }
        Ok(())
    }

    fn files(&self) -> impl Iterator<Item = &'static str> {
        FILES.into_iter().filter(|name| self.dir.join(name).is_file())
    }
}

fn sentence_length(dir: &Path) -> Result<Option<usize>> {
    let file = dir.join("sentence_bert_config.json");
    let text = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| Error::io(&file, e))?,
    };
    let raw: SentenceBert = serde_json::from_str(&text).map_err(|e| {
        let place = Place::at(file.display().to_string(), e.line(), e.column());
        Error::user("this file of the encoder cannot be read").at(place).because(e)
    })?;
    Ok(raw.max_seq_length)
}
