//! The command line of `coracle backup`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::{Output, Target};

/// What may be done with backups.
#[derive(Subcommand, Clone, Debug)]
pub enum BackupCommand {
    /// Save a backup of the cluster's state, as fresh as the newest acknowledged write.
    ///
    /// The file holds every object, Secrets included, and is readable by its owner only. It does not hold images: those are
    /// in DATA/registry of each member.
    Save(SaveArgs),
    /// Show the backups that members save on their own.
    Ls(LsArgs),
    /// Show what a backup says about itself.
    Inspect(FileArgs),
    /// Read a whole backup and check every byte of it.
    Verify(FileArgs),
    /// Make a new data directory from a backup: a new cluster with the same objects.
    ///
    /// The new cluster has a new id and a new CA, so that nothing of the old one can reach it by accident: runners and
    /// members join it again with new tokens. Every watch of before gets "410 Gone" and lists again.
    Restore(RestoreArgs),
}

/// `coracle backup save`.
#[derive(Args, Clone, Debug)]
pub struct SaveArgs {
    /// File or folder to write to (default: a name with time and revision, here).
    pub file: Option<PathBuf>,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle backup ls`.
#[derive(Args, Clone, Debug)]
pub struct LsArgs {
    /// Data directory of a member on this machine, running or not (default: ask the member of the kubeconfig).
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle backup inspect` and `verify`.
#[derive(Args, Clone, Debug)]
pub struct FileArgs {
    /// The backup.
    pub file: PathBuf,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
}

/// `coracle backup restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// The backup.
    pub file: PathBuf,
    /// Data directory to make; it must be empty or missing.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Name of the new cluster's first member (default: the host name and 4 hex digits).
    #[arg(long)]
    pub name: Option<String>,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
}
