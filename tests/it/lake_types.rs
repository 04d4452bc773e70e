//! The types of files and of declarations: every pair gives the right values, or says what to do, and then does.

use std::path::Path;
use std::sync::Arc;

use arrow::array::*;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int8Type, Int32Type, Schema, TimeUnit, i256};
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use datafusion::parquet::arrow::ArrowWriter;
use tenure::error::{Error, Place};
use tenure::spec::{ColumnSpec, ColumnType, Format, TableSpec};

use crate::support::lake::{SmallLake, declare};
use crate::support::shop::{assert_exit, assert_success, tenure};

/// Writes columns as a Parquet file.
fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, array)| array).collect()).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A lake with one table `t` of one column `v`.
fn lake_of(files: &[ArrayRef]) -> SmallLake {
    let lake = SmallLake::new();
    for (i, array) in files.iter().enumerate() {
        write(&lake.folder.path().join(format!("t/{i}.parquet")), vec![("v", Arc::clone(array))]);
    }
    lake
}

fn declared(lake: &SmallLake, column_type: ColumnType) -> TableSpec {
    declare("t", lake.url("t/"), "v bool", |table| {
        table.columns = vec![ColumnSpec::new("v", column_type, Place::at("jobs/shop.yaml", 10, 5))];
    })
}

/// The values of `v` as text, NULL as an empty one; or what the first problem says and advises.
async fn read(lake: &mut SmallLake, column_type: ColumnType) -> Result<Vec<String>, (String, String)> {
    lake.tables = vec![declared(lake, column_type)];
    let said = |error: Error| {
        let problem = error.into_problems().remove(0);
        (problem.to_string(), problem.hint.clone().unwrap_or_default())
    };
    let session = lake.lake().session(lake.at("2026-07-01")).await.map_err(said)?;
    let rows = session.sql("SELECT v FROM t").await.unwrap().collect().await.map_err(|e| said(e.into()))?;
    let values = rows.iter().flat_map(|batch| {
        assert_eq!(*batch.column(0).data_type(), column_type.arrow(chrono_tz::UTC));
        (0..batch.num_rows()).map(|row| array_value_to_string(batch.column(0), row).unwrap())
    });
    Ok(values.collect())
}

