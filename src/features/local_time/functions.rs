//! DataFusion's functions over times, on the clock of a time zone. Its own truncate, bin and parse by the hours of UTC, or fail where
//! clocks change; a job in UTC uses those.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, TimestampMicrosecondArray};
use arrow::compute::{cast, kernels::arity::try_binary};
use arrow::datatypes::{
    DataType, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use chrono::{Datelike, Months, NaiveDate};
use chrono_tz::Tz;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, plan_datafusion_err, plan_err};
use datafusion::functions::datetime;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use crate::local_time::{DAY, LocalClock, OnError, instants, zone_name};

/// What a function does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Function {
    /// A date, a text, a time without a zone or seconds as a timestamp: the start of the day, or the time on the clock.
    Timestamp,
    /// The same, NULL where a text is no time.
    TryTimestamp,
    /// `to_timestamp` and its relatives; the number is how many of a number's units make a second.
    ToTimestamp(&'static str, i64),
    /// Seconds since 1970.
    ToUnixtime,
    /// The start of the hour, day, … on the clock.
    DateTrunc,
    /// The start of the span of a given length on the clock.
    DateBin,
    /// A timestamp and an interval: months and days on the clock, the rest as it passes.
    Add,
    /// A timestamp minus an interval.
    Subtract,
}

impl Function {
    /// All of them.
    pub const ALL: [Function; 12] = [
        Function::Timestamp,
        Function::TryTimestamp,
        Function::ToTimestamp("to_timestamp", 1),
        Function::ToTimestamp("to_timestamp_seconds", 1),
        Function::ToTimestamp("to_timestamp_millis", 1_000),
        Function::ToTimestamp("to_timestamp_micros", 1_000_000),
        Function::ToTimestamp("to_timestamp_nanos", 1_000_000_000),
        Function::ToUnixtime,
        Function::DateTrunc,
        Function::DateBin,
        Function::Add,
        Function::Subtract,
    ];

    /// Its name in SQL.
    pub const fn name(self) -> &'static str {
        match self {
            Function::Timestamp => "local_timestamp",
            Function::TryTimestamp => "try_local_timestamp",
            Function::ToTimestamp(name, _) => name,
            Function::ToUnixtime => "to_unixtime",
            Function::DateTrunc => "date_trunc",
            Function::DateBin => "date_bin",
            Function::Add => "add_to_local_time",
            Function::Subtract => "subtract_from_local_time",
        }
    }

    /// The function on the clock of a time zone.
    pub fn on(self, timezone: Tz) -> Arc<ScalarUDF> {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::from(OnClock { function: self, timezone, signature }))
    }
}

/// `expr` as a timestamp on the clock of a time zone.
pub(super) fn local_timestamp(expr: Expr, timezone: Tz) -> Expr {
    Function::Timestamp.on(timezone).call(vec![expr])
}

/// A timestamp as SQL shows it in a time zone.
pub(super) fn timestamp_type(timezone: Tz) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(zone_name(timezone).into()))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_time_of_day(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Time32(_) | DataType::Time64(_))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OnClock {
    function: Function,
    timezone: Tz,
    signature: Signature,
}

impl OnClock {
    /// The clock of an argument: of its own time zone, or of the job's where it has none.
    fn clock_of(&self, data_type: &DataType) -> Arc<LocalClock> {
        let own = match data_type {
            DataType::Timestamp(_, Some(zone)) => zone.parse().ok(),
            _ => None,
        };
        LocalClock::of(own.unwrap_or(self.timezone))
    }

    /// DataFusion's own function, for what has nothing to do with a clock.
    fn inner(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match self.function {
            Function::DateTrunc => datetime::date_trunc().invoke_with_args(args),
            Function::DateBin => datetime::date_bin().invoke_with_args(args),
            _ => Err(exec_datafusion_err!("`{}` has no other form", self.function.name())),
        }
    }

