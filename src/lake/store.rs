//! A folder in an object store: local disk, S3 and what speaks its language, Google Cloud Storage, Azure, memory.
//!
//! A [`Store`] is opened on a URL and knows its objects by their path below it (`predictions/ds=2026-07-01/…`). Every put
//! is one step for whoever reads: the old object or the new one, never a part. On a local disk it is flushed before it
//! gets its name, so it also survives a power cut. Errors name the full URL; a store that cannot be reached is given up
//! after 45 seconds (`TENURE_RETRY_SECONDS` says otherwise) and is the infrastructure's fault.

use std::path::Path as FsPath;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutOptions, PutResult, WriteMultipart,
};
use url::Url;

use super::http::Connector;
use super::local::{self, Existing};
use super::resume::{Patience, Resuming};
use crate::error::{Class, Problem, class_of, find};
use crate::{Error, Result};

/// Parts of an upload: S3 takes 10,000 of them, so one object may have 80 GiB.
const PART: usize = 8 << 20;
const PARTS_IN_FLIGHT: usize = 4;

/// What became of a conditional put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is new.
    Created,
    /// There was one already, and it is untouched.
    Exists,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Its path below the store's URL.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// What changes when its content does, where the store says so.
    pub etag: Option<String>,
    /// When it was last written.
    pub modified: DateTime<Utc>,
}

/// A folder in an object store.
#[derive(Clone)]
pub struct Store {
    url: Url,
    prefix: Path,
    inner: Arc<dyn ObjectStore>,
    local: Option<Arc<LocalFileSystem>>,
    patience: Patience,
}

impl std::fmt::Debug for Store {
    /// The URL alone: what is behind it holds credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.url)
    }
}

impl Store {
    /// Opens the folder behind a `file://`, `s3://`, `gs://` or `az://` URL. Nothing is contacted yet.
    ///
    /// Credentials and endpoints come from the environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
    /// `AWS_ENDPOINT_URL`, … ([`object_store::aws::AmazonS3ConfigKey`] lists them), `GOOGLE_…`, `AZURE_…`.
    pub fn open(url: &Url) -> Result<Self> {
        let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self::open_with(url, &env.collect::<Vec<_>>())
    }

