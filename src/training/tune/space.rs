//! Where a search looks: one list of dimensions, each with its key in the job file, how a value is drawn, and the field of
//! the spec that it is put into.

use std::collections::BTreeMap;
use std::fmt;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::hash;
use crate::spec::{EmbeddingSpec, ModelSpec, Schedule, TrainSpec};

/// How often a dimension stays as the job has it: settings that differ in fewer things say more about each of them.
const KEPT: f64 = 1.0 / 3.0;
/// The weights of heads.
const WEIGHT: Range = Range::Log(0.25, 4.0);
const WEIGHT_MEANING: &str = "how much the loss of a head counts, where there are several";

/// All that a trial may change.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The model.
    pub model: ModelSpec,
    /// How it is trained.
    pub train: TrainSpec,
}

/// The value of one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A count.
    Whole(u64),
    /// A number.
    Number(f64),
    /// The widths of layers.
    Widths(Vec<u64>),
    /// One of several words.
    Word(String),
    /// How numbers enter the network.
    Embedding(EmbeddingSpec),
}

/// Where the values of a dimension come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Range {
    /// Between two positive numbers, each order of magnitude as likely as the others; three significant digits.
    Log(f64, f64),
    /// Between two numbers; two decimals.
    Even(f64, f64),
    /// One of these.
    OneOf(Vec<Value>),
}

type Place<T> = Box<dyn Fn(&mut Setting) -> &mut T + Send + Sync>;

/// The field of the spec behind a dimension.
enum Field {
    Number(Place<f64>),
    Whole(Place<usize>),
    Widths(Place<Vec<usize>>),
    Schedule(Place<Schedule>),
    Embedding(Place<EmbeddingSpec>),
}

/// One key of the job file with the values that are tried.
pub struct Dimension {
    /// Its path in the job file; a head stands there by its name: `model.heads.churn_90d.weight`.
    pub key: String,
    /// What it is.
    pub meaning: &'static str,
    /// The values that are tried.
    pub range: Range,
    field: Field,
}

/// The dimensions around a job's own setting.
#[derive(Debug)]
pub struct Space {
    own: Setting,
    dimensions: Vec<Dimension>,
}

impl Space {
    /// Everything that is tried for a job. The weights of heads mean nothing where there is only one.
    pub fn around(own: Setting) -> Self {
        let mut dimensions = fixed();
        if own.model.heads.len() > 1 {
            dimensions.extend(own.model.heads.iter().enumerate().map(|(place, head)| {
                let field = Field::Number(Box::new(move |s| &mut s.model.heads[place].weight));
                let key = format!("model.heads.{}.weight", head.name);
                Dimension { key, meaning: WEIGHT_MEANING, range: WEIGHT, field }
            }));
        }
        Space { own, dimensions }
    }

    /// The dimensions in their order.
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }

    /// The values of a trial: those of the job for trial 0, else drawn from the seed and the trial's number alone.
    pub fn values(&self, seed: u64, trial: usize) -> Vec<Value> {
        let own: Vec<Value> = self.dimensions.iter().map(|dimension| dimension.field.get(&self.own)).collect();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(trial as u64);
        let mut values = own.clone();
        while trial > 0 && values == own {
            for ((value, own), dimension) in values.iter_mut().zip(&own).zip(&self.dimensions) {
                let kept = random.random_bool(KEPT);
                *value = if kept { own.clone() } else { dimension.range.draw(&mut random).unwrap_or(own.clone()) };
            }
        }
        values
    }

    /// The job's setting with these values put in, in the order of the dimensions.
    pub fn setting(&self, values: &[Value]) -> Setting {
        let mut setting = self.own.clone();
        for (dimension, value) in self.dimensions.iter().zip(values) {
            dimension.field.set(&mut setting, value);
        }
        setting
    }

    /// The keys whose value is not that of the job: key, value, the job's value.
    pub fn changes(&self, values: &[Value]) -> Vec<(&str, Value, Value)> {
        let own = self.values(0, 0);
        let changed = self.dimensions.iter().zip(values).zip(own).filter(|((_, value), own)| *value != own);
        changed.map(|((dimension, value), own)| (dimension.key.as_str(), value.clone(), own)).collect()
    }

    /// The values by key.
    pub fn by_key(&self, values: &[Value]) -> BTreeMap<String, Value> {
        self.dimensions.iter().map(|dimension| dimension.key.clone()).zip(values.iter().cloned()).collect()
    }

    /// Changes when the dimensions, their ranges or the way of drawing change.
    pub fn hash(&self) -> String {
        let lines = self.dimensions.iter().map(|d| format!("{} {}\n", d.key, d.range)).collect::<String>();
        hash::of_bytes(format!("kept {KEPT}\n{lines}"))
    }
}

