//! Where things are: the root of a job, URLs of the lake and below it, and SQL files by pattern.

use std::path::{Component, Path, PathBuf};

use url::Url;

use super::nearest::{listed, nearest};
use super::node::Pos;
use super::problems::Problems;
use super::read::At;

/// The schemes of an object store.
const SCHEMES: [&str; 4] = ["file", "s3", "gs", "az"];

/// The folder that relative paths start from.
#[derive(Debug, Clone)]
pub(super) struct Root {
    /// Absolute.
    pub folder: PathBuf,
    /// As it follows from what the user typed: for messages.
    shown: PathBuf,
}

impl Root {
    /// The parent of the `jobs` folder that holds the file, or the file's own folder.
    pub fn of(file: &Path) -> std::io::Result<Self> {
        let folder = clean(&std::path::absolute(file)?);
        let folder = folder.parent().unwrap_or(&folder).to_owned();
        let shown = file.parent().unwrap_or(Path::new("")).to_owned();
        match (folder.file_name().is_some_and(|name| name == "jobs"), folder.parent()) {
            (true, Some(parent)) => {
                let shown = match shown.file_name() {
                    Some(name) if name == "jobs" => shown.parent().unwrap_or(Path::new("")).to_owned(),
                    _ => shown.join(".."),
                };
                Ok(Root { folder: parent.to_owned(), shown })
            }
            _ => Ok(Root { folder, shown }),
        }
    }

    /// A path of the file, made absolute.
    pub fn join(&self, path: &str) -> PathBuf {
        clean(&self.folder.join(path))
    }

    fn shown(&self) -> String {
        match self.shown.as_os_str().is_empty() {
            true => ".".to_owned(),
            false => self.shown.display().to_string(),
        }
    }
}

/// The path without `.` and `..`, by its text alone.
fn clean(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                result.pop();
            }
            other => result.push(other),
        }
    }
    result
}

/// Whether a path says a whole URL.
fn is_url(path: &str) -> bool {
    path.contains("://")
}

/// A URL without what may be secret: the user and password before the host, and what follows a `?` or `#`.
fn masked(text: &str) -> String {
    let (text, cut) = match text.find(['?', '#']) {
        Some(at) => (&text[..at], format!("{}…", &text[at..=at])),
        None => (text, String::new()),
    };
    let (scheme, rest) = text.find(":/").map_or(("", text), |at| text.split_at(at + 1));
    let slashes = rest.len() - rest.trim_start_matches('/').len();
    let (slashes, rest) = rest.split_at(slashes.min(2));
    let host = rest.find('/').unwrap_or(rest.len());
    match rest[..host].rfind('@') {
        Some(at) if !scheme.is_empty() => format!("{scheme}{slashes}…{}{cut}", &rest[at..]),
        _ => format!("{text}{cut}"),
    }
}

/// A URL of an object store; a `file://./x` starts at the root. Tells what is wrong with it, and no secret that is part of it.
pub(super) fn store_url(text: &str, pos: Pos, root: &Root, problems: &mut Problems) -> Option<Url> {
    let whole = text;
    let text = masked(text);
    let text = text.as_str();
    if text != whole && !text.contains(['?', '#']) {
        problems.add(
            pos,
            format!("`{text}` holds a user name or password"),
            "write the bucket and folder alone; credentials come from the environment, as `AWS_ACCESS_KEY_ID` and \
             `AWS_SECRET_ACCESS_KEY`",
        );
        return None;
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let hint = match text.split_once(":/") {
            Some((scheme, rest)) => format!("a URL has two slashes after the colon: `{scheme}://{rest}`"),
            None if text.starts_with('/') => format!("write `file://{text}`"),
            None => format!("write `file://./{}`", text.trim_start_matches("./")),
        };
        problems.add(pos, format!("`{text}` is not a URL"), hint);
        return None;
    };
    if !SCHEMES.contains(&scheme) {
        let hint = match scheme {
            "s3a" | "s3n" => "did you mean `s3`?".to_owned(),
            "gcs" => "did you mean `gs`?".to_owned(),
            "azure" | "abfs" | "abfss" | "wasb" | "wasbs" | "adl" => "did you mean `az`?".to_owned(),
            _ => nearest(scheme, SCHEMES).unwrap_or_else(|| format!("use {}", listed(SCHEMES, "or"))),
        };
        problems.add(pos, format!("the scheme `{scheme}` is not known"), hint);
        return None;
    }
    if rest.contains(['?', '#']) {
        problems.add(
            pos,
            format!("`{text}` has a `?` or `#`"),
            "write the folder alone; options and signatures come from the environment",
        );
        return None;
    }
    if scheme != "file" {
        let url = Url::parse(text).ok().filter(|url| url.host_str().is_some_and(|host| !host.is_empty()));
        if url.is_none() {
            problems.add(pos, format!("`{text}` names no bucket"), format!("write `{scheme}://bucket/folder`"));
        }
        return url;
    }
    let relative = [".", ".."].contains(&rest) || rest.starts_with("./") || rest.starts_with("../");
    if !relative && !rest.starts_with('/') {
        let hint = format!("write `file://./{rest}` to start at `{}`, or `file:///{rest}`", root.shown());
        problems.add(pos, format!("`{text}` names a machine"), hint);
        return None;
    }
    let path = root.join(rest);
    let url = if rest.ends_with('/') { Url::from_directory_path(path) } else { Url::from_file_path(path) };
    url.ok()
}

