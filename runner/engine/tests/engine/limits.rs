//! Memory, CPU, concurrency and printing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use coracle_engine::{CallContext, CallError, LogSink, Stream};

use crate::setup::*;

#[test]
fn memory_stops_at_the_limit_and_is_given_back() {
    on_one_thread(async {
        let limit = 8 << 20;
        let replica = service(|grants| grants.memory_limit_bytes = limit).await;
        let error = call(&replica, "/memory").await.err();
        assert_eq!(error, Some(CallError::MemoryLimit { limit_bytes: limit }));
        let metrics = replica.metrics();
        assert!(
            metrics.memory_peak_bytes <= limit && metrics.memory_peak_bytes > limit / 2,
            "{metrics:?}"
        );
        assert_eq!(metrics.memory_bytes, 0);
        assert_eq!(call(&replica, "/hello").await.unwrap().status(), 200);
    });
}

#[test]
fn too_little_memory_to_start_is_a_memory_limit() {
    on_one_thread(async {
        let replica = service(|grants| grants.memory_limit_bytes = 1_000).await;
        assert_eq!(
            call(&replica, "/hello").await.err().unwrap().code(),
            "E_MEMORY_LIMIT"
        );
    });
}

#[test]
fn the_node_budget_holds_across_replicas() {
    let (engine, _dir) = fresh_engine(|config| config.node_memory_bytes = 4 << 20);
    on_one_thread(async {
        let wasm = crate::guests::service();
        let artifact = engine
            .artifact(&coracle_engine::digest_of(wasm), wasm.to_vec())
            .await
            .unwrap();
        let replica = engine
            .link(&artifact, coracle_engine::Grants::new("one"))
            .unwrap();
        assert_eq!(
            call(&replica, "/memory").await.err().unwrap().code(),
            "E_MEMORY_LIMIT"
        );
        assert!(replica.metrics().memory_peak_bytes <= 4 << 20);
        assert_eq!(engine.capacity().memory_bytes, 0);
    });
}

#[test]
fn concurrency_has_a_bound() {
    on_one_thread(async {
        let replica = service(|grants| grants.max_concurrency = 1).await;
        let spinning = tokio::spawn({
            let replica = replica.clone();
            async move { call(&replica, "/loop").await.err() }
        });
        while replica.metrics().in_flight == 0 {
            tokio::task::yield_now().await;
        }
        let error = call(&replica, "/hello").await.err().unwrap();
        assert!(error.code() == "E_BUSY" && error.is_retriable(), "{error}");
        replica.kill();
        spinning.await.unwrap();
    });
}

#[test]
fn calls_between_services_have_a_depth() {
    on_one_thread(async {
        let replica = service(|_| {}).await;
        let ctx = CallContext {
            depth: coracle_engine::MAX_CALL_DEPTH,
            ..CallContext::default()
        };
        assert_eq!(
            replica
                .call(ctx.clone(), get("/hello"))
                .await
                .unwrap()
                .status(),
            200
        );
        let ctx = CallContext {
            depth: ctx.depth + 1,
            ..ctx
        };
        assert_eq!(
            replica.call(ctx, get("/hello")).await.err(),
            Some(CallError::TooDeep)
        );
    });
}

#[test]
fn a_tenth_of_a_core_is_a_tenth_of_a_core() {
    on_one_thread(async {
        let replica = service(|grants| {
            grants.cpu_limit_millicores = Some(100);
            grants.request_timeout_ms = 1_000;
        })
        .await;
        let start = Instant::now();
        assert_eq!(
            call(&replica, "/loop").await.err().unwrap().code(),
            "E_DEADLINE"
        );
        let used = replica.metrics().cpu_ns as f64 / start.elapsed().as_nanos() as f64;
        // 10 % and the burst of 10 ms; a slice may be a few ticks long on a busy machine.
        assert!(used < 0.25, "used {used} of a core");
    });
}

#[test]
fn printing_without_end_blocks_nobody() {
    struct Count(AtomicU64);
    impl LogSink for Count {
        fn write(&self, _stream: Stream, bytes: &[u8]) {
            self.0.fetch_add(bytes.len() as u64, Relaxed);
        }
    }
    on_one_thread(async {
        let count = Arc::new(Count(AtomicU64::new(0)));
        let replica = service(|grants| {
            grants.log = count.clone();
            grants.request_timeout_ms = 200;
        })
        .await;
        let (printing, quiet) = tokio::join!(call(&replica, "/print"), call(&replica, "/hello"));
        assert_eq!(printing.err().unwrap().code(), "E_DEADLINE");
        assert_eq!(quiet.unwrap().status(), 200);
        assert!(count.0.load(Relaxed) > 1_000);
    });
}
