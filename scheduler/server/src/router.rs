//! The pipeline of every request, and which handler answers it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use coracle_api::{ApiError, Kind};
use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, header};

use crate::authorise::Attributes;
use crate::call::{Call, permit};
use crate::context::{Context, REQUESTS_MAX};
use crate::identity::{self, Identity};
use crate::path::ResourcePath;
use crate::query::Query;
use crate::reply::{self, Answer};
use crate::subresources::{self, binding, log, scale};
use crate::tls::Closing;
use crate::write::{create, delete, patch, update};
use crate::{body, coracle, discovery, health, list, negotiate, path, read, reviews, watch};

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest `X-Request-Id` that is echoed.
const REQUEST_ID_MAX: usize = 128;

/// The whole API as one router: everything is dispatched here, so that unknown paths get a `Status` too. Other routers
/// (the registry's `/v2`) may be merged into it as long as they bring no fallback.
pub fn router(ctx: Arc<Context>) -> Router {
    Router::new().fallback(dispatch).with_state(ctx)
}

/// What the metrics want to know about a request.
#[derive(Default)]
struct Seen {
    verb: &'static str,
    resource: &'static str,
    stream: bool,
}

async fn dispatch(State(ctx): State<Arc<Context>>, request: Request<Body>) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let mut seen = Seen {
        verb: "OTHER",
        ..Seen::default()
    };
    // A bug in one handler may cost one answer, not the connection with everything else multiplexed on it.
    let answer = AssertUnwindSafe(handle(&ctx, &parts, body, &mut seen)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(method = %parts.method, path = parts.uri.path(), "a request handler panicked");
        Err(ApiError::new(500, "InternalError", "E_INTERNAL: the server failed on this request; its log has the cause"))
    });
    let mut response = answer.unwrap_or_else(|e| reply::error(&e));
    let took = (!seen.stream).then(|| started.elapsed());
    ctx.metrics
        .record(seen.verb, seen.resource, response.status().as_u16(), took);
    finish(&ctx, &parts, &mut response);
    response
}

fn finish(ctx: &Context, parts: &Parts, response: &mut Response) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&ctx.ids(|ids| ids.uid())) {
        headers.insert(HeaderName::from_static("audit-id"), id);
    }
    let request_id = HeaderName::from_static("x-request-id");
    if let Some(id) = parts
        .headers
        .get(&request_id)
        .filter(|id| id.len() <= REQUEST_ID_MAX)
    {
        headers.insert(request_id, id.clone());
    }
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
}

async fn handle(ctx: &Arc<Context>, parts: &Parts, body: Body, seen: &mut Seen) -> Answer {
    let identity = identity::of(ctx, &parts.headers, parts.extensions.get::<Identity>())?;
    let segments = path::segments(parts.uri.path())?;
    match path::resource(&segments) {
        Some(resource) => self::resource(ctx, parts, body, identity, resource, seen).await,
        None => other(ctx, parts, body, identity, &segments, seen).await,
    }
}

/// Paths that are no resource.
async fn other(
    ctx: &Arc<Context>,
    parts: &Parts,
    body: Body,
    identity: Identity,
    segments: &[String],
    seen: &mut Seen,
) -> Answer {
    let path: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = if parts.method == Method::HEAD {
        Method::GET
    } else {
        parts.method.clone()
    };
    seen.verb = if method == Method::GET {
        "GET"
    } else {
        "OTHER"
    };
    let clean = format!("/{}", path.join("/"));
    permit(
        &identity,
        &Attributes {
            verb: &method.as_str().to_ascii_lowercase(),
            path: &clean,
            ..Attributes::default()
        },
    )?;
    if coracle::owns(&path) {
        let decoded = coracle::decode(&read_body(body).await?)?;
        return coracle::answer(ctx, &identity, &method, &path, decoded).await;
    }
    let answer = if path.is_empty() {
        Some(discovery::index())
    } else {
        health::answer(ctx, &path).or_else(|| discovery::answer(ctx, &parts.headers, &path))
    };
    match answer {
        Some(_) if method != Method::GET => Err(reply::not_allowed("use GET")),
        Some(answer) => answer,
        None => Err(reply::unknown_path()),
    }
}

async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(BODY_TIMEOUT, body::read(body)).await {
        Ok(read) => read,
        Err(_) => Err(ApiError::new(
            408,
            "Timeout",
            format!(
                "the request body did not arrive within {} s",
                BODY_TIMEOUT.as_secs()
            ),
        )),
    }
}

/// The API verb of a method on an object or collection.
fn verb(method: &Method, named: bool, watch: bool) -> Option<(&'static str, &'static str)> {
    Some(match (method.as_str(), named) {
        ("GET" | "HEAD", _) if watch => ("watch", "WATCH"),
        ("GET" | "HEAD", true) => ("get", "GET"),
        ("GET" | "HEAD", false) => ("list", "LIST"),
        ("POST", _) => ("create", "CREATE"),
        ("PUT", true) => ("update", "UPDATE"),
        ("PATCH", true) => ("patch", "PATCH"),
        ("DELETE", true) => ("delete", "DELETE"),
        ("DELETE", false) => ("deletecollection", "DELETECOLLECTION"),
        _ => return None,
    })
}

