//! Whose a published folder is, and what whoever reads it sees whatever was killed.

use std::fs;
use std::path::Path;
use std::process::Command;

use arrow::array::Array;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tenure::lake::publish::POINTS;

use crate::support::lake::write_parquet;
use crate::support::shop::{assert_exit, assert_success};
use crate::support::small_job::{SmallJob, said};

const FIRST: &str = "2026-07-01";
const SECOND: &str = "2026-07-02";
/// The tables of a night of the small job.
const TABLES: usize = 3;

fn options(night: &str) -> [&str; 2] {
    ["--as-of", night]
}

#[tokio::test]
async fn a_second_job_is_refused_before_any_work_and_hears_whose_the_folder_is() {
    let job = SmallJob::new().await;
    job.job("other.yaml", "other", "", "");
    assert_success(&job.call(&["check"], "other.yaml", &["--online", "--as-of", FIRST]));
    assert_success(&job.run(FIRST));
    let before = fs::read(job.path("lake/out/_runs/owner.json")).unwrap();
    for output in [
        job.call(&["check"], "other.yaml", &["--online", "--as-of", FIRST]),
        job.call(&["run"], "other.yaml", &options(FIRST)),
        job.call(&["run"], "other.yaml", &["--as-of", SECOND, "--force", "--accept-shrink"]),
    ] {
        assert_exit(&output, 1);
        assert!(
            said(&output).contains("belongs to the job `shop`, and `other` would replace its nights"),
            "{output:?}"
        );
        assert!(said(&output).contains("`tenure runs adopt JOB`"), "{output:?}");
    }
    assert_eq!(job.listed().len(), 1, "nothing was begun");
    assert_eq!(fs::read(job.path("lake/out/_runs/owner.json")).unwrap(), before);
    assert_success(&job.check());
    assert_success(&job.run(SECOND));
}

#[tokio::test]
async fn a_renamed_job_adopts_its_folder() {
    let job = SmallJob::new().await;
    assert_success(&job.run(FIRST));
    job.job("job.yaml", "renamed", "", "");
    assert_exit(&job.run(SECOND), 1);
    let adopted = job.call(&["runs", "adopt"], "job.yaml", &[]);
    assert_success(&adopted);
    assert!(said(&adopted).contains("belonged to `shop` and belongs to `renamed` now"), "{adopted:?}");
    assert_success(&job.run(SECOND));
    assert_eq!(previous_stages(&job, SECOND), (100, 0), "stages go on");
}

#[tokio::test]
async fn a_folder_from_before_there_were_owners_belongs_to_the_job_of_its_newest_record() {
    let job = SmallJob::new().await;
    assert_success(&job.run(FIRST));
    fs::remove_file(job.path("lake/out/_runs/owner.json")).unwrap();
    job.job("other.yaml", "other", "", "");
    let refused = job.call(&["run"], "other.yaml", &options(SECOND));
    assert_exit(&refused, 1);
    assert!(said(&refused).contains("belongs to the job `shop`"), "{refused:?}");
    assert_success(&job.run(SECOND));
    let owner: Value = serde_json::from_slice(&fs::read(job.path("lake/out/_runs/owner.json")).unwrap()).unwrap();
    assert_eq!(
        (&owner["job"], &owner["key"], &owner["key_type"]),
        (&"shop".into(), &"customer_id".into(), &"int64".into())
    );
}

#[tokio::test]
async fn a_folder_within_another_jobs_is_refused() {
    let job = SmallJob::new().await;
    assert_success(&job.run(FIRST));
    job.job("other.yaml", "other", "", "within/deeper/");
    let refused = job.call(&["run"], "other.yaml", &options(FIRST));
    assert_exit(&refused, 1);
    assert!(said(&refused).contains("which belongs to the job `shop`"), "{refused:?}");
}

/// How many customers of a night have a stage of the night before, and how many have none.
fn previous_stages(job: &SmallJob, night: &str) -> (usize, usize) {
    let path = job.path(&format!("lake/out/segments/ds={night}/part-00000.parquet"));
    let file = fs::File::open(path).unwrap();
    let mut rows = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let stages = rows.next().unwrap().unwrap().column_by_name("previous_stage").unwrap().clone();
    assert!(rows.next().is_none());
    (stages.len() - stages.null_count(), stages.null_count())
}

