//! What a machine can check of the house rules: who imports whom, what never enters the lock file, what pure crates
//! never name, and what no source may hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::root::root;

/// Direct dependencies among our own crates (DESIGN section 2).
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("coracle-api", &[]),
    ("coracle-state", &["api"]),
    ("coracle-agent", &["api"]),
    ("coracle-route", &["api"]),
    ("coracle-plan", &["api", "state"]),
    ("coracle-raft", &["state"]),
    ("coracle-server", &["api", "state"]),
    (
        "coracle-scheduler",
        &[
            "api", "plan", "state", "raft", "server", "registry", "objects", "trust",
        ],
    ),
    ("coracle-engine", &[]),
    ("coracle-proxy", &["route"]),
    (
        "coracle-runner",
        // Of the registry: which part of an image is the Wasm, decided once for nodes and the command line.
        &[
            "api", "agent", "engine", "proxy", "registry", "route", "trust",
        ],
    ),
    ("coracle-registry", &[]),
    ("coracle-objects", &["registry"]),
    ("coracle-trust", &[]),
    ("coracle-tests", &["api", "plan", "state", "agent", "route"]),
    ("xtask", &[]),
];
/// Crates that decide and never do.
const PURE: &[&str] = &[
    "api",
    "scheduler/plan",
    "scheduler/state",
    "runner/agent",
    "proxy/route",
    "registry/trust",
];
/// What a pure crate never names outside its tests.
const IMPURE: &[&str] = &[
    "tokio::",
    "axum::",
    "hyper::",
    "openraft::",
    "wasmtime::",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "std::env",
    "std::thread",
    "rand::",
    "HashMap<",
    "HashSet<",
    "Mutex",
    "RwLock",
];
/// Packages that would bring a second crypto provider or a build tool.
const REFUSED: &[&str] = &[
    "aws-lc-rs",
    "aws-lc-sys",
    "aws-lc-fips-sys",
    "openssl-sys",
    "native-tls",
    "cmake",
    "protoc",
    "protobuf-src",
];
/// A look is due above this many lines; above the second number it is refused.
const LINES_MAX: usize = 900;

/// Runs every check; prints each offence.
pub fn run() -> Result<()> {
    let mut offences = Vec::new();
    imports(&mut offences)?;
    lock_file(&mut offences)?;
    sources(&mut offences)?;
    for o in &offences {
        eprintln!("tidy: {o}");
    }
    if !offences.is_empty() {
        bail!("{} offences", offences.len());
    }
    eprintln!("tidy: clean");
    Ok(())
}

fn imports(offences: &mut Vec<String>) -> Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()?;
    let ours: BTreeSet<String> = metadata
        .packages
        .iter()
        .map(|p| p.name.to_string())
        .collect();
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    for package in &metadata.packages {
        let name = package.name.to_string();
        if name == "coracle" {
            continue; // the binary imports everything it starts
        }
        let Some(list) = allowed.get(name.as_str()) else {
            offences.push(format!("{name} is not in the import table of tidy"));
            continue;
        };
        for d in package
            .dependencies
            .iter()
            .filter(|d| d.kind == DependencyKind::Normal && ours.contains(&d.name))
        {
            if !list.contains(&d.name.trim_start_matches("coracle-")) {
                offences.push(format!("{name} must not import {}", d.name));
            }
        }
        let pure = PURE.iter().any(|p| {
            package
                .manifest_path
                .as_str()
                .ends_with(&format!("{p}/Cargo.toml"))
        });
        for d in package
            .dependencies
            .iter()
            .filter(|d| pure && d.kind == DependencyKind::Normal)
        {
            if [
                "tokio", "axum", "hyper", "openraft", "wasmtime", "rand", "reqwest",
            ]
            .contains(&d.name.as_str())
            {
                offences.push(format!("{name} is pure and must not depend on {}", d.name));
            }
        }
    }
    Ok(())
}

fn lock_file(offences: &mut Vec<String>) -> Result<()> {
    let lock: toml::Value = toml::from_str(&std::fs::read_to_string(root().join("Cargo.lock"))?)?;
    for package in lock["package"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        if REFUSED.contains(&name) {
            offences.push(format!(
                "Cargo.lock holds {name}: ring is the only provider and cargo the only build tool"
            ));
        }
    }
    Ok(())
}

fn sources(offences: &mut Vec<String>) -> Result<()> {
    let out = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()?;
    for file in String::from_utf8(out.stdout)?.lines() {
        let path = root().join(file);
        if !path.is_file() || file == "Cargo.lock" {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        // Machine paths would make the tree work on one machine only.
        for word in ["/root/", "/home/", "/work/"] {
            if text.contains(word) && !file.starts_with("xtask/src/tidy") {
                offences.push(format!("{file} names a path of a machine ({word})"));
            }
        }
        if !file.ends_with(".rs") {
            continue;
        }
        check_source(file, &text, offences);
    }
    Ok(())
}

fn check_source(file: &str, text: &str, offences: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LINES_MAX {
        offences.push(format!("{file} has {lines} lines: two subjects?"));
    }
    let is_module = Path::new(file).components().any(|c| c.as_os_str() == "src");
    if is_module && !file.starts_with("samples/") && !text.trim_start().starts_with("//!") {
        offences.push(format!("{file} does not begin with a module doc"));
    }
    let production = text.split("#[cfg(test)]").next().unwrap_or(text);
    let in_tests =
        file.contains("/tests/") || file.ends_with("_test.rs") || file.ends_with("tests.rs");
    if PURE.iter().any(|p| file.starts_with(&format!("{p}/src/"))) && !in_tests {
        for (n, line) in production.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for word in IMPURE {
                if line.contains(word) && !line.contains("// pure:") {
                    offences.push(format!("{file}:{} a pure crate names {word}", n + 1));
                }
            }
        }
    }
    for (n, line) in production.lines().enumerate() {
        for word in ["todo!(", "unimplemented!(", "FIXME", "XXX"] {
            if line.contains(word) && !file.starts_with("xtask/src/tidy") {
                offences.push(format!("{file}:{} unfinished: {word}", n + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    /// Tidy is a test, so that `cargo test` holds the walls.
    #[test]
    fn the_tree_is_tidy() {
        super::run().unwrap();
    }

    #[test]
    fn a_clock_in_a_pure_crate_is_an_offence() {
        let mut offences = Vec::new();
        super::check_source(
            "scheduler/plan/src/x.rs",
            "//! x\nfn f() { std::time::Instant::now(); }\n",
            &mut offences,
        );
        assert_eq!(offences.len(), 1, "{offences:?}");
    }
}