    /// The same with these environment variables instead of the process's.
    pub fn open_with(url: &Url, env: &[(String, String)]) -> Result<Self> {
        let url = as_folder(url.clone());
        let (scheme, prefix) = ObjectStoreScheme::parse(&url)
            .map_err(|e| Error::user(format!("`{url}` is not the URL of a store")).hint(SCHEMES).because(e))?;
        let failed = |e: object_store::Error| Error::user(format!("`{url}` cannot be opened")).because(e);
        let patience = Patience::from_env(env)?;
        let retries = patience.config();
        let mut local = None;
        let remote: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::Local => Arc::clone(local.insert(Arc::new(LocalFileSystem::new()))) as _,
            ObjectStoreScheme::Memory => Arc::new(InMemory::new()),
            ObjectStoreScheme::AmazonS3 => Arc::new(s3(&url, env, retries).map_err(failed)?),
            ObjectStoreScheme::GoogleCloudStorage => {
                let builder = object_store::gcp::GoogleCloudStorageBuilder::new().with_url(url.as_str());
                let builder = configured(env, "GOOGLE_", builder, |b, k, v| b.with_config(k, v));
                Arc::new(builder.with_http_connector(Connector).with_retry(retries).build().map_err(failed)?)
            }
            ObjectStoreScheme::MicrosoftAzure => {
                let builder = object_store::azure::MicrosoftAzureBuilder::new().with_url(url.as_str());
                let builder = configured(env, "AZURE_", builder, |b, k, v| b.with_config(k, v));
                Arc::new(builder.with_http_connector(Connector).with_retry(retries).build().map_err(failed)?)
            }
            _ => return Err(Error::user(format!("`{url}` is not the URL of a store")).hint(SCHEMES)),
        };
        let inner = match local.is_some() {
            true => remote,
            false => Arc::new(Resuming::new(remote, patience)),
        };
        Ok(Store { url, prefix, inner, local, patience })
    }

    /// An empty store in memory, for tests.
    pub fn memory() -> Self {
        let url = Url::parse("memory:///").unwrap_or_else(|_| unreachable!("a constant URL"));
        Self::over(Arc::new(InMemory::new()), url)
    }

    /// A store over an object store that is open already; the paths of `inner` start where the URL does.
    pub fn over(inner: Arc<dyn ObjectStore>, url: Url) -> Self {
        let patience = Patience { bound: std::time::Duration::ZERO };
        Store { url: as_folder(url), prefix: Path::default(), inner, local: None, patience }
    }

    /// Another folder of the same bucket or disk.
    pub(super) fn at(&self, url: &Url) -> Result<Self> {
        let url = as_folder(url.clone());
        let failed = |e| Error::user(format!("`{url}` is not the URL of a store")).because(e);
        let (_, prefix) = ObjectStoreScheme::parse(&url).map_err(failed)?;
        Ok(Store { url, prefix, ..self.clone() })
    }

    /// The folder's URL; ends with `/`.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The full URL of an object, for messages.
    pub fn url_of(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// The object store itself; its paths start at the bucket or the disk's root, not at this folder.
    pub fn inner(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.inner)
    }

    /// The full path of an object in [`Store::inner`].
    pub fn full_path(&self, path: &str) -> Path {
        // A listed path is escaped already.
        let below = Path::parse(path).unwrap_or_else(|_| Path::from(path));
        self.prefix.parts().chain(below.parts()).collect()
    }

    /// The bytes of an object; one that is not there is the user's fault.
    pub async fn get(&self, path: &str) -> Result<Bytes> {
        match self.find(path).await? {
            Some(bytes) => Ok(bytes),
            None => Err(Error::user(format!("`{}` is not there", self.url_of(path)))),
        }
    }

    /// The bytes of an object that was just listed: another listing may say otherwise.
    pub async fn get_listed(&self, path: &str) -> Result<Bytes> {
        let gone = || Error::infra(format!("`{}` is gone since it was listed", self.url_of(path)));
        self.find(path).await?.ok_or_else(|| gone().hint("run it again: the next run lists it anew"))
    }

    /// The bytes of an object, if it is there.
    pub async fn find(&self, path: &str) -> Result<Option<Bytes>> {
        let read = async { self.inner.get(&self.full_path(path)).await?.bytes().await };
        found(read.await).map_err(|e| self.failed("read", path, e))
    }

    /// Size and etag of an object, if it is there.
    pub async fn head(&self, path: &str) -> Result<Option<StoredObject>> {
        let meta = found(self.inner.head(&self.full_path(path)).await).map_err(|e| self.failed("read", path, e))?;
        Ok(meta.map(|meta| self.stored(meta)))
    }

    /// Every object below a folder (`""` is the whole store), sorted by path; a folder that is not there is empty.
    pub async fn list(&self, folder: &str) -> Result<Vec<StoredObject>> {
        let found: Vec<ObjectMeta> = match self.inner.list(Some(&self.full_path(folder))).try_collect().await {
            Err(object_store::Error::NotFound { .. }) if self.local.is_some() => Vec::new(),
            listed => listed.map_err(|e| self.failed("listed", folder, e))?,
        };
        let mut objects: Vec<StoredObject> = found.into_iter().map(|meta| self.stored(meta)).collect();
        objects.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(objects)
    }

    /// The names of the folders directly below a folder (`ds=2026-07-01`), sorted.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let below = match self.inner.list_with_delimiter(Some(&self.full_path(folder))).await {
            Err(object_store::Error::NotFound { .. }) if self.local.is_some() => return Ok(Vec::new()),
            listed => listed.map_err(|e| self.failed("listed", folder, e))?,
        };
        let mut names: Vec<String> =
            below.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// Puts an object, replacing one of that name.
    pub async fn put(&self, path: &str, bytes: impl Into<Bytes>) -> Result<()> {
        self.put_mode(path, bytes.into(), Existing::Replace).await.map(|_| ())
    }

    /// The disk behind it, if it is one.
    pub(super) fn local(&self) -> Option<Arc<LocalFileSystem>> {
        self.local.clone()
    }

    /// Puts an object unless there is one of that name. Of several that try at once with different bytes, one creates it; a remote
    /// object of the very same bytes counts as created here, because the answer to a put may be lost.
    pub async fn put_new(&self, path: &str, bytes: impl Into<Bytes>) -> Result<PutOutcome> {
        self.put_mode(path, bytes.into(), Existing::Keep).await
    }

    async fn put_mode(&self, path: &str, bytes: Bytes, existing: Existing) -> Result<PutOutcome> {
        self.refuse_links(path)?;
        if let Some(target) = self.local_path(path)? {
            return self.on_disk(path, move || local::write_bytes(&target, existing, &bytes)).await;
        }
        let mode = match existing {
            Existing::Replace => PutMode::Overwrite,
            Existing::Keep => PutMode::Create,
        };
        match self.put_patiently(path, &bytes, &mode).await {
            Ok(_) => Ok(PutOutcome::Created),
            Err(object_store::Error::AlreadyExists { .. }) if existing == Existing::Keep => {
                let ours = self.find(path).await?.is_some_and(|found| found == bytes);
                Ok(if ours { PutOutcome::Created } else { PutOutcome::Exists })
            }
            Err(error) => Err(self.failed("written", path, error)),
        }
    }

    /// Puts an object, again where the connection broke before the answer came. Whether a put that creates had its effect then shows
    /// when it is tried again.
    async fn put_patiently(&self, path: &str, bytes: &Bytes, mode: &PutMode) -> object_store::Result<PutResult> {
        let mut tries = self.patience.start();
        loop {
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            let put = self.inner.put_opts(&self.full_path(path), bytes.clone().into(), options).await;
            let broken = |error: &object_store::Error| find::<object_store::client::HttpError>(error).is_some();
            if !put.as_ref().is_err_and(broken) || !tries.again().await {
                return put;
            }
        }
    }

    /// Puts the content of a local file, in parts if it is large; the object appears when the last part is there.
    pub async fn upload(&self, from: &FsPath, path: &str) -> Result<()> {
        self.refuse_links(path)?;
        let source = from.to_owned();
        if let Some(target) = self.local_path(path)? {
            let mut file = std::fs::File::open(&source).map_err(|e| Error::io(&source, e))?;
            return self
                .on_disk(path, move || {
                    local::write(&target, Existing::Replace, |to| std::io::copy(&mut file, to).map(|_| ()))
                })
                .await
                .map(|_| ());
        }
        let size = std::fs::metadata(&source).map_err(|e| Error::io(&source, e))?.len();
        if size <= PART as u64 {
            return self.put(path, std::fs::read(&source).map_err(|e| Error::io(&source, e))?).await;
        }
        self.upload_parts(from, path).await
    }

    async fn upload_parts(&self, from: &FsPath, path: &str) -> Result<()> {
        let failed = |e| self.failed("written", path, e);
        let mut file = Some(std::fs::File::open(from).map_err(|e| Error::io(from, e))?);
        let upload = self.inner.put_multipart(&self.full_path(path)).await.map_err(failed)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        let sent = async {
            while let Some(open) = file.take() {
                let (part, rest) = blocking(move || read_part(open)).await?.map_err(|e| Error::io(from, e))?;
                file = rest;
                upload.wait_for_capacity(PARTS_IN_FLIGHT).await.map_err(failed)?;
                upload.put(part);
            }
            Ok(())
        }
        .await;
        match sent {
            Ok(()) => upload.finish().await.map(|_| ()).map_err(failed),
            Err(error) => {
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    /// Copies an object within the store, replacing one of the new name.
    pub async fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.refuse_links(to)?;
        if let (Some(source), Some(target)) = (self.local_path(from)?, self.local_path(to)?) {
            return self.on_disk(from, move || local::copy(&source, &target)).await;
        }
        let copied = self.inner.copy(&self.full_path(from), &self.full_path(to)).await;
        copied.map_err(|e| self.failed("copied", from, e))
    }

    /// Deletes an object; one that is not there is deleted already.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.refuse_links(path)?;
        found(self.inner.delete(&self.full_path(path)).await).map(|_| ()).map_err(|e| self.failed("deleted", path, e))
    }

    fn stored(&self, meta: ObjectMeta) -> StoredObject {
        let below = meta.location.prefix_match(&self.prefix);
        let path = match below {
            Some(parts) => parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"),
            None => meta.location.to_string(),
        };
        StoredObject { path, size: meta.size, etag: meta.e_tag, modified: meta.last_modified }
    }

    /// Where an object lies on this machine's disk; `None` where the store is somewhere else.
    pub fn local_path(&self, path: &str) -> Result<Option<std::path::PathBuf>> {
        let Some(local) = &self.local else { return Ok(None) };
        local.path_to_filesystem(&self.full_path(path)).map(Some).map_err(|e| self.failed("used", path, e))
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        blocking(work).await?.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::user(format!("`{}` is not there", self.url_of(path))).because(e),
            _ => Error::infra(format!("`{}` cannot be written", self.url_of(path))).because(e),
        })
    }

    pub(super) fn failed(&self, done: &str, path: &str, error: object_store::Error) -> Error {
        failed(&self.url_of(path), done, error)
    }
}

