//! A SQL file as it was read: header, one SELECT, its columns with their descriptions and positions.

use std::path::Path;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, Query, Select, SelectItem, SetExpr, Spanned, Statement, TableFactor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Whitespace};

use super::header::{Header, place};
use super::window::Window;
use super::{nesting, refuse};
use crate::error::{Place, Problem};
use crate::{Error, Result, hash};

/// What the job uses a file for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Population,
    View,
    Feature,
    Label,
    Events,
}

/// How a file is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Aggregates of one table's rows, once per window.
    Windowed,
    /// Any SELECT with one row per key.
    Free,
    /// Expressions over the joined row.
    Derived,
    /// A staging SELECT.
    View,
    /// Aggregates of the rows in `[as_of, as_of + horizon)`.
    Label,
    /// One row per key.
    Population,
    /// One row per event of a key.
    Events,
}

/// A column of the select list.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Lower case.
    pub name: String,
    /// Where its expression begins.
    pub at: Location,
    /// Where its name stands, or ends.
    pub name_at: Location,
    pub description: Option<String>,
}

/// One SQL file.
#[derive(Debug, Clone)]
pub(super) struct Definition {
    /// As the job names it.
    pub file: String,
    /// The file's name without `.sql`.
    pub stem: String,
    pub hash: String,
    pub kind: Kind,
    pub header: Header,
    pub query: Box<Query>,
    /// Empty where the select list is `*`.
    pub items: Vec<Item>,
    /// The tables and views that it names, in the order of the text, each once.
    pub tables: Vec<(String, Location)>,
    /// Where the SELECT begins.
    pub begin: Location,
    /// The job's key column.
    pub key: String,
}

impl Definition {
    /// Reads a file; every problem of it goes to `problems`, and `None` comes back where it cannot be used.
    pub(super) fn read(
        path: &Path,
        root: &Path,
        role: Role,
        key: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Definition> {
        let file = path.strip_prefix(root).unwrap_or(path).display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                problems.extend(Error::io(path, error).at(Place::file(file)).into_problems());
                return None;
            }
        };
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let before = problems.len();
        let definition = Self::parse(file, stem, &text, role, key, problems)?;
        (problems.len() == before).then_some(definition)
    }

    /// Reads the text of a file.
    pub(super) fn parse(
        file: String,
        stem: String,
        text: &str,
        role: Role,
        key: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Definition> {
        let (tokens, query) = match parse_query(&file, text, problems) {
            Ok(parsed) => parsed,
            Err(problem) => {
                problems.push(problem);
                return None;
            }
        };
        let header = Header::read(&file, &tokens, problems);
        let begin = tokens.iter().find(|t| !is_space(t)).map_or(Location { line: 1, column: 1 }, |t| t.span.start);
        let tables = refuse::tables(&query);
        let kind = kind_of(role, &header, &tables);
        let mut definition = Definition {
            file,
            stem,
            hash: hash::of_bytes(text),
            kind,
            header,
            query,
            items: Vec::new(),
            tables,
            begin,
            key: key.to_owned(),
        };
        definition.items = items(&definition, key, &tokens, problems);
        definition.event_time_is_an_item();
        refuse::check(&definition, key, problems);
        Some(definition)
    }

    /// Takes the capitals out of an `@event_time` that is an item but for them.
    fn event_time_is_an_item(&mut self) {
        let Some((name, _)) = &mut self.header.event_time else { return };
        let same = |item: &&Item| item.name.eq_ignore_ascii_case(name);
        if !self.items.iter().any(|item| item.name == *name)
            && let Some(item) = self.items.iter().find(same)
        {
            *name = item.name.clone();
        }
    }

    /// A position as a place in this file.
    pub(super) fn place(&self, at: Location) -> Place {
        place(&self.file, at)
    }

    /// The SELECT whose list names the columns (of a UNION the first).
    pub(super) fn select(&self) -> Option<&Select> {
        first_select(&self.query.body)
    }

    /// The windows, or one without bounds and suffix for files that declare none.
    pub(super) fn windows(&self) -> Vec<Option<Window>> {
        match &self.header.windows {
            Some((windows, _)) if self.kind == Kind::Windowed => windows.iter().copied().map(Some).collect(),
            _ => vec![None],
        }
    }

    /// Every column but the key, windows included, in the order of the matrix.
    pub(super) fn outputs(&self, key: &str) -> Vec<(String, &Item, Option<Window>)> {
        let items = self.items.iter().filter(|item| item.name != key);
        items.flat_map(|item| self.windows().into_iter().map(move |w| (column_name(&item.name, w), item, w))).collect()
    }

    /// The GROUP BY expressions.
    pub(super) fn group_by(&self) -> &[Expr] {
        match self.select().map(|select| &select.group_by) {
            Some(GroupByExpr::Expressions(expressions, _)) => expressions,
            _ => &[],
        }
    }

    /// Whether `$as_of` stands in it.
    pub(super) fn asks_for_as_of(&self) -> bool {
        self.query.to_string().contains(refuse::AS_OF)
    }

    /// The one table of a windowed file.
    pub(super) fn table(&self) -> &str {
        self.tables.first().map_or("", |(name, _)| name)
    }
}

