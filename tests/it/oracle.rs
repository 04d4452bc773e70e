//! The obvious way to compute windows, one query per customer and window, beside the one that is used.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use tenure::AsOf;

use crate::support::memory::{Shop, text};

/// An aggregate as its author writes it, and what a customer without rows gets.
const ITEMS: [(&str, &str, &str); 21] = [
    ("n", "count(*)", "0"),
    ("paid", "count(*) FILTER (WHERE NOT refunded)", "0"),
    ("amounts", "count(amount)", "0"),
    ("channels", "count(DISTINCT channel)", "0"),
    ("total", "sum(amount)", "0"),
    ("great", "sum(amount) FILTER (WHERE amount > 20)", "0"),
    ("credits", "count(*) FILTER (WHERE amount < 0)", "0"),
    ("squares", "sum(quantity * quantity)", "0"),
    ("items", "sum(quantity)", "0"),
    ("least", "min(amount)", "NULL"),
    ("most", "max(quantity)", "NULL"),
    ("newest", "max(at)", "NULL"),
    ("mean", "avg(amount)", "NULL"),
    ("spread", "stddev(amount)", "NULL"),
    ("each", "sum(amount) / nullif(count(*), 0)", "NULL"),
    ("middle", "median(amount)", "NULL"),
    ("middle_items", "median(quantity)", "NULL"),
    ("tenth", "percentile_cont(0.1) WITHIN GROUP (ORDER BY amount)", "NULL"),
    ("best_third", "percentile_cont(0.33) WITHIN GROUP (ORDER BY quantity DESC)", "NULL"),
    ("any_refund", "bool_or(refunded)", "NULL"),
    ("first_channel", "first_value(channel ORDER BY at, channel)", "NULL"),
];

const WINDOWS: [Option<u64>; 4] = [Some(1), Some(7), Some(30), None];

#[derive(Debug, Clone)]
struct Lake {
    orders: Vec<String>,
    as_of: AsOf,
    partitions: usize,
    batch_size: usize,
    lifetime: bool,
    condition: &'static str,
}

fn lake() -> impl Strategy<Value = Lake> {
    let null = |cell: String, chance: u8| if chance == 0 { "-".to_owned() } else { cell };
    // Hours, so that ties and rows on the very edge of a day are frequent; the days span two clock changes.
    let cents = prop_oneof![12 => -500..5000i32, 1 => i32::MAX - 4..i32::MAX];
    let quantity = prop_oneof![9 => 0..4i32, 1 => Just(300_000_000), 1 => Just(-300_000_000)];
    let order = (0..6i64, 0..60i64, 0..24i64, cents, quantity, 0..3usize, any::<bool>(), 0..6u8, 0..6u8);
    let order = order.prop_map(move |(customer, day, hour, cents, quantity, channel, refunded, n1, n2)| {
        let day = chrono::NaiveDate::from_ymd_opt(2026, 2, 15).unwrap() + chrono::Days::new(day as u64);
        let channel = ["web", "app", "shop"][channel];
        format!(
            "{} {day}T{hour:02}:00:00 {} {quantity} {} {refunded}",
            null(customer.to_string(), n1 + n2),
            null(amount(cents), n1),
            null(channel.to_owned(), n2),
        )
    });
    let zone = prop::sample::select(vec![
        chrono_tz::UTC,
        chrono_tz::America::New_York,
        chrono_tz::Europe::Berlin,
        chrono_tz::Asia::Kolkata,
    ]);
    let condition = prop::sample::select(vec!["true", "NOT o.refunded", "o.amount > 0 OR channel = 'app'"]);
    let day = 0..70u64;
    (prop::collection::vec(order, 0..60), zone, day, 1..4usize, 1..5usize, any::<bool>(), condition).prop_map(
        |(orders, zone, day, partitions, batch_size, lifetime, condition)| {
            let first = chrono::NaiveDate::from_ymd_opt(2026, 2, 20).unwrap();
            let as_of = AsOf::new(first + chrono::Days::new(day), zone);
            Lake { orders, as_of, partitions, batch_size, lifetime, condition }
        },
    )
}

