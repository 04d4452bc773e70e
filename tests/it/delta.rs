//! Delta tables: a version's files, no others, with the values that the log gives them.

use std::time::{Duration, SystemTime};

use delta_kernel::actions::deletion_vector::DeletionVectorDescriptor;
use serde_json::{Value, json};
use tenure::Error;
use tenure::error::Class;
use tenure::lake::{EngineOptions, Lake};
use tenure::spec::{ColumnType, TableSpec, TableVersion};

use crate::support::delta::{DeltaTable, metadata, remove, write_actions};
use crate::support::lake::rows;
use crate::support::s3::S3Server;

const ORDERS: &str = "id int64, amount float64";
const ALL: &str = "SELECT id, amount FROM orders ORDER BY id";

fn order(id: u32, amount: u32) -> String {
    format!("SELECT arrow_cast({id}, 'Int64') AS id, {amount}.0 AS amount")
}

fn declared(mut table: DeltaTable, more: impl FnOnce(&mut TableSpec)) -> DeltaTable {
    table.lake = table.lake.table("orders", ORDERS, more);
    table
}

fn at_version(version: u64) -> impl FnOnce(&mut TableSpec) {
    move |table| table.version = Some(TableVersion::Number(version))
}

async fn refused(table: &DeltaTable) -> Error {
    table.lake.lake().session(table.lake.at("2026-07-01")).await.err().expect("the table is refused")
}

fn said(error: &Error) -> String {
    let problem = error.problems().next().unwrap();
    format!("{problem}: {} | {}", problem.causes().join(": "), problem.hint.as_deref().unwrap_or_default())
}

/// Versions 1 to 4: two orders, one of them corrected, both compacted into one file.
async fn rewritten() -> DeltaTable {
    let mut table = DeltaTable::new(&[]);
    let first = table.add("a.parquet", json!({}), &order(1, 10)).await;
    let second = table.add("b.parquet", json!({}), &order(2, 20)).await;
    table.commit(&[first.clone(), second.clone()]);
    let corrected = table.add("c.parquet", json!({}), &order(2, 50)).await;
    // What a commit adds stays, whatever the order of its lines.
    table.commit(&[corrected.clone(), remove(&second)]);
    let compact = table.add("d.parquet", json!({}), &format!("{} UNION ALL {}", order(1, 10), order(2, 50))).await;
    table.commit(&[remove(&first), remove(&corrected), compact]);
    table.commit(&[json!({"commitInfo": {"operation": "VACUUM END"}})]);
    table
}

#[tokio::test]
async fn only_the_files_of_the_newest_version_are_read() {
    let table = declared(rewritten().await, |_| {});
    assert_eq!(table.query(ALL).await, "1|10.0; 2|50.0");
    let inputs = table.lake.lake().inputs(table.lake.at("2026-07-01").until).await.unwrap();
    assert_eq!(inputs.iter().map(|input| input.path.as_str()).collect::<Vec<_>>(), ["d.parquet"]);
    assert_eq!(table.lake.lake().versions().await.unwrap(), [("orders", 4)]);
    assert!(table.lake.lake().passed_over().await.unwrap().is_empty());
    assert!(table.lake.lake().look(table.lake.day("2026-07-01")).await.unwrap().problems.is_empty());
}

#[tokio::test]
async fn an_older_version_is_read_by_its_number() {
    for (version, expected) in [(0, ""), (1, "1|10.0; 2|20.0"), (2, "1|10.0; 2|50.0")] {
        let table = declared(rewritten().await, at_version(version));
        assert_eq!(table.query(ALL).await, expected, "{version}");
    }
    let error = refused(&declared(rewritten().await, at_version(9))).await;
    assert!(said(&error).contains("there is no version 9: the newest one is 4"), "{}", said(&error));
}

#[tokio::test]
async fn an_older_version_is_read_by_its_time() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000);
    for (seconds, expected) in
        [(5, "1|10.0; 2|20.0"), (19, "1|10.0; 2|20.0"), (20, "1|10.0; 2|50.0"), (999, "1|10.0; 2|50.0")]
    {
        let table = declared(rewritten().await, |table| {
            table.version = Some(TableVersion::Timestamp((start + Duration::from_secs(seconds)).into()));
        });
        // Version 1 looks older than version 0: the times of commits ascend all the same.
        for (version, age) in [(0, 4), (1, 0), (2, 20), (3, 30), (4, 40)] {
            let commit = std::fs::File::options().write(true).open(table.log(&format!("{version:020}.json"))).unwrap();
            commit.set_modified(start + Duration::from_secs(age)).unwrap();
        }
        assert_eq!(table.query(ALL).await, expected, "{seconds}");
    }
    let early = declared(rewritten().await, |table| {
        table.version = Some(TableVersion::Timestamp(SystemTime::UNIX_EPOCH.into()))
    });
    assert!(said(&refused(&early).await).contains("its log does not reach back to 1970-01-01"));
}

