//! Times without a zone: which instants they are is for the job to say, and clocks that change make some of them ambiguous.
//!
//! DataFusion reads a Parquet column without a zone as if it were on the clock of the column's declared type, and fails where that
//! clock shows a time twice or never. Here such a time is an instant by the rules of [`crate::local_time`], for Parquet and CSV alike.
//! A job in UTC reads them as DataFusion does: there the two are the same.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use chrono_tz::Tz;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::scalar::ScalarValue;

use crate::local_time::{LocalClock, OnError, instants, is_utc, zone_name};
use crate::spec::TableSpec;

/// Whether a table's times without a zone are more than a label away from what SQL sees.
pub(super) fn matter(table: &TableSpec) -> bool {
    !is_utc(table.timezone)
}

/// The names of the columns of a file that are times without a zone.
pub(super) fn columns_of(found: &Schema) -> impl Iterator<Item = &str> {
    let naive = |field: &&Arc<Field>| matches!(field.data_type(), DataType::Timestamp(_, None));
    found.fields().iter().filter(naive).map(|field| field.name().as_str())
}

/// Reads the times without a zone of a table's Parquet files.
#[derive(Debug)]
pub(super) struct NaiveTimes {
    table: String,
    written: Tz,
}

impl NaiveTimes {
    /// Reads those of this table.
    pub fn new(table: &TableSpec) -> Self {
        NaiveTimes { table: table.name.clone(), written: table.naive_zone() }
    }
}

impl PhysicalExprAdapterFactory for NaiveTimes {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let inner = DefaultPhysicalExprAdapterFactory.create(logical, Arc::clone(&physical))?;
        Ok(Arc::new(Adapter { inner, table: self.table.clone(), written: self.written, physical }))
    }
}

#[derive(Debug)]
struct Adapter {
    inner: Arc<dyn PhysicalExprAdapter>,
    table: String,
    written: Tz,
    physical: SchemaRef,
}

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = self.inner.rewrite(expr)?;
        let rewritten = expr.transform_up(|part| {
            let Some(cast) = part.downcast_ref::<CastExpr>() else { return Ok(Transformed::no(part)) };
            let naive = matches!(cast.expr().data_type(&self.physical)?, DataType::Timestamp(_, None));
            match cast.target_field().data_type() {
                DataType::Timestamp(_, Some(zone)) if naive => {
                    let name = cast.expr().to_string();
                    let read = read(&self.table, &name, self.written, zone, Arc::clone(cast.expr()));
                    Ok(Transformed::yes(read))
                }
                _ => Ok(Transformed::no(part)),
            }
        });
        Ok(rewritten?.data)
    }
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