async fn resource(
    ctx: &Arc<Context>,
    parts: &Parts,
    body: Body,
    identity: Identity,
    at: ResourcePath,
    seen: &mut Seen,
) -> Answer {
    let header = |name: HeaderName| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let query = Query::of(&parts.uri)?;
    let watch = query.flag("watch")? && at.subresource.is_empty();
    let Some(kind) = at
        .kind()
        .filter(|k| at.subresource.is_empty() || k.subresource(&at.subresource).is_some())
    else {
        if identity.is_anonymous() {
            return Err(identity::unauthorized());
        }
        return Err(reply::unknown_path());
    };
    seen.resource = kind.plural;
    let Some((verb, label)) = verb(&parts.method, !at.name.is_empty(), watch) else {
        return Err(reply::not_allowed(parts.method.as_str()));
    };
    seen.verb = label;
    let call = Call {
        kind,
        verb,
        namespace: at.namespace,
        name: at.name,
        subresource: at.subresource,
        query,
        accepted: negotiate::accept(header(header::ACCEPT)),
        content_type: body::content_type(&parts.headers),
        identity,
        agent: header(header::USER_AGENT).unwrap_or_default().to_string(),
        closing: parts
            .extensions
            .get::<Closing>()
            .cloned()
            .unwrap_or_default()
            .0,
    };
    if let Err(refused) = call.authorise(&ctx.view(), &call.name) {
        // A node's rights follow its pods: its own watch may be ahead of this member's view.
        if call.identity.node().is_none() || call.kind.table != "pods" {
            return Err(refused);
        }
        call.authorise(&*ctx.fresh().await?, &call.name)?;
    }
    allowed(kind, &call)?;
    if verb == "watch" {
        seen.stream = true;
        return watch::watch(ctx, &call).await;
    }
    if call.subresource == "log" {
        seen.stream = true;
        return log::log(ctx, &call).await;
    }
    if kind.table == "events" && matches!(verb, "create" | "update" | "patch") {
        let busy = ctx.requests.available_permits() < REQUESTS_MAX / 2;
        ctx.shed.admit(&call.identity.user, busy)?;
    }
    let _place = ctx.requests.try_acquire().map_err(|_| {
        reply::later(
            429,
            "TooManyRequests",
            "too many requests are under way on this member, please try again later",
        )
    })?;
    let bytes = if matches!(verb, "get" | "list") {
        Bytes::new()
    } else {
        read_body(body).await?
    };
    route(ctx, &call, &bytes).await
}

/// 405 for verbs the kind does not take, 404 for objects named outside a namespace.
fn allowed(kind: &Kind, call: &Call) -> Result<(), ApiError> {
    let verbs = match kind.subresource(&call.subresource) {
        Some(sub) => sub.verbs,
        None => kind.verbs,
    };
    if !verbs.contains(&call.verb) {
        return Err(reply::not_allowed(&format!(
            "{} is not possible on {}",
            call.verb, kind.plural
        )));
    }
    let everywhere = kind.namespaced() && call.namespace.is_empty();
    if everywhere && !call.name.is_empty() {
        return Err(reply::unknown_path());
    }
    if everywhere && !matches!(call.verb, "list" | "watch") {
        return Err(reply::not_allowed(&format!(
            "{} needs a namespace: /.../namespaces/NAMESPACE/{}",
            call.verb, kind.plural
        )));
    }
    Ok(())
}

async fn route(ctx: &Arc<Context>, call: &Call, bytes: &[u8]) -> Answer {
    let decode = || body::decode(&call.content_type, bytes);
    if !call.kind.stored {
        return reviews::review(ctx, call, decode()?);
    }
    match (call.subresource.as_str(), call.verb) {
        ("scale", "get") => scale::get(ctx, call).await,
        ("scale", "update") => {
            scale::replace(ctx, call, scale::decode(&call.content_type, bytes)?).await
        }
        ("scale", "patch") => scale::patch(ctx, call, bytes).await,
        ("binding", "create") => binding::bind(ctx, call, &decode()?).await,
        ("eviction", "create") => subresources::evict(ctx, call, &decode()?).await,
        (_, "get") => read::get(ctx, call).await,
        (_, "list") => list::list(ctx, call).await,
        (_, "create") => create::create(ctx, call, decode()?).await?.reply(ctx, call),
        (_, "update") => update::replace(ctx, call, decode()?)
            .await?
            .reply(ctx, call),
        (_, "patch") => patch::patch(ctx, call, bytes).await?.reply(ctx, call),
        (_, "delete") => delete::one(ctx, call, &decode()?).await,
        (_, "deletecollection") => delete::collection(ctx, call, &decode()?).await,
        (sub, verb) => Err(reply::not_allowed(&format!("{verb} {sub}"))),
    }
}
