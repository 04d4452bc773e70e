//! What killed runs left half in place, found without looking at every night: whatever is unfinished has something in staging.

use std::collections::BTreeSet;

use chrono::NaiveDate;

use super::{commit, nights, recorded_in_place, resume, withdraw};
use crate::Result;
use crate::error::Class;
use crate::lake::Store;

/// What became of a night that was half in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// All tables of this run are in place now.
    Placed(String),
    /// The tables of this run are gone now: it had been withdrawn.
    Withdrawn(String),
    /// It cannot be finished without computing it again, and why.
    Unfinished(String),
}

/// A night that somebody has left half in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingNight {
    /// The night.
    pub as_of: NaiveDate,
    /// What became of it.
    pub finished: Finished,
}

impl std::fmt::Display for PendingNight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let as_of = self.as_of;
        match &self.finished {
            Finished::Placed(run) => {
                write!(f, "the night of {as_of} was half in place; its run `{run}` is whole in place now")
            }
            Finished::Withdrawn(run) => {
                write!(f, "the night of {as_of} was half withdrawn; nothing of its run `{run}` is left")
            }
            Finished::Unfinished(why) => {
                write!(
                    f,
                    "the night of {as_of} is half in place ({why}): run it again, `tenure run JOB --as-of {as_of}`"
                )
            }
        }
    }
}

/// Finishes every night that a killed run or withdrawal left half done, and removes what killed processes left half written.
pub async fn finish_pending(store: &Store) -> Result<Vec<PendingNight>> {
    sweep(store).await?;
    store.refuse_links("_staging/x")?;
    let night = |path: &str| path.strip_prefix("_staging/")?.get(..10)?.parse::<NaiveDate>().ok();
    let staged: BTreeSet<NaiveDate> =
        store.list("_staging").await?.iter().filter_map(|object| night(&object.path)).collect();
    let mut pending = Vec::new();
    for as_of in staged {
        let finished = match finish_night(store, as_of).await {
            Ok(finished) => finished,
            Err(error) if error.class() == Class::User => Some(Finished::Unfinished(error.to_string())),
            Err(error) => return Err(error),
        };
        pending.extend(finished.map(|finished| PendingNight { as_of, finished }));
    }
    Ok(pending)
}

/// `None` where nothing was to be done: the run is still at work, or was killed before it committed anything.
async fn finish_night(store: &Store, as_of: NaiveDate) -> Result<Option<Finished>> {
    let Some(commit) = commit::highest(store, as_of).await? else { return Ok(None) };
    if let Some(withdrawal) = &commit.withdraws {
        if store.head(&commit::marker(&commit)).await?.is_none() {
            return Ok(None);
        }
        withdraw::finish(store, &commit).await?;
        return Ok(Some(Finished::Withdrawn(withdrawal.run_id.clone())));
    }
    let was_in_place = recorded_in_place(store, &commit).await?.is_some();
    Ok(match resume(store, &commit).await? {
        Some(_) if was_in_place => None,
        Some(_) => Some(Finished::Placed(commit.run_id)),
        None => Some(Finished::Unfinished("what its run had staged is no longer whole".to_owned())),
    })
}

/// Removes half-written files of killed processes on a local disk: those of earlier versions are data to readers of folders.
async fn sweep(store: &Store) -> Result<()> {
    if store.local_path("x")?.is_none() {
        return Ok(());
    }
    let mut folders = vec!["_runs".to_owned(), "_staging".to_owned()];
    if let Some(newest) = nights(store).await?.pop()
        && let Some(commit) = commit::highest(store, newest).await?
    {
        folders.extend(commit.tables.into_iter().map(|table| table.name));
    }
    store.sweep(folders).await
}
