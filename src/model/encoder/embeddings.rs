//! A token's vector before any layer: its word piece, its place in the text and the segment, normalised.

use tch::Tensor;
use tch::nn::{Init, Path};

use super::config::BertConfig;
use super::layers::{LayerNorm, Mode, dropout};
use crate::{Error, Result};

/// BERT's three embeddings and their layer norm.
#[derive(Debug)]
pub struct Embeddings {
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    norm: LayerNorm,
    share: f64,
    pad_token: i64,
}

impl Embeddings {
    /// Embeddings of zeros, to be filled.
    pub fn new(path: &Path, config: &BertConfig) -> Result<Self> {
        let table = |name: &str, rows: i64| (path / name).f_var("weight", &[rows, config.hidden], Init::Const(0.0));
        Ok(Embeddings {
            words: table("word_embeddings", config.vocabulary)?,
            positions: table("position_embeddings", config.positions)?,
            types: table("token_type_embeddings", config.types)?,
            norm: LayerNorm::new(&(path / "LayerNorm"), config.hidden, config.layer_norm_eps)?,
            share: config.dropout,
            pad_token: config.pad_token,
        })
    }

    /// [rows, tokens] of ids → [rows, tokens, width]. The padding token's vector gets no gradient.
    pub fn forward(&self, ids: &Tensor, mode: Mode) -> Result<Tensor> {
        let (_, tokens) = ids.size2()?;
        self.check(tokens)?;
        self.sum(ids, &self.positions.f_narrow(0, 0, tokens)?, mode)
    }

    /// [all tokens] of ids and of their places in their rows → [all tokens, width].
    pub fn forward_at(&self, ids: &Tensor, positions: &Tensor, mode: Mode) -> Result<Tensor> {
        self.sum(ids, &self.positions.f_index_select(0, positions)?, mode)
    }

    fn sum(&self, ids: &Tensor, positions: &Tensor, mode: Mode) -> Result<Tensor> {
        let words = Tensor::f_embedding(&self.words, ids, self.pad_token, false, false)?;
        let sum = words.f_add(&self.types.f_select(0, 0)?)?.f_add(positions)?;
        dropout(self.norm.forward(&sum)?, self.share, mode)
    }

    /// An error if there is no position for the last of so many tokens.
    pub fn check(&self, tokens: i64) -> Result<()> {
        let most = self.positions.size()[0];
        if tokens > most {
            return Err(Error::user(format!(
                "a text of {tokens} tokens is longer than the encoder's {most} positions"
            )));
        }
        Ok(())
    }
}
