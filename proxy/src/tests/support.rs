//! What the tests share: fake replicas, tables from objects, and a client that sees the bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_route::{Sources, Table};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::*;

/// Longest any awaited thing may take before a test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(20);

type Answer = BoxFuture<'static, Result<Response<Body>, ReplicaError>>;

/// A replica made of a closure.
pub struct Fake<F>(pub F);

impl<F: Fn(CallContext, u16, Request<Body>) -> Answer + Send + Sync> LocalReplica for Fake<F> {
    fn call(&self, ctx: CallContext, port: u16, req: Request<Body>) -> Answer {
        (self.0)(ctx, port, req)
    }
}

pub fn fake<F>(f: F) -> Arc<dyn LocalReplica>
where
    F: Fn(CallContext, u16, Request<Body>) -> Answer + Send + Sync + 'static,
{
    Arc::new(Fake(f))
}

/// Answers 200 with a text.
pub fn says(text: &'static str) -> Arc<dyn LocalReplica> {
    fake(move |_, _, _| Box::pin(async move { Ok(Response::new(full(text))) }))
}

/// Answers with the request as it arrived.
pub fn echo() -> Arc<dyn LocalReplica> {
    fake(|ctx, port, req| {
        Box::pin(async move {
            let (parts, body) = req.into_parts();
            let headers: BTreeMap<String, String> = parts
                .headers
                .iter()
                .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into()))
                .collect();
            let bytes = body
                .collect()
                .await
                .map_err(|e| {
                    ReplicaError::new(http::StatusCode::BAD_REQUEST, "body_broken", e.to_string())
                })?
                .to_bytes();
            let seen = json!({"method": parts.method.as_str(), "uri": parts.uri.to_string(), "headers": headers, "port": port,
                "depth": ctx.depth, "has_deadline": ctx.deadline.is_some(), "body": String::from_utf8_lossy(&bytes)});
            Ok(Response::new(full(seen.to_string())))
        })
    })
}

/// The replicas of a node.
#[derive(Default)]
pub struct Node(pub Mutex<BTreeMap<String, Arc<dyn LocalReplica>>>);

impl LocalReplicas for Node {
    fn get(&self, pod_uid: &str) -> Option<Arc<dyn LocalReplica>> {
        self.0.lock().unwrap().get(pod_uid).cloned()
    }
}

impl Node {
    pub fn put(&self, uid: &str, replica: Arc<dyn LocalReplica>) {
        self.0.lock().unwrap().insert(uid.into(), replica);
    }

    pub fn remove(&self, uid: &str) {
        self.0.lock().unwrap().remove(uid);
    }
}

/// Objects for a cluster where every Service has port 80, a host `NAME.test`, and these pods: (uid, node).
pub struct World(pub Sources);

impl World {
    pub fn new(node: &str) -> Self {
        Self(Sources::new(node))
    }

    pub fn service(&mut self, name: &str, pods: &[(&str, &str)]) -> &mut Self {
        let endpoints: Vec<Value> = pods
            .iter()
            .enumerate()
            .map(|(i, (uid, node))| {
                json!({"addresses": [format!("10.42.1.{i}")], "nodeName": node, "conditions": {"ready": true},
                    "targetRef": {"kind": "Pod", "uid": uid, "name": uid}})
            })
            .collect();
        self.slice(name, 8080, &json!(endpoints))
    }

    pub fn slice(&mut self, name: &str, port: u16, endpoints: &Value) -> &mut Self {
        let put = |s: &mut Sources, plural: &str, object: Value| s.put(plural, &object).unwrap();
        put(
            &mut self.0,
            "services",
            json!({"metadata": {"namespace": "default", "name": name}, "spec": {"ports": [{"port": 80}]}}),
        );
        put(
            &mut self.0,
            "endpointslices",
            json!({"metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"port": port}], "endpoints": endpoints}),
        );
        put(
            &mut self.0,
            "ingresses",
            json!({"metadata": {"namespace": "default", "name": name}, "spec": {"rules": [{"host": format!("{name}.test"),
            "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": name, "port": {"number": 80}}}}]}}]}}),
        );
        self
    }

    pub fn table(&self) -> Arc<Table> {
        Arc::new(Table::build(&self.0))
    }
}

