//! What a search came to: the best settings beside the job's own, and whether the best one is really better.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::Serialize;

use super::space::Value;
use super::trial::LOSS;
use super::trials::{Training, TrialResult};
use super::{Search, TuneOptions, halving, patch};
use crate::training::evaluation::table::{number, plain};
use crate::training::evaluation::{Outcome, bootstrap};

/// Settings in the table beside the job's own.
const SHOWN: usize = 4;

/// A search, as far as it has come.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TuneReport {
    /// The job.
    pub job: String,
    /// The day.
    pub as_of: NaiveDate,
    /// The seed of the draws.
    pub seed: u64,
    /// The folder of the table.
    pub folder: String,
    /// Whether all trainings are done; if not, the same command goes on.
    pub finished: bool,
    /// The epochs of each rung.
    pub rungs: Vec<usize>,
    /// The best setting; absent as long as no other than the job's own was trained.
    pub verdict: Option<Verdict>,
    /// The same in words.
    pub words: String,
    /// Every training in the order in which they were done.
    pub trainings: Vec<Training>,
}

/// The best setting of the highest rung on which there is another than the job's own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Its number; 0 is the job's own.
    pub trial: usize,
    /// The rung, from 0.
    pub rung: usize,
    /// The keys that differ from the job's, with their values.
    pub changes: BTreeMap<String, Value>,
    /// The patch for the job file.
    pub patch: String,
    /// Held against the job's own setting on rows that neither stopped a training nor chose a setting; absent for trial 0.
    pub against_own: Option<Advantage>,
}

/// By how much the loss is less than that of the job's own setting.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advantage {
    /// On all rows.
    pub advantage: f64,
    /// 95 % interval over resamples of the customers.
    pub interval: [f64; 2],
    /// What that means.
    pub outcome: Outcome,
}

impl Advantage {
    /// `None` where one of them failed, or nothing is known of the spread.
    fn of(ours: &TrialResult, own: &TrialResult) -> Option<Self> {
        let pairs = ours.resampled.iter().zip(&own.resampled);
        let interval = bootstrap::interval(pairs.map(|(ours, own)| f64::from(*own) - f64::from(*ours)))?;
        let advantage = own.judged_loss? - ours.judged_loss?;
        Some(Advantage { advantage, interval, outcome: Outcome::of(interval) })
    }
}

impl TuneReport {
    pub(super) fn of(search: &Search, job: &str, as_of: NaiveDate, options: &TuneOptions<'_>) -> Self {
        let mut report = TuneReport {
            job: job.to_owned(),
            as_of,
            seed: options.seed,
            folder: options.folder.display().to_string(),
            finished: search.next(options.trials).is_none(),
            rungs: search.rungs.clone(),
            verdict: None,
            words: "no other setting than the job's own was trained yet".to_owned(),
            trainings: search.trials.done().to_vec(),
        };
        report.trainings.iter_mut().for_each(|training| training.result.resampled.clear());
        if let Some((verdict, words)) = report.judge(search, options.trials) {
            (report.verdict, report.words) = (Some(verdict), words);
        }
        report
    }

    /// The best setting with what is to be said of it.
    fn judge(&self, search: &Search, trials: usize) -> Option<(Verdict, String)> {
        let losses = search.trials.rungs(self.rungs.len());
        let challenged = |rung: &halving::Rung| rung.iter().any(|(trial, loss)| *trial > 0 && loss.is_finite());
        let rung = losses.iter().rposition(challenged)?;
        let trial = halving::ranking(&losses[rung]).next()?;
        let values = search.space.values(self.seed, trial);
        let (best, own) = (search.trials.of(trial, rung)?, search.trials.of(0, rung)?);
        let against_own = (trial > 0).then(|| Advantage::of(&best.result, &own.result)).flatten();
        let words = in_words(trial, against_own.as_ref());
        let words = match rung + 1 < self.rungs.len() {
            true => format!("after {} of {} epochs, {words}", self.rungs[rung], search.rungs[search.rungs.len() - 1]),
            false => words,
        };

        let changes = search.space.changes(&values);
        let loss = |training: &Training| training.result.loss.map_or("none".to_owned(), number);
        let mut comment = vec![
            format!(
                "Trial {trial} of {trials} settings of the job `{}` as of {}, seed {}, by `tenure tune`.",
                self.job, self.as_of, self.seed
            ),
            format!("Loss on the rows that chose it: {}; the job's own setting: {}.", loss(best), loss(own)),
            format!("On rows that chose nothing: {words}."),
        ];
        if !self.finished {
            comment.push("The search was not finished.".to_owned());
        }
        let verdict = Verdict {
            trial,
            rung,
            changes: changes.iter().map(|(key, value, _)| ((*key).to_owned(), value.clone())).collect(),
            patch: patch::yaml(&comment, &changes),
            against_own,
        };
        Some((verdict, words))
    }

