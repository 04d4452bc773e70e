//! The jobs that come with Tenure: each one is right, and finds its SQL and its columns.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use tenure::error::Place;
use tenure::features::{FeatureSet, SEQUENCE};
use tenure::lake;
use tenure::spec::{self, JobSpec, Keep, SequenceEncoder, SequenceSpec, Task};

fn job(name: &str) -> JobSpec {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("jobs").join(format!("{name}.yaml"));
    spec::load(&file, &|_| None).unwrap_or_else(|error| panic!("{}", tenure::printer::render_error(&error)))
}

#[test]
fn every_job_of_the_repository_is_right() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("jobs");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["cdnow", "cdnow_39w", "ltv", "online_retail", "review_intent"]);
    for name in &names {
        assert_eq!(job(name).name(), name);
    }
}

#[test]
fn the_demo_job_takes_the_sql_of_the_shop_and_not_that_of_the_transactions() {
    let job = job("ltv");
    let task = job.entity_task().unwrap();
    let names = |files: &[PathBuf]| -> Vec<String> {
        files.iter().map(|f| f.strip_prefix(job.root()).unwrap().display().to_string()).collect()
    };
    assert_eq!(names(&task.labels), ["sql/labels/next_30d.sql", "sql/labels/next_90d.sql"]);
    assert_eq!(names(&task.views), ["sql/views/paid_orders.sql"]);
    assert!(names(&task.features).iter().all(|f| f.starts_with("sql/features/")));
    assert_eq!(job.lake().path().rsplit('/').nth(1), Some("lake"));
}

#[test]
fn both_transaction_jobs_share_their_sql() {
    let (retail, cdnow) = (job("online_retail"), job("cdnow"));
    let (retail, cdnow) = (retail.entity_task().unwrap(), cdnow.entity_task().unwrap());
    assert_eq!(retail.features, cdnow.features);
    assert_eq!(retail.labels, cdnow.labels);
    assert!(!retail.features.is_empty());
}

#[tokio::test]
async fn the_events_files_that_no_job_reads_yet_fit_their_shops() {
    for (name, events) in [("cdnow", "sql/transactions/sequences/orders.sql"), ("ltv", "sql/sequences/events.sql")] {
        let job = job(name);
        let mut task = job.entity_task().unwrap().clone();
        let sequence = SequenceSpec {
            events: job.root().join(events),
            length: 32,
            encoder: SequenceEncoder::Gru,
            width: 32,
            layers: 1,
            keep: Keep::Auto,
            place: Place::file("jobs"),
        };
        task.model.as_mut().unwrap().sequence = Some(sequence);
        let features = FeatureSet::load(&task, job.root()).unwrap();
        let columns = features.resolve(&lake::empty_session(&job).unwrap(), &job).await;
        let columns = columns.unwrap_or_else(|error| panic!("{}", tenure::printer::render_error(&error)));
        assert_eq!(columns.last().unwrap().name, SEQUENCE);
    }
}

#[test]
fn the_text_job_is_the_textbook_recipe() {
    let job = job("review_intent");
    let Task::TextClassifier(task) = job.task() else { panic!("it has customers") };
    assert_eq!((task.max_length, task.epochs, task.batch, task.learning_rate), (128, 5, 16, 5e-5));
}

#[test]
fn every_feature_and_label_file_says_what_it_is_and_comments_every_column() {
    for job in ["ltv", "online_retail"].map(job) {
        let task = job.entity_task().unwrap();
        for file in task.features.iter().chain(&task.labels).chain(&task.views) {
            let text = std::fs::read_to_string(file).unwrap();
            for key in ["-- @description ", "-- @owner "] {
                assert!(text.contains(key), "{} has no {key}", file.display());
            }
            let body = text.lines().skip_while(|l| *l != "SELECT").skip(1).take_while(|l| !l.starts_with("FROM"));
            for line in body.filter(|l| l.contains(" AS ") && !l.trim_start().starts_with('/')) {
                assert!(line.contains(" -- "), "{}: `{line}` has no comment", file.display());
            }
        }
    }
}
