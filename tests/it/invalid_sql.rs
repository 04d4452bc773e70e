//! Every file in `fixtures/sql/invalid` has one snapshot of its message.

use crate::support::memory::{Shop, rendered};

/// The file plays the part that its name begins with.
async fn message(name: &str, sql: &str) -> String {
    let shop = Shop::new().table(
        "orders order_id:int64 customer_id:int64 ordered_at:timestamp amount:float64 quantity:int32 refunded:bool \
         channel:utf8 @ordered_at",
        &[],
    );
    let shop = match name.split_once('_').unwrap() {
        ("view", _) => shop.view(name, sql),
        ("label", _) => shop.label(name, sql),
        ("population", _) => shop.population(sql),
        ("events", _) => shop.feature("n", "SELECT customer_id, 1 AS one FROM orders").sequence(sql, 8),
        _ => shop.feature(name, sql),
    };
    if shop.task.labels.is_empty() {
        return shop.problems().await;
    }
    match shop.labels() {
        Err(error) => rendered(&error),
        Ok(_) => "fine".into(),
    }
}

#[tokio::test]
async fn every_invalid_file_says_what_is_wrong_where_and_what_to_do() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/sql/invalid");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 40, "only {} files", files.len());
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let sql = std::fs::read_to_string(&file).unwrap();
        let message = message(&name, &sql).await;
        assert_ne!(message, "fine", "{name}");
        insta::with_settings!({ description => sql, omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, message);
        });
    }
}