/// The dimensions of every job.
fn fixed() -> Vec<Dimension> {
    let whole = |values: &[u64]| Range::OneOf(values.iter().map(|value| Value::Whole(*value)).collect());
    let widths = |values: &[&[u64]]| Range::OneOf(values.iter().map(|value| Value::Widths(value.to_vec())).collect());
    let bins = |width, bins| EmbeddingSpec::PiecewiseLinear { width, bins };
    let waves = |width, frequencies| EmbeddingSpec::Periodic { width, frequencies };
    let embeddings =
        [EmbeddingSpec::None, bins(4, 6), bins(4, 12), bins(4, 24), bins(8, 12), waves(4, 8), waves(8, 16)];
    let layers: [&[u64]; 8] = [&[32], &[64], &[128], &[64, 32], &[128, 64], &[128, 128], &[256, 128], &[128, 128, 64]];
    vec![
        Dimension {
            key: "train.learning_rate".to_owned(),
            meaning: "AdamW's step size",
            range: Range::Log(2e-4, 1e-2),
            field: Field::Number(Box::new(|s| &mut s.train.learning_rate)),
        },
        Dimension {
            key: "train.weight_decay".to_owned(),
            meaning: "AdamW's decoupled decay (L2)",
            range: Range::Log(1e-4, 0.5),
            field: Field::Number(Box::new(|s| &mut s.train.weight_decay)),
        },
        Dimension {
            key: "train.batch".to_owned(),
            meaning: "rows per step",
            range: whole(&[64, 128, 256, 512, 1024]),
            field: Field::Whole(Box::new(|s| &mut s.train.batch)),
        },
        Dimension {
            key: "train.schedule".to_owned(),
            meaning: "how the step size moves from epoch to epoch",
            range: Range::OneOf(Schedule::NAMES.map(|(name, _)| Value::Word(name.to_owned())).to_vec()),
            field: Field::Schedule(Box::new(|s| &mut s.train.schedule)),
        },
        Dimension {
            key: "model.members".to_owned(),
            meaning: "members of the ensemble",
            range: whole(&[4, 8, 16, 32]),
            field: Field::Whole(Box::new(|s| &mut s.model.members)),
        },
        Dimension {
            key: "model.embedding".to_owned(),
            meaning: "how each number enters the network",
            range: Range::OneOf(embeddings.map(Value::Embedding).to_vec()),
            field: Field::Embedding(Box::new(|s| &mut s.model.embedding)),
        },
        Dimension {
            key: "model.dropout".to_owned(),
            meaning: "the share of hidden units that are dropped",
            range: Range::Even(0.0, 0.5),
            field: Field::Number(Box::new(|s| &mut s.model.dropout)),
        },
        Dimension {
            key: "model.hidden".to_owned(),
            meaning: "the widths of the hidden layers",
            range: widths(&layers),
            field: Field::Widths(Box::new(|s| &mut s.model.hidden)),
        },
    ]
}

/// Key, range and meaning of every dimension, for people; NAME stands for any head.
pub fn described() -> Vec<[String; 3]> {
    let mut all: Vec<_> = fixed().into_iter().map(|d| [d.key, d.range.to_string(), d.meaning.to_owned()]).collect();
    all.push(["model.heads.NAME.weight".to_owned(), WEIGHT.to_string(), WEIGHT_MEANING.to_owned()]);
    all
}

impl Range {
    /// A value; `None` of an empty list.
    pub fn draw(&self, random: &mut impl Rng) -> Option<Value> {
        match self {
            Range::Log(low, high) => {
                let drawn = random.random_range(low.ln()..high.ln()).exp();
                let digits = 10_f64.powf(2.0 - drawn.log10().floor());
                Some(Value::Number(((drawn * digits).round() / digits).clamp(*low, *high)))
            }
            Range::Even(low, high) => Some(Value::Number((random.random_range(*low..*high) * 100.0).round() / 100.0)),
            Range::OneOf(values) => values.choose(random).cloned(),
        }
    }
}

impl Field {
    fn get(&self, setting: &Setting) -> Value {
        let mut setting = setting.clone();
        match self {
            Field::Number(place) => Value::Number(*place(&mut setting)),
            Field::Whole(place) => Value::Whole(*place(&mut setting) as u64),
            Field::Widths(place) => Value::Widths(place(&mut setting).iter().map(|width| *width as u64).collect()),
            Field::Schedule(place) => {
                let schedule = *place(&mut setting);
                let name = Schedule::NAMES.iter().find(|(_, known)| *known == schedule).map_or("", |(name, _)| name);
                Value::Word(name.to_owned())
            }
            Field::Embedding(place) => Value::Embedding(*place(&mut setting)),
        }
    }