    fn checked(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.function.name();
        let interval = DataType::Interval(IntervalUnit::MonthDayNano);
        match (self.function, arg_types) {
            (Function::ToTimestamp(..), [_, rest @ ..]) if rest.iter().all(is_text) => Ok(arg_types.to_vec()),
            (Function::Timestamp | Function::TryTimestamp | Function::ToUnixtime, [_]) => Ok(arg_types.to_vec()),
            (Function::ToUnixtime, [_, ..]) => {
                plan_err!("`to_unixtime` with a format: write `to_unixtime(to_timestamp(text, format))`")
            }
            (Function::DateTrunc, [_, time]) => Ok(vec![DataType::Utf8, time.clone()]),
            (Function::DateBin, [_, rest @ ..]) if matches!(rest.len(), 1 | 2) => {
                Ok(std::iter::once(interval).chain(rest.iter().cloned()).collect())
            }
            (Function::Add | Function::Subtract, [time, _]) => Ok(vec![time.clone(), interval]),
            _ => plan_err!("`{name}` does not take {} arguments of these types", arg_types.len()),
        }
    }
}

impl ScalarUDFImpl for OnClock {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        static ALIAS: std::sync::LazyLock<[String; 1]> = std::sync::LazyLock::new(|| ["datetrunc".to_owned()]);
        if self.function == Function::DateTrunc { ALIAS.as_slice() } else { &[] }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.checked(arg_types)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let time = match self.function {
            Function::ToUnixtime => return Ok(DataType::Int64),
            Function::DateTrunc | Function::DateBin => arg_types.get(1),
            Function::Add | Function::Subtract => arg_types.first(),
            _ => None,
        };
        Ok(match time {
            Some(time) if is_time_of_day(time) => time.clone(),
            Some(DataType::Timestamp(_, Some(zone))) => {
                DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::clone(zone)))
            }
            _ => timestamp_type(self.timezone),
        })
    }

    /// A text that is written down is read at once, so that a wrong one is told where it stands.
    fn simplify(&self, args: Vec<Expr>, _info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let units = match self.function {
            Function::Timestamp => 1,
            Function::ToTimestamp(_, units) => units,
            _ => return Ok(ExprSimplifyResult::Original(args)),
        };
        let [Expr::Literal(text, _)] = args.as_slice() else { return Ok(ExprSimplifyResult::Original(args)) };
        if text.is_null() || !is_text(&text.data_type()) {
            return Ok(ExprSimplifyResult::Original(args));
        }
        let clock = LocalClock::of(self.timezone);
        let found = instants(&text.to_array()?, &clock, units, OnError::Fail);
        let found = found.map_err(|error| match error {
            ArrowError::CastError(message) => plan_datafusion_err!("{message}"),
            other => other.into(),
        })?;
        let zone = zone_name(self.timezone).into();
        Ok(ExprSimplifyResult::Simplified(lit(ScalarValue::TimestampMicrosecond(Some(found.value(0)), Some(zone)))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let name = self.function.name();
        let at = usize::from(matches!(self.function, Function::DateTrunc | Function::DateBin));
        let time = args.args.get(at).ok_or_else(|| exec_datafusion_err!("`{name}` is given no time"))?;
        if is_time_of_day(&time.data_type()) {
            return self.inner(args);
        }
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { args.number_rows };
        let clock = self.clock_of(&time.data_type());
        let array = time.to_array(rows)?;
        let times: ArrayRef = match self.function {
            Function::Timestamp => Arc::new(instants(&array, &clock, 1, OnError::Fail)?),
            Function::TryTimestamp => Arc::new(instants(&array, &clock, 1, OnError::Null)?),
            Function::ToTimestamp(_, units) => match args.args.get(1..).unwrap_or_default() {
                [] => Arc::new(instants(&array, &clock, units, OnError::Fail)?),
                _ => Arc::new(formatted(&args, &clock)?),
            },
            Function::ToUnixtime => {
                let micros = instants(&array, &clock, 1, OnError::Fail)?;
                let seconds: PrimitiveArray<Int64Type> = micros.unary(|t| t.div_euclid(1_000_000));
                Arc::new(seconds)
            }
            Function::DateTrunc => {
                let unit = unit_of(args.args.first())?;
                let micros = instants(&array, &clock, 1, OnError::Fail)?;
                let truncated: TimestampMicrosecondArray = micros.unary(|t| unit.start(t, &clock));
                Arc::new(truncated)
            }
            Function::DateBin => Arc::new(binned(args, &array, &clock)?),
            Function::Add | Function::Subtract => {
                let interval = args.args.get(1).map(|interval| interval.to_array(rows)).transpose()?;
                let interval = interval.ok_or_else(|| exec_datafusion_err!("`{name}` is given no interval"))?;
                Arc::new(shifted(&array, &interval, &clock, self.function == Function::Subtract)?)
            }
        };
        let times = match self.function {
            Function::ToUnixtime => times,
            _ => {
                let micros = times.as_primitive::<TimestampMicrosecondType>().clone();
                Arc::new(micros.with_timezone(zone_name(clock.timezone()))) as ArrayRef
            }
        };
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&times, 0)?)),
            false => Ok(ColumnarValue::Array(times)),
        }
    }
}

