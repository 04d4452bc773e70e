//! From snapshots to a bundle.
//!
//! 1. The newest snapshots validate: a first fit on the older ones stops early on some of their customers, which says how
//!    many epochs are right; the others calibrate it and are what the reported metrics are about, in turn.
//! 2. The bundle's model is a second fit, on all snapshots, for that many epochs with the same step sizes, and with the calibration of the first: the
//!    newest behaviour is in it, and it was chosen by rows that it had not seen. No scale is fitted to the total: measured on
//!    several shops, such a factor counts a drift twice once the model is fitted again on newer rows.

use std::collections::BTreeMap;
use std::rc::Rc;

use chrono::NaiveDate;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::baselines::Baselines;
use super::btyd::Phases;
use super::calibrate::Harm;
use super::dataset::{Dataset, Gatherer};
use super::evaluation::Evaluation;
use super::fit::{self, Examples, FitOptions, Fitted, offsets};
use super::gather::{Gathered, gather, nobody, plan};
use super::losses::{self, RowLosses};
use super::schedule::Pace;
use super::season::Amplitude;
use super::select::split;
use super::snapshots::SnapshotSource;
use super::text_vectors::{TextInputs, TextVectors};
use super::watch::{Unwatched, Watch};
use crate::model::Bundle;
use crate::model::bundle::BundleParts;
use crate::model::files::check_replaceable;
use crate::model::heads::Head;
use crate::model::manifest::{BundleManifest, FeatureEntry, LAYOUT, Split, TrainingSummary};
use crate::model::network::{EventTensors, NetworkShape, SequenceShape};
use crate::model::predict::matrix;
use crate::model::preprocess::{EventsEncoding, Preprocess};
use crate::model::rfm::Rfm;
use crate::model::season::{self, Season};
use crate::printer::Printer;
use crate::spec::{EntityTask, Loss, ModelSpec, SeasonSpec, SequenceSpec, TrainSpec};
use crate::{AsOf, Error, Result};

/// A training job's parts, as far as training needs them.
#[derive(Debug, Clone, Copy)]
pub struct TrainJob<'a> {
    /// The job's name.
    pub name: &'a str,
    /// The task with its model.
    pub task: &'a EntityTask,
    /// Where it computes.
    pub device: Device,
}

/// What a training came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainingReport {
    /// The bundle's folder.
    pub bundle: String,
    /// The version of the model in it.
    pub model_version: String,
    /// How it was trained.
    pub training: TrainingSummary,
    /// How good it is on the validation snapshots, beside the baselines.
    pub validation: Evaluation,
}

impl TrainingReport {
    /// The report as text.
    pub fn table(&self) -> String {
        let t = &self.training;
        let dates = |dates: &[NaiveDate]| dates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut text = format!("model {} in {}\n", self.model_version, self.bundle);
        text.push_str(&format!("{} rows of {} snapshots: {}\n", t.rows, t.snapshots.len(), dates(&t.snapshots)));
        let split = match t.split {
            Split::ByTime => {
                format!("validated on {}, which no training label reaches", dates(&t.validation_snapshots))
            }
            Split::ByCustomer => "validated on a fifth of the customers: too few snapshots to split by time".to_owned(),
        };
        text.push_str(&format!(
            "{split}: {} rows stop, {} calibrate and are reported in turn; {} epochs\n",
            t.stopping_rows, t.validation_rows, t.epochs
        ));
        t.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
        text.push_str(&format!("\nvalidation: {}", self.validation.table()));
        text
    }
}

/// Trains on snapshots from `source` and writes the bundle.
pub async fn train_from(
    source: &dyn SnapshotSource,
    job: TrainJob<'_>,
    as_of: AsOf,
    printer: &Printer,
) -> Result<TrainingReport> {
    train_watched(source, job, as_of, printer, &Unwatched).await
}