/// The URL of a folder: ends with `/`.
pub(super) fn folder_url(text: &str, pos: Pos, root: &Root, problems: &mut Problems) -> Option<Url> {
    store_url(text, pos, root, problems).map(as_folder)
}

/// A URL, or a path below the lake.
pub(super) fn url_below(lake: &Url, text: &str, pos: Pos, root: &Root, problems: &mut Problems) -> Option<Url> {
    if is_url(text) {
        return store_url(text, pos, root, problems);
    }
    if text.starts_with('/') {
        problems.add(pos, format!("`{text}` does not lie below the lake"), "leave the first `/` out, or write a URL");
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            if parts.pop().is_none() {
                problems.add(pos, format!("`{text}` leads out of the lake"), "write a URL for what lies elsewhere");
                return None;
            }
        } else {
            parts.push(part);
        }
    }
    let mut url = lake.clone();
    url.path_segments_mut().ok()?.pop_if_empty().extend(parts);
    Some(if text.ends_with('/') { as_folder(url) } else { url })
}

/// The same URL with a `/` at its end.
pub(super) fn as_folder(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    url
}

/// The files behind patterns, those of each pattern by name, each file once; `*` stands in the last part of a path.
pub(super) fn files(patterns: &[At<String>], root: &Root, problems: &mut Problems) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for pattern in patterns {
        let Some(text) = pattern.get() else { continue };
        for file in matching(text, pattern.pos, root, problems) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files
}

fn matching(pattern: &str, pos: Pos, root: &Root, problems: &mut Problems) -> Vec<PathBuf> {
    let (folder, name) = match pattern.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((folder, name)) => (folder, name),
        None => ("", pattern),
    };
    if folder.contains('*') || name.contains("**") {
        let hint = "only the last part of a path can hold `*`: `sql/features/*.sql`";
        problems.add(pos, format!("`{pattern}` has a `*` in its folder"), hint);
        return Vec::new();
    }
    let place = root.join(folder);
    let mut names: Vec<String> = std::fs::read_dir(&place)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let found: Vec<PathBuf> = names.iter().filter(|file| fits(file, name)).map(|file| place.join(file)).collect();
    if found.is_empty() {
        let hint = match (place.is_dir(), nearest(name, names.iter().map(String::as_str))) {
            (true, Some(hint)) => hint,
            (true, None) => {
                format!("the folder is there, but no file in it is called so; paths start at `{}`", root.shown())
            }
            (false, _) => format!("there is no folder `{folder}`; paths start at `{}`", root.shown()),
        };
        problems.add(pos, format!("`{pattern}` matches no file"), hint);
    }
    found
}

