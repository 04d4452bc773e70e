//! Members that share their weight matrices (BatchEnsemble as in TabM: Gorishniy, Kotelnikov, Babenko 2025, arXiv 2410.24210).
//!
//! Member k computes `y = ((x ∘ r_k) W) ∘ s_k + b_k`: the matrix is everybody's, the scalings and the bias are its own.
//! That is `x W_k + b_k` with `W_k = diag(r_k) W diag(s_k)`, and we compute it so. Scaling the rows in place of the matrix
//! would make [members, n, inputs] numbers out of [n, inputs] and keep them for the gradient: with 512 rows, 16 members, 550
//! inputs and 64 outputs a step forth and back took 41 ms that way and 21 ms this way, on one core. A batch has more rows
//! than a layer has outputs, so folding is never the larger part.

use tch::Tensor;
use tch::nn::{Init, Path};

use super::DECAYED;
use crate::Result;

/// What the members' input scalings start as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scaling {
    /// 1 or −1 at random: what makes the members differ. For the first layer.
    Signs,
    /// 1.
    Ones,
}

/// A layer whose matrix all members share.
#[derive(Debug)]
pub(super) struct SharedLayer {
    /// [inputs, outputs]
    weight: Tensor,
    /// r: [members, inputs]
    before: Tensor,
    /// s: [members, outputs]
    after: Tensor,
    /// b: [members, outputs]
    bias: Tensor,
}

impl SharedLayer {
    pub fn new(path: &Path, members: i64, inputs: i64, outputs: i64, scaling: Scaling) -> Result<Self> {
        let weight = path.set_group(DECAYED).f_var("weight", &[inputs, outputs], uniform(inputs, 1.0))?;
        let mut before = path.f_var("before", &[members, inputs], Init::Const(1.0))?;
        if scaling == Scaling::Signs {
            tch::no_grad(|| -> Result<()> {
                let coins = before.f_rand_like()?.f_lt(0.5)?.f_to_kind(before.f_kind()?)?;
                Ok(before.f_copy_(&coins.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?)?)
            })?;
        }
        let after = path.f_var("after", &[members, outputs], Init::Const(1.0))?;
        let bias = path.f_var("bias", &[members, outputs], Init::Const(0.0))?;
        Ok(SharedLayer { weight, before, after, bias })
    }

    /// Every member's own matrix: [inputs, members, outputs].
    fn matrices(&self) -> Result<Tensor> {
        let scaled = self.weight.f_unsqueeze(1)?.f_mul(&self.after.f_unsqueeze(0)?)?;
        Ok(scaled.f_mul(&self.before.f_transpose(0, 1)?.f_unsqueeze(2)?)?)
    }

    /// [members, n, outputs] of rows [n, inputs] that all members see: one product with all of their matrices side by side.
    pub fn of_shared(&self, rows: &Tensor) -> Result<Tensor> {
        let (members, outputs) = self.bias.size2()?;
        let inputs = self.weight.size2()?.0;
        let all = rows.f_matmul(&self.matrices()?.f_view([inputs, members * outputs])?)?;
        let all = all.f_view([-1, members, outputs])?.f_add(&self.bias)?;
        Ok(all.f_transpose(0, 1)?)
    }

    /// [members, n, outputs] of each member's own rows [members, n, inputs].
    pub fn of_own(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(rows.f_matmul(&self.matrices()?.f_transpose(0, 1)?)?.f_add(&self.bias.f_unsqueeze(1)?)?)
    }
}

/// The last layer: nothing in it is shared.
#[derive(Debug)]
pub(super) struct Heads {
    /// [members, inputs, outputs]
    weight: Tensor,
    /// [members, 1, outputs]
    bias: Tensor,
}

impl Heads {
    /// Heads whose outputs start near `start`, one number per output.
    pub fn new(path: &Path, members: i64, inputs: i64, start: &[f64]) -> Result<Self> {
        let outputs = start.len() as i64;
        let weight = path.set_group(DECAYED).f_var("weight", &[members, inputs, outputs], uniform(inputs, 0.1))?;
        let mut bias = path.f_var("bias", &[members, 1, outputs], Init::Const(0.0))?;
        let start: Vec<f32> = start.iter().map(|v| *v as f32).collect();
        tch::no_grad(|| -> Result<()> {
            Ok(bias.f_copy_(&Tensor::f_from_slice(&start)?.f_to_device(path.device())?)?)
        })?;
        Ok(Heads { weight, bias })
    }

    /// Outputs without the bias, [members, n, outputs], of rows [members or 1, n, inputs].
    pub fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(rows.f_matmul(&self.weight)?)
    }

    /// [members, 1, outputs]
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }
}

/// Weights whose products with `inputs` numbers of variance 1 have the standard deviation `size`.
pub(super) fn uniform(inputs: i64, size: f64) -> Init {
    let bound = size * (3.0 / inputs.max(1) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    use super::*;

    /// A layer with scalings and biases that have moved away from their start.
    fn trained() -> (VarStore, SharedLayer) {
        let store = VarStore::new(Device::Cpu);
        let layer = SharedLayer::new(&store.root(), 3, 5, 4, Scaling::Signs).unwrap();
        tch::no_grad(|| {
            for mut moved in [layer.before.shallow_clone(), layer.after.shallow_clone(), layer.bias.shallow_clone()] {
                let _ = moved.f_add_(&(moved.rand_like() * 0.3)).unwrap();
            }
        });
        (store, layer)
    }

    /// The formula by the letter: rows are scaled, multiplied, scaled and shifted.
    fn by_the_letter(layer: &SharedLayer, member: i64, rows: &Tensor) -> Tensor {
        let own = |tensor: &Tensor| tensor.select(0, member);
        (rows * own(&layer.before)).matmul(&layer.weight) * own(&layer.after) + own(&layer.bias)
    }

    #[test]
    fn folded_matrices_give_what_scaled_rows_give() {
        let (_store, layer) = trained();
        let shared = Tensor::randn([7, 5], (Kind::Float, Device::Cpu));
        let own = Tensor::randn([3, 7, 5], (Kind::Float, Device::Cpu));
        let (of_shared, of_own) = (layer.of_shared(&shared).unwrap(), layer.of_own(&own).unwrap());
        assert_eq!(of_shared.size(), [3, 7, 4]);
        for member in 0..3 {
            let pairs = [
                (of_shared.select(0, member), by_the_letter(&layer, member, &shared)),
                (of_own.select(0, member), by_the_letter(&layer, member, &own.select(0, member))),
            ];
            for (found, wanted) in pairs {
                assert!(found.allclose(&wanted, 1e-5, 1e-6, false), "member {member}");
            }
        }
    }

    #[test]
    fn members_start_apart_by_the_signs_of_their_inputs() {
        let store = VarStore::new(Device::Cpu);
        let first = SharedLayer::new(&(store.root() / "first"), 4, 64, 2, Scaling::Signs).unwrap();
        let second = SharedLayer::new(&(store.root() / "second"), 4, 64, 2, Scaling::Ones).unwrap();
        assert!(first.before.abs().equal(&first.before.ones_like()) && second.before.equal(&second.before.ones_like()));
        assert!(!first.before.select(0, 0).equal(&first.before.select(0, 1)));
        let balance = first.before.mean(Kind::Float).double_value(&[]);
        assert!(balance.abs() < 0.4, "{balance}");
    }
}
