//! The files of a Delta log by their names: commits and checkpoints.

use std::collections::BTreeMap;

use object_store::ObjectMeta;

/// Digits of a version in a file's name.
const VERSION_DIGITS: usize = 20;

/// The files of a log that say what a table consists of.
#[derive(Debug, Default)]
pub(super) struct LogFiles {
    commits: BTreeMap<u64, ObjectMeta>,
    checkpoints: BTreeMap<u64, Checkpoints>,
}

/// The checkpoints of one version.
#[derive(Debug, Default)]
struct Checkpoints {
    whole: Option<ObjectMeta>,
    /// By the number of parts, those that are there by their number.
    in_parts: BTreeMap<u32, BTreeMap<u32, ObjectMeta>>,
}

impl Checkpoints {
    /// The files of a checkpoint that is whole.
    fn files(&self) -> Option<Vec<&ObjectMeta>> {
        let whole = || self.whole.as_ref().map(|whole| vec![whole]);
        let in_parts = || {
            let (_, parts) = self.in_parts.iter().find(|(count, parts)| **count as usize == parts.len())?;
            Some(parts.values().collect())
        };
        whole().or_else(in_parts)
    }
}

/// What has to be read for a version: a checkpoint, then commits in their order.
#[derive(Debug)]
pub(super) struct Segment<'a> {
    pub checkpoint: Vec<&'a ObjectMeta>,
    pub commits: Vec<&'a ObjectMeta>,
}

impl LogFiles {
    /// Takes a file of the log; those that are not needed (checksums, compacted commits) are left aside.
    pub fn insert(&mut self, name: &str, meta: ObjectMeta) {
        let Some((version, rest)) = name.split_at_checked(VERSION_DIGITS) else { return };
        let Some(version) = number(version) else { return };
        let parts: Vec<&str> = rest.split('.').collect();
        match parts.as_slice() {
            ["", "json"] => drop(self.commits.insert(version, meta)),
            // Written at once, or a manifest (of any name) with files of its own.
            ["", "checkpoint", "parquet"] | ["", "checkpoint", _, "parquet" | "json"] => {
                let checkpoints = self.checkpoints.entry(version).or_default();
                checkpoints.whole.get_or_insert(meta);
            }
            ["", "checkpoint", part, count, "parquet"] => {
                if let (Some(part), Some(count)) = (number(part), number(count)) {
                    let checkpoints = self.checkpoints.entry(version).or_default();
                    checkpoints.in_parts.entry(count).or_default().insert(part, meta);
                }
            }
            _ => {}
        }
    }

    /// The newest version.
    pub fn newest(&self) -> Option<u64> {
        let of_checkpoints = self.checkpoints.iter().rev().find(|(_, found)| found.files().is_some());
        self.commits.keys().next_back().copied().max(of_checkpoints.map(|(version, _)| *version))
    }

    /// The commits in their order.
    pub fn commit_times(&self) -> impl Iterator<Item = (u64, &ObjectMeta)> {
        self.commits.iter().map(|(version, meta)| (*version, meta))
    }

    /// What has to be read for a version, or the version whose commit is not there.
    pub fn segment(&self, version: u64) -> Result<Segment<'_>, u64> {
        let whole = |(version, found): (&u64, &'_ Checkpoints)| found.files().is_some().then_some(*version);
        let start = self.checkpoints.range(..=version).rev().find_map(whole);
        let checkpoint = start.and_then(|start| self.checkpoints[&start].files()).unwrap_or_default();
        let first = start.map_or(0, |start| start + 1);
        let commits = (first..=version).map(|version| self.commits.get(&version).ok_or(version));
        Ok(Segment { checkpoint, commits: commits.collect::<Result<_, _>>()? })
    }
}

fn number<N: std::str::FromStr>(digits: &str) -> Option<N> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(names: &[&str]) -> LogFiles {
        let mut files = LogFiles::default();
        for name in names {
            let location = object_store::path::Path::from(*name);
            let meta = ObjectMeta {
                location,
                last_modified: chrono::DateTime::UNIX_EPOCH,
                size: 1,
                e_tag: None,
                version: None,
            };
            files.insert(name, meta);
        }
        files
    }

    fn names(found: &[&ObjectMeta]) -> Vec<String> {
        found.iter().map(|meta| meta.location.to_string().trim_start_matches('0').to_owned()).collect()
    }

    #[test]
    fn a_version_is_read_from_the_newest_whole_checkpoint_before_it() {
        let log = log(&[
            "00000000000000000001.json",
            "00000000000000000002.checkpoint.parquet",
            "00000000000000000002.json",
            "00000000000000000003.json",
            "00000000000000000004.checkpoint.0000000001.0000000002.parquet",
            "00000000000000000004.json",
            "00000000000000000004.crc",
            "00000000000000000003.00000000000000000004.compacted.json",
            "_last_checkpoint",
            "00000000000000000005.json.tmp",
        ]);
        assert_eq!(log.newest(), Some(4));
        let segment = log.segment(4).unwrap();
        assert_eq!(names(&segment.checkpoint), ["2.checkpoint.parquet"]);
        assert_eq!(names(&segment.commits), ["3.json", "4.json"]);
        assert_eq!(log.segment(1).unwrap_err(), 0);
    }

    #[test]
    fn a_checkpoint_in_parts_and_one_with_files_of_its_own_are_found() {
        let parts = log(&[
            "00000000000000000004.checkpoint.0000000002.0000000002.parquet",
            "00000000000000000004.checkpoint.0000000001.0000000002.parquet",
        ]);
        assert_eq!(parts.newest(), Some(4));
        assert_eq!(parts.segment(4).unwrap().checkpoint.len(), 2);
        let manifest = log(&["00000000000000000007.checkpoint.3a0d65cd-4056-49b8-937b-95f9e3ee90e5.json"]);
        assert_eq!(manifest.segment(7).unwrap().checkpoint.len(), 1);
        assert_eq!(manifest.segment(8).unwrap_err(), 8);
    }
}
