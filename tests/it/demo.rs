//! The demo lake: the same from the same seed, believable, and never in anyone's way.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use chrono::NaiveDate;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use tenure::demo::{DemoOptions, generate};

fn small() -> DemoOptions {
    DemoOptions { customers: 200, days: 120, ..DemoOptions::default() }
}

/// Every file below a folder with its bytes.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found
}

async fn sql(dir: &Path, query: &str) -> RecordBatch {
    let ctx = SessionContext::new();
    for table in ["customers", "orders", "events", "reviews"] {
        let path = format!("{}/", dir.join(table).display());
        ctx.register_parquet(table, &path, ParquetReadOptions::default()).await.unwrap();
    }
    let batches = ctx.sql(query).await.unwrap().collect().await.unwrap();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

async fn count(dir: &Path, query: &str) -> i64 {
    sql(dir, query).await.column(0).as_primitive::<Int64Type>().value(0)
}

async fn float(dir: &Path, query: &str) -> f64 {
    sql(dir, query).await.column(0).as_primitive::<Float64Type>().value(0)
}

#[test]
fn the_same_options_give_the_same_bytes_and_another_seed_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| dir.path().join(name));
    generate(&a, small()).unwrap();
    generate(&b, small()).unwrap();
    generate(&c, DemoOptions { seed: 2, ..small() }).unwrap();
    assert!(files(&a) == files(&b));
    assert_ne!(files(&a)["customers/part-0.parquet"], files(&c)["customers/part-0.parquet"]);
}

#[test]
fn a_second_time_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let lake = dir.path().join("lake");
    let first = generate(&lake, small()).unwrap();
    fs::write(lake.join("customers/part-0.parquet"), "touched").unwrap();
    let second = generate(&lake, small()).unwrap();
    assert!(!first.was_there && second.was_there);
    assert_eq!(fs::read_to_string(lake.join("customers/part-0.parquet")).unwrap(), "touched");
}

#[test]
fn other_options_replace_the_tables_and_keep_what_was_published() {
    let dir = tempfile::tempdir().unwrap();
    let [lake, fresh] = ["lake", "fresh"].map(|name| dir.path().join(name));
    let other = DemoOptions { customers: 100, ..small() };
    generate(&lake, small()).unwrap();
    fs::create_dir(lake.join("out")).unwrap();
    fs::write(lake.join("out/predictions"), "kept").unwrap();
    generate(&lake, other.clone()).unwrap();
    generate(&fresh, other).unwrap();
    let mut got = files(&lake);
    assert_eq!(got.remove("out/predictions").unwrap(), b"kept");
    assert!(got == files(&fresh));
}

#[test]
fn a_lake_that_a_killed_run_left_half_replaced_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let [lake, fresh] = ["lake", "fresh"].map(|name| dir.path().join(name));
    generate(&lake, small()).unwrap();
    generate(&fresh, small()).unwrap();
    let marker = fs::read_to_string(lake.join("lake.json")).unwrap();
    let mut marker: serde_json::Value = serde_json::from_str(&marker).unwrap();
    marker["summary"] = serde_json::Value::Null;
    fs::write(lake.join("lake.json"), marker.to_string()).unwrap();
    fs::remove_dir_all(lake.join("orders")).unwrap();
    fs::create_dir(dir.path().join(".lake.part")).unwrap();
    generate(&lake, small()).unwrap();
    assert!(files(&lake) == files(&fresh));
    assert!(!dir.path().join(".lake.part").exists());
}

#[test]
fn a_folder_that_holds_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let error = generate(dir.path(), small()).unwrap_err();
    assert!(error.to_string().ends_with("is not empty and holds no demo lake"), "{error}");
    assert_eq!(files(dir.path()).len(), 1);
}

#[tokio::test]
async fn the_summary_counts_the_rows_and_nothing_lies_outside_the_span() {
    let dir = tempfile::tempdir().unwrap();
    let lake = dir.path().join("lake");
    let summary = generate(&lake, small()).unwrap();
    for (table, rows) in [
        ("customers", summary.customers),
        ("orders", summary.orders),
        ("events", summary.events),
        ("reviews", summary.reviews),
    ] {
        assert_eq!(count(&lake, &format!("SELECT count(*) FROM {table}")).await as u64, rows, "{table}");
        assert!(rows > 0, "{table}");
    }
    let outside = "SELECT count(*) FROM orders WHERE ordered_at < timestamp '2026-03-03T00:00:00Z' \
                   OR ordered_at >= timestamp '2026-07-01T00:00:00Z' OR loaded_at <= ordered_at";
    assert_eq!(count(&lake, outside).await, 0);
    let strangers = "SELECT count(*) FROM events e JOIN customers c ON e.customer_id = c.customer_id \
                     WHERE e.occurred_at < c.signed_up_at";
    assert_eq!(count(&lake, strangers).await, 0);
}

