//! The end of the process when going on would break a promise: one line, then abort, so that a supervisor restarts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What to do when consensus or its storage is beyond repair in this process. Called at most once per replica.
#[derive(Clone)]
pub struct Fatal {
    hook: Arc<dyn Fn(&str) + Send + Sync>,
    fired: Arc<AtomicBool>,
}

impl Fatal {
    /// A hook of one's own (the binary prints the line; tests record it). If it returns, the replica stays stopped.
    pub fn new(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            hook: Arc::new(hook),
            fired: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Logs the line and aborts.
    pub fn abort() -> Self {
        Self::new(|line| {
            tracing::error!("{line}");
            std::process::abort()
        })
    }

    /// Fires the hook, the first time only: what fails next is a consequence.
    pub fn fire(&self, line: &str) {
        if !self.fired.swap(true, Ordering::SeqCst) {
            (self.hook)(line);
        }
    }
}

impl std::fmt::Debug for Fatal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fatal")
    }
}
