//! A small demo shop in a temporary folder, driven through the real binary.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

/// The day after the demo lake's last one.
pub const AS_OF: &str = "2026-07-01";

/// A demo lake with its own output and bundle folders.
pub struct Shop {
    dir: TempDir,
}

impl Shop {
    /// A fresh lake of 300 customers and 240 days; nothing trained, nothing published.
    pub fn new() -> Self {
        let shop = Shop { dir: tempfile::tempdir().unwrap() };
        let lake = shop.lake();
        let made = tenure(&["demo", "generate", lake.to_str().unwrap(), "--customers", "300", "--days", "240"]);
        assert_success(&made);
        shop
    }

    /// A lake with a trained model.
    pub fn trained() -> Self {
        let shop = Self::copy_of(trained_once());
        assert!(shop.path().join("models/ltv/manifest.json").exists());
        shop
    }

    /// A copy that a test may change; timestamps stay, so that the inputs look the same.
    pub fn copy_of(other: &Shop) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-a").arg(other.path().join(".")).arg(dir.path()).status().unwrap();
        assert!(copied.success());
        Shop { dir }
    }

    /// The folder that holds it all.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The lake's folder.
    pub fn lake(&self) -> PathBuf {
        self.path().join("lake")
    }

    /// The folder of published tables.
    pub fn out(&self) -> PathBuf {
        self.lake().join("out")
    }

    /// The only object of a table at a night.
    pub fn table(&self, name: &str, night: &str) -> PathBuf {
        self.out().join(name).join(format!("ds={night}")).join("part-00000.parquet")
    }

    /// The binary, set up for this shop, started from the checkout.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = binary(args);
        command
            .env("TENURE_LAKE", format!("file://{}", self.lake().display()))
            .env("TENURE_MODELS", self.path().join("models"))
            .env("TENURE_ENCODER", checkout().join("fixtures/parity/tiny-bert"));
        command
    }

    /// Runs the binary to its end.
    pub fn tenure(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Publishes one night and expects it to work.
    pub fn publish(&self, night: &str) -> Output {
        let output = self.tenure(&["run", "jobs/ltv.yaml", "--as-of", night]);
        assert_success(&output);
        output
    }
}

/// A shop with a trained model, made once for all tests. Do not change it; copy it.
pub fn trained_once() -> &'static Shop {
    static SHOP: OnceLock<Shop> = OnceLock::new();
    SHOP.get_or_init(|| {
        let shop = Shop::new();
        assert_success(&shop.tenure(&["train", "jobs/ltv.yaml", "--as-of", AS_OF]));
        shop
    })
}

/// A shop with one published night, made once for all tests. Do not change it; copy it.
pub fn published_once() -> &'static Shop {
    static SHOP: OnceLock<Shop> = OnceLock::new();
    SHOP.get_or_init(|| {
        let shop = Shop::trained();
        shop.publish(AS_OF);
        shop
    })
}

/// The program with every command, started from the checkout, with nothing of the caller's `TENURE_*` settings.
pub fn binary(args: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_tenure-torch"), args)
}

/// The same of any program.
pub fn program(path: impl AsRef<OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.args(args).current_dir(checkout());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TENURE_") || name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command
}

/// Runs the binary to its end.
pub fn tenure(args: &[&str]) -> Output {
    binary(args).output().unwrap()
}

/// The checkout's root.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Fails with the program's own words unless it ended with exit code 0.
pub fn assert_success(output: &Output) {
    assert_exit(output, 0);
}

/// Fails with the program's own words unless it ended with this exit code.
pub fn assert_exit(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {}\nstderr: {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