/// A proxy on a free port of loopback with two cores, no table yet.
pub fn proxy(node: &Arc<Node>, change: impl FnOnce(&mut Config)) -> Proxy {
    let mut config = Config::new("127.0.0.1:0".parse().unwrap(), node.clone());
    config.cores = 2;
    change(&mut config);
    Proxy::start(config).unwrap()
}

/// A proxy whose Service `web` is one local replica.
pub fn web(replica: Arc<dyn LocalReplica>, change: impl FnOnce(&mut Config)) -> Proxy {
    let node = Arc::new(Node::default());
    node.put("u0", replica);
    let p = proxy(&node, change);
    p.swap(World::new("n1").service("web", &[("u0", "n1")]).table());
    p
}

/// An answer as the client saw it.
#[derive(Debug)]
pub struct Seen {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let is = |line: &&str| {
            line.split_once(':')
                .is_some_and(|(n, _)| n.eq_ignore_ascii_case(name))
        };
        self.head
            .lines()
            .find(is)
            .and_then(|l| l.split_once(": "))
            .map(|(_, v)| v)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A connection that sends and receives bytes.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn new(addr: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(addr).await.unwrap(),
            buffer: Vec::new(),
        }
    }

    pub async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    async fn more(&mut self) -> usize {
        let read = self.stream.read_buf(&mut self.buffer);
        // A reset after the last answer is an end, too.
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("the server said nothing")
            .unwrap_or(0)
    }

    /// The next answer; `None` if the connection ended first.
    pub async fn answer(&mut self) -> Option<Seen> {
        let split = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if self.more().await == 0 {
                return None;
            }
        };
        let head = String::from_utf8(self.buffer.drain(..split).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        let mut seen = Seen {
            status,
            head,
            body: String::new(),
        };
        if let Some(length) = seen.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length {
                assert_ne!(self.more().await, 0, "the body broke off");
            }
            seen.body = String::from_utf8(self.buffer.drain(..length).collect()).unwrap();
        } else if seen.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk().await {
                seen.body.push_str(&chunk);
            }
        }
        Some(seen)
    }

    /// The next chunk of a chunked body; `None` at its end.
    pub async fn chunk(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let size =
                    usize::from_str_radix(std::str::from_utf8(&self.buffer[..end]).unwrap(), 16)
                        .unwrap();
                if self.buffer.len() >= end + 2 + size + 2 {
                    let text =
                        String::from_utf8(self.buffer[end + 2..end + 2 + size].to_vec()).unwrap();
                    self.buffer.drain(..end + 2 + size + 2);
                    return (size > 0).then_some(text);
                }
            }
            assert_ne!(self.more().await, 0, "the body broke off");
        }
    }

    /// The head of the next answer, leaving its body.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                return String::from_utf8(self.buffer.drain(..at + 4).collect()).unwrap();
            }
            assert_ne!(self.more().await, 0, "no answer");
        }
    }

    pub async fn get(&mut self, host: &str, path: &str) -> Option<Seen> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await;
        self.answer().await
    }

    /// Waits for the end of the connection; panics if there are bytes before it.
    pub async fn ended(&mut self) {
        while self.more().await > 0 {}
        assert!(
            self.buffer.is_empty(),
            "{:?}",
            String::from_utf8_lossy(&self.buffer)
        );
    }
}

pub async fn get(proxy: &Proxy, host: &str, path: &str) -> Seen {
    Client::new(proxy.ingress_addr())
        .await
        .get(host, path)
        .await
        .expect("an answer")
}

/// The metrics as a scraper sees them.
pub fn metrics(proxy: &Proxy) -> String {
    let mut registry = prometheus_client::registry::Registry::default();
    registry.register_collector(proxy.collector());
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}
