//! Paths under `/v2`, taken apart from the right: a repository may be called `blobs/uploads`.

use crate::error::{Code, Error};
use crate::name::Name;

/// What a path names. Texts are decoded and, but for the repository's name, not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Ping,
    Catalog,
    Tags(Name),
    Uploads(Name),
    Upload(Name, String),
    Blob(Name, String),
    Manifest(Name, String),
    Referrers(Name, String),
}

/// Parses a raw path that begins with `/v2`. A path of no known form is 404, a known form with a bad name is 400.
pub(crate) fn parse(raw: &str) -> Result<Target, Error> {
    let path = decode(raw).ok_or_else(|| {
        Error::new(
            Code::NameInvalid,
            "the path's percent-encoding is not valid UTF-8",
        )
    })?;
    let rest = path.strip_prefix("/v2").unwrap_or(&path);
    if rest.is_empty() || rest == "/" {
        return Ok(Target::Ping);
    }
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    if rest == "_catalog" {
        return Ok(Target::Catalog);
    }
    let segments: Vec<&str> = rest.split('/').collect();
    let name = |head: &[&str]| head.join("/").parse::<Name>().map_err(Error::from);
    match segments.as_slice() {
        [head @ .., "blobs", "uploads"] | [head @ .., "blobs", "uploads", ""] => {
            Ok(Target::Uploads(name(head)?))
        }
        [head @ .., "blobs", "uploads", id] => Ok(Target::Upload(name(head)?, (*id).to_owned())),
        [head @ .., "tags", "list"] => Ok(Target::Tags(name(head)?)),
        [head @ .., "blobs", digest] => Ok(Target::Blob(name(head)?, (*digest).to_owned())),
        [head @ .., "manifests", reference] => {
            Ok(Target::Manifest(name(head)?, (*reference).to_owned()))
        }
        [head @ .., "referrers", digest] => {
            Ok(Target::Referrers(name(head)?, (*digest).to_owned()))
        }
        _ => Err(Error::new(
            Code::Unsupported,
            "there is nothing at this path: see the OCI distribution specification",
        )
        .status(http::StatusCode::NOT_FOUND)),
    }
}

/// Undoes percent-encoding; `None` if it is broken or not UTF-8.
pub(crate) fn decode(raw: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let hex = tail.get(..2)?;
            let both = hex.iter().all(u8::is_ascii_hexdigit);
            let text = std::str::from_utf8(hex).ok().filter(|_| both)?;
            bytes.push(u8::from_str_radix(text, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// A query string's pairs. A `+` stays a plus: media types have one, and nothing here has a space.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: Option<&str>) -> Result<Query, Error> {
        let mut pairs = Vec::new();
        for part in raw.unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match (decode(key), decode(value)) {
                (Some(key), Some(value)) => pairs.push((key, value)),
                _ => {
                    return Err(Error::new(
                        Code::Unsupported,
                        "the query's percent-encoding is not valid UTF-8",
                    )
                    .status(http::StatusCode::BAD_REQUEST));
                }
            }
        }
        Ok(Query(pairs))
    }

    /// The first value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == key)?;
        Some(&found.1)
    }

    /// Every value of a key.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The page size `n`.
    pub(crate) fn count(&self) -> Result<Option<usize>, Error> {
        match self.get("n") {
            None | Some("") => Ok(None),
            // A number too large for us is more than there are entries.
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Some(text.parse().unwrap_or(usize::MAX)))
            }
            Some(_) => Err(Error::new(
                Code::Unsupported,
                "n must be a number of entries, 0 or more",
            )
            .status(http::StatusCode::BAD_REQUEST)),
        }
    }
}

/// A value as it stands in a query of ours.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b':') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        for (raw, want) in [
            ("/v2", Target::Ping),
            ("/v2/", Target::Ping),
            ("/v2/_catalog", Target::Catalog),
            ("/v2/a/b/tags/list", Target::Tags(name("a/b"))),
            ("/v2/a%2Fb/tags/list", Target::Tags(name("a/b"))),
            ("/v2/a/blobs/uploads", Target::Uploads(name("a"))),
            ("/v2/a/blobs/uploads/", Target::Uploads(name("a"))),
            (
                "/v2/a/blobs/uploads/x",
                Target::Upload(name("a"), "x".into()),
            ),
            (
                "/v2/a/blobs/uploads/blobs/uploads/",
                Target::Uploads(name("a/blobs/uploads")),
            ),
            (
                "/v2/blobs/uploads/manifests/v1",
                Target::Manifest(name("blobs/uploads"), "v1".into()),
            ),
            (
                "/v2/tags/list/blobs/sha256%3Aab",
                Target::Blob(name("tags/list"), "sha256:ab".into()),
            ),
            (
                "/v2/manifests/manifests/manifests",
                Target::Manifest(name("manifests"), "manifests".into()),
            ),
            (
                "/v2/a/referrers/sha256:x",
                Target::Referrers(name("a"), "sha256:x".into()),
            ),
        ] {
            assert_eq!(parse(raw).unwrap(), want, "{raw}");
        }
        for (raw, code) in [
            ("/v2/../etc/manifests/v1", Code::NameInvalid),
            ("/v2/a/%2e%2e/b/manifests/v1", Code::NameInvalid),
            ("/v2/A/tags/list", Code::NameInvalid),
            ("/v2//tags/list", Code::NameInvalid),
            ("/v2/tags/list", Code::NameInvalid),
            ("/v2/a/%ff/tags/list", Code::NameInvalid),
            ("/v2/a/%zz/tags/list", Code::NameInvalid),
            ("/v2/a/b", Code::Unsupported),
            ("/v2/a", Code::Unsupported),
        ] {
            assert_eq!(parse(raw).unwrap_err().code, code, "{raw}");
        }
    }

    #[test]
    fn queries() {
        let query = Query::parse(Some(
            "digest=sha256%3Aab&tag=a&tag=b&artifactType=x/y+json&e",
        ))
        .unwrap();
        assert_eq!(query.get("digest"), Some("sha256:ab"));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(query.get("artifactType"), Some("x/y+json"));
        assert_eq!(query.get("e"), Some(""));
        assert!(Query::parse(Some("a=%f")).is_err());
        let count = |query: &str| Query::parse(Some(query)).unwrap().count();
        for bad in ["n=-1", "n=+1", "n=1.5", "n=x"] {
            assert!(count(bad).is_err(), "{bad}");
        }
        assert_eq!(count("n=7").unwrap(), Some(7));
        assert_eq!(count("n=99999999999999999999").unwrap(), Some(usize::MAX));
        assert_eq!(decode(&encode("a b+c&d=ä")).unwrap(), "a b+c&d=ä");
    }
}
