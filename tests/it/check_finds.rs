//! What the checks found in complete files is kept: whatever stands in for their rows, the report is that of all rows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use tenure::lake::{CheckReport, Store};
use tenure::spec::{Bound, CheckRule, OnFail};

use crate::support::lake::{SmallLake, check, text, write_parquet};

/// Hours since 2026-03-01, whether it has a customer, days until it is loaded, an amount.
type Order = (i64, bool, i64, i64);

/// Orders in a file per day; not every one of them is of that day.
struct Shop {
    lake: SmallLake,
    store: Store,
    files: BTreeMap<i64, Vec<Order>>,
}

impl Shop {
    fn new(known_at: bool) -> Shop {
        let columns = "customer_id int64, at timestamp, loaded timestamp, amount float64";
        let not_null = |column: &str, on_fail| check(CheckRule::NotNull(column.to_owned()), on_fail);
        let range = CheckRule::Range { column: "amount".to_owned(), min: Some(Bound::Number(0.)), max: None };
        let fresh = CheckRule::FreshWithin(Duration::from_secs(48 * 3600));
        let lake = SmallLake::new().table("orders", columns, |table| {
            table.event_time = Some("at".to_owned());
            table.known_at = known_at.then(|| "loaded".to_owned());
            table.may_be_empty = true; // Its only file may go.
            table.checks =
                vec![not_null("customer_id", OnFail::Warn), check(range, OnFail::Reject), check(fresh, OnFail::Warn)];
        });
        let store = Store::open(&lake.url("_state/")).unwrap();
        Shop { lake, store, files: BTreeMap::new() }
    }

    fn path(&self, day: i64) -> PathBuf {
        self.lake.folder.path().join(format!("orders/{day:02}.parquet"))
    }

    async fn write(&self, day: i64) {
        let row = |(hours, customer, loaded, amount): &Order| {
            let customer = if *customer { "7" } else { "NULL" };
            format!("({customer}, {hours}, {}, {amount})", hours + 24 * loaded)
        };
        let rows: Vec<String> = self.files[&day].iter().map(row).collect();
        let time = |hours: &str| {
            format!(
                "arrow_cast('2026-03-01T00:00:00', 'Timestamp(Microsecond, None)') + arrow_cast({hours} * 3600, 'Duration(Second)')"
            )
        };
        let select = format!(
            "SELECT arrow_cast(c, 'Int64') AS customer_id, {} AS at, {} AS loaded, arrow_cast(a, 'Float64') AS amount
            FROM (VALUES {}) AS t(c, h, l, a)",
            time("h"),
            time("l"),
            rows.join(", ")
        );
        write_parquet(&self.path(day), &select).await;
    }

    /// The report of a night, with what was kept or from all rows.
    async fn report(&self, day: i64, kept: bool) -> tenure::Result<String> {
        let date = chrono::NaiveDate::from_ymd_opt(2026, 3, 1).unwrap() + chrono::Duration::days(day);
        let kept = kept.then_some(&self.store);
        let report = self.lake.lake().finish_checks(self.lake.at(&date.to_string()), kept).await?;
        let CheckReport { rejects, counts, stale, notes } = report;
        assert_eq!(notes, Vec::<String>::new());
        Ok(format!("{}\n{counts:?}\n{stale:?}", text(&[rejects])))
    }
}

fn order() -> impl Strategy<Value = (i64, Order)> {
    (0..20i64, -3..28i64, prop::bool::weighted(0.9), 0..4i64, -2..12i64)
        .prop_map(|(day, hour, customer, loaded, amount)| (day, (24 * day + hour, customer, loaded, amount)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nights_find_what_all_rows_show(
        orders in prop::collection::vec(order(), 1..60),
        nights in prop::collection::vec((1..6i64, prop::option::of((order(), any::<bool>()))), 1..6),
        known_at in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut shop = Shop::new(known_at);
            for (day, order) in orders {
                shop.files.entry(day).or_default().push(order);
            }
            for day in shop.files.keys() {
                shop.write(*day).await;
            }
            let mut today = 2;
            for (days, event) in nights {
                prop_assert_eq!(shop.report(today, true).await.unwrap(), shop.report(today, false).await.unwrap());
                today += days;
                // Late rows, or a file that goes.
                match event {
                    Some(((day, order), true)) => {
                        shop.files.entry(day).or_default().push(order);
                        shop.write(day).await;
                    }
                    Some(((day, _), false)) => {
                        shop.files.remove(&day);
                        let _ = std::fs::remove_file(shop.path(day));
                    }
                    None => {}
                }
            }
            // And back again.
            for day in [today, today - 3, today] {
                prop_assert_eq!(shop.report(day, true).await.unwrap(), shop.report(day, false).await.unwrap());
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}

/// Writes other bytes into the middle of a file, which looks as it did before.
fn damage(path: &std::path::Path) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let before = file.metadata().unwrap().modified().unwrap();
    std::os::unix::fs::FileExt::write_at(&file, &[0xff; 64], 4).unwrap();
    file.set_times(std::fs::FileTimes::new().set_modified(before)).unwrap();
}

#[tokio::test]
async fn complete_files_are_read_once_and_again_when_what_is_kept_is_lost_or_they_change() {
    let mut shop = Shop::new(false);
    for day in 0..6 {
        shop.files.insert(day, vec![(24 * day + 5, true, 0, day - 1), (24 * day + 6, true, 0, 5)]);
        shop.write(day).await;
    }
    let first = shop.report(4, true).await.unwrap();
    assert!(first.contains("amount = -1.0 is outside"), "{first}");
    damage(&shop.path(1));
    assert_eq!(shop.report(4, true).await.unwrap(), first);
    assert!(shop.report(5, true).await.is_ok() && shop.report(4, false).await.is_err());
    // The date of a night before shows fewer rows than were added up.
    assert!(shop.report(3, true).await.is_err());
    let kept = shop.lake.folder.path().join("_state/checks/orders.json");
    let words = std::fs::read_to_string(&kept).unwrap();
    std::fs::write(&kept, words.replace("outside", "inside")).unwrap();
    assert!(shop.report(5, true).await.is_err());
    std::fs::write(&kept, &words).unwrap();
    assert!(shop.report(5, true).await.is_ok());
    shop.write(0).await;
    assert!(shop.report(5, true).await.is_err());
    shop.write(1).await;
    assert!(shop.report(5, true).await.is_ok());
    // An older night changes nothing.
    let words = std::fs::read_to_string(&kept).unwrap();
    assert!(shop.report(3, true).await.is_ok());
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), words);
}
