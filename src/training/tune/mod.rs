//! A search for better settings: random ones around the job's own, trained by successive halving.
//!
//! ```text
//! snapshots ──once──▶ rows ──▶ next training (halving) ──▶ setting (space) ──▶ fit, judge (trial) ──▶ trials.jsonl
//!                                     ▲                                                                   │
//!                                     └────────────────────── the losses so far ◀────────────────────────┘
//! ```
//! Only the first of a training's two fits is done: on the training snapshots, judged on the validating ones. The rows that
//! stop a fit early do not choose between settings, and those that choose do not say what the chosen one is worth.

pub mod halving;
pub mod patch;
mod report;
pub mod space;
mod trial;
pub mod trials;

use std::path::Path;
use std::time::{Duration, Instant};

pub use report::{Advantage, TuneReport, Verdict};

use self::space::{Setting, Space};
use self::trial::{Parts, Trainer};
use self::trials::{Identity, Training, TrialResult, Trials};
use super::btyd;
use super::dataset::Dataset;
use super::gather::{Gathered, gather, nobody, plan};
use super::snapshots::SnapshotSource;
use super::train::{Recipe, Room, TrainJob, seasonal_heads};
use super::watch::Unwatched;
use crate::error::Class;
use crate::printer::{Output, Printer, Verbosity};
use crate::{AsOf, Error, Result, hash};

/// How far a search goes, and where its table is.
#[derive(Debug, Clone, Copy)]
pub struct TuneOptions<'a> {
    /// The folder of the table; a search that is there goes on.
    pub folder: &'a Path,
    /// Settings, the job's own among them.
    pub trials: usize,
    /// No training begins after this time.
    pub time: Option<Duration>,
    /// The seed of the draws.
    pub seed: u64,
    /// The hash of the job file's meaning.
    pub job_hash: &'a str,
}

/// Searches around the setting of a job, on what lay before `as_of`.
pub async fn tune_from(
    source: &dyn SnapshotSource,
    job: TrainJob<'_>,
    as_of: AsOf,
    options: &TuneOptions<'_>,
    printer: &Printer,
) -> Result<TuneReport> {
    let began = Instant::now();
    let plan = plan(source, job.task, as_of).await?;
    let own = Setting { model: plan.trained.clone(), train: job.task.train.clone() };
    let space = Space::around(own);
    let identity = Identity {
        tenure: env!("CARGO_PKG_VERSION").into(),
        job: options.job_hash.to_owned(),
        as_of: as_of.date().to_string(),
        seed: options.seed,
        space: space.hash(),
        sql: source.feature_hashes().into_iter().chain(source.label_hashes()).collect(),
        data: String::new(),
    };
    let mut search = Search {
        rungs: halving::rungs(job.task.train.epochs),
        trials: Trials::open(options.folder, identity)?,
        space,
        seed: options.seed,
    };
    if let Some(note) = &search.trials.note {
        printer.warn(note);
    }
    if search.next(options.trials).is_some() {
        let Gathered { gatherer, dates, mut data } = gather(source, job.task, &plan, as_of, printer).await?;
        let parts = Parts::of(&data, &dates);
        if !parts.are_there() {
            return Err(nobody());
        }
        search.trials.begin(fingerprint(&data))?;
        if let Some(columns) = &plan.trained.btyd {
            btyd::selection(columns, gatherer.labels(), &data, &dates)?.extend(&mut data.table)?;
        }
        let recipe = Recipe { model: &plan.trained, train: &job.task.train };
        let mut room = Room::new(job, recipe, data, seasonal_heads(&gatherer, &job.task.train), &Unwatched)?;
        decide_on_events(&mut room, &parts, printer)?;
        // A search has a line per training; a line per epoch would hide it.
        let silent = Printer::new(Verbosity::Quiet, Output::Human);
        let trainer = Trainer::new(room, parts, silent.progress("trial", None));
        let over = || options.time.is_some_and(|time| began.elapsed() >= time);
        search.run(options.trials, &over, &mut |setting, epochs| trainer.train(setting, epochs), printer)?;
    }
    Ok(TuneReport::of(&search, job.name, as_of.date(), options))
}

/// Settles once, by the job's own setting, whether the events are read: all trials are of the same kind of network.
fn decide_on_events(room: &mut Room<'_>, parts: &Parts, printer: &Printer) -> Result<()> {
    if !room.asks_whether_events_help() {
        return Ok(());
    }
    let progress = printer.progress("events", Some(2 * room.recipe.train.epochs as u64));
    let (_, kept) = room.search(&parts.training, &parts.stopping, &parts.choosing, &progress)?;
    let left_out = || room.without_events.as_ref().map(|why| format!("`sequence` is left out of all trials: {why}"));
    progress.done(kept.or_else(left_out).unwrap_or_else(|| "there are none".to_owned()));
    Ok(())
}

