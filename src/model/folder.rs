//! A folder that is there whole or not at all, and that replaces nothing but what it is meant to.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result, failpoint};

/// Lets `fill` write into a new folder beside `goal` and then puts it in `goal`'s place, in one step where the file system can
/// exchange two folders. If anything fails before that, the old folder stays as it was; what is there and is not empty has to pass
/// `is_ours`. What a killed process left beside `goal` is taken back first.
pub fn write_whole(
    goal: &Path,
    is_ours: impl Fn(&Path) -> Result<()>,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    write_in(goal, exchange, is_ours, fill)
}

/// How two folders change their names; an error where the file system cannot.
type Exchange = fn(&Path, &Path) -> std::io::Result<()>;

fn write_in(
    goal: &Path,
    exchange: Exchange,
    is_ours: impl Fn(&Path) -> Result<()>,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let place = Place::of(goal)?;
    std::fs::create_dir_all(&place.parent).map_err(|e| Error::io(&place.parent, e))?;
    // Held to the end: whatever else lies beside the goal is of processes that are gone.
    let parent = File::open(&place.parent).map_err(|e| Error::io(&place.parent, e))?;
    let is_alone = parent.lock().is_ok();
    if is_alone {
        place.take_back(&is_ours)?;
    }
    replaceable(&place.goal, &is_ours)?;
    let part = place.beside(PART, std::process::id());
    remove(&part)?;
    std::fs::create_dir(&part).map_err(|e| Error::io(&part, e))?;
    let half = Half(&part);
    let written = fill(&part).and_then(|()| sync(&part));
    failpoint::reach("folder.synced");
    // From here on it may hold what was there before.
    std::mem::forget(half);
    let written = written.and_then(|()| place.put(&part, exchange, &is_ours));
    if written.is_err() {
        // Whatever went wrong is the error; a folder left behind is removed next time.
        let _ = remove(&part);
    }
    written?;
    parent.sync_all().map_err(|e| Error::io(&place.parent, e))?;
    failpoint::reach("folder.replaced");
    // In an exchange the old folder got the name of the new one.
    remove(&part)?;
    failpoint::reach("folder.cleaned");
    Ok(())
}

/// A folder that is being filled; a panic removes it.
struct Half<'a>(&'a Path);

impl Drop for Half<'_> {
    fn drop(&mut self) {
        // What cannot be removed is taken back next time.
        let _ = remove(self.0);
    }
}

/// Whether a folder is absent, empty or ours.
fn replaceable(folder: &Path, is_ours: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let mut entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| Error::io(folder, e))?,
    };
    if entries.next().is_none() { Ok(()) } else { is_ours(folder) }
}

const PART: &str = "part";
const OLD: &str = "old";

/// A folder's name and what may lie beside it.
struct Place {
    goal: PathBuf,
    parent: PathBuf,
    name: String,
}

