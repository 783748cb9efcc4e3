//! The command line. Only what works is listed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::backup::args::BackupCommand;
use crate::ca::CaCommand;
use crate::registry::args::RegistryCommand;
use crate::trust::args::{AttachArgs, DiffArgs, InspectArgs, KeyCommand, SignArgs, VerifyArgs};

/// Coracle runs WebAssembly components as Kubernetes runs containers: one binary is a whole cluster.
#[derive(Parser)]
#[command(
    name = "coracle",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Subcommand)]
pub enum Command {
    /// Start a one-node cluster here; with a folder or a .wasm file, run that application on it.
    Up(UpArgs),
    /// Start a control-plane member.
    Scheduler(SchedulerArgs),
    /// Start a runner node and join a cluster.
    Runner(RunnerArgs),
    /// Run a component as a replicated service with a URL.
    Deploy(DeployArgs),
    /// Run a component once, attached; its exit code is the command's.
    Run(RunArgs),
    /// Push a .wasm file to the cluster's registry, or to another by HOST/NAME.
    Push(PushArgs),
    /// Pull the .wasm file of an image.
    Pull(PullArgs),
    /// Sign an image with a key, so that `cosign verify --key` and policies of namespaces accept it.
    Sign(SignArgs),
    /// Check who signed an image.
    Verify(VerifyArgs),
    /// Attach an SBOM, provenance or another statement to an image.
    Attach(AttachArgs),
    /// Show what an image is, what it can do, who signed it and what is attached to it.
    Inspect(InspectArgs),
    /// Show what a new version of an image can do that the old one could not.
    Diff(DiffArgs),
    /// Make keys to sign with.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Create or update objects from files.
    Apply(ApplyArgs),
    /// Show objects.
    Get(GetArgs),
    /// Show one object in detail with its events.
    Describe(DescribeArgs),
    /// Show a container's output.
    Logs(LogsArgs),
    /// Delete objects.
    Delete(DeleteArgs),
    /// Set the number of replicas.
    Scale(ScaleArgs),
    /// Make, show and revoke tokens: to join the cluster, or to use its registry.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show and change the members of the control plane.
    Members(MembersArgs),
    /// Save, check and restore the cluster's state.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Show what the cluster's registry holds, and look after it: collection, scrub, quotas, retention.
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Show and rotate the cluster's certificate authority.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Show the client's and the server's version.
    Version(VersionArgs),
    /// Compile a component to native code (started by the runner for itself).
    #[command(hide = true)]
    CompileChild {
        /// Passed through.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// How client commands find the cluster.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// Kubeconfig file (else $KUBECONFIG, ./.coracle/kubeconfig, or ~/.kube/config if it is a Coracle).
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace.
    #[arg(short, long)]
    pub namespace: Option<String>,
}

/// Output forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// A table with more columns.
    Wide,
    /// `kind/name` lines.
    Name,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

/// Addresses and data of a process; flags win over the file named by --config.
#[derive(Args, Clone, Debug, Default)]
pub struct NodeArgs {
    /// Data directory.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Name of this node (default: the host name and 4 hex digits, kept in the data directory).
    #[arg(long)]
    pub name: Option<String>,
    /// A TOML file that may hold what flags hold: `api-addr = "127.0.0.1:6443"`.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Log filter, e.g. `info` or `coracle_raft=debug` (default: $CORACLE_LOG, then `warn`).
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// Addresses of a control-plane member.
#[derive(Args, Clone, Debug, Default)]
pub struct SchedulerAddrs {
    /// Kubernetes API (TLS) [default: 127.0.0.1:6443].
    #[arg(long, value_name = "HOST:PORT")]
    pub api_addr: Option<String>,
    /// Registry [default: 127.0.0.1:5000].
    ///
    /// On loopback it is open to everybody and speaks HTTP; elsewhere it asks for credentials and speaks TLS.
    #[arg(long, value_name = "HOST:PORT")]
    pub registry_addr: Option<String>,
    /// Whether the registry asks for credentials: tokens of `coracle token create --role pusher|puller`, or a client
    /// certificate [default: off on loopback, on elsewhere].
    #[arg(long, value_name = "on|off")]
    pub registry_auth: Option<Switch>,
    /// Whether the registry speaks TLS, with the cluster's certificate [default: off on loopback, on elsewhere].
    #[arg(
        long,
        value_name = "on|off",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "on"
    )]
    pub registry_tls: Option<Switch>,
    /// Certificate chain (PEM) that the registry shows in place of the cluster's; read again when it changes.
    #[arg(long, value_name = "FILE", requires = "registry_key")]
    pub registry_cert: Option<PathBuf>,
    /// Key (PEM) of --registry-cert.
    #[arg(long, value_name = "FILE", requires = "registry_cert")]
    pub registry_key: Option<PathBuf>,
    /// Allow a registry without authentication or without TLS on an address others can reach; it has neither there unless
    /// asked for.
    #[arg(long)]
    pub insecure_registry: bool,
    /// Registries outside that the registry may pull through and keep, e.g. `ghcr.io,docker.io`; credentials come from
    /// the Secret kube-system/registry-upstream [default: none].
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',')]
    pub registry_upstream: Vec<String>,
    /// Keep the registry's blobs in a bucket, s3://BUCKET/PREFIX, gs:// or az://, the same one on every member;
    /// credentials come from the environment, e.g. AWS_ACCESS_KEY_ID [default: on the members' disks].
    #[arg(long, value_name = "URL")]
    pub registry_storage: Option<String>,
    /// Log of the control plane, for other members (TLS) [default: 127.0.0.1:2380; with `up` a free port].
    #[arg(long, value_name = "HOST:PORT")]
    pub raft_addr: Option<String>,
    /// Host name or IP that others reach this machine at; needed where it listens on 0.0.0.0.
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Time between two backups that this member saves into DATA/backups; 0 saves none [default: 12h].
    #[arg(long, value_name = "DURATION")]
    pub backup_every: Option<String>,
    /// How many of its own backups this member keeps [default: 5].
    #[arg(long, value_name = "N")]
    pub backup_keep: Option<usize>,
    /// How durable a node's heartbeat is when it is answered: `batched` (logged within half a second) or `sync`
    /// [default: batched].
    #[arg(long, value_name = "batched|sync")]
    pub lease_durability: Option<String>,
    /// Life of the certificates that this member issues, such as 90d [default: 365d]; they are renewed at two thirds.
    #[arg(long, value_name = "DURATION", hide = true)]
    pub certificate_life: Option<String>,
    /// Age in milliseconds below which the registry collects nothing [default: 3600000].
    #[arg(long, value_name = "MS", hide = true)]
    pub registry_gc_age_ms: Option<u64>,
    /// Milliseconds between two collections of the registry [default: 600000].
    #[arg(long, value_name = "MS", hide = true)]
    pub registry_gc_every_ms: Option<u64>,
}

