//! `wasi:filesystem`: the mounted directories and nothing else.
//!
//! Directories are opened once, when the replica is linked; each instance that looks gets handles to the same open
//! descriptors.

use wasmtime::component::Linker;
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemCtx, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::{preopens, types};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::grants::Mount;
use crate::problem::LinkError;
use crate::state::GuestState;

pub(super) fn add(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    preopens::add_to_linker::<_, WasiFilesystem>(linker, filesystem)?;
    types::add_to_linker::<_, WasiFilesystem>(linker, filesystem)
}

fn filesystem(state: &mut GuestState) -> WasiFilesystemCtxView<'_> {
    let template = &state.hooks.shared.filesystem;
    WasiFilesystemCtxView {
        ctx: state.filesystem.get_or_insert_with(|| template.clone()),
        table: &mut state.table,
    }
}

/// Opens the mounts.
pub(crate) fn open(mounts: &[Mount]) -> Result<WasiFilesystemCtx, LinkError> {
    let mut wasi = WasiCtxBuilder::new();
    for mount in mounts {
        let perms = if mount.read_only {
            FsPerms::ReadOnly
        } else {
            FsPerms::ReadWrite
        };
        wasi.preopened_dir(&mount.host_path, &mount.guest_path, perms)
            .map_err(|error| {
                LinkError::new(
                    "E_MOUNT",
                    format!(
                        "the directory for {} could not be opened: {error:#}",
                        mount.guest_path
                    ),
                    "Check that the volume exists and is a directory",
                )
            })?;
    }
    Ok(std::mem::take(wasi.build().filesystem()))
}