/// The error of an operation on an object or a folder, with its full URL.
pub(super) fn failed(url: &str, done: &str, error: object_store::Error) -> Error {
    let message = format!("`{url}` cannot be {done}");
    if matches!(error, object_store::Error::InvalidPath { .. }) {
        return Error::from(error).context(message).hint("call it something else: names have to be UTF-8");
    }
    if url.starts_with("file:") && class_of(&error) == Some(Class::User) {
        let hint = "does a symbolic link lead back to a folder above it? take the link out of the lake";
        return Error::from(error).context(message).hint(hint);
    }
    if !matches!(error, object_store::Error::Generic { .. }) {
        return Error::from(error).context(message);
    }
    match refusal(&error) {
        Some((class, hint)) => Error::new(class, Problem::new(message).hint(hint)).because(error),
        None if url.starts_with("s3") => Error::from(error).context(message).hint(
            "is the store reachable? its address and credentials are `AWS_ENDPOINT_URL`, `AWS_REGION`, \
             `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`",
        ),
        None => Error::from(error).context(message),
    }
}

/// Whose fault S3's refusals are, and what to do about them. A listing's error comes without a kind of its own.
fn refusal(error: &object_store::Error) -> Option<(Class, &'static str)> {
    let text = error.to_string();
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    match code {
        "NoSuchBucket" | "PermanentRedirect" | "InvalidBucketName" => {
            Some((Class::User, "is the bucket's name right, and its region?"))
        }
        // Credentials come from outside and change there: a token that has expired is renewed by the next try.
        "AccessDenied"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "RequestTimeTooSkewed" => {
            Some((Class::Infra, "check the credentials in the environment, and whether they have expired"))
        }
        _ => None,
    }
}

