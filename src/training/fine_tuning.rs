//! Steps of fine-tuning: a batch of texts, its loss, and how far each variable goes down the gradient.
//!
//! The step size follows a schedule; a block of the encoder has a share of it that falls with its depth (layer-wise rates,
//! Howard, Ruder 2018, arXiv 1801.06146).

use tch::{Reduction, Tensor};

use super::adamw::{AdamW, Parameter};
use super::schedule::LinearSchedule;
use crate::model::encoder::{Learner, Mode, Tuned, Tuning};
use crate::model::text_classifier::TextClassifier;
use crate::spec::TuneSpec;
use crate::{Error, Result};

/// What is learned and how fast.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// How far the encoder learns.
    pub tune: TuneSpec,
    /// The step sizes.
    pub schedule: LinearSchedule,
    /// The share of the step size that each block of the encoder has of the one above it.
    pub layer_decay: f64,
    /// AdamW's decoupled decay of matrices and embeddings.
    pub weight_decay: f64,
    /// The gradient's greatest norm.
    pub clip_norm: f64,
    /// The seed of corrections.
    pub seed: u64,
}

impl Recipe {
    /// A variable's part in the optimiser.
    fn parameter(&self, learner: Learner) -> Parameter {
        let depth = i32::try_from(learner.above).unwrap_or(i32::MAX);
        Parameter {
            rate: self.layer_decay.powi(depth),
            weight_decay: if learner.decays { self.weight_decay } else { 0.0 },
            variable: learner.variable,
        }
    }
}

/// A training under way.
#[derive(Debug)]
pub struct Fit {
    classifier: TextClassifier,
    tuning: Tuning,
    optimizer: AdamW,
    schedule: LinearSchedule,
    done: usize,
}

/// One step of a training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The batch's mean cross-entropy before the step.
    pub loss: f64,
    /// The gradient's norm before clipping.
    pub norm: f64,
    /// The step size.
    pub learning_rate: f64,
}

impl Fit {
    /// A training that begins.
    pub fn new(mut classifier: TextClassifier, recipe: &Recipe) -> Result<Self> {
        let tuning = classifier.tune(&recipe.tune, recipe.seed)?;
        let parameters = tuning.learners().into_iter().map(|learner| recipe.parameter(learner)).collect();
        let optimizer = AdamW::new(parameters, recipe.clip_norm)?;
        Ok(Fit { classifier, tuning, optimizer, schedule: recipe.schedule, done: 0 })
    }

    /// Learns from a batch: rows of token ids with their label numbers.
    pub fn step(&mut self, rows: &[&[u32]], targets: &[i64]) -> Result<Step> {
        let logits = self.classifier.logits(rows, Mode::Train)?;
        self.learn(&logits, targets)
    }

    /// As [`Fit::step`], from pooled vectors: the encoder has no part in it.
    pub fn step_pooled(&mut self, pooled: Tensor, targets: &[i64]) -> Result<Step> {
        let logits = self.classifier.of_pooled(pooled, Mode::Train)?;
        self.learn(&logits, targets)
    }

    fn learn(&mut self, logits: &Tensor, targets: &[i64]) -> Result<Step> {
        let targets = Tensor::f_from_slice(targets)?.f_to_device(logits.device())?;
        let loss = logits.f_cross_entropy_loss::<Tensor>(&targets, None, Reduction::Mean, -100, 0.0)?;
        let value = f64::try_from(&loss)?;
        if !value.is_finite() {
            return Err(Error::user("training diverged: the loss is not finite").hint("try a smaller `learning_rate`"));
        }
        let learning_rate = self.schedule.at(self.done);
        let norm = self.optimizer.step(&loss, learning_rate)?;
        self.done += 1;
        Ok(Step { loss: value, norm, learning_rate })
    }

    /// Steps done.
    pub fn steps_done(&self) -> usize {
        self.done
    }

    /// The classifier as it is now.
    pub fn classifier(&self) -> &TextClassifier {
        &self.classifier
    }

    /// What of it learns.
    pub fn learners(&self) -> Vec<Learner> {
        self.tuning.learners()
    }

    /// How much of it learns.
    pub fn tuned(&self) -> Tuned {
        self.tuning.tuned()
    }

    /// The classifier, training being over: what the encoder learned is in its weights.
    pub fn into_classifier(mut self) -> Result<TextClassifier> {
        self.classifier.merge()?;
        Ok(self.classifier)
    }
}
