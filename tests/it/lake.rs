//! Point-in-time tables: what is visible, what is read, what is refused.

use tenure::error::{Class, Error};
use tenure::lake::{EngineOptions, InputObject, Lake, Visibility};
use tenure::spec::{ColumnType, Format, TableSpec};

use crate::support::lake::{SmallLake, declare, rows, text};
use crate::support::s3::{S3Server, env_for};

const ORDERS: &str = "order_id int64, ordered_at timestamp, amount float64";

fn said(error: Error) -> Vec<String> {
    let line = |p: &tenure::error::Problem| match &p.hint {
        Some(hint) => format!("{p} | {hint}"),
        None => p.to_string(),
    };
    error.problems().map(line).collect()
}

fn by_event(table: &mut TableSpec) {
    table.event_time = Some("ordered_at".to_owned());
}

async fn three_orders() -> SmallLake {
    let select = "SELECT * FROM (VALUES
        (1, arrow_cast('2026-06-30T23:59:59.999999Z', 'Timestamp(Microsecond, Some(\"UTC\"))'), 1.0),
        (2, arrow_cast('2026-07-01T00:00:00Z', 'Timestamp(Microsecond, Some(\"UTC\"))'), 2.0),
        (3, arrow_cast('2026-07-01T00:00:00.000001Z', 'Timestamp(Microsecond, Some(\"UTC\"))'), 4.0),
        (4, NULL, 8.0)) AS t(order_id, ordered_at, amount)";
    SmallLake::new().parquet("orders/a.parquet", select).await.table("orders", ORDERS, by_event)
}

#[tokio::test]
async fn only_what_happened_before_the_instant_exists() {
    let lake = three_orders().await;
    assert_eq!(lake.query("2026-06-30", "SELECT count(*) FROM orders").await, "0");
    assert_eq!(lake.query("2026-07-01", "SELECT order_id FROM orders").await, "1");
    assert_eq!(lake.query("2026-07-02", "SELECT order_id FROM orders ORDER BY 1").await, "1; 2; 3");
}

#[tokio::test]
async fn no_form_of_sql_sees_what_lies_ahead() {
    let lake = three_orders().await;
    for sql in [
        "SELECT sum(amount) FROM orders",
        "SELECT sum(o.amount) FROM orders o JOIN orders p ON o.amount >= p.amount",
        "WITH o AS (SELECT * FROM orders) SELECT sum(amount) FROM (SELECT * FROM o UNION SELECT * FROM o)",
        "SELECT (SELECT max(amount) FROM orders)",
        "SELECT amount FROM (VALUES (1.0), (2.0), (4.0)) t(amount) WHERE amount IN (SELECT amount FROM orders)",
        "SELECT amount FROM (VALUES (1.0), (2.0)) t(amount) WHERE EXISTS (SELECT 1 FROM orders o WHERE o.amount = t.amount)",
        "SELECT max(m) FROM (SELECT max(amount) OVER () AS m FROM orders WHERE ordered_at IS NULL OR true)",
        "SELECT amount FROM orders WHERE ordered_at >= '2026-01-01' OR ordered_at IS NULL OR amount > 0",
        "SELECT amount FROM orders ORDER BY ordered_at DESC NULLS FIRST LIMIT 1",
    ] {
        assert_eq!(lake.query("2026-07-01", sql).await, "1.0", "{sql}");
    }
}

#[tokio::test]
async fn a_row_is_visible_only_once_it_was_known() {
    let select = "SELECT * FROM (VALUES
        (1, arrow_cast('2026-06-01T00:00:00', 'Timestamp(Microsecond, None)'), arrow_cast('2026-06-02T00:00:00', 'Timestamp(Microsecond, None)')),
        (2, arrow_cast('2026-06-01T00:00:00', 'Timestamp(Microsecond, None)'), arrow_cast('2026-07-05T00:00:00', 'Timestamp(Microsecond, None)')),
        (3, arrow_cast('2026-06-01T00:00:00', 'Timestamp(Microsecond, None)'), NULL)) AS t(order_id, ordered_at, loaded_at)";
    let lake = SmallLake::new().parquet("orders/a.parquet", select).await;
    let lake = lake.table("orders", "order_id int64, ordered_at timestamp, loaded_at timestamp", |table| {
        by_event(table);
        table.known_at = Some("loaded_at".to_owned());
    });
    let sql = "SELECT order_id FROM orders ORDER BY 1";
    assert_eq!(lake.query("2026-07-01", sql).await, "1");
    assert_eq!(lake.query("2026-07-06", sql).await, "1; 2");
    let then = Visibility { until: lake.day("2026-07-01").instant(), known: lake.day("2026-07-06").instant() };
    assert_eq!(rows(&lake.lake().session(then).await.unwrap(), sql).await, "1; 2");
}

