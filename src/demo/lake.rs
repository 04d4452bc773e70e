//! The shop as Parquet files.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int8Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::record_batch::RecordBatch;
use chrono::DateTime;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rayon::prelude::*;

use super::customer::{Event, Life, Order, Review, live};
use super::shop::{Calendar, DAY, SignUp, sign_ups};
use super::{DemoOptions, DemoSummary, words};
use crate::lake::ParquetWriter;
use crate::{Error, Result};

/// Lives every life and writes the four tables into `dir`.
pub(super) fn write(dir: &Path, options: &DemoOptions) -> Result<DemoSummary> {
    let calendar = Calendar::new(options);
    let customers = sign_ups(options, &calendar);
    let lives: Vec<Life> = customers.par_iter().map(|who| live(options.seed, who, &calendar)).collect();
    let bad_rows = lives.iter().map(|l| l.bad_rows).sum();
    let mut orders = Vec::new();
    let mut events = Vec::new();
    let mut reviews = Vec::new();
    for life in lives {
        orders.extend(life.orders);
        events.extend(life.events);
        reviews.extend(life.reviews);
    }
    // Stable sorts: rows of one instant keep the order of the customers.
    orders.sort_by_key(|o: &Order| (o.at, o.id));
    events.sort_by_key(|e: &Event| (e.at, e.customer));
    reviews.sort_by_key(|r: &Review| (r.at, r.order));

    let mut bytes = write_file(&dir.join("customers/part-0.parquet"), &customers_batch(&customers)?)?;
    bytes += write_file(&dir.join("reviews/part-0.parquet"), &reviews_batch(&reviews)?)?;
    bytes += write_days(&dir.join("orders"), &orders, |o| o.at, orders_batch)?;
    bytes += write_days(&dir.join("events"), &events, |e| e.at, events_batch)?;
    Ok(DemoSummary {
        as_of: options.end,
        customers: customers.len() as u64,
        orders: orders.len() as u64,
        events: events.len() as u64,
        reviews: reviews.len() as u64,
        bad_rows,
        bytes,
        was_there: false,
    })
}

fn customers_batch(rows: &[SignUp]) -> Result<RecordBatch> {
    batch(vec![
        ("customer_id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.id)))),
        ("signed_up_at", times(rows.iter().map(|r| r.at))),
        ("country", texts(rows.iter().map(|r| r.country))),
        ("channel", texts(rows.iter().map(|r| r.channel))),
        ("newsletter", Arc::new(rows.iter().map(|r| Some(r.newsletter)).collect::<BooleanArray>())),
    ])
}

fn orders_batch(rows: &[Order]) -> Result<RecordBatch> {
    batch(vec![
        ("order_id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.id)))),
        ("customer_id", Arc::new(rows.iter().map(|r| r.customer).collect::<Int64Array>())),
        ("ordered_at", times(rows.iter().map(|r| r.at))),
        ("loaded_at", times(rows.iter().map(|r| r.loaded_at))),
        ("category", texts(rows.iter().map(|r| words::category(r.category)))),
        ("items", Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.items)))),
        ("amount", Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.amount)))),
        ("discount", Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.discount)))),
        ("refunded", Arc::new(rows.iter().map(|r| Some(r.refunded)).collect::<BooleanArray>())),
    ])
}

fn events_batch(rows: &[Event]) -> Result<RecordBatch> {
    batch(vec![
        ("customer_id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.customer)))),
        ("occurred_at", times(rows.iter().map(|r| r.at))),
        ("kind", texts(rows.iter().map(|r| r.kind))),
        ("device", texts(rows.iter().map(|r| r.device))),
        ("seconds", Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.seconds)))),
    ])
}

fn reviews_batch(rows: &[Review]) -> Result<RecordBatch> {
    batch(vec![
        ("review_id", Arc::new(Int64Array::from_iter_values(1..=rows.len() as i64))),
        ("customer_id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.customer)))),
        ("order_id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.order)))),
        ("reviewed_at", times(rows.iter().map(|r| r.at))),
        ("rating", Arc::new(Int8Array::from_iter_values(rows.iter().map(|r| r.rating)))),
        ("text", texts(rows.iter().map(|r| r.text.as_str()))),
    ])
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    Ok(RecordBatch::try_from_iter(columns)?)
}

fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// One file per day of sorted rows, `dt=YYYY-MM-DD/part-0.parquet`; returns the bytes.
fn write_days<R: Sync>(
    dir: &Path,
    rows: &[R],
    at: impl Fn(&R) -> i64 + Sync,
    to_batch: impl Fn(&[R]) -> Result<RecordBatch> + Sync,
) -> Result<u64> {
    let day = |row: &R| at(row).div_euclid(DAY);
    let days: Vec<&[R]> = rows.chunk_by(|a, b| day(a) == day(b)).collect();
    days.into_par_iter()
        .map(|rows| {
            let date = DateTime::from_timestamp_micros(at(&rows[0])).unwrap_or_default().date_naive();
            write_file(&dir.join(format!("dt={date}/part-0.parquet")), &to_batch(rows)?)
        })
        .sum()
}

fn write_file(path: &Path, batch: &RecordBatch) -> Result<u64> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let file = File::create(path).map_err(|e| Error::io(path, e))?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?)).build();
    let mut writer = ParquetWriter::try_new(file, batch.schema(), properties)?;
    writer.write(batch)?;
    writer.finish()?;
    Ok(std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len())
}
