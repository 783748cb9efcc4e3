//! One engine for all tests (one is right for a process), runtimes, sinks and shorthands.

use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use coracle_engine::{
    Artifact, Body, CallContext, CallError, Engine, EngineConfig, Grants, LogSink, Replica, Stream,
    digest_of, empty_body,
};
use http::{Request, Response};
use http_body_util::BodyExt;

/// A small engine with its own cache directory, which lives as long as the returned guard.
pub fn fresh_engine(change: impl FnOnce(&mut EngineConfig)) -> (Engine, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (engine_in(dir.path(), change), dir)
}

pub fn engine_in(dir: &std::path::Path, change: impl FnOnce(&mut EngineConfig)) -> Engine {
    let mut config = EngineConfig::new(crate::compile_child::command(), dir.join("aot"));
    config.max_memories = 64;
    change(&mut config);
    Engine::new(config).unwrap()
}

/// The engine most tests share; what one compiled the others find.
pub fn engine() -> &'static Engine {
    static ENGINE: LazyLock<(Engine, tempfile::TempDir)> = LazyLock::new(|| fresh_engine(|_| {}));
    &ENGINE.0
}

/// Runs a test on the kind of runtime the data path has.
pub fn on_one_thread<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

pub async fn artifact(wasm: &[u8]) -> Artifact {
    engine()
        .artifact(&digest_of(wasm), wasm.to_vec())
        .await
        .unwrap()
}

pub async fn replica(wasm: &[u8], change: impl FnOnce(&mut Grants)) -> Replica {
    let mut grants = Grants::new("test");
    change(&mut grants);
    engine().link(&artifact(wasm).await, grants).unwrap()
}

/// A replica of the service that does what its path says.
pub async fn service(change: impl FnOnce(&mut Grants)) -> Replica {
    replica(crate::guests::service(), change).await
}

pub fn get(path: &str) -> Request<Body> {
    Request::get(path)
        .header("host", "test.localhost")
        .body(empty_body())
        .unwrap()
}

pub async fn call(replica: &Replica, path: &str) -> Result<Response<Body>, CallError> {
    replica.call(CallContext::default(), get(path)).await
}

pub async fn text(response: Response<Body>) -> String {
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

/// Keeps what a guest printed.
#[derive(Default)]
pub struct Printed(Mutex<Vec<(Stream, Vec<u8>)>>);

impl LogSink for Printed {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        self.0.lock().unwrap().push((stream, bytes.to_vec()));
    }
}

impl Printed {
    pub fn new() -> Arc<Printed> {
        Arc::default()
    }

    pub fn text(&self, stream: Stream) -> String {
        let parts = self.0.lock().unwrap();
        let bytes: Vec<u8> = parts
            .iter()
            .filter(|(s, _)| *s == stream)
            .flat_map(|(_, b)| b.clone())
            .collect();
        String::from_utf8(bytes).unwrap()
    }
}

/// A prebuilt sample.
pub fn sample(name: &str) -> Bytes {
    let path = format!(
        "{}/../../samples/{name}/prebuilt.wasm",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read(&path)
        .unwrap_or_else(|e| panic!("{path}: {e}"))
        .into()
}
