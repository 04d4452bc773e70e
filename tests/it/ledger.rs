//! The ledger: what was written is listed and shown, whatever else lies in its folder.

use std::time::Duration;

use chrono::{NaiveDate, TimeDelta};
use tenure::Error;
use tenure::lake::Store;
use tenure::lake::publish::{KeyParts, RunKey};
use tenure::ledger::{CheckRecord, Ledger, PlacedTable, RunRecord, RunStatus, Verdict};
use url::Url;

use crate::support::s3::S3Server;

fn record(day: u32, tag: &str) -> RunRecord {
    let as_of = NaiveDate::from_ymd_opt(2026, 7, day).unwrap();
    let parts = KeyParts {
        job: tag.to_owned(),
        as_of,
        sql: Default::default(),
        model: None,
        inputs: Vec::new(),
        previous: None,
    };
    let mut record = RunRecord::start("ltv", as_of, &RunKey::of(&parts));
    record.started -= TimeDelta::hours(i64::from(40 - day));
    record
}

fn full_record(day: u32) -> RunRecord {
    let mut record = record(day, "full");
    record.took("features", Duration::from_micros(61_234_567));
    record.read([("orders", 10), ("customers", 5), ("orders", 7)]);
    record.counts.customers = 1_234_567;
    record.counts.scored = 1_234_000;
    record.counts.unscored.insert("too little data".into(), 567);
    record.counts.rejects.entry("orders".into()).or_default().insert("`amount` is below 0".into(), 3);
    record.checks.push(CheckRecord {
        table: "orders".into(),
        check: "range `amount` >= 0".into(),
        on_fail: "reject".into(),
        broken: 3,
        note: None,
    });
    record.done(
        1,
        vec![PlacedTable {
            name: "predictions".into(),
            path: format!("predictions/ds={}/part-00000.parquet", record.as_of),
            rows: 1_234_567,
            bytes: 4_000,
            sha256: "ab".repeat(32),
            etag: Some("e".into()),
        }],
    );
    record
}

async fn ledger_with(records: &[RunRecord]) -> (Store, Ledger) {
    let store = Store::memory();
    for record in records {
        record.save(&store).await.unwrap();
    }
    (store.clone(), Ledger::new(store))
}

#[tokio::test]
async fn a_record_is_read_back_as_it_was_written() {
    let written = full_record(1);
    let (store, ledger) = ledger_with(std::slice::from_ref(&written)).await;
    assert_eq!(ledger.show(&written.run_id).await.unwrap(), written);
    assert_eq!(RunRecord::load(&store, written.as_of, &written.run_id).await.unwrap(), Some(written));
}

#[tokio::test]
async fn a_ledger_on_disk_and_in_s3_is_that_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    let local = Store::open(&Url::from_directory_path(folder.path()).unwrap()).unwrap();
    let server = S3Server::start();
    for store in [Some(local), server.as_ref().map(|server| server.store("ledger"))].into_iter().flatten() {
        let ledger = Ledger::new(store.clone());
        assert_eq!(ledger.list(10).await.unwrap().total, 0);
        let records = [full_record(1), record(2, "b")];
        for record in &records {
            record.save(&store).await.unwrap();
        }
        store.put("_runs/ds=2026-07-01/commit-00001.json", "{}").await.unwrap();
        assert_eq!(ledger.list(10).await.unwrap().runs, [records[1].clone(), records[0].clone()]);
        assert_eq!(ledger.list(1).await.unwrap().runs.len(), 1);
        assert_eq!(ledger.show("2026-07-01").await.unwrap(), records[0]);
    }
}

#[tokio::test]
async fn runs_are_listed_newest_first_and_commits_are_no_runs() {
    let records = [record(1, "a"), full_record(2), record(3, "c")];
    let (store, ledger) = ledger_with(&records).await;
    store.put("_runs/ds=2026-07-01/commit-00001.json", "{}").await.unwrap();
    let listing = ledger.list(10).await.unwrap();
    let ids: Vec<&str> = listing.runs.iter().map(|run| run.run_id.as_str()).collect();
    assert_eq!(ids, [&records[2].run_id, &records[1].run_id, &records[0].run_id]);
    assert_eq!((listing.total, listing.unreadable.len()), (3, 0));

    let text = listing.table();
    assert!(text.contains("running") && text.contains("1,234,567"), "{text}");
    let shorter = ledger.list(2).await.unwrap();
    assert_eq!(shorter.runs.len(), 2);
    assert!(shorter.table().contains("2 of 3 runs"), "{}", shorter.table());
}

