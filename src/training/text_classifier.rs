//! The text-only job: a pretrained BERT learns to give each text one label, end to end, by corrections, or with its head
//! alone.
//!
//! The textbook recipe (Devlin et al. 2018, appendix A.3): AdamW, a small peak step size after a linear warm-up, a few
//! epochs, gradients clipped at norm 1. Batches are drawn anew each epoch; within a stretch of shuffled rows, texts of
//! like length share a batch, which saves half of the padding. A frozen encoder sees each text once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use super::classification_report::ClassificationReport;
use super::fine_tuning::{Fit, Recipe};
use super::schedule::LinearSchedule;
use crate::model::device;
use crate::model::encoder::{Checkpoint, Tuned};
use crate::model::files::check_replaceable;
use crate::model::text_classifier::{Origin, TextClassifier};
use crate::printer::Printer;
use crate::spec::{JobSpec, Task, TextClassifierTask, TuneSpec};
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
    check_replaceable(&task.bundle, &origin.job).map_err(|e| e.at(task.bundle_place.clone()))?;
    let labels = label_names(task, train)?;
    let train = Numbered::new(&task.train, train, &labels, options.limit, task.seed)?;
    let test = Numbered::new(&task.test, test, &labels, options.limit, task.seed)?;
    printer.say(format!(
        "{} texts to learn from, {} to report on, {} labels",
        train.texts.len(),
        test.texts.len(),
        labels.len()
    ));
    let learned: BTreeSet<&str> = train.texts.iter().copied().collect();
    let known = test.texts.iter().filter(|text| learned.contains(*text)).count();
    if known > 0 {
        printer
            .warn(format!("{known} of the texts to report on are among those to learn from, so the report flatters"));
    }

    let seeded = device::seed(task.seed);
    let checkpoint = Checkpoint::open(&task.encoder)?;
    let classifier = TextClassifier::fresh(checkpoint, labels, task.max_length, options.device, task.seed)?;
    let (classifier, tuned) = fit(classifier, task, &train, printer)?;
    origin.tuned = tuned;
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
) -> Result<(TextClassifier, Tuned)> {
    let tokens = classifier.tokenizer().encode(&train.texts)?;
    let lengths: Vec<usize> = tokens.iter().map(Vec::len).collect();
    let epochs: Vec<Vec<Vec<usize>>> =
        (0..task.epochs).map(|epoch| batches(&lengths, task.batch, task.seed, epoch)).collect();
    let steps: usize = epochs.iter().map(Vec::len).sum();
    let recipe = Recipe {
        tune: task.tune.clone(),
        schedule: LinearSchedule::new(task.learning_rate, steps, task.warmup),
        layer_decay: task.layer_decay,
        weight_decay: task.weight_decay,
        clip_norm: CLIP_NORM,
        seed: task.seed,
    };
    let mut fit = Fit::new(classifier, &recipe)?;
    let tuned = fit.tuned();
    printer.say(tuned.to_string());
    let pooled = match task.tune {
        TuneSpec::Frozen => Some(fit.classifier().pooled(&train.texts)?),
        TuneSpec::Lora(_) | TuneSpec::Full => None,
    };

    let progress = printer.progress("training", Some(steps as u64));
    let began = Instant::now();
    let (mut sum, mut since) = (0.0, 0);
    for (number, epoch) in epochs.iter().enumerate() {
        for batch in epoch {
            let targets: Vec<i64> = batch.iter().map(|&row| train.labels[row] as i64).collect();
            let step = match &pooled {
                Some(pooled) => fit.step_pooled(rows_of(pooled, batch)?, &targets)?,
                None => fit.step(&batch.iter().map(|&row| tokens[row].as_slice()).collect::<Vec<_>>(), &targets)?,
            };
            sum += step.loss;
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
    Ok((fit.into_classifier()?, tuned))
}

fn rows_of(pooled: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    Ok(pooled.f_index_select(0, &Tensor::f_from_slice(&rows)?.f_to_device(pooled.device())?)?)
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
