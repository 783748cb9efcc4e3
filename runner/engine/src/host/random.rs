//! `wasi:random`: generators seeded from the operating system, one set for each instance.

use wasmtime::component::Linker;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::random::{WasiRandom, WasiRandomCtx};

use crate::state::GuestState;

/// Most bytes of one call: the host allocates them before the guest sees them.
const MAX_BYTES: u64 = 1 << 20;

pub(super) fn add(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    random::add_to_linker::<_, WasiRandom>(linker, generators)?;
    insecure::add_to_linker::<_, WasiRandom>(linker, generators)?;
    insecure_seed::add_to_linker::<_, WasiRandom>(linker, generators)
}

fn generators(state: &mut GuestState) -> &mut WasiRandomCtx {
    state.random.get_or_insert_with(|| {
        let mut wasi = WasiCtxBuilder::new().max_random_size(MAX_BYTES).build();
        std::mem::take(wasi.random())
    })
}
