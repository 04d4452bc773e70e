//! A SQL condition over the columns of one row: parsed against a schema, boolean, and the same answer every time.
//!
//! Two parts of a job are such conditions: which stage a customer is in, and who has enough data to be scored.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
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
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::ParserError;

use super::checked::checked;
use super::failure_words::{hint_of, rule_of, values_in_words};
use super::{limited, local_time, nesting};
use crate::error::{Place, Problem};
use crate::spec::nearest;
use crate::{Error, Result};

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
    /// What it decides, and where it stands.
    source: Option<(String, Place)>,
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

    /// The same condition, with what it decides and where it stands, for messages.
    pub fn deciding(self, what: impl Into<String>, place: Place) -> Self {
        Condition { source: Some((what.into(), place)), ..self }
    }

    /// Why it fails, on which row; the first column is the key.
    fn explained(&self, batch: &RecordBatch, error: &DataFusionError) -> Error {
        let cause = |row: &usize| self.physical.evaluate(&batch.slice(*row, 1)).err();
        let row = (0..batch.num_rows()).find(|row| cause(row).is_some());
        let cause = row.as_ref().and_then(cause);
        let cause = cause.as_ref().unwrap_or(error);
        let schema = batch.schema();
        let of_key = row.map_or(String::new(), |row| {
            let key = array_value_to_string(batch.column(0), row).unwrap_or_default();
            format!(" for `{}` {key}", schema.field(0).name())
        });
        let columns = self.columns.iter().filter_map(|name| Some((name.as_str(), batch.column_by_name(name)?)));
        let values =
            row.and_then(|row| values_in_words(columns, row)).map_or(String::new(), |v| format!(", where {v}"));
        let what = self.source.as_ref().map_or("the condition", |(what, _)| what);
        let rule = rule_of(cause.strip_backtrace());
        let error = Error::user(format!("{what} fails{of_key}: {rule} in `{}`{values}", self.text));
        let error = hint_of(cause, None).into_iter().fold(error, Error::hint);
        self.source.iter().fold(error, |error, (_, place)| error.at(place.clone()))
    }

    /// One value per row; NULL counts as false.
    pub fn matches(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let of_all = |value: bool| BooleanArray::from(vec![value; batch.num_rows()]);
        Ok(match self.physical.evaluate(batch).map_err(|error| self.explained(batch, &error))? {
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
        if let Some((problem, _)) = nesting::check_expression(text, &GenericDialect {}) {
            return Err(problem);
        }
        let expr = self.planned(text).map_err(|error| plain(&error))?;
        if let Some((what, hint)) = refusal(&expr) {
            return Err(Problem::new(what).hint(hint));
        }
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(self.schema.clone()).build());
        let coerced = simplifier.coerce(expr.clone(), &self.schema).map_err(|e| plain(&e))?;
        if let Some(problem) = local_time::naive_part(&coerced, &self.schema).map_err(|e| plain(&e))? {
            return Err(problem);
        }
        let data_type = coerced.get_type(&self.schema).map_err(|e| plain(&e))?;
        if !matches!(data_type, DataType::Boolean | DataType::Null) {
            return Err(Problem::new(format!("`{text}` is no condition but a value of type {data_type}"))
                .hint("compare it with something, for example `churn_90d >= 0.6`"));
        }
        let expr = checked(expr, &self.schema).map_err(|e| plain(&e))?;
        let computed = simplifier.coerce(expr.clone(), &self.schema).map_err(|e| plain(&e))?;
        // Conditions are compared as they are written, before their arithmetic is checked.
        let both = move || Ok((simplifier.simplify(coerced)?, simplifier.simplify(computed)?));
        let both = limited::within_limits(both).unwrap_or_else(|e| Err(e.into()));
        let (simplest, computed) = both.map_err(|e: DataFusionError| plain(&e))?;
        let physical = self.state.create_physical_expr(computed, &self.schema).map_err(|e| plain(&e))?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Condition { text, columns: columns_of(&expr), expr, simplest, physical, source: None })
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
        DataFusionError::SQL(parser, _) if **parser == ParserError::RecursionLimitExceeded => {
            let problem = nesting::too_nested();
            (problem.message, problem.hint)
        }
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
        DataFusionError::External(source) if source.is::<Error>() => {
            let ours = source.downcast_ref::<Error>().and_then(|error| error.problems().next());
            ours.map_or((String::new(), None), |ours| (ours.message.clone(), ours.hint.clone()))
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

    #[test]
    fn a_condition_that_fails_says_on_which_row() {
        let condition = parsed("100 / orders > 5").unwrap();
        let batch = orders(vec![Some(2), None, Some(0)]);
        let error =
            condition.clone().deciding("stage `loyal`", Place::at("jobs/x.yaml", 3, 5)).matches(&batch).unwrap_err();
        assert_eq!(
            error.to_string(),
            "jobs/x.yaml:3:5: stage `loyal` fails for `orders` 0: division by zero in `100 / orders > 5`, where `orders` is `0`"
        );
        let hint = error.problems().next().and_then(|problem| problem.hint.clone()).unwrap();
        assert_eq!(hint, "divide by `nullif(…, 0)`, which gives NULL where it is 0");
        assert!(condition.matches(&orders(vec![Some(0)])).unwrap_err().to_string().starts_with("the condition fails"));
    }

    #[test]
    fn numbers_wrap_in_no_condition_and_a_zero_is_one() {
        let error = parsed("orders * 2 > 0").unwrap().matches(&orders(vec![Some(i64::MAX)])).unwrap_err();
        assert!(error.to_string().contains("overflow"), "{error}");
        let schema = Arc::new(Schema::new(vec![Field::new("spend", DataType::Float64, true)]));
        let spend = arrow::array::Float64Array::from(vec![-0.0, -1.0]);
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(spend)]).unwrap();
        let condition = ConditionParser::new(&schema).unwrap().parse("spend >= 0").unwrap();
        assert_eq!(condition.matches(&batch).unwrap(), BooleanArray::from(vec![true, false]));
    }

    #[test]
    fn a_condition_with_a_great_constant_is_refused() {
        let problem = parsed("orders > length(repeat('x', 40000 * 40000))").map(|_| ()).unwrap_err();
        assert!(problem.message.starts_with("the constants take more than"), "{problem}");
    }
}
