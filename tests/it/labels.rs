//! Labels and populations: each label by its own file and horizon, at its level, of customers who were there.

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use serde_json::Value;

use crate::support::job::{JobFolder, LABELS, said};
use crate::support::shop::{assert_exit, assert_success};

/// A column of a night's table, in the order of the rows.
fn published(job: &JobFolder, table: &str, night: &str, column: &str) -> Vec<Option<f64>> {
    let path = job.lake().join(format!("out/{table}/ds={night}/part-00000.parquet"));
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap().build().unwrap();
    let batches = reader.map(|batch| batch.unwrap());
    let values = batches.flat_map(|batch| {
        let column = batch.column_by_name(column).unwrap_or_else(|| panic!("no `{column}`"));
        column.as_primitive::<Float64Type>().iter().collect::<Vec<_>>()
    });
    values.collect()
}

#[test]
fn a_model_of_few_epochs_keeps_the_level_of_churn() {
    let job = JobFolder::new(400, 300.0).write();
    assert_success(&job.tenure("train", &["--as-of", "2026-06-01"]));
    assert_success(&job.tenure("run", &["--as-of", "2026-06-01"]));
    let predicted: Vec<f64> = published(&job, "predictions", "2026-06-01", "churn").into_iter().flatten().collect();
    let known: Vec<i64> = job.customers.iter().filter(|(_, day)| *day > 30.0).map(|(key, _)| *key).collect();
    assert_eq!(predicted.len(), known.len());
    let stayed = known.iter().filter(|key| job.orders.iter().any(|o| o.customer == **key && o.days_before <= 30.0));
    let realised = 1.0 - stayed.count() as f64 / known.len() as f64;
    let mean = predicted.iter().sum::<f64>() / predicted.len() as f64;
    assert!((mean - realised).abs() < 0.05, "{mean} for {realised}");
}

const NEXT_90D: &str = "-- @description  What happens in the 90 days from as_of on.
-- @owner        growth
-- @horizon      90d
-- @default      orders_90d 0
SELECT
    customer_id,
    count(*) AS orders_90d  -- orders
FROM orders
GROUP BY customer_id
";