/// An amount, or one of the numbers that are none and the zero with a sign.
fn amount(cents: i32) -> String {
    match i32::MAX - cents {
        1 => "NaN".to_owned(),
        2 => "inf".to_owned(),
        3 => "-inf".to_owned(),
        4 => "-0.0".to_owned(),
        _ => (f64::from(cents) / 100.0).to_string(),
    }
}

impl Lake {
    fn windows(&self) -> Vec<Option<u64>> {
        WINDOWS.into_iter().filter(|w| self.lifetime || w.is_some()).collect()
    }

    fn shop(&self) -> Shop {
        let name = |w: &Option<u64>| w.map_or("lifetime".to_owned(), |days| format!("{days}d"));
        let windows: Vec<String> = self.windows().iter().map(name).collect();
        let items: Vec<String> = ITEMS.iter().map(|(name, expr, _)| format!("{expr} AS {name}")).collect();
        let (windows, items) = (windows.join(" "), items.join(", "));
        let condition = self.condition;
        let sql = format!(
            "-- @windows {windows}\nSELECT customer_id, {items} FROM orders o WHERE {condition} GROUP BY o.customer_id"
        );
        let customers: Vec<String> = (0..7).map(|c| format!("{c} 2020-01-01")).collect();
        let customers: Vec<&str> = customers.iter().map(String::as_str).collect();
        let orders: Vec<&str> = self.orders.iter().map(String::as_str).collect();
        let declared =
            "orders customer_id:int64 at:timestamp amount:float64 quantity:int32 channel:utf8 refunded:bool @at";
        Shop::new()
            .table("customers customer_id:int64 signed_up_at:timestamp", &customers)
            .table(declared, &orders)
            .feature("orders", &sql)
    }

    /// One query per customer and window.
    async fn obvious(&self, context: &SessionContext) -> Vec<(String, Vec<ArrayRef>)> {
        let mut columns = Vec::new();
        let item = |(name, expr, nothing): &(&str, &str, &str)| {
            let is_great = if *name == "great" { "AND amount > 20" } else { "" };
            // Whatever is made of a number that is none is NULL, and products are those of wide numbers.
            let broken = format!("count(*) FILTER (WHERE (isnan(amount) OR abs(amount) = 'inf'::DOUBLE) {is_great})");
            let expr = expr.replace("quantity * quantity", "quantity::BIGINT * quantity::BIGINT");
            match expr.contains("amount)") && !expr.contains("count(amount)") {
                true => format!("CASE WHEN {broken} > 0 THEN NULL ELSE coalesce({expr}, {nothing}) END"),
                false => format!("coalesce({expr}, {nothing})"),
            }
        };
        let items: Vec<String> = ITEMS.iter().map(item).collect();
        for window in self.windows() {
            let until = self.as_of.instant().format("%Y-%m-%dT%H:%M:%SZ");
            let mut rows = format!("({}) AND at < '{until}'", self.condition);
            if let Some(days) = window {
                let from = self.as_of.minus_days(days).instant().format("%Y-%m-%dT%H:%M:%SZ");
                rows.push_str(&format!(" AND at >= '{from}'"));
            }
            let mut customers = Vec::new();
            for customer in 0..7 {
                let items = items.join(", ");
                let sql = format!("SELECT {items} FROM orders o WHERE {rows} AND o.customer_id = {customer}");
                customers.push(context.sql(&sql).await.unwrap().collect().await.unwrap().remove(0));
            }
            let suffix = window.map_or("lifetime".to_owned(), |days| format!("{days}d"));
            for (i, (name, ..)) in ITEMS.iter().enumerate() {
                columns.push((format!("{name}_{suffix}"), customers.iter().map(|row| row.column(i).clone()).collect()));
            }
        }
        columns
    }
}

