//! Conditional requests (RFC 9110, section 13). An entity tag here is a quoted digest, always a strong one: content
//! never changes under its digest, only what a tag of the repository names does.

use http::{HeaderMap, HeaderName, StatusCode, header};

use crate::digest::Digest;
use crate::error::{Code, Error};

/// What a request makes its success depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    /// `If-Match`: the current content must be one of these. `None`: no condition.
    only: Option<Vec<String>>,
    /// `If-None-Match`: the current content may be none of these.
    unless: Option<Vec<String>>,
}

/// The entity tag of a digest.
pub(crate) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// The list in a header, over all its lines; `None` if there is no such header.
fn list(headers: &HeaderMap, name: HeaderName) -> Option<Vec<String>> {
    let mut listed = None;
    for value in headers.get_all(name) {
        let list = listed.get_or_insert_with(Vec::new);
        // A value that is not text names nothing we have.
        let text = value.to_str().unwrap_or_default();
        // No entity tag of ours holds a comma, so one of somebody else's may be cut: it matches nothing either way.
        list.extend(text.split(',').map(|one| one.trim().to_owned()));
    }
    listed
}

impl Conditions {
    pub(crate) fn of(headers: &HeaderMap) -> Conditions {
        Conditions {
            only: list(headers, header::IF_MATCH),
            unless: list(headers, header::IF_NONE_MATCH),
        }
    }

    /// Is there no condition at all?
    pub(crate) fn none(&self) -> bool {
        self.only.is_none() && self.unless.is_none()
    }

    /// Does `If-Match` hold of the content there is? Compared strongly: a weak tag never matches.
    fn only_holds(&self, current: Option<&Digest>) -> bool {
        let Some(listed) = &self.only else {
            return true;
        };
        current.is_some_and(|digest| {
            let own = etag(digest);
            listed.iter().any(|one| one == "*" || *one == own)
        })
    }

    /// Does `If-None-Match` name the content there is? Compared weakly.
    pub(crate) fn names(&self, current: Option<&Digest>) -> bool {
        let (Some(listed), Some(digest)) = (&self.unless, current) else {
            return false;
        };
        let own = etag(digest);
        listed
            .iter()
            .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == own)
    }

    /// 412 if a read may not happen. That the client has the content already is no error: see [`Conditions::names`].
    pub(crate) fn allow_read(&self, current: &Digest) -> Result<(), Error> {
        if self.only_holds(Some(current)) {
            return Ok(());
        }
        Err(failed(Some(current)))
    }

    /// 412 if a write may not happen over `current`, which is `None` where nothing is yet.
    pub(crate) fn allow_write(&self, current: Option<&Digest>) -> Result<(), Error> {
        if self.only_holds(current) && !self.names(current) {
            return Ok(());
        }
        Err(failed(current))
    }
}

fn failed(current: Option<&Digest>) -> Error {
    let now = current.map_or("nothing".to_owned(), Digest::to_string);
    let error = Error::new(
        Code::Denied,
        format!(
            "the request's condition does not hold, here is {now}: look at it and decide again"
        ),
    );
    error.status(StatusCode::PRECONDITION_FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;
    use http::HeaderValue;

    fn conditions(headers: &[(HeaderName, &str)]) -> Conditions {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        Conditions::of(&map)
    }

    #[test]
    fn reads_and_writes() {
        let (a, b) = (
            Algorithm::Sha256.digest(b"a"),
            Algorithm::Sha256.digest(b"b"),
        );
        let (tag_a, tag_b) = (etag(&a), etag(&b));
        let weak = format!("W/{tag_a}");
        let both = format!("{tag_b} , {tag_a}");
        let only = header::IF_MATCH;
        let unless = header::IF_NONE_MATCH;
        // Header, value, may be read, client has it, may be written over a, over nothing.
        for (name, value, read, has, over, fresh) in [
            (&only, tag_a.as_str(), true, false, true, false),
            (&only, tag_b.as_str(), false, false, false, false),
            (&only, both.as_str(), true, false, true, false),
            (&only, weak.as_str(), false, false, false, false),
            (&only, "*", true, false, true, false),
            (&unless, tag_a.as_str(), true, true, false, true),
            (&unless, tag_b.as_str(), true, false, true, true),
            (&unless, both.as_str(), true, true, false, true),
            (&unless, weak.as_str(), true, true, false, true),
            (&unless, "*", true, true, false, true),
            (&unless, "", true, false, true, true),
        ] {
            let conditions = conditions(&[(name.clone(), value)]);
            assert!(!conditions.none());
            assert_eq!(conditions.allow_read(&a).is_ok(), read, "{name} {value}");
            assert_eq!(conditions.names(Some(&a)), has, "{name} {value}");
            assert_eq!(
                conditions.allow_write(Some(&a)).is_ok(),
                over,
                "{name} {value}"
            );
            assert_eq!(
                conditions.allow_write(None).is_ok(),
                fresh,
                "{name} {value}"
            );
        }
        let lines = conditions(&[(unless.clone(), tag_b.as_str()), (unless, tag_a.as_str())]);
        assert!(lines.names(Some(&a)));
        assert!(Conditions::default().none());
        assert!(Conditions::default().allow_write(None).is_ok());
    }
}
