//! Aggregates that other engines answer about right are answered exactly: `approx_distinct`, `approx_median` and
//! `approx_percentile_cont`.
//!
//! A customer has few rows, so exact sets and lists of values are smaller than sketches of them; they can be merged, too, and
//! unlike a t-digest they do not depend on the order of the rows.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArgumentList, FunctionArguments, Ident, ObjectName, Query,
    visit_expressions_mut,
};

/// What is computed in place of what, and how many arguments that takes.
const EXACT: [(&str, &str, usize); 3] =
    [("approx_distinct", "count", 1), ("approx_median", "median", 1), ("approx_percentile_cont", "percentile_cont", 2)];

/// Puts exact aggregates in the place of approximate ones.
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
    if *exact == "count" {
        *duplicate_treatment = Some(DuplicateTreatment::Distinct);
    }
    function.name = ObjectName::from(vec![Ident::new(*exact)]);
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
            "count(DISTINCT sku) FILTER (WHERE a > 1) AS n"
        );
        assert_eq!(exact("1 + APPROX_MEDIAN(x)"), "1 + median(x)");
        assert_eq!(exact("approx_percentile_cont(x, 0.9)"), "percentile_cont(x, 0.9)");
        assert_eq!(exact("approx_percentile_cont(x, 0.9, 200)"), "percentile_cont(x, 0.9)");
        assert_eq!(
            exact("approx_percentile_cont(0.9, 200) WITHIN GROUP (ORDER BY x DESC)"),
            "percentile_cont(0.9) WITHIN GROUP (ORDER BY x DESC)"
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