#[tokio::test]
async fn an_event_date_is_a_day_of_the_jobs_time_zone() {
    let select = "SELECT arrow_cast(d, 'Date32') AS day FROM (VALUES ('2026-06-30'), ('2026-07-01')) t(d)";
    let mut lake = SmallLake::new().parquet("visits/a.parquet", select).await;
    lake = lake.table("visits", "day date", |table| table.event_time = Some("day".to_owned()));
    for timezone in [chrono_tz::UTC, chrono_tz::America::New_York, chrono_tz::Pacific::Auckland] {
        lake.timezone = timezone;
        assert_eq!(lake.query("2026-07-01", "SELECT day FROM visits").await, "2026-06-30", "{timezone}");
    }
}

#[tokio::test]
async fn narrower_types_are_widened_to_the_declared_ones() {
    for (declared, value, expected) in [
        ("int16", "arrow_cast(200, 'UInt8')", "200"),
        ("int32", "arrow_cast(-5, 'Int8')", "-5"),
        ("int64", "arrow_cast(7, 'Int32')", "7"),
        ("int64", "arrow_cast(4000000000, 'UInt32')", "4000000000"),
        ("int64", "arrow_cast(12, 'Decimal128(18, 0)')", "12"),
        ("float32", "arrow_cast(3, 'Int16')", "3.0"),
        ("float64", "arrow_cast(1.5, 'Float32')", "1.5"),
        ("float64", "arrow_cast(3, 'Int32')", "3.0"),
        ("float64", "arrow_cast(12.34, 'Decimal128(10, 2)')", "12.34"),
        ("utf8", "arrow_cast('å', 'LargeUtf8')", "å"),
        ("utf8", "arrow_cast('å', 'Utf8View')", "å"),
        ("utf8", "arrow_cast('å', 'Dictionary(Int32, Utf8)')", "å"),
        ("bool", "true", "true"),
        ("date", "arrow_cast('2026-07-01', 'Date32')", "2026-07-01"),
        ("timestamp", "arrow_cast('2026-07-01T10:00:00', 'Timestamp(Second, None)')", "2026-07-01T10:00:00Z"),
        (
            "timestamp",
            "arrow_cast('2026-07-01T10:00:00.5', 'Timestamp(Millisecond, None)')",
            "2026-07-01T10:00:00.500Z",
        ),
        (
            "timestamp",
            "arrow_cast(arrow_cast('2026-07-01T10:00:00+02:00', 'Timestamp(Microsecond, Some(\"UTC\"))'), 'Timestamp(Microsecond, Some(\"Europe/Berlin\"))')",
            "2026-07-01T08:00:00Z",
        ),
        (
            "timestamp",
            "arrow_cast('2026-07-01T10:00:00.123456789', 'Timestamp(Nanosecond, None)')",
            "2026-07-01T10:00:00.123456Z",
        ),
    ] {
        let lake = SmallLake::new().parquet("t/a.parquet", &format!("SELECT {value} AS x, 1 AS other")).await;
        let lake = lake.table("t", &format!("x {declared}"), |_| {});
        let context = lake.lake().session(lake.at("2026-07-01")).await.unwrap();
        let batches = context.sql("SELECT * FROM t").await.unwrap().collect().await.unwrap();
        let wanted = ColumnType::NAMES.iter().find(|(name, _)| *name == declared).unwrap().1.arrow(chrono_tz::UTC);
        assert_eq!(batches[0].schema().field(0).data_type(), &wanted, "{value}");
        assert_eq!(text(&batches), expected, "{value} as {declared}");
    }
}