/// A value as it is compared: numbers without idle zeros, times at midnight as days, text as bytes where bytes are declared.
fn normal(text: &str, column_type: ColumnType, is_text: bool) -> String {
    let mut text = text.to_owned();
    if let Some(day) = text.strip_suffix("T00:00:00Z").or_else(|| text.strip_suffix("T00:00:00")) {
        return day.to_owned();
    }
    if column_type == ColumnType::Binary && is_text {
        return text.bytes().map(|byte| format!("{byte:02x}")).collect();
    }
    text = text.trim_end_matches('Z').to_owned();
    if text.contains('.') && text.starts_with(|c: char| c.is_ascii_digit() || c == '-') && !text.contains(':') {
        text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

fn decimals(values: Vec<Option<i128>>, precision: u8, scale: i8) -> ArrayRef {
    Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap())
}

fn arrays() -> Vec<(ArrayRef, Vec<&'static str>)> {
    let small: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(100)]));
    let mut arrays: Vec<(ArrayRef, Vec<&str>)> = Vec::new();
    use DataType::*;
    let numbers = [Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64, Float32, Float64];
    let wide = [Decimal128(10, 2), Decimal128(38, 9), Decimal128(38, 0), Decimal256(50, 2)];
    for to in numbers.iter().chain(&wide) {
        arrays.push((cast(&small, to).unwrap(), vec!["1", "", "100"]));
    }
    arrays.push((cast(&cast(&small, &Float32).unwrap(), &Float16).unwrap(), vec!["1", "", "100"]));
    let halves: ArrayRef = Arc::new(Float64Array::from(vec![0.5, -2.25]));
    for to in [Float32, Float64, Decimal128(10, 2), Decimal128(38, 9), Decimal256(60, 20)] {
        arrays.push((cast(&halves, &to).unwrap(), vec!["0.5", "-2.25"]));
    }
    arrays.push((Arc::new(Int64Array::from(vec![(1 << 53) + 1])), vec!["9007199254740993"]));
    arrays.push((Arc::new(Int64Array::from(vec![i64::MIN])), vec!["-9223372036854775808"]));
    arrays.push((Arc::new(UInt64Array::from(vec![u64::MAX])), vec!["18446744073709551615"]));
    arrays.push((Arc::new(Float64Array::from(vec![1e300])), vec!["1e300"]));
    let long = i256::from_string(&"9".repeat(70)).unwrap();
    let long = Decimal256Array::from(vec![long]).with_precision_and_scale(76, 0).unwrap();
    arrays.push((Arc::new(long), vec!["9999999999999999999999999999999999999999999999999999999999999999999999"]));
    arrays.push((Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])), vec!["true", "", "false"]));
    let words: ArrayRef = Arc::new(StringArray::from(vec![Some("SUMMER"), None, Some("1")]));
    for to in [Utf8, LargeUtf8, Utf8View, Binary, LargeBinary, BinaryView] {
        arrays.push((cast(&words, &to).unwrap(), vec!["SUMMER", "", "1"]));
    }
    let dictionary: DictionaryArray<Int32Type> = vec![Some("a"), None, Some("a")].into_iter().collect();
    arrays.push((Arc::new(dictionary), vec!["a", "", "a"]));
    let keys = Int8Array::from(vec![Some(0), None, Some(1)]);
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
    arrays.push((Arc::new(DictionaryArray::<Int8Type>::new(keys, ids)), vec!["7", "", "8"]));
    let uuid: Vec<u8> = (0..16).collect();
    let fixed = FixedSizeBinaryArray::try_from_iter([uuid].into_iter()).unwrap();
    arrays.push((Arc::new(fixed), vec!["00010203-0405-0607-0809-0a0b0c0d0e0f"]));
    let fixed = FixedSizeBinaryArray::try_from_iter([[1_u8, 255]].into_iter()).unwrap();
    arrays.push((Arc::new(fixed), vec!["01ff"]));
    let uuids = StringArray::from(vec!["00010203-0405-0607-0809-0A0B0C0D0E0F"]);
    arrays.push((Arc::new(uuids), vec!["00010203-0405-0607-0809-0A0B0C0D0E0F"]));
    let days: ArrayRef = Arc::new(Date32Array::from(vec![Some(20_000), None]));
    arrays.push((Arc::clone(&days), vec!["2024-10-04", ""]));
    arrays.push((cast(&days, &Date64).unwrap(), vec!["2024-10-04", ""]));
    for zone in [None, Some("UTC"), Some("+02:00")] {
        for unit in [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
            let naive = cast(&days, &Timestamp(unit, None)).unwrap();
            let at_midnight = cast(&naive, &Timestamp(unit, Some("UTC".into()))).unwrap();
            let at_midnight = match zone {
                None => naive,
                Some(zone) => cast(&at_midnight, &Timestamp(unit, Some(zone.into()))).unwrap(),
            };
            arrays.push((at_midnight, vec!["2024-10-04", ""]));
        }
    }
    let noon: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![20_000 * 86_400_000 + 12 * 3_600_000]));
    arrays.push((noon, vec!["2024-10-04T12:00:00"]));
    arrays.push((new_null_array(&Null, 2), vec!["", ""]));
    arrays.push((cast(&Int32Array::from(vec![1]), &Time32(TimeUnit::Millisecond)).unwrap(), vec!["?"]));
    arrays.push((cast(&Int64Array::from(vec![1]), &Time64(TimeUnit::Microsecond)).unwrap(), vec!["?"]));
    arrays.push((cast(&Int64Array::from(vec![1]), &Duration(TimeUnit::Millisecond)).unwrap(), vec!["?"]));
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)])]);
    arrays.push((Arc::new(list), vec!["?"]));
    let field: (Arc<Field>, ArrayRef) = (Arc::new(Field::new("x", Int32, true)), Arc::new(Int32Array::from(vec![1])));
    arrays.push((Arc::new(StructArray::from(vec![field])), vec!["?"]));
    arrays
}

fn declarations() -> Vec<ColumnType> {
    let decimals = [(4, 2), (10, 2), (20, 0), (38, 9), (38, 0), (76, 20)].map(|(p, s)| ColumnType::Decimal(p, s));
    ColumnType::NAMES.iter().map(|(_, column_type)| *column_type).chain(decimals).collect()
}

/// The type that a hint advises, if it does.
fn advised(hint: &str) -> Option<ColumnType> {
    let rest = hint.split_once("declare it as `")?.1;
    Some(ColumnType::parse(rest.split_once('`')?.0).unwrap_or_else(|| panic!("no type: {hint}")))
}

