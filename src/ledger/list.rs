//! Finding runs: the newest ones, or one by its name.

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::RunRecord;
use crate::lake::publish::number_of;
use crate::lake::{Store, StoredObject};
use crate::{Error, Result};

/// How many records are read at once.
const READS: usize = 16;

/// The records of a published folder.
#[derive(Debug, Clone)]
pub struct Ledger {
    store: Store,
}

/// The newest runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Listing {
    /// The runs, newest first by their start.
    pub runs: Vec<RunRecord>,
    /// Files that are no records, or of a version that this program does not know.
    pub unreadable: Vec<Unreadable>,
    /// How many runs there are in all.
    pub total: usize,
}

/// A file under `_runs/` that is no record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its URL.
    pub url: String,
    /// Why.
    pub reason: String,
}

impl Ledger {
    /// The ledger of a published folder.
    pub fn new(store: Store) -> Self {
        Ledger { store }
    }

    /// The `limit` runs that were written last; a record that cannot be read does not hide the others.
    pub async fn list(&self, limit: usize) -> Result<Listing> {
        let mut files = self.files().await?;
        let total = files.len();
        files.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| b.path.cmp(&a.path)));
        files.truncate(limit);
        let reads = files.iter().map(|file| async move { Ok::<_, Error>((file, self.store.find(&file.path).await?)) });
        let read: Vec<_> = futures::stream::iter(reads).buffered(READS).try_collect().await?;

        let mut listing = Listing { runs: Vec::new(), unreadable: Vec::new(), total };
        for (file, bytes) in read {
            match bytes.map(|bytes| RunRecord::parse(&bytes)) {
                None => {} // Deleted since it was listed.
                Some(Ok(record)) => listing.runs.push(record),
                Some(Err(error)) => listing
                    .unreadable
                    .push(Unreadable { url: self.store.url_of(&file.path), reason: error.to_string() }),
            }
        }
        listing.runs.sort_by(|a, b| b.started.cmp(&a.started).then_with(|| b.run_id.cmp(&a.run_id)));
        Ok(listing)
    }

    /// One run, by its name or a beginning of it that no other run shares.
    pub async fn show(&self, id: &str) -> Result<RunRecord> {
        let files = self.files().await?;
        let ids: Vec<&str> = files.iter().filter_map(|file| run_id(&file.path)).collect();
        let mut matching: Vec<(&str, &StoredObject)> =
            ids.iter().copied().zip(&files).filter(|(known, _)| known.starts_with(id)).collect();
        if let Some(exact) = matching.iter().position(|(known, _)| *known == id) {
            matching = vec![matching.swap_remove(exact)];
        }
        match matching.as_slice() {
            [(_, file)] => {
                let url = self.store.url_of(&file.path);
                let bytes = self.store.get_listed(&file.path).await?;
                RunRecord::parse(&bytes)
                    .map_err(|e| Error::user(format!("`{url}` is not the record of a run")).because(e))
            }
            [] => Err(unknown(id, &ids, self.store.url())),
            several => {
                let names: Vec<&str> = several.iter().map(|(known, _)| *known).collect();
                Err(Error::user(format!("`{id}` is the beginning of {} runs", names.len()))
                    .hint(format!("say which: `{}`", names.join("`, `"))))
            }
        }
    }

    /// Every record's file, sorted by path.
    async fn files(&self) -> Result<Vec<StoredObject>> {
        let mut files = self.store.list("_runs").await?;
        files.retain(|file| run_id(&file.path).is_some());
        Ok(files)
    }
}

/// The run behind a path under `_runs/`; commits are no runs, and neither is the owner of the folder.
fn run_id(path: &str) -> Option<&str> {
    if number_of(path).is_some() {
        return None;
    }
    let (night, name) = path.strip_prefix("_runs/")?.split_once('/')?;
    name.strip_suffix(".json").filter(|_| night.starts_with("ds="))
}

fn unknown(id: &str, known: &[&str], url: &url::Url) -> Error {
    let error = Error::user(format!("there is no run `{id}` in `{url}`"));
    let nearest = known
        .iter()
        .map(|known| (strsim::jaro_winkler(id, known), *known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
    match nearest {
        Some((_, known)) => error.hint(format!("did you mean `{known}`?")),
        None if known.is_empty() => error.hint("nothing has run here yet"),
        None => error.hint("`tenure runs` lists them"),
    }
}
