//! AdamW (Loshchilov, Hutter 2017, arXiv 1711.05101) with clipping by the gradient's norm, over libtorch's optimiser.

use tch::nn::VarStore;
use tch::{COptimizer, Kind, Tensor};

use crate::model::encoder::group;
use crate::{Error, Result};

/// The optimiser of a store's variables. Decay shrinks matrices and embeddings alone: variables of
/// [`group::STILL`] (biases, layer norms) are left out of it.
#[derive(Debug)]
pub struct AdamW {
    optimizer: COptimizer,
    variables: Vec<Tensor>,
    clip_norm: f64,
}

impl AdamW {
    /// An optimiser with β = (0.9, 0.999), ε = 1e-8. All variables of the store must be there already.
    pub fn new(store: &VarStore, weight_decay: f64, clip_norm: f64) -> Result<Self> {
        let mut optimizer = COptimizer::adamw(0.0, 0.9, 0.999, weight_decay, 1e-8, false)?;
        let mut variables = Vec::new();
        {
            let held = store.variables_.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for variable in &held.trainable_variables {
                optimizer.add_parameters(&variable.tensor, variable.group)?;
                variables.push(variable.tensor.shallow_clone());
            }
            if held.trainable_variables.iter().any(|v| v.group == group::STILL) {
                optimizer.set_weight_decay_group(group::STILL, 0.0)?;
            }
        }
        Ok(AdamW { optimizer, variables, clip_norm })
    }

    /// One step down the gradient of `loss`; gives the gradient's norm before clipping. A norm that is not finite is an
    /// error, and then nothing moved.
    pub fn step(&mut self, loss: &Tensor, learning_rate: f64) -> Result<f64> {
        self.optimizer.zero_grad()?;
        loss.f_backward()?;
        let norm = self.clip()?;
        self.optimizer.set_learning_rate(learning_rate)?;
        self.optimizer.step()?;
        Ok(norm)
    }

    /// Scales all gradients together so that their norm is at most the greatest allowed.
    fn clip(&self) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let mut gradients: Vec<Tensor> = Vec::with_capacity(self.variables.len());
        for variable in &self.variables {
            let gradient = variable.f_grad()?;
            if gradient.defined() {
                gradients.push(gradient);
            }
        }
        let norms = gradients.iter().map(|g| g.f_norm()).collect::<Result<Vec<_>, _>>()?;
        if norms.is_empty() {
            return Err(Error::infra("the loss depends on no variable"));
        }
        let norm = f64::try_from(Tensor::f_stack(&norms, 0)?.f_norm()?.f_to_kind(Kind::Double)?)?;
        if !norm.is_finite() {
            return Err(Error::user("training diverged: a gradient is not finite")
                .hint("try a smaller `learning_rate`, and look for extreme values in the data"));
        }
        let scale = self.clip_norm / (norm + 1e-6);
        if scale < 1.0 {
            for gradient in &mut gradients {
                let _scaled = gradient.f_mul_scalar_(scale)?;
            }
        }
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, nn};

    use super::*;

    /// Two variables at 1.0 with a gradient of (3, 4)·`scale`, one of them without decay.
    fn stepped(scale: f64, decay: f64, clip: f64) -> (f64, f64, f64) {
        let store = VarStore::new(Device::Cpu);
        let decayed = store.root().set_group(group::DECAYED).var("a", &[1], nn::Init::Const(1.0));
        let still = store.root().set_group(group::STILL).var("b", &[1], nn::Init::Const(1.0));
        let mut optimizer = AdamW::new(&store, decay, clip).unwrap();
        let norm = optimizer.step(&((&decayed * 3.0 + &still * 4.0) * scale).sum(Kind::Float), 0.1).unwrap();
        (norm, decayed.double_value(&[0]), still.double_value(&[0]))
    }

    #[test]
    fn decay_shrinks_matrices_and_leaves_biases() {
        // Adam's first step is the step size itself, whatever the gradient; decay takes 0.1 · 0.5 of the value first.
        let (norm, decayed, still) = stepped(1.0, 0.5, 100.0);
        assert!((norm - 5.0).abs() < 1e-6);
        assert!((decayed - (0.95 - 0.1)).abs() < 1e-6, "{decayed}");
        assert!((still - 0.9).abs() < 1e-6, "{still}");
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_an_error() {
        let store = VarStore::new(Device::Cpu);
        let a = store.root().var("a", &[1], nn::Init::Const(1.0));
        let mut optimizer = AdamW::new(&store, 0.0, 1.0).unwrap();
        assert!(optimizer.step(&(&a / 0.0).sum(Kind::Float), 0.1).unwrap_err().to_string().contains("diverged"));
        assert_eq!(a.double_value(&[0]), 1.0);
    }

    #[test]
    fn the_clipped_gradient_has_the_greatest_norm_allowed() {
        let store = VarStore::new(Device::Cpu);
        let a = store.root().var("a", &[2], nn::Init::Const(1.0));
        let optimizer = AdamW::new(&store, 0.0, 0.5).unwrap();
        (&a * Tensor::from_slice(&[3f32, 4.0])).sum(Kind::Float).backward();
        assert!((optimizer.clip().unwrap() - 5.0).abs() < 1e-6);
        let clipped = Vec::<f32>::try_from(a.grad()).unwrap();
        assert!((clipped[0] - 0.3).abs() < 1e-5 && (clipped[1] - 0.4).abs() < 1e-5, "{clipped:?}");
    }
}
