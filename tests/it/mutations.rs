//! One file of a lake is changed in some way: the answer is the same, or an error names the file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::array::{TimestampMicrosecondArray, new_null_array};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, IntervalUnit, Schema, TimeUnit};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use tenure::lake::ParquetWriter;

use crate::support::lake::{SmallLake, text};
use crate::support::memory::rendered;

const ROWS: i64 = 60;
const FILES: [&str; 3] = ["a", "b", "c"];
const COLUMNS: &str =
    "order_id int64, customer_id int64, ordered_at timestamp, amount float64, note utf8, refunded bool, gap int64";

/// What is done to the second of three files.
#[derive(Debug, Clone)]
enum Mutation {
    /// A column is of another type, which can say the same.
    Retyped(usize, DataType),
    Dropped(usize),
    Renamed(usize, &'static str),
    Repeated(usize),
    Reversed,
    Extended,
    /// A bit of a page is another one; a share of the pages' bytes says which.
    Flipped(f64, u8),
    /// Some bytes of the pages are zero.
    Zeroed(f64, usize),
    /// Only a share of the file is there.
    Cut(f64),
    /// There is more behind the end.
    Continued(Vec<u8>),
    /// There is something else in its place.
    Replaced(Vec<u8>),
}

fn types() -> impl Strategy<Value = DataType> {
    let zone = || Some("UTC".into());
    prop::sample::select(vec![
        DataType::Null,
        DataType::Boolean,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt8,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Float32,
        DataType::Float64,
        DataType::Decimal128(20, 2),
        DataType::Decimal128(38, 0),
        DataType::Decimal256(50, 4),
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Binary,
        DataType::LargeBinary,
        DataType::BinaryView,
        DataType::Date32,
        DataType::Timestamp(TimeUnit::Second, zone()),
        DataType::Timestamp(TimeUnit::Millisecond, zone()),
        DataType::Timestamp(TimeUnit::Nanosecond, zone()),
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(TimeUnit::Nanosecond, None),
        DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        DataType::Dictionary(Box::new(DataType::Int16), Box::new(DataType::Int64)),
        DataType::Interval(IntervalUnit::DayTime),
    ])
}

fn mutations() -> impl Strategy<Value = Mutation> {
    let column = || 0..7usize;
    prop_oneof![
        6 => (column(), types()).prop_map(|(column, kind)| Mutation::Retyped(column, kind)),
        2 => column().prop_map(Mutation::Dropped),
        1 => (column(), prop::sample::select(vec!["Order ID", "ORDER_ID", "other"])).prop_map(|(c, n)| Mutation::Renamed(c, n)),
        1 => column().prop_map(Mutation::Repeated),
        1 => Just(Mutation::Reversed),
        1 => Just(Mutation::Extended),
        4 => (0.0..1.0, 0..8u8).prop_map(|(at, bit)| Mutation::Flipped(at, bit)),
        2 => (0.0..1.0, 1..200usize).prop_map(|(at, bytes)| Mutation::Zeroed(at, bytes)),
        2 => (0.0..1.0).prop_map(Mutation::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..50).prop_map(Mutation::Continued),
        1 => prop::collection::vec(any::<u8>(), 0..50).prop_map(Mutation::Replaced),
        1 => Just(Mutation::Replaced(b"order_id,customer_id\n1,1\n".to_vec())),
    ]
}

/// Whole seconds, quarters of money, small integers: other types can say the same. The last column is all NULL.
fn rows(file: i64) -> Vec<(String, ArrayRef)> {
    let ids = || file * ROWS..(file + 1) * ROWS;
    let micros = |id: i64| (1_780_272_000 + id * 1_234) * 1_000_000;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("order_id", Arc::new(Int64Array::from_iter_values(ids()))),
        ("customer_id", Arc::new(Int64Array::from_iter(ids().map(|id| (id % 7 > 0).then_some(id % 5))))),
        ("ordered_at", Arc::new(TimestampMicrosecondArray::from_iter_values(ids().map(micros)).with_timezone("UTC"))),
        ("amount", Arc::new(Float64Array::from_iter(ids().map(|id| (id % 11 > 0).then_some(id as f64 / 4.0))))),
        ("note", Arc::new(StringArray::from_iter(ids().map(|id| (id % 3 > 0).then(|| format!("note {}", id % 10)))))),
        ("refunded", Arc::new(BooleanArray::from_iter(ids().map(|id| Some(id % 4 == 0))))),
        ("gap", new_null_array(&DataType::Int64, ROWS as usize)),
    ];
    columns.into_iter().map(|(name, column)| (name.to_owned(), column)).collect()
}