fn agree(matrix: &RecordBatch, wanted: &[(String, Vec<ArrayRef>)]) -> Result<(), TestCaseError> {
    prop_assert_eq!(matrix.num_rows(), 7);
    prop_assert_eq!(matrix.num_columns(), wanted.len() + 1);
    for (name, cells) in wanted {
        let got = matrix.column_by_name(name).ok_or_else(|| TestCaseError::fail(format!("no {name}")))?;
        for (customer, cell) in cells.iter().enumerate() {
            let one = got.slice(customer, 1);
            let cell = arrow::compute::cast(cell, got.data_type()).unwrap();
            let close = match (got.data_type(), one.is_null(0) || cell.is_null(0)) {
                (DataType::Float64, false) => {
                    let (a, b) =
                        (one.as_primitive::<Float64Type>().value(0), cell.as_primitive::<Float64Type>().value(0));
                    let exact = name.starts_with("least");
                    // Where values cancel the naive variance has no digits left: its error is that of the amounts.
                    let tolerance = if name.starts_with("spread") { 1e-6 } else { 1e-12 * b.abs().max(50.0) };
                    a == b || (!exact && (a - b).abs() <= tolerance)
                }
                _ => *one == *cell,
            };
            prop_assert!(
                close,
                "{} of customer {}: {:?} but obviously {:?}\n{}",
                name,
                customer,
                one,
                cell,
                text(matrix)
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn one_scan_per_file_gives_what_one_query_per_window_gives(lake in lake()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let shop = lake.shop();
            let context = shop.context(lake.partitions, lake.batch_size);
            let matrix = shop.matrix_of(&context, lake.as_of).await.unwrap();
            let wanted = lake.obvious(&shop.context(1, 8192)).await;
            agree(&matrix, &wanted)
        })?;
    }
}

#[tokio::test]
async fn all_files_over_a_table_share_one_scan() {
    let shop = Lake {
        orders: vec![],
        as_of: crate::support::memory::utc("2026-03-01"),
        partitions: 2,
        batch_size: 4,
        lifetime: true,
        condition: "NOT refunded",
    };
    let shop = shop
        .shop()
        .view(
            "paid",
            "-- @event_time at\nSELECT customer_id AS who, at, amount AS price FROM orders WHERE NOT refunded",
        )
        .feature("paid", "SELECT who AS customer_id, sum(price) AS paid_total FROM paid GROUP BY who")
        .feature("people", "SELECT customer_id, signed_up_at FROM customers")
        .feature(
            "list",
            "SELECT customer_id, string_agg(channel, ' ' ORDER BY at) AS list FROM orders GROUP BY customer_id",
        )
        .feature("share", "SELECT paid_total / total_lifetime AS share FROM features");
    let set = shop.load().unwrap();
    let day = crate::support::memory::utc("2026-03-01");
    let plan = set.pass_plan(&shop.context(2, 4), &shop.tables, day, false).await.unwrap();
    let scans: Vec<(&str, &[String])> = plan.scans.iter().map(|s| (s.reads.as_str(), s.files.as_slice())).collect();
    assert_eq!(
        scans,
        [
            ("`orders`", ["sql/features/orders.sql", "sql/features/paid.sql"].map(String::from).as_slice()),
            ("`customers`", ["sql/features/people.sql"].map(String::from).as_slice()),
        ]
    );
    // Edges at 1, 7 and 30 days and at the day itself; the sum over a lifetime is that of both files,
    // and quantiles of a column are made of the same values.
    assert_eq!((plan.scans[0].buckets, plan.scans[0].aggregates), (5, 17));
    assert_eq!(plan.alone.len(), 1);
    assert_eq!(plan.alone[0].why, "`string_agg` is not among the aggregates of a fused pass");
    assert_eq!(plan.derived, ["sql/features/share.sql"]);
}
