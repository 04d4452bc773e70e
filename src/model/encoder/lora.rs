//! Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): a layer that does not change learns a correction of low rank.
//!
//! `y = x Wᵀ + b + (alpha / rank) · (x Aᵀ) Bᵀ`. A is random and B zero, so that training begins with the layer itself.

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Uniform};
use tch::Tensor;
use tch::nn::{Init, Path};

use super::layers::{Mode, dropout};
use crate::spec::LoraSpec;
use crate::{Error, Result};

/// The correction of one layer.
#[derive(Debug)]
pub struct Lora {
    /// [rank, inputs]
    a: Tensor,
    /// [outputs, rank]
    b: Tensor,
    scale: f64,
    share: f64,
}

impl Lora {
    /// A correction of nothing yet. A is uniform within ±1/√inputs, as in the authors' code, and drawn here and not by
    /// libtorch, so that it depends on the seed alone.
    pub fn new(path: &Path, inputs: i64, outputs: i64, spec: &LoraSpec, random: &mut ChaCha8Rng) -> Result<Self> {
        let rank = spec.rank as i64;
        let mut a = path.f_var("lora_a", &[rank, inputs], Init::Const(0.0))?;
        let b = path.f_var("lora_b", &[outputs, rank], Init::Const(0.0))?;
        let bound = 1.0 / (inputs as f32).sqrt();
        let uniform = Uniform::new_inclusive(-bound, bound)
            .map_err(|e| Error::bug("a correction has no initial weights").because(e))?;
        let values: Vec<f32> = (0..a.numel()).map(|_| uniform.sample(random)).collect();
        tch::no_grad(|| a.f_copy_(&Tensor::f_from_slice(&values)?.f_view([rank, inputs])?))?;
        Ok(Lora { a, b, scale: spec.alpha / spec.rank as f64, share: spec.dropout })
    }

    /// What is added to the layer's output for `x`.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let low = dropout(x.shallow_clone(), self.share, mode)?.f_linear(&self.a, None::<&Tensor>)?;
        Ok(low.f_linear(&self.b, None::<&Tensor>)?.f_mul_scalar(self.scale)?)
    }

    /// What merging adds to the layer's weight: `(alpha / rank) · B A`, [outputs, inputs].
    pub fn delta(&self) -> Result<Tensor> {
        Ok(self.b.f_matmul(&self.a)?.f_mul_scalar(self.scale)?)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    use super::*;
    use crate::model::device;
    use crate::model::encoder::Linear;

    fn numbers(shape: &[i64], scale: f64) -> Tensor {
        let count: i64 = shape.iter().product();
        (Tensor::arange(count, (Kind::Float, Device::Cpu)) * scale).sin().reshape(shape)
    }

    /// A layer from 6 to 4 with weights, its correction of rank 2, and the variables of both.
    fn layer(spec: &LoraSpec) -> (VarStore, VarStore, Linear) {
        let (store, corrections) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let mut layer = Linear::new(&store.root(), 6, 4).unwrap();
        tch::no_grad(|| {
            store.variables()["weight"].shallow_clone().copy_(&numbers(&[4, 6], 0.7));
            store.variables()["bias"].shallow_clone().copy_(&numbers(&[4], 1.1));
        });
        layer.adapt(&corrections.root(), spec, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        (store, corrections, layer)
    }

    fn furthest(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn a_fresh_correction_changes_nothing_and_its_a_is_small_and_random() {
        let (store, corrections, layer) = layer(&LoraSpec { rank: 2, ..LoraSpec::default() });
        let x = numbers(&[5, 6], 0.3);
        let plain = x.linear(&store.variables()["weight"], Some(&store.variables()["bias"]));
        assert_eq!(furthest(&layer.forward(&x, Mode::Train).unwrap(), &plain), 0.0);
        let a = Vec::<f32>::try_from(corrections.variables()["lora_a"].flatten(0, 1)).unwrap();
        assert!(a.iter().all(|v| v.abs() <= 1.0 / 6f32.sqrt()) && a.windows(2).all(|w| w[0] != w[1]), "{a:?}");
    }

    #[test]
    fn the_correction_is_that_of_the_paper_and_merging_keeps_it() {
        let (store, corrections, mut layer) = layer(&LoraSpec { rank: 2, alpha: 3.0, ..LoraSpec::default() });
        tch::no_grad(|| corrections.variables()["lora_b"].shallow_clone().copy_(&numbers(&[4, 2], 0.9)));
        let x = numbers(&[5, 6], 0.3);
        let (a, b) = (&corrections.variables()["lora_a"], &corrections.variables()["lora_b"]);
        let right = x.matmul(&(&store.variables()["weight"] + b.matmul(a) * 1.5).tr()) + &store.variables()["bias"];
        let apart = layer.forward(&x, Mode::Infer).unwrap();
        assert!(furthest(&apart, &right) < 1e-5);
        layer.merge().unwrap();
        assert!(furthest(&layer.forward(&x, Mode::Infer).unwrap(), &right) < 1e-5);
        layer.merge().unwrap();
        assert!(furthest(&layer.forward(&x, Mode::Infer).unwrap(), &right) < 1e-5, "merging twice adds twice");
    }

    #[test]
    fn dropout_is_on_in_training_alone() {
        let _seeded = device::seed(1);
        let (_store, corrections, layer) = layer(&LoraSpec { rank: 2, dropout: 0.9, ..LoraSpec::default() });
        tch::no_grad(|| corrections.variables()["lora_b"].shallow_clone().copy_(&numbers(&[4, 2], 0.9)));
        let x = numbers(&[50, 6], 0.3);
        let infer = layer.forward(&x, Mode::Infer).unwrap();
        assert_eq!(furthest(&layer.forward(&x, Mode::Infer).unwrap(), &infer), 0.0);
        assert!(furthest(&layer.forward(&x, Mode::Train).unwrap(), &infer) > 0.0);
    }
}
