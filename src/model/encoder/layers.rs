//! The small parts that a transformer is made of.

use rand_chacha::ChaCha8Rng;
use tch::Tensor;
use tch::nn::{Init, Path};

use super::lora::Lora;
use crate::Result;
use crate::spec::LoraSpec;

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To learn: dropout is on.
    Train,
    /// To score: no dropout.
    Infer,
}

/// `x Wᵀ + b`; `W` is [outputs, inputs]. It may carry a correction that learns in its place.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
    correction: Option<Lora>,
}

impl Linear {
    /// A layer of zeros, to be filled.
    pub fn new(path: &Path, inputs: i64, outputs: i64) -> Result<Self> {
        let weight = path.f_var("weight", &[outputs, inputs], Init::Const(0.0))?;
        let bias = path.f_var("bias", &[outputs], Init::Const(0.0))?;
        Ok(Linear { weight, bias, correction: None })
    }

    /// Maps the last dimension from inputs to outputs.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let y = x.f_linear(&self.weight, Some(&self.bias))?;
        match &self.correction {
            Some(correction) => Ok(y.f_add(&correction.forward(x, mode)?)?),
            None => Ok(y),
        }
    }

    /// Gives it a correction, whose variables are registered under `path`.
    pub fn adapt(&mut self, path: &Path, spec: &LoraSpec, random: &mut ChaCha8Rng) -> Result<()> {
        let (outputs, inputs) = self.weight.size2()?;
        self.correction = Some(Lora::new(path, inputs, outputs, spec, random)?);
        Ok(())
    }

    /// Adds the correction, if there is one, to the weight and drops it: the outputs stay.
    pub fn merge(&mut self) -> Result<()> {
        if let Some(correction) = self.correction.take() {
            let _merged = tch::no_grad(|| -> Result<_> { Ok(self.weight.f_add_(&correction.delta()?)?) })?;
        }
        Ok(())
    }
}

/// Layer norm over the last dimension.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    width: i64,
}

impl LayerNorm {
    /// A norm of ones and zeros, to be filled.
    pub fn new(path: &Path, width: i64, eps: f64) -> Result<Self> {
        let weight = path.f_var("weight", &[width], Init::Const(1.0))?;
        let bias = path.f_var("bias", &[width], Init::Const(0.0))?;
        Ok(LayerNorm { weight, bias, eps, width })
    }

    /// `(x − mean) / √(variance + eps) · weight + bias`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_layer_norm([self.width], Some(&self.weight), Some(&self.bias), self.eps, true)?)
    }
}

/// Drops a share of the values in training; nothing otherwise.
pub fn dropout(x: Tensor, share: f64, mode: Mode) -> Result<Tensor> {
    match mode {
        Mode::Train if share > 0.0 => Ok(x.f_dropout(share, true)?),
        _ => Ok(x),
    }
}
