//! Core modules become components, so that there is one execution path.
//!
//! The preview 1 adapter matches the engine's WASI exactly (same version pin). A module that carries its WIT world in a
//! `component-type` section keeps it; any other becomes a `wasi:cli/command` if it has `_start`.

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use crate::exit_code::carry_exit_code;
use crate::problem::BadWasm;

/// Changes when the same module would become a different component; part of the cache key.
pub(crate) const ADAPTER_VERSION: &str = "preview1-48.0.8-exit";

/// Turns a core module into a component; a component is returned as it is.
///
/// # Errors
/// `E_COMPONENTIZE` if the module does not fit the canonical ABI or its own WIT.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, BadWasm> {
    if Parser::is_component(module) {
        return Ok(module.to_vec());
    }
    let adapter = if has_start(module)? {
        WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER
    } else {
        WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER
    };
    let renamed = carry_exit_code(module);
    let module = renamed.as_deref().unwrap_or(module);
    // Validated afterwards with our own feature set, so not here.
    ComponentEncoder::default()
        .validate(false)
        .module(module)
        .and_then(|encoder| encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter))
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| failed(format!("{error:#}")))
}

fn failed(why: String) -> BadWasm {
    BadWasm::new(
        "E_COMPONENTIZE",
        format!("the core module could not be turned into a component: {why}"),
        "Build a component (target wasm32-wasip2), or a plain wasm32-wasip1 command",
    )
}

fn has_start(module: &[u8]) -> Result<bool, BadWasm> {
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ExportSection(section) = payload.map_err(|e| failed(e.to_string()))? {
            for export in section {
                if export.map_err(|e| failed(e.to_string()))?.name == "_start" {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}
