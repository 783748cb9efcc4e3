//! The front door: a request from outside is checked, brought into one form, routed, and its answer signed.

use std::sync::Arc;
use std::time::Instant;

use coracle_route::headers::{Rule, rule};
use coracle_route::path::TARGET_BYTES_MAX;
use coracle_route::{Normal, normalise};
use http::header::{CONNECTION, HOST};
use http::uri::PathAndQuery;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    request,
};
use hyper::body::Incoming;

use crate::access::Note;
use crate::body::{self, Tracked};
use crate::connection::ConnState;
use crate::failure::Failure;
use crate::forward::{self, Route};
use crate::ids;
use crate::replica::CallContext;
use crate::shared::PerCore;
use crate::ticket::Ticket;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Serves one request of a client.
pub(crate) async fn serve(
    core: &Arc<PerCore>,
    conn: &ConnState,
    req: Request<Incoming>,
) -> Response<Tracked> {
    let started = Instant::now();
    let (mut parts, incoming) = req.into_parts();
    let request_id = ids::request_id(&parts.headers, &core.numbers);
    let traceparent = ids::traceparent(parts.headers.get(ids::TRACEPARENT), &core.numbers);
    let note = core.log.is_wanted().then(|| {
        let host = parts
            .headers
            .get(HOST)
            .and_then(|h| h.to_str().ok())
            .unwrap_or_default();
        Note::new(&parts.method, host, parts.uri.path(), conn.client)
    });
    let ticket = Ticket::new(core, started, note, request_id.clone());
    let checked = check(&parts).and_then(|()| normal_form(&mut parts));
    let mut response = match checked {
        Ok(()) => {
            let headers = &mut parts.headers;
            headers.insert(ids::REQUEST_ID, request_id.clone());
            headers.insert(ids::TRACEPARENT, traceparent.clone());
            // What a client says about its own way here is not to be believed at the edge.
            headers.insert(FORWARDED_FOR, conn.forwarded_for.clone());
            headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
            if let Some(host) = headers.get(HOST).cloned() {
                headers.insert(FORWARDED_HOST, host);
            }
            let ctx = CallContext {
                depth: 0,
                deadline: core.shared.config.request_timeout.map(|t| started + t),
                request_id: Some(request_id.clone()),
                traceparent: Some(traceparent.clone()),
            };
            forward::forward(
                core,
                &Route::Ingress,
                ctx,
                Request::from_parts(parts, body::boxed(incoming)),
                ticket,
            )
            .await
        }
        Err(failure) => forward::failed(&failure, ticket),
    };
    let headers = response.headers_mut();
    headers.insert(ids::REQUEST_ID, request_id);
    headers.insert(ids::TRACEPARENT, traceparent);
    headers.append(SERVER_TIMING, server_timing(started));
    response
}

/// Refuses what is HTTP but not for this proxy.
fn check(parts: &request::Parts) -> Result<(), Failure> {
    if parts.method == Method::CONNECT {
        return Err(Failure::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "no_tunnel",
            "this proxy opens no tunnels",
        ));
    }
    let target_len = parts.uri.path_and_query().map_or(0, |t| t.as_str().len());
    if target_len > TARGET_BYTES_MAX {
        let message =
            format!("the request target has {target_len} bytes; {TARGET_BYTES_MAX} are allowed");
        return Err(Failure::new(
            StatusCode::URI_TOO_LONG,
            "target_too_long",
            message,
        ));
    }
    if parts.version == Version::HTTP_11 && !parts.headers.contains_key(HOST) {
        return Err(Failure::bad_request(
            "an HTTP/1.1 request needs a Host header",
        ));
    }
    Ok(())
}