/// Addresses of a runner.
#[derive(Args, Clone, Debug, Default)]
pub struct RunnerAddrs {
    /// Ingress (HTTP) [default: 127.0.0.1:8080].
    #[arg(long, value_name = "HOST:PORT")]
    pub ingress_addr: Option<String>,
    /// Logs and node-to-node traffic (TLS) [default: 127.0.0.1:10250].
    #[arg(long, value_name = "HOST:PORT")]
    pub runner_addr: Option<String>,
}

/// `coracle up`.
#[derive(Args, Clone, Debug)]
pub struct UpArgs {
    /// A folder with coracle.toml (such as samples/hello) or a .wasm file.
    pub app: Option<PathBuf>,
    /// Data, name, config.
    #[command(flatten)]
    pub node: NodeArgs,
    /// API and registry.
    #[command(flatten)]
    pub scheduler: SchedulerAddrs,
    /// Ingress and runner.
    #[command(flatten)]
    pub runner: RunnerAddrs,
    /// Also write the cluster into ~/.kube/config as context `coracle`.
    #[arg(long)]
    pub merge_kubeconfig: bool,
}

/// `coracle scheduler`.
#[derive(Args, Clone, Debug)]
pub struct SchedulerArgs {
    /// When a majority of the members is lost for good: make the member in --data-dir the only one, and exit.
    ///
    /// Says first what may be lost, and asks. The other members' data directories must never be started again.
    #[arg(long, conflicts_with_all = ["join", "token"])]
    pub reset_to_single: bool,
    /// Do not ask before --reset-to-single.
    #[arg(long, requires = "reset_to_single")]
    pub yes: bool,
    /// API address of any member of the cluster to join (needed the first time; without it a new cluster begins).
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<String>,
    /// Token made by `coracle token create --role scheduler` (needed the first time).
    #[arg(long)]
    pub token: Option<String>,
    /// Data, name, config.
    #[command(flatten)]
    pub node: NodeArgs,
    /// API and registry.
    #[command(flatten)]
    pub scheduler: SchedulerAddrs,
}

