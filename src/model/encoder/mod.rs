//! Sentence embeddings from a pretrained BERT in the layout of Hugging Face: `config.json`, `model.safetensors`,
//! `tokenizer.json`, and where they are there `1_Pooling/config.json`, `modules.json`, `sentence_bert_config.json`.
//!
//! The numbers are those of `transformers` in f32 (`tests/it/encoder.rs`). Texts are sorted by length into batches of a token
//! budget, on the CPU without padding at all; the neighbours in a batch change a text's embedding by no more than rounding.

mod attention;
mod bert;
mod checkpoint;
mod config;
mod embeddings;
mod layers;
mod layout;
mod lora;
mod pooling;
mod tuning;

use std::collections::BTreeMap;
use std::path::Path;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

pub use bert::{BertModel, TOLERATED};
pub use checkpoint::Checkpoint;
pub use config::BertConfig;
pub use layers::{Linear, Mode, dropout};
pub use layout::{Group, Layout, Unpadded};
pub use pooling::{Pooling, PoolingMode};
pub use tuning::{Learner, Tuned, Tuning};

use super::files::Files;
use super::weights;
use crate::spec::TuneSpec;
use crate::text::batching::{Budget, distinct, plan};
use crate::text::{EmbeddingCache, Tokenizer};
use crate::{Error, Result};

/// Texts in, vectors out.
#[derive(Debug)]
pub struct Encoder {
    checkpoint: Checkpoint,
    store: VarStore,
    model: BertModel,
    pooling: Pooling,
    tokenizer: Tokenizer,
    budget: Budget,
    form: Form,
}

impl Encoder {
    /// Loads a checkpoint's folder onto a device. Texts are cut to the length in `sentence_bert_config.json`, or to what the
    /// model has positions for.
    pub fn load(dir: &Path, device: Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(dir)?;
        let max_length = checkpoint.max_length();
        Self::with_max_length(checkpoint, device, max_length)
    }

    /// As [`Encoder::load`], cutting texts to `max_length` tokens.
    pub fn load_cut(dir: &Path, device: Device, max_length: usize) -> Result<Self> {
        Self::with_max_length(Checkpoint::open(dir)?, device, max_length)
    }

    /// The same from files that a bundle holds.
    pub fn read_cut(files: Files, device: Device, max_length: usize) -> Result<Self> {
        Self::with_max_length(Checkpoint::read(files)?, device, max_length)
    }

    fn with_max_length(checkpoint: Checkpoint, device: Device, max_length: usize) -> Result<Self> {
        let tokenizer = checkpoint.tokenizer(max_length)?;
        let store = VarStore::new(device);
        let model = BertModel::new(&store.root(), checkpoint.config().clone())?;
        checkpoint.load_weights(&store, &TOLERATED)?;
        let pooling = checkpoint.pooling();
        let (budget, form) = usual(device);
        Ok(Encoder { checkpoint, store, model, pooling, tokenizer, budget, form })
    }

    /// With other batches than the device's usual ones; the embeddings are the same.
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Computed in another form than the device's usual one.
    pub fn with_form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    /// The width of an embedding.
    pub fn hidden_size(&self) -> usize {
        usize::try_from(self.model.config().hidden).unwrap_or_default()
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.store.device()
    }

    /// The folder that it came from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The network.
    pub fn model(&self) -> &BertModel {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// One embedding per text, [texts, width] in f32 on the device, in the order of the texts. Equal texts are computed
    /// once. An empty text has an embedding like any other.
    pub fn embed(&self, texts: &[&str]) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let (texts, which) = distinct(texts);
        let tokens = self.tokenizer.encode(&texts)?;
        let rows: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
        let rows = self.embed_tokens(&rows, Mode::Infer)?;
        if texts.len() == which.len() {
            return Ok(rows);
        }
        let which: Vec<i64> = which.into_iter().map(|row| row as i64).collect();
        Ok(rows.f_index_select(0, &Tensor::f_from_slice(&which)?.f_to_device(self.device())?)?)
    }

    /// As [`Encoder::embed`], taking what the cache has from it and leaving the rest in it.
    pub fn embed_cached(&self, texts: &[&str], cache: &mut EmbeddingCache) -> Result<Tensor> {
        let width = self.hidden_size();
        let (kept, which) = distinct(texts);
        let mut values = vec![0f32; kept.len() * width];
        let mut fresh = Vec::new();
        for (row, text) in kept.iter().enumerate() {
            match cache.get(text) {
                Some(found) => values[row * width..(row + 1) * width].copy_from_slice(found),
                None => fresh.push(row),
            }
        }
        if !fresh.is_empty() {
            let texts: Vec<&str> = fresh.iter().map(|&row| kept[row]).collect();
            let computed = flat(&self.embed(&texts)?)?;
            for (embedding, &row) in computed.chunks_exact(width).zip(&fresh) {
                cache.keep(kept[row], embedding);
                values[row * width..(row + 1) * width].copy_from_slice(embedding);
            }
        }
        let rows = Tensor::f_from_slice(&values)?.f_view([kept.len() as i64, width as i64])?;
        let which: Vec<i64> = which.into_iter().map(|row| row as i64).collect();
        Ok(rows.f_index_select(0, &Tensor::f_from_slice(&which)?)?.f_to_device(self.device())?)
    }

