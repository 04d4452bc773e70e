//! Files of a table that cannot be read, that change while they are read, or that hold what they should not.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use datafusion::prelude::SessionContext;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use tenure::Error;
use tenure::error::Class;

use crate::support::lake::SmallLake;

const COLUMNS: &str = "order_id int64, note utf8";

/// Writes a file without a dictionary, in snappy.
fn write(path: &Path, columns: Vec<(&str, ArrayRef)>, compression: Compression) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_compression(compression)
        .set_write_batch_size(64)
        .build();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
}

fn orders(path: &Path, first: i64) {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + 1000));
    let notes: ArrayRef = Arc::new(StringArray::from_iter_values((0..1000).map(|i| format!("gift {i}"))));
    write(path, vec![("order_id", numbers), ("note", notes)], Compression::SNAPPY);
}

/// A table of three files of 1,000 orders.
fn lake() -> (SmallLake, PathBuf) {
    let lake = SmallLake::new().table("orders", COLUMNS, |_| {});
    let folder = lake.folder.path().join("orders");
    for i in 0..3 {
        orders(&folder.join(format!("f{i}.parquet")), 1000 * i);
    }
    let damaged = folder.join("f1.parquet");
    (lake, damaged)
}

async fn query(context: &SessionContext) -> Result<usize, Error> {
    let found = context.sql("SELECT order_id, note FROM orders").await?.collect().await?;
    Ok(found.iter().map(RecordBatch::num_rows).sum())
}

async fn error(lake: &SmallLake) -> Error {
    let read = async {
        let context = lake.lake().session(lake.at("2026-07-01")).await?;
        query(&context).await
    };
    read.await.unwrap_err()
}

