//! What cannot run, named: each refusal says what the image is and what to do.

use super::PLATFORM_OS;
use crate::manifest::{Descriptor, Platform};

/// What was pulled is not something Coracle runs. Both parts read on after the image's name: "`nginx:latest` is a Linux
/// container image (linux/amd64); build a WebAssembly component …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {fix}")]
pub struct Unsupported {
    /// What it is, beginning with a verb.
    pub what: String,
    /// What to do instead, beginning with a verb.
    pub fix: String,
}

/// The way out of most refusals.
const PUSH: &str = "build a WebAssembly component and push the .wasm file with `coracle push`";
/// The way out where the Wasm exists already.
pub(super) const PUSH_ALONE: &str = "push the .wasm file itself with `coracle push`";

pub(super) fn unsupported(what: impl Into<String>, fix: impl Into<String>) -> Unsupported {
    Unsupported {
        what: what.into(),
        fix: fix.into(),
    }
}

/// The image was stored wrongly; whoever made it has to do it again.
pub(super) fn broken(what: impl Into<String>) -> Unsupported {
    unsupported(what, "push the image again")
}

/// Runs on another kind of machine.
pub(super) fn container(platforms: &[Platform]) -> Unsupported {
    /// Platforms named; a well-kept Linux image has ten.
    const NAMED_MAX: usize = 6;
    let linux = platforms.iter().any(|p| p.os == "linux");
    let what = if linux {
        "a Linux container image"
    } else {
        "a container image"
    };
    let named: Vec<String> = platforms.iter().take(NAMED_MAX).map(shown).collect();
    unsupported(format!("is {what} ({})", named.join(", ")), PUSH)
}

fn shown(platform: &Platform) -> String {
    let or = |text: &str| match text {
        "" => "unknown".to_owned(),
        text => short(text),
    };
    format!("{}/{}", or(&platform.os), or(&platform.architecture))
}

/// A Spin application.
pub(super) fn spin() -> Unsupported {
    unsupported(
        "is a Spin application, which needs Spin's own host",
        "push its components one by one with `coracle push`",
    )
}

/// Machine code that somebody else compiled. It is never run: only what this cluster compiled itself is.
pub(super) fn machine_code() -> Unsupported {
    unsupported(
        "holds machine code compiled ahead of time (.cwasm), which is never taken from a registry",
        "push the .wasm file it was compiled from with `coracle push`",
    )
}

/// Refuses bytes that are machine code, whatever the manifest called them.
///
/// # Errors
/// [`Unsupported`] if they begin as an ELF file does, which is what wasmtime's precompiled components are.
pub fn precompiled(bytes: &[u8]) -> Result<(), Unsupported> {
    if bytes.starts_with(b"\x7fELF") {
        return Err(machine_code());
    }
    Ok(())
}

/// More than one Wasm layer.
pub(super) fn several(layers: usize) -> Unsupported {
    unsupported(
        format!("has {layers} Wasm layers where exactly one is expected"),
        "push each component under its own name",
    )
}

/// Nothing in it is Wasm, and nothing says what it is.
pub(super) fn nothing(layers: &[Descriptor]) -> Unsupported {
    /// Layer types named.
    const NAMED_MAX: usize = 3;
    if layers.is_empty() {
        return unsupported("is an artifact without layers", PUSH);
    }
    let kinds: Vec<String> = layers
        .iter()
        .take(NAMED_MAX)
        .map(|layer| match layer.media_type.as_str() {
            "" => "of no stated type".to_owned(),
            kind => short(kind),
        })
        .collect();
    let which = if layers.len() == 1 {
        "its layer is"
    } else {
        "its layers are"
    };
    unsupported(format!("holds no Wasm: {which} {}", kinds.join(", ")), PUSH)
}

/// Text from a manifest, cut to a length that is fit for a message.
pub(super) fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// Whether an operating system or an architecture means Wasm.
pub(super) fn is_wasm(os: &str, architecture: &str) -> bool {
    PLATFORM_OS.contains(&os) || super::PLATFORM_ARCHITECTURE.contains(&architecture)
}
