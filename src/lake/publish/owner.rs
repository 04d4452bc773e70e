//! Whose a published folder is: the job that first published there. Another job would replace its nights.
//!
//! `_runs/owner.json` is put by the first commit, create-only. A folder that was published before there were owners belongs to the
//! job of its newest record.

use arrow::datatypes::DataType;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{commit, nights, record_of};
use crate::lake::tables::type_name;
use crate::lake::{PutOutcome, Store};
use crate::ledger::clock;
use crate::{Error, Result};

/// Where it says whose the folder is.
const PATH: &str = "_runs/owner.json";
/// The format of the file.
const VERSION: u32 = 1;

/// The job that a published folder belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    version: u32,
    /// Its name.
    pub job: String,
    /// The column that names a customer.
    pub key: String,
    /// The type of that column.
    pub key_type: String,
    /// When the folder came to belong to it.
    pub since: DateTime<Utc>,
}

impl Owner {
    /// A job by its name and the key of its customers, as of now.
    pub fn new(job: impl Into<String>, key: impl Into<String>, key_type: &DataType) -> Self {
        let key_type = type_name(key_type);
        Owner { version: VERSION, job: job.into(), key: key.into(), key_type, since: clock() }
    }

    /// The recorded owner of a folder.
    pub async fn load(store: &Store) -> Result<Option<Self>> {
        let Some(bytes) = store.find(PATH).await? else { return Ok(None) };
        let unreadable = |why: String| {
            Error::user(format!("`{}` does not say whose the folder is: {why}", store.url_of(PATH)))
                .hint("`tenure runs adopt JOB` writes it anew")
        };
        match serde_json::from_slice::<Owner>(&bytes) {
            Ok(owner) if owner.version == VERSION => Ok(Some(owner)),
            Ok(owner) => Err(unreadable(format!("its version is {}, and this program knows {VERSION}", owner.version))),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    /// Refuses a folder of another job, or of this one under another key. `true` says that the folder's owner is recorded.
    pub async fn check(&self, store: &Store) -> Result<bool> {
        for folder in ["_runs", "_staging"] {
            store.refuse_links(&format!("{folder}/x"))?;
        }
        if let Some(owner) = Self::load(store).await? {
            return self.compare(&owner, store).map(|()| true);
        }
        match newest_job(store).await? {
            Some(job) if job != self.job => Err(self.refused(&job, store)),
            Some(_) => Ok(false),
            None => self.refuse_nested(store).await.map(|()| false),
        }
    }

    /// Takes a folder that nobody owns yet; of two jobs that try at once, one is refused.
    pub(super) async fn claim(&self, store: &Store) -> Result<()> {
        if store.put_new(PATH, self.text()?).await? == PutOutcome::Created {
            return Ok(());
        }
        match Self::load(store).await? {
            Some(owner) => self.compare(&owner, store),
            None => Err(Error::infra(format!("`{}` is gone", store.url_of(PATH)))),
        }
    }

    /// Makes the folder this job's, whosever it was; gives the owner before it, if one was recorded.
    pub async fn adopt(&self, store: &Store) -> Result<Option<Self>> {
        // One that cannot be read is written anew.
        let before = Self::load(store).await.ok().flatten();
        store.put(PATH, self.text()?).await?;
        Ok(before)
    }

    /// Says that the nights of a folder have other keys.
    pub fn other_key(&self, key: &str, key_type: &str, store: &Store) -> Error {
        let (now, now_type) = (&self.key, &self.key_type);
        Error::user(format!(
            "the nights in `{}` name customers by `{key}` ({key_type}), and the job `{}` now by `{now}` ({now_type})",
            store.url(),
            self.job
        ))
        .hint(
            "give the job another `publish.path`, or run `tenure runs adopt JOB`: then stages begin anew, and predictions under \
             the old key are not compared with what happened",
        )
    }

    fn compare(&self, owner: &Owner, store: &Store) -> Result<()> {
        if owner.job != self.job {
            return Err(self.refused(&owner.job, store));
        }
        match owner.key == self.key && is_alike(&owner.key_type, &self.key_type) {
            true => Ok(()),
            false => Err(self.other_key(&owner.key, &owner.key_type, store)),
        }
    }

    fn refused(&self, job: &str, store: &Store) -> Error {
        let (url, own) = (store.url(), &self.job);
        Error::user(format!("`{url}` belongs to the job `{job}`, and `{own}` would replace its nights")).hint(format!(
            "give `{own}` a `publish.path` of its own; if `{job}` is this job's former name, run `tenure runs adopt JOB` once"
        ))
    }

    /// Refuses a new folder within another job's: who reads that one would read both.
    async fn refuse_nested(&self, store: &Store) -> Result<()> {
        let mut url = store.url().clone();
        loop {
            let segments = url.path_segments().into_iter().flatten().filter(|segment| !segment.is_empty()).count();
            if segments < 2 {
                return Ok(());
            }
            if let Ok(mut path) = url.path_segments_mut() {
                path.pop_if_empty().pop().push("");
            }
            // A folder above may be one that we may not read.
            let above = store.at(&url)?;
            if let Ok(Some(owner)) = Self::load(&above).await {
                return Err(Error::user(format!(
                    "`{}` lies within `{url}`, which belongs to the job `{}`",
                    store.url(),
                    owner.job
                ))
                .hint("give this job a `publish.path` outside of it"));
            }
        }
    }

    fn text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|e| Error::bug("an owner cannot be written").because(e))
    }
}

/// Whether keys of these types can be the same: whole numbers of any width can.
pub fn is_alike(one: &str, other: &str) -> bool {
    let whole = |name: &str| name.starts_with("int") || name.starts_with("uint");
    one == other || (whole(one) && whole(other))
}

/// The same of Arrow types.
pub fn are_keys_alike(one: &DataType, other: &DataType) -> bool {
    is_alike(&type_name(one), &type_name(other))
}

/// The job of the newest night that has a record.
async fn newest_job(store: &Store) -> Result<Option<String>> {
    for night in nights(store).await?.into_iter().rev() {
        if let Some(commit) = commit::highest(store, night).await?
            && let Some(record) = record_of(store, &commit).await?
            && !record.job.is_empty()
        {
            return Ok(Some(record.job));
        }
    }
    Ok(None)
}
