//! Which files of a table's folder are read, which are named, and which are refused.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use datafusion::parquet::arrow::ArrowWriter;
use tenure::Error;
use tenure::error::Class;
use tenure::lake::{EngineOptions, Lake};
use tenure::spec::{ColumnType, Format, TableSpec};
use tokio::io::AsyncWriteExt;

use crate::support::lake::{SmallLake, rows};
use crate::support::s3::S3Server;
use crate::support::shop::{AS_OF, Shop, assert_success};

const AMOUNTS: &str = "SELECT sum(amount), count(*) FROM orders";

fn one(amount: u32) -> String {
    format!("SELECT {amount}.0 AS amount")
}

fn csv(table: &mut TableSpec) {
    table.format = Format::Csv;
}

async fn passed_over(lake: &SmallLake) -> Vec<String> {
    lake.lake().passed_over().await.unwrap().iter().map(ToString::to_string).collect()
}

/// The error of a session, with its hints.
async fn refused(lake: &SmallLake) -> Error {
    lake.lake().session(lake.at("2026-07-01")).await.err().expect("the lake is refused")
}

fn said(error: &Error) -> String {
    let problem = error.problems().next().unwrap();
    let causes = problem.causes().join(": ");
    format!("{problem}: {causes} | {}", problem.hint.as_deref().unwrap_or_default())
}

async fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(text.as_bytes()).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

