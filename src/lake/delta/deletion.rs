//! Deletion vectors: rows of a file that are no part of the table any more, though the file still holds them.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use delta_kernel::actions::deletion_vector::DeletionVectorDescriptor;
use delta_kernel::error::KernelError;
use delta_kernel::{FileMeta, FileSlice, KernelResult, KernelResultIteratorStatic, StorageHandler};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::RowSelection;
use url::Url;

use super::READS_IN_FLIGHT;
use crate::lake::store;
use crate::{Error, Result};

/// The deleted rows of a file.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::lake) struct DeletedRows {
    /// What names them: another one stands for other rows.
    pub id: String,
    /// Their positions in the file, ascending.
    rows: Vec<u64>,
}

impl DeletedRows {
    /// The rows that stay of a file with so many rows, as a scan reads them.
    pub fn remaining(&self, rows: usize) -> ParquetRowSelection {
        ParquetRowSelection::new(RowSelection::from_consecutive_ranges(self.remaining_ranges(rows).into_iter(), rows))
    }

    fn remaining_ranges(&self, rows: usize) -> Vec<Range<usize>> {
        let mut ranges = Vec::with_capacity(self.rows.len() + 1);
        let mut start = 0;
        for deleted in
            self.rows.iter().map(|row| usize::try_from(*row).unwrap_or(usize::MAX)).take_while(|row| *row < rows)
        {
            if start < deleted {
                ranges.push(start..deleted);
            }
            start = deleted + 1;
        }
        if start < rows {
            ranges.push(start..rows);
        }
        ranges
    }
}

/// What names the rows that a vector deletes.
pub(super) fn unique_id(vector: &DeletionVectorDescriptor) -> String {
    let DeletionVectorDescriptor { storage_type, path_or_inline_dv, offset, .. } = vector;
    match offset {
        Some(offset) => format!("{storage_type}{path_or_inline_dv}@{offset}"),
        None => format!("{storage_type}{path_or_inline_dv}"),
    }
}

/// The files that hold the vectors of a table, by their URLs.
#[derive(Debug, Clone)]
pub(super) struct VectorFiles {
    folder: Url,
    files: Arc<HashMap<Url, Bytes>>,
}

/// Reads the files that hold some vectors; `folder` is the table's.
pub(super) async fn fetch(
    store: &dyn ObjectStore,
    folder: &Url,
    vectors: impl Iterator<Item = &DeletionVectorDescriptor>,
) -> Result<VectorFiles> {
    let mut urls = HashSet::new();
    for vector in vectors {
        urls.extend(vector.absolute_path(folder).map_err(damaged)?);
    }
    let read = |url: Url| async move {
        if url[..url::Position::BeforePath] != folder[..url::Position::BeforePath] {
            return Err(Error::user(format!("the deletion vector `{url}` is in another store")));
        }
        let path =
            Path::from_url_path(url.path()).map_err(|e| Error::user(format!("`{url}` is not a path")).because(e))?;
        let bytes = async { store.get(&path).await?.bytes().await };
        let bytes = bytes.await.map_err(|e| store::failed(url.as_str(), "read", e))?;
        Ok((url, bytes))
    };
    let files =
        futures::stream::iter(urls.into_iter().map(read)).buffer_unordered(READS_IN_FLIGHT).try_collect().await?;
    Ok(VectorFiles { folder: folder.clone(), files: Arc::new(files) })
}

impl VectorFiles {
    /// The rows that a vector deletes.
    pub fn read(&self, vector: DeletionVectorDescriptor) -> Result<DeletedRows> {
        let rows = vector.row_indexes(Arc::new(self.clone()), &self.folder).map_err(damaged)?;
        let id = unique_id(&vector);
        match usize::try_from(vector.cardinality) {
            Ok(count) if count == rows.len() => Ok(DeletedRows { id, rows }),
            _ => Err(Error::user(format!(
                "the deletion vector `{id}` has {} rows for {}",
                rows.len(),
                vector.cardinality
            ))),
        }
    }
}

fn damaged(error: KernelError) -> Error {
    Error::user("a deletion vector cannot be read").because(error)
}

/// The kernel reads vectors through a store of its own kind: here all of it was read before.
impl StorageHandler for VectorFiles {
    fn list_from(&self, _: &Url) -> KernelResult<KernelResultIteratorStatic<FileMeta>> {
        Err(KernelError::unsupported("only vectors are read"))
    }

    fn read_files(&self, files: Vec<FileSlice>) -> KernelResult<KernelResultIteratorStatic<Bytes>> {
        let known = Arc::clone(&self.files);
        let read = move |(url, _): FileSlice| {
            known.get(&url).cloned().ok_or_else(|| KernelError::generic(format!("`{url}` was not read")))
        };
        Ok(Box::new(files.into_iter().map(read)))
    }

    fn copy_atomic(&self, _: &Url, _: &Url) -> KernelResult<()> {
        Err(KernelError::unsupported("only vectors are read"))
    }

    fn put(&self, _: &Url, _: Bytes, _: bool) -> KernelResult<()> {
        Err(KernelError::unsupported("only vectors are read"))
    }

    fn head(&self, _: &Url) -> KernelResult<FileMeta> {
        Err(KernelError::unsupported("only vectors are read"))
    }

    fn delete(&self, _: &Url) -> KernelResult<()> {
        Err(KernelError::unsupported("only vectors are read"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_deleted_stays() {
        let deleted = |rows: &[u64]| DeletedRows { id: String::new(), rows: rows.to_vec() };
        assert_eq!(deleted(&[]).remaining_ranges(3), std::slice::from_ref(&(0..3)));
        assert_eq!(deleted(&[0, 1, 4]).remaining_ranges(6), [2..4, 5..6]);
        assert_eq!(deleted(&[2]).remaining_ranges(3), std::slice::from_ref(&(0..2)));
        assert_eq!(deleted(&[0, 1, 2, 7]).remaining_ranges(3), Vec::<Range<usize>>::new());
    }
}