/// Texts in formats of their own.
fn formatted(args: &ScalarFunctionArgs, clock: &LocalClock) -> Result<TimestampMicrosecondArray> {
    let names_zone = |format: &ColumnarValue| match format {
        ColumnarValue::Scalar(format) => format.try_as_str().flatten().is_some_and(says_offset),
        ColumnarValue::Array(_) => false,
    };
    let (zoned, naive): (Vec<_>, Vec<_>) = args.args.iter().skip(1).map(names_zone).partition(|zoned| *zoned);
    if !zoned.is_empty() && !naive.is_empty() {
        return Err(plan_datafusion_err!("formats with an offset and formats without one do not mix"));
    }
    let mut inner = args.clone();
    let naive_type = DataType::Timestamp(TimeUnit::Nanosecond, None);
    inner.return_field = Arc::new(args.return_field.as_ref().clone().with_data_type(naive_type));
    let function = datetime::to_timestamp(&datafusion::common::config::ConfigOptions::default());
    let found = function.invoke_with_args(inner)?.to_array(args.number_rows.max(1))?;
    let found = cast(&found, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    let found = found.as_primitive::<TimestampMicrosecondType>();
    Ok(if zoned.is_empty() { found.unary(|local| clock.instant(local)) } else { found.clone() })
}

/// Whether a format holds an offset from UTC.
fn says_offset(format: &str) -> bool {
    ["%z", "%:z", "%::z", "%#z", "%Z", "%+", "%s"].iter().any(|part| format.contains(part))
}

/// A unit of the calendar or of the clock.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Micros(i64),
    Week,
    Months(u32),
}

fn unit_of(unit: Option<&ColumnarValue>) -> Result<Unit> {
    let name = match unit {
        Some(ColumnarValue::Scalar(unit)) => unit.try_as_str().flatten().map(str::to_lowercase),
        _ => None,
    };
    Ok(match name.as_deref() {
        Some("microsecond") => Unit::Micros(1),
        Some("millisecond") => Unit::Micros(1_000),
        Some("second") => Unit::Micros(1_000_000),
        Some("minute") => Unit::Micros(60_000_000),
        Some("hour") => Unit::Micros(3_600_000_000),
        Some("day") => Unit::Micros(DAY),
        Some("week") => Unit::Week,
        Some("month") => Unit::Months(1),
        Some("quarter") => Unit::Months(3),
        Some("year") => Unit::Months(12),
        Some(other) => return Err(plan_datafusion_err!("`date_trunc` knows no `{other}`")),
        None => return Err(plan_datafusion_err!("`date_trunc` wants the name of a unit as a text")),
    })
}

