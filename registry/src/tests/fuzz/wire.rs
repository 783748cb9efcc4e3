//! A registry in memory that answers one request after the other, for the targets that go through the HTTP face.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use jiff::Timestamp;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

use crate::authorise::AllowAll;
use crate::blobs::memory::Memory as Blobs;
use crate::limits::Limits;
use crate::meta::memory::Memory as Meta;
use crate::{Clock, Parts, Registry, router};

/// Time stands still: nothing here depends on it.
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

/// The registry and the one thread it runs on.
pub(super) struct Wire {
    router: Router,
    runtime: Runtime,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub status: u16,
    headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// A header's value, empty if there is none.
    pub(super) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("our headers are ASCII"))
    }

    /// The first error code of the body.
    pub(super) fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).expect("an error is JSON");
        let code = body["errors"][0]["code"].as_str();
        code.expect("an error has a code").to_owned()
    }
}

impl Wire {
    /// An empty registry.
    pub(super) fn new(limits: Limits) -> Wire {
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a thread can have a runtime");
        let opened = runtime.block_on(Registry::open(Parts {
            blobs: Arc::new(Blobs::new(Still)),
            meta: Arc::new(Meta::new()),
            limits,
            clock: Arc::new(Still),
            authorise: Arc::new(AllowAll),
        }));
        let registry = opened.expect("an empty registry opens");
        Wire {
            router: router(registry),
            runtime,
        }
    }

    /// One request. Whatever is asked, the answer is never a fault of the server.
    pub(super) fn send(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(body.into())
            .expect("the target writes valid requests");
        let answer = async {
            let response = self.router.clone().oneshot(request).await;
            let (parts, body) = response.unwrap_or_else(|never| match never {}).into_parts();
            let body = body
                .collect()
                .await
                .expect("a body in memory does not break");
            (parts, body.to_bytes())
        };
        let (parts, body) = self.runtime.block_on(answer);
        assert!(
            parts.status < StatusCode::INTERNAL_SERVER_ERROR,
            "{method} {uri}: {body:?}"
        );
        Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }
}
