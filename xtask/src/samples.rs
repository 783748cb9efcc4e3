//! Builds the sample components from source with a pinned toolchain in an ignored folder, and ties each prebuilt
//! component to the sources it was built from by a recorded hash.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::root::{root, run as run_command, target};

/// Samples, each a Rust crate with `prebuilt.wasm` beside its source.
pub const SAMPLES: &[&str] = &["counter", "front", "hello", "job", "ticker"];
/// Prebuilt components stay small, since they live in the tree.
const PREBUILT_BYTES_MAX: u64 = 150 << 10;

/// Builds every sample into `target/samples/NAME.wasm` with `NAME.source` (the hash of its sources).
pub fn run(update: bool, check: bool) -> Result<()> {
    if check {
        return check_prebuilt();
    }
    let rustc = toolchain()?;
    let out = target().join("samples");
    for name in SAMPLES {
        let source = root().join("samples").join(name);
        let build = out.join("build");
        eprintln!("samples: {name}");
        run_command(
            Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
                .args([
                    "build",
                    "--quiet",
                    "--locked",
                    "--release",
                    "--target",
                    "wasm32-wasip2",
                ])
                .current_dir(&source)
                .env("RUSTC", &rustc)
                .env("RUSTFLAGS", remap())
                .env("CARGO_TARGET_DIR", &build)
                .env_remove("RUSTUP_TOOLCHAIN"),
        )?;
        let built = build
            .join("wasm32-wasip2/release")
            .join(format!("{name}.wasm"));
        std::fs::copy(&built, out.join(format!("{name}.wasm")))
            .with_context(|| format!("{}", built.display()))?;
        let hash = source_hash(&source)?;
        std::fs::write(out.join(format!("{name}.source")), &hash)?;
        if update {
            std::fs::copy(&built, source.join("prebuilt.wasm"))?;
            std::fs::write(source.join("prebuilt.source"), format!("{hash}\n"))?;
        }
    }
    check_prebuilt()
}

/// Panic messages name source files; those of this machine become names that mean the same everywhere.
fn remap() -> String {
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|h| format!("{h}/.cargo")))
        .unwrap_or_default();
    format!(
        "--remap-path-prefix={home}=/cargo --remap-path-prefix={}=/coracle",
        root().display()
    )
}

/// Every prebuilt component is small and was built from the sources beside it.
fn check_prebuilt() -> Result<()> {
    for name in SAMPLES {
        let dir = root().join("samples").join(name);
        let size = std::fs::metadata(dir.join("prebuilt.wasm"))
            .with_context(|| format!("samples/{name}/prebuilt.wasm"))?
            .len();
        ensure!(
            size <= PREBUILT_BYTES_MAX,
            "samples/{name}/prebuilt.wasm has {size} bytes, the bound is {PREBUILT_BYTES_MAX}"
        );
        let recorded = std::fs::read_to_string(dir.join("prebuilt.source")).unwrap_or_default();
        ensure!(
            recorded.trim() == source_hash(&dir)?,
            "samples/{name}/prebuilt.wasm was built from other sources; run `cargo xtask samples --update` and commit it"
        );
    }
    eprintln!(
        "samples: {} prebuilt components match their sources",
        SAMPLES.len()
    );
    Ok(())
}

/// Hash over Cargo.toml, Cargo.lock and src: what a component is built from.
pub fn source_hash(sample: &Path) -> Result<String> {
    let mut files = vec![sample.join("Cargo.toml"), sample.join("Cargo.lock")];
    for entry in std::fs::read_dir(sample.join("src"))? {
        files.push(entry?.path());
    }
    files.sort();
    let mut hash = Sha256::new();
    for f in files {
        let bytes = std::fs::read(&f).with_context(|| format!("{}", f.display()))?;
        hash.update(
            f.file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default(),
        );
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    Ok(hex::encode(hash.finalize()))
}

/// The rustc that knows wasm32-wasip2: the user's own if it has the target, else one made from packages.
fn toolchain() -> Result<PathBuf> {
    if let Some(own) = installed() {
        return Ok(own);
    }
    let prefix = target().join("toolchains/rust-wasip2");
    let rustc = prefix.join("rustc-wasip2");
    if !rustc.exists() {
        eprintln!(
            "samples: making a wasm32-wasip2 toolchain in {} (about two minutes, once)",
            prefix.display()
        );
        run_command(Command::new("bash").arg(root().join("xtask/toolchain/rust-wasip2-toolchain.sh")).arg(&prefix).env("JOBS", "2"))
            .context("the toolchain is made from Debian packages: run `apt-get update` first, or `rustup target add wasm32-wasip2`")?;
    }
    if !rustc.exists() {
        bail!("the toolchain script left no {}", rustc.display());
    }
    Ok(rustc)
}

fn installed() -> Option<PathBuf> {
    let out = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(root())
        .output()
        .ok()?;
    let sysroot = PathBuf::from(String::from_utf8(out.stdout).ok()?.trim());
    sysroot
        .join("lib/rustlib/wasm32-wasip2/lib")
        .exists()
        .then(|| sysroot.join("bin/rustc"))
}
