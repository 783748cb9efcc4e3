//! The data of a store: what one instance holds of the host.
//!
//! Making one is on the path of every request, so a capability costs nothing until the guest touches it: random
//! generators, clocks, preopened directories and the socket policy are built at first use.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::clocks::WasiClocksCtx;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::random::WasiRandomCtx;
use wasmtime_wasi::sockets::WasiSocketsCtx;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView};

use crate::call::CallCell;
use crate::error::{Limits, Stop};
use crate::grants::{CallContext, LogSink};
use crate::host::http::Hooks;
use crate::host::stdio::SharedStdin;
use crate::replica::Shared;

/// Handles a guest may hold in the host at once; enough for thousands of open files or requests.
const MAX_HANDLES: usize = 100_000;
/// Bytes the host may copy out of a guest for one host call.
const HOSTCALL_FUEL: usize = 16 << 20;
/// A table element is a pointer.
const TABLE_ELEMENT_BYTES: u64 = size_of::<usize>() as u64;

/// Store data of every guest.
pub(crate) struct GuestState {
    pub table: ResourceTable,
    pub http: WasiHttpCtx,
    pub hooks: Hooks,
    pub clocks: Option<WasiClocksCtx>,
    pub random: Option<WasiRandomCtx>,
    pub filesystem: Option<WasiFilesystemCtx>,
    pub sockets: Option<WasiSocketsCtx>,
    /// Arguments other than the granted ones (a command run by `exec`).
    pub args: Option<Vec<String>>,
    /// Another sink than the granted one (a command run by `exec`).
    pub log: Option<Arc<dyn LogSink>>,
    pub stdin: SharedStdin,
    pub time: TimeLimit,
    charged_bytes: u64,
    memory_refused: bool,
}

/// When a guest has to be done.
pub(crate) enum TimeLimit {
    /// Never; it ends by itself or is killed.
    None,
    /// At this moment.
    At(Instant),
    /// As a request: at its deadline until the response head is there, afterwards while the body moves.
    Call(Arc<CallCell>),
}

impl GuestState {
    pub(crate) fn new(shared: Arc<Shared>, ctx: CallContext, time: TimeLimit) -> Self {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(crate::host::http::FIELDS_BYTES);
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        GuestState {
            hooks: Hooks { shared, ctx },
            table,
            http,
            clocks: None,
            random: None,
            filesystem: None,
            sockets: None,
            args: None,
            log: None,
            stdin: SharedStdin::closed(),
            time,
            charged_bytes: 0,
            memory_refused: false,
        }
    }

    /// Makes the store of one instance: limits on, timer armed.
    pub(crate) fn into_store(self, engine: &wasmtime::Engine) -> Store<GuestState> {
        let mut store = Store::new(engine, self);
        store.limiter(|state| state);
        store.set_hostcall_fuel(HOSTCALL_FUEL);
        store.set_max_component_handles(MAX_HANDLES);
        store.epoch_deadline_callback(|mut cx| cx.data_mut().on_tick());
        store.set_epoch_deadline(1);
        store
    }

    /// Prepares the state of a reused instance for the next request.
    pub(crate) fn begin(&mut self, ctx: CallContext, time: TimeLimit) {
        self.hooks.ctx = ctx;
        self.time = time;
        self.memory_refused = false;
    }

    pub(crate) fn wasi_http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }

    pub(crate) fn limits(&self, timeout_ms: u64) -> Limits {
        Limits {
            timeout_ms,
            memory_bytes: self.hooks.shared.memory.limit(),
            memory_refused: self.memory_refused,
        }
    }

    /// Runs at each epoch tick while the guest computes: stop it, throttle it, or let others have a turn.
    fn on_tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        if self.hooks.shared.killed.load(Relaxed) {
            return Err(wasmtime::Error::new(Stop::Killed));
        }
        let now = Instant::now();
        let over = match &self.time {
            TimeLimit::None => false,
            TimeLimit::At(deadline) => now >= *deadline,
            TimeLimit::Call(cell) => cell.expired(now),
        };
        if over {
            return Err(wasmtime::Error::new(Stop::Deadline));
        }
        self.hooks.shared.charge_slice(now);
        let throttle = self
            .hooks
            .shared
            .cpu
            .as_ref()
            .and_then(|bucket| bucket.wait(now));
        // `Yield` would wake the task into tokio's LIFO slot, where it may run again at once; `yield_now` goes to the
        // end of the queue.
        Ok(match throttle {
            None => UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())),
            Some(wait) => UpdateDeadline::YieldCustom(1, Box::pin(tokio::time::sleep(wait))),
        })
    }

    fn grow(&mut self, bytes: u64) -> bool {
        let node = &self.hooks.shared.engine.node_memory;
        let granted = node.charge(bytes)
            && (self.hooks.shared.memory.charge(bytes) || {
                node.release(bytes);
                false
            });
        if granted {
            self.charged_bytes += bytes;
        } else {
            self.memory_refused = true;
        }
        granted
    }
}

impl ResourceLimiter for GuestState {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        // Beyond the slot of the pool: as much a memory limit as the granted one.
        self.memory_refused = true;
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow((desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT_BYTES)))
    }
}

impl Drop for GuestState {
    fn drop(&mut self) {
        self.hooks.shared.memory.release(self.charged_bytes);
        self.hooks
            .shared
            .engine
            .node_memory
            .release(self.charged_bytes);
    }
}
