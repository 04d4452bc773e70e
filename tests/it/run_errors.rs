//! A query that fails says where, on which row, why, and what to do, as a job that is wrong does.

use arrow::record_batch::RecordBatch;
use tenure::Result;
use tenure::error::Class;

use crate::support::memory::{Shop, rendered, text, utc, whole};

/// Orders of three customers: one has a quantity of 0, another a postcode that is no number; a fourth customer has no orders.
fn shop() -> Shop {
    let customers = ["1 2026-01-01", "2 2026-01-01", "3 2026-01-01", "4 2026-01-01"];
    Shop::new()
        .table("customers customer_id:int64 signed_up_at:timestamp", &customers)
        .table(
            "orders order_id:int64 customer_id:int64 at:timestamp cents:int64 qty:int64 zip:utf8 @at",
            &[
                "1 1 2026-06-30T01:00:00 500 2 10115",
                "2 2 2026-06-30T02:00:00 700 1 D-10115",
                "3 1 2026-06-30T03:00:00 900 4 10115",
                "4 3 2026-06-30T04:00:00 500 0 10117",
                "5 2 2026-06-29T01:00:00 9223372036854775807 1 10115",
            ],
        )
        .feature("plain", "-- @windows 7d\nSELECT customer_id, count(*) AS n FROM orders GROUP BY customer_id")
}

async fn matrix(shop: &Shop, partitions: usize) -> Result<RecordBatch> {
    whole(shop.load()?.matrix(&shop.context(partitions, 2), &shop.tables, utc("2026-07-01")).await?).await
}

#[tokio::test]
async fn every_failure_has_a_place_an_expression_a_row_and_a_hint() {
    let windowed = |expr: &str| {
        format!(
            "-- @windows 7d lifetime\nSELECT\n    customer_id,\n    count(*) AS rows,\n    {expr} AS x\nFROM orders\nGROUP BY customer_id"
        )
    };
    let joined = |expr: &str| {
        format!(
            "SELECT o.customer_id, {expr} AS x\nFROM orders o\nJOIN customers c ON c.customer_id = o.customer_id\nGROUP BY o.customer_id"
        )
    };
    let mut shops = Vec::new();
    for expr in [
        "avg(cents / qty)",
        "max(CAST(zip AS BIGINT))",
        "sum(cents * 2)",
        "sum(cents + 1 - 1)",
        "sum(cents) / (count(*) - 1)",
        "sum(cents * qty % (qty * 3))",
        "max(to_timestamp(zip))",
        "sum(CASE WHEN qty > 1 THEN 1 ELSE cents / qty END)",
    ] {
        shops.push((format!("windowed: {expr}"), shop().feature("x", &windowed(expr))));
        shops.push((format!("joined: {expr}"), shop().feature("x", &joined(expr))));
    }
    let many = "sum(cents) + sum(qty)";
    shops.push(("a sum of sums".to_owned(), shop().feature("x", &windowed(many))));
    let sum = "-- @windows 7d\nSELECT customer_id, sum(big) AS x FROM doubled GROUP BY customer_id";
    let view = "-- @event_time at\nSELECT customer_id, at, cents AS big FROM orders UNION ALL SELECT customer_id, at, 9 AS big FROM orders";
    shops.push(("a sum".to_owned(), shop().view("doubled", view).feature("x", sum)));
    let alone =
        sum.replace("-- @windows 7d\n", "").replace("FROM doubled", "FROM doubled JOIN customers USING (customer_id)");
    shops.push(("a sum by itself".to_owned(), shop().view("doubled", view).feature("x", &alone)));
    let listed = "SELECT customer_id, sum(cents) AS x, string_agg(zip, ' ' ORDER BY order_id) AS zips\nFROM orders GROUP BY customer_id";
    shops.push(("a sum in a file that shares nothing".to_owned(), shop().feature("x", listed)));
    let condition =
        "-- @windows 7d\nSELECT customer_id, count(*) AS x FROM orders\nWHERE 10 / qty > 1 GROUP BY customer_id";
    shops.push(("a condition".to_owned(), shop().feature("x", condition)));
    let unit = "-- @event_time at\nSELECT customer_id, at,\n    cents / qty AS unit\nFROM orders";
    let of_view = "-- @windows 7d\nSELECT customer_id, max(unit) AS x FROM units GROUP BY customer_id";
    shops.push(("a view".to_owned(), shop().view("units", unit).feature("x", of_view)));
    let derived = "SELECT\n    n_7d + 1 AS more,\n    100 / n_7d AS x FROM features";
    shops.push(("a derived file".to_owned(), shop().feature("x", derived)));
    let rows = "SELECT customer_id, 1 / (customer_id - 3) AS x FROM customers";
    shops.push(("a file of rows".to_owned(), shop().feature("x", rows)));
    let population = "-- @entity\nSELECT customer_id FROM orders\nWHERE CAST(zip AS INTEGER) > 0 GROUP BY customer_id";
    shops.push(("the population".to_owned(), shop().population(population)));
    let events = "-- @event_time at\nSELECT customer_id, at, cents / qty AS unit FROM orders";
    shops.push(("events".to_owned(), shop().sequence(events, 4)));

    let mut said = String::new();
    for (what, shop) in shops {
        let mut same: Option<String> = None;
        for partitions in [1, 3] {
            let error = match matrix(&shop, partitions).await {
                Ok(matrix) => panic!("{what} gives\n{}", text(&matrix)),
                Err(error) => error,
            };
            assert_eq!(error.class(), Class::User, "{what}: {error}");
            let rendered = rendered(&error);
            assert!(error.problems().all(|problem| problem.place.is_some()), "{what}: {rendered}");
            // Which row is the first hangs on the order in which files are read, and on nothing else.
            assert_eq!(same.get_or_insert(rendered.clone()), &rendered, "{what}");
        }
        said.push_str(&format!("{what}\n{}\n\n", same.unwrap()));
    }
    insta::assert_snapshot!(said);
}

