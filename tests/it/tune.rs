//! The search for better settings, from snapshots to a patch of the job.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};
use async_trait::async_trait;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tch::Device;
use tenure::features::{FeatureColumn, FeatureStream};
use tenure::printer::{Output, Printer, Verbosity};
use tenure::spec;
use tenure::training::tune::space;
use tenure::training::tune::trials::Training;
use tenure::training::{LabelInfo, SnapshotSource, TrainJob, TuneOptions, TuneReport, tune_from};
use tenure::{AsOf, Result};

use crate::support::purchases::{self, Shop, after};
use crate::support::shop::{self as demo, AS_OF, assert_exit, assert_success, checkout, tenure, trained_once};
use crate::training::train;

/// A shop that counts how often its features are read.
struct Counted {
    shop: Shop,
    reads: AtomicUsize,
}

impl Counted {
    fn new() -> Self {
        Counted { shop: Shop::new(400, 300), reads: AtomicUsize::new(0) }
    }

    async fn tune(&self, folder: &Path, trials: usize) -> Result<TuneReport> {
        let task = purchases::task(&folder.join("bundle"));
        let job = TrainJob { name: "shop", task: &task, device: Device::Cpu };
        let options = TuneOptions { folder, trials, time: None, seed: 3, job_hash: "job" };
        tune_from(self, job, after(240), &options, &Printer::new(Verbosity::Quiet, Output::Human)).await
    }
}

#[async_trait(?Send)]
impl SnapshotSource for Counted {
    fn features(&self) -> &[FeatureColumn] {
        self.shop.features()
    }
    fn feature_hashes(&self) -> BTreeMap<String, String> {
        self.shop.feature_hashes()
    }
    fn labels(&self) -> &[LabelInfo] {
        self.shop.labels()
    }
    fn label_hashes(&self) -> BTreeMap<String, String> {
        self.shop.label_hashes()
    }
    async fn first_event(&self) -> Result<AsOf> {
        self.shop.first_event().await
    }
    async fn matrix(&self, as_of: AsOf) -> Result<FeatureStream> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.shop.matrix(as_of).await
    }
    async fn outcomes(&self, as_of: AsOf) -> Result<Vec<FeatureStream>> {
        self.shop.outcomes(as_of).await
    }
}

/// Trainings without what the clock says.
fn timeless(trainings: &[Training]) -> Vec<Training> {
    let mut trainings = trainings.to_vec();
    trainings.iter_mut().for_each(|training| training.result.seconds = 0.0);
    trainings
}

