//! The receiving end of a hop: another node's proxy asks for a replica here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_route::headers as names;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};

use crate::body::{self, Body, BoxError, Tracked};
use crate::edge;
use crate::failure::Failure;
use crate::forward;
use crate::ids;
use crate::peers::{AUTHORITY, DEADLINE_MS, DEPTH, POD_UID, PORT, REFUSED};
use crate::replica::{CALL_DEPTH_MAX, CallContext};
use crate::shared::PerCore;
use crate::ticket::Ticket;

/// Group of the runners' certificates.
pub const NODES_GROUP: &str = "system:nodes";
/// Group of the members' certificates.
pub const MEMBERS_GROUP: &str = "system:members";

/// Who sent the request, from the client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Common name, for example `system:node:n1`.
    pub name: String,
    /// Organisations.
    pub groups: Vec<String>,
}

impl PeerIdentity {
    fn may_forward(&self) -> bool {
        self.groups
            .iter()
            .any(|g| g == NODES_GROUP || g == MEMBERS_GROUP)
    }
}

/// What the sender asks for.
struct Wanted {
    pod_uid: String,
    port: u16,
    ctx: CallContext,
}

/// Serves one request of a peer.
pub(crate) async fn serve<B>(
    core: Arc<PerCore>,
    req: Request<B>,
    peer: PeerIdentity,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let started = Instant::now();
    let (mut parts, incoming) = req.into_parts();
    let request_id = ids::request_id(&parts.headers, &core.numbers);
    let mut ticket = Ticket::new(&core, started, None, request_id.clone());
    ticket.assign(&core.shared.from_peers, None);
    if !peer.may_forward() {
        let failure = Failure::new(
            StatusCode::FORBIDDEN,
            "not_a_peer",
            format!(
                "{:?} may not send requests to replicas of this node",
                peer.name
            ),
        );
        return boxed(forward::failed(&failure, ticket));
    }
    let wanted = match wanted(&parts.headers, started, &request_id) {
        Ok(wanted) => wanted,
        Err(failure) => return boxed(forward::failed(&failure, ticket)),
    };
    if let Some(authority) = parts.headers.remove(AUTHORITY) {
        parts.headers.insert(HOST, authority);
    }
    if let Some(target) = parts.uri.path_and_query().cloned() {
        parts.uri = Uri::from(target);
    }
    parts.version = Version::HTTP_11;
    if let Err(failure) = edge::strip(&mut parts.headers, true) {
        return boxed(forward::failed(&failure, ticket));
    }
    let Some(replica) = core.shared.config.replicas.get(&wanted.pod_uid) else {
        let failure = Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "pod_unknown",
            format!("the pod {} is not running on this node", wanted.pod_uid),
        );
        return refused(&failure, ticket);
    };
    let pod = {
        let live = core.shared.live.load();
        live.slot(&wanted.pod_uid)
            .map(|slot| live.pods[slot].clone())
    };
    ticket.assign(&core.shared.from_peers, pod);
    let req = Request::from_parts(parts, body::boxed(incoming));
    match replica.call(wanted.ctx, wanted.port, req).await {
        Ok(mut response) => {
            // Nothing a replica says may look like a word between nodes.
            drop(edge::strip(response.headers_mut(), false));
            ticket.answered(response.status(), None);
            boxed(response.map(|body| Tracked::new(body, ticket)))
        }
        Err(error) => {
            let mut failure = Failure::new(error.status, "replica", error.message);
            failure.code = error.code;
            failure.fix = error.fix;
            if error.retriable {
                refused(&failure, ticket)
            } else {
                boxed(forward::failed(&failure, ticket))
            }
        }
    }
}

/// An answer that lets the sender try elsewhere.
fn refused(failure: &Failure, ticket: Ticket) -> Response<Body> {
    let mut response = forward::failed(failure, ticket);
    let code = HeaderValue::from_str(&failure.code).unwrap_or(HeaderValue::from_static("refused"));
    response.headers_mut().insert(REFUSED, code);
    boxed(response)
}

fn boxed(response: Response<Tracked>) -> Response<Body> {
    use http_body_util::BodyExt;
    response.map(BodyExt::boxed_unsync)
}

fn wanted(headers: &HeaderMap, now: Instant, request_id: &HeaderValue) -> Result<Wanted, Failure> {
    let text = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let bad = |name: &str| {
        Failure::bad_request(format!("a request from a peer needs a good {name} header"))
    };
    let pod_uid = text(&POD_UID)
        .filter(|u| !u.is_empty())
        .ok_or_else(|| bad(names::POD_UID))?;
    let port = text(&PORT)
        .and_then(|p| p.parse().ok())
        .ok_or_else(|| bad(names::PORT))?;
    let depth = text(&DEPTH)
        .and_then(|d| d.parse().ok())
        .ok_or_else(|| bad(names::DEPTH))?;
    if depth > CALL_DEPTH_MAX {
        return Err(loop_detected());
    }
    let deadline = match text(&DEADLINE_MS) {
        Some(ms) => {
            let left: u64 = ms.parse().map_err(|_| bad(names::DEADLINE_MS))?;
            now.checked_add(Duration::from_millis(left))
        }
        None => None,
    };
    Ok(Wanted {
        pod_uid: pod_uid.into(),
        port,
        ctx: CallContext {
            depth,
            deadline,
            request_id: Some(request_id.clone()),
            traceparent: headers.get(ids::TRACEPARENT).cloned(),
        },
    })
}

/// 508 for a chain of calls that is too long.
pub(crate) fn loop_detected() -> Failure {
    Failure::new(
        StatusCode::LOOP_DETECTED,
        "loop_detected",
        format!("services called each other more than {CALL_DEPTH_MAX} times for one request"),
    )
    .fix("break the circle of calls between the services")
}
