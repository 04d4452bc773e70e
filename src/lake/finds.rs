//! What the checks found in files that are complete: kept from one night to the next, which then checks new files alone.
//!
//! A file is complete at a date where all of its rows had happened and were known before. What was found in such files adds up,
//! so one sum per table stands for all of them; where one of them changed or went, everything is looked at again.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use datafusion::execution::runtime_env::RuntimeEnv;
use serde::{Deserialize, Serialize};

use super::files::InputObject;
use super::objects::TableObjects;
use super::provider::LakeTable;
use super::report::Found;
use super::store::Store;
use crate::error::Class;
use crate::spec::{Format, TableSpec};
use crate::{Error, Result, hash};

/// Where finds are, beside the states of features: a file per table.
const FOLDER: &str = "checks";

/// What was found in some files.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Finds {
    /// A hash of what the finds depend on beside the files.
    identity: String,
    /// The files are complete from this time on.
    until: DateTime<Utc>,
    objects: Vec<InputObject>,
    pub found: Found,
}

/// The files of a table tonight.
pub(super) struct Split {
    /// What is known of some.
    pub known: Option<Finds>,
    /// The paths of other complete ones, and of those that may still get rows.
    pub complete: HashSet<String>,
    pub open: HashSet<String>,
}

impl Finds {
    /// What is known of a table's files; what cannot be read is not known. `None` where nothing may be, or is for a later night.
    pub async fn split(store: &Store, table: &LakeTable, runtime: &RuntimeEnv) -> Result<Option<Split>> {
        if table.spec.format != Format::Parquet || table.spec.event_time.is_none() {
            return Ok(None);
        }
        let objects = TableObjects::of(table);
        let all = objects.all();
        let known = read(store, &table.spec).await.filter(|known| known.identity == identity(table));
        if known.as_ref().is_some_and(|known| known.until > until(table)) {
            return Ok(None);
        }
        let here: HashSet<&InputObject> = all.iter().filter(|object| object.etag.is_some()).collect();
        let known = known.filter(|known| known.objects.iter().all(|object| here.contains(object)));
        let seen: HashSet<&str> =
            known.iter().flat_map(|known| &known.objects).map(|object| object.path.as_str()).collect();
        let mut open: HashSet<String> =
            all.iter().map(|object| object.path.clone()).filter(|path| !seen.contains(path.as_str())).collect();
        let complete = match objects.complete(&open, runtime).await {
            Ok(complete) => complete,
            // A file that does not say when its rows happened may get others at any time.
            Err(error) if error.class() == Class::User => return Ok(None),
            Err(error) => return Err(error),
        };
        let tagged: HashSet<&str> = here.iter().map(|object| object.path.as_str()).collect();
        let complete: HashSet<String> = complete.into_iter().filter(|path| tagged.contains(path.as_str())).collect();
        open.retain(|path| !complete.contains(path));
        Ok(Some(Split { known, complete, open }))
    }

    /// Finds of more files, which are complete.
    pub fn and(known: Option<Finds>, table: &LakeTable, complete: &HashSet<String>, found: Found) -> Finds {
        let (mut objects, sum) = known.map_or((Vec::new(), None), |known| (known.objects, Some(known.found)));
        objects.extend(TableObjects::of(table).all().into_iter().filter(|object| complete.contains(&object.path)));
        objects.sort();
        let found = match sum {
            Some(sum) => sum.and(found),
            None => found,
        };
        Finds { identity: identity(table), until: until(table), objects, found }
    }

    /// Keeps them for later nights.
    pub async fn write(&self, store: &Store, table: &TableSpec) -> Result<()> {
        let words = serde_json::to_string(self).map_err(|e| Error::bug("finds cannot be written").because(e))?;
        store.put(&path_of(table), format!("{:08x}\n{words}", crc32c::crc32c(words.as_bytes()))).await
    }
}

/// Forgets what is known of any table.
pub async fn forget(store: &Store) -> Result<()> {
    for object in store.list(FOLDER).await? {
        store.delete(&object.path).await?;
    }
    Ok(())
}

async fn read(store: &Store, table: &TableSpec) -> Option<Finds> {
    let bytes = store.find(&path_of(table)).await.ok().flatten()?;
    let (sum, words) = std::str::from_utf8(&bytes).ok()?.split_once('\n')?;
    let whole = u32::from_str_radix(sum, 16).ok()? == crc32c::crc32c(words.as_bytes());
    serde_json::from_str(words).ok().filter(|_| whole)
}

/// When everything that a session shows had happened and was known.
fn until(table: &LakeTable) -> DateTime<Utc> {
    table.at.until.min(table.at.known)
}

fn path_of(table: &TableSpec) -> String {
    format!("{FOLDER}/{}.json", table.name)
}

fn identity(table: &LakeTable) -> String {
    let checks: Vec<_> =
        table.checks.rows.iter().map(|check| (check.index, check.broken.to_string(), check.on_fail)).collect();
    let (program, known_at) = (env!("CARGO_PKG_VERSION"), &table.spec.known_at);
    hash::of_bytes(format!("{program} {} {known_at:?} {checks:?}", TableObjects::of(table).identity()))
}
