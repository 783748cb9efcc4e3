//! Patterns of repositories and tags. Two wildcards are all they need, so no library and no regular expressions: a match
//! costs the product of two lengths that are bounded.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest pattern in bytes, as long as the longest name.
pub const PATTERN_BYTES_MAX: usize = crate::name::NAME_BYTES_MAX;

/// Characters of names and tags, `*` for any number of characters but `/`, and `**` for any number of any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Is(u8),
    /// `*`
    Run,
    /// `**`
    Any,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a pattern: up to {PATTERN_BYTES_MAX} letters, digits, '.', '_', '-', '/', '*' (anything but '/') and '**' (anything)"
)]
pub struct PatternError(String);

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/*".contains(&b);
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(PatternError(text.chars().take(80).collect()));
        }
        let mut parts: Vec<Part> = Vec::new();
        for byte in text.bytes() {
            match (byte, parts.last_mut()) {
                (b'*', Some(last @ (Part::Run | Part::Any))) => *last = Part::Any,
                (b'*', _) => parts.push(Part::Run),
                (byte, _) => parts.push(Part::Is(byte)),
            }
        }
        Ok(Pattern {
            text: text.to_owned(),
            parts,
        })
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// Whether the whole of `text` is like this.
    pub fn matches(&self, text: &str) -> bool {
        // at[i]: the text so far may be the first i parts.
        let mut at = vec![false; self.parts.len() + 1];
        at[0] = true;
        self.skip_wildcards(&mut at);
        for byte in text.bytes() {
            let mut next = vec![false; at.len()];
            for (i, part) in self.parts.iter().enumerate() {
                if !at[i] {
                    continue;
                }
                match part {
                    Part::Is(want) => next[i + 1] |= *want == byte,
                    Part::Run => next[i] |= byte != b'/',
                    Part::Any => next[i] = true,
                }
            }
            at = next;
            self.skip_wildcards(&mut at);
        }
        at[self.parts.len()]
    }

    /// A wildcard may stand for nothing more.
    fn skip_wildcards(&self, at: &mut [bool]) {
        for (i, part) in self.parts.iter().enumerate() {
            if at[i] && matches!(part, Part::Run | Part::Any) {
                at[i + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        // Texts are separated by blanks; the empty one is '-'.
        for (pattern, yes, no) in [
            ("v1", "v1", "v v11 V1 -"),
            ("v*", "v v1 v1.2-x", "xv v/1"),
            ("*-rc*", "1-rc -rc1 a-rc-rc", "1-r rc1"),
            ("demo/*", "demo/a demo/", "demo demo/a/b x/demo/a"),
            ("demo/**", "demo/a demo/a/b", "demo demos/a"),
            ("**", "- a a/b/c", ""),
            ("***", "a/b", ""),
            ("*", "a -", "a/b"),
            ("**/x", "a/x a/b/x /x", "x a/x/y"),
            ("a*b*c", "abc aXbYbc", "ab abcd"),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert_eq!(parsed.to_string(), pattern);
            for (texts, want) in [(yes, true), (no, false)] {
                for text in texts.split_whitespace() {
                    let text = if text == "-" { "" } else { text };
                    assert_eq!(parsed.matches(text), want, "{pattern} and {text:?}");
                }
            }
        }
        let long = "a".repeat(PATTERN_BYTES_MAX + 1);
        for bad in ["", "a b", "a?", "[ab]", "a:b", "ä", &long] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }
}