#[tokio::test]
async fn a_larger_shop_is_believable_and_has_every_kind_of_bad_row() {
    let dir = tempfile::tempdir().unwrap();
    let lake = dir.path().join("lake");
    let options = DemoOptions { customers: 4_000, ..DemoOptions::default() };
    let summary = generate(&lake, options).unwrap();
    assert_eq!(summary.as_of, NaiveDate::from_ymd_opt(2026, 7, 1).unwrap());
    let per_customer = |rows: u64| rows as f64 / summary.customers as f64;
    assert!((3.5..7.0).contains(&per_customer(summary.orders)), "{summary:?}");
    assert!((14.0..28.0).contains(&per_customer(summary.events)), "{summary:?}");
    assert!(per_customer(summary.bytes) < 3_000.0, "20,000 customers must stay far below 60 MB: {summary:?}");
    let share = summary.bad_rows as f64 / (summary.orders + summary.events) as f64;
    assert!((0.001..0.004).contains(&share), "{share}");
    for bad in [
        "SELECT count(*) FROM orders WHERE amount < 0",
        "SELECT count(*) FROM orders WHERE isnan(amount)",
        "SELECT count(*) FROM orders WHERE customer_id IS NULL",
        "SELECT count(*) FROM events WHERE kind NOT IN ('view', 'search', 'cart', 'support')",
        "SELECT count(*) - count(DISTINCT order_id) FROM orders",
        "SELECT count(*) FROM orders WHERE refunded",
        "SELECT count(*) FROM orders WHERE loaded_at >= timestamp '2026-07-01T00:00:00Z'",
    ] {
        assert!(count(&lake, bad).await > 0, "{bad}");
    }
}

#[tokio::test]
async fn what_customers_do_and_write_says_who_will_stay() {
    let dir = tempfile::tempdir().unwrap();
    let lake = dir.path().join("lake");
    generate(&lake, DemoOptions { customers: 4_000, ..DemoOptions::default() }).unwrap();
    // Of customers with an order in the 60 days before April, who buys again in the 90 days after?
    let returns = |condition: &str| {
        format!(
            "WITH before AS (SELECT customer_id, max(ordered_at) AS newest, count(*) AS orders FROM orders \
               WHERE ordered_at < timestamp '2026-04-01T00:00:00Z' GROUP BY customer_id), \
             after AS (SELECT DISTINCT customer_id FROM orders WHERE ordered_at >= timestamp '2026-04-01T00:00:00Z'), \
             wrote AS (SELECT customer_id, avg(CASE WHEN text LIKE '%Never again%' OR text LIKE '%last order%' \
                 OR text LIKE '%closing my account%' OR text LIKE '%elsewhere%' THEN 1.0 ELSE 0.0 END) AS goodbye \
               FROM reviews WHERE reviewed_at < timestamp '2026-04-01T00:00:00Z' GROUP BY customer_id) \
             SELECT avg(CASE WHEN after.customer_id IS NULL THEN 0.0 ELSE 1.0 END) FROM before \
             LEFT JOIN after ON before.customer_id = after.customer_id \
             LEFT JOIN wrote ON before.customer_id = wrote.customer_id WHERE {condition}"
        )
    };
    let recent = float(&lake, &returns("newest >= timestamp '2026-02-01T00:00:00Z'")).await;
    let old = float(&lake, &returns("newest < timestamp '2025-12-01T00:00:00Z'")).await;
    assert!(recent > old + 0.2, "recent {recent}, old {old}");
    let recent_and_silent = "newest >= timestamp '2026-02-01T00:00:00Z' AND coalesce(goodbye, 0.0) = 0.0";
    let recent_and_angry = "newest >= timestamp '2026-02-01T00:00:00Z' AND goodbye > 0.0";
    let silent = float(&lake, &returns(recent_and_silent)).await;
    let angry = float(&lake, &returns(recent_and_angry)).await;
    assert!(silent > angry + 0.15, "silent {silent}, angry {angry}");
}
