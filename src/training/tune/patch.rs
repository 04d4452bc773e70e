//! The chosen setting as YAML: the keys that differ from the job's, each with what the job says.

use super::space::Value;

/// A patch for `tenure train --patch`, with `comment` before it. `changes` holds key, value and the job's value.
pub fn yaml(comment: &[String], changes: &[(&str, Value, Value)]) -> String {
    let mut text: String = comment.iter().map(|line| format!("# {line}\n")).collect();
    if changes.is_empty() {
        // An empty map is a patch that changes nothing; an empty file would be a mistake.
        return text + "{}\n";
    }
    for section in ["model", "train"] {
        let prefix = format!("{section}.");
        let within: Vec<_> =
            changes.iter().filter_map(|(key, value, own)| Some((key.strip_prefix(&prefix)?, value, own))).collect();
        if within.is_empty() {
            continue;
        }
        text.push_str(&format!("{section}:\n"));
        let head =
            |key: &str| Some(key.strip_prefix("heads.")?.rsplit_once('.')?).map(|(n, k)| (n.to_owned(), k.to_owned()));
        for (key, value, own) in within.iter().filter(|(key, ..)| head(key).is_none()) {
            text.push_str(&format!("  {key}: {value}  # {own} in the job\n"));
        }
        let heads: Vec<_> = within.iter().filter_map(|(key, value, own)| Some((head(key)?, value, own))).collect();
        if !heads.is_empty() {
            text.push_str("  heads:  # found by their names; what is not said here stays\n");
        }
        for ((name, key), value, own) in heads {
            text.push_str(&format!("    - {{name: {name}, {key}: {value}}}  # {own} in the job\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{self, JobSpec};
    use crate::training::tune::space::{Setting, Space};

    const JOB: &str = "fixtures/specs/valid/full.yaml";

    fn around(job: &JobSpec) -> Space {
        let task = job.entity_task().unwrap();
        Space::around(Setting { model: task.model.clone().unwrap(), train: task.train.clone() })
    }

    #[test]
    fn a_patch_holds_the_keys_that_differ() {
        let changes = [
            ("train.learning_rate", Value::Number(0.00213), Value::Number(0.001)),
            ("model.hidden", Value::Widths(vec![128, 64]), Value::Widths(vec![64, 32])),
            ("model.heads.ltv_90d.weight", Value::Number(0.5), Value::Number(1.0)),
        ];
        let expected = "\
# found
model:
  hidden: [128, 64]  # [64, 32] in the job
  heads:  # found by their names; what is not said here stays
    - {name: ltv_90d, weight: 0.5}  # 1 in the job
train:
  learning_rate: 0.00213  # 0.001 in the job
";
        assert_eq!(yaml(&["found".to_owned()], &changes), expected);
        assert_eq!(yaml(&[], &[]), "{}\n");
    }

    #[test]
    fn a_job_with_the_patch_of_a_trial_has_its_values() {
        let job = spec::load(JOB.as_ref(), &|_| None).unwrap();
        let space = around(&job);
        let file = tempfile::NamedTempFile::new().unwrap();
        for trial in 0..40 {
            let values = space.values(3, trial);
            std::fs::write(file.path(), yaml(&["why".to_owned()], &space.changes(&values))).unwrap();
            let patched = spec::load_patched(JOB.as_ref(), Some(file.path()), &|_| None).unwrap();
            assert_eq!(around(&patched).values(0, 0), values);
            let model = |job: &JobSpec| job.entity_task().unwrap().model.clone().unwrap();
            assert_eq!(model(&patched).heads.len(), model(&job).heads.len());
            assert_eq!(patched.hash() == job.hash(), trial == 0);
        }
    }
}