/// As [`train_from`]; `watch` hears of every epoch.
pub async fn train_watched(
    source: &dyn SnapshotSource,
    job: TrainJob<'_>,
    as_of: AsOf,
    printer: &Printer,
    watch: &dyn Watch,
) -> Result<TrainingReport> {
    let plan = plan(source, job.task, as_of).await?;
    let model = &plan.trained;
    // Sooner than after hours of training.
    check_replaceable(&model.bundle, job.name).map_err(|e| e.at(model.bundle_place.clone()))?;
    let Gathered { gatherer, dates, mut data } = gather(source, job.task, &plan, as_of, printer).await?;
    let (training, validating) = split(&data, &dates);
    let judged = validating.judged().len();
    if training.is_empty() || validating.stopping.is_empty() || judged == 0 {
        return Err(nobody());
    }

    let btyd = Phases::fit(&plan, &gatherer, &data, &dates, as_of).await?;
    if let Some(models) = &btyd {
        models.selection.extend(&mut data.table)?;
    }
    let heads = seasonal_heads(&gatherer, &job.task.train);
    let recipe = Recipe { model, train: &job.task.train };
    let mut room = Room::new(job, recipe, data, heads, watch)?;
    let fits = if room.asks_whether_events_help() { 3 } else { 2 };
    let progress = printer.progress("training", Some(fits * job.task.train.epochs as u64));
    let (searched, verdict) = room.search(&training, &validating.stopping, &validating.judged(), &progress)?;
    let first = room.select(searched, &training, &validating, &dates, btyd.as_ref())?;
    watch.validated(first.epochs, &first.evaluation)?;
    if let Some(models) = &btyd {
        models.last.extend(&mut room.data.table)?;
    }
    room.follow_season(&first.amplitudes);
    let everything: Vec<usize> = (0..room.data.table.rows()).collect();
    let mut last = room.fit(recipe, &everything, None, Pace::Again(&first.rates), "final fit", &progress)?;
    for (head, harm) in last.heads.iter_mut().zip(&first.harmed_by_rfm) {
        head.rfm = head.rfm.filter(|_| harm.is_none());
    }
    progress.done(format!("{} epochs, validation loss {:.4}", first.epochs, first.loss));
    let heads = room.corrected(&last, &first.corrections, &everything, &dates)?;
    let mut baselines = Baselines::fit(&heads, &room.data, &everything, last.rfm.as_ref());
    let mut notes = gatherer.notes(&room.data);
    notes.extend(self::notes(&last.preprocess, &heads));
    for (head, found) in heads.iter().zip(&first.amplitudes) {
        let Some(Amplitude { factor, error, snapshots }) = found else { continue };
        notes.push(format!(
            "`{}` follows the season of all online shops {factor:.2} ± {error:.2} times, by {snapshots} snapshots",
            head.name
        ));
    }
    for (head, harm) in heads.iter().zip(&first.harmed_by_rfm) {
        let Some(Harm { mean, error }) = harm else { continue };
        notes.push(format!(
            "`{}` takes nothing from the RFM regression: its loss rose by {mean:.4} ± {error:.4}",
            head.name
        ));
    }
    notes.extend(verdict);
    notes.extend(last.text.as_ref().and_then(TextVectors::note));
    if let Some(models) = &btyd {
        baselines.with_btyd(&models.last, &heads, gatherer.labels(), &room.data, &everything);
        notes.extend(models.notes());
    }
    let (heads, extrapolations) = plan.all_heads(heads, btyd.as_ref());
    baselines.with_extrapolated(&heads, &extrapolations);

    let manifest = BundleManifest {
        layout: LAYOUT,
        tenure: env!("CARGO_PKG_VERSION").into(),
        model_version: String::new(),
        job: job.name.into(),
        trained_as_of: as_of.date(),
        timezone: as_of.timezone().name().into(),
        key: job.task.entity.key.clone(),
        features: source.features().iter().map(FeatureEntry::from).collect(),
        sql: source.feature_hashes(),
        label_sql: source.label_hashes(),
        horizon_days: plan.horizon_days(source.labels()),
        text: last.text.as_ref().map(|text| text.entry(room.text_columns())),
        network: last.fitted.network.shape().clone(),
        training: TrainingSummary {
            snapshots: dates.all.iter().map(AsOf::date).collect(),
            validation_snapshots: dates.validation.iter().map(AsOf::date).collect(),
            split: dates.split,
            rows: everything.len(),
            validation_rows: judged,
            stopping_rows: validating.stopping.len(),
            epochs: first.epochs,
            validation_loss: first.loss,
            seed: job.task.train.seed,
            dropout: model.dropout,
            notes,
        },
        heads,
        rfm: last.rfm.clone(),
        btyd: btyd.map(|models| models.last),
        extrapolations,
        validation: Some(first.evaluation.clone()),
        files: BTreeMap::new(),
    };
    let parts = BundleParts {
        preprocess: &last.preprocess,
        weights: last.fitted.network.weights(),
        baselines: &baselines,
        encoder: last.text.as_ref().map(TextVectors::part),
    };
    let manifest = Bundle::write(&model.bundle, manifest, parts)?;
    Ok(TrainingReport {
        bundle: model.bundle.display().to_string(),
        model_version: manifest.model_version,
        training: manifest.training,
        validation: first.evaluation,
    })
}

