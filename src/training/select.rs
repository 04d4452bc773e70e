//! The first fit: what can only be found out on rows that a model has not seen.

use super::baselines::Baselines;
use super::btyd::Phases;
use super::calibrate::{self, Harm, LevelEstimator, Seen};
use super::dataset::Dataset;
use super::dates::Dates;
use super::evaluation::{Evaluation, Judged, RESAMPLES};
use super::fit::Fitted;
use super::floor::{self, FloorShare};
use super::season::{Amplitude, SnapshotLevel, amplitude};
use super::train::{Room, Trained};
use super::validation::ValidationParts;
use crate::model::calibration::Calibration;
use crate::model::heads::{Head, Prediction};
use crate::model::manifest::Split;
use crate::model::predict::predictions;
use crate::model::rfm::RfmShare;
use crate::spec::Loss;
use crate::{AsOf, Result};

/// How the total of values is corrected. A factor measured on the first fit counts a drift twice, because the final fit
/// follows the newer rows by itself.
const LEVEL: LevelEstimator = LevelEstimator::Off;

/// Customers per snapshot, at most, that say where its level is: more would say the same.
const ROWS_PER_LEVEL: usize = 25_000;

/// Rows that train and rows that validate.
pub(super) fn split(data: &Dataset, dates: &Dates) -> (Vec<usize>, ValidationParts) {
    let of = |wanted: &[AsOf], fits: &dyn Fn(u8) -> bool| -> Vec<usize> {
        let dated = data.snapshots.iter().filter(|(date, _)| wanted.contains(date));
        dated.flat_map(|(_, rows)| rows.clone()).filter(|row| fits(data.folds[*row])).collect()
    };
    let (training, validating) = match dates.split {
        Split::ByTime => (of(&dates.training, &|_| true), of(&dates.validation, &|_| true)),
        Split::ByCustomer => (of(&dates.training, &|fold| fold != 0), of(&dates.validation, &|fold| fold == 0)),
    };
    (training, ValidationParts::of(&validating, &data.parts))
}

/// What the first fit found out.
pub(super) struct Selected {
    pub(super) epochs: usize,
    pub(super) rates: Vec<f64>,
    pub(super) loss: f64,
    /// Per head, why the RFM regression does not share in it.
    pub(super) harmed_by_rfm: Vec<Option<Harm>>,
    /// Per head, how strongly it follows the season.
    pub(super) amplitudes: Vec<Option<Amplitude>>,
    pub(super) corrections: Corrections,
    pub(super) evaluation: Evaluation,
}

/// What rows that a model has not seen say of its heads, in their order.
pub(super) struct Corrections {
    calibrations: Vec<Calibration>,
    floors: Vec<Option<FloorShare>>,
}

impl Corrections {
    /// By the rows at `places`; the heads come back with it.
    pub(super) fn find(heads: &[Head], seen: Seen<'_>, places: &[usize]) -> (Self, Vec<Head>) {
        let calibrations = calibrate::fit(heads, seen, places, LEVEL);
        let mut found = Corrections { calibrations, floors: vec![None; heads.len()] };
        let plain: Vec<_> = predictions(&uncalibrated(heads), seen.raw, seen.members);
        let plain: Vec<_> = places.iter().map(|place| plain[*place].clone()).collect();
        let heads = found.calibrated(heads, &plain);
        let all = predictions(&heads, seen.raw, seen.members);
        let predicted: Vec<_> = places.iter().map(|place| all[*place].clone()).collect();
        for (head, floor) in found.floors.iter_mut().enumerate().filter(|(head, _)| heads[*head].loss == Loss::Ziln) {
            let labels: Vec<f64> = places.iter().map(|place| seen.labels[head][*place]).collect();
            let scores = points(head, &predicted);
            if scores.len() == labels.len() && labels.iter().all(|label| !label.is_nan()) {
                *floor = floor::find(&labels, &scores);
            }
        }
        let heads = found.with_floors(heads, &predicted);
        (found, heads)
    }

