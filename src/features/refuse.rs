//! What a SQL file may not do, found in its syntax alone.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, GroupByExpr, LimitClause, ObjectName, Query, Select, SelectItem, SetExpr, Spanned, TableFactor,
    Value, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::definition::{Definition, Kind, is_plain_table, normalized};
use super::letter_case::as_written;
use crate::error::Problem;

/// The one parameter.
pub(super) const AS_OF: &str = "$as_of";

const CLOCKS: [&str; 11] = [
    "now",
    "today",
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "getdate",
    "sysdate",
    "transaction_timestamp",
    "statement_timestamp",
];
const DICE: [&str; 6] = ["random", "rand", "uuid", "gen_random_uuid", "newid", "shuffle"];
/// Aggregates whose result depends on the order in which rows arrive, beyond rounding or within it.
const UNSTEADY: [(&str, &str); 15] = [
    ("approx_percentile_cont_with_weight", "percentile_cont"),
    ("corr", ""),
    ("covar", ""),
    ("covar_samp", ""),
    ("covar_pop", ""),
    ("regr_slope", ""),
    ("regr_intercept", ""),
    ("regr_r2", ""),
    ("regr_avgx", ""),
    ("regr_avgy", ""),
    ("regr_sxx", ""),
    ("regr_syy", ""),
    ("regr_sxy", ""),
    ("any_value", "min"),
    ("quantile_cont", "percentile_cont"),
];
/// Aggregates that pick or concatenate rows: they need an order of their own.
const ORDERED: [&str; 6] = ["first_value", "last_value", "nth_value", "array_agg", "string_agg", "listagg"];

/// A function in the SQL makes at most so long a constant.
const MAX_LENGTH: i128 = 1_000_000;

/// The relations of a query that are not its own CTEs, each once.
pub(super) fn tables(query: &Query) -> Vec<(String, Location)> {
    let mut found = Relations::default();
    let _ = query.visit(&mut found);
    found.tables.retain(|(name, _)| !found.own.contains(name));
    found.tables
}

