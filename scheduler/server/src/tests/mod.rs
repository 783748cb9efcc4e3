//! The API in process: a real `State` behind fake `Propose` and `Views`, requests through the real router.

mod authorisation;
mod bad_input;
mod bench;
mod crud;
mod deletion;
mod endpoints;
mod history;
mod kubectl;
mod lists;
mod members;
mod patches;
mod protobuf;
mod services;
mod tls;
mod watches;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use coracle_api::{ApiError, Timestamp};
use coracle_state::{
    Batch, BoxFuture, Command, Propose, ProposeError, Results, State, View, Views,
};
use futures_util::StreamExt;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::context::{
    BackupStream, Backups, Certificates, Context, ContextConfig, Join, LogRequest, LogStream,
    Members, Runners, Tokens,
};
use crate::identity::Identity;
use crate::service_alloc::Range;

/// The log and state of a one-member cluster, without the log.
pub struct Fake {
    state: Mutex<State>,
    views: tokio::sync::watch::Sender<Arc<View>>,
    /// Commands that somebody else gets in before the next proposal.
    rivals: Mutex<Vec<Command>>,
    /// While set, there is no leader.
    down: AtomicBool,
    /// While set, what others write reaches this member only when it asks or writes itself.
    lags: AtomicBool,
    /// Seconds since the epoch.
    clock: AtomicI64,
    acks: Mutex<Vec<(String, u64)>>,
}

impl Fake {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.clock.load(Ordering::SeqCst)).unwrap()
    }

    /// Applies directly, as a controller or another member would.
    pub fn apply(&self, commands: Vec<Command>) -> Results {
        let results = self.state.lock().unwrap().apply(&Batch {
            at: self.now(),
            request_id: 0,
            commands,
        });
        if !self.lags.load(Ordering::SeqCst) {
            self.publish();
        }
        results
    }

    /// This member has applied everything.
    pub fn publish(&self) -> Arc<View> {
        let view = Arc::new(self.state.lock().unwrap().view());
        self.views.send_replace(view.clone());
        view
    }
}

impl Propose for Fake {
    fn propose(&self, commands: Vec<Command>) -> BoxFuture<'_, Result<Results, ProposeError>> {
        Box::pin(async move {
            if self.down.load(Ordering::SeqCst) {
                return Err(ProposeError::NoLeader("test".into()));
            }
            let rivals = std::mem::take(&mut *self.rivals.lock().unwrap());
            if !rivals.is_empty() {
                self.apply(rivals);
            }
            let results = self.apply(commands);
            self.publish();
            Ok(results)
        })
    }
}

impl Views for Fake {
    fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    fn newer_than(&self, revision: u64) -> BoxFuture<'_, Arc<View>> {
        let mut seen = self.views.subscribe();
        Box::pin(async move {
            seen.wait_for(|v| v.revision > revision)
                .await
                .unwrap()
                .clone()
        })
    }

    fn fresh(&self) -> BoxFuture<'_, Result<Arc<View>, ProposeError>> {
        Box::pin(async move {
            match self.down.load(Ordering::SeqCst) {
                true => Err(ProposeError::NoLeader("test".into())),
                false => Ok(self.publish()),
            }
        })
    }
}

/// Runners, joining and tokens that say what they were asked.
struct Outside;

impl Runners for Outside {
    fn logs(&self, request: LogRequest) -> BoxFuture<'_, Result<LogStream, ApiError>> {
        Box::pin(async move {
            let lines = [
                format!(
                    "{} {} {}\n",
                    request.address, request.container, request.follow
                ),
                format!("{:?}\n", request.tail_lines),
            ];
            Ok(futures_util::stream::iter(lines.map(|l| Ok(Bytes::from(l)))).boxed())
        })
    }
}

impl Join for Outside {
    fn join(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move { Ok(json!({"joined": body["secret"]})) })
    }
}

impl Tokens for Outside {
    fn create(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move { Ok(json!({"token": body["role"]})) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move { Ok(json!({"tokens": [{"id": "t1"}]})) })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(async move { Ok(json!({"deleted": id})) })
    }
}

/// Members that say what they were asked.
impl Backups for Outside {
    fn save(&self) -> BoxFuture<'_, Result<BackupStream, ApiError>> {
        Box::pin(async move {
            let chunks = [
                Ok(Bytes::from_static(b"first ")),
                Ok(Bytes::from_static(b"second")),
            ];
            Ok(BackupStream {
                name: "one.backup".into(),
                bytes: Box::pin(futures_util::stream::iter(chunks)),
            })
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move { Ok(json!({"backups": []})) })
    }
}

