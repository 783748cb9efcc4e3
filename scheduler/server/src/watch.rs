//! Watches. A watcher holds a position in the event ring and nothing else: it reads the events after its position when
//! its connection takes more bytes. A client too slow for the ring is told 410 Expired; it never delays anybody.
//!
//! Frames of whole objects are made once per event and shared. What is ready together leaves as one piece, and watches
//! without selectors share that too.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use coracle_api::{ApiError, Kind};
use coracle_state::ring::frame_into;
use coracle_state::{Change, Event, Obj};
use hyper::body::{Body as HttpBody, Frame};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::call::Call;
use crate::context::Context;
use crate::hub::{News, Place};
use crate::negotiate::{self, Include, Shape};
use crate::pieces::Made;
use crate::read::{self, Selection};
use crate::reply::{self, Answer};

/// Longest time between bookmarks, as kube-apiserver. Each watch waits up to a quarter less, so that watches opened
/// together do not send them together.
pub const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Events looked at before other tasks get their turn.
const SCAN_MAX: usize = 4_096;
/// Size at which frames are handed to the connection.
const PIECE_BYTES: usize = 64 << 10;
/// A watch without `timeoutSeconds` ends after 30 to 60 minutes, spread so that clients do not come back together.
const TIMEOUT_SECONDS: (u64, u64) = (1_800, 3_600);
/// Shutdown closes watches spread over at most this time, for the same reason.
pub const CLOSE_SPREAD_MAX: Duration = Duration::from_secs(3);
/// What each open watch adds to that spread: a client that comes back costs another member about this much.
pub const CLOSE_SPREAD_EACH: Duration = Duration::from_millis(1);

/// How frames look.
struct Form {
    kind: &'static Kind,
    shape: Shape,
    include: Include,
    columns_sent: bool,
}

/// The body of a watch.
struct Watch {
    ctx: Arc<Context>,
    selection: Selection,
    form: Form,
    place: Place,
    /// Every change up to here was sent or did not concern this watch.
    position: u64,
    /// Whether the ring held nothing after the position when it was read last; the hub tells when that changes.
    caught_up: bool,
    /// Whether it sends what every watch of its namespace without selectors sends.
    common: bool,
    initial: VecDeque<Arc<Obj>>,
    bookmarks: bool,
    bookmark_at: Instant,
    ends_at: Instant,
    /// Fires at the earlier of the two.
    timer: Pin<Box<Sleep>>,
    closing: CancellationToken,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    is_closing: bool,
    /// This watch's share of every spread, 0 to 1.
    share: f64,
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
    let share = (ctx.ids(|ids| ids.next_u64()) % 1_000) as f64 / 1_000.0;
    let (shortest, longest) = TIMEOUT_SECONDS;
    let seconds = match call.query.number("timeoutSeconds")?.filter(|s| *s > 0) {
        Some(seconds) => Duration::from_secs(seconds.min(24 * 3_600)),
        None => {
            Duration::from_secs(shortest).mul_f64(1.0 + share * (longest / shortest - 1) as f64)
        }
    };
    let bookmarks = call.query.flag("allowWatchBookmarks")?;
    let asked = call.query.resource_version()?;
    let include = call.include()?;
    let open = Open::new(ctx)?;
    let interest = selection.interest(call.kind.table);
    // Before the view is taken, or a change between the two would be told to nobody.
    let place = ctx.hub.join(call.kind.table, interest);
    let view = read::snapshot(ctx, asked).await?;
    let (position, initial) = match asked.filter(|r| *r > 0) {
        Some(r) => (r, VecDeque::new()),
        None => (
            view.revision,
            selection.objects(&view, call.kind.table).cloned().collect(),
        ),
    };
    drop(view);
    let now = Instant::now();
    let mut watch = Watch {
        common: shape == Shape::Object && !selection.selective(),
        selection,
        form: Form {
            kind: call.kind,
            shape,
            include,
            columns_sent: false,
        },
        place,
        position,
        caught_up: false,
        initial,
        bookmarks,
        bookmark_at: now,
        ends_at: now + seconds,
        timer: Box::pin(tokio::time::sleep_until(now)),
        closed: Box::pin(call.closing.clone().cancelled_owned()),
        closing: call.closing.clone(),
        is_closing: false,
        share,
        ended: false,
        _open: open,
        ctx: ctx.clone(),
    };
    watch.next_bookmark(now);
    Ok(reply::bytes(200, reply::JSON, Body::new(watch)))
}

