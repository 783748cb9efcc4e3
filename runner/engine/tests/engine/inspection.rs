//! What is refused before anything is compiled, and what is said about the rest.

use std::collections::BTreeSet;

use coracle_engine::{Kind, WasiVersion, capabilities, hosted_interfaces, inspect};

use crate::guests;
use crate::setup::*;

fn refused(bytes: &[u8]) -> (&'static str, String) {
    let bad = inspect(bytes, &BTreeSet::new()).unwrap_err();
    assert!(!bad.fix().is_empty());
    (bad.code(), bad.message().to_string())
}

#[test]
fn bytes_that_are_not_wasm_are_recognised() {
    let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    for (bytes, noun) in [
        (&b""[..], "empty"),
        (&elf[..4096], "ELF"),
        (b"\x1f\x8b\x08\0\0", "gzip"),
        (b"PK\x03\x04rest", "zip"),
        (b"(module (func))", "WAT"),
        (b"#!/bin/sh\n", "script"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"{\"schemaVersion\": 2}", "JSON"),
        (b"apiVersion: v1\n", "YAML"),
        (b"hello", "text"),
        (b"\xff\xfe\x00\x01", "unknown"),
        (b"MZ\x90", "Windows"),
    ] {
        let (code, message) = refused(bytes);
        assert_eq!(code, "E_NOT_WASM");
        assert!(message.contains(noun), "{message} does not say {noun}");
    }
    assert_eq!(refused(b"\0asm\x01\0\0").0, "E_INVALID_WASM");
    assert_eq!(
        refused(&[b"\0asm\x01\0\0\0", &[0xff; 20][..]].concat()).0,
        "E_INVALID_WASM"
    );
    let mut huge = vec![0; coracle_engine::MAX_WASM_BYTES + 1];
    huge[..8].copy_from_slice(b"\0asm\x01\0\0\0");
    assert_eq!(refused(&huge).0, "E_WASM_TOO_LARGE");
}

