//! What an import lets a component do, in words.

use std::collections::BTreeSet;
use std::fmt;

/// Something a component can do to the world around it, or learn from it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// Opens TCP and UDP sockets.
    Network,
    /// Resolves host names.
    NameLookup,
    /// Sends HTTP requests.
    HttpClient,
    /// Reads and writes files in mounted volumes.
    Filesystem,
    /// Reads its arguments and environment, which may hold secrets.
    Environment,
    /// Reads standard input.
    Stdin,
    /// Writes to its log.
    Output,
    /// Reads the clock.
    Clocks,
    /// Uses random numbers.
    Random,
    /// Calls somebody else through an interface that is not WASI's.
    Other(String),
}

impl Capability {
    /// One word, for machines.
    pub fn word(&self) -> &str {
        match self {
            Self::Network => "network",
            Self::NameLookup => "name-lookup",
            Self::HttpClient => "http-client",
            Self::Filesystem => "filesystem",
            Self::Environment => "environment",
            Self::Stdin => "stdin",
            Self::Output => "output",
            Self::Clocks => "clocks",
            Self::Random => "random",
            Self::Other(name) => name,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "network (opens TCP and UDP sockets)",
            Self::NameLookup => "name lookup (resolves host names)",
            Self::HttpClient => "HTTP client (sends requests)",
            Self::Filesystem => "filesystem (reads and writes files in mounted volumes)",
            Self::Environment => "environment (reads its arguments and variables)",
            Self::Stdin => "standard input",
            Self::Output => "log (writes standard output and error)",
            Self::Clocks => "clocks",
            Self::Random => "random numbers",
            Self::Other(name) => return write!(f, "{name} (calls whoever provides it)"),
        })
    }
}

/// The interface an import asks for, without its version. A function of WASI preview 1 stands for the interface that the
/// adapter puts behind it; one that is not known stands for itself, so that no policy allows it by accident.
pub fn interface(import: &str) -> &str {
    if let Some(function) = import.strip_prefix("wasi_snapshot_preview1::") {
        return preview_1(function).unwrap_or(import);
    }
    // A core module built for a component: `wasi:cli/exit@0.2.0::exit`.
    let import = match import.split_once("::") {
        Some((module, _)) if module.contains(':') => module,
        _ => import,
    };
    import.split_once('@').map_or(import, |(name, _)| name)
}

/// What an import lets its component do; `None` for what touches nothing outside (polling, exiting, errors).
pub fn capability(import: &str) -> Option<Capability> {
    let interface = interface(import);
    let is = |prefix: &str| interface.starts_with(prefix);
    Some(match interface {
        "wasi:sockets/ip-name-lookup" => Capability::NameLookup,
        "wasi:http/outgoing-handler" | "wasi:http/client" | "wasi:http/handler" => {
            Capability::HttpClient
        }
        "wasi:cli/environment" => Capability::Environment,
        "wasi:cli/stdin" | "wasi:cli/terminal-stdin" => Capability::Stdin,
        "wasi:cli/stdout"
        | "wasi:cli/stderr"
        | "wasi:cli/terminal-stdout"
        | "wasi:cli/terminal-stderr" => Capability::Output,
        // The types of requests; a service needs them to answer.
        "wasi:http/types"
        | "wasi:cli/exit"
        | "wasi:cli/terminal-input"
        | "wasi:cli/terminal-output" => return None,
        _ if is("wasi:io/") => return None,
        _ if is("wasi:sockets/") => Capability::Network,
        _ if is("wasi:filesystem/") => Capability::Filesystem,
        _ if is("wasi:clocks/") => Capability::Clocks,
        _ if is("wasi:random/") => Capability::Random,
        other => Capability::Other(other.to_string()),
    })
}

/// Everything a set of imports allows.
pub fn capabilities<'a>(imports: impl IntoIterator<Item = &'a String>) -> BTreeSet<Capability> {
    imports
        .into_iter()
        .filter_map(|import| capability(import))
        .collect()
}

/// The interface behind a function of WASI preview 1.
fn preview_1(function: &str) -> Option<&'static str> {
    Some(match function {
        "fd_write" | "fd_pwrite" => "wasi:cli/stdout",
        "fd_read" | "fd_pread" => "wasi:cli/stdin",
        "fd_readdir" => "wasi:filesystem/types",
        "random_get" => "wasi:random/random",
        "proc_exit" | "proc_raise" => "wasi:cli/exit",
        "poll_oneoff" | "sched_yield" => "wasi:io/poll",
        f if f.starts_with("path_") || f.starts_with("fd_prestat") => "wasi:filesystem/types",
        f if f.starts_with("args_") || f.starts_with("environ_") => "wasi:cli/environment",
        f if f.starts_with("clock_") => "wasi:clocks/wall-clock",
        f if f.starts_with("sock_") => "wasi:sockets/tcp",
        // They work on descriptors that another function had to give.
        f if f.starts_with("fd_") => "wasi:io/streams",
        _ => return None,
    })
}
