//! The rules of the house that no compiler checks: which module may know what, how long a file may be, what the docs owe.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tenure::error::ExitStatus;

use crate::support::shop::checkout;

const LONGEST_FILE: usize = 500;

/// A Rust file, by its path below the checkout.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Its code without comments; doc examples are comments too.
    fn code(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(|line| line.split("//").next().unwrap_or_default())
    }

    /// Its code before the unit tests, which stand at the end.
    fn code_without_tests(&self) -> impl Iterator<Item = &str> {
        self.code().take_while(|line| !line.starts_with("#[cfg(test)]"))
    }

    /// Whether it uses a crate: `tch::…` or `use tch;`.
    fn uses(&self, name: &str) -> bool {
        self.code().any(|line| {
            words(line).any(|(start, word)| {
                let rest = &line[start + word.len()..];
                let ours = line[..start].ends_with("::");
                word == name && !ours && (rest.starts_with("::") || line[..start].trim_end().ends_with("use"))
            })
        })
    }

    /// The top-level module that it belongs to.
    fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
    }
}

fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + line[rest..].find(is_word)?;
        let end = line[start..].find(|c| !is_word(c)).map_or(line.len(), |length| start + length);
        rest = end;
        Some((start, &line[start..end]))
    })
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![checkout().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn below_checkout(path: &Path) -> String {
    path.strip_prefix(checkout()).unwrap().display().to_string()
}

fn sources(folder: &str) -> Vec<Source> {
    let read = |path: PathBuf| Source { text: fs::read_to_string(&path).unwrap(), path: below_checkout(&path) };
    files(folder, "rs").into_iter().map(read).collect()
}

fn strangers(name: &str, rooms: &[&str]) -> Vec<String> {
    let outside = |source: &Source| !rooms.iter().any(|room| source.path.starts_with(room));
    sources("src").into_iter().filter(|s| outside(s) && s.uses(name)).map(|s| s.path).collect()
}

#[test]
fn tch_stays_in_model_and_training() {
    assert_eq!(strangers("tch", &["src/model/", "src/training/"]), [""; 0]);
}

#[test]
fn datafusion_stays_in_lake_features_segments_and_error() {
    let rooms = ["src/lake/", "src/features/", "src/segments/", "src/error/"];
    assert_eq!(strangers("datafusion", &rooms), [""; 0]);
}

#[test]
fn a_use_of_a_crate_is_told_from_words_that_look_like_it() {
    let uses = |text: &str| Source { path: String::new(), text: text.to_owned() }.uses("tch");
    for yes in ["use tch::Tensor;", "let t = tch::Tensor::new();", "use tch;", "fn f(t: &tch::Tensor) {}"] {
        assert!(uses(yes), "{yes}");
    }
    for no in ["// tch::Tensor", "use crate::tch::x;", "use my_tch::x;", "let tch = 1;", "switch::on()"] {
        assert!(!uses(no), "{no}");
    }
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let lengths = |folder| sources(folder).into_iter().map(|s| (s.text.lines().count(), s.path));
    let long: Vec<_> = lengths("src").chain(lengths("tests")).filter(|(lines, _)| *lines > LONGEST_FILE).collect();
    assert!(long.is_empty(), "longer than {LONGEST_FILE} lines: {long:?}");
}

#[test]
fn only_the_printer_talks() {
    let macros = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    let talks = |s: &Source| {
        s.code().any(|line| {
            words(line).any(|(at, word)| macros.iter().any(|m| m.starts_with(word) && line[at..].starts_with(m)))
        })
    };
    let talkers: Vec<_> = sources("src").into_iter().filter(talks).map(|s| s.path).collect();
    assert_eq!(talkers, [""; 0]);
}

/// Which top-level module uses which, from every `crate::name` (also inside `use crate::{…}`).
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources("src");
    let modules: BTreeSet<String> = sources.iter().map(|s| s.module().to_owned()).collect();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources.iter().filter(|s| !["lib", "main"].contains(&s.module())) {
        let code = source.code_without_tests().collect::<Vec<_>>().join("\n");
        for (at, _) in code.match_indices("crate::") {
            for name in top_level_names(&code[at + "crate::".len()..]) {
                if modules.contains(name) && name != source.module() {
                    edges.entry(source.module().to_owned()).or_default().insert(name.to_owned());
                }
            }
        }
    }
    edges
}

