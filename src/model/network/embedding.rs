//! Numbers in a form that a linear layer can bend: each becomes a few inputs of its own (Gorishniy, Rubachev, Babenko 2022,
//! arXiv 2203.05556).
//!
//! A number `x` comes as the normal score of its rank. With bins `b` between the quantiles of the training rows,
//! piecewise-linear encoding gives `t_b = clamp((x − lo_b) / (hi_b − lo_b), 0, 1)`: 1 for the bins that it has passed, a share of
//! the one that it is in, 0 beyond. Then `e = relu(t W + x s + b)`, each number with weights of its own. Periodic
//! embeddings put `[sin 2πcx, cos 2πcx]` with trained frequencies `c` in the place of `t`.

use std::f64::consts::TAU;

use tch::nn::{Init, Path};
use tch::{Device, Kind, Tensor};

use super::DECAYED;
use crate::Result;
use crate::spec::EmbeddingSpec;

/// Rows that quantiles are taken from at most, evenly spread over all.
const SAMPLED: i64 = 50_000;
/// A bin is at least this wide, in normal scores: a narrower one would be a step.
const NARROWEST: f32 = 1e-3;
/// The standard deviation of frequencies at the start, per normal score.
const FREQUENCY: f64 = 0.3;

/// The embedding of `features` numbers.
#[derive(Debug)]
pub(super) struct Embedding {
    encoding: Encoding,
    /// Of the encoding: [features, encoded, width].
    weight: Tensor,
    /// Of the number itself: [features, 1, width].
    slope: Tensor,
    /// [features, 1, width]
    bias: Tensor,
}

#[derive(Debug)]
enum Encoding {
    /// Not trained: the lower edge of each bin, and 1 over its width; 0 where a number has fewer bins. Both
    /// [features, 1, bins].
    PiecewiseLinear { low: Tensor, scale: Tensor },
    /// [features, 1, frequencies]
    Periodic { frequency: Tensor },
}

impl Embedding {
    /// `None` where the numbers stay as they are. Bins have no width before [`Embedding::place_bins`] or loading.
    pub fn new(path: &Path, spec: EmbeddingSpec, features: usize) -> Result<Option<Self>> {
        let features = features as i64;
        let (encoding, encoded, width) = match spec {
            _ if features == 0 => return Ok(None),
            EmbeddingSpec::None => return Ok(None),
            EmbeddingSpec::PiecewiseLinear { width, bins } => {
                let low = path.f_zeros_no_train("low", &[features, 1, bins as i64])?;
                let scale = path.f_zeros_no_train("scale", &[features, 1, bins as i64])?;
                (Encoding::PiecewiseLinear { low, scale }, bins as i64, width as i64)
            }
            EmbeddingSpec::Periodic { width, frequencies } => {
                let init = Init::Randn { mean: 0.0, stdev: FREQUENCY };
                let frequency = path.f_var("frequency", &[features, 1, frequencies as i64], init)?;
                (Encoding::Periodic { frequency }, 2 * frequencies as i64, width as i64)
            }
        };
        let random = |stdev: f64| Init::Randn { mean: 0.0, stdev };
        let decayed = path.set_group(DECAYED);
        let weight = decayed.f_var("weight", &[features, encoded, width], random((encoded as f64).powf(-0.5)))?;
        let slope = decayed.f_var("slope", &[features, 1, width], random(0.3))?;
        let bias = path.f_var("bias", &[features, 1, width], Init::Const(0.0))?;
        Ok(Some(Embedding { encoding, weight, slope, bias }))
    }

    /// Inputs that come out.
    pub fn width(&self) -> i64 {
        let size = self.weight.size();
        size[0] * size[2]
    }