/// `orders` in the window `30d` is `orders_30d`.
pub(super) fn column_name(item: &str, window: Option<Window>) -> String {
    match window {
        Some(window) => format!("{item}_{window}"),
        None => item.to_owned(),
    }
}

/// An identifier as SQL sees it: lower case unless it is quoted.
pub(super) fn normalized(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

fn kind_of(role: Role, header: &Header, tables: &[(String, Location)]) -> Kind {
    match role {
        Role::Population => Kind::Population,
        Role::View => Kind::View,
        Role::Label => Kind::Label,
        Role::Events => Kind::Events,
        Role::Feature if header.windows.is_some() => Kind::Windowed,
        Role::Feature if tables.iter().any(|(name, _)| name == "features") => Kind::Derived,
        Role::Feature => Kind::Free,
    }
}

fn first_select(body: &SetExpr) -> Option<&Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => first_select(&query.body),
        SetExpr::SetOperation { left, .. } => first_select(left),
        _ => None,
    }
}

fn is_space(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Whitespace(_) | Token::EOF)
}

type Parsed = (Vec<TokenWithSpan>, Box<Query>);

fn parse_query(file: &str, text: &str, problems: &mut Vec<Problem>) -> Result<Parsed, Problem> {
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, text)
        .tokenize_with_location()
        .map_err(|e| Problem::new(lower_first(&e.message)).at(place(file, e.location)))?;
    let Some(first) = tokens.iter().find(|t| !is_space(t)) else {
        return Err(Problem::new("there is no SELECT in this file").at(Place::file(file)));
    };
    let word = first.token.to_string().to_uppercase();
    if !matches!(word.as_str(), "SELECT" | "WITH" | "(") {
        return Err(Problem::new(format!("`{word}` is not allowed here"))
            .at(place(file, first.span.start))
            .hint("a SQL file holds exactly one SELECT; it reads and never writes"));
    }
    if let Some((problem, at)) = nesting::check(&tokens) {
        return Err(problem.at(place(file, at)));
    }
    let parsed = Parser::new(&dialect).with_tokens_with_locations(tokens.clone()).parse_statements();
    let wrong = |error: ParserError| match error {
        ParserError::RecursionLimitExceeded => {
            nesting::too_nested().at(place(file, nesting::deepest(&tokens).unwrap_or(first.span.start)))
        }
        other => syntax_problem(file, text, &other.to_string()),
    };
    let mut statements = parsed.map_err(wrong)?.into_iter();
    let statement = statements.next();
    if let Some(second) = statements.next() {
        let mut after = tokens.iter().skip_while(|t| t.token != Token::SemiColon).skip(1).filter(|t| !is_space(t));
        let at = after.next().map_or(second.span().start, |t| t.span.start);
        problems.push(
            Problem::new("there is a second statement")
                .at(place(file, at))
                .hint("a SQL file holds exactly one SELECT; put the other one into its own file"),
        );
    }
    match statement {
        Some(Statement::Query(query)) => Ok((tokens, query)),
        _ => Err(Problem::new("this is not a SELECT").at(place(file, first.span.start))),
    }
}

