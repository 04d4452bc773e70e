//! Values at the border: numbers that are no numbers, zeros with a sign, sums that no integer holds.

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use tenure::error::Class;
use tenure::features::FeatureSet;

use crate::support::lake::SmallLake;
use crate::support::memory::{Shop, rendered, text, utc, whole};

const AMOUNTS: &str = "-- @windows 7d lifetime
-- @default least 5
SELECT customer_id, count(*) AS n, sum(amount) AS total, avg(amount) AS mean, min(amount) AS least, max(amount) AS most,
    stddev(amount) AS spread, median(amount) AS middle, approx_median(amount) AS about,
    CASE WHEN sum(amount) > 100 THEN 1 ELSE 0 END AS is_big, coalesce(sum(amount), 0) AS known
FROM orders GROUP BY customer_id";

fn amounts(rows: &[&str]) -> Shop {
    let customers: Vec<String> = (1..=5).map(|c| format!("{c} 2026-01-01")).collect();
    let customers: Vec<&str> = customers.iter().map(String::as_str).collect();
    Shop::new()
        .table("customers customer_id:int64 signed_up_at:timestamp", &customers)
        .table("orders customer_id:int64 at:timestamp amount:float64 @at", rows)
}

/// Of five customers only the first one's rows are plain; customer 5 has none.
const ROWS: [&str; 9] = [
    "1 2026-06-30 2",
    "1 2026-06-01 -0.0",
    "2 2026-06-30 NaN",
    "2 2026-06-30 3",
    "2 2026-06-01 4",
    "3 2026-06-30 3",
    "3 2026-06-01 inf",
    "4 2026-06-01 -inf",
    "4 2026-06-01 inf",
];

/// The windows of 7 days, then those of a lifetime.
const WANTED: &str = "customer_id n_7d n_lifetime total_7d total_lifetime mean_7d mean_lifetime least_7d least_lifetime \
most_7d most_lifetime spread_7d spread_lifetime middle_7d middle_lifetime about_7d about_lifetime is_big_7d is_big_lifetime \
known_7d known_lifetime
1 1 2 2.0 2.0 2.0 1.0 2.0 -0.0 2.0 2.0 - 1.4142135623730951 2.0 1.0 2.0 1.0 0 0 2.0 2.0
2 2 3 - - - - - - - - - - - - - - - - - -
3 1 2 3.0 - 3.0 - 3.0 - 3.0 - - - 3.0 - 3.0 - 0 - 3.0 -
4 0 2 0.0 - - - 5.0 - - - - - - - - - 0 - 0.0 -
5 0 0 0.0 0.0 - - 5.0 5.0 - - - - - - - - 0 0 0.0 0.0";

#[tokio::test]
async fn whatever_is_made_of_a_number_that_is_none_is_null_and_told() {
    let shop = amounts(&ROWS).feature("amounts", AMOUNTS);
    for (partitions, batch) in [(1, 100), (3, 1)] {
        let context = shop.context(partitions, batch);
        let stream = shop.load().unwrap().matrix(&context, &shop.tables, utc("2026-07-01")).await.unwrap();
        let not_finite = stream.not_finite().clone();
        assert_eq!(text(&whole(stream).await.unwrap()), WANTED);
        let notes = not_finite.notes();
        assert_eq!(notes.len(), 9, "{notes:?}");
        assert_eq!(
            notes[0],
            "`total` of `sql/features/amounts.sql` is NULL for 3 customers: it is made of numbers of `orders` that are NaN \
             or infinite, or divides by zero: a check (`range`, `not_null`) rejects such rows, `nullif(…, 0)` avoids the \
             division"
        );
    }
}

#[tokio::test]
async fn a_file_that_runs_as_it_is_written_says_the_same() {
    // A join keeps a file out of the shared pass.
    let sql = "SELECT o.customer_id, count(*) AS n, sum(amount) AS total, avg(amount) AS mean, min(amount) AS least,
        max(amount) AS most, sum(amount) FILTER (WHERE amount > 100) AS great
    FROM orders o JOIN customers c ON c.customer_id = o.customer_id GROUP BY o.customer_id";
    let shop = amounts(&ROWS).feature("joined", sql);
    let wanted = "customer_id n total mean least most great
1 2 2.0 1.0 -0.0 2.0 0.0
2 3 - - - - -
3 2 - - - - -
4 2 - - - - -
5 0 0.0 - - - 0.0";
    for (partitions, batch) in [(1, 100), (3, 1)] {
        let context = shop.context(partitions, batch);
        let matrix = shop.matrix_of(&context, utc("2026-07-01")).await.unwrap();
        assert_eq!(text(&matrix), wanted);
    }
}

#[tokio::test]
async fn a_label_is_null_too() {
    let label = "-- @horizon 30d\n-- @default spent 0\nSELECT customer_id, sum(amount) AS spent FROM orders GROUP BY 1";
    let shop = amounts(&["1 2026-07-02 NaN", "2 2026-07-02 3"]).label("spent", label);
    let (features, labels) = (shop.load().unwrap(), shop.labels().unwrap());
    let ahead = labels.labels(&features, &shop.context(2, 3), &shop.tables, utc("2026-07-01")).await.unwrap();
    assert_eq!(text(&whole(ahead).await.unwrap()), "customer_id spent\n1 -\n2 3.0");
}

