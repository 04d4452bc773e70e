//! Environment variables in values: `${NAME}`, `${NAME:-default}`; `$${` stands for a plain `${`.
//!
//! They are put in scalar by scalar, after the YAML was read: a value can never change the shape of the file, and every
//! place in a message stays true. As in a shell, a default stands in for a variable that is unset or empty.

use super::node::{Kind, Node, Pos};
use super::problems::Problems;

/// Looks a variable up.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Puts the variables into every scalar below `node`.
pub(super) fn substitute(node: &mut Node, env: Lookup<'_>, problems: &mut Problems) {
    match &mut node.kind {
        Kind::Scalar(text) if text.contains("${") => {
            node.kind = match filled(text, node.pos, env, problems) {
                Some(text) => Kind::Scalar(text),
                None => Kind::Broken,
            };
        }
        Kind::List(items) => items.iter_mut().for_each(|item| substitute(item, env, problems)),
        Kind::Map(entries) => entries.iter_mut().for_each(|(_, value)| substitute(value, env, problems)),
        _ => {}
    }
}

/// The text with its variables filled in; `None` after a problem was told.
fn filled(text: &str, pos: Pos, env: Lookup<'_>, problems: &mut Problems) -> Option<String> {
    let mut result = String::new();
    let mut rest = text;
    let mut whole = true;
    while let Some(start) = rest.find("${") {
        let (before, after) = (&rest[..start], &rest[start + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = after;
            continue;
        }
        result.push_str(before);
        let Some(end) = after.find('}') else {
            problems.add(pos, format!("`${{{after}` has no `}}`"), "write `${NAME}`, or `$${` for a plain `${`");
            return None;
        };
        match value_of(&after[..end], env) {
            Ok(value) => result.push_str(&value),
            Err((message, hint)) => {
                problems.add(pos, message, hint);
                whole = false;
            }
        }
        rest = &after[end + 1..];
    }
    result.push_str(rest);
    whole.then_some(result)
}

/// The value of what stands between the braces, or a message and its hint.
fn value_of(inside: &str, env: Lookup<'_>) -> Result<String, (String, String)> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(letters) {
        let message = format!("`${{{inside}}}` does not name an environment variable");
        return Err((message, "write `${NAME}` or `${NAME:-default}`, or `$${` for a plain `${`".to_owned()));
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) if default.contains("${") => {
            let message = format!("the default of `{name}` holds another variable");
            Err((message, "a default is plain text: `${NAME:-default}`".to_owned()))
        }
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            let hint = format!("set it, or give it a default: `${{{name}:-…}}`");
            Err((format!("the environment variable `{name}` is not set"), hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Result<String, Vec<String>> {
        let env = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let mut problems = Problems::of("job.yaml");
        match filled(text, Pos::START, &env, &mut problems) {
            Some(text) => Ok(text),
            None => Err(problems.into_sorted().iter().map(|p| p.message.clone()).collect()),
        }
    }

    #[test]
    fn variables_and_defaults_are_put_in() {
        assert_eq!(fill("a/${SET}/b/${SET}").as_deref(), Ok("a/value/b/value"));
        assert_eq!(fill("${UNSET:-file://./lake}/x").as_deref(), Ok("file://./lake/x"));
        assert_eq!(fill("${SET:-other}").as_deref(), Ok("value"));
        assert_eq!(fill("${UNSET:-}").as_deref(), Ok(""));
    }

    #[test]
    fn an_empty_variable_counts_as_unset_only_beside_a_default() {
        assert_eq!(fill("<${EMPTY}>").as_deref(), Ok("<>"));
        assert_eq!(fill("<${EMPTY:-x}>").as_deref(), Ok("<x>"));
    }

    #[test]
    fn a_doubled_dollar_is_a_plain_one() {
        assert_eq!(fill("$${SET} costs $5").as_deref(), Ok("${SET} costs $5"));
    }

    #[test]
    fn every_unset_variable_is_named() {
        let messages = fill("${ONE}${TWO}").unwrap_err();
        assert_eq!(messages.len(), 2);
        assert!(messages[0].contains("`ONE`") && messages[1].contains("`TWO`"));
    }

    #[test]
    fn a_variable_that_is_not_one_is_refused() {
        assert!(fill("${SET").is_err());
        assert!(fill("${}").is_err());
        assert!(fill("${A B}").is_err());
        assert!(fill("${UNSET:-${SET}}").is_err());
    }
}