#[tokio::test]
async fn every_pair_of_types_gives_the_right_values_or_advice_that_works() {
    let (mut right, mut refused) = (0, 0);
    for (array, expected) in arrays() {
        let is_text = expected != ["01ff"] && !expected[0].starts_with("00010203-0405-0607-0809-0a");
        let mut lake = lake_of(&[Arc::clone(&array)]);
        for column_type in declarations() {
            let pair = format!("{} as {column_type}", array.data_type());
            match read(&mut lake, column_type).await {
                Ok(values) => {
                    right += 1;
                    let expected: Vec<String> = expected
                        .iter()
                        .map(|text| {
                            let text =
                                if column_type == ColumnType::Uuid { text.to_lowercase() } else { (*text).to_owned() };
                            match (column_type, is_text) {
                                (ColumnType::Binary, false) => text.replace('-', ""),
                                _ => normal(&text, column_type, is_text),
                            }
                        })
                        .collect();
                    let values: Vec<String> = values.iter().map(|text| normal(text, column_type, false)).collect();
                    let same = values.iter().zip(&expected).all(|(a, b)| {
                        let float = match column_type.arrow(chrono_tz::UTC) {
                            DataType::Float32 => a.parse::<f32>().ok().map(f64::from),
                            DataType::Float64 => a.parse::<f64>().ok(),
                            _ => None,
                        };
                        // All digits of a float, for its shortest form hides that some are wrong.
                        a == b || float.is_some_and(|a| format!("{a:.0}") == *b || (b == "1e300" && a == 1e300))
                    });
                    assert!(same && values.len() == expected.len(), "{pair}: {values:?} for {expected:?}");
                }
                Err((message, hint)) => {
                    refused += 1;
                    assert!(message.contains("table `t`") && message.contains("`v`"), "{pair}: {message}");
                    assert!(message.contains(&column_type.to_string()), "{pair}: {message}");
                    assert!(message.contains("0.parquet"), "{pair}: {message}");
                    assert!(!hint.is_empty(), "{pair}: {message}");
                    match advised(&hint) {
                        Some(other) => {
                            let found = read(&mut lake, other).await;
                            assert!(found.is_ok(), "{pair}: {hint} leads to {found:?}");
                        }
                        None => assert!(
                            hint.starts_with("no type of a job file holds")
                                || hint.starts_with("name one of its fields")
                                || hint == "write the file with the declared type",
                            "{pair}: {message}: {hint}"
                        ),
                    }
                }
            }
        }
    }
    assert!(right > 300 && refused > 700, "{right} pairs are read, {refused} refused");
}