async fn zstd(text: &str) -> Vec<u8> {
    let mut encoder = ZstdEncoder::new(Vec::new());
    encoder.write_all(text.as_bytes()).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

fn write(lake: &SmallLake, path: &str, bytes: &[u8]) {
    let path = lake.folder.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn parquet_is_read_whatever_its_name() {
    let mut lake = SmallLake::new();
    let names =
        ["000000_0", "20260701_101010_00001_abcde", "part-00000.c000", "a.parq", "b.PARQUET", "c.gz", "dt=1/v1.2"];
    for (bit, name) in names.iter().enumerate() {
        lake = lake.parquet(&format!("orders/{name}"), &one(1 << bit)).await;
    }
    let lake = lake.table("orders", "amount float64", |_| {});
    assert_eq!(lake.query("2026-07-01", AMOUNTS).await, "127.0|7");
    assert_eq!(passed_over(&lake).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_left_is_counted_and_named_and_markers_are_not() {
    let lake = SmallLake::new()
        .parquet("orders/a.parquet", &one(1))
        .await
        .parquet("orders/_temporary/b.parquet", &one(2))
        .await
        .parquet("orders/half.parquet.tmp", &one(4))
        .await
        .file("orders/export.orc", "ORC")
        .file("orders/day.json", "{}")
        .file("orders/dt=1/000001_0", "amount\n8\n")
        .file("orders/_SUCCESS", "")
        .file("orders/.a.parquet.crc", "crc")
        .file("orders/dt=2_$folder$", "")
        .table("orders", "amount float64", |_| {});
    assert_eq!(lake.query("2026-07-01", AMOUNTS).await, "1.0|1");
    assert_eq!(
        passed_over(&lake).await,
        [
            "4 files of `orders` are passed over: `day.json`, `dt=1/000001_0`, `export.orc` and 1 more; the table reads Parquet \
          files (`format: parquet`)"
        ]
    );
    let report = lake.lake().look(lake.day("2026-07-01")).await.unwrap();
    assert_eq!(report.passed_over.len(), 1);
}

#[tokio::test]
async fn a_table_of_nothing_but_other_files_says_so() {
    let lake = SmallLake::new().file("orders/a.csv", "amount\n1\n").table("orders", "amount float64", |_| {});
    let report = lake.lake().look(lake.day("2026-07-01")).await.unwrap();
    let problem = &report.problems[0];
    assert_eq!(
        problem.hint.as_deref().unwrap(),
        "1 file of `orders` is passed over: `a.csv`; the table reads Parquet files (`format: parquet`)"
    );
}

#[tokio::test]
async fn csv_is_read_plain_and_packed_in_one_folder() {
    let lake = SmallLake::new().file("orders/a.csv", "id,amount\n1,1\n").table("orders", "amount float64", csv);
    write(&lake, "orders/b.csv.gz", &gzip("amount,id\n2,1\n").await);
    write(&lake, "orders/c.csv.zst", &zstd("id,amount\n1,4\n").await);
    write(&lake, "orders/d.gz", &gzip("id,amount\n1,8\n").await);
    // Packed, whatever its name says; and packed in two members, as `cat a.gz b.gz` makes it.
    let members = [gzip("id,amount\n1,16\n").await, gzip("1,32\n").await].concat();
    write(&lake, "orders/e.csv", &members);
    let frames = [zstd("id,amount\n1,64\n").await, zstd("1,128\n").await].concat();
    write(&lake, "orders/f.csv.zst", &frames);
    write(&lake, "orders/g.csv.bz2", b"BZh9");
    assert_eq!(lake.query("2026-07-01", AMOUNTS).await, "255.0|8");
    assert_eq!(
        passed_over(&lake).await,
        [
            "1 file of `orders` is passed over: `g.csv.bz2`; the table reads `.csv`, `.csv.gz` and `.csv.zst` files (`format: csv`)"
        ]
    );
}

#[tokio::test]
async fn packed_csv_on_s3_reads_as_on_disk() {
    let Some(server) = S3Server::start() else { return };
    let local = SmallLake::new().table("orders", "amount float64", csv);
    let store = server.store("shop");
    let lines = "id,amount\n".to_owned() + &"1,1\n".repeat(100_000);
    store.put("orders/a.csv.gz", [gzip(&lines).await, gzip("1,1\n").await].concat()).await.unwrap();
    store.put("orders/b.csv.zst", [zstd(&lines).await, zstd("1,1\n").await].concat()).await.unwrap();
    store.put("orders/c.csv", lines).await.unwrap();
    let mut table = local.tables[0].clone();
    table.url = server.url("shop/orders");
    let lake = Lake::over(&[table], chrono_tz::UTC, &EngineOptions::default(), &server.env()).unwrap();
    let context = lake.session(local.at("2026-07-01")).await.unwrap();
    assert_eq!(rows(&context, AMOUNTS).await, "300002.0|300002");
}

#[tokio::test]
async fn one_packed_file_is_a_table() {
    let lake = SmallLake::new().table("orders", "amount float64", |table| {
        csv(table);
        table.url = table.url.join("../orders.csv.gz").unwrap();
    });
    write(&lake, "orders.csv.gz", &gzip("amount\n3\n").await);
    assert_eq!(lake.query("2026-07-01", AMOUNTS).await, "3.0|1");
}

#[tokio::test]
async fn a_packed_file_that_was_cut_off_is_refused() {
    let lake = SmallLake::new().table("orders", "amount float64", csv);
    let mut lines = String::from("amount\n");
    (0..200_000).for_each(|i| lines.push_str(&format!("{i}.{}\n", i * 7919 % 1000)));
    let whole = gzip(&lines).await;
    write(&lake, "orders/a.csv.gz", &whole[..whole.len() - 1000]);
    let context = lake.lake().session(lake.at("2026-07-01")).await.unwrap();
    let error = context.sql(AMOUNTS).await.unwrap().collect().await.unwrap_err();
    let error = Error::from(error);
    assert_eq!(error.class(), Class::User);
    assert!(error.to_string().contains("its gzip stream is damaged or ends too early"), "{error}");
}

#[tokio::test]
async fn two_columns_of_one_name_are_refused() {
    let lake = SmallLake::new().file("orders/a.csv", "id,amount,amount\n1,2,3\n").table("orders", "id int64", csv);
    assert!(
        said(&refused(&lake).await).contains("a.csv` has two columns called `amount`"),
        "{}",
        said(&refused(&lake).await)
    );

    let lake = SmallLake::new().table("orders", "amount int64", |_| {});
    let field = || Field::new("amount", DataType::Int64, true);
    let schema = Arc::new(Schema::new(vec![field(), field()]));
    let values = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![values(), values()]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    write(&lake, "orders/a.parquet", &writer.into_inner().unwrap());
    let error = said(&refused(&lake).await);
    assert!(
        error.contains("in table `orders`") && error.contains("a.parquet` has two columns called `amount`"),
        "{error}"
    );
}

#[tokio::test]
async fn names_that_differ_in_case_and_columns_without_a_name_are_no_repetition() {
    let lake =
        SmallLake::new().file("orders/a.csv", "id,Amount,amount,,\n1,2,3,,\n").table("orders", "amount int64", csv);
    assert_eq!(lake.query("2026-07-01", "SELECT amount FROM orders").await, "3");
}

#[tokio::test]
async fn a_file_of_another_format_than_its_name_says_is_refused_by_name() {
    for (content, what) in [
        ("amount\n1\n", "is no Parquet file: it looks like a text file"),
        ("{}", "is no Parquet file: it looks like a JSON file"),
        ("", "is empty"),
    ] {
        let lake = SmallLake::new().file("orders/a.parquet", content).table("orders", "amount float64", |_| {});
        let error = refused(&lake).await;
        assert_eq!(error.class(), Class::User, "{error}");
        assert!(said(&error).contains(&format!("a.parquet` {what}")), "{}", said(&error));
    }
    let lake = SmallLake::new().parquet("orders/a.csv", &one(1)).await.table("orders", "amount float64", csv);
    let error = said(&refused(&lake).await);
    assert!(error.contains("a.csv` is a Parquet file") && error.contains("`format: parquet`"), "{error}");
}

#[tokio::test]
async fn a_file_without_ending_that_begins_like_parquet_and_is_cut_off_is_refused() {
    let lake = SmallLake::new().parquet("orders/000000_0", &one(1)).await.table("orders", "amount float64", |_| {});
    let path = lake.folder.path().join("orders/000000_0");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = said(&refused(&lake).await);
    assert!(error.contains("000000_0` is no whole Parquet file"), "{error}");
}

#[tokio::test]
async fn folders_of_other_table_formats_are_refused() {
    for (files, what) in [
        (vec!["orders/.hoodie/hoodie.properties", "orders/dt=1/a.parquet"], "is a Hudi table, which is not supported"),
        (
            vec!["orders/metadata/v1.metadata.json", "orders/data/a.parquet"],
            "is an Iceberg table, which is not supported",
        ),
        (
            vec!["orders/eu/_delta_log/00000000000000000000.json", "orders/eu/a.parquet"],
            "there is a Delta table in its folder, `eu`",
        ),
    ] {
        let mut lake = SmallLake::new().table("orders", "amount float64", |_| {});
        for file in files {
            lake = match file.ends_with(".parquet") {
                true => lake.parquet(file, &one(1)).await,
                false => lake.file(file, "{}"),
            };
        }
        let error = refused(&lake).await;
        assert_eq!(error.class(), Class::User);
        assert!(said(&error).contains(what), "{}", said(&error));
        assert!(!error.problems().next().unwrap().hint.as_deref().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_partition_of_files_without_ending_is_known_by_its_folder() {
    let lake = SmallLake::new()
        .parquet("orders/dt=2026-06-30/000000_0", &one(1))
        .await
        .parquet("orders/dt=2026-07-01/000000_0", &one(2))
        .await
        .table("orders", "amount float64", |table| table.partition_by = vec![("dt".to_owned(), ColumnType::Date)]);
    assert_eq!(
        lake.query("2026-07-05", "SELECT dt, amount FROM orders ORDER BY 1").await,
        "2026-06-30|1.0; 2026-07-01|2.0"
    );
}

#[test]
fn a_night_and_a_check_name_what_they_pass_over() {
    let shop = Shop::trained();
    std::fs::write(shop.lake().join("orders/late.orc"), "ORC").unwrap();
    let warning = "1 file of `orders` is passed over: `late.orc`";
    let check = shop.tenure(&["check", "jobs/ltv.yaml", "--online", "--as-of", AS_OF]);
    assert_success(&check);
    assert!(String::from_utf8_lossy(&check.stderr).contains(&format!("note: {warning}")));
    let built = shop.tenure(&["features", "build", "jobs/ltv.yaml", "--as-of", AS_OF, "--dry-run"]);
    assert_success(&built);
    assert!(String::from_utf8_lossy(&built.stderr).contains(&format!("warning: {warning}")));
    let night = shop.publish(AS_OF);
    assert!(String::from_utf8_lossy(&night.stderr).contains(&format!("warning: {warning}")));
    let records = walk(&shop.out().join("_runs"));
    let noted = records.iter().any(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains(warning)));
    assert!(noted, "{records:?}");
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
