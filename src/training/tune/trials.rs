//! The table of a search as it grows: `trials.jsonl`, one line per training.
//!
//! The first line says what the search is about, so that trainings of another job, other SQL or another day are never taken
//! for ours. Each line is on the disk before the next training begins: a killed search loses the training under way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::halving::Rung;
use super::space::Value;
use crate::{Error, Result};

const FILE: &str = "trials.jsonl";

/// What two searches have in common when one is the continuation of the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The version of the program: another one may train otherwise.
    pub tenure: String,
    /// The hash of the job file's meaning.
    pub job: String,
    /// The day.
    pub as_of: String,
    /// The seed of the draws.
    pub seed: u64,
    /// The hash of the dimensions and their ranges.
    pub space: String,
    /// The hash of every SQL file.
    pub sql: BTreeMap<String, String>,
    /// The hash of the rows.
    pub data: String,
}

impl Identity {
    /// What differs from another search, in words; the rows are compared only where both sides know them.
    fn differences(&self, other: &Identity) -> Vec<String> {
        let data = self.data != other.data && !self.data.is_empty() && !other.data.is_empty();
        let told = [
            (self.tenure != other.tenure, format!("Tenure is {}, it was {}", self.tenure, other.tenure)),
            (self.job != other.job, "the job file has changed".to_owned()),
            (self.as_of != other.as_of, format!("the day is {}, it was {}", self.as_of, other.as_of)),
            (self.seed != other.seed, format!("`--seed` is {}, it was {}", self.seed, other.seed)),
            (self.space != other.space, "other values are tried".to_owned()),
            (data, "the lake's rows have changed".to_owned()),
        ];
        let files: BTreeSet<&String> = self.sql.keys().chain(other.sql.keys()).collect();
        let sql = files.into_iter().filter_map(|file| match (self.sql.get(file), other.sql.get(file)) {
            (Some(ours), Some(theirs)) => (ours != theirs).then(|| format!("`{file}` has changed")),
            (Some(_), None) => Some(format!("`{file}` is new")),
            (None, _) => Some(format!("`{file}` is gone")),
        });
        told.into_iter().filter(|(differs, _)| *differs).map(|(_, words)| words).chain(sql).collect()
    }
}

/// One training: a setting on a rung.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// The setting's number; 0 is the job's own.
    pub trial: usize,
    /// The rung, from 0.
    pub rung: usize,
    /// The epochs that the rung gives.
    pub budget: usize,
    /// Every dimension's value by its key.
    pub values: BTreeMap<String, Value>,
    /// How it went.
    #[serde(flatten)]
    pub result: TrialResult,
}

/// What a training came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrialResult {
    /// The epoch with the least loss on the rows that stop; its weights are judged.
    pub epochs: usize,
    /// How long it took.
    pub seconds: f64,
    /// The heads' losses together on the rows that choose; absent where the training failed.
    pub loss: Option<f64>,
    /// The same on the rows that neither stop nor choose.
    pub judged_loss: Option<f64>,
    /// Per head, on the rows that neither stop nor choose: `loss` and the headline metrics.
    pub heads: BTreeMap<String, BTreeMap<String, f64>>,
    /// `judged_loss` for resamples of the customers, the same ones for every training.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resampled: Vec<f32>,
    /// Why it failed, if it did.
    pub failed: Option<String>,
}

/// The trainings of a search, on the disk and in memory.
#[derive(Debug)]
pub struct Trials {
    path: PathBuf,
    file: File,
    identity: Identity,
    /// Whether the first line is written.
    begun: bool,
    done: Vec<Training>,
    /// What a reader should know of how it was opened.
    pub note: Option<String>,
}