#[tokio::test]
async fn commits_that_say_when_they_were_made_are_believed() {
    let mut table = DeltaTable::with(
        &[],
        json!({"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["inCommitTimestamp"]}),
        json!({"delta.enableInCommitTimestamps": "true"}),
    );
    for (id, millis) in [(1, 1_000), (2, 2_000)] {
        let add = table.add(&format!("{id}.parquet"), json!({}), &order(id, 1)).await;
        table.commit(&[json!({"commitInfo": {"inCommitTimestamp": millis}}), add]);
    }
    // Version 0 says nothing: the time of its file, which is now, would be later than all others.
    let log = table.log("00000000000000000000.json");
    std::fs::File::options().write(true).open(log).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let table = declared(table, |table| {
        table.version = Some(TableVersion::Timestamp((SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)).into()));
    });
    assert_eq!(table.query(ALL).await, "1|1.0");
}

#[tokio::test]
async fn partition_values_come_from_the_log() {
    let mut table = DeltaTable::new(&["dt", "shop"]);
    let adds = [
        // Spark escapes a folder's name, and the log the path once more.
        ("dt=2026-06-29/shop=M%C3%BCnchen%20%2F%20Ost/a.parquet", json!({"dt": "2026-06-29", "shop": "München / Ost"})),
        ("dt=__HIVE_DEFAULT_PARTITION__/shop=x/b.parquet", json!({"dt": null, "shop": "x"})),
        // A writer need not put its partitions into folders at all.
        ("c a ü.parquet", json!({"dt": "2026-06-30", "shop": "__HIVE_DEFAULT_PARTITION__"})),
        ("dt=2026-07-01/d.parquet", json!({"dt": "2026-07-01", "shop": ""})),
    ];
    let mut actions = Vec::new();
    for (id, (path, partition)) in adds.into_iter().enumerate() {
        actions.push(table.add(path, partition, &order(id as u32, 1)).await);
    }
    table.commit(&actions);
    let expected = "0|2026-06-29|München / Ost; 1||x; 2|2026-06-30|__HIVE_DEFAULT_PARTITION__; 3|2026-07-01|";
    let sql = "SELECT id, dt, shop FROM orders ORDER BY id";
    // Declared as partition columns, as columns, or as both kinds: they are filled from the log.
    let partitions =
        |names: &[(&str, ColumnType)]| names.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
    table.lake = table.lake.table("orders", ORDERS, |table| {
        table.partition_by = partitions(&[("dt", ColumnType::Date), ("shop", ColumnType::Utf8)]);
    });
    assert_eq!(table.query(sql).await, expected);
    table.lake.tables.clear();
    table.lake = table.lake.table("orders", "shop utf8, id int64, dt date", |_| {});
    assert_eq!(table.query(sql).await, expected);
    assert_eq!(
        table.query("SELECT * FROM orders WHERE dt = '2026-06-30'").await,
        "__HIVE_DEFAULT_PARTITION__|2|2026-06-30"
    );
    table.lake.tables.clear();
    table.lake = table.lake.table("orders", "id int64, shop utf8", |table| {
        table.event_time = Some("dt".to_owned());
        table.partition_by = partitions(&[("dt", ColumnType::Date)]);
    });
    assert_eq!(table.query(sql).await, "0|2026-06-29|München / Ost; 2|2026-06-30|__HIVE_DEFAULT_PARTITION__");
}

#[tokio::test]
async fn a_partition_column_that_the_table_does_not_have_is_refused() {
    let mut table = DeltaTable::new(&["shop"]);
    let add = table.add("a.parquet", json!({"shop": "x"}), &order(1, 1)).await;
    table.commit(&[add]);
    let table = declared(table, |table| table.partition_by = vec![("dt".to_owned(), ColumnType::Date)]);
    let error = said(&refused(&table).await);
    assert!(
        error.contains("the Delta table `orders` is not partitioned by `dt`") && error.contains("`shop`"),
        "{error}"
    );
}

#[tokio::test]
async fn checkpoints_stand_for_the_commits_before_them() {
    for parts in [1, 2] {
        let mut table = DeltaTable::new(&["shop"]);
        let first = table.add("a.parquet", json!({"shop": null}), &order(1, 10)).await;
        table.commit(std::slice::from_ref(&first));
        let second = table.add("b.parquet", json!({"shop": "x"}), &order(2, 20)).await;
        table.commit(std::slice::from_ref(&second));
        let third = table.add("c.parquet", json!({"shop": "y"}), &order(3, 30)).await;
        table.commit(&[third, remove(&first)]);
        let protocol = json!({"protocol": {"minReaderVersion": 1}});
        let metadata = metadata(&["shop"], json!({"delta.appendOnly": "false"}));
        match parts {
            1 => table.checkpoint(2, &[&[protocol, first, second, metadata]]),
            _ => table.checkpoint(2, &[&[protocol, first], &[metadata, second]]),
        }
        // Commits that a checkpoint stands for are cleaned up.
        for version in 0..=2 {
            std::fs::remove_file(table.log(&format!("{version:020}.json"))).unwrap();
        }
        table.lake = table.lake.table("orders", "id int64, amount float64, shop utf8", |_| {});
        assert_eq!(table.query("SELECT id, shop FROM orders ORDER BY id").await, "2|x; 3|y", "{parts} parts");
        table.lake.tables[0].version = Some(TableVersion::Number(2));
        assert_eq!(table.query("SELECT id, shop FROM orders ORDER BY id").await, "1|; 2|x", "{parts} parts");
        table.lake.tables[0].version = Some(TableVersion::Number(1));
        assert!(said(&refused(&table).await).contains("lacks the commit of version 0"));
    }
}

#[tokio::test]
async fn a_checkpoint_with_files_of_its_own_is_read() {
    let mut table =
        DeltaTable::with(&[], json!({"minReaderVersion": 3, "readerFeatures": ["v2Checkpoint"]}), json!({}));
    let add = table.add("a.parquet", json!({}), &order(1, 10)).await;
    table.commit(std::slice::from_ref(&add));
    write_actions(&table.log("_sidecars/one.parquet"), &[add]);
    let protocol = json!({"protocol": {"minReaderVersion": 3, "readerFeatures": ["v2Checkpoint"]}});
    let lines = [protocol, metadata(&[], json!({})), json!({"sidecar": {"path": "one.parquet", "sizeInBytes": 1}})];
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let manifest = table.log("00000000000000000001.checkpoint.3a0d65cd-4056-49b8-937b-95f9e3ee90e5.json");
    std::fs::write(manifest, lines.join("\n")).unwrap();
    std::fs::remove_file(table.log("00000000000000000000.json")).unwrap();
    std::fs::remove_file(table.log("00000000000000000001.json")).unwrap();
    let table = declared(table, |_| {});
    assert_eq!(table.query(ALL).await, "1|10.0");
    std::fs::remove_file(table.log("_sidecars/one.parquet")).unwrap();
    assert!(said(&refused(&table).await).contains("_sidecars/one.parquet` is not there"));
}

#[tokio::test]
async fn rows_that_a_vector_deletes_are_not_there() {
    let mut table = DeltaTable::with(
        &[],
        json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"]}),
        json!({"delta.enableDeletionVectors": "true"}),
    );
    let select = "SELECT value AS id, arrow_cast(value, 'Float64') AS amount FROM generate_series(0, 9999)";
    let add = table.add("a.parquet", json!({}), select).await;
    table.commit(std::slice::from_ref(&add));
    let before = declared(table, |_| {});
    let count = "SELECT count(*), min(id), max(id), sum(amount) FROM orders";
    assert_eq!(before.query(count).await, "10000|0|9999|49995000.0");
    let inputs = before.lake.lake().inputs(before.lake.at("2026-07-01").until).await.unwrap();

    // The first, the last and some rows between.
    let mut table = before;
    let deleted: Vec<u64> = std::iter::once(0).chain(5000..5100).chain([9999]).collect();
    let mut with_vector = add.clone();
    with_vector["add"]["deletionVector"] = vector(&table, &deleted);
    table.commit(&[remove(&add), with_vector.clone()]);
    let left = 49_995_000. - deleted.iter().sum::<u64>() as f64;
    assert_eq!(table.query(count).await, format!("{}|1|9998|{left:.1}", 10_000 - deleted.len()));
    assert_eq!(table.query("SELECT count(*) FROM orders WHERE id BETWEEN 4990 AND 5110").await, "21");
    // The same file is another input.
    assert_ne!(table.lake.lake().inputs(table.lake.at("2026-07-01").until).await.unwrap(), inputs);

    // Another vector takes the place of the first one.
    let mut again = add.clone();
    again["add"]["deletionVector"] = vector(&table, &(0..4_000).collect::<Vec<_>>());
    table.commit(&[remove(&with_vector), again]);
    assert_eq!(table.query("SELECT count(*), min(id) FROM orders").await, "6000|4000");
}

/// Writes a deletion vector, as the protocol lays it out, and says where it is.
fn vector(table: &DeltaTable, rows: &[u64]) -> Value {
    // A 64-bit Roaring bitmap of one 32-bit bitmap, all of whose containers are arrays.
    let mut containers: std::collections::BTreeMap<u16, Vec<u16>> = std::collections::BTreeMap::new();
    for row in rows {
        containers.entry((row >> 16) as u16).or_default().push((row & 0xffff) as u16);
    }
    let mut bitmap = Vec::new();
    bitmap.extend(1_681_511_377_u32.to_le_bytes()); // the magic number
    bitmap.extend(1_u64.to_le_bytes()); // one bitmap
    bitmap.extend(0_u32.to_le_bytes()); // its high bits
    bitmap.extend(12_346_u32.to_le_bytes()); // without runs
    bitmap.extend((containers.len() as u32).to_le_bytes());
    for (key, values) in &containers {
        assert!(values.len() <= 4096, "more would be a bitmap");
        bitmap.extend(key.to_le_bytes());
        bitmap.extend((values.len() as u16 - 1).to_le_bytes());
    }
    let mut offset = 8 + 8 * containers.len() as u32;
    for values in containers.values() {
        bitmap.extend(offset.to_le_bytes());
        offset += 2 * values.len() as u32;
    }
    containers.values().flatten().for_each(|value| bitmap.extend(value.to_le_bytes()));
    let mut file = vec![1_u8];
    file.extend((bitmap.len() as u32).to_be_bytes());
    file.extend(&bitmap);
    file.extend(crc32(&bitmap).to_be_bytes());
    let name = format!("vector_{}.bin", rows.len());
    std::fs::write(table.folder().join(&name), file).unwrap();
    let url = url::Url::from_file_path(table.folder().join(&name)).unwrap();
    let vector = json!({"storageType": "p", "pathOrInlineDv": url.as_str(), "offset": 1, "sizeInBytes": bitmap.len(), "cardinality": rows.len()});
    serde_json::from_value::<DeletionVectorDescriptor>(vector.clone()).unwrap();
    vector
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[tokio::test]
async fn what_a_table_needs_that_is_not_read_right_is_refused_by_name() {
    let features = |names: Value| json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": names});
    for (protocol, configuration, what) in [
        (
            features(json!(["catalogManaged"])),
            json!({}),
            "it uses the feature `catalogManaged`, which is not supported",
        ),
        (
            features(json!(["timestampNtz", "x", "y"])),
            json!({}),
            "it uses the features `x`, `y`, which are not supported",
        ),
        (json!({"minReaderVersion": 4}), json!({}), "it wants readers of version 4"),
        (
            json!({"minReaderVersion": 2, "minWriterVersion": 5}),
            json!({"delta.columnMapping.mode": "name"}),
            "it uses column mapping (mode `name`)",
        ),
    ] {
        let mut table = DeltaTable::with(&[], protocol, configuration);
        let add = table.add("a.parquet", json!({}), &order(1, 10)).await;
        table.commit(&[add]);
        let error = refused(&declared(table, |_| {})).await;
        assert_eq!(error.class(), Class::User);
        assert!(
            said(&error).starts_with("jobs/shop.yaml:8:3: the Delta table `orders` cannot be read: "),
            "{}",
            said(&error)
        );
        assert!(said(&error).contains(what) && !said(&error).ends_with("| "), "{}", said(&error));
    }
}

#[tokio::test]
async fn a_table_that_is_prepared_for_vectors_or_mapping_and_has_none_is_read() {
    let protocol =
        json!({"minReaderVersion": 3, "readerFeatures": ["deletionVectors", "columnMapping", "typeWidening"]});
    let mut table = DeltaTable::with(&[], protocol, json!({"delta.columnMapping.mode": "none"}));
    let add = table.add("a.parquet", json!({}), &order(1, 10)).await;
    table.commit(&[add]);
    assert_eq!(declared(table, |_| {}).query(ALL).await, "1|10.0");
}

#[tokio::test]
async fn a_damaged_log_is_refused_with_its_file() {
    let table = declared(rewritten().await, |_| {});
    std::fs::write(table.log("00000000000000000002.json"), "{\"add\": {\"path\"").unwrap();
    let error = refused(&table).await;
    assert_eq!(error.class(), Class::User);
    assert!(
        said(&error).contains("line 1 of `file://") && said(&error).contains("00000000000000000002.json` is no action"),
        "{}",
        said(&error)
    );
    std::fs::remove_file(table.log("00000000000000000002.json")).unwrap();
    assert!(said(&refused(&table).await).contains("lacks the commit of version 2"));
    std::fs::write(table.log("00000000000000000003.checkpoint.parquet"), "PAR1").unwrap();
    assert!(said(&refused(&table).await).contains("00000000000000000003.checkpoint.parquet` is no checkpoint"));
}

#[tokio::test]
async fn a_file_that_the_log_names_and_that_is_gone_is_worth_another_try_unless_an_old_version_is_read() {
    let table = declared(rewritten().await, |_| {});
    std::fs::remove_file(table.folder().join("d.parquet")).unwrap();
    let error = refused(&table).await;
    assert_eq!(error.class(), Class::Infra);
    assert!(
        said(&error).contains("d.parquet` is not there, and version 4 of the Delta table `orders` consists of it"),
        "{}",
        said(&error)
    );
    let table = declared(rewritten().await, at_version(1));
    std::fs::remove_file(table.folder().join("b.parquet")).unwrap();
    assert_eq!(refused(&table).await.class(), Class::User);
}

#[tokio::test]
async fn a_file_that_is_not_as_the_log_says_or_outside_of_the_folder_is_refused() {
    let table = declared(rewritten().await, |_| {});
    std::fs::copy(table.folder().join("a.parquet"), table.folder().join("d.parquet")).unwrap();
    let size = std::fs::metadata(table.folder().join("d.parquet")).unwrap().len();
    std::fs::write(table.folder().join("d.parquet"), vec![0; size as usize + 1]).unwrap();
    assert!(said(&refused(&table).await).contains("bytes, and the log of `orders` says"));

    let mut table = rewritten().await;
    table.commit(&[json!({"add": {"path": "s3://elsewhere/a.parquet", "partitionValues": {}, "size": 1}})]);
    let error = said(&refused(&declared(table, |_| {})).await);
    assert!(error.contains("lists `s3://elsewhere/a.parquet`, which is outside of its folder"), "{error}");
    let mut table = rewritten().await;
    table.commit(&[json!({"add": {"path": "../a.parquet", "partitionValues": {}, "size": 1}})]);
    assert!(said(&refused(&declared(table, |_| {})).await).contains("outside of its folder"));
}

#[tokio::test]
async fn only_a_delta_table_has_a_version() {
    let mut table = declared(rewritten().await, at_version(1));
    std::fs::remove_dir_all(table.log("")).unwrap();
    let error = said(&refused(&table).await);
    assert!(error.contains("is no Delta table") && error.contains("leave it out"), "{error}");
    table.lake.tables[0].version = None;
    assert_eq!(table.query("SELECT count(*) FROM orders").await, "5");
}

#[tokio::test]
async fn a_delta_table_on_s3_reads_as_on_disk() {
    let Some(server) = S3Server::start() else { return };
    let mut table = rewritten().await;
    let add = table.add("dt=2026-07-01%20 ü/e.parquet", json!({}), &order(3, 30)).await;
    table.commit(&[add]);
    let table = declared(table, |_| {});
    let store = server.store("shop/orders");
    for entry in walk(&table.folder()) {
        let path = entry.strip_prefix(table.folder()).unwrap().to_str().unwrap().to_owned();
        store.upload(&entry, &path).await.unwrap();
    }
    let mut spec = table.lake.tables[0].clone();
    spec.url = server.url("shop/orders");
    let lake = Lake::over(&[spec], chrono_tz::UTC, &EngineOptions::default(), &server.env()).unwrap();
    let context = lake.session(table.lake.at("2026-07-01")).await.unwrap();
    assert_eq!(rows(&context, ALL).await, "1|10.0; 2|50.0; 3|30.0");
    assert_eq!(table.query(ALL).await, "1|10.0; 2|50.0; 3|30.0");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(walk(&path)),
            false => found.push(path),
        }
    }
    found
}
