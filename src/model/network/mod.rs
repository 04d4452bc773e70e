//! The tabular network: an ensemble whose members share their weight matrices, one prediction together.
//!
//! ```text
//! numbers [n, d] ─┬─ numeric ──▶ embedding ─┐
//!                 ├─ the others ────────────┼─▶ members (SiLU) ─▶ heads ─┐
//! text [n, h] ──▶ projection [n, 16] ─┬─────┤                            ├─▶ raw outputs [members, n, outputs]
//! events ──▶ GRU or transformer ──────┼─────┘                            │
//!                 numbers ────────────┴──────────────────────▶ linear ───┘
//! ```
//! The members see the same rows and differ by scalings, biases, heads and dropout; averaging them steadies small data. The
//! linear path, one for all, lets them be as plain as a regression where the data asks for no more.

mod embedding;
mod ensemble;
mod sequence;

use serde::{Deserialize, Serialize};
use tch::nn::{Init, Path, VarStore};
use tch::{Device, Kind, Tensor};

use self::embedding::Embedding;
use self::ensemble::{Heads, Scaling, SharedLayer, uniform};
use self::sequence::EventEncoder;
use crate::spec::EmbeddingSpec;
use crate::{Error, Result};

pub use sequence::{EventTensors, SequenceShape};

/// Width of a text column after its projection.
const TEXT_WIDTH: i64 = 16;

/// The optimizer group of weights that decay; biases, scalings and frequencies, in group 0, do not.
pub const DECAYED: usize = 1;

/// All that is needed to build a network of the right shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkShape {
    /// Inputs from preprocessing.
    pub inputs: usize,
    /// Those of them that are embedded, ascending.
    pub numeric: Vec<usize>,
    /// How.
    pub embedding: EmbeddingSpec,
    /// Text columns.
    pub texts: usize,
    /// The encoder's width.
    pub text_width: usize,
    /// What reads the newest events, if they are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<SequenceShape>,
    /// The hidden layers' widths.
    pub hidden: Vec<usize>,
    /// Raw outputs of all heads together.
    pub outputs: usize,
    /// Outputs that are the same for every row: their bias alone.
    pub constant: Vec<usize>,
    /// Members of the ensemble.
    pub members: usize,
}

/// Rows as the network takes them.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// [n, inputs]
    pub numbers: Tensor,
    /// One [n, text_width] per text column.
    pub texts: Vec<Tensor>,
    /// The events of these rows and perhaps others, and which of them these are.
    pub events: Option<(&'a EventTensors, Vec<i64>)>,
}

/// The network with its weights.
#[derive(Debug)]
pub struct Network {
    store: VarStore,
    shape: NetworkShape,
    dropout: f64,
    /// Which inputs are embedded, and which are not.
    places: (Tensor, Tensor),
    embedding: Option<Embedding>,
    projections: Vec<Tensor>,
    events: Option<EventEncoder>,
    layers: Vec<SharedLayer>,
    heads: Heads,
    /// [inputs, outputs]
    linear: Tensor,
    /// [outputs]: 0 for constant outputs, else 1.
    varies: Tensor,
}

