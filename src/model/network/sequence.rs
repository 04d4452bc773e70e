//! What reads a customer's newest events: a recurrent network or self-attention, one vector per customer.
//!
//! ```text
//! numbers [events, c] ─┬─ events of a row ─▶ GRU, state after the newest event ──────────┐
//! words ─▶ embeddings ─┘                 └─▶ attention, read off at a token of its own ──┴─▶ [n, width]
//! ```
//! The GRU (Cho et al. 2014) runs over packed rows: at each step only those that have an event left, so that there is no
//! padding. The transformer (Vaswani et al. 2017, pre-norm) pads rows of similar length and masks the padding; places count
//! from the newest event. A customer without events has the vector 0 from the one and a constant from the other.

mod transformer;

use serde::{Deserialize, Serialize};
use tch::nn::{Init, Path};
use tch::{Device, Kind, Tensor};

use self::transformer::{HEADS, Transformer};
use super::DECAYED;
use crate::Result;
use crate::model::preprocess::EncodedEvents;
use crate::spec::SequenceEncoder;

/// Width of a word's embedding.
const EMBEDDING: i64 = 8;
/// Attention scores that are held at once, at most.
const SCORES_AT_ONCE: usize = 1 << 24;

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
            let (_, width) = tokens.size2()?;
            encoded.push(transformer.forward(&tokens.f_view([now.len() as i64, length as i64, width])?, &hidden)?);
        }
        match encoded.is_empty() {
            true => Ok(Tensor::f_zeros([0, self.width], (events.numbers.kind(), events.numbers.device()))?),
            false => Ok(Tensor::f_cat(&encoded, 0)?),
        }
    }
}

fn weight(path: &Path, dims: &[i64], init: Init) -> Result<Tensor> {
    Ok(path.set_group(DECAYED).f_var("weight", dims, init)?)
}

#[cfg(test)]
pub(super) mod tests {
    use tch::nn::VarStore;

    use super::*;

    const LENGTHS: [usize; 6] = [3, 0, 1, 7, 2, 0];

    fn shape(encoder: SequenceEncoder) -> SequenceShape {
        SequenceShape { encoder, length: 8, width: 8, layers: 2, numbers: 3, vocabularies: vec![4, 5] }
    }

    /// An encoder in double precision, its biases moved away from 0.
    pub(super) fn encoder(kind: SequenceEncoder) -> (VarStore, EventEncoder) {
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

    pub(super) fn events() -> EventTensors {
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
}
