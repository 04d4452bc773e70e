//! Times without a zone: which instants they are is for the job to say, and clocks that change make some of them ambiguous.
//!
//! Arrow reads a column without a zone as if it were on the clock of the column's declared type, and fails where that clock shows a
//! time twice or never. Here such a time is an instant by the rules of [`crate::local_time`], for Parquet (see
//! [`super::conversion`]) and CSV alike. A job in UTC reads them as Arrow does: there the two are the same.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use chrono_tz::Tz;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::scalar::ScalarValue;

use super::tables::{file_columns, find_type};
use crate::local_time::{LocalClock, OnError, instants, is_utc, zone_name};
use crate::spec::{ColumnSpec, TableSpec};

/// Whether a table's times without a zone are more than a label away from what SQL sees.
pub(super) fn matter(table: &TableSpec) -> bool {
    !is_utc(table.timezone)
}

/// The names of the declared columns that are times without a zone in a file.
pub(super) fn columns_of<'a>(table: &'a TableSpec, found: &Schema) -> impl Iterator<Item = &'a str> {
    let naive = |column: &&ColumnSpec| matches!(find_type(found, &column.from), Ok(DataType::Timestamp(_, None)));
    file_columns(table).filter(naive).map(|column| column.name.as_str())
}

/// A schema whose timestamps are still the texts that a CSV file holds.
pub(super) fn as_texts(schema: &Schema) -> Schema {
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::Timestamp(..) => field.as_ref().clone().with_data_type(DataType::Utf8),
        _ => field.as_ref().clone(),
    };
    Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>())
}

/// Makes timestamps of the texts of [`as_texts`], where `wanted` says so.
pub(super) fn from_texts(
    table: &TableSpec,
    plan: Arc<dyn ExecutionPlan>,
    wanted: &Schema,
) -> Result<Arc<dyn ExecutionPlan>> {
    let columns = wanted.fields().iter().enumerate().map(|(i, field)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), i));
        let expr = match field.data_type() {
            DataType::Timestamp(_, Some(zone)) => read(&table.name, field.name(), table.naive_zone(), zone, column),
            _ => column,
        };
        ProjectionExpr::new(expr, field.name().clone())
    });
    Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), plan)?))
}

/// A column, read on the clock of `written` and shown in `zone`.
fn read(table: &str, column: &str, written: Tz, zone: &str, times: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    let signature = Signature::any(1, Volatility::Immutable);
    let shown = zone.parse().unwrap_or(Tz::UTC);
    let place = format!("in table `{table}`, column `{column}`");
    let function = ScalarUDF::from(ReadTimes { place, written, shown, signature });
    let data_type = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some(zone.into()));
    let field = Arc::new(Field::new("read_times", data_type, true));
    let config = Arc::new(ConfigOptions::default());
    Arc::new(ScalarFunctionExpr::new("read_times", Arc::new(function), vec![times], field, config))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ReadTimes {
    place: String,
    written: Tz,
    shown: Tz,
    signature: Signature,
}

impl ScalarUDFImpl for ReadTimes {
    fn name(&self) -> &str {
        "read_times"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        let zone = zone_name(self.shown).into();
        Ok(DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some(zone)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [times] = args.args.as_slice() else { return Err(exec_datafusion_err!("`read_times` is of one column")) };
        let array = times.to_array(args.number_rows)?;
        let found = instants(&array, &LocalClock::of(self.written), 1, OnError::Fail);
        let found = found.map_err(|error| exec_datafusion_err!("{}: {error}", self.place))?;
        let found = found.with_timezone(zone_name(self.shown));
        match times {
            ColumnarValue::Scalar(_) => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?)),
            ColumnarValue::Array(_) => Ok(ColumnarValue::Array(Arc::new(found))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_on_the_clock_that_wrote_them() {
        use arrow::array::StringArray;
        let times: arrow::array::ArrayRef = Arc::new(StringArray::from(vec![Some("2026-07-01 00:30:00"), None]));
        let read = |zone| instants(&times, &LocalClock::of(zone), 1, OnError::Fail).unwrap();
        let hour = 3_600_000_000;
        assert_eq!(read(Tz::UTC).value(0) - read(chrono_tz::Europe::Berlin).value(0), 2 * hour);
        assert_eq!(arrow::array::Array::null_count(&read(Tz::UTC)), 1);
    }
}
