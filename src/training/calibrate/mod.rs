//! What a fitted model gets wrong in the same way for everybody, found on rows that it has not seen: probabilities that are
//! too sure of themselves, intervals that are too narrow, a total that is off.
//!
//! Validating snapshots differ from the training ones in two ways: a model has not seen them, and they have another level: more
//! or fewer people buy than before, for more or less. The first comes again with later rows, the second does not: the final fit
//! has followed the newer rows, and what comes next is another season. So probabilities and intervals are calibrated after the
//! labels' level was taken out, and the level is [`LevelEstimator`]'s alone.

mod level;
mod probability;
mod quantiles;
mod share;

use crate::model::calibration::Calibration;
use crate::model::heads::{Head, Ziln};
use crate::model::predict::members_of;
use crate::spec::Loss;

pub use level::LevelEstimator;
pub use share::{Harm, harm};

/// What a network says of some rows, and what happened to them.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Raw outputs: rows × members × outputs.
    pub raw: &'a [f64],
    /// Members of the network.
    pub members: usize,
    /// Per head, the labels of the rows; NaN where there is none.
    pub labels: &'a [Vec<f64>],
    /// Per row, the number of its customer.
    pub customers: &'a [u32],
}

/// A row of one head.
#[derive(Debug, Clone, Copy)]
struct Row<T> {
    said: T,
    label: f64,
    customer: u32,
}

/// What a value's head says before calibration.
#[derive(Debug, Clone, Copy)]
struct Value {
    mean: f64,
    distribution: Ziln,
}

/// The calibration of every head by the rows at `places`; a head with too few of them is left as it is.
pub fn fit(heads: &[Head], seen: Seen<'_>, places: &[usize], level: LevelEstimator) -> Vec<Calibration> {
    let of_head = |(place, head): (usize, &Head)| {
        let plain = Head { calibration: Calibration::default(), floor: None, ..head.clone() };
        let point = |parts: &[&[f64]]| plain.predict(parts).map(|prediction| prediction.point());
        match head.loss {
            Loss::Bce => {
                let rows = seen.rows(heads, place, places, point);
                Calibration { probability: probability::choose(&rows), ..Calibration::default() }
            }
            Loss::Ziln => {
                let said = |parts: &[&[f64]]| {
                    let members: Vec<Ziln> = parts.iter().map(|raw| Ziln::of_raw(raw)).collect();
                    point(parts).map(|mean| Value { mean, distribution: Ziln::mix(&members) })
                };
                let rows = seen.rows(heads, place, places, said);
                let level = level.estimate(&rows);
                Calibration { quantiles: quantiles::fit(&rows, head.cap), level, ..Calibration::default() }
            }
            Loss::Mse | Loss::Softmax => Calibration::default(),
        }
    };
    heads.iter().enumerate().map(of_head).collect()
}

impl Seen<'_> {
    /// The rows at `places` that have a label and a finite output.
    fn rows<T>(
        &self,
        heads: &[Head],
        head: usize,
        places: &[usize],
        said: impl Fn(&[&[f64]]) -> Option<T>,
    ) -> Vec<Row<T>> {
        let row = |place: &usize| {
            let label = self.labels[head][*place];
            let said = said(&members_of(heads, self.raw, self.members, *place, head))?;
            (!label.is_nan()).then_some(Row { said, label, customer: self.customers[*place] })
        };
        places.iter().filter_map(row).collect()
    }
}