#[test]
fn missing_imports_are_named() {
    let wasm = wat::parse_str(r#"(component (import "acme:store/kv@1.2.0" (instance)))"#).unwrap();
    let (code, message) = refused(&wasm);
    assert_eq!(code, "E_UNKNOWN_IMPORT");
    assert!(message.contains("acme:store/kv@1.2.0"), "{message}");
    let provided = BTreeSet::from(["acme:store/kv@1.0.0".to_string()]);
    assert_eq!(inspect(&wasm, &provided).unwrap().kind, Kind::Library);

    let wasm = wat::parse_str(r#"(component (import "do-it" (func)))"#).unwrap();
    assert!(refused(&wasm).1.contains("do-it"));
    let wasm =
        wat::parse_str(r#"(component (import "wasi:keyvalue/store@0.2.0-draft" (instance)))"#)
            .unwrap();
    assert_eq!(refused(&wasm).0, "E_UNKNOWN_IMPORT");
}

#[test]
fn foreign_core_modules_are_told_apart() {
    for (wat, code, says) in [
        (
            r#"(module (import "env" "emscripten_run" (func)))"#,
            "E_UNKNOWN_IMPORT",
            "env::emscripten_run",
        ),
        (
            r#"(module (import "wasi_unstable" "fd_write" (func)))"#,
            "E_UNKNOWN_IMPORT",
            "older than preview 1",
        ),
        (
            r#"(module (import "wasi_snapshot_preview1" "fd_wriet" (func)))"#,
            "E_UNKNOWN_IMPORT",
            "fd_wriet",
        ),
        (
            r#"(module (import "wasix_32v1" "fork" (func)))"#,
            "E_UNKNOWN_IMPORT",
            "WASIX",
        ),
        (
            r#"(module (import "wbg" "__wbindgen_throw" (func)))"#,
            "E_UNKNOWN_IMPORT",
            "browser",
        ),
        (
            r#"(module (import "wasi" "thread-spawn" (func)))"#,
            "E_WASI_THREADS",
            "threads",
        ),
        (
            r#"(module (import "env" "memory" (memory 1 2 shared)))"#,
            "E_WASI_THREADS",
            "shared memory",
        ),
        (r#"(module (memory i64 1))"#, "E_INVALID_WASM", "memory64"),
    ] {
        let (found, message) = refused(&wat::parse_str(wat).unwrap());
        assert_eq!(found, code, "{wat}: {message}");
        assert!(message.contains(says), "{message} does not say {says}");
    }
}

#[test]
fn wasi_03_is_refused_by_name() {
    for wat in [
        r#"(component (import "wasi:http/types@0.3.0" (instance)))"#,
        r#"(component (instance $i) (export "wasi:http/handler@0.3.0" (instance $i)))"#,
    ] {
        let (code, message) = refused(&wat::parse_str(wat).unwrap());
        assert_eq!(code, "E_NEEDS_WASI_03");
        assert!(message.contains("@0.3.0"), "{message}");
    }
}

#[test]
fn sizes_that_hurt_the_compiler_are_refused() {
    let many = format!("(module {})", "(func)".repeat(100_001));
    assert_eq!(
        refused(&wat::parse_str(many).unwrap()).0,
        "E_WASM_TOO_COMPLEX"
    );
    let locals = format!("(module (func (local {})))", "i32 ".repeat(10_001));
    assert_eq!(
        refused(&wat::parse_str(locals).unwrap()).0,
        "E_WASM_TOO_COMPLEX"
    );
    let long = format!("(module (func {}))", "nop ".repeat((1 << 20) + 1));
    assert_eq!(
        refused(&wat::parse_str(long).unwrap()).0,
        "E_WASM_TOO_COMPLEX"
    );
}

#[test]
fn kinds_and_capabilities_are_seen() {
    let kind = |bytes: &[u8]| inspect(bytes, &BTreeSet::new()).unwrap().kind;
    assert_eq!(kind(guests::service()), Kind::Service(WasiVersion::P2));
    assert_eq!(kind(&sample("hello")), Kind::Service(WasiVersion::P2));
    assert_eq!(kind(&sample("job")), Kind::Command(WasiVersion::P2));
    assert_eq!(
        kind(&wat::parse_str(guests::PREVIEW_1_EXIT_3).unwrap()),
        Kind::CoreCommand
    );
    assert_eq!(
        kind(&wat::parse_str("(module)").unwrap()),
        Kind::CoreReactor
    );

    let front = capabilities(&inspect(&sample("front"), &BTreeSet::new()).unwrap());
    assert!(
        front.iter().any(|w| w == "sends HTTP requests") && front[0] == "answers HTTP requests",
        "{front:?}"
    );
    let hello = capabilities(&inspect(guests::service(), &BTreeSet::new()).unwrap());
    assert!(
        !hello.iter().any(|w| w == "sends HTTP requests"),
        "{hello:?}"
    );
    let core = inspect(
        &wat::parse_str(guests::PREVIEW_1_EXIT_3).unwrap(),
        &BTreeSet::new(),
    )
    .unwrap();
    assert!(core.core && core.imports.iter().all(|i| i.hosted));
    assert_eq!(
        capabilities(&core),
        [
            "runs as a command and exits",
            "reads its arguments and environment",
            "writes to its log"
        ]
    );
}

#[test]
fn what_is_called_hosted_really_links() {
    on_one_thread(async {
        for interface in hosted_interfaces() {
            let wat = format!(
                r#"(component
                  (import "{interface}@0.2.0" (instance))
                  (instance $run) (export "wasi:cli/run@0.2.0" (instance $run)))"#
            );
            let wasm = wat::parse_str(wat).unwrap();
            let error = engine()
                .link(&artifact(&wasm).await, coracle_engine::Grants::new("t"))
                .err();
            // The empty `run` is the complaint; a missing interface would come first.
            let message = error.map(|e| e.message().to_string()).unwrap_or_default();
            assert!(!message.contains(interface), "{interface}: {message}");
        }
    });
}

#[test]
fn a_library_does_not_run() {
    on_one_thread(async {
        let wasm = wat::parse_str("(component)").unwrap();
        let error = engine()
            .link(&artifact(&wasm).await, coracle_engine::Grants::new("t"))
            .err()
            .unwrap();
        assert_eq!(error.code(), "E_NOT_RUNNABLE");
    });
}