/// The heads as the labels met make them, with the season that the job gives them.
pub(super) fn seasonal_heads(gatherer: &Gatherer<'_>, train: &TrainSpec) -> Vec<Head> {
    let mut heads = gatherer.heads();
    if train.season == SeasonSpec::Retail {
        for (head, label) in heads.iter_mut().zip(gatherer.labels()) {
            head.season = Season::of(&head.loss, label.horizon_days, label.default);
        }
    }
    heads
}

fn notes(preprocess: &Preprocess, heads: &[Head]) -> Vec<String> {
    let mut notes = preprocess.notes();
    for head in heads {
        if let Some(rfm) = &head.rfm {
            notes.push(format!("`{}`: {:.0} % is what the RFM regression says", head.name, 100.0 * rfm.share));
        }
        notes.extend(head.calibration.notes(&head.name));
        if let Some(floor) = &head.floor {
            notes.push(format!(
                "`{}`: the {:.0} % smallest values share their mean; on validation Spearman goes from {:.4} to {:.4}",
                head.name,
                100.0 * floor.share,
                floor.spearman.0,
                floor.spearman.1
            ));
        }
    }
    notes
}

fn sequence_shape((events, spec): (&EventsEncoding, &SequenceSpec)) -> SequenceShape {
    SequenceShape {
        encoder: spec.encoder,
        length: spec.length,
        width: spec.width,
        layers: spec.layers,
        numbers: events.numbers(),
        vocabularies: events.vocabularies(),
    }
}

/// The settings of one fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe<'a> {
    pub(super) model: &'a ModelSpec,
    pub(super) train: &'a TrainSpec,
}

/// Everything that all fits share.
pub(super) struct Room<'a> {
    pub(super) job: TrainJob<'a>,
    pub(super) recipe: Recipe<'a>,
    pub(super) data: Dataset,
    heads: Vec<Head>,
    text: Option<Rc<TextInputs>>,
    /// Why the events are not read, where the job has some and they did not help.
    pub(super) without_events: Option<String>,
    watch: &'a dyn Watch,
}

/// A fit with all that was fitted for it.
pub(super) struct Trained {
    pub(super) preprocess: Preprocess,
    pub(super) heads: Vec<Head>,
    pub(super) rfm: Option<Rfm>,
    pub(super) fitted: Fitted,
    pub(super) text: Option<TextVectors>,
}

impl<'a> Room<'a> {
    /// Loads the text encoder, and embeds the texts.
    pub(super) fn new(
        job: TrainJob<'a>,
        recipe: Recipe<'a>,
        data: Dataset,
        heads: Vec<Head>,
        watch: &'a dyn Watch,
    ) -> Result<Self> {
        let text = recipe.model.text.as_ref();
        let text = text.map(|text| TextInputs::new(text, &data.table, job.device)).transpose()?;
        Ok(Room { job, recipe, data, heads, text, without_events: None, watch })
    }