impl Trials {
    /// Opens or creates the table below `folder`. The data of `identity` may still be unknown (empty). A second process on the
    /// same folder is refused.
    pub fn open(folder: &Path, identity: Identity) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let path = folder.join(FILE);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(|e| Error::io(&path, e))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let what = format!("another search is writing `{}`", path.display());
                return Err(Error::user(what).hint("wait for it, or name another folder with `--out`"));
            }
            // A file system without locks is no reason to search nothing.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|e| Error::io(&path, e))?;
        let mut trials = Trials { path, file, identity, begun: false, done: Vec::new(), note: None };
        trials.take(&text)?;
        Ok(trials)
    }

    /// Reads the lines that are whole, and cuts a half-written last one off.
    fn take(&mut self, text: &[u8]) -> Result<()> {
        let mut whole = 0;
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        for (number, line) in lines.iter().enumerate() {
            let read = if number == 0 { self.take_identity(line) } else { self.take_training(line) };
            match read? {
                true if line.ends_with(b"\n") => whole += line.len(),
                _ if number + 1 == lines.len() => {
                    self.done.truncate(number.saturating_sub(1));
                    self.note =
                        Some(format!("the last line of `{}` was half-written and is left out", self.path.display()));
                }
                _ => {
                    let what = format!("line {} of `{}` is no training", number + 1, self.path.display());
                    return Err(Error::user(what).hint(self.way_out()));
                }
            }
        }
        self.begun = whole > 0;
        self.file.set_len(whole as u64).map_err(|e| Error::io(&self.path, e))?;
        self.file.seek(SeekFrom::End(0)).map(|_| ()).map_err(|e| Error::io(&self.path, e))
    }

    /// Whether the line could be read; an error where it tells of another search.
    fn take_identity(&mut self, line: &[u8]) -> Result<bool> {
        let Ok(found) = serde_json::from_slice::<Identity>(line) else { return Ok(false) };
        self.compare(&found)?;
        if self.identity.data.is_empty() {
            self.identity.data = found.data;
        }
        Ok(true)
    }

    fn take_training(&mut self, line: &[u8]) -> Result<bool> {
        let read = serde_json::from_slice(line);
        Ok(read.map(|training| self.done.push(training)).is_ok())
    }

    fn compare(&self, found: &Identity) -> Result<()> {
        let differences = self.identity.differences(found);
        if differences.is_empty() {
            return Ok(());
        }
        let what = format!("`{}` holds another search: {}", self.path.display(), differences.join("; "));
        Err(Error::user(what).hint(self.way_out()))
    }

    fn way_out(&self) -> String {
        format!("name another folder with `--out`, or delete `{}`", self.path.display())
    }

    /// Says which rows the search is about, before the first training: they have to be those of the trainings so far.
    pub fn begin(&mut self, data: String) -> Result<()> {
        let known = std::mem::replace(&mut self.identity.data, data);
        if !self.begun {
            self.begun = true;
            return self.write(&line(&self.identity)?);
        }
        let found = Identity { data: known, ..self.identity.clone() };
        self.compare(&found)
    }

    /// Adds a training; it is on the disk when this returns.
    pub fn push(&mut self, training: &Training) -> Result<()> {
        let line = line(training)?;
        self.write(&line)?;
        // What is read back is what a later process will see: the same table, whether it was killed or not.
        match self.take_training(&line)? {
            true => Ok(()),
            false => Err(Error::bug("a training cannot be read back as it was written")),
        }
    }

    fn write(&mut self, line: &[u8]) -> Result<()> {
        let written = self.file.write_all(line).and_then(|()| self.file.sync_data());
        written.map_err(|e| Error::io(&self.path, e))
    }

    /// The trainings in the order in which they were done.
    pub fn done(&self) -> &[Training] {
        &self.done
    }

    /// One training.
    pub fn of(&self, trial: usize, rung: usize) -> Option<&Training> {
        self.done.iter().find(|training| (training.trial, training.rung) == (trial, rung))
    }

    /// The losses by rung.
    pub fn rungs(&self, rungs: usize) -> Vec<Rung> {
        let mut all = vec![Rung::new(); rungs];
        for Training { trial, rung, result, .. } in &self.done {
            if let Some(losses) = all.get_mut(*rung) {
                losses.insert(*trial, result.loss.unwrap_or(f64::INFINITY));
            }
        }
        all
    }
}

