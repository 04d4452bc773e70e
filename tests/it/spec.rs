//! Job files: what is accepted, what is refused and how it is said.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;
use tenure::printer::render_error;
use tenure::spec::{
    self, Bound, CheckRule, EmbeddingSpec, JobSpec, OnFail, OutcomeMetric, Schedule, Task, ThresholdSpec, TuneSpec,
};

use crate::support::shop::{assert_exit, tenure};

fn no_variables(_: &str) -> Option<String> {
    None
}

/// The job files of a folder of fixtures, by name, as paths relative to the repository.
fn fixtures(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new("fixtures/specs").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(!files.is_empty(), "no fixtures in {}", folder.display());
    files
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

/// What the program tells the user about a job file.
fn message_of(path: &Path) -> String {
    let output = tenure(&["check", path.to_str().unwrap()]);
    assert_exit(&output, 1);
    assert!(output.stdout.is_empty(), "errors go to stderr");
    String::from_utf8(output.stderr).unwrap()
}

fn load(text: &str) -> tenure::Result<JobSpec> {
    load_with(text, &no_variables)
}

/// Loads a text as if it stood among the valid fixtures, from a folder of its own.
fn load_with(text: &str, env: &dyn Fn(&str) -> Option<String>) -> tenure::Result<JobSpec> {
    let shop = tempfile::tempdir().unwrap();
    load_in(shop.path(), text, env)
}

fn load_in(shop: &Path, text: &str, env: &dyn Fn(&str) -> Option<String>) -> tenure::Result<JobSpec> {
    for file in ["views/paid_orders", "features/orders", "features/recency", "labels/spend_90d", "population"] {
        let file = format!("sql/{file}.sql");
        let copy = shop.join(&file);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(Path::new("fixtures/specs").join(&file), copy).unwrap();
    }
    std::fs::create_dir_all(shop.join("valid")).unwrap();
    let path = shop.join("valid/job.yaml");
    std::fs::write(&path, text).unwrap();
    spec::load(&path, env)
}

fn text_of(valid: &str) -> String {
    std::fs::read_to_string(format!("fixtures/specs/valid/{valid}.yaml")).unwrap()
}

fn entity_job(valid: &str) -> (JobSpec, spec::EntityTask) {
    let job = spec::load(Path::new(&format!("fixtures/specs/valid/{valid}.yaml")), &no_variables).unwrap();
    let task = job.entity_task().unwrap().clone();
    (job, task)
}

#[test]
fn every_valid_job_is_accepted() {
    for path in fixtures("valid") {
        if let Err(error) = spec::load(&path, &no_variables) {
            panic!("{}", render_error(&error));
        }
    }
}

#[test]
fn every_invalid_job_says_what_is_wrong() {
    let files = fixtures("invalid");
    for path in &files {
        insta::assert_snapshot!(format!("invalid_{}", name(path)), message_of(path));
    }
    let named: BTreeSet<String> = files.iter().map(|path| format!("it__spec__invalid_{}.snap", name(path))).collect();
    for entry in std::fs::read_dir("tests/it/snapshots").unwrap() {
        let snapshot = entry.unwrap().file_name().into_string().unwrap();
        let stale = snapshot.starts_with("it__spec__invalid_") && snapshot.ends_with(".snap");
        assert!(!stale || named.contains(&snapshot), "{snapshot} has no fixture any more");
    }
}

#[test]
fn every_problem_has_a_place_and_a_hint() {
    for path in fixtures("invalid") {
        let error = spec::load(&path, &no_variables).unwrap_err();
        assert_eq!(error.status(), tenure::error::ExitStatus::User);
        for problem in error.problems() {
            assert!(problem.hint.is_some(), "no hint: {problem}");
            assert!(problem.place.as_ref().is_some_and(|place| place.at.is_some()), "no place: {problem}");
            assert!(!problem.message.ends_with('.') && !problem.message.contains('\u{0}'), "style: {problem}");
        }
    }
}

#[test]
fn a_job_means_what_it_says() {
    let (job, task) = entity_job("full");
    assert_eq!((job.name(), job.timezone()), ("full", chrono_tz::Europe::Berlin));
    assert!(job.lake().as_str().ends_with("/fixtures/specs/valid/lake/"));
    let orders = job.table("orders").unwrap();
    assert_eq!(orders.url, job.lake().join("orders/").unwrap());
    assert_eq!(orders.partition_by, [("dt".to_owned(), spec::ColumnType::Date)]);
    assert_eq!(
        orders.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>()[..3],
        ["order_id", "customer_id", "ordered_at"]
    );
    assert_eq!(task.views.len(), 1);
    let features: Vec<String> = task.features.iter().map(|file| name(file)).collect();
    assert_eq!(features, ["orders", "recency"]);
    let model = task.model.unwrap();
    assert_eq!(model.bundle, job.root().join("models/full"));
    let text = model.text.unwrap();
    assert_eq!((text.tune, text.learning_rate, text.layer_decay), (TuneSpec::Full, 5e-5, 0.8));
    assert_eq!(model.heads[0].family, Some(("churn".to_owned(), 90)));
    assert_eq!((model.members, model.embedding), (16, EmbeddingSpec::PiecewiseLinear { width: 4, bins: 12 }));
    let sequence = model.sequence.unwrap();
    assert!(sequence.events.ends_with("specs/sql/sequences/orders.sql"));
    assert_eq!((sequence.encoder, sequence.keep), (spec::SequenceEncoder::Transformer, spec::Keep::Always));
    assert_eq!((sequence.length, sequence.width, sequence.layers), (16, 16, 2));
    assert_eq!((task.train.epochs, task.train.batch, task.train.validation_snapshots), (30, 512, 2));
    assert_eq!(task.train.schedule, Schedule::Cosine);
    let segments = task.segments.unwrap();
    assert_eq!(segments.stages[2].when, None);
    assert_eq!(segments.value_tiers.unwrap().quantiles[3], ("vip".to_owned(), 1.0));
    let outcomes = task.outcomes;
    assert_eq!((outcomes.heads.join(" "), outcomes.minimum_customers), ("ltv_90d churn_90d".to_owned(), 500));
    let auc = ThresholdSpec { head: "churn_90d".into(), metric: OutcomeMetric::Auc, min: Some(0.7), max: None };
    assert_eq!((outcomes.thresholds.len(), &outcomes.thresholds[0]), (4, &auc));
    let publish = task.publish.unwrap();
    assert!(publish.features && publish.url.as_str().ends_with("/lake/out/"));
}

#[test]
fn checks_know_their_rule_and_what_a_break_means() {
    let (job, _) = entity_job("full");
    let checks = &job.table("orders").unwrap().checks;
    assert!(matches!(&checks[0].rule, CheckRule::NotNull(column) if column == "customer_id"));
    assert_eq!((checks[1].on_fail, checks[1].place.at), (OnFail::Fail, Some((33, 34))));
    assert!(matches!(&checks[2].rule, CheckRule::Unique(columns) if columns.len() == 2));
    assert_eq!(checks[2].on_fail, OnFail::Reject);
    assert!(matches!(
        checks[3].rule,
        CheckRule::Range { min: Some(Bound::Number(0.0)), max: Some(Bound::Number(1e6)), .. }
    ));
    assert!(matches!(checks[4].rule, CheckRule::Range { min: Some(Bound::Number(1.0)), max: None, .. }));
    assert!(matches!(&checks[5].rule, CheckRule::Accepted { values, .. } if values == &["web", "app", "shop"]));
    assert_eq!(checks[5].on_fail, OnFail::Warn);
    assert!(matches!(checks[6].rule, CheckRule::FreshWithin(age) if age.as_secs() == 36 * 3600));
    assert_eq!((checks[6].on_fail, checks.len()), (OnFail::Warn, 7));
    let customers = &job.table("customers").unwrap().checks;
    assert!(matches!(&customers[2].rule, CheckRule::Unique(columns) if columns == &["customer_id"]));
}

#[test]
fn what_is_not_said_has_its_default() {
    let (job, task) = entity_job("minimal");
    assert_eq!(job.timezone(), chrono_tz::UTC);
    let train = task.train;
    assert_eq!((train.every_days, train.count, train.warmup_days, train.validation_snapshots), (30, 12, 60, 1));
    assert_eq!((train.epochs, train.batch, train.patience, train.seed), (12, 512, 6, 0));
    assert_eq!((train.learning_rate, train.weight_decay, train.clip_norm), (2e-3, 1e-2, 1.0));
    assert!(task.outcomes.heads.is_empty() && task.outcomes.thresholds.is_empty());
    assert!(task.model.is_none() && task.segments.is_none() && task.publish.is_none() && train.rfm.is_none());
}

#[test]
fn a_text_job_is_read_with_its_tables() {
    let job = spec::load(Path::new("fixtures/specs/valid/text.yaml"), &no_variables).unwrap();
    let Task::TextClassifier(task) = job.task() else { panic!("not a text job") };
    assert_eq!((task.train.as_str(), task.label.as_str(), task.batch), ("train", "category", 16));
    let TuneSpec::Lora(lora) = &task.tune else { panic!("{:?}", task.tune) };
    assert_eq!((lora.rank, lora.alpha, lora.targets.len(), lora.dropout), (4, 8.0, 6, 0.05));
    assert_eq!((task.learning_rate, task.layer_decay), (5e-4, 0.9));
    assert_eq!(job.table("test").unwrap().format, spec::Format::Csv);
    assert!(job.lake().as_str().ends_with("/fixtures/specs/data/banking77/"));
    assert!(job.entity_task().is_err());
}

#[test]
fn variables_are_put_into_values_and_never_change_the_shape_of_the_file() {
    let env = |name: &str| match name {
        "TENURE_BUCKET" => Some("{other: [bucket".to_owned()),
        "TENURE_FRESH" => Some("36h".to_owned()),
        _ => None,
    };
    let error = load_with(&text_of("query"), &env).unwrap_err();
    assert_eq!(error.problems().count(), 1, "{}", render_error(&error));
    let env = |name: &str| (name == "TENURE_BUCKET").then(|| "other".to_owned());
    let job = load_with(&text_of("query"), &env).unwrap();
    assert_eq!(job.lake().as_str(), "s3://other/lake/");
    assert_eq!(job.table("orders").unwrap().url.as_str(), "gs://another/orders/");
    let segments = job.entity_task().unwrap().segments.as_ref().unwrap();
    assert!(segments.stages[0].when.as_ref().unwrap().contains("${not_a_variable}"));
}

#[test]
fn comments_layout_and_folder_leave_the_hash_alone() {
    let flow = "version: 1\nname: shop\nlake: file://./lake\nentity: {table: t, key: k}\n\
                tables: {t: {path: t/, columns: {k: int64}}}\nfeatures: [../sql/features/*.sql]\n";
    let block = "# a comment\nfeatures:\n  - \"../sql/features/*.sql\"\nname: shop\nentity:\n  key: k\n  table: t\n\
                 tables:\n  t:\n    columns: {k: int64}   # the key\n    path: t/\nversion: 1\nlake: ${UNSET:-file://./lake}\n";
    let first = load(flow).unwrap();
    let second = load(block).unwrap();
    assert_ne!(first.root(), second.root());
    assert_eq!(first.hash(), second.hash());
    let other = load(&flow.replace("path: t/", "path: u/")).unwrap();
    assert_ne!(first.hash(), other.hash());
}

#[test]
fn a_missing_job_file_is_the_users_fault() {
    let error = spec::load(Path::new("fixtures/specs/valid/nothing.yaml"), &no_variables).unwrap_err();
    assert_eq!(error.status(), tenure::error::ExitStatus::User);
    assert!(render_error(&error).contains("fixtures/specs/valid/nothing.yaml"));
}

#[test]
fn a_huge_file_is_refused_unread() {
    let error = load(&format!("# {}\n", "x".repeat(2 << 20))).unwrap_err();
    assert!(error.to_string().contains("a job file at most"), "{error}");
}

/// The keys of a YAML value that the schema does not know, with their path.
fn unknown_to(schema: &Value, root: &Value, value: &Value, path: &str, unknown: &mut Vec<String>) {
    let schema = resolved(schema, root);
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let path = format!("{path}.{key}");
                let below = schema.iter().find_map(|s| s["properties"].get(key));
                let any = schema.iter().map(|s| &s["additionalProperties"]).find(|s| s.is_object());
                match below.or(any) {
                    Some(below) => unknown_to(below, root, value, &path, unknown),
                    None => unknown.push(path),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                match schema.iter().map(|s| &s["items"]).find(|s| s.is_object()) {
                    Some(items) => unknown_to(items, root, item, path, unknown),
                    None => unknown.push(format!("{path}[]")),
                }
            }
        }
        _ => {}
    }
}

