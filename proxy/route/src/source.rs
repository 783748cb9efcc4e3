//! The objects that make routes, parsed once when they arrive.
//!
//! The feed keeps one [`Sources`] up to date from its watches and builds a new table from it after each batch of events.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use coracle_api::{Key, meta};
use serde_json::Value;

/// An object that cannot be used for routing; the previous version of it stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadObject {
    /// Kind and key of the object.
    pub object: String,
    /// The field at fault.
    pub field: &'static str,
}

impl std::fmt::Display for BadObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} cannot be routed: {} is missing or not readable",
            self.object, self.field
        )
    }
}

impl std::error::Error for BadObject {}

/// How a rule's path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathType {
    /// The whole path.
    Exact,
    /// Whole path elements from the left; also `ImplementationSpecific`.
    Prefix,
}

/// A port as rules name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortName {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// The Service a rule sends to; `None` where the rule names a resource instead.
pub(crate) type BackendRef = Option<(String, PortName)>;

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub host: String,
    pub paths: Vec<(String, PathType, BackendRef)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Ingress {
    pub key: Key,
    pub created: String,
    pub default: Option<BackendRef>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
pub(crate) struct ServicePort {
    pub name: String,
    pub port: u16,
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub key: Key,
    pub ips: Vec<IpAddr>,
    pub external_name: Option<String>,
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug)]
pub(crate) struct SliceEndpoint {
    pub ip: IpAddr,
    pub pod_uid: Arc<str>,
    pub pod_name: Arc<str>,
    pub node: Arc<str>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub service: Key,
    pub ports: Vec<(String, u16)>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub endpoint: SliceEndpoint,
}

/// Everything a table is built from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub(crate) node: Arc<str>,
    /// The resourceVersion of the newest EndpointSlice event or list in here; reported to the leader once a table built
    /// from it is in force.
    pub revision: u64,
    pub(crate) ingresses: BTreeMap<Key, Arc<Ingress>>,
    pub(crate) services: BTreeMap<Key, Arc<Service>>,
    pub(crate) slices: BTreeMap<Key, Arc<Slice>>,
    pub(crate) nodes: BTreeMap<String, SocketAddr>,
    pub(crate) pods: BTreeMap<Key, Arc<Pod>>,
}

