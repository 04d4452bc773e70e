//! Past predictions beside what happened: published again through the real binary and held against a naive count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Date32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use chrono::{Days, NaiveDate};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::support::shop::{AS_OF, Shop, assert_exit, assert_success, checkout, published_once};

/// The nights whose predictions of 30 and of 90 days reach their horizon at [`AS_OF`].
const PAST: [(&str, i64, &str); 2] = [("30d", 30, "2026-06-01"), ("90d", 90, "2026-04-02")];

/// A shop that published the past nights and tonight. Do not change it; copy it.
fn compared_once() -> &'static Shop {
    static SHOP: OnceLock<Shop> = OnceLock::new();
    SHOP.get_or_init(|| {
        let shop = Shop::trained();
        for (_, _, night) in PAST.iter().rev() {
            shop.publish(night);
        }
        let job = job_with(&shop, "outcomes: {heads: [churn_30d, churn_90d, ltv_30d, ltv_90d]}");
        assert_success(&run(&shop, &job));
        shop
    })
}

/// The demo job with other outcomes, beside the demo's SQL.
fn job_with(shop: &Shop, outcomes: &str) -> PathBuf {
    let jobs = shop.path().join("jobs");
    if !jobs.exists() {
        fs::create_dir(&jobs).unwrap();
        std::os::unix::fs::symlink(checkout().join("sql"), shop.path().join("sql")).unwrap();
    }
    let text = fs::read_to_string(checkout().join("jobs/ltv.yaml")).unwrap();
    let (start, end) = (text.find("outcomes:").unwrap(), text.find("publish:").unwrap());
    let job = jobs.join("ltv.yaml");
    fs::write(&job, format!("{}{outcomes}\n{}", &text[..start], &text[end..])).unwrap();
    job
}

fn run(shop: &Shop, job: &Path) -> Output {
    shop.tenure(&["run", job.to_str().unwrap(), "--as-of", AS_OF])
}

fn record_of(shop: &Shop) -> Value {
    let job = shop.path().join("jobs/ltv.yaml");
    let runs = shop.tenure(&["runs", "--job", job.to_str().unwrap(), "--json"]);
    assert_success(&runs);
    let runs: Value = serde_json::from_slice(&runs.stdout).unwrap();
    runs["runs"][0].clone()
}

fn read(path: &Path) -> RecordBatch {
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn number(rows: &RecordBatch, name: &str, row: usize) -> Option<f64> {
    let column = rows.column_by_name(name).unwrap().as_primitive::<Float64Type>();
    column.is_valid(row).then(|| column.value(row))
}

fn count(rows: &RecordBatch, name: &str, row: usize) -> i64 {
    rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(row)
}

/// What each customer spent on good orders from `start` to the start of [`AS_OF`], as it was known there.
fn spent_since(shop: &Shop, start: NaiveDate) -> BTreeMap<i64, f64> {
    let end = AS_OF.parse::<NaiveDate>().unwrap();
    let micros = |date: NaiveDate| date.and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp_micros();
    let mut seen: BTreeSet<i64> = BTreeSet::new();
    let mut spent: BTreeMap<i64, f64> = BTreeMap::new();
    let mut days: Vec<PathBuf> =
        fs::read_dir(shop.lake().join("orders")).unwrap().map(|entry| entry.unwrap().path()).collect();
    days.sort();
    for file in days.iter().flat_map(|day| fs::read_dir(day).unwrap().map(|file| file.unwrap().path())) {
        let rows = read(&file);
        let int = |name: &str| rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
        let time = |name: &str| {
            arrow::compute::cast(
                rows.column_by_name(name).unwrap(),
                &arrow::datatypes::DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None),
            )
            .unwrap()
            .as_primitive::<TimestampMicrosecondType>()
            .clone()
        };
        let (orders, customers) = (int("order_id"), int("customer_id"));
        let (ordered, loaded) = (time("ordered_at"), time("loaded_at"));
        let amounts = rows.column_by_name("amount").unwrap().as_primitive::<Float64Type>().clone();
        let refunded = rows.column_by_name("refunded").unwrap().as_boolean().clone();
        for row in 0..rows.num_rows() {
            let good = customers.is_valid(row) && amounts.is_valid(row) && !amounts.value(row).is_nan();
            let known = loaded.value(row) < micros(end) && ordered.value(row) < micros(end);
            // An order that stands there twice counts once.
            if !good || !known || amounts.value(row) < 0.0 || !seen.insert(orders.value(row)) {
                continue;
            }
            if ordered.value(row) >= micros(start) && !refunded.value(row) {
                *spent.entry(customers.value(row)).or_default() += amounts.value(row);
            }
        }
    }
    spent
}

