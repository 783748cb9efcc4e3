//! A whole scheduler in a temporary directory, spoken to over TLS as clients do.

mod client;
mod cluster;
mod nodes;
mod refusals;

use std::net::Ipv4Addr;
use std::path::Path;

use crate::{Scheduler, SchedulerConfig, start};

/// A configuration on free ports of loopback.
pub fn config(dir: &Path) -> SchedulerConfig {
    let mut config = SchedulerConfig::new(dir);
    config.api_addr = (Ipv4Addr::LOCALHOST, 0).into();
    config.registry_addr = Some((Ipv4Addr::LOCALHOST, 0).into());
    config
}

/// A running scheduler.
pub async fn scheduler(dir: &Path) -> Scheduler {
    start(config(dir)).await.unwrap_or_else(|e| panic!("{e}"))
}
