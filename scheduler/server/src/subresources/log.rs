//! `GET /pods/X/log`: finds the runner and passes its bytes on as they come.

use std::sync::Arc;

use axum::body::Body;
use coracle_api::{ApiError, Key, meta};
use coracle_state::View;
use futures_util::{StreamExt, stream};
use serde_json::Value;

use crate::call::Call;
use crate::context::{Context, LogRequest};
use crate::reply::{self, Answer};
use crate::watch::Open;

/// Annotation that names the container meant when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Streams a container's log.
pub async fn log(ctx: &Arc<Context>, call: &Call) -> Answer {
    let mut view = ctx.view();
    if view
        .get("pods", &call.key())
        .is_none_or(|p| p.attrs.node_name.is_empty())
    {
        view = ctx.fresh().await?;
    }
    let pod = view
        .get("pods", &call.key())
        .ok_or_else(|| call.not_found())?
        .value();
    let q = &call.query;
    let container = container(&pod, q.get("container"))?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned: it has not been placed yet",
            call.name
        )));
    }
    let request = LogRequest {
        address: address(&view, node)?,
        node: node.into(),
        namespace: call.namespace.clone(),
        pod: call.name.clone(),
        container,
        follow: q.flag("follow")?,
        previous: q.flag("previous")?,
        timestamps: q.flag("timestamps")?,
        tail_lines: q.number("tailLines")?,
        since_seconds: q.number("sinceSeconds")?,
        since_time: q
            .get("sinceTime")
            .map(|t| {
                t.parse().map_err(|_| {
                    ApiError::bad_request(format!("sinceTime: {t:?} is not an RFC 3339 time"))
                })
            })
            .transpose()?,
        limit_bytes: q.number("limitBytes")?,
    };
    drop(view);
    if request.since_seconds.is_some() && request.since_time.is_some() {
        return Err(ApiError::bad_request(
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    let open = Open::new(ctx)?;
    let lines = ctx.config.runners.logs(request).await?;
    let state = (lines, call.closing.clone(), open);
    let body = stream::unfold(state, |(mut lines, closing, open)| async move {
        tokio::select! {
            chunk = lines.next() => chunk.map(|c| (c, (lines, closing, open))),
            () = closing.cancelled() => None,
        }
    });
    Ok(reply::bytes(
        200,
        "text/plain; charset=utf-8",
        Body::from_stream(body),
    ))
}

fn container(pod: &Value, asked: Option<&str>) -> Result<String, ApiError> {
    let names: Vec<&str> = ["initContainers", "containers"]
        .iter()
        .flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten())
        .filter_map(|c| c["name"].as_str())
        .collect();
    let main: Vec<&str> = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| c["name"].as_str())
        .collect();
    let name = meta::name(pod);
    match asked.or_else(|| meta::annotation(pod, DEFAULT_CONTAINER)) {
        Some(c) if names.contains(&c) => Ok(c.into()),
        Some(c) => Err(ApiError::bad_request(format!(
            "container {c} is not valid for pod {name}, choose one of: [{}]",
            names.join(" ")
        ))),
        None if main.len() == 1 => Ok(main[0].into()),
        None => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            names.join(" ")
        ))),
    }
}

/// `HOST:PORT` of a node's runner, from what it registered.
fn address(view: &View, node: &str) -> Result<String, ApiError> {
    let lost = |why: &str| {
        reply::later(
            503,
            "ServiceUnavailable",
            format!("node {node:?} cannot be asked for logs: {why}"),
        )
    };
    let status = view
        .get("nodes", &Key::new("", node))
        .ok_or_else(|| lost("there is no such node any more"))?
        .value()["status"]
        .take();
    let host = status["addresses"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|a| a["type"] == "InternalIP")
        .and_then(|a| a["address"].as_str());
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    match (host, port) {
        (Some(host), Some(port)) if host.contains(':') => Ok(format!("[{host}]:{port}")),
        (Some(host), Some(port)) => Ok(format!("{host}:{port}")),
        _ => Err(lost("it has not registered its address")),
    }
}
