//! The checks of tables: rejected rows are seen by no query and reported once.

use std::time::Duration;

use arrow::array::Array;
use futures::StreamExt;
use tenure::error::Class;
use tenure::lake::{CheckReport, Lake};
use tenure::spec::{Bound, CheckRule, OnFail, TableSpec};

use crate::support::lake::{SmallLake, check, rows, text};

const ORDERS: &str = "order_id int64, customer_id int64, ordered_at timestamp, amount float64, status utf8";
const DAY: &str = "2026-07-01";

/// Orders as (order, customer, hour of 2026-06-30 or NULL, amount, status).
fn orders(values: &str) -> String {
    format!(
        "SELECT arrow_cast(o, 'Int64') AS order_id, arrow_cast(c, 'Int64') AS customer_id, arrow_cast('2026-06-30T00:00:00', 'Timestamp(Microsecond, None)') + arrow_cast(h * 3600, 'Duration(Second)') AS ordered_at, arrow_cast(a, 'Float64') AS amount, s AS status FROM (VALUES {values}) AS t(o, c, h, a, s)"
    )
}

fn not_null(column: &str) -> CheckRule {
    CheckRule::NotNull(column.to_owned())
}

fn in_range() -> CheckRule {
    CheckRule::Range { column: "amount".to_owned(), min: Some(Bound::Number(0.)), max: Some(Bound::Number(1e6)) }
}

fn accepted() -> CheckRule {
    CheckRule::Accepted { column: "status".to_owned(), values: vec!["paid".to_owned(), "open".to_owned()] }
}

fn unique(columns: &[&str]) -> CheckRule {
    CheckRule::Unique(columns.iter().map(|c| (*c).to_owned()).collect())
}

fn with(checks: Vec<(CheckRule, OnFail)>) -> impl FnOnce(&mut TableSpec) {
    move |table| {
        table.event_time = Some("ordered_at".to_owned());
        table.checks = checks.into_iter().map(|(rule, on_fail)| check(rule, on_fail)).collect();
    }
}

async fn shop(values: &str, checks: Vec<(CheckRule, OnFail)>) -> SmallLake {
    SmallLake::new().parquet("orders/a.parquet", &orders(values)).await.table("orders", ORDERS, with(checks))
}

fn rejects(report: &CheckReport) -> String {
    text(std::slice::from_ref(&report.rejects))
}

fn counts(report: &CheckReport) -> String {
    let count = |c: &tenure::lake::CheckCount| format!("{} {} {}", c.rule, c.on_fail, c.rows);
    report.counts.iter().map(count).collect::<Vec<_>>().join("; ")
}

const BAD: &str = "(1, 7, 1, 5.0, 'paid'), (2, NULL, 2, -5.0, 'paid'), (3, 7, 3, 'NaN', 'open'), (4, 7, 4, 2000000.0, 'lost'), (5, 7, 30, -1.0, 'ahead'), (6, 8, NULL, 1.0, 'paid'), (7, 8, 5, NULL, NULL)";

fn bad_checks() -> Vec<(CheckRule, OnFail)> {
    vec![
        (not_null("customer_id"), OnFail::Reject),
        (not_null("ordered_at"), OnFail::Reject),
        (in_range(), OnFail::Reject),
        (accepted(), OnFail::Warn),
    ]
}

const BAD_REJECTS: &str = r#"orders|amount = 2000000.0 is outside 0..1000000 (range)|{"order_id":4,"customer_id":7,"ordered_at":"2026-06-30T04:00:00Z","amount":2000000.0,"status":"lost"}; orders|amount = NaN is outside 0..1000000 (range)|{"order_id":3,"customer_id":7,"ordered_at":"2026-06-30T03:00:00Z","amount":null,"status":"open"}; orders|customer_id is NULL (not_null); amount = -5.0 is outside 0..1000000 (range)|{"order_id":2,"customer_id":null,"ordered_at":"2026-06-30T02:00:00Z","amount":-5.0,"status":"paid"}; orders|ordered_at is NULL (not_null)|{"order_id":6,"customer_id":8,"ordered_at":null,"amount":1.0,"status":"paid"}"#;

