//! Moving objects: local file → staging → the place where readers look.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::StreamExt;
use object_store::{ObjectStoreExt, WriteMultipart};
use sha2::{Digest, Sha256};

use super::commit::{self, Commit, CommittedTable};
use crate::lake::{Store, StoredObject};
use crate::ledger::PlacedTable;
use crate::{Error, Result, failpoint};

/// The local files of a run by table; empty where another process wrote them.
pub(super) type LocalFiles = BTreeMap<String, PathBuf>;

/// How often a set is put in place again when a run that lost the night was still placing its own.
const ROUNDS: usize = 3;

/// Uploads local files to their staging places.
pub(super) async fn stage(store: &Store, tables: &[CommittedTable], files: &LocalFiles) -> Result<()> {
    for table in tables {
        failpoint::reach("publish.staging");
        upload(store, table, files).await?;
        failpoint::reach("publish.staged");
    }
    Ok(())
}

async fn upload(store: &Store, table: &CommittedTable, files: &LocalFiles) -> Result<()> {
    let Some(file) = files.get(&table.name) else {
        return Err(lost(store, table));
    };
    if is_size(&store.head(&table.staged).await?, table.bytes) {
        return Ok(()); // An earlier attempt of this run staged the same bytes.
    }
    store.upload(file, &table.staged).await?;
    match store.head(&table.staged).await? {
        found if is_size(&found, table.bytes) => Ok(()),
        _ => Err(Error::infra(format!("`{}` did not arrive whole", store.url_of(&table.staged)))),
    }
}

/// Deletes what a finished commit still has in staging.
pub(super) async fn clean(store: &Store, commit: &Commit) -> Result<()> {
    for object in store.list(&commit::staging_folder(&commit.run_id)).await? {
        store.delete(&object.path).await?;
    }
    Ok(())
}

/// Deletes what other runs of the night have staged: from here on none of them can put anything in place.
pub(super) async fn fence(store: &Store, commit: &Commit) -> Result<()> {
    let night = format!("_staging/{}-", commit.as_of);
    let kept = commit.staged();
    for object in store.list("_staging").await? {
        if object.path.starts_with(&night) && !kept.contains(&object.path) {
            store.delete(&object.path).await?;
        }
    }
    Ok(())
}

/// Puts every table of a commit in place and makes sure that it stays there: no newer commit came, and nobody wrote over
/// it meanwhile.
pub(super) async fn promote(store: &Store, commit: &Commit, files: &LocalFiles) -> Result<Vec<PlacedTable>> {
    for _ in 0..ROUNDS {
        let mut placed = Vec::with_capacity(commit.tables.len());
        for table in &commit.tables {
            failpoint::reach("publish.promoting");
            placed.push(promote_one(store, commit, table, files).await?);
            failpoint::reach("publish.promoted");
        }
        still_in_force(store, commit).await?;
        if are_in_place(store, &placed).await? {
            return Ok(placed);
        }
    }
    Err(Error::infra(format!("another run keeps writing over the night of {}", commit.as_of))
        .hint("run it again when no other run of this night is at work"))
}

async fn promote_one(
    store: &Store,
    commit: &Commit,
    table: &CommittedTable,
    files: &LocalFiles,
) -> Result<PlacedTable> {
    let mut staged = store.head(&table.staged).await?;
    if !is_size(&staged, table.bytes) {
        if holds(store, &table.path, table).await? {
            return placed(table, store.head(&table.path).await?).ok_or_else(|| lost(store, table));
        }
        // A run that commits the night deletes what others staged: those that staged before it, and those it takes over from.
        still_in_force(store, commit).await?;
        upload(store, table, files).await?;
        still_in_force(store, commit).await?;
        staged = store.head(&table.staged).await?;
    }
    let there = store.head(&table.path).await?;
    if !same_object(&staged, &there) {
        copy(store, table).await?;
    }
    let found = store.head(&table.path).await?;
    placed(table, found).ok_or_else(|| {
        Error::infra(format!("`{}` is not what was put there", store.url_of(&table.path)))
            .hint("is another run of this night at work? run it again")
    })
}

