//! Where tensors live: `--device`, loading CUDA at start, the random generator.
//!
//! The binary links to the CPU part of libtorch alone. Where `libtorch_cuda.so` lies beside it or on the library path,
//! loading it globally before the first tensor operation brings CUDA in; without a driver it loads too and simply finds no
//! device. So one binary serves both kinds of machine.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Device};

use crate::{Error, Result};

/// What `--device` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This CUDA device.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .filter(|number| number.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|number| number.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| {
                    Error::user(format!("`{text}` is not a device"))
                        .hint("devices are `auto`, `cpu`, `cuda` and `cuda:N` with N from 0")
                }),
        }
    }
}

impl DeviceChoice {
    /// The device itself; loads CUDA unless the CPU was asked for by name.
    pub fn resolve(self) -> Result<Device> {
        if self == DeviceChoice::Cpu {
            return Ok(Device::Cpu);
        }
        let library = load_cuda();
        let count = if Cuda::is_available() { usize::try_from(Cuda::device_count()).unwrap_or(0) } else { 0 };
        match self {
            DeviceChoice::Auto if count > 0 => Ok(Device::Cuda(0)),
            DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Cuda(number) if number < count => Ok(Device::Cuda(number)),
            DeviceChoice::Cuda(number) => Err(no_such_device(number, count, library)),
        }
    }
}

fn no_such_device(number: usize, count: usize, library: &CudaLibrary) -> Error {
    if count > 0 {
        let last = count - 1;
        return Error::user(format!("there is no device `cuda:{number}`"))
            .hint(format!("this machine has `cuda:0` to `cuda:{last}`"));
    }
    let error = Error::user(format!("`cuda:{number}` was asked for, and this machine offers no CUDA device"));
    match library {
        CudaLibrary::Loaded(path) => {
            error.hint(format!("`{}` is loaded, but finds no GPU: is the NVIDIA driver there?", path.display()))
        }
        CudaLibrary::Absent => error.hint(
            "`libtorch_cuda.so` was found neither beside libtorch nor on LD_LIBRARY_PATH; `--device cpu` works without it",
        ),
        CudaLibrary::Broken(path, why) => error.hint(format!("`{}` cannot be loaded: {why}", path.display())),
    }
}

/// The device that `--device` names, ready for use: `auto`, `cpu`, `cuda` or `cuda:N`.
pub fn parse(text: &str) -> Result<Device> {
    text.parse::<DeviceChoice>()?.resolve()
}

/// What became of libtorch's CUDA half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaLibrary {
    /// Loaded, from this file; there may still be no GPU.
    Loaded(PathBuf),
    /// There is none.
    Absent,
    /// There is one, and it cannot be loaded, for this reason.
    Broken(PathBuf, String),
}

/// Loads `libtorch_cuda.so` for the whole process, once, if it is found beside libtorch or on the library path. Never fails:
/// without it there is only the CPU. Must come before the first tensor operation.
pub fn load_cuda() -> &'static CudaLibrary {
    static LOADED: OnceLock<CudaLibrary> = OnceLock::new();
    LOADED.get_or_init(|| {
        let mut broken = None;
        for path in candidates() {
            match open_globally(&path) {
                Ok(()) => return CudaLibrary::Loaded(path),
                // A file that is there and does not load is worth a word; the bare name is only a try.
                Err(why) if path.is_absolute() => {
                    broken.get_or_insert(CudaLibrary::Broken(path, why));
                }
                Err(_) => {}
            }
        }
        broken.unwrap_or(CudaLibrary::Absent)
    })
}

fn candidates() -> Vec<PathBuf> {
    const NAME: &str = "libtorch_cuda.so";
    let mut paths = Vec::new();
    if let Ok(maps) = std::fs::read_to_string("/proc/self/maps") {
        let beside = folder_of(&maps, "libtorch_cpu.so").map(|folder| folder.join(NAME));
        paths.extend(beside.filter(|path| path.exists()));
    }
    paths.push(PathBuf::from(NAME));
    paths
}

/// The folder of a loaded library, from the text of `/proc/self/maps`.
fn folder_of(maps: &str, library: &str) -> Option<PathBuf> {
    maps.lines()
        .filter_map(|line| line.find('/').map(|start| Path::new(&line[start..])))
        .find(|path| path.file_name().is_some_and(|name| name == library))
        .and_then(|path| path.parent().map(Path::to_path_buf))
}

