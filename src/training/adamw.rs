//! AdamW (Loshchilov, Hutter 2017, arXiv 1711.05101) with clipping by the gradient's norm, over libtorch's optimiser.

use std::sync::PoisonError;

use tch::nn::VarStore;
use tch::{COptimizer, Kind, Tensor};

use crate::{Error, Result};

/// A variable to be trained.
#[derive(Debug)]
pub struct Parameter {
    /// The variable.
    pub variable: Tensor,
    /// Its step size as a share of the step's.
    pub rate: f64,
    /// The decay: what a step of size 1 takes of it.
    pub weight_decay: f64,
}

impl Parameter {
    /// The variables of a store: those of group `decayed` decay.
    pub fn of_store(store: &VarStore, decayed: usize, weight_decay: f64) -> Vec<Parameter> {
        let held = store.variables_.lock().unwrap_or_else(PoisonError::into_inner);
        let all = held.trainable_variables.iter();
        all.map(|variable| Parameter {
            variable: variable.tensor.shallow_clone(),
            rate: 1.0,
            weight_decay: if variable.group == decayed { weight_decay } else { 0.0 },
        })
        .collect()
    }
}

/// The optimiser of some variables.
#[derive(Debug)]
pub struct AdamW {
    optimizer: COptimizer,
    variables: Vec<Tensor>,
    /// The rate of each of libtorch's groups.
    rates: Vec<f64>,
    clip_norm: f64,
}

impl AdamW {
    /// An optimiser with β = (0.9, 0.999), ε = 1e-8, that clips the gradients of all variables together.
    pub fn new(parameters: Vec<Parameter>, clip_norm: f64) -> Result<Self> {
        let mut optimizer = COptimizer::adamw(0.0, 0.9, 0.999, 0.0, 1e-8, false)?;
        let mut groups: Vec<(f64, f64)> = Vec::new();
        let mut variables = Vec::with_capacity(parameters.len());
        for Parameter { variable, rate, weight_decay } in parameters {
            let group = groups.iter().position(|group| *group == (rate, weight_decay)).unwrap_or(groups.len());
            optimizer.add_parameters(&variable, group)?;
            if group == groups.len() {
                groups.push((rate, weight_decay));
                optimizer.set_weight_decay_group(group, weight_decay)?;
            }
            variables.push(variable);
        }
        Ok(AdamW { optimizer, variables, rates: groups.into_iter().map(|(rate, _)| rate).collect(), clip_norm })
    }

    /// One step down the gradient of `loss`; gives the gradient's norm before clipping. A norm that is not finite is an
    /// error, and then nothing moved.
    pub fn step(&mut self, loss: &Tensor, learning_rate: f64) -> Result<f64> {
        self.optimizer.zero_grad()?;
        loss.f_backward()?;
        let norm = self.clip()?;
        for (group, rate) in self.rates.iter().enumerate() {
            self.optimizer.set_learning_rate_group(group, learning_rate * rate)?;
        }
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
            return Err(Error::bug("the loss depends on no variable"));
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
    use super::*;

    fn variable(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    fn parameter(variable: &Tensor, rate: f64, weight_decay: f64) -> Parameter {
        Parameter { variable: variable.shallow_clone(), rate, weight_decay }
    }

    #[test]
    fn decay_shrinks_those_that_have_one() {
        let (decayed, still) = (variable(&[1.0]), variable(&[1.0]));
        let parameters = vec![parameter(&decayed, 1.0, 0.5), parameter(&still, 1.0, 0.0)];
        let mut optimizer = AdamW::new(parameters, 100.0).unwrap();
        let norm = optimizer.step(&(&decayed * 3.0 + &still * 4.0).sum(Kind::Float), 0.1).unwrap();
        // Adam's first step is the step size itself, whatever the gradient; decay takes 0.1 · 0.5 of the value first.
        assert!((norm - 5.0).abs() < 1e-6);
        assert!((decayed.double_value(&[0]) - (0.95 - 0.1)).abs() < 1e-6, "{decayed}");
        assert!((still.double_value(&[0]) - 0.9).abs() < 1e-6, "{still}");
    }

    #[test]
    fn every_variable_has_its_share_of_the_step() {
        let variables = [variable(&[1.0]), variable(&[1.0]), variable(&[1.0])];
        let rates = [1.0, 0.25, 1.0];
        let parameters = variables.iter().zip(rates).map(|(v, rate)| parameter(v, rate, 0.0)).collect();
        let mut optimizer = AdamW::new(parameters, 100.0).unwrap();
        for step in 1..=3 {
            let loss = Tensor::stack(&variables, 0).sum(Kind::Float);
            optimizer.step(&loss, 0.1).unwrap();
            for (variable, rate) in variables.iter().zip(rates) {
                // Under a gradient that stays, every step of Adam has the same size.
                let right = 1.0 - 0.1 * rate * f64::from(step);
                assert!((variable.double_value(&[0]) - right).abs() < 1e-5, "{variable} and {right}");
            }
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_an_error() {
        let a = variable(&[1.0]);
        let mut optimizer = AdamW::new(vec![parameter(&a, 1.0, 0.0)], 1.0).unwrap();
        assert!(optimizer.step(&(&a / 0.0).sum(Kind::Float), 0.1).unwrap_err().to_string().contains("diverged"));
        assert_eq!(a.double_value(&[0]), 1.0);
    }

    #[test]
    fn the_clipped_gradient_has_the_greatest_norm_allowed() {
        let a = variable(&[1.0, 1.0]);
        let optimizer = AdamW::new(vec![parameter(&a, 1.0, 0.0)], 0.5).unwrap();
        (&a * Tensor::from_slice(&[3f32, 4.0])).sum(Kind::Float).backward();
        assert!((optimizer.clip().unwrap() - 5.0).abs() < 1e-6);
        let clipped = Vec::<f32>::try_from(a.grad()).unwrap();
        assert!((clipped[0] - 0.3).abs() < 1e-5 && (clipped[1] - 0.4).abs() < 1e-5, "{clipped:?}");
    }
}
