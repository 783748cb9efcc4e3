//! `GET` and `HEAD` of `/blobs/DIGEST` on the runner's port: layers for other runners, also those that are still on their
//! way here. Only nodes and members are answered: what is in an image may be a secret.
//!
//! Whole layers and coming ones look the same to the reader: he is told the length, and gets bytes as they are there.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use coracle_proxy::{Body, boxed, full};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::meter::Meter;
use super::partial::Partial;
use super::reference::check_digest;
use super::store::Store;

/// Layers sent at once: each takes a file and two pieces of memory. A runner has up to four children for each layer it
/// brings, and it brings eight at once.
const SENT_MAX: usize = 32;
/// Bytes a second sent to other runners, all together: 2 Gbit/s leave a server's line to its pods.
const BYTES_PER_S: u64 = 256 << 20;
/// Bytes read and sent at once.
const PIECE_BYTES: u64 = 256 << 10;
/// A reader that takes nothing for so long is given up.
const READER_STALL: Duration = Duration::from_secs(30);
/// When one who was refused may ask again, in seconds; there are others to ask.
const RETRY_AFTER: &str = "1";

/// Sends layers.
#[derive(Clone)]
pub(crate) struct Serve {
    store: Store,
    places: Arc<Semaphore>,
    pace: Arc<Pace>,
    meter: Meter,
}

/// Where the bytes are.
struct Found {
    file: Arc<std::fs::File>,
    size: u64,
    /// Bytes written so far, if they are still coming.
    written: Option<watch::Receiver<u64>>,
}

impl Serve {
    pub(super) fn new(store: Store, meter: Meter) -> Self {
        Self {
            store,
            meter,
            places: Arc::new(Semaphore::new(SENT_MAX)),
            pace: Arc::new(Pace::new(BYTES_PER_S)),
        }
    }

    /// Answers a `GET` or `HEAD` of a layer.
    pub async fn answer(
        &self,
        method: &Method,
        digest: &str,
        headers: &HeaderMap,
    ) -> Response<Body> {
        if let Err(why) = check_digest(digest) {
            return plain(StatusCode::BAD_REQUEST, format!("E_DIGEST: {why}\n"));
        }
        let found = match self.find(digest).await {
            Ok(Some(found)) => found,
            Ok(None) => {
                return plain(
                    StatusCode::NOT_FOUND,
                    "this runner has not got that layer\n",
                );
            }
            Err(e) => {
                let text = format!("the layer cannot be read: {e}\n");
                return plain(StatusCode::INTERNAL_SERVER_ERROR, text);
            }
        };
        let size = found.size;
        let range = headers.get(header::RANGE).and_then(|v| v.to_str().ok());
        let Ok(part) = asked(range, size) else {
            let mut refused = plain(StatusCode::RANGE_NOT_SATISFIABLE, "the layer ends before\n");
            set(
                &mut refused,
                header::CONTENT_RANGE,
                &format!("bytes */{size}"),
            );
            return refused;
        };
        let span = part.clone().unwrap_or(0..size);
        let mut response = if method == Method::HEAD {
            Response::new(full(Bytes::new()))
        } else {
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                let mut busy = plain(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("{SENT_MAX} layers are being sent already\n"),
                );
                set(&mut busy, header::RETRY_AFTER, RETRY_AFTER);
                return busy;
            };
            let (to, from) = mpsc::channel(1);
            let (serve, span) = (self.clone(), span.clone());
            tokio::spawn(async move {
                let _place = place;
                serve.send(found, span, to).await;
            });
            let frames = stream::unfold(from, |mut from| async {
                let piece: io::Result<Bytes> = from.recv().await?;
                Some((piece.map(Frame::data), from))
            });
            Response::new(boxed(StreamBody::new(frames)))
        };
        if part.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let text = format!("bytes {}-{}/{size}", span.start, span.end - 1);
            set(&mut response, header::CONTENT_RANGE, &text);
        }
        let length = (span.end - span.start).to_string();
        set(&mut response, header::CONTENT_LENGTH, &length);
        set(&mut response, header::ACCEPT_RANGES, "bytes");
        let kind = "application/octet-stream";
        set(&mut response, header::CONTENT_TYPE, kind);
        response
    }

    /// Sends a part, waiting for what is not there yet. What goes wrong ends the answer early, which its reader sees.
    async fn send(&self, mut found: Found, span: Range<u64>, to: mpsc::Sender<io::Result<Bytes>>) {
        let mut at = span.start;
        while at < span.end {
            let there = match &mut found.written {
                None => span.end,
                Some(written) => {
                    let there = *written.borrow_and_update();
                    if there <= at {
                        let more = tokio::select! {
                            more = written.changed() => more.is_ok(),
                            // The reader has gone away.
                            () = to.closed() => return,
                        };
                        if more {
                            continue;
                        }
                        let broken =
                            io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off here");
                        return drop(to.send(Err(broken)).await);
                    }
                    there.min(span.end)
                }
            };
            let length = (there - at).min(PIECE_BYTES);
            self.pace.take(length).await;
            let file = found.file.clone();
            let read = tokio::task::spawn_blocking(move || {
                // At most a piece long.
                let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
                file.read_exact_at(&mut bytes, at)?;
                Ok(Bytes::from(bytes))
            });
            let piece = read.await.unwrap_or_else(|e| Err(io::Error::other(e)));
            let end = piece.is_err();
            let sent = tokio::time::timeout(READER_STALL, to.send(piece)).await;
            if end || !matches!(sent, Ok(Ok(()))) {
                return;
            }
            at += length;
            self.meter.sent.inc_by(length);
        }
    }

    async fn find(&self, digest: &str) -> io::Result<Option<Found>> {
        // In this order: one that is finished in between is in the store by then.
        let coming = self.store.partials.get(digest).map(
            |Partial {
                 file,
                 size,
                 written,
             }| Found {
                file,
                size,
                written: Some(written),
            },
        );
        if coming.is_some() {
            return Ok(coming);
        }
        let (store, digest) = (self.store.clone(), digest.to_string());
        let opened = tokio::task::spawn_blocking(move || store.open_blob(&digest)).await;
        let opened = opened.map_err(io::Error::other)??;
        Ok(opened.map(|(file, size)| Found {
            file: Arc::new(file),
            size,
            written: None,
        }))
    }
}

