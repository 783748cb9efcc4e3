//! Peers, installed into target/peers (crates) or found on the machine (packages).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::root::{run, target};

/// Version of the peer host: the one our engine embeds.
const WASMTIME: &str = "48.0.8";
/// What bears on serving; the tools for explaining, testing and neural networks are left out to build in minutes.
const FEATURES: &str = "run,serve,compile,cranelift,pooling-allocator,component-model,component-model-async,wasi-http,parallel-compilation,cache,logging,demangle,addr2line,backtrace,threads,gc,gc-drc,gc-null,coredump,stack-switching";

/// Programs of the control-plane benches, and the packages that hold them.
const PACKAGES: &[(&str, &str)] = &[
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("docker-registry", "docker-registry"),
    ("strace", "strace"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
];

/// Installs what cargo and apt can install, names what is missing then.
pub fn install() -> Result<()> {
    packages()?;
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

/// Installs the missing packages, without starting the services they bring.
fn packages() -> Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let apt = |args: &[&str]| {
        run(Command::new("apt-get")
            .args(["-qq", "-y"])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // The package would start a server of its own on the usual ports.
            .env("RUNLEVEL", "1"))
    };
    let done = apt(&["update"])
        .and_then(|()| apt(&[&["install", "--no-install-recommends"], &missing[..]].concat()));
    if let Err(e) = done {
        bail!("cannot install {}: {e:#}", missing.join(", "));
    }
    Ok(())
}

/// A program on the path.
fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|d| d.join(program))
        .find(|p| p.is_file())
}

/// `etcd` as packaged.
pub fn etcd() -> Result<PathBuf> {
    find("etcd").context("the peer etcd is missing: run `cargo xtask bench peers`")
}

/// `docker-registry` as packaged.
pub fn docker_registry() -> Result<PathBuf> {
    find("docker-registry")
        .context("the peer docker-registry is missing: run `cargo xtask bench peers`")
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
