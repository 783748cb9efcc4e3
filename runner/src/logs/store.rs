//! The files of one container run, and where they lie.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use coracle_api::Key;
use tokio::sync::watch;

use crate::files;

/// The directory of all logs.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    root: PathBuf,
}

impl LogStore {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Directory of a pod. Namespaces and names hold no `_`, so the parts can be told apart.
    fn pod(&self, pod: &Key, uid: &str) -> PathBuf {
        self.root
            .join(format!("{}_{}_{uid}", pod.namespace, pod.name))
    }

    /// Directory of a container.
    pub fn container(&self, pod: &Key, uid: &str, container: &str) -> PathBuf {
        self.pod(pod, uid).join(container)
    }

    /// The newest pod of this name that has a log here.
    pub fn find(&self, pod: &Key, container: &str) -> io::Result<Option<PathBuf>> {
        let prefix = format!("{}_{}_", pod.namespace, pod.name);
        let mut newest = None;
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let dir = entry.path().join(container);
            if entry
                .file_name()
                .to_str()
                .is_some_and(|n| n.starts_with(&prefix))
                && dir.is_dir()
            {
                let made = entry.metadata()?.modified()?;
                if newest.as_ref().is_none_or(|(at, _)| made > *at) {
                    newest = Some((made, dir));
                }
            }
        }
        Ok(newest.map(|(_, dir)| dir))
    }

    /// Removes a pod's logs.
    pub fn remove(&self, pod: &Key, uid: &str) -> io::Result<()> {
        files::remove_dir(&self.pod(pod, uid))
    }

    /// Removes logs of pods that are not in the set.
    pub fn sweep(&self, keep: &BTreeSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let uid = name
                .to_str()
                .and_then(|n| n.rsplit('_').next())
                .unwrap_or_default();
            if !keep.contains(uid) {
                files::remove_dir(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// The file of a run.
pub(super) fn current(dir: &Path, run: u32) -> PathBuf {
    dir.join(format!("{run}.log"))
}

/// The file that was full before it.
pub(super) fn rotated(dir: &Path, run: u32) -> PathBuf {
    dir.join(format!("{run}.log.1"))
}

/// Runs that have a log, in order.
pub(super) fn runs(dir: &Path) -> io::Result<Vec<u32>> {
    let mut all: Vec<u32> = fs::read_dir(dir)?
        .filter_map(|e| {
            e.ok()?
                .file_name()
                .to_str()?
                .strip_suffix(".log")?
                .parse()
                .ok()
        })
        .collect();
    all.sort_unstable();
    Ok(all)
}

/// Positions count all bytes of the run ever written, so that they stay true across rotations.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extent {
    /// Where the file that was full begins.
    pub rotated_from: u64,
    /// Where the current file begins.
    pub current_from: u64,
    /// Where it ends.
    pub end: u64,
}

struct Writer {
    file: File,
    extent: Extent,
}

/// The log of one run that is being written.
pub(crate) struct RunLog {
    pub(super) dir: PathBuf,
    pub(super) run: u32,
    max_bytes: u64,
    writer: Mutex<Option<Writer>>,
    /// End of what is written, and whether more may come.
    pub(super) progress: watch::Sender<(u64, bool)>,
}

impl RunLog {
    /// A log whose file is made at the first line: a pod that prints nothing costs no file.
    pub fn new(dir: PathBuf, run: u32, max_bytes: u64) -> Arc<Self> {
        let (progress, _) = watch::channel((0, true));
        Arc::new(Self {
            dir,
            run,
            max_bytes,
            writer: Mutex::new(None),
            progress,
        })
    }

    /// Appends framed lines.
    pub fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut guard = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = match guard.as_mut() {
            Some(writer) => writer,
            None => guard.insert(self.open()?),
        };
        if writer.extent.end - writer.extent.current_from + bytes.len() as u64 > self.max_bytes
            && writer.extent.end > writer.extent.current_from
        {
            fs::rename(current(&self.dir, self.run), rotated(&self.dir, self.run))?;
            writer.file = append_to(&current(&self.dir, self.run))?;
            writer.extent.rotated_from = writer.extent.current_from;
            writer.extent.current_from = writer.extent.end;
        }
        writer.file.write_all(bytes)?;
        writer.extent.end += bytes.len() as u64;
        let end = writer.extent.end;
        drop(guard);
        self.progress.send_modify(|p| p.0 = end);
        Ok(())
    }

    fn open(&self) -> io::Result<Writer> {
        fs::create_dir_all(&self.dir)?;
        // The run before stays for `--previous`; older ones go.
        for old in runs(&self.dir)?
            .into_iter()
            .filter(|r| r.saturating_add(1) < self.run)
        {
            files::remove_file(&current(&self.dir, old))?;
            files::remove_file(&rotated(&self.dir, old))?;
        }
        let file = append_to(&current(&self.dir, self.run))?;
        let end = file.metadata()?.len();
        Ok(Writer {
            file,
            extent: Extent {
                rotated_from: 0,
                current_from: 0,
                end,
            },
        })
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.progress.send_modify(|p| p.1 = false);
    }

    /// Opens what is readable at `from` or after it: a file, where in the run it begins and ends. The lock is held only
    /// while the file is opened; afterwards a rotation does no harm.
    pub(super) fn open_at(&self, from: u64) -> io::Result<Option<(File, u64, u64)>> {
        let guard = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = guard.as_ref() else {
            return Ok(None);
        };
        let e = writer.extent;
        if from >= e.end {
            return Ok(None);
        }
        if from >= e.current_from {
            return Ok(Some((
                File::open(current(&self.dir, self.run))?,
                e.current_from,
                e.end,
            )));
        }
        Ok(Some((
            File::open(rotated(&self.dir, self.run))?,
            e.rotated_from,
            e.current_from,
        )))
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
