//! What reads a customer's newest events: a recurrent network or self-attention, one vector per customer.
//!
//! ```text
//! numbers [events, c] ─┬─ events of a row ─▶ GRU, state after the newest event ──────────┐
//! words ─▶ embeddings ─┘                 └─▶ attention, read off at a token of its own ──┴─▶ [n, width]
//! ```
//! The GRU (Cho et al. 2014) runs over packed rows: at each step only those that have an event left, so that there is no
//! padding. The transformer (Vaswani et al. 2017, pre-norm) pads rows of similar length and masks the padding; places count
//! from the newest event. A customer without events has the vector 0 from the one and a constant from the other.

use serde::{Deserialize, Serialize};
use tch::nn::{Init, Path};
use tch::{Device, Kind, Tensor};

use super::DECAYED;
use crate::Result;
use crate::model::preprocess::EncodedEvents;
use crate::spec::SequenceEncoder;

/// Width of a word's embedding.
const EMBEDDING: i64 = 8;
/// Heads of the attention.
const HEADS: i64 = 4;
/// The hidden layer of a transformer block is this many times wider.
const WIDER: i64 = 2;
/// Attention scores that are held at once, at most.
const SCORES_AT_ONCE: usize = 1 << 24;
const NORM_EPSILON: f64 = 1e-5;

/// All that is needed to build an encoder of the right shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceShape {
    /// GRU or transformer.
    pub encoder: SequenceEncoder,
    /// Events per customer at most.
    pub length: usize,
    /// The width of its layers and of what it gives.
    pub width: usize,
    /// Its layers.
    pub layers: usize,
    /// Numbers per event.
    pub numbers: usize,
    /// The sizes of the vocabularies of an event's words.
    pub vocabularies: Vec<usize>,
}

/// The events of many rows on a device.
#[derive(Debug)]
pub struct EventTensors {
    /// Where each row's events begin, and at last where all end.
    starts: Vec<usize>,
    /// [events + 1, numbers]; the last row, 0, is padding.
    numbers: Tensor,
    /// [events + 1, vocabularies]
    words: Tensor,
}