/// Whether a file's name fits a pattern where `*` stands for any letters; hidden files fit only their own name.
fn fits(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    if name.starts_with('.') && !first.starts_with('.') {
        return false;
    }
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Root {
        Root { folder: PathBuf::from("/shop"), shown: PathBuf::new() }
    }

    fn url(text: &str) -> Result<String, String> {
        let mut problems = Problems::of("job.yaml");
        let url = folder_url(text, Pos::START, &root(), &mut problems);
        url.map(String::from).ok_or_else(|| problems.into_sorted()[0].hint.clone().unwrap_or_default())
    }

    fn below(path: &str) -> Option<String> {
        let lake = Url::parse("s3://shop/lake/").unwrap();
        let mut problems = Problems::of("job.yaml");
        url_below(&lake, path, Pos::START, &root(), &mut problems).map(String::from)
    }

    #[test]
    fn the_root_lies_above_a_jobs_folder() {
        assert!(Root::of(Path::new("jobs/ltv.yaml")).unwrap().folder.join("jobs").ends_with("jobs"));
        assert_eq!(Root::of(Path::new("/a/jobs/ltv.yaml")).unwrap().folder, Path::new("/a"));
        assert_eq!(Root::of(Path::new("/a/b/ltv.yaml")).unwrap().folder, Path::new("/a/b"));
        assert_eq!(Root::of(Path::new("/a/b/../jobs/./ltv.yaml")).unwrap().folder, Path::new("/a"));
    }

    #[test]
    fn a_file_url_may_start_at_the_root() {
        assert_eq!(url("file://./lake").as_deref(), Ok("file:///shop/lake/"));
        assert_eq!(url("file://../data/lakes/a b").as_deref(), Ok("file:///data/lakes/a%20b/"));
        assert_eq!(url("file:///data").as_deref(), Ok("file:///data/"));
        assert_eq!(url("s3://bucket/lake").as_deref(), Ok("s3://bucket/lake/"));
        assert_eq!(url("s3://bucket").as_deref(), Ok("s3://bucket/"));
    }

    #[test]
    fn what_is_no_url_is_answered_with_one() {
        assert_eq!(url("lake").unwrap_err(), "write `file://./lake`");
        assert_eq!(url("/data/lake").unwrap_err(), "write `file:///data/lake`");
        assert_eq!(url("file://lake").unwrap_err(), "write `file://./lake` to start at `.`, or `file:///lake`");
        assert_eq!(url("s3a://bucket/lake").unwrap_err(), "did you mean `s3`?");
        assert_eq!(url("s3:/bucket").unwrap_err(), "a URL has two slashes after the colon: `s3://bucket`");
        assert_eq!(url("s3:///lake").unwrap_err(), "write `s3://bucket/folder`");
    }

    #[test]
    fn no_secret_of_a_url_is_told_again() {
        let secret =
            ["s3://AKIA:p4ss@bucket/lake", "s3://p4ss@bucket/lake", "az://box/lake?sig=p4ss", "s3:/AKIA:p4ss@b/lake"];
        for text in
            secret.into_iter().chain(["https://AKIA:p4ss@host/lake?sig=p4ss", "s3://b/#p4ss", "box/lake?sig=p4ss"])
        {
            let mut problems = Problems::of("job.yaml");
            assert_eq!(folder_url(text, Pos::START, &root(), &mut problems), None, "{text}");
            let told = problems.into_sorted();
            assert_eq!(told.len(), 1);
            assert!(!format!("{told:?}").contains("p4ss") && !format!("{told:?}").contains("AKIA"), "{told:?}");
        }
        assert_eq!(url("file:///data/a@b/lake").as_deref(), Ok("file:///data/a@b/lake/"));
        assert_eq!(url("file://./a@b/lake").as_deref(), Ok("file:///shop/a@b/lake/"));
        assert_eq!(url("s3://bucket/a@b/lake").as_deref(), Ok("s3://bucket/a@b/lake/"));
    }

    #[test]
    fn a_table_lies_below_the_lake_or_has_a_url() {
        assert_eq!(below("orders/").as_deref(), Some("s3://shop/lake/orders/"));
        assert_eq!(below("./a/../b.parquet").as_deref(), Some("s3://shop/lake/b.parquet"));
        assert_eq!(below("file://./x.csv").as_deref(), Some("file:///shop/x.csv"));
        assert_eq!(below("../orders"), None);
        assert_eq!(below("/orders"), None);
    }

    #[test]
    fn a_star_stands_for_any_letters() {
        assert!(fits("orders.sql", "*.sql") && fits("orders.sql", "ord*s.sql") && fits("a.sql", "a.sql"));
        assert!(fits("abab", "a*b*b") && fits("ab", "*"));
        assert!(!fits("orders.sql.bak", "*.sql") && !fits(".hidden.sql", "*.sql") && !fits("b.sql", "a.sql"));
        assert!(!fits("a", "a*a"));
    }
}
