//! A job folder with a shop of its own: customers who buy at a rate of their own, orders that a test adds or takes away.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Duration, NaiveDate, Utc};
use parquet::arrow::ArrowWriter;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::shop::binary;

/// The day after the shop's last one.
pub const END: &str = "2026-07-01";

const FEATURES: &str = "-- @description  Orders and money.
-- @owner        growth
-- @windows      30d 90d lifetime
SELECT
    customer_id,
    count(*)    AS orders,   -- orders
    sum(amount) AS spend,    -- money
    avg(amount) AS average   -- mean amount
FROM orders
GROUP BY customer_id
";

const RHYTHM: &str = "-- @description  When a customer bought.
-- @owner        growth
SELECT
    customer_id,
    (date_part('epoch', $as_of) - date_part('epoch', max(ordered_at))) / 86400.0 AS days_since_last,  -- days since the newest order
    (date_part('epoch', $as_of) - date_part('epoch', min(ordered_at))) / 86400.0 AS days_since_first  -- days since the oldest order
FROM orders
GROUP BY customer_id
";

/// What happens in the 30 days from as_of on.
pub const LABELS: &str = "-- @description  What happens in the 30 days from as_of on.
-- @owner        growth
-- @horizon      30d
-- @default      churned_30d 1
-- @default      spend_30d 0
SELECT
    customer_id,
    CASE WHEN count(*) > 0 THEN 0.0 ELSE 1.0 END AS churned_30d,  -- 1: no order
    sum(amount)                                  AS spend_30d     -- money
FROM orders
GROUP BY customer_id
";

/// An order; its time is in days before [`END`].
#[derive(Debug, Clone, Copy)]
pub struct Order {
    pub customer: i64,
    pub days_before: f64,
    pub amount: f64,
}

/// A job with its lake in a temporary folder.
pub struct JobFolder {
    dir: TempDir,
    /// Keys and days before [`END`] on which they signed up.
    pub customers: Vec<(i64, f64)>,
    pub orders: Vec<Order>,
    /// Parts of the job file, in the order of writing.
    pub entity: String,
    pub customers_table: String,
    pub orders_table: String,
    pub model: String,
    pub train: String,
    pub more: String,
    pub files: Vec<(String, String)>,
    /// Orders have a `loaded_at`, so many days after their time.
    pub loaded_days_later: Option<f64>,
}

/// The instant so many days before [`END`].
pub fn days_before(days: f64) -> DateTime<Utc> {
    let end: NaiveDate = END.parse().unwrap();
    let end = end.and_hms_opt(0, 0, 0).unwrap().and_utc();
    end - Duration::microseconds((days * 86_400e6) as i64)
}

impl JobFolder {
    /// A shop of `customers` who came over `days` days and buy with different frequency.
    pub fn new(customers: i64, days: f64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let (mut people, mut orders) = (Vec::new(), Vec::new());
        for customer in 1..=customers {
            let first = random.random_range(0.0..0.8 * days);
            people.push((customer, days - first));
            let rate = [0.005, 0.02, 0.08][random.random_range(0..3)];
            let mut at: f64 = first + random.random_range(0.0..1.0);
            while at < days {
                let amount = f64::round(100.0 * f64::exp(random.random_range(2.0..4.0))) / 100.0;
                orders.push(Order { customer, days_before: days - at, amount });
                at += -f64::ln(1.0 - random.random_range(0.0..1.0)) / rate;
            }
        }
        JobFolder {
            dir: tempfile::tempdir().unwrap(),
            customers: people,
            orders,
            entity: "{table: customers, key: customer_id, since: signed_up_at}".into(),
            customers_table: "{path: customers/, event_time: signed_up_at, columns: {customer_id: int64, signed_up_at: timestamp}}".into(),
            orders_table: "{path: orders/, event_time: ordered_at, columns: {order_id: int64, customer_id: int64, ordered_at: timestamp, amount: float64}}".into(),
            model: "{bundle: models/m, hidden: [16], members: 2, heads: [{name: churn, label: churned_30d, loss: bce}, {name: ltv, label: spend_30d, loss: ziln}]}".into(),
            train: "{snapshots: {every: 30d, count: 4, warmup: 60d}, epochs: 2}".into(),
            more: String::new(),
            files: [("features/orders", FEATURES), ("features/rhythm", RHYTHM), ("labels/next", LABELS)]
                .map(|(name, text)| (format!("sql/{name}.sql"), text.to_owned()))
                .to_vec(),
            loaded_days_later: None,
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn lake(&self) -> PathBuf {
        self.path().join("lake")
    }

    /// Sets or replaces a SQL file, by its path in the job.
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.retain(|(known, _)| known != path);
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    /// Writes job, SQL and lake as they are now.
    pub fn write(self) -> Self {
        let JobFolder { entity, customers_table, orders_table, model, train, more, .. } = &self;
        let model = if model.is_empty() {
            String::new()
        } else {
            format!("labels: [sql/labels/*.sql]\nmodel: {model}\ntrain: {train}\n")
        };
        let job = format!(
            "version: 1\nname: case\nlake: file://./lake\nentity: {entity}\ntables:\n  customers: {customers_table}\n  orders: \
             {orders_table}\n{model}features: [sql/features/*.sql]\n{more}segments: {{stages: [{{name: buyer, when: \
             \"orders_lifetime > 0\"}}, {{name: prospect}}]}}\npublish: {{path: out/, features: true}}\n"
        );
        let files = self.files.iter().cloned().chain([("job.yaml".to_owned(), job)]);
        for (path, text) in files {
            let path = self.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let micros = |days: f64| days_before(days).timestamp_micros();
        let times = |days: Vec<f64>| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from_iter_values(days.into_iter().map(micros)).with_timezone("UTC"))
        };
        let keys = |keys: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(keys)) };
        self.parquet(
            "customers/a.parquet",
            vec![
                ("customer_id", keys(self.customers.iter().map(|(key, _)| *key).collect())),
                ("signed_up_at", times(self.customers.iter().map(|(_, day)| *day).collect())),
            ],
        );
        let mut orders = vec![
            ("order_id", keys((1..=self.orders.len() as i64).collect())),
            ("customer_id", keys(self.orders.iter().map(|order| order.customer).collect())),
            ("ordered_at", times(self.orders.iter().map(|order| order.days_before).collect())),
            ("amount", Arc::new(Float64Array::from_iter_values(self.orders.iter().map(|order| order.amount)))),
        ];
        if let Some(later) = self.loaded_days_later {
            let loaded = self.orders.iter().map(|order| order.days_before - later).collect();
            orders.push(("loaded_at", times(loaded)));
        }
        self.parquet("orders/a.parquet", orders);
        self
    }

    /// Writes a file of the lake.
    pub fn parquet(&self, path: &str, columns: Vec<(&str, ArrayRef)>) {
        let path = self.lake().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let rows = columns.into_iter().map(|(name, column)| (name, column, true));
        let rows = RecordBatch::try_from_iter_with_nullable(rows).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
    }

    /// Runs a command on the job: `run`, `train`, …, then what follows the job's file.
    pub fn tenure(&self, command: &str, more: &[&str]) -> Output {
        let job = self.path().join("job.yaml");
        let words: Vec<&str> = command.split(' ').collect();
        let mut arguments = words;
        arguments.push(job.to_str().unwrap());
        arguments.extend(more);
        binary(&arguments).current_dir(self.path()).env("OMP_WAIT_POLICY", "passive").output().unwrap()
    }
}

/// What a command said, on both channels.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
