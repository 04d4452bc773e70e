//! Names with capitals: SQL makes `customerId` a name in lower case unless it is quoted. Where a table has a column `customerId` and
//! none whose name is the same but for capitals, the name without quotes means that column.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, SelectItem, SetExpr, visit_expressions_mut};

/// The columns with capitals that a name without quotes can stand for, by that name.
#[derive(Debug, Default)]
pub(super) struct Capitals {
    by_lower: BTreeMap<String, String>,
}

impl Capitals {
    /// Those among these columns; a name that several columns share, or one column has as it is, stands for itself.
    pub fn among<'a>(columns: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for column in columns {
            let same = names.entry(column.to_lowercase()).or_default();
            if !same.contains(&column) {
                same.push(column);
            }
        }
        let only = names.into_iter().filter_map(|(lower, same)| match same.as_slice() {
            [one] if *one != lower => Some((lower, (*one).to_owned())),
            _ => None,
        });
        Capitals { by_lower: only.collect() }
    }

    /// Quotes the names that mean columns with capitals; what a select list calls them stays in lower case, but for the key.
    pub fn quote(&self, query: &mut Query, key: &str) {
        if self.by_lower.is_empty() {
            return;
        }
        for_select_lists(&mut query.body, &mut |item| {
            let name = match item {
                SelectItem::UnnamedExpr(Expr::Identifier(name)) => name.clone(),
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => match parts.last() {
                    Some(name) => name.clone(),
                    None => return,
                },
                SelectItem::ExprWithAlias { alias, .. } if is_key(alias, key) => {
                    *alias = Ident::with_quote_and_span('"', alias.span, key);
                    return;
                }
                _ => return,
            };
            let SelectItem::UnnamedExpr(expr) = &*item else { return };
            if name.quote_style.is_none() && self.meant(&name).is_some() {
                let alias = match is_key(&name, key) {
                    true => Ident::with_quote_and_span('"', name.span, key),
                    false => Ident { value: name.value.to_lowercase(), ..name },
                };
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            }
        });
        let _ = visit_expressions_mut(query, |expr| {
            match expr {
                Expr::Identifier(name) => self.put_quotes(name),
                Expr::CompoundIdentifier(parts) => {
                    if let Some(name) = parts.last_mut() {
                        self.put_quotes(name);
                    }
                }
                _ => {}
            }
            ControlFlow::<()>::Continue(())
        });
    }

    fn meant(&self, name: &Ident) -> Option<&str> {
        match name.quote_style {
            None => self.by_lower.get(&name.value.to_lowercase()).map(String::as_str),
            Some(_) => None,
        }
    }

    fn put_quotes(&self, name: &mut Ident) {
        if let Some(column) = self.meant(name) {
            *name = Ident::with_quote_and_span('"', name.span, column);
        }
    }
}

/// Whether a name without quotes is the key's but for capitals.
fn is_key(name: &Ident, key: &str) -> bool {
    name.quote_style.is_none() && name.value.eq_ignore_ascii_case(key) && key != key.to_lowercase()
}

fn for_select_lists(body: &mut SetExpr, change: &mut impl FnMut(&mut SelectItem)) {
    match body {
        SetExpr::Select(select) => select.projection.iter_mut().for_each(change),
        SetExpr::Query(query) => for_select_lists(&mut query.body, change),
        SetExpr::SetOperation { left, right, .. } => {
            for_select_lists(left, change);
            for_select_lists(right, change);
        }
        _ => {}
    }
}

/// A column's name as SQL has to write it.
pub(super) fn as_written(name: &str) -> String {
    match name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        true => name.to_owned(),
        false => format!("\"{name}\""),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::Statement;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn quoted(sql: &str, columns: &[&str], key: &str) -> String {
        let Some(Statement::Query(mut query)) = Parser::parse_sql(&GenericDialect {}, sql).unwrap().pop() else {
            panic!()
        };
        Capitals::among(columns.iter().copied()).quote(&mut query, key);
        query.to_string()
    }

    #[test]
    fn a_name_without_quotes_means_the_only_column_that_it_can() {
        let columns = ["customerId", "orderedAt", "amount"];
        assert_eq!(
            quoted(
                "SELECT customerid, o.OrderedAt, sum(Amount) AS s FROM o GROUP BY customerId",
                &columns,
                "customerId"
            ),
            "SELECT \"customerId\" AS \"customerId\", o.\"orderedAt\" AS orderedat, sum(Amount) AS s FROM o GROUP BY \"customerId\""
        );
        assert_eq!(quoted("SELECT \"orderedAt\" FROM o", &columns, "x"), "SELECT \"orderedAt\" FROM o");
    }

    #[test]
    fn a_name_that_several_columns_share_stands_for_itself() {
        assert_eq!(quoted("SELECT ID FROM o", &["Id", "ID"], "x"), "SELECT ID FROM o");
        assert_eq!(quoted("SELECT ID FROM o", &["Id", "id"], "x"), "SELECT ID FROM o");
    }
}
