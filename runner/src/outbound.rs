//! Requests that guests make: to a sibling on localhost, to a Service, or to the world.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use coracle_api::Key;
use coracle_engine::{Body, CallContext, Outbound, OutboundError};
use coracle_proxy::{Failure, InternalError, LocalReplica, Proxy};
use futures_util::future::BoxFuture;
use http::header::HOST;
use http::uri::Scheme;
use http::{Request, Response, StatusCode};

use crate::replicas::Replicas;

/// The way out of the guests of this node.
pub(crate) struct Net {
    /// Set once the proxy runs; the proxy needs the replicas first and the replicas need a way out.
    pub proxy: OnceLock<Proxy>,
    pub replicas: Replicas,
}

/// The way out of one pod.
pub(crate) struct PodOutbound {
    pub net: Arc<Net>,
    pub pod: Key,
    pub uid: String,
    pub ip: Option<IpAddr>,
}

impl Outbound for PodOutbound {
    fn send(
        &self,
        ctx: CallContext,
        req: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, OutboundError>> {
        let onward = coracle_proxy::CallContext {
            depth: ctx.depth,
            deadline: ctx.deadline,
            ..Default::default()
        };
        let (host, port) = target(&req);
        if self.is_own(&host) {
            return self.sibling(onward, port, req);
        }
        let Some(proxy) = self.net.proxy.get().cloned() else {
            return Box::pin(async {
                Err(OutboundError::Unavailable("the node is starting".into()))
            });
        };
        let internal = proxy.internal(onward.clone(), &self.pod.namespace, req);
        Box::pin(async move {
            match internal.await {
                Ok(response) => Ok(response),
                Err(InternalError::NotAService { request, .. }) => {
                    let mut req = *request;
                    coracle_proxy::absolute(Scheme::HTTP, &mut req).map_err(|f| translate(&f))?;
                    proxy.outside(&onward, req).await.map_err(|f| translate(&f))
                }
            }
        })
    }
}

impl PodOutbound {
    /// Whether a host is the pod itself.
    fn is_own(&self, host: &str) -> bool {
        let literal = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .ok();
        host.eq_ignore_ascii_case("localhost")
            || literal.is_some_and(|ip| ip.is_loopback() || Some(ip) == self.ip)
    }

    /// A request to a container of the same pod: no proxy, as localhost needs none.
    fn sibling(
        &self,
        ctx: coracle_proxy::CallContext,
        port: u16,
        req: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, OutboundError>> {
        match self.net.replicas.pod(&self.uid) {
            Some(pod) if pod.on_port(port).is_some() => {
                let call = pod.call(ctx, port, req);
                Box::pin(async move {
                    call.await.map_err(|e| match e.status {
                        StatusCode::LOOP_DETECTED => OutboundError::Loop,
                        StatusCode::GATEWAY_TIMEOUT => OutboundError::Timeout,
                        _ => OutboundError::Unavailable(e.to_string()),
                    })
                })
            }
            _ => Box::pin(async move {
                Err(OutboundError::Unavailable(format!(
                    "no container of the pod serves on localhost:{port}"
                )))
            }),
        }
    }
}

/// Host and port a request is for.
fn target(req: &Request<Body>) -> (String, u16) {
    let default = if req.uri().scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let text = match req.uri().authority() {
        Some(authority) => authority.as_str().to_string(),
        None => req
            .headers()
            .get(HOST)
            .and_then(|h| h.to_str().ok())
            .unwrap_or_default()
            .to_string(),
    };
    match text.parse::<http::uri::Authority>() {
        Ok(authority) => (
            authority.host().to_string(),
            authority.port_u16().unwrap_or(default),
        ),
        Err(_) => (text, default),
    }
}

fn translate(failure: &Failure) -> OutboundError {
    let text = failure.to_string();
    match (failure.status, failure.code.as_ref()) {
        (StatusCode::GATEWAY_TIMEOUT, _) => OutboundError::Timeout,
        (StatusCode::LOOP_DETECTED, _) => OutboundError::Loop,
        (_, "upstream_reset") => OutboundError::Connection(text),
        (StatusCode::BAD_REQUEST, _) => OutboundError::NotFound(text),
        _ => OutboundError::Unavailable(text),
    }
}

/// Which addresses outside the cluster guests may reach. Never this machine itself, link-local addresses (where clouds
/// keep their metadata services), or what is no single host.
pub(crate) fn may_reach(ip: IpAddr, private: bool) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && (64..128).contains(&v4.octets()[1]);
            let never = v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast();
            !never && v4.octets()[0] != 0 && (private || !(v4.is_private() || shared))
        }
        IpAddr::V6(v6) => {
            let never = v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local();
            !never && (private || !v6.is_unique_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_do_not_reach_into_the_machine() {
        for (ip, open, strict) in [
            ("127.0.0.1", false, false),
            ("::1", false, false),
            ("::ffff:127.0.0.1", false, false),
            ("169.254.169.254", false, false),
            ("fe80::1", false, false),
            ("0.0.0.0", false, false),
            ("224.0.0.1", false, false),
            ("10.0.0.1", true, false),
            ("192.168.1.1", true, false),
            ("100.64.0.1", true, false),
            ("fd00::1", true, false),
            ("1.1.1.1", true, true),
            ("2606:4700::1111", true, true),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(
                (may_reach(ip, true), may_reach(ip, false)),
                (open, strict),
                "{ip}"
            );
        }
    }

    #[test]
    fn the_target_is_read_from_the_uri_or_the_host_header() {
        let req = |uri: &str, host: &str| {
            let mut b = Request::builder().uri(uri);
            if !host.is_empty() {
                b = b.header(HOST, host);
            }
            target(&b.body(coracle_engine::empty_body()).unwrap())
        };
        assert_eq!(req("http://web.ns:8080/x", ""), ("web.ns".into(), 8080));
        assert_eq!(req("https://web/", ""), ("web".into(), 443));
        assert_eq!(req("/x", "localhost:9000"), ("localhost".into(), 9000));
        assert_eq!(req("/x", "web"), ("web".into(), 80));
    }
}
