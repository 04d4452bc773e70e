//! An object store that dies, stumbles or lets somebody else in at its N-th operation.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What happens at the N-th operation (from 1).
#[derive(Clone)]
pub enum Fault {
    /// Nothing.
    None,
    /// It and all later ones fail without effect: the process is dead.
    Dead,
    /// It has its effect but says that it failed; all later ones fail.
    DeadAfter,
    /// It alone fails, without effect.
    Stumble,
    /// It alone says that it failed, but has its effect.
    StumbleAfter,
    /// Somebody else acts right before it.
    Before(Arc<Mutex<Option<BoxFuture<'static, ()>>>>),
    /// Every operation waits once before it starts, so that a test can lead two runs step by step.
    Waits,
}

/// The wrapper; counts and logs operations.
#[derive(Clone)]
pub struct Faulty(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    fault: Fault,
    at: usize,
    count: AtomicUsize,
    log: Mutex<Vec<String>>,
}

enum Gate {
    Pass,
    FailAfter,
}

impl Faulty {
    pub fn new(store: Arc<dyn ObjectStore>, fault: Fault, at: usize) -> Self {
        Faulty(Arc::new(Inner { store, fault, at, count: AtomicUsize::new(0), log: Mutex::default() }))
    }

    /// Operations so far.
    pub fn count(&self) -> usize {
        self.0.count.load(Ordering::SeqCst)
    }

    /// What they were: `get path`, `head path`, …
    pub fn log(&self) -> Vec<String> {
        self.0.log.lock().unwrap().clone()
    }

    async fn gate(&self, operation: &str, path: &str) -> Result<Gate> {
        self.0.log.lock().unwrap().push(format!("{operation} {path}"));
        let number = self.0.count.fetch_add(1, Ordering::SeqCst) + 1;
        let (here, later) = (number == self.0.at, number > self.0.at);
        match &self.0.fault {
            Fault::Dead if here || later => Err(broken()),
            Fault::DeadAfter if later => Err(broken()),
            Fault::DeadAfter | Fault::StumbleAfter if here => Ok(Gate::FailAfter),
            Fault::Stumble if here => Err(broken()),
            Fault::Before(act) if here => {
                let act = act.lock().unwrap().take();
                if let Some(act) = act {
                    act.await;
                }
                Ok(Gate::Pass)
            }
            Fault::Waits => {
                wait_once().await;
                Ok(Gate::Pass)
            }
            _ => Ok(Gate::Pass),
        }
    }
}

async fn wait_once() {
    let mut waited = false;
    std::future::poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

impl Gate {
    fn after<T>(self, result: Result<T>) -> Result<T> {
        match self {
            Gate::Pass => result,
            Gate::FailAfter => result.and(Err(broken())),
        }
    }
}

fn broken() -> Error {
    Error::Generic { store: "Faulty", source: "the wire was cut".into() }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let gate = self.gate("put", location.as_ref()).await?;
        gate.after(self.0.store.put_opts(location, payload, opts).await)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let gate = self.gate("multipart", location.as_ref()).await?;
        gate.after(self.0.store.put_multipart_opts(location, opts).await)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let gate = self.gate(if options.head { "head" } else { "get" }, location.as_ref()).await?;
        gate.after(self.0.store.get_opts(location, options).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move {
                    let location = location?;
                    let gate = this.gate("delete", location.as_ref()).await?;
                    let one = futures::stream::once(async { Ok(location) }).boxed();
                    let deleted: Vec<Path> = this.0.store.delete_stream(one).try_collect().await?;
                    gate.after(deleted.into_iter().next().ok_or_else(broken))
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        async move {
            let gate = this.gate("list", prefix.as_ref().map_or("", |p| p.as_ref())).await?;
            let found: Vec<ObjectMeta> = this.0.store.list(prefix.as_ref()).try_collect().await?;
            gate.after(Ok(futures::stream::iter(found.into_iter().map(Ok))))
        }
        .into_stream()
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let gate = self.gate("list", prefix.map_or("", |p| p.as_ref())).await?;
        gate.after(self.0.store.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let gate = self.gate("copy", to.as_ref()).await?;
        gate.after(self.0.store.copy_opts(from, to, options).await)
    }
}
