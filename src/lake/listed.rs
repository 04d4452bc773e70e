//! Reading a table's files as they were listed: each read gives bytes of the listed version, or fails as something that another try
//! mends.
//!
//! Loaders replace files while a night reads them. A remote object is asked for by its etag; a local file is held against the size,
//! time and inode of the listing before and after each read. What is read has the length that was asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, coalesce_ranges,
};

use super::store::{self, Store};
use crate::Error;
use crate::error::{Class, Problem};

/// Bytes of a local file that are read at a time.
const CHUNK: u64 = 1 << 20;
/// What helps against a file that changed under the reader.
const READ_AGAIN: &str = "run it again: the next run lists the table anew";

type Result<T, E = object_store::Error> = std::result::Result<T, E>;

/// An object store of which some objects are read as they were listed.
pub(super) struct ListedStore {
    inner: Arc<dyn ObjectStore>,
    local: Option<Arc<LocalFileSystem>>,
    /// `s3://bucket/` or `file:///`: what a path becomes a URL with.
    root: Arc<str>,
    listed: RwLock<HashMap<Path, ObjectMeta>>,
}

impl ListedStore {
    pub fn new(store: &Store) -> Self {
        let root = format!("{}/", &store.url()[..url::Position::BeforePath]);
        ListedStore { inner: store.inner(), local: store.local(), root: root.into(), listed: RwLock::default() }
    }

    /// From now on these objects are read as they were when they were listed.
    pub fn remember<'a>(&self, listed: impl Iterator<Item = &'a ObjectMeta>) {
        let mut known = self.listed.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(listed.map(|meta| (meta.location.clone(), meta.clone())));
    }

    fn listed(&self, location: &Path) -> Option<ObjectMeta> {
        self.listed.read().unwrap_or_else(PoisonError::into_inner).get(location).cloned()
    }

    /// The full URL of an object.
    pub fn url_of(&self, location: &Path) -> String {
        format!("{}{location}", self.root)
    }

    fn local_path(&self, location: &Path) -> Option<PathBuf> {
        self.local.as_ref()?.path_to_filesystem(location).ok()
    }

    /// Whether an object is still what it was when it was listed.
    pub async fn is_unchanged(&self, listed: &ObjectMeta) -> bool {
        let now = self.inner.head(&listed.location).await;
        now.is_ok_and(|now| now.size == listed.size && is_same(&now, listed))
    }

    /// A range of a listed object of a remote store.
    async fn get_listed(&self, listed: ObjectMeta, options: GetOptions) -> Result<GetResult> {
        let reading = Reading { root: Arc::clone(&self.root), listed };
        let listed = &reading.listed;
        // Some stores list their etags without the quotes that a request needs.
        let etag = listed.e_tag.clone().filter(|etag| etag.starts_with('"'));
        let range = range_of(&options, listed).map_err(|e| reading.failed(e))?;
        let asked = GetOptions {
            if_match: options.if_match.clone().or(etag),
            range: (!range.is_empty()).then(|| GetRange::Bounded(range.clone())),
            ..options
        };
        let found = self.inner.get_opts(&listed.location, asked).await.map_err(|e| reading.failed(e))?;
        if found.meta.size != listed.size || !is_same(&found.meta, listed) || found.range != range {
            return Err(reading.replaced());
        }
        let (meta, attributes) = (found.meta.clone(), found.attributes.clone());
        let wanted = range.end - range.start;
        let parts = futures::stream::try_unfold(
            (found.into_stream(), reading, wanted),
            |(mut parts, reading, left)| async move {
                let part = parts.next().await.transpose().map_err(|e| reading.failed(e))?;
                match part {
                    Some(part) if part.len() as u64 <= left => {
                        let left = left - part.len() as u64;
                        Ok(Some((part, (parts, reading, left))))
                    }
                    None if left == 0 => Ok(None),
                    _ => Err(reading.replaced()),
                }
            },
        );
        Ok(GetResult { payload: GetResultPayload::Stream(parts.boxed()), meta, range, attributes })
    }

    /// A range of a listed file on this machine's disk.
    async fn get_locally(&self, path: PathBuf, listed: ObjectMeta, options: GetOptions) -> Result<GetResult> {
        let reading = Reading { root: Arc::clone(&self.root), listed };
        let (listed, meta) = (reading.listed.clone(), reading.listed.clone());
        let range = range_of(&options, &listed).map_err(|e| reading.failed(e))?;
        let opened = blocking(move || ListedFile::open(&path, listed).map(Arc::new)).await;
        let file = opened.map_err(|e| reading.failed_locally(e))?;
        let chunks = futures::stream::try_unfold((file, reading, range.clone()), |(file, reading, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let chunk = range.start..range.end.min(range.start + CHUNK);
            let (from, next) = (Arc::clone(&file), chunk.end..range.end);
            let bytes = blocking(move || from.read(chunk)).await.map_err(|e| reading.failed_locally(e))?;
            Ok(Some((bytes, (file, reading, next))))
        });
        let payload = GetResultPayload::Stream(chunks.boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default() })
    }
}

