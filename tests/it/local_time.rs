//! A job on the clock of a time zone: days, dates and times without a zone are local, also on the days on which clocks change.

use std::path::PathBuf;
use std::process::Output;

use arrow::array::RecordBatch;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use futures::TryStreamExt;
use tempfile::TempDir;
use tenure::features::{FeatureSet, LabelSet};
use tenure::lake::{EngineOptions, Lake, Visibility};
use tenure::spec::JobSpec;
use tenure::{AsOf, features};

use crate::support::lake::write_parquet;
use crate::support::memory::text;
use crate::support::shop::{assert_exit, assert_success, tenure};

/// A job in a folder of its own.
pub(crate) struct Job {
    folder: TempDir,
    timezone: String,
    /// Lines of the job beside its tables.
    more: String,
}

pub(crate) const OPTIONS: EngineOptions = EngineOptions { memory_limit: None, threads: 2 };

impl Job {
    pub(crate) fn new(timezone: &str) -> Job {
        let job = Job { folder: tempfile::tempdir().unwrap(), timezone: timezone.to_owned(), more: String::new() };
        job.declare("")
    }

    /// Writes the job; `orders` says more of that table.
    fn declare(self, orders: &str) -> Job {
        let (timezone, more) = (&self.timezone, &self.more);
        self.file(
            "job.yaml",
            &format!(
                "version: 1
name: local
lake: file://./lake
timezone: {timezone}
entity: {{table: customers, key: customer_id}}
tables:
  customers: {{path: customers/, columns: {{customer_id: int64}}}}
  orders: {{path: orders/, event_time: at, {orders}columns: {{customer_id: int64, at: timestamp, amount: float64}}}}
features: [sql/features/*.sql]
{more}"
            ),
        );
        self
    }

    /// The job with something else said of its orders.
    pub(crate) fn declare_in_place(&self, orders: &str) -> JobSpec {
        let text = std::fs::read_to_string(self.path("job.yaml")).unwrap();
        let text = text.replace("event_time: at, naive_times: UTC, ", "event_time: at, ");
        self.file("job.yaml", &text.replace("event_time: at, ", &format!("event_time: at, {orders}")));
        self.spec()
    }

    pub(crate) fn with(mut self, more: &str) -> Job {
        self.more.push_str(more);
        self.declare("")
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) fn feature(self, sql: &str) -> Job {
        self.file("sql/features/f.sql", sql);
        self
    }

    /// Orders of customer 1 at these times, of this type, with the amounts 1, 10, 100, …
    async fn orders_of(self, times: &[&str], data_type: &str) -> Job {
        write_parquet(&self.path("lake/customers/a.parquet"), "SELECT 1 AS customer_id").await;
        if times.is_empty() {
            let none =
                format!("SELECT 1 AS customer_id, arrow_cast(NULL, '{data_type}') AS at, 0.0 AS amount WHERE false");
            write_parquet(&self.path("lake/orders/a.parquet"), &none).await;
            return self;
        }
        let row = |(n, time): (usize, &&str)| format!("('{time}', {})", 10_f64.powi(n as i32));
        let rows: Vec<String> = times.iter().enumerate().map(row).collect();
        let select = format!(
            "SELECT 1 AS customer_id, arrow_cast(column1, '{data_type}') AS at, column2::DOUBLE AS amount FROM (VALUES {})",
            rows.join(", ")
        );
        write_parquet(&self.path("lake/orders/a.parquet"), &select).await;
        self
    }

    /// Orders at these instants.
    pub(crate) async fn orders(self, times: &[&str]) -> Job {
        self.orders_of(times, "Timestamp(Microsecond, Some(\"UTC\"))").await
    }

    /// Orders at these times on some clock.
    async fn naive_orders(self, times: &[&str]) -> Job {
        self.orders_of(times, "Timestamp(Microsecond, None)").await
    }

    fn spec(&self) -> JobSpec {
        tenure::spec::load(&self.path("job.yaml"), &|_| None).unwrap()
    }

    async fn matrix(&self, day: &str) -> RecordBatch {
        matrix(&self.spec(), day).await
    }

    /// The features of customer 1: a word each.
    async fn row(&self, day: &str) -> String {
        let text = text(&self.matrix(day).await);
        text.lines().nth(1).unwrap().split_once(' ').unwrap().1.to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let job = self.path("job.yaml");
        let (command, rest) = arguments.split_first().unwrap();
        let mut words = vec![*command];
        let (sub, rest) = match *command {
            "features" => rest.split_at(1),
            _ => (&[][..], rest),
        };
        words.extend(sub);
        words.push(job.to_str().unwrap());
        words.extend(rest);
        tenure(&words)
    }

    async fn published(&self, table: &str, day: &str) -> RecordBatch {
        read(&self.path(&format!("lake/out/{table}/ds={day}/part-00000.parquet"))).await
    }
}

pub(crate) async fn matrix(spec: &JobSpec, day: &str) -> RecordBatch {
    let as_of = AsOf::parse(day, spec.timezone()).unwrap();
    let lake = Lake::open(spec, &OPTIONS).unwrap();
    let set = FeatureSet::load(spec.entity_task().unwrap(), spec.root()).unwrap();
    let session = lake.session(Visibility::at(as_of)).await.unwrap();
    let rows = set.matrix(&session, spec, as_of).await.unwrap();
    let schema = rows.schema().clone();
    let batches: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    concat_batches(&schema, &batches).unwrap()
}

pub(crate) async fn read(path: &std::path::Path) -> RecordBatch {
    let context = SessionContext::new();
    let frame = context.read_parquet(path.to_str().unwrap(), ParquetReadOptions::default()).await.unwrap();
    let schema = std::sync::Arc::new(frame.schema().as_arrow().clone());
    concat_batches(&schema, &frame.collect().await.unwrap()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn weekdays_hours_days_and_literals_are_local() {
    // Monday 15 June 00:30, Monday 15 June 22:00, Tuesday 16 June 00:30 and Monday 1 June 00:30 in Berlin.
    let times = ["2026-06-14T22:30:00Z", "2026-06-15T20:00:00Z", "2026-06-15T22:30:00Z", "2026-05-31T22:30:00Z"];
    let sql = "-- @windows lifetime
SELECT
    customer_id,
    count(DISTINCT date_trunc('day', at))                                   AS days,
    count(DISTINCT CAST(at AS DATE))                                        AS dates,
    sum(CASE WHEN date_part('dow', at) = 1 THEN 1 ELSE 0 END)               AS mondays,
    sum(CASE WHEN extract(hour FROM at) = 0 THEN 1 ELSE 0 END)              AS after_midnight,
    min(CAST(at AS DATE))                                                   AS first_day,
    sum(CASE WHEN at >= '2026-06-01T00:00' THEN 1 ELSE 0 END)                     AS since_text,
    sum(CASE WHEN at >= DATE '2026-06-01' THEN 1 ELSE 0 END)                AS since_date,
    sum(CASE WHEN at >= TIMESTAMP '2026-06-01 00:00:00' THEN 1 ELSE 0 END)  AS since_timestamp,
    sum(CASE WHEN at >= CAST('2026-06-01T00:00:00' AS TIMESTAMP) THEN 1 ELSE 0 END)  AS since_cast,
    sum(CASE WHEN CAST(at AS DATE) >= DATE '2026-06-01' THEN 1 ELSE 0 END)  AS since_day,
    sum(CASE WHEN at BETWEEN DATE '2026-06-15' AND DATE '2026-06-16' THEN 1 ELSE 0 END) AS between_dates,
    sum(CASE WHEN date_trunc('day', at) IN (DATE '2026-06-15', DATE '2026-06-01') THEN 1 ELSE 0 END) AS in_dates,
    sum(CASE WHEN date_trunc('week', at) = DATE '2026-06-15' THEN 1 ELSE 0 END) AS in_week,
    sum(CASE WHEN date_trunc('month', at) = '2026-06-01' THEN 1 ELSE 0 END) AS in_june,
    sum(CASE WHEN date_bin(INTERVAL '1 day', at) = DATE '2026-06-15' THEN 1 ELSE 0 END) AS in_bin,
    sum(CASE WHEN to_timestamp('2026-06-15 00:30:00') = at THEN 1 ELSE 0 END) AS at_text,
    max(to_char(at, '%Y-%m-%d %H:%M'))                                      AS last_text,
    CAST(date_part('epoch', min(date_trunc('second', at))) AS BIGINT)         AS first_epoch,
    CAST(date_part('epoch', $as_of - min(CAST(at AS DATE))) / 86400 AS BIGINT) AS age
FROM orders GROUP BY customer_id";
    let job = Job::new("Europe/Berlin").feature(sql).orders(&times).await;
    assert_eq!(job.row("2026-07-01").await, "3 3 3 3 2026-06-01 4 4 4 4 4 2 3 3 4 2 1 2026-06-16 00:30 1780266600 30");
    // A customer's row is the same without windows, where DataFusion runs the query as it is written.
    let free = job.feature(&sql.replace("-- @windows lifetime\n", ""));
    assert_eq!(free.row("2026-07-01").await, "3 3 3 3 2026-06-01 4 4 4 4 4 2 3 3 4 2 1 2026-06-16 00:30 1780266600 30");
}

/// Days, weeks, hours and intervals across a change of clocks.
const ACROSS: &str = "SELECT
    customer_id,
    count(DISTINCT date_trunc('day', at))                                        AS days,
    count(DISTINCT date_trunc('hour', at))                                       AS hours,
    count(DISTINCT date_part('hour', at))                                        AS clock_hours,
    CAST((date_part('epoch', date_trunc('day', max(at) + INTERVAL '1 day')) - date_part('epoch', date_trunc('day', min(at)))) / 3600 AS BIGINT) AS length,
    to_char(min(at) + INTERVAL '1 day', '%d %H:%M')                              AS next_day,
    to_char(min(at) + INTERVAL '24 hours', '%d %H:%M')                           AS in_24_hours,
    to_char(date_trunc('week', max(at)), '%Y-%m-%d %H:%M')                       AS week
FROM orders GROUP BY customer_id";

#[tokio::test]
async fn a_day_has_23_or_25_hours_where_clocks_change() {
    for (zone, times, expected) in [
        // 00:30, 01:30, 03:30 and 23:30 on the day that lacks the hour from 02:00 on.
        (
            "Europe/Berlin",
            ["2026-03-28T23:30:00Z", "2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T21:30:00Z"],
            "1 4 4 23 30 00:30 30 01:30 2026-03-23 00:00",
        ),
        // 00:30, 02:30 twice and 23:30 on the day that has the hour from 02:00 on twice.
        (
            "Europe/Berlin",
            ["2026-10-24T22:30:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T22:30:00Z"],
            "1 4 3 25 26 00:30 25 23:30 2026-10-19 00:00",
        ),
        (
            "America/New_York",
            ["2026-03-08T05:30:00Z", "2026-03-08T06:30:00Z", "2026-03-08T07:30:00Z", "2026-03-09T03:30:00Z"],
            "1 4 4 23 09 00:30 09 01:30 2026-03-02 00:00",
        ),
        (
            "America/New_York",
            ["2026-11-01T04:30:00Z", "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z", "2026-11-02T04:30:00Z"],
            "1 4 3 25 02 00:30 01 23:30 2026-10-26 00:00",
        ),
        // Half an hour: 00:15, 00:45, 01:15 and 23:45.
        (
            "Asia/Kolkata",
            ["2026-03-28T18:45:00Z", "2026-03-28T19:15:00Z", "2026-03-28T19:45:00Z", "2026-03-29T18:15:00Z"],
            "1 3 3 24 30 00:15 30 00:15 2026-03-23 00:00",
        ),
    ] {
        let job = Job::new(zone).feature(ACROSS).orders(&times).await;
        assert_eq!(job.row("2026-12-01").await, expected, "{zone} {}", times[0]);
    }
}

#[tokio::test]
async fn windows_and_labels_are_of_local_days_across_a_change_of_clocks() {
    let windowed = "-- @windows 1d 7d\nSELECT customer_id, sum(amount) AS spend FROM orders GROUP BY customer_id";
    // The day before 30 March begins at 23:00 UTC on the 28th; the week before it on 22 March, still in winter time.
    let times = [
        "2026-03-22T22:59:59Z",
        "2026-03-22T23:00:00Z",
        "2026-03-28T22:59:59Z",
        "2026-03-28T23:00:00Z",
        "2026-03-29T21:59:59Z",
        "2026-03-29T22:00:00Z",
    ];
    let job = Job::new("Europe/Berlin").feature(windowed).orders(&times).await;
    assert_eq!(job.row("2026-03-30").await, "11000.0 11110.0");

    let job = job.with("labels: [sql/labels/*.sql]\n");
    job.file(
        "sql/labels/next.sql",
        "-- @horizon 7d\nSELECT customer_id, sum(amount) AS spend_next, count(DISTINCT CAST(at AS DATE)) AS days_next FROM orders GROUP BY customer_id",
    );
    // From 23 March 00:00 in winter time to 30 March 00:00 in summer time.
    let spec = job.spec();
    let as_of = AsOf::parse("2026-03-23", spec.timezone()).unwrap();
    let (task, root) = (spec.entity_task().unwrap(), spec.root());
    let (set, labels) = (FeatureSet::load(task, root).unwrap(), LabelSet::load(task, root).unwrap());
    let session = Lake::open(&spec, &OPTIONS).unwrap().session(Visibility::at(as_of.plus_days(7))).await.unwrap();
    let rows = labels.labels(&set, &session, &spec, as_of).await.unwrap();
    let schema = rows.schema().clone();
    let rows = concat_batches(&schema, &rows.try_collect::<Vec<_>>().await.unwrap()).unwrap();
    assert_eq!(text(&rows).lines().nth(1), Some("1 11110.0 3"));
}

#[tokio::test]
async fn times_without_a_zone_are_on_the_clock_of_the_job_unless_it_says_otherwise() {
    let sql = "SELECT customer_id, sum(amount) AS spend, to_char(max(at), '%H:%M') AS last, CAST(date_part('epoch', min(at)) AS BIGINT) AS first FROM orders GROUP BY customer_id";
    // 02:30 is missing on 29 March and comes twice on 25 October; the last one is of the night's own day.
    let times = ["2026-03-29T02:30:00", "2026-10-25T02:30:00", "2026-10-31T23:30:00", "2026-11-01T00:30:00"];
    let job = Job::new("Europe/Berlin").feature(sql).naive_orders(&times).await;
    // 01:30 UTC, which is 03:30 in summer time.
    assert_eq!(job.row("2026-11-01").await, "111.0 23:30 1774747800");
    let said = stderr(&job.run(&["check", "--online", "--as-of", "2026-11-01"]));
    assert!(
        said.contains("in table `orders`, times without a zone in `at` are read on the clock of `Europe/Berlin`"),
        "{said}"
    );
    assert!(said.contains("`naive_times: UTC`"), "{said}");

    let job = job.declare("naive_times: UTC, ");
    // As of 31 October 23:00 UTC, the third one has not happened.
    assert_eq!(job.row("2026-11-01").await, "11.0 03:30 1774751400");

    // The same in CSV, and a text with an offset says itself which instant it is.
    std::fs::remove_file(job.path("lake/orders/a.parquet")).unwrap();
    let rows = times.iter().enumerate().map(|(n, time)| format!("{},1,{time}\n", 10_u32.pow(n as u32)));
    let rows: String = rows.chain(["10000,1,2026-10-31T22:59:59Z\n".to_owned(), "7,1,\n".to_owned()]).collect();
    job.file("lake/orders/a.csv", &format!("amount,customer_id,at\n{rows}"));
    let job = job.declare("format: csv, ");
    assert_eq!(job.row("2026-11-01").await, "10111.0 23:59 1774747800");
    let job = job.declare("format: csv, naive_times: UTC, ");
    assert_eq!(job.row("2026-11-01").await, "10011.0 23:59 1774751400");
}

#[tokio::test]
async fn a_job_in_utc_tells_nothing_of_times_without_a_zone() {
    let sql = "SELECT customer_id, sum(amount) AS spend FROM orders GROUP BY customer_id";
    let job = Job::new("UTC").feature(sql).naive_orders(&["2026-03-29T02:30:00"]).await;
    let output = job.run(&["check", "--online", "--as-of", "2026-11-01"]);
    assert_success(&output);
    assert!(!stderr(&output).contains("zone"), "{}", stderr(&output));
    assert_eq!(job.row("2026-11-01").await, "1.0");
}

#[tokio::test]
async fn what_would_lose_the_zone_is_refused_with_a_way_out() {
    for (expression, message) in [
        ("coalesce(max(at), DATE '2026-01-01')", "a timestamp meets a date"),
        ("max(to_local_time(at))", "is a time without a zone"),
        ("max(arrow_cast(at, 'Timestamp(Microsecond, None)'))", "a timestamp meets a date or a time without a zone"),
    ] {
        let job = Job::new("Europe/Berlin")
            .feature(&format!("SELECT customer_id, {expression} AS x FROM orders GROUP BY customer_id"));
        let output = job.run(&["check"]);
        assert_exit(&output, 1);
        assert!(stderr(&output).contains(message), "{expression}: {}", stderr(&output));
        assert!(stderr(&output).contains("CAST("), "{expression}: {}", stderr(&output));
        let utc =
            Job::new("UTC").feature(&format!("SELECT customer_id, {expression} AS x FROM orders GROUP BY customer_id"));
        assert_success(&utc.run(&["check"]));
    }
    let mended = "SELECT customer_id, coalesce(max(at), CAST(DATE '2026-01-01' AS TIMESTAMP)) AS x FROM orders GROUP BY customer_id";
    assert_success(&Job::new("Europe/Berlin").feature(mended).run(&["check"]));
}

#[tokio::test]
async fn a_text_that_is_no_time_is_told_where_it_stands() {
    for expression in ["at > TIMESTAMP '2026-13-01 00:00:00'", "at > 'yesterday'", "to_timestamp('2026-02-30') < at"] {
        let sql = format!(
            "SELECT customer_id,\n    sum(CASE WHEN {expression} THEN 1 ELSE 0 END) AS n\nFROM orders GROUP BY customer_id"
        );
        let output = Job::new("Europe/Berlin").feature(&sql).run(&["check"]);
        assert_exit(&output, 1);
        let said = stderr(&output);
        assert!(said.contains("sql/features/f.sql:2:5: ") && said.contains("is no time: write it as"), "{said}");
    }
}

#[tokio::test]
async fn stages_are_local_and_published_times_are_in_utc() {
    let sql = "SELECT customer_id, max(at) AS last_order_at, min(CAST(at AS DATE)) AS first_day FROM orders GROUP BY customer_id";
    let job = Job::new("Europe/Berlin").feature(sql).orders(&["2026-05-31T22:30:00Z"]).await.with(
        "segments: {stages: [{name: june, when: \"last_order_at >= '2026-06-01T00:00' AND last_order_at < DATE '2026-06-02'\"}, {name: other}]}
publish: {path: out/, features: true}
",
    );
    job.file(
        "sql/features/derived.sql",
        "SELECT date_part('month', last_order_at) AS month, CAST(last_order_at AS DATE) AS last_day FROM features",
    );
    for day in ["2026-06-02", "2026-06-03"] {
        assert_success(&job.run(&["run", "--as-of", day]));
    }
    let segments = job.published("segments", "2026-06-03").await;
    assert_eq!(text(&segments).lines().nth(1), Some("1 june june 2026-06-02 - -"));
    let features = job.published("features", "2026-06-03").await;
    let schema = features.schema();
    let wanted = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert_eq!(schema.field_with_name("last_order_at").unwrap().data_type(), &wanted);
    let texts: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| {
            let column = cast(features.column_by_name(field.name()).unwrap(), &DataType::Utf8).unwrap();
            format!("{}={}", field.name(), arrow::array::AsArray::as_string::<i32>(&column).value(0))
        })
        .collect();
    for wanted in ["last_order_at=2026-05-31T22:30:00Z", "first_day=2026-06-01", "month=6", "last_day=2026-06-01"] {
        assert!(texts.iter().any(|text| text == wanted), "{wanted}: {texts:?}");
    }
}

#[tokio::test]
async fn sql_tests_are_on_the_clock_of_their_zone() {
    let job = Job::new("Europe/Berlin").feature(
        "SELECT customer_id, count(DISTINCT date_trunc('day', at)) AS days, min(CAST(at AS DATE)) AS first, max(at) AS last FROM orders GROUP BY customer_id",
    );
    job.file(
        "tests/sql/f.yaml",
        "
- name: a time without a zone is local
  as_of: 2026-07-01
  given:
    orders:
      - {customer_id: 1, at: 2026-06-30 23:30}
      - {customer_id: 1, at: 2026-06-15 00:30}
      - {customer_id: 1, at: 2026-06-30T22:00:00Z}
  expect:
    - {customer_id: 1, days: 2, first: 2026-06-15, last: 2026-06-30T21:30:00Z}
- name: another clock
  as_of: 2026-07-01
  timezone: America/New_York
  given:
    orders:
      - {customer_id: 1, at: 2026-06-30 23:30}
      - {customer_id: 1, at: 2026-07-01T03:59:59Z}
  expect:
    - {customer_id: 1, days: 1, first: 2026-06-30, last: 2026-06-30 23:59:59}
",
    );
    let results = features::cases::run_tests(&job.spec(), None).await.unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        assert!(result.differences.is_empty(), "{}: {:?}", result.name, result.differences);
    }
}
