//! Evaluations: intervals, verdicts, groups, the files of `--out`, and who looks on while a model is trained.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tch::Device;
use tenure::Result;
use tenure::printer::{Output, Printer, Verbosity};
use tenure::training::evaluation::{Evaluation, Outcome};
use tenure::training::watch::Epoch;
use tenure::training::{TrainJob, Watch, train_watched};

use crate::support::purchases::{self, Shop, after};
use crate::support::shop::{assert_exit, assert_success, checkout, trained_once};
use crate::training::train;

const DAY: &str = "2026-03-01";

fn evaluate(arguments: &[&str]) -> std::process::Output {
    let fixed = ["evaluate", "jobs/ltv.yaml", "--as-of", DAY, "--resamples", "40"];
    trained_once().tenure(&[&fixed, arguments].concat())
}

fn read(path: &Path) -> RecordBatch {
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(std::result::Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn texts(rows: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let column = rows.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

fn numbers(rows: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    let column = rows.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    column.as_primitive::<Float64Type>().iter().collect()
}

#[tokio::test]
async fn a_model_that_knows_more_wins_and_its_intervals_hold_its_metrics() {
    let (shop, dir) = (Shop::new(1500, 400), tempfile::tempdir().unwrap());
    let report = train(&shop, &purchases::task(&dir.path().join("bundle")), after(330)).await.unwrap();
    let evaluation = &report.validation;
    for head in &evaluation.heads {
        for model in &head.all.models {
            for (name, [low, high]) in &model.intervals {
                let value = model.metrics[name];
                assert!(low <= high, "{} {name}: {low} to {high}", head.head);
                // Percentile intervals need not hold the value of a skewed metric; those of a mean or a rank do.
                if ["auc", "brier", "log_loss", "spearman", "accuracy", "mae"].contains(&name.as_str()) {
                    assert!(low <= &value && &value <= high, "{} {name}: {value}, {low} to {high}", head.head);
                }
            }
        }
        for comparison in &head.all.comparisons {
            let [low, high] = comparison.interval;
            let expected = match comparison.outcome {
                Outcome::Win => low > 0.0,
                Outcome::Tie => low <= 0.0 && high >= 0.0,
                Outcome::Loss => high < 0.0,
            };
            assert!(expected && low <= high, "{comparison:?}");
        }
    }
    let churn = evaluation.heads.iter().find(|head| head.head == "churn_60d").unwrap();
    let auc = churn.all.comparisons.iter().find(|c| c.metric == "auc" && c.against == "persistence").unwrap();
    assert_eq!(auc.outcome, Outcome::Win, "{}", evaluation.table());
    assert!(evaluation.table().contains(&format!("auc: {}", auc.in_words())), "{}", evaluation.table());
    assert!(evaluation.table().contains(" churn_60d: beats persistence on "), "{}", evaluation.table());
    let read: Evaluation = serde_json::from_str(&serde_json::to_string(evaluation).unwrap()).unwrap();
    assert_eq!(read.table(), evaluation.table());
}

#[test]
fn an_evaluation_looks_at_stages_cohorts_and_columns() {
    let output = evaluate(&["--by", "channel", "--by", "ltv_90d", "--json"]);
    assert_success(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["job"], &report["resamples"]), (&"ltv".into(), &40.into()));
    for head in report["heads"].as_array().unwrap() {
        let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
        for group in head["groups"].as_array().unwrap() {
            *sizes.entry(group["by"].as_str().unwrap()).or_default() += group["rows"].as_u64().unwrap();
        }
        let all = head["rows"].as_u64().unwrap();
        let expected = ["channel", "cohort", "ltv_90d", "stage"].map(|by| (by, all));
        assert_eq!(sizes, BTreeMap::from(expected), "every customer is in one group");
    }
    let text = evaluate(&["--by", "channel"]).stdout;
    let text = String::from_utf8(text).unwrap();
    for part in
        ["the model\n churn_30d: ", "churn_90d by stage", "prospect", "ltv_90d by cohort", "2025-Q2", "by channel"]
    {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn stages_of_an_evaluation_follow_the_conditions_of_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    assert_success(&evaluate(&["--out", out.to_str().unwrap(), "--by", "orders_lifetime", "--by", "tenure_days"]));
    let rows = read(&out.join("predictions.parquet"));
    let (stages, orders) = (texts(&rows, "by_stage"), texts(&rows, "by_orders_lifetime"));
    let churn = numbers(&rows, "churn_90d");
    assert!(stages.iter().flatten().collect::<BTreeSet<_>>().len() >= 3, "{stages:?}");
    for row in 0..rows.num_rows() {
        let stage = stages[row].as_deref().unwrap();
        if stage == "at_risk" {
            assert!(churn[row].unwrap() >= 0.6, "row {row}");
        }
        if stage == "prospect" {
            // The lowest group of the orders is the one that holds 0.
            assert!(["0", "up to 0", "up to 1"].contains(&orders[row].as_deref().unwrap()), "row {row}: {orders:?}");
        }
    }
}

/// The columns that docs/evaluation.md promises of a table.
fn documented(table: &str) -> Vec<(String, String)> {
    let page = fs::read_to_string(checkout().join("docs/evaluation.md")).unwrap();
    let (_, rest) = page.split_once(&format!("### `{table}`")).unwrap();
    let rest = rest.split("\n#").next().unwrap();
    let cells = rest.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        Some((cells[0].to_owned(), cells[1].to_owned()))
    });
    cells.collect()
}

fn columns(rows: &RecordBatch) -> Vec<(String, String)> {
    let name = |data_type: &DataType| match data_type {
        DataType::Utf8 => "VARCHAR",
        DataType::Float64 => "DOUBLE",
        DataType::Int64 => "BIGINT",
        DataType::Boolean => "BOOLEAN",
        other => panic!("{other}"),
    };
    rows.schema().fields().iter().map(|field| (field.name().clone(), name(field.data_type()).to_owned())).collect()
}

#[test]
fn the_files_hold_every_metric_and_every_customer() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("deep/out");
    // Twice: the second evaluation takes the first one's place.
    for _ in 0..2 {
        assert_success(&evaluate(&["--out", out.to_str().unwrap()]));
    }
    let mut names: Vec<_> =
        fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["evaluation.json", "metrics.parquet", "predictions.parquet"]);
    assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 1, "nothing half-written stays");

    let report: Value = serde_json::from_slice(&fs::read(out.join("evaluation.json")).unwrap()).unwrap();
    let printed: Value = serde_json::from_slice(&evaluate(&["--json"]).stdout).unwrap();
    assert_eq!(report, printed, "the same evaluation gives the same numbers");

    let metrics = read(&out.join("metrics.parquet"));
    assert_eq!(columns(&metrics), documented("metrics"));
    let column = |name: &str| texts(&metrics, name);
    let (heads, models, names, groups) = (column("head"), column("model"), column("metric"), column("grouped_by"));
    let value = numbers(&metrics, "value");
    let mut seen = 0;
    for head in report["heads"].as_array().unwrap() {
        for model in head["models"].as_array().unwrap() {
            for (metric, expected) in model["metrics"].as_object().unwrap() {
                let is = |row: &usize| {
                    let text = |column: &[Option<String>]| column[*row].clone().unwrap();
                    groups[*row].is_none()
                        && (text(&heads), text(&models), text(&names))
                            == (
                                head["head"].as_str().unwrap().into(),
                                model["model"].as_str().unwrap().into(),
                                metric.clone(),
                            )
                };
                let rows: Vec<usize> = (0..metrics.num_rows()).filter(is).collect();
                assert_eq!(rows.len(), 1, "{metric}");
                let (found, expected) = (value[rows[0]].unwrap(), expected.as_f64().unwrap());
                assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{metric}: {found}, not {expected}");
                seen += 1;
            }
        }
    }
    assert!(seen > 60, "{seen} metrics");
    assert_eq!(groups.iter().flatten().collect::<BTreeSet<_>>().len(), 2);

    let predictions = read(&out.join("predictions.parquet"));
    assert_eq!(predictions.num_rows() as u64, report["customers"].as_u64().unwrap());
    let keys = predictions.column(0).as_primitive::<Int64Type>();
    assert!(keys.values().windows(2).all(|pair| pair[0] < pair[1]), "one sorted row per customer");
    for field in metrics.schema().fields().iter().chain(predictions.schema().fields()) {
        assert!(field.metadata().contains_key("description"), "{}", field.name());
    }
    let (said, happened) = (numbers(&predictions, "ltv_90d"), numbers(&predictions, "ltv_90d_actual"));
    let total = |values: &[Option<f64>]| values.iter().flatten().sum::<f64>();
    let bias = (total(&said) - total(&happened)) / total(&happened);
    let ltv = report["heads"].as_array().unwrap().iter().find(|head| head["head"] == "ltv_90d").unwrap();
    assert!((bias - ltv["models"][0]["metrics"]["total_bias_signed"].as_f64().unwrap()).abs() < 1e-9);
    assert_eq!(predictions.column_by_name("churn_90d_rfm").unwrap().null_count(), 0);
}