/// A search under way.
struct Search {
    space: Space,
    /// The epochs of each rung.
    rungs: Vec<usize>,
    seed: u64,
    trials: Trials,
}

type Train<'a> = dyn FnMut(&Setting, usize) -> Result<TrialResult> + 'a;

impl Search {
    /// The trial and the rung that come next.
    fn next(&self, trials: usize) -> Option<(usize, usize)> {
        halving::next(&self.trials.rungs(self.rungs.len()), trials)
    }

    /// Trains what is left of so many trials, until `over` says that the time is over. A setting that cannot be trained has no
    /// loss; the job's own has to work.
    fn run(&mut self, trials: usize, over: &dyn Fn() -> bool, train: &mut Train<'_>, printer: &Printer) -> Result<()> {
        let progress = printer.progress("tuning", None);
        while let Some((trial, rung)) = self.next(trials) {
            if over() {
                break;
            }
            let values = self.space.values(self.seed, trial);
            let budget = self.rungs[rung];
            let result = match train(&self.space.setting(&values), budget) {
                Err(error) if trial > 0 && error.class() == Class::User => {
                    TrialResult { failed: Some(error.to_string()), ..TrialResult::default() }
                }
                Err(error) => return Err(error),
                Ok(TrialResult { failed: Some(why), .. }) if trial == 0 => {
                    return Err(Error::user(format!("the job's own setting cannot be trained: {why}")));
                }
                Ok(result) => result,
            };
            let training = Training { trial, rung, budget, values: self.space.by_key(&values), result };
            self.trials.push(&training)?;
            progress.add(1);
            progress.note(self.told(&training, trials));
        }
        progress.done(format!("{} trainings", self.trials.done().len()));
        Ok(())
    }

    /// A training in a line, beside the job's own setting on the same rung.
    fn told(&self, training: &Training, trials: usize) -> String {
        let Training { trial, rung, budget, result, .. } = training;
        let own = self.trials.of(0, *rung).and_then(|own| own.result.loss);
        let loss = match (result.loss, own) {
            (Some(loss), Some(own)) if *trial > 0 => format!("loss {loss:.4}, the job's own {own:.4}"),
            (Some(loss), _) => format!("loss {loss:.4}"),
            (None, _) => format!("failed: {}", result.failed.as_deref().unwrap_or("no loss")),
        };
        format!("trial {trial} of 0 to {}, {budget} epochs: {loss} ({:.1} s)", trials - 1, result.seconds)
    }
}

