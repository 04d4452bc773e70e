//! The files of a night: deterministic bytes, documented footers, and an audit that lets nothing through.

use std::path::Path;

use arrow::array::{RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use tenure::Error;
use tenure::error::Class;
use tenure::lake::Store;
use tenure::lake::publish::{DESCRIPTION, TableMeta};
use tenure::ledger::RunRecord;

use super::night::*;

/// The bytes of `predictions` when its rows come in these pieces.
fn bytes_in_pieces(pieces: &[i64]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = publisher(&Store::memory(), "a").writer(dir.path(), &predictions()).unwrap();
    let mut from = 0;
    for piece in pieces {
        writer.write(&good_rows(from, *piece, "a")).unwrap();
        from += piece;
    }
    let file = writer.finish().unwrap();
    assert_eq!(file.rows(), from as u64);
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!(file.bytes(), bytes.len() as u64);
    bytes
}

#[test]
fn the_same_rows_give_the_same_bytes_however_they_are_cut() {
    let whole = bytes_in_pieces(&[30_000]);
    assert_eq!(bytes_in_pieces(&[30_000]), whole);
    assert_eq!(bytes_in_pieces(&[1, 8_191, 8_192, 0, 13_000, 616]), whole);
    assert_eq!(bytes_in_pieces(&[10_000; 3]), whole);
    assert_ne!(bytes_in_pieces(&[29_999]), whole);
}

#[test]
fn a_footer_tells_what_a_reader_needs() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(&Store::memory(), "a");
    let mut writer = publisher.writer(dir.path(), &predictions()).unwrap();
    writer.write(&good_rows(0, 300_000, "a")).unwrap();
    let path = writer.finish().unwrap().path().to_owned();

    let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    let footer = reader.metadata();
    let file = footer.file_metadata();
    assert_eq!(file.created_by(), Some(concat!("tenure ", env!("CARGO_PKG_VERSION"))));
    let entries = file.key_value_metadata().unwrap();
    let entry = |key: &str| entries.iter().find(|e| e.key == key).and_then(|e| e.value.clone());
    assert_eq!(entry("run_id"), Some(publisher.run_id()));
    assert_eq!(entry("as_of").as_deref(), Some("2026-07-01"));
    assert_eq!(entry("model_version").as_deref(), Some("7"));
    assert_eq!(entry("description").as_deref(), Some("one row per customer"));

    let rows: Vec<i64> = footer.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(rows, [131_072, 131_072, 37_856]);
    let group = footer.row_group(0);
    let sorting = group.sorting_columns().unwrap();
    assert_eq!((sorting[0].column_idx, sorting[0].descending), (0, false));
    assert!(
        group.columns().iter().all(|column| column.statistics().is_some() && column.bloom_filter_offset().is_none())
    );

    let schema =
        ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap()).unwrap().schema().clone();
    assert_eq!(schema.fields(), predictions().schema.fields());
    assert_eq!(schema.field(1).metadata()[DESCRIPTION], "the chance to leave");
}

/// The audit's verdict on `predictions` of these rows, cut into two batches at `cut`.
fn audit(keys: &[Option<i64>], scores: &[Option<f64>], cut: usize) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(&Store::memory(), "a");
    let mut writer = publisher.writer(dir.path(), &predictions()).unwrap();
    writer.write(&rows(keys[..cut].to_vec(), scores[..cut].to_vec(), "a")).unwrap();
    writer.write(&rows(keys[cut..].to_vec(), scores[cut..].to_vec(), "a")).unwrap();
    let audited = publisher.staged([writer.finish().unwrap()]).unwrap().audit(everybody());
    audited.err().map(|error| {
        assert_eq!(error.class(), Class::User);
        error
            .problems()
            .map(|p| p.message.replace("the table `predictions` failed its audit: ", ""))
            .collect::<Vec<_>>()
            .join("; ")
    })
}

#[test]
fn the_audit_names_column_and_row_of_what_it_refuses() {
    let keys = [Some(1), Some(2), Some(5)];
    let good = [Some(0.5), None, Some(1.0)];
    for cut in 0..=3 {
        assert_eq!(audit(&keys, &good, cut), None);
        let refused = |keys: [Option<i64>; 3], scores: [Option<f64>; 3]| audit(&keys, &scores, cut).unwrap();
        assert_eq!(refused(keys, [Some(0.5), None, Some(f64::NAN)]), "column `churn_90d` holds `NaN` in row 3");
        assert_eq!(refused(keys, [Some(f64::INFINITY), None, None]), "column `churn_90d` holds `inf` in row 1");
        assert_eq!(refused(keys, [None, Some(f64::NEG_INFINITY), None]), "column `churn_90d` holds `-inf` in row 2");
        assert_eq!(refused([Some(1), None, Some(2)], good), "key column `customer_id` is NULL in row 2");
        assert_eq!(refused([Some(1), Some(5), Some(5)], good), "key `customer_id` = `5` appears again in row 3");
        assert_eq!(
            refused([Some(3), Some(2), Some(5)], good),
            "key `customer_id` = `2` is smaller than the one before it in row 2"
        );
        assert_eq!(
            refused([Some(3), Some(2), Some(5)], [None, Some(f64::NAN), None]),
            "column `churn_90d` holds `NaN` in row 2; key `customer_id` = `2` is smaller than the one before it in row 2"
        );
    }
}

#[test]
fn the_audit_compares_keys_across_the_batches_of_a_large_table() {
    let mut keys: Vec<Option<i64>> = (0..40_000).map(Some).collect();
    keys[32_768] = Some(32_767); // The first row of a batch that the audit reads.
    let scores = vec![None; keys.len()];
    assert_eq!(audit(&keys, &scores, 5).unwrap(), "key `customer_id` = `32767` appears again in row 32769");
}

