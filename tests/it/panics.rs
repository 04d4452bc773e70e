//! A panic anywhere: the command ends with exit code 1 and says that it is a bug, the night stays as it was, and the next run
//! publishes all of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use crate::support::shop::{AS_OF, Shop, assert_exit, assert_success};

/// The night before the one that fails.
const BEFORE: &str = "2026-06-30";

/// Where a night panics before it commits, in the order of the night; some places are passed more than once.
const POINTS: [&str; 32] = [
    "state.open",
    "state.find_keys",
    "pass.population",
    "pass.scan",
    "checks.scan",
    "pass.range",
    "pass.derive",
    "scorer.feed",
    "text.tokenize",
    "scorer.score",
    "publish.writing",
    "publish.writing:2",
    "publish.writing:3",
    "publish.written",
    "publish.written:2",
    "publish.written:3",
    "state.write",
    "state.writing",
    "night.started",
    "night.scored",
    "segments.assign",
    "publish.written:4",
    "night.segmented",
    "outcomes.judge",
    "publish.written:6",
    "night.compared",
    "publish.writing:8",
    "publish.written:8",
    "publish.audited",
    "publish.staging",
    "publish.staged:2",
    "publish.committing",
];

/// Where a night panics once it is committed: the next run finishes it.
const LATE_POINTS: [&str; 5] =
    ["publish.committed", "publish.promoting:3", "publish.promoted:2", "publish.recording", "publish.recorded"];

fn run(shop: &Shop, args: &[&str], point: &str) -> Output {
    shop.command(args).env("TENURE_PANIC_AT", point).output().unwrap()
}

fn night(shop: &Shop, point: &str) -> Output {
    run(shop, &["run", "jobs/ltv.yaml", "--as-of", AS_OF], point)
}

/// Fails unless the output is that of a panic at this point, said once and without a stack.
fn assert_panicked(output: &Output, point: &str) {
    assert_exit(output, 1);
    let told = String::from_utf8_lossy(&output.stderr);
    let name = point.split(':').next().unwrap();
    assert!(told.contains(&format!("the failpoint `{name}` was asked to panic")), "{point}: {told}");
    assert!(told.contains("panicked at src/failpoint.rs:"), "{point}: {told}");
    assert!(told.contains("hint: this is a bug in tenure, please report it"), "{point}: {told}");
    assert!(!told.contains("note: run with `RUST_BACKTRACE"), "{point}: {told}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// What readers see: everything but the ledger and what is staged.
fn published(shop: &Shop) -> BTreeMap<PathBuf, Vec<u8>> {
    let below = |path: &PathBuf| path.strip_prefix(shop.out()).unwrap().to_owned();
    let files = files(&shop.out()).into_iter().filter(|path| !below(path).to_string_lossy().starts_with('_'));
    files.map(|path| (below(&path), fs::read(&path).unwrap())).collect()
}

/// The records of the night's runs.
fn records(shop: &Shop) -> Vec<Value> {
    let files = files(&shop.out().join(format!("_runs/ds={AS_OF}")));
    let records = files.iter().filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with("commit-"));
    records.map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
}

fn rows(path: &Path) -> i64 {
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    SerializedFileReader::new(file).unwrap().metadata().file_metadata().num_rows()
}

/// How many customers each table of one row per customer has.
fn customers(shop: &Shop) -> [i64; 3] {
    ["features", "predictions", "segments"].map(|table| rows(&shop.table(table, AS_OF)))
}

#[test]
fn a_panic_anywhere_in_a_night_publishes_nothing_and_leaves_a_record() {
    let shop = Shop::trained();
    shop.publish(BEFORE);
    let before = published(&shop);
    assert!(before.len() >= 5, "{:?}", before.keys());
    for point in POINTS {
        assert_panicked(&night(&shop, point), point);
        assert!(published(&shop) == before, "{point}: something was published");
        let records = records(&shop);
        let [record] = records.as_slice() else { panic!("{point}: {} records", records.len()) };
        let found = [&record["status"], &record["verdict"], &record["exit_code"], &record["error"]["class"]];
        assert_eq!(
            found,
            [&"failed".into(), &"user_error".into(), &Value::from(1), &"bug".into()],
            "{point}: {record}"
        );
        assert!(record["error"]["hint"].as_str().unwrap().contains("please report it"), "{point}: {record}");
    }
    // Before there is a record, the command tells it alone.
    assert_panicked(&night(&shop, "night.planned"), "night.planned");

    shop.publish(AS_OF);
    let whole = customers(&shop);
    assert!(whole[0] > 200 && whole.iter().all(|rows| *rows == whole[0]), "{whole:?}");
    assert_eq!(records(&shop)[0]["status"], "done");
    let after = published(&shop);
    assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)), "the night before is as it was");
}

#[test]
fn a_panic_after_the_commit_is_made_good_by_the_next_run() {
    let shop = Shop::trained();
    for point in LATE_POINTS {
        let shop = Shop::copy_of(&shop);
        assert_panicked(&night(&shop, point), point);
        shop.publish(AS_OF);
        let whole = customers(&shop);
        assert!(whole[0] > 200 && whole.iter().all(|rows| *rows == whole[0]), "{point}: {whole:?}");
        assert!(files(&shop.out().join("_staging")).is_empty(), "{point}");
    }
}

#[test]
fn a_panic_while_a_matrix_is_built_leaves_no_file() {
    let shop = Shop::new();
    let goal = shop.path().join("matrix.parquet");
    let args = ["features", "build", "jobs/ltv.yaml", "--as-of", AS_OF, "--out", goal.to_str().unwrap()];
    let before = files(shop.path());
    for point in ["state.write", "pass.population", "pass.scan", "pass.range", "pass.derive", "matrix.encode"] {
        assert_panicked(&run(&shop, &args, point), point);
        let made: Vec<PathBuf> = files(shop.path()).into_iter().filter(|path| !before.contains(path)).collect();
        assert!(made.iter().all(|path| path.starts_with(shop.lake().join("_state"))), "{point}: {made:?}");
    }
    assert_success(&shop.tenure(&args));
    assert!(rows(&goal) > 200);
}

#[test]
fn a_panic_in_a_training_leaves_the_bundle_as_it_was() {
    let shop = Shop::trained();
    let bundle = |shop: &Shop| -> Vec<(PathBuf, Vec<u8>)> {
        files(&shop.path().join("models")).into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    };
    let before = bundle(&shop);
    let args = ["train", "jobs/ltv.yaml", "--as-of", BEFORE];
    for point in ["pass.range", "text.tokenize", "train.epoch", "bundle.written", "folder.synced"] {
        assert_panicked(&run(&shop, &args, point), point);
        assert!(bundle(&shop) == before, "{point}");
    }
    shop.publish(AS_OF);
}