impl Sources {
    /// Empty sources for the proxy on this node.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            ..Self::default()
        }
    }

    /// Takes in a new or changed object; `plural` is `ingresses`, `services`, `endpointslices`, `nodes` or `pods`, any
    /// other is ignored.
    ///
    /// # Errors
    /// [`BadObject`] if a field that routing needs is missing or malformed; nothing has changed then.
    pub fn put(&mut self, plural: &str, object: &Value) -> Result<(), BadObject> {
        let key = meta::key(object);
        match plural {
            "ingresses" => drop(
                self.ingresses
                    .insert(key.clone(), Arc::new(ingress(key, object)?)),
            ),
            "services" => drop(
                self.services
                    .insert(key.clone(), Arc::new(service(key, object)?)),
            ),
            "endpointslices" => match slice(&key, object)? {
                Some(slice) => drop(self.slices.insert(key, Arc::new(slice))),
                None => drop(self.slices.remove(&key)),
            },
            "nodes" => match node_address(object) {
                Some(address) => drop(self.nodes.insert(key.name, address)),
                None => drop(self.nodes.remove(&key.name)),
            },
            "pods" => match pod(object) {
                Some(pod) => drop(self.pods.insert(key, Arc::new(pod))),
                None => drop(self.pods.remove(&key)),
            },
            _ => {}
        }
        Ok(())
    }

    /// Forgets an object.
    pub fn remove(&mut self, plural: &str, key: &Key) {
        match plural {
            "ingresses" => drop(self.ingresses.remove(key)),
            "services" => drop(self.services.remove(key)),
            "endpointslices" => drop(self.slices.remove(key)),
            "nodes" => drop(self.nodes.remove(&key.name)),
            "pods" => drop(self.pods.remove(key)),
            _ => {}
        }
    }

    /// Forgets all objects of a kind, before a relist.
    pub fn clear(&mut self, plural: &str) {
        match plural {
            "ingresses" => self.ingresses.clear(),
            "services" => self.services.clear(),
            "endpointslices" => self.slices.clear(),
            "nodes" => self.nodes.clear(),
            "pods" => self.pods.clear(),
            _ => {}
        }
    }

    /// Tells where a node takes traffic from its peers, where this is known from elsewhere than a Node object.
    pub fn set_node_address(&mut self, node: &str, address: SocketAddr) {
        self.nodes.insert(node.into(), address);
    }

    /// The node this table is for.
    pub fn node(&self) -> &str {
        &self.node
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn port_number(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
}

fn backend(
    object: &Value,
    bad: &impl Fn(&'static str) -> BadObject,
) -> Result<BackendRef, BadObject> {
    let service = &object["service"];
    if !service.is_object() {
        return Ok(None);
    }
    let port = match (
        port_number(&service["port"]["number"]),
        service["port"]["name"].as_str(),
    ) {
        (Some(number), _) => PortName::Number(number),
        (None, Some(name)) => PortName::Name(name.into()),
        (None, None) => return Err(bad("backend.service.port")),
    };
    let name = service["name"]
        .as_str()
        .ok_or_else(|| bad("backend.service.name"))?;
    Ok(Some((name.into(), port)))
}

fn ingress(key: Key, object: &Value) -> Result<Ingress, BadObject> {
    let bad = |field| BadObject {
        object: format!("ingress {key}"),
        field,
    };
    let spec = &object["spec"];
    let default = match &spec["defaultBackend"] {
        Value::Null => None,
        some => Some(backend(some, &bad)?),
    };
    let mut rules = Vec::new();
    for rule in items(&spec["rules"]) {
        let mut paths = Vec::new();
        for path in items(&rule["http"]["paths"]) {
            let kind = match text(&path["pathType"]) {
                "Exact" => PathType::Exact,
                "Prefix" | "ImplementationSpecific" | "" => PathType::Prefix,
                _ => return Err(bad("pathType")),
            };
            let at = path["path"]
                .as_str()
                .filter(|p| !p.is_empty())
                .unwrap_or("/");
            if !at.starts_with('/') {
                return Err(bad("path"));
            }
            paths.push((at.to_string(), kind, backend(&path["backend"], &bad)?));
        }
        rules.push(Rule {
            host: text(&rule["host"]).to_ascii_lowercase(),
            paths,
        });
    }
    let created = meta::text(object, "creationTimestamp").into();
    Ok(Ingress {
        key,
        created,
        default,
        rules,
    })
}

fn service(key: Key, object: &Value) -> Result<Service, BadObject> {
    let bad = |field| BadObject {
        object: format!("service {key}"),
        field,
    };
    let spec = &object["spec"];
    let mut ips: Vec<IpAddr> = items(&spec["clusterIPs"])
        .chain([&spec["clusterIP"]])
        .filter_map(|ip| text(ip).parse().ok())
        .collect();
    ips.sort();
    ips.dedup();
    let mut ports = Vec::new();
    for port in items(&spec["ports"]) {
        ports.push(ServicePort {
            name: text(&port["name"]).into(),
            port: port_number(&port["port"]).ok_or_else(|| bad("spec.ports.port"))?,
        });
    }
    let external_name =
        (text(&spec["type"]) == "ExternalName").then(|| text(&spec["externalName"]).to_string());
    Ok(Service {
        key,
        ips,
        external_name,
        ports,
    })
}

/// `None` for a slice that belongs to no Service.
fn slice(key: &Key, object: &Value) -> Result<Option<Slice>, BadObject> {
    let Some(service) = object["metadata"]["labels"]["kubernetes.io/service-name"].as_str() else {
        return Ok(None);
    };
    let bad = |field| BadObject {
        object: format!("endpointslice {key}"),
        field,
    };
    let mut ports = Vec::new();
    for port in items(&object["ports"]) {
        ports.push((
            text(&port["name"]).into(),
            port_number(&port["port"]).ok_or_else(|| bad("ports.port"))?,
        ));
    }
    let mut endpoints = Vec::new();
    for endpoint in items(&object["endpoints"]) {
        // Names (addressType FQDN) are not proxied; Kubernetes says all addresses of an endpoint are alternatives.
        let Some(ip) = items(&endpoint["addresses"]).find_map(|a| text(a).parse().ok()) else {
            continue;
        };
        let target = &endpoint["targetRef"];
        let is_pod = text(&target["kind"]) == "Pod";
        let conditions = &endpoint["conditions"];
        // Absent means true for ready, and "as ready says" for serving.
        let terminating = conditions["terminating"].as_bool().unwrap_or(false);
        let ready = conditions["ready"].as_bool().unwrap_or(true) && !terminating;
        endpoints.push(SliceEndpoint {
            ip,
            pod_uid: if is_pod {
                text(&target["uid"]).into()
            } else {
                "".into()
            },
            pod_name: if is_pod {
                text(&target["name"]).into()
            } else {
                "".into()
            },
            node: text(&endpoint["nodeName"]).into(),
            ready,
            serving: conditions["serving"].as_bool().unwrap_or(ready),
            terminating,
        });
    }
    Ok(Some(Slice {
        service: Key::new(key.namespace.clone(), service),
        ports,
        endpoints,
    }))
}

/// Where a Node says its runner listens; `None` while it has not said so.
fn node_address(object: &Value) -> Option<SocketAddr> {
    let status = &object["status"];
    let port = port_number(&status["daemonEndpoints"]["kubeletEndpoint"]["Port"])?;
    let ip = items(&status["addresses"])
        .filter(|a| text(&a["type"]) == "InternalIP")
        .find_map(|a| text(&a["address"]).parse::<IpAddr>().ok())?;
    Some(SocketAddr::new(ip, port))
}

/// `None` while the pod has no address or when it has ended.
fn pod(object: &Value) -> Option<Pod> {
    let status = &object["status"];
    if matches!(text(&status["phase"]), "Succeeded" | "Failed") {
        return None;
    }
    let ip = text(&status["podIP"]).parse().ok()?;
    let is_ready = items(&status["conditions"])
        .any(|c| text(&c["type"]) == "Ready" && text(&c["status"]) == "True");
    Some(Pod {
        endpoint: SliceEndpoint {
            ip,
            pod_uid: meta::uid(object).into(),
            pod_name: meta::name(object).into(),
            node: text(&object["spec"]["nodeName"]).into(),
            ready: is_ready,
            serving: is_ready,
            terminating: !meta::text(object, "deletionTimestamp").is_empty(),
        },
    })
}
