//! Delta tables: which files a version of the table consists of, by its log.
//!
//! The log is read through the table's own object store, from the files that one listing of the folder shows, so that the
//! version and its files are those of one moment. Statistics in the log are not used: footers are read anyway. Of the crate
//! `delta_kernel` we use what unpacks deletion vectors. Its log replay lists and reads by itself, so that it could not be held to
//! one listing, and its errors name neither file nor line.
//!
//! What a table needs that is not read right is refused by name: see [`actions::Metadata`] and [`actions::Protocol`].

mod actions;
mod deletion;
mod files;
mod log;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use self::actions::{Action, Add, Metadata};
use self::log::{LogFiles, Segment};
use super::store;
use crate::spec::{TableSpec, TableVersion};
use crate::{Error, Result};

pub(super) use self::deletion::DeletedRows;
pub(super) use self::files::DeltaFile;

/// The folder of the log, below the table's.
pub(super) const LOG_FOLDER: &str = "_delta_log";
/// Files of the log that are read at a time.
const READS_IN_FLIGHT: usize = 16;

/// A version of a Delta table.
#[derive(Debug)]
struct DeltaTable {
    version: u64,
    /// The columns that its log, and no file, holds.
    partition_by: Vec<String>,
    /// All of its columns with their types.
    columns: HashMap<String, Option<String>>,
    files: Vec<ActiveFile>,
}

/// A file of a version.
#[derive(Debug)]
struct ActiveFile {
    /// Its path in the store.
    location: Path,
    size: u64,
    /// The values of the partition columns as text; NULL is `None`.
    partition: HashMap<String, Option<String>>,
    /// Rows of the file that are no part of the table.
    deleted: Option<Arc<DeletedRows>>,
}

/// A table's log.
pub(super) struct Log<'a> {
    table: &'a TableSpec,
    store: Arc<dyn ObjectStore>,
    /// The table's folder; ends with `/`.
    url: Url,
    files: LogFiles,
    sidecars: HashMap<String, ObjectMeta>,
}

impl<'a> Log<'a> {
    /// The log of a table in whose folder `metas` were listed; `below` is a path below that folder. `None` where there is none.
    pub fn find(
        table: &'a TableSpec,
        store: Arc<dyn ObjectStore>,
        metas: &[ObjectMeta],
        below: impl Fn(&Path) -> String,
    ) -> Option<Self> {
        let (mut files, mut sidecars) = (LogFiles::default(), HashMap::new());
        let mut is_delta = false;
        for meta in metas {
            let path = below(&meta.location);
            let Some(name) = path.strip_prefix(LOG_FOLDER).and_then(|rest| rest.strip_prefix('/')) else { continue };
            is_delta = true;
            match name.strip_prefix("_sidecars/") {
                Some(sidecar) => drop(sidecars.insert(sidecar.to_owned(), meta.clone())),
                None => files.insert(name, meta.clone()),
            }
        }
        let mut url = table.url.clone();
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        is_delta.then_some(Log { table, store, url, files, sidecars })
    }

    /// The version that the job file names, or the newest one.
    async fn snapshot(&self) -> Result<DeltaTable> {
        let newest = self.files.newest().ok_or_else(|| self.wrong(format!("`{}` holds no commit", self.folder())))?;
        let version = match &self.table.version {
            None => newest,
            Some(TableVersion::Number(version)) if *version <= newest => *version,
            Some(TableVersion::Number(version)) => {
                return Err(self.wrong(format!("there is no version {version}: the newest one is {newest}")));
            }
            Some(TableVersion::Timestamp(at)) => self.version_at(*at, newest).await?,
        };
        let state = self.replay(version).await?;
        self.table_of(version, state).await
    }

    /// The newest version that was committed at a time or before it: by the time in the commits where the table keeps one
    /// there, else by when the commits were written.
    async fn version_at(&self, at: chrono::DateTime<chrono::Utc>, newest: u64) -> Result<u64> {
        let commits = self.files.commit_times();
        let in_commits = self.replay(newest).await?.metadata.is_some_and(|metadata| metadata.has_commit_times());
        let mut found = None;
        let mut last = i64::MIN;
        for (version, meta) in commits {
            let written = match in_commits {
                true => self.commit_time(meta).await?.unwrap_or_else(|| meta.last_modified.timestamp_millis()),
                false => meta.last_modified.timestamp_millis(),
            };
            // As the protocol has it, the times of commits ascend.
            last = written.max(last.saturating_add(1));
            if last > at.timestamp_millis() {
                break;
            }
            found = Some(version);
        }
        found.ok_or_else(|| {
            let message = format!("its log does not reach back to {}", at.to_rfc3339());
            self.wrong(message).hint("name a later `timestamp`: older commits were cleaned up, or the log was copied")
        })
    }

    async fn commit_time(&self, meta: &ObjectMeta) -> Result<Option<i64>> {
        let actions = actions::parse(&self.fetch(meta).await?, &self.url_of(&meta.location), self.table)?;
        Ok(actions.into_iter().find_map(|action| action.commit_info?.in_commit_timestamp))
    }