    /// A value of another kind than the field's changes nothing; ranges give none.
    fn set(&self, setting: &mut Setting, value: &Value) {
        match (self, value) {
            (Field::Number(place), Value::Number(value)) => *place(setting) = *value,
            (Field::Whole(place), Value::Whole(value)) => *place(setting) = *value as usize,
            (Field::Widths(place), Value::Widths(value)) => {
                *place(setting) = value.iter().map(|width| *width as usize).collect();
            }
            (Field::Schedule(place), Value::Word(name)) => {
                if let Some((_, schedule)) = Schedule::NAMES.iter().find(|(known, _)| known == name) {
                    *place(setting) = *schedule;
                }
            }
            (Field::Embedding(place), Value::Embedding(embedding)) => *place(setting) = *embedding,
            _ => debug_assert!(false, "{value} is of the wrong kind"),
        }
    }
}

impl fmt::Debug for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.range)
    }
}

/// As it is written in YAML.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Whole(value) => value.fmt(f),
            Value::Number(value) => value.fmt(f),
            Value::Widths(values) => write!(f, "{values:?}"),
            Value::Word(word) => f.write_str(word),
            // A patch has to take out what the job may say of another kind.
            Value::Embedding(EmbeddingSpec::None) => f.write_str("{kind: none, width: ~, bins: ~}"),
            Value::Embedding(EmbeddingSpec::PiecewiseLinear { width, bins }) => {
                write!(f, "{{kind: piecewise_linear, width: {width}, bins: {bins}}}")
            }
            Value::Embedding(EmbeddingSpec::Periodic { width, frequencies }) => {
                write!(f, "{{kind: periodic, width: {width}, bins: {frequencies}}}")
            }
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Range::Log(low, high) => write!(f, "{low} to {high}, logarithmic"),
            Range::Even(low, high) => write!(f, "{low} to {high}"),
            Range::OneOf(values) => f.write_str(&values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn space() -> Space {
        let job = spec::load("fixtures/specs/valid/full.yaml".as_ref(), &|_| None).unwrap();
        let task = job.entity_task().unwrap();
        Space::around(Setting { model: task.model.clone().unwrap(), train: task.train.clone() })
    }

    impl Range {
        fn contains(&self, value: &Value) -> bool {
            match (self, value) {
                (Range::Log(low, high) | Range::Even(low, high), Value::Number(value)) => {
                    (*low..=*high).contains(value)
                }
                (Range::OneOf(values), value) => values.contains(value),
                _ => false,
            }
        }
    }

    #[test]
    fn draws_lie_in_their_ranges_or_are_the_jobs_own() {
        let space = space();
        let own = space.values(9, 0);
        let mut kept = vec![0; own.len()];
        for trial in 1..=600 {
            let values = space.values(9, trial);
            assert_ne!(values, own, "trial {trial} changes something");
            for (place, ((value, own), dimension)) in values.iter().zip(&own).zip(space.dimensions()).enumerate() {
                assert!(value == own || dimension.range.contains(value), "{dimension:?}: {value}");
                kept[place] += usize::from(value == own);
            }
        }
        // A third is kept by intent; where the range is a short list, the job's own value is drawn too.
        assert!(kept.iter().all(|kept| (150..350).contains(kept)), "{kept:?}");
    }

    #[test]
    fn a_logarithmic_range_is_drawn_evenly_over_orders_of_magnitude() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let drawn = (0..4000).map(|_| match Range::Log(1e-4, 1.0).draw(&mut random) {
            Some(Value::Number(value)) => value,
            other => panic!("{other:?}"),
        });
        let mut below = [0; 4];
        drawn.for_each(|value| below[(value.log10().floor() + 4.0).min(3.0) as usize] += 1);
        assert!(below.iter().all(|n| (900..1100).contains(n)), "{below:?}");
    }

    #[test]
    fn the_seed_and_the_trial_decide_the_values() {
        let space = space();
        assert_eq!(space.values(3, 7), space.values(3, 7));
        assert_ne!(space.values(3, 7), space.values(3, 8));
        assert_ne!(space.values(3, 7), space.values(4, 7));
        assert_eq!(space.values(3, 0), space.values(4, 0));
    }

    #[test]
    fn values_put_into_a_setting_are_found_there() {
        let space = space();
        for trial in 0..50 {
            let values = space.values(5, trial);
            let found = Space::around(space.setting(&values));
            assert_eq!(found.values(0, 0), values);
        }
    }
}