/// The part that is asked for; `None` is all of it. An error: there is no such part.
fn asked(range: Option<&str>, size: u64) -> Result<Option<Range<u64>>, ()> {
    let part = range.and_then(|text| {
        let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
        let from: u64 = from.parse().ok()?;
        let to = match to {
            "" => u64::MAX,
            to => to.parse().ok()?,
        };
        Some((from, to))
    });
    match part {
        // None, or one of another kind: everything is a right answer to that.
        None => Ok(None),
        Some((from, to)) if from < size && from <= to => {
            Ok(Some(from..to.saturating_add(1).min(size)))
        }
        Some(_) => Err(()),
    }
}

/// Hands out so many bytes a second.
struct Pace {
    bytes_per_s: u64,
    free_at: Mutex<Instant>,
}

impl Pace {
    fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s,
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` may be sent.
    async fn take(&self, bytes: u64) {
        let turn = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*free_at).max(Instant::now());
            *free_at = turn + Duration::from_micros(bytes * 1_000_000 / self.bytes_per_s);
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

fn set(response: &mut Response<Body>, name: header::HeaderName, value: &str) {
    // Numbers and fixed texts.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    set(
        &mut response,
        header::CONTENT_TYPE,
        "text/plain; charset=utf-8",
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use sha2::Digest;

    #[test]
    fn parts_are_read_as_they_are_written() {
        for (range, want) in [
            (None, Ok(None)),
            (Some("bytes=0-"), Ok(Some(0..10))),
            (Some("bytes=3-"), Ok(Some(3..10))),
            (Some("bytes=3-3"), Ok(Some(3..4))),
            (Some("bytes=3-99"), Ok(Some(3..10))),
            (Some("bytes=10-"), Err(())),
            (Some("bytes=4-3"), Err(())),
            (Some("bytes=0-18446744073709551615"), Ok(Some(0..10))),
            (Some("bytes=-3"), Ok(None)),
            (Some("bytes=0-1,3-4"), Ok(None)),
            (Some("lines=1-"), Ok(None)),
        ] {
            assert_eq!(asked(range, 10), want, "{range:?}");
        }
        assert_eq!(asked(Some("bytes=0-"), 0), Err(()));
    }

    fn range(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::RANGE, HeaderValue::from_str(text).unwrap())])
    }

    async fn body(response: Response<Body>) -> Option<Vec<u8>> {
        let collected = response.into_body().collect().await;
        collected.ok().map(|all| all.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn layers_are_sent_whole_in_part_and_while_they_come() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1 << 30).unwrap();
        let serve = Serve::new(store.clone(), Meter::default());
        let bytes: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
        let digest = format!("sha256:{}", hex::encode(sha2::Sha256::digest(&bytes)));
        let none = HeaderMap::new();
        let get = |headers: HeaderMap| {
            let (serve, digest) = (serve.clone(), digest.clone());
            async move { serve.answer(&Method::GET, &digest, &headers).await }
        };
        assert_eq!(get(none.clone()).await.status(), 404);
        assert_eq!(
            serve
                .answer(&Method::GET, "sha256:../x", &none)
                .await
                .status(),
            400
        );
        let mut writer = store.writer(&digest, bytes.len() as u64).unwrap();
        writer.write(&bytes[..300_000]).unwrap();
        let early = get(none.clone()).await;
        assert_eq!(early.headers()[header::CONTENT_LENGTH], "700000");
        let early = tokio::spawn(body(early));
        let late = tokio::spawn(body(get(range("bytes=500000-")).await));
        writer.write(&bytes[300_000..]).unwrap();
        writer.finish().unwrap();
        assert!(early.await.unwrap().unwrap() == bytes);
        assert!(late.await.unwrap().unwrap() == bytes[500_000..]);
        assert!(body(get(none.clone()).await).await.unwrap() == bytes);
        let part = get(range("bytes=1-2")).await;
        assert_eq!(part.status(), 206);
        assert_eq!(part.headers()[header::CONTENT_RANGE], "bytes 1-2/700000");
        assert_eq!(body(part).await.unwrap(), bytes[1..3]);
        assert_eq!(get(range("bytes=700000-")).await.status(), 416);
        let head = serve.answer(&Method::HEAD, &digest, &none).await;
        assert_eq!(head.headers()[header::CONTENT_LENGTH], "700000");
    }

    #[tokio::test]
    async fn what_breaks_off_here_breaks_off_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1 << 30).unwrap();
        let serve = Serve::new(store.clone(), Meter::default());
        let digest = format!("sha256:{}", "0".repeat(64));
        let mut writer = store.writer(&digest, 10).unwrap();
        writer.write(b"abc").unwrap();
        let answer = serve.answer(&Method::GET, &digest, &HeaderMap::new()).await;
        let read = tokio::spawn(body(answer));
        drop(writer);
        assert_eq!(read.await.unwrap(), None, "an error, not a short layer");
    }

    #[tokio::test]
    async fn the_one_too_many_is_told_to_go_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1 << 30).unwrap();
        let serve = Serve::new(store.clone(), Meter::default());
        let digest = format!("sha256:{}", "0".repeat(64));
        let _writer = store.writer(&digest, 10).unwrap();
        let none = HeaderMap::new();
        let mut readers = Vec::new();
        for _ in 0..SENT_MAX {
            readers.push(serve.answer(&Method::GET, &digest, &none).await);
        }
        let refused = serve.answer(&Method::GET, &digest, &none).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key(header::RETRY_AFTER));
        // Readers that go away give their places back.
        drop(readers);
        while serve.places.available_permits() < SENT_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            serve.answer(&Method::GET, &digest, &none).await.status(),
            200
        );
    }

    #[tokio::test(start_paused = true)]
    async fn all_readers_together_keep_the_pace() {
        let pace = Pace::new(1_000);
        let since = Instant::now();
        for _ in 0..5 {
            pace.take(1_000).await;
        }
        assert_eq!(since.elapsed().as_secs(), 4);
    }
}
