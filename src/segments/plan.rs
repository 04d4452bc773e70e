//! The stages of a job, checked against the columns that a night has.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::error::Problem;
use crate::features::{Condition, ConditionParser};
use crate::spec::nearest::nearest;
use crate::spec::{SegmentsSpec, ValueTiersSpec};
use crate::{Error, Result};

/// Stages and tiers whose every condition is known to fit the scored columns.
#[derive(Debug, Clone)]
pub struct StagePlan {
    pub(super) key: Field,
    pub(super) scored: SchemaRef,
    /// In the order of the job; only the last has no condition.
    pub(super) stages: Vec<Stage>,
    pub(super) tiers: Option<ValueTiersSpec>,
    pub(super) means: Vec<String>,
}

/// A stage and what puts a customer into it.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub name: String,
    pub when: Option<Condition>,
}

impl StagePlan {
    /// Checks the stages against `scored`, the schema of features and scores whose key column is `key`. All problems
    /// come at once, each at its place in the job file.
    pub fn new(spec: &SegmentsSpec, key: &str, scored: SchemaRef) -> Result<Self> {
        let parser = ConditionParser::new(&scored)?;
        let mut problems = Vec::new();
        let mut stages: Vec<Stage> = Vec::new();
        for (index, stage) in spec.stages.iter().enumerate() {
            let last = index + 1 == spec.stages.len();
            let when = match stage.when.as_deref() {
                None if last => None,
                None => {
                    problems.push(
                        Problem::new(format!(
                            "stage `{}` needs a `when`: only the last stage goes without",
                            stage.name
                        ))
                        .at(stage.place.clone()),
                    );
                    continue;
                }
                Some(_) if last => {
                    problems.push(
                        Problem::new(format!(
                            "the last stage `{}` takes whoever is left and has no `when`",
                            stage.name
                        ))
                        .at(stage.place.clone())
                        .hint("add a last stage with a name alone, for example `{name: active}`"),
                    );
                    continue;
                }
                Some(text) => match parser.parse(text).and_then(|condition| reachable(condition, text)) {
                    Ok(condition) => Some(condition.deciding(format!("stage `{}`", stage.name), stage.place.clone())),
                    Err(problem) => {
                        problems.push(problem.about(format!("stage `{}`", stage.name)).at(stage.place.clone()));
                        continue;
                    }
                },
            };
            let same = |earlier: &&Stage| match (&earlier.when, &when) {
                (Some(a), Some(b)) => a.simplest == b.simplest,
                _ => false,
            };
            if let Some(earlier) = stages.iter().find(same) {
                problems.push(
                    Problem::new(format!(
                        "stage `{}` can never match: stage `{}` before it has the same condition",
                        stage.name, earlier.name
                    ))
                    .at(stage.place.clone()),
                );
                continue;
            }
            stages.push(Stage { name: stage.name.clone(), when });
        }
        problems.extend(spec.value_tiers.as_ref().and_then(|tiers| tier_problem(tiers, &scored)));
        let Some((_, key)) = scored.column_with_name(key) else {
            problems.push(Problem::new(format!("the scored table has no key column `{key}`")));
            Error::all(problems)?;
            return Err(Error::user("the scored table has no key column"));
        };
        Error::all(problems)?;
        let key = Field::new(key.name(), key.data_type().clone(), false).with_metadata(key.metadata().clone());
        Ok(StagePlan { key, scored, stages, tiers: spec.value_tiers.clone(), means: Vec::new() })
    }

    /// Names the score columns (churn probabilities, say) whose mean per stage the summary shall hold; columns that
    /// are not there or hold no numbers are left out.
    pub fn report_means<'a>(mut self, columns: impl IntoIterator<Item = &'a str>) -> Self {
        let numeric = |name: &&str| self.scored.field_with_name(name).is_ok_and(|f| f.data_type().is_numeric());
        self.means = columns.into_iter().filter(numeric).map(str::to_owned).collect();
        self
    }

    /// The names of the stages, in the order of the job.
    pub fn stages(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(|s| s.name.as_str())
    }

    /// The schema of the segments table, every column described.
    pub fn segments_schema(&self) -> SchemaRef {
        let described =
            |name: &str, data_type, nullable, text: &str| describe(Field::new(name, data_type, nullable), text);
        let key = match self.key.metadata().contains_key(DESCRIPTION) {
            true => self.key.clone(),
            false => describe(self.key.clone(), "the customer"),
        };
        let by = self.tiers.as_ref().map_or("a score", |t| t.by.as_str());
        Arc::new(Schema::new(vec![
            key,
            described("stage", DataType::Utf8, false, "stage of life on this night: the first whose condition holds"),
            described("previous_stage", DataType::Utf8, true, "stage on the night before; NULL for a new customer"),
            described("stage_since", DataType::Date32, false, "first night of the unbroken stay in the stage"),
            described(
                "moved_because",
                DataType::Utf8,
                true,
                "the new stage's condition with the customer's numbers; NULL where the stage did not change",
            ),
            described("value_tier", DataType::Utf8, true, &format!("tier by quantile of {by}; NULL without a score")),
        ]))
    }

    /// The schema of the transitions table, every column described.
    pub fn transitions_schema(&self) -> SchemaRef {
        let described =
            |name: &str, data_type, nullable, text: &str| describe(Field::new(name, data_type, nullable), text);
        let by = self.tiers.as_ref().map_or("a score", |t| t.by.as_str());
        Arc::new(Schema::new(vec![
            described("previous_stage", DataType::Utf8, true, "stage on the night before; NULL: not a customer then"),
            described("stage", DataType::Utf8, true, "stage on this night; NULL: no longer a customer"),
            described("customers", DataType::Int64, false, "customers who went this way"),
            described(
                "value",
                DataType::Float64,
                true,
                &format!("sum of their {by} on this night; NULL without a score"),
            ),
            described("share", DataType::Float64, false, "their share of the customers of previous_stage"),
        ]))
    }
}

/// The metadata key under which a field's meaning stands.
const DESCRIPTION: &str = "description";

fn describe(field: Field, text: &str) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(DESCRIPTION.to_owned(), text.to_owned());
    field.with_metadata(metadata)
}

/// A stage's condition has to depend on the customer.
fn reachable(condition: Condition, text: &str) -> Result<Condition, Problem> {
    match condition.constant() {
        None => Ok(condition),
        Some(true) => Err(Problem::new(format!("`{text}` is always true, so no later stage can match"))
            .hint("leave `when` out and put the stage last")),
        Some(false) => Err(Problem::new(format!("`{text}` is never true, so the stage can never match"))
            .hint("mend the condition, or remove the stage")),
    }
}

fn tier_problem(tiers: &ValueTiersSpec, scored: &Schema) -> Option<Problem> {
    let problem = |what: String| Problem::new(what).at(tiers.place.clone());
    match scored.field_with_name(&tiers.by) {
        Ok(field) if field.data_type().is_numeric() => None,
        Ok(field) => Some(
            problem(format!("`value_tiers.by` is `{}`, which holds {}", tiers.by, field.data_type()))
                .hint("name a column that holds numbers"),
        ),
        Err(_) => {
            let problem = problem(format!("`value_tiers.by` is `{}`, which is no feature and no score", tiers.by));
            Some(match nearest(&tiers.by, scored.fields().iter().map(|f| f.name().as_str())) {
                Some(hint) => problem.hint(hint),
                None => problem,
            })
        }
    }
}