/// Copies within the store; where the store cannot (too large, no links), through this process.
async fn copy(store: &Store, table: &CommittedTable) -> Result<()> {
    let Err(refused) = store.copy(&table.staged, &table.path).await else { return Ok(()) };
    if store.head(&table.staged).await?.is_none() {
        return Err(lost(store, table).because(refused));
    }
    tracing::debug!(error = %refused, path = table.path, "the store did not copy; relaying");
    relay(store, table)
        .await
        .map_err(|e| Error::infra(format!("`{}` cannot be put in place", store.url_of(&table.path))).because(e))
}

async fn relay(store: &Store, table: &CommittedTable) -> object_store::Result<()> {
    let inner = store.inner();
    let mut content = inner.get(&store.full_path(&table.staged)).await?.into_stream();
    let mut upload = WriteMultipart::new(inner.put_multipart(&store.full_path(&table.path)).await?);
    while let Some(part) = content.next().await {
        let sent = match part {
            Ok(part) => upload.wait_for_capacity(4).await.map(|()| upload.put(part)),
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            let _ = upload.abort().await;
            return Err(error);
        }
    }
    upload.finish().await.map(|_| ())
}

/// Whether this commit is still the night's highest.
pub(super) async fn still_in_force(store: &Store, commit: &Commit) -> Result<()> {
    match commit::highest(store, commit.as_of).await? {
        Some(highest) if highest.number == commit.number => Ok(()),
        Some(newer) if newer.withdraws.is_some() => {
            Err(Error::infra(format!("the night of {} was withdrawn while its tables were being placed", commit.as_of))
                .hint("run it again if it is to be published after all"))
        }
        Some(newer) => Err(Error::infra(format!(
            "the run `{}` took over the night of {} while this one was placing its tables",
            newer.run_id, commit.as_of
        ))
        .hint("run it again; two runs of one night with different inputs are best not started at once")),
        None => Err(Error::infra(format!("the commits of the night of {} are gone", commit.as_of))),
    }
}

/// Whether every table can be put in place (or is there) without computing it again; reads and hashes the objects.
pub(super) async fn can_finish(store: &Store, commit: &Commit) -> Result<bool> {
    for table in &commit.tables {
        if !holds(store, &table.path, table).await? && !holds(store, &table.staged, table).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether an object's bytes are those that were committed.
async fn holds(store: &Store, path: &str, table: &CommittedTable) -> Result<bool> {
    if !is_size(&store.head(path).await?, table.bytes) {
        return Ok(false);
    }
    let read = async {
        let mut content = store.inner().get(&store.full_path(path)).await?.into_stream();
        let mut hasher = Sha256::new();
        while let Some(part) = content.next().await {
            hasher.update(part?);
        }
        Ok(crate::hash::hex(hasher.finalize()))
    };
    match read.await {
        Ok(hash) => Ok(hash == table.sha256),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(Error::infra(format!("`{}` cannot be read", store.url_of(path))).because(error)),
    }
}

/// Whether the objects are still those that were recorded: by size and etag, nothing is read.
pub(super) async fn are_in_place(store: &Store, placed: &[PlacedTable]) -> Result<bool> {
    for table in placed {
        match store.head(&table.path).await? {
            Some(found) if found.size == table.bytes && found.etag == table.etag => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn is_size(object: &Option<StoredObject>, bytes: u64) -> bool {
    object.as_ref().is_some_and(|object| object.size == bytes)
}

/// A local copy is a second name of the same file, and S3's etags are hashes: equal ones need no copy.
fn same_object(staged: &Option<StoredObject>, there: &Option<StoredObject>) -> bool {
    match (staged, there) {
        (Some(staged), Some(there)) => staged.etag.is_some() && staged.etag == there.etag && staged.size == there.size,
        _ => false,
    }
}

fn placed(table: &CommittedTable, found: Option<StoredObject>) -> Option<PlacedTable> {
    let found = found.filter(|found| found.size == table.bytes)?;
    Some(PlacedTable {
        name: table.name.clone(),
        path: table.path.clone(),
        rows: table.rows,
        bytes: table.bytes,
        sha256: table.sha256.clone(),
        etag: found.etag,
    })
}

fn lost(store: &Store, table: &CommittedTable) -> Error {
    Error::infra(format!("`{}` is gone before it was in place", store.url_of(&table.staged)))
        .hint("is another run of this night at work? run it again")
}
