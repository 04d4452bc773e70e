//! `tenure` and `tenure-torch`: commands without a model run in the one, the rest in the other.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::support::shop::{assert_exit, binary, program};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tenure");

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with `tenure`, on the disk of the target folder.
fn alone() -> TempDir {
    let folder = tempfile::tempdir_in(Path::new(PROGRAM).parent().unwrap()).unwrap();
    fs::hard_link(PROGRAM, folder.path().join("tenure")).unwrap();
    folder
}

/// The same beside another program, which says what it was asked.
fn beside_an_echo() -> TempDir {
    let folder = alone();
    let echo = folder.path().join("tenure-torch");
    fs::write(&echo, "#!/bin/sh\nprintf '<%s>' \"$@\"\nexit 3\n").unwrap();
    fs::set_permissions(&echo, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn the_other_program_gets_what_takes_a_model() {
    let folder = beside_an_echo();
    for line in [
        &["run", "my job.yaml", "--as-of", "2026-07-01"][..],
        &["--json", "train", "jobs/ltv.yaml"],
        &["check", "jobs/ltv.yaml"],
        &["completions", "bash"],
        &["--help"],
        &["features", "--help"],
        // Whatever is wrong with a command line, one program says so.
        &["features", "plan"],
        &["state", "lost"],
        &["nonsense"],
        &[],
    ] {
        let output = program(folder.path().join("tenure"), line).output().unwrap();
        assert_exit(&output, 3);
        let words = if line.is_empty() { &[""] } else { line };
        assert_eq!(stdout(&output), words.iter().map(|word| format!("<{word}>")).collect::<String>());
    }
}

#[test]
fn a_command_without_a_model_runs_in_the_program_itself() {
    let folder = beside_an_echo();
    for line in
        [&["schema"][..], &["features", "plan", "jobs/ltv.yaml"], &["--json", "features", "plan", "jobs/ltv.yaml"]]
    {
        let output = program(folder.path().join("tenure"), line).output().unwrap();
        assert_exit(&output, 0);
        assert_eq!(stdout(&output), stdout(&binary(line).output().unwrap()), "{line:?}");
    }
    let output = program(folder.path().join("tenure"), &["features", "plan", "jobs/none.yaml"]).output().unwrap();
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("jobs/none.yaml"), "{}", stderr(&output));
}

#[test]
fn without_the_other_program_the_error_names_it() {
    let folder = alone();
    let output =
        program(folder.path().join("tenure"), &["run", "jobs/ltv.yaml", "--as-of", "2026-07-01"]).output().unwrap();
    assert_exit(&output, 1);
    let place = folder.path().canonicalize().unwrap().join("tenure-torch");
    assert!(stderr(&output).contains(place.to_str().unwrap()), "{}", stderr(&output));
    assert!(stderr(&output).contains("make build"), "{}", stderr(&output));
    // Help is still help.
    let output = program(folder.path().join("tenure"), &["--help"]).output().unwrap();
    assert_exit(&output, 0);
    assert!(stdout(&output).contains("features") && stderr(&output).is_empty(), "{}", stderr(&output));
}
