//! Loads: a fixed number of operations by some clients, each on a connection of its own, timed from the first to the
//! last. What is pushed is made before the clock starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::task::JoinSet;

use super::content::{Blob, MARK};
use super::http::{Connection, Pieces, location, with_digest};
use super::servers::Registry;
use crate::bench::load::puts::quantile_ms;
use crate::bench::servers::meter::Usage;

const OCTETS: &str = "application/octet-stream";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Repository of the bench.
pub const REPOSITORY: &str = "bench/load";

/// One operation.
#[derive(Clone)]
pub enum Operation {
    /// POST, one PATCH with all bytes, PUT: what docker and skopeo do.
    Push(Blob),
    /// GET, read to the end, its length and mark compared.
    Pull(Blob),
    /// PUT under a tag.
    PutManifest { tag: String, body: Bytes },
    /// GET by tag, its length compared.
    GetManifest { tag: String, length: usize },
    /// POST, then a PATCH for every `piece` bytes, PUT.
    Patches { blob: Blob, piece: usize },
}

/// What a load gave.
pub struct Outcome {
    /// Operations per second.
    pub per_second: f64,
    /// Median latency, ms.
    pub p50_ms: f64,
    /// 99th percentile, ms.
    pub p99_ms: f64,
    /// Slowest, ms.
    pub max_ms: f64,
    /// CPU seconds of the server.
    pub cpu_seconds: f64,
}

/// Runs the operations, each once, by so many clients.
pub async fn run(
    registry: &Registry,
    clients: usize,
    operations: Vec<Operation>,
) -> Result<Outcome> {
    let count = operations.len();
    let operations = Arc::new(operations);
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = Vec::new();
    for _ in 0..clients.min(count) {
        connections.push(Connection::open(registry.address).await?);
    }
    let pid = [registry.pid()];
    let before = Usage::of(&pid)?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        let (operations, next) = (operations.clone(), next.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while let Some(operation) = operations.get(next.fetch_add(1, Ordering::Relaxed)) {
                let from = Instant::now();
                one(&mut connection, operation).await?;
                latencies.push(u32::try_from(from.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.append(&mut done.context("a client of the load generator panicked")??);
    }
    let seconds = start.elapsed().as_secs_f64();
    let used = Usage::of(&pid)?.since(&before);
    ensure!(latencies.len() == count, "not every operation was made");
    latencies.sort_unstable();
    Ok(Outcome {
        per_second: count as f64 / seconds,
        p50_ms: quantile_ms(&latencies, 0.50),
        p99_ms: quantile_ms(&latencies, 0.99),
        max_ms: quantile_ms(&latencies, 1.0),
        cpu_seconds: used.cpu_seconds,
    })
}

async fn one(connection: &mut Connection, operation: &Operation) -> Result<()> {
    match operation {
        Operation::Push(blob) => push(connection, blob, blob.size()).await,
        Operation::Patches { blob, piece } => push(connection, blob, *piece).await,
        Operation::Pull(blob) => {
            let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
            let answer = get(connection, &path).await?;
            ensure!(
                answer.length == blob.size() as u64 && answer.tail == blob.pieces[1],
                "{path} is not what was pushed"
            );
            Ok(())
        }
        Operation::PutManifest { tag, body } => {
            let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
            let body = Pieces::new([body.clone()]);
            let kind = Some(MANIFEST);
            connection
                .call(Method::PUT, &path, kind, body, StatusCode::CREATED)
                .await?;
            Ok(())
        }
        Operation::GetManifest { tag, length } => {
            let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
            let kind = Some(MANIFEST);
            let answer = connection
                .call(Method::GET, &path, kind, Pieces::default(), StatusCode::OK)
                .await?;
            ensure!(
                answer.length == *length as u64,
                "{path} is not what was pushed"
            );
            Ok(())
        }
    }
}

async fn get(connection: &mut Connection, path: &str) -> Result<super::http::Answer> {
    connection
        .call(Method::GET, path, None, Pieces::default(), StatusCode::OK)
        .await
}

/// An upload in PATCHes of `piece` bytes.
async fn push(connection: &mut Connection, blob: &Blob, piece: usize) -> Result<()> {
    let mut at = begin(connection).await?;
    let mut sent = 0;
    while sent < blob.size() {
        let end = (sent + piece).min(blob.size());
        let body = Pieces::new(slice(blob, sent, end));
        let answer = connection
            .call(Method::PATCH, &at, Some(OCTETS), body, StatusCode::ACCEPTED)
            .await?;
        at = location(&answer.headers)?;
        sent = end;
    }
    finish(connection, &at, blob).await
}

/// Opens an upload; where it goes on.
pub async fn begin(connection: &mut Connection) -> Result<String> {
    let path = format!("/v2/{REPOSITORY}/blobs/uploads/");
    let answer = connection
        .call(
            Method::POST,
            &path,
            None,
            Pieces::default(),
            StatusCode::ACCEPTED,
        )
        .await?;
    location(&answer.headers)
}

/// Ends an upload.
pub async fn finish(connection: &mut Connection, at: &str, blob: &Blob) -> Result<()> {
    let path = with_digest(at, &blob.digest);
    connection
        .call(
            Method::PUT,
            &path,
            None,
            Pieces::default(),
            StatusCode::CREATED,
        )
        .await?;
    Ok(())
}

/// Bytes `from..to` of a blob.
fn slice(blob: &Blob, from: usize, to: usize) -> [Bytes; 2] {
    let split = blob.size() - MARK;
    let cut = |piece: &Bytes, base: usize| {
        let low = from.clamp(base, base + piece.len()) - base;
        let high = to.clamp(base, base + piece.len()) - base;
        piece.slice(low..high)
    };
    [cut(&blob.pieces[0], 0), cut(&blob.pieces[1], split)]
}

#[cfg(test)]
mod tests {
    use super::super::content::Contents;
    use super::*;

    #[test]
    fn pieces_of_a_blob_are_the_blob() {
        let blob = Contents::new(&[100]).blob(100, 1, 2);
        for piece in [1, 7, 50, 84, 90, 100] {
            let cut: Vec<u8> = (0..100)
                .step_by(piece)
                .flat_map(|from| slice(&blob, from, (from + piece).min(100)).concat())
                .collect();
            assert_eq!(cut, blob.pieces.concat(), "{piece}");
        }
    }
}
