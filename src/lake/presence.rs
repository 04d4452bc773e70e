//! Whether a table is there at all. A folder that is gone is no table without rows: a load may be under way, or a mount missing.

use super::files::extension;
use super::recognize::PassedOver;
use crate::error::{Class, Problem};
use crate::spec::TableSpec;
use crate::{Error, Result};

/// Refuses a local table whose folder or file is not there. Other stores know no folders: their listing says what there is.
pub(super) fn require_place(table: &TableSpec) -> Result<()> {
    if table.url.scheme() != "file" {
        return Ok(());
    }
    let Ok(path) = table.url.to_file_path() else { return Ok(()) };
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(missing(table)),
        // No later run finds anything behind such a link.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            let message =
                format!("table `{}` cannot be found: `{}` is a link that leads back to itself", table.name, table.url);
            let hint = "let the link lead to the table's folder";
            Err(Error::user(message).at(table.place.clone()).hint(hint).because(error))
        }
        Err(error) => Err(missing(table).because(error)),
    }
}

/// Refuses a table without files unless it may be empty. A name of a single object that is not there is a table that is gone.
pub(super) fn require_files(table: &TableSpec, is_empty: bool, passed_over: Option<&PassedOver>) -> Result<()> {
    if !is_empty || table.may_be_empty {
        return Ok(());
    }
    if table.url.path().ends_with(extension(table.format)) && table.url.scheme() != "file" {
        return Err(missing(table));
    }
    let message = format!("table `{}` has no {} file in `{}`", table.name, extension(table.format), table.url);
    let problem = Problem::new(message).at(table.place.clone());
    let hint = "is the path right, and has its load run? a table that may be without files says `may_be_empty: true`";
    let hint = passed_over.map_or_else(|| hint.to_owned(), ToString::to_string);
    Err(Error::new(Class::User, problem.hint(hint)))
}

/// An error of a listing; a bucket that is not there is a table that is gone.
pub(super) fn classed(table: &TableSpec, error: Error) -> Error {
    let of_bucket = |text: String| text.contains("NoSuchBucket") || text.contains("BucketNotFound");
    let gone = error.problems().flat_map(Problem::causes).any(of_bucket);
    if gone { missing(table).because(error) } else { error }
}

fn missing(table: &TableSpec) -> Error {
    let problem = Problem::new(format!("table `{}` is gone: there is no `{}`", table.name, table.url));
    let hint = "is a load under way, or a disk not mounted? run it again when the table is back; if the path is wrong, mend it";
    Error::new(Class::Infra, problem.at(table.place.clone()).hint(hint))
}
