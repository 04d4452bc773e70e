//! How deep SQL may be. Expressions are trees that parser, planner and evaluation walk by recursion: one that is deep enough ends the
//! process with no error at all.

use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use crate::error::Problem;

/// Parentheses within parentheses; the parser's own limit, which counts other things too, is near.
const MAX_NESTED: usize = 40;
/// Words and operators in a row, without a parenthesis or a comma: each operator of a chain is a level of its own.
const MAX_CHAINED: usize = 25_000;
/// SELECTs that UNION, EXCEPT and INTERSECT put together.
const MAX_SET_OPERATIONS: usize = 500;

/// What is wrong with the depth of some tokens, and where; `None` where nothing is.
pub(super) fn check(tokens: &[TokenWithSpan]) -> Option<(Problem, Location)> {
    let (mut chained, mut selects) = (vec![0], 0);
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) | Token::EOF => continue,
            Token::LParen => chained.push(0),
            Token::RParen if chained.len() > 1 => {
                chained.pop();
            }
            Token::Word(word) if matches!(word.keyword, Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT) => {
                selects += 1;
                if selects > MAX_SET_OPERATIONS {
                    return Some((too_many_selects(), token.span.start));
                }
            }
            Token::Comma | Token::SemiColon => {
                if let Some(last) = chained.last_mut() {
                    *last = 0;
                }
            }
            _ => {}
        }
        let at = token.span.start;
        if chained.len() > MAX_NESTED + 1 {
            return Some((too_nested(), at));
        }
        if let Some(last) = chained.last_mut() {
            *last += 1;
            if *last > MAX_CHAINED {
                return Some((too_long(), at));
            }
        }
    }
    None
}

/// The same of an expression by itself; one that cannot be cut into tokens is for the parser to tell.
pub(super) fn check_expression(text: &str, dialect: &dyn Dialect) -> Option<(Problem, Location)> {
    check(&Tokenizer::new(dialect, text).tokenize_with_location().ok()?)
}

/// What to say where the parser gave up by its own count.
pub(super) fn too_nested() -> Problem {
    Problem::new("the SQL is nested too deeply")
        .hint("compute a part of it under a name of its own, in a view or another feature file")
}

fn too_long() -> Problem {
    Problem::new(format!("more than {MAX_CHAINED} words and operators in a row"))
        .hint("write many values as `x IN (…)`, or keep them in a table and join it")
}

fn too_many_selects() -> Problem {
    Problem::new(format!("more than {MAX_SET_OPERATIONS} SELECTs are put together"))
        .hint("keep the rows in a table of the lake")
}

/// Where the parentheses are deepest.
pub(super) fn deepest(tokens: &[TokenWithSpan]) -> Option<Location> {
    let (mut depth, mut most) = (0usize, (0, None));
    for token in tokens {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth > most.0 {
            most = (depth, Some(token.span.start));
        }
    }
    most.1
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;

    fn found(text: &str) -> Option<(String, u64)> {
        check_expression(text, &GenericDialect {}).map(|(problem, at)| (problem.message, at.column))
    }

    #[test]
    fn what_people_write_is_not_too_deep() {
        let terms = |count: usize| (0..count).map(|n| format!("orders = {n}")).collect::<Vec<_>>().join(" OR ");
        assert_eq!(found(&terms(5_000)), None);
        assert_eq!(found(&format!("orders IN ({})", vec!["1"; 200_000].join(", "))), None);
        assert_eq!(found(&format!("{}orders > 1{}", "(".repeat(40), ")".repeat(40))), None);
        assert_eq!(found("'not closed"), None);
    }

    #[test]
    fn what_no_stack_can_hold_is_told_with_its_place() {
        let nested = format!("{}orders > 1{}", "(".repeat(100_000), ")".repeat(100_000));
        assert_eq!(found(&nested), Some(("the SQL is nested too deeply".to_owned(), 41)));
        for (link, tokens) in [(" OR a", 2), (" + 1", 2), ("::int", 2), (" IS NULL", 2), ("[1]", 3)] {
            let (message, column) = found(&format!("a{}", link.repeat(100_000))).unwrap();
            assert!(message.starts_with("more than 25000"), "{message}");
            assert!(column as usize <= 2 + link.len() * 25_000 / tokens + link.len(), "{link}: {column}");
        }
    }
}