fn write(path: &Path, columns: &[(String, ArrayRef)], compression: Compression) {
    let fields = columns.iter().map(|(name, column)| Field::new(name, column.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let batch =
        RecordBatch::try_new(Arc::clone(&schema), columns.iter().map(|(_, c)| Arc::clone(c)).collect()).unwrap();
    let properties = WriterProperties::builder().set_compression(compression).set_max_row_group_row_count(Some(25));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ParquetWriter::try_new(File::create(path).unwrap(), schema, properties.build()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
}

/// The same values in another type; `None` where it cannot say them, or cannot be written.
fn retyped(column: &ArrayRef, kind: &DataType) -> Option<ArrayRef> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    if *kind == DataType::Null {
        return (column.null_count() == column.len()).then(|| new_null_array(kind, column.len()));
    }
    let there = cast_with_options(column, kind, &strict).ok()?;
    let back = cast_with_options(&there, column.data_type(), &strict).ok()?;
    let is_writable = !matches!(kind, DataType::Interval(_));
    (back == column.clone() && is_writable).then_some(there)
}

/// Where the pages of a file end and its footer begins. A footer has no checksum, and what it says is believed.
fn end_of_pages(bytes: &[u8]) -> usize {
    let tail: [u8; 4] = bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap();
    bytes.len() - 8 - u32::from_le_bytes(tail) as usize
}

/// Applies a mutation to a file; `false` where it cannot be.
fn mutate(path: &Path, mutation: &Mutation, compression: Compression) -> bool {
    let mut columns = rows(1);
    let mut bytes = fs::read(path).unwrap();
    let at = |share: f64, bytes: &[u8]| 4 + (share * (end_of_pages(bytes) - 4) as f64) as usize;
    match mutation {
        Mutation::Retyped(column, kind) => match retyped(&columns[*column].1, kind) {
            Some(column_in_type) => columns[*column].1 = column_in_type,
            None => return false,
        },
        Mutation::Dropped(column) => drop(columns.remove(*column)),
        Mutation::Renamed(column, name) => (*name).clone_into(&mut columns[*column].0),
        Mutation::Repeated(column) => columns.push(columns[*column].clone()),
        Mutation::Reversed => columns.reverse(),
        Mutation::Extended => {
            let values = cast(&columns[0].1, &DataType::Utf8).unwrap();
            columns.insert(2, ("another".to_owned(), values));
        }
        Mutation::Flipped(share, bit) => {
            let at = at(*share, &bytes);
            bytes[at] ^= 1 << bit;
            fs::write(path, bytes).unwrap();
            return true;
        }
        Mutation::Zeroed(share, length) => {
            let (at, end) = (at(*share, &bytes), end_of_pages(&bytes));
            bytes[at..(at + length).min(end)].fill(0);
            fs::write(path, bytes).unwrap();
            return true;
        }
        Mutation::Cut(share) => {
            bytes.truncate((share * bytes.len() as f64) as usize);
            fs::write(path, bytes).unwrap();
            return true;
        }
        Mutation::Continued(more) => {
            bytes.extend(more);
            fs::write(path, bytes).unwrap();
            return true;
        }
        Mutation::Replaced(content) => {
            fs::write(path, content).unwrap();
            return true;
        }
    }
    write(path, &columns, compression);
    true
}

fn lake(compression: Compression) -> (SmallLake, PathBuf) {
    let lake = SmallLake::new();
    for (number, name) in FILES.iter().enumerate() {
        let path = lake.folder.path().join(format!("orders/{name}.parquet"));
        write(&path, &rows(number as i64), compression);
    }
    let path = lake.folder.path().join("orders/b.parquet");
    (lake.table("orders", COLUMNS, |table| table.event_time = Some("ordered_at".to_owned())), path)
}

/// The rows that SQL sees, or what is wrong.
fn answer(lake: &SmallLake) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let read = async {
            let session = lake.lake().session(lake.at("2026-07-01")).await?;
            let rows = session.sql("SELECT * FROM orders ORDER BY order_id").await?;
            tenure::Result::Ok(text(&rows.collect().await?))
        };
        read.await.map_err(|error| rendered(&error))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn mutations_of_a_file_change_no_answer_unless_an_error_names_it(
        mutation in mutations(),
        compression in prop::sample::select(vec![
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(ZstdLevel::default()),
        ]),
    ) {
        let (lake, path) = lake(compression);
        let right = answer(&lake).unwrap();
        prop_assume!(mutate(&path, &mutation, compression));
        match answer(&lake) {
            Ok(found) => prop_assert_eq!(found, right),
            Err(error) => {
                prop_assert!(error.contains("b.parquet"), "the file is not named: {}", error);
                prop_assert!(!error.contains("this is a bug in tenure"), "{}", error);
            }
        }
    }
}
