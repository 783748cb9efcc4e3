//! A member's own backups on their schedule, and the one that somebody asks for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use coracle_api::{ApiError, Timestamp};
use coracle_raft::gate::Gate;
use coracle_raft::snapshot::About;
use coracle_raft::{Captured, Replica, durable};
use coracle_server::{BackupStream, Backups};
use coracle_state::{BoxFuture, View, Views};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::due::{RETRY_AFTER, Schedule, file_name, saved_at};
use super::file::{self, names};
use crate::token_rows::unavailable;

/// How often the schedule is looked at: backups are hours apart.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Backups that may be streamed at once: each holds its version of the state, and reads all of it.
const STREAMS_MAX: usize = 2;
/// Chunks of a stream that may wait for the client, of a megabyte each.
const CHUNKS_MAX: usize = 4;
/// A client that takes nothing for this long is gone: until then its version of the state is held.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Bytes of a file beside the objects' own: keys, revisions and claims of each. Generous, it only guards the disk.
const ROW_BYTES: u64 = 300;
const PARTIAL: &str = ".partial";

/// A backup that was saved.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub name: String,
    pub at: Timestamp,
    pub revision: u64,
    pub bytes: u64,
}

#[derive(Default)]
struct Known {
    /// When the last attempt failed, and why.
    failed: Option<(Timestamp, String)>,
    last: Option<Saved>,
}

/// Saves and lists the backups of one member.
pub(crate) struct Keeper {
    pub replica: Arc<Replica>,
    /// The folder.
    pub folder: PathBuf,
    pub cluster: String,
    pub member: String,
    pub version: String,
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub schedule: Schedule,
    /// Asked whether a file fits.
    pub gate: Gate,
    known: Mutex<Known>,
    streams: Arc<Semaphore>,
}

/// What a keeper is made of.
pub(crate) struct Keeping<'a> {
    pub replica: Arc<Replica>,
    pub data_dir: &'a Path,
    pub cluster: &'a str,
    pub member: &'a str,
    pub version: &'a str,
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub schedule: Schedule,
    pub keep_free_bytes: Option<u64>,
}

impl Keeper {
    pub fn new(k: Keeping<'_>) -> Arc<Self> {
        Arc::new(Self {
            replica: k.replica,
            folder: k.data_dir.join(super::FOLDER),
            cluster: k.cluster.into(),
            member: k.member.into(),
            version: k.version.into(),
            clock: k.clock,
            schedule: k.schedule,
            gate: Gate::new(k.data_dir, k.keep_free_bytes),
            known: Mutex::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        })
    }

