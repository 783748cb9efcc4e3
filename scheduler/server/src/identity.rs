//! Who is asking. The TLS acceptor puts an [`Identity`] into the request's extensions; a bearer token replaces it.

use coracle_api::ApiError;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::context::Context;

/// The user without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group every authenticated user is in.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of scheduler members.
pub const MEMBERS: &str = "system:members";
/// The group of runners.
pub const NODES: &str = "system:nodes";

/// A user and its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User name: the certificate's common name.
    pub user: String,
    /// Groups: the certificate's organisations, and `system:authenticated`.
    pub groups: Vec<String>,
    /// Node id of a runner or member (16 hex digits), from the certificate's URI `coracle://CLUSTER/nodes/ID`.
    pub node_id: Option<String>,
}

impl Identity {
    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self {
            user: ANONYMOUS.into(),
            groups: vec!["system:unauthenticated".into()],
            node_id: None,
        }
    }

    /// An authenticated user.
    pub fn new(user: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| g.to_string()).collect();
        groups.push(AUTHENTICATED.into());
        Self {
            user: user.into(),
            groups,
            node_id: None,
        }
    }

    /// From a verified client certificate: CN = user, O = groups. `None` if it has no common name.
    pub fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let user = subject
            .iter_common_name()
            .next()?
            .as_str()
            .ok()?
            .to_string();
        if user.is_empty() || user == ANONYMOUS {
            return None;
        }
        let groups: Vec<&str> = subject
            .iter_organization()
            .filter_map(|o| o.as_str().ok())
            .collect();
        Some(Self {
            node_id: node_id(&certificate),
            ..Self::new(user, &groups)
        })
    }

    /// Whether nothing is known about the client.
    pub fn is_anonymous(&self) -> bool {
        !self.in_group(AUTHENTICATED)
    }

    /// Membership.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name if this is a runner.
    pub fn node(&self) -> Option<&str> {
        self.in_group(NODES)
            .then(|| self.user.strip_prefix("system:node:"))
            .flatten()
            .filter(|n| !n.is_empty())
    }
}

/// The id in a node's certificate.
fn node_id(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| {
        let GeneralName::URI(uri) = name else {
            return None;
        };
        let (_, id) = uri.strip_prefix("coracle://")?.split_once("/nodes/")?;
        let digits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (id.len() == 16 && id.bytes().all(digits)).then(|| id.to_string())
    })
}

/// The identity of a request: its bearer token if it has one, else the client certificate, else anonymous.
pub fn of(
    ctx: &Context,
    headers: &HeaderMap,
    peer: Option<&Identity>,
) -> Result<Identity, ApiError> {
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    if let Some(token) = bearer {
        return ctx
            .config
            .bearer
            .as_ref()
            .and_then(|check| check(token))
            .ok_or_else(unauthorized);
    }
    Ok(peer.cloned().unwrap_or_else(Identity::anonymous))
}

/// 401.
pub fn unauthorized() -> ApiError {
    ApiError::new(
        401,
        "Unauthorized",
        "Unauthorized: use the client certificate of the kubeconfig that `coracle` printed",
    )
}
