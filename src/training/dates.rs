//! Which dates a model is trained on.

use crate::model::manifest::Split;
use crate::spec::TrainSpec;
use crate::{AsOf, Error, Result};

/// The dates of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Dates {
    /// All snapshots, newest first; the final fit uses them all.
    pub all: Vec<AsOf>,
    /// Those that validate: the newest.
    pub validation: Vec<AsOf>,
    /// Those that train while others validate.
    pub training: Vec<AsOf>,
    /// How validation rows are told from training rows.
    pub split: Split,
}

impl Dates {
    /// Snapshots `every` days apart back from `as_of − horizon`, so that no label looks beyond `as_of`, as long as
    /// `warmup` days lie between the first event and a snapshot. Training snapshots end their label windows before the
    /// first validating one; where none does, customers are split instead.
    pub fn plan(as_of: AsOf, horizon: u32, first_event: AsOf, train: &TrainSpec) -> Result<Self> {
        Self::plan_without(as_of, horizon, first_event, train, &|_| false)
    }

    /// As [`Self::plan`], without dates of which this holds.
    pub fn plan_without(
        as_of: AsOf,
        horizon: u32,
        first_event: AsOf,
        train: &TrainSpec,
        left_out: &dyn Fn(AsOf) -> bool,
    ) -> Result<Self> {
        let oldest = first_event.plus_days(u64::from(train.warmup_days));
        let date = |k: usize| as_of.minus_days(u64::from(horizon) + k as u64 * u64::from(train.every_days));
        let all = (0..train.count).map(date).take_while(|d| d.date() >= oldest.date());
        let all: Vec<AsOf> = all.filter(|date| !left_out(*date)).collect();
        let Some(newest) = all.first() else {
            return Err(too_short(as_of, horizon, first_event, train));
        };
        let mut validation: Vec<AsOf> = all.iter().copied().take(train.validation_snapshots.max(1)).collect();
        let before = |validation: &[AsOf]| -> Vec<AsOf> {
            let first = validation.last().unwrap_or(newest);
            all.iter().copied().filter(|d| d.plus_days(u64::from(horizon)).date() <= first.date()).collect()
        };
        // Fewer validating snapshots are better than none before them.
        while before(&validation).is_empty() && validation.len() > 1 {
            validation.pop();
        }
        let training = before(&validation);
        if training.is_empty() {
            return Ok(Dates { training: all.clone(), validation, all, split: Split::ByCustomer });
        }
        Ok(Dates { training, validation, all, split: Split::ByTime })
    }
}

fn too_short(as_of: AsOf, horizon: u32, first_event: AsOf, train: &TrainSpec) -> Error {
    let needed = first_event.plus_days(u64::from(train.warmup_days) + u64::from(horizon));
    Error::user(format!("there is too little history before {as_of} to train on"))
        .hint(format!(
            "data begins on {first_event}; with {} days of warm-up and labels of {horizon} days, train as of {needed} or later",
            train.warmup_days
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Schedule, SeasonSpec};

    fn day(text: &str) -> AsOf {
        AsOf::parse(text, chrono_tz::UTC).unwrap()
    }

    fn spec(count: usize, validation_snapshots: usize) -> TrainSpec {
        TrainSpec {
            every_days: 30,
            count,
            warmup_days: 60,
            validation_snapshots,
            epochs: 1,
            batch: 1,
            learning_rate: 0.1,
            schedule: Schedule::Constant,
            season: SeasonSpec::None,
            weight_decay: 0.0,
            clip_norm: 1.0,
            patience: 1,
            seed: 0,
            rfm: None,
        }
    }

    fn text(dates: &[AsOf]) -> Vec<String> {
        dates.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn no_label_looks_beyond_as_of_and_no_training_label_into_validation() {
        let dates = Dates::plan(day("1998-01-01"), 90, day("1997-01-01"), &spec(12, 1)).unwrap();
        assert_eq!(text(&dates.all)[..2], ["1997-10-03", "1997-09-03"]);
        assert_eq!(text(&dates.all).last().unwrap(), "1997-03-07");
        assert_eq!(text(&dates.validation), ["1997-10-03"]);
        assert_eq!(text(&dates.training)[0], "1997-07-05");
        assert_eq!(dates.split, Split::ByTime);
        assert!(dates.all.iter().all(|d| d.plus_days(90).date() <= day("1998-01-01").date()));
        assert!(dates.training.iter().all(|d| d.plus_days(90).date() <= dates.validation[0].date()));
    }

    #[test]
    fn with_one_snapshot_customers_are_split() {
        let dates = Dates::plan(day("1998-01-01"), 90, day("1997-07-30"), &spec(12, 1)).unwrap();
        assert_eq!((dates.all.len(), dates.split), (1, Split::ByCustomer));
        assert_eq!(dates.training, dates.all);
    }

    #[test]
    fn validating_snapshots_give_way_to_training_ones() {
        let dates = Dates::plan(day("1998-01-01"), 30, day("1997-08-04"), &spec(12, 5)).unwrap();
        assert_eq!((dates.all.len(), dates.validation.len(), dates.training.len()), (3, 2, 1));
    }

    #[test]
    fn too_little_history_says_how_much_is_needed() {
        let error = Dates::plan(day("1997-03-01"), 90, day("1997-01-01"), &spec(12, 1)).unwrap_err();
        assert!(error.problems().next().unwrap().hint.as_ref().unwrap().ends_with("as of 1997-05-31 or later"));
    }
}
