//! The threads that elect and sync come before those that parse JSON: a heartbeat that waits for a processor costs an
//! election, and a group of writes waits for one sync.

/// What `nice` would say: enough to come first, short of starving anybody.
const NICE: i32 = -10;

/// Raises the calling thread where that is permitted (root, or `CAP_SYS_NICE`); elsewhere it stays as it is.
pub fn raise() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICE) {
        tracing::debug!(%error, "the thread keeps its usual priority");
    }
}
