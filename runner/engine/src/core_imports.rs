//! What core modules import: the functions of WASI preview 1, and what other imports say about where a module is from.

use crate::inspect::listed;
use crate::problem::BadWasm;

/// Names the imports of a core module nobody provides, and the toolchain they betray.
pub(crate) fn unknown_core_imports(first_module: &str, missing: &[(&str, &str)]) -> BadWasm {
    let mut names: Vec<String> = missing
        .iter()
        .map(|(module, name)| format!("{module}::{name}"))
        .collect();
    names.dedup();
    let (origin, fix) = match first_module {
        "wasi_unstable" => (
            "it was built for a WASI older than preview 1",
            "Build it with a current toolchain",
        ),
        "env" | "a" => (
            "it looks built for Emscripten or with undefined symbols",
            "Build it for wasm32-wasip2 or wasm32-wasip1 and define or remove those symbols",
        ),
        "wbg" | "__wbindgen_placeholder__" => (
            "it was built with wasm-bindgen for a browser",
            "Build it for wasm32-wasip2 without wasm-bindgen",
        ),
        "gojs" | "go" => (
            "it was built by Go for a browser",
            "Build it with GOOS=wasip1 GOARCH=wasm",
        ),
        m if m.starts_with("wasix") => (
            "it was built for WASIX",
            "Build it for wasm32-wasip2 or wasm32-wasip1",
        ),
        _ => (
            "nobody provides them",
            "Build it for wasm32-wasip2 or wasm32-wasip1",
        ),
    };
    BadWasm::new(
        "E_UNKNOWN_IMPORT",
        format!("the module imports {}; {origin}", listed(&names)),
        fix,
    )
}

/// Whether the adapter implements this function of `wasi_snapshot_preview1`.
pub(crate) fn is_preview_1(function: &str) -> bool {
    PREVIEW_1.binary_search(&function).is_ok()
}

/// Every function of WASI preview 1, which the adapter implements.
const PREVIEW_1: &[&str] = &[
    "adapter_close_badfd",
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "reset_adapter_state",
    "sched_yield",
    "set_allocation_state",
    "set_state_ptr",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_searched() {
        assert!(PREVIEW_1.is_sorted());
        assert!(is_preview_1("fd_write") && !is_preview_1("fd_wriet"));
    }
}
