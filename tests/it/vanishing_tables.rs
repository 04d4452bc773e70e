//! Tables that are gone, empty, or much smaller than the night before: nothing is published from them by mistake.

use std::fs;

use tenure::error::Class;
use tenure::lake::{Lake, Visibility};
use url::Url;

use crate::support::lake::{SmallLake, declare};
use crate::support::s3::S3Server;
use crate::support::shop::{AS_OF, Shop, assert_exit, assert_success, trained_once};
use crate::support::small_job::{SmallJob, said};

#[tokio::test]
async fn a_table_whose_folder_is_gone_is_worth_a_retry() {
    let job = SmallJob::new().await;
    fs::rename(job.path("lake/orders"), job.path("elsewhere")).unwrap();
    let features = ["--as-of", "2026-07-01"];
    let show = ["--as-of", "2026-07-01", "--key", "7"];
    for output in [
        job.run("2026-07-01"),
        job.check(),
        job.call(&["features", "build"], "job.yaml", &[&features[..], &["--dry-run"]].concat()),
        job.call(&["features", "show"], "job.yaml", &show),
    ] {
        assert_exit(&output, 2);
        let said = said(&output);
        assert!(said.contains("table `orders` is gone: there is no `file://"), "{said}");
        assert!(said.contains("/lake/orders/`") && said.contains("job.yaml:7:3"), "{said}");
    }
    assert!(job.seen().is_empty());
    fs::rename(job.path("elsewhere"), job.path("lake/orders")).unwrap();
    assert_success(&job.run("2026-07-01"));
}

#[tokio::test]
async fn a_link_to_nowhere_is_a_table_that_is_gone() {
    let job = SmallJob::new().await;
    fs::remove_dir_all(job.path("lake/orders")).unwrap();
    std::os::unix::fs::symlink(job.path("not/mounted"), job.path("lake/orders")).unwrap();
    assert_exit(&job.run("2026-07-01"), 2);
}

#[tokio::test]
async fn a_table_without_files_is_refused_unless_it_may_be_empty() {
    let job = SmallJob::new().await;
    fs::remove_file(job.path("lake/orders/part-0.parquet")).unwrap();
    fs::write(job.path("lake/orders/_SUCCESS"), "").unwrap();
    fs::write(job.path("lake/orders/.part-0.parquet.crc"), "x").unwrap();
    for output in [job.run("2026-07-01"), job.check()] {
        assert_exit(&output, 1);
        assert!(said(&output).contains("table `orders` has no .parquet file in `file://"), "{}", said(&output));
        assert!(said(&output).contains("`may_be_empty: true`"), "{}", said(&output));
    }
    assert!(job.seen().is_empty());

    job.job("job.yaml", "shop", ", may_be_empty: true", "");
    assert_success(&job.check());
    assert_success(&job.run("2026-07-01"));
    // Where it has rows one night and none the next, that is as it said.
    job.orders(1_000).await;
    assert_success(&job.run("2026-07-02"));
    fs::remove_file(job.path("lake/orders/part-0.parquet")).unwrap();
    assert_success(&job.run("2026-07-03"));
}

#[tokio::test]
async fn a_single_file_that_is_gone_is_a_table_that_is_gone() {
    let lake = SmallLake::new().file("x.csv", "a\n1\n");
    let spec = declare("x", lake.url("x.csv"), "a int64", |table| table.format = tenure::spec::Format::Csv);
    let open = || Lake::over(std::slice::from_ref(&spec), lake.timezone, &lake.options, &[]).unwrap();
    open().session(lake.at("2026-07-01")).await.unwrap();
    fs::remove_file(lake.folder.path().join("x.csv")).unwrap();
    let error = open().session(lake.at("2026-07-01")).await.err().unwrap();
    assert_eq!(error.class(), Class::Infra);
}

#[tokio::test]
async fn in_s3_an_empty_listing_is_an_empty_table_and_a_bucket_that_is_not_there_a_missing_one() {
    let Some(server) = S3Server::start() else { return };
    server.store("full").put("orders/_SUCCESS", "").await.unwrap();
    let lake = SmallLake::new();
    for (url, class, message) in [
        ("s3://lake/full/orders/", Class::User, "has no .parquet file in `s3://lake/full/orders/`"),
        ("s3://lake/nothing/", Class::User, "has no .parquet file in `s3://lake/nothing/`"),
        ("s3://lake/full/orders.parquet", Class::Infra, "is gone: there is no `s3://lake/full/orders.parquet`"),
        ("s3://nowhere/orders/", Class::Infra, "is gone: there is no `s3://nowhere/orders/`"),
    ] {
        let spec = declare("orders", Url::parse(url).unwrap(), "a int64", |_| ());
        let opened = Lake::over(&[spec], lake.timezone, &lake.options, &server.env()).unwrap();
        let error = opened.session(Visibility::at(lake.day("2026-07-01"))).await.err().unwrap();
        assert_eq!(error.class(), class, "{url}: {error}");
        assert_eq!(error.to_string(), format!("jobs/shop.yaml:8:3: table `orders` {message}"));
    }
}

