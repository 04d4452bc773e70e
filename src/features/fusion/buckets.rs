//! Buckets of time: the spans between neighbouring edges of windows, the newest first.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::ScalarValue;

use crate::features::part::{Span, time_literal};
use crate::{AsOf, Error, Result};

/// The edges of some windows, from the newest to the oldest. Bucket 0 holds the rows at or after the newest edge and those
/// without a time, which no window sees; bucket `n` holds those before edge `n − 1` and not before edge `n`.
#[derive(Debug, Clone, Default)]
pub(super) struct Buckets {
    edges: Vec<i64>,
    /// Whether every edge is a midnight of UTC, today and at any other date.
    days: bool,
}

impl Buckets {
    /// The buckets of these spans over a time of this type; spans without an end have no edge.
    pub fn of<'a>(spans: impl Iterator<Item = &'a Span>, time_type: &DataType) -> Result<Self> {
        Self::between(spans.flat_map(|span| span.from.into_iter().chain(span.until)), time_type)
    }

    /// The buckets between these days.
    pub fn between(days: impl Iterator<Item = AsOf>, time_type: &DataType) -> Result<Self> {
        let (mut edges, mut whole) = (Vec::new(), true);
        for day in days {
            edges.push(number(day, time_type)?);
            whole &= matches!(day.timezone(), chrono_tz::UTC | chrono_tz::Etc::UTC);
        }
        edges.sort_unstable_by(|a, b| b.cmp(a));
        edges.dedup();
        Ok(Buckets { edges, days: whole })
    }

    /// Whether no bucket cuts a day of UTC in two.
    pub fn are_days(&self) -> bool {
        self.days
    }

    /// The buckets of finer ones that a range of these is made of; the edges of these are among those of the others.
    pub fn in_finer(&self, window: &Range<usize>, finer: &Buckets) -> Range<usize> {
        let bucket = |bucket: usize| match bucket.checked_sub(1) {
            None => 0,
            Some(edge) => match self.edges.get(edge) {
                Some(edge) => finer.edges.partition_point(|e| e > edge) + 1,
                None => finer.count(),
            },
        };
        bucket(window.start)..bucket(window.end)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.edges.len() + 1
    }

    /// The buckets that a span is made of.
    pub fn range(&self, span: &Span, time_type: &DataType) -> Result<Range<usize>> {
        let after = |day: AsOf| -> Result<usize> {
            let edge = number(day, time_type)?;
            Ok(self.edges.partition_point(|e| *e >= edge))
        };
        let begin = span.until.map(after).transpose()?.unwrap_or(0);
        Ok(begin..span.from.map(after).transpose()?.unwrap_or(self.count()))
    }

    /// The bucket of each row.
    pub fn of_rows(&self, times: &ArrayRef) -> Result<Vec<u16>> {
        let numbers = numbers(times)?;
        let numbers = numbers.as_primitive::<Int64Type>();
        let edges = &self.edges;
        let mut found: Vec<u16> = match edges.len() {
            // A comparison per edge beats a search while there are few.
            0..=12 => numbers.values().iter().map(|t| edges.iter().map(|e| u16::from(t < e)).sum()).collect(),
            _ => {
                // Rows of a day lie together: the last one's bucket is mostly the next one's.
                let mut last = 0;
                let bucket = |t: &i64| {
                    let newer = last == 0 || *t < edges[last - 1];
                    if !newer || edges.get(last).is_some_and(|edge| t < edge) {
                        last = edges.partition_point(|e| t < e);
                    }
                    last as u16
                };
                numbers.values().iter().map(bucket).collect()
            }
        };
        if let Some(nulls) = numbers.nulls() {
            found.iter_mut().zip(nulls).filter(|(_, there)| !there).for_each(|(bucket, _)| *bucket = 0);
        }
        Ok(found)
    }
}

/// Times as the numbers that they are stored as.
fn numbers(times: &ArrayRef) -> Result<ArrayRef> {
    let times = match times.data_type() {
        DataType::Date32 => cast(times, &DataType::Int32)?,
        _ => times.clone(),
    };
    Ok(cast(&times, &DataType::Int64)?)
}

/// The start of a day as the number that a time of this type is stored as.
fn number(day: AsOf, time_type: &DataType) -> Result<i64> {
    let literal = time_literal(day, time_type).map(|literal| ScalarValue::to_array(&literal)).transpose()?;
    let literal = literal.ok_or_else(|| Error::bug(format!("`{time_type}` is no time")))?;
    let numbers = numbers(&literal)?;
    Ok(numbers.as_primitive::<Int64Type>().value(0))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::TimestampMicrosecondArray;
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn a_window_is_the_buckets_between_its_edges() {
        let day = |text: &str| AsOf::new(text.parse().unwrap(), chrono_tz::UTC);
        let span =
            |from: Option<&str>, until: Option<&str>| Span { window: None, from: from.map(day), until: until.map(day) };
        let (week, month, ever, all) = (
            span(Some("2026-06-24"), Some("2026-07-01")),
            span(Some("2026-06-01"), Some("2026-07-01")),
            span(None, Some("2026-07-01")),
            span(None, None),
        );
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let buckets = Buckets::of([week, month, ever, all].iter(), &time).unwrap();
        let range = |span: &Span| buckets.range(span, &time).unwrap();
        assert_eq!([range(&week), range(&month), range(&ever), range(&all)], [1..2, 1..3, 1..4, 0..4]);
        let micros =
            |text: &str| format!("{text}Z").parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp_micros();
        let times = [
            "2026-07-01T00:00:00",
            "2026-06-30T23:59:59",
            "2026-06-24T00:00:00",
            "2026-06-23T23:59:59",
            "2026-05-31T00:00:00",
        ];
        let times = times.iter().map(|text| Some(micros(text))).chain([None]);
        let times: ArrayRef = Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"));
        assert_eq!(buckets.of_rows(&times).unwrap(), [0, 1, 1, 2, 3, 0]);
        // More edges than are compared one by one.
        let days = (1..=28).map(|n| day(&format!("2026-06-{n:02}")));
        let fine = Buckets::between(days.chain([day("2026-07-01")]), &time).unwrap();
        assert_eq!(fine.of_rows(&times).unwrap(), [0, 1, 5, 6, 29, 0]);
        assert_eq!((fine.in_finer(&(1..2), &fine), buckets.in_finer(&(1..4), &fine)), (1..2, 1..30));
    }
}
