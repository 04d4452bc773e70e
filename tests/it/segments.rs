//! Stages: one each, first match, with a memory of the night before.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Date32Type, Float64Type, Int64Type, SchemaRef};
use datafusion::dataframe::DataFrame;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use tempfile::TempDir;
use tenure::error::Place;
use tenure::segments::{Segmented, StagePlan, StageSummary};
use tenure::spec::{SegmentsSpec, StageSpec, ValueTiersSpec};
use tenure::{AsOf, Result};

/// Stages as a job lists them; the last one has an empty condition.
fn stages(stages: &[(&str, &str)]) -> SegmentsSpec {
    let stage = |(i, (name, when)): (usize, &(&str, &str))| StageSpec {
        name: (*name).to_owned(),
        when: (!when.is_empty()).then(|| (*when).to_owned()),
        place: Place::at("jobs/ltv.yaml", i + 10, 5),
    };
    SegmentsSpec { stages: stages.iter().enumerate().map(stage).collect(), value_tiers: None }
}

fn with_tiers(spec: SegmentsSpec, by: &str, quantiles: &[(&str, f64)]) -> SegmentsSpec {
    let quantiles = quantiles.iter().map(|(name, q)| ((*name).to_owned(), *q)).collect();
    let place = Place::at("jobs/ltv.yaml", 30, 3);
    SegmentsSpec { value_tiers: Some(ValueTiersSpec { by: by.to_owned(), quantiles, place }), ..spec }
}

/// The night's scored file and the session that reads it.
struct Night {
    dir: TempDir,
    ctx: SessionContext,
    scored: RecordBatch,
}

impl Night {
    fn new(columns: Vec<(&str, ArrayRef)>) -> Self {
        let columns = columns.into_iter().map(|(name, column)| (name, column, name != "customer_id"));
        let scored = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let config = SessionConfig::new().with_target_partitions(3).with_batch_size(7);
        Night { dir: tempfile::tempdir().unwrap(), ctx: SessionContext::new_with_config(config), scored }
    }

    fn of(ids: &[i64], churn: &[Option<f64>], ltv: &[Option<f64>]) -> Self {
        Night::new(vec![
            ("customer_id", Arc::new(Int64Array::from(ids.to_vec()))),
            ("churn_90d", Arc::new(Float64Array::from(churn.to_vec()))),
            ("ltv_90d", Arc::new(Float64Array::from(ltv.to_vec()))),
        ])
    }

    fn schema(&self) -> SchemaRef {
        self.scored.schema()
    }

    fn write(&self, name: &str, batch: &RecordBatch) -> PathBuf {
        let path = self.dir.path().join(name);
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        path
    }

    async fn earlier(&self, segments: &RecordBatch) -> DataFrame {
        let path = self.write("earlier.parquet", segments);
        self.ctx.read_parquet(path.to_str().unwrap(), ParquetReadOptions::default()).await.unwrap()
    }

    async fn assign(&self, spec: &SegmentsSpec, earlier: Option<&RecordBatch>, date: &str) -> Result<Assigned> {
        let plan = StagePlan::new(spec, "customer_id", self.schema())?.report_means(["churn_90d", "not_there"]);
        let scored = self.write("scored.parquet", &self.scored);
        let previous = match earlier {
            Some(segments) => Some(self.earlier(segments).await),
            None => None,
        };
        let as_of = AsOf::parse(date, chrono_tz::UTC)?;
        let Segmented { segments, transitions, summary } = plan.assign(&self.ctx, &scored, previous, as_of).await?;
        let schema = segments.schema().clone();
        let batches: Vec<RecordBatch> = segments.try_collect().await?;
        Ok(Assigned { segments: arrow::compute::concat_batches(&schema, &batches)?, transitions, summary })
    }
}

struct Assigned {
    segments: RecordBatch,
    transitions: RecordBatch,
    summary: StageSummary,
}

impl Assigned {
    fn text(&self, column: &str) -> Vec<Option<String>> {
        text(&self.segments, column)
    }

    fn since(&self) -> Vec<String> {
        let days = self.segments.column_by_name("stage_since").unwrap().as_primitive::<Date32Type>();
        days.values().iter().map(|d| Date32Type::to_naive_date_opt(*d).unwrap().to_string()).collect()
    }
}

fn text(batch: &RecordBatch, column: &str) -> Vec<Option<String>> {
    batch.column_by_name(column).unwrap().as_string::<i32>().iter().map(|t| t.map(str::to_owned)).collect()
}

