//! The engine: one for a process, shared by every replica.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;
use wasmtime::component::Linker;

use crate::artifact::Artifacts;
use crate::cache::Cache;
use crate::compile_child::compatibility;
use crate::config::{EngineConfig, PoolShape, serving_config};
use crate::memory::Budget;
use crate::problem::EngineError;
use crate::reuse::WarmList;
use crate::state::GuestState;
use crate::{host, ticker};

/// With fewer memories than this a node serves nothing sensible.
const MIN_MEMORIES: u32 = 16;
/// One in this many slots is kept for calls from service to service: their callers hold a slot while they wait, so
/// without a reserve a full node would never get emptier.
const RESERVE_PART: u32 = 8;

/// Compiles, links and runs components. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<EngineInner>,
}

pub(crate) struct EngineInner {
    pub wasmtime: wasmtime::Engine,
    pub linker: Linker<GuestState>,
    pub config: EngineConfig,
    pub compatibility: String,
    pub cache: Cache,
    pub artifacts: Artifacts,
    pub compilers: Semaphore,
    pub node_memory: Budget,
    /// Calls and runs in progress on the node.
    pub live: AtomicU32,
    pub memories: u32,
    pub warm: Mutex<Vec<Weak<WarmList>>>,
}

/// What the node can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Linear memories that can live at once; less than configured if the address space is short.
    pub memories: u32,
    /// Calls and runs in progress now.
    pub in_flight: u32,
    /// Guest memory and tables all replicas may hold, in bytes.
    pub memory_limit_bytes: u64,
    /// Guest memory and tables they hold now, in bytes.
    pub memory_bytes: u64,
}

impl Engine {
    /// Starts an engine: reserves address space, opens the cache, starts the epoch thread.
    ///
    /// # Errors
    /// `E_ENGINE_CACHE` if the cache directory cannot be used, `E_ENGINE_START` if not even a small pool fits.
    pub fn new(config: EngineConfig) -> Result<Engine, EngineError> {
        let cache = Cache::open(&config.cache_dir, config.cache_max_bytes).map_err(|error| {
            EngineError::new(
                "E_ENGINE_CACHE",
                format!(
                    "the compile cache {} cannot be used: {error}",
                    config.cache_dir.display()
                ),
                "Give a directory that belongs to this user and has space",
            )
        })?;
        let (wasmtime, memories) = largest_pool(&config)?;
        let linker = host::linker(&wasmtime).map_err(|e| start(&e))?;
        let inner = Arc::new(EngineInner {
            compatibility: compatibility(&wasmtime),
            linker,
            cache,
            artifacts: Artifacts::default(),
            compilers: Semaphore::new(config.compile_parallelism.max(1)),
            node_memory: Budget::new(config.node_memory_bytes),
            live: AtomicU32::new(0),
            memories,
            warm: Mutex::new(Vec::new()),
            config,
            wasmtime,
        });
        ticker::start(Arc::downgrade(&inner), inner.wasmtime.weak()).map_err(|error| {
            EngineError::new(
                "E_ENGINE_START",
                format!("the epoch thread could not be started: {error}"),
                "Raise the limit on threads",
            )
        })?;
        Ok(Engine { inner })
    }

    /// What the node can hold and holds.
    pub fn capacity(&self) -> Capacity {
        Capacity {
            memories: self.inner.memories,
            in_flight: self.inner.live.load(Relaxed),
            memory_limit_bytes: self.inner.node_memory.limit(),
            memory_bytes: self.inner.node_memory.used(),
        }
    }
}

/// Builds the largest pool up to the configured one that the address space holds.
fn largest_pool(config: &EngineConfig) -> Result<(wasmtime::Engine, u32), EngineError> {
    let mut memories = config.max_memories.max(1);
    loop {
        let shape = PoolShape {
            memories,
            max_memory_bytes: config.max_memory_bytes,
            keep_resident_bytes: config.memory_keep_resident_bytes,
            warm_slots: config.max_unused_warm_slots.min(memories),
        };
        match wasmtime::Engine::new(&serving_config(shape)) {
            Ok(engine) => {
                if memories < config.max_memories {
                    tracing::warn!(
                        wanted = config.max_memories,
                        memories,
                        "the address space holds a smaller pool"
                    );
                }
                return Ok((engine, memories));
            }
            Err(error) if memories <= MIN_MEMORIES => return Err(start(&error)),
            Err(_) => memories = (memories / 2).max(MIN_MEMORIES),
        }
    }
}

fn start(error: &wasmtime::Error) -> EngineError {
    EngineError::new(
        "E_ENGINE_START",
        format!("the Wasm engine could not start: {error:#}"),
        "Raise the limit on address space (`ulimit -v`) or on memory overcommit",
    )
}

impl EngineInner {
    /// Calls from outside may use this many slots, calls between services all of them.
    pub(crate) fn slots(&self, depth: u32) -> u32 {
        if depth == 0 {
            self.memories - self.memories / RESERVE_PART
        } else {
            self.memories
        }
    }

    /// Drops instances that waited too long for another request. Runs on the epoch thread.
    pub(crate) fn sweep(&self) {
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        warm.retain(|list| match list.upgrade() {
            Some(list) => {
                list.sweep();
                true
            }
            None => false,
        });
    }
}