    /// Lays the bins between the quantiles of training rows [n, features].
    pub fn place_bins(&mut self, numbers: &Tensor) -> Result<()> {
        let Encoding::PiecewiseLinear { low, scale } = &mut self.encoding else { return Ok(()) };
        let (rows, features) = numbers.size2()?;
        let bins = low.size()[2] as usize;
        let sample = numbers.f_slice(0, None, None, 1 + (rows - 1).max(0) / SAMPLED)?;
        let sample = sample.f_transpose(0, 1)?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let mut values = Vec::<f32>::try_from(&sample.f_view([-1])?)?;
        let (mut lows, mut scales) = (vec![0_f32; features as usize * bins], vec![0_f32; features as usize * bins]);
        let sampled = sample.size2()?.1.max(1) as usize;
        let columns = values.chunks_exact_mut(sampled);
        for ((column, lows), scales) in columns.zip(lows.chunks_exact_mut(bins)).zip(scales.chunks_exact_mut(bins)) {
            for ((edge, low), scale) in edges(column, bins).windows(2).zip(lows).zip(scales) {
                (*low, *scale) = (edge[0], 1.0 / (edge[1] - edge[0]));
            }
        }
        for (tensor, values) in [(low, lows), (scale, scales)] {
            let values = Tensor::f_from_slice(&values)?.f_view([features, 1, bins as i64])?;
            tch::no_grad(|| tensor.f_copy_(&values))?;
        }
        Ok(())
    }

    /// [n, [`Embedding::width`]] of numbers [n, features].
    pub fn forward(&self, numbers: &Tensor) -> Result<Tensor> {
        let x = numbers.f_transpose(0, 1)?.f_unsqueeze(2)?;
        let mut parts = self.encoding.of(&x)?;
        parts.extend([x.f_ones_like()?, x]);
        // One product for encoding, bias and number: the additions would each be a pass over everything, forth and back.
        let weight = Tensor::f_cat(&[&self.weight, &self.bias, &self.slope], 1)?;
        let embedded = Tensor::f_cat(&parts, 2)?.f_matmul(&weight)?.f_relu()?;
        Ok(embedded.f_transpose(0, 1)?.f_reshape([-1, self.width()])?)
    }
}

impl Encoding {
    /// Parts of [features, n, encoded] for numbers [features, n, 1].
    fn of(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        match self {
            Encoding::PiecewiseLinear { low, scale } => Ok(vec![x.f_sub(low)?.f_mul_(scale)?.f_clamp_(0.0, 1.0)?]),
            Encoding::Periodic { frequency } => {
                let angle = x.f_mul(frequency)?.f_mul_scalar(TAU)?;
                Ok(vec![angle.f_sin()?, angle.f_cos()?])
            }
        }
    }
}