#[tokio::test]
async fn a_killed_search_goes_on_and_a_finished_one_reads_no_rows() {
    let (mut shop, whole, killed) = (Counted::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let report = shop.tune(whole.path(), 5).await.unwrap();
    assert!(report.finished && report.rungs == [2, 4, 12], "{report:?}");
    assert!(report.trainings.iter().filter(|t| t.rung == 2).count() >= 2);
    for training in &report.trainings {
        let heads = &training.result.heads;
        assert!(heads["churn_60d"]["auc"] > 0.4 && heads["ltv_60d"].contains_key("gini_norm"), "{training:?}");
        assert!(heads["tier_60d"].contains_key("accuracy") && heads.len() == 6);
        let sum: f64 = heads.values().map(|metrics| metrics["loss"]).sum();
        assert!((sum - training.result.judged_loss.unwrap()).abs() < 1e-9);
    }

    // What a kill leaves: some lines, and a part of the next.
    let log = fs::read_to_string(whole.path().join("trials.jsonl")).unwrap();
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    let left = lines[..4].concat() + &lines[4][..lines[4].len() / 2];
    fs::write(killed.path().join("trials.jsonl"), left).unwrap();
    let resumed = shop.tune(killed.path(), 5).await.unwrap();
    assert_eq!(timeless(&resumed.trainings), timeless(&report.trainings));
    assert_eq!(resumed.verdict, report.verdict);

    let reads = shop.reads.load(Ordering::Relaxed);
    let again = shop.tune(whole.path(), 5).await.unwrap();
    assert_eq!((again, shop.reads.load(Ordering::Relaxed)), (report, reads));

    shop.shop.hashes.insert("sql/features/orders.sql".into(), "3333".into());
    let error = shop.tune(whole.path(), 5).await.unwrap_err();
    assert!(error.to_string().contains("`sql/features/orders.sql` has changed"), "{error}");
}

#[tokio::test]
async fn a_trial_is_the_first_fit_of_a_training_with_its_settings() {
    let (shop, dir) = (Counted::new(), tempfile::tempdir().unwrap());
    let report = shop.tune(dir.path(), 2).await.unwrap();
    let task = purchases::task(&dir.path().join("trained"));
    let trained = train(&shop.shop, &task, after(240)).await.unwrap();
    let own = report.trainings.iter().find(|t| (t.trial, t.rung) == (0, 2)).unwrap();
    assert_eq!(own.result.epochs, trained.training.epochs);
}

/// A shop with the demo's job, cut to three epochs.
fn quick() -> (demo::Shop, String) {
    let shop = demo::Shop::copy_of(trained_once());
    let jobs = shop.path().join("jobs");
    fs::create_dir(&jobs).unwrap();
    std::os::unix::fs::symlink(checkout().join("sql"), shop.path().join("sql")).unwrap();
    let text = fs::read_to_string(checkout().join("jobs/ltv.yaml")).unwrap();
    let quick = text.replace("  validation_snapshots: 1\n", "  validation_snapshots: 1\n  epochs: 3\n");
    assert_ne!(text, quick);
    fs::write(jobs.join("ltv.yaml"), quick).unwrap();
    let job = jobs.join("ltv.yaml").to_str().unwrap().to_owned();
    (shop, job)
}

#[test]
fn a_search_leaves_a_table_and_a_patch_that_trains() {
    let (shop, job) = quick();
    let tune =
        |arguments: &[&str]| shop.tenure(&[&["tune", &job, "--as-of", AS_OF, "--trials", "3"], arguments].concat());
    let out = shop.path().join("out/tune/ltv").join(AS_OF);
    let begun = tune(&["--time", "0s"]);
    assert_success(&begun);
    assert!(String::from_utf8_lossy(&begun.stderr).contains("the same command goes on"), "{begun:?}");
    assert!(!out.join("best.yaml").exists());

    let output = tune(&["--json"]);
    assert_success(&output);
    let patch = out.join("best.yaml");
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("--patch {}", patch.display())), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["finished"], &report["rungs"]), (&true.into(), &serde_json::json!([1, 3])));
    assert!(report["trainings"][0].get("resampled").is_none());
    let text = String::from_utf8(tune(&[]).stdout).unwrap();
    for part in ["3 settings of ltv as of 2026-07-01", "the job's own", "train.learning_rate", "ltv_90d gini_norm"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    the_table_has_the_numbers_of(&out.join("trials.parquet"), &report);

    assert_success(&shop.tenure(&["train", &job, "--as-of", AS_OF, "--patch", patch.to_str().unwrap()]));
    assert_success(&shop.tenure(&["run", &job, "--as-of", AS_OF]));

    let refused = tune(&["--seed", "1"]);
    assert_exit(&refused, 1);
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.contains("`--seed` is 1, it was 0") && message.contains("--out"), "{message}");
    let wrong = tune(&["--time", "30"]);
    assert_exit(&wrong, 1);
    let message = String::from_utf8_lossy(&wrong.stderr);
    assert!(message.contains("`30` is not a duration: add the unit"), "{message}");
}

