//! List and watch of one resource, with the exact revision of everything that is told.
//!
//! Own code instead of a watcher library, because the drain handshake needs to know precisely which resourceVersion has
//! been seen, bookmarks included, and skips none.

use std::time::Duration;

use bytes::BytesMut;
use coracle_api::{Key, meta};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Failure};

/// Longest line of a watch: objects are bounded to about 1.5 MB by the API.
const EVENT_BYTES_MAX: usize = 8 << 20;
/// The server ends a watch after this time; a new one goes on from the same revision.
const WATCH_SECONDS: u64 = 300;
/// Silence after which a connection is taken for dead: the watch's own end and some slack.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS + 30);
/// First and longest pause after a failure.
const PAUSES_MS: (u64, u64) = (100, 5_000);

/// What to watch.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Path of the collection.
    pub path: String,
    /// Field selector, empty for all.
    pub fields: String,
}

impl Target {
    /// A whole collection.
    pub fn all(path: &str) -> Self {
        Self {
            path: path.into(),
            fields: String::new(),
        }
    }

    fn url(&self, more: &str) -> String {
        let mut url = format!("{}?{more}", self.path);
        if !self.fields.is_empty() {
            url.push_str("&fieldSelector=");
            url.push_str(&self.fields.replace('=', "%3D"));
        }
        url
    }
}

/// What a consumer has to do.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// This is all there is; forget everything else.
    Listed {
        /// Every object.
        items: Vec<Value>,
        /// Revision of the list.
        revision: u64,
    },
    /// The object is new or changed.
    Put {
        /// The object.
        object: Value,
        /// Its revision.
        revision: u64,
    },
    /// The object is gone.
    Gone {
        /// Namespace and name.
        key: Key,
        /// Uid it had.
        uid: String,
        /// Revision of the deletion.
        revision: u64,
    },
    /// Everything up to this revision has been told.
    Seen {
        /// The revision.
        revision: u64,
    },
}

/// Why a watch has to start over.
enum Stop {
    /// From the same revision.
    Again,
    /// With a new list.
    Relist,
    /// The consumer has gone.
    Closed,
}

/// Lists and watches until the consumer is gone or `stop` is cancelled.
pub(crate) async fn run(
    api: Api,
    target: Target,
    into: mpsc::Sender<Change>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = follow(&api, &target, &into) => {}
        () = stop.cancelled() => {}
    }
}

async fn follow(api: &Api, target: &Target, into: &mpsc::Sender<Change>) {
    let mut pause_ms = PAUSES_MS.0;
    let mut revision: Option<u64> = None;
    loop {
        let step = match revision {
            None => list(api, target, into, &mut revision).await,
            Some(_) => watch(api, target, into, &mut revision, &mut pause_ms).await,
        };
        match step {
            Ok(Stop::Closed) => return,
            Ok(Stop::Again) => pause_ms = PAUSES_MS.0,
            Ok(Stop::Relist) => revision = None,
            Err(failure) => {
                tracing::warn!(path = target.path, %failure, retry_ms = pause_ms, "list or watch failed");
                if failure.code() == 410 {
                    revision = None;
                }
                // Not all at the same moment after the API server comes back.
                let jitter = rand::random_range(0..=pause_ms / 2);
                tokio::time::sleep(Duration::from_millis(pause_ms + jitter)).await;
                pause_ms = (pause_ms * 2).min(PAUSES_MS.1);
            }
        }
    }
}

async fn list(
    api: &Api,
    target: &Target,
    into: &mpsc::Sender<Change>,
    revision: &mut Option<u64>,
) -> Result<Stop, Failure> {
    let mut list = api.get(&target.url("limit=0")).await?;
    let at = meta::revision(&list)
        .ok_or_else(|| Failure::Transport("a list without resourceVersion".into()))?;
    let items = match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    if into
        .send(Change::Listed {
            items,
            revision: at,
        })
        .await
        .is_err()
    {
        return Ok(Stop::Closed);
    }
    *revision = Some(at);
    Ok(Stop::Again)
}