#[tokio::test]
async fn a_derived_column_that_divides_by_zero_is_null_and_told() {
    let shop = amounts(&["1 2026-06-30 2"])
        .feature("a", "SELECT customer_id, sum(amount) AS total FROM orders GROUP BY customer_id")
        .feature("b", "SELECT 1.0 / total AS share, total / nullif(total, 0) AS same FROM features");
    let context = shop.context(2, 3);
    let stream = shop.load().unwrap().matrix(&context, &shop.tables, utc("2026-07-01")).await.unwrap();
    let not_finite = stream.not_finite().clone();
    let matrix = text(&whole(stream).await.unwrap());
    assert_eq!(matrix, "customer_id total share same\n1 2.0 0.5 1.0\n2 0.0 - -\n3 0.0 - -\n4 0.0 - -\n5 0.0 - -");
    assert_eq!(
        not_finite.notes(),
        [
            "`share` of `sql/features/b.sql` is NULL for 4 customers: it divides by zero or leaves the range of doubles: \
          `nullif(…, 0)` says that it is meant"
        ]
    );
}

/// Files of amounts, each a list of them as SQL.
async fn files(layout: &[&str]) -> SmallLake {
    let time = "arrow_cast('2026-06-05', 'Timestamp(Microsecond, Some(\"UTC\"))')";
    let mut lake = SmallLake::new()
        .table("customers", "customer_id int64, signed_up_at timestamp", |_| {})
        .parquet("customers/a.parquet", &format!("SELECT 1::BIGINT AS customer_id, {time} AS signed_up_at"))
        .await
        .table("orders", "customer_id int64, at timestamp, amount float64", |t| t.event_time = Some("at".into()));
    for (file, amounts) in layout.iter().enumerate() {
        let select =
            format!("SELECT 1::BIGINT AS customer_id, {time} AS at, column1::DOUBLE AS amount FROM (VALUES {amounts})");
        lake = lake.parquet(&format!("orders/{file}.parquet"), &select).await;
    }
    lake
}

#[tokio::test]
async fn a_filter_takes_the_same_rows_whatever_file_they_lie_in() {
    let layouts: [&[&str]; 4] = [
        &["(1.0), ('NaN')", "(1000.0)", "(-0.0)"],
        &["(1.0)", "(1000.0), ('NaN')", "(-0.0)"],
        &["('NaN')", "(1.0), (1000.0), (-0.0)"],
        &["(1.0)", "('NaN')", "(-0.0), (1000.0)"],
    ];
    let conditions = [
        ("amount > 100", "2 -"),
        ("amount < 100", "2 1.0"),
        ("NOT (amount > 100)", "2 1.0"),
        ("amount <> 1000", "3 -"),
        ("amount >= 0", "4 -"),
        ("amount = 0", "1 0.0"),
        ("amount BETWEEN 0 AND 10", "2 1.0"),
        ("amount IN (0, 1)", "2 1.0"),
        ("amount IS DISTINCT FROM 1", "3 -"),
        ("CASE amount WHEN 0 THEN true ELSE false END", "1 0.0"),
        ("-amount <= 0", "3 1001.0"),
    ];
    for (condition, wanted) in conditions {
        for join in ["", "JOIN customers USING (customer_id) "] {
            let sql = format!(
                "SELECT customer_id, count(*) AS n, sum(amount) AS total FROM orders {join}WHERE {condition} GROUP BY 1"
            );
            let mut shop = Shop::new().feature("orders", &sql);
            for layout in layouts {
                let lake = files(layout).await;
                shop.tables.clone_from(&lake.tables);
                shop.task.entity.source =
                    tenure::spec::EntitySource::Table { table: "customers".into(), since: Some("signed_up_at".into()) };
                let session = lake.lake().session(lake.at("2026-07-01")).await.unwrap();
                let set: FeatureSet = shop.load().unwrap();
                let rows = set.matrix(&session, &lake.tables, lake.day("2026-07-01")).await.unwrap();
                let matrix = text(&whole(rows).await.unwrap());
                assert_eq!(matrix, format!("customer_id n total\n1 {wanted}"), "{condition} {join} in {layout:?}");
            }
        }
    }
}

fn points(rows: &[&str]) -> Shop {
    let customers = ["1 2026-01-01", "2 2026-01-01", "3 2026-01-01"];
    Shop::new()
        .table("customers customer_id:int64 signed_up_at:timestamp", &customers)
        .table("orders customer_id:int64 at:timestamp points:int64 items:int32 @at", rows)
}