impl Place {
    /// Follows a link: what it points to is replaced, and not the link.
    fn of(goal: &Path) -> Result<Self> {
        let is_link = std::fs::symlink_metadata(goal).is_ok_and(|found| found.is_symlink());
        let goal = match is_link {
            true => std::fs::canonicalize(goal).map_err(|e| Error::io(goal, e))?,
            false => goal.to_owned(),
        };
        let name = goal.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.ok_or_else(|| Error::user(format!("`{}` does not name a folder", goal.display())))?;
        let parent = goal.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Place { parent: parent.to_owned(), name, goal })
    }

    fn beside(&self, what: &str, process: u32) -> PathBuf {
        self.parent.join(format!(".{}.{what}-{process}", self.name))
    }

    /// Puts a new folder in place.
    fn put(&self, part: &Path, exchange: Exchange, is_ours: impl Fn(&Path) -> Result<()>) -> Result<()> {
        let goal = &self.goal;
        if !goal.exists() {
            return std::fs::rename(part, goal).map_err(|e| Error::io(goal, e));
        }
        if exchange(part, goal).is_ok() {
            failpoint::reach("folder.exchanged");
            // Somebody may have put something into it since it was looked at: then it is put back.
            let Err(error) = replaceable(part, is_ours) else { return Ok(()) };
            std::fs::rename(goal, self.beside(OLD, std::process::id())).map_err(|e| Error::io(goal, e))?;
            std::fs::rename(part, goal).map_err(|e| Error::io(goal, e))?;
            remove(&self.beside(OLD, std::process::id()))?;
            return Err(error);
        }
        // In two steps; a kill between them leaves the old folder for the next time.
        replaceable(goal, is_ours)?;
        let old = self.beside(OLD, std::process::id());
        remove(&old)?;
        std::fs::rename(goal, &old).map_err(|e| Error::io(goal, e))?;
        failpoint::reach("folder.moved");
        if let Err(error) = std::fs::rename(part, goal) {
            let _ = std::fs::rename(&old, goal);
            return Err(Error::io(goal, error));
        }
        remove(&old)
    }

    /// Removes what processes left that were killed, and puts an old folder back that has no successor.
    fn take_back(&self, is_ours: impl Fn(&Path) -> Result<()>) -> Result<()> {
        for old in self.left(OLD)? {
            match (self.goal.exists(), is_ours(&old)) {
                (false, Ok(())) => std::fs::rename(&old, &self.goal).map_err(|e| Error::io(&old, e))?,
                (true, Ok(())) => remove(&old)?,
                (_, Err(_)) => {}
            }
        }
        self.left(PART)?.iter().try_for_each(|part| remove(part))
    }

    /// What is called as we call it, newest first.
    fn left(&self, what: &str) -> Result<Vec<PathBuf>> {
        let prefix = format!(".{}.{what}-", self.name);
        let is_ours = |name: &OsStr| {
            let process = name.to_str().and_then(|name| name.strip_prefix(&prefix));
            process.is_some_and(|process| !process.is_empty() && process.bytes().all(|digit| digit.is_ascii_digit()))
        };
        let entries = std::fs::read_dir(&self.parent).map_err(|e| Error::io(&self.parent, e))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io(&self.parent, e))?;
            if is_ours(&entry.file_name()) {
                found.push((entry.metadata().and_then(|found| found.modified()).ok(), entry.path()));
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }
}

