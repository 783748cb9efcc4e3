//! From a guest's print to the file: a bounded queue and the thread that empties it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use coracle_agent::At;
use coracle_api::{Key, Timestamp};
use coracle_engine::{LogSink, Stream};

use super::line::{self, Partial};
use super::store::{LogStore, RunLog};

/// Prints waiting to be written, over all containers.
const QUEUE_MAX: usize = 8_192;
/// Bytes waiting to be written, over all containers.
const QUEUED_BYTES_MAX: usize = 32 << 20;
/// Bytes of one container waiting: one that floods does not fill the queue for all.
const CONTAINER_QUEUED_BYTES_MAX: usize = 1 << 20;
/// Bytes per second a container may log over time, and at once.
const RATE_BYTES: (u64, u64) = (4 << 20, 16 << 20);
/// A piece without a line end is written after this much silence, so that prompts appear.
const PARTIAL_WAIT: Duration = Duration::from_millis(100);

enum Message {
    Print {
        log: Arc<ContainerLog>,
        at: Timestamp,
        stream: Stream,
        bytes: Vec<u8>,
    },
    Close(Arc<ContainerLog>),
}

/// All logs of the node.
#[derive(Clone)]
pub(crate) struct Logs {
    store: LogStore,
    file_bytes: u64,
    queue: SyncSender<Message>,
    queued: Arc<AtomicUsize>,
    /// Logs of containers that run, or ran last, by pod and container.
    live: Arc<Mutex<BTreeMap<(Key, String), Arc<RunLog>>>>,
}

/// The log of one run of one container.
pub(crate) struct ContainerLog {
    run: Arc<RunLog>,
    queue: SyncSender<Message>,
    queued: Arc<AtomicUsize>,
    own_queued: AtomicUsize,
    /// Bytes dropped and not told yet.
    dropped: AtomicU64,
    rate: Mutex<Rate>,
    partial: Mutex<[Partial; 2]>,
    this: Weak<ContainerLog>,
}

struct Rate {
    bytes: u64,
    at: Instant,
}

impl Logs {
    /// Starts the writer thread; it ends when the last handle and log are gone.
    pub fn start(store: LogStore, file_bytes: u64) -> std::io::Result<Self> {
        let (queue, rx) = mpsc::sync_channel(QUEUE_MAX);
        std::thread::Builder::new()
            .name("coracle-logs".into())
            .spawn(move || write_all(&rx))?;
        Ok(Self {
            store,
            file_bytes,
            queue,
            queued: Arc::default(),
            live: Arc::default(),
        })
    }

    /// The files.
    pub fn store(&self) -> &LogStore {
        &self.store
    }

    /// The log of a run.
    pub fn open(&self, pod: &Key, at: &At) -> Arc<ContainerLog> {
        let dir = self.store.container(pod, &at.uid, &at.container);
        let run = RunLog::new(dir, at.run, self.file_bytes);
        let name = (pod.clone(), at.container.clone());
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, run.clone());
        Arc::new_cyclic(|this| ContainerLog {
            run,
            queue: self.queue.clone(),
            queued: self.queued.clone(),
            own_queued: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            rate: Mutex::new(Rate {
                bytes: RATE_BYTES.1,
                at: Instant::now(),
            }),
            partial: Mutex::default(),
            this: this.clone(),
        })
    }

    /// The run that is being written, if the container runs.
    pub fn live(&self, pod: &Key, container: &str) -> Option<Arc<RunLog>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.get(&(pod.clone(), container.to_string())).cloned()
    }

    /// A pod is gone. A newer pod may have its name already, so only logs under the directory go.
    pub fn forget(&self, pod: &Key, uid: &str) -> std::io::Result<()> {
        let marker = format!("_{uid}");
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(key, _), run| {
                let of_pod = run
                    .dir
                    .parent()
                    .and_then(|d| d.file_name()?.to_str())
                    .is_some_and(|n| n.ends_with(&marker));
                key != pod || !of_pod
            });
        self.store.remove(pod, uid)
    }
}

impl ContainerLog {
    /// Adds a line of the node's own.
    pub fn say(&self, text: &str) {
        self.write(Stream::Stderr, format!("{text}\n").as_bytes());
    }

    /// The run has ended; what is queued is still written.
    pub fn close(&self) {
        if let Some(this) = self.this.upgrade() {
            // Only a writer that is gone or hopelessly behind misses this; followers then end with the connection.
            if self.queue.try_send(Message::Close(this)).is_err() {
                self.run.close();
            }
        }
    }