#[tokio::test]
async fn files_of_several_widths_are_one_table_and_a_widened_event_time_still_hides_the_future() {
    let lake = SmallLake::new()
        .parquet("orders/a.parquet", "SELECT arrow_cast(1, 'Int32') AS order_id, arrow_cast('2026-06-01T00:00:00', 'Timestamp(Nanosecond, None)') AS ordered_at, arrow_cast(1, 'Float32') AS amount")
        .await
        .parquet("orders/b.parquet", "SELECT 'x' AS more, arrow_cast(2, 'Float64') AS amount, arrow_cast('2026-07-01T00:00:00Z', 'Timestamp(Millisecond, Some(\"UTC\"))') AS ordered_at, 2 AS order_id")
        .await
        .table("orders", ORDERS, by_event);
    assert_eq!(lake.query("2026-07-01", "SELECT order_id, amount FROM orders").await, "1|1.0");
    assert_eq!(lake.query("2026-07-02", "SELECT order_id, amount FROM orders ORDER BY 1").await, "1|1.0; 2|2.0");
}

#[tokio::test]
async fn all_that_is_not_as_declared_is_said_at_once() {
    let lake = SmallLake::new()
        .parquet("orders/a.parquet", "SELECT 1 AS orderId, 2.5 AS amount, arrow_cast('2026-06-01T00:00:00', 'Timestamp(Microsecond, None)') AS ordered_at")
        .await
        .parquet("orders/b.parquet", "SELECT 1 AS order_id, 'much' AS amount, arrow_cast('2026-06-01T00:00:00', 'Timestamp(Microsecond, None)') AS ordered_at")
        .await
        .parquet("visits/a.parquet", "SELECT 1 AS page")
        .await
        .table("orders", ORDERS, by_event)
        .table("visits", "url utf8", |_| {});
    let error = lake.lake().session(lake.at("2026-07-01")).await.err().unwrap();
    assert_eq!(error.class(), Class::User);
    let (a, b, v) = (lake.url("orders/a.parquet"), lake.url("orders/b.parquet"), lake.url("visits/a.parquet"));
    assert_eq!(
        said(error),
        [
            format!(
                "jobs/shop.yaml:10:5: in table `orders`, `{a}` has no column `order_id`, which is declared as int64 | the file has `orderid`: `order_id: {{type: int64, from: orderid}}`"
            ),
            format!(
                "jobs/shop.yaml:12:5: in table `orders`, `{b}` has column `amount` as utf8, but it is declared as float64 | the files have it as float64, utf8, and no one type holds them all: write them alike"
            ),
            format!(
                "jobs/shop.yaml:10:5: in table `visits`, `{v}` has no column `url`, which is declared as utf8 | the file has `page`; where files may lack it: `url: {{type: utf8, optional: true}}`"
            ),
        ]
    );
}

#[tokio::test]
async fn a_file_that_is_no_parquet_is_named() {
    let lake = SmallLake::new().file("orders/a.parquet", "order_id,amount\n").table("orders", ORDERS, by_event);
    let error = lake.lake().session(lake.at("2026-07-01")).await.err().unwrap();
    assert_eq!(error.class(), Class::User);
    let file = lake.url("orders/a.parquet");
    assert_eq!(error.to_string(), format!("jobs/shop.yaml:8:3: in table `orders`, `{file}` cannot be read"));
}

async fn partitioned() -> SmallLake {
    let mut lake = SmallLake::new();
    for (folder, time) in [
        ("dt=2026-06-29", "2026-06-29T10:00:00"),
        ("dt=2026-06-30", "2026-06-30T10:00:00"),
        // Written by the clock of Auckland: 2026-07-01 there, before midnight in UTC.
        ("dt=2026-07-01", "2026-06-30T20:00:00"),
        ("dt=2026-07-02", "2026-07-02T10:00:00"),
        ("dt=__HIVE_DEFAULT_PARTITION__", "2026-06-01T10:00:00"),
        ("_staging/dt=2026-06-29", "2026-06-29T11:00:00"),
    ] {
        let select = format!(
            "SELECT 1 AS order_id, arrow_cast('{time}', 'Timestamp(Microsecond, None)') AS ordered_at, 1.0 AS amount"
        );
        lake = lake.parquet(&format!("orders/{folder}/a.parquet"), &select).await;
    }
    lake.file("orders/_SUCCESS", "").file("orders/dt=2026-06-29/.a.parquet.crc", "x").table("orders", ORDERS, |table| {
        by_event(table);
        table.partition_by = vec![("dt".to_owned(), ColumnType::Date)];
    })
}