    /// Saves when it is due, until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        if !self.schedule.on() {
            return;
        }
        let started = (self.clock)();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = (self.clock)();
            let failed = self.known().failed.as_ref().map(|(at, _)| *at);
            // A clock that was set back must not stop it for ever.
            let waits = failed
                .is_some_and(|f| f <= now && now.duration_since(f).unsigned_abs() < RETRY_AFTER);
            if waits {
                continue;
            }
            let last = names(&self.folder).map(|all| all.iter().filter_map(|n| saved_at(n)).max());
            let due = match last {
                Ok(last) => self.schedule.due(now, started, last),
                // Saving says what is wrong with the folder.
                Err(_) => true,
            };
            if due {
                tokio::select! {
                    // What it leaves is removed before the next one.
                    () = stop.cancelled() => return,
                    // The outcome is in the log and in the status.
                    _ = self.save() => {}
                }
            }
        }
    }

    /// Saves a backup into the folder now, and removes those that are too many.
    pub async fn save(self: &Arc<Self>) -> Result<Saved, String> {
        let now = (self.clock)();
        let done = match self.replica.capture().await {
            Err(e) => Err(e.to_string()),
            Ok(captured) => {
                let keeper = self.clone();
                let written = tokio::task::spawn_blocking(move || keeper.write(&captured, now));
                written.await.unwrap_or_else(|e| Err(e.to_string()))
            }
        };
        let mut known = self.known();
        match &done {
            Ok(saved) => {
                tracing::info!(
                    file = saved.name,
                    bytes = saved.bytes,
                    revision = saved.revision,
                    "backup saved"
                );
                known.failed = None;
                known.last = Some(saved.clone());
            }
            Err(why) => {
                tracing::error!(why, folder = %self.folder.display(), "no backup was saved; it is tried again in 10 minutes");
                known.failed = Some((now, why.clone()));
            }
        }
        done
    }

    fn write(&self, captured: &Captured, now: Timestamp) -> Result<Saved, String> {
        let expected = expected_bytes(&captured.state.view());
        if !self.gate.has_room(expected) {
            return Err(format!(
                "E_BACKUP_NO_ROOM: {} has no room for {} MiB beside what is kept free; free some space, or keep fewer with --backup-keep",
                self.folder.display(),
                expected.div_ceil(1 << 20)
            ));
        }
        let about = self.about(captured, now);
        let name = file_name(now, about.revision);
        let io = |e: io::Error| format!("E_BACKUP_IO: {}: {e}", self.folder.display());
        self.clean().map_err(io)?;
        let (partial, path) = (
            self.folder.join(format!("{name}{PARTIAL}")),
            self.folder.join(&name),
        );
        let written = write_file(&partial, &path, captured, &about);
        if written.is_err() {
            // The space of a half-written file is what the next attempt needs; if it stays, the next one removes it.
            let _ = fs::remove_file(&partial);
        }
        let bytes = written.map_err(io)?;
        for old in self.schedule.prune(&names(&self.folder).map_err(io)?) {
            fs::remove_file(self.folder.join(&old)).map_err(io)?;
        }
        durable::sync_dir(&self.folder).map_err(io)?;
        Ok(Saved {
            name,
            at: now,
            revision: about.revision,
            bytes,
        })
    }

    /// Makes the folder, for its owner only (there are Secrets in the files), and removes what a crash left.
    fn clean(&self) -> io::Result<()> {
        durable::create_dir(&self.folder)?;
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o700))?;
        for left in names(&self.folder)?.iter().filter(|n| n.ends_with(PARTIAL)) {
            fs::remove_file(self.folder.join(left))?;
        }
        Ok(())
    }

    fn about(&self, captured: &Captured, now: Timestamp) -> About {
        captured.about(&self.cluster, &self.member, &self.version, now)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For this member's status.
    pub fn status(&self) -> Value {
        let known = self.known();
        json!({
            "everySeconds": self.schedule.every.as_secs(),
            "keep": self.schedule.keep,
            "last": known.last.as_ref().map(|s| json!({"name": s.name, "at": s.at, "revision": s.revision, "bytes": s.bytes})),
            "error": known.failed.as_ref().map(|(_, why)| why),
        })
    }

    async fn stream(&self) -> Result<BackupStream, ApiError> {
        let place = self.streams.clone().try_acquire_owned().map_err(|_| {
            let mut e = ApiError::new(
                429,
                "TooManyRequests",
                format!("E_BACKUP_BUSY: {STREAMS_MAX} backups are being saved from this member; try again"),
            );
            e.retry_after_seconds = Some(1);
            e
        })?;
        // Whatever was acknowledged anywhere before this call is in it.
        self.replica.fresh().await.map_err(|e| unavailable(&e))?;
        let captured = self.replica.capture().await.map_err(|e| unavailable(&e))?;
        let now = (self.clock)();
        let about = self.about(&captured, now);
        let name = file_name(now, about.revision);
        let (tx, chunks) = mpsc::channel(CHUNKS_MAX);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let pipe = Pipe {
                to: tx.clone(),
                runtime: runtime.clone(),
            };
            if let Err(e) = captured.write(pipe, &about) {
                tracing::warn!(error = %e, "a backup was not sent to its end");
                let broken = ApiError::new(500, "InternalError", e.to_string());
                // The client that is gone does not need to know.
                let _ = runtime.block_on(tokio::time::timeout(STALL_MAX, tx.send(Err(broken))));
            }
        });
        let bytes = stream::unfold(chunks, |mut chunks| async move {
            chunks.recv().await.map(|chunk| (chunk, chunks))
        });
        Ok(BackupStream {
            name,
            bytes: Box::pin(bytes),
        })
    }

    async fn table(&self) -> Result<Value, ApiError> {
        let folder = self.folder.clone();
        let internal = |why: String| ApiError::new(500, "InternalError", why);
        let listed = tokio::task::spawn_blocking(move || file::list(&folder))
            .await
            .map_err(|e| internal(e.to_string()))?
            .map_err(|e| internal(e.to_string()))?;
        let backups: Vec<Value> = listed
            .into_iter()
            .map(|(name, summary)| match summary {
                Ok(s) => json!({"name": name, "at": s.at, "revision": s.revision, "bytes": s.bytes, "objects": s.objects, "cluster": s.cluster, "error": null}),
                Err(e) => json!({"name": name, "error": e.to_string()}),
            })
            .collect();
        Ok(
            json!({"member": self.member, "folder": self.folder, "backups": backups, "schedule": self.status()}),
        )
    }
}

impl Backups for Keeper {
    fn save(&self) -> BoxFuture<'_, Result<BackupStream, ApiError>> {
        Box::pin(self.stream())
    }

    fn list(&self) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(self.table())
    }
}

/// Bytes that the file of a view needs at most.
fn expected_bytes(view: &View) -> u64 {
    let table = |t: &coracle_state::Table| {
        let objects: u64 = t
            .objects
            .values()
            .map(|o| o.bytes.len() as u64 + ROW_BYTES)
            .sum();
        // An event has its object before and after.
        objects + t.ring_bytes as u64 * 2 + t.ring.len() as u64 * 2 * ROW_BYTES
    };
    view.tables.values().map(table).sum::<u64>() + (1 << 20)
}

/// Writes beside, syncs, renames; the caller syncs the folder. Answers the length.
fn write_file(partial: &Path, path: &Path, captured: &Captured, about: &About) -> io::Result<u64> {
    let file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(partial)?;
    let (file, bytes, _) = captured.write(file, about)?;
    file.sync_all()?;
    fs::rename(partial, path)?;
    Ok(bytes)
}

/// A writer whose other end is a response.
struct Pipe {
    to: mpsc::Sender<Result<Bytes, ApiError>>,
    runtime: tokio::runtime::Handle,
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let chunk = Bytes::copy_from_slice(buf);
        match self
            .runtime
            .block_on(tokio::time::timeout(STALL_MAX, self.to.send(Ok(chunk))))
        {
            Ok(Ok(())) => Ok(buf.len()),
            Ok(Err(_)) => Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the client is gone",
            )),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the client took nothing for {} s", STALL_MAX.as_secs()),
            )),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
