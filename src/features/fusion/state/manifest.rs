//! What is in force in a folder of states: one JSON object per commit, numbered; the highest number counts.

use std::ops::{Range, RangeInclusive};

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::days::Block;
use crate::lake::{PutOutcome, Store};
use crate::{Error, Result};

/// The format of states and manifests. States of another one are not read.
pub const VERSION: u32 = 3;
const FOLDER: &str = "manifests";

/// Every state of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format.
    pub version: u32,
    /// The newest date that states were written at.
    pub as_of: NaiveDate,
    /// The tables as the states have seen them.
    pub tables: Vec<TableState>,
    /// The states, group by group.
    pub groups: Vec<GroupState>,
    /// Files that are in force no more, and may still be read by a run that began before.
    #[serde(default)]
    pub retired: Vec<Retired>,
}

/// A table's files, as the states of its groups have seen them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableState {
    pub name: String,
    /// What a file's rows depend on beside the file.
    pub identity: String,
    pub objects: Vec<SeenObject>,
}

/// A file and the days of its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeenObject {
    pub path: String,
    pub size: u64,
    pub etag: Option<String>,
    /// The first and the last day; `None` where no row has a time.
    pub days: Option<(i32, i32)>,
}

impl SeenObject {
    /// The days of its rows.
    pub fn range(&self) -> Option<RangeInclusive<i32>> {
        self.days.map(|(first, last)| first..=last)
    }
}

/// The states of what some feature files ask of one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupState {
    /// The hash of everything that a state depends on beside its rows.
    pub identity: String,
    /// The table.
    pub table: String,
    /// The feature files.
    pub files: Vec<String>,
    /// The last date at which it was used.
    pub used: NaiveDate,
    /// The blocks of days that have states.
    pub blocks: Vec<BlockState>,
}

/// The states of a block of days.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockState {
    /// The days.
    #[serde(flatten)]
    pub block: Block,
    /// Customers with rows.
    pub rows: u64,
    /// Where they are; a block without rows has no file.
    pub file: Option<StateFile>,
}

/// A file of states below the folder of the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateFile {
    /// Its path below the job's folder.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// The checksum of its bytes.
    pub crc32c: u32,
}

/// A file that is in force no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retired {
    pub path: String,
    /// The date of the night that dropped it.
    pub since: NaiveDate,
}

impl Manifest {
    /// An empty one.
    pub fn new(as_of: NaiveDate) -> Self {
        Manifest { version: VERSION, as_of, tables: Vec::new(), groups: Vec::new(), retired: Vec::new() }
    }

    /// The paths of every file in force, and of those that were until lately.
    pub fn known(&self) -> impl Iterator<Item = &str> {
        self.files().map(|file| file.path.as_str()).chain(self.retired.iter().map(|retired| retired.path.as_str()))
    }

    /// The first day of which a table's files have rows, as Arrow counts days.
    pub fn first_day(&self, table: &str) -> Option<i32> {
        let objects = self.tables.iter().filter(|known| known.name == table).flat_map(|known| &known.objects);
        objects.filter_map(|object| Some(object.days?.0)).min()
    }

    /// Every file in force.
    pub fn files(&self) -> impl Iterator<Item = &StateFile> {
        self.groups.iter().flat_map(|group| &group.blocks).filter_map(|block| block.file.as_ref())
    }
}

/// Whether two spans of days have one in common.
pub fn overlap(days: &Range<i32>, others: &RangeInclusive<i32>) -> bool {
    days.start <= *others.end() && *others.start() < days.end
}

/// The newest manifest.
pub struct Newest {
    /// Its number; 0 where there is none.
    pub number: u64,
    /// What it says, or why it cannot be read.
    pub manifest: std::result::Result<Option<Manifest>, String>,
}

/// The manifest in force.
pub async fn newest(store: &Store) -> Result<Newest> {
    let numbers = store.list(FOLDER).await?.into_iter().filter_map(|object| number_of(&object.path));
    let Some(number) = numbers.max() else { return Ok(Newest { number: 0, manifest: Ok(None) }) };
    let path = path_of(number);
    let url = store.url_of(&path);
    let Some(bytes) = store.find(&path).await? else {
        return Ok(Newest { number, manifest: Err(format!("`{url}` is gone")) });
    };
    let manifest = match serde_json::from_slice::<Manifest>(&bytes) {
        Ok(manifest) if manifest.version == VERSION => Ok(Some(manifest)),
        Ok(manifest) => Err(format!("`{url}` has the format {}, and this program has {VERSION}", manifest.version)),
        Err(error) => Err(format!("`{url}` cannot be read: {error}")),
    };
    Ok(Newest { number, manifest })
}

/// Puts a manifest in force behind the one with this number, unless somebody else did so first. Those before it go.
pub async fn commit(store: &Store, behind: u64, manifest: &Manifest) -> Result<PutOutcome> {
    let bytes = serde_json::to_vec(manifest).map_err(|e| Error::bug("a manifest cannot be written").because(e))?;
    let outcome = store.put_new(&path_of(behind + 1), bytes).await?;
    if outcome == PutOutcome::Created && behind > 1 {
        store.delete(&path_of(behind - 1)).await?;
    }
    Ok(outcome)
}

fn path_of(number: u64) -> String {
    format!("{FOLDER}/{number:08}.json")
}

fn number_of(path: &str) -> Option<u64> {
    path.strip_prefix(FOLDER)?.strip_prefix('/')?.strip_suffix(".json")?.parse().ok()
}