fn line(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut line =
        serde_json::to_vec(value).map_err(|e| Error::bug("a training cannot be written as JSON").because(e))?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            tenure: "1".into(),
            job: "a".into(),
            as_of: "2026-07-01".into(),
            seed: 1,
            space: "s".into(),
            sql: BTreeMap::from([("sql/orders.sql".to_owned(), "1".to_owned())]),
            data: String::new(),
        }
    }

    fn training(trial: usize, loss: Option<f64>) -> Training {
        let result = TrialResult { epochs: 2, seconds: 0.5, loss, resampled: vec![0.1, 0.2], ..TrialResult::default() };
        Training { trial, rung: 0, budget: 3, values: BTreeMap::new(), result }
    }

    fn written(folder: &Path, losses: &[Option<f64>]) -> Vec<Training> {
        let mut trials = Trials::open(folder, identity()).unwrap();
        trials.begin("rows".into()).unwrap();
        losses.iter().enumerate().for_each(|(trial, loss)| trials.push(&training(trial, *loss)).unwrap());
        trials.done().to_vec()
    }

    fn refused(folder: &Path, identity: Identity) -> String {
        Trials::open(folder, identity).unwrap_err().to_string()
    }

    #[test]
    fn what_was_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        // A sum whose shortest decimal form parsers get wrong in the last bit shows that both sides read the same.
        let done = written(dir.path(), &[Some(0.1 + 0.7 * 1.1), None]);
        let again = Trials::open(dir.path(), identity()).unwrap();
        assert_eq!((again.done(), &again.note), (done.as_slice(), &None));
        assert_eq!(again.rungs(1)[0].get(&1), Some(&f64::INFINITY));
    }

    #[test]
    fn a_half_written_last_line_is_left_out_and_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let done = written(dir.path(), &[Some(1.0), Some(2.0)]);
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..60 {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut trials = Trials::open(dir.path(), identity()).unwrap();
            assert_eq!(trials.done(), &done[..1], "{cut} bytes are missing");
            assert!(trials.note.as_ref().unwrap().contains("half-written"));
            trials.begin("rows".into()).unwrap();
            trials.push(&done[1]).unwrap();
            drop(trials);
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        std::fs::write(&path, &whole[..20]).unwrap();
        assert_eq!(written(dir.path(), &[Some(1.0)]).len(), 1, "a half-written first line begins anew");
    }

    #[test]
    fn a_broken_line_between_whole_ones_is_told() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), &[Some(1.0), Some(2.0)]);
        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap().replace("\"trial\":0", "\"trial\":x");
        std::fs::write(&path, text).unwrap();
        assert!(refused(dir.path(), identity()).contains("line 2 of"));
    }

    #[test]
    fn another_search_is_refused_with_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), &[Some(1.0)]);
        let sql = BTreeMap::from([("sql/orders.sql", "2"), ("sql/new.sql", "1")]);
        let sql = sql.into_iter().map(|(file, hash)| (file.to_owned(), hash.to_owned())).collect();
        let told = refused(dir.path(), Identity { sql, seed: 2, ..identity() });
        for part in ["`--seed` is 2, it was 1", "`sql/new.sql` is new", "`sql/orders.sql` has changed"] {
            assert!(told.contains(part), "{told}");
        }
        let mut trials = Trials::open(dir.path(), identity()).unwrap();
        let error = trials.begin("other rows".into()).unwrap_err();
        assert!(error.to_string().contains("the lake's rows have changed"), "{error}");
        assert!(error.problems().next().unwrap().hint.as_ref().unwrap().contains("--out"));
    }

    #[test]
    fn two_searches_in_one_folder_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Trials::open(dir.path(), identity()).unwrap();
        assert!(refused(dir.path(), identity()).contains("another search is writing"));
    }
}
