//! Unit tests of SQL files: `tests/sql/X.yaml` gives rows and says what the file `X.sql` makes of them.
//! ```yaml
//! - name: a refund does not count
//!   as_of: 2026-07-01
//!   given:
//!     orders:
//!       - {customer_id: 7, ordered_at: 2026-06-30, amount: 20, refunded: true}
//!   expect:
//!     - {customer_id: 7, orders_30d: 0}
//! ```
//! Columns that a row does not name are NULL; tables that are not given are empty. Only the columns that `expect` names
//! are compared. Where the entity's table is not given, the population is the keys that `expect` names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use serde::Deserialize;
use serde_json::Value;
use serde_yaml::Spanned;

use super::bench::Bench;
use super::case_rows::{Row, array_of, difference};
use super::definition::{Definition, Kind};
use super::labels::LabelSet;
use super::matrix::named;
use super::prepare;
use super::set::FeatureSet;
use crate::error::{Place, Problem};
use crate::local_time::zone_name;
use crate::spec::nearest::{listed, nearest};
use crate::spec::{EntitySource, JobSpec, TableSpec};
use crate::{AsOf, Error, Result};

/// How one case ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CaseResult {
    /// The case's name.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// What differs, in words; none means that it passed.
    pub differences: Vec<String>,
}

impl CaseResult {
    /// Whether everything was as expected.
    pub fn passed(&self) -> bool {
        self.differences.is_empty()
    }
}

impl std::fmt::Display for CaseResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = if self.passed() { "ok" } else { "failed" };
        write!(f, "{}: {} … {verdict}", self.place, self.name)?;
        self.differences.iter().try_for_each(|difference| write!(f, "\n    {difference}"))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    as_of: Spanned<String>,
    #[serde(default)]
    timezone: Option<Spanned<String>>,
    /// The SQL file under test, relative to the job's root, where the name of the YAML file does not say it.
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    given: BTreeMap<String, Vec<Spanned<Row>>>,
    expect: Vec<Spanned<Row>>,
}

/// Runs the cases of `tests/sql/*.yaml` under the job's root whose name or file contains `filter`; cases of SQL files that
/// belong to another job are left to that one.
pub async fn run_tests(spec: &JobSpec, filter: Option<&str>) -> Result<Vec<CaseResult>> {
    let task = spec.entity_task()?;
    let features = FeatureSet::load(task, spec.root())?;
    let labels = LabelSet::load(task, spec.root())?;
    let job = Job { features, labels, tables: spec.tables().to_vec(), timezone: spec.timezone() };
    run_in(&job, spec.root(), filter).await
}

/// What the cases are run against.
pub struct Job {
    /// The feature files.
    pub features: FeatureSet,
    /// The label files.
    pub labels: LabelSet,
    /// The declared tables.
    pub tables: Vec<TableSpec>,
    /// The time zone of cases that name none.
    pub timezone: chrono_tz::Tz,
}

/// Runs the cases under `root/tests/sql`.
pub async fn run_in(job: &Job, root: &Path, filter: Option<&str>) -> Result<Vec<CaseResult>> {
    let folder = root.join("tests/sql");
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::io(&folder, error)),
    };
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"));
    paths.sort();
    let (mut results, mut problems) = (Vec::new(), Vec::new());
    for path in &paths {
        let file = path.strip_prefix(root).unwrap_or(path).display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let cases: Vec<Spanned<Case>> = match serde_yaml::from_str(&text) {
            Ok(cases) => cases,
            Err(error) => {
                problems.push(unreadable(&file, &error));
                continue;
            }
        };
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        for case in &cases {
            let name = &case.value.name;
            if filter.is_some_and(|filter| !name.contains(filter) && !file.contains(filter)) {
                continue;
            }
            if job.subject(&stem, &case.value).is_err() && elsewhere(root, &stem, case.value.file.as_deref()) {
                continue;
            }
            match job.run(&file, &stem, &case.value).await {
                Ok(differences) => results.push(CaseResult { name: name.clone(), place: at(&file, case), differences }),
                Err(error) => problems.extend(error.into_problems().into_iter().map(|problem| match problem.place {
                    Some(_) => problem,
                    None => problem.at(at(&file, case)),
                })),
            }
        }
    }
    Error::all(problems)?;
    Ok(results)
}

