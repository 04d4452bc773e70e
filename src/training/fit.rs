//! One fit of the network: AdamW, dropout, clipped gradients, early stopping. The same seed gives the same weights.

use std::collections::HashMap;
use std::time::Instant;

use chrono::NaiveDate;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use super::adamw::{AdamW, Parameter};
use super::average::RunningMean;
use super::losses;
use super::schedule::{EpochRates, Pace};
use super::text_vectors::TextVectors;
use super::watch::{Epoch, Watch};
use crate::model::device;
use crate::model::encoder::Mode;
use crate::model::heads::Head;
use crate::model::network::{DECAYED, EventTensors, Inputs, Network, NetworkShape};
use crate::model::predict::matrix;
use crate::model::season;
use crate::printer::Progress;
use crate::spec::{Loss, TrainSpec};
use crate::{Result, failpoint};

/// Rows that go through the network at once when no gradient is needed.
const EVALUATED_AT_ONCE: usize = 8192;
/// Rows of one epoch at most: drawn anew each time. Snapshots of the same customers have much in common, so that more would
/// cost time and bring little; and the right moment to stop is met more finely.
const ROWS_PER_EPOCH: usize = 32_768;
/// Steps over which the step size rises from 0.
const WARM_UP_STEPS: usize = 20;
/// By how much per head a later epoch's validation loss may lie above the least one and still be taken: so small a rise is
/// noise, and weights from further down the schedule are the steadier ones.
const SLACK: f64 = 5e-3;

/// Rows as tensors.
#[derive(Debug)]
pub struct Examples {
    /// [n, inputs]
    pub numbers: Tensor,
    /// Per text column, the id of each row's text among the distinct ones; the one behind the last stands for no text.
    pub texts: Vec<Tensor>,
    /// The newest events of each row, if they are read.
    pub events: Option<EventTensors>,
    /// The day of each row.
    pub dates: Vec<NaiveDate>,
    /// Per head, one label per row; NaN where there is none. An mse label is standardised, a softmax label a class number.
    pub labels: Vec<Vec<f32>>,
}

impl Examples {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.labels.first().map_or(0, Vec::len)
    }

    fn inputs(&self, text: Option<&TextVectors>, rows: &[i64], mode: Mode) -> Result<Inputs<'_>> {
        let events = self.events.as_ref().map(|events| (events, rows.to_vec()));
        let rows = Tensor::f_from_slice(rows)?.f_to_device(self.numbers.device())?;
        let ids = self.texts.iter().map(|ids| Ok(ids.f_index_select(0, &rows)?)).collect::<Result<Vec<_>>>()?;
        let texts = text.map(|text| text.of(&ids, mode)).transpose()?.unwrap_or_default();
        Ok(Inputs { numbers: self.numbers.f_index_select(0, &rows)?, texts, events })
    }

    /// The network's raw outputs for all rows, without the season: n × members × outputs.
    pub fn outputs(&self, network: &Network, text: Option<&TextVectors>) -> Result<Vec<f64>> {
        let _guard = tch::no_grad_guard();
        let mut all = Vec::with_capacity(self.rows() * network.shape().members * network.shape().outputs);
        let rows: Vec<i64> = (0..self.rows() as i64).collect();
        for chunk in rows.chunks(EVALUATED_AT_ONCE) {
            all.extend(network.outputs(&self.inputs(text, chunk, Mode::Infer)?)?);
        }
        Ok(all)
    }
}

/// Where each head's raw outputs start, and how many there are in all.
pub fn offsets(heads: &[Head]) -> (Vec<usize>, usize) {
    let mut total = 0;
    let mut starts = Vec::with_capacity(heads.len());
    for head in heads {
        starts.push(total);
        total += head.width();
    }
    (starts, total)
}

/// What a fit came to.
#[derive(Debug)]
pub struct Fitted {
    /// The network with the best weights.
    pub network: Network,
    /// The epoch, counted from 1, after which they were taken.
    pub epochs: usize,
    /// The step size of each epoch up to it.
    pub rates: Vec<f64>,
    /// The loss of the validation rows with them; the training loss where there were none.
    pub loss: f64,
}

