//! Self-attention over events that are padded to one length.

use tch::Tensor;
use tch::nn::{Init, Path};

use super::{SequenceShape, weight};
use crate::Result;

/// Heads of the attention.
pub(super) const HEADS: i64 = 4;
/// The hidden layer of a block is this many times wider.
const WIDER: i64 = 2;
const NORM_EPSILON: f64 = 1e-5;

/// Pre-norm self-attention over events and a token that collects what they say.
#[derive(Debug)]
pub(super) struct Transformer {
    width: i64,
    input: Linear,
    /// [length, width], the newest event's last
    places: Tensor,
    /// [1, 1, width]
    collector: Tensor,
    blocks: Vec<Block>,
    last: Norm,
}

#[derive(Debug)]
struct Block {
    before_attention: Norm,
    queries_keys_values: Linear,
    attended: Linear,
    before_hidden: Norm,
    hidden: Linear,
    output: Linear,
}

impl Transformer {
    /// One of random weights below `path`, for events of so many inputs.
    pub(super) fn new(path: &Path, shape: &SequenceShape, inputs: i64) -> Result<Self> {
        let width = shape.width as i64;
        let small = Init::Randn { mean: 0.0, stdev: 0.02 };
        let block = |i: usize| -> Result<Block> {
            let path = path.sub(format!("block{i}"));
            Ok(Block {
                before_attention: Norm::new(&path.sub("before_attention"), width)?,
                queries_keys_values: Linear::new(&path.sub("queries_keys_values"), width, 3 * width)?,
                attended: Linear::new(&path.sub("attended"), width, width)?,
                before_hidden: Norm::new(&path.sub("before_hidden"), width)?,
                hidden: Linear::new(&path.sub("hidden"), width, WIDER * width)?,
                output: Linear::new(&path.sub("output"), WIDER * width, width)?,
            })
        };
        Ok(Transformer {
            width,
            input: Linear::new(&path.sub("input"), inputs, width)?,
            places: path.f_var("places", &[shape.length as i64, width], small)?,
            collector: path.f_var("collector", &[1, 1, width], small)?,
            blocks: (0..shape.layers).map(block).collect::<Result<_>>()?,
            last: Norm::new(&path.sub("last"), width)?,
        })
    }

    /// `tokens` [n, l, inputs], `hidden` [n, 1, 1, l + 1] with −∞ at padding: [n, width].
    pub(super) fn forward(&self, tokens: &Tensor, hidden: &Tensor) -> Result<Tensor> {
        let (rows, length, _) = tokens.size3()?;
        let newest = self.places.f_narrow(0, self.places.size()[0] - length, length)?;
        let events = self.input.forward(tokens)?.f_add(&newest)?;
        let collector = self.collector.f_expand([rows, 1, self.width], false)?;
        let mut x = Tensor::f_cat(&[events, collector], 1)?;
        for block in &self.blocks {
            x = block.forward(&x, hidden)?;
        }
        self.last.forward(&x.f_select(1, length)?)
    }
}

impl Block {
    /// [n, l, width] to the same.
    fn forward(&self, x: &Tensor, hidden: &Tensor) -> Result<Tensor> {
        let (rows, length, width) = x.size3()?;
        let of_head = width / HEADS;
        let joint = self.queries_keys_values.forward(&self.before_attention.forward(x)?)?;
        let joint = joint.f_view([rows, length, 3, HEADS, of_head])?.f_permute([2, 0, 3, 1, 4])?;
        let (queries, keys, values) = (joint.f_select(0, 0)?, joint.f_select(0, 1)?, joint.f_select(0, 2)?);
        let scores = queries.f_matmul(&keys.f_transpose(2, 3)?)?.f_mul_scalar((of_head as f64).sqrt().recip())?;
        let shares = scores.f_add(hidden)?.f_softmax(-1, scores.kind())?;
        let attended = shares.f_matmul(&values)?.f_transpose(1, 2)?.f_reshape([rows, length, width])?;
        let x = x.f_add(&self.attended.forward(&attended)?)?;
        let wide = self.hidden.forward(&self.before_hidden.forward(&x)?)?.f_gelu("none")?;
        Ok(x.f_add(&self.output.forward(&wide)?)?)
    }
}

#[derive(Debug)]
struct Linear {
    /// [in, out]
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(path: &Path, inputs: i64, outputs: i64) -> Result<Self> {
        let bound = (3.0 / inputs.max(1) as f64).sqrt();
        let weight = weight(path, &[inputs, outputs], Init::Uniform { lo: -bound, up: bound })?;
        Ok(Linear { weight, bias: path.f_var("bias", &[outputs], Init::Const(0.0))? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_matmul(&self.weight)?.f_add(&self.bias)?)
    }
}

#[derive(Debug)]
struct Norm {
    scale: Tensor,
    shift: Tensor,
}

impl Norm {
    fn new(path: &Path, width: i64) -> Result<Self> {
        let scale = path.f_var("scale", &[width], Init::Const(1.0))?;
        Ok(Norm { scale, shift: path.f_var("shift", &[width], Init::Const(0.0))? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_layer_norm(self.scale.size(), Some(&self.scale), Some(&self.shift), NORM_EPSILON, false)?)
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::super::Layers;
    use super::super::tests::{encoder, events};
    use super::*;
    use crate::spec::SequenceEncoder;

    /// One block of the transformer by the letter, without masks: `x` [l, width].
    fn block_by_the_letter(block: &Block, x: &Tensor) -> Tensor {
        let joint = block.queries_keys_values.forward(&block.before_attention.forward(x).unwrap()).unwrap();
        let part = |which: i64, head: i64| joint.narrow(1, which * 8 + head * 2, 2);
        let heads: Vec<Tensor> = (0..HEADS)
            .map(|head| {
                let scores = part(0, head).matmul(&part(1, head).transpose(0, 1)) / 2.0_f64.sqrt();
                scores.softmax(-1, Kind::Double).matmul(&part(2, head))
            })
            .collect();
        let x = x + block.attended.forward(&Tensor::cat(&heads, 1)).unwrap();
        let wide = block.hidden.forward(&block.before_hidden.forward(&x).unwrap()).unwrap().gelu("none");
        &x + block.output.forward(&wide).unwrap()
    }

    #[test]
    fn masked_batches_give_what_the_formula_gives_row_by_row() {
        let (_store, encoder) = encoder(SequenceEncoder::Transformer);
        let Layers::Transformer(transformer) = &encoder.layers else { panic!("no transformer") };
        let events = events();
        let vectors = encoder.forward(&events, &[0, 1, 3]).unwrap();
        for (place, row) in [0_usize, 1, 3].into_iter().enumerate() {
            let own: Vec<i64> = (events.starts[row]..events.starts[row + 1]).map(|event| event as i64).collect();
            let tokens = transformer.input.forward(&encoder.tokens(&events, &own).unwrap()).unwrap();
            let newest = transformer.places.narrow(0, 8 - own.len() as i64, own.len() as i64);
            let mut x = Tensor::cat(&[tokens + newest, transformer.collector.get(0)], 0);
            for block in &transformer.blocks {
                x = block_by_the_letter(block, &x);
            }
            let wanted = transformer.last.forward(&x.get(own.len() as i64)).unwrap();
            assert!(vectors.get(place as i64).allclose(&wanted, 1e-10, 1e-10, false), "row {row}");
        }
    }
}
