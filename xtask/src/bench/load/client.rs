//! What a bench asks of a system: durable puts, and objects of a stated size.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, StatusCode, Uri};

use super::grpc;
use super::http2::{Connection, Endpoint};

/// Key prefix in etcd, as kube-apiserver lays objects out; with the 29 bytes of a name a key has 56.
pub const PREFIX: &str = "/registry/configmaps/bench/";
/// Namespace of our objects.
pub const NAMESPACE: &str = "bench";
/// Time for a connection to a member that should be there.
pub const CONNECT: Duration = Duration::from_secs(10);
/// Bytes of noise that values are cut from: letters and digits, the same for both systems.
const NOISE: usize = 1 << 20;

/// Which system a client talks to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Our API: ConfigMaps over JSON.
    Ours,
    /// etcd's gRPC API.
    Etcd,
}

/// What a put does on our side (in etcd a put is a put).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// POST of a new object.
    Create,
    /// PUT over an existing object.
    Update,
}

/// The name of object `n` of `series`: 29 bytes, so that etcd's key has 56.
pub fn name(series: u32, n: u64) -> String {
    format!("{series:08x}-0000-{n:015}")
}

/// The number in a name made by [`name`].
pub fn number(name: &[u8]) -> Option<u64> {
    let digits = name.get(name.len().checked_sub(15)?..)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Values of any size up to 1 MiB, none of them the same.
#[derive(Clone)]
pub struct Values(Bytes);

impl Values {
    /// The noise, from a fixed seed: both systems get the same bytes.
    pub fn new() -> Self {
        const LETTERS: &[u8; 64] =
            b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let noise = (0..NOISE).map(|_| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            LETTERS[(state >> 33) as usize % LETTERS.len()]
        });
        Self(noise.collect::<Vec<u8>>().into())
    }

    /// `size` bytes for the `n`th value.
    pub fn get(&self, n: u64, size: usize) -> Bytes {
        let room = self.0.len().saturating_sub(size).max(1) as u64;
        let at = (n.wrapping_mul(7919) % room) as usize;
        self.0.slice(at..(at + size).min(self.0.len()))
    }
}

/// One client: its share of a connection to one member.
pub struct Client {
    side: Side,
    endpoint: Endpoint,
    connection: Connection,
    base: String,
    uri: Uri,
    values: Values,
    /// Bytes of our object beside its data, so that both systems store the same number of bytes.
    overhead: usize,
}

impl Client {
    /// A client on `connection` to `endpoint`; `overhead` from [`overhead`] (0 for etcd).
    pub fn new(
        side: Side,
        endpoint: &Endpoint,
        connection: Connection,
        values: Values,
        overhead: usize,
    ) -> Result<Self> {
        let base = match side {
            Side::Ours => format!(
                "https://{}/api/v1/namespaces/{NAMESPACE}/configmaps",
                endpoint.address
            ),
            Side::Etcd => format!("https://{}/etcdserverpb.KV/Put", endpoint.address),
        };
        Ok(Self {
            side,
            endpoint: endpoint.clone(),
            connection,
            uri: base.parse()?,
            base,
            values,
            overhead,
        })
    }

    /// Takes a new connection if the old one is broken.
    pub async fn reopen(&mut self) -> Result<()> {
        if !self.connection.is_open() {
            self.connection = Connection::open(&self.endpoint, CONNECT).await?;
        }
        Ok(())
    }

    /// Puts object `name` with a value such that `size` bytes are stored; back when the system has acknowledged it.
    /// `n` picks the value.
    pub async fn put(&mut self, verb: Verb, name: &str, n: u64, size: usize) -> Result<()> {
        match self.side {
            Side::Etcd => {
                let message = grpc::Put {
                    key: format!("{PREFIX}{name}").into(),
                    value: self.values.get(n, size),
                };
                let request = grpc::request(&self.uri);
                let answer = self.connection.call(request, grpc::frame(&message)).await?;
                grpc::check(&answer)
            }
            Side::Ours => {
                let data = self
                    .values
                    .get(n, size.saturating_sub(self.overhead).max(1));
                let (request, expected) = match verb {
                    Verb::Create => (json(Method::POST, self.uri.clone()), StatusCode::CREATED),
                    Verb::Update => (
                        json(Method::PUT, format!("{}/{name}", self.base).parse()?),
                        StatusCode::OK,
                    ),
                };
                let answer = self.connection.call(request, object(name, &data)).await?;
                if answer.status != expected {
                    bail!(
                        "HTTP {}: {}",
                        answer.status,
                        String::from_utf8_lossy(&answer.body)
                    );
                }
                Ok(())
            }
        }
    }
}

