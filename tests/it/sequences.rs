//! The newest events of every customer, beside the obvious way to find them.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use tenure::AsOf;
use tenure::features::SEQUENCE;

use crate::support::memory::{Shop, rendered, utc};

const ORDERS: &str = "-- @description  Orders one by one.
-- @event_time ordered_at
SELECT channel, customer_id, ordered_at, amount FROM orders";

/// An event: hours since the beginning of 2026, channel, cents.
type Event = (i64, Option<String>, Option<i64>);

/// Customers with their events, oldest first.
fn read(matrix: &RecordBatch) -> Vec<(i64, Vec<Event>)> {
    let begin = utc("2026-01-01").instant().timestamp_micros();
    let keys = matrix.column(0).as_primitive::<Int64Type>();
    let lists = matrix.column_by_name(SEQUENCE).unwrap().as_list::<i32>();
    let of_row = |row: usize| {
        let events = lists.value(row);
        let events = events.as_struct();
        let field = |name: &str| events.column_by_name(name).unwrap();
        let times = field("ordered_at").as_primitive::<TimestampMicrosecondType>();
        let (channels, amounts) = (field("channel").as_string::<i32>(), field("amount").as_primitive::<Float64Type>());
        (0..events.len())
            .map(|i| {
                let channel = channels.is_valid(i).then(|| channels.value(i).to_owned());
                let cents = amounts.is_valid(i).then(|| (amounts.value(i) * 100.0).round() as i64);
                ((times.value(i) - begin) / 3_600_000_000, channel, cents)
            })
            .collect()
    };
    (0..matrix.num_rows()).map(|row| (keys.value(row), of_row(row))).collect()
}

fn shop(customers: &[&str], orders: &[&str], length: usize) -> Shop {
    Shop::new()
        .table("customers customer_id:int64 signed_up_at:timestamp", customers)
        .table("orders customer_id:int64 ordered_at:timestamp amount:float64 channel:utf8 @ordered_at", orders)
        .feature("n", "-- @windows lifetime\nSELECT customer_id, count(*) AS n FROM orders GROUP BY customer_id")
        .sequence(ORDERS, length)
}

const CUSTOMERS: [&str; 3] = ["1 2020-01-01", "2 2020-01-01", "3 2020-01-01"];

#[tokio::test]
async fn the_newest_events_come_last_and_there_are_no_more_than_were_asked_for() {
    let orders = [
        "1 2026-01-01T05:00:00 3 web",
        "1 2026-01-01T01:00:00 1 app",
        "1 2026-01-01T03:00:00 - -",
        "2 2026-01-01T02:00:00 2 app",
        "9 2026-01-01T02:00:00 9 app",
        "- 2026-01-01T02:00:00 9 app",
        "1 - 9 app",
    ];
    let matrix = shop(&CUSTOMERS, &orders, 2).matrix("2026-02-01").await.unwrap();
    let event = |hours, channel: Option<&str>, cents| (hours, channel.map(str::to_owned), cents);
    let first = vec![event(3, None, None), event(5, Some("web"), Some(300))];
    assert_eq!(read(&matrix), [(1, first), (2, vec![event(2, Some("app"), Some(200))]), (3, vec![])]);
}

#[tokio::test]
async fn rows_at_or_after_as_of_change_nothing() {
    let before = ["1 2026-06-30T23:59:59 1 web", "2 2026-05-01T00:00:00 2 app"];
    let after = ["1 2026-07-01T00:00:00 9 app", "3 2026-08-01T00:00:00 9 app"];
    let all = [before, after].concat();
    let known = shop(&CUSTOMERS, &before, 8).matrix("2026-07-01").await.unwrap();
    let leaking = shop(&CUSTOMERS, &all, 8).matrix("2026-07-01").await.unwrap();
    assert_eq!(known, leaking);
}

#[tokio::test]
async fn keys_may_be_texts_and_events_dates() {
    let shop = Shop::new()
        .table("customers customer_id:utf8 signed_up_at:timestamp", &["ab 2020-01-01", "b 2020-01-01"])
        .table(
            "visits customer_id:utf8 day:date seconds:int32 paid:bool @day",
            &["b 2026-06-29 5 true", "b 2026-06-30 7 -", "b 2026-07-01 9 false", "a 2026-06-30 7 true"],
        )
        .feature("n", "SELECT customer_id, 1 AS one FROM customers")
        .sequence("-- @event_time day\nSELECT customer_id, day, seconds, paid FROM visits", 4);
    let matrix = shop.matrix("2026-07-01").await.unwrap();
    let lists = matrix.column_by_name(SEQUENCE).unwrap().as_list::<i32>();
    let events = lists.value(1);
    let seconds = events.as_struct().column_by_name("seconds").unwrap().as_primitive::<Int64Type>();
    assert_eq!((lists.value(0).len(), seconds.values().to_vec()), (0, vec![5, 7]));
}

