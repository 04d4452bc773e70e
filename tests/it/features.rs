//! Features and labels over small shops.

use crate::support::memory::{Shop, rendered, text, utc, whole};

const ORDERS: &str = "-- @description  Paid orders, net of refunds.
-- @owner growth
-- @windows 7d 30d lifetime
SELECT
    customer_id,
    count(*)        AS orders,         -- paid orders
    sum(amount)     AS spend,          -- after discounts
    max(ordered_at) AS last_order_at   -- time of the newest order
FROM orders
WHERE NOT refunded
GROUP BY customer_id
";

#[tokio::test]
async fn each_aggregate_becomes_one_column_per_window() {
    let shop = Shop::small().feature("orders", ORDERS);
    assert_eq!(
        text(&shop.matrix("2026-07-01").await.unwrap()),
        "customer_id orders_7d orders_30d orders_lifetime spend_7d spend_30d spend_lifetime \
         last_order_at_7d last_order_at_30d last_order_at_lifetime\n\
         1 1 2 2 10.5 30.5 30.5 2026-06-30T12:00:00Z 2026-06-30T12:00:00Z 2026-06-30T12:00:00Z\n\
         2 0 0 1 0.0 0.0 7.0 - - 2026-01-15T08:00:00Z\n\
         3 0 0 0 0.0 0.0 0.0 - - -"
    );
}

#[tokio::test]
async fn columns_carry_their_words_and_types() {
    let shop = Shop::small().feature("orders", ORDERS);
    let columns = shop.load().unwrap().resolve(&shop.context(1, 10), &shop.tables).await.unwrap();
    let column = &columns[4];
    assert_eq!(columns.len(), 9);
    assert_eq!((column.name.as_str(), column.window.as_deref()), ("spend_30d", Some("30d")));
    assert_eq!(column.data_type, arrow::datatypes::DataType::Float64);
    assert_eq!((column.description.as_deref(), column.owner.as_deref()), (Some("after discounts"), Some("growth")));
    assert_eq!((column.file.as_str(), column.source.as_str()), ("sql/features/orders.sql", "orders"));
}