#[derive(Default)]
struct Relations {
    tables: Vec<(String, Location)>,
    own: Vec<String>,
}

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let with = query.with.iter().flat_map(|with| &with.cte_tables);
        self.own.extend(with.map(|cte| normalized(&cte.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name: Vec<String> = relation.0.iter().filter_map(|part| part.as_ident()).map(normalized).collect();
        let name = name.join(".");
        if !self.tables.iter().any(|(known, _)| *known == name) {
            self.tables.push((name, relation.span().start));
        }
        ControlFlow::Continue(())
    }
}

/// Checks one file; `key` is the job's key column.
pub(super) fn check(definition: &Definition, key: &str, problems: &mut Vec<Problem>) {
    let mut found = Refusals { definition, problems: Vec::new(), queries: 0 };
    let _ = definition.query.visit(&mut found);
    problems.append(&mut found.problems);
    let mut refuse = |message: String, at: Location, hint: &str| {
        problems.push(Problem::new(message).at(definition.place(at)).hint(hint));
    };
    header_fits(definition, &mut refuse);
    columns_fit(definition, key, &mut refuse);
    match definition.kind {
        Kind::Windowed | Kind::Label => one_aggregate(definition, key, &mut refuse),
        Kind::Derived => one_row(definition, &mut refuse),
        Kind::Free | Kind::View | Kind::Population | Kind::Events => {
            let limit = definition.query.limit_clause.is_some() || definition.query.fetch.is_some();
            if limit && definition.query.order_by.is_none() {
                refuse("`LIMIT` without `ORDER BY` picks rows by chance".into(), definition.begin, "add `ORDER BY`");
            }
        }
    }
}

type Refuse<'a> = dyn FnMut(String, Location, &str) + 'a;

fn header_fits(definition: &Definition, refuse: &mut Refuse) {
    let header = &definition.header;
    let windows = header.windows.as_ref().map(|(_, at)| *at);
    let event_time = header.event_time.as_ref().map(|(_, at)| *at);
    let horizon = header.horizon.as_ref().map(|(_, at)| *at);
    let kind = definition.kind;
    let misplaced = [
        ("windows", windows, kind == Kind::Windowed, "only feature files have windows"),
        (
            "event_time",
            event_time,
            matches!(kind, Kind::View | Kind::Events),
            "only views and events files name their event time; a table does in the job file",
        ),
        ("horizon", horizon, kind == Kind::Label, "only label files look ahead"),
        ("entity", header.entity, kind == Kind::Population, "only the job's `entity: {query: …}` is the population"),
    ];
    for (name, at, fits, hint) in misplaced {
        if let (Some(at), false) = (at, fits) {
            refuse(format!("`@{name}` does not belong here"), at, hint);
        }
    }
    match kind {
        Kind::View if event_time.is_none() => refuse(
            "a view must say when its rows happened".into(),
            definition.begin,
            "add `-- @event_time COLUMN` above the SELECT",
        ),
        Kind::Events if event_time.is_none() => refuse(
            "an events file must say when its rows happened".into(),
            definition.begin,
            "add `-- @event_time COLUMN` above the SELECT",
        ),
        Kind::Label if horizon.is_none() => refuse(
            "a label must say how far it looks ahead".into(),
            definition.begin,
            "add `-- @horizon 90d` above the SELECT",
        ),
        _ => {}
    }
    let known = |name: &str| {
        let mut windows = definition.windows().into_iter();
        definition.items.iter().any(|i| i.name == name)
            || windows.any(|w| definition.items.iter().any(|i| super::definition::column_name(&i.name, w) == name))
    };
    for (name, (_, at)) in &header.defaults {
        if kind == Kind::Events {
            refuse("`@default` does not belong here".into(), *at, "write `coalesce(column, value)` into the SELECT");
        } else if !known(name) {
            let nearest = crate::spec::nearest::nearest(name, definition.items.iter().map(|i| i.name.as_str()));
            let hint = nearest.unwrap_or_else(|| "name a column of the select list".into());
            refuse(format!("`@default` names the unknown column `{name}`"), *at, &hint);
        }
    }
    if let (Kind::View | Kind::Events, Some((name, at))) = (kind, &header.event_time)
        && !definition.items.is_empty()
        && !known(name)
    {
        let nearest = crate::spec::nearest::nearest(name, definition.items.iter().map(|i| i.name.as_str()));
        let hint = nearest.unwrap_or_else(|| "name a column of the select list".into());
        refuse(format!("`@event_time` names the unknown column `{name}`"), *at, &hint);
    }
}

fn columns_fit(definition: &Definition, key: &str, refuse: &mut Refuse) {
    for (i, item) in definition.items.iter().enumerate() {
        if definition.items[..i].iter().any(|earlier| earlier.name == item.name) {
            refuse(format!("the column `{}` is there twice", item.name), item.name_at, "give it another name");
        }
    }
    let needs_key = !matches!(definition.kind, Kind::View | Kind::Derived) && !definition.items.is_empty();
    if needs_key && !definition.items.iter().any(|i| i.name == key) {
        let hint = format!("the first column is the job's key: `SELECT {}, …`", as_written(key));
        refuse(format!("the key column `{key}` is missing in the select list"), definition.begin, &hint);
    }
}

/// Windowed files and labels: `SELECT key, aggregates FROM one_table WHERE … GROUP BY key`.
fn one_aggregate(definition: &Definition, key: &str, refuse: &mut Refuse) {
    let (here, way_out) = match definition.kind {
        Kind::Label => ("a label", "make a view of it (`sql/views/`) and select from that"),
        _ => ("a file with `@windows`", "make a view of it (`sql/views/`) and select from that, or drop `@windows`"),
    };
    let SetExpr::Select(select) = definition.query.body.as_ref() else {
        return refuse(format!("{here} is one plain SELECT, without UNION"), definition.begin, way_out);
    };
    if definition.query.with.is_some() {
        refuse(format!("{here} has no WITH"), definition.begin, way_out);
    }
    one_table(select, here, way_out, definition, refuse);
    forbidden_clauses(definition, select, here, refuse);
    let at = definition.group_by().first().map(|e| e.span().start).filter(|at| at.line > 0);
    match &select.group_by {
        GroupByExpr::Expressions(by, modifiers) if by.len() == 1 && modifiers.is_empty() => {
            let item = definition.items.iter().position(|item| item.name == key).and_then(|i| select.projection.get(i));
            let selected = item.and_then(|item| match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => bare_name(expr),
                _ => None,
            });
            if let (Some(selected), Some(grouped)) = (selected, bare_name(&by[0]))
                && !selected.eq_ignore_ascii_case(&grouped)
                && !grouped.eq_ignore_ascii_case(key)
            {
                refuse(
                    format!("this groups by `{grouped}`, not by the key column `{key}`"),
                    at.unwrap_or(definition.begin),
                    &format!("write `GROUP BY {key}`"),
                );
            }
        }
        _ => refuse(
            format!("{here} groups by the key alone"),
            at.unwrap_or(definition.begin),
            &format!("write `GROUP BY {key}`"),
        ),
    }
}