    /// The verdict, then a column per setting: the job's own and the best others, with values, losses and metrics.
    pub fn table(&self) -> String {
        let seconds: f64 = self.trainings.iter().map(|training| training.result.seconds).sum();
        let rungs: Vec<String> = self.rungs.iter().map(ToString::to_string).collect();
        let settings = self.trainings.iter().filter(|training| training.rung == 0).count();
        let mut text = format!(
            "{settings} settings of {} as of {}: {} trainings of {} epochs in {:.0} s\n{}\n",
            self.job,
            self.as_of,
            self.trainings.len(),
            rungs.join(", "),
            seconds,
            self.words
        );
        let shown = self.shown();
        if shown.is_empty() {
            return text;
        }
        let name = |training: &Training| match training.trial {
            0 => "the job's own".to_owned(),
            trial => format!("trial {trial}"),
        };
        let mut table = plain(std::iter::once(String::new()).chain(shown.iter().copied().map(name)).collect(), 1);
        let mut row = |name: String, of: &dyn Fn(&Training) -> String| {
            table.add_row(std::iter::once(name).chain(shown.iter().map(|training| of(training))));
        };
        for key in shown[0].values.keys() {
            row(key.clone(), &|t| t.values.get(key).map_or_else(missing, ToString::to_string));
        }
        row("epochs".to_owned(), &|t| format!("{} of {}", t.result.epochs, t.budget));
        row("loss where chosen".to_owned(), &|t| t.result.loss.map_or_else(missing, number));
        row("loss where judged".to_owned(), &|t| t.result.judged_loss.map_or_else(missing, number));
        for (head, metrics) in &shown[0].result.heads {
            let names = std::iter::once(LOSS).chain(metrics.keys().map(String::as_str).filter(|name| *name != LOSS));
            for metric in names {
                let value = |t: &Training| t.result.heads.get(head).and_then(|m| m.get(metric)).copied();
                row(format!("{head} {metric}"), &|t| value(t).map_or_else(missing, number));
            }
        }
        text.push_str(&format!("\n{table}\n"));
        text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    /// The job's own setting and the best others on the highest rung that they reached.
    fn shown(&self) -> Vec<&Training> {
        let highest = |trial: usize| self.trainings.iter().filter(|t| t.trial == trial).max_by_key(|t| t.rung);
        let Some(own) = highest(0) else { return Vec::new() };
        let others = self.trainings.iter().filter(|t| t.rung == 0 && t.trial > 0).filter_map(|t| highest(t.trial));
        let mut others: Vec<&Training> = others.filter(|t| t.result.loss.is_some()).collect();
        let loss = |t: &Training| t.result.loss.unwrap_or(f64::INFINITY);
        others.sort_by(|a, b| b.rung.cmp(&a.rung).then(loss(a).total_cmp(&loss(b))));
        std::iter::once(own).chain(others.into_iter().take(SHOWN)).collect()
    }
}

fn missing() -> String {
    "–".to_owned()
}

fn in_words(trial: usize, against_own: Option<&Advantage>) -> String {
    if trial == 0 {
        return "no other setting came out better than the job's own: keep the job as it is".to_owned();
    }
    let Some(Advantage { advantage, interval: [low, high], outcome }) = against_own else {
        return format!("trial {trial} came out best, and nothing is known of how sure that is");
    };
    match outcome {
        Outcome::Win => format!(
            "trial {trial} beats the job's own setting: its loss is less by {} ({} to {})",
            number(*advantage),
            number(*low),
            number(*high)
        ),
        Outcome::Tie => format!(
            "trial {trial} came out best, but ties with the job's own setting on rows that chose nothing ({} to {}): the job \
             may stay as it is",
            number(*low),
            number(*high)
        ),
        Outcome::Loss => format!(
            "trial {trial} came out best, but loses to the job's own setting on rows that chose nothing by {} ({} to {}): keep \
             the job as it is",
            number(-advantage),
            number(-high),
            number(-low)
        ),
    }
}
