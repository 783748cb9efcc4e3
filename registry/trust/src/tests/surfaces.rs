//! Imports read from files, and what they mean.

use crate::capability::{Capability, capability, interface};
use crate::diff::diff;
use crate::referrer::describe;
use crate::{bundle, dsse, read_imports};

const OLD: &str = r#"(component
    (import "wasi:cli/stdout@0.2.0" (instance))
    (import "wasi:clocks/wall-clock@0.2.0" (instance))
    (core module (import "inner" "hidden" (func)))
    (component (import "also:hidden/x" (instance)))
    (instance $e)
    (export "wasi:http/incoming-handler@0.2.0" (instance $e)))"#;
const NEW: &str = r#"(component
    (import "wasi:cli/stdout@0.2.3" (instance))
    (import "wasi:sockets/tcp@0.2.0" (instance))
    (import "acme:store/kv" (instance))
    (import "f" (func)))"#;

#[test]
fn the_surface_of_a_component_is_its_own() {
    let old = read_imports(&wat::parse_str(OLD).unwrap()).unwrap();
    assert!(!old.core);
    assert_eq!(
        Vec::from_iter(&old.imports),
        ["wasi:cli/stdout@0.2.0", "wasi:clocks/wall-clock@0.2.0"]
    );
    assert_eq!(
        Vec::from_iter(&old.exports),
        ["wasi:http/incoming-handler@0.2.0"]
    );
}

#[test]
fn the_surface_of_a_core_module_is_its_functions() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "sock_send" (func (param i32 i32 i32 i32 i32) (result i32)))
        (func (export "_start")))"#;
    let found = read_imports(&wat::parse_str(text).unwrap()).unwrap();
    assert!(found.core);
    assert_eq!(
        Vec::from_iter(&found.imports),
        ["wasi_snapshot_preview1::sock_send"]
    );
    assert_eq!(Vec::from_iter(&found.exports), ["_start"]);
}

#[test]
fn what_is_no_wasm_has_no_surface() {
    assert!(
        read_imports(b"\x7fELF")
            .unwrap_err()
            .contains("not a WebAssembly")
    );
    assert!(read_imports(b"").is_err());
    assert!(
        read_imports(b"\0asm\x0d\0\x01\0\x0a\xff")
            .unwrap_err()
            .contains("not valid")
    );
    // Cut at every byte: an error or a smaller surface, never a panic.
    let whole = wat::parse_str(OLD).unwrap();
    for end in 0..whole.len() {
        drop(read_imports(&whole[..end]));
    }
}

#[test]
fn gains_are_said_in_words_and_versions_are_none() {
    let old = read_imports(&wat::parse_str(OLD).unwrap()).unwrap();
    let new = read_imports(&wat::parse_str(NEW).unwrap()).unwrap();
    let found = diff(&old, &new);
    let words: Vec<&str> = found.gained.iter().map(Capability::word).collect();
    assert_eq!(words, ["network", "acme:store/kv", "f"]);
    assert_eq!(Vec::from_iter(found.lost), [Capability::Clocks]);
    assert_eq!(found.imports_added.len(), 4);
    assert_eq!(found.imports_removed.len(), 2);
    assert_eq!(found.exports_removed.len(), 1);
    assert!(diff(&old, &old).is_empty());
}

#[test]
fn interfaces_behind_names() {
    for (import, want) in [
        ("wasi:cli/exit@0.2.0", "wasi:cli/exit"),
        ("wasi:cli/exit@0.2.0::exit", "wasi:cli/exit"),
        ("wasi_snapshot_preview1::path_open", "wasi:filesystem/types"),
        ("wasi_snapshot_preview1::new", "wasi_snapshot_preview1::new"),
        ("env::f", "env::f"),
        ("f", "f"),
    ] {
        assert_eq!(interface(import), want);
    }
    assert_eq!(capability("wasi:io/poll@0.2.0"), None);
    assert_eq!(capability("wasi:http/types@0.2.0"), None);
    assert_eq!(
        capability("wasi:http/outgoing-handler@0.2.0"),
        Some(Capability::HttpClient)
    );
    assert_eq!(
        capability("wasi:sockets/ip-name-lookup@0.2.0"),
        Some(Capability::NameLookup)
    );
    assert_eq!(
        capability("wasi:sockets/network@0.2.0"),
        Some(Capability::Network)
    );
    assert_eq!(
        capability("wasi:keyvalue/store"),
        Some(Capability::Other("wasi:keyvalue/store".into()))
    );
}

#[test]
fn referrers_have_names_for_people() {
    assert_eq!(
        describe(bundle::MEDIA_TYPE, Some(dsse::SIGNED)),
        "signature"
    );
    assert_eq!(
        describe(bundle::MEDIA_TYPE, Some("https://slsa.dev/provenance/v1")),
        "provenance (signed)"
    );
    assert_eq!(describe("application/spdx+json", None), "SBOM, SPDX");
    assert_eq!(describe("text/plain", None), "attachment");
}
