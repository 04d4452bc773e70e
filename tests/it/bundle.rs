//! A bundle on the disk: what may be replaced, what is noticed, and what a reader sees while it is replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tch::Device;
use tenure::error::Class;
use tenure::model::Bundle;
use tenure::model::files::check_replaceable;
use tenure::model::folder::write_whole;
use tenure::model::predict::Predictor;
use tenure::printer::render_error;
use tenure::spec::EntityTask;

use crate::support::purchases::{self, Shop, after};
use crate::support::shop::{self, assert_exit};
use crate::training::train;

/// Two bundles of one job, by different seeds.
async fn two_bundles(dir: &Path) -> [PathBuf; 2] {
    let shop = Shop::new(200, 300);
    let folders = ["one", "two"].map(|name| dir.join(name));
    for (folder, seed) in folders.iter().zip([1, 2]) {
        let mut task: EntityTask = purchases::task(folder);
        (task.train.epochs, task.train.seed) = (1, seed);
        train(&shop, &task, after(240)).await.unwrap();
    }
    folders
}

/// The files of a bundle of trees one deep.
fn files_of(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> =
        entries.filter(|entry| entry.path().is_file()).map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn copy_files(from: &Path, to: &Path) -> tenure::Result<()> {
    for name in files_of(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
    Ok(())
}

/// All that a bundle does: its hash and the bits of its network.
fn answers(bundle: &Bundle) -> tenure::Result<(String, Vec<u32>)> {
    Predictor::load(bundle, Device::Cpu)?;
    bundle.baselines()?;
    let mut bits = Vec::new();
    for (_, tensor) in bundle.network(Device::Cpu)?.weights() {
        bits.extend(Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap().into_iter().map(f32::to_bits));
    }
    Ok((bundle.hash().to_owned(), bits))
}

#[tokio::test]
async fn a_bundle_that_is_replaced_while_it_is_read_is_the_old_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let folders = two_bundles(dir.path()).await;
    let known = folders.clone().map(|folder| answers(&Bundle::open(&folder).unwrap()).unwrap());
    assert!(known[0].0 != known[1].0 && known[0].1 != known[1].1);
    let goal = dir.path().join("bundle");
    write_whole(&goal, |_| Ok(()), |new| copy_files(&folders[0], new)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = 1;
            while !stop.load(Ordering::Relaxed) {
                let is_ours = |there: &Path| check_replaceable(there, "shop");
                write_whole(&goal, is_ours, |new| copy_files(&folders[next % 2], new)).unwrap();
                next += 1;
            }
        });
        let mut seen = [0, 0];
        for round in 0..300 {
            let bundle = Bundle::open(&goal).unwrap();
            // A night loads its network long after it opened the bundle.
            if round % 3 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            let found = answers(&bundle).unwrap();
            let which = known.iter().position(|known| *known == found);
            seen[which.expect("manifest and weights are of one training")] += 1;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(seen.iter().all(|times| *times > 10), "{seen:?}");
    });
}

#[tokio::test]
async fn no_flipped_bit_goes_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let [folder, _] = two_bundles(dir.path()).await;
    Bundle::open(&folder).unwrap();
    for name in files_of(&folder) {
        let path = folder.join(&name);
        let whole = fs::read(&path).unwrap();
        let step = (whole.len() / 150).max(1);
        for (number, at) in (0..whole.len()).step_by(step).chain([whole.len() - 1]).enumerate() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (number % 8);
            fs::write(&path, &damaged).unwrap();
            let error = Bundle::open(&folder).err().unwrap_or_else(|| panic!("byte {at} of `{name}`"));
            assert_eq!(error.class(), Class::User);
            assert!(render_error(&error).contains("hint: "), "{error}");
        }
        // A byte too few or too many is one, too.
        for other in [&whole[..whole.len() - 1], &[whole.as_slice(), b"\n"].concat()] {
            fs::write(&path, other).unwrap();
            assert!(Bundle::open(&folder).is_err(), "`{name}` of another length");
        }
        fs::write(&path, &whole).unwrap();
    }
    Bundle::open(&folder).unwrap();
}

#[tokio::test]
async fn a_file_that_changes_after_the_bundle_was_opened_is_not_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let [folder, other] = two_bundles(dir.path()).await;
    let bundle = Bundle::open(&folder).unwrap();
    // In place, as `cp` does it.
    fs::write(folder.join("weights.safetensors"), fs::read(other.join("weights.safetensors")).unwrap()).unwrap();
    let error = answers(&bundle).unwrap_err();
    assert_eq!(error.class(), Class::Infra);
    assert!(error.to_string().contains("weights.safetensors` changed while it was read"), "{error}");
}

#[test]
fn a_bundle_of_an_older_layout_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("manifest.json"), "{\n  \"layout\": 4,\n  \"job\": \"shop\"\n}\n").unwrap();
    let text = render_error(&Bundle::open(dir.path()).unwrap_err());
    assert!(text.contains("no checksum") && text.contains("train again with `tenure train JOB`"), "{text}");
}

/// A job of the demo shop whose bundle is called otherwise.
fn job_with_bundle(shop: &shop::Shop, bundle: &str) -> PathBuf {
    let text = fs::read_to_string(shop::checkout().join("jobs/ltv.yaml")).unwrap();
    let sql = shop::checkout().join("sql");
    let text = text.replace("${TENURE_MODELS:-models}/ltv", bundle).replace("sql/", &format!("{}/", sql.display()));
    let path = shop.path().join("ltv.yaml");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn training_replaces_no_folder_of_the_users() {
    let shop = shop::Shop::trained();
    let notes = shop.path().join("notes");
    fs::create_dir(&notes).unwrap();
    fs::write(notes.join("plan.md"), "do not lose this").unwrap();
    let before = tree(shop.path());
    for (bundle, wanted) in [
        ("lake", "`lake` as a bundle would take the place of the lake"),
        (".", "would take the place of the folder that the job lies in"),
        ("..", "would take the place of the folder that the job lies in"),
        ("/", "would take the place of the folder that the job lies in"),
        ("lake/orders", "`lake/orders` as a bundle would take the place of the table `orders`"),
        ("lake/out", "`lake/out` as a bundle would take the place of the published tables"),
        ("lake/out/predictions", "`lake/out/predictions` as a bundle would lie in the folder of the published tables"),
        ("models", "is no bundle: it holds `ltv`"),
        ("notes", "is no bundle: it holds `plan.md`"),
    ] {
        let job = job_with_bundle(&shop, bundle);
        let job = job.to_str().unwrap();
        for command in [&["check", job][..], &["train", job, "--as-of", shop::AS_OF]] {
            let output = shop.tenure(command);
            assert_exit(&output, 1);
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(told.contains(wanted), "{command:?} of `{bundle}`: {told}");
            let line = fs::read_to_string(job).unwrap().lines().position(|line| line.contains("bundle:")).unwrap() + 1;
            assert!(told.contains(&format!("ltv.yaml:{line}:")), "{command:?} of `{bundle}`: {told}");
        }
        fs::remove_file(job).unwrap();
        assert_eq!(tree(shop.path()), before, "{bundle}");
    }
}

/// Every file below a folder.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(tree(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}
