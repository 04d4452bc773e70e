//! How often this process asked remote stores for something, and how many bytes went to and fro.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use serde::{Deserialize, Serialize};

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static RECEIVED: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);

/// Requests to remote stores; a local disk takes none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// HTTP requests, tries after a failure included.
    pub requests: u64,
    /// Bytes of the answers' bodies, as their headers say.
    pub received_bytes: u64,
    /// Bytes of the requests' bodies.
    pub sent_bytes: u64,
}

impl Traffic {
    /// That of this process so far.
    pub fn so_far() -> Self {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic { requests: read(&REQUESTS), received_bytes: read(&RECEIVED), sent_bytes: read(&SENT) }
    }
}

impl Traffic {
    /// For people; nothing where nothing was asked.
    pub fn words(&self) -> String {
        match self.requests {
            0 => String::new(),
            requests => {
                format!("{requests} requests, {} bytes received, {} sent", self.received_bytes, self.sent_bytes)
            }
        }
    }
}

/// A client for a store that counts what it is asked.
pub(super) fn connect(options: &ClientOptions) -> object_store::Result<HttpClient> {
    Ok(HttpClient::new(Counted(ReqwestConnector::default().connect(options)?)))
}

#[derive(Debug)]
struct Counted(HttpClient);

#[async_trait]
impl HttpService for Counted {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        SENT.fetch_add(request.body().content_length() as u64, Ordering::Relaxed);
        let response = self.0.execute(request).await?;
        let length = response.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
        RECEIVED.fetch_add(length.unwrap_or(0), Ordering::Relaxed);
        Ok(response)
    }
}
