//! Image names as commands take them.

use crate::error::{CliError, Result};

/// An image name taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Another registry, `None` for the cluster's own.
    pub host: Option<String>,
    /// Repository.
    pub name: String,
    /// Tag, `latest` if none was given.
    pub tag: String,
    /// Digest, if one was given.
    pub digest: Option<String>,
}

impl Image {
    /// Parses `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`. A first segment with a dot, a colon or `localhost` is a host;
    /// `localhost:5000` and `127.0.0.1:5000` mean the cluster's own registry (DESIGN section 5).
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            CliError::new("E_IMAGE_NAME", format!("{text:?} is no image name: {why}"))
                .fix("write NAME[:TAG], lower-case, e.g. web:v1 or team/web:v1")
        };
        let (rest, digest) = match text.split_once('@') {
            Some((r, d)) => (r, Some(d.to_string())),
            None => (text, None),
        };
        let (host, path) = match rest.split_once('/') {
            Some((h, p))
                if !h.starts_with('.')
                    && (h.contains('.') || h.contains(':') || h == "localhost") =>
            {
                (Some(h.to_string()), p)
            }
            _ => (None, rest),
        };
        let host = host.filter(|h| !matches!(h.as_str(), "localhost:5000" | "127.0.0.1:5000"));
        let (name, tag) = match path.rsplit_once(':') {
            Some((n, t)) => (n, t),
            None => (path, "latest"),
        };
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
        if name.is_empty()
            || !name.chars().all(good)
            || name.split('/').any(|s| {
                s.is_empty() || s.starts_with(['.', '-', '_']) || s.ends_with(['.', '-', '_'])
            })
        {
            return Err(bad(
                "the repository must be lower-case letters, digits and single separators",
            ));
        }
        if tag.is_empty()
            || tag.len() > 128
            || !tag
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            || tag.starts_with(['.', '-'])
        {
            return Err(bad(
                "the tag must be 1 to 128 letters, digits, dots, dashes or underscores",
            ));
        }
        if digest
            .as_deref()
            .is_some_and(|d| !d.starts_with("sha256:") && !d.starts_with("sha512:"))
        {
            return Err(bad("the digest must begin with sha256: or sha512:"));
        }
        Ok(Self {
            host,
            name: name.into(),
            tag: tag.into(),
            digest,
        })
    }

    /// What the registry is asked for.
    pub(super) fn reference(&self) -> &str {
        self.digest.as_deref().unwrap_or(&self.tag)
    }

    /// The host as it stands in front of the name, or nothing.
    pub(super) fn shown_host(&self) -> String {
        let host = self.host.as_ref();
        host.map_or_else(String::new, |host| format!("{host}/"))
    }

    /// The image as a user names it.
    pub(super) fn shown(&self) -> String {
        let host = self.shown_host();
        match &self.digest {
            Some(digest) => format!("{host}{}@{digest}", self.name),
            None => format!("{host}{}:{}", self.name, self.tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_parse_or_say_why() {
        let ok = |t: &str| Image::parse(t).map(|i| (i.host, i.name, i.tag)).unwrap();
        assert_eq!(ok("web"), (None, "web".into(), "latest".into()));
        assert_eq!(ok("team/web:v1"), (None, "team/web".into(), "v1".into()));
        assert_eq!(
            ok("localhost:5000/web:v1"),
            (None, "web".into(), "v1".into())
        );
        assert_eq!(
            ok("127.0.0.1:5000/web"),
            (None, "web".into(), "latest".into())
        );
        assert_eq!(
            ok("ghcr.io/a/b:1"),
            (Some("ghcr.io".into()), "a/b".into(), "1".into())
        );
        for bad in [
            "",
            "Web",
            "../x",
            "a/../b",
            "web:",
            "web:a b",
            "-web",
            "web@md5:x",
            "a//b",
        ] {
            let e = Image::parse(bad).unwrap_err();
            assert_eq!(e.code, "E_IMAGE_NAME", "{bad}");
            assert!(e.fix.is_some());
        }
    }
}
