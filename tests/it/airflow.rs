//! The DAG in a real Airflow on SQLite, with the real binary on a demo lake.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::python::{script, stdout, venv};
use crate::support::s3::env_for;
use crate::support::shop::{AS_OF, Shop, checkout, published_once};

/// An Airflow of one test: its own home and database.
struct Airflow {
    home: TempDir,
    venv: PathBuf,
}

impl Airflow {
    fn new() -> Option<Self> {
        let airflow = Airflow { venv: venv()?, home: tempfile::tempdir().unwrap() };
        stdout(&airflow.command(&["db", "migrate"]).output().unwrap());
        Some(airflow)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.venv.join("bin/airflow"));
        command
            .args(args)
            .current_dir(checkout())
            .env("AIRFLOW_HOME", self.home.path())
            .env("AIRFLOW__CORE__DAGS_FOLDER", checkout().join("airflow/dags"))
            .env("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// One night of a shop, as `airflow dags test` runs it: `job` and the extra variables are the workers' settings.
    fn night(&self, shop: &Shop, night: &str, job: &str, variables: &[(String, String)]) -> Command {
        let mut command = self.command(&["dags", "test", "ltv_nightly", night]);
        for (name, value) in shop.command(&[]).get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
            .env("TENURE_BIN", env!("CARGO_BIN_EXE_tenure"))
            .env("TENURE_JOB", job)
            .env("TENURE_OPTIONS", "--device cpu --threads 2")
            .envs(variables.iter().cloned());
        command
    }

    /// State and tries of a task of the newest DAG run; `None` while it has none.
    fn task(&self, name: &str) -> Option<(String, u64)> {
        let database = self.home.path().join("airflow.db");
        let states = stdout(&script("task_states.py").unwrap().arg(database).output().unwrap());
        let states: Value = serde_json::from_str(&states).unwrap();
        let task = &states[name];
        Some((task["state"].as_str()?.to_owned(), task["tries"].as_u64()?))
    }
}

/// A process that must not outlive the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn log_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn ended(state: &str, tries: u64) -> Option<(String, u64)> {
    Some((state.to_owned(), tries))
}

#[test]
fn a_night_under_airflow_is_published_and_its_stages_are_shown() {
    let Some(airflow) = Airflow::new() else { return };
    let shop = Shop::trained();
    let output = airflow.night(&shop, AS_OF, "jobs/ltv.yaml", &[]).output().unwrap();
    let log = log_of(&output);
    assert!(output.status.success(), "{log}");
    for task in ["check", "run", "verdict"] {
        assert_eq!(airflow.task(task), ended("success", 1), "{task}: {log}");
    }
    assert_eq!(airflow.task("alert"), ended("skipped", 1), "{log}");
    for table in ["predictions", "segments", "transitions"] {
        assert!(shop.table(table, AS_OF).exists(), "{table}: {log}");
    }
    for stage in ["prospect", "active"] {
        assert!(log.contains(&format!("stage {stage}: ")), "{log}");
    }
}

#[test]
fn stale_data_ends_in_a_published_night_and_an_alert() {
    let Some(airflow) = Airflow::new() else { return };
    let shop = Shop::trained();
    let night = "2026-07-05"; // the newest order is four days old, and the job wants 36 hours
    let output = airflow.night(&shop, night, "jobs/ltv.yaml", &[]).output().unwrap();
    let log = log_of(&output);
    assert!(output.status.success(), "{log}");
    assert_eq!(airflow.task("run"), ended("success", 1), "{log}");
    assert_eq!(airflow.task("alert"), ended("success", 1), "{log}");
    assert!(log.contains("alert: "), "{log}");
    assert!(shop.table("segments", night).exists(), "{log}");
}

#[test]
fn a_wrong_job_fails_at_the_first_try() {
    let Some(airflow) = Airflow::new() else { return };
    let jobs = tempfile::tempdir().unwrap();
    let job = jobs.path().join("ltv.yaml");
    let text = fs::read_to_string(checkout().join("jobs/ltv.yaml")).unwrap();
    fs::write(&job, text.replace("segments:", "segmnts:")).unwrap();
    let output = airflow.night(published_once(), AS_OF, job.to_str().unwrap(), &[]).output().unwrap();
    let log = log_of(&output);
    assert!(!output.status.success(), "{log}");
    assert_eq!(airflow.task("check"), ended("failed", 1), "{log}");
    assert_eq!(airflow.task("run"), ended("upstream_failed", 0), "{log}");
    assert!(log.contains("did you mean `segments`?"), "the task's log says what to do: {log}");
}

#[test]
fn a_lake_that_does_not_answer_is_tried_again() {
    let Some(airflow) = Airflow::new() else { return };
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut variables = env_for(&format!("http://{closed}"));
    variables.push(("TENURE_LAKE".to_owned(), "s3://lake/shop/".to_owned()));
    let log = airflow.home.path().join("night.log");
    let mut night = airflow.night(published_once(), AS_OF, "jobs/ltv.yaml", &variables);
    let file = fs::File::create(&log).unwrap();
    night.stdout(file.try_clone().unwrap()).stderr(file).stdin(Stdio::null());
    let _night = Background(night.spawn().unwrap());

    let start = Instant::now();
    let said = || fs::read_to_string(&log).unwrap_or_default();
    while airflow.task("run").is_none_or(|(state, _)| state != "up_for_retry") {
        let state = airflow.task("run");
        assert!(
            !matches!(&state, Some((state, _)) if state == "failed" || state == "success"),
            "{state:?}: {}",
            said()
        );
        assert!(start.elapsed() < Duration::from_secs(240), "{state:?}: {}", said());
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(said().contains("trying again later"), "{}", said());
}

#[test]
fn every_exit_code_means_to_airflow_what_it_says() {
    let Some(mut script) = script("exit_codes.py") else { return };
    let home = tempfile::tempdir().unwrap();
    script.arg(checkout().join("airflow/dags")).env("AIRFLOW_HOME", home.path()).env("PYTHONDONTWRITEBYTECODE", "1");
    stdout(&script.output().unwrap());
}
