//! Daily partial states: whatever stands in for the rows, the answer is that of all rows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use chrono::{Days, NaiveDate};
use futures::TryStreamExt;
use proptest::prelude::*;
use tempfile::TempDir;
use tenure::AsOf;
use tenure::features::{FeatureSet, StateReport, States};
use tenure::lake::{EngineOptions, Lake, Visibility};
use tenure::spec::JobSpec;

use crate::support::lake::write_parquet;
use crate::support::memory::text;
use crate::support::shop::{assert_exit, assert_success, tenure};

mod broken;

const JOB: &str = "version: 1
name: counted
lake: file://./lake
timezone: TIMEZONE
entity: {table: customers, key: customer_id, since: signed_up_at}
tables:
  customers:
    path: customers/
    event_time: signed_up_at
    columns: {customer_id: KEY, signed_up_at: timestamp}
  orders:
    path: orders/
    may_be_empty: true
    partition_by: {dt: date}
    event_time: at
    columns: {id: int64, customer_id: KEY, at: timestamp, amount: float64, items: int32, channel: utf8, gift: bool}
views: [sql/views/*.sql]
features: [sql/features/*.sql]
state: {path: _state/}
";

const FILES: &[(&str, &str)] = &[
    ("views/gifts.sql", "-- @event_time at\nSELECT customer_id, at, amount FROM orders WHERE gift"),
    (
        "features/orders.sql",
        "-- @windows 3d 10d 40d lifetime
SELECT customer_id, count(*) AS n, sum(amount) AS total, avg(amount) AS mean, stddev(amount) AS spread,
    max(amount) AS most, min(amount) AS least, sum(items) AS items, count(DISTINCT channel) AS channels,
    count(DISTINCT items) AS sizes, count(DISTINCT CAST(at AS DATE)) AS days, max(channel) AS last_channel,
    median(amount) AS middle, percentile_cont(0.9) WITHIN GROUP (ORDER BY amount) AS high,
    median(items) AS middle_items, bool_or(gift) AS any_gift, mean_gap_days(at) AS gap, min(CAST(at AS DATE)) AS first_day
FROM orders GROUP BY customer_id",
    ),
    (
        "features/edges.sql",
        "SELECT customer_id, first_value(amount ORDER BY at, id) AS first_amount, last_value(channel ORDER BY at, id) AS newest,
    first_value(items ORDER BY at) AS first_items, stddev_gap_days(at) AS gap_spread, var_pop(items) AS item_spread,
    (date_part('epoch', $as_of) - date_part('epoch', max(at))) / 86400.0 AS recency
FROM orders WHERE amount > 0 GROUP BY customer_id",
    ),
    (
        "features/about.sql",
        "-- @windows 3d 40d lifetime
SELECT customer_id, approx_distinct(channel) AS about_channels, approx_distinct(id) AS about_orders,
    approx_median(amount) AS about_middle, approx_percentile_cont(id, 0.9) AS about_most
FROM orders GROUP BY customer_id",
    ),
    ("views/noted.sql", "-- @event_time noted\nSELECT customer_id, at + INTERVAL '36 hours' AS noted FROM orders"),
    ("features/noted.sql", "-- @windows 3d\nSELECT customer_id, count(*) AS noted FROM noted GROUP BY customer_id"),
    ("features/gifts.sql", "-- @windows 10d\nSELECT customer_id, sum(amount) AS gifts FROM gifts GROUP BY customer_id"),
    (
        "features/recent.sql",
        "SELECT customer_id, count(*) FILTER (WHERE at > $as_of - INTERVAL '5 days') AS fresh FROM orders GROUP BY customer_id",
    ),
    ("features/age.sql", "SELECT customer_id, signed_up_at AS since FROM customers"),
    (
        "features/list.sql",
        "-- @windows 10d\nSELECT customer_id, string_agg(channel, ' ' ORDER BY at, id) AS list FROM orders GROUP BY customer_id",
    ),
];

/// What an order may amount to if it goes wrong.
const BORDER: [&str; 5] = ["'NaN'::DOUBLE", "'inf'::DOUBLE", "'-inf'::DOUBLE", "'-0.0'::DOUBLE", "-1e-300"];

/// A shop whose orders lie in a partition per day.
pub(crate) struct Shop {
    folder: TempDir,
    spec: JobSpec,
    next_id: i64,
    /// Orders by the day of their partition.
    orders: BTreeMap<NaiveDate, Vec<String>>,
    texts: bool,
}

pub(crate) fn day(n: u64) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 3, 1).unwrap() + Days::new(n)
}

impl Shop {
    pub(crate) async fn new(timezone: &str, texts: bool) -> Shop {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        let key = if texts { "utf8" } else { "int64" };
        write("jobs/counted.yaml", &JOB.replace("TIMEZONE", timezone).replace("KEY", key));
        FILES.iter().for_each(|(path, sql)| write(&format!("sql/{path}"), sql));
        let spec = tenure::spec::load(&folder.path().join("jobs/counted.yaml"), &|_| None).unwrap();
        let shop = Shop { folder, spec, next_id: 0, orders: BTreeMap::new(), texts };
        std::fs::create_dir_all(shop.lake().join("orders")).unwrap();
        // One of them signs up late, with orders from before.
        let customers = (0..6).map(|n| {
            let since = if n == 4 { "2026-03-25" } else { "2026-01-01" };
            format!(
                "({}, to_timestamp_micros(arrow_cast('{since}', 'Timestamp(Microsecond, None)')::BIGINT))",
                shop.key(n)
            )
        });
        let select = format!(
            "SELECT column1 AS customer_id, arrow_cast(column2, 'Timestamp(Microsecond, Some(\"UTC\"))') AS signed_up_at FROM (VALUES {})",
            customers.collect::<Vec<_>>().join(", ")
        );
        write_parquet(&shop.lake().join("customers/all.parquet"), &select).await;
        shop
    }

    /// Adds a feature file.
    pub(crate) fn feature(&mut self, name: &str, sql: &str) {
        std::fs::write(self.folder.path().join(format!("sql/features/{name}.sql")), sql).unwrap();
        self.spec = tenure::spec::load(&self.folder.path().join("jobs/counted.yaml"), &|_| None).unwrap();
    }

    /// Writes every partition.
    pub(crate) async fn write_all(&self) {
        for date in self.orders.keys() {
            self.write(*date).await;
        }
    }

    fn lake(&self) -> PathBuf {
        self.folder.path().join("lake")
    }

    fn key(&self, customer: u8) -> String {
        if self.texts { format!("'c{customer}'") } else { customer.to_string() }
    }

    /// Adds an order to the partition of a day; its hour may lie on the day before or after.
    pub(crate) fn order(&mut self, partition: u64, hours: i64, order: (u8, Option<i32>, u8)) {
        let (customer, cents, channel) = order;
        let at = day(partition).and_hms_opt(0, 0, 0).unwrap() + chrono::Duration::hours(hours);
        let amount = match cents.map(f64::from) {
            None => "NULL".to_owned(),
            Some(cents) if cents.abs() > 1e9 => BORDER[cents.rem_euclid(5.0) as usize].to_owned(),
            Some(cents) => format!("{}", cents / 100.0),
        };
        let channel = ["'web'", "'app'", "'shop'", "NULL"][usize::from(channel) % 4];
        let items = cents.map_or("NULL".to_owned(), |cents| (cents % 4).to_string());
        let id = self.next_id;
        self.next_id += 1;
        let row = format!("({id}, {}, '{at}', {amount}, {items}, {channel}, {})", self.key(customer), id % 3 == 0);
        self.orders.entry(day(partition)).or_default().push(row);
    }

    fn partition(&self, day: NaiveDate) -> PathBuf {
        self.lake().join(format!("orders/dt={day}/part.parquet"))
    }

    /// Writes a day's partition anew.
    pub(crate) async fn write(&self, day: NaiveDate) {
        let rows = self.orders.get(&day).cloned().unwrap_or_default();
        let key = if self.texts { "VARCHAR" } else { "BIGINT" };
        let values = match rows.is_empty() {
            true => "(0, NULL, '2026-03-01', 0.0, 0, '', false)) WHERE false".to_owned(),
            false => format!("{})", rows.join(", ")),
        };
        let select = format!(
            "SELECT column1::BIGINT AS id, column2::{key} AS customer_id,
                arrow_cast(column3::TIMESTAMP, 'Timestamp(Microsecond, Some(\"UTC\"))') AS at, column4::DOUBLE AS amount,
                column5::INT AS items, column6::VARCHAR AS channel, column7::BOOLEAN AS gift FROM (VALUES {values}"
        );
        write_parquet(&self.partition(day), &select).await;
    }

    pub(crate) async fn matrix(&self, as_of: AsOf, with_states: bool) -> (RecordBatch, StateReport) {
        let options = EngineOptions { memory_limit: None, threads: 2 };
        let lake = Lake::open(&self.spec, &options).unwrap();
        let states = States::open(&self.spec, 2).await.unwrap().filter(|_| with_states).map(Arc::new);
        if let Some(states) = &states {
            states.vouch(&lake);
        }
        let set = FeatureSet::load(self.spec.entity_task().unwrap(), self.spec.root()).unwrap();
        let session = lake.session(Visibility::at(as_of)).await.unwrap();
        let rows = set.matrix_with(&session, &self.spec, as_of, states.clone()).await.unwrap();
        let schema = rows.schema().clone();
        let batches: Vec<RecordBatch> = rows.try_collect().await.unwrap();
        let report = match states {
            Some(states) => states.commit().await.unwrap(),
            None => StateReport::default(),
        };
        (concat_batches(&schema, &batches).unwrap(), report)
    }

    pub(crate) fn as_of(&self, n: u64) -> AsOf {
        AsOf::new(day(n), self.spec.timezone())
    }

    /// The matrix of a night with states, which is that of all rows.
    pub(crate) async fn night(&self, n: u64) -> Result<StateReport, TestCaseError> {
        let as_of = self.as_of(n);
        let (all, _) = self.matrix(as_of, false).await;
        let (found, report) = self.matrix(as_of, true).await;
        prop_assert_eq!(text(&found), text(&all), "at {}", as_of);
        prop_assert!(found == all, "the text is the same but not the bits");
        Ok(report)
    }

    /// Every file of states but the manifests.
    pub(crate) fn blocks(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.lake().join("_state/counted")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path if path.extension().is_some_and(|e| e == "parquet") => found.push(path),
                    _ => {}
                }
            }
        }
        found.sort();
        found
    }
}

/// What happens between two nights.
#[derive(Debug, Clone)]
enum Event {
    Nothing,
    /// Rows come late to the partition of a day.
    Late {
        partition: u64,
        hours: i64,
    },
    /// A partition goes.
    Gone(u64),
    /// A file of states is lost, or its bytes are others.
    Lost(usize),
    Damaged(usize),
    /// The manifests are gone, or are nothing that can be read.
    NoManifest,
    BadManifest,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Nothing),
        3 => (0..60u64, -30..50i64).prop_map(|(partition, hours)| Event::Late { partition, hours }),
        1 => (0..60u64).prop_map(Event::Gone),
        1 => any::<usize>().prop_map(Event::Lost),
        1 => any::<usize>().prop_map(Event::Damaged),
        1 => Just(Event::NoManifest),
        1 => Just(Event::BadManifest),
    ]
}

type Order = (u64, i64, (u8, Option<i32>, u8));

fn order() -> impl Strategy<Value = Order> {
    // Customer 6 is nobody's; hours before 0 and from 24 on belong to other days than the partition's.
    (
        0..60u64,
        prop_oneof![6 => 0..24i64, 1 => -3..0i64, 1 => 24..30i64],
        (0..7u8, prop::option::of(prop_oneof![15 => -300..3000, 1 => i32::MAX - 5..i32::MAX]), 0..4u8),
    )
}

async fn happens(shop: &mut Shop, event: &Event) {
    let manifests = shop.lake().join("_state/counted/manifests");
    match event {
        Event::Nothing => {}
        Event::Late { partition, hours } => {
            shop.order(*partition, *hours, (1, Some(777), 1));
            shop.write(day(*partition)).await;
        }
        Event::Gone(partition) => {
            shop.orders.remove(&day(*partition));
            let _ = std::fs::remove_file(shop.partition(day(*partition)));
        }
        Event::Lost(n) | Event::Damaged(n) => {
            let blocks = shop.blocks();
            let Some(path) = blocks.get(n % blocks.len().max(1)) else { return };
            match event {
                Event::Lost(_) => std::fs::remove_file(path).unwrap(),
                _ => {
                    let mut bytes = std::fs::read(path).unwrap();
                    let at = n % bytes.len();
                    bytes[at] ^= 0x55;
                    std::fs::write(path, bytes).unwrap();
                }
            }
        }
        Event::NoManifest => {
            let _ = std::fs::remove_dir_all(manifests);
        }
        Event::BadManifest => {
            for entry in std::fs::read_dir(manifests).into_iter().flatten().flatten() {
                std::fs::write(entry.path(), "{\"version\": 1, ").unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn states_and_new_days_give_what_all_rows_give(
        orders in prop::collection::vec(order(), 0..80),
        nights in prop::collection::vec((1..9u64, event()), 1..6),
        first in 5..50u64,
        timezone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York"]),
        texts in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut shop = Shop::new(timezone, texts).await;
            for (partition, hours, order) in orders {
                shop.order(partition, hours, order);
            }
            shop.write_all().await;
            let mut n = first;
            shop.night(n).await?;
            for (days, event) in nights {
                n += days;
                happens(&mut shop, &event).await;
                shop.night(n).await?;
            }
            // An older night reads what is there and changes nothing.
            let before = shop.blocks();
            shop.night(n.saturating_sub(4)).await?;
            prop_assert_eq!(shop.blocks(), before);
            Ok::<(), TestCaseError>(())
        })?;
    }
}

async fn shop_of_60_days() -> Shop {
    let mut shop = Shop::new("UTC", false).await;
    for n in 0..60u64 {
        shop.order(n, 9, ((n % 5) as u8, Some(n as i32 * 100), n as u8));
        shop.order(n, 17, (((n + 2) % 5) as u8, Some(n as i32 * 7), n as u8));
        shop.write(day(n)).await;
    }
    shop
}

#[tokio::test(flavor = "multi_thread")]
async fn a_night_writes_the_newest_day_and_what_is_complete_with_it() {
    let shop = shop_of_60_days().await;
    let first = shop.night(40).await.unwrap();
    assert!(first.written > 40, "{first:?}");
    // The second run of a night finds everything.
    assert_eq!(shop.night(40).await.unwrap().written, 0);
    for n in 41..60 {
        let night = shop.night(n).await.unwrap();
        assert!((1..=3).contains(&night.written), "{n}: {night:?}");
        assert_eq!(night.notes, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_states_are_computed_again_and_a_note_says_so() {
    let shop = shop_of_60_days().await;
    shop.night(50).await.unwrap();
    for path in shop.blocks() {
        std::fs::write(path, b"PAR1 nothing PAR1").unwrap();
    }
    let again = shop.night(51).await.unwrap();
    assert!(!again.notes.is_empty() && again.notes.iter().all(|note| note.contains("are computed again")), "{again:?}");
    assert!(again.notes[0].contains("_state/counted/"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_again_with_the_bytes_that_it_had_is_mended() {
    let shop = shop_of_60_days().await;
    for lost in [false, true] {
        shop.night(50).await.unwrap();
        for path in shop.blocks() {
            if lost { std::fs::remove_file(path).unwrap() } else { std::fs::write(path, b"PAR1").unwrap() }
        }
        // The same night: what it puts in force is what is in force.
        let again = shop.night(50).await.unwrap();
        assert!(again.written > 40 && !again.notes.is_empty(), "{again:?}");
        assert_eq!(shop.night(50).await.unwrap(), StateReport::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_first_of_two_runs_puts_states_in_force() {
    let shop = shop_of_60_days().await;
    shop.night(50).await.unwrap();
    let as_of = shop.as_of(51);
    let run = async || {
        let options = EngineOptions { memory_limit: None, threads: 1 };
        let lake = Lake::open(&shop.spec, &options).unwrap();
        let states = Arc::new(States::open(&shop.spec, 1).await.unwrap().unwrap());
        let set = FeatureSet::load(shop.spec.entity_task().unwrap(), shop.spec.root()).unwrap();
        let session = lake.session(Visibility::at(as_of)).await.unwrap();
        let rows = set.matrix_with(&session, &shop.spec, as_of, Some(Arc::clone(&states))).await.unwrap();
        let _: Vec<RecordBatch> = rows.try_collect().await.unwrap();
        states
    };
    let (one, other) = (run().await, run().await);
    assert_eq!(one.commit().await.unwrap().notes, Vec::<String>::new());
    let late = other.commit().await.unwrap();
    assert_eq!(late.notes, ["another run has written states: these are dropped"]);
    shop.night(52).await.unwrap();
}

impl Shop {
    /// Runs the program; `JOB` stands for the job file.
    fn tenure(&self, args: &[&str]) -> std::process::Output {
        let job = self.folder.path().join("jobs/counted.yaml");
        let job = job.to_str().unwrap();
        tenure(&args.iter().map(|arg| if *arg == "JOB" { job } else { *arg }).collect::<Vec<_>>())
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.tenure(&[args, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn states_are_listed_verified_and_rebuilt() {
    let shop = shop_of_60_days().await;
    let output = shop.tenure(&["state", "verify", "JOB"]);
    assert_exit(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("there are no states in"), "{output:?}");
    assert_eq!(shop.json(&["state", "list", "JOB"])["groups"].as_array().unwrap().len(), 0);

    assert_success(&shop.tenure(&["features", "build", "JOB", "--as-of", "2026-04-15", "--dry-run"]));
    let list = shop.json(&["state", "list", "JOB"]);
    assert_eq!(list["as_of"], "2026-04-15");
    let group = &list["groups"][0];
    assert_eq!((&group["table"], &group["until"]), (&"orders".into(), &"2026-04-15".into()));
    assert_eq!(group["from"], "2026-03-01");
    assert_eq!(group["files"].as_array().unwrap().len(), 4, "{group}");
    let table = shop.tenure(&["state", "list", "JOB"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("sql/features/gifts.sql"), "{table:?}");

    let none = serde_json::json!([]);
    let verdict = shop.json(&["state", "verify", "JOB"]);
    assert_eq!((&verdict["damaged"], &verdict["different"], &verdict["customers"]), (&none, &none, &6.into()));
    assert_eq!(verdict["orphans"], 0);

    // A state that is whole and says something else is found, and so is a damaged one.
    let blocks = shop.blocks();
    let day = |path: &&PathBuf| path.to_string_lossy().contains("20555-20556");
    let (one, two) = (blocks.iter().find(day).unwrap(), blocks.iter().find(|path| !day(path)).unwrap());
    std::fs::copy(two, one).unwrap();
    let output = shop.tenure(&["state", "verify", "JOB"]);
    assert_exit(&output, 1);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("its bytes are not those that were written"),
        "{output:?}"
    );

    std::fs::write(shop.lake().join("_state/counted/left_over.parquet"), "of a killed run").unwrap();
    assert_eq!(shop.json(&["state", "verify", "JOB"])["orphans"], 1);
    assert_success(&shop.tenure(&["state", "rebuild", "JOB", "--as-of", "2026-04-15"]));
    let verdict = shop.json(&["state", "verify", "JOB", "--as-of", "2026-04-20"]);
    assert_eq!((&verdict["damaged"], &verdict["different"], &verdict["orphans"]), (&none, &none, &0.into()));
    let output = shop.tenure(&["state", "rebuild", "JOB", "--as-of", "2026-04-01"]);
    assert_exit(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("would be older"), "{output:?}");
}