impl Members for Outside {
    fn list(&self) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move { Ok(json!({"members": []})) })
    }

    fn add<'a>(
        &'a self,
        user: &'a Identity,
        body: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(async move { Ok(json!({"added": body["name"], "by": user.user})) })
    }

    fn remove<'a>(&'a self, which: &'a str, body: Value) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(async move { Ok(json!({"removed": which, "force": body["force"]})) })
    }

    fn promote<'a>(
        &'a self,
        which: &'a str,
        body: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(async move { Ok(json!({"promoted": which, "force": body["force"]})) })
    }

    fn transfer(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move { Ok(json!({"to": body["to"]})) })
    }

    fn endpoints(&self) -> Value {
        json!({"api": ["https://127.0.0.1:6443"]})
    }
}

/// Certificates that say what was asked.
impl Certificates for Outside {
    fn renew<'a>(
        &'a self,
        who: &'a Identity,
        body: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(async move { Ok(json!({"for": who.user, "id": who.node_id, "csr": body["csr"]})) })
    }

    fn status(&self) -> Value {
        json!({"rotation": null})
    }

    fn rotate(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move { Ok(json!({"finish": body["finish"]})) })
    }
}

/// An API server under test.
pub struct Server {
    pub fake: Arc<Fake>,
    pub ctx: Arc<Context>,
    pub router: Router,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Reply {
    pub code: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The value, which must have come with this code.
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.json()
    }

    /// The Status, which must have come with this code and reason.
    #[track_caller]
    pub fn refused(self, code: u16, reason: &str) -> Value {
        let status = self.expect(code);
        assert_eq!(
            (&status["kind"], &status["reason"], &status["code"]),
            (&json!("Status"), &json!(reason), &json!(code)),
            "{status}"
        );
        status
    }

    pub fn header(&self, name: &str) -> Vec<String> {
        self.headers
            .get_all(name)
            .iter()
            .map(|v| v.to_str().unwrap().to_string())
            .collect()
    }
}

/// Far beyond any wait in a test, the paused ones included (their bookmarks come each minute).
const FRAME_TIMEOUT: Duration = Duration::from_secs(100);

pub const MERGE: &str = "application/merge-patch+json";

pub fn admin() -> Identity {
    Identity::new("coracle-admin", &["system:masters"])
}

/// A request to be sent as somebody.
pub struct Ask<'a> {
    server: &'a Server,
    method: &'a str,
    path: String,
    body: Vec<u8>,
    content_type: String,
    accept: Option<String>,
    headers: Vec<(String, String)>,
    identity: Option<Identity>,
    closing: Option<crate::tls::Closing>,
}

impl Ask<'_> {
    pub fn body(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self
    }

    pub fn raw(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.content_type = content_type.into();
        self.body = body.into();
        self
    }

    pub fn accept(mut self, accept: &str) -> Self {
        self.accept = Some(accept.into());
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn identity(mut self, identity: Option<Identity>) -> Self {
        self.identity = identity;
        self
    }

    pub fn closing(mut self, closing: &crate::tls::Closing) -> Self {
        self.closing = Some(closing.clone());
        self
    }

    async fn open(self) -> http::Response<Body> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(&self.path)
            .header("content-type", &self.content_type)
            .header("user-agent", "test/1.0");
        if let Some(a) = &self.accept {
            request = request.header("accept", a);
        }
        for (n, v) in &self.headers {
            request = request.header(n, v);
        }
        let mut request = request.body(Body::from(self.body)).unwrap();
        if let Some(identity) = self.identity {
            request.extensions_mut().insert(identity);
        }
        if let Some(closing) = self.closing {
            request.extensions_mut().insert(closing);
        }
        self.server.router.clone().oneshot(request).await.unwrap()
    }

    pub async fn send(self) -> Reply {
        let (parts, body) = self.open().await.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Reply {
            code: parts.status.as_u16(),
            headers: parts.headers,
            text,
        }
    }

    /// Opens a stream of frames.
    pub async fn frames(self) -> Frames {
        let response = self.open().await;
        assert_eq!(response.status(), 200);
        Frames {
            body: response.into_body().into_data_stream(),
            buffer: String::new(),
        }
    }
}

/// A watch being read.
pub struct Frames {
    body: BodyDataStream,
    buffer: String,
}

impl Frames {
    /// The next frame; `None` at the end of the stream. Panics after [`FRAME_TIMEOUT`].
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.buffer.split_once('\n') {
                let frame = serde_json::from_str(line).unwrap();
                self.buffer = rest.to_string();
                return Some(frame);
            }
            let chunk = tokio::time::timeout(FRAME_TIMEOUT, self.body.next())
                .await
                .expect("a frame in time")?;
            self.buffer
                .push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }

    /// Type, name and resourceVersion of the next frame.
    pub async fn brief(&mut self) -> (String, String, String) {
        let f = self.next().await.expect("a frame");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        (
            text(&f["type"]),
            text(&f["object"]["metadata"]["name"]),
            text(&f["object"]["metadata"]["resourceVersion"]),
        )
    }
}

