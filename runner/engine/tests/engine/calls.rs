//! Services: answers, traps, deadlines, draining and killing.

use std::time::{Duration, Instant};

use coracle_engine::{CallContext, CallError, Kind, WasiVersion};
use http_body::Body as _;
use http_body_util::BodyExt;

use crate::setup::*;

#[test]
fn a_service_answers_with_a_body_of_known_length() {
    on_one_thread(async {
        let replica = service(|_| {}).await;
        assert_eq!(replica.kind(), Kind::Service(WasiVersion::P2));
        let response = call(&replica, "/hello").await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.body().size_hint().exact(), Some(14));
        assert_eq!(text(response).await, "Hello, world!\n");
        let metrics = replica.metrics();
        assert_eq!(
            (
                metrics.requests,
                metrics.instances,
                metrics.failures,
                metrics.in_flight
            ),
            (1, 1, 0, 0)
        );
        assert!(
            metrics.cpu_ns > 0
                && metrics.memory_bytes == 0
                && metrics.memory_peak_bytes >= 64 << 10
        );
    });
}

#[test]
fn a_task_that_never_yields_gets_every_answer() {
    on_one_thread(async {
        // More calls than tokio's cooperative budget of one poll.
        let replica = service(|_| {}).await;
        for _ in 0..300 {
            assert_eq!(
                text(call(&replica, "/hello").await.unwrap()).await,
                "Hello, world!\n"
            );
        }
    });
}

#[test]
fn the_rust_sample_answers() {
    on_one_thread(async {
        let replica = replica(&sample("hello"), |grants| {
            grants.env.push(("GREETING".into(), "Ahoy".into()))
        })
        .await;
        assert_eq!(
            text(call(&replica, "/x").await.unwrap()).await,
            "Ahoy! You asked for /x\n"
        );
    });
}

#[test]
fn a_request_without_a_host_is_answered_too() {
    on_one_thread(async {
        let replica = service(|_| {}).await;
        let request = http::Request::get("/hello")
            .body(coracle_engine::empty_body())
            .unwrap();
        assert_eq!(
            replica
                .call(CallContext::default(), request)
                .await
                .unwrap()
                .status(),
            200
        );
        let mut request = get("/hello");
        let bad = http::HeaderValue::from_bytes(b"\xff").unwrap();
        request.headers_mut().insert("host", bad);
        let error = replica.call(CallContext::default(), request).await.err();
        assert_eq!(error.unwrap().code(), "E_BAD_REQUEST");
    });
}

#[test]
fn a_trap_ends_one_request_only() {
    on_one_thread(async {
        let replica = service(|_| {}).await;
        let error = call(&replica, "/trap").await.err().unwrap();
        let CallError::Trap { message, backtrace } = &error else {
            panic!("{error:?}")
        };
        assert!(message.contains("unreachable"), "{message}");
        assert!(backtrace.contains("handle"), "{backtrace}");
        assert_eq!(error.code(), "E_TRAP");
        assert_eq!(call(&replica, "/hello").await.unwrap().status(), 200);
        assert_eq!(replica.metrics().traps, 1);
    });
}

#[test]
fn a_handler_that_says_nothing_is_told_so() {
    on_one_thread(async {
        assert_eq!(
            call(&service(|_| {}).await, "/nothing").await.err(),
            Some(CallError::NoResponse)
        );
    });
}

#[test]
fn a_spinning_guest_hits_its_deadline_and_stops_nobody() {
    on_one_thread(async {
        let replica = service(|grants| grants.request_timeout_ms = 300).await;
        let spinning = tokio::spawn({
            let replica = replica.clone();
            async move { call(&replica, "/loop").await.err() }
        });
        tokio::task::yield_now().await;
        let mut served = 0;
        while !spinning.is_finished() {
            assert_eq!(call(&replica, "/hello").await.unwrap().status(), 200);
            served += 1;
            tokio::task::yield_now().await;
        }
        assert_eq!(
            spinning.await.unwrap(),
            Some(CallError::DeadlineExceeded { timeout_ms: 300 })
        );
        assert!(
            served > 5,
            "only {served} requests were served beside the spinning one"
        );
        assert_eq!(replica.metrics().deadlines, 1);
    });
}