    /// Heads follow the season as strongly as snapshots showed, from the next fit on.
    fn follow_season(&mut self, amplitudes: &[Option<Amplitude>]) {
        for (head, found) in self.heads.iter_mut().zip(amplitudes) {
            if let (Some(season), Some(found)) = (&mut head.season, found) {
                season.amplitude = found.factor;
            }
        }
    }

    /// The text columns in the order of the features, which is that of the inputs.
    fn text_columns(&self) -> Vec<String> {
        let names = self.recipe.model.text.as_ref().map_or(&[][..], |t| &t.columns);
        let in_order = self.data.table.columns().map(|(name, _, _)| name.to_owned());
        in_order.filter(|name| names.contains(name)).collect()
    }

    /// Rows as tensors.
    pub(super) fn examples(&self, preprocess: &Preprocess, heads: &[Head], rows: &[usize]) -> Result<Examples> {
        let device = self.job.device;
        let width = preprocess.width();
        let all = preprocess.transform(&self.data.table)?;
        let mut values = Vec::with_capacity(rows.len() * width);
        rows.iter().for_each(|row| values.extend_from_slice(&all[row * width..(row + 1) * width]));
        let numbers = matrix(&values, rows.len(), device)?;
        let mut texts = Vec::new();
        if let Some(text) = &self.text {
            let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
            let rows = Tensor::f_from_slice(&rows)?.f_to_device(device)?;
            for ids in text.ids() {
                texts.push(ids.f_index_select(0, &rows)?);
            }
        }
        let scaled = |head: &Head, label: f64| match head.loss {
            Loss::Mse => (label - head.scale.0) / head.scale.1,
            _ => label,
        };
        let labels = heads.iter().zip(&self.data.labels);
        let labels =
            labels.map(|(head, all)| rows.iter().map(|row| scaled(head, all[*row]) as f32).collect()).collect();
        let all = self.data.table.dates();
        let dates = rows.iter().map(|row| all[*row]).collect();
        let events = preprocess.encode_events(&self.data.table)?;
        let events = events.map(|all| EventTensors::new(&all.of_rows(rows), Kind::Float, device)).transpose()?;
        Ok(Examples { numbers, texts, events, dates, labels })
    }

    /// Fits preprocessing, regression and network on `rows` by a recipe; stops early by `validating`, if there are such rows.
    pub(super) fn fit(
        &self,
        recipe: Recipe<'_>,
        rows: &[usize],
        validating: Option<&[usize]>,
        pace: Pace<'_>,
        what: &str,
        progress: &crate::printer::Progress,
    ) -> Result<Trained> {
        let mut preprocess = Preprocess::fit(&self.data.table, rows);
        if let Some(why) = &self.without_events {
            preprocess.without_events(why);
        }
        let mut heads = self.heads.clone();
        for (head, labels) in heads.iter_mut().zip(&self.data.labels) {
            let known: Vec<f64> = rows.iter().map(|row| labels[*row]).collect();
            if known.iter().all(|label| label.is_nan()) {
                return Err(Error::user(format!("the head `{}` has no label in any training row", head.name)));
            }
            fit::prepare(head, &known);
        }
        let rfm = self.job.task.train.rfm.as_ref();
        let rfm = rfm.map(|rfm| Rfm::fit(rfm, &heads, &self.data.table, &self.data.labels, rows)).transpose()?;
        let (starts, outputs) = offsets(&heads);
        // One sigma for all customers: measured on validation snapshots, a sigma of their own makes exp(sigma² / 2) a noisy
        // factor of every expected value, and values rank worse.
        let sigma = |(head, start): (&Head, &usize)| (head.loss == Loss::Ziln).then_some(start + 2);
        let constant = heads.iter().zip(&starts).filter_map(sigma).collect();
        let shape = NetworkShape {
            inputs: preprocess.width(),
            numeric: preprocess.numeric(),
            embedding: recipe.model.embedding,
            texts: self.text.as_ref().map_or(0, |text| text.ids().len()),
            text_width: self.text.as_ref().map_or(0, |text| text.width()),
            sequence: preprocess.events().zip(recipe.model.sequence.as_ref()).map(sequence_shape),
            hidden: recipe.model.hidden.clone(),
            outputs,
            constant,
            members: recipe.model.members,
        };
        if shape.inputs == 0 && shape.texts == 0 && shape.sequence.is_none() {
            return Err(Error::user("no feature differs between customers, so there is nothing to learn from"));
        }
        let examples = self.examples(&preprocess, &heads, rows)?;
        let validation = validating.map(|rows| self.examples(&preprocess, &heads, rows)).transpose()?;
        let weights: Vec<f64> = recipe.model.heads.iter().map(|head| head.weight).collect();
        let mut text = self.text.as_ref().map(|text| text.vectors(recipe.train.seed)).transpose()?;
        let options = FitOptions {
            train: recipe.train,
            dropout: recipe.model.dropout,
            weights: &weights,
            pace,
            what,
            text: text.as_ref(),
            watch: self.watch,
        };
        let fitted = fit::fit(&shape, &heads, &examples, validation.as_ref(), options, progress)?;
        text.as_mut().map(TextVectors::merge).transpose()?;
        if !fitted.loss.is_finite() {
            return Err(Error::user("training diverged: the loss is not finite")
                .hint("lower `train.learning_rate`, and look for features or labels of absurd size"));
        }
        let mut trained = Trained { preprocess, heads, rfm, fitted, text };
        self.share_with_rfm(&mut trained, rows)?;
        Ok(trained)
    }

