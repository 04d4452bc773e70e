//! An object store whose gzip and zstd files read as what they unpack to.
//!
//! Which files are compressed is told by their first bytes, so that one folder may hold both kinds, and a file whose name
//! says otherwise is read all the same. A file of several members or frames (`cat a.gz b.gz`, `pigz`, `pzstd`) is read to its
//! end; one that ends too early or does not unpack is an error of the data.

use std::ops::Range;
use std::sync::Arc;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::Error;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// What is unpacked at a time.
const CHUNK: usize = 64 << 10;

/// Unpacks what it reads from another store.
#[derive(Debug)]
pub(super) struct Decompressing(pub Arc<dyn ObjectStore>);

impl std::fmt::Display for Decompressing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decompressing({})", self.0)
    }
}

#[async_trait]
impl ObjectStore for Decompressing {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head || options.range.is_some() {
            return self.0.get_opts(location, options).await;
        }
        let mut found = self.0.get_opts(location, options).await?;
        if let GetResultPayload::File(file, _) = &found.payload {
            let start = first_bytes(file).map_err(|e| generic(e.into()))?;
            if !start.starts_with(GZIP) && start != ZSTD {
                return Ok(found); // Plain text on a disk is read from there.
            }
        }
        let meta = found.meta.clone();
        let attributes = std::mem::take(&mut found.attributes);
        let unpacked = unpack(location.clone(), found.into_stream()).await?;
        let range = 0..meta.size;
        Ok(GetResult { payload: GetResultPayload::Stream(unpacked), meta, range, attributes })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(location, ranges).await
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(only_reads("put_opts"))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(only_reads("put_multipart_opts"))
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        futures::stream::once(async { Err(only_reads("delete_stream")) }).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(only_reads("copy_opts"))
    }
}

fn only_reads(operation: &str) -> object_store::Error {
    object_store::Error::NotImplemented { operation: operation.to_owned(), implementer: "Decompressing".to_owned() }
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic { store: "Decompressing", source }
}

/// The first bytes of an open file, whose position stays.
fn first_bytes(file: &std::fs::File) -> std::io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut start = vec![0; ZSTD.len()];
    let read = file.read_at(&mut start, 0)?;
    start.truncate(read);
    Ok(start)
}

/// A stream of what a file unpacks to; a plain file is itself.
async fn unpack(
    location: Path,
    mut packed: BoxStream<'static, Result<Bytes>>,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let mut start = Vec::new();
    while start.len() < ZSTD.len() {
        match packed.try_next().await? {
            Some(more) => start.extend_from_slice(&more),
            None => break,
        }
    }
    let (is_gzip, is_zstd) = (start.starts_with(GZIP), start.starts_with(ZSTD));
    let packed = futures::stream::once(async { Ok(Bytes::from(start)) }).chain(packed);
    if !is_gzip && !is_zstd {
        return Ok(packed.boxed());
    }
    let reader = StreamReader::new(packed.map_err(std::io::Error::other));
    let failed = move |kind: &'static str| {
        let location = location.clone();
        move |error: std::io::Error| unpacking_failed(&location, kind, error)
    };
    Ok(match is_gzip {
        true => {
            let mut decoder = GzipDecoder::new(reader);
            decoder.multiple_members(true);
            ReaderStream::with_capacity(decoder, CHUNK).map_err(failed("gzip")).boxed()
        }
        false => {
            let mut decoder = ZstdDecoder::new(reader);
            decoder.multiple_members(true);
            ReaderStream::with_capacity(decoder, CHUNK).map_err(failed("zstd")).boxed()
        }
    })
}

/// An error of the store below is handed on; what the decoder refuses is the fault of the file.
fn unpacking_failed(location: &Path, kind: &str, error: std::io::Error) -> object_store::Error {
    match error.downcast::<object_store::Error>() {
        Ok(of_store) => of_store,
        Err(of_decoder) => {
            let damaged =
                Error::user(format!("`{location}` cannot be unpacked: its {kind} stream is damaged or ends too early"))
                    .hint("was its upload cut off, or is it still being written? write it again")
                    .because(of_decoder);
            generic(Box::new(damaged))
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn packed(text: &str, is_gzip: bool) -> Vec<u8> {
        use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
        match is_gzip {
            true => {
                let mut encoder = GzipEncoder::new(Vec::new());
                encoder.write_all(text.as_bytes()).await.unwrap();
                encoder.shutdown().await.unwrap();
                encoder.into_inner()
            }
            false => {
                let mut encoder = ZstdEncoder::new(Vec::new());
                encoder.write_all(text.as_bytes()).await.unwrap();
                encoder.shutdown().await.unwrap();
                encoder.into_inner()
            }
        }
    }

    async fn read(bytes: Vec<u8>) -> Result<Bytes> {
        let inner = Arc::new(InMemory::new());
        inner.put(&Path::from("a"), bytes.into()).await.unwrap();
        Decompressing(inner).get(&Path::from("a")).await?.bytes().await
    }

    #[tokio::test]
    async fn files_of_several_members_are_read_to_their_end() {
        for is_gzip in [true, false] {
            let mut bytes = packed("a,b\n1,2\n", is_gzip).await;
            bytes.extend(packed("3,4\n", is_gzip).await);
            assert_eq!(read(bytes).await.unwrap(), "a,b\n1,2\n3,4\n");
        }
        assert_eq!(read(b"a,b\n".to_vec()).await.unwrap(), "a,b\n");
        assert_eq!(read(Vec::new()).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_file_that_ends_too_early_is_the_datas_fault() {
        for is_gzip in [true, false] {
            let mut bytes = packed(&"1,2\n".repeat(10_000), is_gzip).await;
            bytes.truncate(bytes.len() - 4);
            let error = crate::Error::from(read(bytes).await.unwrap_err());
            assert_eq!(error.class(), crate::error::Class::User);
            assert!(error.to_string().contains("cannot be unpacked"), "{error}");
        }
    }
}