fn hint(error: &Error) -> &str {
    error.problems().next().unwrap().hint.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn damaged_bytes_name_table_file_and_column() {
    for (column, name) in [(0, "order_id"), (1, "note")] {
        let (lake, damaged) = lake();
        let footer = SerializedFileReader::new(fs::File::open(&damaged).unwrap()).unwrap();
        let start = footer.metadata().row_group(0).column(column).data_page_offset() as usize + 100;
        let mut bytes = fs::read(&damaged).unwrap();
        bytes[start..start + 60].iter_mut().for_each(|byte| *byte ^= 0x5a);
        fs::write(&damaged, bytes).unwrap();
        let error = error(&lake).await;
        assert_eq!(error.class(), Class::User, "{error:?}");
        let url = lake.url("orders/f1.parquet");
        let said = format!("in table `orders`, column `{name}` of `{url}` cannot be read, in row group 0");
        assert_eq!(error.to_string(), said);
        assert!(hint(&error).contains("write the file again"), "{error:?}");
    }
}

#[tokio::test]
async fn text_that_is_not_utf_8_names_the_column() {
    let (lake, damaged) = lake();
    let texts: Vec<&[u8]> = (0..1000).map(|i| if i == 500 { &b"gr\xfc\xdfe"[..] } else { &b"gift"[..] }).collect();
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
    // Bytes that a writer calls text.
    let binary = BinaryArray::from_iter_values(texts);
    let (offsets, values, nulls) = binary.into_parts();
    #[allow(unsafe_code)] // The text is wrong on purpose.
    let notes: ArrayRef = Arc::new(unsafe { StringArray::new_unchecked(offsets, values, nulls) });
    write(&damaged, vec![("order_id", numbers), ("note", notes)], Compression::UNCOMPRESSED);
    let error = error(&lake).await;
    assert_eq!(error.class(), Class::User, "{error:?}");
    assert!(error.to_string().contains("column `note` of `") && error.to_string().contains("f1.parquet"), "{error}");
    assert!(hint(&error).contains("UTF-8"), "{error:?}");
}

#[tokio::test]
async fn a_file_without_bytes_or_without_an_end_is_the_users_fault() {
    type Spoil = (fn(&Path), &'static str);
    let spoil: [Spoil; 3] = [
        (|path| fs::write(path, "").unwrap(), "is empty"),
        (|path| fs::write(path, &fs::read(path).unwrap()[..500]).unwrap(), "is no whole Parquet file"),
        (|path| fs::write(path, "PAR1 and then nothing of Parquet").unwrap(), "is no whole Parquet file"),
    ];
    for (spoil, why) in spoil {
        let (lake, damaged) = lake();
        spoil(&damaged);
        let error = error(&lake).await;
        assert_eq!(error.class(), Class::User, "{error:?}");
        let url = lake.url("orders/f1.parquet");
        assert_eq!(error.to_string(), format!("jobs/shop.yaml:8:3: in table `orders`, `{url}` cannot be read"));
        assert!(error.problems().next().unwrap().causes().concat().contains(why), "{error:?}");
        assert!(!hint(&error).is_empty() && !hint(&error).contains("remove"), "{error:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_being_written_may_be_tried_again() {
    let (lake, damaged) = lake();
    let whole = fs::read(&damaged).unwrap();
    fs::write(&damaged, &whole[..500]).unwrap();
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        fs::write(&damaged, &whole).unwrap();
    });
    let error = error(&lake).await;
    writer.join().unwrap();
    assert_eq!(error.class(), Class::Infra, "{error:?}");
}

#[tokio::test]
async fn a_file_that_a_loader_replaces_after_the_listing_is_not_mixed_in() {
    let replace: [fn(&Path); 3] = [
        |path| {
            let new = path.with_extension("tmp");
            orders(&new, 7000);
            fs::rename(new, path).unwrap();
        },
        |path| orders(path, 9000),
        |path| fs::remove_file(path).unwrap(),
    ];
    for (i, replace) in replace.into_iter().enumerate() {
        for format in ["parquet", "csv"] {
            let (mut lake, mut file) = lake();
            if format == "csv" {
                file = lake.folder.path().join("orders/a.csv");
                fs::write(&file, "order_id,note\n1,one\n2,two\n").unwrap();
                lake.tables[0].format = tenure::spec::Format::Csv;
            }
            let opened = lake.lake();
            let context = opened.session(lake.at("2026-07-01")).await.unwrap();
            assert!(query(&context).await.unwrap() > 0);
            replace(&file);
            let error = query(&context).await.unwrap_err();
            assert_eq!(error.class(), Class::Infra, "{i} {format}: {error:?}");
            let name = file.file_name().unwrap().to_str().unwrap();
            let said = error.to_string();
            assert!(said.starts_with("in table `orders`: `file://") && said.contains(name), "{said}");
            assert!(said.ends_with("since it was listed") && hint(&error).contains("run it again"), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_folder_that_leads_back_to_itself_is_the_users_fault() {
    use std::os::unix::fs::symlink;
    let (lake, _) = lake();
    symlink("..", lake.folder.path().join("orders/again")).unwrap();
    let error = error(&lake).await;
    assert_eq!(error.class(), Class::User, "{error:?}");
    assert!(error.to_string().contains("orders") && hint(&error).contains("link"), "{error:?}");

    let lake = SmallLake::new().table("orders", COLUMNS, |_| {});
    symlink("orders", lake.folder.path().join("orders")).unwrap();
    let error = self::error(&lake).await;
    assert_eq!(error.class(), Class::User, "{error:?}");
}

#[tokio::test]
async fn a_name_that_is_not_utf_8_is_the_users_fault() {
    use std::os::unix::ffi::OsStrExt;
    let (lake, _) = lake();
    let name = std::ffi::OsStr::from_bytes(b"gr\xfc\xdfe.parquet");
    fs::write(lake.folder.path().join("orders").join(name), "x").unwrap();
    let error = error(&lake).await;
    assert_eq!(error.class(), Class::User, "{error:?}");
    assert!(!hint(&error).is_empty(), "{error:?}");
}

#[tokio::test]
async fn what_unpacks_beyond_the_memory_limit_is_refused() {
    let mut lake = SmallLake::new().table("orders", COLUMNS, |_| {});
    let path = lake.folder.path().join("orders/bomb.parquet");
    let large = "x".repeat(1 << 20);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
    let notes: ArrayRef = Arc::new((0..100).map(|_| Some(&large)).collect::<StringArray>());
    write(&path, vec![("order_id", numbers), ("note", notes)], Compression::ZSTD(ZstdLevel::default()));
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
    lake.options.memory_limit = Some(32 << 20);
    let error = error(&lake).await;
    assert_eq!(error.class(), Class::User, "{error:?}");
    assert!(error.to_string().contains("bomb.parquet") && error.to_string().contains("in table `orders`"), "{error}");
    assert!(hint(&error).contains("--memory-limit"), "{error:?}");
    lake.options.memory_limit = Some(1 << 30);
    let context = lake.lake().session(lake.at("2026-07-01")).await.unwrap();
    assert_eq!(query(&context).await.unwrap(), 100);
}

#[tokio::test]
async fn a_pattern_that_does_not_compile_is_the_users_fault() {
    let (lake, _) = lake();
    let context = lake.lake().session(lake.at("2026-07-01")).await.unwrap();
    for pattern in ["'('", "note || '('"] {
        let run = async {
            let found = context.sql(&format!("SELECT regexp_like(note, {pattern}) FROM orders")).await?;
            found.collect().await
        };
        let error = Error::from(run.await.unwrap_err());
        assert_eq!(error.class(), Class::User, "{pattern}: {error:?}");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_page_with_a_checksum_is_no_other_number() {
    use tenure::lake::ParquetWriter;
    let (lake, file) = lake();
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..1000).map(|i| i * 7919 % 1009)));
    let notes: ArrayRef = Arc::new(StringArray::from_iter_values((0..1000).map(|i| format!("gift {i}"))));
    let rows = RecordBatch::try_from_iter([("order_id", numbers), ("note", notes)]).unwrap();
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut writer = ParquetWriter::try_new(Vec::new(), rows.schema(), properties).unwrap();
    writer.write(&rows).unwrap();
    let whole = writer.finish().unwrap();
    fs::write(&file, &whole).unwrap();
    let footer = SerializedFileReader::new(fs::File::open(&file).unwrap()).unwrap();
    let (start, length) = footer.metadata().row_group(0).column(0).byte_range();
    for at in (start + 60..start + length).step_by(1100) {
        let mut flipped = whole.clone();
        flipped[at as usize] ^= 4;
        fs::write(&file, flipped).unwrap();
        let error = error(&lake).await;
        assert_eq!(error.class(), Class::User, "{error:?}");
        assert!(
            error.to_string().contains("column `order_id` of `") && error.to_string().contains("f1.parquet"),
            "{error}"
        );
        assert!(error.problems().next().unwrap().causes().concat().contains("CRC"), "{error:?}");
    }
}
