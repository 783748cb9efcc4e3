//! Image names, taken apart far enough to judge where an image comes from.

/// What stands for the cluster's own registry in a policy. It is no host: a host has a dot or a colon.
pub const CLUSTER: &str = "cluster";
/// The own registry's default listener, under the names it has on its own machine.
const OWN: [&str; 2] = ["localhost:5000", "127.0.0.1:5000"];
/// Repositories of the cluster's registry under this prefix are copies of images outside: `PREFIX/HOST/REPOSITORY`. A
/// copy comes from where it was copied from.
const MIRRORS: &str = "coracle.upstream/";
/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 512;

/// An image name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The host, or [`CLUSTER`].
    pub host: String,
    /// The repository there.
    pub repository: String,
    /// The tag, `latest` if none was written.
    pub tag: String,
    /// The digest, if one was written.
    pub digest: Option<String>,
}

impl Reference {
    /// Takes `[HOST/]REPOSITORY[:TAG][@DIGEST]` apart. `own` are hosts that mean the cluster's registry, as a name without
    /// a host does. `None` for what is no image name: validation says why, not a policy.
    pub fn parse(image: &str, own: &[String]) -> Option<Self> {
        if image.is_empty() || image.len() > NAME_BYTES_MAX {
            return None;
        }
        let (rest, digest) = match image.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_string())),
            None => (image, None),
        };
        let (host, path) = match rest.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, path)
            }
            _ => (CLUSTER, rest),
        };
        let host = match OWN.contains(&host) || own.iter().any(|o| o == host) {
            true => CLUSTER,
            false => host,
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, tag),
            None => (path, "latest"),
        };
        let copied = match host == CLUSTER {
            true => repository
                .strip_prefix(MIRRORS)
                .and_then(|rest| rest.split_once('/')),
            false => None,
        };
        let (host, repository) = copied.unwrap_or((host, repository));
        (!repository.is_empty() && !tag.is_empty()).then(|| Self {
            host: host.into(),
            repository: repository.into(),
            tag: tag.into(),
            digest,
        })
    }

    /// What names the manifest: the digest if there is one, else the tag.
    pub fn what(&self) -> &str {
        self.digest.as_deref().unwrap_or(&self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_as_runners_do() {
        let own = ["reg:6000".to_string()];
        for (text, host, repository, what) in [
            ("web", "cluster", "web", "latest"),
            ("team/web:v1", "cluster", "team/web", "v1"),
            ("localhost:5000/a/b:2", "cluster", "a/b", "2"),
            ("reg:6000/a", "cluster", "a", "latest"),
            ("ghcr.io/a/b:1@sha256:ff", "ghcr.io", "a/b", "sha256:ff"),
            ("coracle.upstream/evil.io/a/b:2", "evil.io", "a/b", "2"),
            ("cluster/web", "cluster", "cluster/web", "latest"),
        ] {
            let parsed = Reference::parse(text, &own).unwrap();
            assert_eq!(
                (&*parsed.host, &*parsed.repository, parsed.what()),
                (host, repository, what)
            );
        }
        for text in ["", "a:", ":x", "ghcr.io/"] {
            assert_eq!(Reference::parse(text, &own), None, "{text}");
        }
    }
}
