//! Wasm in a registry: the artifact layout we write, and the many we can read.
//!
//! Written is one layout, that of the CNCF: a manifest with a Wasm configuration and the component as its only layer, no
//! tar. Read is whatever the tools of the last years pushed: [`choose`] says what a manifest leads to, for the command
//! line and for runners alike; [`unpack`] takes a file out of a tar layer. What cannot run gets a sentence that says what
//! it is and what to do instead.

mod choose;
mod index;
mod packed;
mod push;
mod refuse;
mod unpack;

#[cfg(test)]
mod choose_tests;
#[cfg(test)]
mod unpack_tests;

pub use choose::{Choice, LayerRef, Target, choose};
pub use packed::Packed;
pub use push::{Artifact, Kind, WasmComponent, WasmConfig, artifact, artifact_with};
pub use refuse::{Unsupported, precompiled};
pub use unpack::{Bounds, Found, UnpackError, unpack};

/// Largest manifest or index a client reads, in bytes: the specification asks registries for 4 MiB at least.
pub const MANIFEST_BYTES_MAX: usize = 8 << 20;
/// Largest configuration a client reads, in bytes. Real ones have some kilobytes.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;
/// Indexes inside indexes that are followed. Real ones have one inside another at most.
pub const INDEX_DEPTH_MAX: usize = 3;
/// Tar layers of one image that are looked into. Docker's own bound is 127.
pub const TAR_LAYERS_MAX: usize = 128;

/// The configuration of the canonical artifact.
pub const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// The layer of the canonical artifact: a component or a core module as it is.
pub const LAYER: &str = "application/wasm";
/// The layer type of early tools and of Spin's components.
pub const LAYER_CONTENT: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// The layer type of early wasmCloud and wasm-to-oci.
pub const LAYER_MODULE_CONTENT: &str = "application/vnd.module.wasm.content.layer.v1+wasm";
/// The layer type of runwasi's image builder.
pub const LAYER_BYTECODE_ALLIANCE: &str =
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";
/// Layer types that hold Wasm as it is.
pub const LAYERS: [&str; 4] = [
    LAYER,
    LAYER_CONTENT,
    LAYER_MODULE_CONTENT,
    LAYER_BYTECODE_ALLIANCE,
];
/// The beginning of a Spin application's configuration type, whatever its version.
pub const SPIN_CONFIG: &str = "application/vnd.fermyon.spin.application";
/// The configuration of an OCI image.
pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The configuration of a Docker image.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Annotation: the file name `oras pull` writes a layer to.
pub const TITLE: &str = "org.opencontainers.image.title";
/// Annotation: when the artifact was made.
pub const CREATED: &str = "org.opencontainers.image.created";
/// Annotation of images that pack their Wasm into a tar layer for runtimes that know only those; `compat` there.
pub const VARIANT: &str = "module.wasm.image/variant";
/// The file such an image holds if it names none.
pub const COMPAT_FILE: &str = "plugin.wasm";
/// Operating systems an index uses for Wasm, best first.
pub const PLATFORM_OS: [&str; 4] = ["wasip2", "wasip3", "wasip1", "wasi"];
/// Architectures an index uses for Wasm.
pub const PLATFORM_ARCHITECTURE: [&str; 2] = ["wasm", "wasm32"];
