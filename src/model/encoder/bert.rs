//! BERT (Devlin et al. 2018, arXiv 1810.04805): embeddings and a stack of layers, post-norm, exact GELU.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::nn::Path;
use tch::{Kind, Tensor};

use super::attention::Attention;
use super::config::BertConfig;
use super::embeddings::Embeddings;
use super::layers::{LayerNorm, Linear, Mode, dropout};
use super::layout::{Layout, Unpadded};
use crate::Result;
use crate::model::weights::Tolerated;
use crate::spec::{LoraSpec, LoraTarget};

/// What a published checkpoint may hold or be called beyond this model: the `bert.` prefix of task models, the `gamma` and
/// `beta` of old layer norms, the buffer of position numbers, the pooler behind CLS (sentence encoders do not use it) and
/// the heads of pre-training and of classifiers.
pub const TOLERATED: Tolerated = Tolerated {
    prefix: "bert.",
    unused: &["embeddings.position_ids", "pooler.", "cls.", "classifier."],
    renamed: &[("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")],
};

/// One layer: attention, then a feed-forward network with a residual.
#[derive(Debug)]
struct Layer {
    attention: Attention,
    intermediate: Linear,
    output: Linear,
    norm: LayerNorm,
    share: f64,
}

impl Layer {
    fn new(path: &Path, config: &BertConfig) -> Result<Self> {
        let output = path / "output";
        Ok(Layer {
            attention: Attention::new(&(path / "attention"), config)?,
            intermediate: Linear::new(&(path / "intermediate" / "dense"), config.hidden, config.intermediate)?,
            output: Linear::new(&(&output / "dense"), config.intermediate, config.hidden)?,
            norm: LayerNorm::new(&(&output / "LayerNorm"), config.hidden, config.layer_norm_eps)?,
            share: config.dropout,
        })
    }

    fn forward(&self, x: &Tensor, layout: &Layout, mode: Mode) -> Result<Tensor> {
        let attended = self.attention.forward(x, layout, mode)?;
        // "none" is the exact GELU, x Φ(x), by erf.
        let inner = self.intermediate.forward(&attended, mode)?.f_gelu("none")?;
        let output = dropout(self.output.forward(&inner, mode)?, self.share, mode)?;
        self.norm.forward(&output.f_add(&attended)?)
    }

    /// Its dense layers by what they are called as targets of LoRA.
    fn dense(&mut self) -> impl Iterator<Item = (LoraTarget, &mut Linear)> {
        let forward = [(LoraTarget::Intermediate, &mut self.intermediate), (LoraTarget::Output, &mut self.output)];
        self.attention.layers().into_iter().chain(forward)
    }
}

/// The network, with variables named as in Hugging Face's checkpoints.
#[derive(Debug)]
pub struct BertModel {
    config: BertConfig,
    embeddings: Embeddings,
    layers: Vec<Layer>,
}

impl BertModel {
    /// A model of zeros whose variables are registered under `path`, to be filled by [`crate::model::weights`].
    pub fn new(path: &Path, config: BertConfig) -> Result<Self> {
        let embeddings = Embeddings::new(&(path / "embeddings"), &config)?;
        let stack = path / "encoder" / "layer";
        let layers = (0..config.layers).map(|n| Layer::new(&(&stack / n), &config)).collect::<Result<_>>()?;
        Ok(BertModel { config, embeddings, layers })
    }

    /// Gives every targeted layer a correction, drawn from the seed; the variables are registered under `path` by the names
    /// of the layers.
    pub fn adapt(&mut self, path: &Path, spec: &LoraSpec, seed: u64) -> Result<()> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for (number, layer) in self.layers.iter_mut().enumerate() {
            let path = path / "encoder" / "layer" / number;
            for (target, dense) in layer.dense().filter(|(target, _)| spec.targets.contains(target)) {
                dense.adapt(&(&path / target.name()), spec, &mut random)?;
            }
        }
        Ok(())
    }

    /// Adds all corrections to the weights and drops them: the network computes what it did.
    pub fn merge(&mut self) -> Result<()> {
        self.layers.iter_mut().flat_map(Layer::dense).try_for_each(|(_, dense)| dense.merge())
    }

    /// Its configuration.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The last layer's vectors [rows, tokens, width] for ids [rows, tokens]; `mask` has 1 where a row's own tokens are and 0
    /// at its padding, and none stands for rows without padding.
    pub fn forward(&self, ids: &Tensor, mask: Option<&Tensor>, mode: Mode) -> Result<Tensor> {
        self.run(self.embeddings.forward(ids, mode)?, &padded(mask)?, mode)
    }

    /// The last layer's vectors [all tokens, width] for rows without padding: the same numbers as [`BertModel::forward`]
    /// gives at the rows' own tokens, with nothing computed elsewhere.
    pub fn forward_unpadded(&self, input: &Unpadded, mode: Mode) -> Result<Tensor> {
        self.embeddings.check(input.groups.iter().map(|group| group.tokens).max().unwrap_or(0))?;
        let x = self.embeddings.forward_at(&input.ids, &input.positions, mode)?;
        self.run(x, &Layout::Unpadded(input.groups.clone()), mode)
    }

    fn run(&self, mut x: Tensor, layout: &Layout, mode: Mode) -> Result<Tensor> {
        for layer in &self.layers {
            x = layer.forward(&x, layout, mode)?;
        }
        Ok(x)
    }

    /// The embeddings and every layer's vectors, as `output_hidden_states` gives them in `transformers`.
    pub fn hidden_states(&self, ids: &Tensor, mask: Option<&Tensor>, mode: Mode) -> Result<Vec<Tensor>> {
        let layout = padded(mask)?;
        let mut states = vec![self.embeddings.forward(ids, mode)?];
        for layer in &self.layers {
            let next = layer.forward(&states[states.len() - 1], &layout, mode)?;
            states.push(next);
        }
        Ok(states)
    }
}

fn padded(mask: Option<&Tensor>) -> Result<Layout> {
    Ok(Layout::Padded(match mask {
        Some(mask) => Some(mask.f_to_kind(Kind::Bool)?.f_unsqueeze(1)?.f_unsqueeze(1)?),
        None => None,
    }))
}
