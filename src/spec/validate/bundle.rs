//! The bundle's folder: training replaces it, so it must not be one that anything else lies in.

use std::path::Path;

use url::Url;

use super::Tables;
use crate::spec::paths::Root;
use crate::spec::problems::Problems;
use crate::spec::read::At;

const HINT: &str = "give the bundle a folder of its own, such as `models/ltv`";

/// What a bundle must not lie in or around.
pub(super) struct Taken<'a> {
    pub lake: &'a Url,
    pub tables: &'a Tables,
    /// Folders that are ours to fill, by what they are.
    pub folders: Vec<(&'static str, &'a Url)>,
}

/// Tells it where a training would replace more than a bundle.
pub(super) fn check(bundle: &At<String>, taken: &Taken<'_>, root: &Root, problems: &mut Problems) {
    let Some(text) = bundle.get() else { return };
    let folder = root.join(text);
    let mut refuse = |what: String| problems.add(bundle.pos, what, HINT);
    if folder.parent().is_none() || root.folder.starts_with(&folder) {
        return refuse(format!("`{text}` as a bundle would take the place of the folder that the job lies in"));
    }
    let local = |url: &Url| url.to_file_path().ok();
    let tables =
        taken.tables.0.iter().flatten().map(|table| (format!("the table `{}`", table.spec.name), &table.spec.url));
    let folders = taken.folders.iter().map(|(what, url)| ((*what).to_owned(), *url));
    // Anything else in the lake is for whoever owns it to say; a folder for models is as good there as beside it.
    let whole = std::iter::once(("the lake".to_owned(), taken.lake));
    let around = |(what, url): (String, &Url)| holds(&folder, &local(url)?).then_some(what);
    if let Some(what) = whole.chain(folders.clone()).chain(tables.clone()).find_map(around) {
        return refuse(format!("`{text}` as a bundle would take the place of {what}"));
    }
    let inside = |(what, url): (String, &Url)| holds(&local(url)?, &folder).then_some(what);
    if let Some(what) = folders.chain(tables).find_map(inside) {
        refuse(format!("`{text}` as a bundle would lie in the folder of {what}"));
    }
}

/// Whether a path is a folder or lies below it.
fn holds(folder: &Path, path: &Path) -> bool {
    path.starts_with(folder)
}