/// The parser names the place at the end of its message.
fn syntax_problem(file: &str, text: &str, message: &str) -> Problem {
    let message = message.strip_prefix("sql parser error: ").unwrap_or(message);
    let (what, at) = match message.rsplit_once(" at Line: ") {
        Some((what, rest)) => {
            let mut numbers = rest.split(", Column: ").map(|n| n.trim().parse::<usize>().ok());
            (what, numbers.next().flatten().zip(numbers.next().flatten()))
        }
        None => (message, None),
    };
    let what = what.replace("Expected: ", "expected ").replace("found: EOF", "found the end of the file");
    let what = what.replace("found: ", "found ");
    let at = at.unwrap_or_else(|| (text.lines().count().max(1), 1));
    Problem::new(format!("the SQL cannot be read: {}", lower_first(&what))).at(Place::at(file, at.0, at.1))
}

pub(super) fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

fn items(definition: &Definition, key: &str, tokens: &[TokenWithSpan], problems: &mut Vec<Problem>) -> Vec<Item> {
    let Some(select) = definition.select() else { return Vec::new() };
    let mut items = Vec::new();
    for item in &select.projection {
        let named = match item {
            SelectItem::ExprWithAlias { alias, .. } => Some(alias),
            SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(name),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(names)) => names.last(),
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
                if matches!(definition.kind, Kind::View | Kind::Population) =>
            {
                return Vec::new();
            }
            _ => None,
        };
        let at = item.span().start;
        let Some(ident) = named else {
            let (what, hint) = match item {
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {
                    ("`*` does not say which columns there are", "name every column")
                }
                _ => ("this column has no name", "write `… AS name`"),
            };
            let at = if at.line == 0 { definition.begin } else { at };
            problems.push(Problem::new(what).at(definition.place(at)).hint(hint));
            continue;
        };
        let mut name = normalized(ident);
        let is_key = name == key || (ident.quote_style.is_none() && name.eq_ignore_ascii_case(key));
        if is_key {
            key.clone_into(&mut name);
        }
        let name_at = ident.span.start;
        let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !plain && !is_key {
            problems.push(
                Problem::new(format!("`{name}` is not a plain column name"))
                    .at(definition.place(name_at))
                    .hint("lower-case letters, digits and `_`, without quotes"),
            );
        }
        let at = if at.line == 0 { name_at } else { at };
        items.push(Item { name, at, name_at, description: description(tokens, ident.span.end) });
    }
    items
}

/// The comment behind the token that ends at `end`, on its line; lines of comment below that begin in the same column
/// go on with it.
fn description(tokens: &[TokenWithSpan], end: Location) -> Option<String> {
    let mut text: Option<(String, Location)> = None;
    for token in tokens.iter().filter(|t| t.span.start >= end) {
        let at = token.span.start;
        match (&token.token, &mut text) {
            (Token::Whitespace(Whitespace::SingleLineComment { comment, .. }), None) if at.line == end.line => {
                text = Some((comment.trim().to_owned(), at));
            }
            (Token::Whitespace(Whitespace::SingleLineComment { comment, .. }), Some((text, last)))
                if at.line == last.line + 1 && at.column == last.column =>
            {
                text.push(' ');
                text.push_str(comment.trim());
                *last = at;
            }
            (Token::Whitespace(_) | Token::Comma, _) => {}
            _ => break,
        }
    }
    text.map(|(text, _)| text).filter(|text| !text.is_empty())
}

/// Whether a FROM item is a plain table.
pub(super) fn is_plain_table(factor: &TableFactor) -> bool {
    matches!(factor, TableFactor::Table { args: None, sample: None, version: None, .. })
}