/// A head's scores with what happened, customer by customer.
fn pairs(shop: &Shop, head: &str, night: &str) -> Vec<(f64, f64)> {
    let spent = spent_since(shop, night.parse().unwrap());
    let predictions = read(&shop.table("predictions", night));
    let keys = predictions.column(0).as_primitive::<Int64Type>();
    let of = |row: usize| {
        let spent = spent.get(&keys.value(row));
        let label =
            if head.starts_with("churn") { f64::from(u8::from(spent.is_none())) } else { *spent.unwrap_or(&0.0) };
        Some((number(&predictions, head, row)?, label))
    };
    (0..predictions.num_rows()).filter_map(of).collect()
}

fn close(found: Option<f64>, expected: f64, what: &str) {
    let found = found.unwrap_or_else(|| panic!("{what} is NULL"));
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{what}: {found}, not {expected}");
}

/// The share of pairs of a leaver and a stayer in which the leaver has the higher score; ties are half.
fn naive_auc(pairs: &[(f64, f64)]) -> f64 {
    let (left, stayed): (Vec<_>, Vec<_>) = pairs.iter().partition(|(_, label)| *label == 1.0);
    let mut won = 0.0;
    for (a, _) in &left {
        for (b, _) in &stayed {
            won += if a > b {
                1.0
            } else if a == b {
                0.5
            } else {
                0.0
            };
        }
    }
    won / (left.len() * stayed.len()) as f64
}

/// The mean of how much of each label lies between the levels 10 % and 90 % that were published.
fn naive_coverage(shop: &Shop, head: &str, night: &str) -> f64 {
    let predictions = read(&shop.table("predictions", night));
    let column = |suffix: &str| {
        let scored =
            (0..predictions.num_rows()).filter_map(|row| number(&predictions, &format!("{head}{suffix}"), row));
        scored.collect::<Vec<f64>>()
    };
    let (p10, p90, zero) = (column("_p10"), column("_p90"), column("_p_zero"));
    let covered = |(row, (_, label)): (usize, (f64, f64))| {
        if label > 0.0 {
            return f64::from(u8::from(p10[row] <= label && label <= p90[row]));
        }
        // The atom stands for the levels from 0 to P(value = 0).
        let inside = zero[row].min(0.9) - zero[row].min(0.1);
        inside / zero[row]
    };
    let pairs = pairs(shop, head, night);
    let n = pairs.len() as f64;
    pairs.into_iter().enumerate().map(covered).sum::<f64>() / n
}

#[test]
fn outcomes_are_those_of_a_naive_count() {
    let shop = compared_once();
    let rows = read(&shop.table("outcomes", AS_OF));
    let heads = rows.column_by_name("head").unwrap().as_string::<i32>().clone();
    assert_eq!(heads.iter().flatten().collect::<Vec<_>>(), ["churn_30d", "churn_90d", "ltv_30d", "ltv_90d"]);
    for (row, head) in heads.iter().flatten().enumerate() {
        let (_, days, night) = PAST.into_iter().find(|(suffix, ..)| head.ends_with(suffix)).unwrap();
        let pairs = pairs(shop, head, night);
        let n = pairs.len() as f64;
        assert_eq!(count(&rows, "judged", row) as usize, pairs.len(), "{head}");
        assert!(pairs.len() > 100, "{head}: {}", pairs.len());
        let all = read(&shop.table("predictions", night)).num_rows() as i64;
        assert_eq!((count(&rows, "customers", row), count(&rows, "unscored", row)), (all, all - pairs.len() as i64));
        assert_eq!(rows.column_by_name("horizon_days").unwrap().as_primitive::<Int32Type>().value(row) as i64, days);
        let ds = rows.column_by_name("predicted_ds").unwrap().as_primitive::<Date32Type>().value_as_date(row);
        assert_eq!(ds.unwrap().to_string(), night);
        assert_eq!(ds.unwrap() + Days::new(days as u64), AS_OF.parse::<NaiveDate>().unwrap());

        let (predicted, realised) = pairs.iter().fold((0.0, 0.0), |(p, r), (score, label)| (p + score, r + label));
        assert!(realised > 0.0, "{head}: something happened");
        close(number(&rows, "predicted_sum", row), predicted, head);
        close(number(&rows, "realised_sum", row), realised, head);
        close(number(&rows, "predicted_mean", row), predicted / n, head);
        close(number(&rows, "realised_mean", row), realised / n, head);
        close(number(&rows, "total_bias", row), predicted / realised - 1.0, head);
        if head.starts_with("churn") {
            close(number(&rows, "auc", row), naive_auc(&pairs), head);
            let brier = pairs.iter().map(|(p, label)| (p - label).powi(2)).sum::<f64>() / n;
            close(number(&rows, "brier", row), brier, head);
            assert_eq!(number(&rows, "gini_norm", row), None, "{head}");
        } else {
            let mae = pairs.iter().map(|(value, label)| (value - label).abs()).sum::<f64>() / n;
            close(number(&rows, "mae", row), mae, head);
            assert!(number(&rows, "gini_norm", row).unwrap() > 0.0, "{head}");
            close(number(&rows, "interval_coverage", row), naive_coverage(shop, head, night), head);
            assert_eq!(number(&rows, "auc", row), None, "{head}");
        }
    }
}