/// A schema with what it refers to and its choices.
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> Vec<&'a Value> {
    let mut all = vec![schema];
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("no {reference}"));
        all.extend(resolved(target, root));
    }
    for choices in ["anyOf", "allOf"] {
        for choice in schema[choices].as_array().into_iter().flatten() {
            all.extend(resolved(choice, root));
        }
    }
    all
}

#[test]
fn the_json_schema_knows_every_key_of_the_valid_jobs_and_no_others() {
    let schema = spec::json_schema();
    for path in fixtures("valid") {
        let job: Value = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let mut unknown = Vec::new();
        unknown_to(&schema, &schema, &job, "", &mut unknown);
        assert!(unknown.is_empty(), "{}: {unknown:?}", path.display());
    }
    let mut unknown = Vec::new();
    let wrong = serde_json::json!({"tabels": {}, "entity": {"tabel": 1}, "model": {"heads": [{"lable": 1}]}});
    unknown_to(&schema, &schema, &wrong, "", &mut unknown);
    assert_eq!(unknown, [".entity.tabel", ".model.heads.lable", ".tabels"]);
}

#[test]
fn the_json_schema_describes_every_key_and_allows_no_null() {
    let schema = spec::json_schema();
    let text = schema.to_string();
    assert!(["\"null\"", ",null", "[null", ":null"].iter().all(|null| !text.contains(null)), "{text}");
    assert_eq!(schema["required"], serde_json::json!(["version", "name", "lake", "tables"]));
    let mut structs = vec![&schema];
    structs.extend(schema["definitions"].as_object().unwrap().values());
    structs.retain(|one| one["type"] == "object");
    assert!(structs.len() > 15);
    for one in structs {
        assert_eq!(one["additionalProperties"], Value::Bool(false), "{one}");
        for (key, property) in one["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "`{key}` has no description: {property}");
        }
    }
}