async fn watch(
    api: &Api,
    target: &Target,
    into: &mpsc::Sender<Change>,
    revision: &mut Option<u64>,
    pause_ms: &mut u64,
) -> Result<Stop, Failure> {
    let from = revision.unwrap_or(0);
    let query = format!(
        "watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={from}"
    );
    let mut moved = api.moved();
    let mut stream = api.stream(&target.url(&query), "application/json").await?;
    let mut buffer = BytesMut::new();
    loop {
        let next = tokio::time::timeout(SILENCE, stream.body.frame());
        let next = tokio::select! {
            next = next => next,
            // The member this comes from has lost its quorum: it would be silent for ever. From the same revision, then.
            Ok(()) = moved.changed() => return Ok(Stop::Again),
        };
        let frame = match next {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(e))) => {
                return Err(Failure::Transport(format!("the watch broke off: {e}")));
            }
            Ok(None) => return Ok(Stop::Again),
            Err(_) => {
                return Err(Failure::Transport(
                    "the watch has been silent for too long".into(),
                ));
            }
        };
        *pause_ms = PAUSES_MS.0;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line = buffer.split_to(end + 1);
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let change = match event(&line)? {
                Some(change) => change,
                None => return Ok(Stop::Relist),
            };
            let (Change::Listed { revision: at, .. }
            | Change::Put { revision: at, .. }
            | Change::Gone { revision: at, .. }
            | Change::Seen { revision: at }) = &change;
            let at = *at;
            if into.send(change).await.is_err() {
                return Ok(Stop::Closed);
            }
            *revision = Some(at);
        }
        if buffer.len() > EVENT_BYTES_MAX {
            return Err(Failure::Transport(format!(
                "a watch event has more than {EVENT_BYTES_MAX} bytes"
            )));
        }
    }
}

/// One line of a watch; `None` asks for a new list.
fn event(line: &[u8]) -> Result<Option<Change>, Failure> {
    let broken = |why: &str| Failure::Transport(format!("a watch event cannot be read: {why}"));
    let mut event: Value = serde_json::from_slice(line).map_err(|e| broken(&e.to_string()))?;
    let object = event["object"].take();
    let kind = event["type"].as_str().unwrap_or_default();
    if kind == "ERROR" {
        let code = u16::try_from(object["code"].as_u64().unwrap_or(500)).unwrap_or(500);
        if code == 410 {
            return Ok(None);
        }
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_string();
        return Err(Failure::Status {
            code,
            reason: text("reason"),
            message: text("message"),
        });
    }
    let revision = meta::revision(&object).ok_or_else(|| broken("no resourceVersion"))?;
    Ok(Some(match kind {
        "ADDED" | "MODIFIED" => Change::Put { object, revision },
        "DELETED" => Change::Gone {
            key: meta::key(&object),
            uid: meta::uid(&object).into(),
            revision,
        },
        "BOOKMARK" => Change::Seen { revision },
        other => return Err(broken(&format!("type {other:?}"))),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_say_what_to_do_and_at_which_revision() {
        let line =
            br#"{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":"7"}}}"#;
        assert!(matches!(
            event(line),
            Ok(Some(Change::Put { revision: 7, .. }))
        ));
        let line = br#"{"type":"DELETED","object":{"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"9"}}}"#;
        match event(line) {
            Ok(Some(Change::Gone {
                key,
                uid,
                revision: 9,
            })) => assert_eq!((key, uid.as_str()), (Key::new("n", "a"), "u")),
            other => panic!("{other:?}"),
        }
        let line = br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"11"}}}"#;
        assert!(matches!(
            event(line),
            Ok(Some(Change::Seen { revision: 11 }))
        ));
        assert!(matches!(
            event(br#"{"type":"ERROR","object":{"code":410}}"#),
            Ok(None)
        ));
        assert!(matches!(
            event(br#"{"type":"ERROR","object":{"code":500}}"#),
            Err(Failure::Status { code: 500, .. })
        ));
        assert!(event(b"{").is_err());
    }
}
