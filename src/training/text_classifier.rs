//! The text-only job: fine-tunes a pretrained BERT end to end so that it gives each text one label.
//!
//! The textbook recipe (Devlin et al. 2018, appendix A.3): AdamW, a small peak step size after a linear warm-up, a few
//! epochs, gradients clipped at norm 1. Batches are drawn anew each epoch; within a stretch of shuffled rows, texts of
//! like length share a batch, which saves half of the padding.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Reduction, Tensor};

use super::adamw::AdamW;
use super::classification_report::ClassificationReport;
use super::schedule::LinearSchedule;
use crate::model::device;
use crate::model::encoder::{Checkpoint, Mode};
use crate::model::text_classifier::{Origin, TextClassifier};
use crate::printer::Printer;
use crate::spec::{JobSpec, Task, TextClassifierTask};
use crate::{Error, Result};

const CLIP_NORM: f64 = 1.0;
/// Batches in a stretch of rows that is sorted by length.
const STRETCH: usize = 32;

/// Texts with their labels, in the order of the table.
#[derive(Debug, Clone, Default)]
pub struct LabelledTexts {
    /// The texts; NULL is the empty text.
    pub texts: Vec<String>,
    /// The labels, as many.
    pub labels: Vec<String>,
}

/// How this machine runs it.
#[derive(Debug, Clone, Copy)]
pub struct TextTrainOptions {
    /// Only so many texts of each table, for a quick run; every label stays.
    pub limit: Option<usize>,
    /// Where it computes.
    pub device: Device,
    /// Threads of one tensor operation on the CPU; libtorch's own choice without it.
    pub threads: Option<usize>,
}

/// Fine-tunes the job's encoder on `train`, writes the bundle and reports on `test`.
pub fn train(
    spec: &JobSpec,
    train: &LabelledTexts,
    test: &LabelledTexts,
    options: &TextTrainOptions,
    printer: &Printer,
) -> Result<ClassificationReport> {
    match spec.task() {
        Task::TextClassifier(task) => {
            let origin = Origin { job: spec.name().into(), job_hash: spec.hash().into(), ..Origin::default() };
            train_task(task, origin, train, test, options, printer)
        }
        Task::Entity(_) => Err(Error::user("this job is about customers, not about labelled texts")),
    }
}

/// As [`train`], for a task that stands for itself.
pub fn train_task(
    task: &TextClassifierTask,
    mut origin: Origin,
    train: &LabelledTexts,
    test: &LabelledTexts,
    options: &TextTrainOptions,
    printer: &Printer,
) -> Result<ClassificationReport> {
    if let Some(threads) = options.threads {
        device::set_threads(threads);
    }
    let labels = label_names(task, train)?;
    let train = Numbered::new(&task.train, train, &labels, options.limit, task.seed)?;
    let test = Numbered::new(&task.test, test, &labels, options.limit, task.seed)?;
    printer.say(format!(
        "{} texts to learn from, {} to report on, {} labels",
        train.texts.len(),
        test.texts.len(),
        labels.len()
    ));

    let seeded = device::seed(task.seed);
    let checkpoint = Checkpoint::open(&task.encoder)?;
    let classifier = TextClassifier::fresh(checkpoint, labels, task.max_length, options.device, task.seed)?;
    let classifier = fit(classifier, task, &train, printer)?;
    drop(seeded);

    let progress = printer.progress("report", None);
    let predictions = classifier.classify(&test.texts)?;
    let predicted: Vec<usize> = predictions.iter().map(|p| p.label).collect();
    let report = ClassificationReport::new(classifier.labels(), &test.labels, &predicted)?;
    progress.done(format!("accuracy {:.3} on {} texts", report.accuracy, report.support));
    origin.metrics = BTreeMap::from([
        ("accuracy".to_owned(), report.accuracy),
        ("macro_f1".to_owned(), report.macro_average.f1),
        ("weighted_f1".to_owned(), report.weighted_average.f1),
    ]);
    classifier.save(&task.bundle, &origin)?;
    Ok(report)
}

