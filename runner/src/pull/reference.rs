//! Image names: which registry, which repository, which tag or digest.

use coracle_agent::Image;

use super::store::Record;

/// The registry's default listener, under the names it has on its own machine.
const EMBEDDED: [&str; 2] = ["localhost:5000", "127.0.0.1:5000"];

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The registry inside the cluster.
    Embedded,
    /// The registry at this host.
    Outside(String),
}

/// A parsed image name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// As it was written.
    pub original: String,
    pub place: Place,
    /// Repository within the registry.
    pub repository: String,
    /// Tag; `latest` if none was written.
    pub tag: String,
    /// Digest, if one was written.
    pub digest: Option<String>,
}

impl Reference {
    /// Parses a name. `embedded` are hosts that mean the registry inside the cluster; so does a name without a host.
    pub fn parse(image: &str, embedded: &[String]) -> Result<Self, String> {
        if image.is_empty() || image.len() > 512 {
            return Err("it is empty or too long".into());
        }
        let (rest, digest) = match image.split_once('@') {
            Some((rest, digest)) => (rest, Some(check_digest(digest)?)),
            None => (image, None),
        };
        let (host, path) = match rest.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
                (Some(first), path)
            }
            _ => (None, rest),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, tag),
            None => (path, "latest"),
        };
        check_tag(tag)?;
        check_repository(repository)?;
        let place = match host {
            None => Place::Embedded,
            Some(host) if EMBEDDED.contains(&host) || embedded.iter().any(|e| e == host) => {
                Place::Embedded
            }
            Some(host) => Place::Outside(check_host(host)?),
        };
        Ok(Self {
            original: image.into(),
            place,
            repository: repository.into(),
            tag: tag.into(),
            digest,
        })
    }

    /// The image as the agent and the API see it.
    pub fn image(&self, record: &Record) -> Image {
        let name = match &self.place {
            Place::Embedded => self.repository.clone(),
            Place::Outside(host) => format!("{host}/{}", self.repository),
        };
        Image {
            id: format!("{name}@{}", record.digest),
            digest: record.digest.clone(),
            wasm: record.wasm.clone(),
        }
    }
}

/// A digest that may be used in a path.
pub(super) fn check_digest(digest: &str) -> Result<String, String> {
    let hex = digest
        .strip_prefix("sha256:")
        .ok_or("a digest must begin with sha256:")?;
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if hex.len() == 64 && hex.bytes().all(lower) {
        Ok(digest.into())
    } else {
        Err("a sha256 digest has 64 lower-case hex digits".into())
    }
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ok = tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'));
    if ok {
        Ok(())
    } else {
        Err(format!("{tag:?} is not a tag"))
    }
}

fn check_repository(repository: &str) -> Result<(), String> {
    let part = |p: &str| {
        let end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        end(p.bytes().next())
            && end(p.bytes().next_back())
            && p.bytes().all(inner)
            && !p.contains("..")
    };
    if repository.len() <= 255 && repository.split('/').all(part) {
        Ok(())
    } else {
        Err(format!("{repository:?} is not a repository name"))
    }
}

fn check_host(host: &str) -> Result<String, String> {
    let (name, port) = host.split_once(':').unwrap_or((host, "443"));
    let label =
        |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let ok = name.split('.').all(label) && port.parse::<u16>().is_ok_and(|p| p != 0);
    if ok {
        Ok(host.into())
    } else {
        Err(format!("{host:?} is not a host"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_registry_they_mean() {
        let embedded = ["10.0.0.1:5000".to_string()];
        let parse = |image: &str| Reference::parse(image, &embedded);
        let sha = format!("sha256:{}", "a".repeat(64));
        for (image, place, repository, tag, digest) in [
            ("hello", None, "hello", "latest", false),
            ("team/hello:v1", None, "team/hello", "v1", false),
            ("localhost:5000/hello:v1", None, "hello", "v1", false),
            ("10.0.0.1:5000/hello:v1", None, "hello", "v1", false),
            (
                "localhost:5001/hello:v1",
                Some("localhost:5001"),
                "hello",
                "v1",
                false,
            ),
            ("ghcr.io/a/b", Some("ghcr.io"), "a/b", "latest", false),
            (&format!("hello:v1@{sha}"), None, "hello", "v1", true),
            (
                &format!("ghcr.io/a/b@{sha}"),
                Some("ghcr.io"),
                "a/b",
                "latest",
                true,
            ),
        ] {
            let r = parse(image).unwrap();
            let want = place.map_or(Place::Embedded, |h: &str| Place::Outside(h.into()));
            assert_eq!(
                (
                    &r.place,
                    r.repository.as_str(),
                    r.tag.as_str(),
                    r.digest.is_some()
                ),
                (&want, repository, tag, digest),
                "{image}"
            );
        }
        for bad in [
            "",
            "Hello",
            "a/../b",
            "../x",
            "a:b:c",
            "hello@sha256:12",
            "hello@md5:1",
            "a b",
            "x/",
            "/x",
            "x:",
            "-x",
            "a..b",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