/// Lets two folders exchange their names in one step.
#[allow(unsafe_code)]
fn exchange(one: &Path, other: &Path) -> std::io::Result<()> {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(std::io::Error::from);
    let (one, other) = (path(one)?, path(other)?);
    // SAFETY: both are strings that end with a zero and live through the call, which keeps neither.
    let done =
        unsafe { libc::renameat2(libc::AT_FDCWD, one.as_ptr(), libc::AT_FDCWD, other.as_ptr(), libc::RENAME_EXCHANGE) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Brings a folder with all that is in it onto the disk.
fn sync(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        match path.is_dir() {
            true => sync(&path)?,
            false => File::open(&path).and_then(|file| file.sync_all()).map_err(|e| Error::io(&path, e))?,
        }
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| Error::io(folder, e))
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// File systems that exchange folders, and those that do not.
    const WAYS: [Exchange; 2] = [exchange, |_, _| Err(std::io::ErrorKind::Unsupported.into())];

    /// A folder with a file `mine` is ours.
    fn mine(folder: &Path) -> Result<()> {
        if folder.join("mine").exists() { Ok(()) } else { Err(Error::user("it is somebody else's")) }
    }

    fn put(text: &'static str) -> impl FnOnce(&Path) -> Result<()> {
        move |at: &Path| std::fs::write(at.join("mine"), text).map_err(|e| Error::io(at, e))
    }

    fn text(folder: &Path) -> String {
        std::fs::read_to_string(folder.join("mine")).unwrap()
    }

    fn entries(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_new_folder_takes_the_old_ones_place_whole() {
        for way in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let goal = dir.path().join("deep/bundle");
            write_in(&goal, way, mine, put("first")).unwrap();
            std::fs::write(goal.join("more"), "").unwrap();
            write_in(&goal, way, mine, put("second")).unwrap();
            assert_eq!((text(&goal).as_str(), entries(&goal)), ("second", 1));
            assert_eq!(entries(goal.parent().unwrap()), 1);
        }
    }

    #[test]
    fn a_failure_leaves_the_old_folder() {
        for way in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let goal = dir.path().join("bundle");
            write_in(&goal, way, mine, put("first")).unwrap();
            let failed = write_in(&goal, way, mine, |at| put("second")(at).and(Err(Error::infra("no more room"))));
            assert!(failed.is_err());
            assert_eq!((text(&goal).as_str(), entries(dir.path())), ("first", 1));
        }
    }

    #[test]
    fn what_is_somebody_elses_stays() {
        for way in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let goal = dir.path().join("lake");
            std::fs::create_dir_all(goal.join("orders")).unwrap();
            let error = write_in(&goal, way, mine, put("first")).unwrap_err();
            assert_eq!(error.to_string(), "it is somebody else's");
            // So does what comes while the new folder is written.
            let goal = dir.path().join("bundle");
            write_in(&goal, way, mine, put("first")).unwrap();
            let failed = write_in(&goal, way, mine, |at| {
                std::fs::rename(goal.join("mine"), goal.join("theirs")).unwrap();
                put("second")(at)
            });
            assert!(failed.is_err() && goal.join("theirs").exists() && !goal.join("mine").exists());
            assert!(dir.path().join("lake/orders").exists());
            assert_eq!(entries(dir.path()), 2);
        }
        for nothing in ["/", "..", ""] {
            assert!(write_whole(Path::new(nothing), mine, put("first")).is_err(), "{nothing}");
        }
    }

    #[test]
    fn an_empty_folder_is_replaced_and_a_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (goal, link) = (dir.path().join("bundle"), dir.path().join("link"));
        std::fs::create_dir(&goal).unwrap();
        std::os::unix::fs::symlink(&goal, &link).unwrap();
        write_whole(&link, mine, put("first")).unwrap();
        write_whole(&link, mine, put("second")).unwrap();
        assert_eq!((text(&goal).as_str(), std::fs::read_link(&link).unwrap()), ("second", goal));
        assert_eq!(entries(dir.path()), 2);
    }

    #[test]
    fn what_a_killed_process_left_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let goal = dir.path().join("bundle");
        let make = |name: &str| {
            let folder = dir.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("mine"), "old").unwrap();
        };
        // Killed between two steps: the old folder comes back even where the new one fails.
        make(".bundle.old-7");
        make(".bundle.part-8");
        make(".bundle.part-x");
        make(".other.part-8");
        assert!(write_whole(&goal, mine, |_| Err(Error::infra("no more room"))).is_err());
        assert_eq!((text(&goal).as_str(), entries(dir.path())), ("old", 3));
        make(".bundle.old-9");
        write_whole(&goal, mine, put("new")).unwrap();
        assert_eq!((text(&goal).as_str(), entries(dir.path())), ("new", 3));
    }

    /// The other half of the next test, which starts it as a process to be killed; by itself it has nothing to do.
    #[test]
    fn replaces_until_it_is_killed() {
        let Ok(goal) = std::env::var("TENURE_TEST_FOLDER") else { return };
        write_whole(Path::new(&goal), mine, put("second")).unwrap();
    }

    #[test]
    fn a_kill_at_any_step_leaves_the_old_or_the_new_folder() {
        for (point, wanted) in [
            ("folder.synced", "first"),
            ("folder.exchanged", "second"),
            ("folder.replaced", "second"),
            ("folder.cleaned", "second"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let goal = dir.path().join("bundle");
            write_whole(&goal, mine, put("first")).unwrap();
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "model::folder::tests::replaces_until_it_is_killed"]);
            let killed = child.env("TENURE_TEST_FOLDER", &goal).env("TENURE_ABORT_AT", point).output().unwrap();
            assert!(!killed.status.success(), "{point} was not reached");
            assert_eq!(text(&goal), wanted, "{point}");
            write_whole(&goal, mine, put("third")).unwrap();
            assert_eq!((text(&goal).as_str(), entries(dir.path())), ("third", 1), "{point}");
        }
    }
}