/// A request of our API.
pub fn json(method: Method, uri: Uri) -> Request<()> {
    let mut r = Request::new(());
    *r.method_mut() = method;
    *r.uri_mut() = uri;
    let h = r.headers_mut();
    h.insert("content-type", HeaderValue::from_static("application/json"));
    h.insert("accept", HeaderValue::from_static("application/json"));
    r
}

fn object(name: &str, data: &[u8]) -> Bytes {
    const A: &[u8] = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":""#;
    const B: &[u8] = br#""},"data":{"v":""#;
    const C: &[u8] = br#""}}"#;
    let mut b = BytesMut::with_capacity(A.len() + name.len() + B.len() + data.len() + C.len());
    for part in [A, name.as_bytes(), B, data, C] {
        b.extend_from_slice(part);
    }
    b.freeze()
}

/// Creates the namespace of the bench and tells how many bytes our object has beside its data.
pub async fn prepare_ours(endpoint: &Endpoint) -> Result<usize> {
    let mut connection = Connection::open(endpoint, CONNECT).await?;
    let uri = |path: &str| -> Result<Uri> {
        Ok(format!("https://{}/api/v1/namespaces{path}", endpoint.address).parse()?)
    };
    let body =
        format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{NAMESPACE}"}}}}"#);
    let answer = connection
        .call(json(Method::POST, uri("")?), body.into())
        .await?;
    if answer.status != StatusCode::CREATED && answer.status != StatusCode::CONFLICT {
        bail!(
            "no namespace: {}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
    }
    let path = format!("/{NAMESPACE}/configmaps");
    let probe = object(&name(u32::MAX, 0), b"");
    let answer = connection
        .call(json(Method::POST, uri(&path)?), probe)
        .await?;
    if answer.status != StatusCode::CREATED {
        bail!(
            "no object: {}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
    }
    Ok(answer.body.trim_ascii_end().len())
}

/// A GET of our API, as JSON.
pub async fn get_json(endpoint: &Endpoint, path: &str) -> Result<serde_json::Value> {
    let mut connection = Connection::open(endpoint, CONNECT).await?;
    let uri = format!("https://{}{path}", endpoint.address).parse()?;
    let answer = connection
        .call(json(Method::GET, uri), Bytes::new())
        .await?;
    if answer.status != StatusCode::OK {
        bail!(
            "GET {path}: {}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
    }
    serde_json::from_slice(&answer.body).with_context(|| format!("GET {path}"))
}

/// A member's own view of the raft group, from either system.
pub struct MemberStatus {
    /// It is the leader.
    pub leader: bool,
    /// The group has a leader that it knows.
    pub led: bool,
    /// Index applied.
    pub applied: u64,
    /// Term, if the system tells it.
    pub term: Option<u64>,
}

/// Asks one etcd member for its status.
pub async fn etcd_status(endpoint: &Endpoint) -> Result<MemberStatus> {
    let mut connection = Connection::open(endpoint, CONNECT).await?;
    let uri = format!(
        "https://{}/etcdserverpb.Maintenance/Status",
        endpoint.address
    )
    .parse()?;
    let s: grpc::Status = grpc::unary(&mut connection, &uri, &grpc::StatusRequest {}).await?;
    let me = s.header.map_or(0, |h| h.member_id);
    Ok(MemberStatus {
        leader: s.leader != 0 && s.leader == me,
        led: s.leader != 0,
        applied: s.raft_applied_index,
        term: Some(s.raft_term),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_29_bytes_and_its_number() {
        let n = name(0xabc, 1234);
        assert_eq!(n.len(), 29);
        assert_eq!(n.len() + PREFIX.len(), 56);
        assert_eq!(number(n.as_bytes()), Some(1234));
        assert_eq!(number(b"short"), None);
    }

    #[test]
    fn values_have_the_size_asked_for() {
        let v = Values::new();
        for size in [1, 256, 4096] {
            assert_eq!(v.get(17, size).len(), size);
        }
        assert_ne!(v.get(1, 64), v.get(2, 64));
    }
}
