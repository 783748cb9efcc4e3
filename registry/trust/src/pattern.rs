//! Patterns of a policy: a name as it is, or everything below a prefix.
//!
//! The star stands only at the end and only after a separator, so that `ghcr.io/acme/*` cannot mean `ghcr.io/acme-evil/x`
//! by a forgotten slash.

use std::fmt;

/// A name, a prefix, or everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(String);

/// Longest pattern, in bytes: host and repository together have at most 255.
pub const PATTERN_BYTES_MAX: usize = 512;

impl Pattern {
    /// Reads a pattern. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            return Err(format!("a pattern has 1 to {PATTERN_BYTES_MAX} characters"));
        }
        if text.contains(char::is_whitespace) {
            return Err(format!("{text:?} holds a space"));
        }
        match text.find('*') {
            None => Ok(Self(text.into())),
            Some(at) if at + 1 == text.len() => match text[..at].chars().last() {
                None | Some('/' | ':') => Ok(Self(text.into())),
                Some(_) => Err(format!(
                    "in {text:?} the * must stand alone or after / or :, as in ghcr.io/acme/*"
                )),
            },
            Some(_) => Err(format!("in {text:?} the * may stand at the end only")),
        }
    }

    /// Whether a name matches.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => self.0 == name,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
