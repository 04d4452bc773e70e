//! The Python environment of the tests: Airflow, moto and DuckDB, as `scripts/python.sh` installs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::shop::checkout;

/// The environment's folder, or `None`, saying so, where it is not installed. Under CI that is a failure.
pub fn venv() -> Option<PathBuf> {
    installed(std::env::var_os("TENURE_VENV").map_or_else(|| cache().join("venv"), PathBuf::from))
}

/// The environment with the tools that write the lakes of the corpus, likewise.
pub fn corpus_venv() -> Option<PathBuf> {
    installed(cache().join("corpus-venv"))
}

fn cache() -> PathBuf {
    match std::env::var_os("TENURE_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/tenure"),
    }
}

fn installed(venv: PathBuf) -> Option<PathBuf> {
    if venv.join(".complete").exists() {
        return Some(venv);
    }
    assert!(std::env::var_os("CI").is_none(), "`{}` is not complete: run scripts/python.sh", venv.display());
    skipped(&format!("`{}` is not there (scripts/python.sh installs it)", venv.display()));
    None
}

/// A script of tests/python, or `None` without an environment.
pub fn script(name: &str) -> Option<Command> {
    let mut command = Command::new(venv()?.join("bin/python"));
    command.arg(checkout().join("tests/python").join(name)).current_dir(checkout());
    Some(command)
}

/// What `tests/python/open_tables.py` sees of a published night with DuckDB, or `None` without an environment.
pub fn open_tables(out: &Path, night: &str, key: &str) -> Option<serde_json::Value> {
    let output = script("open_tables.py")?.arg(out).args([night, key]).output().unwrap();
    Some(serde_json::from_str(&stdout(&output)).unwrap())
}

/// What a script printed; fails with its own words unless it ended well.
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[allow(clippy::print_stderr)]
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}
