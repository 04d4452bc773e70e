//! The files of a bundle or of a checkpoint: those of a folder by name, or those that a bundle held at one moment.
//!
//! A training may replace a bundle while a night reads it. So a bundle's folder is opened once and its files through it: all of
//! them are of one training, also after another one took the folder's name. What is read has the hash that the manifest names.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Place, Problem};
use crate::{Error, Result, hash};

/// The file that a bundle's folder is known by.
pub const MANIFEST: &str = "manifest.json";

/// So often a bundle that is replaced while it is opened is opened again.
const MAX_TRIES: usize = 20;

/// Files by their paths below a folder.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
    /// The folder's own path in the bundle, with a `/` at its end; and the bundle's files.
    pinned: Option<(String, Arc<BTreeMap<String, Pinned>>)>,
}

/// A file that was opened, and the hash that its bytes have to have.
#[derive(Debug)]
struct Pinned {
    file: File,
    sha256: String,
}

impl Files {
    /// Whatever is in a folder when it is asked for.
    pub fn of_folder(folder: &Path) -> Self {
        Files { folder: folder.to_owned(), pinned: None }
    }

    /// The folder, for messages.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file's path, for messages.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Those of a folder in this one.
    pub fn below(&self, folder: &str) -> Files {
        let pinned = self.pinned.as_ref().map(|(own, files)| (format!("{own}{folder}/"), Arc::clone(files)));
        Files { folder: self.folder.join(folder), pinned }
    }

    /// Whether there is a file of this name.
    pub fn contains(&self, name: &str) -> bool {
        match &self.pinned {
            Some((own, files)) => files.contains_key(&format!("{own}{name}")),
            None => self.path(name).is_file(),
        }
    }

    /// The bytes of a file, if it is there.
    pub fn find(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        let Some((own, files)) = &self.pinned else {
            return match std::fs::read(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                read => read.map(Some).map_err(|e| Error::io(&path, e)),
            };
        };
        let Some(Pinned { file, sha256 }) = files.get(&format!("{own}{name}")) else { return Ok(None) };
        let bytes = read_all(file).map_err(|e| Error::io(&path, e))?;
        if hash::of_bytes(&bytes) != *sha256 {
            return Err(Error::infra(format!("`{}` changed while it was read", path.display()))
                .hint("a training replaces a bundle as a whole; does something else write into its folder?"));
        }
        Ok(Some(bytes))
    }

    /// Reads a file by a library that wants a path, and makes sure of what it read.
    pub fn read_by<T>(&self, name: &str, read: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let Some((own, files)) = &self.pinned else { return read(&self.path(name)) };
        let pinned = files.get(&format!("{own}{name}"));
        let pinned = pinned.ok_or_else(|| Error::io(self.path(name), std::io::ErrorKind::NotFound.into()))?;
        let found = read(&path_of(&pinned.file))?;
        self.read(name).map(|_| found)
    }

    /// The bytes of a file that has to be there.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let found = self.find(name)?;
        found.ok_or_else(|| Error::io(self.path(name), std::io::ErrorKind::NotFound.into()))
    }

    /// The text of a file that has to be there.
    pub fn read_text(&self, name: &str) -> Result<String> {
        String::from_utf8(self.read(name)?).map_err(|e| {
            Error::user("this file is no text").at(Place::file(self.path(name).display().to_string())).because(e)
        })
    }
}

/// A bundle's folder, opened once.
#[derive(Debug)]
pub struct OpenFolder {
    path: PathBuf,
    opened: File,
}

impl OpenFolder {
    /// Reads a bundle's folder by `read`; again, if it is another folder by then.
    pub fn read_whole<T>(path: &Path, read: impl Fn(&OpenFolder) -> Result<T>) -> Result<T> {
        for _ in 0..MAX_TRIES {
            let opened = match File::open(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(absent(path)),
                opened => opened.map_err(|e| Error::io(path, e))?,
            };
            let folder = OpenFolder { path: path.to_owned(), opened };
            match read(&folder) {
                Err(_) if folder.was_replaced() => {}
                read => return read,
            }
        }
        Err(Error::infra(format!("`{}` is replaced again and again", path.display())))
    }

