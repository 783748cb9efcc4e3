//! The routing table: built whole from [`Sources`], looked up without allocation, never changed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use coracle_api::Key;

use crate::hosts::{HostBuilder, HostRules};
use crate::source::{BackendRef, PortName, Service, SliceEndpoint};
use crate::{Endpoint, Endpoints, Miss, Sources};

/// What routing looks at in a request.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Host as the client sent it; a port, upper case and a trailing dot are taken off here.
    pub host: &'a str,
    /// The normalised path ([`crate::Normal::matching`]).
    pub path: &'a [u8],
    /// Method in upper case.
    pub method: &'a str,
}

/// One port of a Service and where it leads.
#[derive(Clone, Debug)]
pub struct PortEntry {
    /// Name of the port, empty if it has none.
    pub name: String,
    /// Number of the port on the Service.
    pub port: u16,
    /// The replicas behind it.
    pub endpoints: Endpoints,
}

/// A Service.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// Namespace and name.
    pub key: Key,
    /// `namespace/name`, for labels and messages.
    pub label: Arc<str>,
    /// The name it stands for, if it is of type ExternalName.
    pub external_name: Option<String>,
    /// Its ports.
    pub ports: Vec<PortEntry>,
}

/// A pod that endpoints refer to. Its index in [`Table::pods`] is the endpoints' `slot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// Uid of the pod, or `ip:port` for an endpoint outside the cluster: what load is counted by.
    pub id: Arc<str>,
}

/// A request's destination.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    /// Index of the Service in [`Table::services`]; `None` if a pod was addressed by its own IP.
    pub service_slot: Option<usize>,
    /// The Service, as above.
    pub service: Option<&'a ServiceEntry>,
    /// The replicas; at least one is usable.
    pub endpoints: &'a Endpoints,
    /// Port asked for, where the endpoint does not fix it.
    pub port: u16,
}

impl Match<'_> {
    /// The port to call on an endpoint of this match.
    pub fn port_of(&self, endpoint: &Endpoint) -> u16 {
        if endpoint.port == 0 {
            self.port
        } else {
            endpoint.port
        }
    }
}

/// Where a rule leads: a Service and its port, or the reason why not.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Port(usize, usize),
    Missing(Miss),
}

/// What an address belongs to.
#[derive(Clone, Debug)]
pub(crate) enum Addressee {
    Service(usize),
    Pod(Endpoints),
}

/// An immutable routing table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    revision: u64,
    services: Vec<ServiceEntry>,
    pods: Vec<PodEntry>,
    hosts: Vec<(Box<str>, HostRules<Target>)>,
    /// By what follows the `*.`.
    wildcards: Vec<(Box<str>, HostRules<Target>)>,
    any_host: Option<HostRules<Target>>,
    default: Option<Target>,
    addresses: Vec<(IpAddr, Addressee)>,
}

impl Table {
    /// Builds the table. Of two ingress rules for the same host and path the one of the older Ingress counts (then the
    /// first by namespace and name), as in Kubernetes.
    pub fn build(sources: &Sources) -> Self {
        let mut slots = Slots::new(sources);
        let services = services(sources, &mut slots);
        let addresses = addresses(sources, &slots);
        let mut table = Self {
            revision: sources.revision,
            services,
            pods: slots.into_pods(),
            addresses,
            ..Self::default()
        };
        table.add_ingresses(sources);
        table
    }

    /// The resourceVersion this table stands for ([`Sources::revision`]).
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All Services, by namespace and name.
    pub fn services(&self) -> &[ServiceEntry] {
        &self.services
    }

    /// All pods that endpoints refer to, sorted by id.
    pub fn pods(&self) -> &[PodEntry] {
        &self.pods
    }

    pub(crate) fn service_slot(&self, namespace: &str, name: &str) -> Option<usize> {
        self.services
            .binary_search_by(|s| {
                (s.key.namespace.as_str(), s.key.name.as_str()).cmp(&(namespace, name))
            })
            .ok()
    }

    pub(crate) fn addressee(&self, ip: IpAddr) -> Option<&Addressee> {
        self.addresses
            .binary_search_by_key(&ip, |(a, _)| *a)
            .ok()
            .map(|i| &self.addresses[i].1)
    }

