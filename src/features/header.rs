//! The header of a SQL file: lines like `-- @windows 7d 30d lifetime` above its SELECT.

use std::collections::BTreeMap;

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Whitespace};

use super::window::Window;
use crate::error::{Place, Problem};
use crate::spec::nearest::{listed, nearest};

/// What a header may say.
const NAMES: [&str; 7] = ["description", "owner", "windows", "default", "event_time", "horizon", "entity"];

/// What a header says.
#[derive(Debug, Clone, Default)]
pub(super) struct Header {
    pub description: Option<String>,
    pub owner: Option<String>,
    pub windows: Option<(Vec<Window>, Location)>,
    /// By column, with or without its window.
    pub defaults: BTreeMap<String, (ScalarValue, Location)>,
    pub event_time: Option<(String, Location)>,
    /// In days.
    pub horizon: Option<(u32, Location)>,
    /// The file says that it is a population.
    pub entity: Option<Location>,
}

/// A comment with its place; the place is that of its first word.
struct Line<'a> {
    text: &'a str,
    at: Location,
}

impl Header {
    /// Reads the comments above the first word of `tokens`.
    pub(super) fn read(file: &str, tokens: &[TokenWithSpan], problems: &mut Vec<Problem>) -> Header {
        let mut header = Header::default();
        let mut in_description = false;
        let mut above = true;
        for token in tokens {
            let Token::Whitespace(space) = &token.token else {
                above = false;
                continue;
            };
            let Whitespace::SingleLineComment { comment, prefix } = space else { continue };
            let line = Line::new(comment, prefix, token.span.start);
            let Some(text) = line.text.strip_prefix('@') else {
                if above && in_description && !line.text.is_empty() {
                    let description = header.description.get_or_insert_default();
                    description.push(' ');
                    description.push_str(line.text);
                }
                in_description &= !line.text.is_empty();
                continue;
            };
            if !above {
                problems.push(
                    Problem::new(format!(
                        "`@{}` stands below the SELECT",
                        text.split_whitespace().next().unwrap_or("")
                    ))
                    .at(place(file, line.at))
                    .hint("header lines stand above the SELECT; write the comment without `@`"),
                );
                continue;
            }
            in_description = text.starts_with("description");
            if let Err(problem) = header.take(text, line.at) {
                let at = word_at(&problem.message, line.text, line.at);
                problems.push(problem.at(place(file, at)));
            }
        }
        header
    }

    fn take(&mut self, text: &str, at: Location) -> Result<(), Problem> {
        let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let value = value.trim();
        let needed = |example: &str| match value.is_empty() {
            true => {
                Err(Problem::new(format!("`@{name}` says nothing")).hint(format!("for example `-- @{name} {example}`")))
            }
            false => Ok(value),
        };
        let twice = match name {
            "description" => self.description.replace(needed("Paid orders, net of refunds")?.to_owned()).is_some(),
            "owner" => self.owner.replace(needed("growth")?.to_owned()).is_some(),
            "windows" => self.windows.replace((windows(needed("7d 30d lifetime")?)?, at)).is_some(),
            "event_time" => self.event_time.replace((column(needed("ordered_at")?)?, at)).is_some(),
            "horizon" => self.horizon.replace((horizon(needed("90d")?)?, at)).is_some(),
            "entity" => self.entity.replace(at).is_some(),
            "default" => {
                let (of, value) = needed("last_channel 'none'")?.split_once(char::is_whitespace).ok_or_else(|| {
                    Problem::new("`@default` needs a column and a value").hint("`-- @default days_since 999`")
                })?;
                self.defaults.insert(column(of)?, (literal(value.trim())?, at)).is_some()
            }
            unknown => {
                let hint =
                    nearest(unknown, NAMES).unwrap_or_else(|| format!("a header knows {}", listed(NAMES, "and")));
                return Err(Problem::new(format!("`@{unknown}` is not known")).hint(hint));
            }
        };
        match twice {
            true => Err(Problem::new(format!("`@{name}` is said twice"))),
            false => Ok(()),
        }
    }
}

impl<'a> Line<'a> {
    fn new(comment: &'a str, prefix: &str, start: Location) -> Self {
        let trimmed = comment.trim_start();
        let before = prefix.chars().count() + comment.chars().count() - trimmed.chars().count();
        Line { text: trimmed.trim_end(), at: Location { line: start.line, column: start.column + before as u64 } }
    }
}

/// A position of the tokenizer as a place.
pub(super) fn place(file: &str, at: Location) -> Place {
    match at.line {
        0 => Place::file(file),
        line => Place::at(file, line as usize, at.column as usize),
    }
}

/// The place of the word that a message quotes, within its line.
fn word_at(message: &str, line: &str, at: Location) -> Location {
    let quoted = message.split('`').nth(1).filter(|word| !word.starts_with('@'));
    let before = quoted.and_then(|word| line.find(word)).map_or(0, |bytes| line[..bytes].chars().count());
    Location { line: at.line, column: at.column + before as u64 }
}

fn windows(text: &str) -> Result<Vec<Window>, Problem> {
    let mut windows: Vec<Window> = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty()) {
        let window = Window::parse(word).ok_or_else(|| {
            Problem::new(format!("`{word}` is not a window")).hint("write days like `30d`, or `lifetime`")
        })?;
        if windows.contains(&window) {
            return Err(Problem::new(format!("the window `{word}` is listed twice")));
        }
        windows.push(window);
    }
    Ok(windows)
}

fn horizon(text: &str) -> Result<u32, Problem> {
    match Window::parse(text) {
        Some(Window::Days(days)) => Ok(days),
        _ => Err(Problem::new(format!("`{text}` is not a horizon")).hint("write days like `90d`")),
    }
}

fn column(text: &str) -> Result<String, Problem> {
    let good = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match good {
        true => Ok(text.to_lowercase()),
        false => Err(Problem::new(format!("`{text}` is not a column name")).hint("letters, digits and `_`")),
    }
}

fn literal(text: &str) -> Result<ScalarValue, Problem> {
    let quoted = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\''));
    Ok(match (quoted, text.to_lowercase().as_str()) {
        (Some(inside), _) => ScalarValue::Utf8(Some(inside.replace("''", "'"))),
        (None, "true") => ScalarValue::Boolean(Some(true)),
        (None, "false") => ScalarValue::Boolean(Some(false)),
        (None, "null") => ScalarValue::Null,
        (None, number) => match (number.parse::<i64>(), number.parse::<f64>()) {
            (Ok(integer), _) => ScalarValue::Int64(Some(integer)),
            (_, Ok(float)) if float.is_finite() => ScalarValue::Float64(Some(float)),
            _ => {
                return Err(Problem::new(format!("`{text}` is not a value"))
                    .hint("write a number, `true`, `false`, `null` or a text in single quotes"));
            }
        },
    })
}