    /// The manifest's bytes.
    pub fn manifest(&self) -> Result<Vec<u8>> {
        match std::fs::read(self.inside(MANIFEST)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(absent(&self.path)),
            read => read.map_err(|e| Error::io(self.path.join(MANIFEST), e)),
        }
    }

    /// Opens files and compares them with their hashes; all that are others are named.
    pub fn pin(&self, hashes: &BTreeMap<String, String>) -> Result<Files> {
        let (mut files, mut problems) = (BTreeMap::new(), Vec::new());
        for (name, sha256) in hashes {
            let opened = File::open(self.inside(name)).and_then(|file| Ok((hash::of_bytes(read_all(&file)?), file)));
            match opened {
                Ok((found, file)) if found == *sha256 => {
                    files.insert(name.clone(), Pinned { file, sha256: sha256.clone() });
                }
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(self.path.join(name), error));
                }
                _ => problems.push(
                    Problem::new(format!("`{name}` is not the file that the manifest names"))
                        .at(Place::file(self.path.display().to_string()))
                        .hint(DAMAGED),
                ),
            }
        }
        Error::all(problems)?;
        Ok(Files { folder: self.path.clone(), pinned: Some((String::new(), Arc::new(files))) })
    }

    /// A file of this folder, whatever its name is by now.
    fn inside(&self, name: &str) -> PathBuf {
        path_of(&self.opened).join(name)
    }

    fn was_replaced(&self) -> bool {
        let which = |found: std::fs::Metadata| (found.dev(), found.ino());
        self.opened.metadata().map(which).ok() != std::fs::metadata(&self.path).map(which).ok()
    }
}

const DAMAGED: &str = "the bundle is damaged: copy it again, or train again with `tenure train JOB`";

fn absent(folder: &Path) -> Error {
    let place = Place::file(folder.display().to_string());
    Error::user("there is no model bundle here").at(place).hint("train one with `tenure train JOB`")
}

/// A path of an open file or folder, whatever its name is by now.
fn path_of(file: &File) -> PathBuf {
    Path::new("/proc/self/fd").join(file.as_raw_fd().to_string())
}

fn read_all(file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).map_err(std::io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

const CHECKSUM: (&str, &str) = ("{\n  \"checksum\": \"", "\",\n");

/// A JSON object, printed over several lines, with the SHA-256 of the rest as its first key.
pub fn seal(json: &str) -> String {
    let rest = json.strip_prefix("{\n").unwrap_or(json);
    format!("{}{}{}{rest}", CHECKSUM.0, hash::of_bytes(rest), CHECKSUM.1)
}

/// The object without its checksum, where this is the one that it was sealed with; `None` where any byte is another.
pub fn unseal(sealed: &[u8]) -> Option<String> {
    let (sum, rest) = std::str::from_utf8(sealed).ok()?.strip_prefix(CHECKSUM.0)?.split_at_checked(64)?;
    let rest = rest.strip_prefix(CHECKSUM.1).filter(|rest| hash::of_bytes(rest) == sum)?;
    Some(format!("{{\n{rest}"))
}

/// What a manifest is not whose checksum is wrong, at this place.
pub fn not_sealed(folder: &Path, sealed: &[u8]) -> Error {
    let place = Place::file(folder.join(MANIFEST).display().to_string());
    let old = serde_json::from_slice::<serde_json::Value>(sealed).is_ok_and(|found| found.get("checksum").is_none());
    match old {
        true => Error::user("this manifest has no checksum: an older version of this program wrote it")
            .at(place)
            .hint("train again with `tenure train JOB`"),
        false => Error::user("the manifest is not as it was written").at(place).hint(DAMAGED),
    }
}

/// Refuses a folder that training must not replace: one that holds anything but a bundle of this job.
pub fn check_replaceable(folder: &Path, job: &str) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Known {
        job: String,
        files: BTreeMap<String, String>,
    }
    let refuse = |what: String| {
        let hint = "training replaces the bundle's folder: give the bundle a folder of its own, or move that one away";
        Err(Error::user(format!("`{}` {what}", folder.display())).hint(hint))
    };
    let names = match names_in(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return refuse("is no folder".to_owned()),
        names => names.map_err(|e| Error::io(folder, e))?,
    };
    let Some(first) = names.first() else { return Ok(()) };
    let path = folder.join(MANIFEST);
    if !path.is_file() {
        return refuse(format!("is no bundle: it holds `{first}`"));
    }
    let text = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let Ok(known) = serde_json::from_slice::<Known>(&text) else {
        return refuse(format!("is no bundle of ours: its `{MANIFEST}` says something else"));
    };
    if known.job != job {
        return refuse(format!("is the bundle of the job `{}`, and not of `{job}`", known.job));
    }
    match foreign(folder, "", &known.files).map_err(|e| Error::io(folder, e))? {
        Some(name) => refuse(format!("holds `{name}`, which is no part of the bundle")),
        None => Ok(()),
    }
}

