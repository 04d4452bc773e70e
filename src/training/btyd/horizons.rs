//! Which heads the history can teach, and which have to be extrapolated from a shorter head of their family.

use std::collections::BTreeMap;

use super::Phases;
use crate::error::Problem;
use crate::model::btyd::{BuyTillYouDie, Customer, Extrapolation, extrapolation::Stretch};
use crate::model::heads::Head;
use crate::spec::{Direction, HeadSpec, Loss, ModelSpec, TrainSpec};
use crate::training::LabelInfo;
use crate::{AsOf, Error, Result};

/// A model's heads, sorted by what can be done for them.
#[derive(Debug, Clone)]
pub struct HeadPlan {
    /// The model with the heads that are trained.
    pub trained: ModelSpec,
    /// Heads that are not.
    pub extrapolated: Vec<Planned>,
    /// All of them, in the job's order.
    heads: Vec<HeadSpec>,
}

/// A head to be extrapolated.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its name.
    pub head: String,
    /// Its horizon.
    pub days: u32,
    /// The longest trained head of its family.
    pub from: String,
    /// Its horizon.
    pub from_days: u32,
}

impl HeadPlan {
    /// A head whose label window has no snapshot before `as_of` is extrapolated if `model.btyd` and a shorter head of its
    /// family are there. Where no head at all can be trained, all are left as they are: the dates say how much is missing.
    pub fn new(
        model: &ModelSpec,
        labels: &[LabelInfo],
        as_of: AsOf,
        first_event: AsOf,
        train: &TrainSpec,
    ) -> Result<Self> {
        let direction = |head: &HeadSpec| {
            let default = labels.iter().find(|label| label.name == head.label).and_then(|label| label.default);
            let follows = head.loss == Loss::Bce && head.family.is_some();
            head.direction.or_else(|| Direction::of_default(default).filter(|_| follows))
        };
        let heads = model.heads.iter().map(|head| HeadSpec { direction: direction(head), ..head.clone() });
        let model = &ModelSpec { heads: heads.collect(), ..model.clone() };
        let days = |head: &HeadSpec| labels.iter().find(|l| l.name == head.label).map_or(0, |l| l.horizon_days);
        let oldest = first_event.plus_days(u64::from(train.warmup_days));
        let fits = |head: &HeadSpec| as_of.minus_days(u64::from(days(head))).date() >= oldest.date();
        let (short, long): (Vec<HeadSpec>, Vec<HeadSpec>) = model.heads.iter().cloned().partition(fits);
        if long.is_empty() || short.is_empty() {
            return Ok(HeadPlan { trained: model.clone(), extrapolated: Vec::new(), heads: model.heads.clone() });
        }
        let mut problems = Vec::new();
        let mut extrapolated = Vec::new();
        for head in &long {
            let days_of_head = days(head);
            let family = |other: &&HeadSpec| {
                let name = |h: &HeadSpec| h.family.as_ref().map(|(name, _)| name.clone());
                name(head).is_some() && name(other) == name(head) && other.loss == head.loss
            };
            let from = short.iter().filter(family).max_by_key(|other| days(other));
            match from.filter(|_| model.btyd.is_some() && head.loss != Loss::Softmax) {
                Some(from) => extrapolated.push(Planned {
                    head: head.name.clone(),
                    days: days_of_head,
                    from: from.name.clone(),
                    from_days: days(from),
                }),
                None => problems.push(too_long(head, days_of_head, first_event, train)),
            }
        }
        Error::all(problems)?;
        let trained = ModelSpec { heads: short, ..model.clone() };
        Ok(HeadPlan { trained, extrapolated, heads: model.heads.clone() })
    }

    /// All heads of the job in its order, those that were not trained among the trained ones.
    pub fn all_heads(&self, trained: Vec<Head>, btyd: Option<&Phases>) -> (Vec<Head>, Vec<Extrapolation>) {
        let of = |spec: &HeadSpec| trained.iter().find(|head| head.name == spec.name).cloned();
        let heads = self.heads.iter().map(|spec| of(spec).unwrap_or_else(|| Head::new(spec))).collect();
        (heads, btyd.map_or_else(Vec::new, |models| models.extrapolations.clone()))
    }

    /// How far the labels of all heads look ahead, in days.
    pub fn horizon_days(&self, labels: &[LabelInfo]) -> BTreeMap<String, u32> {
        let wanted = |label: &&LabelInfo| self.heads.iter().any(|head| head.label == label.name);
        labels.iter().filter(wanted).map(|label| (label.name.clone(), label.horizon_days)).collect()
    }
}

impl Planned {
    /// The extrapolation with what `model` says of its customers on average.
    pub fn with(&self, model: &BuyTillYouDie, customers: &[Customer]) -> Extrapolation {
        Extrapolation {
            head: self.head.clone(),
            days: self.days,
            from: self.from.clone(),
            from_days: self.from_days,
            stretch: Stretch::of(model, customers, self.from_days, self.days),
        }
    }
}

fn too_long(head: &HeadSpec, days: u32, first_event: AsOf, train: &TrainSpec) -> Problem {
    let needed = first_event.plus_days(u64::from(train.warmup_days) + u64::from(days));
    let message =
        format!("the head `{}` looks {days} days ahead, and there is too little history to learn that", head.name);
    Problem::new(message).at(head.place.clone()).hint(format!(
        "train as of {needed} or later, or have it extrapolated: give it and a shorter head of the same loss one `family`, and \
         the model `btyd` columns"
    ))
}
