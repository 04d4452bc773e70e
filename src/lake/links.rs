//! What lies below a folder of ours on a local disk but is not ours: what symbolic links point to.

use std::path::Path;

use super::local;
use super::store::{Store, blocking};
use crate::{Error, Result};

impl Store {
    /// Refuses to write or delete an object through a symbolic link below the store's folder: what it points to is not ours.
    pub(super) fn refuse_links(&self, path: &str) -> Result<()> {
        let (Some(target), Ok(root)) = (self.local_path(path)?, self.url().to_file_path()) else { return Ok(()) };
        let folders = target.parent().into_iter().flat_map(Path::ancestors).take_while(|folder| **folder != *root);
        let is_link = |folder: &&Path| folder.symlink_metadata().is_ok_and(|found| found.file_type().is_symlink());
        match folders.filter(|folder| folder.starts_with(&root)).find(is_link) {
            None => Ok(()),
            Some(link) => {
                let message =
                    format!("`{}` is a symbolic link: nothing is written or deleted behind it", link.display());
                Err(Error::user(message)
                    .hint("make it a folder; the folder that the job file names may itself be a link"))
            }
        }
    }

    /// Removes what killed processes left half written in the folders directly below some folders of a local disk.
    pub(super) async fn sweep(&self, folders: impl IntoIterator<Item = String>) -> Result<()> {
        for folder in folders {
            // A name below the folder, so that the folder itself is looked at.
            self.refuse_links(&format!("{folder}/x"))?;
            if let Some(path) = self.local_path(&folder)? {
                blocking(move || local::sweep_folders_in(&path)).await?;
            }
        }
        Ok(())
    }
}
