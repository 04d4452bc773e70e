//! The aggregates that are computed here, and what they read.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{Expr, ExprSchemable, cast};

use super::flatten::Flat;
use super::quantile::Quantile;
use crate::features::aggregates::function_of;
use crate::features::approximate;
use crate::features::gap::{Statistic, microseconds};

/// What is computed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Function {
    /// Rows; with an argument those where it is not NULL.
    Count,
    /// Different values.
    Distinct,
    /// The same, about right where there are many.
    AboutDistinct,
    /// Different days in UTC, of times in microseconds.
    DistinctDays,
    /// Integers, `Int64` or `UInt64`, which never wrap.
    SumIntegers,
    /// `Decimal128`, which never wrap.
    SumDecimals,
    /// Doubles, exact to the last bit in any order.
    SumDoubles,
    Average,
    Variance {
        correction: u64,
    },
    Deviation {
        correction: u64,
    },
    /// Of anything that counts as an `Int64`.
    LeastInteger,
    GreatestInteger,
    LeastDouble,
    GreatestDouble,
    /// Of anything that can be ordered.
    Least,
    Greatest,
    /// A number of the row that comes first, or last, by something that counts as an `Int64`, then by the number itself;
    /// whether that is descending, and NULL first.
    FirstNumber {
        order: (bool, bool),
        last: bool,
    },
    /// Different days in UTC of the time that rows are sorted by, where no bucket cuts a day in two.
    WholeDays,
    /// The days between the times that rows are sorted by.
    Gap(Statistic),
    /// The days between other times.
    LooseGap(Statistic),
    /// Of doubles.
    Quantile(Quantile),
    /// Of integers.
    QuantileOfIntegers(Quantile),
    /// The same, about right where there are many values.
    AboutQuantile(Quantile),
    AboutQuantileOfIntegers(Quantile),
    /// The value of the one row that there is.
    Only,
    /// A value of the row that comes first, or last, in this order: descending and NULL first, per column.
    First(Vec<(bool, bool)>),
    Last(Vec<(bool, bool)>),
}

impl Function {
    /// The aggregate whose states this one is made of.
    pub fn of_states(&self) -> Function {
        match self {
            Function::SumDoubles => Function::Average,
            Function::Variance { .. } | Function::Deviation { .. } => Function::Variance { correction: 1 },
            Function::Gap(_) => Function::Gap(Statistic::Mean),
            Function::LooseGap(_) => Function::LooseGap(Statistic::Mean),
            Function::Quantile(_) => Function::Quantile(Quantile::Median),
            Function::QuantileOfIntegers(_) => Function::QuantileOfIntegers(Quantile::Median),
            Function::AboutQuantile(_) => Function::AboutQuantile(Quantile::Median),
            Function::AboutQuantileOfIntegers(_) => Function::AboutQuantileOfIntegers(Quantile::Median),
            other => other.clone(),
        }
    }

    /// The same where it may be about right, if it may.
    fn about(self) -> Function {
        match self {
            Function::Distinct => Function::AboutDistinct,
            Function::Quantile(of) => Function::AboutQuantile(of),
            Function::QuantileOfIntegers(of) => Function::AboutQuantileOfIntegers(of),
            other => other,
        }
    }

    /// Which quantile it is.
    pub fn quantile(&self) -> Option<Quantile> {
        use Function::{AboutQuantile, AboutQuantileOfIntegers, Quantile, QuantileOfIntegers};
        match self {
            Quantile(of) | QuantileOfIntegers(of) | AboutQuantile(of) | AboutQuantileOfIntegers(of) => Some(*of),
            _ => None,
        }
    }

    /// How many columns a written state has; an error says why it is not written down.
    pub fn state_columns(&self) -> Result<usize, &'static str> {
        use Function::{
            AboutDistinct, AboutQuantile, AboutQuantileOfIntegers, Average, Count, Deviation, Distinct, DistinctDays,
            First, FirstNumber, Gap, Greatest, GreatestDouble, GreatestInteger, Last, Least, LeastDouble, LeastInteger,
            LooseGap, Only, Quantile, QuantileOfIntegers, SumDecimals, SumDoubles, SumIntegers, Variance, WholeDays,
        };
        Ok(match self {
            Count | Distinct | DistinctDays | WholeDays => 1,
            SumIntegers => 2,
            SumDecimals => 3,
            Quantile(_) | QuantileOfIntegers(_) => 1,
            AboutDistinct | AboutQuantile(_) | AboutQuantileOfIntegers(_) => 2,
            LeastInteger | GreatestInteger | LeastDouble | GreatestDouble => 1,
            SumDoubles | Average => 4,
            Variance { .. } | Deviation { .. } => 7,
            Least | Greatest => 2,
            FirstNumber { .. } => 3,
            Gap(_) => 5,
            First(order) | Last(order) => 2 + order.len(),
            LooseGap(_) => return Err("gaps of another time than the event time have to see every row"),
            Only => return Err("a table with one row per customer is read as it is"),
        })
    }
}

