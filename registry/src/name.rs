//! Repository names and tags, by the specification's grammar and nothing looser.
//!
//! The grammar is also the safety argument: a `Name` holds only `[a-z0-9._/-]`, no empty and no dotted-only segment, so
//! it cannot climb out of anything and `@` and `:` are free to separate it from a digest or a tag in a row key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest repository name in bytes: clients bound `host/name` by 255, so nothing longer could be pulled.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest tag in bytes, from the specification's grammar.
pub const TAG_BYTES_MAX: usize = 128;

/// A repository name such as `demo/hello`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A tag such as `v1.2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

/// Why a name or a tag was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("the repository name is empty")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("the repository name is longer than {NAME_BYTES_MAX} bytes")]
    TooLong,
    /// A segment outside the grammar.
    #[error(
        "\"{0}\" may not be part of a repository name: use lower-case letters and digits, joined by '.', '_', '__' or '-', segments separated by '/'"
    )]
    Segment(String),
    /// A tag outside the grammar.
    #[error(
        "the tag is not valid: up to {TAG_BYTES_MAX} letters, digits, '.', '_' and '-', not beginning with '.' or '-'"
    )]
    Tag,
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, without a regular expression.
fn segment_is_valid(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut at = 0;
    loop {
        let start = at;
        while at < bytes.len() && alphanumeric(bytes[at]) {
            at += 1;
        }
        if at == start {
            return false;
        }
        if at == bytes.len() {
            return true;
        }
        let separator = at;
        while at < bytes.len() && !alphanumeric(bytes[at]) {
            at += 1;
        }
        let joined = &bytes[separator..at];
        let allowed = matches!(joined, b"." | b"_" | b"__") || joined.iter().all(|b| *b == b'-');
        if !allowed {
            return false;
        }
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        match text.split('/').find(|segment| !segment_is_valid(segment)) {
            Some(bad) => Err(NameError::Segment(bad.chars().take(80).collect())),
            None => Ok(Name(text.to_owned())),
        }
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut bytes = text.bytes();
        let first = bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if first && rest && text.len() <= TAG_BYTES_MAX {
            Ok(Tag(text.to_owned()))
        } else {
            Err(NameError::Tag)
        }
    }
}

macro_rules! text_like {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_like!(Name);
text_like!(Tag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in [
            "a",
            "a/b/c",
            "demo/hello-world",
            "a.b_c__d---e",
            "blobs/uploads",
            "0/manifests/tags/list",
        ] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "..",
            "a/../b",
            "a/.",
            ".a",
            "a.",
            "a..b",
            "a___b",
            "a._b",
            "-a",
            "a-",
            "A",
            "a b",
            "a%2fb",
            "a:b",
            "a@b",
            "ä",
            "a\0b",
            "a\\b",
            long.as_str(),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags() {
        let longest = "a".repeat(TAG_BYTES_MAX);
        for good in ["v1", "_x", "1.2.3-rc_1", "UPPER", longest.as_str()] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        let long = "a".repeat(TAG_BYTES_MAX + 1);
        for bad in [
            "",
            ".a",
            "-a",
            "a/b",
            "a:b",
            "a+b",
            "a b",
            "ä",
            long.as_str(),
        ] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }
}
