//! Wasm in a registry: the artifact layout we write, and the many we can read.
//!
//! Written is one layout, that of the CNCF: a manifest with a Wasm configuration and the component as its only layer, no
//! tar. Read is whatever the tools of the last years pushed; what cannot run gets a sentence that says what it is.

mod pull;
mod push;

pub use pull::{LayerRef, Unsupported, is_index, select_layer, select_manifest};
pub use push::{Artifact, Kind, WasmComponent, WasmConfig, artifact, artifact_with};

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
/// The configuration of a Spin application.
pub const SPIN_CONFIG: &str = "application/vnd.fermyon.spin.application.v1+config";
/// The configuration of an OCI image.
pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The configuration of a Docker image.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Annotation: the file name `oras pull` writes a layer to.
pub const TITLE: &str = "org.opencontainers.image.title";
/// Annotation: when the artifact was made.
pub const CREATED: &str = "org.opencontainers.image.created";
/// Operating systems an index uses for Wasm, best first.
pub const PLATFORM_OS: [&str; 4] = ["wasip2", "wasip3", "wasip1", "wasi"];
/// Architectures an index uses for Wasm.
pub const PLATFORM_ARCHITECTURE: [&str; 2] = ["wasm", "wasm32"];
