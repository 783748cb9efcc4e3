//! `cargo xtask sim`: seeds through the simulator, and the proof that it catches planted bugs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::root::{root, run as run_command, target};

/// What to run.
#[derive(clap::Args)]
pub struct Args {
    /// First seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Steps per seed.
    #[arg(long, default_value_t = 2000)]
    steps: u64,
    /// Apply each patch of tests/planted to a copy and expect the simulator to catch it.
    #[arg(long)]
    planted: bool,
}

fn simulate(tree: &Path, args: &Args) -> Command {
    let mut c = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "coracle-tests",
        "--bin",
        "sim",
        "--",
    ])
    .args([
        "--seed",
        &args.seed.to_string(),
        "--seeds",
        &args.seeds.to_string(),
        "--steps",
        &args.steps.to_string(),
    ])
    .current_dir(tree);
    c
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if !args.planted {
        return run_command(&mut simulate(&root(), args));
    }
    let mut patches: Vec<PathBuf> = std::fs::read_dir(root().join("tests/planted"))?
        .filter_map(|e| Some(e.ok()?.path()))
        .collect();
    patches.retain(|p| p.extension().is_some_and(|e| e == "patch"));
    patches.sort();
    let crates = [
        "scheduler/plan/",
        "scheduler/state/",
        "runner/agent/",
        "proxy/route/",
    ];
    for c in crates {
        let planted = patches
            .iter()
            .any(|p| std::fs::read_to_string(p).is_ok_and(|t| t.contains(&format!("+++ b/{c}"))));
        ensure!(planted, "no planted bug in {c}");
    }
    let copy = tempfile::tempdir()?;
    for patch in &patches {
        let name = patch
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        copy_tree(copy.path())?;
        let applied = Command::new("patch")
            .args(["-p1", "--fuzz=0", "--silent", "-i"])
            .arg(patch)
            .current_dir(copy.path())
            .status()
            .context("cannot start patch(1)")?;
        ensure!(
            applied.success(),
            "{name} no longer applies: plant the bug anew"
        );
        // One target folder for all copies: only the patched crate and its dependents are built again.
        let out = simulate(copy.path(), args)
            .env("CARGO_TARGET_DIR", target().join("planted"))
            .output()?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned()
            + &String::from_utf8_lossy(&out.stdout);
        if out.status.success() {
            bail!(
                "{name}: not caught in {} seeds of {} steps",
                args.seeds,
                args.steps
            );
        }
        let Some(line) = text.lines().find(|l| l.starts_with("VIOLATION")) else {
            bail!(
                "{name}: the run failed without naming a violated property (did the patch break the build?)\n{text}"
            );
        };
        println!("{name}: caught: {line}");
    }
    println!("{} planted bugs, all caught", patches.len());
    Ok(())
}

/// The tracked and new files of the tree, fresh.
fn copy_tree(to: &Path) -> Result<()> {
    let files = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()?;
    ensure!(files.status.success(), "git ls-files failed");
    for f in String::from_utf8(files.stdout)?.lines() {
        let (from, to) = (root().join(f), to.join(f));
        if !from.is_file() {
            continue;
        }
        if let Some(dir) = to.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let bytes = std::fs::read(&from)?;
        // Untouched files keep their time, so that cargo rebuilds only what the patch changed.
        if std::fs::read(&to).ok().as_deref() != Some(&bytes) {
            std::fs::write(&to, bytes)?;
        }
    }
    Ok(())
}
