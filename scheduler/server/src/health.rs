//! `/version`, health and metrics.

use coracle_api::KUBERNETES_MINOR;
use serde_json::json;

use crate::context::Context;
use crate::reply::{self, Answer};

/// Answers these paths; `None` if it is another one.
pub fn answer(ctx: &Context, path: &[&str]) -> Option<Answer> {
    Some(match path {
        ["version"] => Ok(version(ctx)),
        // One check each; kube's `/readyz/NAME` form asks for a single one.
        ["livez" | "healthz", ..] => Ok(reply::bytes(200, "text/plain; charset=utf-8", "ok")),
        ["readyz", ..] => (ctx.config.ready)()
            .map(|()| reply::bytes(200, "text/plain; charset=utf-8", "ok"))
            .map_err(|why| reply::later(503, "ServiceUnavailable", why)),
        ["metrics"] => Ok(reply::bytes(
            200,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            ctx.metrics.text(),
        )),
        _ => return None,
    })
}

fn version(ctx: &Context) -> http::Response<axum::body::Body> {
    let product = &ctx.config.product_version;
    reply::value(
        200,
        &json!({
            "major": "1",
            "minor": KUBERNETES_MINOR.to_string(),
            "gitVersion": format!("v1.{KUBERNETES_MINOR}.0+coracle-{product}"),
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "rustc",
            "platform": format!("{}/{}", std::env::consts::OS, if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }),
            "product": "Coracle",
            "productVersion": product,
        }),
    )
}