#[test]
fn the_callers_deadline_counts_if_it_is_sooner() {
    on_one_thread(async {
        let replica = service(|_| {}).await;
        let ctx = CallContext {
            deadline: Some(Instant::now() + Duration::from_millis(50)),
            ..CallContext::default()
        };
        let error = replica.call(ctx, get("/loop")).await.err().unwrap();
        assert_eq!(error.code(), "E_DEADLINE");
        let ctx = CallContext {
            deadline: Some(Instant::now()),
            ..CallContext::default()
        };
        assert_eq!(
            replica.call(ctx, get("/hello")).await.err().unwrap().code(),
            "E_DEADLINE"
        );
    });
}

#[test]
fn a_body_cut_short_ends_in_an_error() {
    on_one_thread(async {
        let replica = service(|grants| grants.request_timeout_ms = 100).await;
        let mut body = call(&replica, "/dawdle").await.unwrap().into_body();
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "Hello, world!\n"
        );
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("did not answer"), "{error}");
        assert_eq!(replica.metrics().deadlines, 1);
    });
}

#[test]
fn killing_ends_what_runs() {
    on_one_thread(async {
        let replica = service(|_| {}).await;
        let spinning = tokio::spawn({
            let replica = replica.clone();
            async move { call(&replica, "/loop").await.err() }
        });
        while replica.metrics().in_flight == 0 {
            tokio::task::yield_now().await;
        }
        replica.kill();
        assert_eq!(spinning.await.unwrap(), Some(CallError::Killed));
        assert_eq!(
            call(&replica, "/hello").await.err(),
            Some(CallError::Killed)
        );
    });
}

#[test]
fn draining_waits_for_bodies_and_refuses_the_rest() {
    on_one_thread(async {
        let replica = service(|grants| grants.request_timeout_ms = 200).await;
        let response = call(&replica, "/dawdle").await.unwrap();
        let drained = tokio::spawn({
            let replica = replica.clone();
            async move { replica.drain().await }
        });
        tokio::task::yield_now().await;
        assert!(!drained.is_finished());
        let error = call(&replica, "/hello").await.err().unwrap();
        assert!(error == CallError::Draining && error.is_retriable());
        assert_eq!(replica.metrics().in_flight, 1);
        drained.await.unwrap();
        assert_eq!(replica.metrics().in_flight, 0);
        drop(response);
    });
}

#[test]
fn a_dropped_call_frees_its_instance() {
    on_one_thread(async {
        let replica = service(|_| {}).await;
        let gone = tokio::time::timeout(Duration::from_millis(20), call(&replica, "/loop")).await;
        assert!(gone.is_err());
        let metrics = replica.metrics();
        assert_eq!((metrics.in_flight, metrics.memory_bytes), (0, 0));
    });
}

#[test]
fn reuse_is_serial_and_bounded() {
    on_one_thread(async {
        let fresh = service(|_| {}).await;
        for _ in 0..2 {
            assert_eq!(text(call(&fresh, "/count").await.unwrap()).await, "1");
        }
        let reused = service(|grants| grants.reuse = Some(3)).await;
        let mut counts = String::new();
        for _ in 0..5 {
            counts += &text(call(&reused, "/count").await.unwrap()).await;
        }
        assert_eq!(counts, "12312");
        assert_eq!(
            (reused.metrics().instances, reused.metrics().reused),
            (2, 3)
        );
        assert!(call(&reused, "/trap").await.is_err());
        assert_eq!(text(call(&reused, "/count").await.unwrap()).await, "1");
        reused.drain().await;
        assert_eq!(reused.metrics().memory_bytes, 0);
    });
}
