//! The specification's grammars as it prints them, and percent-encoding as RFC 3986 defines it.

use std::sync::LazyLock;

use regex::Regex;

/// The one place where a pattern is compiled; all are literals.
pub(super) fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a literal pattern compiles")
}

static NAME: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"\A[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*\z")
});
static TAG: LazyLock<Regex> = LazyLock::new(|| pattern(r"\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\z"));
static DIGEST: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\A(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})\z"));
static UPLOAD_ID: LazyLock<Regex> = LazyLock::new(|| pattern(r"\A[a-f0-9]{32}\z"));
static ENCODED: LazyLock<Regex> = LazyLock::new(|| pattern(r"\A([^%]|%[0-9a-fA-F]{2})*\z"));
/// What may stand in a query without being encoded, `&`, `=` and `+` aside: those mean something to somebody.
static PLAIN: LazyLock<Regex> = LazyLock::new(|| pattern(r"\A([A-Za-z0-9._~:/-]|%[0-9A-F]{2})*\z"));

/// `<name>` of the distribution specification, bounded as clients bound it.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 255 && NAME.is_match(text)
}

/// `<reference>` as a tag.
pub(super) fn is_tag(text: &str) -> bool {
    TAG.is_match(text)
}

/// `<digest>` of a registered algorithm.
pub(super) fn is_digest(text: &str) -> bool {
    DIGEST.is_match(text)
}

/// The registry's own upload ids.
pub(super) fn is_upload_id(text: &str) -> bool {
    UPLOAD_ID.is_match(text)
}

/// Text that can stand in a query of ours without being read as anything else.
pub(super) fn is_plain(text: &str) -> bool {
    PLAIN.is_match(text)
}

/// Undoes percent-encoding the slow way: piece by piece between the `%`. `None` if it is broken or not UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    if !ENCODED.is_match(text) {
        return None;
    }
    let mut pieces = text.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        bytes.extend(hex::decode(&piece[..2]).ok()?);
        bytes.extend(piece[2..].bytes());
    }
    String::from_utf8(bytes).ok()
}
