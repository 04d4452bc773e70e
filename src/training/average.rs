//! The running mean of a network's weights over the steps of its training (Polyak, Juditsky 1992): it is steadier than the
//! weights of any one step, above all in the total of what it predicts.

use tch::Tensor;

use crate::Result;

/// The share of the mean that a step leaves as it is, at most: it looks back over some hundred steps.
const KEPT: f64 = 0.99;

/// The mean of some variables.
#[derive(Debug)]
pub struct RunningMean {
    variables: Vec<Tensor>,
    mean: Vec<Tensor>,
}

impl RunningMean {
    /// Of these, before the first step.
    pub fn new(variables: Vec<Tensor>) -> Self {
        let mean = tch::no_grad(|| variables.iter().map(|variable| variable.detach().copy()).collect());
        RunningMean { variables, mean }
    }

    /// Takes in the weights after a step, the first of which is 1; in the beginning it forgets faster.
    pub fn follow(&mut self, step: usize) -> Result<()> {
        let step = step as f64;
        let moved = 1.0 - KEPT.min((1.0 + step) / (10.0 + step));
        tch::no_grad(|| {
            for (mean, variable) in self.mean.iter_mut().zip(&self.variables) {
                let _moved = mean.f_lerp_(variable, moved)?;
            }
            Ok(())
        })
    }

    /// Copies of the variables as they are.
    pub fn weights(&self) -> Vec<Tensor> {
        tch::no_grad(|| self.variables.iter().map(|variable| variable.detach().copy()).collect())
    }

    /// Puts copies of [`RunningMean::weights`] where the variables are.
    pub fn restore(&mut self, weights: &[Tensor]) -> Result<()> {
        tch::no_grad(|| {
            for (variable, saved) in self.variables.iter_mut().zip(weights) {
                variable.f_copy_(saved)?;
            }
            Ok(())
        })
    }

    /// Puts the mean where the weights are, and the weights where the mean is.
    pub fn swap(&mut self) -> Result<()> {
        tch::no_grad(|| {
            for (mean, variable) in self.mean.iter_mut().zip(&mut self.variables) {
                let weights = variable.detach().copy();
                variable.f_copy_(mean)?;
                mean.f_copy_(&weights)?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use tch::nn::{self, VarStore};

    use super::*;

    #[test]
    fn the_mean_follows_the_weights_and_changes_places_with_them() {
        let store = VarStore::new(Device::Cpu);
        let mut weight = store.root().var("w", &[1], nn::Init::Const(0.0));
        let mut mean = RunningMean::new(store.trainable_variables());
        let mut expected = 0.0;
        for step in 1..=300 {
            let value = step as f64;
            tch::no_grad(|| weight.f_copy_(&Tensor::from_slice(&[value as f32]))).unwrap();
            mean.follow(step).unwrap();
            let kept = f64::min(0.99, (1.0 + value) / (10.0 + value));
            expected = kept * expected + (1.0 - kept) * value;
        }
        mean.swap().unwrap();
        assert!((weight.double_value(&[0]) - expected).abs() < 1e-2 && expected < 290.0);
        mean.swap().unwrap();
        assert_eq!(weight.double_value(&[0]), 300.0);
    }
}
