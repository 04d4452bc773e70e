//! `tenure-torch`; see [`tenure::cli::main_with_model`].

fn main() {
    tenure::cli::main_with_model()
}
