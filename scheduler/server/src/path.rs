//! From a URL path to a resource, generic over the table of kinds.

use coracle_api::{ApiError, Kind, kinds};

/// A path that names a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourcePath {
    /// Group of the path.
    pub group: String,
    /// Version of the path.
    pub version: String,
    /// Namespace, empty for none.
    pub namespace: String,
    /// Plural.
    pub plural: String,
    /// Object name, empty for the collection.
    pub name: String,
    /// Subresource, empty for none.
    pub subresource: String,
}

impl ResourcePath {
    /// The kind served there.
    pub fn kind(&self) -> Option<&'static Kind> {
        let kind = kinds::by_path(&self.group, &self.version, &self.plural)?;
        let fits = kind.namespaced() || self.namespace.is_empty();
        fits.then_some(kind)
    }
}

/// Splits a path into decoded segments; empty segments (a trailing slash) are dropped.
pub fn segments(path: &str) -> Result<Vec<String>, ApiError> {
    path.split('/')
        .filter(|s| !s.is_empty())
        .map(decode)
        .collect()
}

/// The resource a path names; `None` if it has not the form of a resource path.
pub fn resource(segments: &[String]) -> Option<ResourcePath> {
    let s: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, rest) = match s.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let make = |namespace: &str, plural: &str, name: &str, subresource: &str| {
        Some(ResourcePath {
            group: group.into(),
            version: version.into(),
            namespace: namespace.into(),
            plural: plural.into(),
            name: name.into(),
            subresource: subresource.into(),
        })
    };
    match rest {
        // Subresources of a namespace have the place of a plural.
        ["namespaces", name, sub @ ("status" | "finalize")] if group.is_empty() => {
            make("", "namespaces", name, sub)
        }
        ["namespaces", name] if group.is_empty() => make("", "namespaces", name, ""),
        ["namespaces", namespace, plural] => make(namespace, plural, "", ""),
        ["namespaces", namespace, plural, name] => make(namespace, plural, name, ""),
        ["namespaces", namespace, plural, name, sub] => make(namespace, plural, name, sub),
        [plural] => make("", plural, "", ""),
        [plural, name] => make("", plural, name, ""),
        [plural, name, sub] => make("", plural, name, sub),
        _ => None,
    }
}

/// Percent-decoding of one segment. A decoded segment may not climb or split: `..`, `/` and `%` are refused, because
/// names become keys, file names and paths of other URLs further on.
fn decode(segment: &str) -> Result<String, ApiError> {
    let bad = |why: &str| ApiError::bad_request(format!("path segment {segment:?} {why}"));
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(b) = rest.next() {
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let digit = |d: Option<u8>| d.and_then(|d| (d as char).to_digit(16)).map(|d| d as u8);
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err(bad("has a malformed percent escape")),
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| bad("is not UTF-8"))?;
    if text == "." || text == ".." || text.contains(['/', '%', '\0']) {
        return Err(bad(
            "is no name: \".\", \"..\", \"/\" and \"%\" are not allowed in names",
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Option<ResourcePath> {
        resource(&segments(path).unwrap())
    }

    #[test]
    fn paths_name_resources() {
        for (path, want) in [
            ("/api/v1/pods", ("", "v1", "", "pods", "", "")),
            ("/api/v1/namespaces", ("", "v1", "", "namespaces", "", "")),
            (
                "/api/v1/namespaces/a",
                ("", "v1", "", "namespaces", "a", ""),
            ),
            (
                "/api/v1/namespaces/a/status",
                ("", "v1", "", "namespaces", "a", "status"),
            ),
            ("/api/v1/namespaces/a/pods", ("", "v1", "a", "pods", "", "")),
            (
                "/api/v1/namespaces/a/pods/b",
                ("", "v1", "a", "pods", "b", ""),
            ),
            (
                "/api/v1/namespaces/a/pods/b/log",
                ("", "v1", "a", "pods", "b", "log"),
            ),
            (
                "/api/v1/nodes/n/status",
                ("", "v1", "", "nodes", "n", "status"),
            ),
            (
                "/apis/apps/v1/deployments",
                ("apps", "v1", "", "deployments", "", ""),
            ),
            (
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                ("apps", "v1", "a", "deployments", "d", "scale"),
            ),
            (
                "/api/v1/nodes/system%3Anode",
                ("", "v1", "", "nodes", "system:node", ""),
            ),
        ] {
            let p = parse(path).unwrap();
            assert_eq!(
                (
                    &*p.group,
                    &*p.version,
                    &*p.namespace,
                    &*p.plural,
                    &*p.name,
                    &*p.subresource
                ),
                want,
                "{path}"
            );
        }
        assert!(
            parse("/api/v1/namespaces/a/nodes")
                .unwrap()
                .kind()
                .is_none()
        );
        assert!(parse("/api").is_none());
        assert!(parse("/healthz").is_none());
    }

    #[test]
    fn climbing_names_are_refused() {
        for path in [
            "/api/v1/namespaces/../pods",
            "/api/v1/nodes/%2e%2e",
            "/api/v1/nodes/a%2fb",
            "/api/v1/nodes/%zz",
            "/api/v1/nodes/%ff",
        ] {
            assert_eq!(segments(path).unwrap_err().code, 400, "{path}");
        }
    }
}
