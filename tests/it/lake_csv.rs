//! CSV as other tools write it: read by the options of the table, or an error with file, line, column and rule.

use tenure::error::Error;
use tenure::spec::{CsvFormat, Format, TableSpec};

use crate::support::lake::SmallLake;

const ORDERS: &str = "order_id int64, customer_id int64, ordered_at timestamp, amount float64";

fn shop(content: &str, format: CsvFormat) -> SmallLake {
    let csv = |table: &mut TableSpec| {
        table.format = Format::Csv;
        table.event_time = Some("ordered_at".to_owned());
        table.csv = format;
    };
    SmallLake::new().file("orders/a.csv", content).table("orders", ORDERS, csv)
}

async fn rows(content: &str, format: CsvFormat) -> String {
    shop(content, format).query("2026-07-01", "SELECT * FROM orders ORDER BY order_id").await
}

/// What is said of a file, and what is advised.
async fn said(content: &[u8], format: CsvFormat) -> (String, String) {
    let lake = shop("", format);
    std::fs::write(lake.folder.path().join("orders/a.csv"), content).unwrap();
    let error: Error = match lake.lake().session(lake.at("2026-07-01")).await {
        Err(error) => error,
        Ok(context) => context.sql("SELECT * FROM orders").await.unwrap().collect().await.unwrap_err().into(),
    };
    let file = lake.url("orders/a.csv");
    let problem = error.into_problems().remove(0);
    let causes: Vec<String> = std::iter::once(problem.to_string()).chain(problem.causes()).collect();
    (causes.join(": ").replace(file.as_str(), "a.csv"), problem.hint.unwrap_or_default())
}

const HEAD: &str = "order_id,customer_id,ordered_at,amount\n";

#[tokio::test]
async fn plain_files_are_read_whatever_their_line_ends_and_quotes() {
    let plain =
        rows(&format!("{HEAD}1,1,2026-06-05T10:00:00,10\n2,,2026-06-05 10:00:00,3.5\n"), CsvFormat::default()).await;
    assert_eq!(plain, "1|1|2026-06-05T10:00:00Z|10.0; 2||2026-06-05T10:00:00Z|3.5");
    let windows =
        "\u{feff}amount,note,\"order_id\",customer_id,ordered_at\r\n3.5,\"a\r\nb, \"\"c\"\"\",1,1.0,2026-06-05\r\n\r\n";
    assert_eq!(rows(windows, CsvFormat::default()).await, "1|1|2026-06-05T00:00:00Z|3.5");
    assert_eq!(rows(HEAD, CsvFormat::default()).await, "");
}

#[tokio::test]
async fn the_options_of_the_table_say_how_values_are_written() {
    let european = CsvFormat { delimiter: b';', decimal_comma: true, ..CsvFormat::default() };
    let excel = "order_id;customer_id;ordered_at;amount\n1;1;2026-06-05 10:00:00;10,50\n";
    assert_eq!(rows(excel, european).await, "1|1|2026-06-05T10:00:00Z|10.5");
    let uci = CsvFormat {
        timestamp_format: Some("%m/%d/%Y %H:%M".to_owned()),
        null_values: vec![String::new(), "NA".to_owned()],
        ..CsvFormat::default()
    };
    let text = format!("{HEAD}1,12345.0,12/1/2010 8:26,2.55\n2,,12/1/2010 8:28,NA\n");
    assert_eq!(rows(&text, uci).await, "1|12345|2010-12-01T08:26:00Z|2.55; 2||2010-12-01T08:28:00Z|");
}

#[tokio::test]
async fn times_without_an_offset_are_on_the_clock_of_the_job() {
    let mut lake =
        shop(&format!("{HEAD}1,1,2026-06-05 10:00:00,1\n2,1,2026-06-05T10:00:00Z,1\n"), CsvFormat::default());
    lake.timezone = chrono_tz::Europe::Berlin;
    let times = lake.query("2026-07-01", "SELECT ordered_at FROM orders ORDER BY order_id").await;
    assert_eq!(times, "2026-06-05T10:00:00+02:00; 2026-06-05T12:00:00+02:00");
}