    fn within_rate(&self, bytes: u64) -> bool {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earned = u64::try_from(now.duration_since(rate.at).as_millis()).unwrap_or(u64::MAX);
        rate.bytes = rate
            .bytes
            .saturating_add(earned.saturating_mul(RATE_BYTES.0) / 1_000)
            .min(RATE_BYTES.1);
        rate.at = now;
        if rate.bytes < bytes {
            return false;
        }
        rate.bytes -= bytes;
        true
    }

    fn write_pieces(&self, at: Timestamp, stream: Stream, bytes: &[u8], out: &mut Vec<u8>) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = self.dropped.swap(0, Relaxed);
        if dropped > 0 {
            let text = format!(
                "[coracle] {dropped} bytes of output were dropped here: the container prints too fast"
            );
            line::write(out, at, Stream::Stderr, text.as_bytes(), true);
        }
        partial[stream as usize].push(bytes, |text, full| line::write(out, at, stream, text, full));
    }

    fn flush(&self, at: Timestamp) {
        let mut out = Vec::new();
        self.write_pieces(at, Stream::Stdout, &[], &mut out);
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in [Stream::Stdout, Stream::Stderr] {
            partial[stream as usize]
                .flush(|text, full| line::write(&mut out, at, stream, text, full));
        }
        drop(partial);
        self.append(&out);
    }

    fn append(&self, out: &[u8]) {
        if !out.is_empty()
            && let Err(error) = self.run.append(out)
        {
            tracing::warn!(dir = %self.run.dir.display(), %error, "a log could not be written");
        }
    }

    fn has_partial(&self) -> bool {
        self.partial
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|p| !p.is_empty())
            || self.dropped.load(Relaxed) > 0
    }
}

impl LogSink for ContainerLog {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let Some(log) = self.this.upgrade() else {
            return;
        };
        let size = bytes.len();
        let full = self.own_queued.load(Relaxed) + size > CONTAINER_QUEUED_BYTES_MAX
            || self.queued.load(Relaxed) + size > QUEUED_BYTES_MAX;
        if full || !self.within_rate(size as u64) {
            self.dropped.fetch_add(size as u64, Relaxed);
            return;
        }
        self.own_queued.fetch_add(size, Relaxed);
        self.queued.fetch_add(size, Relaxed);
        let message = Message::Print {
            log,
            at: Timestamp::now(),
            stream,
            bytes: bytes.to_vec(),
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(message)
        {
            self.own_queued.fetch_sub(size, Relaxed);
            self.queued.fetch_sub(size, Relaxed);
            self.dropped.fetch_add(size as u64, Relaxed);
        }
    }
}

fn write_all(queue: &Receiver<Message>) {
    // Logs with a piece that waits for its line end.
    let mut waiting: Vec<Arc<ContainerLog>> = Vec::new();
    loop {
        let first = if waiting.is_empty() {
            match queue.recv() {
                Ok(message) => message,
                Err(_) => return,
            }
        } else {
            match queue.recv_timeout(PARTIAL_WAIT) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => {
                    let now = Timestamp::now();
                    waiting.drain(..).for_each(|log| log.flush(now));
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        // Everything there is now, with one write for neighbouring prints of the same log.
        let mut batch: Option<(Arc<ContainerLog>, Vec<u8>)> = None;
        for message in std::iter::once(first)
            .chain(std::iter::from_fn(|| queue.try_recv().ok()).take(QUEUE_MAX))
        {
            match message {
                Message::Print {
                    log,
                    at,
                    stream,
                    bytes,
                } => {
                    if batch.as_ref().is_some_and(|(b, _)| !Arc::ptr_eq(b, &log)) {
                        finish(batch.take(), &mut waiting);
                    }
                    let (_, out) = batch.get_or_insert_with(|| (log.clone(), Vec::new()));
                    log.write_pieces(at, stream, &bytes, out);
                    log.own_queued.fetch_sub(bytes.len(), Relaxed);
                    log.queued.fetch_sub(bytes.len(), Relaxed);
                }
                Message::Close(log) => {
                    finish(batch.take(), &mut waiting);
                    log.flush(Timestamp::now());
                    log.run.close();
                    waiting.retain(|w| !Arc::ptr_eq(w, &log));
                }
            }
        }
        finish(batch, &mut waiting);
    }
}

fn finish(batch: Option<(Arc<ContainerLog>, Vec<u8>)>, waiting: &mut Vec<Arc<ContainerLog>>) {
    let Some((log, out)) = batch else { return };
    log.append(&out);
    if log.has_partial() && !waiting.iter().any(|w| Arc::ptr_eq(w, &log)) {
        waiting.push(log);
    }
}
