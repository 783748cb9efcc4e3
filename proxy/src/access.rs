//! The access log: one line per request, formatted away from the cores.
//!
//! A core only moves a record into its bounded queue (no lock, no wake-up in the usual case). One writer thread collects
//! the queues every few milliseconds and emits `tracing` events with target `access`. A full queue drops records and
//! counts them: a slow disk must not slow requests. While nobody subscribes to the target, no record is made at all.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Thread;
use std::time::Duration;

use http::{HeaderValue, Method};

use crate::shared::Shared;

/// Records one core may have waiting: a tenth of a second at 40,000 requests per second, about 1 MB.
const QUEUE_MAX: usize = 4096;
/// Backlog at which the writer is woken early.
const WAKE_AT: u32 = QUEUE_MAX as u32 / 2;
/// Longest path kept.
const PATH_BYTES_MAX: usize = 256;
/// Longest host kept.
const HOST_BYTES_MAX: usize = 128;
/// Time between two collections while requests come in.
const BUSY_PAUSE: Duration = Duration::from_millis(25);
/// Time between two collections while none do.
const IDLE_PAUSE: Duration = Duration::from_millis(250);

/// What is noted when the request comes in.
#[derive(Debug)]
pub(crate) struct Note {
    method: Method,
    /// Host and path one after the other: one allocation.
    text: Box<str>,
    host_len: usize,
    client: Option<IpAddr>,
}

impl Note {
    pub fn new(method: &Method, host: &str, path: &str, client: Option<IpAddr>) -> Self {
        let host = clip(host, HOST_BYTES_MAX);
        let path = clip(path, PATH_BYTES_MAX);
        let mut text = String::with_capacity(host.len() + path.len());
        text.push_str(host);
        text.push_str(path);
        Self {
            method: method.clone(),
            text: text.into(),
            host_len: host.len(),
            client,
        }
    }
}

fn clip(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max.min(text.len()))]
}

/// One finished request.
#[derive(Debug)]
pub(crate) struct Record {
    pub note: Note,
    pub status: u16,
    pub code: Option<Cow<'static, str>>,
    pub bytes: u64,
    pub took: Duration,
    pub service: Arc<str>,
    pub request_id: HeaderValue,
}

/// A core's end of the log.
pub(crate) struct Log {
    queue: SyncSender<Record>,
    /// Records waiting, kept by both ends: the queue does not tell its length.
    backlog: Arc<AtomicU32>,
    wanted: Arc<AtomicBool>,
    writer: Thread,
}

impl Log {
    /// Whether anybody reads the log.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Relaxed)
    }

    pub fn push(&self, shared: &Shared, record: Record) {
        if self.queue.try_send(record).is_err() {
            shared.access_dropped.fetch_add(1, Relaxed);
        } else if self.backlog.fetch_add(1, Relaxed) == WAKE_AT {
            self.writer.unpark();
        }
    }
}

/// The writer thread; it ends when told to, after writing what is left.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Writer {
    /// Starts the writer and makes the ends of `places` cores.
    pub fn start(places: usize, enabled: bool) -> std::io::Result<(Self, Vec<Log>)> {
        let stop = Arc::new(AtomicBool::new(false));
        let wanted = Arc::new(AtomicBool::new(
            enabled && tracing::enabled!(target: "access", tracing::Level::INFO),
        ));
        let mut senders = Vec::new();
        let mut queues = Vec::new();
        for _ in 0..places {
            let (sender, records) = sync_channel(QUEUE_MAX);
            let backlog = Arc::new(AtomicU32::new(0));
            senders.push((sender, backlog.clone()));
            queues.push(Queue { records, backlog });
        }
        let thread = std::thread::Builder::new()
            .name("proxy-log".into())
            .spawn({
                let (stop, wanted) = (stop.clone(), wanted.clone());
                move || write(&queues, &stop, enabled.then_some(&wanted))
            })?;
        let writer = thread.thread().clone();
        let logs = senders
            .into_iter()
            .map(|(queue, backlog)| Log {
                queue,
                backlog,
                wanted: wanted.clone(),
                writer: writer.clone(),
            })
            .collect();
        Ok((Self { stop, thread }, logs))
    }

    /// Ends the writer; blocks for as long as the last records take.
    pub fn stop(self) {
        self.stop.store(true, Relaxed);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::warn!("the access log writer panicked");
        }
    }
}

/// The writer's end of a core's queue.
struct Queue {
    records: Receiver<Record>,
    backlog: Arc<AtomicU32>,
}

fn write(queues: &[Queue], stop: &AtomicBool, wanted: Option<&Arc<AtomicBool>>) {
    loop {
        let stopping = stop.load(Relaxed);
        // Asked here, because subscribers come and go (and may filter by thread).
        if let Some(wanted) = wanted {
            wanted.store(
                tracing::enabled!(target: "access", tracing::Level::INFO),
                Relaxed,
            );
        }
        let mut written = 0;
        for queue in queues {
            // A bounded run, so that one busy core does not hold up the others.
            for record in queue.records.try_iter().take(QUEUE_MAX) {
                queue.backlog.fetch_sub(1, Relaxed);
                emit(&record);
                written += 1;
            }
        }
        if stopping {
            return;
        }
        std::thread::park_timeout(if written > 0 { BUSY_PAUSE } else { IDLE_PAUSE });
    }
}

fn emit(record: &Record) {
    let (host, path) = record.note.text.split_at(record.note.host_len);
    tracing::info!(
        target: "access",
        client = record.note.client.map(tracing::field::display),
        method = %record.note.method,
        host,
        path,
        status = record.status,
        code = record.code.as_deref(),
        bytes = record.bytes,
        took_us = u64::try_from(record.took.as_micros()).unwrap_or(u64::MAX),
        service = record.service.as_ref(),
        request_id = record.request_id.to_str().unwrap_or_default(),
    );
}
