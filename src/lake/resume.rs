//! Reading from a remote store through interruptions: what is read has the length that the store says, and where an answer breaks
//! off the rest of the object is asked for.
//!
//! Requests themselves are tried again by `object_store` for [`Patience::bound`]; here it is the bytes of one answer. A whole object
//! is asked for as the range from its first byte, because only the answer to a range says how long the object is: the answer to a
//! plain request that lost its second half on the way looks like a smaller object.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    BackoffConfig, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, RetryConfig,
};

/// The environment variable that says for how many seconds a failing request is tried again.
pub(super) const RETRY_SECONDS: &str = "TENURE_RETRY_SECONDS";
const DEFAULT_RETRY_SECONDS: u64 = 45;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// Pauses double up to `MAX_PAUSE`: within any bound that makes sense there are fewer tries than this.
const MAX_RETRIES: usize = 1 << 20;

/// How long a failing request is tried again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// No try begins later than this after the first one.
    pub bound: Duration,
}

impl Patience {
    /// As these environment variables say.
    pub fn from_env(env: &[(String, String)]) -> crate::Result<Self> {
        let seconds = match env.iter().find(|(name, _)| name == RETRY_SECONDS) {
            None => DEFAULT_RETRY_SECONDS,
            Some((_, text)) => text.parse().map_err(|_| {
                crate::Error::user(format!("`{text}` in `{RETRY_SECONDS}` is not a number of seconds"))
                    .hint(format!("write a whole number, as `{DEFAULT_RETRY_SECONDS}`"))
            })?,
        };
        Ok(Patience { bound: Duration::from_secs(seconds) })
    }

    /// The same for `object_store`: bounded by time alone.
    pub fn config(self) -> RetryConfig {
        let backoff = BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: MAX_PAUSE, base: 2. };
        RetryConfig { backoff, max_retries: MAX_RETRIES, retry_timeout: self.bound }
    }

    /// Starts to count.
    pub fn start(self) -> Tries {
        Tries { patience: self, since: Instant::now(), pause: FIRST_PAUSE }
    }
}

/// Tries of one thing.
pub(super) struct Tries {
    patience: Patience,
    since: Instant,
    pause: Duration,
}

impl Tries {
    /// Waits before the next try; `false` where there is to be none.
    pub async fn again(&mut self) -> bool {
        if self.since.elapsed() + self.pause > self.patience.bound {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (2 * self.pause).min(MAX_PAUSE);
        true
    }
}

/// A remote store whose reads go on where an answer breaks off.
#[derive(Debug, Clone)]
pub(super) struct Resuming {
    inner: Arc<dyn ObjectStore>,
    patience: Patience,
}

impl Resuming {
    pub fn new(inner: Arc<dyn ObjectStore>, patience: Patience) -> Self {
        Resuming { inner, patience }
    }

    /// The bytes of `range` of an object; those of a broken answer are continued.
    fn bytes(&self, location: &Path, options: GetOptions, first: GetResult) -> BoxStream<'static, Result<Bytes>> {
        let (range, etag) = (first.range.clone(), first.meta.e_tag.clone());
        // A store that does not say what changes with the content cannot say whether the rest belongs to the beginning.
        let options = GetOptions { if_match: etag.clone().filter(|etag| etag.starts_with('"')), ..options };
        let reading = Reading {
            store: self.clone(),
            location: location.clone(),
            options,
            etag,
            size: first.meta.size,
            range,
            answer: first.into_stream(),
        };
        futures::stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|bytes| (bytes, reading)))
        })
        .boxed()
    }
}

/// A read under way.
struct Reading {
    store: Resuming,
    location: Path,
    options: GetOptions,
    etag: Option<String>,
    size: u64,
    /// What is still to come.
    range: Range<u64>,
    answer: BoxStream<'static, Result<Bytes>>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let mut tries = self.store.patience.start();
        loop {
            let broken = match self.answer.next().await {
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => {
                    let end = self.range.start + bytes.len() as u64;
                    if end > self.range.end {
                        return Err(broken_off(format!("{} bytes too many", end - self.range.end)));
                    }
                    self.range.start = end;
                    return Ok(Some(bytes));
                }
                None if self.range.is_empty() => return Ok(None),
                None => broken_off(format!("{} bytes are missing", self.range.end - self.range.start)),
                Some(Err(error)) => error,
            };
            if self.etag.is_none() || !tries.again().await {
                return Err(broken);
            }
            tracing::debug!(%broken, "the answer for `{}` broke off; the rest is asked for", self.location);
            let options = GetOptions { range: Some(GetRange::Bounded(self.range.clone())), ..self.options.clone() };
            let rest = self.store.inner.get_opts(&self.location, options).await?;
            if rest.meta.e_tag != self.etag || rest.meta.size != self.size || rest.range != self.range {
                let source = "the object was replaced while it was read".into();
                return Err(Error::Precondition { path: self.location.to_string(), source });
            }
            self.answer = rest.into_stream();
        }
    }
}

