//! Components' own requests, the outside world, figures and the access log.

use std::sync::{Arc, Mutex, OnceLock};

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::support::*;
use crate::*;

async fn text(response: http::Response<Body>) -> String {
    String::from_utf8(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .to_vec(),
    )
    .unwrap()
}

fn request(uri: &str) -> Request<Body> {
    Request::builder().uri(uri).body(empty()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_reaches_a_service_by_its_names() {
    let p = web(echo(), |_| {});
    for uri in [
        "http://web/x",
        "http://web.default/x",
        "http://web.default.svc.cluster.local:80/x",
    ] {
        let ctx = CallContext {
            depth: 1,
            ..CallContext::default()
        };
        let response = p.internal(ctx, "default", request(uri)).await.unwrap();
        assert_eq!(response.status(), 200, "{uri}");
        let seen: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(
            (&seen["uri"], &seen["depth"]),
            (&json!("/x"), &json!(1)),
            "{uri}"
        );
        assert_eq!(
            seen["headers"]["host"].as_str(),
            uri.split('/').nth(2),
            "{uri}"
        );
        assert!(seen["headers"]["x-request-id"].is_string());
    }
    let Err(InternalError::NotAService { host, request }) = p
        .internal(
            CallContext::default(),
            "default",
            request("http://example.com/y"),
        )
        .await
    else {
        panic!("example.com is no service");
    };
    assert_eq!(
        (host.as_str(), request.uri().to_string().as_str()),
        ("example.com", "http://example.com/y")
    );
    let gone = p
        .internal(
            CallContext::default(),
            "default",
            self::request("http://web:81/"),
        )
        .await
        .unwrap();
    assert_eq!(gone.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(gone).await.contains("no_port"));
    p.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_call_each_other_in_a_loop_are_stopped() {
    let node = Arc::new(Node::default());
    let handle: Arc<OnceLock<Proxy>> = Arc::default();
    let ids: Arc<Mutex<Vec<String>>> = Arc::default();
    node.put("u0", {
        let (handle, ids) = (handle.clone(), ids.clone());
        fake(move |ctx, _, _| {
            let p = handle.get().unwrap().clone();
            ids.lock()
                .unwrap()
                .push(ctx.request_id.as_ref().unwrap().to_str().unwrap().into());
            Box::pin(async move {
                let ctx = CallContext {
                    depth: ctx.depth + 1,
                    ..ctx
                };
                p.internal(ctx, "default", request("http://web/"))
                    .await
                    .map_err(|_| {
                        ReplicaError::new(StatusCode::BAD_GATEWAY, "test", "not a service")
                    })
            })
        })
    });
    let p = proxy(&node, |_| {});
    assert!(handle.set(p.clone()).is_ok());
    p.swap(World::new("n1").service("web", &[("u0", "n1")]).table());
    let seen = get(&p, "web.test", "/").await;
    assert_eq!(
        (seen.status, seen.json()["code"].as_str()),
        (508, Some("loop_detected"))
    );
    let ids = ids.lock().unwrap().clone();
    assert_eq!(ids.len(), 1 + CALL_DEPTH_MAX as usize);
    assert!(
        ids.iter().all(|id| *id == ids[0]),
        "one id along the chain: {ids:?}"
    );
    assert_eq!(seen.header("x-request-id"), Some(ids[0].as_str()));
    p.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hand_written_endpoints_and_the_outside_world_are_called_over_http() {
    // Another proxy plays the server that is not ours.
    let server = web(echo(), |_| {});
    let addr = server.ingress_addr();
    let node = Arc::new(Node::default());
    let p = proxy(&node, |c| c.outside = Arc::new(|ip| !ip.is_loopback()));
    p.swap(
        World::new("n1")
            .slice("web", addr.port(), &json!([{"addresses": ["127.0.0.1"]}]))
            .table(),
    );
    let seen = get(&p, "web.test", "/far").await;
    assert_eq!(
        (seen.status, seen.json()["uri"].as_str()),
        (200, Some("/far")),
        "{seen:?}"
    );
    assert_eq!(seen.json()["headers"]["host"], "web.test");

    let url = format!("http://localhost:{}/", addr.port());
    let refused = p
        .outside(&CallContext::default(), request(&url))
        .await
        .unwrap_err();
    assert_eq!(refused.code, "upstream_connect_failed");
    assert!(
        refused
            .message
            .contains("no address that may be connected to"),
        "{refused}"
    );

    let open = proxy(&node, |_| {});
    let mut req = Request::builder()
        .uri("/z")
        .header("host", format!("127.0.0.1:{}", addr.port()))
        .body(empty())
        .unwrap();
    absolute(http::uri::Scheme::HTTP, &mut req).unwrap();
    let answered = open.outside(&CallContext::default(), req).await.unwrap();
    assert_eq!(
        answered.status(),
        404,
        "the server is reached; it has no route for its address"
    );
    for p in [server, p, open] {
        p.shutdown(PATIENCE).await;
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_counted_and_logged() {
    let lines = Lines::default();
    let make = lines.clone();
    tracing_subscriber::fmt()
        .json()
        .with_env_filter("access=info")
        .with_writer(move || make.clone())
        .init();
    let p = web(says("hello"), |_| {});
    let mut client = Client::new(p.ingress_addr()).await;
    client
        .send("GET /logged HTTP/1.1\r\nhost: web.test\r\nx-request-id: log-me\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert_eq!(get(&p, "nowhere.test", "/").await.status, 404);
    let text = metrics(&p);
    for line in [
        "coracle_proxy_requests_total{service=\"default/web\",code=\"200\"} 1",
        "coracle_proxy_requests_total{service=\"-\",code=\"404\"} 1",
        "coracle_proxy_request_duration_seconds_count{service=\"default/web\"} 1",
        "coracle_proxy_request_duration_seconds_bucket{le=\"+Inf\",service=\"default/web\"} 1",
        "coracle_proxy_requests_in_flight{service=\"default/web\"} 0",
        "coracle_proxy_access_log_dropped_total 0",
    ] {
        assert!(text.contains(line), "{line} is missing from\n{text}");
    }
    p.shutdown(PATIENCE).await;
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let line = log
        .lines()
        .find(|l| l.contains("log-me"))
        .expect("the request is in the log");
    let line: Value = serde_json::from_str(line).unwrap();
    let fields = &line["fields"];
    assert_eq!(
        (line["target"].as_str(), fields["path"].as_str()),
        (Some("access"), Some("/logged"))
    );
    assert_eq!(
        (fields["status"].as_u64(), fields["bytes"].as_u64()),
        (Some(200), Some(5))
    );
    assert_eq!(
        (fields["service"].as_str(), fields["client"].as_str()),
        (Some("default/web"), Some("127.0.0.1"))
    );
}
