//! The demo and states of past days on the clock of a time zone: whatever the clock is, the numbers are those of its days.

use arrow::array::RecordBatch;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, TimeUnit};
use futures::TryStreamExt;
use tenure::AsOf;
use tenure::features::{FeatureSet, States};
use tenure::lake::{Lake, Visibility};
use tenure::spec::JobSpec;

use crate::local_time::{Job, OPTIONS, matrix, read};
use crate::support::lake::write_parquet;
use crate::support::memory::text;
use crate::support::shop::{assert_success, checkout, tenure};

/// The demo's lake with its times as a shop's database shows them: without a zone.
async fn without_zones(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let goal = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&goal).unwrap();
            Box::pin(without_zones(&entry.path(), &goal)).await;
            continue;
        }
        if entry.path().extension().is_none_or(|extension| extension != "parquet") {
            std::fs::copy(entry.path(), goal).unwrap();
            continue;
        }
        let rows = read(&entry.path()).await;
        let naive = DataType::Timestamp(TimeUnit::Microsecond, None);
        let (fields, columns): (Vec<_>, Vec<_>) = rows
            .schema()
            .fields()
            .iter()
            .zip(rows.columns())
            .map(|(field, column)| match field.data_type() {
                DataType::Timestamp(..) => {
                    (field.as_ref().clone().with_data_type(naive.clone()), cast(column, &naive).unwrap())
                }
                _ => (field.as_ref().clone(), column.clone()),
            })
            .unzip();
        let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(fields));
        let rows = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let mut writer =
            parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&goal).unwrap(), schema, None).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
    }
}

#[tokio::test]
async fn the_demo_says_the_same_on_any_clock_that_its_times_were_written_by() {
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake");
    assert_success(&tenure(&["demo", "generate", lake.to_str().unwrap(), "--customers", "60", "--days", "200"]));
    let naive = folder.path().join("naive");
    std::fs::create_dir_all(&naive).unwrap();
    without_zones(&lake, &naive).await;
    let job = std::fs::read_to_string(checkout().join("jobs/ltv.yaml")).unwrap();
    let load = |lake: &std::path::Path, zone: &str| {
        let name = format!("jobs/{}.yaml", zone.replace('/', "_"));
        std::fs::create_dir_all(folder.path().join("jobs")).unwrap();
        std::fs::write(folder.path().join(&name), job.replace("timezone: UTC", &format!("timezone: {zone}"))).unwrap();
        let lake = format!("file://{}", lake.display());
        tenure::spec::load(&folder.path().join(name), &|variable| (variable == "TENURE_LAKE").then(|| lake.clone()))
            .unwrap()
    };
    std::os::unix::fs::symlink(checkout().join("sql"), folder.path().join("sql")).unwrap();
    let utc = matrix(&load(&lake, "UTC"), "2026-07-01").await;
    // No clock changes in India; in Berlin, one hour of the half year is missing.
    let kolkata = matrix(&load(&naive, "Asia/Kolkata"), "2026-07-01").await;
    let berlin = matrix(&load(&naive, "Europe/Berlin"), "2026-07-01").await;
    assert_eq!((kolkata.num_rows(), berlin.num_rows()), (utc.num_rows(), utc.num_rows()));
    for (i, field) in utc.schema().fields().iter().enumerate() {
        match field.data_type() {
            DataType::Timestamp(..) => {}
            _ => assert_eq!(utc.column(i), kolkata.column(i), "{}", field.name()),
        }
        if field.data_type() == &DataType::Int64 || field.data_type() == &DataType::Date32 {
            assert_eq!(utc.column(i), berlin.column(i), "{}", field.name());
        }
    }
}

/// The matrix of a night, with states that it writes or from all rows.
async fn night(spec: &JobSpec, day: &str, with_states: bool) -> RecordBatch {
    let as_of = AsOf::parse(day, spec.timezone()).unwrap();
    let lake = Lake::open(spec, &OPTIONS).unwrap();
    let states = States::open(spec, 2).await.unwrap().filter(|_| with_states).map(std::sync::Arc::new);
    if let Some(states) = &states {
        states.vouch(&lake);
    }
    let set = FeatureSet::load(spec.entity_task().unwrap(), spec.root()).unwrap();
    let session = lake.session(Visibility::at(as_of)).await.unwrap();
    let rows = set.matrix_with(&session, spec, as_of, states.clone()).await.unwrap();
    let schema = rows.schema().clone();
    let rows = concat_batches(&schema, &rows.try_collect::<Vec<_>>().await.unwrap()).unwrap();
    if let Some(states) = states {
        let report = states.commit().await.unwrap();
        assert!(report.written > 0, "{day}: {report:?}");
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn states_of_local_days_give_what_all_rows_give_across_a_change_of_clocks() {
    let sql = "-- @windows 1d 3d lifetime
SELECT customer_id, count(*) AS n, sum(amount) AS spend, count(DISTINCT CAST(at AS DATE)) AS dates,
    count(DISTINCT date_trunc('day', at)) AS days, count(DISTINCT date_trunc('hour', at)) AS hours,
    sum(date_part('hour', at)) AS clock, min(at) AS first, max(at) AS last, mean_gap_days(at) AS gap
FROM orders GROUP BY customer_id";
    for (zone, first) in
        [("Europe/Berlin", "2026-03-26"), ("America/New_York", "2026-10-29"), ("Asia/Kolkata", "2026-03-26")]
    {
        let mut shown = Vec::new();
        let job = Job::new(zone).feature(sql).orders(&[]).await.with("state: {path: _state/}\n");
        let first: chrono::NaiveDate = first.parse().unwrap();
        let day = |n: u64| first + chrono::Days::new(n);
        for n in 0..7 {
            // Half past every hour of the day, as its clock shows them; an order of the evening before comes late.
            let hours = (0..24).map(|hour| format!("('{} {hour:02}:30:00')", day(n)));
            let late = n.checked_sub(1).map(|before| format!("('{} 23:59:59')", day(before)));
            let rows: Vec<String> = hours.chain(late).collect();
            let select = format!(
                "SELECT 1 AS customer_id, column1::TIMESTAMP AS at, 1.0 AS amount FROM (VALUES {})",
                rows.join(", ")
            );
            write_parquet(&job.path(&format!("lake/orders/{}.parquet", day(n))), &select).await;
        }
        std::fs::remove_file(job.path("lake/orders/a.parquet")).unwrap();
        // States of the one clock say nothing of the other.
        for (naive, nights) in [("", 2..8), ("naive_times: UTC, ", 8..10)] {
            let job = job.declare_in_place(naive);
            for n in nights {
                let as_of = day(n).to_string();
                let (all, found) = (night(&job, &as_of, false).await, night(&job, &as_of, true).await);
                assert_eq!(text(&found), text(&all), "{zone} {naive} {as_of}");
                assert!(found == all, "the text is the same but not the bits");
                let n = all.column_by_name("n_1d").unwrap().clone();
                shown.push(arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&n).value(0));
            }
        }
        // Every local day has its 24 times, whatever its length, and the late one where a day follows.
        assert_eq!(shown[..6], [25, 25, 25, 25, 25, 24], "{zone}");
    }
}
