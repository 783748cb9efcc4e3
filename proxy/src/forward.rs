//! From a request in normal form to a response: route, choose, call, and try once more where that is safe.
//!
//! Requests from outside and components' own requests take this same path. A replica on this node is called in process; no
//! socket, no thread change.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_route::{Endpoint, Match, Miss, Parts, find, find_service, normalise, pick_except};
use http::header::HOST;
use http::{Method, Request, Response, StatusCode};

use crate::body::{self, Body, Tracked};
use crate::edge;
use crate::failure::Failure;
use crate::live::{Loads, PodState, ServiceState};
use crate::peers::Hop;
use crate::replica::{CallContext, LocalReplica};
use crate::shared::PerCore;
use crate::ticket::Ticket;

/// Attempts for one request: the first and one retry.
const ATTEMPTS_MAX: u32 = 2;

/// How the destination of a request is looked up.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// By Ingress rules.
    Ingress,
    /// By a name or address inside the cluster, as pods of this namespace mean it.
    Internal {
        namespace: Arc<str>,
        default_port: u16,
    },
}

/// Where a request is sent.
enum Place {
    Local(Arc<dyn LocalReplica>, u16),
    Peer(Hop),
    External(std::net::SocketAddr),
    /// The endpoint cannot be reached from here (yet): why.
    Nowhere(Cow<'static, str>),
}

struct Chosen {
    service: Arc<ServiceState>,
    pod: Arc<PodState>,
    place: Place,
    /// Whether there is a second endpoint that a retry could take.
    has_other: bool,
}

/// Why an attempt gave no response.
struct Refusal {
    failure: Failure,
    /// The request for the next attempt; `None` if it must not be made again.
    again: Option<Request<Body>>,
}

/// An answer of the proxy itself.
pub(crate) fn failed(failure: &Failure, mut ticket: Ticket) -> Response<Tracked> {
    ticket.answered(failure.status, Some(failure.code.clone()));
    failure.response().map(|body| Tracked::new(body, ticket))
}

/// Sends a request to where it belongs. Every outcome is a response.
pub(crate) async fn forward(
    core: &Arc<PerCore>,
    route: &Route,
    ctx: CallContext,
    mut req: Request<Body>,
    mut ticket: Ticket,
) -> Response<Tracked> {
    let mut refused: Option<Arc<PodState>> = None;
    let mut attempt = 1;
    loop {
        if let Some(deadline) = ctx.deadline
            && Instant::now() >= deadline
        {
            return failed(&too_late(), ticket);
        }
        let chosen = match choose(core, route, &req, ticket.started, refused.as_deref()) {
            Ok(chosen) => chosen,
            Err(miss) => return failed(&Failure::from(miss), ticket),
        };
        if !ticket.assign(&chosen.service, Some(chosen.pod.clone())) {
            let failure = Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "queue_full",
                format!(
                    "too many requests to {} are in flight",
                    chosen.service.label
                ),
            );
            return failed(
                &failure
                    .fix("add replicas, or send fewer requests at a time")
                    .retry_after(1),
                ticket,
            );
        }
        let pod = chosen.pod.clone();
        let may_repeat = attempt < ATTEMPTS_MAX && chosen.has_other;
        match call(core, &ctx, chosen, req, may_repeat).await {
            Ok(mut response) => {
                let status = response.status();
                if status.is_server_error() {
                    note_failure(core, &pod);
                } else {
                    pod.succeeded();
                }
                // Answers of replicas are only stripped; imitations are their own affair.
                drop(edge::strip(response.headers_mut(), false));
                ticket.answered(status, None);
                return response.map(|body| Tracked::new(body, ticket));
            }
            Err(refusal) => {
                note_failure(core, &pod);
                match refusal.again {
                    Some(again) if attempt < ATTEMPTS_MAX && core.may_retry() => {
                        tracing::debug!(pod = %pod.id, why = %refusal.failure, "a request is tried elsewhere");
                        req = again;
                        refused = Some(pod);
                        attempt += 1;
                    }
                    _ => return failed(&refusal.failure, ticket),
                }
            }
        }
    }
}

fn note_failure(core: &PerCore, pod: &PodState) {
    if pod.failed(core.shared.millis(Instant::now())) {
        tracing::warn!(pod = %pod.id, "an endpoint keeps failing and is left out for a while");
    }
}

fn too_late() -> Failure {
    Failure::new(
        StatusCode::GATEWAY_TIMEOUT,
        "deadline_exceeded",
        "the request's time was over before it was answered",
    )
}