fn fit(
    classifier: TextClassifier,
    task: &TextClassifierTask,
    train: &Numbered,
    printer: &Printer,
) -> Result<TextClassifier> {
    let tokens = classifier.tokenizer().encode(&train.texts)?;
    let lengths: Vec<usize> = tokens.iter().map(Vec::len).collect();
    let epochs: Vec<Vec<Vec<usize>>> =
        (0..task.epochs).map(|epoch| batches(&lengths, task.batch, task.seed, epoch)).collect();
    let steps: usize = epochs.iter().map(Vec::len).sum();
    let schedule = LinearSchedule::new(task.learning_rate, steps, task.warmup);
    let mut fit = Fit::new(classifier, schedule, task.weight_decay, CLIP_NORM)?;

    let progress = printer.progress("training", Some(steps as u64));
    let began = Instant::now();
    let (mut sum, mut since) = (0.0, 0);
    for (number, epoch) in epochs.iter().enumerate() {
        for batch in epoch {
            let rows: Vec<&[u32]> = batch.iter().map(|&row| tokens[row].as_slice()).collect();
            let targets: Vec<i64> = batch.iter().map(|&row| train.labels[row] as i64).collect();
            sum += fit.step(&rows, &targets)?.loss;
            since += 1;
            progress.add(1);
            let done = fit.steps_done();
            if done % steps.div_ceil(20) == 0 || done == steps {
                let left = began.elapsed().div_f64(done as f64).mul_f64((steps - done) as f64);
                let (epoch, loss) = (number + 1, sum / f64::from(since));
                progress.note(format!("epoch {epoch}/{}, loss {loss:.3}, {} s left", task.epochs, left.as_secs()));
                (sum, since) = (0.0, 0);
            }
        }
    }
    progress.done(format!("{steps} steps in {} s", began.elapsed().as_secs()));
    Ok(fit.into_classifier())
}

/// A training under way.
#[derive(Debug)]
pub struct Fit {
    classifier: TextClassifier,
    optimizer: AdamW,
    schedule: LinearSchedule,
    done: usize,
}

/// One step of a training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The batch's mean cross-entropy before the step.
    pub loss: f64,
    /// The gradient's norm before clipping.
    pub norm: f64,
    /// The step size.
    pub learning_rate: f64,
}

impl Fit {
    /// A training that begins.
    pub fn new(
        classifier: TextClassifier,
        schedule: LinearSchedule,
        weight_decay: f64,
        clip_norm: f64,
    ) -> Result<Self> {
        let optimizer = AdamW::new(classifier.store(), weight_decay, clip_norm)?;
        Ok(Fit { classifier, optimizer, schedule, done: 0 })
    }

    /// Learns from a batch: rows of token ids with their label numbers.
    pub fn step(&mut self, rows: &[&[u32]], targets: &[i64]) -> Result<Step> {
        let logits = self.classifier.logits(rows, Mode::Train)?;
        let targets = Tensor::f_from_slice(targets)?.f_to_device(logits.device())?;
        let loss = logits.f_cross_entropy_loss::<Tensor>(&targets, None, Reduction::Mean, -100, 0.0)?;
        let value = f64::try_from(&loss)?;
        if !value.is_finite() {
            return Err(Error::user("training diverged: the loss is not finite").hint("try a smaller `learning_rate`"));
        }
        let learning_rate = self.schedule.at(self.done);
        let norm = self.optimizer.step(&loss, learning_rate)?;
        self.done += 1;
        Ok(Step { loss: value, norm, learning_rate })
    }

    /// Steps done.
    pub fn steps_done(&self) -> usize {
        self.done
    }

    /// The classifier as it is now.
    pub fn classifier(&self) -> &TextClassifier {
        &self.classifier
    }

    /// The classifier, training being over.
    pub fn into_classifier(self) -> TextClassifier {
        self.classifier
    }
}

/// Texts with label numbers.
struct Numbered<'a> {
    texts: Vec<&'a str>,
    labels: Vec<usize>,
}

impl<'a> Numbered<'a> {
    fn new(table: &str, rows: &'a LabelledTexts, names: &[String], limit: Option<usize>, seed: u64) -> Result<Self> {
        let labels = rows
            .labels
            .iter()
            .map(|label| names.binary_search(label).map_err(|_| unknown_label(table, label, names)))
            .collect::<Result<Vec<_>>>()?;
        if rows.texts.is_empty() || rows.texts.len() != labels.len() {
            return Err(Error::user(format!("table `{table}` has no labelled texts")));
        }
        let kept = match limit {
            Some(limit) if limit < labels.len() => sample(table, &labels, limit, seed)?,
            _ => (0..labels.len()).collect(),
        };
        Ok(Numbered {
            texts: kept.iter().map(|&row| rows.texts[row].as_str()).collect(),
            labels: kept.iter().map(|&row| labels[row]).collect(),
        })
    }
}

fn label_names(task: &TextClassifierTask, train: &LabelledTexts) -> Result<Vec<String>> {
    let names: BTreeSet<&String> = train.labels.iter().collect();
    if names.iter().any(|name| name.is_empty()) {
        let count = train.labels.iter().filter(|label| label.is_empty()).count();
        return Err(Error::user(format!("column `{}` of table `{}` is empty in {count} rows", task.label, task.train))
            .hint("every text to learn from needs a label; a `not_null` check can reject the rows"));
    }
    if names.len() < 2 {
        return Err(Error::user(format!(
            "column `{}` of table `{}` has only {} label",
            task.label,
            task.train,
            names.len()
        ))
        .hint("a classifier needs two or more"));
    }
    Ok(names.into_iter().cloned().collect())
}