impl Network {
    /// A network with random weights; its outputs start at `start`, one number per output.
    pub fn new(shape: &NetworkShape, dropout: f64, start: &[f64], device: Device) -> Result<Self> {
        let (numeric, others) = shape.places()?;
        let store = VarStore::new(device);
        let root = store.root();
        let embedding = Embedding::new(&root.sub("embedding"), shape.embedding, numeric.len())?;
        let embedded = embedding.as_ref().map_or(numeric.len() as i64, Embedding::width);
        let projections = (0..shape.texts).map(|i| projection(&root.sub(format!("text{i}")), shape.text_width as i64));
        let projections = projections.collect::<Result<Vec<_>>>()?;
        let events =
            shape.sequence.as_ref().map(|shape| EventEncoder::new(&root.sub("sequence"), shape)).transpose()?;
        let read = shape.texts as i64 * TEXT_WIDTH + shape.sequence.as_ref().map_or(0, |shape| shape.width as i64);
        let members = shape.members as i64;
        let mut width = embedded + others.len() as i64 + read;
        let mut layers = Vec::new();
        for (i, hidden) in shape.hidden.iter().enumerate() {
            let scaling = if i == 0 { Scaling::Signs } else { Scaling::Ones };
            layers.push(SharedLayer::new(&root.sub(format!("layer{i}")), members, width, *hidden as i64, scaling)?);
            width = *hidden as i64;
        }
        let heads = Heads::new(&root.sub("heads"), members, width, start)?;
        let plain = root.sub("linear").set_group(DECAYED);
        let size = [shape.inputs as i64 + read, shape.outputs as i64];
        let linear = plain.f_var("weight", &size, Init::Const(0.0))?;
        let varies: Vec<f32> = (0..shape.outputs).map(|i| f32::from(!shape.constant.contains(&i))).collect();
        let varies = Tensor::f_from_slice(&varies)?.f_to_device(device)?;
        let place = |list: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(list)?.f_to_device(device)?) };
        let places = (place(&numeric)?, place(&others)?);
        let shape = shape.clone();
        Ok(Network { store, shape, dropout, places, embedding, projections, events, layers, heads, linear, varies })
    }

    /// Lays the bins of the embedding between the quantiles of training rows [n, inputs].
    pub fn place_bins(&mut self, numbers: &Tensor) -> Result<()> {
        match &mut self.embedding {
            Some(embedding) => embedding.place_bins(&numbers.f_index_select(1, &self.places.0)?),
            None => Ok(()),
        }
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

    /// Raw outputs [members, n, outputs].
    pub fn forward(&self, inputs: &Inputs<'_>, train: bool) -> Result<Tensor> {
        let numbers = &inputs.numbers;
        let texts = inputs.texts.iter().zip(&self.projections);
        let texts = texts.map(|(text, projection)| Ok(text.f_matmul(projection)?));
        let mut read = texts.collect::<Result<Vec<_>>>()?;
        if let (Some(encoder), Some((events, rows))) = (&self.events, &inputs.events) {
            read.push(encoder.forward(events, rows)?);
        }
        let numeric = numbers.f_index_select(1, &self.places.0)?;
        let mut parts = vec![match &self.embedding {
            Some(embedding) => embedding.forward(&numeric)?,
            None => numeric,
        }];
        parts.push(numbers.f_index_select(1, &self.places.1)?);
        parts.extend(read.iter().map(Tensor::shallow_clone));
        let h = self.hidden(&Tensor::f_cat(&parts, 1)?, train)?;
        let plain: Vec<&Tensor> = std::iter::once(numbers).chain(&read).collect();
        let linear = Tensor::f_cat(&plain, 1)?.f_matmul(&self.linear)?;
        let of_row = self.heads.forward(&h)?.f_add(&linear)?;
        Ok(of_row.f_mul(&self.varies)?.f_add(self.heads.bias())?)
    }

    /// What the heads see, [members, n, width]; without hidden layers the rows themselves, [1, n, width].
    fn hidden(&self, rows: &Tensor, train: bool) -> Result<Tensor> {
        let mut h = None;
        for layer in &self.layers {
            let next = match &h {
                None => layer.of_shared(rows)?,
                Some(h) => layer.of_own(h)?,
            };
            let next = next.f_silu()?;
            h = Some(if train && self.dropout > 0.0 { next.f_dropout(self.dropout, true)? } else { next });
        }
        Ok(match h {
            Some(h) => h,
            None => rows.f_unsqueeze(0)?,
        })
    }

    /// Raw outputs as plain numbers, row by row: n × members × outputs.
    pub fn outputs(&self, inputs: &Inputs<'_>) -> Result<Vec<f64>> {
        let _guard = tch::no_grad_guard();
        let raw = self.forward(inputs, false)?.f_transpose(0, 1)?.f_contiguous()?.f_to_kind(Kind::Double)?;
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

impl NetworkShape {
    /// The inputs that are embedded and those that are not.
    fn places(&self) -> Result<(Vec<i64>, Vec<i64>)> {
        let ascending = self.numeric.is_sorted_by(|a, b| a < b);
        if !ascending || self.numeric.last().is_some_and(|last| *last >= self.inputs) {
            return Err(Error::user("the network embeds inputs that it does not have")
                .hint("the bundle's manifest is damaged: train again with `tenure train JOB`"));
        }
        Ok((0..self.inputs).map(|i| i as i64).partition(|i| self.numeric.contains(&(*i as usize))))
    }
}

/// The projection of a text's vector.
fn projection(path: &Path, width: i64) -> Result<Tensor> {
    Ok(path.set_group(DECAYED).f_var("weight", &[width, TEXT_WIDTH], uniform(width, 1.0))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights;

    const BINS: EmbeddingSpec = EmbeddingSpec::PiecewiseLinear { width: 3, bins: 4 };

    fn shape() -> NetworkShape {
        NetworkShape {
            inputs: 5,
            numeric: vec![0, 3],
            embedding: BINS,
            texts: 1,
            text_width: 8,
            sequence: None,
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

    fn rows(numbers: &Tensor, text: &Tensor) -> Inputs<'static> {
        Inputs { numbers: numbers.shallow_clone(), texts: vec![text.shallow_clone()], events: None }
    }

    /// A network with its bins placed, ready to score.
    fn scoring(shape: &NetworkShape, start: &[f64]) -> Network {
        let mut network = Network::new(shape, 0.5, start, Device::Cpu).unwrap();
        network.place_bins(&inputs(64).0.to_kind(Kind::Float)).unwrap();
        network.for_scoring()
    }

    #[test]
    fn a_row_alone_gives_what_it_gives_in_a_batch() {
        let periodic = EmbeddingSpec::Periodic { width: 2, frequencies: 3 };
        for (embedding, hidden) in [(BINS, vec![16, 8]), (periodic, vec![8]), (EmbeddingSpec::None, vec![])] {
            let network = scoring(&NetworkShape { embedding, hidden, ..shape() }, &[0.0; 4]);
            let (numbers, text) = inputs(64);
            let together = network.outputs(&rows(&numbers, &text)).unwrap();
            for row in [0, 17, 63] {
                let alone = network.outputs(&rows(&numbers.narrow(0, row, 1), &text.narrow(0, row, 1))).unwrap();
                let expected = &together[row as usize * 12..][..12];
                assert!(alone.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{embedding:?}");
            }
        }
    }

    /// A member as a network of its own, made from the saved weights alone: its matrices are diag(r) W diag(s).
    fn plain_member(network: &Network, member: i64, numbers: &Tensor, text: &Tensor) -> Tensor {
        let all: std::collections::BTreeMap<String, Tensor> = network.weights().into_iter().collect();
        let own = |name: &str| all[name].select(0, member);
        let mut parts = Vec::new();
        for (feature, column) in [(0, 0), (1, 3)] {
            let x = numbers.narrow(1, column, 1);
            let of = |name: &str| all[&format!("embedding.{name}")].get(feature);
            let t = ((&x - of("low")) * of("scale")).clamp(0.0, 1.0);
            parts.push((t.matmul(&of("weight")) + &x * of("slope") + of("bias")).relu());
        }
        let text = text.matmul(&all["text0.weight"]);
        parts.extend([1, 2, 4].map(|column| numbers.narrow(1, column, 1)));
        parts.push(text.shallow_clone());
        let mut h = Tensor::cat(&parts, 1);
        for layer in ["layer0", "layer1"] {
            let diag = |name: &str| own(&format!("{layer}.{name}")).diag(0);
            let folded = diag("before").matmul(&all[&format!("{layer}.weight")]).matmul(&diag("after"));
            h = (h.matmul(&folded) + own(&format!("{layer}.bias"))).silu();
        }
        let plain = Tensor::cat(&[numbers, &text], 1).matmul(&all["linear.weight"]);
        let varies = Tensor::from_slice(&[1.0, 1.0, 0.0, 1.0]);
        (h.matmul(&own("heads.weight")) + plain) * varies + own("heads.bias")
    }

    #[test]
    fn a_member_is_the_plain_network_of_its_folded_weights() {
        let network = scoring(&shape(), &[0.3, -0.1, 0.7, 0.0]);
        let moved = network.weights().into_iter().filter(|(name, _)| !name.starts_with("embedding."));
        let moved: Vec<_> = moved.map(|(name, tensor)| (name, &tensor + tensor.rand_like() * 0.1)).collect();
        let mut network = network;
        network.restore(&moved).unwrap();
        let (numbers, text) = inputs(20);
        let together = network.forward(&rows(&numbers, &text), false).unwrap();
        assert_eq!(together.size(), [3, 20, 4]);
        for member in 0..3 {
            let alone = plain_member(&network, member, &numbers, &text);
            assert!(together.select(0, member).allclose(&alone, 1e-9, 1e-9, false), "member {member}");
        }
        assert!(!together.select(0, 0).allclose(&together.select(0, 1), 1e-3, 1e-3, false), "members differ");
    }

    #[test]
    fn weights_and_bins_come_back_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weights.safetensors");
        let mut network = Network::new(&shape(), 0.0, &[0.0; 4], Device::Cpu).unwrap();
        let (numbers, text) = inputs(30);
        let (numbers, text) = (numbers.to_kind(Kind::Float), text.to_kind(Kind::Float));
        network.place_bins(&numbers).unwrap();
        weights::save(&network.weights().into_iter().collect(), &file).unwrap();
        let other = Network::new(&shape(), 0.0, &[0.0; 4], Device::Cpu).unwrap();
        weights::load(other.store(), &file, &weights::Tolerated::NOTHING).unwrap();
        let outputs = |network: &Network| network.outputs(&rows(&numbers, &text)).unwrap();
        assert_eq!(outputs(&network), outputs(&other));

        let fewer = NetworkShape { embedding: EmbeddingSpec::PiecewiseLinear { width: 3, bins: 3 }, ..shape() };
        let fewer = Network::new(&fewer, 0.0, &[0.0; 4], Device::Cpu).unwrap();
        let error = weights::load(fewer.store(), &file, &weights::Tolerated::NOTHING).unwrap_err();
        assert!(error.problems().any(|p| p.message.contains("embedding.low")), "{error}");
    }

    #[test]
    fn bins_are_no_matter_of_training() {
        let network = Network::new(&shape(), 0.0, &[0.0; 4], Device::Cpu).unwrap();
        let (trained, all) = (network.store().trainable_variables().len(), network.weights().len());
        assert_eq!(trained + 2, all);
    }

    #[test]
    fn a_shape_with_inputs_beyond_its_own_is_refused() {
        for numeric in [vec![5], vec![3, 0], vec![1, 1]] {
            let error = Network::new(&NetworkShape { numeric, ..shape() }, 0.0, &[0.0; 4], Device::Cpu).unwrap_err();
            assert!(error.to_string().contains("does not have"), "{error}");
        }
    }

    #[test]
    fn it_starts_near_what_it_was_told() {
        let network = scoring(&shape(), &[1.0, -2.0, 0.5, 3.0]);
        let (numbers, text) = inputs(8);
        for outputs in network.outputs(&rows(&numbers, &text)).unwrap().chunks_exact(4) {
            assert!(outputs.iter().zip([1.0, -2.0, 0.5, 3.0]).all(|(a, b)| (a - b).abs() < 0.5), "{outputs:?}");
        }
    }

    #[test]
    fn a_constant_output_does_not_depend_on_the_row() {
        let network = scoring(&shape(), &[0.0, 0.0, 0.7, 0.0]);
        let (numbers, text) = inputs(8);
        let outputs = network.outputs(&rows(&numbers, &text)).unwrap();
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
