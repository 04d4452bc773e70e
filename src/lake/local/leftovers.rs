//! Staging files that killed processes left, and who may remove them.
//!
//! A staging file is called `.NAME.HOST#NUMBER`. The dot hides it from whoever reads a folder, and object_store never lists a name
//! that ends with `#` and digits. HOST stands for the machine (or container) that wrote it, the upper half of NUMBER is the process.
//! Earlier versions wrote `NAME#NUMBER`, which readers of folders take for data.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::hash;

/// A staging file of a process that cannot be asked for is left alone for so long.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// The same of a name that does not say which machine wrote it.
const MAX_AGE_WITHOUT_HOST: Duration = Duration::from_secs(3600);

/// The hexadecimal digits of [`HOST`].
const HOST_DIGITS: usize = 8;

/// Names this machine since it was started, and the process namespace that numbers are of.
static HOST: LazyLock<String> = LazyLock::new(|| {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    hash::of_bytes(format!("{boot} {}", namespace.display())).chars().take(HOST_DIGITS).collect()
});

/// A number that no other writer on this machine uses.
pub(super) fn next_number() -> u64 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    u64::from(std::process::id()) << 32 | u64::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The name of the staging file of `target` with this number.
pub(super) fn staging_name(target: &OsStr, number: u64) -> OsString {
    let mut name = OsString::from(".");
    name.push(target);
    name.push(format!(".{}#{number}", *HOST));
    name
}

/// Who wrote a staging file.
#[derive(Debug, PartialEq, Eq)]
struct Writer<'a> {
    host: Option<&'a str>,
    process: u32,
}

impl<'a> Writer<'a> {
    /// The writer of a file of this name; `None` where it is no staging file of ours.
    fn parse(name: &'a str) -> Option<Self> {
        let (stem, digits) = name.rsplit_once('#')?;
        let number: u64 = digits.parse().ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
        let process = u32::try_from(number >> 32).ok().filter(|process| *process > 0)?;
        match stem.strip_prefix('.') {
            Some(hidden) => {
                let (target, host) = hidden.rsplit_once('.')?;
                let is_host = host.len() == HOST_DIGITS && host.bytes().all(|digit| digit.is_ascii_hexdigit());
                (is_host && !target.is_empty()).then_some(Writer { host: Some(host), process })
            }
            None => {
                [".parquet", ".json"].iter().any(|end| stem.ends_with(end)).then_some(Writer { host: None, process })
            }
        }
    }

    /// Whether it will never come back to a file that has not changed for so long.
    fn is_gone(&self, age: Duration) -> bool {
        let runs = Path::new("/proc").join(self.process.to_string()).exists() || !Path::new("/proc/self").exists();
        match self.host {
            Some(host) if host == *HOST => !runs || age > MAX_AGE,
            Some(_) => age > MAX_AGE,
            None => age > if runs { MAX_AGE } else { MAX_AGE_WITHOUT_HOST },
        }
    }
}

/// How long ago a file or its names changed.
fn age(metadata: &Metadata, now: SystemTime) -> Duration {
    let written = metadata.modified().unwrap_or(now);
    #[cfg(unix)]
    let written = {
        use std::os::unix::fs::MetadataExt;
        let named = Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or_default());
        written.max(SystemTime::UNIX_EPOCH + named)
    };
    now.duration_since(written).unwrap_or_default()
}

/// Removes what gone processes left directly in a folder; links are not followed. What cannot be removed stays.
pub(super) fn sweep(folder: &Path, now: SystemTime) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(writer) = name.to_str().and_then(Writer::parse) else { continue };
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() && writer.is_gone(age(&metadata, now)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The same, once per process and folder.
pub(super) fn sweep_once(folder: &Path) {
    static SWEPT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut swept = SWEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if !swept.iter().any(|known| known == folder) {
        swept.push(folder.to_owned());
        drop(swept);
        sweep(folder, now());
    }
}

/// The same of the folders directly in a folder.
pub(in crate::lake) fn sweep_folders_in(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sweep(&entry.path(), now());
        }
    }
}

#[allow(clippy::disallowed_methods)] // Nothing that is published depends on it.
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that has ended, by its number.
    fn gone() -> u64 {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        u64::from(child.id()) << 32 | 1
    }

    fn left(names: &[&str], later: Duration) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), b"half").unwrap();
        }
        sweep(folder.path(), now() + later);
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_an_ended_process_left_goes_at_once_and_what_a_living_one_writes_stays() {
        let name = |number: u64| staging_name(OsStr::new("part-00000.parquet"), number).into_string().unwrap();
        assert!(name(7).starts_with(".part-00000.parquet."));
        let living = name(next_number());
        assert_eq!(left(&[&name(gone()), &living], Duration::ZERO), [living]);
    }

    #[test]
    fn names_of_other_machines_and_of_earlier_versions_go_when_they_are_old() {
        let other = format!(".part-00000.parquet.0000000x#{}", gone()).replace('x', "1");
        let earlier = format!("part-00000.parquet#{}", gone());
        let both = [other.as_str(), earlier.as_str()];
        assert_eq!(left(&both, Duration::from_secs(60)).len(), 2);
        assert_eq!(left(&both, Duration::from_secs(2 * 3600)), [other.as_str()]);
        assert_eq!(left(&both, Duration::from_secs(25 * 3600)), [""; 0]);
    }

    #[test]
    fn nothing_of_anybody_else_is_touched() {
        let big = gone();
        let others = [
            "part-00000.parquet".to_owned(),
            "part-00000.parquet#1".to_owned(),
            format!("notes.txt#{big}"),
            format!("part-00000.parquet#{big}x"),
            format!("part-00000.parquet#+{big}"),
            format!(".hidden#{big}"),
            format!(".a.nothexes#{big}"),
        ];
        let mut others: Vec<&str> = others.iter().map(String::as_str).collect();
        others.sort_unstable();
        assert_eq!(left(&others, Duration::from_secs(365 * 24 * 3600)), others);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let (folder, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let precious = home.path().join(format!("part-00000.parquet#{}", gone()));
        fs::write(&precious, b"mine").unwrap();
        std::os::unix::fs::symlink(home.path(), folder.path().join("ds=2026-07-01")).unwrap();
        std::os::unix::fs::symlink(&precious, folder.path().join(precious.file_name().unwrap())).unwrap();
        sweep_folders_in(folder.path());
        sweep(folder.path(), now() + Duration::from_secs(365 * 24 * 3600));
        assert!(precious.exists());
    }
}