#[tokio::test]
async fn a_file_that_cannot_be_read_does_not_hide_the_others() {
    let (store, ledger) = ledger_with(&[full_record(2)]).await;
    store.put("_runs/ds=2026-07-03/2026-07-03-broken.json", "{\"version\": 1,").await.unwrap();
    let mut newer = serde_json::to_value(full_record(4)).unwrap();
    newer["version"] = 2.into();
    store.put("_runs/ds=2026-07-04/2026-07-04-newer.json", newer.to_string()).await.unwrap();

    let listing = ledger.list(10).await.unwrap();
    assert_eq!(listing.runs.len(), 1);
    assert_eq!(listing.unreadable.len(), 2);
    let text = listing.table();
    assert!(
        text.contains("warning: `memory:///_runs/ds=2026-07-03/2026-07-03-broken.json` is not the record of a run"),
        "{text}"
    );
    assert!(text.contains("its version is 2, and this program knows 1"), "{text}");
}

#[tokio::test]
async fn an_empty_ledger_says_so() {
    let (_, ledger) = ledger_with(&[]).await;
    assert_eq!(ledger.list(10).await.unwrap().table(), "no runs yet");
    let error = ledger.show("2026-07-01").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no run `2026-07-01` in `memory:///`");
    assert_eq!(error.problems().next().unwrap().hint.as_deref(), Some("nothing has run here yet"));
}

#[tokio::test]
async fn a_run_is_found_by_a_beginning_that_it_shares_with_no_other() {
    let records = [record(1, "a"), record(1, "b"), record(2, "a")];
    let (_, ledger) = ledger_with(&records).await;
    assert_eq!(ledger.show("2026-07-02").await.unwrap(), records[2]);

    let ambiguous = ledger.show("2026-07-01").await.unwrap_err();
    assert_eq!(ambiguous.to_string(), "`2026-07-01` is the beginning of 2 runs");
    let hint = ambiguous.problems().next().unwrap().hint.clone().unwrap();
    assert!(hint.contains(&records[0].run_id) && hint.contains(&records[1].run_id), "{hint}");

    let typo = records[2].run_id.replace("2026-07-02", "2026-07-20");
    let unknown = ledger.show(&typo).await.unwrap_err();
    let hint = unknown.problems().next().unwrap().hint.clone().unwrap();
    assert_eq!(hint, format!("did you mean `{}`?", records[2].run_id));
}

#[test]
fn the_verdict_follows_from_how_a_run_ended() {
    let mut run = full_record(1);
    assert_eq!((run.verdict, run.exit_code), (Some(Verdict::Done), Some(0)));
    run.alerts.push("`orders` is 40 h old, 36 h are allowed".into());
    run.done(1, Vec::new());
    assert_eq!((run.status, run.verdict, run.exit_code), (RunStatus::Done, Some(Verdict::Alert), Some(3)));
    run.failed(&Error::infra("the wire was cut").hint("plug it in"));
    assert_eq!((run.status, run.verdict, run.exit_code), (RunStatus::Failed, Some(Verdict::InfraError), Some(2)));
    run.failed(&Error::user("`amout` is no column"));
    assert_eq!((run.verdict, run.exit_code), (Some(Verdict::UserError), Some(1)));
    assert_eq!(run.error.unwrap().problems, ["`amout` is no column"]);
}

#[test]
fn a_run_is_shown_with_its_numbers_and_its_failure() {
    let mut run = full_record(1);
    let text = run.table();
    for part in
        ["exit 0", "1,234,567", "not scored: too little data", "`amount` is below 0", "1 min 01 s", "abababababab "]
    {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
    run.failed(&Error::infra("the wire was cut").because(Error::user("below")).hint("plug it in"));
    let text = run.table();
    for part in ["failed, retry (exit 2)", "error      the wire was cut", "caused by: below", "hint: plug it in"] {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
}
