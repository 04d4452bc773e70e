//! Answers of a store that arrive whole, or count as a failure of the connection.
//!
//! `object_store` tries a request again when the connection breaks before the answer begins. The answers that it reads whole
//! (listings, what became of a put or of deletes) are read here first, so that one that breaks off in its midst, or whose text
//! ends too early, is tried again like that. The bytes of an object stream through: [`super::resume`] goes on where they end.

use async_trait::async_trait;
use bytes::Bytes;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};

use super::traffic;

/// Connects to stores.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(WholeAnswers(traffic::connect(options)?)))
    }
}

#[derive(Debug)]
struct WholeAnswers(HttpClient);

/// An answer that is not whole.
#[derive(Debug, thiserror::Error)]
#[error("the answer is cut off: {0}")]
struct CutOff(String);

#[async_trait]
impl HttpService for WholeAnswers {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let deletes = request.method() == "DELETE"
            || request.method() == "POST" && request.uri().query().is_some_and(|query| query.starts_with("delete"));
        let asks = ["GET", "POST"].contains(&request.method().as_str());
        let has_body = request.method() != "HEAD";
        // Deleting twice is deleting. Whether another request may be sent twice, `object_store` knows.
        let broken = |error: HttpError| match error.kind() {
            HttpErrorKind::Connect | HttpErrorKind::Request => error,
            _ if deletes => HttpError::new(HttpErrorKind::Request, error),
            HttpErrorKind::Timeout => error,
            _ => HttpError::new(HttpErrorKind::Interrupted, error),
        };
        let cut_off = |what: String| broken(HttpError::new(HttpErrorKind::Interrupted, CutOff(what)));

        let response = self.0.execute(request).await.map_err(broken)?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let length: Option<u64> = header("content-length").and_then(|length| length.parse().ok());
        let is_object = header("etag").is_some() || header("content-range").is_some();
        if !has_body || response.status().is_success() && is_object && asks {
            if let (Some(range), Some(length), true) = (header("content-range"), length, has_body)
                && let Some(wanted) = length_of_range(range).filter(|wanted| *wanted != length)
            {
                return Err(cut_off(format!("{length} of {wanted} bytes")));
            }
            return Ok(response);
        }
        let (success, is_xml) =
            (response.status().as_u16() == 200, header("content-type").is_some_and(|t| t.contains("xml")));
        let (parts, body) = response.into_parts();
        let body = body.bytes().await.map_err(broken)?;
        if length.is_some_and(|length| length != body.len() as u64) {
            return Err(cut_off(format!("{} of {} bytes", body.len(), length.unwrap_or_default())));
        }
        if success && asks && (body.is_empty() || looks_like_xml(&body, is_xml) && !is_closed(&body)) {
            return Err(cut_off(format!("its text ends after {} bytes", body.len())));
        }
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

/// The bytes that `bytes 0-99/200` speaks of.
fn length_of_range(range: &str) -> Option<u64> {
    let (first, last) = range.strip_prefix("bytes ")?.split_once('/')?.0.split_once('-')?;
    last.parse::<u64>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
}

fn looks_like_xml(text: &[u8], said: bool) -> bool {
    said || text.trim_ascii_start().starts_with(b"<?xml")
}

/// Whether the outermost element of an XML text is closed at its end.
fn is_closed(text: &Bytes) -> bool {
    let mut rest = text.trim_ascii();
    while rest.starts_with(b"<?") || rest.starts_with(b"<!") {
        match rest.iter().position(|byte| *byte == b'>') {
            Some(end) => rest = rest[end + 1..].trim_ascii_start(),
            None => return false,
        }
    }
    let Some(rest) = rest.strip_prefix(b"<") else { return false };
    let is_end = |byte: &u8| byte.is_ascii_whitespace() || [b'>', b'/'].contains(byte);
    let Some(name) = rest.iter().position(is_end).map(|end| &rest[..end]) else { return false };
    let closes = |rest: &[u8]| {
        rest.strip_suffix(b">")
            .map(<[u8]>::trim_ascii_end)
            .and_then(|rest| rest.strip_suffix(name))
            .is_some_and(|rest| rest.ends_with(b"</"))
    };
    let alone = rest.ends_with(b"/>") && !rest.contains(&b'<');
    closes(rest) || alone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_ends_early_is_told_from_a_whole_one() {
        let whole = "<?xml version=\"1.0\"?>\n<List xmlns=\"x\"><Key>a</Key><Key>b</Key></List>\n";
        assert!(is_closed(&Bytes::from(whole)));
        assert!(is_closed(&Bytes::from_static(b"<Empty/>")) && is_closed(&Bytes::from_static(b"<A></A >")));
        for end in 1..whole.trim_end().len() {
            assert!(!is_closed(&Bytes::from(whole[..end].to_owned())), "{}", &whole[..end]);
        }
    }

    #[test]
    fn a_range_says_how_many_bytes_it_has() {
        assert_eq!(length_of_range("bytes 0-99/200"), Some(100));
        assert_eq!(length_of_range("bytes 5-5/*"), Some(1));
        assert_eq!(length_of_range("bytes */200"), None);
        assert_eq!(length_of_range("bytes 7-3/200"), None);
    }
}
