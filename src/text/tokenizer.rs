//! The checkpoint's own tokenizer, without its padding and with our truncation.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::{TruncationDirection, TruncationParams, TruncationStrategy};

use crate::error::Place;
use crate::{Error, Result, failpoint};

/// Turns texts into the token ids that a checkpoint was trained with.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    max_length: usize,
}

impl Tokenizer {
    /// The tokenizer of a checkpoint's folder (`tokenizer.json`), cutting texts to `max_length` tokens, special tokens
    /// included and kept. Padding and truncation that the file itself asks for are dropped: a published
    /// `tokenizer.json` often pads every text to its full length.
    pub fn load(dir: &Path, max_length: usize) -> Result<Self> {
        let file = dir.join("tokenizer.json");
        let text = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
        Self::parse(&text, file, max_length)
    }

    /// The same from the bytes of that file; `file` is for the messages.
    pub fn parse(text: &[u8], file: PathBuf, max_length: usize) -> Result<Self> {
        let place = || Place::file(file.display().to_string());
        let mut inner = tokenizers::Tokenizer::from_bytes(text)
            .map_err(|e| Error::user("this is not a tokenizer file").at(place()).because(e))?;
        inner.with_padding(None);
        let cut = TruncationParams {
            max_length,
            stride: 0,
            strategy: TruncationStrategy::LongestFirst,
            direction: TruncationDirection::Right,
        };
        inner.with_truncation(Some(cut)).map_err(|e| {
            Error::user(format!("texts cannot be cut to {max_length} tokens"))
                .at(place())
                .because(e)
                .hint("a text needs room for its special tokens and one more")
        })?;
        let tokenizer = Tokenizer { inner, file: file.clone(), max_length };
        // The model needs at least one token for an empty text, or its mean would divide by zero.
        let empty = tokenizer.tokens("")?.len();
        if empty == 0 {
            return Err(Error::user("the tokenizer adds no special tokens")
                .at(place())
                .hint("a BERT tokenizer adds two"));
        }
        if empty >= max_length {
            return Err(Error::user(format!(
                "{max_length} tokens leave no room for a text beside {empty} special tokens"
            ))
            .at(place()));
        }
        Ok(tokenizer)
    }

    /// The token ids of every text, in order, special tokens included; an empty text is the special tokens alone.
    pub fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        // A few texts per task: one text is a matter of microseconds.
        texts.par_iter().with_min_len(16).map(|text| self.tokens(text)).collect()
    }

    /// The longest text in tokens.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// One more than the greatest token id that can come out.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// The file that it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        failpoint::reach("text.tokenize");
        let encoding = self
            .inner
            .encode_fast(text, true)
            .map_err(|e| Error::user("a text cannot be turned into tokens").because(e))?;
        Ok(encoding.get_ids().to_vec())
    }
}