/// A head's evaluation.
fn judged(job: &JobFolder, as_of: &str, head: &str) -> Value {
    let output = job.tenure("evaluate", &["--as-of", as_of, "--resamples", "0", "--json"]);
    assert_success(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let heads = report["heads"].as_array().unwrap();
    heads.iter().find(|found| found["head"] == head).unwrap_or_else(|| panic!("no {head}")).clone()
}

#[test]
fn labels_that_do_not_fit_their_loss_are_refused_with_customer_date_and_rule() {
    let percent =
        LABELS.replace("THEN 0.0 ELSE 1.0", "THEN 0.0 ELSE 100.0").replace("churned_30d 1", "churned_30d 0.5");
    let counts = LABELS.replace("CASE WHEN count(*) > 0 THEN 0.0 ELSE 1.0 END", "CAST(count(*) AS DOUBLE) - 1.0");
    let counts = counts.replace("churned_30d 1", "churned_30d 0");
    let loss = LABELS.replace("sum(amount)                  ", "sum(amount) - 40.0");
    for (label, head, rule) in [
        (&counts, "`churn` cannot learn the label `churned_30d`: it is ", "a label of `bce` lies between 0 and 1"),
        (&loss, "`ltv` cannot learn the label `spend_30d`: it is -", "a label of `ziln` is 0 or more"),
    ] {
        let job = JobFolder::new(120, 240.0).file("sql/labels/next.sql", label).write();
        let output = job.tenure("train", &["--as-of", "2026-07-01"]);
        assert_exit(&output, 1);
        let said = said(&output);
        for part in ["sql/labels/next.sql:8:", head, " for customer `", "` as of 2026-06-01", rule, "write `"] {
            let part = part.replace("next.sql:8:", if head.contains("ltv") { "next.sql:9:" } else { "next.sql:8:" });
            assert!(said.contains(&part), "no `{part}` in {said}");
        }
        assert!(!job.path().join("models/m").exists());
    }
    // A customer who buys gets 0 and everybody else the default: no value of the query breaks the rule.
    let job = JobFolder::new(120, 240.0).file("sql/labels/next.sql", &percent).write();
    assert_success(&job.tenure("train", &["--as-of", "2026-07-01"]));
    // The same rule judges a trained model.
    let job = job.file("sql/labels/next.sql", &counts).write();
    let output = job.tenure("evaluate", &["--as-of", "2026-06-01"]);
    assert_exit(&output, 1);
    assert!(said(&output).contains("a label of `bce` lies between 0 and 1"), "{}", said(&output));
}

#[test]
fn a_default_or_a_type_that_does_not_fit_is_found_by_check() {
    for (label, problem) in [
        (LABELS.replace("churned_30d 1", "churned_30d 2"), "`churned_30d`: its `@default` is 2"),
        (LABELS.replace("spend_30d 0", "spend_30d -1"), "`spend_30d`: its `@default` is -1"),
        (
            LABELS.replace("THEN 0.0 ELSE 1.0", "THEN 'no' ELSE 'yes'").replace("-- @default      churned_30d 1\n", ""),
            "the label `churned_30d`, which is of type `Utf8`",
        ),
    ] {
        let job = JobFolder::new(3, 240.0).file("sql/labels/next.sql", &label).write();
        let output = job.tenure("check", &[]);
        assert_exit(&output, 1);
        assert!(said(&output).contains(problem), "no `{problem}` in {}", said(&output));
    }
}

#[test]
fn a_label_that_is_the_same_for_everybody_is_refused_by_name() {
    // Without the default whoever bought nothing has no label, and everybody else has stayed.
    let label = LABELS.replace("-- @default      churned_30d 1\n", "");
    let job = JobFolder::new(120, 240.0).file("sql/labels/next.sql", &label).write();
    let output = job.tenure("train", &["--as-of", "2026-07-01"]);
    assert_exit(&output, 1);
    let said = said(&output);
    for part in [
        "sql/labels/next.sql:7:",
        "the head `churn` has nothing to learn: its label `churned_30d` is 0 in all ",
        "a customer without rows in the horizon has no label here",
        "rows have no label `churned_30d`: there is no row in the horizon, and no `@default`",
    ] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
}

/// The 30 days of a label end on their 30th day whatever other files look at: in a view that sums up, and for rows that became
/// known later.
#[test]
fn a_label_is_the_same_whatever_other_label_files_there_are() {
    let label = "-- @description  Spend of customers whose newest order lies in the 30 days.
-- @owner        growth
-- @horizon      30d
SELECT
    customer_id,
    sum(amount)                    AS spend_30d,  -- money of the newest order
    date_part('day', max(ordered_at)) AS on_day      -- its day
FROM newest
WHERE place = 1
GROUP BY customer_id
";
    let view = "-- @event_time ordered_at
SELECT customer_id, ordered_at, amount, row_number() OVER (PARTITION BY customer_id ORDER BY ordered_at DESC) AS place FROM orders
";
    let mut job = JobFolder::new(200, 300.0);
    job.orders_table =
        job.orders_table.replace("event_time: ordered_at,", "event_time: ordered_at, known_at: loaded_at,");
    job.orders_table = job.orders_table.replace("amount: float64", "amount: float64, loaded_at: timestamp");
    job.loaded_days_later = Some(2.0);
    job.more = "views: [sql/views/*.sql]\n".into();
    job.model = "{bundle: models/m, hidden: [8], members: 2, heads: [{name: spend, label: spend_30d, loss: ziln}, {name: seen, \
                 label: on_day, loss: mse}]}"
        .into();
    let job = job.file("sql/labels/next.sql", label).file("sql/views/newest.sql", view).write();
    assert_success(&job.tenure("train", &["--as-of", "2026-06-01"]));
    let alone = ["spend", "seen"].map(|head| judged(&job, "2026-03-01", head));
    let job = job.file("sql/labels/later.sql", NEXT_90D).write();
    let beside = ["spend", "seen"].map(|head| judged(&job, "2026-03-01", head));
    assert!(alone[0]["rows"].as_u64().unwrap() > 20, "{}", alone[0]);
    for (alone, beside) in alone.iter().zip(&beside) {
        assert_eq!((&alone["rows"], &alone["label_mean"]), (&beside["rows"], &beside["label_mean"]));
    }
}

#[test]
fn a_label_of_nan_is_no_label_and_counted() {
    let mut job = JobFolder::new(150, 240.0);
    let broken: Vec<i64> = [31.5, 40.0, 45.0]
        .into_iter()
        .map(|days_before| {
            let order =
                job.orders.iter_mut().find(|o| o.days_before < days_before + 5.0 && o.days_before > days_before - 5.0);
            let order = order.unwrap();
            order.amount = f64::NAN;
            order.customer
        })
        .collect();
    let job = job.write();
    let output = job.tenure("train", &["--as-of", "2026-07-01"]);
    assert_success(&output);
    let said = said(&output);
    assert!(said.contains("`ltv`: the label `spend_30d` is NULL, NaN or infinite in "), "{said}");
    assert!(!broken.is_empty() && !said.contains("`churn`: the label"), "{said}");
}

#[test]
fn who_will_buy_is_likelier_to_within_a_longer_horizon() {
    let buys = |days: u32| {
        format!(
            "-- @description  Who buys.\n-- @owner growth\n-- @horizon {days}d\n-- @default buys_{days}d 0\nSELECT customer_id, \
             1.0 AS buys_{days}d -- an order\nFROM orders GROUP BY customer_id\n"
        )
    };
    let heads = |more: &str| {
        let head = |days: u32| {
            format!("{{name: buys_{days}, label: buys_{days}d, loss: bce, family: {{name: buys, days: {days}}}{more}}}")
        };
        format!("{{bundle: models/m, hidden: [16], members: 2, heads: [{}, {}]}}", head(14), head(60))
    };
    let mut job = JobFolder::new(400, 360.0);
    job.model = heads("");
    job.files.retain(|(path, _)| !path.contains("labels"));
    let (job, second) = (job.file("sql/labels/a.sql", &buys(14)), buys(60));
    let job = job.file("sql/labels/b.sql", &second).write();
    assert_success(&job.tenure("train", &["--as-of", "2026-07-01"]));
    assert_success(&job.tenure("run", &["--as-of", "2026-07-01"]));
    let [short, long] = ["buys_14", "buys_60"].map(|head| published(&job, "predictions", "2026-07-01", head));
    let (mut apart, mut count) = (0.0, 0.0);
    for (short, long) in short.iter().zip(&long).filter_map(|(short, long)| Some(((*short)?, (*long)?))) {
        assert!(short <= long, "{short} > {long}");
        (apart, count) = (apart + long - short, count + 1.0);
    }
    assert!(apart / count > 0.1, "the horizons are {} apart", apart / count);
    // Without a default nobody knows, unless the head says it.
    let mut job = job.file("sql/labels/b.sql", &second.replace("-- @default buys_60d 0\n", ""));
    job = job.write();
    let output = job.tenure("check", &[]);
    assert_exit(&output, 1);
    assert!(
        said(&output).contains("write `direction: falls` (churn) or `direction: rises` (will buy)"),
        "{}",
        said(&output)
    );
    job.model = heads(", direction: rises");
    assert_success(&job.write().tenure("check", &[]));
}
