//! A job of three files in a folder of its own: customers, orders, stages, no model. Driven through the real binary.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::lake::write_parquet;
use super::shop::binary;

const FEATURES: &str = "\
-- @description  Orders and what was spent on them.
-- @owner        growth
-- @windows      30d lifetime
SELECT
    customer_id,
    count(*)    AS orders,  -- orders
    sum(amount) AS spend    -- money
FROM orders
GROUP BY customer_id
";

pub struct SmallJob {
    folder: TempDir,
}

impl SmallJob {
    /// 100 customers since January, 1,000 orders in June 2026.
    pub async fn new() -> Self {
        let job = SmallJob { folder: tempfile::tempdir().unwrap() };
        job.customers(100).await;
        job.orders(1_000).await;
        fs::create_dir_all(job.path("sql/features")).unwrap();
        fs::write(job.path("sql/features/orders.sql"), FEATURES).unwrap();
        job.job("job.yaml", "shop", "", "");
        job
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub async fn customers(&self, count: usize) {
        let since = r#"arrow_cast('2026-01-01T00:00:00', 'Timestamp(Microsecond, Some("UTC"))')"#;
        let rows = format!("SELECT value AS customer_id, {since} AS signed_up_at FROM generate_series(1, {count})");
        write_parquet(&self.path("lake/customers/part-0.parquet"), &rows).await;
    }

    pub async fn orders(&self, count: usize) {
        let at = r#"arrow_cast('2026-06-15T00:00:00', 'Timestamp(Microsecond, Some("UTC"))')"#;
        let rows = format!(
            "SELECT value AS order_id, 1 + value % 100 AS customer_id, {at} AS ordered_at, 10.0 AS amount \
             FROM generate_series(1, {count})"
        );
        write_parquet(&self.path("lake/orders/part-0.parquet"), &rows).await;
    }

    /// Writes a job file; `orders` and `publish` are further keys of that table and of the publishing.
    pub fn job(&self, file: &str, name: &str, orders: &str, publish: &str) {
        self.job_with_key(file, name, "int64", orders, publish);
    }

    pub fn job_with_key(&self, file: &str, name: &str, key: &str, orders: &str, publish: &str) {
        let text = format!(
            "version: 1\nname: {name}\nlake: file://./lake\n\
             entity: {{table: customers, key: customer_id, since: signed_up_at}}\n\
             tables:\n  customers: {{path: customers/, columns: {{customer_id: {key}, signed_up_at: timestamp}}}}\n  \
             orders: {{path: orders/, event_time: ordered_at, columns: {{order_id: int64, customer_id: {key}, \
             ordered_at: timestamp, amount: float64}}{orders}}}\n\
             features: [sql/features/*.sql]\n\
             segments: {{stages: [{{name: buyer, when: \"orders_lifetime > 0\"}}, {{name: prospect}}]}}\n\
             publish: {{path: out/{publish}}}\n"
        );
        fs::write(self.path(file), text).unwrap();
    }

    /// The binary with a command of a job file: `("run", "job.yaml", &["--as-of", "2026-07-01"])`.
    pub fn command(&self, command: &[&str], file: &str, options: &[&str]) -> Command {
        let mut program = binary(command);
        program.arg(self.path(file)).args(options);
        program
    }

    pub fn call(&self, command: &[&str], file: &str, options: &[&str]) -> Output {
        self.command(command, file, options).output().unwrap()
    }

    pub fn run(&self, night: &str) -> Output {
        self.call(&["run"], "job.yaml", &["--as-of", night])
    }

    pub fn check(&self) -> Output {
        self.call(&["check"], "job.yaml", &["--online", "--as-of", "2026-07-01"])
    }

    /// `tenure runs …` of this job.
    pub fn runs(&self, args: &[&str]) -> Output {
        let mut program = binary(&[&["runs"], args].concat());
        program.arg("--job").arg(self.path("job.yaml"));
        program.output().unwrap()
    }

    /// The runs as `tenure runs --json` lists them.
    pub fn listed(&self) -> Vec<serde_json::Value> {
        let output = self.runs(&["--json"]);
        super::shop::assert_success(&output);
        let listing: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        listing["runs"].as_array().unwrap().clone()
    }

    /// What somebody sees who reads all files of the published folder but those whose names, or whose folders' names, begin
    /// with `_` or `.`, as pyarrow and Spark do: the files of each table and night.
    pub fn seen(&self) -> BTreeMap<String, usize> {
        let mut files = BTreeMap::new();
        read(&self.path("lake/out"), "", &mut files);
        files
    }
}

fn read(folder: &Path, below: &str, files: &mut BTreeMap<String, usize>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with(['_', '.']) {
            continue;
        }
        if entry.path().is_dir() {
            read(&entry.path(), &format!("{below}{name}/"), files);
        } else {
            *files.entry(below.to_owned()).or_default() += 1;
        }
    }
}

/// What a program said to people.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
