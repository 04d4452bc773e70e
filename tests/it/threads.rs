//! `--threads`: a run takes no more of the machine than it was given.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::shop::{AS_OF, Shop, assert_success, binary, program};

/// Wall-clock and CPU seconds of a command, as the shell counts them for it and its threads.
fn timed(command: &Command) -> (f64, f64) {
    let mut shell = Command::new("bash");
    shell.args(["-c", "TIMEFORMAT='took %3R %3U %3S'; time \"$@\"", "bash"]).arg(command.get_program());
    shell.args(command.get_args()).current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let output = shell.output().unwrap();
    assert_success(&output);
    let told = String::from_utf8(output.stderr).unwrap();
    let times: Vec<f64> = told
        .lines()
        .find_map(|line| line.strip_prefix("took "))
        .unwrap()
        .split(' ')
        .map(|seconds| seconds.parse().unwrap())
        .collect();
    (times[0], times[1] + times[2])
}

#[test]
fn one_thread_is_one_core() {
    let shop = Shop::trained();
    for args in [
        &["run", "jobs/ltv.yaml", "--as-of", AS_OF, "--force", "--threads", "1"][..],
        &["train", "jobs/ltv.yaml", "--as-of", AS_OF, "--threads", "1"],
    ] {
        let (wall, cpu) = timed(&shop.command(args));
        // What takes no time says nothing.
        assert!(wall < 1.0 || cpu < 1.3 * wall, "{args:?}: {cpu} seconds of CPU in {wall}");
    }
}

#[test]
fn a_night_is_the_same_with_one_thread_and_with_more() {
    let shop = Shop::trained();
    let predictions = |threads: &str| {
        let run = ["run", "jobs/ltv.yaml", "--as-of", AS_OF, "--force", "--threads", threads];
        assert_success(&shop.tenure(&run));
        ["predictions", "segments", "features"].map(|table| fs::read(shop.table(table, AS_OF)).unwrap())
    };
    let one = predictions("1");
    assert!(one == predictions("2") && one == predictions("5"));
}

/// The environment of a process, as it was started.
fn environment(process: u32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{process}/environ")).ok()?;
    Some(bytes.split(|byte| *byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned()).collect())
}

#[test]
fn idle_threads_of_openmp_sleep_unless_the_user_says_otherwise() {
    let shop = Shop::new();
    let sees = |asked: Option<&str>| {
        let mut command = shop.command(&["train", "jobs/ltv.yaml", "--as-of", AS_OF]);
        command.env_remove("OMP_WAIT_POLICY").stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(asked) = asked {
            command.env("OMP_WAIT_POLICY", asked);
        }
        let mut child = command.spawn().unwrap();
        let mut found = None;
        // It sets the variable and starts itself once more, under the same number.
        while found.is_none() && child.try_wait().unwrap().is_none() {
            let entries = environment(child.id()).unwrap_or_default();
            found = entries.iter().find_map(|entry| Some(entry.strip_prefix("OMP_WAIT_POLICY=")?.to_owned()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        found
    };
    assert_eq!(sees(None).as_deref(), Some("passive"));
    assert_eq!(sees(Some("active")).as_deref(), Some("active"));
    // The small program passes it on to the large one.
    let folder = tempfile::tempdir_in(std::path::Path::new(env!("CARGO_BIN_EXE_tenure")).parent().unwrap()).unwrap();
    fs::hard_link(env!("CARGO_BIN_EXE_tenure"), folder.path().join("tenure")).unwrap();
    let echo = folder.path().join("tenure-torch");
    fs::write(&echo, "#!/bin/sh\nprintf '%s' \"$OMP_WAIT_POLICY\"\n").unwrap();
    fs::set_permissions(&echo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let said = |policy: Option<&str>| {
        let mut command = program(folder.path().join("tenure"), &["train"]);
        command.env_remove("OMP_WAIT_POLICY");
        command.envs(policy.map(|policy| ("OMP_WAIT_POLICY", policy)));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!((said(None).as_str(), said(Some("active")).as_str()), ("passive", "active"));
}

#[test]
fn a_number_of_threads_that_is_none_is_refused() {
    for wrong in ["0", "-1", "many"] {
        let output = binary(&["run", "jobs/ltv.yaml", "--as-of", AS_OF, "--threads", wrong]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{wrong}");
    }
}