/// The first file that a manifest does not name.
fn foreign(folder: &Path, below: &str, files: &BTreeMap<String, String>) -> std::io::Result<Option<String>> {
    for name in names_in(&folder.join(below))? {
        let name = format!("{below}{name}");
        let inside = format!("{name}/");
        if files.keys().any(|file| file.starts_with(&inside)) && folder.join(&name).is_dir() {
            if let Some(found) = foreign(folder, &inside, files)? {
                return Ok(Some(found));
            }
        } else if name != MANIFEST && !files.contains_key(&name) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// What is in a folder, sorted.
fn names_in(folder: &Path) -> std::io::Result<Vec<String>> {
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_tells_every_byte() {
        let json = "{\n  \"job\": \"ltv\",\n  \"heads\": [\n    1.5\n  ]\n}\n";
        let sealed = seal(json);
        assert_eq!(unseal(sealed.as_bytes()).as_deref(), Some(json));
        assert!(serde_json::from_str::<serde_json::Value>(&sealed).is_ok());
        for (at, bit) in (0..sealed.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut other = sealed.clone().into_bytes();
            other[at] ^= 1 << bit;
            assert_eq!(unseal(&other), None, "bit {bit} of byte {at}");
        }
        assert_eq!(unseal(json.as_bytes()), None);
        assert_eq!(unseal(b""), None);
    }

    #[test]
    fn only_a_bundle_of_the_job_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("bundle");
        let verdict =
            || check_replaceable(&folder, "ltv").err().map(|e| e.to_string().split_once("` ").unwrap().1.to_owned());
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(verdict(), None);
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(verdict(), None);
        write("orders/part-0.parquet", "");
        assert_eq!(verdict().unwrap(), "is no bundle: it holds `orders`");
        write(MANIFEST, "{\"version\": 1}");
        assert_eq!(verdict().unwrap(), "is no bundle of ours: its `manifest.json` says something else");
        let manifest =
            |job: &str| format!("{{\"job\": \"{job}\", \"files\": {{\"weights\": \"1\", \"encoder/config\": \"2\"}}}}");
        write(MANIFEST, &manifest("other"));
        assert_eq!(verdict().unwrap(), "is the bundle of the job `other`, and not of `ltv`");
        write(MANIFEST, &manifest("ltv"));
        assert_eq!(verdict().unwrap(), "holds `orders`, which is no part of the bundle");
        std::fs::remove_dir_all(folder.join("orders")).unwrap();
        ["weights", "encoder/config"].into_iter().for_each(|name| write(name, ""));
        assert_eq!(verdict(), None);
        write("encoder/notes", "");
        assert_eq!(verdict().unwrap(), "holds `encoder/notes`, which is no part of the bundle");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(check_replaceable(&file, "ltv").is_err());
    }
}