#[test]
fn deciles_are_those_of_a_naive_sort() {
    let shop = compared_once();
    let rows = read(&shop.table("outcome_deciles", AS_OF));
    let heads = rows.column_by_name("head").unwrap().as_string::<i32>().clone();
    let mut pairs = pairs(shop, "ltv_90d", PAST[1].2);
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0)); // Stable: equal scores stay in the order of the key.
    let mut rest = pairs.as_slice();
    let mine: Vec<usize> = (0..rows.num_rows()).filter(|row| heads.value(*row) == "ltv_90d").collect();
    assert_eq!((mine.len(), rows.num_rows()), (10, 40));
    for (place, row) in mine.into_iter().enumerate() {
        assert_eq!(rows.column_by_name("decile").unwrap().as_primitive::<Int32Type>().value(row) as usize, place + 1);
        let (decile, others) = rest.split_at(count(&rows, "customers", row) as usize);
        rest = others;
        assert!(decile.len().abs_diff(pairs.len() / 10) <= 1);
        close(number(&rows, "predicted_sum", row), decile.iter().map(|(score, _)| score).sum(), "predicted_sum");
        close(number(&rows, "realised_sum", row), decile.iter().map(|(_, label)| label).sum(), "realised_sum");
        let mean = decile.iter().map(|(_, label)| label).sum::<f64>() / decile.len() as f64;
        close(number(&rows, "realised_mean", row), mean, "realised_mean");
    }
    assert!(rest.is_empty(), "{} customers are in no decile", rest.len());
}

#[test]
fn the_first_nights_have_no_outcomes_and_say_why() {
    let shop = published_once();
    for table in ["outcomes", "outcome_deciles"] {
        let rows = read(&shop.table(table, AS_OF));
        assert_eq!(rows.num_rows(), 0, "{table}");
        for field in rows.schema().fields() {
            assert!(field.metadata().contains_key("description"), "{table}.{}", field.name());
        }
    }
    let show = shop.tenure(&["runs", "show", AS_OF, "--job", "jobs/ltv.yaml", "--json"]);
    let record: Value = serde_json::from_slice(&show.stdout).unwrap();
    assert_eq!((&record["verdict"], record["outcomes"].as_array().unwrap().len()), (&Value::from("done"), 0));
    assert_eq!(
        record["notes"],
        serde_json::json!([
            "no outcome of `churn_30d`, `ltv_30d`: the night of 2026-06-01 was not published",
            "no outcome of `churn_90d`, `ltv_90d`: the night of 2026-04-02 was not published"
        ])
    );
}

