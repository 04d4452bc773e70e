//! libtorch's errors in our terms.

use tch::TchError;

use crate::Error;

impl From<TchError> for Error {
    /// The infrastructure's fault; the C++ stack behind the first line is left out.
    fn from(error: TchError) -> Self {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("Internal torch error: ").trim();
        if text.contains("out of memory") || text.contains("can't allocate memory") {
            return Error::infra(format!("out of memory: {first}")).hint("free some memory, or try `--device cpu`");
        }
        Error::infra(format!("libtorch failed: {first}"))
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use crate::Error;
    use crate::error::Class;

    #[test]
    fn a_libtorch_error_is_one_line_and_may_be_tried_again() {
        let a = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        let error = Error::from(a.f_matmul(&a).unwrap_err());
        assert_eq!(error.class(), Class::Infra);
        let text = error.to_string();
        assert!(text.starts_with("libtorch failed: ") && !text.contains('\n') && !text.contains("frame #"), "{text}");
    }
}
