//! The host side of WASI, one file for each capability. Each file adds its interfaces to the linker and decides from
//! the replica's grants what the guest finds behind them.

mod clocks;
mod env;
pub(crate) mod filesystem;
pub(crate) mod http;
mod io;
mod random;
pub(crate) mod sockets;
pub(crate) mod stdio;

use wasmtime::component::{HasData, Linker};

use crate::state::GuestState;

/// The whole state, for capabilities implemented here.
struct WholeState;

impl HasData for WholeState {
    type Data<'a> = &'a mut GuestState;
}

/// The linker of an engine: all hosted interfaces. Grants act behind them, so one linker serves every replica.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    io::add(&mut linker)?;
    clocks::add(&mut linker)?;
    random::add(&mut linker)?;
    env::add(&mut linker)?;
    stdio::add(&mut linker)?;
    filesystem::add(&mut linker)?;
    sockets::add(&mut linker)?;
    http::add(&mut linker)?;
    Ok(linker)
}