fn broken_off(what: String) -> Error {
    Error::Generic { store: "remote", source: format!("the answer broke off: {what}").into() }
}

/// Whether the store did not take the range: an empty object has none, and some stores answer with the whole object.
fn refuses_range(error: &Error) -> bool {
    let text = format!("{error:?}");
    text.contains("416") || text.contains("NotPartial")
}

#[async_trait]
impl ObjectStore for Resuming {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            return self.inner.get_opts(location, options).await;
        }
        let asked = GetOptions { range: options.range.clone().or(Some(GetRange::Offset(0))), ..options.clone() };
        let found = match self.inner.get_opts(location, asked).await {
            Err(error @ Error::Generic { .. }) if options.range.is_none() && refuses_range(&error) => {
                self.inner.get_opts(location, options.clone()).await?
            }
            found => found?,
        };
        let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
        let payload = GetResultPayload::Stream(self.bytes(location, options, found));
        Ok(GetResult { payload, meta, range, attributes })
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

impl std::fmt::Display for Resuming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutMode};

    use super::*;

    /// Breaks each of the first answers off after some bytes: with an error, or as if that were all.
    #[derive(Debug)]
    struct BreaksOff {
        store: InMemory,
        answers: AtomicUsize,
        fails: bool,
        replaces: bool,
    }

    impl std::fmt::Display for BreaksOff {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("BreaksOff")
        }
    }

    #[async_trait]
    impl ObjectStore for BreaksOff {
        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            let mut found = self.store.get_opts(location, options).await?;
            // As remote stores write it.
            found.meta.e_tag = found.meta.e_tag.map(|etag| format!("e{etag}"));
            if self.answers.fetch_add(1, Ordering::SeqCst) >= 3 {
                return Ok(found);
            }
            let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
            let half = found.bytes().await?;
            let half = half.slice(..half.len() / 2);
            if self.replaces {
                self.store.put_opts(location, "other".into(), PutMode::Overwrite.into()).await?;
            }
            let end = self.fails.then(|| Err(broken_off("reset".into())));
            let payload = GetResultPayload::Stream(futures::stream::iter([Ok(half)].into_iter().chain(end)).boxed());
            Ok(GetResult { payload, meta, range, attributes })
        }

        async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
            self.store.put_opts(location, payload, opts).await
        }

        async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
            unreachable!()
        }

        fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.store.delete_stream(locations)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.store.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.store.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.store.copy_opts(from, to, options).await
        }
    }

    async fn over(fails: bool, replaces: bool, seconds: u64) -> (Resuming, Path) {
        let (store, path) = (InMemory::new(), Path::from("a/b"));
        store.put(&path, "0123456789".into()).await.unwrap();
        let broken = BreaksOff { store, answers: AtomicUsize::new(0), fails, replaces };
        (Resuming::new(Arc::new(broken), Patience { bound: Duration::from_secs(seconds) }), path)
    }

    #[tokio::test]
    async fn a_broken_answer_is_continued() {
        for fails in [false, true] {
            let (store, path) = over(fails, false, 30).await;
            assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "0123456789");
            let (store, path) = over(fails, false, 30).await;
            assert_eq!(store.get_range(&path, 2..9).await.unwrap(), "2345678");
            let (store, path) = over(fails, false, 30).await;
            assert_eq!(store.get_ranges(&path, &[0..3, 8..10]).await.unwrap(), ["012", "89"]);
        }
    }

    #[tokio::test]
    async fn what_stays_broken_is_an_error_and_no_shorter_object() {
        let (store, path) = over(false, false, 0).await;
        let error = store.get(&path).await.unwrap().bytes().await.unwrap_err();
        assert!(error.to_string().contains("5 bytes are missing"), "{error}");
        let (store, path) = over(false, true, 30).await;
        let error = store.get(&path).await.unwrap().bytes().await.unwrap_err();
        assert!(matches!(error, Error::Precondition { .. }) || matches!(error, Error::Generic { .. }), "{error}");
    }

    #[tokio::test]
    async fn patience_is_a_time() {
        let started = Instant::now();
        let mut tries = Patience { bound: Duration::from_millis(700) }.start();
        let mut count = 0;
        while tries.again().await {
            count += 1;
        }
        assert!((1..=2).contains(&count) && started.elapsed() < Duration::from_millis(1500), "{count}");
        let env = |text: &str| Patience::from_env(&[(RETRY_SECONDS.to_owned(), text.to_owned())]);
        assert_eq!(env("7").unwrap().bound, Duration::from_secs(7));
        assert!(env("soon").unwrap_err().to_string().contains(RETRY_SECONDS));
        assert_eq!(Patience::from_env(&[]).unwrap().bound, Duration::from_secs(45));
    }
}
