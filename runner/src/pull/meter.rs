//! What images cost the network, as metrics.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

/// Bytes of layers in and out. Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// Of layers whose last source was another runner.
    pub from_runners: Counter,
    /// Of layers whose last source was a registry.
    pub from_registries: Counter,
    /// Sent to other runners.
    pub sent: Counter,
}

impl Meter {
    /// Shows the counters.
    pub fn register(&self, metrics: &mut Registry) {
        for (name, help, counter) in [
            (
                "coracle_image_pulled_from_runners",
                "Bytes of image layers that other runners gave",
                &self.from_runners,
            ),
            (
                "coracle_image_pulled_from_registries",
                "Bytes of image layers that registries gave",
                &self.from_registries,
            ),
            (
                "coracle_image_sent",
                "Bytes of image layers sent to other runners",
                &self.sent,
            ),
        ] {
            metrics.register_with_unit(name, help, Unit::Bytes, counter.clone());
        }
    }
}
