//! What a job will do, resolved without data: every SQL file planned on empty tables of the declared schema, every
//! name that one part of the job file says of another looked up.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use chrono::NaiveDate;

use crate::error::{Place, Problem};
use crate::features::{Condition, ConditionParser, FeatureColumn, FeatureSet, LabelColumn, LabelSet};
use crate::lake::publish::{Owner, described};
use crate::segments::StagePlan;
use crate::spec::label_rule;
use crate::spec::{BTYD_PREFIX, Direction, EntityTask, HeadSpec, JobSpec, Loss, ModelSpec, nearest, score_columns};
use crate::{AsOf, Error, Result, lake};

/// A job whose SQL, model and stages are known to fit each other.
pub struct Plan {
    /// The feature files.
    pub features: FeatureSet,
    /// The label files.
    pub labels: LabelSet,
    /// The types of their columns, in order.
    pub label_types: Vec<DataType>,
    /// The matrix's columns behind the key, the newest events last where the model reads them.
    pub columns: Vec<FeatureColumn>,
    /// The matrix's schema, key first, columns described; without the events, which only the model sees.
    pub matrix: SchemaRef,
    /// The scores' schema: each head's columns, then `no_score_reason`; empty without a model.
    pub scores: SchemaRef,
    /// The heads that predict values, which add up.
    pub value_heads: Vec<String>,
    /// Who is scored at all.
    pub minimum_data: Option<Condition>,
    /// The stages over matrix and scores.
    pub stages: Option<StagePlan>,
}

impl Plan {
    /// Plans a job; everything that is wrong with it comes at once.
    pub async fn new(spec: &JobSpec) -> Result<Self> {
        let task = spec.entity_task()?;
        let mut problems = Vec::new();
        let features = gather(&mut problems, FeatureSet::load(task, spec.root()))?;
        let labels = gather(&mut problems, LabelSet::load(task, spec.root()))?;
        let (Some(features), Some(labels)) = (features, labels) else {
            Error::all(problems)?;
            return Err(Error::user("the SQL files cannot be read"));
        };
        let empty = lake::empty_session(spec)?;
        let resolved = gather(&mut problems, features.resolve_with_key(&empty, spec).await)?;
        problems.extend(labels.check(&features, &empty, spec).await?);
        let Some((keyed, columns)) = resolved else {
            Error::all(problems)?;
            return Err(Error::user("the SQL files cannot be planned"));
        };
        Error::all(std::mem::take(&mut problems))?;

        // Any day will do: the tables are empty, and only the schemas are asked for.
        let some_day = AsOf::new(NaiveDate::default(), spec.timezone());
        let labelled = labels.labels(&features, &empty, spec, some_day).await?.schema().clone();
        let label_types: Vec<DataType> =
            labelled.fields().iter().skip(1).map(|field| field.data_type().clone()).collect();

        let file = Place::file(spec.file().display().to_string());
        let matrix = matrix_schema(&keyed, &columns);
        let scores = score_schema(task.model.as_ref());
        if let Some(model) = &task.model {
            let names: Vec<&str> = labelled.fields().iter().skip(1).map(|field| field.name().as_str()).collect();
            problems.extend(model_problems(task, model, &columns, &names, &file));
            problems.extend(label_problems(model, &labels.columns(), &label_types));
        }
        let minimum_data = match task.model.as_ref().and_then(|m| m.minimum_data.as_deref()) {
            Some(sql) => match ConditionParser::new(&matrix)?.parse(sql) {
                Ok(condition) => Some(condition.deciding("`minimum_data`", file.clone())),
                Err(problem) => {
                    problems.push(problem.about("`minimum_data`").at(file.clone()));
                    None
                }
            },
            None => None,
        };
        let scored = joined(&matrix, &scores);
        let key = task.entity.key.as_str();
        let stages = task.segments.as_ref().map(|segments| StagePlan::new(segments, key, scored)).transpose();
        let churn = task.model.iter().flat_map(|m| &m.heads).filter(|head| head.loss == Loss::Bce);
        let churn: Vec<&str> = churn.map(|head| head.name.as_str()).collect();
        let stages = gather(&mut problems, stages)?.flatten().map(|stages| stages.report_means(churn));
        Error::all(problems)?;
        let heads = task.model.iter().flat_map(|model| &model.heads);
        let value_heads = heads.filter(|head| head.loss == Loss::Ziln).map(|head| head.name.clone()).collect();
        Ok(Plan { features, labels, label_types, columns, matrix, scores, value_heads, minimum_data, stages })
    }

