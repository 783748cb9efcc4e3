//! What all cores share, and what each core has for itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use arc_swap::ArcSwap;
use coracle_route::Table;

use crate::access::Log;
use crate::config::Config;
use crate::ids::Numbers;
use crate::live::{Live, ServiceState};
use crate::outside::Outside;
use crate::peers::Peers;

/// Retries each core may always make per second, besides one for each five requests.
pub(crate) const RETRIES_PER_SECOND_MIN: i64 = 10;
/// What a retry takes from the budget, in requests: at most 20 % of requests are retries.
const RETRY_COST: i64 = 5;
/// Most that the budget saves up: 100 retries at once.
const RETRY_BUDGET_MAX: i64 = 500;

/// State of a proxy that every core reads.
pub(crate) struct Shared {
    pub config: Config,
    pub live: ArcSwap<Live>,
    /// The zero of all monotonic milliseconds.
    pub epoch: Instant,
    /// Counts requests that reached no Service.
    pub unrouted: Arc<ServiceState>,
    /// Counts requests to a pod's own address.
    pub direct: Arc<ServiceState>,
    /// Counts requests that other nodes sent.
    pub from_peers: Arc<ServiceState>,
    /// Open ingress connections by core.
    pub open_connections: Box<[AtomicUsize]>,
    pub refused_connections: AtomicU64,
    pub retries: AtomicU64,
    pub access_dropped: AtomicU64,
}

impl Shared {
    pub fn new(config: Config) -> Self {
        // One place more than cores: for calls from other threads.
        let places = config.cores + 1;
        let in_flight_max = config.in_flight_per_core_max;
        // Misses hold nothing. What peers send is bounded where it comes from and by the replicas themselves; a bound over
        // all Services together would let one of them shut out the others.
        let special = |label: &str, max| Arc::new(ServiceState::new(label.into(), places, max));
        Self {
            live: ArcSwap::from_pointee(Live::after(
                None,
                Arc::new(Table::default()),
                places,
                in_flight_max,
            )),
            epoch: Instant::now(),
            unrouted: special("-", u32::MAX),
            direct: special("(pod address)", in_flight_max),
            from_peers: special("(from peers)", u32::MAX),
            open_connections: (0..config.cores).map(|_| AtomicUsize::new(0)).collect(),
            refused_connections: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            access_dropped: AtomicU64::new(0),
            config,
        }
    }

    /// The counting places that are no Service.
    pub fn special(&self) -> [&Arc<ServiceState>; 3] {
        [&self.unrouted, &self.direct, &self.from_peers]
    }

    pub fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

/// What one core has for itself. Others may hold it (a response body may be dropped anywhere), but only its own thread
/// makes requests with it, so its atomics are not contended. The last one serves all threads that are no core.
pub(crate) struct PerCore {
    pub shared: Arc<Shared>,
    pub index: usize,
    pub numbers: Numbers,
    pub log: Log,
    pub peers: Peers,
    pub outside: Outside,
    retry_budget: AtomicI64,
}

impl PerCore {
    pub fn new(shared: Arc<Shared>, index: usize, log: Log) -> Self {
        let config = &shared.config;
        Self {
            index,
            numbers: Numbers::new(rand::random()),
            log,
            peers: Peers::new(config.peers.clone(), config.connect_timeout),
            outside: Outside::new(config.outside.clone(), config.connect_timeout),
            retry_budget: AtomicI64::new(RETRY_BUDGET_MAX),
            shared,
        }
    }

    /// Credits the retry budget with a request.
    pub fn request_made(&self) {
        // The bound is kept by whoever takes; an overshoot by a few is no harm.
        if self.retry_budget.load(Relaxed) < RETRY_BUDGET_MAX {
            self.retry_budget.fetch_add(1, Relaxed);
        }
    }

    /// Credits the budget with the retries a quiet core may make.
    pub fn second_passed(&self) {
        let budget = self.retry_budget.load(Relaxed);
        let credit = (RETRIES_PER_SECOND_MIN * RETRY_COST)
            .min(RETRY_BUDGET_MAX - budget)
            .max(0);
        self.retry_budget.fetch_add(credit, Relaxed);
    }

    /// Takes a retry from the budget; `false` if it is used up.
    pub fn may_retry(&self) -> bool {
        if self.retry_budget.fetch_sub(RETRY_COST, Relaxed) >= RETRY_COST {
            self.shared.retries.fetch_add(1, Relaxed);
            return true;
        }
        self.retry_budget.fetch_add(RETRY_COST, Relaxed);
        false
    }
}