/// Brings a request into the form in which it is routed and passed on: origin form, one Host, a normal path, no headers
/// that belong to the last hop.
///
/// # Errors
/// 400 for a path or a header that cannot be passed on safely.
pub(crate) fn normal_form(parts: &mut request::Parts) -> Result<(), Failure> {
    if let Some(authority) = parts.uri.authority() {
        // The absolute form wins over Host (RFC 9112, section 3.2.2).
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|_| Failure::bad_request("the authority is not text"))?;
        parts.headers.insert(HOST, host);
        let target = parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or(PathAndQuery::from_static("/"));
        parts.uri = Uri::from(target);
    }
    // `OPTIONS *` asks about the server as a whole; there is one behind each route, so it means the root.
    if parts.uri.path() == "*" {
        parts.uri = Uri::from_static("/");
    }
    let normal: Normal<'_> =
        normalise(parts.uri.path()).map_err(|bad| Failure::bad_request(bad.to_string()))?;
    if let std::borrow::Cow::Owned(path) = normal.forward {
        let text = match parts.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        parts.uri = text
            .parse()
            .map_err(|_| Failure::bad_request("the path is not a valid URI"))?;
    }
    strip(&mut parts.headers, true)
}

/// Removes the headers of the last hop and of our own parts.
///
/// # Errors
/// 400 for a header that imitates another one through underscores (requests only).
pub(crate) fn strip(headers: &mut HeaderMap, is_request: bool) -> Result<(), Failure> {
    let mut removes = 0;
    for name in headers.keys() {
        match rule(name.as_str()) {
            Rule::Keep => {}
            Rule::Remove => removes += 1,
            Rule::Refuse if is_request => {
                return Err(Failure::bad_request(format!(
                    "the header {name} imitates another one"
                ))
                .fix("write the name with dashes"));
            }
            Rule::Refuse => {}
        }
    }
    if removes == 0 {
        return Ok(());
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // Framing and addressing are not the client's to switch off.
        .filter(|name| !matches!(name.as_str(), "host" | "content-length"))
        .collect();
    let by_rule: Vec<HeaderName> = headers
        .keys()
        .filter(|n| rule(n.as_str()) == Rule::Remove)
        .cloned()
        .collect();
    for name in by_rule.iter().chain(&named) {
        headers.remove(name);
    }
    Ok(())
}

/// `coracle;dur=1.234`: milliseconds from the head of the request to the head of the response.
fn server_timing(started: Instant) -> HeaderValue {
    use std::io::Write;
    let us = started.elapsed().as_micros();
    let mut text = [0u8; 48];
    let room = text.len();
    let mut rest = text.as_mut_slice();
    let fits = write!(rest, "coracle;dur={}.{:03}", us / 1000, us % 1000).is_ok();
    let used = room - rest.len();
    if !fits {
        return HeaderValue::from_static("coracle");
    }
    HeaderValue::from_bytes(&text[..used]).unwrap_or(HeaderValue::from_static("coracle"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn hop_by_hop_headers_and_our_own_are_removed() {
        let mut p = parts(
            "/a//b?q=1",
            &[
                ("host", "x"),
                ("connection", "close, x-secret, host"),
                ("x-secret", "1"),
                ("te", "trailers"),
                ("coracle-pod-uid", "u"),
                ("accept", "*/*"),
            ],
        );
        normal_form(&mut p).unwrap();
        let names: Vec<&str> = p.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["host", "accept"]);
        assert_eq!(p.uri, "/a/b?q=1");
    }

    #[test]
    fn the_absolute_form_becomes_host_and_path() {
        let mut p = parts("http://real.test:81/x?y", &[("host", "fake")]);
        normal_form(&mut p).unwrap();
        assert_eq!(
            (
                p.uri.to_string().as_str(),
                p.headers[HOST].to_str().unwrap()
            ),
            ("/x?y", "real.test:81")
        );
    }

    #[test]
    fn imitations_and_bad_paths_are_refused() {
        for (uri, header) in [
            ("/", "content_length"),
            ("/", "x_forwarded_for"),
            ("/%00", "accept"),
            ("/..", "accept"),
        ] {
            let failure =
                normal_form(&mut parts(uri, &[("host", "x"), (header, "1")])).unwrap_err();
            assert_eq!(failure.status, StatusCode::BAD_REQUEST, "{uri} {header}");
        }
    }

    #[test]
    fn the_time_is_milliseconds() {
        let text = server_timing(Instant::now());
        assert!(
            text.to_str().unwrap().starts_with("coracle;dur=0.0"),
            "{text:?}"
        );
    }
}
