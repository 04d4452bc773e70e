//! Aggregates that may be about right: `approx_distinct`, `approx_median` and `approx_percentile_cont`.
//!
//! A customer mostly has few rows: the answer is then the exact one, and exact sets and lists of values take less room than sketches
//! of them. The exact aggregates are put in the place of these, with a mark around what they read: a shared pass keeps a sketch
//! where there are many values, see [`super::fusion`]; whatever runs as it is written does not see the mark.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr as PlanExpr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName, Query, visit_expressions_mut,
};

/// What is computed in place of what, and how many arguments that takes.
const EXACT: [(&str, &str, usize); 3] =
    [("approx_distinct", "count", 1), ("approx_median", "median", 1), ("approx_percentile_cont", "percentile_cont", 2)];

/// The mark: a function that gives back what it is given.
const ABOUT: &str = "about";

static MARK: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::from(About { signature: Signature::any(1, Volatility::Immutable) })));

/// Adds the mark to a context.
pub(super) fn register(context: &SessionContext) {
    context.register_udf(MARK.as_ref().clone());
}

/// What an aggregate reads, without the mark, and whether it has one.
pub(super) fn argument(expr: &PlanExpr) -> (&PlanExpr, bool) {
    match expr {
        PlanExpr::ScalarFunction(function) if function.name() == ABOUT => match function.args.as_slice() {
            [marked] => (marked, true),
            _ => (expr, false),
        },
        _ => (expr, false),
    }
}

/// Puts exact aggregates in the place of approximate ones, and marks what they read.
pub(super) fn made_exact(query: &mut Query) {
    let _ = visit_expressions_mut(query, |expr| {
        if let Expr::Function(function) = expr {
            replace(function);
        }
        ControlFlow::<()>::Continue(())
    });
}

fn replace(function: &mut Function) {
    let Some(name) = function.name.0.last().and_then(|part| part.as_ident()) else { return };
    let name = name.value.to_lowercase();
    let Some((_, exact, most)) = EXACT.iter().find(|(approximate, ..)| *approximate == name) else { return };
    if *exact == "count" && function.over.is_some() {
        // DataFusion counts no distinct values of a moving frame.
        return;
    }
    let FunctionArguments::List(FunctionArgumentList { duplicate_treatment, args, .. }) = &mut function.args else {
        return;
    };
    // What comes behind says how fine the sketch is. The value itself may stand in `WITHIN GROUP (ORDER BY …)`.
    args.truncate(most - usize::from(!function.within_group.is_empty()));
    match (function.within_group.as_mut_slice(), args.as_mut_slice()) {
        ([order], _) => mark(&mut order.expr),
        ([], [FunctionArg::Unnamed(FunctionArgExpr::Expr(value)), ..]) => mark(value),
        _ => {}
    }
    if *exact == "count" {
        *duplicate_treatment = Some(DuplicateTreatment::Distinct);
    }
    function.name = ObjectName::from(vec![Ident::new(*exact)]);
}

fn mark(value: &mut Expr) {
    let marked = FunctionArg::Unnamed(FunctionArgExpr::Expr(value.clone()));
    let args = FunctionArgumentList { duplicate_treatment: None, args: vec![marked], clauses: Vec::new() };
    *value = Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(ABOUT)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(args),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    });
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct About {
    signature: Signature,
}

impl About {
    fn one<T>(args: Vec<T>) -> Result<T> {
        args.into_iter().next().ok_or_else(|| exec_datafusion_err!("`{ABOUT}` is of one value"))
    }
}

impl ScalarUDFImpl for About {
    fn name(&self) -> &str {
        ABOUT
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        About::one(arg_types.to_vec())
    }

    fn simplify(&self, args: Vec<PlanExpr>, _info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        About::one(args).map(ExprSimplifyResult::Simplified)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        About::one(args.args)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn exact(items: &str) -> String {
        let sql = format!("SELECT {items} FROM t");
        let mut query = Parser::new(&GenericDialect {}).try_with_sql(&sql).unwrap().parse_query().unwrap();
        made_exact(&mut query);
        let text = query.to_string();
        text.strip_prefix("SELECT ").unwrap().strip_suffix(" FROM t").unwrap().to_owned()
    }

    #[test]
    fn approximate_aggregates_become_exact_ones() {
        assert_eq!(
            exact("approx_distinct(sku) FILTER (WHERE a > 1) AS n"),
            "count(DISTINCT about(sku)) FILTER (WHERE a > 1) AS n"
        );
        assert_eq!(exact("1 + APPROX_MEDIAN(x)"), "1 + median(about(x))");
        assert_eq!(exact("approx_percentile_cont(x, 0.9)"), "percentile_cont(about(x), 0.9)");
        assert_eq!(exact("approx_percentile_cont(x, 0.9, 200)"), "percentile_cont(about(x), 0.9)");
        assert_eq!(
            exact("approx_percentile_cont(0.9, 200) WITHIN GROUP (ORDER BY x DESC)"),
            "percentile_cont(0.9) WITHIN GROUP (ORDER BY about(x) DESC)"
        );
    }

    #[test]
    fn everything_else_stays() {
        for items in
            ["count(DISTINCT sku)", "approx_percentile_cont_with_weight(x, w, 0.5)", "approx_distinct(x) OVER ()"]
        {
            assert_eq!(exact(items), items);
        }
    }
}