impl Unit {
    /// The start of the unit that an instant lies in.
    #[inline]
    fn start(self, instant: i64, clock: &LocalClock) -> i64 {
        match self {
            Unit::Micros(DAY) => clock.start_of_day(clock.day(instant)),
            // An hour that comes twice is two hours.
            Unit::Micros(length) => instant - clock.local(instant).rem_euclid(length),
            // 1970-01-01 was a Thursday.
            Unit::Week => {
                let day = clock.day(instant);
                clock.start_of_day(day - (day + 3).rem_euclid(7))
            }
            Unit::Months(length) => {
                let Some(date) = date_of(clock.day(instant)) else { return instant };
                let first = date.with_day0(0).and_then(|date| date.with_month0(date.month0() / length * length));
                clock.start_of_day(first.map_or(0, day_of))
            }
        }
    }
}

fn date_of(day: i64) -> Option<NaiveDate> {
    NaiveDate::default().checked_add_signed(chrono::TimeDelta::try_days(day)?)
}

fn day_of(date: NaiveDate) -> i64 {
    date.signed_duration_since(NaiveDate::default()).num_days()
}

/// The starts of the spans in which times lie, all on the clock.
fn binned(args: ScalarFunctionArgs, times: &ArrayRef, clock: &LocalClock) -> Result<TimestampMicrosecondArray> {
    let shown = |values: &ArrayRef| -> Result<ArrayRef> {
        let local: TimestampMicrosecondArray =
            instants(values, clock, 1, OnError::Fail)?.unary(|instant| clock.local(instant));
        Ok(Arc::new(local))
    };
    let naive = |unit| DataType::Timestamp(unit, None);
    let mut inner = args.clone();
    inner.args[1] = ColumnarValue::Array(shown(times)?);
    let with_type = |field: &arrow::datatypes::Field, data_type| Arc::new(field.clone().with_data_type(data_type));
    inner.arg_fields[1] = with_type(&args.arg_fields[1], naive(TimeUnit::Microsecond));
    if let Some(origin) = args.args.get(2) {
        let origin = cast(&shown(&origin.to_array(1)?)?, &naive(TimeUnit::Nanosecond))?;
        inner.args[2] = ColumnarValue::Scalar(ScalarValue::try_from_array(&origin, 0)?);
        inner.arg_fields[2] = with_type(&args.arg_fields[2], naive(TimeUnit::Nanosecond));
    }
    inner.number_rows = times.len();
    inner.return_field = with_type(&args.return_field, naive(TimeUnit::Microsecond));
    let found = datetime::date_bin().invoke_with_args(inner)?.to_array(times.len())?;
    Ok(instants(&found, clock, 1, OnError::Fail)?)
}

