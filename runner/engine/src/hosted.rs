//! The interfaces this host provides, and when one version of an interface serves another.
//!
//! The list is what the linker defines (a test holds the two together); it exists so that a component can be judged
//! from its bytes, before anything is compiled.

/// Interfaces of WASI 0.2 provided to guests, without versions.
const WASI_02: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// The interfaces this host provides, as `package/interface`, all of them in every 0.2 version.
pub fn hosted_interfaces() -> &'static [&'static str] {
    WASI_02
}

/// A split interface name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name<'a> {
    /// `wasi:cli/exit`.
    pub interface: &'a str,
    /// `0.2.3`.
    pub version: Option<&'a str>,
}

pub(crate) fn split(name: &str) -> Name<'_> {
    match name.split_once('@') {
        Some((interface, version)) => Name {
            interface,
            version: Some(version),
        },
        None => Name {
            interface: name,
            version: None,
        },
    }
}

/// The part of a version within which interfaces stay compatible: `1` of 1.4.2, `0.2` of 0.2.3, all of 0.0.7 and of
/// any pre-release.
pub(crate) fn track(version: &str) -> &str {
    if version.contains('-') {
        return version;
    }
    let version = version.split('+').next().unwrap_or(version);
    let mut dots = version.match_indices('.').map(|(at, _)| at);
    match (version.split('.').next(), dots.next(), dots.next()) {
        (Some("0"), Some(first), Some(second)) if &version[first + 1..second] == "0" => version,
        (Some("0"), _, Some(second)) => &version[..second],
        (Some("0"), _, None) => version,
        (Some(major), _, _) => major,
        (None, _, _) => version,
    }
}

/// Whether an export called `export` can satisfy an import called `import`.
pub(crate) fn satisfies(export: &str, import: &str) -> bool {
    let (export, import) = (split(export), split(import));
    export.interface == import.interface && export.version.map(track) == import.version.map(track)
}

/// Whether the host itself provides an import.
pub(crate) fn is_hosted(import: &str) -> bool {
    let name = split(import);
    name.version.map(track) == Some("0.2") && WASI_02.binary_search(&name.interface).is_ok()
}

/// Whether a name belongs to WASI 0.3.
pub(crate) fn is_wasi_03(name: &str) -> bool {
    let name = split(name);
    name.interface.starts_with("wasi:")
        && name
            .version
            .is_some_and(|v| v == "0.3" || v.starts_with("0.3."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_track_serve_each_other() {
        assert!(is_hosted("wasi:cli/exit@0.2.0") && is_hosted("wasi:cli/exit@0.2.12"));
        assert!(
            !is_hosted("wasi:cli/exit@0.2.0-rc-2023-11-10") && !is_hosted("wasi:cli/exit@0.3.0")
        );
        assert!(!is_hosted("wasi:cli/exit") && !is_hosted("wasi:keyvalue/store@0.2.0"));
        assert!(
            satisfies("a:b/c@1.4.0", "a:b/c@1.0.0") && !satisfies("a:b/c@2.0.0", "a:b/c@1.0.0")
        );
        assert!(satisfies("a:b/c", "a:b/c") && !satisfies("a:b/c@1.0.0", "a:b/c"));
        assert_eq!(track("0.0.7"), "0.0.7");
        assert_eq!(track("0.2.3"), "0.2");
        assert!(is_wasi_03("wasi:http/handler@0.3.0") && !is_wasi_03("wasi:http/types@0.2.3"));
        assert!(WASI_02.is_sorted());
    }
}