const SCHEMES: &str = "use `file://`, `s3://`, `gs://` or `az://`";

fn as_folder(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

fn found<T>(result: object_store::Result<T>) -> object_store::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::task("a task on files", e))
}

/// The next part of a file, and the file where there is more to come.
fn read_part(mut file: std::fs::File) -> std::io::Result<(Bytes, Option<std::fs::File>)> {
    use std::io::Read;
    let mut part = Vec::with_capacity(PART);
    (&mut file).take(PART as u64).read_to_end(&mut part)?;
    let more = part.len() == PART;
    Ok((part.into(), more.then_some(file)))
}

fn s3(
    url: &Url,
    env: &[(String, String)],
    retries: object_store::RetryConfig,
) -> object_store::Result<object_store::aws::AmazonS3> {
    use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
    let builder = configured(env, "AWS_", AmazonS3Builder::new(), |b, k, v| b.with_config(k, v));
    let endpoint = env.iter().find(|(k, _)| k == "AWS_ENDPOINT_URL_S3" || k == "AWS_ENDPOINT_URL");
    let plain = endpoint.is_some_and(|(_, v)| v.starts_with("http://"));
    let builder = if plain { builder.with_allow_http(true) } else { builder };
    builder
        .with_url(url.as_str())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_http_connector(Connector)
        .with_retry(retries)
        .build()
}

/// Hands every environment variable with this prefix that the store knows to its builder.
fn configured<B, K: std::str::FromStr>(
    env: &[(String, String)],
    prefix: &str,
    builder: B,
    set: impl Fn(B, K, &str) -> B,
) -> B {
    let known = env.iter().filter(|(name, _)| name.starts_with(prefix));
    known.fold(builder, |builder, (name, value)| match name.to_ascii_lowercase().parse() {
        Ok(key) => set(builder, key, value),
        Err(_) => builder,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_objects_path_is_below_the_stores_url() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(folder.path().join("with space")).unwrap();
        let store = Store::open(&url).unwrap();
        store.put("a/ds=2026-07-01/x.json", "{}").await.unwrap();
        assert!(folder.path().join("with space/a/ds=2026-07-01/x.json").is_file());
        assert_eq!(store.list("a").await.unwrap()[0].path, "a/ds=2026-07-01/x.json");
        assert_eq!(store.folders("a").await.unwrap(), ["ds=2026-07-01"]);
        assert_eq!(store.url_of("a/x"), format!("{url}a/x"));
    }

    #[test]
    fn a_url_that_is_no_store_says_which_are() {
        let error = Store::open(&Url::parse("ftp://host/x").unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "`ftp://host/x/` is not the URL of a store");
        assert_eq!(error.problems().next().unwrap().hint.as_deref(), Some(SCHEMES));
    }

    #[tokio::test]
    async fn a_missing_object_is_named_with_its_url() {
        let error = Store::memory().get("x/y").await.unwrap_err();
        assert_eq!(error.to_string(), "`memory:///x/y` is not there");
    }
}
