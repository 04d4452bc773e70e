//! YAML unit tests of SQL files.

use tenure::features::cases::{CaseResult, Job, run_in};

use crate::support::memory::{Shop, rendered};

fn shop() -> Shop {
    Shop::small()
        .view("paid", "-- @event_time ordered_at\nSELECT customer_id, ordered_at, amount FROM orders WHERE NOT refunded")
        .feature(
            "orders",
            "-- @windows 7d 30d\nSELECT customer_id, count(*) AS orders, max(ordered_at) AS last_at FROM paid GROUP BY 1",
        )
        .feature("ratio", "SELECT orders_7d / nullif(CAST(orders_30d AS DOUBLE), 0) AS recent FROM features")
        .label("next", "-- @horizon 30d\nSELECT customer_id, sum(amount) AS spend_30d FROM paid GROUP BY customer_id")
}

async fn run(shop: &Shop, file: &str, yaml: &str, filter: Option<&str>) -> tenure::Result<Vec<CaseResult>> {
    let path = shop.file(&format!("tests/sql/{file}.yaml"), yaml);
    let root = path.ancestors().nth(3).unwrap();
    let job = Job {
        features: shop.load().unwrap(),
        labels: shop.labels().unwrap(),
        tables: shop.tables.clone(),
        timezone: chrono_tz::UTC,
    };
    run_in(&job, root, filter).await
}

fn said(results: &[CaseResult]) -> Vec<String> {
    results.iter().map(|r| format!("{} {}: {}", r.place, r.name, r.differences.join("; "))).collect()
}

const CASES: &str = "
- name: a refund does not count
  as_of: 2026-07-01
  given:
    orders:
      - {customer_id: 7, ordered_at: 2026-06-30 12:00, amount: 5, refunded: true}
      - {customer_id: 7, ordered_at: 2026-06-20, amount: 5, refunded: false}
      - {customer_id: 7, ordered_at: 2026-07-01, amount: 5, refunded: false}
  expect:
    - {customer_id: 7, orders_7d: 0, orders_30d: 1, last_at_30d: 2026-06-20T00:00:00Z, last_at_7d: null}
    - {customer_id: 8, orders_30d: 0}
- name: wrong on purpose
  as_of: 2026-07-01
  given:
    orders:
      - {customer_id: 7, ordered_at: 2026-06-30, refunded: false}
  expect:
    - {customer_id: 7, orders_30d: 2, last_at_30d: 2026-06-29}
";

#[tokio::test]
async fn a_case_gives_rows_and_expects_rows() {
    let results = run(&shop(), "orders", CASES, None).await.unwrap();
    assert_eq!(
        said(&results),
        [
            "tests/sql/orders.yaml:2:3 a refund does not count: ",
            "tests/sql/orders.yaml:12:3 wrong on purpose: customer 7, orders_30d: expected 2, got 1; \
             customer 7, last_at_30d: expected 2026-06-29, got 2026-06-30T00:00:00Z",
        ]
    );
    assert_eq!((results[0].passed(), results[1].passed()), (true, false));
    assert_eq!(run(&shop(), "orders", CASES, Some("purpose")).await.unwrap().len(), 1);
}

#[tokio::test]
async fn views_labels_and_derived_files_have_cases_too() {
    let shop = shop();
    let orders = "{customer_id: 7, ordered_at: 2026-06-30, amount: 5, refunded: false}";
    let view = format!(
        "- {{name: v, as_of: 2026-07-01, given: {{orders: [{orders}, {orders}]}}, expect: [{{customer_id: 7, amount: 5.0}}]}}"
    );
    let results = run(&shop, "paid", &view, None).await.unwrap();
    assert_eq!(results[0].differences, ["1 more rows than expected"]);
    let label = format!(
        "- {{name: l, as_of: 2026-06-30, given: {{orders: [{orders}]}}, expect: [{{customer_id: 7, spend_30d: 5}}, {{customer_id: 8}}]}}"
    );
    let results = run(&shop, "next", &label, Some("next")).await.unwrap();
    assert_eq!(results[0].differences, ["customer 8: there is no such row"]);
    let customers =
        "customers: [{customer_id: 7, signed_up_at: 2026-01-01}, {customer_id: 9, signed_up_at: 2026-08-01}]";
    let derived = format!(
        "- {{name: d, as_of: 2026-07-01, given: {{orders: [{orders}], {customers}}}, expect: [{{customer_id: 7, recent: 1}}, {{customer_id: 9}}]}}"
    );
    let results = run(&shop, "ratio", &derived, Some("ratio")).await.unwrap();
    assert_eq!(results[0].differences, ["customer 9: there is no such row"]);
}

#[tokio::test]
async fn a_wrong_case_is_told_with_its_place() {
    let message = async |file: &str, yaml: &str| rendered(&run(&shop(), file, yaml, None).await.unwrap_err());
    let case =
        |given: &str, expect: &str| format!("- name: x\n  as_of: 2026-07-01\n  given: {given}\n  expect: {expect}\n");
    let one = "[{customer_id: 1, orders_7d: 0}]";
    assert_eq!(
        message("orders", &case("{order: [{customer_id: 1}]}", one)).await,
        "tests/sql/orders.yaml:3:19: there is no table `order`\n  hint: did you mean `orders`?"
    );
    assert_eq!(
        message("orders", &case("{orders: [{customer: 1}]}", one)).await,
        "tests/sql/orders.yaml:3:20: `orders` has no column `customer`\n  hint: did you mean `customer_id`?"
    );
    assert_eq!(
        message("orders", &case("{orders: [{ordered_at: soon}]}", one)).await,
        "tests/sql/orders.yaml:3:20: `ordered_at`: `\"soon\"` is not of type `Timestamp(µs, \"UTC\")`"
    );
    assert_eq!(
        message("orders", &case("{}", "[{customer_id: 1, order_7d: 0}]")).await,
        "tests/sql/orders.yaml:4:12: there is no column `order_7d`\n  hint: did you mean `orders_7d`?"
    );
    assert_eq!(
        message("order", &case("{}", one)).await,
        "tests/sql/order.yaml:1:3: the job has no SQL file `order.sql`\n  hint: did you mean `orders`?"
    );
    let unknown = message("orders", "- {name: x, as_off: 2026-07-01, expect: []}\n").await;
    assert!(unknown.starts_with("tests/sql/orders.yaml:1:13: unknown field `as_off`"), "{unknown}");
}
