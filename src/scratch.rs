//! Temporary folders for what is customers' data: nobody but the user who runs the program may look into them.

use std::path::Path;

use tempfile::{Builder, TempDir};

use crate::{Error, Result};

/// A folder below the system's temporary one (`TMPDIR`) that goes when it is dropped.
pub(crate) fn folder(prefix: &str) -> Result<TempDir> {
    folder_in(&std::env::temp_dir(), prefix)
}

/// The same below another folder.
pub(crate) fn folder_in(parent: &Path, prefix: &str) -> Result<TempDir> {
    let mut builder = Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o700));
    }
    builder.tempdir_in(parent).map_err(|e| Error::io(parent, e))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_temporary_folder_is_its_owners_alone() {
        let folder = super::folder("tenure-").unwrap();
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