#[test]
fn the_audit_notices_a_file_that_changed_after_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(&Store::memory(), "a");
    let files = write_tables(&publisher, dir.path(), "a").unwrap();
    let other = tempfile::tempdir().unwrap();
    let mut longer = publisher.writer(other.path(), &predictions()).unwrap();
    longer.write(&good_rows(0, 101, "a")).unwrap();
    std::fs::copy(longer.finish().unwrap().path(), files[0].path()).unwrap();
    let error = publisher.staged(files).unwrap().audit(everybody()).unwrap_err();
    assert!(error.to_string().ends_with("100 rows were written and 101 read back"), "{error}");
}

#[tokio::test]
async fn a_table_of_one_row_per_customer_is_as_long_as_the_population() {
    let (store, dir) = (Store::memory(), tempfile::tempdir().unwrap());
    let publisher = publisher(&store, "a");
    let written = |rows: i64| {
        let mut writer = publisher.writer(dir.path(), &predictions().per_customer("customer_id")).unwrap();
        writer.write(&good_rows(0, rows, "a")).unwrap();
        publisher.staged([writer.finish().unwrap()]).unwrap()
    };
    for rows in [0, 1, 99, 101] {
        let error = written(rows).audit(everybody()).unwrap_err();
        assert_eq!(error.class(), Class::Bug);
        let wanted = format!("the table `predictions` has {rows} rows for a population of 100 customers");
        assert_eq!(error.to_string(), wanted);
    }
    written(100).audit(everybody()).unwrap();
}

#[tokio::test]
async fn a_night_that_fails_its_audit_leaves_the_one_before_it() {
    let store = Store::memory();
    run(&store, "a").await.unwrap();
    let before = in_place(&store).await;
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(&store, "b");
    let mut writer = publisher.writer(dir.path(), &predictions()).unwrap();
    writer.write(&rows(vec![Some(1)], vec![Some(f64::NAN)], "b")).unwrap();
    publisher.staged([writer.finish().unwrap()]).unwrap().audit(everybody()).unwrap_err();
    assert_eq!(in_place(&store).await, before);
    assert_eq!(staged(&store).await, [""; 0]);
}

#[test]
fn rows_of_other_columns_or_types_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(&Store::memory(), "a");
    let mut writer = publisher.writer(dir.path(), &transitions()).unwrap();
    let error = writer.write(&good_rows(0, 1, "a")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the table `transitions` declares the columns `run` but was given `customer_id`, `churn_90d`, `run`"
    );
    let mut keyless = publisher.writer(dir.path(), &TableMeta::new("k", "", vec![]).key(["x"])).err().unwrap();
    keyless = keyless.context("x");
    assert!(keyless.problems().next().unwrap().causes()[0].contains("the key `x` of the table `k`"));
}

#[test]
fn text_may_come_in_any_layout_and_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for layout in [DataType::Utf8, DataType::Utf8View, DataType::LargeUtf8] {
        let text = cast(&StringArray::from(vec!["a", "and a longer one that no view holds inline"]), &layout).unwrap();
        let batch = RecordBatch::try_from_iter([("run", text)]).unwrap();
        let mut writer = publisher(&Store::memory(), "a").writer(dir.path(), &transitions()).unwrap();
        writer.write(&batch).unwrap();
        files.push(std::fs::read(writer.finish().unwrap().path()).unwrap());
    }
    assert!(files[0] == files[1] && files[1] == files[2]);
}

#[tokio::test]
async fn a_table_without_rows_is_published_with_its_schema() {
    let (store, dir) = (Store::memory(), tempfile::tempdir().unwrap());
    let publisher = publisher(&store, "a");
    let empty = publisher.writer(dir.path(), &predictions()).unwrap().finish().unwrap();
    let mut record = RunRecord::start("ltv", night(), publisher.key());
    publisher.staged([empty]).unwrap().audit(everybody()).unwrap().commit(&mut record).await.unwrap();
    let bytes = in_place(&store).await.into_values().next().unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    assert_eq!(reader.schema().fields(), predictions().schema.fields());
    assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
}

#[test]
fn an_unfinished_table_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = publisher(&Store::memory(), "a").writer(dir.path(), &predictions()).unwrap();
    writer.write(&good_rows(0, 10, "a")).unwrap();
    drop(writer);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Writes a night's predictions where `/dev/full` stands in for a full disk.
#[cfg(target_os = "linux")]
fn write_to_full_disk(dir: &Path, rows: i64) -> Error {
    std::os::unix::fs::symlink("/dev/full", dir.join("predictions.parquet")).unwrap();
    let mut writer = publisher(&Store::memory(), "a").writer(dir, &predictions()).unwrap();
    writer.write(&good_rows(0, rows, "a")).and_then(|()| writer.finish().map(|_| ())).unwrap_err()
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_with_the_path_and_leaves_nothing() {
    for rows in [10, 300_000] {
        let dir = tempfile::tempdir().unwrap();
        let error = write_to_full_disk(dir.path(), rows);
        assert_eq!(error.class(), Class::Infra);
        assert_eq!(error.to_string(), format!("`{}/predictions.parquet` cannot be written", dir.path().display()));
        assert!(error.problems().next().unwrap().causes().join(" ").contains("No space left on device"), "{error:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_folder_that_is_not_there_is_told_with_the_path() {
    let error = publisher(&Store::memory(), "a").writer(Path::new("/nowhere"), &predictions()).unwrap_err();
    assert_eq!(error.class(), Class::Infra);
    assert_eq!(error.to_string(), "`/nowhere/predictions.parquet` cannot be written");
}
