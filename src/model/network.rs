//! The tabular network: several small MLPs trained side by side, one prediction together.
//!
//! ```text
//! numbers [n, d] ─┬────────────────────────▶ linear ──────┐
//! text [n, h] ──▶ projection [n, 16] ─┴─▶ MLP (SiLU) ─────┴─▶ raw outputs [members, n, outputs]
//! ```
//! The members differ by their initial weights and dropout and see the same rows; averaging them steadies small data. The
//! linear path lets them be as plain as a regression where the data asks for no more.

use serde::{Deserialize, Serialize};
use tch::nn::{Init, Path, VarStore};
use tch::{Device, Kind, Tensor};

use crate::Result;

/// Width of a text column after its projection.
const TEXT_WIDTH: i64 = 16;

/// The optimizer group of weights that decay; biases and scales, in group 0, do not.
pub const DECAYED: usize = 1;

/// All that is needed to build a network of the right shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkShape {
    /// Inputs from preprocessing.
    pub inputs: usize,
    /// Text columns.
    pub texts: usize,
    /// The encoder's width.
    pub text_width: usize,
    /// The hidden layers' widths.
    pub hidden: Vec<usize>,
    /// Raw outputs of all heads together.
    pub outputs: usize,
    /// Outputs that are the same for every row: their bias alone.
    pub constant: Vec<usize>,
    /// MLPs side by side.
    pub members: usize,
}

/// The network with its weights.
#[derive(Debug)]
pub struct Network {
    store: VarStore,
    shape: NetworkShape,
    dropout: f64,
    projections: Vec<Tensor>,
    layers: Vec<Layer>,
    linear: Tensor,
    last: Layer,
    /// [outputs]: 0 for constant outputs, else 1.
    varies: Tensor,
}

/// One layer of every member.
#[derive(Debug)]
struct Layer {
    /// [members, in, out]
    weight: Tensor,
    /// [members, 1, out]
    bias: Tensor,
}

impl Layer {
    fn new(path: &Path, members: i64, inputs: i64, outputs: i64, init: Init) -> Result<Self> {
        let weight = path.set_group(DECAYED).f_var("weight", &[members, inputs, outputs], init)?;
        let bias = path.f_var("bias", &[members, 1, outputs], Init::Const(0.0))?;
        Ok(Layer { weight, bias })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_matmul(&self.weight)?.f_add(&self.bias)?)
    }
}

impl Network {
    /// A network with random weights; its outputs start at `start`, one number per output.
    pub fn new(shape: &NetworkShape, dropout: f64, start: &[f64], device: Device) -> Result<Self> {
        let store = VarStore::new(device);
        let root = store.root();
        let members = shape.members as i64;
        let decayed = |name: &str| root.sub(name).set_group(DECAYED);
        let projections = (0..shape.texts)
            .map(|i| {
                let bound = (1.0 / shape.text_width.max(1) as f64).sqrt() * 3.0_f64.sqrt();
                let init = Init::Uniform { lo: -bound, up: bound };
                Ok(decayed(&format!("text{i}")).f_var("weight", &[shape.text_width as i64, TEXT_WIDTH], init)?)
            })
            .collect::<Result<Vec<_>>>()?;
        let inputs = shape.inputs as i64 + shape.texts as i64 * TEXT_WIDTH;
        let mut width = inputs;
        let mut layers = Vec::new();
        for (i, hidden) in shape.hidden.iter().enumerate() {
            let bound = (3.0 / width.max(1) as f64).sqrt();
            let init = Init::Uniform { lo: -bound, up: bound };
            layers.push(Layer::new(&root.sub(format!("layer{i}")), members, width, *hidden as i64, init)?);
            width = *hidden as i64;
        }
        let outputs = shape.outputs as i64;
        let bound = 0.1 * (3.0 / width.max(1) as f64).sqrt();
        let mut last =
            Layer::new(&root.sub("heads"), members, width, outputs, Init::Uniform { lo: -bound, up: bound })?;
        tch::no_grad(|| -> Result<()> {
            let start: Vec<f32> = start.iter().map(|v| *v as f32).collect();
            Ok(last.bias.f_copy_(&Tensor::f_from_slice(&start)?.f_to_device(device)?)?)
        })?;
        let linear = decayed("linear").f_var("weight", &[members, inputs, outputs], Init::Const(0.0))?;
        let varies: Vec<f32> = (0..shape.outputs).map(|i| f32::from(!shape.constant.contains(&i))).collect();
        let varies = Tensor::f_from_slice(&varies)?.f_to_device(device)?;
        Ok(Network { shape: shape.clone(), dropout, projections, layers, linear, last, varies, store })
    }

    /// Its variables.
    pub fn store(&self) -> &VarStore {
        &self.store
    }

    /// Its shape.
    pub fn shape(&self) -> &NetworkShape {
        &self.shape
    }

    /// In double precision and without gradients, for scoring: a row's score then does not depend on its neighbours.
    pub fn for_scoring(mut self) -> Self {
        self.store.double();
        self.varies = self.varies.to_kind(Kind::Double);
        self.store.freeze();
        self
    }

