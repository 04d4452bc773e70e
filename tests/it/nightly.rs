//! The whole line through the real binary on a small demo shop.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::tenure::lake::publish::POINTS;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::support::s3::S3Server;
use crate::support::shop::{AS_OF, Shop, assert_exit, assert_success, checkout, published_once, tenure, trained_once};

const TABLES: [&str; 4] = ["features", "predictions", "segments", "transitions"];

fn read(path: &Path) -> RecordBatch {
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

/// Every published object (not the ledger) with its bytes.
fn published(shop: &Shop) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files_below(&shop.out()).into_iter();
    let mut found: BTreeMap<PathBuf, Vec<u8>> =
        files.map(|path| (path.strip_prefix(shop.out()).unwrap().to_owned(), fs::read(&path).unwrap())).collect();
    found.retain(|path, _| !path.starts_with("_runs"));
    found
}

#[test]
fn a_night_has_one_row_per_customer_and_no_nan() {
    let shop = published_once();
    let customers = read(&shop.table("features", AS_OF)).num_rows();
    assert!(customers > 200, "{customers} customers");
    for table in ["predictions", "segments"] {
        assert_eq!(read(&shop.table(table, AS_OF)).num_rows(), customers, "{table}");
    }
    for table in TABLES {
        let rows = read(&shop.table(table, AS_OF));
        for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
            assert!(field.metadata().contains_key("description"), "{table}.{} has no description", field.name());
            if field.data_type() == &DataType::Float64 {
                let values = column.as_primitive::<arrow::datatypes::Float64Type>();
                assert!(values.iter().flatten().all(f64::is_finite), "{table}.{}", field.name());
            }
        }
    }
}

#[test]
fn a_score_is_null_exactly_where_a_reason_stands() {
    let rows = read(&published_once().table("predictions", AS_OF));
    let reason = rows.column_by_name("no_score_reason").unwrap();
    let churn = rows.column_by_name("churn_90d").unwrap();
    let value = rows.column_by_name("ltv_90d").unwrap();
    for row in 0..rows.num_rows() {
        assert_eq!(churn.is_null(row), reason.is_valid(row), "row {row}");
        assert_eq!(value.is_null(row), reason.is_valid(row), "row {row}");
    }
    assert!(reason.null_count() > 0, "somebody is scored");
    assert!(reason.null_count() < rows.num_rows(), "prospects are not");
}

#[test]
fn horizons_of_a_family_are_monotone() {
    let rows = read(&published_once().table("predictions", AS_OF));
    let column =
        |name: &str| rows.column_by_name(name).unwrap().as_primitive::<arrow::datatypes::Float64Type>().clone();
    for (short, long) in column("churn_30d").iter().zip(&column("churn_90d")) {
        assert!(short >= long, "no purchase in 30 days {short:?} is at least as likely as none in 90 {long:?}");
    }
    for (short, long) in column("ltv_30d").iter().zip(&column("ltv_90d")) {
        assert!(short <= long, "{short:?} {long:?}");
    }
}

#[test]
fn the_same_run_again_ends_at_once_and_reads_no_table() {
    let shop = Shop::copy_of(published_once());
    // The copy's files have other inodes, hence other etags: publish once more, then spoil the data in place.
    shop.publish(AS_OF);
    for entry in fs::read_dir(shop.lake().join("customers")).unwrap() {
        let path = entry.unwrap().path();
        let times = fs::metadata(&path).unwrap().modified().unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let garbage = vec![0_u8; file.metadata().unwrap().len() as usize];
        std::io::Write::write_all(&mut &file, &garbage).unwrap();
        file.set_modified(times).unwrap();
    }
    // The machine may be busy with other tests: the quickest of three counts.
    let quickest = (0..3).map(|_| {
        let start = Instant::now();
        let again = shop.publish(AS_OF);
        assert!(String::from_utf8_lossy(&again.stderr).contains("already"), "{again:?}");
        start.elapsed()
    });
    let quickest = quickest.min().unwrap();
    assert!(quickest < Duration::from_secs(2), "{quickest:?}");
    // The spoiled file is noticed as soon as somebody has to read it.
    assert_exit(&shop.tenure(&["run", "jobs/ltv.yaml", "--as-of", AS_OF, "--force"]), 1);
}

#[test]
fn a_forced_run_gives_the_same_bytes() {
    let shop = Shop::trained();
    shop.publish(AS_OF);
    let clean = published(&shop);
    assert_success(&shop.tenure(&["run", "jobs/ltv.yaml", "--as-of", AS_OF, "--force", "--threads", "1"]));
    assert!(published(&shop) == clean, "bytes differ");
}

