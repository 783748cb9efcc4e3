//! The first frames of a connection: which protocol, who, to whom, what for. Checked before anything else is read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Class;
use crate::types::node_id_text;

/// A process of this id that was heard so recently is alive: a second one with the same id is a copy of its directory.
const ALIVE: Duration = Duration::from_secs(2);

/// The dialler's first frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// See [`super::wire::PROTOCOL`].
    pub protocol: u32,
    /// Who dials.
    pub from: u64,
    /// Whom it wants.
    pub to: u64,
    /// Random number of the dialling process: tells a restart or a copy from the process that was known.
    pub incarnation: u64,
    /// What the connection is for.
    pub class: Class,
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Welcome {
    /// Go on.
    Come {
        /// The protocol both sides speak from now on.
        protocol: u32,
    },
    /// A coded sentence.
    Refused(String),
}

/// A live connection of a known process.
#[derive(Debug)]
pub struct Visit {
    process: Arc<Process>,
    began: Instant,
}

#[derive(Debug)]
struct Process {
    incarnation: u64,
    connections: AtomicUsize,
    /// Milliseconds since the guests' epoch.
    heard: AtomicU64,
}

/// Who is connected, by id.
#[derive(Debug)]
pub struct Guests {
    epoch: Instant,
    known: Mutex<BTreeMap<u64, Arc<Process>>>,
}

impl Default for Guests {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            known: Mutex::default(),
        }
    }
}

impl Guests {
    /// Lets a process in, unless another one with the same id is alive.
    pub fn enter(&self, id: u64, incarnation: u64) -> Result<Visit, String> {
        let now = self.epoch.elapsed();
        let mut known = self.known.lock().expect("no panic while holding this lock");
        if let Some(other) = known.get(&id)
            && other.incarnation != incarnation
            && other.connections.load(Ordering::Acquire) > 0
            && now < Duration::from_millis(other.heard.load(Ordering::Acquire)) + ALIVE
        {
            return Err(format!(
                "E_MEMBER_DUPLICATE: another live process is member {}; a data directory was copied: \
                 stop one of the two, and let it join again with an empty directory",
                node_id_text(id)
            ));
        }
        let process = match known.get(&id) {
            Some(p) if p.incarnation == incarnation => p.clone(),
            _ => {
                let new = Arc::new(Process {
                    incarnation,
                    connections: AtomicUsize::new(0),
                    heard: AtomicU64::new(0),
                });
                known.insert(id, new.clone());
                new
            }
        };
        process.connections.fetch_add(1, Ordering::AcqRel);
        let visit = Visit {
            process,
            began: self.epoch,
        };
        visit.heard();
        Ok(visit)
    }
}

impl Visit {
    /// A frame came.
    pub fn heard(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.process.heard.store(ms, Ordering::Release);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.process.connections.fetch_sub(1, Ordering::AcqRel);
    }
}