#[tokio::test]
async fn an_expression_over_no_rows_is_the_same_for_a_stranger_and_for_an_empty_window() {
    let sql = "-- @windows 7d lifetime\n-- @default best 0.25\n-- @default usual_7d 'none'\n
        SELECT o.customer_id,
            coalesce(sum(o.amount), 1.5) AS padded, sum(amount) / nullif(count(*), 0) AS mean, count(*) > 0 AS any_order,
            CASE WHEN count(*) = 0 THEN 'none' ELSE 'some' END AS kind, max(amount) AS best, min(channel) AS usual,
            count(DISTINCT \"channel\") AS channels, count(*) FILTER (WHERE o.refunded) AS refunds
        FROM orders o WHERE o.amount < 500 GROUP BY o.customer_id";
    let shop = Shop::small().feature("mixed", sql);
    let matrix = shop.matrix("2026-07-01").await.unwrap();
    let wanted = "customer_id padded_7d padded_lifetime mean_7d mean_lifetime any_order_7d any_order_lifetime kind_7d \
                  kind_lifetime best_7d best_lifetime usual_7d usual_lifetime channels_7d channels_lifetime refunds_7d \
                  refunds_lifetime\n\
                  1 15.0 35.0 7.5 11.666666666666666 true true some some 10.5 20.0 app app 2 2 1 1\n\
                  2 1.5 7.0 - 7.0 false true none some 0.25 7.0 none - 0 0 0 0\n\
                  3 1.5 1.5 - - false false none none 0.25 0.25 none - 0 0 0 0";
    assert_eq!(text(&matrix), wanted);
}

#[tokio::test]
async fn a_windows_edges_are_midnights_of_the_jobs_time_zone() {
    let shop = Shop::new().table("customers customer_id:int64 signed_up_at:timestamp", &["1 2020-01-01"]).table(
        "orders customer_id:int64 ordered_at:timestamp @ordered_at",
        // New York: the day of 2026-03-08 has 23 hours.
        &["1 2026-03-08T04:59:59", "1 2026-03-08T05:00:00", "1 2026-03-09T03:59:59", "1 2026-03-09T04:00:00"],
    );
    let shop =
        shop.feature("n", "-- @windows 1d 2d lifetime\nSELECT customer_id, count(*) AS n FROM orders GROUP BY 1");
    let as_of = tenure::AsOf::parse("2026-03-09", chrono_tz::America::New_York).unwrap();
    let matrix = shop.matrix_of(&shop.context(1, 10), as_of).await.unwrap();
    assert_eq!(text(&matrix), "customer_id n_1d n_2d n_lifetime\n1 2 3 3");
}

#[tokio::test]
async fn dates_count_as_the_days_they_name() {
    let shop = Shop::new().table("customers customer_id:int64 signed_up_at:timestamp", &["1 2020-01-01"]).table(
        "visits customer_id:int64 day:date @day",
        &["1 2026-06-23", "1 2026-06-24", "1 2026-06-30", "1 2026-07-01"],
    );
    let shop =
        shop.feature("v", "-- @windows 7d\nSELECT customer_id, count(*) AS visits FROM visits GROUP BY customer_id");
    let as_of = tenure::AsOf::parse("2026-07-01", chrono_tz::Asia::Tokyo).unwrap();
    assert_eq!(text(&shop.matrix_of(&shop.context(1, 10), as_of).await.unwrap()), "customer_id visits_7d\n1 2");
}

#[tokio::test]
async fn free_selects_views_and_derived_files_meet_in_one_row() {
    let shop = Shop::small()
        .view("paid", "-- @event_time at\nSELECT customer_id, ordered_at AS at, amount FROM orders WHERE NOT refunded")
        .feature(
            "a_ratio",
            "SELECT spend_7d / nullif(spend_lifetime, 0) AS share, tenure_days * 2 AS twice FROM features",
        )
        .feature(
            "paid",
            "-- @windows 7d lifetime\nSELECT customer_id, sum(amount) AS spend FROM paid GROUP BY customer_id",
        )
        .feature(
            "tenure",
            "-- @default tenure_days -1\nSELECT c.customer_id, \
             CAST(date_part('epoch', $as_of - signed_up_at) / 86400 AS BIGINT) AS tenure_days FROM customers c",
        )
        .feature("z_last", "SELECT customer_id, share + 1 AS share_plus FROM features f");
    assert_eq!(
        text(&shop.matrix("2026-07-01").await.unwrap()),
        "customer_id share twice spend_7d spend_lifetime tenure_days share_plus\n\
         1 0.3442622950819672 362 10.5 30.5 181 1.3442622950819672\n\
         2 0.0 300 0.0 7.0 150 1.0\n\
         3 - 244 0.0 0.0 122 -"
    );
}

#[tokio::test]
async fn a_query_can_be_the_population() {
    let shop = Shop::small().feature("orders", ORDERS).population(
        "-- @entity\nSELECT DISTINCT customer_id FROM orders WHERE ordered_at < $as_of AND customer_id > 0",
    );
    let matrix = shop.matrix("2026-02-01").await.unwrap();
    assert_eq!(matrix.num_rows(), 1);
}

#[tokio::test]
async fn rows_at_or_after_as_of_change_nothing_even_where_a_table_shows_them() {
    let view = "-- @event_time ordered_at\nSELECT customer_id, ordered_at, amount FROM orders";
    let build = |rows: &[&str]| {
        Shop::small()
            .table("orders customer_id:int64 ordered_at:timestamp amount:float64 refunded:bool @ordered_at", rows)
            .view("all_orders", view)
            .feature("orders", ORDERS)
            .feature(
                "seen",
                "SELECT customer_id, count(*) AS seen, max(amount) AS most FROM all_orders GROUP BY customer_id",
            )
            .label(
                "next",
                "-- @horizon 30d\nSELECT customer_id, sum(amount) AS spend_30d FROM all_orders GROUP BY customer_id",
            )
    };
    let before = ["1 2026-06-30T23:59:59 3 false", "2 2026-06-01 4 false"];
    let with_future = [
        before[0],
        before[1],
        "1 2026-07-01T00:00:00 50 false",
        "3 2026-07-30T23:59:59 60 false",
        "2 2026-07-31 70 false",
    ];
    let (past, both) = (build(&before), build(&with_future));
    let day = "2026-07-01";
    assert_eq!(past.matrix(day).await.unwrap(), both.matrix(day).await.unwrap());
    let (features, labels) = (both.load().unwrap(), both.labels().unwrap());
    let ahead = labels.labels(&features, &both.context(2, 2), &both.tables, utc(day)).await.unwrap();
    assert_eq!(text(&whole(ahead).await.unwrap()), "customer_id spend_30d\n1 50.0\n3 60.0");
    assert_eq!((labels.horizon_days(), labels.columns()[0].default), (30, None));
}

#[tokio::test]
async fn several_label_files_make_one_row_per_customer() {
    let shop = Shop::small()
        .label("a", "-- @horizon 1d\nSELECT customer_id, count(*) AS orders_1d FROM orders GROUP BY customer_id")
        .label(
            "b",
            "-- @horizon 30d\n-- @default churned_30d 1\nSELECT customer_id, 0 AS churned_30d FROM orders GROUP BY customer_id",
        );
    let (features, labels) = (shop.load().unwrap(), shop.labels().unwrap());
    let ahead = labels.labels(&features, &shop.context(2, 2), &shop.tables, utc("2026-06-10")).await.unwrap();
    assert_eq!(text(&whole(ahead).await.unwrap()), "customer_id orders_1d churned_30d\n1 1 0\n2 - 0");
    assert_eq!(labels.columns()[1].default, Some(1.0));
}

#[tokio::test]
async fn one_customer_is_shown_alone() {
    let shop = Shop::small().feature("orders", ORDERS);
    let (set, context) = (shop.load().unwrap(), shop.context(2, 3));
    let all = shop.matrix("2026-07-01").await.unwrap();
    let one = set.show(&context, &shop.tables, utc("2026-07-01"), "2").await.unwrap().unwrap();
    assert_eq!(one, all.slice(1, 1));
    assert!(set.show(&context, &shop.tables, utc("2026-07-01"), "99").await.unwrap().is_none());
    let error = set.show(&context, &shop.tables, utc("2026-07-01"), "two").await.unwrap_err();
    assert_eq!(error.to_string(), "`two` is not a key");
}

#[tokio::test]
async fn a_key_that_comes_twice_is_an_error_that_names_the_file_and_the_key() {
    let shop = Shop::small().feature("raw", "SELECT customer_id, amount FROM orders");
    let error = shop.matrix("2026-07-01").await.unwrap_err();
    assert_eq!(error.to_string(), "sql/features/raw.sql: `sql/features/raw.sql` has the key `1` 3 times");
    assert_eq!(error.class(), tenure::error::Class::User);
}

#[tokio::test]
async fn a_population_without_a_key_is_an_error() {
    let customers = ["1 2026-01-01", "- 2026-01-01"];
    let shop = Shop::small().table("customers customer_id:int64 signed_up_at:timestamp", &customers);
    let error = shop.feature("orders", ORDERS).matrix("2026-07-01").await.unwrap_err();
    assert_eq!(error.to_string(), "the population has rows without a key: `customer_id` is NULL");
}

#[tokio::test]
async fn nan_and_infinity_never_leave_the_matrix() {
    let shop = Shop::small().table(
        "orders customer_id:int64 ordered_at:timestamp amount:float64 @ordered_at",
        &["1 2026-06-30 NaN", "2 2026-06-30 inf", "3 2026-06-30 1"],
    );
    let shop = shop
        .feature(
            "s",
            "-- @windows 7d\nSELECT customer_id, max(amount) AS most, avg(amount) AS mean FROM orders GROUP BY 1",
        )
        .feature("d", "SELECT most_7d / 0.0 AS wild FROM features");
    let matrix = shop.matrix("2026-07-01").await.unwrap();
    assert_eq!(text(&matrix), "customer_id most_7d mean_7d wild\n1 - - -\n2 - - -\n3 1.0 1.0 -");
}

#[tokio::test]
async fn the_order_of_rows_and_the_number_of_partitions_change_no_bit() {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state >> 33
    };
    let rows: Vec<String> = (0..3000)
        .map(|_| {
            let (customer, day, cents) = (next() % 40, 1 + next() % 28, next() % 1_000_000);
            format!("{customer} 2026-06-{day:02} {}.{:02}7 c{}", cents / 97, cents % 100, next() % 5)
        })
        .collect();
    let customers: Vec<String> = (0..40).map(|c| format!("{c} 2026-01-01")).collect();
    let sql = "-- @windows 7d 14d lifetime\nSELECT customer_id, sum(amount) AS total, avg(amount) AS mean,
        stddev(amount) AS spread, var_pop(amount) AS variance, first_value(channel ORDER BY at) AS first_channel,
        last_value(amount ORDER BY at) AS last_amount, sum(amount * 0.1) / count(*) AS tenth, median(amount) AS middle,
        string_agg(channel, ',' ORDER BY at) AS channels FROM orders GROUP BY customer_id";
    let free = "SELECT customer_id, sum(amount) AS free_sum, last_value(channel ORDER BY at) AS free_last
        FROM orders GROUP BY customer_id";
    let build = |rows: &[String]| {
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        let customers: Vec<&str> = customers.iter().map(String::as_str).collect();
        Shop::new()
            .table("customers customer_id:int64 signed_up_at:timestamp", &customers)
            .table("orders customer_id:int64 at:timestamp amount:float64 channel:utf8 @at", &rows)
            .feature("sums", sql)
            .feature("free", free)
    };
    let shop = build(&rows);
    let wanted = shop.matrix_of(&shop.context(1, 8192), utc("2026-06-20")).await.unwrap();
    for (partitions, batch_size) in [(1, 1), (2, 7), (3, 64), (7, 13)] {
        let mut shuffled = rows.clone();
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, next() as usize % (i + 1));
        }
        let shop = build(&shuffled);
        let got = shop.matrix_of(&shop.context(partitions, batch_size), utc("2026-06-20")).await.unwrap();
        assert_eq!(text(&got), text(&wanted), "{partitions} partitions of {batch_size} rows");
        assert!(got == wanted, "the text is the same but not the bits");
    }
}

#[tokio::test]
async fn all_problems_of_all_files_come_at_once() {
    let shop = Shop::small()
        .feature("a", "SELECT customer_id, now() AS t FROM orders")
        .feature("b", "-- @windows 30x\nSELECT customer_id, count(*) AS n FROM orders GROUP BY customer_id")
        .label("c", "SELECT customer_id, count(*) AS n FROM orders GROUP BY customer_id");
    assert_eq!(
        shop.problems().await,
        "sql/features/a.sql:1:21: `now` looks at the clock: the same date would give other features tomorrow\n  \
         hint: use `$as_of`, the start of the day that the run speaks for\n\
         sql/features/b.sql:1:13: `30x` is not a window\n  hint: write days like `30d`, or `lifetime`"
    );
    let error = shop.labels().unwrap_err();
    assert_eq!(
        rendered(&error),
        "sql/labels/c.sql:1:1: a label must say how far it looks ahead\n  hint: add `-- @horizon 90d` above the SELECT"
    );
}
