//! Reading watches: gRPC messages on one side, lines of JSON on the other.

use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use http::{Method, Uri};
use memchr::memmem::FinderRev;

use super::client::{PREFIX, json, name, number};
use super::grpc::{self, WatchCreate, WatchRequest, WatchResponse};
use super::http2::Connection;
use super::watchers::{Scope, Seen, Shared};

/// Where a line has the object's name.
static NAME: LazyLock<FinderRev<'_>> = LazyLock::new(|| FinderRev::new(r#""name":""#));
/// Where a line has the object's revision.
static REVISION: LazyLock<FinderRev<'_>> =
    LazyLock::new(|| FinderRev::new(r#""resourceVersion":""#));

/// One watch stream of etcd with the watchers `mine` on it; returns only when something is wrong.
pub async fn etcd(
    connection: &mut Connection,
    uri: &Uri,
    mine: &[usize],
    shared: &Shared,
    seen: &mut [Seen],
) -> Result<()> {
    let create = |i: usize| {
        let (key, range_end) = match shared.scope {
            Scope::All => {
                let mut end = PREFIX.as_bytes().to_vec();
                if let Some(last) = end.last_mut() {
                    *last += 1;
                }
                (PREFIX.to_string(), Bytes::from(end))
            }
            Scope::Own => (
                format!("{PREFIX}{}", name(shared.series, mine[i] as u64)),
                Bytes::new(),
            ),
        };
        grpc::frame(&WatchRequest {
            create: Some(WatchCreate {
                key: key.into(),
                range_end,
                watch_id: i as i64 + 1,
            }),
        })
    };
    let requests = (0..mine.len()).map(create).collect();
    let (_sender, mut incoming) = connection
        .stream(grpc::request(uri), requests, false)
        .await?;
    let mut buffer = BytesMut::new();
    while let Some(chunk) = incoming.data().await {
        let chunk = chunk?;
        incoming.flow_control().release_capacity(chunk.len())?;
        buffer.extend_from_slice(&chunk);
        let at = shared.micros();
        let mut new = 0;
        while let Some(message) = grpc::next_message::<WatchResponse>(&mut buffer)? {
            if message.canceled {
                shared.ended.fetch_add(1, Ordering::AcqRel);
                bail!("a watch was cancelled: {}", message.cancel_reason);
            }
            if message.created {
                shared.ready.fetch_add(1, Ordering::AcqRel);
            }
            let Some(seen) = usize::try_from(message.watch_id - 1)
                .ok()
                .and_then(|i| seen.get_mut(i))
            else {
                bail!("an event for watch {}", message.watch_id);
            };
            for kv in message.events.into_iter().filter_map(|e| e.kv) {
                let object = number(&kv.key).context("an event of an unknown key")?;
                new += u64::from(shared.note(seen, object, kv.mod_revision as u64, at));
            }
        }
        shared.arrived(new);
    }
    shared.ended.fetch_add(1, Ordering::AcqRel);
    bail!("the server closed the stream")
}

/// One watch of our API; returns only when something is wrong.
pub async fn ours(
    connection: &mut Connection,
    uri: Uri,
    shared: &Shared,
    seen: &mut Seen,
) -> Result<()> {
    let opened = connection
        .stream(json(Method::GET, uri), Vec::new(), true)
        .await;
    let (_sender, mut incoming) = match opened {
        Ok(o) => o,
        Err(e) => {
            shared.ended.fetch_add(1, Ordering::AcqRel);
            return Err(e);
        }
    };
    shared.ready.fetch_add(1, Ordering::AcqRel);
    let mut rest: Vec<u8> = Vec::new();
    while let Some(chunk) = incoming.data().await {
        let chunk = chunk?;
        incoming.flow_control().release_capacity(chunk.len())?;
        let at = shared.micros();
        let mut new = 0;
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', &chunk) {
            let part = &chunk[begin..end];
            begin = end + 1;
            let noted = if rest.is_empty() {
                line(part, shared, seen, at)
            } else {
                rest.extend_from_slice(part);
                let noted = line(&rest, shared, seen, at);
                rest.clear();
                noted
            };
            match noted {
                Ok(is_new) => new += u64::from(is_new),
                Err(e) => {
                    shared.ended.fetch_add(1, Ordering::AcqRel);
                    return Err(e);
                }
            }
        }
        rest.extend_from_slice(&chunk[begin..]);
        shared.arrived(new);
    }
    shared.ended.fetch_add(1, Ordering::AcqRel);
    bail!("the server closed the watch")
}

/// One line of a watch: the type stands first, the name and the resourceVersion are looked for from the end, so that a
/// line costs the load generator about what decoding protobuf costs it on the other side. (It once looked for the type in
/// the whole text.)
fn line(text: &[u8], shared: &Shared, seen: &mut Seen, at: u32) -> Result<bool> {
    let text = std::str::from_utf8(text)?;
    if text.starts_with(r#"{"type":"BOOKMARK""#) || text.trim().is_empty() {
        return Ok(false);
    }
    ensure!(!text.starts_with(r#"{"type":"ERROR""#), "{text}");
    let field = |key: &FinderRev<'_>| {
        let at = key.rfind(text.as_bytes())? + key.needle().len();
        let end = memchr::memchr(b'"', &text.as_bytes()[at..])?;
        text.get(at..at + end)
    };
    let object = field(&NAME)
        .and_then(|n| number(n.as_bytes()))
        .with_context(|| format!("an event without a name: {text}"))?;
    let revision = field(&REVISION)
        .and_then(|v| v.parse().ok())
        .with_context(|| format!("an event without a resourceVersion: {text}"))?;
    Ok(shared.note(seen, object, revision, at))
}

#[cfg(test)]
mod tests {
    use super::super::watchers::NEVER;
    use super::super::watchers::tests::shared;
    use super::*;

    #[test]
    fn losses_repeats_and_disorder_are_told_apart() -> Result<()> {
        let shared = shared(Scope::All);
        let mut seen = shared.blank();
        let event = |n: u64, rv: u64| {
            format!(
                "{{\"type\":\"ADDED\",\"object\":{{\"metadata\":{{\"name\":\"{}\",\"resourceVersion\":\"{rv}\"}}}}}}\n",
                name(1, n)
            )
        };
        assert!(line(event(0, 10).as_bytes(), &shared, &mut seen, 5)?);
        assert!(line(event(2, 12).as_bytes(), &shared, &mut seen, 6)?);
        assert!(!line(event(2, 12).as_bytes(), &shared, &mut seen, 7)?);
        assert!(line(event(1, 11).as_bytes(), &shared, &mut seen, 8)?);
        assert_eq!((seen.twice, seen.disorder), (1, 2));
        assert_eq!(seen.times, [5, 8, 6, NEVER]);
        Ok(())
    }
}