#[tokio::test]
async fn partitions_that_lie_ahead_are_neither_listed_nor_opened() {
    let lake = partitioned().await;
    // A file that cannot be read would show if it were opened.
    std::fs::write(lake.folder.path().join("orders/dt=2026-07-02/a.parquet"), "broken").unwrap();
    let inputs = lake.lake().inputs(lake.at("2026-07-01").until).await.unwrap();
    let paths: Vec<&str> = inputs.iter().map(|input| input.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "dt=2026-06-29/a.parquet",
            "dt=2026-06-30/a.parquet",
            "dt=2026-07-01/a.parquet",
            "dt=__HIVE_DEFAULT_PARTITION__/a.parquet"
        ]
    );
    let InputObject { table, size, etag, .. } = &inputs[0];
    assert!(table == "orders" && *size > 100 && etag.is_some());
    let sql = "SELECT dt FROM orders ORDER BY dt NULLS LAST";
    assert_eq!(lake.query("2026-07-01", sql).await, "2026-06-29; 2026-06-30; 2026-07-01; ");
    assert_eq!(lake.query("2026-06-30", sql).await, "2026-06-29; ");
}

#[tokio::test]
async fn a_file_outside_of_a_partition_folder_is_refused() {
    let lake = partitioned().await.parquet("orders/loose.parquet", "SELECT 1 AS order_id").await;
    let error = lake.lake().inputs(lake.at("2026-07-01").until).await.unwrap_err();
    let file = lake.url("orders/loose.parquet");
    assert_eq!(error.to_string(), format!("jobs/shop.yaml:8:3: in table `orders`, `{file}` is not in a folder `dt=…`"));
}

#[tokio::test]
async fn partitions_of_other_types_are_all_read() {
    let mut lake = SmallLake::new();
    for folder in ["shop=1/kind=a b", "shop=2/kind=c%3Ad"] {
        lake = lake.parquet(&format!("visits/{folder}/x.parquet"), "SELECT 1 AS page").await;
    }
    let lake = lake.table("visits", "page int64", |table| {
        table.partition_by = vec![("shop".to_owned(), ColumnType::Int32), ("kind".to_owned(), ColumnType::Utf8)];
    });
    assert_eq!(lake.query("2026-07-01", "SELECT * FROM visits ORDER BY shop").await, "1|1|a b; 1|2|c:d");
    assert_eq!(lake.query("2026-07-01", "SELECT page FROM visits WHERE shop = 2").await, "1");
}

#[tokio::test]
async fn a_querys_filter_reaches_the_parquet_reader() {
    let lake = three_orders().await;
    let plan = lake
        .query("2026-07-01", "EXPLAIN FORMAT INDENT SELECT order_id FROM orders WHERE ordered_at >= '2026-06-01'")
        .await;
    let scan = &plan[plan.find("DataSourceExec").unwrap()..];
    assert!(scan.contains("ordered_at@1 >= ") && scan.contains("ordered_at@1 < "), "{plan}");
}

#[tokio::test]
async fn a_csv_tables_columns_are_found_by_their_names() {
    let lake = SmallLake::new()
        .file("texts/a.csv", "more,text,n\nx,\"two\nlines, one value\",1\n")
        .file("texts/b.csv", "n,text\n2,short\n,none\n")
        .table("texts", "text utf8, n int64", |table| table.format = Format::Csv);
    assert_eq!(
        lake.query("2026-07-01", "SELECT n, replace(text, chr(10), '/') FROM texts ORDER BY n NULLS LAST").await,
        "1|two/lines, one value; 2|short; |none"
    );
    assert_eq!(lake.query("2026-07-01", "SELECT count(*) FROM texts").await, "3");
    let wrong = lake.file("texts/c.csv", "n,text\nmany,x\n");
    let context = wrong.lake().session(wrong.at("2026-07-01")).await.unwrap();
    let error = Error::from(context.sql("SELECT n FROM texts").await.unwrap().collect().await.unwrap_err());
    assert_eq!(error.class(), Class::User);
    let said = error.to_string();
    assert!(said.contains("texts/c.csv`, line 2: column `n` is no int64") && !said.contains("many"), "{said}");
}

#[tokio::test]
async fn a_table_without_files_is_refused_where_it_may_not_be_empty() {
    let mut lake = SmallLake::new().table("orders", ORDERS, by_event).file("orders/_SUCCESS", "");
    let problems = lake.lake().look(lake.day("2026-07-01")).await.unwrap().problems;
    let url = lake.url("orders/");
    assert_eq!(
        problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [format!("jobs/shop.yaml:8:3: table `orders` has no .parquet file in `{url}`")]
    );
    lake.tables[0].may_be_empty = true;
    assert_eq!(lake.query("2026-07-01", "SELECT count(*), sum(amount) FROM orders").await, "0|");
    assert!(lake.lake().look(lake.day("2026-07-01")).await.unwrap().problems.is_empty());
}