#[tokio::test]
async fn errors_name_file_line_column_and_rule_but_not_what_stands_there() {
    let of = |rows: &str| format!("{HEAD}1,1,2026-06-05T10:00:00,10\n{rows}").into_bytes();
    for (content, what, hint) in [
        (
            of("2,1,2026-06-05T10:00:00,NA\n"),
            "line 3: column `amount` is `NA`, which is no float64",
            "`null_values: [\"\", \"NA\"]`",
        ),
        (
            of("\n2,1,2026-06-05T10:00:00,\"1,5\"\n"),
            "line 4: column `amount` is a number with a comma",
            "`decimal: \",\"`",
        ),
        (of("2,anna@example.com,2026-06-05T10:00:00,1\n"), "line 3: column `customer_id` is no int64", "`utf8`"),
        (
            of("2,1.5,2026-06-05T10:00:00,1\n"),
            "line 3: column `customer_id` is a number that is not whole",
            "`float64`",
        ),
        (of("2,1,6/5/2026 10:00,1\n"), "line 3: column `ordered_at` is no timestamp", "`timestamp_format:"),
        (of("2,1,2026-06-05T10:00:00\n"), "line 3: 3 fields, where the header line has 4", "`delimiter: \";\"`"),
        (
            of("2,1,\"2026-06-05T10:00:00,1\n3,1,2026-06-05T10:00:00,1\n"),
            "line 3: a quote is opened and never closed",
            "`quote: none`",
        ),
        (b"order_id;customer_id;ordered_at;amount\n".to_vec(), "no column `order_id`", "`delimiter: \";\"`"),
        (b"order_id,customer_id,ordered_at,amount,caf\xe9\n".to_vec(), "the header line is no UTF-8", "ISO-8859-1"),
        (b"\xff\xfeo\0r\0".to_vec(), "UTF-16", "UTF-16"),
    ] {
        let (message, advice) = said(&content, CsvFormat::default()).await;
        assert!(message.contains(what) && message.contains("table `orders`") && message.contains("a.csv"), "{message}");
        assert!(!message.contains("anna"), "{message}");
        assert!(advice.contains(hint), "{message}: {advice}");
    }
}

#[tokio::test]
async fn latin_1_in_a_text_is_told() {
    let mut lake = shop("", CsvFormat::default());
    std::fs::write(lake.folder.path().join("orders/a.csv"), b"name\nMueller\nM\xfcller\n").unwrap();
    lake.tables.clear();
    let lake = lake.table("orders", "name utf8", |table| table.format = Format::Csv);
    let context = lake.lake().session(lake.at("2026-07-01")).await.unwrap();
    let error: Error = context.sql("SELECT * FROM orders").await.unwrap().collect().await.unwrap_err().into();
    let problem = error.into_problems().remove(0);
    assert!(problem.message.contains("line 3: column `name` holds bytes that are no UTF-8"), "{problem}");
    assert!(problem.hint.unwrap().contains("ISO-8859-1"));
}

#[tokio::test]
async fn many_rows_come_in_batches_and_many_files_in_partitions() {
    let mut lake = SmallLake::new();
    for file in 0..5 {
        let rows: String =
            (0..9_000).map(|i| format!("{},{},2026-06-05T10:00:00,{i}.25\n", file * 10_000 + i, i % 7)).collect();
        lake = lake.file(&format!("orders/dt=2026-06-0{}/{file}.csv", file + 1), &format!("{HEAD}{rows}"));
    }
    let lake = lake.table("orders", ORDERS, |table| {
        table.format = Format::Csv;
        table.partition_by = vec![("dt".to_owned(), tenure::spec::ColumnType::Date)];
    });
    let sql = "SELECT count(*), count(DISTINCT order_id), sum(amount), min(dt), max(dt) FROM orders";
    assert_eq!(lake.query("2026-07-01", sql).await, "45000|45000|202488750.0|2026-06-01|2026-06-05");
    assert_eq!(lake.query("2026-07-01", "SELECT count(*) FROM orders WHERE dt = '2026-06-02'").await, "9000");
}