/// The range that is asked for, within the object.
fn range_of(options: &GetOptions, listed: &ObjectMeta) -> Result<Range<u64>> {
    let range = options.range.as_ref().map(|range| range.as_range(listed.size)).transpose();
    let range = range.map_err(|e| object_store::Error::Generic { store: "lake", source: Box::new(e) })?;
    Ok(range.unwrap_or(0..listed.size))
}

/// Whether two looks at an object saw the same version, as far as the store says.
fn is_same(now: &ObjectMeta, listed: &ObjectMeta) -> bool {
    match (&now.e_tag, &listed.e_tag) {
        (Some(now), Some(listed)) => now.trim_matches('"') == listed.trim_matches('"'),
        _ => true,
    }
}

/// A read of a listed object, for what goes wrong with it.
struct Reading {
    root: Arc<str>,
    listed: ObjectMeta,
}

impl Reading {
    fn url(&self) -> String {
        format!("{}{}", self.root, self.listed.location)
    }

    fn failed(&self, error: object_store::Error) -> object_store::Error {
        use object_store::Error as Store;
        match error {
            error @ Store::NotFound { .. } => wrapped(self.gone().because(error)),
            Store::Precondition { .. } => self.replaced(),
            error => wrapped(store::failed(&self.url(), "read", error)),
        }
    }

    fn failed_locally(&self, failure: Failure) -> object_store::Error {
        let error = match failure {
            Failure::Changed => return self.replaced(),
            Failure::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                return wrapped(self.gone().because(error));
            }
            Failure::Io(error) => error,
        };
        let (class, hint) = match Error::io("", io::Error::from(error.kind())).class() {
            _ if error.raw_os_error() == Some(libc::ELOOP) => (Class::User, "is it a link that leads back to itself?"),
            class => (class, "may this process read it, and is the disk well?"),
        };
        wrapped(Error::new(class, Problem::new(format!("`{}` cannot be read", self.url()))).because(error).hint(hint))
    }

    fn gone(&self) -> Error {
        Error::infra(format!("`{}` is gone since it was listed", self.url())).hint(READ_AGAIN)
    }

    fn replaced(&self) -> object_store::Error {
        wrapped(Error::infra(format!("`{}` was replaced since it was listed", self.url())).hint(READ_AGAIN))
    }
}

fn wrapped(error: Error) -> object_store::Error {
    object_store::Error::Generic { store: "lake", source: Box::new(error) }
}

/// Why a local file cannot be read as it was listed.
enum Failure {
    Io(io::Error),
    Changed,
}

/// A local file that was what was listed when it was opened.
struct ListedFile {
    file: File,
    listed: ObjectMeta,
    modified: Option<SystemTime>,
}

impl ListedFile {
    fn open(path: &std::path::Path, listed: ObjectMeta) -> Result<Self, Failure> {
        let file = File::open(path).map_err(Failure::Io)?;
        let now = file.metadata().map_err(Failure::Io)?;
        // What lists files without looking at them, as a table's log does, knows their sizes alone.
        let inode = listed.e_tag.as_deref().and_then(|etag| u64::from_str_radix(etag.split_once('-')?.0, 16).ok());
        let same_time = now.modified().is_ok_and(|time| DateTime::<Utc>::from(time) == listed.last_modified);
        let is_listed = inode.is_none_or(|inode| same_time && inode == now.ino());
        if now.len() != listed.size || !is_listed || !now.is_file() {
            return Err(Failure::Changed);
        }
        Ok(ListedFile { file, listed, modified: now.modified().ok() })
    }

    /// Reads a range, and makes sure that nobody wrote to the file meanwhile.
    fn read(&self, range: Range<u64>) -> Result<Bytes, Failure> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        match self.file.read_exact_at(&mut bytes, range.start) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Failure::Changed),
            read => read.map_err(Failure::Io)?,
        }
        let now = self.file.metadata().map_err(Failure::Io)?;
        match now.len() == self.listed.size && now.modified().ok() == self.modified {
            true => Ok(bytes.into()),
            false => Err(Failure::Changed),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Failure::Io(io::Error::other(Error::task("reading a file", error)))),
    }
}

#[async_trait]
impl ObjectStore for ListedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.listed(location).filter(|_| !options.head) {
            None => self.inner.get_opts(location, options).await,
            Some(listed) => match self.local_path(location) {
                Some(path) => self.get_locally(path, listed, options).await,
                None => self.get_listed(listed, options).await,
            },
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        match (self.listed(location), self.local_path(location)) {
            (None, _) => self.inner.get_ranges(location, ranges).await,
            (Some(listed), Some(path)) => {
                let (ranges, meta) = (ranges.to_vec(), listed.clone());
                let read = blocking(move || {
                    let file = ListedFile::open(&path, meta)?;
                    ranges.into_iter().map(|range| file.read(range)).collect::<Result<Vec<Bytes>, Failure>>()
                });
                read.await.map_err(|e| Reading { root: Arc::clone(&self.root), listed }.failed_locally(e))
            }
            (Some(_), None) => {
                let fetch = |range| self.get_range(location, range);
                coalesce_ranges(ranges, fetch, OBJECT_STORE_COALESCE_DEFAULT).await
            }
        }
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl std::fmt::Debug for ListedStore {
    /// The URL alone: what is behind it holds credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ListedStore({})", self.root)
    }
}

