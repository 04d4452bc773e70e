//! The small parts that a transformer is made of.

use tch::Tensor;
use tch::nn::{Init, Path};

use crate::Result;

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To learn: dropout is on.
    Train,
    /// To score: no dropout.
    Infer,
}

/// Optimiser groups: which variables AdamW's decay shrinks.
pub mod group {
    /// Matrices and embeddings.
    pub const DECAYED: usize = 0;
    /// Biases and layer norms.
    pub const STILL: usize = 1;
}

/// `x Wᵀ + b`; `W` is [outputs, inputs].
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// A layer of zeros, to be filled.
    pub fn new(path: &Path, inputs: i64, outputs: i64) -> Result<Self> {
        let weight = path.set_group(group::DECAYED).f_var("weight", &[outputs, inputs], Init::Const(0.0))?;
        let bias = path.set_group(group::STILL).f_var("bias", &[outputs], Init::Const(0.0))?;
        Ok(Linear { weight, bias })
    }

    /// Maps the last dimension from inputs to outputs.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
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
        let path = path.set_group(group::STILL);
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
