//! Step sizes over the course of a training.

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