/// An aggregate of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Recipient {
    pub function: Function,
    /// What it reads: its argument, then what it is ordered by. Nothing for a count of rows.
    pub arguments: Vec<Expr>,
    /// Which rows it takes.
    pub filter: Option<Expr>,
    pub output: DataType,
}

impl Recipient {
    /// An aggregate of SQL; an error says why it cannot be computed here.
    pub fn of(expr: &Expr, schema: &DFSchema) -> Result<Recipient, String> {
        let engine = |e: datafusion::error::DataFusionError| e.strip_backtrace();
        let function = function_of(expr).ok_or("it has something that is no aggregate")?;
        let name = function.func.name().to_owned();
        let not_here = || format!("`{name}` is not among the aggregates of a fused pass");
        let params = &function.params;
        if params.null_treatment.is_some() {
            return Err(format!("`{name}` says what to do with NULL"));
        }
        let (argument, share) = match params.args.as_slice() {
            [argument] => (argument, None),
            [argument, share] if name == "percentile_cont" => (argument, share_of(share, &params.order_by)),
            _ => return Err(not_here()),
        };
        let (argument, is_about) = approximate::argument(argument);
        let output = expr.get_type(schema).map_err(engine)?;
        let input = argument.get_type(schema).map_err(engine)?;
        let double = || cast(argument.clone(), DataType::Float64);
        let moments =
            matches!(name.as_str(), "avg" | "var" | "var_pop" | "stddev" | "stddev_pop" | "var_samp" | "stddev_samp");
        if params.distinct && name != "count" && name != "min" && name != "max" {
            return Err(format!("`{name}(DISTINCT …)` is not among the aggregates of a fused pass"));
        }
        let (function, arguments) = match name.as_str() {
            "count" if params.distinct => match day_of(argument, schema).map_err(engine)? {
                Some(time) => (Function::DistinctDays, vec![in_microseconds(&time)]),
                None => (Function::Distinct, vec![argument.clone()]),
            },
            "count" => match argument {
                Expr::Literal(value, _) if !value.is_null() => (Function::Count, Vec::new()),
                _ => (Function::Count, vec![argument.clone()]),
            },
            "sum" if matches!(output, DataType::Int64 | DataType::UInt64) => {
                (Function::SumIntegers, vec![cast(argument.clone(), output.clone())])
            }
            "sum" if matches!((&input, &output), (DataType::Decimal128(_, s), DataType::Decimal128(_, t)) if s == t) => {
                (Function::SumDecimals, vec![argument.clone()])
            }
            "sum" if output == DataType::Float64 => (Function::SumDoubles, vec![double()]),
            _ if moments && output == DataType::Float64 && !input.is_decimal() => {
                let function = match name.as_str() {
                    "avg" => Function::Average,
                    "var" | "var_samp" => Function::Variance { correction: 1 },
                    "var_pop" => Function::Variance { correction: 0 },
                    "stddev" | "stddev_samp" => Function::Deviation { correction: 1 },
                    _ => Function::Deviation { correction: 0 },
                };
                (function, vec![double()])
            }
            "min" | "max" | "bool_and" | "bool_or" => {
                let least = matches!(name.as_str(), "min" | "bool_and");
                match counts_as(&input) {
                    Some(steps) => {
                        let number = steps.iter().fold(argument.clone(), |expr, step| cast(expr, step.clone()));
                        (if least { Function::LeastInteger } else { Function::GreatestInteger }, vec![number])
                    }
                    None if input.is_floating() => {
                        (if least { Function::LeastDouble } else { Function::GreatestDouble }, vec![double()])
                    }
                    None if is_plain(&input) => {
                        (if least { Function::Least } else { Function::Greatest }, vec![argument.clone()])
                    }
                    None => return Err(not_here()),
                }
            }
            "first_value" | "last_value" if !params.order_by.is_empty() => {
                let keys: Vec<&Expr> = params.order_by.iter().map(|sort| &sort.expr).collect();
                let types = keys.iter().chain([&argument]).map(|expr| expr.get_type(schema));
                if !types.collect::<Result<Vec<_>, _>>().map_err(engine)?.iter().all(is_plain) {
                    return Err(not_here());
                }
                let order = params.order_by.iter().map(|Sort { asc, nulls_first, .. }| (!asc, *nulls_first));
                let order: Vec<(bool, bool)> = order.collect();
                let last = name == "last_value";
                match number_by_time(argument, &params.order_by, schema).map_err(engine)? {
                    Some(arguments) => (Function::FirstNumber { order: order[0], last }, arguments),
                    None => {
                        let arguments = [argument].into_iter().chain(keys).cloned().collect();
                        (if last { Function::Last(order) } else { Function::First(order) }, arguments)
                    }
                }
            }
            "median" | "percentile_cont" => {
                let quantile = if name == "median" { Some(Quantile::Median) } else { share.map(Quantile::at) };
                match (quantile, &output) {
                    (Some(quantile), DataType::Float64) => (Function::Quantile(quantile), vec![double()]),
                    (Some(quantile), output) if output.is_integer() && *output != DataType::UInt64 => {
                        (Function::QuantileOfIntegers(quantile), vec![cast(argument.clone(), DataType::Int64)])
                    }
                    _ => return Err(not_here()),
                }
            }
            _ => match Statistic::named(&name) {
                Some(statistic) => (Function::Gap(statistic), vec![in_microseconds(argument)]),
                None => return Err(not_here()),
            },
        };
        let has_order = matches!(function, Function::First(_) | Function::Last(_) | Function::FirstNumber { .. });
        if !params.order_by.is_empty() && !has_order && share.is_none() {
            return Err(format!("`{name}` has an ORDER BY"));
        }
        if matches!(function, Function::Distinct) && !is_plain(&input) {
            return Err(not_here());
        }
        let function = if is_about { function.about() } else { function };
        let filter = params.filter.as_deref().cloned();
        Ok(Recipient { function, arguments, filter, output })
    }