/// The edges of at most `bins` bins, ascending: quantiles where every value occurs once. A value that occurs often counts with
/// the root of how often it does: most features are 0 for most customers, and that one value would take all the edges.
fn edges(values: &mut [f32], bins: usize) -> Vec<f32> {
    values.sort_by(f32::total_cmp);
    let equal = values.chunk_by(|a, b| a == b);
    let distinct: Vec<(f32, f64)> = equal.map(|values| (values[0], (values.len() as f64).sqrt())).collect();
    let mut passed = 0.0;
    let places = distinct.windows(2).map(|pair| {
        passed += (pair[0].1 + pair[1].1) / 2.0;
        passed
    });
    let places: Vec<f64> = std::iter::once(0.0).chain(places).collect();
    let mut edges: Vec<f32> = Vec::with_capacity(bins + 1);
    for step in 0..=bins {
        let place = passed * step as f64 / bins as f64;
        let next = places.partition_point(|p| *p < place).min(places.len() - 1);
        let Some((value, _)) = distinct.get(next) else { break };
        if edges.last().is_none_or(|last| value - last >= NARROWEST) {
            edges.push(*value);
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;

    use super::*;

    const BINS: EmbeddingSpec = EmbeddingSpec::PiecewiseLinear { width: 2, bins: 3 };

    fn column(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).view([-1, 1])
    }

    /// An embedding of one number with its bins between the thirds of `values`.
    fn fitted(store: &VarStore, values: &[f32]) -> Embedding {
        let mut embedding = Embedding::new(&store.root(), BINS, 1).unwrap().unwrap();
        embedding.place_bins(&column(values)).unwrap();
        embedding
    }

    /// The encoding [n, bins] of some values of one number.
    fn encoded(embedding: &Embedding, values: &[f32]) -> Vec<Vec<f32>> {
        let x = column(values).transpose(0, 1).unsqueeze(2);
        let parts = embedding.encoding.of(&x).unwrap();
        (0..values.len() as i64).map(|row| Vec::try_from(parts[0].get(0).get(row)).unwrap()).collect()
    }

    #[test]
    fn the_encoding_is_that_of_the_paper_by_hand() {
        let store = VarStore::new(Device::Cpu);
        // Edges −3, 0, 1, 3.
        let embedding = fitted(&store, &[-3.0, 0.0, 1.0, 3.0]);
        let found = encoded(&embedding, &[-9.0, -3.0, -1.5, 0.0, 0.25, 2.0, 3.0, 9.0]);
        let wanted = [
            [0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0],
            [0.5, 0.0, 0.0],
            [1.0, 0.0, 0.0],
            [1.0, 0.25, 0.0],
            [1.0, 1.0, 0.5],
            [1.0, 1.0, 1.0],
            [1.0, 1.0, 1.0],
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn the_encoding_never_falls_as_the_number_rises() {
        let store = VarStore::new(Device::Cpu);
        let seen: Vec<f32> = (0..500).map(|i| ((i * 7919) % 501) as f32 * 0.012 - 3.0).collect();
        let embedding = fitted(&store, &seen);
        let values: Vec<f32> = (-40..=40).map(|i| i as f32 * 0.1).collect();
        for pair in encoded(&embedding, &values).windows(2) {
            assert!(pair[0].iter().zip(&pair[1]).all(|(a, b)| a <= b), "{pair:?}");
        }
    }

    #[test]
    fn edges_are_quantiles_where_every_value_occurs_once() {
        let mut values: Vec<f32> = (0..=100).map(|i| ((i * 37) % 101) as f32 * 0.01).collect();
        assert_eq!(edges(&mut values, 4), [0.0, 0.25, 0.5, 0.75, 1.0]);
    }

    #[test]
    fn a_value_that_most_rows_have_does_not_take_all_the_bins() {
        let mut mostly_one = [vec![-0.8; 80], (0..20).map(|i| i as f32 * 0.1).collect()].concat();
        let found = edges(&mut mostly_one, 4);
        assert_eq!(found.len(), 5);
        assert_eq!((found[0], found[4]), (-0.8, 1.9));
    }

    #[test]
    fn no_bin_is_empty() {
        assert_eq!(edges(&mut [1.0, 0.0, 1.0, 1.0], 4), [0.0, 1.0]);
        assert_eq!(edges(&mut [2.0; 9], 4), [2.0]);
        assert!(edges(&mut [], 4).is_empty());
        let store = VarStore::new(Device::Cpu);
        let constant = fitted(&store, &[2.0; 9]);
        assert_eq!(encoded(&constant, &[1.0, 3.0]), [[0.0; 3]; 2]);
    }

    #[test]
    fn a_number_is_embedded_by_the_formula() {
        for spec in [BINS, EmbeddingSpec::Periodic { width: 2, frequencies: 5 }] {
            let store = VarStore::new(Device::Cpu);
            let mut embedding = Embedding::new(&store.root(), spec, 3).unwrap().unwrap();
            let numbers = Tensor::randn([50, 3], (Kind::Float, Device::Cpu));
            embedding.place_bins(&numbers).unwrap();
            let _moved = tch::no_grad(|| embedding.bias.f_normal_(0.0, 1.0)).unwrap();
            let found = embedding.forward(&numbers).unwrap();
            assert_eq!(found.size(), [50, 6]);
            for feature in 0..3 {
                let x = numbers.narrow(1, feature, 1);
                let own = |tensor: &Tensor| tensor.get(feature);
                let encoded = match &embedding.encoding {
                    Encoding::PiecewiseLinear { low, scale } => ((&x - own(low)) * own(scale)).clamp(0.0, 1.0),
                    Encoding::Periodic { frequency } => {
                        let angle = &x * own(frequency) * TAU;
                        Tensor::cat(&[angle.sin(), angle.cos()], 1)
                    }
                };
                let line = &x * own(&embedding.slope) + own(&embedding.bias);
                let wanted = (encoded.matmul(&own(&embedding.weight)) + line).relu();
                assert!(found.narrow(1, 2 * feature, 2).allclose(&wanted, 1e-5, 1e-5, false), "{spec:?}");
            }
        }
    }

    #[test]
    fn without_numbers_there_is_nothing_to_embed() {
        let store = VarStore::new(Device::Cpu);
        assert!(Embedding::new(&store.root(), BINS, 0).unwrap().is_none());
        assert!(Embedding::new(&store.root(), EmbeddingSpec::None, 3).unwrap().is_none());
        assert!(store.is_empty());
    }
}