impl std::fmt::Display for ListedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.root)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures::TryStreamExt;
    use url::Url;

    use super::*;

    struct Folder {
        folder: tempfile::TempDir,
        store: ListedStore,
        file: Path,
    }

    /// A folder with one listed file of ten bytes, far enough in the past for a new time to differ.
    async fn folder() -> Folder {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("a.bin"), "0123456789", 1_700_000_000);
        let store = ListedStore::new(&Store::open(&Url::from_directory_path(folder.path()).unwrap()).unwrap());
        let prefix = Path::from_absolute_path(folder.path()).unwrap();
        let listed: Vec<ObjectMeta> = store.list(Some(&prefix)).try_collect().await.unwrap();
        store.remember(listed.iter());
        Folder { folder, store, file: listed[0].location.clone() }
    }

    fn write(path: &std::path::Path, text: &str, seconds: u64) {
        fs::write(path, text).unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    async fn errors(store: &ListedStore, file: &Path) -> Vec<Error> {
        let whole = async { store.get(file).await?.bytes().await }.await;
        vec![
            Error::from(whole.unwrap_err()),
            Error::from(store.get_range(file, 2..5).await.unwrap_err()),
            Error::from(store.get_ranges(file, &[0..2, 4..10]).await.unwrap_err()),
        ]
    }

    #[tokio::test]
    async fn a_file_that_stays_is_read() {
        let Folder { folder: _folder, store, file } = folder().await;
        assert_eq!(store.get(&file).await.unwrap().bytes().await.unwrap(), "0123456789");
        assert_eq!(store.get_range(&file, 2..5).await.unwrap(), "234");
        assert_eq!(store.get_ranges(&file, &[0..2, 4..10]).await.unwrap(), ["01", "456789"]);
        assert!(store.is_unchanged(&store.listed(&file).unwrap()).await);
    }

    #[tokio::test]
    async fn a_file_that_was_replaced_is_not_read() {
        let by: [fn(&std::path::Path); 4] = [
            |path| write(path, "abcdefghij", 1_700_000_009),
            |path| write(path, "abc", 1_700_000_000),
            // As a loader does it that keeps the time: only the inode is another one.
            |path| {
                let new = path.with_extension("new");
                write(&new, "abcdefghij", 1_700_000_000);
                fs::rename(new, path).unwrap();
            },
            |path| fs::remove_file(path).unwrap(),
        ];
        for (i, replace) in by.into_iter().enumerate() {
            let Folder { folder, store, file } = folder().await;
            replace(&folder.path().join("a.bin"));
            assert!(!store.is_unchanged(&store.listed(&file).unwrap()).await);
            for error in errors(&store, &file).await {
                assert_eq!(error.class(), Class::Infra, "{i}: {error:?}");
                let said = error.to_string();
                assert!(said.contains("a.bin` ") && said.ends_with("since it was listed"), "{said}");
                assert_eq!(error.problems().next().unwrap().hint.as_deref(), Some(READ_AGAIN));
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_shrinks_while_it_is_read_ends_the_read() {
        let Folder { folder, store, file } = folder().await;
        let found = store.get(&file).await.unwrap();
        File::options().write(true).open(folder.path().join("a.bin")).unwrap().set_len(3).unwrap();
        assert_eq!(Error::from(found.bytes().await.unwrap_err()).class(), Class::Infra);
    }

    #[tokio::test]
    async fn a_remote_object_is_read_in_the_listed_version() {
        let memory = Store::memory();
        let (path, store) = (Path::from("a"), ListedStore::new(&memory));
        memory.put("a", "0123456789").await.unwrap();
        store.remember(std::iter::once(&memory.inner().head(&path).await.unwrap()));
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "0123456789");
        assert_eq!(store.get_ranges(&path, &[0..2, 4..10]).await.unwrap(), ["01", "456789"]);
        memory.put("a", "abcdefghij").await.unwrap();
        for error in errors(&store, &path).await {
            assert_eq!(
                (error.class(), error.to_string().as_str()),
                (Class::Infra, "`memory:///a` was replaced since it was listed")
            );
        }
        memory.delete("a").await.unwrap();
        for error in errors(&store, &path).await {
            assert_eq!(
                (error.class(), error.to_string().as_str()),
                (Class::Infra, "`memory:///a` is gone since it was listed")
            );
        }
    }
}