#[tokio::test]
async fn a_table_may_be_one_file_or_a_folder_named_without_a_slash() {
    let mut lake = SmallLake::new().parquet("x/orders.parquet", "SELECT 5 AS order_id").await;
    lake.tables.push(declare("orders", lake.url("x/orders.parquet"), "order_id int64", |_| {}));
    assert_eq!(lake.query("2026-07-01", "SELECT order_id FROM orders").await, "5");
    assert_eq!(lake.lake().inputs(lake.at("2026-07-01").until).await.unwrap()[0].path, "orders.parquet");
    lake.tables[0].url = lake.url("x");
    assert_eq!(lake.query("2026-07-01", "SELECT order_id FROM orders").await, "5");
}

#[tokio::test]
async fn a_sort_that_is_larger_than_the_memory_goes_through_the_disk() {
    let select = "SELECT value AS order_id, arrow_cast('2026-06-01T00:00:00', 'Timestamp(Microsecond, None)') AS ordered_at, random() AS amount, repeat(md5(CAST(value AS varchar)), 8) AS note FROM generate_series(1, 400000)";
    let mut lake = SmallLake::new().parquet("orders/a.parquet", select).await;
    lake = lake.table("orders", &format!("{ORDERS}, note utf8"), by_event);
    lake.options.memory_limit = Some(64 << 20);
    let context = lake.lake().session(lake.at("2026-07-01")).await.unwrap();
    let sorted = context.sql("SELECT * FROM orders ORDER BY note, amount").await.unwrap();
    let plan = sorted.create_physical_plan().await.unwrap();
    let batches = datafusion::physical_plan::collect(plan.clone(), context.task_ctx()).await.unwrap();
    assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), 400_000);
    let spills = |plan: &std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>| {
        plan.metrics().and_then(|m| m.spill_count()).unwrap_or(0)
    };
    let mut all = spills(&plan);
    let mut below: Vec<_> = plan.children().into_iter().cloned().collect();
    while let Some(plan) = below.pop() {
        all += spills(&plan);
        below.extend(plan.children().into_iter().cloned());
    }
    assert!(all > 0, "64 MiB do not hold 110 MB");
}

#[tokio::test]
async fn a_lake_on_s3_reads_as_one_on_disk_does() {
    let Some(server) = S3Server::start() else { return };
    let local = partitioned().await;
    let store = server.store("shop");
    for path in ["2026-06-29", "2026-06-30", "2026-07-01", "2026-07-02"] {
        let path = format!("orders/dt={path}/a.parquet");
        store.upload(&local.folder.path().join(&path), &path).await.unwrap();
    }
    let mut table = local.tables[0].clone();
    table.url = server.url("shop/orders");
    let lake = Lake::over(&[table], chrono_tz::UTC, &EngineOptions::default(), &server.env()).unwrap();
    assert_eq!(lake.inputs(local.at("2026-07-01").until).await.unwrap().len(), 3);
    let context = lake.session(local.at("2026-07-01")).await.unwrap();
    assert_eq!(
        rows(&context, "SELECT dt, sum(amount) FROM orders GROUP BY dt ORDER BY dt").await,
        "2026-06-29|1.0; 2026-06-30|1.0; 2026-07-01|1.0"
    );
    assert!(lake.look(local.day("2026-07-01")).await.unwrap().problems.is_empty());
}

#[tokio::test]
async fn a_lake_that_cannot_be_reached_is_the_infrastructures_fault() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let table = declare("orders", "s3://lake/orders/".parse().unwrap(), ORDERS, by_event);
    let env = env_for(&format!("http://127.0.0.1:{port}"));
    let lake = Lake::over(&[table], chrono_tz::UTC, &EngineOptions::default(), &env).unwrap();
    let day = tenure::AsOf::parse("2026-07-01", chrono_tz::UTC).unwrap();
    let (session, online) = tokio::join!(lake.session(Visibility::at(day)), lake.look(day));
    for error in [session.err().unwrap(), online.err().unwrap()] {
        assert_eq!((error.class(), error.to_string().as_str()), (Class::Infra, "`s3://lake/orders/` cannot be listed"));
    }
}
