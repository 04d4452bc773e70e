//! A SQL condition over the columns of one row: parsed against a schema, boolean, and the same answer every time.
//!
//! Two parts of a job are such conditions: which stage a customer is in, and who has enough data to be scored.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use chrono_tz::Tz;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DFSchemaRef, ScalarValue, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{ColumnarValue, Expr, ExprSchemable, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_plan::PhysicalExpr;

use super::checked::checked;
use super::local_time;
use crate::Result;
use crate::error::Problem;
use crate::spec::nearest;

/// A condition that can be evaluated row by row.
#[derive(Debug, Clone)]
pub struct Condition {
    /// As it was written, on one line.
    pub(crate) text: String,
    /// What it computes.
    pub(crate) expr: Expr,
    /// The columns that it reads, in the order in which they appear.
    pub(crate) columns: Vec<String>,
    /// Its simplest form: equal forms are equal conditions.
    pub(crate) simplest: Expr,
    physical: Arc<dyn PhysicalExpr>,
}

impl Condition {
    /// What it says of every row, where that does not depend on the row; NULL is false.
    pub fn constant(&self) -> Option<bool> {
        match &self.simplest {
            Expr::Literal(ScalarValue::Boolean(value), _) => Some(value.unwrap_or(false)),
            Expr::Literal(ScalarValue::Null, _) => Some(false),
            _ => None,
        }
    }

    /// One value per row; NULL counts as false.
    pub fn matches(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let of_all = |value: bool| BooleanArray::from(vec![value; batch.num_rows()]);
        Ok(match self.physical.evaluate(batch)? {
            ColumnarValue::Scalar(ScalarValue::Boolean(value)) => of_all(value.unwrap_or(false)),
            ColumnarValue::Scalar(_) => of_all(false),
            ColumnarValue::Array(array) => match array.as_boolean_opt() {
                Some(flags) => (0..flags.len()).map(|row| Some(flags.is_valid(row) && flags.value(row))).collect(),
                None => of_all(false),
            },
        })
    }
}

/// Reads conditions over the columns of one schema.
pub struct ConditionParser {
    state: SessionState,
    schema: DFSchemaRef,
    timezone: Tz,
}

impl ConditionParser {
    /// A parser for conditions over these columns; dates and times are on the clock of their time zone.
    pub fn new(columns: &SchemaRef) -> Result<Self> {
        let timezone = local_time::zone_of_columns(columns);
        let schema = DFSchema::try_from(Arc::clone(columns))?.into();
        let mut state = SessionStateBuilder::new().with_default_features().build();
        local_time::register(&mut state, timezone)?;
        Ok(ConditionParser { state, schema, timezone })
    }

    /// What a text says, planned.
    fn planned(&self, text: &str) -> Result<Expr, DataFusionError> {
        let dialect = self.state.config_options().sql_parser.dialect;
        let mut parsed = self.state.sql_to_expr_with_alias(text, &dialect)?;
        local_time::localize(&mut parsed.expr, self.timezone);
        self.state.create_logical_expr_from_sql_expr(parsed, &self.schema)
    }

    /// A condition, or what is wrong with it; where it stands is for the caller to say.
    pub fn parse(&self, text: &str) -> Result<Condition, Problem> {
        let plain = |error: &DataFusionError| {
            let (what, hint) = explain(error);
            match hint {
                Some(hint) => Problem::new(what).hint(hint),
                None => Problem::new(what).hint("`tenure features docs` lists the columns"),
            }
        };
        let expr = self.planned(text).map_err(|error| plain(&error))?;
        if let Some((what, hint)) = refusal(&expr) {
            return Err(Problem::new(what).hint(hint));
        }
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(self.schema.clone()).build());
        let expr = checked(expr, &self.schema).map_err(|e| plain(&e))?;
        let coerced = simplifier.coerce(expr.clone(), &self.schema).map_err(|e| plain(&e))?;
        if let Some(problem) = local_time::naive_part(&coerced, &self.schema).map_err(|e| plain(&e))? {
            return Err(problem);
        }
        let data_type = coerced.get_type(&self.schema).map_err(|e| plain(&e))?;
        if !matches!(data_type, DataType::Boolean | DataType::Null) {
            return Err(Problem::new(format!("`{text}` is no condition but a value of type {data_type}"))
                .hint("compare it with something, for example `churn_90d >= 0.6`"));
        }
        let simplest = simplifier.simplify(coerced).map_err(|e| plain(&e))?;
        let physical = self.state.create_physical_expr(simplest.clone(), &self.schema).map_err(|e| plain(&e))?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Condition { text, columns: columns_of(&expr), expr, simplest, physical })
    }
}