/// What a fit needs besides rows.
#[derive(Debug, Clone, Copy)]
pub struct FitOptions<'a> {
    /// Steps, sizes, seed.
    pub train: &'a TrainSpec,
    /// The share of hidden units dropped.
    pub dropout: f64,
    /// Per head, the factor of its loss in training.
    pub weights: &'a [f64],
    /// The step sizes, and epochs at most; one is a pass over the rows, or over a part of them where there are very many.
    pub pace: Pace<'a>,
    /// What the progress line calls it.
    pub what: &'a str,
    /// The vectors of the texts, if there are any; an encoder that learns is left with the weights that were chosen.
    pub text: Option<&'a TextVectors>,
    /// Who hears of every epoch.
    pub watch: &'a dyn Watch,
}

/// Fits a network to `examples`; with `validation`, stops when that has not become better for `patience` epochs and gives
/// the best weights, else runs all epochs.
pub fn fit(
    shape: &NetworkShape,
    heads: &[Head],
    examples: &Examples,
    validation: Option<&Examples>,
    options: FitOptions<'_>,
    progress: &Progress,
) -> Result<Fitted> {
    let _seeded = device::seed(options.train.seed);
    let mut shuffle = ChaCha8Rng::seed_from_u64(options.train.seed);
    let start: Vec<f64> = heads.iter().flat_map(|h| h.start.iter().copied()).collect();
    let mut network = Network::new(shape, options.dropout, &start, examples.numbers.device())?;
    network.place_bins(&examples.numbers)?;
    let FitOptions { train, text, .. } = options;
    let mut parameters = Parameter::of_store(network.store(), DECAYED, train.weight_decay);
    parameters.extend(text.iter().flat_map(|text| text.parameters(train.learning_rate, train.weight_decay)));
    let mut mean = RunningMean::new(parameters.iter().map(|parameter| parameter.variable.shallow_clone()).collect());
    let mut optimizer = AdamW::new(parameters, train.clip_norm)?;
    let labels = LabelTensors::new(heads, examples)?;
    let mut order: Vec<i64> = (0..examples.rows() as i64).collect();
    let mut best: Option<(f64, usize, Vec<Tensor>)> = None;
    let slack = SLACK * heads.len() as f64;
    let (mut step, mut rate) = (0, 0.0);
    let mut last_loss = f64::NAN;
    let started = Instant::now();
    let epochs = options.pace.epochs(options.train);
    let mut rates = EpochRates::new(options.train, options.pace);
    for epoch in 1..=epochs {
        if epoch > 1 {
            mean.swap()?;
        }
        failpoint::reach("train.epoch");
        let full = rates.next_epoch();
        order.shuffle(&mut shuffle);
        let mut sum = 0.0;
        let drawn = &order[..order.len().min(ROWS_PER_EPOCH)];
        for rows in drawn.chunks(options.train.batch) {
            step += 1;
            rate = full * (step as f64 / WARM_UP_STEPS as f64).min(1.0);
            let inputs = examples.inputs(text, rows, Mode::Train)?;
            let loss = labels.loss(heads, options.weights, &network.forward(&inputs, true)?, rows)?;
            optimizer.step(&loss, rate)?;
            mean.follow(step)?;
            sum += f64::try_from(&loss.detach())? * rows.len() as f64;
        }
        last_loss = sum / drawn.len().max(1) as f64;
        // Judged, kept and used are the mean weights.
        mean.swap()?;
        let losses = validation.map(|rows| validation_losses(heads, &network, text, rows)).transpose()?;
        let losses = losses.unwrap_or_default();
        let judged = if validation.is_some() { losses.iter().map(|(_, loss)| loss).sum() } else { last_loss };
        rates.hear(judged);
        options.watch.epoch(&Epoch {
            fit: options.what,
            number: epoch,
            training_loss: last_loss,
            validation_losses: &losses,
            learning_rate: rate,
        })?;
        progress.add(1);
        let left = started.elapsed().mul_f64((epochs - epoch) as f64 / epoch as f64);
        progress.note(format!(
            "{} epoch {epoch}/{epochs} loss {last_loss:.4}{} at most {}s left",
            options.what,
            if validation.is_some() { format!(" validation {judged:.4}") } else { String::new() },
            left.as_secs(),
        ));
        if validation.is_some() {
            match &best {
                Some((least, at, _)) if judged > least + slack || judged.is_nan() => {
                    if epoch - at >= options.train.patience {
                        break;
                    }
                }
                _ => {
                    let least = best.as_ref().map_or(judged, |(least, _, _)| least.min(judged));
                    best = Some((least, epoch, mean.weights()));
                }
            }
        }
    }
    match best {
        Some((loss, epochs, weights)) => {
            mean.restore(&weights)?;
            Ok(Fitted { network, epochs, rates: rates.first(epochs), loss })
        }
        None => Ok(Fitted { network, epochs, rates: rates.first(epochs), loss: last_loss }),
    }
}

