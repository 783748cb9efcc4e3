//! `wasi:cli/environment` and `wasi:cli/exit`: arguments and variables as granted, nothing of the node's own.

use wasmtime::component::Linker;
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::cli::{environment, exit};

use super::WholeState;
use crate::state::GuestState;

pub(super) fn add(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    environment::add_to_linker::<_, WholeState>(linker, |state| state)?;
    exit::add_to_linker::<_, WholeState>(linker, |state| state)
}

impl environment::Host for GuestState {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.hooks.shared.env.clone())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self
            .args
            .as_ref()
            .unwrap_or(&self.hooks.shared.args)
            .clone())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

impl exit::Host for GuestState {
    fn exit(&mut self, status: Result<(), ()>) -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(I32Exit(i32::from(status.is_err()))))
    }

    fn exit_with_code(&mut self, status_code: u8) -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(I32Exit(status_code.into())))
    }
}