const BAD_COUNTS: &str = "not_null(customer_id) reject 1; not_null(ordered_at) reject 1; range(amount) reject 3; accepted_values(status) warn 1";

#[tokio::test]
async fn rejected_rows_are_seen_by_no_query_and_reported_once() {
    let shop = shop(BAD, bad_checks()).await;
    let lake = shop.lake();
    let context = lake.session(shop.at(DAY)).await.unwrap();
    assert_eq!(rows(&context, "SELECT order_id FROM orders ORDER BY 1").await, "1; 7");
    assert_eq!(rows(&context, "SELECT count(*) FROM orders").await, "2");
    assert_eq!(
        rows(&context, "SELECT a.order_id FROM orders a JOIN orders b USING (order_id) ORDER BY 1").await,
        "1; 7"
    );
    let report = lake.finish_checks(shop.at(DAY), None).await.unwrap();
    assert_eq!(rejects(&report), BAD_REJECTS);
    assert_eq!(counts(&report), BAD_COUNTS);
}

#[tokio::test]
async fn what_no_query_read_to_its_end_is_checked_all_the_same() {
    let shop = shop(BAD, bad_checks()).await;
    let lake = shop.lake();
    let context = lake.session(shop.at(DAY)).await.unwrap();
    // One plan is made and dropped, one is kept and never run, one is given up halfway, one wants little of the table.
    context.sql("SELECT * FROM orders").await.unwrap().create_physical_plan().await.unwrap();
    let _kept = context.sql("SELECT * FROM orders").await.unwrap().create_physical_plan().await.unwrap();
    let mut stream = context.sql("SELECT * FROM orders").await.unwrap().execute_stream().await.unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    assert_eq!(rows(&context, "SELECT order_id FROM orders WHERE order_id = 1 LIMIT 1").await, "1");
    let report = lake.finish_checks(shop.at(DAY), None).await.unwrap();
    assert_eq!((rejects(&report), counts(&report)), (BAD_REJECTS.to_owned(), BAD_COUNTS.to_owned()));
    let again = lake.finish_checks(shop.at(DAY), None).await.unwrap();
    assert_eq!(rejects(&again), BAD_REJECTS);
}

#[tokio::test]
async fn a_limit_or_filter_above_the_collecting_scan_hides_no_reject() {
    for sql in ["SELECT order_id FROM orders WHERE order_id = 1", "SELECT order_id FROM orders LIMIT 1"] {
        let shop = shop(BAD, bad_checks()).await;
        let lake = shop.lake();
        let context = lake.session(shop.at(DAY)).await.unwrap();
        rows(&context, sql).await;
        assert_eq!(rejects(&lake.finish_checks(shop.at(DAY), None).await.unwrap()), BAD_REJECTS, "{sql}");
    }
}

#[tokio::test]
async fn the_collecting_scan_is_one_of_the_queries_own() {
    let shop = shop(BAD, bad_checks()).await;
    let lake = shop.lake();
    let context = lake.session(shop.at(DAY)).await.unwrap();
    let explain = "EXPLAIN FORMAT INDENT SELECT a.order_id FROM orders a JOIN orders b USING (order_id)";
    assert_eq!(rows(&context, explain).await.matches("CheckExec").count(), 1, "one of a query's scans collects");
    rows(&context, "SELECT order_id FROM orders").await;
    assert_eq!(rows(&context, explain).await.matches("CheckExec").count(), 0, "and none after it");
}

#[tokio::test]
async fn a_broken_check_that_must_not_be_ends_query_and_report() {
    let shop = shop(BAD, vec![(in_range(), OnFail::Fail), (not_null("customer_id"), OnFail::Fail)]).await;
    let lake = shop.lake();
    let context = lake.session(shop.at(DAY)).await.unwrap();
    let query = context.sql("SELECT sum(amount) FROM orders").await.unwrap().collect().await.unwrap_err();
    let finished = lake.finish_checks(shop.at(DAY), None).await.unwrap_err();
    let unread = shop.lake().finish_checks(shop.at(DAY), None).await.unwrap_err();
    for error in [tenure::Error::from(query), finished, unread] {
        assert_eq!(error.class(), Class::User);
        let said: Vec<String> = error.problems().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                r#"jobs/shop.yaml:20:7: in table `orders`, 3 rows break `range(amount)`, for example {"order_id":2,"customer_id":null,"ordered_at":"2026-06-30T02:00:00Z","amount":-5.0,"status":"paid"}"#,
                r#"jobs/shop.yaml:20:7: in table `orders`, 1 row breaks `not_null(customer_id)`, for example {"order_id":2,"customer_id":null,"ordered_at":"2026-06-30T02:00:00Z","amount":-5.0,"status":"paid"}"#,
            ]
        );
    }
}