#[test]
fn what_was_read_stands_in_the_record_and_a_model_that_had_seen_the_outcome_is_named() {
    let shop = compared_once();
    let record = record_of(shop);
    for (_, _, night) in PAST {
        let path = format!("predictions/ds={night}/part-00000.parquet");
        let inputs = record["inputs"].as_array().unwrap();
        let input = inputs.iter().find(|input| input["table"] == path.as_str()).unwrap_or_else(|| panic!("{record}"));
        assert_eq!(input["bytes"], fs::metadata(shop.out().join(&path)).unwrap().len());
        assert_eq!(input["sha256"].as_str().unwrap().len(), 64);
    }
    assert!(record["sql"]["sql/labels/next_90d.sql"].is_string(), "{record}");
    let notes: Vec<&str> = record["notes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(notes.len(), 4, "{notes:?}");
    assert!(notes.iter().all(|note| note.contains("had seen a part of what followed")), "{notes:?}");

    let job = shop.path().join("jobs/ltv.yaml");
    let show = shop.tenure(&["runs", "show", record["run_id"].as_str().unwrap(), "--job", job.to_str().unwrap()]);
    assert_success(&show);
    let shown = String::from_utf8(show.stdout).unwrap();
    let line =
        shown.lines().find(|line| line.trim_start().starts_with("outcomes")).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("churn_30d") && line.contains("ltv_90d"), "{shown}");
    assert!(shown.contains("calibration_error") && shown.contains("note       "), "{shown}");
}

#[test]
fn a_crossed_threshold_ends_a_published_night_with_exit_code_3() {
    let shop = Shop::copy_of(compared_once());
    let alert =
        "outcomes: {alert: {churn_90d: {auc: {min: 0.99999}, brier: {max: 1}}, ltv_90d: {total_bias: {min: 50}}}}";
    let job = job_with(&shop, alert);
    let before = read(&shop.table("outcomes", AS_OF));
    let output = shop.tenure(&["run", job.to_str().unwrap(), "--as-of", AS_OF, "--json"]);
    assert_exit(&output, 3);
    let night: Value = serde_json::from_slice(&output.stdout).unwrap();
    let alerts: Vec<&str> = night["alerts"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(alerts.len(), 2, "{alerts:?}");
    assert!(
        alerts[0].starts_with("`churn_90d`: realised AUC 0.") && alerts[0].contains("is below 0.99999 ("),
        "{alerts:?}"
    );
    assert!(
        alerts[1].starts_with("`ltv_90d`: realised total bias ") && alerts[1].contains("is below 50 ("),
        "{alerts:?}"
    );
    assert_eq!(read(&shop.table("outcomes", AS_OF)).columns(), before.columns());

    let record = record_of(&shop);
    assert_eq!((&record["verdict"], &record["exit_code"]), (&Value::from("alert"), &Value::from(3)));
    assert_eq!((&record["status"], &record["alerts"]), (&Value::from("done"), &night["alerts"]));
    assert_eq!(record["outcomes"][1]["alerts"][0], night["alerts"][0]);
    for table in record["tables"].as_array().unwrap() {
        assert!(shop.out().join(table["path"].as_str().unwrap()).exists(), "{table}");
    }
    let again = run(&shop, &job);
    assert_success(&again);
    assert!(String::from_utf8_lossy(&again.stderr).contains("already"), "{again:?}");
}

#[test]
fn a_night_with_outcomes_is_done_at_once_and_gives_the_same_bytes_when_forced() {
    let shop = Shop::copy_of(compared_once());
    let job = job_with(&shop, "outcomes: {heads: [ltv_90d]}");
    assert_success(&run(&shop, &job));
    let bytes = || ["outcomes", "outcome_deciles"].map(|table| fs::read(shop.table(table, AS_OF)).unwrap());
    let clean = bytes();
    assert_success(&shop.tenure(&["run", job.to_str().unwrap(), "--as-of", AS_OF, "--force", "--threads", "1"]));
    assert!(bytes() == clean, "bytes differ");

    // Spoilt in place, so that whoever reads it fails: tonight is done without a look at it.
    let past = shop.table("predictions", "2026-04-02");
    let was = fs::metadata(&past).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&past).unwrap();
    std::io::Write::write_all(&mut file, &vec![0_u8; was.len() as usize]).unwrap();
    file.set_modified(was.modified().unwrap()).unwrap();
    let again = run(&shop, &job);
    assert_success(&again);
    assert!(String::from_utf8_lossy(&again.stderr).contains("already"), "{again:?}");
}

#[test]
fn a_job_can_compare_nothing() {
    let shop = Shop::trained();
    let job = job_with(&shop, "outcomes: {heads: []}");
    assert_success(&run(&shop, &job));
    assert!(!shop.out().join("outcomes").exists());
    assert_eq!(record_of(&shop)["notes"], serde_json::json!([]));
}
