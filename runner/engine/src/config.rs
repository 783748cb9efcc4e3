//! Engine settings as values, and the one place where they become a `wasmtime::Config`.
//!
//! The serving engine and the compile child must agree on every tunable and feature, or the child's output is refused
//! when it is mapped. Both therefore build their `Config` here and differ only in the allocator.
//!
//! `concurrency_support(false)`: this engine runs WASI 0.2 only, and without the component-model-async machinery each
//! request is measurably cheaper (20–22 thousand against 18.5 thousand requests a second on the reference machine).
//! Code compiled for one setting does not load in the other, and one process must hold one engine, so serving WASI 0.3
//! means a second worker process whose config flips the constant [`CONCURRENCY`]; until that exists a 0.3 component is
//! refused with `E_NEEDS_WASI_03`.

use std::ffi::OsString;
use std::path::PathBuf;

use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    RegallocAlgorithm, Strategy,
};

/// Whether the component-model-async machinery is compiled in; see the module text.
pub(crate) const CONCURRENCY: bool = false;

/// Longest guest backtrace kept in a trap message; deeper ones say nothing new and cost log space.
const BACKTRACE_FRAMES: usize = 20;

/// How to start the compiler: a program and its leading arguments. Never `current_exe()`, which under a test is the test.
#[derive(Clone, Debug)]
pub struct CompilerCommand {
    /// The program; a path, or a name looked up in `PATH`.
    pub program: PathBuf,
    /// Arguments that select the compile mode, for example `compile-child`.
    pub args: Vec<OsString>,
}

/// Everything an [`Engine`](crate::Engine) needs to know; [`EngineConfig::new`] fills in defaults.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Program that runs [`compile_child_main`](crate::compile_child_main).
    pub compiler: CompilerCommand,
    /// Directory for compiled code and the node key; made 0700, written by this process only.
    pub cache_dir: PathBuf,
    /// Compiled code kept on disk, in bytes; beyond it the longest unused files go first.
    pub cache_max_bytes: u64,
    /// Linear memories that may live at once; a smaller number is used if the address space does not hold it.
    pub max_memories: u32,
    /// Largest single linear memory in bytes, at most 4 GiB.
    pub max_memory_bytes: u64,
    /// Guest memory and tables of all replicas together, in bytes.
    pub node_memory_bytes: u64,
    /// Bytes of a memory slot kept resident between instances instead of being given back to the kernel.
    pub memory_keep_resident_bytes: usize,
    /// Free slots that stay bound to a component's image.
    pub max_unused_warm_slots: u32,
    /// Compilations that may run at once.
    pub compile_parallelism: usize,
    /// Threads one compilation may use.
    pub compile_threads: usize,
    /// Wall-clock milliseconds after which a compilation is killed.
    pub compile_timeout_ms: u64,
    /// Address space of a compilation in bytes.
    pub compile_memory_bytes: u64,
}

impl EngineConfig {
    /// Defaults for a node with one engine: 1,000 memories of up to 2 GiB, 4 GiB of compiled code on disk, and
    /// compilations of 60 s and 4 GiB using a quarter of the cores.
    pub fn new(compiler: CompilerCommand, cache_dir: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        EngineConfig {
            compiler,
            cache_dir: cache_dir.into(),
            cache_max_bytes: 4 << 30,
            max_memories: 1_000,
            max_memory_bytes: 2 << 30,
            node_memory_bytes: 8 << 30,
            memory_keep_resident_bytes: 512 << 10,
            max_unused_warm_slots: 500,
            compile_parallelism: (cores / 4).max(1),
            compile_threads: (cores / 4).max(1),
            compile_timeout_ms: 60_000,
            compile_memory_bytes: 4 << 30,
        }
    }
}

/// Fibers need room for host functions above what the guest may use; too little aborts the process.
const ASYNC_STACK_BYTES: usize = 2 << 20;
const WASM_STACK_BYTES: usize = 512 << 10;