/// Looks a request up in the table in force. Borrows nothing beyond the call, so that a table can go at any time.
fn choose(
    core: &PerCore,
    route: &Route,
    req: &Request<Body>,
    now: Instant,
    refused: Option<&PodState>,
) -> Result<Chosen, Miss> {
    let live = core.shared.live.load();
    let host = req
        .headers()
        .get(HOST)
        .and_then(|h| h.to_str().ok())
        .unwrap_or_default();
    let found = match route {
        Route::Ingress => {
            // In normal form already, so this is one scan without allocation, except for paths with escapes.
            let normal = normalise(req.uri().path()).map_err(|_| Miss::BadAuthority {
                authority: req.uri().path().to_string(),
            })?;
            find(
                &live.table,
                &Parts {
                    host,
                    path: &normal.matching,
                    method: req.method().as_str(),
                },
            )?
        }
        Route::Internal {
            namespace,
            default_port,
        } => find_service(&live.table, host, namespace, *default_port)?,
    };
    let loads = Loads {
        live: &live,
        now_ms: core.shared.millis(now),
    };
    let refused_slot = refused.and_then(|pod| live.slot(&pod.id));
    let index = pick_except(found.endpoints, &loads, core.numbers.next(), refused_slot);
    let Some(endpoint) = index.and_then(|i| found.endpoints.get(i)) else {
        return Err(Miss::NoAddress {
            address: host.to_string(),
        });
    };
    Ok(Chosen {
        service: found.service_slot.map_or_else(
            || core.shared.direct.clone(),
            |slot| live.services[slot].clone(),
        ),
        pod: live.pods[endpoint.slot].clone(),
        place: place(core, &found, endpoint),
        has_other: found.endpoints.usable().len() > 1,
    })
}

fn place(core: &PerCore, found: &Match<'_>, endpoint: &Endpoint) -> Place {
    let port = found.port_of(endpoint);
    if endpoint.local {
        return match core.shared.config.replicas.get(&endpoint.pod_uid) {
            Some(replica) => Place::Local(replica, port),
            None => Place::Nowhere(
                format!("the pod {} is not running on this node", endpoint.pod_name).into(),
            ),
        };
    }
    if endpoint.is_external() {
        return Place::External((endpoint.ip, port).into());
    }
    match endpoint.node_addr {
        Some(addr) => Place::Peer(Hop {
            node: endpoint.node.clone(),
            addr,
            pod_uid: endpoint.pod_uid.clone(),
            port,
        }),
        None => Place::Nowhere(
            format!("the address of the node {:?} is not known", endpoint.node).into(),
        ),
    }
}

/// One attempt.
async fn call(
    core: &Arc<PerCore>,
    ctx: &CallContext,
    chosen: Chosen,
    req: Request<Body>,
    may_repeat: bool,
) -> Result<Response<Body>, Refusal> {
    // A request without a body can be made again even after it was given away; its head is only copied where there is
    // somebody else to give it to.
    let is_empty = http_body::Body::is_end_stream(req.body());
    let spare = (may_repeat && is_empty).then(|| copy_of(&req));
    match chosen.place {
        Place::Local(replica, port) => {
            replica.call(ctx.clone(), port, req).await.map_err(|error| {
                let again = if error.retriable {
                    error.request.map(|r| *r).or(spare)
                } else {
                    None
                };
                let mut failure = Failure::new(error.status, "replica", error.message);
                failure.code = error.code;
                failure.fix = error.fix;
                if error.retriable {
                    failure.retry_after_seconds = Some(1);
                }
                Refusal { failure, again }
            })
        }
        Place::Peer(hop) => {
            let safe = is_repeatable(req.method());
            let sent = in_time(ctx, core.peers.send(&hop, ctx, req)).await;
            let answer = match sent {
                Some(answer) => answer,
                None => {
                    return Err(Refusal {
                        failure: too_late(),
                        again: None,
                    });
                }
            };
            answer.map_err(|error| Refusal {
                // Not sent: always again. Sent and lost: only what may be done twice.
                again: match error.unsent {
                    Some(request) => Some(*request),
                    None if error.refused || safe => spare,
                    None => None,
                },
                failure: error.failure,
            })
        }
        Place::External(addr) => {
            let safe = is_repeatable(req.method());
            match in_time(ctx, core.outside.send_to(addr, req)).await {
                Some(Ok(response)) => Ok(response),
                Some(Err(failure)) => {
                    let never_sent = failure.code == "upstream_connect_failed";
                    Err(Refusal {
                        failure,
                        again: spare.filter(|_| safe || never_sent),
                    })
                }
                None => Err(Refusal {
                    failure: too_late(),
                    again: None,
                }),
            }
        }
        Place::Nowhere(why) => Err(Refusal {
            failure: Failure::new(StatusCode::SERVICE_UNAVAILABLE, "pod_unknown", why)
                .fix("try again; the routes are about to change")
                .retry_after(1),
            again: Some(req),
        }),
    }
}

/// `None` if the deadline came first.
async fn in_time<T>(ctx: &CallContext, work: impl Future<Output = T>) -> Option<T> {
    match ctx.deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.ok(),
        None => Some(work.await),
    }
}

/// Methods that may reach a replica twice (RFC 9110, section 9.2.2).
fn is_repeatable(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    )
}

/// A copy of a request that has no body.
fn copy_of(req: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(body::empty());
    *copy.method_mut() = req.method().clone();
    *copy.uri_mut() = req.uri().clone();
    *copy.version_mut() = req.version();
    *copy.headers_mut() = req.headers().clone();
    copy
}

/// Milliseconds left until a deadline, at least 1.
pub(crate) fn millis_left(deadline: Instant) -> u64 {
    let left = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1));
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}
