//! `tenure`; see [`tenure::cli::main`].

fn main() {
    tenure::cli::main()
}
