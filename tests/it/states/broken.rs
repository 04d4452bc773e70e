//! States whose writer is killed, or cannot write.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_while_it_writes_states_can_run_again() {
    for point in ["state.writing", "state.written", "state.committed", "state.written:2"] {
        let shop = shop_of_60_days().await;
        let job = shop.folder.path().join("jobs/counted.yaml");
        let args = ["features", "build", job.to_str().unwrap(), "--as-of", "2026-04-15", "--dry-run"];
        let killed = crate::support::shop::binary(&args).env("TENURE_ABORT_AT", point).output().unwrap();
        assert!(!killed.status.success(), "{point}: {killed:?}");
        assert_success(&tenure(&args));
        assert_eq!(shop.json(&["state", "verify", "JOB"])["different"], serde_json::json!([]), "{point}");
        shop.night(50).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_that_cannot_be_written_gives_features_and_a_warning() {
    let shop = shop_of_60_days().await;
    // A file stands where the folder would be.
    std::fs::write(shop.lake().join("_state"), "").unwrap();
    let args = ["features", "build", "JOB", "--as-of", "2026-04-15", "--dry-run"];
    let output = shop.tenure(&args);
    assert_success(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("states are not"), "{output:?}");
    // Nor can files be made on the way there.
    std::fs::remove_file(shop.lake().join("_state")).unwrap();
    let job = shop.folder.path().join("jobs/counted.yaml");
    let args = args.map(|arg| if arg == "JOB" { job.to_str().unwrap() } else { arg });
    let output = crate::support::shop::binary(&args).env("TMPDIR", "/nowhere/at/all").output().unwrap();
    assert_success(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("states are not kept"), "{output:?}");
}
