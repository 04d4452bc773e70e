//! A folder that is there whole or not at all.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Lets `fill` write into a new folder beside `goal` and then puts it in `goal`'s place. If anything fails before that, the
/// old folder stays as it was. A kill between the two renames leaves the old folder under the name `.NAME.old-PID`.
pub fn write_whole(goal: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (part, old) = (beside(goal, "part")?, beside(goal, "old")?);
    if let Some(parent) = part.parent() {
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    }
    remove(&part)?;
    std::fs::create_dir(&part).map_err(|e| Error::io(&part, e))?;
    let written = fill(&part).and_then(|()| exchange(goal, &part, &old));
    if written.is_err() {
        // Whatever went wrong is the error; a folder left behind is overwritten next time.
        let _ = remove(&part);
    }
    written
}

fn exchange(goal: &Path, part: &Path, old: &Path) -> Result<()> {
    remove(old)?;
    let replaces = goal.exists();
    if replaces {
        std::fs::rename(goal, old).map_err(|e| Error::io(goal, e))?;
    }
    if let Err(error) = std::fs::rename(part, goal) {
        if replaces {
            let _ = std::fs::rename(old, goal);
        }
        return Err(Error::io(goal, error));
    }
    remove(old)
}

fn beside(goal: &Path, what: &str) -> Result<PathBuf> {
    let name = goal
        .file_name()
        .ok_or_else(|| Error::user(format!("`{}` does not name a folder", goal.display())))?
        .to_string_lossy();
    Ok(goal.with_file_name(format!(".{name}.{what}-{}", std::process::id())))
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

    #[test]
    fn a_new_folder_takes_the_old_ones_place_whole() {
        let dir = tempfile::tempdir().unwrap();
        let goal = dir.path().join("deep/bundle");
        let put =
            |name: &'static str| move |at: &Path| std::fs::write(at.join(name), name).map_err(|e| Error::io(at, e));
        write_whole(&goal, put("first")).unwrap();
        write_whole(&goal, put("second")).unwrap();
        assert!(!goal.join("first").exists() && goal.join("second").exists());
        assert_eq!(std::fs::read_dir(goal.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_the_old_folder() {
        let dir = tempfile::tempdir().unwrap();
        let goal = dir.path().join("bundle");
        write_whole(&goal, |at| std::fs::write(at.join("first"), "").map_err(|e| Error::io(at, e))).unwrap();
        let failed = write_whole(&goal, |at| {
            std::fs::write(at.join("second"), "").map_err(|e| Error::io(at, e))?;
            Err(Error::infra("no more room"))
        });
        assert!(failed.is_err() && goal.join("first").exists() && !goal.join("second").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
