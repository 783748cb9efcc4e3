//! What a component may do, in words for people, from its imports.

use std::collections::BTreeSet;

use crate::hosted::split;
use crate::inspect::Inspected;

/// Sentences on what the component can ask for, each once, in a fixed order. What it gets is what the pod grants.
pub fn capabilities(inspected: &Inspected) -> Vec<String> {
    let mut interfaces: BTreeSet<&str> = BTreeSet::new();
    let mut others = BTreeSet::new();
    for import in &inspected.imports {
        let name = split(&import.name).interface;
        match import.name.strip_prefix("wasi_snapshot_preview1::") {
            Some(function) => interfaces.extend(preview_1(function)),
            None if import.hosted => {
                interfaces.insert(name);
            }
            None => {
                others.insert(import.name.as_str());
            }
        }
    }
    let has = |prefix: &str| {
        interfaces
            .iter()
            .any(|interface| interface.starts_with(prefix))
    };
    let mut words: Vec<String> = Vec::new();
    let mut say = |condition: bool, what: &str| {
        if condition {
            words.push(what.to_string());
        }
    };
    say(inspected.kind.is_service(), "answers HTTP requests");
    say(inspected.kind.is_command(), "runs as a command and exits");
    say(has("wasi:http/outgoing-handler"), "sends HTTP requests");
    say(
        has("wasi:sockets/tcp") || has("wasi:sockets/udp"),
        "opens TCP and UDP sockets",
    );
    say(has("wasi:sockets/ip-name-lookup"), "resolves host names");
    say(
        has("wasi:filesystem/"),
        "reads and writes files in mounted volumes",
    );
    say(
        has("wasi:cli/environment"),
        "reads its arguments and environment",
    );
    say(has("wasi:cli/stdin"), "reads standard input");
    say(
        has("wasi:cli/stdout") || has("wasi:cli/stderr"),
        "writes to its log",
    );
    say(has("wasi:clocks/"), "reads the clock");
    say(has("wasi:random/"), "uses random numbers");
    words.extend(
        others
            .iter()
            .map(|name| format!("calls a sibling container through {name}")),
    );
    words
}

/// The interfaces behind a function of WASI preview 1.
fn preview_1(function: &str) -> &'static [&'static str] {
    match function {
        "fd_write" | "fd_pwrite" => &["wasi:cli/stdout"],
        "fd_read" | "fd_pread" => &["wasi:cli/stdin"],
        f if f.starts_with("path_") || f == "fd_readdir" || f.starts_with("fd_prestat") => {
            &["wasi:filesystem/types"]
        }
        f if f.starts_with("args_") || f.starts_with("environ_") => &["wasi:cli/environment"],
        f if f.starts_with("clock_") => &["wasi:clocks/wall-clock"],
        "random_get" => &["wasi:random/random"],
        f if f.starts_with("sock_") => &["wasi:sockets/tcp"],
        _ => &[],
    }
}
