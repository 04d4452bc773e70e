//! The checks that look at one row: NULLs, ranges, accepted values. Each becomes a SQL condition for a broken row.

use arrow::datatypes::DataType;
use chrono_tz::Tz;
use datafusion::common::ScalarValue;
use datafusion::functions::math::expr_fn::isnan;
use datafusion::prelude::{Expr, ident, lit};

use super::point_in_time::{column_type, days};
use crate::AsOf;
use crate::error::{Place, Problem};
use crate::local_time::zone_name;
use crate::spec::{Bound, CheckRule, CheckSpec, ColumnType, OnFail, TableSpec};

/// A check of single rows.
#[derive(Debug, Clone)]
pub(super) struct RowCheck {
    /// Its place among the table's checks.
    pub index: usize,
    /// The column that it looks at.
    pub column: String,
    /// True for a row that breaks it; NULL and false for one that does not.
    pub broken: Expr,
    /// What a broken row means.
    pub on_fail: OnFail,
    /// What is said of a broken row, around its value.
    said: Said,
}

#[derive(Debug, Clone)]
enum Said {
    NotNull,
    Outside(String),
    NotAmong(String),
}

impl RowCheck {
    /// Why a row with this value breaks the check.
    pub(super) fn reason(&self, value: &str) -> String {
        let column = &self.column;
        match &self.said {
            Said::NotNull => format!("{column} is {value} (not_null)"),
            Said::Outside(bounds) => format!("{column} = {value} is outside {bounds} (range)"),
            Said::NotAmong(values) => format!("{column} = {value} is not one of {values} (accepted_values)"),
        }
    }
}

/// A check's name in messages: `range(amount)`.
pub(super) fn rule_name(rule: &CheckRule) -> String {
    match rule {
        CheckRule::NotNull(column) => format!("not_null({column})"),
        CheckRule::Unique(columns) => format!("unique({})", columns.join(", ")),
        CheckRule::Range { column, .. } => format!("range({column})"),
        CheckRule::Accepted { column, .. } => format!("accepted_values({column})"),
        CheckRule::FreshWithin(limit) => format!("fresh_within({})", in_words(*limit)),
    }
}

/// A duration in the largest unit that divides it: `36h`, `2d`.
pub(super) fn in_words(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    for (size, unit) in [(86_400, "d"), (3_600, "h"), (60, "min")] {
        if seconds > 0 && seconds.is_multiple_of(size) {
            return format!("{}{unit}", seconds / size);
        }
    }
    format!("{seconds}s")
}

/// A rule about other rows than one: the columns that must be unique.
#[derive(Debug, Clone)]
pub(super) struct UniqueCheck {
    /// Its place among the table's checks.
    pub index: usize,
    /// The key.
    pub columns: Vec<String>,
    /// What several rows of one key mean.
    pub on_fail: OnFail,
    /// Where it stands.
    pub place: Place,
}

/// A table's checks, ready to run.
#[derive(Debug, Clone, Default)]
pub(super) struct Checks {
    /// Those that look at single rows.
    pub rows: Vec<RowCheck>,
    /// Those that compare rows, in the order of the file.
    pub unique: Vec<UniqueCheck>,
    /// Whether the newest event is looked at.
    pub fresh: bool,
}

impl Checks {
    /// Prepares a table's checks, or says what is wrong with them.
    pub(super) fn new(table: &TableSpec, timezone: Tz) -> Result<Self, Vec<Problem>> {
        let mut checks = Checks::default();
        let mut problems = Vec::new();
        for (index, spec) in table.checks.iter().enumerate() {
            if let Err(problem) = checks.add(table, timezone, index, spec) {
                problems.push(problem.at(spec.place.clone()));
            }
        }
        if problems.is_empty() { Ok(checks) } else { Err(problems) }
    }

    /// Whether a scan has anything to look at.
    pub(super) fn in_scan(&self) -> bool {
        self.fresh || !self.rows.is_empty()
    }

    /// Whether a broken row is shown whole.
    pub(super) fn show_rows(&self) -> bool {
        self.rows.iter().any(|check| check.on_fail != OnFail::Warn)
    }

    /// The condition under which a row may be seen; `None` where every row may.
    pub(super) fn good(&self) -> Option<Expr> {
        let rejecting = self.rows.iter().filter(|check| check.on_fail == OnFail::Reject);
        rejecting.map(|check| check.broken.clone().is_not_true()).reduce(Expr::and)
    }

