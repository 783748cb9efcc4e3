//! Figures of the data plane: written by each core into its own cache lines, summed when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::shared::Shared;

/// Upper bounds of the duration buckets in microseconds: OpenTelemetry's for HTTP, with finer ones below, because a
/// replica in this process answers in tens of microseconds.
pub(crate) const BUCKETS_US: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000,
    500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Status codes of one Service counted exactly; any further ones are counted as 0.
const CODES_MAX: usize = 12;

/// The figures of one Service on one core.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CoreStats {
    pub in_flight: AtomicU32,
    codes: [(AtomicU16, AtomicU64); CODES_MAX],
    other: AtomicU64,
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

impl CoreStats {
    pub fn finished(&self, code: u16, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US
            .iter()
            .position(|b| us <= *b)
            .unwrap_or(BUCKETS_US.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
        for (slot, count) in &self.codes {
            let held = slot.load(Relaxed);
            let mine = held == code
                || (held == 0
                    && slot
                        .compare_exchange(0, code, Relaxed, Relaxed)
                        .map_or_else(|won| won == code, |_| true));
            if mine {
                count.fetch_add(1, Relaxed);
                return;
            }
        }
        self.other.fetch_add(1, Relaxed);
    }
}

/// The sum over cores.
#[derive(Debug, Default)]
struct Sum {
    in_flight: u64,
    codes: Vec<(u16, u64)>,
    buckets: [u64; BUCKETS_US.len() + 1],
    sum_us: u64,
}

impl Sum {
    fn of(cores: &[CoreStats]) -> Self {
        let mut sum = Self::default();
        for core in cores {
            sum.in_flight += u64::from(core.in_flight.load(Relaxed));
            sum.sum_us += core.sum_us.load(Relaxed);
            for (total, bucket) in sum.buckets.iter_mut().zip(&core.buckets) {
                *total += bucket.load(Relaxed);
            }
            let other = (0, core.other.load(Relaxed));
            let exact = core
                .codes
                .iter()
                .map(|(code, count)| (code.load(Relaxed), count.load(Relaxed)));
            for (code, count) in exact.chain([other]).filter(|(_, count)| *count > 0) {
                match sum.codes.iter_mut().find(|(c, _)| *c == code) {
                    Some((_, total)) => *total += count,
                    None => sum.codes.push((code, count)),
                }
            }
        }
        sum.codes.sort_unstable();
        sum
    }
}

struct Labels<'a> {
    service: &'a str,
    code: Option<u16>,
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        use prometheus_client::encoding::EncodeLabel;
        ("service", self.service).encode(encoder.encode_label())?;
        match self.code {
            Some(0) => ("code", "other").encode(encoder.encode_label()),
            Some(code) => ("code", code.to_string().as_str()).encode(encoder.encode_label()),
            None => Ok(()),
        }
    }
}

/// Shows the figures to a metrics registry ([`crate::Proxy::collector`]).
pub(crate) struct Figures(pub Arc<Shared>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let live = self.0.live.load_full();
        let services: Vec<(&str, Sum)> = live
            .services
            .iter()
            .chain(self.0.special())
            .filter_map(|s| Some((s.label.as_ref(), Sum::of(s.stats_if_used()?))))
            .collect();

        let mut requests = encoder.encode_descriptor(
            "coracle_proxy_requests",
            "Requests answered, by service and status code",
            None,
            MetricType::Counter,
        )?;
        for (service, sum) in &services {
            for (code, count) in &sum.codes {
                requests
                    .encode_family(&Labels {
                        service,
                        code: Some(*code),
                    })?
                    .encode_counter::<NoLabelSet, _, u64>(count, None)?;
            }
        }
        let mut durations = encoder.encode_descriptor(
            "coracle_proxy_request_duration_seconds",
            "Time from the request's head to the end of its response",
            None,
            MetricType::Histogram,
        )?;
        for (service, sum) in &services {
            let bounds = BUCKETS_US
                .iter()
                .map(|us| *us as f64 / 1e6)
                .chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(sum.buckets).collect();
            durations
                .encode_family(&Labels {
                    service,
                    code: None,
                })?
                .encode_histogram::<NoLabelSet>(
                    sum.sum_us as f64 / 1e6,
                    sum.buckets.iter().sum(),
                    &buckets,
                    None,
                )?;
        }
        let mut in_flight = encoder.encode_descriptor(
            "coracle_proxy_requests_in_flight",
            "Requests not fully answered yet",
            None,
            MetricType::Gauge,
        )?;
        for (service, sum) in &services {
            in_flight
                .encode_family(&Labels {
                    service,
                    code: None,
                })?
                .encode_gauge(&sum.in_flight)?;
        }
        let open: u64 = self
            .0
            .open_connections
            .iter()
            .map(|c| c.load(Relaxed) as u64)
            .sum();
        encoder
            .encode_descriptor(
                "coracle_proxy_connections",
                "Open ingress connections",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&open)?;
        encoder
            .encode_descriptor(
                "coracle_proxy_connections_refused",
                "Ingress connections answered 503 because a core was full",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, u64>(
                &self.0.refused_connections.load(Relaxed),
                None,
            )?;
        encoder
            .encode_descriptor(
                "coracle_proxy_retries",
                "Requests tried on a second endpoint",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, u64>(&self.0.retries.load(Relaxed), None)?;
        encoder
            .encode_descriptor(
                "coracle_proxy_access_log_dropped",
                "Access log lines dropped because the writer was behind",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, u64>(&self.0.access_dropped.load(Relaxed), None)
    }
}