/// Each head's name and loss of the members' common prediction.
fn validation_losses<'a>(
    heads: &'a [Head],
    network: &Network,
    text: Option<&TextVectors>,
    rows: &Examples,
) -> Result<Vec<(&'a str, f64)>> {
    let members = network.shape().members;
    let mut raw = rows.outputs(network, text)?;
    season::apply(heads, &mut raw, members, &rows.dates);
    let (starts, outputs) = offsets(heads);
    let losses = heads.iter().zip(&starts).zip(&rows.labels);
    let of = |((head, start), labels): ((&'a Head, &usize), &Vec<f32>)| {
        (head.name.as_str(), losses::of_ensemble(head, &raw, members, outputs, *start, labels))
    };
    Ok(losses.map(of).collect())
}

/// Labels, masks and seasons of all heads on the device.
struct LabelTensors {
    /// [n, heads]
    shifts: Tensor,
    labels: Vec<Tensor>,
    masks: Vec<Tensor>,
}

impl LabelTensors {
    fn new(heads: &[Head], examples: &Examples) -> Result<Self> {
        let device = examples.numbers.device();
        let mut known: HashMap<NaiveDate, Vec<f64>> = HashMap::new();
        let of = |date: &NaiveDate| known.entry(*date).or_insert_with(|| season::shifts(heads, *date)).clone();
        let shifts: Vec<f32> = examples.dates.iter().flat_map(of).map(|shift| shift as f32).collect();
        let tensor = |values: Vec<f32>| -> Result<Tensor> { Ok(Tensor::f_from_slice(&values)?.f_to_device(device)?) };
        let known = |labels: &Vec<f32>| tensor(labels.iter().map(|l| if l.is_nan() { 0.0 } else { *l }).collect());
        let mask = |labels: &Vec<f32>| tensor(labels.iter().map(|l| f32::from(!l.is_nan())).collect());
        Ok(LabelTensors {
            shifts: matrix(&shifts, examples.rows(), device)?,
            labels: examples.labels.iter().map(known).collect::<Result<_>>()?,
            masks: examples.labels.iter().map(mask).collect::<Result<_>>()?,
        })
    }

    fn loss(&self, heads: &[Head], weights: &[f64], raw: &Tensor, rows: &[i64]) -> Result<Tensor> {
        let rows = Tensor::f_from_slice(rows)?.f_to_device(raw.device())?;
        let shifts = self.shifts.f_index_select(0, &rows)?;
        let (starts, _) = offsets(heads);
        let mut total = Tensor::f_zeros([], (Kind::Float, raw.device()))?;
        for (i, (head, weight)) in heads.iter().zip(weights).enumerate() {
            let outputs = raw.f_narrow(2, starts[i] as i64, head.width() as i64)?;
            let outputs = season::shifted(head, &outputs, &shifts.f_select(1, i as i64)?)?;
            let (labels, mask) = (self.labels[i].f_index_select(0, &rows)?, self.masks[i].f_index_select(0, &rows)?);
            total = total.f_add(&losses::of_head(head, &outputs, &labels, &mask)?.f_mul_scalar(*weight)?)?;
        }
        Ok(total)
    }
}

/// Prepares a head for its labels: classes are known already; where it starts, how it is scaled, how far it may go.
pub fn prepare(head: &mut Head, labels: &[f64]) {
    let known: Vec<f64> = labels.iter().copied().filter(|l| l.is_finite()).collect();
    let n = known.len().max(1) as f64;
    let logit = |share: f64| {
        let p = share.clamp(1e-3, 1.0 - 1e-3);
        (p / (1.0 - p)).ln()
    };
    let moments = |values: &[f64]| {
        let n = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / n;
        (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
    };
    match head.loss {
        Loss::Bce => head.start = vec![logit(known.iter().sum::<f64>() / n)],
        Loss::Mse => {
            let (mean, sd) = moments(&known);
            head.scale = (mean, if sd > 0.0 { sd } else { 1.0 });
            head.start = vec![0.0];
        }
        Loss::Softmax => {
            let count = |class: usize| known.iter().filter(|l| **l as usize == class).count() as f64;
            head.start = (0..head.classes.len()).map(|class| ((count(class) + 1.0) / (n + 1.0)).ln()).collect();
        }
        Loss::Ziln => {
            let logs: Vec<f64> = known.iter().filter(|l| **l > 0.0).map(|l| l.ln()).collect();
            let (mu, sigma) = moments(&logs);
            let sigma = sigma.clamp(0.1, 5.0);
            head.cap = logs.iter().copied().fold(0.0, f64::max) + 2.0_f64.ln();
            let mean = known.iter().sum::<f64>() / n;
            head.scale = (0.0, if mean > 0.0 { mean } else { 1.0 });
            head.start = vec![logit(logs.len() as f64 / n), mu, sigma.exp_m1().ln(), 0.0];
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::Place;
    use crate::model::heads::Prediction;
    use crate::printer::{Output, Printer, Verbosity};
    use crate::spec::{EmbeddingSpec, HeadSpec, Schedule, SeasonSpec};
    use crate::training::Unwatched;

    pub(crate) fn spec() -> TrainSpec {
        TrainSpec {
            every_days: 30,
            count: 12,
            warmup_days: 60,
            validation_snapshots: 1,
            epochs: 40,
            batch: 64,
            learning_rate: 5e-3,
            schedule: Schedule::Constant,
            season: SeasonSpec::None,
            weight_decay: 1e-2,
            clip_norm: 1.0,
            patience: 5,
            seed: 7,
            rfm: None,
        }
    }

    fn shape(outputs: usize) -> NetworkShape {
        NetworkShape {
            inputs: 2,
            numeric: vec![0, 1],
            embedding: EmbeddingSpec::PiecewiseLinear { width: 2, bins: 4 },
            texts: 0,
            text_width: 0,
            sequence: None,
            hidden: vec![8],
            outputs,
            constant: Vec::new(),
            members: 2,
        }
    }

    fn head(loss: Loss) -> Head {
        Head::new(&HeadSpec {
            name: "h".into(),
            label: "l".into(),
            loss,
            weight: 1.0,
            family: None,
            direction: None,
            place: Place::file("job.yaml"),
        })
    }

    /// Two inputs in a grid; the first decides the label.
    fn grid(label: impl Fn(f32) -> f32) -> Examples {
        let points: Vec<[f32; 2]> =
            (0..400).map(|i| [(i % 20) as f32 / 10.0 - 1.0, (i / 20) as f32 / 10.0 - 1.0]).collect();
        Examples {
            numbers: Tensor::from_slice(&points.concat()).view([-1, 2]),
            texts: Vec::new(),
            events: None,
            dates: vec![NaiveDate::default(); 400],
            labels: vec![points.iter().map(|p| label(p[0])).collect()],
        }
    }

    fn run(head: &Head, examples: &Examples, validation: Option<&Examples>) -> Fitted {
        let train = spec();
        run_with(&train, Pace::Search, head, examples, validation)
    }

    fn run_with(
        train: &TrainSpec,
        pace: Pace<'_>,
        head: &Head,
        examples: &Examples,
        validation: Option<&Examples>,
    ) -> Fitted {
        let options =
            FitOptions { train, dropout: 0.1, weights: &[1.0], pace, what: "test", text: None, watch: &Unwatched };
        let progress = Printer::new(Verbosity::Quiet, Output::Human).progress("training", None);
        fit(&shape(head.width()), std::slice::from_ref(head), examples, validation, options, &progress).unwrap()
    }

    fn prepared(loss: Loss, examples: &Examples) -> Head {
        let mut head = head(loss);
        prepare(&mut head, &examples.labels[0].iter().map(|l| f64::from(*l)).collect::<Vec<_>>());
        head
    }

    #[test]
    fn it_learns_which_input_matters() {
        let examples = grid(|x| f32::from(x > 0.05));
        let head = prepared(Loss::Bce, &examples);
        let fitted = run(&head, &examples, Some(&examples));
        assert!(fitted.loss < 0.2, "{}", fitted.loss);
    }

    #[test]
    fn it_learns_a_value_with_zeros() {
        let examples = grid(|x| if x > 0.05 { (3.0 * x).exp() } else { 0.0 });
        let head = prepared(Loss::Ziln, &examples);
        let fitted = run(&head, &examples, Some(&examples));
        let raw = examples.outputs(&fitted.network, None).unwrap();
        let value = |row: usize| match head.predict(&[&raw[row * 8..row * 8 + 4], &raw[row * 8 + 4..row * 8 + 8]]) {
            Some(Prediction::Value { mean, .. }) => mean,
            other => panic!("{other:?}"),
        };
        assert!(value(200) < 0.5, "{}", value(200));
        assert!((value(219) - 2.7_f64.exp()).abs() < 4.0, "{}", value(219));
    }

    #[test]
    fn the_same_seed_gives_the_same_weights() {
        let examples = grid(|x| x * 2.0);
        let head = prepared(Loss::Mse, &examples);
        let (a, b) = (run(&head, &examples, None), run(&head, &examples, None));
        for ((name, a), (_, b)) in a.network.weights().iter().zip(&b.network.weights()) {
            assert!(a.equal(b), "{name}");
        }
    }

    #[test]
    fn a_second_fit_at_the_pace_of_the_first_goes_the_same_way() {
        let examples = grid(|x| f32::from(x > 0.05));
        let head = prepared(Loss::Bce, &examples);
        for schedule in [Schedule::Constant, Schedule::Cosine, Schedule::Plateau] {
            let train = TrainSpec { schedule, epochs: 6, patience: 2, ..spec() };
            let first = run_with(&train, Pace::Search, &head, &examples, Some(&examples));
            assert_eq!((first.rates.len(), first.rates[0]), (first.epochs, 5e-3));
            let second = run_with(&train, Pace::Again(&first.rates), &head, &examples, None);
            assert_eq!((second.epochs, &second.rates), (first.epochs, &first.rates));
            for ((name, a), (_, b)) in first.network.weights().iter().zip(&second.network.weights()) {
                assert!(a.equal(b), "{schedule:?} {name}");
            }
        }
    }

    #[test]
    fn it_stops_when_validation_gets_no_better() {
        let examples = grid(|x| f32::from(x > 0.05));
        let opposite = grid(|x| f32::from(x <= 0.05));
        let head = prepared(Loss::Bce, &examples);
        let fitted = run(&head, &examples, Some(&opposite));
        assert!(fitted.epochs <= 2, "{}", fitted.epochs);
    }

    #[test]
    fn heads_start_at_what_the_labels_say() {
        let mut bce = head(Loss::Bce);
        prepare(&mut bce, &[1.0, 1.0, 1.0, 0.0]);
        assert!((bce.start[0] - 3.0_f64.ln()).abs() < 1e-12);
        let mut ziln = head(Loss::Ziln);
        prepare(&mut ziln, &[0.0, 0.0, 1.0, std::f64::consts::E.powi(2), f64::NAN]);
        assert!(ziln.start[0].abs() < 1e-12 && (ziln.start[1] - 1.0).abs() < 1e-12);
        assert!((ziln.start[2].exp().ln_1p() - 1.0).abs() < 1e-12);
        assert_eq!((ziln.start[3], ziln.scale.0), (0.0, 0.0));
        assert!((ziln.scale.1 - (1.0 + std::f64::consts::E.powi(2)) / 4.0).abs() < 1e-12);
        assert!((ziln.cap - (2.0 + 2.0_f64.ln())).abs() < 1e-12);
    }
}
