//! Commits: which run's tables a night holds. The highest number is in force; a number is given out once.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::lake::{InputObject, PutOutcome, Store};
use crate::{Error, Result, hash};

/// What a run is made of; two runs with equal parts give the same bytes.
#[derive(Debug, Clone, Serialize)]
pub struct KeyParts {
    /// The job's hash.
    pub job: String,
    /// The night.
    pub as_of: NaiveDate,
    /// Every SQL file with its hash.
    pub sql: BTreeMap<String, String>,
    /// The hash of the model bundle's manifest, where there is a model.
    pub model: Option<String>,
    /// The objects that are read, sorted by table and path.
    pub inputs: Vec<InputObject>,
    /// The key of the night before, where stages look back on it.
    pub previous: Option<String>,
}

/// The name of a computation: SHA-256 over its [`KeyParts`] and this program's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunKey(String);

impl RunKey {
    /// The key of these parts; the order of the inputs does not matter.
    pub fn of(parts: &KeyParts) -> Self {
        let mut parts = parts.clone();
        parts.inputs.sort();
        // JSON with sorted maps is one text per value; plain strings and numbers cannot fail to be written.
        let text = serde_json::json!({ "engine": env!("CARGO_PKG_VERSION"), "parts": parts }).to_string();
        RunKey(hash::of_bytes(text))
    }

    /// 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The run's name: the night and the first 12 digits of the key.
    pub fn run_id(&self, as_of: NaiveDate) -> String {
        format!("{as_of}-{}", self.0.get(..12).unwrap_or(&self.0))
    }
}

/// The set of tables that a run puts in force for a night.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The format of this file.
    pub version: u32,
    /// Its place in the night's history, from 1.
    pub number: u32,
    /// The run.
    pub run_id: String,
    /// The run's key.
    pub key: RunKey,
    /// The night.
    pub as_of: NaiveDate,
    /// The tables, sorted by name; a withdrawal has none.
    pub tables: Vec<CommittedTable>,
    /// The commit that this one takes back; no run of the night is in force then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdraws: Option<Withdrawal>,
}

/// A commit that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// Its number.
    pub number: u32,
    /// Its run.
    pub run_id: String,
    /// Where its tables were, below the published folder.
    pub tables: Vec<String>,
}

/// A table of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedTable {
    /// Its name.
    pub name: String,
    /// Where readers find it, below the published folder.
    pub path: String,
    /// Where it waits until it is in place.
    pub staged: String,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// The hash of its bytes.
    pub sha256: String,
}

impl Commit {
    /// One of its tables by name.
    pub fn table(&self, name: &str) -> Option<&CommittedTable> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// The commit that takes this one back.
    pub(super) fn withdrawn(&self) -> Self {
        let tables = self.tables.iter().map(|table| table.path.clone()).collect();
        let number = self.number + 1;
        Commit {
            version: self.version,
            number,
            // No run has this name or this key: nobody takes the withdrawal for a run's own tables.
            run_id: format!("{}-withdrawal-{number:05}", self.as_of),
            key: RunKey(hash::of_bytes(format!("withdrawal {number} of {}", self.key.as_str()))),
            as_of: self.as_of,
            tables: Vec::new(),
            withdraws: Some(Withdrawal { number: self.number, run_id: self.run_id.clone(), tables }),
        }
    }

    /// The objects in staging that belong to it.
    pub(super) fn staged(&self) -> Vec<String> {
        let tables = self.tables.iter().map(|table| table.staged.clone());
        tables.chain(self.withdraws.iter().map(|_| marker(self))).collect()
    }
}

/// The object in staging that says that a withdrawal is under way.
pub(super) fn marker(withdrawal: &Commit) -> String {
    format!("{}/withdrawal.json", staging_folder(&withdrawal.run_id))
}

/// The folder of a night's commits and records.
pub(crate) fn night_folder(date: NaiveDate) -> String {
    format!("_runs/ds={date}")
}