    fn add(&mut self, table: &TableSpec, timezone: Tz, index: usize, spec: &CheckSpec) -> Result<(), Problem> {
        let on_fail = spec.on_fail;
        let (column, broken, said) = match &spec.rule {
            CheckRule::NotNull(column) => {
                let (name, declared) = declared(table, column)?;
                let broken = ident(column).is_null();
                let broken = if is_float(declared) { broken.or(isnan(ident(column))) } else { broken };
                (name, broken, Said::NotNull)
            }
            CheckRule::Range { column, min, max } => {
                let (name, declared) = declared(table, column)?;
                (name, outside(column, declared, (*min, *max), timezone)?, Said::Outside(bounds(*min, *max)))
            }
            CheckRule::Accepted { column, values } => {
                let (name, declared) = declared(table, column)?;
                let accepted =
                    values.iter().map(|value| literal(column, declared.arrow(table.timezone), declared, value));
                let broken = ident(column).in_list(accepted.collect::<Result<_, _>>()?, true);
                (name, broken, Said::NotAmong(values.join(", ")))
            }
            CheckRule::Unique(columns) => {
                columns.iter().try_for_each(|column| declared(table, column).map(|_| ()))?;
                let (columns, place) = (columns.clone(), spec.place.clone());
                self.unique.push(UniqueCheck { index, columns, on_fail, place });
                return Ok(());
            }
            CheckRule::FreshWithin(_) => {
                if table.event_time.is_none() {
                    return Err(Problem::new(format!("table `{}` has no `event_time` to be fresh by", table.name)));
                }
                self.fresh = true;
                return Ok(());
            }
        };
        self.rows.push(RowCheck { index, column, broken, on_fail, said });
        Ok(())
    }
}

fn declared(table: &TableSpec, column: &str) -> Result<(String, ColumnType), Problem> {
    match column_type(table, column) {
        Some(declared) => Ok((column.to_owned(), declared)),
        None => Err(Problem::new(format!("table `{}` has no column `{column}`", table.name))),
    }
}

fn is_float(declared: ColumnType) -> bool {
    declared.is_float()
}

/// NaN and infinities are outside any range; NULL is not a value.
fn outside(
    column: &str,
    declared: ColumnType,
    (min, max): (Option<Bound>, Option<Bound>),
    timezone: Tz,
) -> Result<Expr, Problem> {
    let value = || ident(column);
    let wrong = || Problem::new(format!("`{column}` is a {} and has no such range", declared.name()));
    let number = |bound: Bound| match bound {
        Bound::Number(number) => Ok(number),
        Bound::Day(_) => Err(wrong().hint("bound it by numbers")),
    };
    let day = |bound: Bound| match bound {
        Bound::Day(day) => Ok(AsOf::new(day, timezone)),
        Bound::Number(_) => Err(wrong().hint("bound it by dates: `2000-01-31`")),
    };
    let arrow = declared.arrow(timezone);
    let conditions: Vec<Expr> = match declared {
        _ if declared.is_float() => {
            let below = min.map(number).transpose()?.map(|min| value().lt(lit(min)));
            let above = max.map(number).transpose()?.map(|max| value().gt(lit(max)));
            let infinite = [value().eq(lit(f64::INFINITY)), value().eq(lit(f64::NEG_INFINITY))];
            below.into_iter().chain(above).chain([isnan(value())]).chain(infinite).collect()
        }
        _ if arrow.is_decimal() => {
            let min = min.map(number).transpose()?.map(|min| (decimal_bound(min, &arrow, Side::Min), min > 0.));
            let max = max.map(number).transpose()?.map(|max| (decimal_bound(max, &arrow, Side::Max), max < 0.));
            // A bound that no value reaches is broken by all of them, or by none.
            let below = min.map(|(bound, all)| bound.map_or(lit(all), |bound| value().lt(bound)));
            let above = max.map(|(bound, all)| bound.map_or(lit(all), |bound| value().gt(bound)));
            below.into_iter().chain(above).collect()
        }
        _ if arrow.is_integer() => {
            let below = min.map(number).transpose()?.map(|min| value().lt(lit(min.ceil() as i64)));
            let above = max.map(number).transpose()?.map(|max| value().gt(lit(max.floor() as i64)));
            below.into_iter().chain(above).collect()
        }
        ColumnType::Date => {
            let date = |day: AsOf| lit(ScalarValue::Date32(Some(days(day.date()))));
            let below = min.map(day).transpose()?.map(|min| value().lt(date(min)));
            let above = max.map(day).transpose()?.map(|max| value().gt(date(max)));
            below.into_iter().chain(above).collect()
        }
        ColumnType::Timestamp => {
            let instant = |day: AsOf| {
                let micros = day.instant().timestamp_micros();
                lit(ScalarValue::TimestampMicrosecond(Some(micros), Some(zone_name(timezone).into())))
            };
            let below = min.map(day).transpose()?.map(|min| value().lt(instant(min)));
            let above = max.map(day).transpose()?.map(|max| value().gt_eq(instant(max.plus_days(1))));
            below.into_iter().chain(above).collect()
        }
        _ => {
            let name = declared.name();
            return Err(Problem::new(format!("`{column}` is a {name} and has no range")).hint("use `accepted_values`"));
        }
    };
    Ok(conditions.into_iter().reduce(Expr::or).unwrap_or_else(|| lit(false)))
}