#[tokio::test]
async fn products_of_narrow_integers_are_wide_and_sums_may_be_great_on_the_way() {
    let rows = [
        "1 2026-06-30 9223372036854775807 1500000000",
        "1 2026-06-29 9223372036854775807 1500000000",
        "1 2026-05-01 -9223372036854775807 -1500000000",
        "2 2026-06-30 -9223372036854775808 3",
    ];
    let sql = |from: &str| {
        format!(
            "SELECT o.customer_id, sum(points) AS total, sum(items * items) AS squares, avg(points) AS mean, \
             sum(-items) AS less FROM orders o {from} GROUP BY o.customer_id"
        )
    };
    for from in ["", "JOIN customers c ON c.customer_id = o.customer_id"] {
        let shop = points(&rows).feature("sums", &sql(from));
        for (partitions, batch) in [(1, 100), (3, 1)] {
            let matrix = shop.matrix_of(&shop.context(partitions, batch), utc("2026-07-01")).await.unwrap();
            assert_eq!(
                text(&matrix),
                "customer_id total squares mean less\n\
                 1 9223372036854775807 6750000000000000000 3.0744573456182584e18 -1500000000\n\
                 2 -9223372036854775808 9 -9.223372036854776e18 -3\n\
                 3 0 0 - 0"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn a_sum_of_integers_is_exact_or_an_error(
        rows in prop::collection::vec((1..4i64, 0..60u64, prop_oneof![2 => any::<i64>(), 1 => Just(i64::MAX), 1 => Just(i64::MIN), 4 => -9..9i64]), 0..12),
        partitions in 1..4usize, batch in 1..5usize, joined in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let day = |ago: u64| chrono::NaiveDate::from_ymd_opt(2026, 6, 30).unwrap() - chrono::Days::new(ago);
        let lines: Vec<String> = rows.iter().map(|(customer, ago, x)| format!("{customer} {} {x} 1", day(*ago))).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let sql = match joined {
            true => "SELECT o.customer_id, sum(points) AS total FROM orders o JOIN customers c ON c.customer_id = o.customer_id GROUP BY 1",
            false => "-- @windows 7d lifetime\nSELECT customer_id, sum(points) AS total FROM orders GROUP BY customer_id",
        };
        let shop = points(&lines).feature("sums", sql);
        let found = runtime.block_on(shop.matrix_of(&shop.context(partitions, batch), utc("2026-07-01")));
        let windows: &[u64] = if joined { &[100] } else { &[7, 100] };
        let sum = |customer: i64, days: u64| -> i128 {
            rows.iter().filter(|(c, ago, _)| *c == customer && *ago < days).map(|(.., x)| i128::from(*x)).sum()
        };
        let sums: Vec<Vec<i128>> = windows.iter().map(|days| (1..4).map(|c| sum(c, *days)).collect()).collect();
        let fits = |x: &i128| i64::try_from(*x).is_ok();
        match found {
            Ok(matrix) => {
                prop_assert!(sums.iter().flatten().all(fits));
                for (column, sums) in matrix.columns()[1..].iter().zip(&sums) {
                    let found: Vec<i128> = column.as_primitive::<Int64Type>().iter().map(|x| x.unwrap().into()).collect();
                    prop_assert_eq!(&found, sums);
                    prop_assert_eq!(column.null_count(), 0);
                }
            }
            Err(error) => {
                prop_assert!(!sums.iter().flatten().all(fits), "{}", error);
                prop_assert_eq!(error.class(), Class::User);
                prop_assert!(rendered(&error).contains("64 bits"), "{}", rendered(&error));
            }
        }
    }
}

#[tokio::test]
async fn no_arithmetic_of_integers_wraps() {
    let expressions =
        ["sum(points + items)", "sum(points * 2)", "max(0 - points - 2)", "count(*) * 9223372036854775807 + 1"];
    for expression in expressions {
        for from in ["orders o", "orders o JOIN customers c ON c.customer_id = o.customer_id"] {
            let shop = points(&["1 2026-06-30 9223372036854775807 7"]);
            let sql = format!("SELECT o.customer_id, {expression} AS x FROM {from} GROUP BY o.customer_id");
            let error = shop.feature("x", &sql).matrix("2026-07-01").await.unwrap_err();
            assert_eq!(error.class(), Class::User, "{expression}: {error}");
            assert!(rendered(&error).to_lowercase().contains("overflow"), "{expression}: {}", rendered(&error));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn states_keep_sums_that_no_integer_holds() {
    let mut shop = crate::states::Shop::new("UTC", false).await;
    let sql =
        "SELECT customer_id, sum(CASE channel WHEN 'web' THEN 9223372036854775807 ELSE -9223372036854775807 END) AS big
        FROM orders GROUP BY customer_id";
    shop.feature("big", sql);
    // Three times the greatest number in the first days, and as often its opposite later on.
    for (partition, channel) in [(1, 0), (1, 0), (2, 0), (40, 1), (41, 1), (41, 1)] {
        shop.order(partition, 12, (1, Some(100), channel));
    }
    shop.write_all().await;
    for n in [42, 43, 50] {
        let (found, report) = shop.matrix(shop.as_of(n), true).await;
        assert!(report.notes.is_empty(), "{report:?}");
        let big = found.column_by_name("big").unwrap();
        assert_eq!(arrow::util::display::array_value_to_string(big, 1).unwrap(), "0");
        shop.night(n).await.unwrap();
    }
    assert!(!shop.blocks().is_empty());
}