impl EventTensors {
    /// Takes them to a device, the numbers in the precision of the network.
    pub fn new(events: &EncodedEvents, kind: Kind, device: Device) -> Result<Self> {
        let padded = |width: usize| [events.starts.last().map_or(0, |end| *end as i64) + 1, width as i64];
        let numbers: Vec<f32> = events.numbers.iter().copied().chain(std::iter::repeat_n(0.0, events.width)).collect();
        let words: Vec<i64> = events.words.iter().copied().chain(std::iter::repeat_n(0, events.kinds)).collect();
        Ok(EventTensors {
            starts: events.starts.clone(),
            numbers: Tensor::f_from_slice(&numbers)?
                .f_view(padded(events.width))?
                .f_to_device(device)?
                .f_to_kind(kind)?,
            words: Tensor::f_from_slice(&words)?.f_view(padded(events.kinds))?.f_to_device(device)?,
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    fn length(&self, row: i64) -> usize {
        self.starts[row as usize + 1] - self.starts[row as usize]
    }

    fn padding(&self) -> i64 {
        self.starts.last().map_or(0, |end| *end as i64)
    }
}

/// The encoder with its weights.
#[derive(Debug)]
pub struct EventEncoder {
    width: i64,
    embeddings: Vec<Tensor>,
    layers: Layers,
}

#[derive(Debug)]
enum Layers {
    Gru {
        /// Four per layer, in libtorch's order.
        weights: Vec<Tensor>,
        layers: i64,
    },
    Transformer(Transformer),
}

impl EventEncoder {
    /// An encoder with random weights below `path`.
    pub fn new(path: &Path, shape: &SequenceShape) -> Result<Self> {
        let width = shape.width as i64;
        let embedding = |(i, slots): (usize, &usize)| {
            weight(&path.sub(format!("words{i}")), &[*slots as i64, EMBEDDING], Init::Randn { mean: 0.0, stdev: 0.3 })
        };
        let embeddings = shape.vocabularies.iter().enumerate().map(embedding).collect::<Result<Vec<_>>>()?;
        let inputs = shape.numbers as i64 + EMBEDDING * embeddings.len() as i64;
        let layers = match shape.encoder {
            SequenceEncoder::Gru => {
                let bound = 1.0 / (width as f64).sqrt();
                let init = Init::Uniform { lo: -bound, up: bound };
                let mut weights = Vec::new();
                for i in 0..shape.layers {
                    let layer = path.sub(format!("gru{i}"));
                    let inputs = if i == 0 { inputs } else { width };
                    weights.push(weight(&layer.sub("input"), &[3 * width, inputs], init)?);
                    weights.push(weight(&layer.sub("state"), &[3 * width, width], init)?);
                    weights.push(layer.f_var("input_bias", &[3 * width], Init::Const(0.0))?);
                    weights.push(layer.f_var("state_bias", &[3 * width], Init::Const(0.0))?);
                }
                Layers::Gru { weights, layers: shape.layers as i64 }
            }
            SequenceEncoder::Transformer => Layers::Transformer(Transformer::new(path, shape, inputs)?),
        };
        Ok(EventEncoder { width, embeddings, layers })
    }

    /// One vector per row of `rows`: [n, width].
    pub fn forward(&self, events: &EventTensors, rows: &[i64]) -> Result<Tensor> {
        // The longest first: at every step of the GRU the rows that go on are a prefix, and what is padded is little.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|place| std::cmp::Reverse(events.length(rows[*place])));
        let sorted: Vec<i64> = order.iter().map(|place| rows[*place]).collect();
        let encoded = match &self.layers {
            Layers::Gru { weights, layers } => self.gru(events, &sorted, weights, *layers)?,
            Layers::Transformer(transformer) => self.transformer(events, &sorted, transformer)?,
        };
        let mut places = vec![0_i64; rows.len()];
        order.iter().enumerate().for_each(|(sorted, place)| places[*place] = sorted as i64);
        Ok(encoded.f_index_select(0, &Tensor::f_from_slice(&places)?.f_to_device(encoded.device())?)?)
    }

    /// The events at these places: [places, numbers and embeddings].
    fn tokens(&self, events: &EventTensors, places: &[i64]) -> Result<Tensor> {
        let places = Tensor::f_from_slice(places)?.f_to_device(events.numbers.device())?;
        let mut parts = vec![events.numbers.f_index_select(0, &places)?];
        let words = events.words.f_index_select(0, &places)?;
        for (i, embedding) in self.embeddings.iter().enumerate() {
            parts.push(embedding.f_index_select(0, &words.f_select(1, i as i64)?)?);
        }
        Ok(Tensor::f_cat(&parts, 1)?)
    }

    /// Rows are sorted, the longest first.
    fn gru(&self, events: &EventTensors, rows: &[i64], weights: &[Tensor], layers: i64) -> Result<Tensor> {
        let options = (events.numbers.kind(), events.numbers.device());
        let with_events = rows.partition_point(|row| events.length(*row) > 0);
        let nothing = Tensor::f_zeros([(rows.len() - with_events) as i64, self.width], options)?;
        if with_events == 0 {
            return Ok(nothing);
        }
        let (mut places, mut sizes) = (Vec::new(), Vec::new());
        for step in 0..events.length(rows[0]) {
            let going = &rows[..rows.partition_point(|row| events.length(*row) > step)];
            places.extend(going.iter().map(|row| (events.starts[*row as usize] + step) as i64));
            sizes.push(going.len() as i64);
        }
        let state = Tensor::f_zeros([layers, with_events as i64, self.width], options)?;
        let (_, last) = Tensor::f_gru_data(
            &self.tokens(events, &places)?,
            &Tensor::f_from_slice(&sizes)?,
            &state,
            weights,
            true,
            layers,
            0.0,
            false,
            false,
        )?;
        Ok(Tensor::f_cat(&[last.f_select(0, layers - 1)?, nothing], 0)?)
    }

    /// Rows are sorted, the longest first.
    fn transformer(&self, events: &EventTensors, rows: &[i64], transformer: &Transformer) -> Result<Tensor> {
        let mut encoded = Vec::new();
        let mut rest = rows;
        while let Some(longest) = rest.first() {
            let length = events.length(*longest);
            let scores = HEADS as usize * (length + 1) * (length + 1);
            let (now, later) = rest.split_at(rest.len().min((SCORES_AT_ONCE / scores).max(1)));
            rest = later;
            // The newest events of all rows stand side by side, at the end.
            let (mut places, mut hidden) = (Vec::new(), Vec::new());
            for row in now {
                let own = events.starts[*row as usize]..events.starts[*row as usize + 1];
                let padding = length - own.len();
                places.extend(std::iter::repeat_n(events.padding(), padding));
                places.extend(own.map(|event| event as i64));
                hidden.extend((0..=length).map(|place| if place < padding { f32::NEG_INFINITY } else { 0.0 }));
            }
            let tokens = self.tokens(events, &places)?;
            let shape = [now.len() as i64, 1, 1, length as i64 + 1];
            let hidden = Tensor::f_from_slice(&hidden)?.f_view(shape)?.f_to_device(tokens.device())?;
            let hidden = hidden.f_to_kind(tokens.kind())?;
            encoded.push(transformer.forward(&tokens.f_view([now.len() as i64, length as i64, -1])?, &hidden)?);
        }
        match encoded.is_empty() {
            true => Ok(Tensor::f_zeros([0, self.width], (events.numbers.kind(), events.numbers.device()))?),
            false => Ok(Tensor::f_cat(&encoded, 0)?),
        }
    }
}

/// Pre-norm self-attention over events and a token that collects what they say.
#[derive(Debug)]
struct Transformer {
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
    fn new(path: &Path, shape: &SequenceShape, inputs: i64) -> Result<Self> {
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
    fn forward(&self, tokens: &Tensor, hidden: &Tensor) -> Result<Tensor> {
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

fn weight(path: &Path, dims: &[i64], init: Init) -> Result<Tensor> {
    Ok(path.set_group(DECAYED).f_var("weight", dims, init)?)
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;

    use super::*;

    const LENGTHS: [usize; 6] = [3, 0, 1, 7, 2, 0];

    fn shape(encoder: SequenceEncoder) -> SequenceShape {
        SequenceShape { encoder, length: 8, width: 8, layers: 2, numbers: 3, vocabularies: vec![4, 5] }
    }

    /// An encoder in double precision, its biases moved away from 0.
    fn encoder(kind: SequenceEncoder) -> (VarStore, EventEncoder) {
        let mut store = VarStore::new(Device::Cpu);
        let encoder = EventEncoder::new(&store.root(), &shape(kind)).unwrap();
        store.double();
        tch::no_grad(|| {
            for mut variable in store.trainable_variables() {
                let _ = variable.f_add_(&(variable.rand_like() * 0.2)).unwrap();
            }
        });
        (store, encoder)
    }

    fn encoded(lengths: &[usize]) -> EncodedEvents {
        let starts: Vec<usize> = std::iter::once(0)
            .chain(lengths.iter().scan(0, |end, length| {
                *end += length;
                Some(*end)
            }))
            .collect();
        let events = starts[lengths.len()];
        EncodedEvents {
            starts,
            width: 3,
            numbers: (0..events * 3).map(|i| (i as f32 * 0.7).sin()).collect(),
            kinds: 2,
            words: (0..events * 2).map(|i| (i * 7 % 4) as i64).collect(),
        }
    }

    fn events() -> EventTensors {
        EventTensors::new(&encoded(&LENGTHS), Kind::Double, Device::Cpu).unwrap()
    }

    const BOTH: [SequenceEncoder; 2] = [SequenceEncoder::Gru, SequenceEncoder::Transformer];

    #[test]
    fn a_row_alone_gives_what_it_gives_among_longer_and_shorter_ones() {
        for kind in BOTH {
            let (_store, encoder) = encoder(kind);
            let events = events();
            let together = encoder.forward(&events, &[4, 0, 3, 1, 2, 5]).unwrap();
            assert_eq!(together.size(), [6, 8]);
            for (place, row) in [4, 0, 3, 1, 2, 5].into_iter().enumerate() {
                let alone = encoder.forward(&events, &[row]).unwrap();
                assert!(together.get(place as i64).allclose(&alone.get(0), 1e-12, 1e-12, false), "{kind:?} {row}");
            }
        }
    }

    #[test]
    fn what_stands_in_the_padding_is_no_matter() {
        for kind in BOTH {
            let (_store, encoder) = encoder(kind);
            let mut events = events();
            let before = encoder.forward(&events, &[0, 1, 2, 3, 4, 5]).unwrap();
            let padding = events.padding();
            let _ = events.numbers.get(padding).f_fill_(1e3).unwrap();
            let _ = events.words.get(padding).f_fill_(3).unwrap();
            assert!(before.equal(&encoder.forward(&events, &[0, 1, 2, 3, 4, 5]).unwrap()), "{kind:?}");
            events.numbers = &events.numbers * 1.5;
            assert!(!before.allclose(&encoder.forward(&events, &[0, 1, 2, 3, 4, 5]).unwrap(), 1e-3, 1e-3, false));
        }
    }

    #[test]
    fn customers_without_events_are_all_alike_and_the_order_of_events_matters() {
        for kind in BOTH {
            let (_store, encoder) = encoder(kind);
            let vectors = encoder.forward(&events(), &[0, 1, 5]).unwrap();
            assert!(vectors.get(1).equal(&vectors.get(2)) && !vectors.get(0).equal(&vectors.get(1)), "{kind:?}");
            let mut turned = encoded(&[3]);
            turned.numbers.rotate_left(3);
            turned.words.rotate_left(2);
            let turned = EventTensors::new(&turned, Kind::Double, Device::Cpu).unwrap();
            let turned = encoder.forward(&turned, &[0]).unwrap();
            assert!(!turned.get(0).allclose(&vectors.get(0), 1e-3, 1e-3, false), "{kind:?}");
        }
    }

    #[test]
    fn no_rows_and_no_events_are_no_problem() {
        for kind in BOTH {
            let (_store, encoder) = encoder(kind);
            assert_eq!(encoder.forward(&events(), &[]).unwrap().size(), [0, 8]);
            let nothing = EventTensors::new(&encoded(&[0, 0]), Kind::Double, Device::Cpu).unwrap();
            assert_eq!(encoder.forward(&nothing, &[0, 1]).unwrap().size(), [2, 8], "{kind:?}");
        }
    }

    /// The GRU by the letter, for one row and one layer: `input` [steps, in].
    fn by_the_letter(weights: &[Tensor], input: &Tensor) -> Vec<Tensor> {
        let mut state = Tensor::zeros([8], (Kind::Double, Device::Cpu));
        let mut states = Vec::new();
        for step in 0..input.size()[0] {
            let of = |weight: &Tensor, bias: &Tensor, x: &Tensor| (weight.matmul(x) + bias).chunk(3, 0);
            let x = of(&weights[0], &weights[2], &input.get(step));
            let h = of(&weights[1], &weights[3], &state);
            let (reset, update) = ((&x[0] + &h[0]).sigmoid(), (&x[1] + &h[1]).sigmoid());
            let new = (&x[2] + reset * &h[2]).tanh();
            state = (update.ones_like() - &update) * new + &update * state;
            states.push(state.shallow_clone());
        }
        states
    }

    #[test]
    fn packed_rows_give_what_the_formula_gives_step_by_step() {
        let (_store, encoder) = encoder(SequenceEncoder::Gru);
        let Layers::Gru { weights, .. } = &encoder.layers else { panic!("no GRU") };
        let events = events();
        let vectors = encoder.forward(&events, &[0, 2, 3]).unwrap();
        for (place, row) in [0_usize, 2, 3].into_iter().enumerate() {
            let own: Vec<i64> = (events.starts[row]..events.starts[row + 1]).map(|event| event as i64).collect();
            let first = by_the_letter(&weights[..4], &encoder.tokens(&events, &own).unwrap());
            let second = by_the_letter(&weights[4..], &Tensor::stack(&first, 0));
            assert!(vectors.get(place as i64).allclose(&second[own.len() - 1], 1e-10, 1e-10, false), "row {row}");
        }
    }

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