#[tokio::test]
async fn the_events_are_the_last_column_and_one_customer_shows_them_too() {
    let shop = shop(&CUSTOMERS, &["1 2026-01-01T01:00:00 1 app", "2 2026-01-01T02:00:00 2 app"], 4);
    let (set, context) = (shop.load().unwrap(), shop.context(2, 3));
    let columns = set.resolve(&context, &shop.tables).await.unwrap();
    let last = columns.last().unwrap();
    assert_eq!((last.name.as_str(), last.description.as_deref()), (SEQUENCE, Some("Orders one by one.")));
    assert_eq!(last.file, "sql/sequences/events.sql");
    let row = set.show(&context, &shop.tables, utc("2026-02-01"), "2").await.unwrap().unwrap();
    assert_eq!(read(&row), [(2, vec![(2, Some("app".to_owned()), Some(200))])]);
    let page = tenure::features::docs::markdown("shop", &columns, &[]);
    assert!(page.contains("| `sequence` | list of (ordered_at timestamp, channel utf8, amount float64) |"), "{page}");
    assert!(set.hashes().contains_key("sql/sequences/events.sql"));
}

#[tokio::test]
async fn a_feature_may_not_be_called_like_the_events() {
    let shop = shop(&CUSTOMERS, &[], 4).feature("z", "SELECT customer_id, 1 AS sequence FROM customers");
    let error = rendered(&shop.load().unwrap_err());
    assert!(error.starts_with("sql/features/z.sql:1:26: `sequence` is the name of the events"), "{error}");
}

#[derive(Debug, Clone)]
struct Lake {
    orders: Vec<(i64, Option<i64>, Event)>,
    as_of: AsOf,
    length: usize,
    partitions: usize,
    batch_size: usize,
}

fn lake() -> impl Strategy<Value = Lake> {
    // Few hours, channels and amounts: ties in time, and in all that is known of an event, are frequent.
    let order = (0..6i64, 0..40i64, 0..3usize, 0..3i64, 0..12u8);
    let order = order.prop_map(|(customer, hour, channel, cents, null)| {
        let channel = ["web", "app", "shop"][channel].to_owned();
        (customer, (null != 0).then_some(hour * 3), (0, (null != 1).then_some(channel), (null != 2).then_some(cents)))
    });
    (prop::collection::vec(order, 0..80), 0..6u64, 1..5usize, 1..4usize, 1..6usize).prop_map(
        |(orders, day, length, partitions, batch_size)| Lake {
            orders,
            as_of: utc("2026-01-01").plus_days(day),
            length,
            partitions,
            batch_size,
        },
    )
}

impl Lake {
    fn shop(&self) -> Shop {
        let begin = utc("2026-01-01").instant();
        let cell = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let rows: Vec<String> = self
            .orders
            .iter()
            .map(|(customer, hour, (_, channel, cents))| {
                let at = hour.map(|h| (begin + chrono::Duration::hours(h)).format("%Y-%m-%dT%H:%M:%S").to_string());
                let amount = cents.map(|c| (c as f64 / 100.0).to_string());
                format!("{customer} {} {} {}", cell(at), cell(amount), cell(channel.clone()))
            })
            .collect();
        let customers: Vec<String> = (1..7).map(|c| format!("{c} 2020-01-01")).collect();
        let customers: Vec<&str> = customers.iter().map(String::as_str).collect();
        shop(&customers, &rows.iter().map(String::as_str).collect::<Vec<_>>(), self.length)
    }

    /// Sort everything, look at one customer at a time.
    fn obvious(&self) -> Vec<(i64, Vec<Event>)> {
        let until = (self.as_of.instant() - utc("2026-01-01").instant()).num_hours();
        let of = |customer: i64| {
            let own = self.orders.iter().filter(|(c, hour, _)| *c == customer && hour.is_some_and(|h| h < until));
            let mut events: Vec<Event> =
                own.map(|(_, hour, (_, channel, cents))| (hour.unwrap(), channel.clone(), *cents)).collect();
            events.sort();
            (customer, events.split_off(events.len().saturating_sub(self.length)))
        };
        (1..7).map(of).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn two_streams_in_the_order_of_keys_give_what_one_customer_at_a_time_gives(lake in lake()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let shop = lake.shop();
            let matrix = shop.matrix_of(&shop.context(lake.partitions, lake.batch_size), lake.as_of).await.unwrap();
            prop_assert_eq!(read(&matrix), lake.obvious());
            Ok(())
        })?;
    }
}
