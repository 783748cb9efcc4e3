//! The engine as its users see it: real components, compiled in a real child process, called on a current-thread
//! runtime. Handlers are WAT, made into components here, so no guest toolchain is needed.

/// The WIT of the worlds that guests are made for.
pub const WIT_DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");

mod cache;
mod calls;
mod commands;
mod compile_child;
mod compose;
mod guests;
mod inspection;
mod limits;
mod outbound;
mod setup;