/// Changes when the rows, their features or their labels do.
fn fingerprint(data: &Dataset) -> String {
    let mut hashes = String::new();
    let mut add = |bytes: Vec<u8>| hashes.push_str(&hash::of_bytes(bytes));
    data.snapshots.iter().for_each(|(date, rows)| add(format!("{date} {rows:?}").into_bytes()));
    for labels in &data.labels {
        add(labels.iter().flat_map(|label| label.to_le_bytes()).collect());
    }
    for (name, _, column) in data.table.columns() {
        add(name.as_bytes().to_vec());
        column.pieces(&mut add);
    }
    hash::of_bytes(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;
    use crate::training::tune::space::Value;

    fn search(folder: &Path) -> Search {
        let job = spec::load("fixtures/specs/valid/full.yaml".as_ref(), &|_| None).unwrap();
        let task = job.entity_task().unwrap();
        let identity = Identity {
            tenure: "1".into(),
            job: "job".into(),
            as_of: "2026-07-01".into(),
            seed: 1,
            space: "space".into(),
            sql: Default::default(),
            data: String::new(),
        };
        let mut trials = Trials::open(folder, identity).unwrap();
        trials.begin("rows".into()).unwrap();
        let own = Setting { model: task.model.clone().unwrap(), train: task.train.clone() };
        Search { space: Space::around(own), rungs: vec![1, 3, 9], seed: 1, trials }
    }

    /// A loss that is least at one step size, and nearer to the truth the longer a setting is trained.
    fn pretend(setting: &Setting, epochs: usize) -> TrialResult {
        let off = (setting.train.learning_rate / 3e-3).ln().powi(2);
        let loss = 1.0 + off + setting.model.dropout / epochs as f64;
        let resampled = (0..40).map(|i| (loss + f64::from(i) * 1e-3) as f32).collect();
        TrialResult { epochs, loss: Some(loss), judged_loss: Some(loss), resampled, ..TrialResult::default() }
    }

    fn quiet() -> Printer {
        Printer::new(Verbosity::Quiet, Output::Human)
    }

    fn run(search: &mut Search, trials: usize) -> Result<()> {
        search.run(trials, &|| false, &mut |setting, epochs| Ok(pretend(setting, epochs)), &quiet())
    }

    fn report(search: &Search, folder: &Path, trials: usize) -> TuneReport {
        let options = TuneOptions { folder, trials, time: None, seed: 1, job_hash: "job" };
        TuneReport::of(search, "full", chrono::NaiveDate::default(), &options)
    }

    #[test]
    fn a_killed_search_goes_on_to_the_table_of_one_that_was_not() {
        let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut uninterrupted = search(whole.path());
        run(&mut uninterrupted, 20).unwrap();
        let expected = uninterrupted.trials.done();
        // Killed during each training in turn, once with a line half written.
        for round in 0..expected.len() {
            let mut search = search(killed.path());
            assert_eq!(search.trials.done().len(), round);
            let mut left = 1;
            let mut train = |setting: &Setting, epochs: usize| match left {
                0 => Err(Error::infra("killed")),
                _ => {
                    left -= 1;
                    Ok(pretend(setting, epochs))
                }
            };
            assert_eq!(search.run(20, &|| false, &mut train, &quiet()).is_ok(), round + 1 == expected.len());
            drop(search);
            if round == 5 {
                let path = killed.path().join("trials.jsonl");
                let mut text = std::fs::read(&path).unwrap();
                text.extend(b"{\"trial\":3,\"ru");
                std::fs::write(&path, text).unwrap();
            }
        }
        let search = search(killed.path());
        assert_eq!(search.trials.done(), expected);
        assert_eq!(search.next(20), None);
    }

    #[test]
    fn the_best_setting_is_near_the_best_step_size_and_beats_the_jobs_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut search = search(dir.path());
        run(&mut search, 40).unwrap();
        let report = report(&search, dir.path(), 40);
        let verdict = report.verdict.as_ref().unwrap();
        let Value::Number(rate) = verdict.changes["train.learning_rate"] else { panic!("{verdict:?}") };
        assert!((2e-3..5e-3).contains(&rate), "{rate}");
        assert!(report.finished && report.words.contains("beats the job's own setting"), "{}", report.words);
        assert!(verdict.patch.contains(&format!("learning_rate: {rate}  # 0.001 in the job")), "{}", verdict.patch);
        let table = report.table();
        for part in ["the job's own", &format!("trial {}", verdict.trial), "model.heads.ltv_90d.weight", "9 of 9"] {
            assert!(table.contains(part), "no `{part}` in\n{table}");
        }
    }

    #[test]
    fn when_the_time_is_over_no_training_begins_and_the_report_says_how_far_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let mut search = search(dir.path());
        let begun = std::cell::Cell::new(0);
        let mut train = |setting: &Setting, epochs: usize| {
            begun.set(begun.get() + 1);
            Ok(pretend(setting, epochs))
        };
        search.run(40, &|| begun.get() == 5, &mut train, &quiet()).unwrap();
        assert_eq!(search.trials.done().len(), 5);
        let five = report(&search, dir.path(), 40);
        assert!(!five.finished && five.words.starts_with("after 1 of 9 epochs, "), "{}", five.words);
        run(&mut search, 40).unwrap();
        assert!(report(&search, dir.path(), 40).finished);
    }

    #[test]
    fn a_setting_that_cannot_be_trained_is_passed_over_but_the_jobs_own_has_to_work() {
        let dir = tempfile::tempdir().unwrap();
        let mut search = search(dir.path());
        let own = 1e-3;
        let mut train = |setting: &Setting, epochs: usize| match setting.train.learning_rate > own {
            true => Err(Error::user("training diverged")),
            false => Ok(pretend(setting, epochs)),
        };
        search.run(12, &|| false, &mut train, &quiet()).unwrap();
        let failed: Vec<_> = search.trials.done().iter().filter(|t| t.result.loss.is_none()).collect();
        assert!(!failed.is_empty() && failed.iter().all(|t| t.rung == 0), "{failed:?}");
        assert_eq!(failed[0].result.failed.as_deref(), Some("training diverged"));

        let other = tempfile::tempdir().unwrap();
        let mut search = super::tests::search(other.path());
        let error = search.run(12, &|| false, &mut |_, _| Err(Error::user("diverged")), &quiet()).unwrap_err();
        assert!(error.to_string().contains("diverged") && search.trials.done().is_empty());
    }
}
