//! The command line of `coracle registry`.

use clap::{Args, Subcommand};

use crate::args::{Output, Target};

/// What may be done with the cluster's registry.
#[derive(Subcommand, Clone, Debug)]
pub enum RegistryCommand {
    /// Show what namespaces and repositories hold.
    ///
    /// LOGICAL counts every blob and manifest once per line; UNIQUE is what nothing else holds, and so what would be freed
    /// without it.
    Usage(UsageArgs),
    /// Collect garbage now, on every member: what retention policies let go, then links and blobs that nothing needs.
    ///
    /// Members do this by themselves every ten minutes. Nothing younger than an hour is taken.
    Gc(GcArgs),
    /// Read and hash every stored blob, on every member, and heal damaged copies from other members.
    ///
    /// Members do this by themselves every 24 hours. Exits with 1 if a blob has no good copy left; pushing it again heals
    /// it.
    Scrub(ScrubArgs),
    /// Show and set how much a namespace may hold.
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Show and set which tags and manifests the registry lets go.
    #[command(subcommand)]
    Retention(RetentionCommand),
}

/// `coracle registry usage`.
#[derive(Args, Clone, Debug)]
pub struct UsageArgs {
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster; with --namespace only what is in that one.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle registry gc`.
#[derive(Args, Clone, Debug)]
pub struct GcArgs {
    /// Remove nothing, show what would be.
    #[arg(long)]
    pub dry_run: bool,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle registry scrub`.
#[derive(Args, Clone, Debug)]
pub struct ScrubArgs {
    /// Bytes that each member reads in a second at most, such as 200Mi [default: 32Mi]; a scrub that runs already keeps its
    /// own.
    #[arg(long, value_name = "SIZE")]
    pub rate: Option<String>,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle registry quota`.
#[derive(Subcommand, Clone, Debug)]
pub enum QuotaCommand {
    /// Show the quotas there are.
    Get(ListArgs),
    /// Set the quota of a namespace, or take it away. Pushes that do not fit are refused; nothing is removed.
    Set(QuotaSetArgs),
}

/// `coracle registry quota get` and `retention get`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle registry quota set`.
#[derive(Args, Clone, Debug)]
pub struct QuotaSetArgs {
    // Not called `namespace`: so is the flag of every command.
    /// The namespace: the first segment of its repositories' names.
    #[arg(value_name = "NAMESPACE")]
    pub of: String,
    /// Bytes, such as 10Gi or 500M, or `none`.
    pub size: String,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle registry retention`.
#[derive(Subcommand, Clone, Debug)]
pub enum RetentionCommand {
    /// Show the policies there are.
    Get(ListArgs),
    /// Set a policy. The collector goes by it from then on; `coracle registry gc --dry-run` shows what it would remove.
    ///
    /// A tag goes only if a policy condemns it and none keeps it. Patterns know * (anything but /) and ** (anything).
    Set(Box<RetentionSetArgs>),
    /// Remove a policy.
    Remove(RetentionRemoveArgs),
}

/// `coracle registry retention set`.
#[derive(Args, Clone, Debug)]
pub struct RetentionSetArgs {
    /// Name of the policy.
    pub name: String,
    /// Repositories it is about, such as demo/**; may be repeated.
    #[arg(long, value_name = "PATTERN", required = true, value_delimiter = ',')]
    pub repositories: Vec<String>,
    /// Tags it may remove [default: all]; may be repeated.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Tags that are never removed, by no policy; may be repeated.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub keep: Vec<String>,
    /// Keep so many of the tags, those set last.
    #[arg(long, value_name = "N")]
    pub newest: Option<u32>,
    /// Remove tags set so long ago, such as 30d; with --newest those that are not among the newest.
    #[arg(long, value_name = "AGE")]
    pub older_than: Option<String>,
    /// Remove manifests without a tag that were pushed so long ago. Without this, what tags leave behind stays.
    #[arg(long, value_name = "AGE")]
    pub untagged_older_than: Option<String>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle registry retention remove`.
#[derive(Args, Clone, Debug)]
pub struct RetentionRemoveArgs {
    /// Name of the policy.
    pub name: String,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}
