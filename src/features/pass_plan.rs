//! What a pass reads together, in words: `tenure features plan`.

use datafusion::prelude::SessionContext;

use super::bench::Bench;
use super::fusion::{Recipe, Source};
use super::prepare::FilePlan;
use super::set::FeatureSet;
use crate::spec::TableSpec;
use crate::{AsOf, Result};

/// How the files of a job are computed.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PassPlan {
    /// The scans.
    pub scans: Vec<SharedScan>,
    /// Files that run as they are written.
    pub alone: Vec<LoneFile>,
    /// Files over the columns of others.
    pub derived: Vec<String>,
}

/// A scan and the files that share it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct SharedScan {
    /// What is read.
    pub reads: String,
    /// The files.
    pub files: Vec<String>,
    /// Expressions that are worked out once for every row.
    pub expressions: usize,
    /// Different aggregates.
    pub aggregates: usize,
    /// Spans of time that rows are sorted into.
    pub buckets: usize,
    /// Columns that are merged from the buckets.
    pub columns: usize,
    /// Why no states stand in for the rows of past days, where the job keeps states.
    pub no_states: Option<String>,
}

/// A file that shares nothing.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct LoneFile {
    /// The file.
    pub file: String,
    /// Why.
    pub why: String,
}

impl FeatureSet {
    /// Which files are computed together at `as_of`, and which are not and why, where `states` are kept or not. The tables may be
    /// empty.
    pub async fn pass_plan(
        &self,
        context: &SessionContext,
        tables: &(impl AsRef<[TableSpec]> + Sync + ?Sized),
        as_of: AsOf,
        states: bool,
    ) -> Result<PassPlan> {
        let bench = Bench::over(context).await?;
        let prepared = self.prepared(&bench, tables.as_ref(), as_of).await?;
        let mut plan = PassPlan { scans: Vec::new(), alone: Vec::new(), derived: Vec::new() };
        let mut recipes: Vec<(usize, usize, &Recipe)> = Vec::new();
        for (place, file) in prepared.files.iter().enumerate() {
            let name = file.definition.file.clone();
            match &file.plan {
                FilePlan::Derived(..) => plan.derived.push(name),
                FilePlan::Joined(part) => match &part.recipe {
                    Ok(recipe) => recipes.push((place, 0, recipe)),
                    Err(why) => plan.alone.push(LoneFile { file: name, why: why.clone() }),
                },
            }
        }
        for source in Source::of(&recipes, states)? {
            plan.scans.push(SharedScan {
                reads: source.reads(),
                files: source.recipes().map(|place| prepared.files[place].definition.file.clone()).collect(),
                expressions: source.expressions(),
                aggregates: source.aggregates(),
                buckets: source.buckets(),
                columns: source.windows(),
                no_states: source.unsteady().filter(|_| states).map(str::to_owned),
            });
        }
        Ok(plan)
    }
}

impl std::fmt::Display for PassPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for scan in &self.scans {
            let SharedScan { reads, files, expressions, aggregates, buckets, columns, no_states } = scan;
            writeln!(f, "scan of {reads}")?;
            for file in files {
                writeln!(f, "  {file}")?;
            }
            let work = format!("{expressions} expressions, {aggregates} aggregates, {buckets} buckets of time");
            writeln!(f, "  {work} → {columns} columns")?;
            if let Some(why) = no_states {
                writeln!(f, "  reads every row every night: {why}")?;
            }
            writeln!(f)?;
        }
        for LoneFile { file, why } in &self.alone {
            writeln!(f, "alone: {file}\n  {why}\n")?;
        }
        for file in &self.derived {
            writeln!(f, "derived: {file}")?;
        }
        Ok(())
    }
}
