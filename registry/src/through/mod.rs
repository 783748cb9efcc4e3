//! Repositories that mirror registries outside: `coracle.upstream/HOST/NAME`.
//!
//! Who fills them stands outside this crate and pushes like any client; here is only what the registry must know. Their
//! first segment is no namespace's name, so that no user's repository is ever among them. And they may have holes: an
//! index is stored with none of its manifests, a manifest with none of its layers, each comes when it is asked for.

use crate::name::{Name, NameError};

/// First segment of every mirror.
pub const MIRRORS: &str = "coracle.upstream";

/// The mirror of `repository` at `host` (`HOST` or `HOST:PORT`).
///
/// # Errors
/// The repository's name is none, or the whole is too long.
pub fn mirror(host: &str, repository: &str) -> Result<Name, NameError> {
    // A colon may not stand in a name; no host that is in use has two dashes before digits at its end.
    let host = host.to_ascii_lowercase().replace(':', "--");
    format!("{MIRRORS}/{host}/{repository}").parse()
}

/// Whether a repository is a mirror.
pub fn is_mirror(name: &Name) -> bool {
    name.as_str()
        .strip_prefix(MIRRORS)
        .is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_upstream_has_its_own_place() {
        for (host, repository, want) in [
            (
                "docker.io",
                "library/x",
                "coracle.upstream/docker.io/library/x",
            ),
            ("GHCR.io", "a/b", "coracle.upstream/ghcr.io/a/b"),
            ("127.0.0.1:5001", "a", "coracle.upstream/127.0.0.1--5001/a"),
        ] {
            let name = mirror(host, repository).unwrap();
            assert_eq!(name.as_str(), want);
            assert!(is_mirror(&name));
        }
        for bad in [
            ("a/../b", "x"),
            ("h", "X"),
            ("h", "../x"),
            ("h", ""),
            ("", "x"),
        ] {
            assert!(mirror(bad.0, bad.1).is_err(), "{bad:?}");
        }
        for other in [
            "coracle.upstreams/x",
            "coracle/upstream",
            "x/coracle.upstream/y",
        ] {
            assert!(!is_mirror(&other.parse().unwrap()), "{other}");
        }
    }
}
