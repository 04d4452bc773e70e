//! Whether the newest events of the customers stay in the model: where the job leaves that to the validation, the search fit
//! is made with and without them, and customers who neither trained nor stopped a fit decide.

use super::evaluation::bootstrap::{RESAMPLES, interval, resampled};
use super::losses::{self, RowLosses};
use super::schedule::Pace;
use super::train::{Room, Trained};
use crate::Result;
use crate::printer::Progress;
use crate::spec::Keep;

/// The validation loss with and without the events.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Gain {
    with: f64,
    without: f64,
    /// By how much the loss is lower with them: what 95 % of the resamples say.
    interval: Option<[f64; 2]>,
}

impl Room<'_> {
    /// Whether the first fit has to be made twice.
    pub(super) fn asks_whether_events_help(&self) -> bool {
        self.recipe.model.sequence.as_ref().is_some_and(|sequence| sequence.keep == Keep::Auto)
    }

    /// The search fit that goes on, and in words why the events stay in it. Where they do not help they are left out here
    /// and of every later fit: the rows of `judging` decide, if the job leaves it to them.
    pub(super) fn search(
        &mut self,
        training: &[usize],
        stopping: &[usize],
        judging: &[usize],
        progress: &Progress,
    ) -> Result<(Trained, Option<String>)> {
        let stopping = Some(stopping);
        let with = self.fit(self.recipe, training, stopping, Pace::Search, "search", progress)?;
        if !self.asks_whether_events_help() || with.preprocess.events().is_none() {
            return Ok((with, None));
        }
        self.without_events = Some("the search looks whether they help".to_owned());
        let without = self.fit(self.recipe, training, stopping, Pace::Search, "search without events", progress)?;
        let gain = self.gain(&with, &without, judging)?;
        match gain.is_more_than_chance() {
            true => {
                self.without_events = None;
                Ok((with, Some(format!("`sequence` stays in the model: {gain}"))))
            }
            false => {
                self.without_events = Some(gain.to_string());
                Ok((without, None))
            }
        }
    }

    fn gain(&self, with: &Trained, without: &Trained, rows: &[usize]) -> Result<Gain> {
        let (customers, people) = self.data.people(rows);
        let (_, with) = self.outputs_and_losses(with, rows)?;
        let (_, without) = self.outputs_and_losses(without, rows)?;
        Ok(Gain::of(&with, &without, &customers, people))
    }
}

impl Gain {
    /// Of two models' losses, per head and row, before any calibration; each row is one of its customer's, of so many people.
    fn of(with: &RowLosses, without: &RowLosses, customers: &[u32], people: usize) -> Self {
        let drawn = resampled(people, RESAMPLES, |counts| {
            let weight = |row: usize| counts[customers[row] as usize];
            losses::together(without, weight) - losses::together(with, weight)
        });
        Gain {
            with: losses::together(with, |_| 1.0),
            without: losses::together(without, |_| 1.0),
            interval: interval(drawn.into_iter()),
        }
    }

    /// A gain that some draws of the same customers would not show is none.
    fn is_more_than_chance(&self) -> bool {
        self.interval.is_some_and(|[low, _]| low > 0.0)
    }
}

impl std::fmt::Display for Gain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Gain { with, without, interval } = self;
        write!(f, "the validation loss is {with:.4} with it and {without:.4} without")?;
        match interval {
            Some([low, high]) => write!(f, "; a gain of {:.4} (95 % interval {low:.4} to {high:.4})", without - with),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 200 customers with two rows each, whose losses differ from 1 by `shift` and by noise that is its own in each model.
    fn losses(shift: f64, salt: usize) -> RowLosses {
        let noise = |row: usize| ((row * 7919 + salt * 104_729) % 1000) as f64 / 1000.0 - 0.5;
        vec![(0..400).map(|row| (row % 10 != 0).then(|| 1.0 + shift + noise(row))).collect(), vec![None; 400]]
    }

    fn gain(shift: f64) -> Gain {
        let customers: Vec<u32> = (0..400).map(|row| row / 2).collect();
        Gain::of(&losses(shift, 3), &losses(0.0, 5), &customers, 200)
    }

    #[test]
    fn a_clear_gain_keeps_the_events_and_chance_does_not() {
        assert!(gain(-0.2).is_more_than_chance());
        assert!(!gain(0.0).is_more_than_chance());
        assert!(!gain(0.2).is_more_than_chance());
    }

    #[test]
    fn a_gain_is_told_with_both_losses() {
        let gain = Gain { with: 1.25, without: 1.5, interval: Some([0.125, 0.375]) };
        let text = "the validation loss is 1.2500 with it and 1.5000 without; a gain of 0.2500 (95 % interval 0.1250 to 0.3750)";
        assert_eq!(gain.to_string(), text);
    }

    #[test]
    fn losses_that_are_not_finite_keep_nothing() {
        let gain = Gain::of(&vec![vec![Some(f64::NAN); 4]], &vec![vec![Some(1.0); 4]], &[0, 1, 2, 3], 4);
        assert!(!gain.is_more_than_chance());
    }
}
