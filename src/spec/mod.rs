//! Job files: one YAML file describes one business.
//!
//! ```text
//! text ──node──▶ tree with places ──env──▶ variables in ──read──▶ RawJobSpec ──validate──▶ JobSpec
//! ```
//!
//! Every step gathers its problems and goes on, so that [`load`] tells all of them at once, each with its place and a
//! hint. What comes out is right: no later code checks it again. The SQL files are only listed here; `features` reads them.

mod env;
mod job;
pub mod nearest;
mod network;
mod node;
mod outcomes;
mod paths;
mod problems;
mod raw;
mod read;
mod recipe;
mod schema;
mod sequence;
mod validate;
mod values;

use std::path::Path;

use crate::{Error, Result, hash};

pub use job::*;
pub use nearest::nearest;
pub use network::{EmbeddingSpec, Schedule, SeasonSpec};
pub use outcomes::{OutcomeMetric, OutcomesSpec, ThresholdSpec};
pub use schema::{json_schema, reference};
pub use sequence::{Keep, SequenceEncoder, SequenceSpec};

use node::Pos;
use problems::Problems;
use raw::RawJobSpec;
use read::FromNode;

/// Raised when the same file begins to mean something else, by a new default for example: it is part of a job's hash.
const MEANING: &str = "tenure job, version 1, meaning 2";

/// Reads a job file. `env` looks environment variables up. Every problem of the file comes in one error.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<JobSpec> {
    let size = std::fs::metadata(path).map_err(|e| Error::io(path, e).hint("name the job's YAML file"))?.len();
    let mut problems = Problems::of(path.display().to_string());
    let start = Pos { line: 1, column: 1 };
    let mut parts = None;
    if size > node::MAX_BYTES as u64 {
        let message = format!("the file has {size} bytes, a job file at most {}", node::MAX_BYTES);
        problems.add(start, message, "is this the job's YAML file?");
    } else {
        match String::from_utf8(std::fs::read(path).map_err(|e| Error::io(path, e))?) {
            Ok(text) => parts = read(&text, path, env, &mut problems)?,
            Err(_) => problems.add(start, "the file is not UTF-8 text", "is this the job's YAML file?"),
        }
    }
    Error::all(problems.into_sorted())?;
    parts.map(|parts| JobSpec { parts }).ok_or_else(|| Error::user(format!("`{}` cannot be used", path.display())))
}

/// All steps; `None` only after a problem was told.
fn read(
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
) -> Result<Option<JobParts>> {
    let root = paths::Root::of(path).map_err(|e| Error::io(path, e))?;
    let Some(mut tree) = node::parse(text, problems) else { return Ok(None) };
    env::substitute(&mut tree, env, problems);
    let Some(raw) = RawJobSpec::from_node(&tree, problems) else { return Ok(None) };
    let Some(valid) = validate::job(&raw, tree.pos, &root, problems) else { return Ok(None) };
    let meaning = serde_json::to_string(&raw).map_err(|e| Error::infra("the job cannot be hashed").because(e))?;
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