/// Set `TENURE_WRITE_DOCS` to write the page anew.
#[test]
fn the_page_about_the_job_file_is_the_one_that_the_code_makes() {
    let page = spec::reference();
    let file = Path::new("docs/job-file.md");
    if std::env::var_os("TENURE_WRITE_DOCS").is_some() {
        std::fs::create_dir_all("docs").unwrap();
        std::fs::write(file, &page).unwrap();
    }
    let kept = std::fs::read_to_string(file).unwrap_or_default();
    assert!(kept == page, "{} is old: run this test with TENURE_WRITE_DOCS=1", file.display());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_job_is_refused_or_read_but_never_panics(
        which in 0..5usize,
        cut in 0.0..1.0f64,
        edits in prop::collection::vec((0.0..1.0f64, prop::sample::select(b"{}[]:,-#&*!|>'\"%@`$~ \n\tnull1x\xff\xc3".to_vec())), 0..6),
    ) {
        let path = &fixtures("valid")[which];
        let mut bytes = std::fs::read(path).unwrap();
        for (at, byte) in edits {
            let at = (at * bytes.len() as f64) as usize;
            bytes[at] = byte;
        }
        if cut < 0.5 {
            bytes.truncate((cut * 2.0 * bytes.len() as f64) as usize);
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("job.yaml");
        std::fs::write(&file, &bytes).unwrap();
        if let Err(error) = spec::load(&file, &no_variables) {
            prop_assert_eq!(error.status(), tenure::error::ExitStatus::User);
            for problem in error.problems() {
                prop_assert!(problem.hint.is_some(), "no hint: {}", problem);
            }
        }
    }
}