/// Writes the tables of the job again with keys that are texts.
async fn keys_as_text(job: &SmallJob) {
    let at = |time: &str| format!(r#"arrow_cast('{time}', 'Timestamp(Microsecond, Some("UTC"))')"#);
    let (since, ordered) = (at("2026-01-01T00:00:00"), at("2026-06-15T00:00:00"));
    let key = "'c' || CAST(1 + value % 100 AS VARCHAR) AS customer_id";
    let customers = format!("SELECT {key}, {since} AS signed_up_at FROM generate_series(1, 100)");
    let orders = format!(
        "SELECT value AS order_id, {key}, {ordered} AS ordered_at, 10.0 AS amount FROM generate_series(1, 1000)"
    );
    write_parquet(&job.path("lake/customers/part-0.parquet"), &customers).await;
    write_parquet(&job.path("lake/orders/part-0.parquet"), &orders).await;
}

#[tokio::test]
async fn a_key_of_another_type_is_told_with_the_way_out() {
    for recorded in [true, false] {
        let job = SmallJob::new().await;
        assert_success(&job.run(FIRST));
        if !recorded {
            fs::remove_file(job.path("lake/out/_runs/owner.json")).unwrap();
        }
        keys_as_text(&job).await;
        job.job_with_key("job.yaml", "shop", "utf8", "", "");
        let refused = job.run(SECOND);
        assert_exit(&refused, 1);
        let message = said(&refused);
        assert!(
            message.contains("name customers by `customer_id` (int64), and the job `shop` now by `customer_id` (utf8)"),
            "{message}"
        );
        assert!(message.contains("`tenure runs adopt JOB`") && message.contains("stages begin anew"), "{message}");
        assert_success(&job.call(&["runs", "adopt"], "job.yaml", &[]));
        assert_success(&job.run(SECOND));
        assert_eq!(previous_stages(&job, SECOND), (0, 100), "stages begin anew");
        assert_success(&job.run("2026-07-03"));
        assert_eq!(previous_stages(&job, "2026-07-03"), (100, 0));
    }
}

#[tokio::test]
async fn a_copied_lake_leaves_old_records_as_they_were() {
    let job = SmallJob::new().await;
    assert_success(&job.run(FIRST));
    let of_first = |job: &SmallJob| {
        let mut runs = job.listed();
        runs.retain(|run| run["as_of"] == FIRST);
        assert_eq!(runs.len(), 1);
        let mut run = runs.remove(0);
        for table in run["tables"].as_array_mut().unwrap() {
            table["etag"].take();
        }
        run
    };
    let before = of_first(&job);
    let copied = Command::new("cp").args(["-r", "lake", "copy"]).current_dir(job.path("")).status().unwrap();
    assert!(copied.success());
    fs::remove_dir_all(job.path("lake")).unwrap();
    fs::rename(job.path("copy"), job.path("lake")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_success(&job.run(SECOND));
    assert_eq!(of_first(&job), before);
    let seen = job.seen();
    assert!(seen.len() == 2 * TABLES && seen.values().all(|files| *files == 1), "{seen:?}");
}

/// Whether the tables of a night are all there, once each, or none is.
fn is_whole(job: &SmallJob, night: &str) -> Result<bool, String> {
    let seen = job.seen();
    let of_night: Vec<_> = seen.iter().filter(|(path, _)| path.ends_with(&format!("ds={night}/"))).collect();
    match of_night.len() {
        0 => Ok(false),
        tables if tables == TABLES && of_night.iter().all(|(_, files)| **files == 1) => Ok(true),
        _ => Err(format!("{seen:?}")),
    }
}

#[tokio::test]
async fn wherever_a_run_is_killed_no_reader_sees_a_file_twice_and_the_next_look_finds_a_whole_night() {
    let job = SmallJob::new().await;
    assert_success(&job.run(FIRST));
    let clean = Command::new("cp").args(["-a", "lake/out", "clean"]).current_dir(job.path("")).status().unwrap();
    assert!(clean.success());
    let mut kills = 0;
    for point in POINTS {
        for visit in 1.. {
            fs::remove_dir_all(job.path("lake/out")).unwrap();
            assert!(
                Command::new("cp")
                    .args(["-a", "clean", "lake/out"])
                    .current_dir(job.path(""))
                    .status()
                    .unwrap()
                    .success()
            );
            let mut run = job.command(&["run"], "job.yaml", &options(SECOND));
            let killed = run.env("TENURE_ABORT_AT", format!("{point}:{visit}")).output().unwrap();
            if killed.status.success() {
                assert!(visit > 1, "`{point}` is never reached");
                break;
            }
            kills += 1;
            let place = format!("{point}:{visit}");
            assert!(job.seen().values().all(|files| *files == 1), "{place}: {:?}", job.seen());
            // Any command that looks makes the night whole, or there is nothing of it yet.
            let looked = match kills % 3 {
                0 => job.runs(&["show", FIRST]),
                1 => job.runs(&[]),
                _ => job.check(),
            };
            assert_success(&looked);
            let whole = is_whole(&job, SECOND).unwrap_or_else(|seen| panic!("{place}: {seen}"));
            let committed = job.path(&format!("lake/out/_runs/ds={SECOND}/commit-00001.json")).exists();
            assert_eq!(whole, committed, "{place}");
            assert_success(&job.run(SECOND));
            assert_eq!(is_whole(&job, SECOND), Ok(true), "{place}");
            let left = hidden(&job.path("lake/out"));
            assert!(left.is_empty(), "{place}: {left:?}");
        }
    }
    assert!(kills > 25, "{kills}");
}

/// Staging files, and what lies in `_staging`.
fn hidden(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(hidden(&path));
        } else if name.contains('#') || path.components().any(|part| part.as_os_str() == "_staging") {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn the_next_run_of_another_night_finishes_what_a_killed_one_left() {
    let job = SmallJob::new().await;
    let mut run = job.command(&["run"], "job.yaml", &options(FIRST));
    assert!(!run.env("TENURE_ABORT_AT", "publish.promoted:1").output().unwrap().status.success());
    assert!(is_whole(&job, FIRST).is_err(), "one table is in place");
    let earlier = job.run("2026-06-30");
    assert_success(&earlier);
    assert!(said(&earlier).contains("the night of 2026-07-01 was half in place"), "{earlier:?}");
    assert_eq!(is_whole(&job, FIRST), Ok(true));
}

#[tokio::test]
async fn half_written_files_that_somebody_may_still_write_are_left_alone() {
    let job = SmallJob::new().await;
    assert_success(&job.run(FIRST));
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let folder = job.path(&format!("lake/out/segments/ds={FIRST}"));
    let ours = folder.join(format!("part-00000.parquet#{}", u64::from(ended.id()) << 32 | 3));
    let (mine, fresh) = (folder.join("part-00000.parquet#3"), job.path("lake/orders/part-0.parquet#99999999999999"));
    for path in [&ours, &mine, &fresh] {
        fs::write(path, "half").unwrap();
    }
    assert_success(&job.runs(&[]));
    // What an earlier version wrote does not say on which machine: it is left alone for an hour.
    assert!(ours.exists() && mine.exists() && fresh.exists());
}

#[tokio::test]
async fn nothing_is_written_or_deleted_behind_a_link() {
    for link in ["_staging", "_runs", "segments", "transitions"] {
        let job = SmallJob::new().await;
        let home = job.path("home");
        let precious = home.join("2026-07-01-thesis/part-00000.parquet");
        let published = home.join(format!("ds={FIRST}/part-00000.parquet"));
        for path in [&precious, &published] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "mine").unwrap();
        }
        fs::create_dir(job.path("lake/out")).unwrap();
        std::os::unix::fs::symlink(&home, job.path("lake/out").join(link)).unwrap();
        let refused = job.run(FIRST);
        assert_exit(&refused, 1);
        assert!(said(&refused).contains(&format!("lake/out/{link}` is a symbolic link")), "{refused:?}");
        for path in [&precious, &published] {
            assert_eq!(fs::read(path).unwrap(), b"mine", "{link}");
        }
        assert_eq!(fs::read_dir(&home).unwrap().count(), 2, "{link}");
    }
}

#[tokio::test]
async fn the_published_folder_may_itself_be_a_link() {
    let job = SmallJob::new().await;
    fs::create_dir(job.path("disk")).unwrap();
    std::os::unix::fs::symlink(job.path("disk"), job.path("lake/out")).unwrap();
    assert_success(&job.run(FIRST));
    assert_eq!(is_whole(&job, FIRST), Ok(true));
}
