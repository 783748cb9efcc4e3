//! What a member that starts is made of: values, each from what [`Starting`] holds. The order is [`super`]'s.

use std::sync::Arc;

use coracle_server::service_alloc::Range;
use coracle_server::{Context, ContextConfig};
use tokio::sync::watch;

use super::{API_NAMES, Starting};
use crate::acks::Acks;
use crate::backup::{Keeper, Keeping};
use crate::control::Phase;
use crate::gate::Gate;
use crate::join::Joining;
use crate::leases::{self, LeaseDurability, Leases};
use crate::members::Members;
use crate::pki::Ca;
use crate::rotate::Certifier;
use crate::tokens::TokenStore;
use crate::{report, runners};

/// What the API reaches beside the log.
pub(super) struct Outside {
    pub(super) certifier: Arc<Certifier>,
    pub(super) tokens: Arc<TokenStore>,
    pub(super) acks: Arc<Acks>,
    pub(super) leases: Arc<Leases>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) runners: Arc<runners::RunnerClient>,
    pub(super) gate: Arc<Gate>,
}

impl Starting {
    /// Everything the API may be reached by.
    pub(super) fn hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = API_NAMES.iter().map(ToString::to_string).collect();
        if !self.api_addr.ip().is_unspecified() {
            hosts.push(self.api_addr.ip().to_string());
        }
        let advertised = self.config.advertise.iter();
        hosts.extend(advertised.map(|h| h.trim_matches(['[', ']']).to_string()));
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let dns = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if !host.is_empty() && host.chars().all(dns) {
            hosts.push(host);
        }
        hosts
    }

    /// Saves this member's backups.
    pub(super) fn keeper(&self, ca: &Ca) -> Arc<Keeper> {
        Keeper::new(Keeping {
            replica: self.replica.clone(),
            data_dir: self.data.path(),
            cluster: ca.cluster(),
            member: &self.data.identity().name,
            version: &self.config.version,
            clock: self.config.clock.clone(),
            schedule: self.config.backups,
            keep_free_bytes: self.config.limits.keep_free_bytes,
        })
    }

    /// Hands this member's heartbeats on to whoever leads.
    pub(super) fn leases(&self) -> Arc<Leases> {
        let replica = self.replica.clone();
        let ask: leases::Ask = Arc::new(move |topic, body| {
            let replica = replica.clone();
            Box::pin(async move { replica.ask_leader(topic, body).await })
        });
        Leases::new(ask, self.replica.clone(), self.replica.clone())
    }

    pub(super) fn context(
        &self,
        ca: &Arc<Ca>,
        outside: Outside,
        phases: watch::Receiver<Phase>,
    ) -> Arc<Context> {
        let Outside {
            certifier,
            tokens,
            acks,
            leases,
            keeper,
            runners,
            gate,
        } = outside;
        let clock = self.config.clock.clone();
        let members = Members::new(self.replica.clone());
        let joining = Joining {
            tokens: tokens.clone(),
            ca: ca.clone(),
            views: self.replica.clone(),
            clock: clock.clone(),
            members: members.clone(),
            pki: self.pki.clone(),
        };
        let roots = ca.clone();
        let reported = (
            self.replica.clone(),
            self.data.identity().name.clone(),
            ca.cluster().to_string(),
        );
        let replica = self.replica.clone();
        let backups = keeper.clone();
        Context::new(ContextConfig {
            propose: self.replica.clone(),
            views: self.replica.clone(),
            clock,
            seed: rand::random(),
            runners,
            acks: Arc::new(move |node, applied| acks.put(node, applied)),
            join: Arc::new(joining),
            tokens,
            members,
            certificates: certifier,
            backups: keeper,
            admission: Some(gate),
            renewals: match self.config.lease_durability {
                LeaseDurability::Batched => Some(leases),
                LeaseDurability::Sync => None,
            },
            bearer: None,
            ca_bundle_pem: Arc::new(move || roots.bundle()),
            status: Arc::new(move || {
                let mut status = report::status(&reported.0, &reported.1, &reported.2);
                status["backup"] = backups.status();
                status
            }),
            ready: Arc::new(move || report::ready(&replica, &phases)),
            server_address: self.api_addr.to_string(),
            service_range: Range::SERVICES,
            pod_range: Range::PODS,
            product_version: self.config.version.clone(),
        })
    }
}
