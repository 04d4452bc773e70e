//! Planned expressions found again in the text of their file.

use std::ops::ControlFlow;

use datafusion::logical_expr::Expr;
use datafusion::sql::sqlparser::ast::{self, CastKind, SelectItem, Spanned, visit_expressions, visit_expressions_mut};
use datafusion::sql::sqlparser::tokenizer::Location;
use datafusion::sql::unparser::expr_to_sql;

use super::definition::Definition;

/// An expression as SQL, with bare names of columns.
pub(super) fn sql(expr: &Expr) -> Option<String> {
    expr_to_sql(expr).ok().map(|expr| plain(expr).to_string())
}

/// What an item of a select list selects.
pub(super) fn in_sql(item: &SelectItem) -> String {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => on_one_line(expr),
        other => other.to_string(),
    }
}

/// Where an expression stands in a file, and how it is written there.
pub(super) fn find(definition: &Definition, expr: &Expr) -> Option<(Location, String)> {
    if matches!(expr, Expr::Column(_) | Expr::Literal(..)) {
        return None;
    }
    let wanted = sql(expr)?.to_lowercase();
    let found = visit_expressions(&definition.query, |written| {
        let at = written.span().start;
        // The position of some expressions is not known.
        match at.line > 0 && plain(written.clone()).to_string().to_lowercase() == wanted {
            true => ControlFlow::Break((at, on_one_line(written))),
            false => ControlFlow::Continue(()),
        }
    });
    match found {
        ControlFlow::Break(found) => Some(found),
        ControlFlow::Continue(()) => None,
    }
}

fn on_one_line(expr: &ast::Expr) -> String {
    expr.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The same expression however it is written: no tables, quotes or brackets, one kind of cast.
fn plain(mut expr: ast::Expr) -> ast::Expr {
    let _ = visit_expressions_mut(&mut expr, |part| {
        let inner = match part {
            ast::Expr::CompoundIdentifier(names) => names.pop().map(ast::Expr::Identifier),
            ast::Expr::Nested(inner) => {
                Some(std::mem::replace(inner.as_mut(), ast::Expr::Identifier(ast::Ident::new(""))))
            }
            _ => None,
        };
        if let Some(inner) = inner {
            *part = inner;
        }
        match part {
            ast::Expr::Identifier(name) => name.quote_style = None,
            ast::Expr::Cast { kind: kind @ CastKind::DoubleColon, .. } => *kind = CastKind::Cast,
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
    expr
}
