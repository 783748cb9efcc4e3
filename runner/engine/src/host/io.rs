//! `wasi:io`: streams and pollables, which every other capability hands out.

use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::p2::bindings::io::{error, poll, streams};

use crate::state::GuestState;

struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

pub(super) fn add(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    error::add_to_linker::<_, Table>(linker, |state| &mut state.table)?;
    poll::add_to_linker::<_, Table>(linker, |state| &mut state.table)?;
    streams::add_to_linker::<_, Table>(linker, |state| &mut state.table)
}