/// Whether a SQL file that this job does not have is there for another one.
fn elsewhere(root: &Path, stem: &str, file: Option<&str>) -> bool {
    if let Some(file) = file {
        return root.join(file).is_file();
    }
    let mut folders = vec![root.join("sql")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| *name == *format!("{stem}.sql")) {
                return true;
            }
        }
    }
    false
}

fn unreadable(file: &str, error: &serde_yaml::Error) -> Problem {
    let place = match error.location() {
        Some(at) => Place::at(file, at.line() as usize, at.column() as usize),
        None => Place::file(file),
    };
    let text = error.without_snippet().to_string();
    Problem::new(text.lines().next().unwrap_or_default().to_owned())
        .at(place)
        .hint("a list of cases: `- {name: …, as_of: 2026-07-01, given: {table: [rows]}, expect: [rows]}`")
}

fn at<T>(file: &str, spanned: &Spanned<T>) -> Place {
    let at = spanned.referenced;
    match at.line() {
        0 => Place::file(file),
        line => Place::at(file, line as usize, at.column() as usize),
    }
}

/// The SQL file under test.
enum Subject<'a> {
    Feature(&'a Definition),
    Label(&'a Definition),
    View(&'a Definition),
    Events(&'a Definition),
}

impl Job {
    async fn run(&self, file: &str, stem: &str, case: &Case) -> Result<Vec<String>> {
        let zone: Tz = match &case.timezone {
            Some(name) => name.value.parse().map_err(|_| {
                Error::user(format!("`{}` is not a time zone", name.value))
                    .at(at(file, name))
                    .hint("for example `Europe/Berlin`")
            })?,
            None => self.timezone,
        };
        let as_of = AsOf::parse(&case.as_of.value, zone).map_err(|e| e.at(at(file, &case.as_of)))?;
        let subject = self.subject(stem, case)?;
        let until = match subject {
            Subject::Label(label) => as_of.plus_days(u64::from(label.header.horizon.map_or(0, |(days, _)| days))),
            _ => as_of,
        };
        let context = self.tables_of(file, case, zone, until.instant())?;
        let batches = match subject {
            Subject::Feature(definition) => self.feature(definition, &context, case, as_of).await?,
            Subject::Label(definition) => {
                let labels = LabelSet::of(self.features.key(), vec![definition.clone()]);
                let stream = labels.labels(&self.features, &context, &self.tables, as_of).await?;
                (stream.schema().clone(), stream.try_collect::<Vec<_>>().await?)
            }
            Subject::View(definition) => {
                let bench = Bench::over(&context).await?;
                Error::all(self.features.add_views(&bench, until.instant()).await?)?;
                let frame = bench.context().table(definition.stem.as_str()).await?;
                (Arc::new(frame.schema().as_arrow().clone()), frame.collect().await?)
            }
            Subject::Events(definition) => {
                let bench = Bench::over(&context).await?;
                Error::all(self.features.add_views(&bench, until.instant()).await?)?;
                match prepare::view(&bench, definition, until.instant()).await {
                    Ok(plan) => {
                        let frame = bench.frame(plan);
                        (Arc::new(frame.schema().as_arrow().clone()), frame.collect().await?)
                    }
                    Err(problems) => return Error::all(problems).map(|()| Vec::new()),
                }
            }
        };
        let actual = arrow::compute::concat_batches(&batches.0, &batches.1)?;
        self.compare(file, case, &actual, matches!(subject, Subject::View(_) | Subject::Events(_)))
    }

    fn subject(&self, stem: &str, case: &Case) -> Result<Subject<'_>> {
        let is_it = |d: &&Definition| match &case.file {
            Some(file) => d.file == *file,
            None => d.stem == stem,
        };
        let features = self.features.features.iter().find(is_it).map(Subject::Feature);
        let views = || self.features.views.iter().find(is_it).map(Subject::View);
        let labels = || self.labels.files().iter().find(is_it).map(Subject::Label);
        let sequence = || self.features.sequence.as_ref().map(|sequence| &sequence.events);
        let events = || sequence().filter(is_it).map(Subject::Events);
        features.or_else(labels).or_else(views).or_else(events).ok_or_else(|| {
            let all = self.features.features.iter().chain(&self.features.views).chain(self.labels.files());
            let all = all.chain(sequence());
            match &case.file {
                Some(file) => {
                    let error = Error::user(format!("the job has no SQL file `{file}`"));
                    let hint = nearest(file, all.map(|d| d.file.as_str()));
                    error.hint(
                        hint.unwrap_or_else(|| "name it as the job does, for example `sql/features/orders.sql`".into()),
                    )
                }
                None => {
                    let error = Error::user(format!("the job has no SQL file `{stem}.sql`"));
                    let hint = nearest(stem, all.map(|d| d.stem.as_str()));
                    error.hint(hint.unwrap_or_else(|| "say which it is: `file: sql/features/orders.sql`".into()))
                }
            }
        })
    }

    /// The given rows as tables that show what is visible before `until`.
    fn tables_of(&self, file: &str, case: &Case, zone: Tz, until: DateTime<Utc>) -> Result<SessionContext> {
        let names = || self.tables.iter().map(|t| t.name.as_str());
        let mut problems = Vec::new();
        for (name, rows) in &case.given {
            if !names().any(|known| known == name) {
                let hint = nearest(name, names()).unwrap_or_else(|| format!("there are {}", listed(names(), "and")));
                let problem = Problem::new(format!("there is no table `{name}`")).hint(hint);
                problems.push(match rows.first() {
                    Some(row) => problem.at(at(file, row)),
                    None => problem,
                });
            }
        }
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().execution.time_zone = Some(zone_name(zone).to_owned());
        let context = SessionContext::new_with_config(config);
        for table in &self.tables {
            let table = &TableSpec { timezone: zone, ..table.clone() };
            let rows = case.given.get(&table.name).map_or(&[][..], Vec::as_slice);
            match batch(file, table, rows) {
                Ok(batch) => {
                    let mut frame = context.read_batch(batch)?;
                    for time in table.event_time.iter().chain(&table.known_at) {
                        let data_type = frame.schema().field_with_unqualified_name(time)?.data_type().clone();
                        if let Some(bound) = prepare::bound_at(until, &data_type, zone) {
                            frame = frame.filter(named(time).lt(datafusion::logical_expr::lit(bound)))?;
                        }
                    }
                    context.register_table(table.name.as_str(), frame.into_view())?;
                }
                Err(more) => problems.extend(more),
            }
        }
        Error::all(problems)?;
        Ok(context)
    }

    async fn feature(
        &self,
        definition: &Definition,
        context: &SessionContext,
        case: &Case,
        as_of: AsOf,
    ) -> Result<(Arc<Schema>, Vec<RecordBatch>)> {
        let mut set = self.features.clone();
        set.sequence = None;
        if definition.kind != Kind::Derived {
            set.features.retain(|d| d.file == definition.file);
        }
        if let EntitySource::Table { table, .. } = &set.entity.source
            && !case.given.contains_key(table)
        {
            self.expected_keys(&mut set, context, case)?;
        }
        let stream = set.matrix(context, &self.tables, as_of).await?;
        Ok((stream.schema().clone(), stream.try_collect().await?))
    }

    /// Makes the keys that the case expects the population.
    fn expected_keys(&self, set: &mut FeatureSet, context: &SessionContext, case: &Case) -> Result<()> {
        const KEYS: &str = "__expected";
        let EntitySource::Table { table, .. } = &set.entity.source else { return Ok(()) };
        let key = set.entity.key.clone();
        let spec = self.tables.iter().find(|t| t.name == *table);
        let column = spec.and_then(|t| t.columns.iter().find(|c| c.name == key));
        let data_type = column.map_or(DataType::Int64, |c| c.column_type.arrow(self.timezone));
        let mut keys: Vec<Value> = Vec::new();
        for row in &case.expect {
            if let Some(value) = row.value.get(&key)
                && !keys.contains(value)
            {
                keys.push(value.clone());
            }
        }
        let cells: Vec<Option<&Value>> = keys.iter().map(Some).collect();
        let array = array_of(&cells, &data_type).map_err(|(_, what)| Error::user(what))?;
        let schema = Schema::new(vec![Field::new(&key, data_type, true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![array])?;
        context.register_batch(KEYS, batch)?;
        set.entity.source = EntitySource::Table { table: KEYS.to_owned(), since: None };
        Ok(())
    }

    fn compare(&self, file: &str, case: &Case, actual: &RecordBatch, all_rows: bool) -> Result<Vec<String>> {
        let mut differences = Vec::new();
        let mut used = vec![false; actual.num_rows()];
        for row in &case.expect {
            // `customer 7` for the key `customer_id`; a view's rows go by their first column.
            let Some((key, value)) = row.value.key(self.features.key()) else { continue };
            let label = format!("{} {}", key.strip_suffix("_id").unwrap_or(key), plain(value));
            let Some(keys) = actual.column_by_name(key) else {
                let schema = actual.schema();
                let error = Error::user(format!("there is no column `{key}`")).at(at(file, row));
                let hint = nearest(key, schema.fields().iter().map(|f| f.name().as_str()));
                return Err(error.hint(hint.unwrap_or_else(|| "rows are told apart by their first column".into())));
            };
            let mut found = None;
            for i in (0..actual.num_rows()).filter(|&i| !used[i]) {
                if difference(keys, i, value)?.is_none() {
                    found = Some(i);
                    break;
                }
            }
            let Some(i) = found else {
                differences.push(format!("{label}: there is no such row"));
                continue;
            };
            used[i] = true;
            for (name, expected) in row.value.0.iter().filter(|(name, _)| name != key) {
                let Some(column) = actual.column_by_name(name) else {
                    let schema = actual.schema();
                    let error = Error::user(format!("there is no column `{name}`")).at(at(file, row));
                    return Err(match nearest(name, schema.fields().iter().map(|f| f.name().as_str())) {
                        Some(hint) => error.hint(hint),
                        None => error,
                    });
                };
                if let Some(got) = difference(column, i, expected)? {
                    differences.push(format!("{label}, {name}: expected {}, got {got}", plain(expected)));
                }
            }
        }
        let extra = used.iter().filter(|used| !**used).count();
        if all_rows && extra > 0 {
            differences.push(format!("{extra} more rows than expected"));
        }
        Ok(differences)
    }
}

/// A value as one says it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The rows in the table's declared types.
fn batch(file: &str, table: &TableSpec, rows: &[Spanned<Row>]) -> Result<RecordBatch, Vec<Problem>> {
    let declared = table.columns.iter().map(|c| (c.name.clone(), c.column_type));
    let columns: Vec<(String, crate::spec::ColumnType)> = declared.chain(table.partition_by.iter().cloned()).collect();
    let mut problems = Vec::new();
    for row in rows {
        for name in
            row.value.0.iter().map(|(name, _)| name).filter(|name| !columns.iter().any(|(known, _)| known == *name))
        {
            let problem = Problem::new(format!("`{}` has no column `{name}`", table.name)).at(at(file, row));
            problems.push(match nearest(name, columns.iter().map(|(n, _)| n.as_str())) {
                Some(hint) => problem.hint(hint),
                None => problem,
            });
        }
    }
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for (name, column_type) in &columns {
        let cells: Vec<Option<&Value>> = rows.iter().map(|row| row.value.get(name)).collect();
        match array_of(&cells, &column_type.arrow(table.timezone)) {
            Ok(array) => {
                fields.push(Field::new(name, column_type.arrow(table.timezone), true));
                arrays.push(array);
            }
            Err((row, what)) => {
                let problem = Problem::new(format!("`{name}`: {what}"));
                problems.push(problem.at(rows.get(row).map_or_else(|| Place::file(file), |row| at(file, row))));
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|e| Error::from(e).into_problems())
}
