//! The README and the pages of docs/ do what they say: commands parse, links lead somewhere, the query runs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use clap::Parser;
use serde_json::Value;
use tenure::cli::Cli;

use crate::support::python::{script, stdout};
use crate::support::shop::{assert_success, checkout, published_once, tenure};

fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(checkout().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let markdown = docs.filter(|path| path.extension().is_some_and(|e| e == "md"));
    let paths = markdown.chain([checkout().join("README.md")]);
    paths.map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

/// The lines of the shell blocks of a page.
fn shell_lines(page: &str) -> Vec<&str> {
    let mut inside = false;
    let lines = page.lines().filter(|line: &&str| {
        if line.trim_start().starts_with("```") {
            inside = line.trim() == "```sh";
        }
        inside
    });
    lines.collect()
}

/// The call of the program in a line, without settings before it and what the shell does after it.
fn command(line: &str) -> Option<&str> {
    let start = line.find("tenure ")?;
    let only_settings = line[..start].split(' ').all(|word| word.is_empty() || word.contains('='));
    only_settings.then(|| line[start..].split(['#', '|', '>', '&']).next().unwrap_or_default())
}

#[test]
fn every_command_in_the_docs_parses() {
    let mut parsed = 0;
    for (path, page) in pages() {
        for command in shell_lines(&page).into_iter().filter_map(command) {
            match Cli::try_parse_from(command.split_whitespace()) {
                Err(error) if error.use_stderr() => panic!("{}: `{command}`: {error}", path.display()),
                _ => parsed += 1, // `--help` is an `Err` that goes to stdout
            }
        }
    }
    assert!(parsed >= 10, "{parsed} commands were found");
}

#[test]
fn every_make_target_in_the_docs_exists() {
    let makefile = fs::read_to_string(checkout().join("Makefile")).unwrap();
    for (path, page) in pages() {
        for line in shell_lines(&page) {
            let Some(rest) = line.trim_start().strip_prefix("make ") else { continue };
            let target = rest.split_whitespace().find(|word| !word.contains('=') && !word.starts_with('-')).unwrap();
            assert!(makefile.contains(&format!("\n{target}:")), "{}: `{line}`", path.display());
        }
    }
}

#[test]
fn every_link_in_the_docs_leads_somewhere() {
    for (path, page) in pages() {
        for (at, _) in page.match_indices("](") {
            let target = page[at + 2..].split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(path.parent().unwrap().join(target).exists(), "{}: {target}", path.display());
        }
    }
}

#[test]
fn the_query_in_the_readme_answers() {
    let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
    let line = readme.lines().find(|line| line.starts_with("duckdb -c \"")).expect("a line `duckdb -c \"…\"`");
    let sql = line.trim_start_matches("duckdb -c \"").trim_end_matches('"');
    let shop = published_once();
    let sql = sql.replace("lake/out", shop.out().to_str().unwrap());
    let Some(mut script) = script("query.py") else { return };
    let answer: Value = serde_json::from_str(&stdout(&script.arg(sql).output().unwrap())).unwrap();
    assert_eq!(answer["columns"][0], "stage");
    let rows = answer["rows"].as_array().unwrap();
    assert!(rows.len() >= 3, "{rows:?}");
    let customers: u64 = rows.iter().map(|row| row[1].as_u64().unwrap()).sum();
    assert!(customers > 200, "{rows:?}");
}

#[test]
fn the_feature_in_the_readme_becomes_columns() {
    let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```sql\n").expect("a block of SQL");
    let (sql, _) = rest.split_once("```").unwrap();
    let root = tempfile::tempdir().unwrap();
    for folder in ["jobs", "sql"] {
        let copied = Command::new("cp").arg("-r").arg(checkout().join(folder)).arg(root.path()).status().unwrap();
        assert!(copied.success());
    }
    fs::write(root.path().join("sql/features/books.sql"), sql).unwrap();
    let job = root.path().join("jobs/ltv.yaml");
    let job = job.to_str().unwrap();
    assert_success(&tenure(&["check", job]));
    let docs = stdout(&tenure(&["features", "docs", job]));
    for columns in ["| `book_orders_*` | int64 | 30d 90d lifetime |", "| `book_spend_*` | float64 | 30d 90d lifetime |"]
    {
        assert!(docs.contains(columns), "{columns}: {docs}");
    }
}
