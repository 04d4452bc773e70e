//! Which variables of a network with an encoder learn: none of the encoder's, corrections of low rank in their place, or all.
//!
//! Variables are told apart by their names in the layout of Hugging Face: `embeddings.…` and `encoder.layer.N.…` are the
//! encoder's, all others stand behind it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tch::Tensor;
use tch::nn::VarStore;

use super::BertModel;
use crate::Result;
use crate::model::weights;
use crate::spec::TuneSpec;

/// A network's variables while its encoder is tuned.
#[derive(Debug)]
pub struct Tuning {
    variables: BTreeMap<String, Tensor>,
    corrections: VarStore,
    blocks: usize,
    mode: &'static str,
}

/// A variable that learns.
#[derive(Debug)]
pub struct Learner {
    /// Its name.
    pub name: String,
    /// The variable.
    pub variable: Tensor,
    /// Blocks of the encoder above it: none for the highest block and for all that stands behind the encoder.
    pub above: usize,
    /// Whether decay shrinks it: matrices and embeddings it does, biases and layer norms it does not.
    pub decays: bool,
}

/// How much of a network learned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// `frozen`, `lora` or `full`.
    pub mode: String,
    /// Numbers that learned: the encoder's own or those of its corrections, and a classifier's head.
    pub trainable: u64,
    /// Numbers that score: what `full` trains.
    pub parameters: u64,
}

impl Tuning {
    /// Begins with `model`, whose variables are in `store`, perhaps with others behind it. What does not learn needs no
    /// gradient from here on.
    pub fn begin(model: &mut BertModel, store: &VarStore, spec: &TuneSpec, seed: u64) -> Result<Self> {
        let variables = weights::variables(store);
        let corrections = VarStore::new(store.device());
        for (name, variable) in &variables {
            let _set = variable.f_set_requires_grad(*spec == TuneSpec::Full || !of_encoder(name))?;
        }
        let mode = match spec {
            TuneSpec::Frozen => "frozen",
            TuneSpec::Full => "full",
            TuneSpec::Lora(spec) => {
                model.adapt(&corrections.root(), spec, seed)?;
                "lora"
            }
        };
        let blocks = usize::try_from(model.config().layers).unwrap_or_default();
        Ok(Tuning { variables, corrections, blocks, mode })
    }

    /// What learns, by name.
    pub fn learners(&self) -> Vec<Learner> {
        let corrections = weights::variables(&self.corrections);
        let all = self.variables.iter().chain(&corrections).filter(|(_, variable)| variable.requires_grad());
        all.map(|(name, variable)| Learner {
            name: name.clone(),
            variable: variable.shallow_clone(),
            above: blocks_above(name, self.blocks),
            decays: !(name.ends_with(".bias") || name.contains("LayerNorm")),
        })
        .collect()
    }

    /// How much learns.
    pub fn tuned(&self) -> Tuned {
        let count = |numbers: usize| numbers as u64;
        Tuned {
            mode: self.mode.to_owned(),
            trainable: self.learners().iter().map(|learner| count(learner.variable.numel())).sum(),
            parameters: self.variables.values().map(|variable| count(variable.numel())).sum(),
        }
    }
}

impl Tuned {
    /// An encoder of so many parameters that does not learn, what stands behind it not counted.
    pub fn frozen(parameters: u64) -> Self {
        Tuned { mode: "frozen".into(), trainable: 0, parameters }
    }
}

impl fmt::Display for Tuned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tuned { mode, trainable, parameters } = self;
        let share = 100.0 * *trainable as f64 / (*parameters).max(1) as f64;
        write!(f, "{mode}, trainable parameters: {trainable} of {parameters} ({share:.2} %)")
    }
}

fn of_encoder(name: &str) -> bool {
    name.starts_with("embeddings.") || name.starts_with("encoder.")
}

fn blocks_above(name: &str, blocks: usize) -> usize {
    let number = name.strip_prefix("encoder.layer.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    match number {
        Some(number) => blocks.saturating_sub(number + 1),
        None if of_encoder(name) => blocks,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tch::Device;

    use super::*;
    use crate::model::encoder::{Checkpoint, Linear};
    use crate::spec::{LoraSpec, LoraTarget};

    /// The tiny BERT (2 blocks, 32 wide, 64 between, 108 word pieces, 64 positions) with a head of 3.
    fn tuned(spec: &TuneSpec) -> (Vec<Learner>, Tuned) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/parity/tiny-bert");
        let store = VarStore::new(Device::Cpu);
        let config = Checkpoint::open(&folder).unwrap().config().clone();
        let mut model = BertModel::new(&store.root(), config).unwrap();
        let _head = Linear::new(&(store.root() / "classifier"), 32, 3).unwrap();
        let tuning = Tuning::begin(&mut model, &store, spec, 1).unwrap();
        (tuning.learners(), tuning.tuned())
    }

    const HEAD: u64 = 3 * 32 + 3;
    const BLOCK: u64 = 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 4 * 32;
    const WHOLE: u64 = (108 + 64 + 2) * 32 + 2 * 32 + 2 * BLOCK + HEAD;

    #[test]
    fn full_trains_everything_with_the_embeddings_furthest_down() {
        let (learners, counts) = tuned(&TuneSpec::Full);
        assert_eq!((counts.trainable, counts.parameters), (WHOLE, WHOLE));
        let at = |above: usize| learners.iter().filter(|l| l.above == above).count();
        assert_eq!((at(2), at(1), at(0)), (5, 16, 16 + 2), "embeddings, the lower block, the upper one with the head");
        // Three embedding tables, six matrices in each block, and the head's.
        assert_eq!(learners.iter().filter(|l| l.decays).count(), 3 + 2 * 6 + 1);
    }

    #[test]
    fn frozen_trains_the_head_alone() {
        let (learners, counts) = tuned(&TuneSpec::Frozen);
        assert_eq!((counts.trainable, counts.parameters), (HEAD, WHOLE));
        assert!(learners.iter().all(|l| l.above == 0));
    }

    #[test]
    fn lora_trains_two_thin_matrices_per_target_and_the_head() {
        let targets = vec![LoraTarget::Query, LoraTarget::Intermediate];
        let spec = LoraSpec { rank: 3, targets, ..LoraSpec::default() };
        let (learners, counts) = tuned(&TuneSpec::Lora(spec));
        assert_eq!((counts.trainable, counts.parameters), (2 * 3 * ((32 + 32) + (32 + 64)) + HEAD, WHOLE));
        assert_eq!(learners.iter().filter(|l| l.above == 1).count(), 4);
        assert_eq!(counts.to_string(), "lora, trainable parameters: 1059 of 22819 (4.64 %)");
    }
}
