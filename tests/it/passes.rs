//! Passes over a table that many files, many dates and little memory share.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, RecordBatchReader, TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use datafusion::datasource::MemTable;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use tenure::AsOf;
use tenure::features::Matrices;

use crate::support::memory::{Shop, text, utc, whole};
use crate::support::shop::{assert_exit, assert_success, tenure, trained_once};

const ORDERS: &str = "-- @windows 3d 30d lifetime
SELECT customer_id, count(*) AS n, count(DISTINCT channel) AS channels, sum(amount) AS total, max(amount) AS most,
    count(DISTINCT CAST(at AS DATE)) AS days, stddev_gap_days(at) AS gap, stddev(amount) AS spread,
    median(amount) AS middle, percentile_cont(0.8) WITHIN GROUP (ORDER BY amount) AS high
FROM orders GROUP BY customer_id";
const PAID: &str = "SELECT customer_id, mean_gap_days(at) AS paid_gap, last_value(amount ORDER BY at, id) AS paid_last,
    (date_part('epoch', $as_of) - date_part('epoch', max(at))) / 86400.0 AS paid_recency
FROM orders WHERE amount > 0 GROUP BY customer_id";
const STEPS: &str = "-- @event_time at
SELECT customer_id, at, amount - lag(amount) OVER (PARTITION BY customer_id ORDER BY at, id) AS step FROM orders";
const STEPPED: &str = "-- @windows 30d lifetime
SELECT customer_id, sum(step) AS steps, first_value(step ORDER BY at) AS first_step FROM steps GROUP BY customer_id";
const PEOPLE: &str =
    "SELECT customer_id, (date_part('epoch', $as_of) - date_part('epoch', signed_up_at)) / 86400.0 AS age
FROM customers";
const LIST: &str = "-- @windows 30d\nSELECT customer_id, string_agg(channel, ' ' ORDER BY at, id) AS list FROM orders GROUP BY customer_id";
const DERIVED: &str = "SELECT n_30d / nullif(CAST(n_lifetime AS DOUBLE), 0) AS trend FROM features";

fn shop(orders: &[String]) -> Shop {
    let orders: Vec<&str> = orders.iter().map(String::as_str).collect();
    let customers = ["0 2026-01-01", "1 2026-02-10", "2 2026-02-20", "3 2026-03-05T12:00:00", "4 2026-04-01"];
    Shop::new()
        .table("customers customer_id:int64 signed_up_at:timestamp @signed_up_at", &customers)
        .table("orders id:int64 customer_id:int64 at:timestamp amount:float64 channel:utf8 @at", &orders)
        .view("steps", STEPS)
        .feature("orders", ORDERS)
        .feature("a_derived", DERIVED)
        .feature("paid", PAID)
        .feature("stepped", STEPPED)
        .feature("people", PEOPLE)
        .feature("list", LIST)
}

async fn at_once(shop: &Shop, context: &SessionContext, dates: &[AsOf]) -> Vec<RecordBatch> {
    let sessions: Vec<(AsOf, SessionContext)> = dates.iter().map(|date| (*date, context.clone())).collect();
    let Matrices { schema, rows, .. } = shop.load().unwrap().matrices(&sessions, &shop.tables, None).await.unwrap();
    let mut found: BTreeMap<usize, Vec<RecordBatch>> = (0..dates.len()).map(|date| (date, vec![])).collect();
    for (date, batch) in rows.try_collect::<Vec<_>>().await.unwrap() {
        found.get_mut(&date).unwrap().push(batch);
    }
    found.values().map(|batches| arrow::compute::concat_batches(&schema, batches).unwrap()).collect()
}

