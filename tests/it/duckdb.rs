//! What an analyst finds: the published tables opened with DuckDB, held against docs/data-contract.md.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::support::python::open_tables;
use crate::support::shop::{AS_OF, checkout, published_once};

/// The columns that the page promises, by table: names with DuckDB's types.
fn documented() -> BTreeMap<String, Vec<(String, String)>> {
    let page = fs::read_to_string(checkout().join("docs/data-contract.md")).unwrap();
    let mut tables: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut table = String::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            table = title.trim_matches('`').to_owned();
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [name, kind, ..] = cells[..]
            && let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'))
        {
            tables.entry(table.clone()).or_default().push((name.to_owned(), kind.to_owned()));
        }
    }
    tables
}

fn seen(table: &Value) -> Vec<(String, String)> {
    serde_json::from_value(table["columns"].clone()).unwrap()
}

#[test]
fn published_tables_have_the_documented_columns() {
    let Some(tables) = open_tables(&published_once().out(), AS_OF, "customer_id") else { return };
    let documented = documented();
    for name in ["predictions", "segments", "transitions", "outcomes", "outcome_deciles", "rejects"] {
        assert_eq!(seen(&tables[name]), documented[name], "{name}");
    }
}

#[test]
fn published_tables_have_one_sorted_row_per_customer_in_one_file() {
    let Some(tables) = open_tables(&published_once().out(), AS_OF, "customer_id") else { return };
    let customers = tables["predictions"]["rows"].as_u64().unwrap();
    assert!(customers > 200, "{customers} customers");
    for name in ["features", "predictions", "segments"] {
        let table = &tables[name];
        assert_eq!((table["rows"].as_u64(), table["keys"].as_u64()), (Some(customers), Some(customers)), "{name}");
        assert_eq!((&table["sorted_by_key"], table["files"].as_u64()), (&Value::Bool(true), Some(1)), "{name}");
    }
}

#[test]
fn published_tables_hold_no_nan_and_no_infinity() {
    let Some(tables) = open_tables(&published_once().out(), AS_OF, "customer_id") else { return };
    for (name, table) in tables.as_object().unwrap() {
        assert_eq!(table["not_finite"], 0, "{name}");
    }
}

#[test]
fn transitions_count_every_customer_once() {
    let shop = published_once();
    let Some(tables) = open_tables(&shop.out(), AS_OF, "customer_id") else { return };
    let path = shop.table("transitions", AS_OF);
    let sql = format!("SELECT sum(customers)::BIGINT FROM '{}' WHERE stage IS NOT NULL", path.display());
    let output = crate::support::python::script("query.py").unwrap().arg(sql).output().unwrap();
    let answer: Value = serde_json::from_str(&crate::support::python::stdout(&output)).unwrap();
    assert_eq!(answer["rows"][0][0], tables["segments"]["rows"]);
}
