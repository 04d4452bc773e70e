//! libtorch's errors in our terms.

use tch::TchError;

use crate::Error;

/// What libtorch says where the device, its driver or its memory failed, and not a call of ours.
const OF_THE_DEVICE: [&str; 6] = ["CUDA error", "CUDA driver", "cuDNN error", "CUBLAS_STATUS", "CUDNN_STATUS", "NCCL"];

impl From<TchError> for Error {
    /// A file of tensors that cannot be read is the user's matter, a device that fails the infrastructure's; shapes, types and
    /// indices that do not fit are a bug of ours. The C++ stack behind the first line is left out.
    fn from(error: TchError) -> Self {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("Internal torch error: ").trim();
        match &error {
            _ if text.contains("out of memory") || text.contains("can't allocate memory") => {
                Error::infra(format!("out of memory: {first}")).hint("free some memory, or try `--device cpu`")
            }
            _ if OF_THE_DEVICE.iter().any(|words| text.contains(words)) => {
                Error::infra(format!("the device failed: {first}"))
                    .hint("is the GPU well? `--device cpu` works without it")
            }
            TchError::Io(_) => Error::infra(format!("tensors cannot be read or written: {first}")),
            TchError::FileFormat(_)
            | TchError::TensorNameNotFound(..)
            | TchError::Zip(_)
            | TchError::SafeTensorError { .. } => Error::user(format!("a file of tensors cannot be read: {first}")),
            _ => Error::bug(format!("libtorch failed: {first}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, TchError, Tensor};

    use crate::Error;
    use crate::error::Class;

    #[test]
    fn shapes_that_do_not_fit_are_a_bug_said_in_one_line() {
        let a = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        let error = Error::from(a.f_matmul(&a).unwrap_err());
        assert_eq!(error.class(), Class::Bug);
        let text = error.to_string();
        assert!(text.starts_with("libtorch failed: ") && !text.contains('\n') && !text.contains("frame #"), "{text}");
    }

    #[test]
    fn memory_and_devices_may_be_better_next_time() {
        for text in [
            "CUDA out of memory. Tried to allocate 2 GiB",
            "CUDA error: an illegal memory access",
            "CUBLAS_STATUS_ALLOC_FAILED",
        ] {
            assert_eq!(Error::from(TchError::Torch(text.to_owned())).class(), Class::Infra, "{text}");
        }
        assert_eq!(Error::from(TchError::FileFormat("no header".to_owned())).class(), Class::User);
    }
}
