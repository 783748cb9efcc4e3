//! The path as routes see it: decoded once, slashes merged, dots resolved.
//!
//! Rules match the decoded path; the backend gets the same path with its encoding kept. An encoded slash stays encoded in
//! both, so it never becomes a separator behind the router's back. A path already in its normal form costs one scan.

use std::borrow::Cow;

/// Longest request target accepted, in bytes; longer ones are answered 414. The figure is what browsers and other proxies
/// agree on.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;

/// Why a path is refused (always with status 400).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPath {
    /// It does not start with `/`.
    NotAbsolute,
    /// A `%` is not followed by two hexadecimal digits.
    BadEscape,
    /// It holds a NUL or another control character, plain or encoded.
    Control,
    /// A `..` leads above the root.
    AboveRoot,
}

impl std::fmt::Display for BadPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "the path does not start with a slash",
            Self::BadEscape => "the path has a % that is not followed by two hexadecimal digits",
            Self::Control => "the path holds a control character",
            Self::AboveRoot => "the path leads above the root with ..",
        })
    }
}

impl std::error::Error for BadPath {}

/// A path in its two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal<'a> {
    /// What rules are matched against: decoded, except for encoded slashes and percent signs.
    pub matching: Cow<'a, [u8]>,
    /// What the backend gets: encoding kept, slashes merged, dots resolved.
    pub forward: Cow<'a, str>,
}

/// Brings a path (without query) into its normal form.
///
/// # Errors
/// See [`BadPath`].
pub fn normalise(path: &str) -> Result<Normal<'_>, BadPath> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(BadPath::NotAbsolute);
    }
    if is_normal(bytes) {
        return Ok(Normal {
            matching: Cow::Borrowed(bytes),
            forward: Cow::Borrowed(path),
        });
    }
    // (matching, forward) of every segment kept so far.
    let mut kept: Vec<(Vec<u8>, &str)> = Vec::new();
    let mut ends_as_directory = false;
    for raw in path[1..].split('/') {
        let decoded = decode(raw.as_bytes())?;
        ends_as_directory = matches!(decoded.as_slice(), b"" | b"." | b"..");
        match decoded.as_slice() {
            b"" | b"." => {}
            b".." => {
                kept.pop().ok_or(BadPath::AboveRoot)?;
            }
            _ => kept.push((decoded, raw)),
        }
    }
    let mut matching = Vec::with_capacity(bytes.len());
    let mut forward = String::with_capacity(bytes.len());
    for (decoded, raw) in &kept {
        matching.push(b'/');
        matching.extend_from_slice(decoded);
        forward.push('/');
        forward.push_str(raw);
    }
    if ends_as_directory || kept.is_empty() {
        matching.push(b'/');
        forward.push('/');
    }
    Ok(Normal {
        matching: Cow::Owned(matching),
        forward: Cow::Owned(forward),
    })
}

/// Whether no escape, control character, double slash or dot segment occurs (segments that merely start with a dot take
/// the slow way and come out unchanged).
fn is_normal(bytes: &[u8]) -> bool {
    let mut previous = 0u8;
    for &byte in bytes {
        if byte < 0x20 || byte == 0x7f || byte == b'%' {
            return false;
        }
        if previous == b'/' && (byte == b'/' || byte == b'.') {
            return false;
        }
        previous = byte;
    }
    true
}

fn decode(raw: &[u8]) -> Result<Vec<u8>, BadPath> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte < 0x20 || byte == 0x7f {
            return Err(BadPath::Control);
        }
        if byte != b'%' {
            out.push(byte);
            rest = tail;
            continue;
        }
        let (Some(high), Some(low)) = (
            tail.first().copied().and_then(hex),
            tail.get(1).copied().and_then(hex),
        ) else {
            return Err(BadPath::BadEscape);
        };
        match high << 4 | low {
            0..=0x1f | 0x7f => return Err(BadPath::Control),
            // Kept encoded, in one spelling: a decoded slash would be a separator, a decoded percent would invite a
            // second decoding.
            b'/' => out.extend_from_slice(b"%2F"),
            b'%' => out.extend_from_slice(b"%25"),
            plain => out.push(plain),
        }
        rest = &tail[2..];
    }
    Ok(out)
}

fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn both(path: &str) -> Result<(String, String), BadPath> {
        normalise(path).map(|n| {
            (
                String::from_utf8_lossy(&n.matching).into_owned(),
                n.forward.into_owned(),
            )
        })
    }

    #[test]
    fn paths_are_brought_into_one_form() {
        for (path, matching, forward) in [
            ("/", "/", "/"),
            ("/a/b", "/a/b", "/a/b"),
            ("//a///b", "/a/b", "/a/b"),
            ("/a/", "/a/", "/a/"),
            ("/a//", "/a/", "/a/"),
            ("/a/./b", "/a/b", "/a/b"),
            ("/a/b/..", "/a/", "/a/"),
            ("/a/%2e%2E/b", "/b", "/b"),
            ("/a%20b", "/a b", "/a%20b"),
            ("/a%2Fb", "/a%2Fb", "/a%2Fb"),
            ("/a%2fb", "/a%2Fb", "/a%2fb"),
            ("/a%252e", "/a%252e", "/a%252e"),
            ("/.well-known/x", "/.well-known/x", "/.well-known/x"),
            ("/...", "/...", "/..."),
            ("/%61dmin", "/admin", "/%61dmin"),
            ("/a/..", "/", "/"),
        ] {
            assert_eq!(both(path), Ok((matching.into(), forward.into())), "{path}");
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        for (path, why) in [
            ("", BadPath::NotAbsolute),
            ("a", BadPath::NotAbsolute),
            ("*", BadPath::NotAbsolute),
            ("/..", BadPath::AboveRoot),
            ("/a/../..", BadPath::AboveRoot),
            ("/%2e%2e/etc", BadPath::AboveRoot),
            ("/a%00", BadPath::Control),
            ("/a%0d%0aX: y", BadPath::Control),
            ("/a\u{1}", BadPath::Control),
            ("/a%", BadPath::BadEscape),
            ("/a%2", BadPath::BadEscape),
            ("/a%zz", BadPath::BadEscape),
        ] {
            assert_eq!(both(path), Err(why), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_has_no_dots_and_normalises_to_itself(
            path in "/([a-zA-Z.%2eEfF05/]|%2e|%2F|\\.\\.|//){0,40}"
        ) {
            if let Ok(normal) = normalise(&path) {
                let text = normal.forward.to_string();
                prop_assert!(text.starts_with('/'));
                prop_assert!(!text.contains("//"));
                let matching = String::from_utf8_lossy(&normal.matching).into_owned();
                prop_assert!(matching.split('/').all(|s| s != "." && s != ".."));
                let again = normalise(&text).expect("a forwarded path is a good path");
                prop_assert_eq!(again.forward.as_ref(), text.as_str());
                prop_assert_eq!(again.matching.as_ref(), normal.matching.as_ref());
            }
        }
    }
}