#[test]
fn a_run_killed_anywhere_and_started_again_gives_the_bytes_of_a_clean_run() {
    let shop = Shop::trained();
    shop.publish(AS_OF);
    let clean = published(&shop);
    let stages = ["night.planned", "night.started", "night.scored", "night.segmented", "night.compared"];
    let points: Vec<&str> = stages.into_iter().chain(POINTS.iter().copied()).collect();
    assert!(points.len() >= 10);
    for point in points {
        fs::remove_dir_all(shop.out()).unwrap();
        let killed = shop.command(&["run", "jobs/ltv.yaml", "--as-of", AS_OF]).env("TENURE_ABORT_AT", point).output();
        let killed = killed.unwrap();
        assert_eq!(killed.status.code(), None, "{point} was not reached: {}", String::from_utf8_lossy(&killed.stderr));
        shop.publish(AS_OF);
        assert!(published(&shop) == clean, "killed at `{point}`: bytes differ");
    }
}

#[test]
fn rows_at_or_after_as_of_change_no_feature_bit() {
    let night = "2026-05-02";
    let shop = Shop::trained();
    shop.publish(night);
    let before = read(&shop.table("features", night));
    // Everything from that day on disappears from the lake: the features of the day may not notice.
    for table in ["orders", "events"] {
        for entry in fs::read_dir(shop.lake().join(table)).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap() >= "dt=2026-05-02" {
                fs::remove_dir_all(path).unwrap();
            }
        }
    }
    assert_success(&shop.tenure(&["run", "jobs/ltv.yaml", "--as-of", night, "--force"]));
    // The footer names the run, which other inputs make another one; the rows are compared.
    assert_eq!(read(&shop.table("features", night)).columns(), before.columns());
}

#[test]
fn stages_carry_on_from_the_night_before() {
    let shop = Shop::trained();
    shop.publish("2026-06-30");
    shop.publish(AS_OF);
    let rows = read(&shop.table("segments", AS_OF));
    let text = |name: &str| rows.column_by_name(name).unwrap().as_string::<i32>().clone();
    let (stage, previous, because) = (text("stage"), text("previous_stage"), text("moved_because"));
    assert!(previous.null_count() < rows.num_rows() / 2, "most customers were there the night before");
    for row in 0..rows.num_rows() {
        let moved = previous.is_valid(row) && previous.value(row) != stage.value(row);
        assert_eq!(because.is_valid(row), moved, "row {row}");
    }
    let transitions = read(&shop.table("transitions", AS_OF));
    let customers = transitions.column_by_name("customers").unwrap().as_primitive::<arrow::datatypes::Int64Type>();
    let stays = transitions.column_by_name("stage").unwrap();
    let total: i64 =
        (0..transitions.num_rows()).filter(|row| stays.is_valid(*row)).map(|row| customers.value(row)).sum();
    assert_eq!(total as usize, rows.num_rows());
}

#[test]
fn bad_rows_are_rejected_with_their_reason() {
    let rows = read(&published_once().table("rejects", AS_OF));
    assert!(rows.num_rows() > 0, "the demo lake has bad rows");
    let reasons = rows.column_by_name("reason").unwrap().as_string::<i32>();
    let row = rows.column_by_name("row").unwrap().as_string::<i32>();
    for index in 0..rows.num_rows() {
        assert!(!reasons.value(index).is_empty());
        serde_json::from_str::<serde_json::Value>(row.value(index)).unwrap();
    }
}

#[test]
fn stale_data_raises_an_alert() {
    let shop = Shop::copy_of(trained_once());
    let output = shop.tenure(&["run", "jobs/ltv.yaml", "--as-of", "2026-07-09", "--json"]);
    assert_exit(&output, 3);
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(verdict["alerts"][0].as_str().unwrap().contains("orders"), "{verdict}");
}

#[test]
fn the_ledger_lists_and_shows_runs() {
    let shop = published_once();
    let list = shop.tenure(&["runs", "--job", "jobs/ltv.yaml", "--json"]);
    assert_success(&list);
    let runs: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let id = runs["runs"][0]["run_id"].as_str().unwrap();
    assert!(id.starts_with(AS_OF), "{id}");
    let show = shop.tenure(&["runs", "show", &id[..14], "--job", "jobs/ltv.yaml"]);
    assert_success(&show);
    assert!(String::from_utf8_lossy(&show.stdout).contains(id));
    assert_exit(&shop.tenure(&["runs", "show", "nothing", "--job", "jobs/ltv.yaml"]), 1);
}