/// `a::b` → a; `{a::{b, c}, d}` → a, d.
fn top_level_names(path: &str) -> Vec<&str> {
    let first = |text: &'_ str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let Some(group) = path.strip_prefix('{') else { return vec![&path[..first(path)]] };
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let item = group[start..at].trim_start();
                names.push(&item[..first(item)]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

#[test]
fn grouped_imports_are_taken_apart() {
    assert_eq!(top_level_names("spec::JobSpec;"), ["spec"]);
    assert_eq!(top_level_names("{lake::{Store, a}, model, Error};"), ["lake", "model", "Error"]);
}

/// Ways back that are wanted: a commit and the record of its run are written as one, through the same store; a bundle
/// holds what training measured.
const WANTED_CIRCLES: [(&str, &str); 2] = [("lake", "ledger"), ("model", "training")];

#[test]
fn modules_do_not_use_each_other_in_circles() {
    let mut edges = edges();
    assert!(edges["pipeline"].contains("lake"), "the edges are read: {edges:?}");
    for (from, to) in WANTED_CIRCLES {
        assert!(edges.get_mut(from).is_some_and(|uses| uses.remove(to)), "{from} no longer uses {to}: strike it off");
    }
    for start in edges.keys() {
        let mut ways: Vec<Vec<&str>> = vec![vec![start]];
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop() {
            for next in edges.get(way[way.len() - 1]).into_iter().flatten() {
                let way: Vec<&str> = way.iter().copied().chain([next.as_str()]).collect();
                assert_ne!(next, start, "a circle: {}", way.join(" → "));
                if seen.insert(next) {
                    ways.push(way);
                }
            }
        }
    }
}

#[test]
fn only_the_pipeline_knows_the_order() {
    let edges = edges();
    let users =
        |of: &str| edges.iter().filter(|(_, uses)| uses.contains(of)).map(|(m, _)| m.as_str()).collect::<Vec<_>>();
    assert_eq!(users("cli"), [""; 0]);
    assert_eq!(users("pipeline"), ["cli"]);
    for (room, stranger) in [("lake", "features"), ("features", "model"), ("model", "segments"), ("segments", "model")]
    {
        assert!(!edges.get(room).is_some_and(|uses| uses.contains(stranger)), "{room} uses {stranger}");
    }
}

#[test]
fn every_job_is_run_by_a_test() {
    let tests: String = sources("tests").into_iter().map(|s| s.text).collect();
    for job in files("jobs", "yaml") {
        let name = below_checkout(&job);
        assert!(tests.contains(&name), "no test names {name}");
    }
}

#[test]
fn the_docs_explain_every_exit_code() {
    for page in ["README.md", "docs/operations.md"] {
        let text = fs::read_to_string(checkout().join(page)).unwrap();
        for status in [ExitStatus::Done, ExitStatus::User, ExitStatus::Infra, ExitStatus::Alert] {
            let row = format!("| {} |", status as u8);
            assert!(text.contains(&row), "{page} has no row `{row}` for {status:?}");
        }
    }
}

/// The version numbers that Cargo.lock has for a crate.
fn locked(name: &str) -> usize {
    let lock = fs::read_to_string(checkout().join("Cargo.lock")).unwrap();
    lock.lines().filter(|line| *line == format!("name = \"{name}\"")).count()
}

#[test]
fn there_is_one_arrow_stack() {
    for name in ["arrow", "arrow-array", "arrow-schema", "datafusion", "object_store", "parquet", "torch-sys"] {
        assert_eq!(locked(name), 1, "versions of {name}");
    }
}

#[test]
fn every_dependency_has_a_licence_that_deny_toml_allows() {
    let deny = fs::read_to_string(checkout().join("deny.toml")).unwrap();
    let list = deny.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']')).map(|(list, _)| list).unwrap();
    let allowed: BTreeSet<&str> = list.split(',').map(|name| name.trim().trim_matches('"')).collect();

    let arguments = ["metadata", "--offline", "--locked", "--format-version", "1"];
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(checkout())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{} packages", packages.len());
    for package in packages {
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(permits(licence, &allowed), "{} is under `{licence}`", package["name"]);
    }
}

/// Whether an SPDX expression can be met with what is allowed. `A/B` is the old way of `A OR B`.
fn permits(licence: &str, allowed: &BTreeSet<&str>) -> bool {
    let licence = licence.replace(['(', ')'], " ").replace('/', " OR ");
    let one = |name: &str| allowed.contains(name.split_whitespace().collect::<Vec<_>>().join(" ").as_str());
    let either = |part: &str| part.split(" OR ").any(one);
    licence.split(" AND ").all(either)
}

#[test]
fn licences_are_read_as_spdx_means_them() {
    let allowed = BTreeSet::from(["MIT", "ISC"]);
    for yes in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "MIT AND ISC", "(GPL-3.0 OR MIT) AND ISC"] {
        assert!(permits(yes, &allowed), "{yes}");
    }
    for no in ["", "GPL-3.0", "MIT AND GPL-3.0", "GPL-3.0/Apache-2.0"] {
        assert!(!permits(no, &allowed), "{no}");
    }
}