    /// Raw outputs [members, n, outputs] for numbers [n, inputs] and one [n, text_width] per text column.
    pub fn forward(&self, numbers: &Tensor, texts: &[Tensor], train: bool) -> Result<Tensor> {
        let mut parts = vec![numbers.shallow_clone()];
        for (text, projection) in texts.iter().zip(&self.projections) {
            parts.push(text.f_matmul(projection)?);
        }
        let x = Tensor::f_cat(&parts, 1)?.f_unsqueeze(0)?;
        let mut h = x.shallow_clone();
        for layer in &self.layers {
            h = layer.forward(&h)?.f_silu()?;
            if train && self.dropout > 0.0 {
                h = h.f_dropout(self.dropout, true)?;
            }
        }
        let of_row = h.f_matmul(&self.last.weight)?.f_add(&x.f_matmul(&self.linear)?)?;
        Ok(of_row.f_mul(&self.varies)?.f_add(&self.last.bias)?)
    }

    /// Raw outputs as plain numbers, row by row: n × members × outputs.
    pub fn outputs(&self, numbers: &Tensor, texts: &[Tensor]) -> Result<Vec<f64>> {
        let _guard = tch::no_grad_guard();
        let raw = self.forward(numbers, texts, false)?.f_transpose(0, 1)?.f_contiguous()?.f_to_kind(Kind::Double)?;
        let raw = raw.f_to_device(Device::Cpu)?.f_view([-1])?;
        Ok(Vec::<f64>::try_from(&raw)?)
    }

    /// Copies of all variables by name, sorted.
    pub fn weights(&self) -> Vec<(String, Tensor)> {
        let mut all: Vec<(String, Tensor)> = self.store.variables().into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.into_iter().map(|(name, tensor)| (name, tch::no_grad(|| tensor.detach().copy()))).collect()
    }

    /// Takes over weights of [`Network::weights`].
    pub fn restore(&mut self, weights: &[(String, Tensor)]) -> Result<()> {
        let mut variables = self.store.variables();
        tch::no_grad(|| {
            for (name, saved) in weights {
                if let Some(variable) = variables.get_mut(name) {
                    variable.f_copy_(saved)?;
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> NetworkShape {
        NetworkShape {
            inputs: 5,
            texts: 1,
            text_width: 8,
            hidden: vec![16, 8],
            outputs: 4,
            constant: vec![2],
            members: 3,
        }
    }

    fn inputs(n: i64) -> (Tensor, Tensor) {
        let row = |width: i64, scale: f64| {
            (Tensor::arange(n * width, (Kind::Double, Device::Cpu)) * scale).sin().view([n, width])
        };
        (row(5, 0.7), row(8, 1.3))
    }

    #[test]
    fn a_row_alone_gives_what_it_gives_in_a_batch() {
        let network = Network::new(&shape(), 0.5, &[0.0; 4], Device::Cpu).unwrap().for_scoring();
        let (numbers, text) = inputs(64);
        let together = network.outputs(&numbers, &[text.shallow_clone()]).unwrap();
        for row in [0, 17, 63] {
            let alone = network.outputs(&numbers.narrow(0, row, 1), &[text.narrow(0, row, 1)]).unwrap();
            let expected = &together[row as usize * 12..][..12];
            assert!(alone.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
        }
    }

    #[test]
    fn it_starts_near_what_it_was_told() {
        let network = Network::new(&shape(), 0.0, &[1.0, -2.0, 0.5, 3.0], Device::Cpu).unwrap().for_scoring();
        let (numbers, text) = inputs(8);
        for outputs in network.outputs(&numbers, &[text]).unwrap().chunks_exact(4) {
            assert!(outputs.iter().zip([1.0, -2.0, 0.5, 3.0]).all(|(a, b)| (a - b).abs() < 0.5), "{outputs:?}");
        }
    }

    #[test]
    fn a_constant_output_does_not_depend_on_the_row() {
        let network = Network::new(&shape(), 0.0, &[0.0, 0.0, 0.7, 0.0], Device::Cpu).unwrap().for_scoring();
        let (numbers, text) = inputs(8);
        let outputs = network.outputs(&numbers, &[text]).unwrap();
        assert!(outputs.chunks_exact(4).all(|o| (o[2] - 0.7).abs() < 1e-6), "{outputs:?}");
        assert!(outputs.chunks_exact(4).any(|o| o[1].abs() > 1e-4));
    }

    #[test]
    fn weights_come_back_as_they_were_saved() {
        let mut network = Network::new(&shape(), 0.0, &[0.0; 4], Device::Cpu).unwrap();
        let other = Network::new(&shape(), 0.0, &[0.0; 4], Device::Cpu).unwrap();
        network.restore(&other.weights()).unwrap();
        for ((name, a), (_, b)) in network.weights().iter().zip(&other.weights()) {
            assert!(a.equal(b), "{name}");
        }
    }
}