#[test]
fn a_failed_run_leaves_its_error_in_the_ledger_and_nothing_else() {
    let shop = Shop::trained();
    let folder = shop.lake().join("events");
    let broken = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path().join("part-0.parquet");
    fs::write(&broken, b"PAR1 this is no Parquet PAR1").unwrap();
    let output = shop.tenure(&["run", "jobs/ltv.yaml", "--as-of", AS_OF]);
    assert_exit(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("part-0.parquet"), "{output:?}");
    assert!(published(&shop).is_empty());
    let runs = shop.tenure(&["runs", "--job", "jobs/ltv.yaml", "--json"]);
    let runs: serde_json::Value = serde_json::from_slice(&runs.stdout).unwrap();
    assert_eq!(runs["runs"][0]["status"], "failed");
}

#[test]
fn a_job_without_a_model_has_stages_over_its_features() {
    let shop = Shop::copy_of(trained_once());
    let jobs = shop.path().join("jobs");
    fs::create_dir(&jobs).unwrap();
    std::os::unix::fs::symlink(checkout().join("sql"), shop.path().join("sql")).unwrap();
    let whole = fs::read_to_string(checkout().join("jobs/ltv.yaml")).unwrap();
    let (head, rest) = whole.split_once("labels:").unwrap();
    let (segments, rest) = rest[rest.find("segments:").unwrap()..].split_once("# The predictions of").unwrap();
    let publish = &rest[rest.find("publish:").unwrap()..];
    let segments = segments.replace("churn_90d >= 0.6", "days_since_last_order > 90").replace("ltv_90d", "spend_365d");
    let job = jobs.join("plain.yaml");
    fs::write(&job, format!("{head}\n{segments}\n{publish}")).unwrap();
    assert_success(&shop.tenure(&["run", job.to_str().unwrap(), "--as-of", AS_OF]));
    assert!(!shop.table("predictions", AS_OF).exists());
    let (segments, features) = (read(&shop.table("segments", AS_OF)), read(&shop.table("features", AS_OF)));
    assert_eq!(segments.column(0), features.column(0));
    assert_eq!(segments.column_by_name("value_tier").unwrap().null_count(), 0);
}

#[test]
fn a_store_out_of_reach_is_worth_a_retry() {
    let shop = Shop::copy_of(trained_once());
    let mut command = shop.command(&["run", "jobs/ltv.yaml", "--as-of", AS_OF]);
    command.env("TENURE_LAKE", "s3://nowhere/lake").env("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
    command.env("AWS_ALLOW_HTTP", "true").env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "x");
    command.env("AWS_REGION", "us-east-1");
    assert_exit(&command.output().unwrap(), 2);
}

#[test]
fn a_night_on_s3_has_the_rows_of_a_night_on_disk() {
    let Some(server) = S3Server::start() else { return };
    let shop = Shop::copy_of(published_once());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = server.store("shop");
    for table in ["customers", "orders", "events", "reviews"] {
        for path in files_below(&shop.lake().join(table)) {
            let key = path.strip_prefix(shop.lake()).unwrap().to_str().unwrap().to_owned();
            runtime.block_on(store.upload(&path, &key)).unwrap();
        }
    }
    let run = |args: &[&str]| {
        let mut command = shop.command(args);
        command.envs(server.env()).env("TENURE_LAKE", "s3://lake/shop").output().unwrap()
    };
    assert_success(&run(&["check", "jobs/ltv.yaml", "--online", "--as-of", AS_OF]));
    assert_success(&run(&["run", "jobs/ltv.yaml", "--as-of", AS_OF]));
    let again = run(&["run", "jobs/ltv.yaml", "--as-of", AS_OF]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("already"), "{again:?}");
    let traffic = || -> serde_json::Value {
        let shown = run(&["runs", "show", AS_OF, "--job", "jobs/ltv.yaml", "--json"]);
        serde_json::from_slice::<serde_json::Value>(&shown.stdout).unwrap()["traffic"].clone()
    };
    let first = traffic();
    assert!(first["received_bytes"].as_u64() > Some(100_000), "{first}");
    // States stand in for the events of all days, and nobody opens their files.
    assert_success(&run(&["run", "jobs/ltv.yaml", "--as-of", AS_OF, "--force"]));
    let forced = traffic();
    let (before, now) = (first["requests"].as_u64().unwrap(), forced["requests"].as_u64().unwrap());
    assert!(now + 100 < before, "{first} {forced}");
    for table in TABLES {
        let bytes = runtime.block_on(store.get(&format!("out/{table}/ds={AS_OF}/part-00000.parquet"))).unwrap();
        let copy = shop.path().join("from_s3.parquet");
        fs::write(&copy, bytes).unwrap();
        let (there, here) = (read(&copy), read(&shop.table(table, AS_OF)));
        // The run's name differs, for the inputs lie elsewhere.
        for field in here.schema().fields().iter().filter(|field| field.name() != "run_id") {
            assert_eq!(
                there.column_by_name(field.name()),
                here.column_by_name(field.name()),
                "{table}.{}",
                field.name()
            );
        }
    }
}

