//! The stored form: JSON with sorted keys, no spaces, no `metadata.resourceVersion`. The edge splices the version in.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

/// Canonical bytes of an object: keys sorted at every level, `metadata.resourceVersion` and `metadata.selfLink` left out.
pub fn encode(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    write(object, &mut out, 0);
    out.into()
}

fn write(v: &Value, out: &mut Vec<u8>, path: u8) {
    match v {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push(b'{');
            let mut first = true;
            for k in keys {
                // path 1 = directly inside the top-level `metadata`.
                if path == 1 && (k == "resourceVersion" || k == "selfLink") {
                    continue;
                }
                if !first {
                    out.push(b',');
                }
                first = false;
                serde_json::to_writer(&mut *out, k).expect("a string serialises into memory");
                out.push(b':');
                let below = if path == 0 && k == "metadata" { 1 } else { 2 };
                write(&map[k], out, below);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(item, out, 2);
            }
            out.push(b']');
        }
        scalar => {
            serde_json::to_writer(&mut *out, scalar).expect("a scalar serialises into memory")
        }
    }
}

/// The position just behind the `{` of the top-level `metadata` in canonical bytes, if the object has one.
pub fn metadata_at(bytes: &[u8]) -> Option<usize> {
    let (mut depth, mut i) = (0usize, 0usize);
    while i < bytes.len() {
        match bytes[i] {
            b'"' => {
                let start = i + 1;
                i += 1;
                while i < bytes.len() && bytes[i] != b'"' {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
                if depth == 1
                    && i < bytes.len()
                    && &bytes[start..i] == b"metadata"
                    && bytes[i + 1..].starts_with(b":{")
                {
                    return Some(i + 3);
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        i += 1;
    }
    None
}

/// Wire bytes: the stored bytes with `metadata.resourceVersion` spliced in.
pub fn with_revision(bytes: &Bytes, revision: u64) -> Bytes {
    let Some(at) = metadata_at(bytes) else {
        return bytes.clone();
    };
    let mut out = BytesMut::with_capacity(bytes.len() + 48);
    out.put_slice(&bytes[..at]);
    out.put_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
    if bytes.get(at) != Some(&b'}') {
        out.put_u8(b',');
    }
    out.put_slice(&bytes[at..]);
    out.freeze()
}