    /// What the log says up to a version.
    async fn replay(&self, version: u64) -> Result<State> {
        let Segment { checkpoint, commits } = self.files.segment(version).map_err(|gap| {
            self.wrong(format!("`{}` lacks the commit of version {gap}", self.folder()))
                .hint("the log is not whole: restore it, or name a `version` that it still tells")
        })?;
        let mut state = State::default();
        let mut sidecars = Vec::new();
        for meta in checkpoint {
            for action in self.checkpoint(meta).await? {
                sidecars.extend(action.sidecar.iter().map(|sidecar| sidecar.path.clone()));
                state.apply(action);
            }
        }
        for path in sidecars {
            let name = path.rsplit('/').next().unwrap_or(&path);
            let meta = self.sidecars.get(name).ok_or_else(|| {
                self.wrong(format!("`{}/_sidecars/{name}` is not there, and a checkpoint refers to it", self.folder()))
            })?;
            self.checkpoint(meta).await?.into_iter().for_each(|action| state.apply(action));
        }
        let read = futures::stream::iter(commits.into_iter().map(|meta| async move {
            let bytes = self.fetch(meta).await?;
            actions::parse(&bytes, &self.url_of(&meta.location), self.table)
        }));
        let mut read = read.buffered(READS_IN_FLIGHT);
        while let Some(actions) = read.try_next().await? {
            // What a commit removes was there before it; what it adds stays, whatever the order of its lines.
            let (removed, other): (Vec<_>, Vec<_>) = actions.into_iter().partition(|action| action.remove.is_some());
            removed.into_iter().chain(other).for_each(|action| state.apply(action));
        }
        Ok(state)
    }

    async fn checkpoint(&self, meta: &ObjectMeta) -> Result<Vec<Action>> {
        let bytes = self.fetch(meta).await?;
        let url = self.url_of(&meta.location);
        if url.ends_with(".json") {
            return actions::parse(&bytes, &url, self.table);
        }
        let of_blocking = url.clone();
        let read = tokio::task::spawn_blocking(move || actions::json_of_checkpoint(bytes));
        let json = match read.await {
            Ok(json) => json,
            Err(error) => return Err(Error::task(&format!("the reader of `{of_blocking}`"), error)),
        };
        let json = json.map_err(|e| self.wrong(format!("`{url}` is no checkpoint that can be read")).because(e))?;
        actions::parse(&json, &url, self.table)
    }

    async fn table_of(&self, version: u64, state: State) -> Result<DeltaTable> {
        let State { protocol, metadata, active } = state;
        let (Some(protocol), Some(metadata)) = (protocol, metadata) else {
            return Err(self
                .wrong(format!("its log says neither how it is read nor what its columns are at version {version}")));
        };
        if let Some((message, hint)) = protocol.refusal().or_else(|| metadata.refusal()) {
            return Err(self.wrong(message).hint(hint));
        }
        let columns = metadata.columns().map_err(|e| self.wrong("the schema in its log cannot be read").because(e))?;
        let partition_by = metadata.partition_columns.clone();
        let mut files = self.active_files(active).await?;
        files.sort_by(|a, b| a.location.cmp(&b.location));
        if let Some(twice) = files.windows(2).find(|pair| pair[0].location == pair[1].location) {
            return Err(self.wrong(format!("its log lists `{}` twice", self.url_of(&twice[0].location))));
        }
        Ok(DeltaTable { version, partition_by, columns, files })
    }

    async fn active_files(&self, active: HashMap<FileKey, Add>) -> Result<Vec<ActiveFile>> {
        let vectors = active.values().filter_map(|add| add.deletion_vector.as_ref());
        let vectors = deletion::fetch(self.store.as_ref(), &self.url, vectors).await.map_err(|e| self.context(e))?;
        active
            .into_values()
            .map(|add| {
                let location = self.location(&add.path)?;
                let deleted = add.deletion_vector.map(|descriptor| vectors.read(descriptor)).transpose();
                let deleted = deleted.map_err(|e| self.context(e))?.map(Arc::new);
                let size = u64::try_from(add.size).unwrap_or_default();
                Ok(ActiveFile { location, size, partition: add.partition_values, deleted })
            })
            .collect()
    }

    /// Where a file is that the log names by a URL, mostly relative to the table's folder.
    fn location(&self, path: &str) -> Result<Path> {
        let outside = || {
            self.wrong(format!("its log lists `{path}`, which is outside of its folder"))
                .hint("a shallow clone is not read: clone the table whole (`DEEP CLONE`), or name the table that it was cloned from")
        };
        let url = self.url.join(path).map_err(|e| outside().because(e))?;
        if !url.as_str().starts_with(self.url.as_str()) {
            return Err(outside());
        }
        Path::from_url_path(url.path()).map_err(|e| outside().because(e))
    }

    async fn fetch(&self, meta: &ObjectMeta) -> Result<Bytes> {
        let read = async { self.store.get(&meta.location).await?.bytes().await };
        read.await.map_err(|e| store::failed(&self.url_of(&meta.location), "read", e))
    }

    fn folder(&self) -> String {
        format!("{}{LOG_FOLDER}", self.url)
    }

    fn url_of(&self, location: &Path) -> String {
        format!("{}/{location}", &self.url[..url::Position::BeforePath])
    }

    fn context(&self, error: Error) -> Error {
        error.context(format!("the Delta table `{}` cannot be read", self.table.name)).at(self.table.place.clone())
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::user(format!("the Delta table `{}` cannot be read: {what}", self.table.name))
            .at(self.table.place.clone())
    }
}

/// A file is known by its path and by which of its rows are deleted.
type FileKey = (String, Option<String>);

/// What the log says so far.
#[derive(Debug, Default)]
struct State {
    protocol: Option<actions::Protocol>,
    metadata: Option<Metadata>,
    active: HashMap<FileKey, Add>,
}

impl State {
    fn apply(&mut self, action: Action) {
        if let Some(remove) = action.remove {
            self.active.remove(&remove.key());
        }
        if let Some(add) = action.add {
            self.active.insert(add.key(), add);
        }
        self.protocol = action.protocol.or(self.protocol.take());
        self.metadata = action.metadata.or(self.metadata.take());
    }
}
