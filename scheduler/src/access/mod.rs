//! Who may use the registry, and how they say who they are.
//!
//! ```text
//! certificate ──────────────────────────────┐
//! Basic, Bearer: a registry token (logins) ─┼─> Caller ─ verdict::decide ─> allow, 401 with a challenge, 403
//! Bearer: a bearer token (bearer) ──────────┘                                          │
//!         ^──────────── service: /v2/token <────────────────────────────────────────────┘
//! ```
//!
//! [`verdict`] decides and does nothing else; [`door`] says what holds on which listener; the rest fetches what they ask
//! about. A repository belongs to the namespace that its first segment names; the namespace says with the annotation
//! [`ANONYMOUS_PULL`] whether everybody may pull from it. What everybody, a user or a token may is looked up at each use:
//! what is revoked is revoked at once, also for bearer tokens that were issued before.

mod bearer;
mod credentials;
mod door;
mod keys;
mod logins;
mod scope;
mod served;
mod service;
mod verdict;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing;
use coracle_api::{ApiError, Key, Timestamp};
use coracle_registry::BoxFuture;
use coracle_registry::authorise::{Access, Authorise, Verdict, namespace};
use coracle_registry::name::Name;
use coracle_server::Identity;
use coracle_state::{Propose, View, Views};
use http::{Extensions, HeaderMap};

use crate::pki::Ca;
use bearer::{Claims, Subject};
use credentials::Credentials;
pub(crate) use door::Door;
pub use door::RegistryListener;
use keys::Keys;
pub use logins::RegistryRole;
pub(crate) use logins::{LOGINS, Logins, TTL_DEFAULT};
pub(crate) use served::Served;
use verdict::{Caller, TOKEN_PATH, Who};

/// Annotation of a Namespace: `"true"` lets everybody pull from its repositories.
pub(crate) const ANONYMOUS_PULL: &str = "registry.coracle.dev/anonymous-pull";

/// What a request came through, for the guard.
#[derive(Clone, Debug)]
struct Visit {
    open: bool,
    origin: String,
}

/// Asks everybody who they are.
pub(crate) struct Guard {
    logins: Arc<Logins>,
    keys: Keys,
    ca: Arc<Ca>,
    views: Arc<dyn Views>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Guard {
    pub fn new(
        logins: Arc<Logins>,
        ca: Arc<Ca>,
        propose: Arc<dyn Propose>,
        views: Arc<dyn Views>,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self {
            logins,
            keys: Keys::new(propose, views.clone(), ca.clone()),
            ca,
            views,
            clock,
        })
    }

    /// Puts the token service beside the registry, and what a listener is in front of both.
    pub fn router(self: &Arc<Self>, registry: Router, door: Door) -> Router {
        let token = routing::get(service::get).post(service::post);
        Router::new()
            .route(TOKEN_PATH, token)
            .with_state(self.clone())
            .merge(registry)
            .layer(middleware::from_fn_with_state(Arc::new(door), enter))
    }

    /// Who came with a certificate of the cluster.
    fn certified(&self, extensions: &Extensions) -> Who {
        match extensions.get::<Identity>() {
            Some(who) if !who.is_anonymous() => Who::User(who.clone()),
            _ => Who::Nobody,
        }
    }

    /// Who asks; `None`: with credentials that are none, or no longer.
    async fn caller(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<Caller>, ApiError> {
        let secret = match Credentials::of(headers) {
            Credentials::Absent => return Ok(Some(Caller::Direct(self.certified(extensions)))),
            Credentials::Unreadable => return Ok(None),
            Credentials::Password(secret) | Credentials::Bearer(secret) => secret,
        };
        if secret.starts_with(logins::PREFIX) {
            let login = self.logins.check(&secret).await?;
            return Ok(login.map(|login| Caller::Direct(Who::Login(login))));
        }
        let Some(key) = self.keys.verifying().await? else {
            return Ok(None);
        };
        let claims = Claims::verify(&secret, &key, self.ca.cluster(), (self.clock)());
        let claims = match claims {
            Ok(claims) => claims,
            Err(why) => {
                tracing::debug!(?why, "a bearer token does not count");
                return Ok(None);
            }
        };
        let who = match claims.subject {
            Subject::Nobody => Who::Nobody,
            Subject::User { name, groups } => Who::User(Identity {
                user: name,
                groups,
                node_id: None,
            }),
            Subject::Login { id } => match self.logins.known(&id).await? {
                Some(login) => Who::Login(login),
                // It was revoked, or its time is over: so is that of everything issued for it.
                None => return Ok(None),
            },
        };
        Ok(Some(Caller::Bearer(who, claims.scopes)))
    }

    async fn decide(&self, access: Access<'_>) -> Verdict {
        let visit = access.extensions.get::<Visit>();
        if visit.is_some_and(|v| v.open) {
            return Verdict::Allow;
        }
        let origin = visit.map_or("", |v| v.origin.as_str());
        let (action, repository) = (access.action, access.repository);
        match self.caller(access.headers, access.extensions).await {
            Ok(Some(caller)) => {
                let view = self.views.view();
                let is_open = |name: &Name| is_open(&view, name);
                verdict::decide(action, repository, &caller, &is_open, origin)
            }
            Ok(None) => verdict::unknown(action, repository, origin),
            Err(error) => Verdict::Unavailable(error.message),
        }
    }
}

impl Authorise for Guard {
    fn authorise<'a>(&'a self, access: Access<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.decide(access))
    }
}

/// Says what a request came through.
async fn enter(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let visit = Visit {
        open: door.open,
        origin: door.origin(request.uri(), request.headers()),
    };
    request.extensions_mut().insert(visit);
    next.run(request).await
}

/// To whom a bearer token is issued.
fn subject(who: &Who) -> Subject {
    match who {
        Who::Nobody => Subject::Nobody,
        Who::User(identity) => Subject::User {
            name: identity.user.clone(),
            groups: identity.groups.clone(),
        },
        Who::Login(login) => Subject::Login {
            id: login.id.clone(),
        },
    }
}

/// Whether everybody may pull from a repository.
fn is_open(view: &View, repository: &Name) -> bool {
    let key = Key::new("", namespace(repository));
    let found = view.get("namespaces", &key);
    found.is_some_and(|obj| obj.value()["metadata"]["annotations"][ANONYMOUS_PULL] == "true")
}