#[test]
fn an_online_check_finds_what_a_run_would_stumble_over() {
    let shop = Shop::copy_of(trained_once());
    let check = |as_of| shop.tenure(&["check", "jobs/ltv.yaml", "--online", "--as-of", as_of]);
    assert_success(&check(AS_OF));
    assert_exit(&check("2026-07-09"), 3);
    fs::remove_dir_all(shop.lake().join("events")).unwrap();
    let gone = check(AS_OF);
    assert_exit(&gone, 2);
    assert!(String::from_utf8_lossy(&gone.stderr).contains("table `events` is gone"), "{gone:?}");
    fs::create_dir(shop.lake().join("events")).unwrap();
    fs::remove_dir_all(shop.path().join("models")).unwrap();
    let broken = check(AS_OF);
    assert_exit(&broken, 1);
    let message = String::from_utf8_lossy(&broken.stderr);
    assert!(message.contains("`events` has no .parquet file") && message.contains("tenure train"), "{message}");
}

#[test]
fn one_customer_is_shown_as_the_matrix_has_it() {
    let shop = published_once();
    let output = shop.tenure(&["features", "show", "jobs/ltv.yaml", "--key", "7", "--as-of", AS_OF, "--json"]);
    assert_success(&output);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = read(&shop.table("features", AS_OF));
    let keys = rows.column(0).as_primitive::<arrow::datatypes::Int64Type>();
    let row = keys.iter().position(|key| key == Some(7)).unwrap();
    let orders = rows.column_by_name("orders_lifetime").unwrap().as_primitive::<arrow::datatypes::Int64Type>();
    assert_eq!(shown["orders_lifetime"], orders.value(row));
    assert_exit(&shop.tenure(&["features", "show", "jobs/ltv.yaml", "--key", "0", "--as-of", AS_OF]), 1);
}

#[test]
fn the_sql_files_pass_their_tests_and_the_page_of_features_is_theirs() {
    for job in ["jobs/ltv.yaml", "jobs/online_retail.yaml"] {
        let output = tenure(&["features", "test", job]);
        assert_success(&output);
        assert!(String::from_utf8_lossy(&output.stderr).contains(" 0 failed"), "{output:?}");
    }
    assert_success(&tenure(&["features", "docs", "jobs/ltv.yaml", "--check", "docs/features.md"]));
}

#[test]
fn wrong_options_are_the_users_fault_and_help_is_not() {
    for wrong in [&["run"][..], &["run", "jobs/ltv.yaml", "--as-of", "soon"], &["nothing"], &["runs", "--limit", "x"]] {
        assert_exit(&tenure(wrong), 1);
    }
    for device in ["gpu", "cuda:x"] {
        let output =
            published_once().tenure(&["run", "jobs/ltv.yaml", "--as-of", AS_OF, "--force", "--device", device]);
        assert_exit(&output, 1);
    }
    assert_success(&tenure(&["--help"]));
    assert_success(&tenure(&["run", "--help"]));
    assert_success(&tenure(&["completions", "bash"]));
    let schema = tenure(&["schema"]);
    assert!(serde_json::from_slice::<serde_json::Value>(&schema.stdout).unwrap()["properties"].is_object());
}

#[test]
fn an_evaluation_stands_beside_its_baselines() {
    let output = trained_once().tenure(&["evaluate", "jobs/ltv.yaml", "--as-of", "2026-03-01"]);
    assert_success(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    for word in ["persistence", "rfm", "spearman", "auc"] {
        assert!(text.to_lowercase().contains(word), "no {word} in\n{text}");
    }
}

#[test]
fn days_whose_outcome_is_not_known_yet_are_neither_judged_nor_learnt_from() {
    for args in [["evaluate", "2026-06-15"], ["train", "2027-01-01"]] {
        let output = trained_once().tenure(&[args[0], "jobs/ltv.yaml", "--as-of", args[1]]);
        assert_exit(&output, 1);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("the newest event is of 2026-06-30"), "{message}");
        assert!(message.contains("`--as-of 2026-07-01`") && message.contains("`--as-of 2026-04-02`"), "{message}");
    }
}
