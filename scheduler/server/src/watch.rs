//! Watches. A watcher holds a position in the event ring and nothing else: it asks for the events after its position
//! when its connection takes more bytes. A client too slow for the ring is told 410 Expired; it never delays anybody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use coracle_api::{ApiError, Kind};
use coracle_state::{Change, Event, Obj};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::call::Call;
use crate::context::Context;
use crate::negotiate::{self, Include, Shape};
use crate::read::{Selection, wire_at};
use crate::reply::{self, Answer};

/// Time between bookmarks, as kube-apiserver.
pub const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Events taken from the ring at once: what is held beyond the position while a client is slow.
const TAKE_MAX: usize = 1_024;
/// Size at which frames are handed to the connection.
const PIECE_BYTES: usize = 64 << 10;
/// A watch without `timeoutSeconds` ends after 30 to 60 minutes, spread so that clients do not come back together.
const TIMEOUT_SECONDS: (u64, u64) = (1_800, 3_600);
/// Shutdown closes watches spread over this time, for the same reason.
pub const CLOSE_SPREAD: Duration = Duration::from_secs(2);

/// How frames look.
struct Form {
    kind: &'static Kind,
    shape: Shape,
    include: Include,
    columns_sent: bool,
}

struct Watch {
    ctx: Arc<Context>,
    selection: Selection,
    form: Form,
    position: u64,
    initial: VecDeque<Arc<Obj>>,
    events: VecDeque<Arc<Event>>,
    bookmarks: bool,
    bookmark_at: Instant,
    ends_at: Instant,
    closing: CancellationToken,
    spread: Duration,
    ended: bool,
    _open: Open,
}

/// Counts an open stream while it lives.
pub struct Open(
    Arc<Context>,
    #[allow(dead_code, reason = "held for its drop")] OwnedSemaphorePermit,
);

impl Open {
    /// Takes a place among the streams; 429 if there is none.
    pub fn new(ctx: &Arc<Context>) -> Result<Self, ApiError> {
        let permit = ctx.streams.clone().try_acquire_owned().map_err(|_| {
            reply::later(
                429,
                "TooManyRequests",
                "too many watches are open on this member, retry later",
            )
        })?;
        ctx.metrics.streams.inc();
        Ok(Self(ctx.clone(), permit))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.streams.dec();
    }
}

/// `GET ?watch=true`.
pub async fn watch(ctx: &Arc<Context>, call: &Call) -> Answer {
    if call.query.flag("sendInitialEvents")? || call.query.get("sendInitialEvents").is_some() {
        // Clients fall back to list and watch on exactly this answer.
        let cause = coracle_api::error::Cause {
            field: "sendInitialEvents".into(),
            reason: "FieldValueForbidden".into(),
            message: "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled".into(),
        };
        return Err(ApiError::invalid(
            "ListOptions",
            "meta.k8s.io",
            "",
            vec![cause],
        ));
    }
    let shape = call.shape()?;
    let selection = Selection::of(call)?;
    let draw = ctx.ids(|ids| ids.next_u64());
    let seconds = call
        .query
        .number("timeoutSeconds")?
        .filter(|s| *s > 0)
        .unwrap_or(TIMEOUT_SECONDS.0 + draw % (TIMEOUT_SECONDS.1 - TIMEOUT_SECONDS.0));
    let asked = call.query.resource_version()?.filter(|r| *r > 0);
    let view = crate::read::fresh(ctx, asked).await?;
    let (position, initial) = match asked {
        Some(r) => (r, VecDeque::new()),
        None => (
            view.revision,
            selection.objects(&view, call.kind.table).cloned().collect(),
        ),
    };
    drop(view);
    let now = Instant::now();
    let state = Watch {
        selection,
        form: Form {
            kind: call.kind,
            shape,
            include: call.include()?,
            columns_sent: false,
        },
        position,
        initial,
        events: VecDeque::new(),
        bookmarks: call.query.flag("allowWatchBookmarks")?,
        bookmark_at: now + BOOKMARK_EVERY,
        ends_at: now + Duration::from_secs(seconds.min(24 * 3_600)),
        closing: call.closing.clone(),
        spread: CLOSE_SPREAD.mul_f64((draw % 1_000) as f64 / 1_000.0),
        ended: false,
        _open: Open::new(ctx)?,
        ctx: ctx.clone(),
    };
    let frames = stream::unfold(state, |mut w| async move {
        w.next()
            .await
            .map(|bytes| (Ok::<_, std::convert::Infallible>(bytes), w))
    });
    Ok(reply::bytes(200, reply::JSON, Body::from_stream(frames)))
}