    /// Gives the regression its share of every head that it speaks of, at the level of what the network says of the newest
    /// snapshot's rows: those of the days to come will be most like them.
    fn share_with_rfm(&self, trained: &mut Trained, rows: &[usize]) -> Result<()> {
        let Some(rfm) = &trained.rfm else { return Ok(()) };
        let dates = self.data.table.dates();
        let newest = rows.iter().map(|row| dates[*row]).max();
        let rows: Vec<usize> = rows.iter().copied().filter(|row| Some(dates[*row]) == newest).collect();
        let examples = self.examples(&trained.preprocess, &trained.heads, &rows)?;
        let raw = examples.outputs(&trained.fitted.network, trained.text.as_ref())?;
        let members = trained.fitted.network.shape().members;
        let shares = rfm.shares(&trained.heads, &raw, members, &self.data.table, &rows)?;
        trained.heads.iter_mut().zip(shares).for_each(|(head, share)| head.rfm = share);
        Ok(())
    }

    /// A fit's raw outputs for rows, with the regression and the season: rows × members × outputs, and how many members it has.
    pub(super) fn outputs(&self, trained: &Trained, rows: &[usize]) -> Result<(Vec<f64>, usize)> {
        self.outputs_of(trained, &self.examples(&trained.preprocess, &trained.heads, rows)?, rows)
    }

    /// As [`Self::outputs`], of rows that are tensors already.
    pub(super) fn outputs_of(
        &self,
        trained: &Trained,
        examples: &Examples,
        rows: &[usize],
    ) -> Result<(Vec<f64>, usize)> {
        let members = trained.fitted.network.shape().members;
        let mut raw = examples.outputs(&trained.fitted.network, trained.text.as_ref())?;
        if let Some(rfm) = &trained.rfm {
            rfm.join(&trained.heads, &mut raw, members, &self.data.table, rows.iter().copied())?;
        }
        season::apply(&trained.heads, &mut raw, members, &examples.dates);
        Ok((raw, members))
    }

    /// A fit's raw outputs for rows, and per head the loss of each row before any calibration.
    pub(super) fn outputs_and_losses(&self, trained: &Trained, rows: &[usize]) -> Result<(Vec<f64>, RowLosses)> {
        let examples = self.examples(&trained.preprocess, &trained.heads, rows)?;
        let (raw, members) = self.outputs_of(trained, &examples, rows)?;
        let losses = losses::of_rows(&trained.heads, &raw, members, &examples.labels);
        Ok((raw, losses))
    }
}
