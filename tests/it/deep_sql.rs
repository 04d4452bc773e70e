//! SQL that is deeper than any stack: an error with a place, and never the end of the process.

use std::fs;
use std::path::PathBuf;

use crate::support::shop::{Shop, assert_exit, assert_success};

/// A small job with one stage, one feature and this population's table.
fn job(shop: &Shop, condition: &str, feature: &str) -> PathBuf {
    let sql = shop.path().join("sql");
    fs::create_dir_all(&sql).unwrap();
    fs::write(
        sql.join("orders.sql"),
        format!("SELECT customer_id, {feature} AS orders FROM orders GROUP BY customer_id\n"),
    )
    .unwrap();
    let path = shop.path().join("deep.yaml");
    let text = format!(
        "version: 1\nname: deep\nlake: file://{}\nentity: {{table: customers, key: customer_id}}\ntables:\n  \
         customers: {{path: customers/, columns: {{customer_id: int64}}}}\n  \
         orders: {{path: orders/, event_time: ordered_at, columns: {{customer_id: int64, ordered_at: timestamp, amount: float64}}}}\n\
         features: [sql/*.sql]\nsegments:\n  stages:\n    - {{name: some, when: \"{condition}\"}}\n    - {{name: others}}\n\
         publish: {{path: out/}}\n",
        shop.lake().display()
    );
    fs::write(&path, text).unwrap();
    path
}

fn chain(terms: usize, term: impl Fn(usize) -> String, link: &str) -> String {
    (0..terms).map(term).collect::<Vec<_>>().join(link)
}

fn nested(depth: usize, inner: &str) -> String {
    format!("{}{inner}{}", "(".repeat(depth), ")".repeat(depth))
}

#[test]
fn sql_that_is_too_deep_is_an_error_with_its_place() {
    let shop = Shop::new();
    let deep = 60_000;
    for condition in [
        nested(deep, "orders > 1"),
        chain(deep, |n| format!("orders = {}", n % 9), " OR "),
        chain(deep, |_| "1".to_owned(), " + ") + " > 3",
        "NOT ".repeat(deep) + "orders > 1",
        "- ".repeat(deep) + "orders > 1",
        format!("orders{} > 1", "::bigint".repeat(deep)),
        format!("orders > 1{}", " IS NULL".repeat(deep)),
        "CASE WHEN orders > 1 THEN true ELSE ".repeat(deep / 5) + "false" + &" END".repeat(deep / 5),
        // Below the limit of words, and too deep for the parser.
        "abs(".repeat(45) + "orders" + &")".repeat(45) + " > 1",
        "CASE WHEN orders > 1 THEN true ELSE ".repeat(100) + "false" + &" END".repeat(100),
    ] {
        let path = job(&shop, &condition, "count(*)");
        let output = shop.tenure(&["check", path.to_str().unwrap()]);
        let start = &condition[..condition.len().min(40)];
        assert_exit(&output, 1);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("deep.yaml:11:"), "{start}: {told:.500}");
        assert!(told.len() < 2_000, "{start}: a message of {} bytes", told.len());
    }
    for feature in [
        nested(deep, "count(*)"),
        chain(deep, |_| "count(*)".to_owned(), " + "),
        "NOT ".repeat(deep) + "count(*)",
        format!("count(*){}", "::bigint".repeat(deep)),
        "coalesce(".repeat(deep) + "count(*)" + &")".repeat(deep),
        "count(*) FROM orders GROUP BY customer_id UNION ALL SELECT customer_id, ".repeat(deep) + "count(*)",
    ] {
        let path = job(&shop, "orders > 1", &feature);
        let output = shop.tenure(&["check", path.to_str().unwrap()]);
        let start = &feature[..feature.len().min(40)];
        assert_exit(&output, 1);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("sql/orders.sql:1:"), "{start}: {told:.500}");
        assert!(told.len() < 2_000, "{start}: a message of {} bytes", told.len());
    }
}

#[test]
fn long_chains_are_no_problem() {
    let shop = Shop::new();
    let condition = chain(5_000, |n| format!("orders = {n}"), " OR ");
    let feature = chain(200, |n| format!("count(CASE WHEN amount > {n} THEN 1 END)"), " + ");
    let path = job(&shop, &condition, &feature);
    assert_success(&shop.tenure(&["check", path.to_str().unwrap()]));
    let path = job(&shop, &chain(300, |n| format!("orders = {n}"), " OR "), &feature);
    assert_success(&shop.tenure(&["run", path.to_str().unwrap(), "--as-of", "2026-07-01"]));
}