/// Features guests may use: WebAssembly 3.0 without garbage collection, exceptions, threads and 64-bit memories (less
/// attack surface, and no toolchain of today needs them for a component), plus components.
pub(crate) fn wasm_features() -> wasmparser::WasmFeatures {
    use wasmparser::WasmFeatures as F;
    F::WASM3
        .difference(disabled_features())
        .union(F::COMPONENT_MODEL)
}

fn disabled_features() -> wasmparser::WasmFeatures {
    use wasmparser::WasmFeatures as F;
    F::GC
        .union(F::GC_TYPES)
        .union(F::EXCEPTIONS)
        .union(F::FUNCTION_REFERENCES)
        .union(F::THREADS)
        .union(F::MEMORY64)
}

/// The settings shared by compiling and serving.
pub(crate) fn base_config() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking)
        .epoch_interruption(true)
        .concurrency_support(CONCURRENCY)
        .memory_init_cow(true)
        .async_stack_size(ASYNC_STACK_BYTES)
        .max_wasm_stack(WASM_STACK_BYTES)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES))
        .wasm_component_model(true);
    // Bounds are checked in the code instead of by guard pages. With guard pages a fresh instance whose guest grows its
    // memory (every Rust guest does, twice) costs three `mprotect`, which flush the other core's TLB and take the
    // process-wide memory lock: 15 k requests/s instead of 27 k on two cores. The price is slower memory access in
    // guests that compute; a worker process per kind of guest may choose differently, one engine cannot have both.
    config.signals_based_traps(false).memory_guard_size(0);
    for (_, flag) in disabled_features().iter_names() {
        config.wasm_features(flag, false);
    }
    config
}

/// Sizes of the instance pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolShape {
    pub memories: u32,
    pub max_memory_bytes: u64,
    pub keep_resident_bytes: usize,
    pub warm_slots: u32,
}

/// Core instances in a componentised module are main, adapter, shim and fixup; composed pods have several of each.
const CORE_INSTANCES_PER_MEMORY: u32 = 4;
const TABLES_PER_MEMORY: u32 = 4;
/// Languages that bring an interpreter have tables of tens of thousands of functions.
const TABLE_ELEMENTS: usize = 100_000;
const INSTANCE_BYTES: usize = 10 << 20;
const TABLE_KEEP_RESIDENT_BYTES: usize = 64 << 10;
const STACK_KEEP_RESIDENT_BYTES: usize = 64 << 10;

/// The serving configuration: the base plus the pooling allocator. Keeping pages resident together with `PAGEMAP_SCAN`
/// replaces three `madvise` calls per request by one ioctl, which is worth a factor of two.
pub(crate) fn serving_config(shape: PoolShape) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_memories(shape.memories)
        .total_component_instances(shape.memories)
        .total_core_instances(shape.memories.saturating_mul(CORE_INSTANCES_PER_MEMORY))
        .total_tables(shape.memories.saturating_mul(TABLES_PER_MEMORY))
        .total_stacks(shape.memories.saturating_mul(2))
        .max_memory_size(usize::try_from(shape.max_memory_bytes.min(4 << 30)).unwrap_or(usize::MAX))
        .table_elements(TABLE_ELEMENTS)
        .max_core_instance_size(INSTANCE_BYTES)
        .max_component_instance_size(INSTANCE_BYTES)
        .max_memories_per_component(32)
        .max_tables_per_component(64)
        .max_core_instances_per_component(200)
        .linear_memory_keep_resident(shape.keep_resident_bytes)
        .table_keep_resident(TABLE_KEEP_RESIDENT_BYTES)
        .async_stack_keep_resident(STACK_KEEP_RESIDENT_BYTES)
        .max_unused_warm_slots(shape.warm_slots)
        .pagemap_scan(Enabled::Auto);
    let mut config = base_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// The compiling configuration: the base with on-demand allocation, so that a compile child reserves no address space.
pub(crate) fn compiling_config() -> Config {
    let mut config = base_config();
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    config
}