/// Which end of a range a bound is.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Min,
    Max,
}

/// A bound, as it is written, with the digits of a decimal: the nearest one within the range. `None` where the decimal does not
/// reach so far.
fn decimal_bound(bound: f64, of: &DataType, side: Side) -> Option<Expr> {
    let (_, scale) = super::conversion::decimal(of)?;
    let written = format!("{}", bound.abs());
    let (whole, fraction) = written.split_once('.').unwrap_or((&written, ""));
    let shown = fraction.len().min(usize::from(scale.unsigned_abs()));
    let cut = fraction[shown..].bytes().any(|digit| digit != b'0');
    let sign = if bound < 0. { "-" } else { "" };
    let digits = format!("{sign}{whole}.{}", &fraction[..shown]);
    let near = ScalarValue::try_from_string(digits, of).ok()?;
    // Cut digits lead towards zero: out of the range below a positive minimum and above a negative maximum.
    let inward = cut && ((side == Side::Min) == (bound > 0.));
    if !inward {
        return Some(lit(near));
    }
    let step = if bound > 0. { 1 } else { -1 };
    Some(lit(match near {
        ScalarValue::Decimal128(Some(value), p, s) => ScalarValue::Decimal128(Some(value + step), p, s),
        ScalarValue::Decimal256(Some(value), p, s) => {
            ScalarValue::Decimal256(Some(value.wrapping_add(arrow::datatypes::i256::from_i128(step))), p, s)
        }
        other => other,
    }))
}

fn bounds(min: Option<Bound>, max: Option<Bound>) -> String {
    let text = |bound: Option<Bound>| bound.map(|b| b.to_string()).unwrap_or_default();
    format!("{}..{}", text(min), text(max))
}

fn literal(column: &str, arrow: DataType, declared: ColumnType, value: &str) -> Result<Expr, Problem> {
    let found = match declared {
        ColumnType::Uuid => super::uuid::uuid_text(value).map(|text| ScalarValue::Utf8(Some(text))),
        _ => ScalarValue::try_from_string(value.to_owned(), &arrow).ok(),
    };
    match found {
        Some(value) => Ok(lit(value)),
        None => Err(Problem::new(format!("`{value}` is no {} and `{column}` is one", declared.name()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_a_decimal_are_as_they_are_written() {
        let of = DataType::Decimal128(10, 2);
        let bound = |bound: f64, side: Side| match decimal_bound(bound, &of, side) {
            Some(Expr::Literal(ScalarValue::Decimal128(value, 10, 2), _)) => value,
            _ => None,
        };
        assert_eq!(bound(0.07, Side::Min), Some(7));
        assert_eq!(bound(-0.07, Side::Max), Some(-7));
        assert_eq!(bound(0.001, Side::Min), Some(1));
        assert_eq!(bound(0.001, Side::Max), Some(0));
        assert_eq!(bound(-0.001, Side::Min), Some(0));
        assert_eq!(bound(-0.001, Side::Max), Some(-1));
        assert_eq!(bound(1e6, Side::Max), Some(100_000_000));
        assert_eq!(bound(1e9, Side::Max), None);
    }
}