    /// Matrix and scores side by side: what the stages see.
    pub fn scored(&self) -> SchemaRef {
        joined(&self.matrix, &self.scores)
    }

    /// The job as the owner of the folder that it publishes into.
    pub fn owner(&self, spec: &JobSpec) -> Owner {
        let key = self.matrix.field(0);
        Owner::new(spec.name(), key.name(), key.data_type())
    }

    /// The hash of every SQL file behind the matrix.
    pub fn sql_hashes(&self) -> BTreeMap<String, String> {
        self.features.hashes()
    }
}

/// A population that nobody belongs to is a mistake somewhere: in a table, in the job or in the date.
pub(super) fn no_customers(as_of: AsOf) -> Error {
    Error::user(format!("the population of {as_of} has no customer"))
        .hint("are the tables whole, and do their rows reach back to that day? `tenure check --online` looks at them")
}

/// Keeps the user's problems for later; the infrastructure's end the planning.
fn gather<T>(problems: &mut Vec<Problem>, result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.class() == crate::error::Class::User => {
            problems.extend(error.into_problems());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn matrix_schema(key: &Field, columns: &[FeatureColumn]) -> SchemaRef {
    let key = described(key.clone(), "the customer");
    let columns = columns.iter().filter(|column| !is_events(column)).map(|column| {
        let mut text = column.description.clone().unwrap_or_else(|| format!("from {}", column.file));
        if let Some(window) = &column.window {
            text.push_str(&format!(" (window: {window})"));
        }
        described(Field::new(&column.name, column.data_type.clone(), true), text)
    });
    Arc::new(Schema::new(std::iter::once(key).chain(columns).collect::<Vec<_>>()))
}

/// No feature is a list; the events of a customer are.
fn is_events(column: &FeatureColumn) -> bool {
    matches!(column.data_type, DataType::List(_))
}

fn score_schema(model: Option<&ModelSpec>) -> SchemaRef {
    let columns = model.map(score_columns).unwrap_or_default();
    let fields = columns.into_iter().map(|(name, data_type, text)| described(Field::new(name, data_type, true), text));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn joined(left: &SchemaRef, right: &SchemaRef) -> SchemaRef {
    Arc::new(Schema::new(left.fields().iter().chain(right.fields()).cloned().collect::<Vec<_>>()))
}

/// Labels that do not fit the loss of their head, and families of which nobody knows whether they rise or fall.
fn label_problems(model: &ModelSpec, labels: &[LabelColumn], types: &[DataType]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let label_of = |head: &HeadSpec| labels.iter().zip(types).find(|(label, _)| label.name == head.label);
    let mut directions: BTreeMap<&str, Vec<(&HeadSpec, Option<Direction>)>> = BTreeMap::new();
    for head in &model.heads {
        let Some((label, data_type)) = label_of(head) else { continue };
        let LabelColumn { name, place, .. } = label;
        if let Some(rule) = label_rule::broken_type(&head.loss, data_type) {
            let message =
                format!("the head `{}` cannot learn the label `{name}`, which is of type `{data_type}`", head.name);
            problems.push(Problem::new(message).at(place.clone()).hint(rule));
        }
        if let (Some(default), false) = (label.default, head.loss == Loss::Softmax)
            && let Some(rule) = label_rule::broken_rule(&head.loss, default)
        {
            let message =
                format!("the head `{}` cannot learn the label `{name}`: its `@default` is {default}", head.name);
            problems.push(Problem::new(message).at(place.clone()).hint(rule));
        }
        if let (Loss::Bce, Some((family, _))) = (&head.loss, &head.family) {
            let direction = head.direction.or_else(|| Direction::of_default(label.default));
            directions.entry(family).or_default().push((head, direction));
        }
    }
    for (family, heads) in directions.into_iter().filter(|(_, heads)| heads.len() > 1) {
        for (head, direction) in &heads {
            let message = match direction {
                None => format!(
                    "whether the probability of head `{}` rises or falls with its horizon is not known: its label `{}` has no \
                     `@default` of 0 or 1",
                    head.name, head.label
                ),
                Some(_) if *direction != heads[0].1 && heads[0].1.is_some() => format!(
                    "the heads `{}` and `{}` of family `{family}` have different directions, by their labels' `@default`",
                    heads[0].0.name, head.name
                ),
                Some(_) => continue,
            };
            let hint = "write `direction: falls` (churn) or `direction: rises` (will buy) beside `family`";
            problems.push(Problem::new(message).at(head.place.clone()).hint(hint));
        }
    }
    problems
}

/// The names that the model's part of the job says of the matrix and the labels.
fn model_problems(
    task: &EntityTask,
    model: &ModelSpec,
    columns: &[FeatureColumn],
    labels: &[&str],
    file: &Place,
) -> Vec<Problem> {
    let names = || columns.iter().map(|c| c.name.as_str());
    let mut problems = Vec::new();
    let mut unknown = |what: String, name: &str, known: Vec<&str>, place: &Place| {
        let hint = nearest(name, known.iter().copied());
        let problem = Problem::new(format!("{what} `{name}` is not there")).at(place.clone());
        problems.push(match hint {
            Some(hint) => problem.hint(hint),
            None => problem.hint("`tenure features docs` lists the columns"),
        });
    };
    for head in &model.heads {
        if !labels.contains(&head.label.as_str()) {
            unknown(format!("the label of head `{}`", head.name), &head.label, labels.to_vec(), &head.place);
        }
    }
    for column in model.text.iter().flat_map(|text| &text.columns) {
        if !columns.iter().any(|c| c.name == *column && c.data_type == DataType::Utf8) {
            unknown("the text column".to_owned(), column, names().collect(), file);
        }
    }
    let is_text = |name: &str| columns.iter().any(|c| c.name == name && c.data_type == DataType::Utf8);
    let mut texts: Vec<(&str, &str, &Place)> = Vec::new();
    if let Some(rfm) = &task.train.rfm {
        for column in [&rfm.recency, &rfm.frequency, &rfm.monetary] {
            if !names().any(|name| name == column) {
                unknown("the feature".to_owned(), column, names().collect(), &rfm.place);
            } else if is_text(column) {
                texts.push(("train.rfm", column, &rfm.place));
            }
        }
    }
    if let Some(btyd) = &model.btyd {
        let columns = [Some(&btyd.first), Some(&btyd.last), Some(&btyd.days), btyd.spend.as_ref()];
        for column in columns.into_iter().flatten() {
            if !names().any(|name| name == column) {
                unknown("the feature".to_owned(), column, names().collect(), &btyd.place);
            } else if is_text(column) {
                texts.push(("model.btyd", column, &btyd.place));
            }
        }
        if let Some(name) = names().find(|name| name.starts_with(BTYD_PREFIX)) {
            let problem =
                Problem::new(format!("the feature `{name}` has a name that `model.btyd` gives its own inputs"));
            problems.push(problem.at(btyd.place.clone()).hint("rename the feature"));
        }
    }
    problems.extend(texts.into_iter().map(|(key, column, place)| {
        Problem::new(format!("`{key}` wants numbers, and the feature `{column}` holds text"))
            .at(place.clone())
            .hint("name a feature that is a number; `tenure features docs` lists them with their types")
    }));
    let taken = |name: &str| names().any(|n| n == name) || name == task.entity.key;
    for (name, ..) in score_columns(model) {
        if taken(&name) {
            problems.push(
                Problem::new(format!("the score `{name}` has the name of a feature"))
                    .at(file.clone())
                    .hint("rename the head or the feature"),
            );
        }
    }
    problems
}