#[tokio::test]
async fn a_label_that_fails_says_so_too() {
    let label = "-- @horizon 30d\nSELECT customer_id,\n    sum(cents / qty) AS units FROM orders GROUP BY customer_id";
    let shop = shop().label("units", label);
    let (features, labels) = (shop.load().unwrap(), shop.labels().unwrap());
    let ahead = labels.labels(&features, &shop.context(2, 3), &shop.tables, utc("2026-06-15")).await.unwrap();
    let error = whole(ahead).await.unwrap_err();
    assert_eq!(
        rendered(&error),
        "sql/labels/units.sql:3:9: `units` fails for `customer_id` 3: division by zero in `cents / qty`, in a row of `orders` \
         where `cents` is `500` and `qty` is `0`\n  hint: divide by `nullif(qty, 0)`, which gives NULL where it is 0"
    );
}

#[tokio::test]
async fn what_a_filter_keeps_away_does_not_fail() {
    let expr = "sum(cents / qty) FILTER (WHERE qty > 0 AND cents < 1000) AS units, max(CAST(zip AS BIGINT)) FILTER (WHERE zip NOT LIKE 'D%') AS zip";
    let windowed = format!("-- @windows 7d\nSELECT customer_id, {expr} FROM orders GROUP BY customer_id");
    let joined = format!(
        "SELECT o.customer_id, {} FROM orders o JOIN customers c ON c.customer_id = o.customer_id GROUP BY o.customer_id",
        expr.replace("AS units", "AS own_units").replace("AS zip", "AS own_zip")
    );
    let shop = shop().feature("windowed", &windowed).feature("joined", &joined);
    assert_eq!(
        text(&matrix(&shop, 2).await.unwrap()),
        "customer_id n_7d units_7d zip_7d own_units own_zip\n1 2 475 10115 475 10115\n2 2 700 10115 700 10115\n3 1 0 10117 0 10117\n4 0 0 - 0 -"
    );
}

#[tokio::test]
async fn what_a_condition_keeps_away_does_not_fail() {
    let view = "-- @event_time at\nSELECT customer_id, at, qty, cents / qty AS unit FROM orders WHERE qty > 0";
    let shop = shop()
        .view("units", view)
        .feature("a", "SELECT customer_id, max(unit) AS a, sum(qty) AS b FROM units GROUP BY customer_id")
        .feature("b", "SELECT customer_id, max(cents / qty) AS c, sum(qty) AS d FROM orders WHERE qty > 0 GROUP BY customer_id")
        .feature(
            "c",
            "SELECT customer_id, max(unit) AS e FROM (SELECT customer_id, qty, cents / qty AS unit FROM orders WHERE qty > 0) GROUP BY 1",
        )
        .feature("d", "SELECT customer_id, 12 / (customer_id - 3) AS f FROM customers WHERE customer_id <> 3");
    for partitions in [1, 3] {
        assert_eq!(
            text(&matrix(&shop, partitions).await.unwrap()),
            "customer_id n_7d a b c d e f\n1 2 250 6 250 6 250 -6\n\
             2 2 9223372036854775807 2 9223372036854775807 2 9223372036854775807 -12\n3 1 - 0 - 0 - -\n4 0 - 0 - 0 - 12"
        );
    }
}

#[tokio::test]
async fn one_customer_is_told_of_own_rows_alone() {
    let sql = "-- @windows 7d\nSELECT customer_id, sum(cents / qty) AS x FROM orders GROUP BY customer_id";
    let shop = shop().feature("x", sql);
    let (set, context) = (shop.load().unwrap(), shop.context(2, 3));
    assert!(set.show(&context, &shop.tables, utc("2026-07-01"), "1").await.unwrap().is_some());
    let error = set.show(&context, &shop.tables, utc("2026-07-01"), "3").await.unwrap_err();
    assert!(error.to_string().contains("fails for `customer_id` 3"), "{error}");
}

#[tokio::test]
async fn planning_ends_whatever_the_constants() {
    let wanted = [
        (
            "length(repeat('x', 2000000000))",
            "1:28: `repeat` makes a constant of 2000000000 parts: the most is 1000000\n  hint: make it smaller, or compute it from the rows of a table",
        ),
        (
            "array_length(range(0, 100000000))",
            "1:34: `range` makes a constant of 100000000 parts: the most is 1000000\n  hint: make it smaller, or compute it from the rows of a table",
        ),
        (
            "array_length(generate_series(100000000, 1, -1))",
            "1:34: `generate_series` makes a constant of 99999999 parts: the most is 1000000\n  hint: make it smaller, or compute it from the rows of a table",
        ),
        (
            "CASE WHEN customer_id > 3 THEN repeat('x', 5000 * 5000) END",
            "1:21: a constant takes 23 MiB\n  hint: make it smaller, or compute it from the rows of a table",
        ),
    ];
    for (expr, message) in wanted {
        let sql = format!("SELECT customer_id, {expr} AS x FROM customers");
        let begin = std::time::Instant::now();
        assert_eq!(shop().feature("x", &sql).problems().await, format!("sql/features/x.sql:{message}"), "{expr}");
        assert!(begin.elapsed() < std::time::Duration::from_secs(300));
    }
    // What is made of a row, or is small, is nobody's business.
    let fine = "SELECT customer_id, length(repeat('x', 1000)) + array_length(range(1700000000, 1700000100)) AS n,
        length(repeat('x', customer_id)) AS m FROM customers";
    assert_eq!(shop().feature("x", fine).problems().await, "fine");
}