#[allow(unsafe_code)]
fn open_globally(path: &Path) -> Result<(), String> {
    // SAFETY: dlopen runs the library's initialisers. libtorch_cuda's register kernels with the libtorch that is already
    // loaded, which is what we want; it is of that libtorch's version, being its neighbour or on the path that the user
    // set. It is never unloaded: the handle is forgotten, for the registrations point into it.
    match unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Bounds libtorch's threads: those of one operation, and operations beside each other. Before the first operation, once.
pub fn limit_threads(threads: usize) {
    set_threads(threads);
    tch::set_num_interop_threads(i32::try_from(threads.max(1)).unwrap_or(i32::MAX));
}

/// Sets how many threads one tensor operation may use on the CPU. At least one.
pub fn set_threads(threads: usize) {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(i32::MAX));
}

/// Holds libtorch's random generator. libtorch has one generator per process and device, so that only one training at a time
/// can be repeatable: whoever draws from it (dropout, initial weights) holds this.
#[derive(Debug)]
pub struct Seeded(#[allow(dead_code)] MutexGuard<'static, ()>);

/// Seeds libtorch's generators and keeps them from others until the result is dropped; waits for whoever has them now.
pub fn seed(seed: u64) -> Seeded {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    // Seeds the generators of all CUDA devices too. The sign bit is no loss: any 64 bits will do.
    tch::manual_seed(seed.cast_signed());
    Seeded(guard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;
    use crate::printer::render_error;

    #[test]
    fn device_names_are_read() {
        assert_eq!("auto".parse::<DeviceChoice>().unwrap(), DeviceChoice::Auto);
        assert_eq!("cpu".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cpu);
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        assert_eq!("cuda:3".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(3));
    }

    #[test]
    fn other_names_are_refused_with_those_that_exist() {
        for wrong in ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "CPU", ""] {
            let error = wrong.parse::<DeviceChoice>().unwrap_err();
            assert_eq!(error.class(), Class::User);
            assert!(render_error(&error).contains("`cuda:N`"), "{error}");
        }
    }

    #[test]
    fn loading_cuda_never_fails_and_a_missing_gpu_is_the_users_matter() {
        let library = load_cuda();
        assert_eq!(library, load_cuda());
        assert_eq!(parse("cpu").unwrap(), Device::Cpu);
        let devices = if Cuda::is_available() { Cuda::device_count() } else { 0 };
        let error = parse("cuda:999").unwrap_err();
        assert_eq!(error.class(), Class::User);
        assert!(error.problems().all(|p| p.hint.is_some()));
        match devices {
            0 => assert_eq!(parse("auto").unwrap(), Device::Cpu),
            _ => assert_eq!(parse("auto").unwrap(), Device::Cuda(0)),
        }
    }

    #[test]
    fn a_cuda_library_that_does_not_load_is_named() {
        let error =
            no_such_device(0, 0, &CudaLibrary::Broken("/x/libtorch_cuda.so".into(), "libcudart is missing".into()));
        assert!(render_error(&error).contains("`/x/libtorch_cuda.so` cannot be loaded: libcudart is missing"));
        let error = no_such_device(4, 2, &CudaLibrary::Loaded("/x/libtorch_cuda.so".into()));
        assert!(render_error(&error).contains("`cuda:0` to `cuda:1`"));
    }

    #[test]
    fn the_folder_of_a_library_is_found_among_the_mappings() {
        let maps = "7f00-7f01 r--p 00000000 fd:00 1 /usr/lib/libc.so.6\n\
                    7f02-7f03 r-xp 00000000 fd:00 2                  /opt/lib torch/lib/libtorch_cpu.so\n\
                    7f04-7f05 rw-p 00000000 00:00 0 [heap]\n";
        assert_eq!(folder_of(maps, "libtorch_cpu.so"), Some(PathBuf::from("/opt/lib torch/lib")));
        assert_eq!(folder_of(maps, "libtorch_cuda.so"), None);
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let draw = || {
            let _seeded = seed(7);
            Vec::<f32>::try_from(tch::Tensor::rand([8], (tch::Kind::Float, Device::Cpu))).unwrap()
        };
        assert_eq!(draw(), draw());
    }
}
