//! Peers, installed into target/peers (crates) or found on the machine (packages).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::root::{run, target};

/// Version of the peer host: the one our engine embeds.
const WASMTIME: &str = "48.0.8";
/// What bears on serving; the tools for explaining, testing and neural networks are left out to build in minutes.
const FEATURES: &str = "run,serve,compile,cranelift,pooling-allocator,component-model,component-model-async,wasi-http,parallel-compilation,cache,logging,demangle,addr2line,backtrace,threads,gc,gc-drc,gc-null,coredump,stack-switching";

/// Installs what cargo can install, names what the package manager has to.
pub fn install() -> Result<()> {
    let root = target().join("peers");
    run(Command::new("cargo")
        .args([
            "install",
            "wasmtime-cli",
            "--locked",
            "--version",
            &format!("={WASMTIME}"),
            "--no-default-features",
            "--features",
            FEATURES,
            "--root",
        ])
        .arg(&root)
        .env("CARGO_TARGET_DIR", target().join("peers-build")))?;
    wrk().map(|_| ())
}

/// `wasmtime` of the pinned version.
pub fn wasmtime() -> Result<PathBuf> {
    let path = target().join("peers/bin/wasmtime");
    if !path.exists() {
        bail!("the peer wasmtime {WASMTIME} is missing: run `cargo xtask bench peers`");
    }
    Ok(path)
}

/// The load generator.
pub fn wrk() -> Result<PathBuf> {
    let found = Command::new("wrk").arg("-v").output().is_ok();
    if !found {
        bail!("the load generator wrk is missing: `apt-get install wrk`");
    }
    Ok(PathBuf::from("wrk"))
}
