//! `wasi:cli/std*`: stdin from the caller, stdout and stderr to the log sink, never a terminal.
//!
//! Printing neither waits nor fails: the sink takes the bytes or drops them, so a guest that prints without end slows
//! only itself, by the time slices it uses.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::cli::{
    stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr, terminal_stdin,
    terminal_stdout,
};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};

use super::WholeState;
use crate::grants::{LogSink, Stream};
use crate::state::GuestState;

/// Bytes one write may carry.
const WRITE_BYTES: usize = 64 << 10;

pub(super) fn add(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    stdin::add_to_linker::<_, WholeState>(linker, |state| state)?;
    stdout::add_to_linker::<_, WholeState>(linker, |state| state)?;
    stderr::add_to_linker::<_, WholeState>(linker, |state| state)?;
    terminal_input::add_to_linker::<_, WholeState>(linker, |state| state)?;
    terminal_output::add_to_linker::<_, WholeState>(linker, |state| state)?;
    terminal_stdin::add_to_linker::<_, WholeState>(linker, |state| state)?;
    terminal_stdout::add_to_linker::<_, WholeState>(linker, |state| state)?;
    terminal_stderr::add_to_linker::<_, WholeState>(linker, |state| state)
}

impl GuestState {
    fn log_stream(&mut self, stream: Stream) -> wasmtime::Result<Resource<DynOutputStream>> {
        let sink = self.log.as_ref().unwrap_or(&self.hooks.shared.log).clone();
        Ok(self
            .table
            .push(Box::new(LogStream { sink, stream }) as DynOutputStream)?)
    }
}

impl stdin::Host for GuestState {
    fn get_stdin(&mut self) -> wasmtime::Result<Resource<DynInputStream>> {
        Ok(self
            .table
            .push(Box::new(self.stdin.clone()) as DynInputStream)?)
    }
}

impl stdout::Host for GuestState {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.log_stream(Stream::Stdout)
    }
}

impl stderr::Host for GuestState {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.log_stream(Stream::Stderr)
    }
}

struct LogStream {
    sink: Arc<dyn LogSink>,
    stream: Stream,
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.sink.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

#[async_trait::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

/// Stdin of a guest. The guest may open it several times; all of them read from the same place.
#[derive(Clone)]
pub(crate) struct SharedStdin(Option<Arc<Mutex<Input>>>);

struct Input {
    here: Bytes,
    coming: Option<mpsc::Receiver<Bytes>>,
}

impl SharedStdin {
    /// Nothing to read.
    pub(crate) fn closed() -> Self {
        SharedStdin(None)
    }

    /// `here` first, then what arrives until the sender is gone.
    pub(crate) fn new(here: Bytes, coming: Option<mpsc::Receiver<Bytes>>) -> Self {
        SharedStdin(Some(Arc::new(Mutex::new(Input { here, coming }))))
    }
}

impl InputStream for SharedStdin {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let Some(input) = &self.0 else {
            return Err(StreamError::Closed);
        };
        let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
        if input.here.is_empty() {
            match input.coming.as_mut().map(mpsc::Receiver::try_recv) {
                None | Some(Err(mpsc::error::TryRecvError::Disconnected)) => {
                    return Err(StreamError::Closed);
                }
                Some(Err(mpsc::error::TryRecvError::Empty)) => return Ok(Bytes::new()),
                Some(Ok(bytes)) => input.here = bytes,
            }
        }
        let size = size.min(input.here.len());
        Ok(input.here.split_to(size))
    }
}

#[async_trait::async_trait]
impl Pollable for SharedStdin {
    async fn ready(&mut self) {
        let Some(input) = &self.0 else { return };
        std::future::poll_fn(|cx| {
            let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
            if !input.here.is_empty() {
                return std::task::Poll::Ready(());
            }
            let Some(coming) = input.coming.as_mut() else {
                return std::task::Poll::Ready(());
            };
            coming.poll_recv(cx).map(|bytes| match bytes {
                Some(bytes) => input.here = bytes,
                None => input.coming = None,
            })
        })
        .await;
    }
}

impl terminal_input::Host for GuestState {}
impl terminal_input::HostTerminalInput for GuestState {
    fn drop(&mut self, handle: Resource<terminal_input::TerminalInput>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}

impl terminal_output::Host for GuestState {}
impl terminal_output::HostTerminalOutput for GuestState {
    fn drop(&mut self, handle: Resource<terminal_output::TerminalOutput>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}

impl terminal_stdin::Host for GuestState {
    fn get_terminal_stdin(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<terminal_input::TerminalInput>>> {
        Ok(None)
    }
}

impl terminal_stdout::Host for GuestState {
    fn get_terminal_stdout(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl terminal_stderr::Host for GuestState {
    fn get_terminal_stderr(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}