/// A context's parts over a fake.
fn config(fake: Arc<Fake>, service_range: Range) -> ContextConfig {
    let (clock, acks) = (fake.clone(), fake.clone());
    ContextConfig {
        propose: fake.clone(),
        views: fake,
        clock: Arc::new(move || clock.now()),
        seed: 1,
        runners: Arc::new(Outside),
        acks: Arc::new(move |node, applied| {
            acks.acks.lock().unwrap().push((node.to_string(), applied))
        }),
        join: Arc::new(Outside),
        tokens: Arc::new(Outside),
        members: Arc::new(Outside),
        backups: Arc::new(Outside),
        certificates: Arc::new(Outside),
        renewals: None,
        admission: None,
        bearer: Some(Arc::new(|token| (token == "good").then(admin))),
        ca_bundle_pem: Arc::new(|| "PEM".into()),
        status: Arc::new(|| json!({"name": "one"})),
        ready: Arc::new(|| Ok(())),
        server_address: "127.0.0.1:6443".into(),
        service_range,
        pod_range: Range::PODS,
        product_version: "0.1.0".into(),
    }
}

impl Server {
    /// With the namespaces of a new cluster.
    pub async fn new() -> Self {
        Self::with_services(Range::SERVICES).await
    }

    /// With another range of cluster addresses.
    pub async fn with_services(service_range: Range) -> Self {
        Self::make(State::default(), |c| c.service_range = service_range)
            .furnished()
            .await
    }

    /// With heartbeats that go their own way.
    pub async fn with_renewals(renewals: Arc<dyn crate::Renewals>) -> Self {
        Self::make(State::default(), |c| c.renewals = Some(renewals))
            .furnished()
            .await
    }

    /// Over a state that is there already.
    pub fn over(state: State) -> Self {
        Self::make(state, |_| {})
    }

    fn make(state: State, change: impl FnOnce(&mut ContextConfig)) -> Self {
        let view = Arc::new(state.view());
        let fake = Arc::new(Fake {
            state: Mutex::new(state),
            views: tokio::sync::watch::Sender::new(view),
            rivals: Mutex::default(),
            down: AtomicBool::new(false),
            lags: AtomicBool::new(false),
            clock: AtomicI64::new(1_800_000_000),
            acks: Mutex::default(),
        });
        let mut config = config(fake.clone(), Range::SERVICES);
        change(&mut config);
        let ctx = Context::new(config);
        Self {
            fake,
            router: crate::router(ctx.clone()),
            ctx,
        }
    }

    async fn furnished(self) -> Self {
        let server = self;
        for name in ["default", "kube-system", "kube-node-lease"] {
            server
                .post("/api/v1/namespaces")
                .body(&json!({"metadata": {"name": name}}))
                .send()
                .await
                .expect(201);
        }
        server
    }

    pub fn ask<'a>(&'a self, method: &'a str, path: &str) -> Ask<'a> {
        Ask {
            server: self,
            method,
            path: path.into(),
            body: Vec::new(),
            content_type: "application/json".into(),
            accept: None,
            headers: Vec::new(),
            identity: Some(admin()),
            closing: None,
        }
    }

    pub fn get(&self, path: &str) -> Ask<'_> {
        self.ask("GET", path)
    }

    pub fn post(&self, path: &str) -> Ask<'_> {
        self.ask("POST", path)
    }

    pub fn put(&self, path: &str) -> Ask<'_> {
        self.ask("PUT", path)
    }

    pub fn delete(&self, path: &str) -> Ask<'_> {
        self.ask("DELETE", path)
    }

    pub fn patch(&self, path: &str, content_type: &str, patch: &Value) -> Ask<'_> {
        self.ask("PATCH", path).raw(content_type, patch.to_string())
    }

    /// A ConfigMap in `default`.
    pub async fn config_map(&self, name: &str, data: &str) -> Value {
        self.post(CONFIG_MAPS)
            .body(&json!({"metadata": {"name": name, "labels": {"d": data}}, "data": {"k": data}}))
            .send()
            .await
            .expect(201)
    }

    /// Lets so much time pass that no ring remembers what was before; leaves a ConfigMap `newest`.
    pub async fn forget(&self) {
        self.fake.clock.fetch_add(1_000, Ordering::SeqCst);
        self.config_map("newest", "1").await;
        self.fake.clock.fetch_add(1_000, Ordering::SeqCst);
        self.patch(
            &format!("{CONFIG_MAPS}/newest"),
            MERGE,
            &json!({"data": {"k": "2"}}),
        )
        .send()
        .await
        .expect(200);
    }

    pub fn revision(&self) -> u64 {
        self.ctx.view().revision
    }
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "hello:1"}]}})
}

pub fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": "hello:1"}]}},
        },
    })
}

/// A Node that has room and an address, as its runner registers it.
pub fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {
            "allocatable": {"cpu": "4", "memory": "1Gi", "pods": "10"},
            "capacity": {"cpu": "4", "memory": "1Gi", "pods": "10"},
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        },
    })
}
