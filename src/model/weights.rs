//! Weights in safetensors files, read strictly: every tensor of the model must be in the file with exactly its shape, and the
//! file may hold nothing else but what is named here.
//!
//! libtorch's own loading ignores tensors that it does not know and copies smaller ones by broadcasting; a renamed layer
//! would go unnoticed and score nonsense.

use std::collections::BTreeMap;
use std::path::Path;

use tch::nn::VarStore;
use tch::{Kind, Tensor};

use super::files::Files;
use crate::error::{Place, Problem};
use crate::{Error, Result};

/// How a file may differ from the model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tolerated {
    /// A prefix that the file's names may carry, such as `bert.`.
    pub prefix: &'static str,
    /// Tensors that may be in the file and are not read: a name, or the start of names when it ends with `.`.
    pub unused: &'static [&'static str],
    /// Old endings of names with the present ones.
    pub renamed: &'static [(&'static str, &'static str)],
}

impl Tolerated {
    /// Nothing: the file is exactly the model.
    pub const NOTHING: Tolerated = Tolerated { prefix: "", unused: &[], renamed: &[] };

    fn name(&self, name: &str) -> String {
        let name = name.strip_prefix(self.prefix).unwrap_or(name);
        match self.renamed.iter().find(|(old, _)| name.ends_with(old)) {
            Some((old, new)) => format!("{}{new}", &name[..name.len() - old.len()]),
            None => name.to_owned(),
        }
    }

    fn unused(&self, name: &str) -> bool {
        self.unused.iter().any(|u| name == *u || (u.ends_with('.') && name.starts_with(u)))
    }
}

/// The tensors of a file as they stand in it, by name.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    read_called(path, path)
}

/// The same of a file that messages call by another path.
fn read_called(path: &Path, called: &Path) -> Result<BTreeMap<String, Tensor>> {
    std::fs::File::open(path).map_err(|e| Error::io(called, e))?;
    let tensors = Tensor::read_safetensors(path).map_err(|e| {
        let place = Place::file(called.display().to_string());
        Error::user("this is not a safetensors file").at(place).because(e).hint("is the file whole?")
    })?;
    Ok(tensors.into_iter().collect())
}

/// Writes tensors as they are, sorted by type and name: equal tensors give equal bytes.
pub fn save(tensors: &BTreeMap<String, Tensor>, path: &Path) -> Result<()> {
    let _guard = tch::no_grad_guard();
    let mut flat = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        flat.push((name.as_str(), tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_contiguous()?));
    }
    Tensor::write_safetensors(&flat, path)
        .map_err(|e| Error::infra(format!("`{}` cannot be written", path.display())).because(e))
}

/// The variables of a store by name.
pub fn variables(store: &VarStore) -> BTreeMap<String, Tensor> {
    store.variables().into_iter().collect()
}

/// Fills every variable of the store from the file. f16 and bf16 become f32. All that does not fit is said at once, and
/// then no variable is changed.
pub fn load(store: &VarStore, path: &Path, tolerated: &Tolerated) -> Result<()> {
    fill_tolerantly(store, read(path)?, path, tolerated)
}

/// The same from a file of a bundle or a checkpoint.
pub fn load_from(store: &VarStore, files: &Files, name: &str, tolerated: &Tolerated) -> Result<()> {
    let path = files.path(name);
    fill_tolerantly(store, files.read_by(name, |readable| read_called(readable, &path))?, &path, tolerated)
}

fn fill_tolerantly(
    store: &VarStore,
    tensors: BTreeMap<String, Tensor>,
    path: &Path,
    tolerated: &Tolerated,
) -> Result<()> {
    let mut found = BTreeMap::new();
    for (name, tensor) in tensors {
        let name = tolerated.name(&name);
        if !tolerated.unused(&name) {
            found.insert(name, tensor);
        }
    }
    fill(store, found, path)
}

/// Fills every variable of the store with the tensor of its name; `path` is for the messages.
pub fn fill(store: &VarStore, found: BTreeMap<String, Tensor>, path: &Path) -> Result<()> {
    let wanted = variables(store);
    Error::all(differences(&wanted, &found, path)?)?;
    let _guard = tch::no_grad_guard();
    for (name, mut variable) in wanted {
        if let Some(tensor) = found.get(&name) {
            variable.f_copy_(tensor)?;
        }
    }
    Ok(())
}

fn differences(
    wanted: &BTreeMap<String, Tensor>,
    found: &BTreeMap<String, Tensor>,
    path: &Path,
) -> Result<Vec<Problem>> {
    let place = Place::file(path.display().to_string());
    let mut problems = Vec::new();
    let mut say = |message: String, hint: Option<String>| {
        let problem = Problem::new(message).at(place.clone());
        problems.push(match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        });
    };
    let extra: Vec<&str> = found.keys().filter(|name| !wanted.contains_key(*name)).map(String::as_str).collect();
    let missing: Vec<&str> = wanted.keys().filter(|name| !found.contains_key(*name)).map(String::as_str).collect();
    for (name, variable) in wanted {
        let Some(tensor) = found.get(name) else {
            let hint = nearest(name, &extra).map(|n| format!("the file has `{n}`, which the model does not know"));
            say(format!("tensor `{name}` is missing"), hint);
            continue;
        };
        let (shape, right) = (tensor.size(), variable.size());
        if shape != right {
            say(format!("tensor `{name}` has shape {shape:?}, and the model needs {right:?}"), None);
        } else if !matches!(tensor.f_kind()?, Kind::Float | Kind::Half | Kind::BFloat16) {
            say(
                format!("tensor `{name}` has type {:?}", tensor.f_kind()?),
                Some("weights are f32, f16 or bf16".into()),
            );
        } else if i64::try_from(tensor.f_isfinite()?.f_all()?)? == 0 {
            say(format!("tensor `{name}` holds NaN or infinity"), Some("the checkpoint is damaged".into()));
        }
    }
    for name in extra {
        let hint = nearest(name, &missing).map(|n| format!("the model misses `{n}`"));
        say(format!("tensor `{name}` is not part of the model"), hint);
    }
    Ok(problems)
}

fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let alike = |name: &str| strsim::normalized_damerau_levenshtein(wrong, name);
    known.iter().copied().filter(|name| alike(name) > 0.7).max_by(|a, b| alike(a).total_cmp(&alike(b)))
}

#[cfg(test)]
mod tests {
    use tch::{Device, nn};

    use super::*;
    use crate::error::Class;
    use crate::printer::render_error;

    fn store() -> (VarStore, Tensor, Tensor) {
        let store = VarStore::new(Device::Cpu);
        let weight = (store.root() / "dense").var("weight", &[2, 3], nn::Init::Const(0.0));
        let bias = (store.root() / "dense").var("bias", &[2], nn::Init::Const(0.0));
        (store, weight, bias)
    }

    fn tensor(shape: &[i64]) -> Tensor {
        let count: i64 = shape.iter().product();
        Tensor::arange(count, (Kind::Float, Device::Cpu)).reshape(shape) + 0.5
    }

    /// Writes the tensors and loads them into a store of one dense layer from three to two.
    fn try_load(tensors: Vec<(&str, Tensor)>, tolerated: &Tolerated) -> Result<(Vec<f32>, Vec<f32>)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        save(&tensors.into_iter().map(|(n, t)| (n.to_owned(), t)).collect(), &path)?;
        let (store, weight, bias) = store();
        load(&store, &path, tolerated)?;
        Ok((Vec::try_from(weight.flatten(0, 1))?, Vec::try_from(bias)?))
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let (weight, bias) =
            try_load(vec![("dense.weight", tensor(&[2, 3])), ("dense.bias", tensor(&[2]))], &Tolerated::NOTHING)
                .unwrap();
        assert_eq!(weight, [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]);
        assert_eq!(bias, [0.5, 1.5]);
    }

    #[test]
    fn halves_become_floats() {
        for kind in [Kind::Half, Kind::BFloat16] {
            let tensors =
                vec![("dense.weight", tensor(&[2, 3]).to_kind(kind)), ("dense.bias", tensor(&[2]).to_kind(kind))];
            assert_eq!(try_load(tensors, &Tolerated::NOTHING).unwrap().1, [0.5, 1.5]);
        }
    }

    #[test]
    fn every_difference_is_named_at_once() {
        let tensors =
            vec![("dense.wieght", tensor(&[2, 3])), ("dense.bias", tensor(&[1])), ("head.bias", tensor(&[4]))];
        let error = try_load(tensors, &Tolerated::NOTHING).unwrap_err();
        assert_eq!(error.class(), Class::User);
        let text = render_error(&error);
        assert!(text.contains("tensor `dense.bias` has shape [1], and the model needs [2]"), "{text}");
        assert!(text.contains("tensor `dense.weight` is missing\n  hint: the file has `dense.wieght`"), "{text}");
        assert!(text.contains("tensor `head.bias` is not part of the model"), "{text}");
        assert_eq!(error.problems().count(), 4);
    }

    #[test]
    fn wrong_types_and_damaged_values_are_refused() {
        let tensors = vec![
            ("dense.weight", tensor(&[2, 3]).to_kind(Kind::Int64)),
            ("dense.bias", tensor(&[2]) / Tensor::from(0f32)),
        ];
        let text = render_error(&try_load(tensors, &Tolerated::NOTHING).unwrap_err());
        assert!(text.contains("`dense.weight` has type Int64") && text.contains("`dense.bias` holds NaN"), "{text}");
    }

    #[test]
    fn a_prefix_old_names_and_unused_parts_are_tolerated_only_where_named() {
        let tensors = || {
            vec![
                ("bert.dense.gamma", tensor(&[2, 3])),
                ("bert.dense.bias", tensor(&[2])),
                ("bert.pooler.dense.bias", tensor(&[9])),
            ]
        };
        let tolerated = Tolerated { prefix: "bert.", unused: &["pooler."], renamed: &[(".gamma", ".weight")] };
        assert_eq!(try_load(tensors(), &tolerated).unwrap().1, [0.5, 1.5]);
        assert_eq!(try_load(tensors(), &Tolerated::NOTHING).unwrap_err().problems().count(), 5);
    }

    #[test]
    fn equal_tensors_give_equal_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = |name: &str| {
            let tensors = ["b", "a", "c"].map(|n| (n.to_owned(), tensor(&[2, 3]))).into_iter().collect();
            save(&tensors, &dir.path().join(name)).unwrap();
            std::fs::read(dir.path().join(name)).unwrap()
        };
        assert_eq!(bytes("one"), bytes("two"));
    }

    #[test]
    fn a_file_that_is_absent_or_torn_is_the_users_matter() {
        let dir = tempfile::tempdir().unwrap();
        let (store, ..) = store();
        let path = dir.path().join("model.safetensors");
        assert_eq!(load(&store, &path, &Tolerated::NOTHING).unwrap_err().class(), Class::User);
        std::fs::write(&path, b"\x08\0\0\0\0\0\0\0{\"a\":").unwrap();
        let error = load(&store, &path, &Tolerated::NOTHING).unwrap_err();
        assert!(error.to_string().contains("this is not a safetensors file"), "{error}");
    }
}