/// The columns of an expression, each once, in the order of appearance.
fn columns_of(expr: &Expr) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    let _ = expr.apply(|node| {
        if let Expr::Column(column) = node
            && !columns.contains(&column.name)
        {
            columns.push(column.name.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    columns
}

/// Why an expression cannot decide a stage, with a hint, if it cannot.
fn refusal(expr: &Expr) -> Option<(String, String)> {
    let mut found = None;
    let _ = expr.apply(|node| {
        found = match node {
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => Some((
                format!("`{}()` gives another answer every time", call.func.name()),
                "use a column of a feature file: there `$as_of` is the night's date".to_owned(),
            )),
            Expr::AggregateFunction(_) | Expr::WindowFunction(_) | Expr::GroupingSet(_) => Some((
                "a condition looks at one customer and cannot aggregate".to_owned(),
                "compute it in a feature file".to_owned(),
            )),
            Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_) => Some((
                "a condition looks at one customer and cannot hold a subquery".to_owned(),
                "compute it in a feature file".to_owned(),
            )),
            Expr::Placeholder(placeholder) => Some((
                format!("the parameter `{}` is not known here", placeholder.id),
                "use a column of a feature file: there `$as_of` is the night's date".to_owned(),
            )),
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        Ok(TreeNodeRecursion::Stop)
    });
    found
}

/// A planning error in plain words, with a hint where there is one.
fn explain(error: &DataFusionError) -> (String, Option<String>) {
    match error.find_root() {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => (
                format!("there is no column `{}`", field.name),
                nearest(&field.name, valid_fields.iter().map(|c| c.name.as_str())),
            ),
            other => (other.to_string(), None),
        },
        DataFusionError::SQL(parser, _) => {
            let text = parser.to_string();
            (text.strip_prefix("sql parser error: ").unwrap_or(&text).to_owned(), None)
        }
        DataFusionError::Plan(what) | DataFusionError::NotImplemented(what) => {
            if what.contains("table") && what.contains("not found") {
                return ("a condition cannot read a table".to_owned(), Some("compute it in a feature file".to_owned()));
            }
            (what.lines().next().unwrap_or(what).to_owned(), None)
        }
        other => (other.strip_backtrace(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use arrow::datatypes::{Field, Schema};

    fn orders(values: Vec<Option<i64>>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("orders", DataType::Int64, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values))]).unwrap()
    }

    fn parsed(text: &str) -> Result<Condition, Problem> {
        ConditionParser::new(&orders(vec![]).schema()).unwrap().parse(text)
    }

    #[test]
    fn a_null_does_not_match() {
        let matches = parsed("orders > 0").unwrap().matches(&orders(vec![Some(2), Some(0), None])).unwrap();
        assert_eq!(matches, BooleanArray::from(vec![true, false, false]));
    }

    #[test]
    fn a_constant_says_the_same_of_every_row() {
        let always = parsed("1 < 2").unwrap();
        assert_eq!(always.constant(), Some(true));
        assert_eq!(always.matches(&orders(vec![Some(2), None])).unwrap().true_count(), 2);
        assert_eq!(parsed("NULL").unwrap().constant(), Some(false));
        assert_eq!(parsed("orders > 0").unwrap().constant(), None);
    }

    #[test]
    fn a_number_an_unknown_column_and_a_clock_are_refused() {
        for wrong in ["orders + 1", "order > 0", "orders >", "random() > 0.5", "now() > '2026-01-01'"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parsed("ordes > 0").unwrap_err().hint.unwrap(), "did you mean `orders`?");
    }
}
