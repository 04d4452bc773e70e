//! `tenure runs withdraw` through the real binary.

use std::fs;

use tenure::lake::publish::WITHDRAW_POINTS;

use crate::support::shop::{assert_exit, assert_success};
use crate::support::small_job::{SmallJob, said};

const FIRST: &str = "2026-07-01";
const SECOND: &str = "2026-07-02";

fn nights(job: &SmallJob) -> Vec<String> {
    let seen = job.seen().into_keys().filter_map(|path| path.strip_prefix("segments/ds=").map(str::to_owned));
    seen.map(|night| night.trim_end_matches('/').to_owned()).collect()
}

#[tokio::test]
async fn a_withdrawn_night_is_gone_for_readers_and_for_the_nights_after_it() {
    let job = SmallJob::new().await;
    for night in [FIRST, SECOND] {
        assert_success(&job.run(night));
    }
    let withdrawn = job.runs(&["withdraw", FIRST]);
    assert_success(&withdrawn);
    let message = said(&withdrawn);
    assert!(message.contains("the night of 2026-07-01 is withdrawn"), "{message}");
    assert!(message.contains("nights after it, 2026-07-02 to 2026-07-02"), "{message}");
    assert_eq!(nights(&job), [SECOND]);
    assert!(job.seen().keys().all(|path| path.ends_with("ds=2026-07-02/")), "{:?}", job.seen());

    let listed = job.runs(&[]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let line = text.lines().find(|line| line.trim_start().starts_with(FIRST)).unwrap();
    assert!(line.contains("withdrawn"), "{text}");
    let shown = job.runs(&["show", FIRST]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("withdrawn"), "{shown:?}");
    let again = job.runs(&["withdraw", FIRST]);
    assert_success(&again);
    assert!(said(&again).contains("was withdrawn before"), "{again:?}");

    // The night after it looked back on it: it is another night now.
    let after = job.run(SECOND);
    assert_success(&after);
    assert!(!said(&after).contains("already published"), "{after:?}");
    // And the withdrawn one is computed again when it is asked for.
    let first = job.run(FIRST);
    assert_success(&first);
    assert!(!said(&first).contains("already published"), "{first:?}");
    assert_eq!(nights(&job), [FIRST, SECOND]);
}

#[tokio::test]
async fn a_withdrawal_killed_at_any_point_is_finished_by_the_next_look() {
    for point in WITHDRAW_POINTS {
        let job = SmallJob::new().await;
        assert_success(&job.run(FIRST));
        let mut killed = job.command(&["runs", "withdraw", FIRST, "--job"], "job.yaml", &[]);
        let killed = killed.env("TENURE_ABORT_AT", point).output().unwrap();
        assert_eq!(killed.status.code(), None, "`{point}` is never reached: {}", said(&killed));
        let listed = job.listed();
        if *point == "withdraw.marked" {
            assert_eq!(nights(&job), [FIRST], "it had not begun");
            assert_success(&job.runs(&["withdraw", FIRST]));
        } else {
            assert!(listed[0]["withdrawn"].is_string(), "{point}: {listed:?}");
        }
        assert!(job.seen().is_empty(), "{point}: {:?}", job.seen());
        assert!(job.listed()[0]["withdrawn"].is_string(), "{point}");
        assert_success(&job.run(FIRST));
        assert_eq!(nights(&job), [FIRST], "{point}");
        assert_eq!(
            fs::read_dir(job.path("lake/out/_staging"))
                .unwrap()
                .flatten()
                .filter(|entry| { fs::read_dir(entry.path()).unwrap().count() > 0 })
                .count(),
            0,
            "{point}"
        );
    }
}

#[tokio::test]
async fn a_run_that_is_not_in_force_or_is_another_jobs_is_refused() {
    let job = SmallJob::new().await;
    assert_exit(&job.runs(&["withdraw", FIRST]), 1);
    assert_success(&job.run(FIRST));
    let first = job.listed()[0]["run_id"].as_str().unwrap().to_owned();
    job.orders(900).await;
    assert_success(&job.run(FIRST));
    let refused = job.runs(&["withdraw", &first]);
    assert_exit(&refused, 1);
    assert!(said(&refused).contains("is not in force"), "{refused:?}");
    job.job("other.yaml", "other", "", "");
    let second = job.listed()[0]["run_id"].as_str().unwrap().to_owned();
    let other = job.call(&["runs", "withdraw", &second, "--job"], "other.yaml", &[]);
    assert_exit(&other, 1);
    assert!(said(&other).contains("belongs to the job `shop`"), "{other:?}");
    assert_eq!(nights(&job), [FIRST]);
    assert_success(&job.runs(&["withdraw", &second]));
    assert_eq!(nights(&job), [""; 0]);
}