    /// The match for a port of a Service, if a replica is usable.
    pub(crate) fn at(&self, service: usize, port: usize) -> Result<Match<'_>, Miss> {
        let entry = &self.services[service];
        let at = &entry.ports[port];
        if at.endpoints.usable().is_empty() {
            return Err(Miss::NoEndpoints {
                namespace: entry.key.namespace.clone(),
                service: entry.key.name.clone(),
                unready: at.endpoints.all().len(),
            });
        }
        Ok(Match {
            service_slot: Some(service),
            service: Some(entry),
            endpoints: &at.endpoints,
            port: at.port,
        })
    }

    fn add_ingresses(&mut self, sources: &Sources) {
        let mut ordered: Vec<_> = sources.ingresses.values().collect();
        ordered.sort_by(|a, b| (&a.created, &a.key).cmp(&(&b.created, &b.key)));
        let mut exact: BTreeMap<String, HostBuilder<Target>> = BTreeMap::new();
        let mut wildcard: BTreeMap<String, HostBuilder<Target>> = BTreeMap::new();
        let mut any: Option<HostBuilder<Target>> = None;
        let mut default = None;
        let mut default_without_rules = None;
        for ingress in ordered {
            let own_default = ingress
                .default
                .as_ref()
                .map(|b| self.target(&ingress.key, b));
            for rule in &ingress.rules {
                let host = match (rule.host.as_str(), rule.host.strip_prefix("*.")) {
                    ("", _) => any.get_or_insert_default(),
                    (_, Some(suffix)) => wildcard.entry(suffix.into()).or_default(),
                    (host, None) => exact.entry(host.into()).or_default(),
                };
                for (path, kind, backend) in &rule.paths {
                    host.add(path, *kind, self.target(&ingress.key, backend));
                }
                // A rule without paths sends the whole host to the ingress's default backend.
                if let Some(target) = &own_default {
                    host.default(target.clone());
                }
            }
            if let Some(target) = own_default {
                let place = if ingress.rules.is_empty() {
                    &mut default_without_rules
                } else {
                    &mut default
                };
                place.get_or_insert(target);
            }
        }
        self.default = default_without_rules.or(default);
        self.hosts = exact
            .into_iter()
            .map(|(h, b)| (h.into(), b.build()))
            .collect();
        self.wildcards = wildcard
            .into_iter()
            .map(|(h, b)| (h.into(), b.build()))
            .collect();
        self.any_host = any.map(HostBuilder::build);
    }

    fn target(&self, ingress: &Key, backend: &BackendRef) -> Target {
        let Some((name, port)) = backend else {
            return Target::Missing(Miss::BadBackend {
                ingress: ingress.to_string(),
            });
        };
        let Some(slot) = self.service_slot(&ingress.namespace, name) else {
            return Target::Missing(Miss::NoService {
                name: format!("{}/{name}", ingress.namespace),
            });
        };
        match self.port_slot(slot, port) {
            Ok(port) => Target::Port(slot, port),
            Err(miss) => Target::Missing(miss),
        }
    }

    pub(crate) fn port_slot(&self, service: usize, port: &PortName) -> Result<usize, Miss> {
        let entry = &self.services[service];
        if let Some(target) = &entry.external_name {
            return Err(Miss::ExternalName {
                service: entry.label.to_string(),
                target: target.clone(),
            });
        }
        let found = entry.ports.iter().position(|p| match port {
            PortName::Number(number) => p.port == *number,
            PortName::Name(name) => p.name == *name,
        });
        found.ok_or_else(|| {
            let available: Vec<String> = entry
                .ports
                .iter()
                .map(|p| {
                    if p.name.is_empty() {
                        p.port.to_string()
                    } else {
                        format!("{}:{}", p.name, p.port)
                    }
                })
                .collect();
            Miss::NoPort {
                service: entry.label.to_string(),
                port: match port {
                    PortName::Number(number) => number.to_string(),
                    PortName::Name(name) => format!("{name:?}"),
                },
                available: if available.is_empty() {
                    "none".into()
                } else {
                    available.join(", ")
                },
            }
        })
    }
}

/// Finds the destination of a request from outside: exact host, then wildcard (one label), then rules without a host, then
/// the default backend. Within a host an exact path comes before the longest prefix.
///
/// # Errors
/// The [`Miss`] that says why there is none.
pub fn find<'a>(table: &'a Table, parts: &Parts<'_>) -> Result<Match<'a>, Miss> {
    let host = host_only(parts.host);
    let exact = table
        .hosts
        .binary_search_by(|(h, _)| h.as_ref().cmp(host.as_ref()))
        .ok()
        .map(|i| &table.hosts[i].1);
    let wildcard = || {
        let (label, suffix) = host.split_once('.')?;
        let at = table
            .wildcards
            .binary_search_by(|(h, _)| h.as_ref().cmp(suffix))
            .ok()?;
        (!label.is_empty()).then(|| &table.wildcards[at].1)
    };
    let mut host_known = exact.is_some();
    let mut target = exact.and_then(|rules| rules.find(parts.path));
    if target.is_none()
        && let Some(rules) = wildcard()
    {
        host_known = true;
        target = rules.find(parts.path);
    }
    if target.is_none()
        && let Some(rules) = &table.any_host
    {
        host_known = true;
        target = rules.find(parts.path);
    }
    match target.or(table.default.as_ref()) {
        Some(Target::Port(service, port)) => table.at(*service, *port),
        Some(Target::Missing(miss)) => Err(miss.clone()),
        None if host_known => Err(Miss::NoPath {
            host: host.into_owned(),
            path: String::from_utf8_lossy(parts.path).into_owned(),
        }),
        None => Err(Miss::NoHost {
            host: host.into_owned(),
        }),
    }
}

