//! Requests guests make.

use std::sync::{Arc, Mutex};

use coracle_engine::{Body, CallContext, Outbound, OutboundError, Replica, full_body};
use futures_util::future::BoxFuture;
use http::{Request, Response};

use crate::setup::*;

type Answer = Box<dyn Fn(&Request<Body>) -> Result<Response<Body>, OutboundError> + Send + Sync>;

struct Fake {
    seen: Mutex<Vec<(u32, Option<String>, String)>>,
    answer: Answer,
}

impl Outbound for Fake {
    fn send(
        &self,
        ctx: CallContext,
        req: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, OutboundError>> {
        assert!(ctx.deadline.is_some());
        let origin = ctx.origin.map(|o| o.to_string());
        self.seen
            .lock()
            .unwrap()
            .push((ctx.depth, origin, req.uri().to_string()));
        let answer = (self.answer)(&req);
        Box::pin(async move { answer })
    }
}

#[test]
fn a_request_goes_out_with_its_context_and_comes_back() {
    on_one_thread(async {
        let fake = Arc::new(Fake {
            seen: Mutex::default(),
            answer: Box::new(|_| Ok(Response::new(full_body("from outside")))),
        });
        let front = replica(&sample("front"), |grants| {
            grants.name = "front-1".into();
            grants.outbound = fake.clone();
        })
        .await;
        let answer = text(call(&front, "/").await.unwrap()).await;
        assert_eq!(answer, "front: hello says: from outside");
        assert_eq!(
            *fake.seen.lock().unwrap(),
            [(1, Some("front-1".into()), "http://hello/".into())]
        );
    });
}

#[test]
fn refusals_reach_the_guest_as_error_codes() {
    on_one_thread(async {
        for (error, says) in [
            (
                OutboundError::NotFound("hello".into()),
                "DestinationNotFound",
            ),
            (OutboundError::Denied("hello".into()), "HttpRequestDenied"),
            (
                OutboundError::Unavailable("none ready".into()),
                "DestinationUnavailable",
            ),
            (OutboundError::Timeout, "HttpResponseTimeout"),
        ] {
            let fake = Fake {
                seen: Mutex::default(),
                answer: Box::new(move |_| Err(error.clone())),
            };
            let front = replica(&sample("front"), |grants| grants.outbound = Arc::new(fake)).await;
            let response = call(&front, "/").await.unwrap();
            assert_eq!(response.status(), 502);
            let answer = text(response).await;
            assert!(answer.contains(says), "{answer}");
        }
        let denied = replica(&sample("front"), |_| {}).await;
        assert!(
            text(call(&denied, "/").await.unwrap())
                .await
                .contains("HttpRequestDenied")
        );
    });
}

/// Sends every request to one replica, in process.
struct Local(Replica);

impl Outbound for Local {
    fn send(
        &self,
        ctx: CallContext,
        req: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, OutboundError>> {
        let call = self.0.call(ctx, req);
        Box::pin(async move {
            call.await
                .map_err(|e| OutboundError::Unavailable(e.to_string()))
        })
    }
}

#[test]
fn a_service_calls_another_in_process() {
    on_one_thread(async {
        let back = service(|_| {}).await;
        let front = replica(&sample("front"), |grants| {
            grants.outbound = Arc::new(Local(back.clone()))
        })
        .await;
        assert_eq!(
            text(call(&front, "/").await.unwrap()).await,
            "front: hello says: Hello, world!\n"
        );
        assert_eq!(back.metrics().requests, 1);
        let deep = CallContext {
            depth: coracle_engine::MAX_CALL_DEPTH,
            ..CallContext::default()
        };
        let answer = text(front.call(deep, get("/")).await.unwrap()).await;
        assert!(answer.contains("LoopDetected"), "{answer}");
    });
}
