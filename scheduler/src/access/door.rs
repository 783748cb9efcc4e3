//! A listener of the registry as its clients meet it: whether credentials are asked for there, whether it speaks TLS,
//! and what it is called.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::uri::Authority;
use http::{HeaderMap, Uri, header};

use crate::error::StartError;

/// How the registry's own listener is guarded, as its operator said it.
#[derive(Clone, Debug, Default)]
pub struct RegistryListener {
    /// Allows what would be refused: no credentials, or credentials without TLS, on an address that others can reach.
    pub insecure: bool,
    /// Whether credentials are asked for; `None`: not on loopback, elsewhere yes unless `insecure`.
    pub auth: Option<bool>,
    /// Whether it speaks TLS; `None`: with a `certificate`; else not on loopback, elsewhere yes unless `insecure`.
    pub tls: Option<bool>,
    /// Files of the certificate chain and its key (PEM) to show in place of the cluster's own; looked at again every
    /// minute, so that they can be renewed.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// What follows from it at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guarded {
    pub auth: bool,
    pub tls: bool,
}

impl RegistryListener {
    /// Decides for an address.
    pub(crate) fn at(&self, addr: SocketAddr) -> Result<Guarded, StartError> {
        let lenient = addr.ip().is_loopback() || self.insecure;
        let guarded = Guarded {
            auth: self.auth.unwrap_or(!lenient),
            tls: self.tls.unwrap_or(!lenient || self.certificate.is_some()),
        };
        if self.certificate.is_some() && !guarded.tls {
            return Err(StartError::Registry(
                "E_REGISTRY_TLS: --registry-cert without TLS has no effect; leave it out, or say --registry-tls=on".into(),
            ));
        }
        match guarded {
            _ if lenient => Ok(guarded),
            Guarded { auth: false, .. } => Err(StartError::RegistryOpen { addr }),
            Guarded { tls: false, .. } => Err(StartError::RegistryClear { addr }),
            _ => Ok(guarded),
        }
    }
}

/// One listener.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// Whoever reaches it may do everything.
    pub open: bool,
    pub tls: bool,
    /// What it is called where a request does not say it, `HOST:PORT`.
    pub authority: String,
}

impl Door {
    /// Its URL where nobody says otherwise.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme(false), self.authority)
    }

    /// `ended`: a proxy in front ends TLS.
    fn scheme(&self, ended: bool) -> &'static str {
        match self.tls || ended {
            true => "https",
            false => "http",
        }
    }

    /// `SCHEME://HOST` as the client that sent these reaches this listener, also through a proxy that ends TLS.
    pub fn origin(&self, uri: &Uri, headers: &HeaderMap) -> String {
        let said = headers.get(header::HOST).and_then(|h| h.to_str().ok());
        // HTTP/2 has it in the URI. It goes into a header, between quotes: nothing but an authority gets there.
        let host = uri.authority().map(Authority::as_str).or(said);
        let host = host
            .filter(|h| h.parse::<Authority>().is_ok_and(|a| plain(&a)))
            .unwrap_or(&self.authority);
        let ended = headers
            .get("x-forwarded-proto")
            .is_some_and(|p| p.as_bytes().eq_ignore_ascii_case(b"https"));
        format!("{}://{host}", self.scheme(ended))
    }
}

/// Whether an authority is a host and perhaps a port, without anything that could end a quoted string.
fn plain(authority: &Authority) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]".contains(&b);
    authority.as_str().bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_meet_credentials_and_tls_unless_the_operator_says_otherwise() {
        let on = Some(true);
        let off = Some(false);
        for (addr, insecure, auth, tls, expected) in [
            // On a laptop nothing is asked for.
            ("127.0.0.1:5000", false, None, None, "open http"),
            ("[::1]:5000", false, None, None, "open http"),
            ("127.0.0.1:5000", false, on, None, "auth http"),
            ("127.0.0.1:5000", false, on, on, "auth https"),
            ("127.0.0.1:5000", false, None, on, "open https"),
            ("127.0.0.1:5000", true, None, None, "open http"),
            ("0.0.0.0:5000", false, None, None, "auth https"),
            ("10.0.0.1:5000", false, on, on, "auth https"),
            ("10.0.0.1:5000", false, off, None, "E_REGISTRY_OPEN"),
            ("10.0.0.1:5000", false, off, on, "E_REGISTRY_OPEN"),
            ("10.0.0.1:5000", false, None, off, "E_REGISTRY_CLEAR"),
            ("10.0.0.1:5000", true, None, None, "open http"),
            ("10.0.0.1:5000", true, on, None, "auth http"),
            ("10.0.0.1:5000", true, on, on, "auth https"),
        ] {
            let listener = RegistryListener {
                insecure,
                auth,
                tls,
                certificate: None,
            };
            let found = match listener.at(addr.parse().unwrap()) {
                Err(e) => e.to_string(),
                Ok(g) => format!(
                    "{} {}",
                    if g.auth { "auth" } else { "open" },
                    if g.tls { "https" } else { "http" }
                ),
            };
            assert!(
                found.starts_with(expected),
                "{addr} {insecure} {auth:?} {tls:?}: {found}"
            );
        }
        let mut own = RegistryListener {
            certificate: Some(("c".into(), "k".into())),
            ..RegistryListener::default()
        };
        let addr = "127.0.0.1:5000".parse().unwrap();
        let expected = Guarded {
            auth: false,
            tls: true,
        };
        assert_eq!(own.at(addr).unwrap(), expected);
        own.tls = off;
        assert!(
            own.at(addr)
                .unwrap_err()
                .to_string()
                .starts_with("E_REGISTRY_TLS")
        );
    }

    #[test]
    fn an_origin_is_what_the_client_used() {
        let door = |tls| Door {
            open: false,
            tls,
            authority: "own:5000".into(),
        };
        let headers = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            headers
        };
        for (tls, uri, pairs, expected) in [
            (false, "/v2/", &[("host", "h:1")][..], "http://h:1"),
            (true, "/v2/", &[("host", "[::1]:1")], "https://[::1]:1"),
            (true, "https://h2:1/v2/", &[], "https://h2:1"),
            (false, "/v2/", &[], "http://own:5000"),
            (
                false,
                "/v2/",
                &[("host", "h"), ("x-forwarded-proto", "https")],
                "https://h",
            ),
            (false, "/v2/", &[("host", "h\",x=\"")], "http://own:5000"),
            (false, "/v2/", &[("host", "u:p@h")], "http://own:5000"),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(door(tls).origin(&uri, &headers(pairs)), expected);
        }
    }
}