fn some(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|v| (!v.is_empty()).then(|| (*v).to_owned())).collect()
}

const SPEC: &[(&str, &str)] = &[("unscored", "churn_90d IS NULL"), ("at_risk", "churn_90d >= 0.6"), ("active", "")];

#[tokio::test]
async fn the_first_true_condition_wins_and_null_is_not_true() {
    let night = Night::of(&[1, 2, 3], &[Some(0.9), None, Some(0.1)], &[None, None, None]);
    let spec = stages(&[("lost", "churn_90d >= 0.8"), ("at_risk", "churn_90d >= 0.6"), ("active", "")]);
    let got = night.assign(&spec, None, "2026-07-01").await.unwrap();
    assert_eq!(got.text("stage"), some(&["lost", "active", "active"]));
    assert_eq!(got.text("moved_because"), some(&["", "", ""]));
    assert_eq!(got.since(), vec!["2026-07-01"; 3]);
}

#[tokio::test]
async fn a_stage_that_stays_keeps_its_date_and_a_new_one_says_why() {
    let first = Night::of(&[1, 2, 3, 4], &[Some(0.1), Some(0.2), Some(0.9), Some(0.7)], &[Some(1.0); 4]);
    let spec = stages(SPEC);
    let monday = first.assign(&spec, None, "2026-06-01").await.unwrap();
    let second = Night::of(&[2, 3, 4, 5], &[Some(0.73), Some(0.1), Some(0.65), Some(0.3)], &[Some(10.0); 4]);
    let tuesday = second.assign(&spec, Some(&monday.segments), "2026-06-02").await.unwrap();
    assert_eq!(tuesday.text("stage"), some(&["at_risk", "active", "at_risk", "active"]));
    assert_eq!(tuesday.text("previous_stage"), some(&["active", "at_risk", "at_risk", ""]));
    assert_eq!(tuesday.since(), ["2026-06-02", "2026-06-02", "2026-06-01", "2026-06-02"]);
    let reasons = ["at_risk: churn_90d >= 0.6 (churn_90d = 0.73)", "active: no earlier stage matched", "", ""];
    assert_eq!(tuesday.text("moved_because"), some(&reasons));
    assert_eq!((tuesday.summary.moved, tuesday.summary.arrived, tuesday.summary.gone), (2, 1, 1));
}

#[tokio::test]
async fn transitions_count_every_way_from_night_to_night() {
    let first = Night::of(&[1, 2, 3, 4], &[Some(0.1), Some(0.2), Some(0.9), Some(0.7)], &[Some(1.0); 4]);
    let spec = with_tiers(stages(SPEC), "ltv_90d", &[("low", 0.5), ("high", 1.0)]);
    let monday = first.assign(&spec, None, "2026-06-01").await.unwrap();
    let second = Night::of(&[2, 3, 4, 5], &[Some(0.73), Some(0.1), Some(0.65), Some(0.3)], &[Some(10.0); 4]);
    let tuesday = second.assign(&spec, Some(&monday.segments), "2026-06-02").await.unwrap().transitions;
    assert_eq!(text(&tuesday, "previous_stage"), some(&["", "active", "active", "at_risk", "at_risk"]));
    assert_eq!(text(&tuesday, "stage"), some(&["active", "", "at_risk", "active", "at_risk"]));
    let customers = tuesday.column_by_name("customers").unwrap().as_primitive::<Int64Type>();
    assert_eq!(customers.values().as_ref(), [1, 1, 1, 1, 1]);
    let value = tuesday.column_by_name("value").unwrap().as_primitive::<Float64Type>();
    assert_eq!(value.iter().collect::<Vec<_>>(), [Some(10.0), None, Some(10.0), Some(10.0), Some(10.0)]);
    let share = tuesday.column_by_name("share").unwrap().as_primitive::<Float64Type>();
    assert_eq!(share.values().as_ref(), [1.0, 0.5, 0.5, 0.5, 0.5]);
}

#[tokio::test]
async fn every_column_of_both_tables_is_described() {
    let night = Night::of(&[1], &[None], &[None]);
    let plan = StagePlan::new(&stages(SPEC), "customer_id", night.schema()).unwrap();
    for schema in [plan.segments_schema(), plan.transitions_schema()] {
        for field in schema.fields() {
            assert!(field.metadata().get("description").is_some_and(|d| !d.is_empty()), "{}", field.name());
        }
    }
}