/// Lower case, without port and trailing dot; borrowed where nothing has to change.
pub(crate) fn host_only(host: &str) -> Cow<'_, str> {
    let bare = match host.rfind(':') {
        // The colons of a bracketed IPv6 address are not the port's.
        Some(colon)
            if host[colon + 1..].bytes().all(|b| b.is_ascii_digit())
                && !host[..colon].ends_with(':') =>
        {
            &host[..colon]
        }
        _ => host,
    };
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    if bare.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(bare.to_ascii_lowercase())
    } else {
        Cow::Borrowed(bare)
    }
}

/// Gives every pod an index that all its endpoints share.
struct Slots {
    ids: Vec<Arc<str>>,
    nodes: BTreeMap<String, SocketAddr>,
    node: Arc<str>,
}

impl Slots {
    fn new(sources: &Sources) -> Self {
        let mut ids: Vec<Arc<str>> = Vec::new();
        for slice in sources.slices.values() {
            for endpoint in &slice.endpoints {
                if endpoint.pod_uid.is_empty() {
                    ids.extend(
                        slice
                            .ports
                            .iter()
                            .map(|(_, port)| external_id(endpoint.ip, *port)),
                    );
                } else {
                    ids.push(endpoint.pod_uid.clone());
                }
            }
        }
        ids.extend(sources.pods.values().map(|p| p.endpoint.pod_uid.clone()));
        ids.sort();
        ids.dedup();
        Self {
            ids,
            nodes: sources.nodes.clone(),
            node: sources.node.clone(),
        }
    }

    fn endpoint(&self, from: &SliceEndpoint, port: u16) -> Endpoint {
        let slot = if from.pod_uid.is_empty() {
            self.ids.binary_search(&external_id(from.ip, port))
        } else {
            self.ids.binary_search(&from.pod_uid)
        };
        Endpoint {
            pod_uid: from.pod_uid.clone(),
            pod_name: from.pod_name.clone(),
            node: from.node.clone(),
            node_addr: self.nodes.get(from.node.as_ref()).copied(),
            ip: from.ip,
            port,
            ready: from.ready,
            serving: from.serving,
            terminating: from.terminating,
            local: !from.pod_uid.is_empty() && from.node == self.node,
            slot: slot.expect("every endpoint was given a slot from the same sources"),
        }
    }

    fn into_pods(self) -> Vec<PodEntry> {
        self.ids.into_iter().map(|id| PodEntry { id }).collect()
    }
}

fn external_id(ip: IpAddr, port: u16) -> Arc<str> {
    SocketAddr::new(ip, port).to_string().into()
}

fn services(sources: &Sources, slots: &mut Slots) -> Vec<ServiceEntry> {
    // Endpoints of all slices of a Service, by the name of the port they serve.
    let mut by_port: BTreeMap<(&Key, &str), Vec<Endpoint>> = BTreeMap::new();
    for slice in sources.slices.values() {
        for (name, port) in &slice.ports {
            let list = by_port.entry((&slice.service, name.as_str())).or_default();
            list.extend(slice.endpoints.iter().map(|e| slots.endpoint(e, *port)));
        }
    }
    let entry = |service: &Arc<Service>| ServiceEntry {
        key: service.key.clone(),
        label: service.key.to_string().into(),
        external_name: service.external_name.clone(),
        ports: service
            .ports
            .iter()
            .map(|p| PortEntry {
                name: p.name.clone(),
                port: p.port,
                endpoints: Endpoints::new(
                    by_port
                        .get(&(&service.key, p.name.as_str()))
                        .cloned()
                        .unwrap_or_default(),
                ),
            })
            .collect(),
    };
    sources.services.values().map(entry).collect()
}

fn addresses(sources: &Sources, slots: &Slots) -> Vec<(IpAddr, Addressee)> {
    let mut all: BTreeMap<IpAddr, Addressee> = BTreeMap::new();
    let slice_endpoints = sources.slices.values().flat_map(|s| &s.endpoints);
    for endpoint in slice_endpoints.chain(sources.pods.values().map(|p| &p.endpoint)) {
        if !endpoint.pod_uid.is_empty() {
            // A pod called by its own address is called whether it is ready or not, as without a proxy.
            let mut single = slots.endpoint(endpoint, 0);
            single.ready = true;
            single.terminating = false;
            all.entry(endpoint.ip)
                .or_insert_with(|| Addressee::Pod(Endpoints::new(vec![single])));
        }
    }
    for (slot, service) in sources.services.values().enumerate() {
        for ip in &service.ips {
            all.insert(*ip, Addressee::Service(slot));
        }
    }
    all.into_iter().collect()
}
