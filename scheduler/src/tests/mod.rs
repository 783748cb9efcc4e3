//! A whole scheduler in a temporary directory, spoken to over TLS as clients do.

mod access;
mod backups;
mod blobs;
mod client;
mod cluster;
mod distribution;
mod members;
mod nodes;
mod refusals;
mod trust;

use std::net::Ipv4Addr;
use std::path::Path;

use crate::{Scheduler, SchedulerConfig, start};

/// Shows log lines of the filter in `CORACLE_LOG`, for whoever looks into a failure.
fn log() {
    if let Ok(filter) = std::env::var("CORACLE_LOG") {
        // A second test of the same process finds it installed.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).try_init();
    }
}

/// A configuration on free ports of loopback.
pub fn config(dir: &Path) -> SchedulerConfig {
    log();
    let mut config = SchedulerConfig::new(dir);
    config.api_addr = (Ipv4Addr::LOCALHOST, 0).into();
    config.registry_addr = Some((Ipv4Addr::LOCALHOST, 0).into());
    config.raft_addr = (Ipv4Addr::LOCALHOST, 0).into();
    config
}

/// A running scheduler.
pub async fn scheduler(dir: &Path) -> Scheduler {
    start(config(dir)).await.unwrap_or_else(|e| panic!("{e}"))
}