#[tokio::test]
async fn nan_is_no_value_where_one_must_be() {
    let shop = shop(
        "(1, 7, 1, 'NaN', 'paid'), (2, 7, 1, NULL, 'paid'), (3, 7, 1, 0.0, 'paid')",
        vec![(not_null("amount"), OnFail::Reject)],
    )
    .await;
    let lake = shop.lake();
    let context = lake.session(shop.at(DAY)).await.unwrap();
    assert_eq!(rows(&context, "SELECT order_id FROM orders").await, "3");
    let report = rejects(&lake.finish_checks(shop.at(DAY), None).await.unwrap());
    assert!(report.contains("amount is NaN (not_null)") && report.contains("amount is NULL (not_null)"), "{report}");
}

#[tokio::test]
async fn of_rows_with_one_key_the_earliest_is_kept_whatever_the_partitions() {
    let values = [
        "(1, 7, 3, 30.0, 'paid')",
        "(1, 7, 2, 20.0, 'paid')",
        "(1, 7, 2, 10.0, 'paid')",
        "(2, 8, 1, 1.0, 'paid')",
        "(2, 8, 1, 1.0, 'paid')",
        "(3, 8, 1, -1.0, 'paid')",
        "(3, 8, 2, 1.0, 'paid')",
        "(NULL, 8, 1, 5.0, 'paid')",
        "(NULL, 8, 1, 6.0, 'paid')",
        "(4, 8, 30, 7.0, 'paid')",
        "(4, 8, 3, 7.0, 'paid')",
    ];
    let mut seen = Vec::new();
    for (threads, backwards) in [(1, false), (2, true), (3, false), (3, true)] {
        let mut shop = SmallLake::new();
        shop.options.threads = threads;
        for (number, row) in values.iter().enumerate() {
            let place = if backwards { values.len() - number } else { number };
            shop = shop.parquet(&format!("orders/{place:02}.parquet"), &orders(row)).await;
        }
        let checks = vec![(in_range(), OnFail::Reject), (unique(&["order_id"]), OnFail::Reject)];
        let shop = shop.table("orders", ORDERS, with(checks));
        let lake = shop.lake();
        let context = lake.session(shop.at(DAY)).await.unwrap();
        let sql = "SELECT order_id, customer_id, amount FROM orders ORDER BY order_id NULLS LAST, amount";
        assert_eq!(
            rows(&context, sql).await,
            "1|7|10.0; 2|8|1.0; 3|8|1.0; 4|8|7.0; |8|5.0; |8|6.0",
            "{threads} {backwards}"
        );
        assert_eq!(rows(&context, "SELECT count(*), sum(amount) FROM orders WHERE customer_id = 8").await, "5|20.0");
        let report = lake.finish_checks(shop.at(DAY), None).await.unwrap();
        assert_eq!(counts(&report), "range(amount) reject 1; unique(order_id) reject 3");
        seen.push(rejects(&report));
    }
    assert_eq!(seen[0].matches("is there more than once").count(), 3, "{}", seen[0]);
    assert!(seen[0].contains("order_id = 2 is there more than once, and an earlier row is kept (unique)"));
    assert!(seen.iter().all(|s| *s == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn several_unique_checks_build_on_each_other() {
    let values = "(1, 7, 1, 1.0, 'a'), (1, 8, 2, 2.0, 'b'), (2, 7, 3, 3.0, 'a'), (3, 9, 4, 4.0, 'c')";
    let shop = shop(
        values,
        vec![(unique(&["order_id"]), OnFail::Reject), (unique(&["customer_id", "status"]), OnFail::Reject)],
    )
    .await;
    // Order 1 of customer 7 is kept by the first check, and then is the earliest of its customer.
    assert_eq!(shop.query(DAY, "SELECT order_id, customer_id FROM orders ORDER BY 1").await, "1|7; 3|9");
}

#[tokio::test]
async fn repeated_keys_end_the_run_or_are_counted_as_asked() {
    let values = "(1, 7, 1, 1.0, 'a'), (1, 7, 2, 2.0, 'a')";
    let fails = shop(values, vec![(unique(&["order_id"]), OnFail::Fail)]).await;
    let error = fails.lake().session(fails.at(DAY)).await.err().unwrap();
    assert!(
        error
            .to_string()
            .starts_with("jobs/shop.yaml:20:7: in table `orders`, 1 row breaks `unique(order_id)`, for example {"),
        "{error}"
    );
    let warns = shop(values, vec![(unique(&["order_id"]), OnFail::Warn)]).await;
    let lake = warns.lake();
    let context = lake.session(warns.at(DAY)).await.unwrap();
    assert_eq!(rows(&context, "SELECT count(*) FROM orders").await, "2");
    assert_eq!(counts(&lake.finish_checks(warns.at(DAY), None).await.unwrap()), "unique(order_id) warn 1");
}

#[tokio::test]
async fn a_table_is_stale_when_its_newest_visible_event_is_too_old() {
    let fresh = |hours: u64| CheckRule::FreshWithin(Duration::from_secs(hours * 3600));
    // The newest visible event is of 22:00; the one of 06:00 the next day has not happened yet.
    let values = "(1, 7, 1, 1.0, 'a'), (2, 7, 22, 1.0, 'a'), (3, 7, 30, 1.0, 'a')";
    let ok = shop(values, vec![(fresh(2), OnFail::Warn)]).await;
    assert!(ok.lake().finish_checks(ok.at(DAY), None).await.unwrap().stale.is_empty());
    assert!(ok.lake().look(ok.day(DAY)).await.unwrap().stale.is_empty());

    let late = shop(values, vec![(fresh(1), OnFail::Warn)]).await;
    let report = late.lake().finish_checks(late.at(DAY), None).await.unwrap();
    assert_eq!(report.stale[0].newest.unwrap().to_rfc3339(), "2026-06-30T22:00:00+00:00");
    assert_eq!(counts(&report), "fresh_within(1h) warn 1");
    let wanted = "jobs/shop.yaml:20:7: table `orders` is stale: its newest event before 2026-07-01T00:00:00Z is of 2026-06-30T22:00:00Z, and `fresh_within` is 1h";
    let online = late.lake().look(late.day(DAY)).await.unwrap().stale;
    assert_eq!(online.iter().map(ToString::to_string).collect::<Vec<_>>(), [wanted]);

    let fails = shop(values, vec![(fresh(1), OnFail::Fail)]).await;
    assert_eq!(fails.lake().finish_checks(fails.at(DAY), None).await.unwrap_err().to_string(), wanted);
}

#[tokio::test]
async fn a_report_without_rejects_has_its_columns_all_the_same() {
    let shop = shop("(1, 7, 1, 1.0, 'paid')", bad_checks()).await;
    let report = shop.lake().finish_checks(shop.at(DAY), None).await.unwrap();
    assert_eq!(report.rejects.num_rows(), 0);
    assert_eq!(report.rejects.schema(), tenure::lake::rejects_schema());
    assert_eq!(report.rejects.column(0).len(), 0);
}

#[tokio::test]
async fn many_rejects_are_capped_with_a_last_row_that_says_how_many_more() {
    let select = "SELECT value AS order_id, value AS customer_id, arrow_cast('2026-06-01T00:00:00', 'Timestamp(Microsecond, None)') AS ordered_at, -1.0 AS amount, 'x' AS status FROM generate_series(1, 100500)";
    let shop = SmallLake::new().parquet("orders/a.parquet", select).await.table(
        "orders",
        ORDERS,
        with(vec![(in_range(), OnFail::Reject)]),
    );
    let report = shop.lake().finish_checks(shop.at(DAY), None).await.unwrap();
    assert_eq!(report.rejects.num_rows(), tenure::lake::KEPT_REJECTS + 1);
    let last = text(&[report.rejects.slice(tenure::lake::KEPT_REJECTS, 1)]);
    assert_eq!(last, "orders|and 500 more rows, which are not listed|");
    assert_eq!(counts(&report), "range(amount) reject 100500");
}

#[test]
fn checks_that_cannot_hold_are_refused_with_their_place() {
    let range = CheckRule::Range { column: "status".to_owned(), min: Some(Bound::Number(0.)), max: None };
    let accepted =
        CheckRule::Accepted { column: "order_id".to_owned(), values: vec!["1".to_owned(), "one".to_owned()] };
    let checks = vec![(range, OnFail::Reject), (accepted, OnFail::Reject), (not_null("nothing"), OnFail::Warn)];
    let shop = SmallLake::new().table("orders", ORDERS, with(checks));
    let error = Lake::over(&shop.tables, shop.timezone, &shop.options, &[]).unwrap_err();
    let said: Vec<String> = error.problems().map(|p| p.message.clone()).collect();
    assert_eq!(
        said,
        [
            "`status` is a utf8 and has no range",
            "`one` is no int64 and `order_id` is one",
            "table `orders` has no column `nothing`"
        ]
    );
}

#[tokio::test]
async fn numbers_that_are_none_are_in_no_range() {
    for (min, max) in [(Some(0.), None), (None, Some(9.)), (Some(0.), Some(9.))] {
        let bound = |bound: Option<f64>| bound.map(Bound::Number);
        let range = CheckRule::Range { column: "amount".to_owned(), min: bound(min), max: bound(max) };
        let values = "(1, 7, 1, 'NaN', 'a'), (2, 7, 1, 'inf', 'a'), (3, 7, 1, '-inf', 'a'), (4, 7, 1, -0.0, 'a'), (5, 7, 1, NULL, 'a')";
        let shop = shop(values, vec![(range, OnFail::Reject)]).await;
        assert_eq!(shop.query(DAY, "SELECT order_id FROM orders ORDER BY 1").await, "4; 5", "{min:?}..{max:?}");
    }
}

#[tokio::test]
async fn ranges_bound_dates_and_timestamps_by_days_of_the_job() {
    let day = |text: &str| Some(Bound::Day(text.parse().unwrap()));
    let select = "SELECT column1 AS id, arrow_cast(column2, 'Timestamp(Microsecond, Some(\"UTC\"))') AS at, column3::DATE AS day
        FROM (VALUES (1, '1970-01-01', '1970-01-01'), (2, '2026-05-31T21:59:59', '2026-05-31'), (3, '2026-05-31T22:00:00', '2026-06-01'),
        (4, '2026-06-30T21:59:59.999999', '2026-06-30'), (5, '2026-06-30T22:00:00', '2026-07-01'), (6, NULL, NULL))";
    let cases = [
        (
            "at",
            day("2026-06-01"),
            day("2026-06-30"),
            "3; 4; 6",
            "at = 2026-07-01T00:00:00+02:00 is outside 2026-06-01..2026-06-30 (range)",
        ),
        ("at", day("2026-06-01"), None, "3; 4; 5; 6", "at = 1970-01-01T01:00:00+01:00 is outside 2026-06-01.. (range)"),
        (
            "day",
            day("2026-06-01"),
            day("2026-06-30"),
            "3; 4; 6",
            "day = 2026-07-01 is outside 2026-06-01..2026-06-30 (range)",
        ),
        ("day", None, day("2026-06-30"), "1; 2; 3; 4; 6", "day = 2026-07-01 is outside ..2026-06-30 (range)"),
    ];
    for (column, min, max, kept, reason) in cases {
        let range = CheckRule::Range { column: column.to_owned(), min, max };
        let mut lake = SmallLake::new().parquet("events/a.parquet", select).await;
        lake.timezone = chrono_tz::Europe::Berlin;
        let lake = lake.table("events", "id int64, at timestamp, day date", |table| {
            table.checks = vec![check(range, OnFail::Reject)];
        });
        assert_eq!(lake.query("2027-01-01", "SELECT id FROM events ORDER BY 1").await, kept, "{column}");
        let report = lake.lake().finish_checks(lake.at("2027-01-01"), None).await.unwrap();
        assert!(rejects(&report).contains(reason), "{}", rejects(&report));
    }
}