#[tokio::test]
async fn advice_holds_for_all_files_of_a_table() {
    // Two files each: whatever is advised for one must do for the other.
    let arrays = arrays();
    for (i, (a, _)) in arrays.iter().enumerate().step_by(3) {
        for (b, _) in arrays.iter().skip(i % 5).step_by(5) {
            let mut lake = lake_of(&[Arc::clone(a), Arc::clone(b)]);
            for column_type in [ColumnType::Bool, ColumnType::Int64, ColumnType::Utf8, ColumnType::Date] {
                lake.tables = vec![declared(&lake, column_type)];
                let Err(error) = lake.lake().session(lake.at("2026-07-01")).await else { continue };
                for problem in error.problems() {
                    let Some(other) = problem.hint.as_deref().and_then(advised) else { continue };
                    lake.tables = vec![declared(&lake, other)];
                    let opened = lake.lake().session(lake.at("2026-07-01")).await;
                    let types = format!("{} and {} as {column_type}", a.data_type(), b.data_type());
                    assert!(opened.is_ok(), "{types}: {problem}: {:?}", problem.hint);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_value_that_does_not_fit_names_its_file() {
    let whole: ArrayRef = Arc::new(Float64Array::from(vec![Some(2.0), None]));
    let broken: ArrayRef = Arc::new(Float64Array::from(vec![Some(2.5)]));
    let ints: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let mut lake = lake_of(&[ints, whole, broken]);
    let (message, hint) = read(&mut lake, ColumnType::Int64).await.unwrap_err();
    let file = lake.url("t/2.parquet");
    let said =
        format!("jobs/shop.yaml:10:5: in table `t`: `{file}` has `2.5` in column `v`, which is declared as int64");
    assert_eq!(message, said);
    assert_eq!(hint, "declare it as `float64`, or write the file with the declared type");
    assert_eq!(read(&mut lake, ColumnType::Float64).await.unwrap().len(), 4);
}

#[tokio::test]
async fn filters_and_pruning_see_converted_values() {
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), Some(5.0), None]));
    let nulls = new_null_array(&DataType::Null, 2);
    let narrow: ArrayRef = Arc::new(Int8Array::from(vec![5, 7]));
    let mut lake = lake_of(&[floats, nulls, narrow]);
    lake.tables = vec![declared(&lake, ColumnType::Int64)];
    assert_eq!(lake.query("2026-07-01", "SELECT count(*) FROM t WHERE v = 5").await, "2");
    assert_eq!(lake.query("2026-07-01", "SELECT count(*) FROM t WHERE v > 5").await, "1");
    assert_eq!(lake.query("2026-07-01", "SELECT count(*) FROM t WHERE v IS NULL").await, "3");
    assert_eq!(lake.query("2026-07-01", "SELECT sum(v) FROM t").await, "18");
}

fn column(name: &str, column_type: ColumnType, from: &[&str], optional: bool) -> ColumnSpec {
    let from = from.iter().map(|name| (*name).to_owned()).collect();
    ColumnSpec { from, optional, ..ColumnSpec::new(name, column_type, Place::at("jobs/shop.yaml", 10, 5)) }
}

#[tokio::test]
async fn columns_have_other_names_stand_in_structs_or_are_missing() {
    let city = |names: Vec<Option<&str>>| -> ArrayRef {
        let zip: ArrayRef = Arc::new(Float64Array::from(vec![Some(10115.0); names.len()]));
        let field = |name: &str, to: DataType| Arc::new(Field::new(name, to, true));
        let inner: ArrayRef = Arc::new(StructArray::from(vec![(field("zip", DataType::Float64), zip)]));
        let nulls = names.iter().map(|name| name.is_some()).collect::<Vec<_>>().into();
        let fields = vec![field("city", DataType::Utf8), field("code", inner.data_type().clone())];
        Arc::new(StructArray::new(fields.into(), vec![Arc::new(StringArray::from(names)), inner], Some(nulls)))
    };
    let mut lake = SmallLake::new();
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let old = vec![
        ("Order ID", Arc::clone(&ids)),
        ("shop.id", Arc::clone(&ids)),
        ("address", city(vec![Some("Bonn"), None])),
    ];
    write(&lake.folder.path().join("t/a.parquet"), old);
    let more: ArrayRef = Arc::new(Float32Array::from(vec![0.5]));
    let new = vec![
        ("DISCOUNT", more),
        ("address", city(vec![Some("Kiel")])),
        ("Order ID", ids.slice(0, 1)),
        ("shop.id", ids.slice(1, 1)),
    ];
    write(&lake.folder.path().join("t/b.parquet"), new);
    lake.tables = vec![declared(&lake, ColumnType::Int64)];
    lake.tables[0].columns = vec![
        column("order_id", ColumnType::Int64, &["Order ID"], false),
        column("shop", ColumnType::Int64, &["shop.id"], false),
        column("city", ColumnType::Utf8, &["address", "city"], false),
        column("zip", ColumnType::Int64, &["address", "code", "zip"], false),
        column("discount", ColumnType::Float64, &["DISCOUNT"], true),
        column("note", ColumnType::Utf8, &["address", "note"], true),
    ];
    let all = lake.query("2026-07-01", "SELECT * FROM t ORDER BY order_id, shop").await;
    assert_eq!(all, "1|1|Bonn|10115||; 1|2|Kiel|10115|0.5|; 2|2||||");
    assert_eq!(lake.query("2026-07-01", "SELECT count(*) FROM t WHERE city = 'Kiel' AND zip > 9").await, "1");
    assert_eq!(lake.query("2026-07-01", "SELECT count(*) FROM t WHERE discount IS NULL").await, "2");

    lake.tables[0].columns[4].optional = false;
    let Err(error) = lake.lake().session(lake.at("2026-07-01")).await else { panic!("a column is missing") };
    let problem = error.problems().next().unwrap();
    assert!(problem.message.contains("a.parquet` has no column `DISCOUNT`, which is declared as float64"), "{problem}");
    let hint = problem.hint.as_deref().unwrap();
    assert!(
        hint.ends_with("where files may lack it: `discount: {type: float64, from: DISCOUNT, optional: true}`"),
        "{hint}"
    );
}

#[tokio::test]
async fn csv_columns_have_other_names_or_are_missing_too() {
    let mut lake = SmallLake::new();
    lake = lake.file("t/a.csv", "Order ID,amount\n1,2.5\n").file("t/b.csv", "coupon,amount,Order ID\nX,3.5,2\n");
    lake.tables = vec![declared(&lake, ColumnType::Int64)];
    lake.tables[0].format = Format::Csv;
    lake.tables[0].columns = vec![
        column("order_id", ColumnType::Int64, &["Order ID"], false),
        column("coupon", ColumnType::Utf8, &["coupon"], true),
        column("amount", ColumnType::Float64, &["amount"], false),
    ];
    assert_eq!(lake.query("2026-07-01", "SELECT * FROM t ORDER BY 1").await, "1||2.5; 2|X|3.5");
    assert_eq!(lake.query("2026-07-01", "SELECT coupon FROM t ORDER BY 1").await, "X; ");
}

/// Keys of every type: the key in the files, as `--key` takes it, and as it is published.
fn keys() -> Vec<(&'static str, ArrayRef, ArrayRef, &'static str, &'static str)> {
    let uuids = |first: u8| -> ArrayRef {
        let bytes = (0..2).map(|i| [first + i; 16].to_vec());
        Arc::new(FixedSizeBinaryArray::try_from_iter(bytes).unwrap())
    };
    let bytes = |values: Vec<&[u8]>| -> ArrayRef { Arc::new(BinaryArray::from(values)) };
    let texts = |values: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let days = |values: Vec<i32>| -> ArrayRef { Arc::new(Date32Array::from(values)) };
    let largest: ArrayRef = Arc::new(UInt64Array::from(vec![7, u64::MAX]));
    let small: ArrayRef = Arc::new(Int16Array::from(vec![7, 9]));
    vec![
        (
            "uuid",
            uuids(1),
            texts(vec!["01010101-0101-0101-0101-010101010101", "{02020202-0202-0202-0202-020202020202}"]),
            "02020202-0202-0202-0202-020202020202",
            "02020202-0202-0202-0202-020202020202",
        ),
        ("binary", bytes(vec![b"\x01", b"\xca\xfe"]), bytes(vec![b"\x01", b"\xca\xfe"]), "0xCAFE", "cafe"),
        ("uint64", Arc::clone(&largest), largest, "18446744073709551615", "18446744073709551615"),
        (
            "\"decimal(38, 0)\"",
            decimals(vec![Some(7), Some(10_i128.pow(30))], 38, 0),
            decimals(vec![Some(7), Some(10_i128.pow(30))], 38, 0),
            "1000000000000000000000000000000",
            "1000000000000000000000000000000",
        ),
        ("\"decimal(12, 0)\"", decimals(vec![Some(7), Some(9)], 12, 0), Arc::clone(&small), "9", "9"),
        ("int16", Arc::clone(&small), small, "9", "9"),
        ("date", days(vec![20_000, 20_001]), days(vec![20_000, 20_001]), "2024-10-05", "2024-10-05"),
        ("utf8", texts(vec!["anna", "bob"]), bytes(vec![b"anna", b"bob"]), "bob", "bob"),
    ]
}

#[test]
fn keys_of_every_type_go_through_features_states_segments_and_rejects() {
    for (kind, customers, orders, asked, published) in keys() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let times =
            |times: Vec<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")) };
        let day = 86_400_000_000_i64;
        let signed_up = times(vec![20_000 * day, 20_000 * day]);
        write(&at("lake/customers/a.parquet"), vec![("customer_id", customers), ("signed_up_at", signed_up)]);
        // The second customer buys twice; a third row is rejected.
        let twice = UInt32Array::from(vec![0, 1, 1, 1]);
        let orders = arrow::compute::take(&orders, &twice, None).unwrap();
        let ordered = times((0..4).map(|i| (20_600 + i) * day).collect());
        let amounts = decimals(vec![Some(1050), Some(10), Some(20), Some(-1)], 18, 2);
        write(
            &at("lake/orders/dt=2026-05-27/a.parquet"),
            vec![("customer_id", orders), ("ordered_at", ordered), ("amount", amounts)],
        );
        let job = format!(
            "version: 1\nname: keys\nlake: file://./lake\nentity: {{table: customers, key: customer_id, since: signed_up_at}}\n\
             tables:\n  customers: {{path: customers/, columns: {{customer_id: {kind}, signed_up_at: timestamp}}}}\n  \
             orders:\n    path: orders/\n    partition_by: {{dt: date}}\n    event_time: ordered_at\n    columns:\n      \
             customer_id: {kind}\n      ordered_at: timestamp\n      amount: decimal(18, 2)\n    \
             checks: {{range: {{amount: {{min: 0}}}}}}\n\
             features: [sql/features/*.sql]\n\
             segments: {{stages: [{{name: buyer, when: \"orders_lifetime > 1\"}}, {{name: prospect}}]}}\n\
             state: {{path: _state/}}\npublish: {{path: out/, features: true}}\n"
        );
        std::fs::write(at("job.yaml"), job).unwrap();
        std::fs::create_dir_all(at("sql/features")).unwrap();
        let sql = "-- @description  Orders.\n-- @owner  growth\n-- @windows  30d lifetime\nSELECT\n    customer_id,\n    \
                   count(*) AS orders, -- orders\n    sum(amount) AS spend -- money\nFROM orders\nGROUP BY customer_id\n";
        std::fs::write(at("sql/features/orders.sql"), sql).unwrap();
        let job = at("job.yaml");
        let job = job.to_str().unwrap();
        for night in ["2026-07-01", "2026-07-02"] {
            assert_success(&tenure(&["run", job, "--as-of", night]));
        }
        let shown = tenure(&["features", "show", job, "--as-of", "2026-07-02", "--key", asked]);
        assert_success(&shown);
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains(published) && shown.contains("0.3"), "{kind}: {shown}");
        let night =
            |table: &str, night: &str| read_rows(&at(&format!("lake/out/{table}/ds={night}/part-00000.parquet")));
        let segments = night("segments", "2026-07-02");
        assert_eq!(segments.len(), 2, "{kind}");
        let buyers = segments.iter().filter(|row| row.starts_with(&format!("{published}|buyer|buyer"))).count();
        assert!(buyers == 1 && segments.iter().any(|row| row.contains("|prospect|")), "{kind}: {segments:?}");
        let features = night("features", "2026-07-02");
        let of = |end: &str| features.iter().filter(|row| row.ends_with(end)).collect::<Vec<_>>();
        assert!(of("|0|1|0.0|10.5").len() == 1, "{kind}: {features:?}");
        assert!(of("|0|2|0.0|0.3").iter().any(|row| row.starts_with(published)), "{kind}: {features:?}");
        let rejects = night("rejects", "2026-07-02");
        assert!(
            rejects.len() == 1 && rejects[0].contains("\\\"amount\\\"") || rejects[0].contains("\"amount\""),
            "{rejects:?}"
        );
    }
}

