//! Settings of an agent and the bounds it works within.

/// Port a service container serves on when the pod names none, as a browser would assume.
pub(crate) const DEFAULT_PORT: u16 = 80;
/// Longest message in a status or Event, in bytes: the API's own bound for Events is 1,024.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1_000;
/// How long a failed pull is shown as the error itself before it is shown as a back-off.
pub(crate) const SETTLE_MS: u64 = 1_000;
/// An unanswered or failed status write or final delete is tried again after this long.
pub(crate) const WRITE_RETRY_MS: u64 = 5_000;
/// At most one Event about traps per container in this time; the ones between are counted.
pub(crate) const TRAP_EVENT_MS: u64 = 10_000;
/// Longest resolved environment of a container, in bytes, names and values together: what Linux gives a process.
pub(crate) const ENV_BYTES_MAX: usize = 2 << 20;
/// Gone pods remembered, so that a late event about one does not start it again: ten minutes of heavy churn.
pub(crate) const BURIED_MAX: usize = 10_000;
/// Grace of a pod that names none, as in Kubernetes.
pub(crate) const DEFAULT_GRACE_MS: u64 = 30_000;

/// Everything an [`crate::Agent`] needs to know beside its inputs.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Name of this node; pods of other nodes are ignored.
    pub node: String,
    /// Address shown as `hostIP`.
    pub host_ip: String,
    /// First back-off between restarts and pulls, in milliseconds; it doubles from there.
    pub backoff_base_ms: u64,
    /// Longest back-off, in milliseconds.
    pub backoff_max_ms: u64,
    /// A container that ran this long starts its back-off anew, in milliseconds.
    pub backoff_reset_ms: u64,
}

impl AgentConfig {
    /// Kubernetes' own numbers: 10 s to 5 min, forgotten after 10 min of running.
    pub fn new(node: impl Into<String>, host_ip: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            host_ip: host_ip.into(),
            backoff_base_ms: 10_000,
            backoff_max_ms: 300_000,
            backoff_reset_ms: 600_000,
        }
    }
}