/// Timestamps and intervals, added or subtracted.
fn shifted(
    times: &ArrayRef,
    intervals: &ArrayRef,
    clock: &LocalClock,
    back: bool,
) -> Result<TimestampMicrosecondArray, ArrowError> {
    let times = instants(times, clock, 1, OnError::Fail)?;
    let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
    let sign = if back { -1 } else { 1 };
    try_binary(&times, intervals, |instant, interval| {
        let shift = || -> Option<i64> {
            let mut instant = instant;
            if interval.months != 0 || interval.days != 0 {
                let local = clock.local(instant);
                let mut day = local.div_euclid(DAY);
                if interval.months != 0 {
                    let (date, months) = (date_of(day)?, Months::new(interval.months.unsigned_abs()));
                    let date = match (interval.months < 0) != back {
                        true => date.checked_sub_months(months)?,
                        false => date.checked_add_months(months)?,
                    };
                    day = day_of(date);
                }
                day = day.checked_add(sign * i64::from(interval.days))?;
                instant = clock.instant(day.checked_mul(DAY)?.checked_add(local.rem_euclid(DAY))?);
            }
            instant.checked_add(sign * interval.nanoseconds.div_euclid(1_000))
        };
        shift().ok_or_else(|| ArrowError::ComputeError("a time moved by an interval lies too far away".to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::IntervalMonthDayNanoArray;
    use arrow::datatypes::IntervalMonthDayNano;
    use chrono::{DateTime, Duration, NaiveDateTime, Timelike, Utc};
    use proptest::prelude::*;

    use super::*;

    const ZONES: [&str; 6] =
        ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "America/Havana", "Africa/Cairo", "Australia/Lord_Howe"];

    fn at(text: &str) -> i64 {
        text.parse::<DateTime<Utc>>().unwrap().timestamp_micros()
    }

    fn micros(local: NaiveDateTime) -> i64 {
        local.and_utc().timestamp_micros()
    }

    /// The start of a unit, from the parts of what a calendar shows.
    fn start(unit: &str, local: NaiveDateTime) -> NaiveDateTime {
        let date = local.date();
        let date = match unit {
            "week" => date - Duration::days(i64::from(date.weekday().num_days_from_monday())),
            "month" => date.with_day(1).unwrap(),
            "quarter" => date.with_day(1).unwrap().with_month(date.month0() / 3 * 3 + 1).unwrap(),
            "year" => NaiveDate::from_ymd_opt(date.year(), 1, 1).unwrap(),
            _ => date,
        };
        date.and_hms_opt(0, 0, 0).unwrap()
    }

    proptest! {
        #[test]
        fn a_start_is_what_the_calendar_of_the_zone_says(
            zone in prop::sample::select(&ZONES[..]),
            instant in at("1975-01-01T00:00:00Z")..at("2060-01-01T00:00:00Z"),
        ) {
            let clock = LocalClock::of(zone.parse().unwrap());
            let shown = |instant: i64| {
                DateTime::<Utc>::from_timestamp_micros(instant).unwrap().with_timezone(&clock.timezone()).naive_local()
            };
            for unit in ["day", "week", "month", "quarter", "year"] {
                let name = ColumnarValue::Scalar(ScalarValue::from(unit));
                let found = unit_of(Some(&name)).unwrap().start(instant, &clock);
                let wanted = start(unit, shown(instant));
                // Midnight, or the first instant after one that is missing.
                let missing = shown(found) - wanted;
                prop_assert!(found <= instant && missing >= Duration::zero() && missing <= Duration::hours(1), "{unit}");
                prop_assert_eq!(found, clock.instant(micros(wanted)), "{}", unit);
            }
            let hour = unit_of(Some(&ColumnarValue::Scalar(ScalarValue::from("hour")))).unwrap().start(instant, &clock);
            if clock.offset(hour) == clock.offset(instant) {
                prop_assert_eq!((shown(hour).minute(), shown(hour).hour()), (0, shown(instant).hour()));
            }
        }

        #[test]
        fn an_interval_moves_the_calendar_by_months_and_days_and_the_instant_by_the_rest(
            zone in prop::sample::select(&ZONES[..]),
            instant in at("1975-01-01T00:00:00Z")..at("2060-01-01T00:00:00Z"),
            months in -30..30i32, days in -400..400i32, hours in -50..50i64, back in any::<bool>(),
        ) {
            let clock = LocalClock::of(zone.parse().unwrap());
            let interval = IntervalMonthDayNano::new(months, days, hours * 3_600_000_000_000);
            let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![instant]).with_timezone(zone));
            let intervals: ArrayRef = Arc::new(IntervalMonthDayNanoArray::from(vec![interval]));
            let found = shifted(&times, &intervals, &clock, back).unwrap().value(0);

            let sign = if back { -1 } else { 1 };
            let by = Months::new((months * sign).unsigned_abs());
            let local = DateTime::<Utc>::from_timestamp_micros(clock.local(instant)).unwrap().naive_utc();
            let moved = if months * sign < 0 { local - by } else { local + by } + Duration::days(i64::from(days * sign));
            let begin = if months == 0 && days == 0 { instant } else { clock.instant(micros(moved)) };
            prop_assert_eq!(found, begin + i64::from(sign) * hours * 3_600_000_000);
        }
    }
}
