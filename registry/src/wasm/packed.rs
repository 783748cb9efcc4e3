//! Wasm inside a container image: `FROM scratch`, `COPY x.wasm /`, `ENTRYPOINT ["/x.wasm"]`.
//!
//! The image's configuration says which file it is. It is looked for from the last layer down, as a container sees it.

use serde_json::Value;

use super::choose::{Choice, Target, target};
use super::refuse::{broken, container, is_wasm, machine_code, nothing, short, unsupported};
use super::{COMPAT_FILE, TAR_LAYERS_MAX, Unsupported, VARIANT};
use crate::manifest::{Descriptor, Platform, View, bare_type};

/// A Wasm file in tar layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The layers to look into, topmost first: the first that has the file is right, one that removes it ends the search.
    pub layers: Vec<Target>,
    /// The file, without a leading slash.
    pub path: String,
}

/// Whether the manifest says that its Wasm is packed for runtimes that know only tar layers.
pub(super) fn is_compat(view: &View) -> bool {
    view.annotations
        .as_ref()
        .and_then(|all| all.get(VARIANT))
        .is_some_and(|variant| variant.starts_with("compat"))
}

pub(super) fn choose(
    view: &View,
    layers: &[Descriptor],
    config: &[u8],
) -> Result<Choice, Unsupported> {
    // A configuration that cannot be read says nothing; the annotation may suffice.
    let config: Value = serde_json::from_slice(config).unwrap_or_default();
    let platform = Platform {
        os: text(&config["os"]),
        architecture: text(&config["architecture"]),
    };
    let run = &config["config"];
    let mut argv = list(&run["Entrypoint"]);
    argv.extend(list(&run["Cmd"]));
    let path = match named(&argv) {
        // Nothing but a Wasm runtime could start it, whatever platform the builder wrote down.
        Some((0, path)) => path,
        Some((_, path)) if is_wasm(&platform.os, &platform.architecture) || is_compat(view) => path,
        _ if argv.iter().any(|arg| arg.ends_with(".cwasm")) => return Err(machine_code()),
        _ if is_compat(view) => COMPAT_FILE,
        _ if is_wasm(&platform.os, &platform.architecture) => {
            return Err(unsupported(
                "is a Wasm container image whose Entrypoint names no .wasm file",
                "set ENTRYPOINT to the file, e.g. [\"/app.wasm\"], or push the .wasm file itself with `coracle push`",
            ));
        }
        _ if layers.iter().any(is_tar) => return Err(container(&[platform])),
        _ => return Err(nothing(layers)),
    };
    if layers.len() > TAR_LAYERS_MAX {
        return Err(unsupported(
            format!(
                "has {} layers where {TAR_LAYERS_MAX} are the limit",
                layers.len()
            ),
            super::refuse::PUSH_ALONE,
        ));
    }
    if let Some(odd) = layers.iter().find(|layer| !is_tar(layer)) {
        return Err(unsupported(
            format!(
                "packs its Wasm into a layer of type {}, which is not unpacked",
                short(&odd.media_type)
            ),
            super::refuse::PUSH_ALONE,
        ));
    }
    let path = within(&text(&run["WorkingDir"]), path);
    if path.is_empty() {
        return Err(broken("has an Entrypoint that is no file"));
    }
    let layers: Result<Vec<Target>, Unsupported> = layers.iter().rev().map(target).collect();
    Ok(Choice::Packed(Packed {
        layers: layers?,
        path,
    }))
}

/// The first argument that names a Wasm file, and where it stands. `path.wasm#function` names the function to start, too.
fn named(argv: &[String]) -> Option<(usize, &str)> {
    argv.iter().enumerate().find_map(|(at, arg)| {
        let path = arg.split_once('#').map_or(arg.as_str(), |(path, _)| path);
        path.ends_with(".wasm").then_some((at, path))
    })
}

/// A layer whose type says tar, compressed or not; an encrypted one says more.
fn is_tar(layer: &Descriptor) -> bool {
    let kind = bare_type(&layer.media_type);
    [".tar", ".tar+gzip", ".tar+zstd", ".tar.gzip", ".tar.zstd"]
        .iter()
        .any(|end| kind.ends_with(end))
}

/// A path from the root of the image, for a path that may begin in `dir`. Never leads out of the image.
fn within(dir: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let begin = if path.starts_with('/') { "" } else { dir };
    for part in begin.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn list(value: &Value) -> Vec<String> {
    let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().map(text).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