#[tokio::test]
async fn tiers_are_exact_quantiles_and_ties_share_the_lower_one() {
    let ltv = [Some(0.0), Some(0.0), Some(0.0), Some(5.0), Some(7.0), Some(9.0), None, Some(f64::NAN)];
    let night = Night::of(&[1, 2, 3, 4, 5, 6, 7, 8], &[Some(0.1); 8], &ltv);
    let spec = with_tiers(stages(SPEC), "ltv_90d", &[("low", 0.2), ("mid", 0.5), ("high", 0.8), ("vip", 1.0)]);
    let got = night.assign(&spec, None, "2026-07-01").await.unwrap();
    // The 0.2- and the 0.5-quantile are both 0: all three zeros are in the lowest tier and nobody is in the next.
    assert_eq!(got.text("value_tier"), some(&["low", "low", "low", "high", "high", "vip", "", ""]));
    let tiers = got.summary.tiers.iter().map(|t| (t.tier.as_str(), t.customers, t.up_to)).collect::<Vec<_>>();
    let expected = [("low", 3, Some(0.0)), ("mid", 0, Some(0.0)), ("high", 2, Some(7.0)), ("vip", 1, Some(9.0))];
    assert_eq!(tiers, expected);
}

#[tokio::test]
async fn a_night_without_any_score_has_no_tiers() {
    let night = Night::of(&[1, 2], &[None, None], &[None, None]);
    let spec = with_tiers(stages(SPEC), "ltv_90d", &[("low", 0.5), ("high", 1.0)]);
    let got = night.assign(&spec, None, "2026-07-01").await.unwrap();
    assert_eq!(got.text("value_tier"), some(&["", ""]));
    assert_eq!(got.text("stage"), some(&["unscored", "unscored"]));
}

#[tokio::test]
async fn a_night_without_customers_is_an_empty_table() {
    let night = Night::of(&[], &[], &[]);
    let spec = with_tiers(stages(SPEC), "ltv_90d", &[("low", 0.5), ("high", 1.0)]);
    let got = night.assign(&spec, None, "2026-07-01").await.unwrap();
    assert_eq!((got.segments.num_rows(), got.transitions.num_rows(), got.summary.customers), (0, 0, 0));
}