/// The rows of a published table: values by `|`.
fn read_rows(path: &Path) -> Vec<String> {
    use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let rows = |batch: RecordBatch| {
        let value = |batch: &RecordBatch, row: usize| {
            let cells = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
            cells.collect::<Vec<_>>().join("|")
        };
        (0..batch.num_rows()).map(|row| value(&batch, row)).collect::<Vec<_>>()
    };
    reader.flat_map(|batch| rows(batch.unwrap())).collect()
}

#[test]
fn a_key_that_is_none_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let keys: ArrayRef = Arc::new(Date32Array::from(vec![20_000]));
    write(&folder.path().join("lake/customers/a.parquet"), vec![("customer_id", keys)]);
    let job = folder.path().join("job.yaml");
    let text = "version: 1\nname: keys\nlake: file://./lake\nentity: {table: customers, key: customer_id}\n\
                tables: {customers: {path: customers/, columns: {customer_id: date}}}\nfeatures: [sql/*.sql]\n";
    std::fs::write(&job, text).unwrap();
    std::fs::create_dir_all(folder.path().join("sql")).unwrap();
    let sql = "-- @description  One.\n-- @owner  growth\nSELECT customer_id, 1 AS one -- one\nFROM customers\n";
    std::fs::write(folder.path().join("sql/one.sql"), sql).unwrap();
    let job = job.to_str().unwrap();
    let output = tenure(&["features", "show", job, "--as-of", "2026-07-02", "--key", "yesterday"]);
    assert_exit(&output, 1);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("`yesterday` is not a key") && said.contains("`customer_id` is of type date"), "{said}");
}