/// `coracle runner`.
#[derive(Args, Clone, Debug)]
pub struct RunnerArgs {
    /// API addresses of the cluster, one or more separated by commas (needed the first time).
    #[arg(long, value_name = "HOST:PORT,..")]
    pub join: Option<String>,
    /// Token made by `coracle token create --role runner` (needed the first time).
    #[arg(long)]
    pub token: Option<String>,
    /// Data, name, config.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Ingress and runner.
    #[command(flatten)]
    pub runner: RunnerAddrs,
}

/// `coracle deploy`.
#[derive(Args, Clone, Debug)]
pub struct DeployArgs {
    /// The component or core module.
    pub file: PathBuf,
    /// Name of the Deployment, Service and Ingress (default: the file's name).
    #[arg(long)]
    pub name: Option<String>,
    /// Replicas.
    #[arg(long, default_value_t = 1)]
    pub replicas: u32,
    /// Host of the Ingress (default: NAME.localhost).
    #[arg(long)]
    pub host: Option<String>,
    /// Port of the Service.
    #[arg(long, default_value_t = 80)]
    pub port: u16,
    /// Environment, may be repeated.
    #[arg(long, value_name = "K=V")]
    pub env: Vec<String>,
    /// Return without waiting for the replicas.
    #[arg(long)]
    pub detach: bool,
    /// Seconds to wait for the replicas.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub timeout: u64,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// A .wasm file or an image.
    pub what: String,
    /// Environment, may be repeated.
    #[arg(long, value_name = "K=V")]
    pub env: Vec<String>,
    /// Seconds to wait for the start.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub timeout: u64,
    /// Arguments of the command.
    #[arg(last = true)]
    pub args: Vec<String>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// How blobs travel.
#[derive(Args, Clone, Copy, Debug)]
pub struct Transfer {
    /// Show no progress, only the result.
    #[arg(short, long)]
    pub quiet: bool,
    /// Layers on their way at once.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub parallel: u8,
}

/// `coracle push`.
#[derive(Args, Clone, Debug)]
pub struct PushArgs {
    /// The component or core module.
    pub file: PathBuf,
    /// NAME[:TAG], or HOST[:PORT]/NAME[:TAG] for another registry, with the login of `docker login`.
    pub image: String,
    /// How it goes.
    #[command(flatten)]
    pub transfer: Transfer,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle pull`.
#[derive(Args, Clone, Debug)]
pub struct PullArgs {
    /// NAME[:TAG], NAME@sha256:…, or with HOST[:PORT]/ in front for another registry.
    pub image: String,
    /// Where to write the file. What came of it before a line broke is beside it, and the next pull goes on with that.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// How it goes.
    #[command(flatten)]
    pub transfer: Transfer,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle apply`.
#[derive(Args, Clone, Debug)]
pub struct ApplyArgs {
    /// File, folder or - for standard input; may be repeated.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub filename: Vec<PathBuf>,
    /// Only check, store nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Take over fields that others manage.
    #[arg(long)]
    pub force_conflicts: bool,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle get`.
#[derive(Args, Clone, Debug)]
pub struct GetArgs {
    /// `pods`, `deploy,svc`, `all`, `pod/NAME`, or a kind followed by names.
    #[arg(required = true)]
    pub what: Vec<String>,
    /// All namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Label selector.
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Field selector.
    #[arg(long)]
    pub field_selector: Option<String>,
    /// Go on showing changes.
    #[arg(short, long)]
    pub watch: bool,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle describe`.
#[derive(Args, Clone, Debug)]
pub struct DescribeArgs {
    /// KIND/NAME, or a kind followed by names.
    #[arg(required = true)]
    pub what: Vec<String>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle logs`.
#[derive(Args, Clone, Debug)]
pub struct LogsArgs {
    /// POD, pod/NAME or deploy/NAME (its first pod).
    pub what: String,
    /// Container (needed if the pod has several).
    #[arg(short, long)]
    pub container: Option<String>,
    /// Go on as lines come.
    #[arg(short, long)]
    pub follow: bool,
    /// The container's previous run.
    #[arg(short, long)]
    pub previous: bool,
    /// Only the last lines.
    #[arg(long)]
    pub tail: Option<u64>,
    /// Only lines of the last seconds.
    #[arg(long, value_name = "SECONDS")]
    pub since: Option<u64>,
    /// Show each line's time.
    #[arg(long)]
    pub timestamps: bool,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle delete`.
#[derive(Args, Clone, Debug)]
pub struct DeleteArgs {
    /// KIND/NAME, or a kind followed by names.
    pub what: Vec<String>,
    /// Objects of a file, folder or - for standard input.
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// No error if there is no such object.
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Return without waiting until the objects are gone.
    #[arg(long)]
    pub no_wait: bool,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle scale`.
#[derive(Args, Clone, Debug)]
pub struct ScaleArgs {
    /// KIND/NAME, or a kind followed by names.
    pub what: Vec<String>,
    /// Objects of a file, folder or - for standard input.
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Replicas.
    #[arg(long)]
    pub replicas: u32,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle token`.
#[derive(Subcommand, Clone, Debug)]
pub enum TokenCommand {
    /// Make a token with which one process may join, or one for the registry.
    ///
    /// A pusher or puller gives it to the registry as the password, with any user name.
    Create(TokenArgs),
    /// Show the tokens that are good, without their secrets.
    List(TokenList),
    /// Revoke tokens.
    Delete(TokenDelete),
}

/// What a token lets its bearer become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// A runner node.
    Runner,
    /// A member of the control plane.
    Scheduler,
    /// Pushes to and pulls from the registry.
    Pusher,
    /// Pulls from the registry.
    Puller,
}

/// `coracle token create`.
#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    /// Role.
    #[arg(long, default_value = "runner")]
    pub role: Role,
    /// Namespace in which a pusher or puller works, may be repeated [default: all].
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Vec<String>,
    /// Life in seconds, or with a unit: 30m, 24h, 7d [default: 24h to join, 30d for the registry].
    #[arg(long)]
    pub ttl: Option<String>,
    /// Kubeconfig file (else $KUBECONFIG, ./.coracle/kubeconfig, or ~/.kube/config if it is a Coracle).
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// `coracle token list`.
#[derive(Args, Clone, Debug)]
pub struct TokenList {
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle token delete`.
#[derive(Args, Clone, Debug)]
pub struct TokenDelete {
    /// Ids, as `coracle token list` shows them.
    #[arg(required = true)]
    pub id: Vec<String>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle members`: without a command, the list.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct MembersArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<MembersCommand>,
    /// Output and cluster of the list.
    #[command(flatten)]
    pub list: MembersList,
}

/// `coracle members list`.
#[derive(Args, Clone, Debug)]
pub struct MembersList {
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// What may be done with members.
#[derive(Subcommand, Clone, Debug)]
pub enum MembersCommand {
    /// Show the members.
    List(MembersList),
    /// Take a member out of the cluster.
    Remove(MemberChange),
    /// Make a learner a voter (it becomes one by itself as soon as the number of voters stays odd).
    Promote(MemberChange),
    /// Hand leadership to another member.
    Transfer(MemberTransfer),
}

/// `coracle members remove` and `promote`.
#[derive(Args, Clone, Debug)]
pub struct MemberChange {
    /// Name or id of the member.
    pub member: String,
    /// Even if an even number of voters is left.
    #[arg(long)]
    pub force: bool,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle members transfer`.
#[derive(Args, Clone, Debug)]
pub struct MemberTransfer {
    /// Name or id of the next leader (default: the voter that is furthest).
    pub member: Option<String>,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle version`.
#[derive(Args, Clone, Debug)]
pub struct VersionArgs {
    /// Only the client.
    #[arg(long)]
    pub client: bool,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}
