//! Multi-head self-attention: every token looks at every token of its own text.

use tch::Tensor;
use tch::nn::Path;

use super::config::BertConfig;
use super::layers::{LayerNorm, Linear, Mode, dropout};
use super::layout::Layout;
use crate::Result;
use crate::spec::LoraTarget;

/// Attention with its output layer, the residual and the norm behind it.
#[derive(Debug)]
pub struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm: LayerNorm,
    heads: i64,
    attention_share: f64,
    share: f64,
}

impl Attention {
    /// An attention of zeros, to be filled.
    pub fn new(path: &Path, config: &BertConfig) -> Result<Self> {
        let width = config.hidden;
        let own = path / "self";
        let output = path / "output";
        Ok(Attention {
            query: Linear::new(&(&own / "query"), width, width)?,
            key: Linear::new(&(&own / "key"), width, width)?,
            value: Linear::new(&(&own / "value"), width, width)?,
            output: Linear::new(&(&output / "dense"), width, width)?,
            norm: LayerNorm::new(&(&output / "LayerNorm"), width, config.layer_norm_eps)?,
            heads: config.heads,
            attention_share: config.attention_dropout,
            share: config.dropout,
        })
    }

    /// `softmax(q kᵀ / √d) v` per head, each text by itself; `x` and the result are laid out alike.
    pub fn forward(&self, x: &Tensor, layout: &Layout, mode: Mode) -> Result<Tensor> {
        let query = self.query.forward(x, mode)?;
        let (key, value) = (self.key.forward(x, mode)?, self.value.forward(x, mode)?);
        let context = match layout {
            Layout::Padded(allowed) => self.attend(&query, &key, &value, allowed.as_ref(), mode)?,
            Layout::Unpadded(groups) => {
                let parts = groups
                    .iter()
                    .map(|group| {
                        let part = self.attend(&group.of(&query)?, &group.of(&key)?, &group.of(&value)?, None, mode)?;
                        Ok(part.f_flatten(0, 1)?)
                    })
                    .collect::<Result<Vec<Tensor>>>()?;
                Tensor::f_cat(&parts, 0)?
            }
        };
        let output = dropout(self.output.forward(&context, mode)?, self.share, mode)?;
        self.norm.forward(&output.f_add(x)?)
    }

    /// Its layers by what they are called as targets of LoRA.
    pub fn layers(&mut self) -> [(LoraTarget, &mut Linear); 4] {
        [
            (LoraTarget::Query, &mut self.query),
            (LoraTarget::Key, &mut self.key),
            (LoraTarget::Value, &mut self.value),
            (LoraTarget::AttentionOutput, &mut self.output),
        ]
    }

    /// All of them [rows, tokens, width]; `allowed` [rows, 1, 1, tokens] is true where a token may be looked at.
    fn attend(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        allowed: Option<&Tensor>,
        mode: Mode,
    ) -> Result<Tensor> {
        let (rows, tokens, width) = query.size3()?;
        let split = |x: &Tensor| -> Result<Tensor> {
            Ok(x.f_view([rows, tokens, self.heads, width / self.heads])?.f_transpose(1, 2)?)
        };
        let share = if mode == Mode::Train { self.attention_share } else { 0.0 };
        let context = Tensor::f_scaled_dot_product_attention(
            &split(query)?,
            &split(key)?,
            &split(value)?,
            allowed,
            share,
            false,
            None::<f64>,
            false,
        )?;
        Ok(context.f_transpose(1, 2)?.f_reshape([rows, tokens, width])?)
    }
}
