//! Writing to a local disk so that a file is whole or absent, even after a power cut.
//!
//! object_store's `LocalFileSystem` renames a staging file into place but leaves the flushing to the kernel. Here the
//! content is flushed before the file gets its name, and the folder after it. Until then it is a hidden staging file beside its
//! target; what killed processes left is removed by the next one that writes there.

mod leftovers;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

pub(super) use leftovers::sweep_folders_in;
use leftovers::{next_number, staging_name, sweep_once};

use super::store::PutOutcome;
use crate::failpoint;

/// Whether an existing file is replaced or left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Replace,
    Keep,
}

/// Puts a file with the bytes that `fill` writes at `target`.
pub(super) fn write(
    target: &Path,
    existing: Existing,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<PutOutcome> {
    make_parents(target)?;
    let (staged, mut file) = stage(target, |path| OpenOptions::new().write(true).create_new(true).open(path))?;
    let outcome = fill(&mut file).and_then(|()| file.sync_all()).and_then(|()| place(&staged, target, existing));
    drop(file);
    let _ = fs::remove_file(&staged); // A renamed file is gone already.
    outcome
}

/// Puts some bytes at `target`.
pub(super) fn write_bytes(target: &Path, existing: Existing, bytes: &[u8]) -> io::Result<PutOutcome> {
    write(target, existing, |file| file.write_all(bytes))
}

/// Puts the content of `from` at `to`: as a second name of the same file where the file system knows those.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?; // A missing source is told apart from a missing target folder.
    make_parents(to)?;
    match stage(to, |path| fs::hard_link(from, path)) {
        Ok((staged, ())) => {
            let placed = place(&staged, to, Existing::Replace);
            // Renaming one name of a file to another of its names does nothing, and leaves both.
            let _ = fs::remove_file(&staged);
            placed.map(|_| ())
        }
        Err(_) => write(to, Existing::Replace, |file| io::copy(&mut File::open(from)?, file).map(|_| ())).map(|_| ()),
    }
}

fn place(staged: &Path, target: &Path, existing: Existing) -> io::Result<PutOutcome> {
    failpoint::reach("publish.placing");
    match existing {
        Existing::Replace => fs::rename(staged, target)?,
        Existing::Keep => match fs::hard_link(staged, target) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(PutOutcome::Exists),
            linked => linked?,
        },
    }
    sync_folder(target.parent())?;
    Ok(PutOutcome::Created)
}

/// Makes a staging file beside `target` under a number that no other writer uses: once it is renamed, removing it again
/// must not hit a file of the same name that somebody else has begun meanwhile.
fn stage<T>(target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    let name = target.file_name().unwrap_or(OsStr::new("file"));
    let mut number = next_number();
    loop {
        let path = target.with_file_name(staging_name(name, number));
        match make(&path) {
            Ok(made) => return Ok((path, made)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Makes the folders above `target` and flushes those that are new into their parents. Folders that were there are swept.
fn make_parents(target: &Path) -> io::Result<()> {
    let Some(parent) = target.parent() else { return Ok(()) };
    let missing: Vec<&Path> = parent.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(parent)?;
    if missing.is_empty() {
        sweep_once(parent);
    }
    missing.iter().try_for_each(|folder| sync_folder(folder.parent()))
}

fn sync_folder(folder: Option<&Path>) -> io::Result<()> {
    match folder {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_or_kept_as_asked_and_no_staging_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c.txt");
        assert_eq!(write_bytes(&path, Existing::Keep, b"one").unwrap(), PutOutcome::Created);
        assert_eq!(write_bytes(&path, Existing::Keep, b"two").unwrap(), PutOutcome::Exists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(write_bytes(&path, Existing::Replace, b"three").unwrap(), PutOutcome::Created);
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(names(path.parent().unwrap()), ["c.txt"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.txt");
        write_bytes(&path, Existing::Replace, b"old").unwrap();
        let failed = write(&path, Existing::Replace, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "disk full");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["c.txt"]);
    }

    #[test]
    fn what_a_killed_process_left_behind_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.txt");
        fs::write(folder.path().join(".c.txt.00000000#4294967297"), b"half").unwrap();
        write_bytes(&path, Existing::Replace, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn copying_twice_leaves_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("sub/to"));
        fs::write(&from, b"x").unwrap();
        copy(&from, &to).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"x");
        assert_eq!(names(to.parent().unwrap()), ["to"]);
        assert_eq!(copy(&folder.path().join("none"), &to).unwrap_err().kind(), ErrorKind::NotFound);
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}