/// The name of a plain column.
fn bare_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(normalized(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(normalized),
        _ => None,
    }
}

fn one_table(select: &Select, here: &str, way_out: &str, definition: &Definition, refuse: &mut Refuse) {
    let Some(from) = select.from.first() else {
        return refuse(format!("{here} needs a FROM"), definition.begin, "name the table whose rows it counts");
    };
    if let Some(second) = select.from.get(1) {
        return refuse(format!("{here} has one table"), at_or(second.relation.span().start, definition), way_out);
    }
    if let Some(join) = from.joins.first() {
        refuse(format!("{here} has no JOIN"), at_or(join.relation.span().start, definition), way_out);
    }
    if matches!(from.relation, TableFactor::Derived { .. }) {
        return; // the subquery itself is refused where it stands
    }
    if !is_plain_table(&from.relation) {
        refuse(format!("{here} reads a table or a view"), at_or(from.relation.span().start, definition), way_out);
    }
}

fn forbidden_clauses(definition: &Definition, select: &Select, here: &str, refuse: &mut Refuse) {
    let query = &definition.query;
    let of = |e: &Option<Expr>| e.as_ref().map(|e| e.span().start);
    let limit = match &query.limit_clause {
        Some(LimitClause::LimitOffset { limit, .. }) => Some(of(limit).unwrap_or(definition.begin)),
        Some(_) => Some(definition.begin),
        None => None,
    };
    let clauses = [
        ("DISTINCT", select.distinct.as_ref().map(|_| definition.begin), "`GROUP BY` leaves one row per key anyway"),
        ("HAVING", of(&select.having), "a window with nothing in it is a fact too; use `CASE`"),
        ("QUALIFY", of(&select.qualify), "use `WHERE`"),
        ("ORDER BY", query.order_by.as_ref().map(|o| o.span().start), "the matrix is sorted by key anyway"),
        ("LIMIT", limit, "every customer counts"),
    ];
    for (clause, at, hint) in clauses {
        if let Some(at) = at {
            refuse(format!("{here} has no `{clause}`"), at_or(at, definition), hint);
        }
    }
}

/// Derived files: `SELECT expressions FROM features`, row by row.
fn one_row(definition: &Definition, refuse: &mut Refuse) {
    let hint = "a file over `features` derives columns row by row; select from tables or views for the rest";
    let SetExpr::Select(select) = definition.query.body.as_ref() else {
        return refuse("a derived file is one plain SELECT".into(), definition.begin, hint);
    };
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
    let plain = select.from.len() == 1
        && select.from.iter().all(|from| from.joins.is_empty() && is_plain_table(&from.relation))
        && definition.query.with.is_none();
    let unwanted = [
        ("`WHERE`", select.selection.is_some()),
        ("`GROUP BY`", grouped),
        ("`HAVING`", select.having.is_some()),
        ("`DISTINCT`", select.distinct.is_some()),
        ("a second table", !plain),
        ("`ORDER BY`", definition.query.order_by.is_some()),
        ("`LIMIT`", definition.query.limit_clause.is_some()),
    ];
    for (what, _) in unwanted.iter().filter(|(_, there)| *there) {
        refuse(format!("a derived file has no {what}"), definition.begin, hint);
    }
}

fn at_or(at: Location, definition: &Definition) -> Location {
    if at.line == 0 { definition.begin } else { at }
}

/// Walks every expression.
struct Refusals<'a> {
    definition: &'a Definition,
    problems: Vec<Problem>,
    queries: usize,
}