#[tokio::test]
async fn the_summary_adds_up_the_rows() {
    let night = Night::new(vec![
        ("customer_id", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
        ("churn_90d", Arc::new(Float64Array::from(vec![Some(0.9), Some(0.7), Some(0.2), None]))),
        ("ltv_90d", Arc::new(Float64Array::from(vec![Some(1.0), Some(2.0), Some(4.0), None]))),
        ("no_score_reason", Arc::new(StringArray::from(vec![None, None, None, Some("too little data")]))),
    ]);
    let spec = with_tiers(stages(SPEC), "ltv_90d", &[("low", 0.5), ("high", 1.0)]);
    let summary = night.assign(&spec, None, "2026-07-01").await.unwrap().summary;
    let rows = summary.stages.iter().map(|s| (s.stage.as_str(), s.customers, s.share, s.value, s.means[0].mean));
    let expected = [
        ("unscored", 1, 0.25, None, None),
        ("at_risk", 2, 0.5, Some(3.0), Some(0.8)),
        ("active", 1, 0.25, Some(4.0), Some(0.2)),
    ];
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    assert_eq!(summary.no_score["too little data"], 1);
    assert_eq!(summary.stages[0].means.len(), 1, "a column that is not there has no mean");
}

#[tokio::test]
async fn text_keys_and_text_conditions_work_across_nights() {
    let night = || {
        Night::new(vec![
            ("customer_id", Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef),
            ("country", Arc::new(StringArray::from(vec![Some("DE"), None]))),
            ("newsletter", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ])
    };
    let before = stages(&[("first", "newsletter"), ("rest", "")]);
    let first = night().assign(&before, None, "2026-06-01").await.unwrap();
    let after = stages(&[("home", "country = 'DE' AND newsletter"), ("rest", "")]);
    let second = night().assign(&after, Some(&first.segments), "2026-06-02").await.unwrap();
    assert_eq!(second.text("stage"), some(&["home", "rest"]));
    let reason = "home: country = 'DE' AND newsletter (country = 'DE', newsletter = true)";
    assert_eq!(second.text("moved_because"), some(&[reason, ""]));
}

#[tokio::test]
async fn an_earlier_night_with_a_customer_twice_is_refused() {
    let night = Night::of(&[1], &[Some(0.1)], &[None]);
    let earlier = RecordBatch::try_from_iter(vec![
        ("customer_id", Arc::new(Int64Array::from(vec![1, 1])) as ArrayRef),
        ("stage", Arc::new(StringArray::from(vec!["active", "active"]))),
        ("stage_since", Arc::new(Date32Array::from(vec![1, 1]))),
    ])
    .unwrap();
    let error = night.assign(&stages(SPEC), Some(&earlier), "2026-07-01").await.map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the earlier segments hold a `customer_id` more than once");
}

#[test]
fn a_wrong_condition_is_told_at_its_place() {
    let night = Night::of(&[1], &[None], &[None]);
    let cases = [
        ("churn_9d > 0.5", "there is no column `churn_9d`; did you mean `churn_90d`?"),
        (
            "churn_90d + 1",
            "`churn_90d + 1` is no condition but a value of type Float64; compare it with something, for example `churn_90d >= 0.6`",
        ),
        (
            "now() > to_timestamp(0)",
            "`now()` gives another answer every time; use a column of a feature file: there `$as_of` is the night's date",
        ),
        (
            "random() < 0.1",
            "`random()` gives another answer every time; use a column of a feature file: there `$as_of` is the night's date",
        ),
        (
            "churn_90d > avg(churn_90d)",
            "a condition looks at one customer and cannot aggregate; compute it in a feature file",
        ),
        (
            "churn_90d > (SELECT 1)",
            "a condition looks at one customer and cannot hold a subquery; compute it in a feature file",
        ),
        ("customer_id IN (SELECT id FROM vips)", "a condition cannot read a table; compute it in a feature file"),
        ("1 = 1", "`1 = 1` is always true, so no later stage can match; leave `when` out and put the stage last"),
        ("NULL", "`NULL` is never true, so the stage can never match; mend the condition, or remove the stage"),
        ("2 < 1", "`2 < 1` is never true, so the stage can never match; mend the condition, or remove the stage"),
    ];
    for (when, expected) in cases {
        let spec = stages(&[("odd", when), ("active", "")]);
        let error = StagePlan::new(&spec, "customer_id", night.schema()).unwrap_err();
        let problem = error.into_problems().remove(0);
        let text = [Some(problem.to_string()), problem.hint].into_iter().flatten().collect::<Vec<_>>().join("; ");
        assert_eq!(text, format!("jobs/ltv.yaml:10:5: stage `odd`: {expected}"));
    }
}

#[test]
fn all_wrong_stages_are_told_at_once() {
    let night = Night::of(&[1], &[None], &[None]);
    let spec = stages(&[
        ("a", "churn_90d >= 0.6"),
        ("b", "0.6 <= churn_90d"),
        ("c", "churn_90d >"),
        ("d", ""),
        ("e", "ltv_90d > 1"),
    ]);
    let spec = with_tiers(spec, "ltv_9d", &[("all", 1.0)]);
    let error = StagePlan::new(&spec, "customer_id", night.schema()).unwrap_err();
    let lines = error.problems().map(|p| p.to_string()).collect::<Vec<_>>();
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert_eq!(lines[0], "jobs/ltv.yaml:11:5: stage `b` can never match: stage `a` before it has the same condition");
    assert!(lines[1].starts_with("jobs/ltv.yaml:12:5: stage `c`: "), "{}", lines[1]);
    assert_eq!(lines[2], "jobs/ltv.yaml:13:5: stage `d` needs a `when`: only the last stage goes without");
    assert_eq!(lines[3], "jobs/ltv.yaml:14:5: the last stage `e` takes whoever is left and has no `when`");
    assert_eq!(lines[4], "jobs/ltv.yaml:30:3: `value_tiers.by` is `ltv_9d`, which is no feature and no score");
}

/// A condition that both SQL and the naive reading below understand.
#[derive(Debug, Clone)]
enum Rule {
    Below(f64),
    AtLeast(f64),
    Same,
    Both(Box<Rule>, Box<Rule>),
    Either(Box<Rule>, Box<Rule>),
    Not(Box<Rule>),
    Missing,
}

impl Rule {
    fn sql(&self) -> String {
        match self {
            Rule::Below(x) => format!("a < {x:?}"),
            Rule::AtLeast(x) => format!("b >= {x:?}"),
            Rule::Same => "a = b".to_owned(),
            Rule::Both(l, r) => format!("({} AND {})", l.sql(), r.sql()),
            Rule::Either(l, r) => format!("({} OR {})", l.sql(), r.sql()),
            Rule::Not(rule) => format!("NOT ({})", rule.sql()),
            Rule::Missing => "a IS NULL".to_owned(),
        }
    }

    /// SQL's three values: true, false and NULL.
    fn holds(&self, a: Option<f64>, b: Option<f64>) -> Option<bool> {
        match self {
            Rule::Below(x) => a.map(|a| a < *x),
            Rule::AtLeast(x) => b.map(|b| b >= *x),
            Rule::Same => Some(a? == b?),
            Rule::Both(l, r) => match (l.holds(a, b), r.holds(a, b)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Rule::Either(l, r) => match (l.holds(a, b), r.holds(a, b)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Rule::Not(rule) => rule.holds(a, b).map(|h| !h),
            Rule::Missing => Some(a.is_none()),
        }
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let number = || (-4_i32..5).prop_map(|n| f64::from(n) / 2.0);
    let leaf = prop_oneof![
        number().prop_map(Rule::Below),
        number().prop_map(Rule::AtLeast),
        Just(Rule::Same),
        Just(Rule::Missing)
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(l, r)| Rule::Both(Box::new(l), Box::new(r))),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| Rule::Either(Box::new(l), Box::new(r))),
            inner.prop_map(|rule| Rule::Not(Box::new(rule))),
        ]
    })
}

fn cell() -> impl Strategy<Value = Option<f64>> {
    proptest::option::weighted(0.75, (-4_i32..5).prop_map(|n| f64::from(n) / 2.0))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_row_is_in_exactly_the_stage_that_a_naive_reading_gives(
        rules in proptest::collection::vec(rule(), 1..5),
        rows in proptest::collection::vec((cell(), cell()), 1..60),
    ) {
        let names = ["s0", "s1", "s2", "s3"];
        let sql: Vec<String> = rules.iter().map(Rule::sql).collect();
        let mut list: Vec<(&str, &str)> = std::iter::zip(names, sql.iter().map(String::as_str)).collect();
        list.push(("rest", ""));
        let night = Night::new(vec![
            ("customer_id", Arc::new(Int64Array::from_iter_values(0..rows.len() as i64))),
            ("a", Arc::new(rows.iter().map(|r| r.0).collect::<Float64Array>())),
            ("b", Arc::new(rows.iter().map(|r| r.1).collect::<Float64Array>())),
        ]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let assigned = runtime.block_on(night.assign(&stages(&list), None, "2026-07-01"));
        // Stages that can never match are refused; what is left must agree row by row.
        if let Err(error) = &assigned {
            let text = error.to_string();
            prop_assert!(text.contains("can never match") || text.contains("always true"), "{text}");
            return Ok(());
        }
        let expected: Vec<Option<String>> = rows
            .iter()
            .map(|(a, b)| {
                let first = rules.iter().position(|rule| rule.holds(*a, *b) == Some(true));
                Some(first.map_or("rest", |i| names[i]).to_owned())
            })
            .collect();
        prop_assert_eq!(assigned.unwrap().text("stage"), expected);
    }
}

#[tokio::test]
async fn a_condition_that_fails_names_its_stage_and_the_customer() {
    let night = |orders: Vec<i64>| {
        Night::new(vec![
            ("customer_id", Arc::new(Int64Array::from_iter_values(1..=orders.len() as i64)) as ArrayRef),
            ("orders", Arc::new(Int64Array::from(orders))),
        ])
    };
    let spec = stages(&[("new", "orders = 1"), ("often", "12 / (orders - 1) > 5"), ("rest", "")]);
    // What an earlier stage takes is looked at no more.
    let assigned = night(vec![1, 2, 9]).assign(&spec, None, "2026-07-01").await.unwrap();
    assert_eq!(assigned.text("stage"), some(&["new", "often", "rest"]));
    let spec = stages(&[("new", "orders = 2"), ("often", "12 / (orders - 1) > 5"), ("rest", "")]);
    let Err(error) = night(vec![2, 3, 9, 1]).assign(&spec, None, "2026-07-01").await else { panic!("it works") };
    assert_eq!(
        error.to_string(),
        "jobs/ltv.yaml:11:5: stage `often` fails for `customer_id` 4: division by zero in `12 / (orders - 1) > 5`, \
         where `orders` is `1`"
    );
}