#[test]
fn a_folder_that_holds_something_else_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let output = evaluate(&["--out", dir.path().to_str().unwrap()]);
    assert_exit(&output, 1);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("holds `thesis.txt`, which is no evaluation"), "{message}");
    assert!(dir.path().join("thesis.txt").exists());
}

#[test]
fn an_unknown_column_is_named_with_the_nearest() {
    let output = evaluate(&["--by", "chanel"]);
    assert_exit(&output, 1);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("there is no feature `chanel`") && message.contains("did you mean `channel`?"),
        "{message}"
    );
}

#[test]
fn without_resamples_there_are_metrics_and_no_verdict() {
    let output = trained_once().tenure(&["evaluate", "jobs/ltv.yaml", "--as-of", DAY, "--resamples", "0", "--json"]);
    assert_success(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let head = &report["heads"][0];
    assert_eq!(head["comparisons"].as_array().unwrap().len(), 0);
    assert!(head["models"][0]["metrics"]["auc"].as_f64().unwrap() > 0.5);
}

/// Notes what it hears.
#[derive(Debug, Default)]
struct Notebook {
    epochs: RefCell<Vec<(String, usize, usize)>>,
    validated: RefCell<Vec<usize>>,
}

impl Watch for Notebook {
    fn epoch(&self, epoch: &Epoch<'_>) -> Result<()> {
        assert!(epoch.training_loss.is_finite() && epoch.learning_rate > 0.0, "{epoch:?}");
        self.epochs.borrow_mut().push((epoch.fit.to_owned(), epoch.number, epoch.validation_losses.len()));
        Ok(())
    }

    fn validated(&self, epochs: usize, _: &Evaluation) -> Result<()> {
        self.validated.borrow_mut().push(epochs);
        Ok(())
    }
}

#[tokio::test]
async fn whoever_looks_on_hears_of_every_epoch_and_changes_no_byte() {
    let (shop, dir) = (Shop::new(300, 300), tempfile::tempdir().unwrap());
    let (alone, watched) = (dir.path().join("alone"), dir.path().join("watched"));
    train(&shop, &purchases::task(&alone), after(240)).await.unwrap();
    let (task, notebook) = (purchases::task(&watched), Notebook::default());
    let job = TrainJob { name: "shop", task: &task, device: Device::Cpu };
    let printer = Printer::new(Verbosity::Quiet, Output::Human);
    let report = train_watched(&shop, job, after(240), &printer, &notebook).await.unwrap();
    for file in ["manifest.json", "weights.safetensors"] {
        assert_eq!(fs::read(alone.join(file)).unwrap(), fs::read(watched.join(file)).unwrap(), "{file}");
    }
    let epochs = notebook.epochs.into_inner();
    let of = |fit: &str| {
        epochs.iter().filter(|(name, ..)| name == fit).map(|(_, n, heads)| (*n, *heads)).collect::<Vec<_>>()
    };
    let (search, last) = (of("search"), of("final fit"));
    assert_eq!(
        search,
        (1..=search.len()).map(|number| (number, task.model.as_ref().unwrap().heads.len())).collect::<Vec<_>>()
    );
    assert_eq!(last, (1..=report.training.epochs).map(|number| (number, 0)).collect::<Vec<_>>());
    assert_eq!(notebook.validated.into_inner(), [report.training.epochs]);
}

#[test]
fn a_training_leaves_event_files_where_it_is_asked_to() {
    let shop = crate::support::shop::Shop::trained();
    let runs = shop.path().join("runs");
    let asked = ["train", "jobs/ltv.yaml", "--as-of", "2026-07-01", "--log-dir", runs.to_str().unwrap()];
    let output = shop.tenure(&asked);
    assert_success(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("tensorboard --logdir"), "{output:?}");
    let training = fs::read_dir(runs.join("ltv")).unwrap().next().unwrap().unwrap();
    assert!(training.file_name().to_str().unwrap().starts_with("2026-07-01-"), "{training:?}");
    for run in ["search", "final_fit", "metrics/model", "metrics/rfm", "metrics/persistence"] {
        let files: Vec<_> = fs::read_dir(training.path().join(run)).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(files.len(), 1, "{run}: {files:?}");
        assert!(files[0].to_str().unwrap().starts_with("events.out.tfevents."), "{run}: {files:?}");
    }
}
