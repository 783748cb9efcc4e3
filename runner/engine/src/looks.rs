//! Says what bytes look like when they are not Wasm, so that the error names the mistake and not just its symptom.

/// Bytes looked at; every signature known here is shorter.
const PROBE_BYTES: usize = 512;

/// A noun phrase for bytes that do not start like Wasm.
pub(crate) fn looks_like(bytes: &[u8]) -> &'static str {
    let head = &bytes[..bytes.len().min(PROBE_BYTES)];
    let starts = |magic: &[u8]| head.starts_with(magic);
    if head.is_empty() {
        return "an empty file";
    }
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return "code already compiled by wasmtime (.cwasm), which is never accepted from outside";
    }
    if starts(b"\x7fELF") {
        return "a Linux (ELF) program or library";
    }
    if starts(b"MZ") {
        return "a Windows program";
    }
    if starts(b"\xcf\xfa\xed\xfe") || starts(b"\xca\xfe\xba\xbe") {
        return "a macOS program or a Java class";
    }
    if starts(b"\x1f\x8b") {
        return "a gzip archive";
    }
    if starts(b"\x28\xb5\x2f\xfd") {
        return "a zstd archive";
    }
    if starts(b"PK\x03\x04") {
        return "a zip archive";
    }
    if head.len() >= 262 && &head[257..262] == b"ustar" {
        return "a tar archive";
    }
    if starts(b"!<arch>") {
        return "a static library (ar archive)";
    }
    if starts(b"BC\xc0\xde") {
        return "LLVM bitcode";
    }
    text(head)
}

fn text(head: &[u8]) -> &'static str {
    let Ok(text) = std::str::from_utf8(head).or_else(|e| match e.error_len() {
        // A character cut by the probe is still text.
        None => std::str::from_utf8(&head[..e.valid_up_to()]),
        Some(_) => Err(e),
    }) else {
        return "unknown binary data";
    };
    let text = text.trim_start();
    let lower = text
        .get(..32.min(text.len()))
        .unwrap_or(text)
        .to_ascii_lowercase();
    if text.contains('\0') {
        "unknown binary data"
    } else if lower.starts_with("(module")
        || lower.starts_with("(component")
        || lower.starts_with(";;")
    {
        "WebAssembly text (WAT)"
    } else if lower.starts_with("#!") {
        "a script"
    } else if lower.starts_with("<!doctype") || lower.starts_with("<html") {
        "an HTML page"
    } else if lower.starts_with('{') || lower.starts_with('[') {
        "JSON text"
    } else if lower.starts_with("apiversion:") || lower.starts_with("---") {
        "a YAML manifest"
    } else {
        "text"
    }
}
