//! The files of a version as they are in the table's folder.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};

use super::{ActiveFile, DeletedRows, DeltaTable, Log, READS_IN_FLIGHT};
use crate::lake::{partitions, store};
use crate::spec::{ColumnSpec, Format, TableSpec};
use crate::{Error, Result};

/// Columns with their types.
type Columns = HashMap<String, Option<String>>;

/// A version of a table with its files as they were listed.
#[derive(Debug)]
pub(in crate::lake) struct DeltaListing {
    pub version: u64,
    /// The declaration with the columns that the log holds as partition columns.
    pub read_as: TableSpec,
    pub files: Vec<DeltaFile>,
}

/// A file of a version.
#[derive(Debug)]
pub(in crate::lake) struct DeltaFile {
    pub meta: ObjectMeta,
    /// The values of the partition columns.
    pub values: Vec<ScalarValue>,
    /// Rows of the file that are no part of the table.
    pub deleted: Option<Arc<DeletedRows>>,
}

impl Log<'_> {
    /// Reads the version that the job file names, or the newest one; `metas` are all files of the folder.
    pub async fn read(self, metas: Vec<ObjectMeta>) -> Result<DeltaListing> {
        let DeltaTable { version, partition_by, columns, files } = self.snapshot().await?;
        let read_as = self.read_as(&partition_by, &columns)?;
        let listed: HashMap<Path, ObjectMeta> = metas.into_iter().map(|meta| (meta.location.clone(), meta)).collect();
        let found = futures::stream::iter(files).map(async |file| {
            let meta = match listed.get(&file.location) {
                Some(meta) => meta.clone(),
                // It may have been written after its folder was listed, and before the log was.
                None => self.store.head(&file.location).await.map_err(|e| self.gone(version, &file, e))?,
            };
            self.delta_file(&read_as, &columns, meta, file)
        });
        let files = found.buffered(READS_IN_FLIGHT).try_collect().await?;
        Ok(DeltaListing { version, read_as, files })
    }

    fn delta_file(
        &self,
        read_as: &TableSpec,
        columns: &Columns,
        meta: ObjectMeta,
        file: ActiveFile,
    ) -> Result<DeltaFile> {
        let url = self.url_of(&file.location);
        if meta.size != file.size {
            let message =
                format!("`{url}` has {} bytes, and the log of `{}` says {}", meta.size, self.table.name, file.size);
            return Err(Error::user(message)
                .at(self.table.place.clone())
                .hint("only writers that know Delta may change the files of a Delta table: restore the file"));
        }
        let value = |column: &(String, _)| {
            let text = file.partition.get(&column.0).and_then(Option::as_deref);
            let text = match columns.get(&column.0).and_then(Option::as_deref) {
                Some("timestamp") => text.map(with_zone),
                _ => text.map(Cow::Borrowed),
            };
            partitions::value_in_log(self.table, column, text.as_deref(), &url)
        };
        let values = read_as.partition_by.iter().map(value).collect::<Result<_>>()?;
        Ok(DeltaFile { meta, values, deleted: file.deleted })
    }

    /// A file that the log names is not there. Of the newest version that is for a moment only: it was cleaned up (`VACUUM`)
    /// while we looked; that of an older one does not come back.
    fn gone(&self, version: u64, file: &ActiveFile, error: object_store::Error) -> Error {
        let url = self.url_of(&file.location);
        if !matches!(error, object_store::Error::NotFound { .. }) {
            return store::failed(&url, "read", error).at(self.table.place.clone());
        }
        let name = &self.table.name;
        let message = format!("`{url}` is not there, and version {version} of the Delta table `{name}` consists of it");
        let gone = match self.table.version {
            None => Error::infra(message)
                .hint("was it removed (`VACUUM`) since the log was listed? the next try reads the log anew"),
            Some(_) => Error::user(message).hint("`VACUUM` removes the files of old versions: name a newer version"),
        };
        gone.at(self.table.place.clone()).because(error)
    }

    /// The declaration with the columns that the log holds as partition columns.
    fn read_as(&self, partition_by: &[String], columns: &Columns) -> Result<TableSpec> {
        let table = self.table;
        if table.format != Format::Parquet {
            return Err(Error::user(format!("`{}` is a Delta table, whose files are Parquet", table.url))
                .at(table.place.clone())
                .hint("leave `format` out"));
        }
        if let Some((name, _)) = table.partition_by.iter().find(|(name, _)| !partition_by.contains(name)) {
            let hint = match partition_by {
                _ if columns.contains_key(name) => format!("declare `{name}` among the `columns`: its files hold it"),
                [] => "it has no partition columns".to_owned(),
                known => format!("its partition columns are `{}`", known.join("`, `")),
            };
            return Err(Error::user(format!("the Delta table `{}` is not partitioned by `{name}`", table.name))
                .at(table.place.clone())
                .hint(hint));
        }
        let mut read_as = table.clone();
        // Files that are older than a column of the table lack it: its values there are NULL.
        for column in &mut read_as.columns {
            column.optional |= matches!(column.from.as_slice(), [name] if columns.contains_key(name));
        }
        let in_log = |column: &&ColumnSpec| {
            partition_by.contains(&column.name) && !table.partition_by.iter().any(|(name, _)| *name == column.name)
        };
        read_as.partition_by.extend(table.columns.iter().filter(in_log).map(|c| (c.name.clone(), c.column_type)));
        Ok(read_as)
    }
}

/// A partition's time is one of UTC where it does not say otherwise.
fn with_zone(text: &str) -> Cow<'_, str> {
    match chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f") {
        Ok(_) => format!("{text}Z").into(),
        Err(_) => text.into(),
    }
}