/// Where readers find a table of a night.
pub fn place_of(table: &str, date: NaiveDate) -> String {
    format!("{table}/ds={date}/part-00000.parquet")
}

/// The folder of the objects that a run stages.
pub(super) fn staging_folder(run_id: &str) -> String {
    format!("_staging/{run_id}")
}

/// A staged object's path. The content is part of the name, so that two attempts never overwrite each other.
pub(super) fn staged_path(run_id: &str, table: &str, sha256: &str) -> String {
    format!("{}/{table}-{}.parquet", staging_folder(run_id), sha256.get(..12).unwrap_or(sha256))
}

/// The number in a commit's file name.
pub(crate) fn number_of(path: &str) -> Option<u32> {
    path.rsplit('/').next()?.strip_prefix("commit-")?.strip_suffix(".json")?.parse().ok()
}

/// The commit in force for a night, whole in place or not.
pub(super) async fn highest(store: &Store, date: NaiveDate) -> Result<Option<Commit>> {
    let listed = store.list(&night_folder(date)).await?;
    let Some((number, path)) = listed.iter().filter_map(|o| Some((number_of(&o.path)?, &o.path))).max() else {
        return Ok(None);
    };
    let bytes = store.get_listed(path).await?;
    let commit: Commit = serde_json::from_slice(&bytes).map_err(|e| {
        Error::user(format!("`{}` is not a commit that this version can read", store.url_of(path))).because(e)
    })?;
    if commit.number != number || commit.as_of != date {
        return Err(Error::user(format!("`{}` speaks of another commit", store.url_of(path)))
            .hint("was the folder moved or edited by hand?"));
    }
    Ok(Some(commit))
}

/// Tries to take a commit's number.
pub(super) async fn put(store: &Store, commit: &Commit) -> Result<PutOutcome> {
    let path = format!("{}/commit-{:05}.json", night_folder(commit.as_of), commit.number);
    let text = serde_json::to_vec_pretty(commit).map_err(|e| Error::bug("a commit cannot be written").because(e))?;
    store.put_new(&path, text).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> KeyParts {
        let input = |path: &str| InputObject { table: "orders".into(), path: path.into(), size: 1, etag: None };
        KeyParts {
            job: "j".into(),
            as_of: NaiveDate::from_ymd_opt(2026, 7, 1).unwrap(),
            sql: BTreeMap::from([("a.sql".into(), "1".into())]),
            model: None,
            inputs: vec![input("a"), input("b")],
            previous: None,
        }
    }

    #[test]
    fn the_key_changes_with_every_part_and_with_nothing_else() {
        let key = RunKey::of(&parts());
        let mut reordered = parts();
        reordered.inputs.reverse();
        assert_eq!(RunKey::of(&reordered), key);

        let changes: [fn(&mut KeyParts); 8] = [
            |p| p.job = "k".into(),
            |p| p.as_of = p.as_of.succ_opt().unwrap(),
            |p| p.sql.values_mut().for_each(|v| v.push('2')),
            |p| p.model = Some("m".into()),
            |p| p.inputs.truncate(1),
            |p| p.inputs[0].size = 2,
            |p| p.inputs[0].etag = Some("e".into()),
            |p| p.previous = Some("n".into()),
        ];
        let mut keys: Vec<RunKey> = changes
            .iter()
            .map(|change| {
                let mut changed = parts();
                change(&mut changed);
                RunKey::of(&changed)
            })
            .collect();
        keys.push(key);
        for (i, one) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(one), "change {i} does not reach the key");
        }
    }

    #[test]
    fn a_run_is_named_by_its_night_and_key() {
        let id = RunKey::of(&parts()).run_id(parts().as_of);
        assert!(id.starts_with("2026-07-01-") && id.len() == "2026-07-01-".len() + 12, "{id}");
    }

    #[test]
    fn only_commits_have_numbers() {
        assert_eq!(number_of("_runs/ds=2026-07-01/commit-00012.json"), Some(12));
        assert_eq!(number_of("_runs/ds=2026-07-01/2026-07-01-abc.json"), None);
    }
}
