//! Where the history of a lake begins, and who was a customer when.

use crate::support::job::{JobFolder, Order, said};
use crate::support::shop::{assert_exit, assert_success};

const PROFILE: &str = "-- @description  Who a customer is.
-- @owner        growth
SELECT
    customer_id,
    date_part('epoch', $as_of) - date_part('epoch', signed_up_at) AS tenure_seconds  -- seconds since the sign-up
FROM customers
";

/// Days from [`END`](crate::support::job::END) back to a date.
fn back_to(date: &str) -> f64 {
    let end: chrono::NaiveDate = crate::support::job::END.parse().unwrap();
    end.signed_duration_since(date.parse().unwrap()).num_days() as f64
}

fn order_on(date: &str) -> Order {
    Order { customer: 1, days_before: back_to(date), amount: 5.0 }
}

#[test]
fn a_date_that_stands_for_none_moves_no_guard_and_is_told() {
    for sentinel in ["1970-01-01", "0001-01-01", "1900-01-01"] {
        let mut job = JobFolder::new(200, 80.0);
        job.orders.push(order_on(sentinel));
        let job = job.write();
        let output = job.tenure("train", &["--as-of", "2026-07-01"]);
        assert_exit(&output, 1);
        let said = said(&output);
        for part in [
            "there is too little history before 2026-07-01 to train on",
            "data begins on 2026-04-1",
            &format!(" is far from the rest: `ordered_at` {sentinel} in `orders`"),
            "1 event of `orders` happened before 1971, by `ordered_at`",
        ] {
            assert!(said.contains(part), "no `{part}` in {said}");
        }
        let mut job = job;
        job.model = String::new();
        let output = job.write().tenure("check --online", &["--as-of", "2026-07-01"]);
        let told = "1 event of `orders` happened before 1971, by `ordered_at`";
        assert!(crate::support::job::said(&output).contains(told), "{}", crate::support::job::said(&output));
    }
}

#[test]
fn a_night_tells_of_dates_that_cannot_be_and_of_no_others() {
    let mut job = JobFolder::new(20, 80.0);
    job.model = String::new();
    let quiet = job.write();
    for night in ["2026-07-01", "2026-06-20"] {
        let output = quiet.tenure("run", &["--as-of", night]);
        assert_success(&output);
        assert!(!said(&output).contains("ordered_at"), "a lake that goes on is no mistake: {}", said(&output));
    }
    let mut odd = JobFolder::new(20, 80.0);
    odd.model = String::new();
    odd.orders.extend([order_on("1970-01-01"), order_on("2026-07-05"), order_on("2099-12-31")]);
    let odd = odd.write();
    let output = odd.tenure("run", &["--as-of", "2026-07-01"]);
    assert_success(&output);
    let said = said(&output);
    assert!(
        said.contains("1 event of `orders` happened before 1971, by `ordered_at` (the first on 1970-01-01)"),
        "{said}"
    );
    let later =
        "2 events of `orders` happen more than a day after 2026-07-01, by `ordered_at` (the last on 2099-12-31)";
    assert!(said.contains(later), "{said}");
}

#[test]
fn the_warm_up_counts_from_the_first_event_that_features_and_labels_can_see() {
    let snapshots = |job: &JobFolder| {
        let output = job.tenure("train", &["--as-of", "2026-07-01"]);
        assert_success(&output);
        let said = said(&output);
        said.lines().find(|line| line.contains(" snapshots: ")).unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    let mut job = JobFolder::new(200, 160.0).file("sql/features/profile.sql", PROFILE);
    job.train = "{snapshots: {every: 30d, count: 12, warmup: 60d}, epochs: 2}".into();
    let young = snapshots(&job.write());
    assert!(young.contains("of 3 snapshots: 2026-06-01, 2026-05-02, 2026-04-02"), "{young}");
    // The shop took its customers over from somebody who had them for years.
    let mut job = JobFolder::new(200, 160.0).file("sql/features/profile.sql", PROFILE);
    job.train = "{snapshots: {every: 30d, count: 12, warmup: 60d}, epochs: 2}".into();
    for (_, day) in job.customers.iter_mut().step_by(2) {
        *day += 900.0;
    }
    let old = snapshots(&job.write());
    assert!(old.contains("of 3 snapshots: 2026-06-01, 2026-05-02, 2026-04-02"), "{old}");
}

#[test]
fn a_window_in_which_no_label_table_has_a_row_is_left_out_and_named() {
    let mut job = JobFolder::new(200, 300.0);
    // Nothing was loaded for 40 days.
    job.orders.retain(|order| !(60.0..100.0).contains(&order.days_before));
    job.train = "{snapshots: {every: 30d, count: 5, warmup: 60d}, epochs: 2}".into();
    let output = job.write().tenure("train", &["--as-of", "2026-07-01"]);
    assert_success(&output);
    let said = said(&output);
    assert!(said.contains("of 4 snapshots: 2026-06-01, 2026-05-02, 2026-03-03, 2026-02-01"), "{said}");
    assert!(
        said.contains("2026-04-02 is left out: the tables of the labels have no row in the days from it on"),
        "{said}"
    );
}

#[test]
fn a_population_without_time_trains_nothing_and_scores_the_newest_night() {
    let mut job = JobFolder::new(150, 240.0);
    job.customers_table = "{path: customers/, columns: {customer_id: int64, signed_up_at: timestamp}}".into();
    let dated = job.write();
    assert_success(&dated.tenure("train", &["--as-of", "2026-07-01"]));
    let mut job = dated;
    job.entity = "{table: customers, key: customer_id}".into();
    let job = job.write();
    for command in ["train", "evaluate"] {
        let output = job.tenure(command, &["--as-of", "2026-06-01"]);
        assert_exit(&output, 1);
        let said = said(&output);
        for part in ["job.yaml:4:", "nothing says when a row of `customers` came", "by `since`", "a `query`"] {
            assert!(said.contains(part), "{command}: no `{part}` in {said}");
        }
    }
    let output = job.tenure("check", &[]);
    assert_success(&output);
    assert!(said(&output).contains("nothing says when a row of `customers` came"), "{}", said(&output));
    assert_success(&job.tenure("run", &["--as-of", "2026-07-01"]));
}

#[test]
fn a_night_before_the_data_is_refused_with_their_first_day() {
    let mut job = JobFolder::new(30, 80.0);
    job.model = String::new();
    job.orders.push(order_on("1970-01-01"));
    let job = job.write();
    let before = ["--as-of", "2026-04-01"];
    for (command, more) in
        [("run", vec![]), ("features build", vec!["--out", "m"]), ("features show", vec!["--key", "1"])]
    {
        let output = job.tenure(command, &[&before[..], &more[..]].concat());
        assert_exit(&output, 1);
        let said = said(&output);
        assert!(said.contains("2026-04-01 lies before the data: the first event is of 2026-04-1"), "{command}: {said}");
    }
    assert!(!job.lake().join("out/predictions").exists() && !job.lake().join("out/segments").exists());
}