impl Watch {
    /// The next frames, as soon as there is one; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            let piece = self.ready();
            if !piece.is_empty() {
                return Some(piece);
            }
            // Asked here too, because a busy table never lets the select below wait.
            if Instant::now() >= self.ends_at {
                return self.end();
            }
            let view = self.ctx.view();
            if view.revision > self.position {
                match view.events_after(self.form.kind.table, self.position) {
                    None => return Some(self.expire()),
                    Some(events) if events.is_empty() => self.position = view.revision,
                    Some(events) => {
                        let all = events.len() <= TAKE_MAX;
                        self.events = events.into_iter().take(TAKE_MAX).collect();
                        let last = self.events.back().map_or(self.position, |e| e.revision);
                        self.position = if all { view.revision } else { last };
                    }
                }
                continue;
            }
            drop(view);
            let bookmark = async {
                match self.bookmarks {
                    true => tokio::time::sleep_until(self.bookmark_at).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.ctx.config.views.newer_than(self.position) => {}
                () = bookmark => {
                    self.bookmark_at = Instant::now() + BOOKMARK_EVERY;
                    return Some(self.bookmark());
                }
                () = tokio::time::sleep_until(self.ends_at) => return self.end(),
                () = self.closing.cancelled() => {
                    tokio::time::sleep(self.spread).await;
                    return self.end();
                }
            }
        }
    }

    /// Frames of what is at hand, up to a piece.
    fn ready(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        while out.len() < PIECE_BYTES {
            let Some(obj) = self.initial.pop_front() else {
                break;
            };
            self.frame(&mut out, "ADDED", obj.wire());
        }
        while out.len() < PIECE_BYTES && self.initial.is_empty() {
            let Some(event) = self.events.pop_front() else {
                break;
            };
            if let Some((what, wire)) = self.seen(&event) {
                self.frame(&mut out, what, wire);
            }
        }
        out.freeze()
    }

    /// What a change means to this selection.
    fn seen(&self, event: &Event) -> Option<(&'static str, Bytes)> {
        let now = self.selection.matches(&event.obj);
        let before = event
            .before
            .as_deref()
            .filter(|b| self.selection.matches(b));
        match (event.change, before, now) {
            (Change::Added, _, true) | (Change::Modified, None, true) => {
                Some(("ADDED", event.obj.wire()))
            }
            (Change::Modified, Some(_), true) => Some(("MODIFIED", event.obj.wire())),
            (Change::Modified, Some(old), false) => Some(("DELETED", wire_at(old, event.revision))),
            (Change::Deleted, Some(_), _) => Some(("DELETED", event.obj.wire())),
            // A ring entry read back from a snapshot may know only the last form.
            (Change::Deleted, None, true) if event.before.is_none() => {
                Some(("DELETED", event.obj.wire()))
            }
            _ => None,
        }
    }

    fn frame(&mut self, out: &mut BytesMut, what: &str, wire: Bytes) {
        out.put_slice(b"{\"type\":\"");
        out.put_slice(what.as_bytes());
        out.put_slice(b"\",\"object\":");
        match self.form.shape {
            Shape::Object => out.put_slice(&wire),
            shape => {
                let object: Value = serde_json::from_slice(&wire).unwrap_or(Value::Null);
                out.put_slice(
                    self.form
                        .shaped(&object, shape, self.ctx.now())
                        .to_string()
                        .as_bytes(),
                );
            }
        }
        out.put_slice(b"}\n");
    }

    fn bookmark(&mut self) -> Bytes {
        let kind = self.form.kind;
        let object = json!({"kind": kind.kind, "apiVersion": kind.api_version(),
            "metadata": {"resourceVersion": self.position.to_string(), "creationTimestamp": null}});
        let object = match self.form.shape {
            Shape::Object => object,
            Shape::Metadata(version) => negotiate::metadata_only(&object, version),
            Shape::Table(version) => {
                let metadata = json!({"resourceVersion": self.position.to_string()});
                let row =
                    json!({"cells": [], "object": negotiate::metadata_only(&object, version)});
                negotiate::table_of(kind, version, metadata, vec![row], false)
            }
        };
        Bytes::from(format!(
            "{}\n",
            json!({"type": "BOOKMARK", "object": object})
        ))
    }

    /// The end of a watch that went well: a last bookmark saves the client a relist.
    fn end(&mut self) -> Option<Bytes> {
        self.ended = true;
        self.bookmarks.then(|| self.bookmark())
    }

    fn expire(&mut self) -> Bytes {
        self.ended = true;
        let e = ApiError::expired(format!(
            "too old resource version: {}; list again and watch from the list's resourceVersion",
            self.position
        ));
        Bytes::from(format!(
            "{}\n",
            json!({"type": "ERROR", "object": e.to_status()})
        ))
    }
}

impl Form {
    fn shaped(&mut self, object: &Value, shape: Shape, now: coracle_api::Timestamp) -> Value {
        match shape {
            Shape::Object => object.clone(),
            Shape::Metadata(version) => negotiate::metadata_only(object, version),
            Shape::Table(version) => {
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let row = negotiate::row(self.kind, object, version, self.include, now);
                negotiate::table_of(self.kind, version, metadata, vec![row], columns)
            }
        }
    }
}
