//! Instances kept for another request, for replicas that allow it.
//!
//! Reuse is serial: an instance serves one request at a time and is replaced after a bounded number. The list belongs to
//! the replica's handle, not to what stores point at, so that it goes with the replica. It is split by thread: a core
//! takes back the instance it used last, whose memory is in its cache.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;

use crate::state::GuestState;

/// More threads than this share a list.
const LISTS: usize = 16;
/// Instances kept by one thread; a burst beyond it is dropped when it is over.
const KEPT: usize = 32;
/// An instance idle for longer gives its memory back.
const IDLE: Duration = Duration::from_secs(10);

/// A live instance.
pub(crate) struct Instance {
    pub store: Store<GuestState>,
    pub proxy: Proxy,
    pub served: u32,
}

/// The idle instances of one replica.
pub(crate) struct WarmList {
    lists: [Mutex<Vec<(Instant, Instance)>>; LISTS],
    max_requests: u32,
}

thread_local! {
    static ORDINAL: Cell<usize> = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Cell::new(NEXT.fetch_add(1, Relaxed) % LISTS)
    };
}

impl WarmList {
    pub(crate) fn new(max_requests: u32) -> Self {
        WarmList {
            lists: Default::default(),
            max_requests,
        }
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Instance)>> {
        self.lists[ORDINAL.get()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance used last on this thread.
    pub(crate) fn take(&self) -> Option<Instance> {
        self.list().pop().map(|(_, instance)| instance)
    }

    /// Keeps an instance that has served, unless it has served enough.
    pub(crate) fn put(&self, instance: Instance) {
        if instance.served >= self.max_requests {
            return;
        }
        let mut list = self.list();
        if list.len() < KEPT {
            list.push((Instant::now(), instance));
        }
    }

    /// Drops what idled too long.
    pub(crate) fn sweep(&self) {
        for list in &self.lists {
            // Dropped after the lock, which the call path takes.
            let old: Vec<_> = {
                let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
                let young = list.partition_point(|(since, _)| since.elapsed() >= IDLE);
                list.drain(..young).collect()
            };
            drop(old);
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&self) {
        for list in &self.lists {
            let all = std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner));
            drop(all);
        }
    }
}