impl HttpBody for Watch {
    type Data = Bytes;
    type Error = Infallible;

    /// The next frames, as soon as there is one.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let watch = &mut *self;
        watch
            .poll_piece(cx)
            .map(|piece| piece.map(|p| Ok(Frame::data(p))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl Watch {
    fn poll_piece(&mut self, cx: &mut Task<'_>) -> Poll<Option<Bytes>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if !self.initial.is_empty() {
            return Poll::Ready(Some(self.first()));
        }
        loop {
            if !self.is_closing && self.closing.is_cancelled() {
                self.close();
            }
            let now = Instant::now();
            // Asked before anything is read, because a busy table never lets the timer below wait.
            if now >= self.ends_at {
                return Poll::Ready(self.end());
            }
            let due = self.bookmarks && now >= self.bookmark_at;
            self.place.register(cx.waker());
            match self.read(due) {
                // On a busy table there may never be a moment with nothing to send.
                Read::Piece(piece) if due && self.caught_up => {
                    self.next_bookmark(now);
                    let both = [piece, self.bookmark()].concat();
                    return Poll::Ready(Some(both.into()));
                }
                Read::Piece(piece) => return Poll::Ready(Some(piece)),
                Read::Unfinished => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Read::Nothing if due => {
                    self.next_bookmark(now);
                    return Poll::Ready(Some(self.bookmark()));
                }
                Read::Nothing => {}
            }
            let fired = self.timer.as_mut().poll(cx).is_ready();
            let closed = !self.is_closing && self.closed.as_mut().poll(cx).is_ready();
            if !fired && !closed {
                return Poll::Pending;
            }
            if fired {
                self.set_timer();
            }
        }
    }

    /// The listener shuts down: this watch ends within its share of the spread.
    fn close(&mut self) {
        self.is_closing = true;
        let open = u32::try_from(self.ctx.metrics.streams.get()).unwrap_or(0);
        let spread = CLOSE_SPREAD_EACH.saturating_mul(open).min(CLOSE_SPREAD_MAX);
        self.ends_at = self
            .ends_at
            .min(Instant::now() + spread.mul_f64(self.share));
        self.set_timer();
    }

    fn next_bookmark(&mut self, now: Instant) {
        self.bookmark_at = now + BOOKMARK_EVERY.mul_f64(1.0 - self.share / 4.0);
        self.set_timer();
    }

    fn set_timer(&mut self) {
        let at = match self.bookmarks {
            true => self.bookmark_at.min(self.ends_at),
            false => self.ends_at,
        };
        self.timer.as_mut().reset(at);
    }

    /// What was there at the start, up to a piece.
    fn first(&mut self) -> Bytes {
        let mut out = Vec::new();
        while out.len() < PIECE_BYTES {
            let Some(obj) = self.initial.pop_front() else {
                break;
            };
            self.frame(&mut out, "ADDED", &obj.bytes, obj.revision);
        }
        out.into()
    }

    /// Reads the ring from the position on, up to a piece. `all` means that the position must be that of the newest
    /// view afterwards, whether or not the hub has told of it.
    fn read(&mut self, all: bool) -> Read {
        let news = self.place.news();
        if self.caught_up {
            match news {
                News::Nothing { until } => {
                    self.position = self.position.max(until);
                    if !all {
                        return Read::Nothing;
                    }
                }
                News::From(first) => self.position = self.position.max(first - 1),
            }
        }
        let view = self.ctx.view();
        let newest = view.revision.max(self.position);
        let Some(table) = view.tables.get(self.form.kind.table) else {
            self.position = newest;
            self.caught_up = true;
            return Read::Nothing;
        };
        let Some(events) = table.events_since(self.position) else {
            return Read::Piece(self.expire());
        };
        let mut events = events.peekable();
        let first = events.peek().map(|e| e.revision);
        let shared = first.filter(|_| self.common && self.place.shared());
        let namespace = &self.selection.namespace;
        if let Some(made) = shared.and_then(|f| self.place.pieces().find(namespace, f)) {
            (self.position, self.caught_up) = made.after(table.changed(), newest);
            return Read::Piece(made.bytes);
        }
        self.caught_up = true;
        let (mut out, mut scanned) = (Piece::default(), 0);
        for event in events {
            if out.len() >= PIECE_BYTES || scanned >= SCAN_MAX {
                self.caught_up = false;
                break;
            }
            scanned += 1;
            self.event(event, &mut out);
            self.position = event.revision;
        }
        let until = self.position;
        if self.caught_up {
            self.position = newest;
        }
        match out.finish() {
            Some(bytes) => {
                if let Some(first) = shared {
                    let (namespace, bytes) = (&self.selection.namespace, bytes.clone());
                    self.place
                        .pieces()
                        .keep(namespace, first, Made { until, bytes });
                }
                Read::Piece(bytes)
            }
            None if self.caught_up => Read::Nothing,
            None => Read::Unfinished,
        }
    }

    fn event(&mut self, event: &Event, out: &mut Piece) {
        let Some((what, old)) = self.seen(event) else {
            return;
        };
        // What the selection makes of it is what everybody else sees, in the form most ask for.
        let common = self.form.shape == Shape::Object && old.is_none();
        if common && what == event.change.word() && self.place.shared() {
            return out.add(event.frame());
        }
        let bytes = old.map_or(&event.obj.bytes, |o| &o.bytes);
        self.frame(out.bytes(), what, bytes, event.revision);
    }

    /// What a change means to this selection: its word, and the form to send if it is not the event's own.
    fn seen<'e>(&self, event: &'e Event) -> Option<(&'static str, Option<&'e Obj>)> {
        let now = self.selection.matches(&event.obj);
        let before = event
            .before
            .as_deref()
            .filter(|b| self.selection.matches(b));
        match (event.change, before, now) {
            (Change::Added, _, true) | (Change::Modified, None, true) => Some(("ADDED", None)),
            (Change::Modified, Some(_), true) => Some(("MODIFIED", None)),
            // The old form, at the revision of the change.
            (Change::Modified, Some(old), false) => Some(("DELETED", Some(old))),
            (Change::Deleted, Some(_), _) => Some(("DELETED", None)),
            // A ring entry read back from a snapshot may know only the last form.
            (Change::Deleted, None, true) if event.before.is_none() => Some(("DELETED", None)),
            _ => None,
        }
    }

    fn frame(&mut self, out: &mut Vec<u8>, what: &str, bytes: &[u8], revision: u64) {
        let shape = self.form.shape;
        if shape == Shape::Object {
            return frame_into(out, what, bytes, revision);
        }
        let mut object: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
        if object["metadata"].is_object() {
            object["metadata"]["resourceVersion"] = json!(revision.to_string());
        }
        let object = self.form.shaped(&object, shape, self.ctx.now());
        out.extend_from_slice(format!("{}\n", json!({"type": what, "object": object})).as_bytes());
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

/// What reading the ring came to.
enum Read {
    /// Frames to send.
    Piece(Bytes),
    /// Nothing for this watch among many changes; there are more to look at.
    Unfinished,
    /// Nothing, and the position is that of the newest view looked at.
    Nothing,
}

/// Frames that leave together. A single shared one is not copied.
#[derive(Default)]
struct Piece {
    one: Option<Bytes>,
    many: Vec<u8>,
}

impl Piece {
    fn len(&self) -> usize {
        self.many.len() + self.one.as_ref().map_or(0, Bytes::len)
    }

    fn add(&mut self, frame: &Bytes) {
        if self.one.is_none() && self.many.is_empty() {
            self.one = Some(frame.clone());
        } else {
            self.bytes().extend_from_slice(frame);
        }
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        if let Some(one) = self.one.take() {
            self.many.extend_from_slice(&one);
        }
        &mut self.many
    }

    fn finish(self) -> Option<Bytes> {
        match self.one {
            Some(one) => Some(one),
            None => (!self.many.is_empty()).then(|| self.many.into()),
        }
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