fn the_table_has_the_numbers_of(table: &Path, report: &Value) {
    let rows: Vec<_> =
        ParquetRecordBatchReaderBuilder::try_new(fs::File::open(table).unwrap()).unwrap().build().unwrap().collect();
    let rows = rows.into_iter().next().unwrap().unwrap();
    let trainings = report["trainings"].as_array().unwrap();
    assert_eq!(rows.num_rows(), trainings.len());
    for (row, training) in trainings.iter().enumerate() {
        let count = |name: &str| rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(row);
        let number = |name: &str| rows.column_by_name(name).unwrap().as_primitive::<Float64Type>().value(row);
        assert_eq!(count("trial"), training["trial"].as_i64().unwrap());
        assert_eq!(number("loss"), training["loss"].as_f64().unwrap());
        assert_eq!(number("train_learning_rate"), training["values"]["train.learning_rate"].as_f64().unwrap());
        assert_eq!(number("churn_90d_auc"), training["heads"]["churn_90d"]["auc"].as_f64().unwrap());
    }
    assert_eq!(rows.column_by_name("failed").unwrap().null_count(), rows.num_rows());
    assert!(rows.schema().fields().iter().all(|field| field.metadata().contains_key("description")));
}

#[test]
fn a_wrong_patch_is_told_with_its_own_places() {
    let dir = tempfile::tempdir().unwrap();
    let patch = dir.path().join("patch.yaml");
    let told = |text: &str| {
        fs::write(&patch, text).unwrap();
        let patch = patch.to_str().unwrap();
        let output = tenure(&["train", "jobs/ltv.yaml", "--as-of", AS_OF, "--patch", patch]);
        assert_exit(&output, 1);
        String::from_utf8_lossy(&output.stderr).replace(patch, "patch.yaml")
    };
    let message = told("model:\n  dropout: 2\ntrain: {learning_rat: 1}\n");
    assert!(message.contains("patch.yaml:2:12: `2` is out of range"), "{message}");
    assert!(message.contains("patch.yaml:3:9: unknown key `learning_rat`"), "{message}");
    let message = told("model:\n  heads: [{name: churn_09d, weight: 2}]\n");
    assert!(message.contains("patch.yaml:2:11: the key `label` is missing in a head"), "{message}");
    assert!(told("train: [").contains("patch.yaml:1:8: this is not YAML"));
    assert!(told("7").contains("patch.yaml:1:1: a patch is a map of keys of the job"));
    assert!(told("").contains("patch.yaml:1:1: the file is empty"));
}

#[test]
fn a_patch_changes_what_it_names_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let patch = dir.path().join("patch.yaml");
    fs::write(&patch, "model: {hidden: [8], heads: [{name: ltv_90d, weight: 3}]}\ntrain: {seed: 5}\n").unwrap();
    let job = Path::new("fixtures/specs/valid/full.yaml");
    let task = |patch: Option<&Path>| spec::load_patched(job, patch, &|_| None).unwrap().entity_task().unwrap().clone();
    let (plain, patched) = (task(None), task(Some(&patch)));
    let (before, after) = (plain.model.unwrap(), patched.model.unwrap());
    assert_eq!((after.hidden, patched.train.seed), (vec![8], 5));
    let weights = |model: &[spec::HeadSpec]| model.iter().map(|head| head.weight).collect::<Vec<_>>();
    assert_eq!((weights(&before.heads), weights(&after.heads)), (vec![1.0, 0.5], vec![1.0, 3.0]));
    assert_eq!((after.dropout, after.bundle), (before.dropout, before.bundle));
    assert_eq!(patched.train.epochs, plain.train.epochs);
}

#[test]
fn the_page_about_tuning_has_the_dimensions_of_the_code() {
    let page = fs::read_to_string(checkout().join("docs/tuning.md")).unwrap();
    for [key, range, meaning] in space::described() {
        let row = format!("| `{key}` | {range} | {meaning} |");
        assert!(page.contains(&row), "docs/tuning.md has no row `{row}`");
    }
    let help = String::from_utf8(tenure(&["tune", "--help"]).stdout).unwrap();
    assert!(help.contains("model.hidden") && help.contains("0.0002 to 0.01, logarithmic"), "{help}");
}