    /// The heads with their calibrations, at the level of what they say of some rows without them.
    fn calibrated(&self, heads: &[Head], plain: &[Option<Vec<Prediction>>]) -> Vec<Head> {
        let with = |(place, (head, found)): (usize, (&Head, &Calibration))| {
            let probability = found.probability.as_ref().map(|map| map.at_level_of(&points(place, plain)));
            Head { calibration: Calibration { probability, ..found.clone() }, ..head.clone() }
        };
        heads.iter().zip(&self.calibrations).enumerate().map(with).collect()
    }

    /// Whether the calibrations or floors depend on the level of the model that takes them over.
    fn have_a_level(&self) -> bool {
        self.floors.iter().any(Option::is_some) || self.calibrations.iter().any(|found| found.probability.is_some())
    }

    /// Calibrated heads with their floors, at the level of what they predict.
    fn with_floors(&self, mut heads: Vec<Head>, predicted: &[Option<Vec<Prediction>>]) -> Vec<Head> {
        for (place, share) in self.floors.iter().enumerate() {
            heads[place].floor = share.and_then(|share| share.at(&points(place, predicted)));
        }
        heads
    }
}

impl Room<'_> {
    /// What the first fit says of rows that it has not seen: epochs, calibration, floors, and how good it is.
    pub(super) fn select(
        &self,
        mut trained: Trained,
        training: &[usize],
        validating: &ValidationParts,
        dates: &Dates,
        btyd: Option<&Phases>,
    ) -> Result<Selected> {
        let harmed_by_rfm = self.drop_harmful_rfm(&mut trained, &validating.stopping)?;
        let rows = validating.judged();
        let (raw, members) = self.outputs(&trained, &rows)?;
        let labels: Vec<Vec<f64>> =
            self.data.labels.iter().map(|labels| rows.iter().map(|row| labels[*row]).collect()).collect();
        let customers: Vec<u32> = rows.iter().map(|row| self.data.customers[*row]).collect();
        let seen = Seen { raw: &raw, members, labels: &labels, customers: &customers };
        let mut predicted = vec![None; rows.len()];
        for turn in validating.turns() {
            let (_, heads) = Corrections::find(&trained.heads, seen, &turn.calibrating);
            let mut said = predictions(&heads, &raw, members);
            turn.reported.iter().for_each(|place| predicted[*place] = said[*place].take());
        }
        let (corrections, _) = Corrections::find(&trained.heads, seen, &(0..rows.len()).collect::<Vec<_>>());

        let mut baselines = Baselines::fit(&trained.heads, &self.data, training, trained.rfm.as_ref());
        if let Some(models) = btyd {
            baselines.with_btyd(&models.selection, &trained.heads, &models.labels, &self.data, training);
        }
        let judged = Judged {
            heads: &trained.heads,
            data: &self.data,
            rows: &rows,
            predicted: &predicted,
            baselines: &baselines,
        };
        let dates = dates.validation.iter().map(AsOf::date).collect();
        let evaluation = Evaluation::of(dates, judged, &[], RESAMPLES)?;
        let amplitudes = self.amplitudes(&trained)?;
        let Fitted { epochs, rates, loss, .. } = trained.fitted;
        Ok(Selected { epochs, rates, loss, harmed_by_rfm, amplitudes, corrections, evaluation })
    }

    /// Takes the regression from the heads that it harms, by the rows that stopped the network; gives the harm, per head.
    fn drop_harmful_rfm(&self, trained: &mut Trained, rows: &[usize]) -> Result<Vec<Option<Harm>>> {
        if trained.rfm.is_none() {
            return Ok(vec![None; trained.heads.len()]);
        }
        let examples = self.examples(&trained.preprocess, &trained.heads, rows)?;
        let said = |trained: &Trained| -> Result<_> {
            let (raw, members) = self.outputs_of(trained, &examples, rows)?;
            Ok(predictions(&trained.heads, &raw, members))
        };
        let joined = said(trained)?;
        let shares: Vec<_> = trained.heads.iter_mut().map(|head| head.rfm.take()).collect();
        let alone = said(trained)?;
        let harm_of = |(place, share): (usize, Option<RfmShare>)| {
            let labels: Vec<f64> = rows.iter().map(|row| self.data.labels[place][*row]).collect();
            let harm = share.and_then(|_| calibrate::harm(&of_head(place, &alone), &of_head(place, &joined), &labels));
            trained.heads[place].rfm = share.filter(|_| harm.is_none());
            harm
        };
        Ok(shares.into_iter().enumerate().map(harm_of).collect())
    }

    /// How strongly the shop follows the season, head by head, by what a fit says of every snapshot.
    fn amplitudes(&self, trained: &Trained) -> Result<Vec<Option<Amplitude>>> {
        let mut levels = vec![Vec::new(); trained.heads.len()];
        if trained.heads.iter().all(|head| head.season.is_none()) {
            return Ok(vec![None; levels.len()]);
        }
        let drawn = self.data.snapshots.iter().map(|(date, rows)| {
            let step = rows.len().div_ceil(ROWS_PER_LEVEL).max(1);
            (date.date(), rows.clone().step_by(step).collect::<Vec<_>>())
        });
        let drawn: Vec<_> = drawn.collect();
        let rows: Vec<usize> = drawn.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
        let (raw, members) = self.outputs(trained, &rows)?;
        let said = predictions(&trained.heads, &raw, members);
        let mut rest = &said[..];
        for (date, rows) in &drawn {
            let (said, behind) = rest.split_at(rows.len());
            rest = behind;
            for (place, (head, levels)) in trained.heads.iter().zip(&mut levels).enumerate() {
                let labels: Vec<f64> = rows.iter().map(|row| self.data.labels[place][*row]).collect();
                levels.extend(SnapshotLevel::of(head, *date, &of_head(place, said), &labels));
            }
        }
        let of = |(head, levels): (&Head, &Vec<SnapshotLevel>)| head.season.map(|s| amplitude(s.days, levels));
        Ok(trained.heads.iter().zip(&levels).map(of).collect())
    }

    /// The heads of the final fit with the corrections that the first fit found. Curves and floors stand at the final fit's own
    /// level: that of what it says of the newest snapshot.
    pub(super) fn corrected(
        &self,
        last: &Trained,
        corrections: &Corrections,
        everything: &[usize],
        dates: &Dates,
    ) -> Result<Vec<Head>> {
        if !corrections.have_a_level() {
            return Ok(corrections.calibrated(&last.heads, &[]));
        }
        let newest = self.data.snapshots.iter().find(|(d, _)| Some(d) == dates.all.first());
        let rows = newest.map_or_else(|| everything.to_vec(), |(_, rows)| rows.clone().collect());
        let (raw, members) = self.outputs(last, &rows)?;
        let heads = corrections.calibrated(&last.heads, &predictions(&uncalibrated(&last.heads), &raw, members));
        let predicted = predictions(&heads, &raw, members);
        Ok(corrections.with_floors(heads, &predicted))
    }
}

/// The heads without what validation corrects, each by itself.
fn uncalibrated(heads: &[Head]) -> Vec<Head> {
    let plain = |head: &Head| Head { calibration: Calibration::default(), floor: None, family: None, ..head.clone() };
    heads.iter().map(plain).collect()
}

fn of_head(head: usize, predicted: &[Option<Vec<Prediction>>]) -> Vec<Option<Prediction>> {
    predicted.iter().map(|row| row.as_ref().map(|row| row[head])).collect()
}

fn points(head: usize, predicted: &[Option<Vec<Prediction>>]) -> Vec<f64> {
    predicted.iter().filter_map(|row| row.as_ref().map(|row| row[head].point())).collect()
}