impl Refusals<'_> {
    fn refuse(&mut self, message: String, at: Location, hint: &str) {
        let at = at_or(at, self.definition);
        self.problems.push(Problem::new(message).at(self.definition.place(at)).hint(hint));
    }

    fn function(&mut self, function: &Function) {
        let at = function.name.span().start;
        let Some(ident) = function.name.0.last().and_then(|part| part.as_ident()) else { return };
        let name = normalized(ident);
        if let Some(length) = constant_length(&name, function).filter(|length| *length > MAX_LENGTH) {
            self.refuse(
                format!("`{name}` makes a constant of {length} parts: the most is {MAX_LENGTH}"),
                at,
                "make it smaller, or compute it from the rows of a table",
            );
        }
        if CLOCKS.contains(&name.as_str()) {
            self.refuse(
                format!("`{name}` looks at the clock: the same date would give other features tomorrow"),
                at,
                "use `$as_of`, the start of the day that the run speaks for",
            );
        } else if DICE.contains(&name.as_str()) {
            self.refuse(
                format!("`{name}` gives another value every time"),
                at,
                "features must be the same when run again",
            );
        } else if let Some((_, instead)) = UNSTEADY.iter().find(|(unsteady, _)| *unsteady == name) {
            let hint = match *instead {
                "" => "sums of products give the same: `sum(a * b)`, `sum(a)`, `sum(b)` and `count(*)`".to_owned(),
                instead => format!("use `{instead}`, which is exact"),
            };
            self.refuse(format!("`{name}` depends on the order in which rows arrive"), at, &hint);
        } else if ORDERED.contains(&name.as_str()) && function.over.is_none() && !has_order(function) {
            self.refuse(
                format!("`{name}` without an order picks by chance"),
                at,
                &format!("write `{name}(… ORDER BY column)`"),
            );
        }
        if function.over.is_some() && matches!(self.definition.kind, Kind::Windowed | Kind::Label | Kind::Derived) {
            self.refuse(
                format!("`{name} … OVER` has no place here"),
                at,
                "put window functions into a view (`sql/views/`), or drop `@windows`",
            );
        }
    }
}

/// How long the value of a function is that makes values of any length, where numbers in the SQL say so.
fn constant_length(name: &str, function: &Function) -> Option<i128> {
    use datafusion::sql::sqlparser::ast::{FunctionArg, FunctionArgExpr, FunctionArguments, UnaryOperator};
    let FunctionArguments::List(list) = &function.args else { return None };
    let number = |at: usize| {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) = list.args.get(at)? else { return None };
        let (sign, number) = match argument {
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => (-1, expr.as_ref()),
            other => (1, other),
        };
        match number {
            Expr::Value(value) => match &value.value {
                Value::Number(digits, _) => Some(sign * digits.parse::<i128>().ok()?),
                _ => None,
            },
            _ => None,
        }
    };
    match name {
        "repeat" | "lpad" | "rpad" | "array_repeat" | "list_repeat" | "array_resize" | "list_resize" => number(1),
        "range" | "generate_series" => {
            let (first, last) = if list.args.len() == 1 { (0, number(0)?) } else { (number(0)?, number(1)?) };
            let step = if list.args.len() > 2 { number(2)? } else { 1 };
            last.checked_sub(first)?.checked_div(step)
        }
        _ => None,
    }
}

fn has_order(function: &Function) -> bool {
    use datafusion::sql::sqlparser::ast::{FunctionArgumentClause, FunctionArguments};
    let inside = match &function.args {
        FunctionArguments::List(list) => list.clauses.iter().any(|c| matches!(c, FunctionArgumentClause::OrderBy(_))),
        _ => false,
    };
    inside || !function.within_group.is_empty()
}

impl Visitor for Refusals<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.queries += 1;
        let plain = matches!(self.definition.kind, Kind::Windowed | Kind::Label | Kind::Derived);
        if self.queries > 1 && plain {
            self.refuse(
                "a subquery has no place here".into(),
                query.span().start,
                "make a view of it (`sql/views/`) and select from that, or drop `@windows`",
            );
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => self.function(function),
            Expr::Value(value) => {
                if let Value::Placeholder(name) = &value.value {
                    if name != AS_OF {
                        self.refuse(
                            format!("the parameter `{name}` is not known"),
                            value.span.start,
                            "there is `$as_of`",
                        );
                    } else if self.definition.kind == Kind::View {
                        self.refuse(
                            "a view does not know `$as_of`".into(),
                            value.span.start,
                            "a view sees what lay before as_of by itself; use `$as_of` in the feature file",
                        );
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
