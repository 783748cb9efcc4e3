//! What a client shows in `Authorization`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// Credentials as they came. No `Debug`: they are never to be printed.
pub(crate) enum Credentials {
    /// None.
    Absent,
    /// `Basic`: the password; user names say nothing here.
    Password(String),
    /// `Bearer`.
    Bearer(String),
    /// Something else, or broken.
    Unreadable,
}

impl Credentials {
    /// Those of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(AUTHORIZATION) else {
            return Self::Absent;
        };
        let parts = value.to_str().ok().and_then(|v| v.trim().split_once(' '));
        let Some((scheme, rest)) = parts else {
            return Self::Unreadable;
        };
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
            return Self::Bearer(rest.into());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Self::Unreadable;
        }
        let text = STANDARD.decode(rest).ok();
        let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
        match text.as_deref().and_then(|t| t.split_once(':')) {
            // What curl and some clients send for "no credentials".
            Some(("", "")) => Self::Absent,
            Some((_, password)) => Self::Password(password.into()),
            None => Self::Unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_clients_write_them() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for (header, read) in [
            ("".to_string(), "absent"),
            (basic("me:secret"), "password secret"),
            (basic("me:a:b"), "password a:b"),
            (basic(":x"), "password x"),
            (basic("me:"), "password "),
            (basic(":"), "absent"),
            (basic("me"), "unreadable"),
            ("basic bWU6eA==".into(), "password x"),
            ("Basic ***".into(), "unreadable"),
            ("Bearer abc".into(), "bearer abc"),
            ("bearer  abc ".into(), "bearer abc"),
            ("Bearer".into(), "unreadable"),
            ("Digest x".into(), "unreadable"),
        ] {
            let mut headers = HeaderMap::new();
            if !header.is_empty() {
                headers.insert(AUTHORIZATION, header.parse().unwrap());
            }
            let found = match Credentials::of(&headers) {
                Credentials::Absent => "absent".to_string(),
                Credentials::Password(p) => format!("password {p}"),
                Credentials::Bearer(b) => format!("bearer {b}"),
                Credentials::Unreadable => "unreadable".into(),
            };
            assert_eq!(found, read, "{header}");
        }
    }
}
