//! One run of a command component.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use wasmtime_wasi::I32Exit;

use crate::artifact::ArtifactInner;
use crate::cpu::Timed;
use crate::error::{CallError, translate};
use crate::grants::{CallContext, LogSink};
use crate::host::stdio::SharedStdin;
use crate::metrics::bump;
use crate::replica::{Replica, Shared};
use crate::state::{GuestState, TimeLimit};

/// How a command ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// Its exit code. A WASI 0.2 command that only says "failed" has 1; preview 1 commands carry their own.
    pub code: i32,
}

/// What a command reads.
#[derive(Debug, Default)]
pub enum Stdin {
    /// Nothing.
    #[default]
    Closed,
    /// These bytes.
    Bytes(Bytes),
    /// What arrives, until the sender is dropped.
    Stream(mpsc::Receiver<Bytes>),
}

/// How one run differs from what the replica is granted.
#[derive(Default)]
pub struct RunOptions {
    /// What it reads.
    pub stdin: Stdin,
    /// Arguments instead of the granted ones, program name first.
    pub args: Option<Vec<String>>,
    /// Where its output goes instead of the replica's log.
    pub log: Option<Arc<dyn LogSink>>,
}

impl Replica {
    /// Runs the command to its end. `ctx.deadline` bounds it if given; otherwise only [`Replica::kill`] does. Dropping
    /// the future ends the guest.
    ///
    /// # Errors
    /// A [`CallError`] if it did not end by itself: it trapped, ran out of memory or time, or was killed.
    pub fn run(
        &self,
        ctx: CallContext,
        options: RunOptions,
    ) -> impl Future<Output = Result<ExitStatus, CallError>> + Send + use<> {
        run(self.clone(), ctx, options)
    }
}

async fn run(
    replica: Replica,
    ctx: CallContext,
    options: RunOptions,
) -> Result<ExitStatus, CallError> {
    Replica::command(&replica.artifact)?;
    let admitted = replica.shared.admit(ctx.depth)?;
    let shared = admitted.shared().clone();
    let deadline = ctx.deadline;
    let now = Instant::now();
    let timeout_ms = deadline.map_or(0, |at| {
        u64::try_from(at.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX)
    });
    let guest = Box::pin(guest(
        shared.clone(),
        replica.artifact,
        ctx,
        options,
        timeout_ms,
    ));
    let mut guest = Timed { guest, admitted };
    let late = async {
        match deadline {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        biased;
        result = &mut guest => result,
        () = shared.killed() => Err(CallError::Killed),
        () = late => Err(CallError::DeadlineExceeded { timeout_ms }),
    };
    if let Err(error) = &result
        && !error.is_retriable()
    {
        shared.count(error);
    }
    result
}

async fn guest(
    shared: Arc<Shared>,
    artifact: Arc<ArtifactInner>,
    ctx: CallContext,
    options: RunOptions,
    timeout_ms: u64,
) -> Result<ExitStatus, CallError> {
    shared.wait_for_cpu().await;
    let time = ctx.deadline.map_or(TimeLimit::None, TimeLimit::At);
    let command = Replica::command(&artifact)?;
    bump(&shared.metrics.instances);
    let mut state = GuestState::new(shared, ctx, time);
    state.args = options.args;
    state.log = options.log;
    state.stdin = match options.stdin {
        Stdin::Closed => SharedStdin::closed(),
        Stdin::Bytes(bytes) => SharedStdin::new(bytes, None),
        Stdin::Stream(stream) => SharedStdin::new(Bytes::new(), Some(stream)),
    };
    let mut store = state.into_store(command.engine());
    let ended = match command.instantiate_async(&mut store).await {
        Ok(command) => command.wasi_cli_run().call_run(&mut store).await,
        Err(error) => Err(error),
    };
    match ended {
        Ok(status) => Ok(ExitStatus {
            code: i32::from(status.is_err()),
        }),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => Ok(ExitStatus { code: exit.0 }),
            None => Err(translate(&error, store.data().limits(timeout_ms))),
        },
    }
}
