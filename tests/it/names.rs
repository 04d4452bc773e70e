//! Names that a job, a SQL file or a command line says: what they may look like, and what a wrong one is told before work begins.

use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;

use crate::support::lake::write_parquet;
use crate::support::shop::{assert_exit, assert_success, binary, checkout, tenure};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn write(folder: &Path, path: &str, content: &str) -> PathBuf {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

const CAPITALS: &str = "version: 1
name: capitals
lake: file://./lake
entity: {table: customers, key: customerId}
tables:
  customers: {path: customers/, columns: {customerId: int64}}
  orders:
    path: orders/
    event_time: orderedAt
    columns: {customerId: int64, orderedAt: timestamp, Total: float64}
    checks: {not_null: [customerId], range: {Total: {min: 0}}}
views: [sql/views/*.sql]
features: [sql/features/*.sql]
labels: [sql/labels/*.sql]
segments: {stages: [{name: buyer, when: \"spend_30d > 0\"}, {name: other}]}
publish: {path: out/, features: true}
";

/// A shop whose columns have capitals.
async fn capitals(feature: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "job.yaml", CAPITALS);
    write(
        folder.path(),
        "sql/views/large.sql",
        "-- @event_time orderedAt\nSELECT customerId, orderedAt, Total AS total FROM orders WHERE Total > 15",
    );
    write(folder.path(), "sql/features/orders.sql", feature);
    for (name, days) in [("week", 7), ("month", 30)] {
        let sql = format!(
            "-- @horizon {days}d\n-- @default spend_{name} 0\nSELECT customerId, sum(Total) AS spend_{name} FROM orders GROUP BY customerId"
        );
        write(folder.path(), &format!("sql/labels/{name}.sql"), &sql);
    }
    write(
        folder.path(),
        "sql/features/large.sql",
        "-- @windows 30d\nSELECT \"customerId\", count(*) AS large, max(orderedAt) AS last_large FROM large GROUP BY customerId",
    );
    write(
        folder.path(),
        "sql/features/derived.sql",
        "SELECT spend_30d / nullif(large_30d, 0) AS mean_large FROM features",
    );
    write_parquet(
        &folder.path().join("lake/customers/a.parquet"),
        "SELECT column1 AS \"customerId\" FROM (VALUES (1), (2))",
    )
    .await;
    write_parquet(
        &folder.path().join("lake/orders/a.parquet"),
        "SELECT column1 AS \"customerId\", arrow_cast(column2, 'Timestamp(Microsecond, Some(\"UTC\"))') AS \"orderedAt\", column3::DOUBLE AS \"Total\"
         FROM (VALUES (1, '2026-06-20T00:00:00Z', 10), (1, '2026-06-21T00:00:00Z', 20), (2, '2026-06-22T00:00:00Z', -5))",
    )
    .await;
    folder
}

fn of_job(folder: &TempDir, arguments: &[&str]) -> Output {
    let job = folder.path().join("job.yaml");
    let words: Vec<&str> =
        arguments.iter().map(|word| if *word == "JOB" { job.to_str().unwrap() } else { word }).collect();
    tenure(&words)
}

#[tokio::test]
async fn columns_with_capitals_are_written_with_quotes_or_without() {
    for sql in [
        "-- @windows 30d\nSELECT customerId, sum(Total) AS spend FROM orders GROUP BY customerId",
        "-- @windows 30d\nSELECT \"customerId\", sum(\"Total\") AS spend FROM orders AS o GROUP BY \"customerId\"",
        "-- @windows 30d\nSELECT CUSTOMERID, sum(o.total) AS spend FROM orders AS o WHERE orderedat > '2000-01-01' GROUP BY 1",
        "SELECT customerId, sum(Total) FILTER (WHERE orderedAt >= $as_of - INTERVAL '30 days') AS spend_30d FROM orders GROUP BY customerId",
    ] {
        let shop = capitals(sql).await;
        let output = of_job(&shop, &["features", "show", "JOB", "--as-of", "2026-07-01", "--key", "1"]);
        assert_success(&output);
        let shown = stdout(&output);
        let value = |name: &str| {
            let line = shown.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {shown}"));
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        assert_eq!([value("spend_30d"), value("large_30d"), value("mean_large")], ["30.0", "1", "30.0"], "{sql}");
        assert_success(&of_job(&shop, &["run", "JOB", "--as-of", "2026-07-01"]));
    }
}

#[tokio::test]
async fn a_column_that_only_quotes_can_name_is_hinted_with_them() {
    let shop = capitals("SELECT customerId, max(orderdAt) AS last FROM orders GROUP BY customerId").await;
    let output = of_job(&shop, &["check", "JOB"]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("did you mean `\"orderedAt\"`?"), "{}", stderr(&output));
}

/// The demo's job with some of its text replaced.
fn demo(replace: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut job = std::fs::read_to_string(checkout().join("jobs/ltv.yaml")).unwrap();
    for (from, to) in replace {
        assert!(job.contains(from), "{from}");
        job = job.replace(from, to);
    }
    write(folder.path(), "jobs/ltv.yaml", &job);
    std::os::unix::fs::symlink(checkout().join("sql"), folder.path().join("sql")).unwrap();
    folder
}

fn of_demo(folder: &TempDir, arguments: &[&str]) -> Output {
    let (command, rest) = arguments.split_first().unwrap();
    let job = folder.path().join("jobs/ltv.yaml");
    let mut words = vec![*command, job.to_str().unwrap()];
    words.extend(rest);
    // There is no lake: whatever is told is told before one is looked for.
    let mut command = binary(&words);
    command.env("TENURE_LAKE", format!("file://{}/none", folder.path().display()));
    command.env("TENURE_MODELS", folder.path().join("models")).env("TENURE_ENCODER", folder.path().join("encoder"));
    command.output().unwrap()
}

#[test]
fn a_hint_is_not_put_into_another_one() {
    let output = of_demo(&demo(&[("label: churned_90d", "label: churnd_90d")]), &["check"]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("hint: did you mean `churned_90d`?"), "{}", stderr(&output));
}

#[test]
fn what_an_evaluation_parts_customers_by_is_looked_up_before_anything_is_read() {
    let output = of_demo(
        &demo(&[]),
        &["evaluate", "--as-of", "2026-04-01", "--by", "chanel", "--by", "ltv_90", "--by", "channel"],
    );
    assert_exit(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("there is no feature `chanel`") && said.contains("did you mean `channel`?"), "{said}");
    assert!(said.contains("there is no feature `ltv_90`") && said.contains("did you mean `ltv_90d`?"), "{said}");
    assert!(!said.contains("feature `channel`"), "{said}");
}

#[test]
fn a_training_without_its_encoder_ends_before_the_lake_is_read() {
    let demo = demo(&[]);
    for command in ["train", "tune"] {
        let output = of_demo(&demo, &[command, "--as-of", "2026-07-01"]);
        assert_exit(&output, 1);
        assert!(stderr(&output).contains("there is no encoder in"), "{}", stderr(&output));
    }
    // Without a model there is nothing wrong yet, but a check says it.
    let output = of_demo(&demo, &["check"]);
    assert_success(&output);
    assert!(stderr(&output).contains("there is no encoder in"), "{}", stderr(&output));
}

#[test]
fn a_memory_limit_that_lacks_its_unit_is_refused() {
    let demo = demo(&[]);
    for (limit, hint) in
        [("4", "did you mean `4GiB`?"), ("64000", "`16MiB` is the least"), ("1MiB", "`16MiB` is the least")]
    {
        let output = of_demo(&demo, &["check", "--memory-limit", limit]);
        assert_exit(&output, 1);
        assert!(stderr(&output).contains(hint), "{}", stderr(&output));
    }
    let output = of_demo(&demo, &["check", "--memory-limit", "lots"]);
    assert!(stderr(&output).contains("`--memory-limit` cannot be used"), "{}", stderr(&output));
    assert_success(&of_demo(&demo, &["check", "--memory-limit", "16MiB"]));
}

#[test]
fn a_quiet_check_prints_nothing_where_all_is_right() {
    let output = of_demo(&demo(&[]), &["check", "--quiet"]);
    assert_success(&output);
    assert_eq!((stdout(&output), stderr(&output)), (String::new(), String::new()));
    let output = of_demo(&demo(&[("timezone: UTC", "timezone: Europe/Belrin")]), &["check", "--quiet"]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("Europe/Berlin"), "{}", stderr(&output));
}

#[test]
fn text_is_no_number_for_the_regression_on_recency_frequency_and_money() {
    let recency = "recency: days_since_last_order";
    let output = of_demo(&demo(&[(recency, "recency: country")]), &["check"]);
    assert_exit(&output, 1);
    assert!(
        stderr(&output).contains("`train.rfm` wants numbers, and the feature `country` holds text"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_device_is_looked_up_before_the_lake_is_read() {
    let demo = demo(&[]);
    for (line, told) in [
        (&["check", "--device", "gpu"][..], "`gpu` is not a device"),
        (&["evaluate", "--as-of", "2026-04-01", "--device", "cuda:99"], "cuda:99"),
    ] {
        let output = of_demo(&demo, line);
        assert_exit(&output, 1);
        assert!(stderr(&output).contains(told), "{line:?}: {}", stderr(&output));
    }
}