    /// The same over the base of a flat plan.
    pub fn over(&mut self, flat: &Flat) -> datafusion::error::Result<()> {
        for expr in self.arguments.iter_mut().chain(&mut self.filter) {
            *expr = flat.over_base(expr)?;
        }
        Ok(())
    }
}

/// The share of a quantile, counted from the least value.
fn share_of(share: &Expr, order: &[Sort]) -> Option<f64> {
    let Expr::Literal(share, _) = share else { return None };
    let ScalarValue::Float64(Some(share)) = share.cast_to(&DataType::Float64).ok()? else { return None };
    let descends = order.first().is_some_and(|sort| !sort.asc);
    (0.0..=1.0).contains(&share).then_some(if descends { 1.0 - share } else { share })
}

/// The time behind the day of a time, as `CAST(time AS DATE)` or `date_trunc('day', time)`, where days are those of UTC.
fn day_of(expr: &Expr, schema: &DFSchema) -> datafusion::error::Result<Option<Expr>> {
    let time = match expr {
        Expr::Cast(cast) if *cast.field.data_type() == DataType::Date32 => cast.expr.as_ref(),
        Expr::ScalarFunction(function) if function.name() == "date_trunc" => match function.args.as_slice() {
            [Expr::Literal(ScalarValue::Utf8(Some(unit)), _), time] if unit.eq_ignore_ascii_case("day") => time,
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    let utc = match time.get_type(schema)? {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => false,
        DataType::Timestamp(_, zone) => zone.is_none_or(|zone| matches!(zone.as_ref(), "UTC" | "+00:00" | "Z")),
        _ => false,
    };
    Ok(utc.then(|| time.clone()))
}

/// A time as the microseconds that days and gaps are taken of.
pub(super) fn in_microseconds(time: &Expr) -> Expr {
    microseconds().into_iter().fold(time.clone(), cast)
}

/// A number ordered by one time, then, so that no tie is left, by itself: the number and the time.
fn number_by_time(argument: &Expr, order: &[Sort], schema: &DFSchema) -> datafusion::error::Result<Option<Vec<Expr>>> {
    let [time, Sort { expr: tie, asc: true, nulls_first: false }] = order else { return Ok(None) };
    let number = match argument.get_type(schema)? {
        DataType::Float64 => argument.clone(),
        other if other.is_integer() && other != DataType::UInt64 => cast(argument.clone(), DataType::Int64),
        _ => return Ok(None),
    };
    let steps = counts_as(&time.expr.get_type(schema)?).filter(|_| tie == argument);
    Ok(steps.map(|steps| vec![number, steps.into_iter().fold(time.expr.clone(), cast)]))
}

/// How a value becomes an `Int64` that is ordered as the value is; `None` where it does not.
fn counts_as(input: &DataType) -> Option<Vec<DataType>> {
    match input {
        DataType::Date32 => Some(vec![DataType::Int32, DataType::Int64]),
        DataType::Boolean | DataType::Date64 | DataType::Timestamp(..) => Some(vec![DataType::Int64]),
        DataType::UInt64 => None,
        input if input.is_integer() => Some(vec![DataType::Int64]),
        _ => None,
    }
}

/// A value that can be compared byte by byte once it is written down.
fn is_plain(input: &DataType) -> bool {
    use DataType::{Boolean, Date32, Date64, LargeUtf8, Timestamp, Utf8, Utf8View};
    let text = matches!(input, Utf8 | LargeUtf8 | Utf8View);
    input.is_numeric() || text || matches!(input, Boolean | Date32 | Date64 | Timestamp(..))
}

/// Whether an expression can be worked out for rows that its file leaves out: it cannot fail.
pub(super) fn is_harmless(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Literal(value, _) => !matches!(value, ScalarValue::Null),
        Expr::Alias(alias) => is_harmless(&alias.expr),
        _ => false,
    }
}
