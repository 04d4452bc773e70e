//! Step sizes over the course of a training.

use std::f64::consts::PI;

use crate::spec::{Schedule, TrainSpec};

/// Rises linearly from 0 to the peak, then falls linearly to 0; `transformers`' `get_linear_schedule_with_warmup`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearSchedule {
    peak: f64,
    warmup: usize,
    steps: usize,
}

impl LinearSchedule {
    /// A schedule of `steps` steps, of which the share `warmup` (rounded up) rises.
    pub fn new(peak: f64, steps: usize, warmup: f64) -> Self {
        let rising = (warmup.clamp(0.0, 1.0) * steps as f64).ceil() as usize;
        LinearSchedule { peak, warmup: rising, steps }
    }

    /// The step size of a step, counted from 0.
    pub fn at(&self, step: usize) -> f64 {
        let share = if step < self.warmup {
            step as f64 / self.warmup as f64
        } else {
            self.steps.saturating_sub(step) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64
        };
        self.peak * share
    }
}

/// Which step sizes a fit follows.
#[derive(Debug, Clone, Copy)]
pub enum Pace<'a> {
    /// The job's schedule, for its epochs at most.
    Search,
    /// Those of an earlier fit, one per epoch: the final fit learns at the speed at which the right epoch was found.
    Again(&'a [f64]),
}

impl Pace<'_> {
    /// Epochs at most.
    pub fn epochs(&self, train: &TrainSpec) -> usize {
        match self {
            Pace::Search => train.epochs,
            Pace::Again(rates) => rates.len(),
        }
    }
}

/// The step size of each epoch, one after the other.
#[derive(Debug)]
pub struct EpochRates<'a> {
    train: &'a TrainSpec,
    pace: Pace<'a>,
    /// Those of the epochs so far.
    given: Vec<f64>,
    /// How often the rate was halved.
    halved: i32,
    /// The least loss so far, and the epochs since it or since the rate was halved.
    least: (f64, usize),
}

impl<'a> EpochRates<'a> {
    /// Before the first epoch.
    pub fn new(train: &'a TrainSpec, pace: Pace<'a>) -> Self {
        EpochRates { train, pace, given: Vec::new(), halved: 0, least: (f64::INFINITY, 0) }
    }

    /// The step size of the next epoch.
    pub fn next_epoch(&mut self) -> f64 {
        let done = self.given.len();
        let peak = self.train.learning_rate;
        let rate = match (self.pace, self.train.schedule) {
            (Pace::Again(rates), _) => rates.get(done).copied().unwrap_or(0.0),
            (Pace::Search, Schedule::Constant) => peak,
            (Pace::Search, Schedule::Cosine) => {
                peak * (1.0 + (PI * done as f64 / self.train.epochs.max(1) as f64).cos()) / 2.0
            }
            (Pace::Search, Schedule::Plateau) => peak * 0.5_f64.powi(self.halved),
        };
        self.given.push(rate);
        rate
    }

    /// Hears what loss the epoch came to.
    pub fn hear(&mut self, loss: f64) {
        let (least, since) = self.least;
        self.least = if loss < least { (loss, 0) } else { (least, since + 1) };
        if self.least.1 >= self.train.patience.div_ceil(2) {
            self.halved += 1;
            self.least.1 = 0;
        }
    }

    /// The step sizes of the first `epochs`.
    pub fn first(&self, epochs: usize) -> Vec<f64> {
        self.given.iter().take(epochs).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::fit::tests::spec;

    #[test]
    fn the_step_size_rises_to_the_peak_and_falls_to_zero() {
        let schedule = LinearSchedule::new(2e-5, 10, 0.2);
        let sizes: Vec<f64> = (0..=10).map(|step| schedule.at(step) / 2e-5).collect();
        let right = [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0];
        assert!(sizes.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-12), "{sizes:?}");
        assert_eq!(schedule.at(99), 0.0);
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_peak() {
        assert_eq!(LinearSchedule::new(0.1, 4, 0.0).at(0), 0.1);
        assert_eq!(LinearSchedule::new(0.1, 0, 0.5).at(0), 0.0);
    }

    /// The step sizes of these epochs, as shares of the peak.
    fn shares(schedule: Schedule, epochs: usize, losses: &[f64]) -> Vec<f64> {
        let train = TrainSpec { schedule, epochs, learning_rate: 0.2, patience: 4, ..spec() };
        let mut rates = EpochRates::new(&train, Pace::Search);
        losses.iter().for_each(|loss| {
            rates.next_epoch();
            rates.hear(*loss);
        });
        rates.first(losses.len()).iter().map(|rate| rate / 0.2).collect()
    }

    #[test]
    fn a_cosine_falls_from_the_peak_to_nothing_after_the_last_epoch() {
        let found = shares(Schedule::Cosine, 4, &[1.0; 5]);
        let right = [1.0, 0.5 + 0.5_f64.sqrt() / 2.0, 0.5, 0.5 - 0.5_f64.sqrt() / 2.0, 0.0];
        assert!(found.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        assert_eq!(shares(Schedule::Constant, 4, &[1.0; 3]), [1.0; 3]);
    }

    #[test]
    fn a_plateau_halves_after_half_the_patience_without_a_better_loss() {
        let losses = [3.0, 2.0, 2.5, 2.2, 1.0, 1.0, f64::NAN, 1.5, 1.5];
        assert_eq!(shares(Schedule::Plateau, 9, &losses), [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]);
    }

    #[test]
    fn the_same_pace_again_has_the_same_step_sizes_whatever_is_heard() {
        let train = TrainSpec { schedule: Schedule::Plateau, patience: 2, ..spec() };
        let mut search = EpochRates::new(&train, Pace::Search);
        for loss in [2.0, 3.0, 1.0, 4.0, 5.0] {
            search.next_epoch();
            search.hear(loss);
        }
        let found = search.first(4);
        let mut again = EpochRates::new(&train, Pace::Again(&found));
        assert_eq!(Pace::Again(&found).epochs(&train), 4);
        for rate in &found {
            assert_eq!(again.next_epoch(), *rate);
            again.hear(9.0);
        }
    }
}
