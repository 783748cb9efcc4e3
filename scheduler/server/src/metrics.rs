//! What the API server counts, named as kube-apiserver names it so that existing dashboards work.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds in seconds, kube-apiserver's range with fewer steps.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// Labels of a counted request. All values come from our own tables, never from a client, so they are few.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// `GET`, `LIST`, `WATCH`, `CREATE`, ...
    pub verb: &'static str,
    /// Plural, or empty.
    pub resource: &'static str,
    /// HTTP code.
    pub code: u32,
}

/// Labels of a measured request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DurationLabels {
    /// As in [`RequestLabels`].
    pub verb: &'static str,
    /// As in [`RequestLabels`].
    pub resource: &'static str,
}

/// The metrics of one listener.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    /// Watches and log streams open now.
    pub streams: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations: Family<DurationLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let streams = Gauge::default();
        // prometheus-client adds the `_total` of a counter itself.
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and HTTP code",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency in seconds, without watches and log streams",
            durations.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Watches and log streams open now",
            streams.clone(),
        );
        Self {
            registry,
            requests,
            durations,
            streams,
        }
    }

    /// Counts one answered request; streams are counted, not timed.
    pub fn record(
        &self,
        verb: &'static str,
        resource: &'static str,
        code: u16,
        took: Option<Duration>,
    ) {
        self.requests
            .get_or_create(&RequestLabels {
                verb,
                resource,
                code: code.into(),
            })
            .inc();
        if let Some(took) = took {
            self.durations
                .get_or_create(&DurationLabels { verb, resource })
                .observe(took.as_secs_f64());
        }
    }

    /// The text form.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if let Err(e) = encode(&mut out, &self.registry) {
            tracing::warn!(error = %e, "metrics could not be encoded");
        }
        out
    }
}
