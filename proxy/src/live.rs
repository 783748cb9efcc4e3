//! The table in force together with what is known about its pods and Services while it is.
//!
//! A swap builds a new [`Live`] that takes over the state of every pod and Service the old one had, so queues, ejections
//! and counters survive a route change; nothing in force is ever edited.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use coracle_route::breaker::Breaker;
use coracle_route::{Endpoint, Load, Table};

use crate::stats::CoreStats;

/// One pod as this proxy sees it, shared by all cores, ports and Services.
#[derive(Debug, Default)]
pub(crate) struct PodState {
    pub id: Arc<str>,
    pub in_flight: AtomicU32,
    /// Copied out of the breaker, so that choosing never locks.
    ejected_until_ms: AtomicU64,
    /// Whether the breaker has anything to forget; keeps successes away from the lock.
    suspect: AtomicBool,
    breaker: Mutex<Breaker>,
}

impl PodState {
    pub fn succeeded(&self) {
        if self.suspect.load(Relaxed) {
            let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
            breaker.success();
            self.ejected_until_ms.store(0, Relaxed);
            self.suspect.store(false, Relaxed);
        }
    }

    /// Whether the failure ejected the pod.
    pub fn failed(&self, now_ms: u64) -> bool {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        self.suspect.store(true, Relaxed);
        match breaker.failure(now_ms) {
            Some(until) => {
                self.ejected_until_ms.store(until, Relaxed);
                true
            }
            None => false,
        }
    }
}

/// One Service, or one of the places requests are counted under that are no Service.
#[derive(Debug)]
pub(crate) struct ServiceState {
    pub label: Arc<str>,
    cores: usize,
    /// Requests in flight on one core; one more is refused.
    pub in_flight_max: u32,
    /// Made at the first request: ten thousand idle Services cost nothing.
    stats: OnceLock<Box<[CoreStats]>>,
}

impl ServiceState {
    pub fn new(label: Arc<str>, cores: usize, in_flight_max: u32) -> Self {
        Self {
            label,
            cores,
            in_flight_max,
            stats: OnceLock::new(),
        }
    }

    pub fn stats(&self, core: usize) -> &CoreStats {
        let all = self
            .stats
            .get_or_init(|| (0..self.cores).map(|_| CoreStats::default()).collect());
        &all[core]
    }

    pub fn stats_if_used(&self) -> Option<&[CoreStats]> {
        self.stats.get().map(AsRef::as_ref)
    }
}

/// What is in force.
#[derive(Debug)]
pub(crate) struct Live {
    pub table: Arc<Table>,
    /// By `Endpoint::slot`.
    pub pods: Vec<Arc<PodState>>,
    /// By `Match::service_slot`.
    pub services: Vec<Arc<ServiceState>>,
}

impl Live {
    /// Puts a table in force after `before`. `cores` is the number of places each Service is counted in, `in_flight_max`
    /// the bound of each of them.
    pub fn after(
        before: Option<&Live>,
        table: Arc<Table>,
        cores: usize,
        in_flight_max: u32,
    ) -> Self {
        let pods = table
            .pods()
            .iter()
            .map(|pod| {
                let known = before.and_then(|b| {
                    b.pods
                        .binary_search_by(|p| p.id.cmp(&pod.id))
                        .ok()
                        .map(|i| b.pods[i].clone())
                });
                known.unwrap_or_else(|| {
                    Arc::new(PodState {
                        id: pod.id.clone(),
                        ..PodState::default()
                    })
                })
            })
            .collect();
        let services = table
            .services()
            .iter()
            .map(|service| {
                let known = before.and_then(|b| {
                    let at = b
                        .table
                        .services()
                        .binary_search_by(|s| s.key.cmp(&service.key))
                        .ok()?;
                    Some(b.services[at].clone())
                });
                known.unwrap_or_else(|| {
                    Arc::new(ServiceState::new(
                        service.label.clone(),
                        cores,
                        in_flight_max,
                    ))
                })
            })
            .collect();
        Self {
            table,
            pods,
            services,
        }
    }

    /// The slot of a pod, if the table knows it.
    pub fn slot(&self, pod_id: &str) -> Option<usize> {
        self.pods
            .binary_search_by(|p| p.id.as_ref().cmp(pod_id))
            .ok()
    }
}

/// What [`coracle_route::pick`] asks about.
pub(crate) struct Loads<'a> {
    pub live: &'a Live,
    pub now_ms: u64,
}

impl Load for Loads<'_> {
    fn in_flight(&self, endpoint: &Endpoint) -> u32 {
        self.live.pods[endpoint.slot].in_flight.load(Relaxed)
    }

    fn ejected(&self, endpoint: &Endpoint) -> bool {
        self.live.pods[endpoint.slot].ejected_until_ms.load(Relaxed) > self.now_ms
    }
}