#[test]
fn neither_training_nor_an_evaluation_takes_a_table_that_is_gone_for_an_empty_one() {
    let shop = Shop::copy_of(trained_once());
    fs::rename(shop.lake().join("reviews"), shop.path().join("reviews")).unwrap();
    assert_exit(&shop.tenure(&["train", "jobs/ltv.yaml", "--as-of", AS_OF]), 2);
    assert_exit(&shop.tenure(&["evaluate", "jobs/ltv.yaml", "--as-of", "2026-03-01"]), 2);
    fs::create_dir(shop.lake().join("reviews")).unwrap();
    assert_exit(&shop.tenure(&["train", "jobs/ltv.yaml", "--as-of", AS_OF]), 1);
    assert_exit(&shop.tenure(&["evaluate", "jobs/ltv.yaml", "--as-of", "2026-03-01"]), 1);
}

#[tokio::test]
async fn a_population_of_nobody_is_refused() {
    let job = SmallJob::new().await;
    job.customers(0).await; // A file without rows, not a folder without files.
    let output = job.run("2026-07-01");
    assert_exit(&output, 1);
    assert!(said(&output).contains("the population of 2026-07-01 has no customer"), "{}", said(&output));
    assert!(job.seen().is_empty());
    let file = job.path("matrix.parquet");
    let options = ["--as-of", "2026-07-01", "--out", file.to_str().unwrap()];
    assert_exit(&job.call(&["features", "build"], "job.yaml", &options), 1);
    assert!(!file.exists());
}

#[tokio::test]
async fn a_table_that_lost_more_than_half_of_its_rows_is_refused_unless_that_is_accepted() {
    let job = SmallJob::new().await;
    assert_success(&job.run("2026-07-01"));
    let before = job.seen();
    job.orders(499).await;
    let refused = job.run("2026-07-02");
    assert_exit(&refused, 1);
    let message = said(&refused);
    assert!(
        message.contains("job.yaml:7:3: table `orders` shrank from 1000 rows on the night of 2026-07-01 to 499 rows"),
        "{message}"
    );
    assert!(message.contains("--accept-shrink") && message.contains("max_shrink"), "{message}");
    assert_eq!(job.seen(), before);
    assert_eq!(job.listed()[0]["status"], "failed");

    assert_success(&job.call(&["run"], "job.yaml", &["--as-of", "2026-07-02", "--accept-shrink"]));
    let run = &job.listed()[0];
    let note = run["notes"][0].as_str().unwrap();
    assert!(note.starts_with("accepted: table `orders` shrank from 1000 rows"), "{note}");
    // From here on, that is what nights are compared with.
    assert_success(&job.run("2026-07-03"));
    // A backfill is compared with the night before it, and the first night with none.
    job.orders(250).await;
    assert_success(&job.run("2026-07-04"));
    assert_success(&job.run("2026-06-30"));
    job.orders(1_000).await;
    assert_success(&job.call(&["run"], "job.yaml", &["--as-of", "2026-07-01", "--force"]));
}

#[tokio::test]
async fn a_night_that_failed_is_no_night_to_compare_with() {
    let job = SmallJob::new().await;
    assert_success(&job.run("2026-07-01"));
    job.orders(10).await;
    for night in ["2026-07-02", "2026-07-03"] {
        let refused = job.run(night);
        assert_exit(&refused, 1);
        assert!(said(&refused).contains("on the night of 2026-07-01"), "{}", said(&refused));
    }
}

#[tokio::test]
async fn the_job_says_how_much_may_be_lost() {
    let job = SmallJob::new().await;
    assert_success(&job.run("2026-07-01"));
    job.orders(100).await;
    job.customers(40).await;
    job.job("job.yaml", "shop", "", ", max_shrink: {tables: 0.95, population: 0.6}");
    assert_success(&job.run("2026-07-02"));
    job.orders(1_000).await;
    job.customers(100).await;
    job.job("job.yaml", "shop", ", max_shrink: 0.95", ", max_shrink: {tables: 0.7}");
    assert_success(&job.run("2026-07-03"));
    job.orders(100).await;
    job.customers(40).await;
    let refused = job.run("2026-07-04");
    assert_exit(&refused, 1);
    let message = said(&refused);
    assert!(message.contains("the population shrank from 100 customers on the night of 2026-07-03 to 40"), "{message}");
    assert!(!message.contains("table `"), "{message}");
}

#[test]
fn the_predicted_total_of_a_value_is_kept_in_the_record() {
    let shop = crate::support::shop::published_once();
    let output = shop.tenure(&["runs", "show", AS_OF, "--job", "jobs/ltv.yaml", "--json"]);
    let run: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(run["totals"]["ltv_90d"].as_f64().unwrap() > 0.0, "{run}");
    assert!(run["totals"]["churn_90d"].is_null(), "{run}");
    assert!(run["inputs"].as_array().unwrap().iter().all(|input| input["rows"].as_u64().unwrap() > 0), "{run}");
}
