//! Training and evaluation, from snapshots to a bundle.

use std::path::Path;

use tch::Device;
use tenure::model::Bundle;
use tenure::model::manifest::Split;
use tenure::printer::{Output, Printer, Verbosity};
use tenure::spec::{EntityTask, Loss};
use tenure::training::{SnapshotSource, TrainJob, TrainingReport, evaluate_from, train_from};
use tenure::{AsOf, Result};

use crate::support::purchases::{self, Shop, after};

pub async fn train(shop: &dyn SnapshotSource, task: &EntityTask, as_of: AsOf) -> Result<TrainingReport> {
    let job = TrainJob { name: "shop", task, device: Device::Cpu };
    train_from(shop, job, as_of, &Printer::new(Verbosity::Quiet, Output::Human)).await
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_trained_model_beats_persistence_and_stands_beside_rfm() {
    let (shop, dir) = (Shop::new(1500, 400), tempfile::tempdir().unwrap());
    let task = purchases::task(&dir.path().join("bundle"));
    let report = train(&shop, &task, after(330)).await.unwrap();
    assert_eq!(report.training.split, Split::ByTime);
    assert_eq!(report.training.validation_snapshots, [after(270).date()]);

    let bundle = Bundle::open(&dir.path().join("bundle")).unwrap();
    let found = evaluate_from(&shop, &task, &bundle, after(330), Device::Cpu).await.unwrap();
    for evaluation in [&report.validation, &found] {
        let metric = |head, model, metric| evaluation.metric(head, model, metric).unwrap();
        for head in ["ltv_30d", "ltv_60d"] {
            for name in ["spearman", "gini_norm"] {
                let (ours, rfm) = (metric(head, "model", name), metric(head, "rfm", name));
                assert!(ours > 0.97 * rfm, "{head} {name}\n{}", evaluation.table());
            }
            let (ours, last) = (metric(head, "model", "gini_norm"), metric(head, "persistence", "gini_norm"));
            assert!(ours > last, "{head}\n{}", evaluation.table());
            assert!(metric(head, "model", "total_bias") < 0.3, "{}", evaluation.table());
        }
        assert!(metric("churn_60d", "model", "auc") > metric("churn_60d", "persistence", "auc"));
        assert!(metric("churn_60d", "model", "auc") > 0.98 * metric("churn_60d", "rfm", "auc"));
        assert!(metric("churn_60d", "model", "calibration_error") < 0.1);
        assert!(metric("tier_60d", "model", "accuracy") > 0.7);
        assert!(metric("spend_mean", "model", "spearman") > 0.3);
    }
}

#[tokio::test]
async fn what_validation_corrected_stands_in_the_bundle_and_in_the_report() {
    let (shop, dir) = (Shop::new(1500, 400), tempfile::tempdir().unwrap());
    let report = train(&shop, &purchases::task(&dir.path().join("bundle")), after(330)).await.unwrap();
    let manifest = Bundle::open(&dir.path().join("bundle")).unwrap().manifest().clone();
    let training = &manifest.training;
    let customers = shop.features_at(after(270)).num_rows();
    assert_eq!(training.stopping_rows + training.validation_rows, customers, "nobody stops and is reported on");
    assert!((training.stopping_rows as f64 / customers as f64 - 0.4).abs() < 0.06, "{training:?}");
    for head in &manifest.heads {
        let found = &head.calibration;
        assert_eq!(found.probability.is_some(), head.loss == Loss::Bce, "{}", head.name);
        assert_eq!(found.quantiles.is_some(), head.loss == Loss::Ziln, "{}", head.name);
        for note in found.notes(&head.name) {
            assert!(report.table().contains(&note), "{note} is not in\n{}", report.table());
        }
        if head.loss == Loss::Ziln {
            let covered = report.validation.metric(&head.name, "model", "interval_coverage").unwrap();
            assert!((covered - 0.8).abs() < 0.05, "{}: {covered}", head.name);
        }
    }
}

#[tokio::test]
async fn the_same_training_gives_the_same_bytes() {
    let (shop, dir) = (Shop::new(300, 300), tempfile::tempdir().unwrap());
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    train(&shop, &purchases::task(&first), after(240)).await.unwrap();
    train(&shop, &purchases::task(&second), after(240)).await.unwrap();
    assert_eq!(files(&first), files(&second));
}

#[tokio::test]
async fn another_seed_is_another_model_version() {
    let (shop, dir) = (Shop::new(300, 300), tempfile::tempdir().unwrap());
    let mut task = purchases::task(&dir.path().join("bundle"));
    let first = train(&shop, &task, after(240)).await.unwrap();
    task.train.seed = 2;
    let second = train(&shop, &task, after(240)).await.unwrap();
    assert_ne!(first.model_version, second.model_version);
    assert_eq!(Bundle::open(&dir.path().join("bundle")).unwrap().manifest().model_version, second.model_version);
}

/// Purchases from `as_of` on exist in one shop and not in the other.
#[tokio::test]
async fn what_happens_at_or_after_the_training_date_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (longer, shorter) = (Shop::new(200, 300), Shop::new(200, 300).closed_on(240));
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    train(&longer, &purchases::task(&first), after(240)).await.unwrap();
    train(&shorter, &purchases::task(&second), after(240)).await.unwrap();
    assert_eq!(files(&first), files(&second));
}

#[tokio::test]
async fn with_little_history_customers_are_split() {
    let (shop, dir) = (Shop::new(300, 300), tempfile::tempdir().unwrap());
    let report = train(&shop, &purchases::task(&dir.path().join("bundle")), after(125)).await.unwrap();
    assert_eq!(report.training.split, Split::ByCustomer);
    assert!(report.training.validation_rows * 3 < report.training.rows);
}

#[tokio::test]
async fn a_training_that_fails_leaves_the_old_bundle() {
    let (shop, dir) = (Shop::new(200, 300), tempfile::tempdir().unwrap());
    let mut task = purchases::task(&dir.path().join("bundle"));
    let report = train(&shop, &task, after(200)).await.unwrap();
    task.train.learning_rate = 1e30;
    let error = train(&shop, &task, after(200)).await.unwrap_err();
    assert!(error.to_string().starts_with("training diverged"), "{error}");
    let bundle = Bundle::open(&dir.path().join("bundle")).unwrap();
    assert_eq!(bundle.manifest().model_version, report.model_version);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_unknown_label_is_named_at_its_head() {
    let (shop, dir) = (Shop::new(50, 300), tempfile::tempdir().unwrap());
    let mut task = purchases::task(&dir.path().join("bundle"));
    task.model.as_mut().unwrap().heads[0].label = "churned".into();
    let error = train(&shop, &task, after(200)).await.unwrap_err();
    assert_eq!(error.problems().next().unwrap().to_string(), "job.yaml: no label file has a column `churned`");
}

#[tokio::test]
async fn the_report_reads_as_text() {
    let (shop, dir) = (Shop::new(300, 300), tempfile::tempdir().unwrap());
    let report = train(&shop, &purchases::task(&dir.path().join("bundle")), after(240)).await.unwrap();
    let text = report.table();
    for part in
        ["persistence", "gini_norm", "validated on 2025-06-30", "calibration_error", report.model_version.as_str()]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}
