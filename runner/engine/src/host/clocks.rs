//! `wasi:clocks`: the node's wall clock, and a monotonic clock that starts at first use.

use wasmtime::component::Linker;
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksCtxView};
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};

use crate::state::GuestState;

pub(super) fn add(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    wall_clock::add_to_linker::<_, WasiClocks>(linker, clocks)?;
    monotonic_clock::add_to_linker::<_, WasiClocks>(linker, clocks)
}

fn clocks(state: &mut GuestState) -> WasiClocksCtxView<'_> {
    WasiClocksCtxView {
        ctx: state.clocks.get_or_insert_default(),
        table: &mut state.table,
    }
}