fn unknown_label(table: &str, label: &str, names: &[String]) -> Error {
    let error = Error::user(format!("label `{label}` of table `{table}` is not among those that were learned"));
    let alike = |name: &&String| strsim::normalized_damerau_levenshtein(label, name);
    match names.iter().max_by(|a, b| alike(a).total_cmp(&alike(b))).filter(|name| alike(name) > 0.6) {
        Some(name) => error.hint(format!("did you mean `{name}`?")),
        None => error,
    }
}

/// So many rows after a seeded shuffle, each label with its share of them and at least once.
fn sample(table: &str, labels: &[usize], limit: usize, seed: u64) -> Result<Vec<usize>> {
    let mut rows: Vec<usize> = (0..labels.len()).collect();
    rows.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    for &label in labels {
        *sizes.entry(label).or_default() += 1;
    }
    if limit < sizes.len() {
        return Err(Error::user(format!(
            "`--limit {limit}` is less than the {} labels of table `{table}`",
            sizes.len()
        ))
        .hint(format!("give at least {}", sizes.len())));
    }
    // A row's rank within its label, as a share of the label's rows: the smallest ranks take from each label alike, and
    // every label's first row has rank 0.
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    let mut ranked: Vec<(f64, usize)> = rows
        .into_iter()
        .map(|row| {
            let before = seen.entry(labels[row]).or_default();
            *before += 1;
            ((*before - 1) as f64 / sizes[&labels[row]] as f64, row)
        })
        .collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(ranked.into_iter().take(limit).map(|(_, row)| row).collect())
}

/// An epoch's batches of row numbers: every row once, in an order that depends on seed and epoch alone.
fn batches(lengths: &[usize], batch: usize, seed: u64, epoch: usize) -> Vec<Vec<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(epoch as u64 + 1);
    let mut rows: Vec<usize> = (0..lengths.len()).collect();
    rows.shuffle(&mut random);
    let batch = batch.max(1);
    let mut batches: Vec<Vec<usize>> = Vec::with_capacity(rows.len().div_ceil(batch));
    for stretch in rows.chunks_mut(batch * STRETCH) {
        stretch.sort_by_key(|&row| lengths[row]);
        batches.extend(stretch.chunks(batch).map(<[usize]>::to_vec));
    }
    batches.shuffle(&mut random);
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sample_keeps_every_label_and_their_shares() {
        let labels: Vec<usize> =
            (0..1000).map(|row| usize::from(row % 10 == 0) + 2 * usize::from(row == 555)).collect();
        let kept = sample("t", &labels, 100, 1).unwrap();
        let count = |label: usize| kept.iter().filter(|&&row| labels[row] == label).count();
        assert_eq!(kept.len(), 100);
        assert_eq!((count(1), count(2)), (10, 1));
        assert_ne!(kept, sample("t", &labels, 100, 2).unwrap());
        assert_eq!(kept, sample("t", &labels, 100, 1).unwrap());
        assert!(sample("t", &labels, 2, 1).unwrap_err().to_string().contains("`--limit 2`"));
    }

    proptest! {
        #[test]
        fn an_epoch_has_every_row_once(lengths in prop::collection::vec(1usize..40, 1..300), batch in 1usize..20) {
            let epoch = batches(&lengths, batch, 5, 2);
            let mut rows: Vec<usize> = epoch.iter().flatten().copied().collect();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert!(epoch.iter().all(|rows| rows.len() <= batch));
        }
    }

    #[test]
    fn epochs_differ_and_repeat_with_the_seed() {
        let lengths = vec![7; 100];
        assert_eq!(batches(&lengths, 16, 5, 0), batches(&lengths, 16, 5, 0));
        assert_ne!(batches(&lengths, 16, 5, 0), batches(&lengths, 16, 5, 1));
        assert_ne!(batches(&lengths, 16, 5, 0), batches(&lengths, 16, 6, 0));
    }

    #[test]
    fn a_label_that_was_never_learned_is_named_with_the_nearest() {
        let rows = LabelledTexts { texts: vec!["x".into()], labels: vec!["card_arival".into()] };
        let error = Numbered::new("test", &rows, &["card_arrival".into(), "refund".into()], None, 0).err().unwrap();
        assert!(crate::printer::render_error(&error).contains("did you mean `card_arrival`?"));
    }
}
