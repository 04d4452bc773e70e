//! A shop that never was: a lake to try Tenure on, the same one from the same seed.
//!
//! Customers sign up, buy at their own pace (Gamma), spend at their own level (log-normal), browse before they buy, and
//! leave for good one day (exponential, sooner after a bad experience). What they write in reviews follows how they were
//! served, so the text says something about who will stay. About one row in five hundred is broken on purpose: amounts
//! below zero or not a number, no customer, an order twice, an unknown kind of event.
//!
//! Tables: `customers/`, `orders/dt=…/`, `events/dt=…/`, `reviews/`. An order is known (`loaded_at`) some hours after it
//! was placed. A lake is written aside and put in place whole; `lake.json` says what it was made from.

mod customer;
mod lake;
mod shop;
mod words;

use std::path::{Path, PathBuf};

use chrono::{Days, NaiveDate};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How large the shop is and where its time ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoOptions {
    /// Customers who sign up before the end.
    pub customers: u32,
    /// Days that the tables span.
    pub days: u32,
    /// Another seed is another shop.
    pub seed: u64,
    /// The day after the last one: the natural as_of.
    pub end: NaiveDate,
}

impl Default for DemoOptions {
    fn default() -> Self {
        DemoOptions {
            customers: 20_000,
            days: 400,
            seed: 1,
            end: NaiveDate::from_ymd_opt(2026, 7, 1).unwrap_or_default(),
        }
    }
}

/// What a lake holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoSummary {
    /// The day after the last one.
    pub as_of: NaiveDate,
    /// Rows of `customers`.
    pub customers: u64,
    /// Rows of `orders`.
    pub orders: u64,
    /// Rows of `events`.
    pub events: u64,
    /// Rows of `reviews`.
    pub reviews: u64,
    /// Rows among them that a check should reject.
    pub bad_rows: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Whether the same lake was there already.
    #[serde(skip)]
    pub was_there: bool,
}

/// The file that tells a demo lake from a real one.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    made_by: String,
    /// Raised whenever the same options give another shop.
    recipe: u32,
    options: DemoOptions,
    /// Absent while the tables are being replaced.
    summary: Option<DemoSummary>,
}

const MARKER: &str = "lake.json";
const MADE_BY: &str = "tenure demo";
const RECIPE: u32 = 1;
const TABLES: [&str; 4] = ["customers", "orders", "events", "reviews"];

/// Writes the lake into `dir`. A lake of the same options that is there already stays as it is; one of other options
/// is replaced, table by table; any other folder that is not empty is refused.
pub fn generate(dir: &Path, options: DemoOptions) -> Result<DemoSummary> {
    if options.customers == 0 || options.days == 0 {
        return Err(Error::user("a demo lake needs at least one customer and one day"));
    }
    let earliest = u64::from(options.days) + shop::EARLIEST_SIGN_UP;
    if options.days > 36_500 || options.end.checked_sub_days(Days::new(earliest)).is_none() {
        return Err(Error::user(format!("`{}` days are more than a demo lake spans", options.days)));
    }
    let old = read_marker(dir)?;
    if let Some(Marker { summary: Some(summary), options: made, recipe, .. }) = &old
        && *made == options
        && *recipe == RECIPE
        && TABLES.iter().all(|table| dir.join(table).is_dir())
    {
        return Ok(DemoSummary { was_there: true, ..summary.clone() });
    }

    let aside = aside(dir)?;
    remove(&aside)?;
    let written = lake::write(&aside, &options);
    let summary = match written {
        Ok(summary) => summary,
        Err(error) => {
            let _ = remove(&aside);
            return Err(error);
        }
    };
    let marker = |summary: Option<DemoSummary>| Marker {
        made_by: MADE_BY.to_owned(),
        recipe: RECIPE,
        options: options.clone(),
        summary,
    };
    if old.is_none() {
        write_marker(&aside, &marker(Some(summary.clone())))?;
        if dir.is_dir() {
            std::fs::remove_dir(dir).map_err(|e| Error::io(dir, e))?;
        }
        rename(&aside, dir)?;
        return Ok(summary);
    }
    // What was published into the old lake stays; its tables go, and the marker says so until the new ones are there.
    write_marker(dir, &marker(None))?;
    for table in TABLES {
        remove(&dir.join(table))?;
        rename(&aside.join(table), &dir.join(table))?;
    }
    write_marker(dir, &marker(Some(summary.clone())))?;
    remove(&aside)?;
    Ok(summary)
}

/// The marker of the demo lake in `dir`; none where the folder is absent or empty; an error where it is something else.
fn read_marker(dir: &Path) -> Result<Option<Marker>> {
    let mut entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(dir, e)),
    };
    if entries.next().is_none() {
        return Ok(None);
    }
    let foreign = || {
        Error::user(format!("`{}` is not empty and holds no demo lake", dir.display()))
            .hint("name a new folder: a demo lake never overwrites anything else")
    };
    let text = match std::fs::read_to_string(dir.join(MARKER)) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(foreign()),
        Err(e) => return Err(Error::io(dir.join(MARKER), e)),
    };
    match serde_json::from_str::<Marker>(&text) {
        Ok(marker) if marker.made_by == MADE_BY => Ok(Some(marker)),
        _ => Err(foreign()),
    }
}

fn write_marker(dir: &Path, marker: &Marker) -> Result<()> {
    let text = serde_json::to_string_pretty(marker)
        .map_err(|e| Error::bug("the demo lake's description cannot be written").because(e))?;
    let path = dir.join(MARKER);
    let part = dir.join(format!("{MARKER}.part"));
    std::fs::write(&part, text + "\n").map_err(|e| Error::io(&part, e))?;
    rename(&part, &path)
}

/// A folder beside `dir`, on the same disk, of which a killed run leaves at most one.
fn aside(dir: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(dir).map_err(|e| Error::io(dir, e))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(Error::user(format!("`{}` cannot be a demo lake", dir.display())));
    };
    std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    Ok(parent.join(format!(".{}.part", name.to_string_lossy())))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|e| Error::io(to, e))
}

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(dir, e)),
        _ => Ok(()),
    }
}
