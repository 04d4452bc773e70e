//! Job files: one YAML file describes one business.
//!
//! ```text
//! text ──node──▶ tree with places ──env──▶ variables in ──patch──▶ ──read──▶ RawJobSpec ──validate──▶ JobSpec
//! ```
//!
//! Every step gathers its problems and goes on, so that [`load`] tells all of them at once, each with its place and a
//! hint. What comes out is right: no later code checks it again. The SQL files are only listed here; `features` reads them.

mod column;
mod csv;
mod env;
mod job;
pub mod label_rule;
pub mod nearest;
mod network;
mod node;
mod outcomes;
mod patch;
mod paths;
mod problems;
mod publish;
mod raw;
mod read;
mod recipe;
mod schema;
mod scores;
mod sequence;
mod text;
mod tune;
mod validate;
mod values;
mod version;

use std::path::Path;
use std::time::Duration;

use crate::{Error, Result, hash};

pub use column::{ColumnSpec, ColumnType, MAX_DECIMAL_DIGITS};
pub use csv::CsvFormat;
pub use job::*;
pub use nearest::nearest;
pub use network::{Direction, EmbeddingSpec, Schedule, SeasonSpec};
pub use outcomes::{OutcomeMetric, OutcomesSpec, ThresholdSpec};
pub use publish::{MaxShrink, PublishSpec};
pub use schema::{json_schema, reference};
pub use scores::{BTYD_PREFIX, NO_SCORE_REASON, columns_of, score_columns};
pub use sequence::{Keep, SequenceEncoder, SequenceSpec};
pub use text::{TextClassifierTask, TextSpec};
pub use tune::{LoraSpec, LoraTarget, TuneSpec};
pub use version::TableVersion;

use node::{Kind, Node, Pos};
use problems::Problems;
use raw::RawJobSpec;
use read::FromNode;
use values::Span;

/// Raised when the same file begins to mean something else, by a new default for example: it is part of a job's hash.
const MEANING: &str = "tenure job, version 1, meaning 3";

/// Reads a job file. `env` looks environment variables up. Every problem of the file comes in one error.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<JobSpec> {
    load_patched(path, None, env)
}

/// As [`load`], with the keys of a patch laid over those of the job file: maps key by key, heads and stages by their name.
pub fn load_patched(path: &Path, patch: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Result<JobSpec> {
    let mut problems = Problems::of(path.display().to_string());
    let tree = tree_of(path, "start with `version: 1` and `name: …`", env, &mut problems)?;
    let mut over = None;
    if let Some(patch) = patch {
        let mut found = Problems::of(patch.display().to_string());
        over = tree_of(patch, "write the keys of the job that are to change, or `{}`", env, &mut found)?;
        if let Some(Node { pos, kind: Kind::Null | Kind::Scalar(_) | Kind::List(_) }) = &over {
            found.add(*pos, "a patch is a map of keys of the job", "write `train: {learning_rate: 1e-3}`");
            over = None;
        }
        problems = problems.with_patch(found);
    }
    let mut parts = None;
    if let Some(mut tree) = tree
        && patch.is_some() == over.is_some()
    {
        if let Some(mut over) = over {
            patch::mark(&mut over);
            patch::merge(&mut tree, over);
        }
        parts = read(&tree, path, &mut problems)?;
    }
    Error::all(problems.into_sorted())?;
    parts.map(|parts| JobSpec { parts }).ok_or_else(|| Error::user(format!("`{}` cannot be used", path.display())))
}

/// A duration as a command line has it: `45s`, `30m`, `36h`, `90d`.
pub fn duration(text: &str) -> Result<Duration> {
    let mut problems = Problems::of("");
    let node = Node { pos: Pos::START, kind: Kind::Scalar(text.to_owned()) };
    let span = Span::from_node(&node, &mut problems);
    span.map(|Span(duration)| duration).ok_or_else(|| {
        let problem = problems.into_sorted().pop();
        let hint = problem.and_then(|problem| problem.hint).unwrap_or_default();
        Error::user(format!("`{text}` is not a duration")).hint(hint)
    })
}

/// A file as a tree with its variables put in; `None` only after a problem was told. `start` is the hint for an empty file.
fn tree_of(
    path: &Path,
    start: &str,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
) -> Result<Option<Node>> {
    let size = std::fs::metadata(path).map_err(|e| Error::io(path, e).hint("name a YAML file"))?.len();
    if size > node::MAX_BYTES as u64 {
        let message = format!("the file has {size} bytes, a job file at most {}", node::MAX_BYTES);
        problems.add(Pos::START, message, "is this the job's YAML file?");
        return Ok(None);
    }
    let Ok(text) = String::from_utf8(std::fs::read(path).map_err(|e| Error::io(path, e))?) else {
        problems.add(Pos::START, "the file is not UTF-8 text", "is this the job's YAML file?");
        return Ok(None);
    };
    let Some(mut tree) = node::parse(&text, start, problems) else { return Ok(None) };
    env::substitute(&mut tree, env, problems);
    Ok(Some(tree))
}

/// All further steps; `None` only after a problem was told.
fn read(tree: &Node, path: &Path, problems: &mut Problems) -> Result<Option<JobParts>> {
    let root = paths::Root::of(path).map_err(|e| Error::io(path, e))?;
    let Some(raw) = RawJobSpec::from_node(tree, problems) else { return Ok(None) };
    let Some(valid) = validate::job(&raw, tree.pos, &root, problems) else { return Ok(None) };
    let meaning = serde_json::to_string(&raw).map_err(|e| Error::bug("the job cannot be hashed").because(e))?;
    Ok(Some(JobParts {
        name: valid.name,
        file: path.to_owned(),
        root: root.folder,
        hash: hash::of_bytes(format!("{MEANING}\n{meaning}")),
        lake: valid.lake,
        timezone: valid.timezone,
        tables: valid.tables,
        task: valid.task,
    }))
}
