//! How a call or a run can fail, and the translation from wasmtime's errors.

use std::fmt;

use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

/// Why a guest was stopped from outside; raised in the epoch callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Killed,
    Deadline,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stop::Killed => "killed",
            Stop::Deadline => "out of time",
        })
    }
}

impl std::error::Error for Stop {}

/// Why a call got no response, or a run no exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// The guest trapped.
    Trap {
        /// What happened, for example `wasm trap: integer divide by zero`.
        message: String,
        /// Frames of the guest, innermost first; empty if unknown.
        backtrace: String,
    },
    /// The guest took longer than it may.
    DeadlineExceeded {
        /// Milliseconds it had.
        timeout_ms: u64,
    },
    /// The guest wanted more memory than it may have and gave up.
    MemoryLimit {
        /// Bytes the replica may have.
        limit_bytes: u64,
    },
    /// The handler returned without a response.
    NoResponse,
    /// The handler answered with an error code instead of a response.
    Handler {
        /// The wasi:http error code.
        message: String,
    },
    /// Too many calls at once, here or on the node; nothing ran, another replica may take the request.
    Busy {
        /// Which bound was reached.
        reason: String,
    },
    /// The replica is leaving and takes no more calls; nothing ran, another replica may take the request.
    Draining,
    /// The replica was killed.
    Killed,
    /// The component does not answer HTTP requests.
    NotAService,
    /// The component is not a command.
    NotACommand,
    /// The request cannot be given to a component.
    BadRequest {
        /// What is wrong with it.
        message: String,
    },
    /// Services call each other in a loop.
    TooDeep,
    /// The host failed.
    Host {
        /// What failed.
        message: String,
    },
}

impl CallError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            CallError::Trap { .. } => "E_TRAP",
            CallError::DeadlineExceeded { .. } => "E_DEADLINE",
            CallError::MemoryLimit { .. } => "E_MEMORY_LIMIT",
            CallError::NoResponse => "E_NO_RESPONSE",
            CallError::Handler { .. } => "E_HANDLER",
            CallError::Busy { .. } => "E_BUSY",
            CallError::Draining => "E_DRAINING",
            CallError::Killed => "E_KILLED",
            CallError::NotAService => "E_NOT_A_SERVICE",
            CallError::NotACommand => "E_NOT_A_COMMAND",
            CallError::BadRequest { .. } => "E_BAD_REQUEST",
            CallError::TooDeep => "E_CALL_LOOP",
            CallError::Host { .. } => "E_HOST",
        }
    }

    /// What to do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            CallError::Trap { .. } => "Look at the component's log and the frames of the trap",
            CallError::DeadlineExceeded { .. } => {
                "Make the handler faster or raise the request timeout"
            }
            CallError::MemoryLimit { .. } => "Raise resources.limits.memory or find the leak",
            CallError::NoResponse => "Make the handler set the response on every path",
            CallError::Handler { .. } => "Look at the component's log",
            CallError::Busy { .. } => "Add replicas or retry later",
            CallError::Draining | CallError::Killed => "Retry on another replica",
            CallError::NotAService => "Export wasi:http/incoming-handler@0.2 from the component",
            CallError::NotACommand => "Export wasi:cli/run@0.2 from the component",
            CallError::BadRequest { .. } => "Send a valid request with a Host header",
            CallError::TooDeep => "Break the circle of calls between the services",
            CallError::Host { .. } => "Look at the node's log",
        }
    }

    /// Whether no guest code ran, so that another replica may take the same request.
    pub fn is_retriable(&self) -> bool {
        matches!(self, CallError::Busy { .. } | CallError::Draining)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Trap { message, .. } => write!(f, "the component trapped: {message}"),
            CallError::DeadlineExceeded { timeout_ms } => {
                write!(f, "the component did not answer in {timeout_ms} ms")
            }
            CallError::MemoryLimit { limit_bytes } => {
                write!(
                    f,
                    "the component wanted more than its {limit_bytes} bytes of memory"
                )
            }
            CallError::NoResponse => f.write_str("the component returned without a response"),
            CallError::Handler { message } => {
                write!(f, "the component answered with an error: {message}")
            }
            CallError::Busy { reason } => write!(f, "the replica is busy: {reason}"),
            CallError::Draining => f.write_str("the replica is leaving"),
            CallError::Killed => f.write_str("the replica was killed"),
            CallError::NotAService => f.write_str("the component does not answer HTTP requests"),
            CallError::NotACommand => f.write_str("the component is not a command"),
            CallError::BadRequest { message } => {
                write!(f, "the request cannot be given to a component: {message}")
            }
            CallError::TooDeep => f.write_str("services call each other in a loop"),
            CallError::Host { message } => write!(f, "the host failed: {message}"),
        }
    }
}

impl std::error::Error for CallError {}

/// What the translation of a guest's end needs to know about its store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub timeout_ms: u64,
    pub memory_bytes: u64,
    /// Whether a growth was refused: then the trap that follows is the guest giving up.
    pub memory_refused: bool,
}

/// Translates how a guest ended. `I32Exit` is not an error for commands and is handled before.
pub(crate) fn translate(error: &wasmtime::Error, limits: Limits) -> CallError {
    match error.downcast_ref::<Stop>() {
        Some(Stop::Killed) => return CallError::Killed,
        Some(Stop::Deadline) => {
            return CallError::DeadlineExceeded {
                timeout_ms: limits.timeout_ms,
            };
        }
        None => {}
    }
    if let Some(full) = error.downcast_ref::<PoolConcurrencyLimitError>() {
        return CallError::Busy {
            reason: full.to_string(),
        };
    }
    if limits.memory_refused {
        return CallError::MemoryLimit {
            limit_bytes: limits.memory_bytes,
        };
    }
    let message = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    let backtrace = error
        .downcast_ref::<WasmBacktrace>()
        .map(ToString::to_string)
        .unwrap_or_default();
    CallError::Trap { message, backtrace }
}