    /// How many numbers it consists of.
    pub fn parameters(&self) -> u64 {
        self.store.variables().values().map(|variable| variable.numel() as u64).sum()
    }

    /// Begins to learn. What it learns by corrections is in its weights once [`Encoder::merge`] was called.
    pub fn tune(&mut self, spec: &TuneSpec, seed: u64) -> Result<Tuning> {
        Tuning::begin(&mut self.model, &self.store, spec, seed)
    }

    /// Puts into the weights what was learned by corrections; the embeddings stay.
    pub fn merge(&mut self) -> Result<()> {
        self.model.merge()
    }

    /// Writes a checkpoint with the weights as they are now; gives the SHA-256 of its files.
    pub fn save(&self, folder: &Path) -> Result<BTreeMap<String, String>> {
        self.checkpoint.copy_without_weights(folder)?;
        weights::save(&weights::variables(&self.store), &folder.join("model.safetensors"))?;
        Checkpoint::open(folder)?.hashes()
    }

    /// One embedding per row of token ids, [rows, width] in f32 on the device, in the order of the rows. Every row must have
    /// a token. In training there is dropout, and gradients go back into the weights.
    pub fn embed_tokens(&self, tokens: &[&[u32]], mode: Mode) -> Result<Tensor> {
        let (width, device) = (self.model.config().hidden, self.device());
        if tokens.is_empty() {
            return Ok(Tensor::f_zeros([0, width], (Kind::Float, device))?);
        }
        let lengths: Vec<usize> = tokens.iter().map(|row| row.len()).collect();
        let batches = plan(&lengths, self.budget);
        let mut pooled = Vec::with_capacity(batches.len());
        let mut place = vec![0i64; tokens.len()];
        let mut next = 0;
        for batch in &batches {
            let rows: Vec<&[u32]> = batch.iter().map(|&row| tokens[row]).collect();
            pooled.push(match self.form {
                Form::Padded => self.embed_padded(&rows, mode)?,
                Form::Unpadded => self.embed_unpadded(&rows, mode)?,
            });
            for &row in batch {
                place[row] = next;
                next += 1;
            }
        }
        let sorted = Tensor::f_cat(&pooled, 0)?;
        Ok(sorted.f_index_select(0, &Tensor::f_from_slice(&place)?.f_to_device(device)?)?)
    }

    fn embed_padded(&self, rows: &[&[u32]], mode: Mode) -> Result<Tensor> {
        let input = Padded::new(rows, self.model.config().pad_token, self.device())?;
        let hidden = self.model.forward(&input.ids, input.mask.as_ref(), mode)?;
        self.pooling.apply(&hidden, input.mask.as_ref())
    }

    fn embed_unpadded(&self, rows: &[&[u32]], mode: Mode) -> Result<Tensor> {
        let input = Unpadded::new(rows, self.device())?;
        let hidden = self.model.forward_unpadded(&input, mode)?;
        let pooled = input.groups.iter().map(|group| self.pooling.apply(&group.of(&hidden)?, None));
        Ok(Tensor::f_cat(&pooled.collect::<Result<Vec<_>>>()?, 0)?)
    }
}

/// How batches are computed; the embeddings are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Rows filled up to the longest, attention under a mask: few, large operations.
    Padded,
    /// Nothing but the texts' own tokens, attention per group of equal length.
    Unpadded,
}

/// Rows of tokens as tensors, filled up to the longest.
#[derive(Debug)]
pub struct Padded {
    /// [rows, tokens] of ids.
    pub ids: Tensor,
    /// [rows, tokens]: 1 at a row's own tokens, 0 at padding; none if there is no padding.
    pub mask: Option<Tensor>,
}

impl Padded {
    /// Pads each row to the longest with `pad_token`. There must be a row, and every row must have a token.
    pub fn new(rows: &[&[u32]], pad_token: i64, device: Device) -> Result<Self> {
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        if rows.iter().any(|row| row.is_empty()) || longest == 0 {
            return Err(Error::bug("a batch has a text without tokens"));
        }
        let mut ids = vec![pad_token; rows.len() * longest];
        let mut mask = vec![0i64; rows.len() * longest];
        for (number, row) in rows.iter().enumerate() {
            let start = number * longest;
            mask[start..start + row.len()].fill(1);
            for (slot, &id) in ids[start..].iter_mut().zip(row.iter()) {
                *slot = i64::from(id);
            }
        }
        let shape = [rows.len() as i64, longest as i64];
        let tensor = |values: &[i64]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(values)?.f_view(shape)?.f_to_device(device)?)
        };
        let padded = rows.iter().any(|row| row.len() < longest);
        Ok(Padded { ids: tensor(&ids)?, mask: if padded { Some(tensor(&mask)?) } else { None } })
    }
}

/// Batches that fit a CPU's caches and waste no work; for a GPU large ones with few launches.
fn usual(device: Device) -> (Budget, Form) {
    match device {
        Device::Cpu => (Budget { tokens: 2048, rows: 256 }, Form::Unpadded),
        _ => (Budget { tokens: 65_536, rows: 2048 }, Form::Padded),
    }
}

/// The values of a tensor, row by row.
fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(Vec::<f32>::try_from(tensor.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?)?)
}
