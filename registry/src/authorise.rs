//! The hook that decides who may do what. The registry asks before it touches anything; it knows no users.

use http::{Extensions, HeaderMap};

use crate::BoxFuture;
use crate::name::Name;

/// What a request wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `GET /v2/`: is this a registry, and am I logged in?
    Ping,
    /// Read blobs, manifests, tags, referrers.
    Pull,
    /// Write blobs, manifests, tags; look at and cancel uploads.
    Push,
    /// Remove blobs, manifests, tags.
    Delete,
    /// List repositories.
    Catalog,
}

/// A question to the hook.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// What is wanted.
    pub action: Action,
    /// Where; `None` for [`Action::Ping`] and [`Action::Catalog`].
    pub repository: Option<&'a Name>,
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The request's extensions, where an outer layer has put the caller's identity.
    pub extensions: &'a Extensions,
}

/// The hook's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allow,
    /// 403 with this sentence.
    Deny(String),
    /// 401 with this `WWW-Authenticate` value; clients need `realm`, `service` and `scope` in it.
    Challenge(String),
    /// 503 with this sentence: it cannot be said now.
    Unavailable(String),
}

/// Namespace of repositories whose name has one segment, as kubectl's of objects without one.
pub const NAMESPACE_DEFAULT: &str = "default";

/// The Kubernetes namespace that a repository belongs to: its first segment, `default` if that is all of it.
pub fn namespace(repository: &Name) -> &str {
    match repository.as_str().split_once('/') {
        Some((first, _)) => first,
        None => NAMESPACE_DEFAULT,
    }
}

/// The hook.
pub trait Authorise: Send + Sync + 'static {
    /// May this happen?
    fn authorise<'a>(&'a self, access: Access<'a>) -> BoxFuture<'a, Verdict>;
}

/// Everybody may do everything: for a listener on loopback.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Authorise for AllowAll {
    fn authorise<'a>(&'a self, _access: Access<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(std::future::ready(Verdict::Allow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_segments_is_the_namespace() {
        for (name, expected) in [
            ("team-a/web", "team-a"),
            ("team-a/web/api", "team-a"),
            ("hello", "default"),
            ("default/hello", "default"),
        ] {
            assert_eq!(namespace(&name.parse().unwrap()), expected, "{name}");
        }
    }
}