fn order() -> impl Strategy<Value = String> {
    (0..6i64, 0..80u64, 0..24u32, -300..3000i32, 0..4usize).prop_map(|(customer, day, hour, cents, channel)| {
        let day = chrono::NaiveDate::from_ymd_opt(2026, 2, 1).unwrap() + chrono::Days::new(day);
        let channel = ["web", "app", "shop", "-"][channel];
        format!("{customer} {day}T{hour:02}:00:00 {} {channel}", f64::from(cents) / 100.0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn dates_in_one_pass_give_what_each_gives_alone(
        orders in prop::collection::vec(order(), 0..60),
        days in prop::collection::btree_set(0..90u64, 1..5),
        partitions in 1..4usize,
        batch_size in 1..6usize,
    ) {
        let orders: Vec<String> = orders.iter().enumerate().map(|(id, order)| format!("{id} {order}")).collect();
        let first = utc("2026-02-05");
        let dates: Vec<AsOf> = days.iter().map(|days| first.plus_days(*days)).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let shop = shop(&orders);
            let context = shop.context(partitions, batch_size);
            let together = at_once(&shop, &context, &dates).await;
            for (date, matrix) in dates.iter().zip(&together) {
                let alone = shop.matrix_of(&context, *date).await.unwrap();
                prop_assert_eq!(text(matrix), text(&alone), "at {}", date);
                prop_assert!(*matrix == alone, "the text is the same but not the bits");
            }
            Ok(())
        })?;
    }
}

/// Many orders, the customers all mixed.
fn many_orders(rows: i64) -> RecordBatch {
    let noise = |i: i64| i.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 20;
    let start = utc("2026-01-01").instant().timestamp_micros();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("customer_id", Arc::new(Int64Array::from_iter_values((0..rows).map(|i| noise(i).rem_euclid(5_000))))),
        (
            "at",
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(
                    (0..rows).map(|i| start + noise(i + 7).rem_euclid(150 * 86_400_000_000)),
                )
                .with_timezone("UTC"),
            ),
        ),
        (
            "amount",
            Arc::new(Float64Array::from_iter_values((0..rows).map(|i| noise(i * 3).rem_euclid(9_999) as f64 / 7.0))),
        ),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[tokio::test]
async fn a_pass_that_has_no_room_goes_to_disk_and_gives_the_same() {
    let customers: Vec<String> = (0..5_000).map(|c| format!("{c} 2025-01-01")).collect();
    let customers: Vec<&str> = customers.iter().map(String::as_str).collect();
    let sql = "-- @windows 7d 30d lifetime\nSELECT customer_id, count(*) AS n, sum(amount) AS total, max(at) AS newest,
        count(DISTINCT CAST(at AS DATE)) AS days, mean_gap_days(at) AS gap FROM orders GROUP BY customer_id";
    let shop = Shop::new()
        .table("customers customer_id:int64 signed_up_at:timestamp", &customers)
        .table("orders customer_id:int64 at:timestamp amount:float64 @at", &[])
        .feature("orders", sql);
    let rows = many_orders(600_000);
    let context = |memory: usize| {
        let pool = Arc::new(FairSpillPool::new(memory));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().unwrap();
        let mut config = SessionConfig::new().with_target_partitions(2).with_batch_size(1024);
        config.options_mut().execution.sort_spill_reservation_bytes = 1 << 18;
        let context = SessionContext::new_with_config_rt(config, runtime);
        for (name, batch) in &shop.rows {
            let batch = if name == "orders" { &rows } else { batch };
            let pieces: Vec<Vec<RecordBatch>> = (0..2)
                .map(|half| {
                    let size = batch.num_rows() / 2;
                    let half = batch.slice(half * size, size);
                    (0..half.num_rows())
                        .step_by(4096)
                        .map(|at| half.slice(at, 4096.min(half.num_rows() - at)))
                        .collect()
                })
                .collect();
            let table = MemTable::try_new(batch.schema(), pieces).unwrap();
            context.register_table(name.as_str(), Arc::new(table)).unwrap();
        }
        context
    };
    let matrix = async |memory: usize| {
        let context = context(memory);
        let stream = shop.load().unwrap().matrix(&context, &shop.tables, utc("2026-05-01")).await.unwrap();
        let files = context.runtime_env().disk_manager.spilling_progress().active_files_count;
        (whole(stream).await.unwrap(), files)
    };
    let (wanted, files) = matrix(1 << 30).await;
    assert_eq!((wanted.num_rows(), files), (5_000, 0));
    // 600,000 rows of some 30 bytes have no room in 6 MB.
    let (got, files) = matrix(6 << 20).await;
    assert!(files > 0 && got == wanted);
}

#[tokio::test]
async fn approximate_aggregates_are_exact_in_the_shared_pass_and_in_files_that_run_as_they_are_written() {
    let approximate = "approx_distinct(amount) AS amounts, approx_median(amount) AS middle,
        approx_percentile_cont(amount, 0.9, 200) AS most";
    let exact = "count(DISTINCT amount) AS amounts, median(amount) AS middle, percentile_cont(amount, 0.9) AS most";
    let windowed =
        |items: &str| format!("-- @windows 7d lifetime\nSELECT customer_id, {items} FROM orders GROUP BY customer_id");
    let joined = |items: &str| {
        format!(
            "SELECT o.customer_id, {items} FROM orders o JOIN customers c ON o.customer_id = c.customer_id GROUP BY o.customer_id"
        )
    };
    for file in [windowed, joined] {
        let matrix = async |items: &str| {
            let shop = Shop::new()
                .table("customers customer_id:int64 signed_up_at:timestamp", &["1 2025-01-01", "2 2025-01-01"])
                .table(
                    "orders customer_id:int64 at:timestamp amount:float64 @at",
                    &["1 2026-01-01 3.5", "1 2026-01-02 3.5", "1 2026-01-03 8", "2 2026-01-01 1"],
                )
                .feature("orders", &file(items));
            shop.matrix("2026-01-04").await.unwrap()
        };
        let got = matrix(approximate).await;
        assert_eq!(got, matrix(exact).await);
        assert_eq!(got.column(1).as_primitive::<Int64Type>().values(), &[2, 1]);
    }
}

#[test]
fn matrices_of_one_day_and_of_several_are_written_as_files() {
    let shop = trained_once();
    let folder = tempfile::tempdir().unwrap();
    let (one, several) = (folder.path().join("one.parquet"), folder.path().join("several"));
    let build = |out: &Path, more: &[&str]| {
        let out = out.to_str().unwrap();
        shop.tenure(&[&["features", "build", "jobs/ltv.yaml", "--as-of", "2026-07-01", "--out", out], more].concat())
    };
    assert_success(&build(&one, &[]));
    assert_success(&build(&several, &["--every", "45d", "--count", "3"]));
    let read = |path: &Path| {
        let file = std::fs::File::open(path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let schema = reader.schema();
        arrow::compute::concat_batches(&schema, &reader.collect::<Result<Vec<_>, _>>().unwrap()).unwrap()
    };
    let matrix = read(&one);
    let days = ["2026-07-01", "2026-05-17", "2026-04-02"];
    let matrices = days.map(|day| read(&several.join(format!("as_of={day}/part-0.parquet"))));
    assert!(matrix == matrices[0], "a day alone and among others");
    assert!(matrices.windows(2).all(|pair| pair[0].num_rows() > pair[1].num_rows() && pair[1].num_rows() > 0));
    // A wrong option leaves nothing behind.
    assert_exit(&build(&folder.path().join("none"), &["--every", "45"]), 1);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_plan_says_which_files_share_a_scan_and_why_others_do_not() {
    let output = tenure(&["features", "plan", "jobs/ltv.yaml"]);
    assert_success(&output);
    insta::assert_snapshot!(String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn a_customer_without_a_key_is_an_error_at_every_date() {
    let customers = ["- 2026-01-01", "1 2026-01-01", "2 2026-03-01"];
    let shop = shop(&[]).table("customers customer_id:int64 signed_up_at:timestamp @signed_up_at", &customers);
    let context = shop.context(2, 3);
    for dates in [["2026-02-01", "2026-04-01"], ["2026-04-01", "2026-02-01"]] {
        let sessions = dates.map(|date| (utc(date), context.clone()));
        let Matrices { rows, .. } = shop.load().unwrap().matrices(&sessions, &shop.tables, None).await.unwrap();
        let error = rows.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.to_string(), "the population has rows without a key: `customer_id` is NULL");
    }
}
