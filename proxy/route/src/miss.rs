//! Why a request has nowhere to go, as data: a status, a code for programs, a sentence and a fix for people.

use std::fmt;

/// A request that matched nothing usable. `Display` is the sentence shown to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// No ingress rule names this host and there is no default backend.
    NoHost {
        /// The host asked for, lower case, without its port.
        host: String,
    },
    /// The host is known, but none of its paths match.
    NoPath {
        /// The host asked for.
        host: String,
        /// The path asked for, normalised.
        path: String,
    },
    /// A rule or a caller names a Service that does not exist.
    NoService {
        /// `namespace/name`.
        name: String,
    },
    /// The Service exists, but has no such port.
    NoPort {
        /// `namespace/name`.
        service: String,
        /// The port asked for, a number or a name.
        port: String,
        /// The ports the Service has, as `name:number` or `number`.
        available: String,
    },
    /// The Service exists, but no replica is ready or still serving.
    NoEndpoints {
        /// Namespace of the Service.
        namespace: String,
        /// Name of the Service.
        service: String,
        /// Endpoints known but not usable (starting, failing their probes, stopped).
        unready: usize,
    },
    /// The Service is of type ExternalName, which is a DNS alias and is never proxied.
    ExternalName {
        /// `namespace/name`.
        service: String,
        /// The name it stands for.
        target: String,
    },
    /// The ingress rule points at a resource instead of a Service.
    BadBackend {
        /// `namespace/name` of the Ingress.
        ingress: String,
    },
    /// An address inside the pod or service range that belongs to nobody.
    NoAddress {
        /// The address asked for.
        address: String,
    },
    /// The authority is not a host and an optional port.
    BadAuthority {
        /// The authority as given.
        authority: String,
    },
    /// Not a name of this cluster: the caller may try the outside world, by its own policy.
    NotAService {
        /// The host asked for.
        host: String,
    },
}

impl Miss {
    /// HTTP status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoHost { .. } | Self::NoPath { .. } => 404,
            Self::NoService { .. } | Self::NoPort { .. } | Self::NoEndpoints { .. } => 503,
            Self::ExternalName { .. }
            | Self::BadBackend { .. }
            | Self::NoAddress { .. }
            | Self::NotAService { .. } => 502,
            Self::BadAuthority { .. } => 400,
        }
    }

    /// Machine-readable code of the answer.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoHost { .. } | Self::NoPath { .. } => "no_route",
            Self::NoService { .. } => "no_service",
            Self::NoPort { .. } => "no_port",
            Self::NoEndpoints { .. } => "no_endpoints",
            Self::ExternalName { .. } => "external_name",
            Self::BadBackend { .. } => "bad_backend",
            Self::NoAddress { .. } => "no_address",
            Self::BadAuthority { .. } => "bad_authority",
            Self::NotAService { .. } => "not_a_service",
        }
    }

    /// What the user can do about it.
    pub fn fix(&self) -> String {
        match self {
            Self::NoHost { .. } | Self::NoPath { .. } => {
                "see the hosts and paths that are routed: kubectl get ingress -A".into()
            }
            Self::NoService { name } => match name.split_once('/') {
                Some((namespace, _)) => format!("kubectl get services -n {namespace}"),
                None => "kubectl get services -A".into(),
            },
            Self::NoPort { service, .. } => match service.split_once('/') {
                Some((namespace, name)) => {
                    format!("kubectl get service {name} -n {namespace} -o yaml")
                }
                None => "kubectl get services -A".into(),
            },
            Self::NoEndpoints {
                namespace, service, ..
            } => format!(
                "kubectl get endpointslices -n {namespace} -l kubernetes.io/service-name={service}"
            ),
            Self::ExternalName { target, .. } => format!("call {target} itself"),
            Self::BadBackend { .. } => "name a Service in the backend of the rule".into(),
            Self::NoAddress { .. } => {
                "kubectl get services,pods -A -o wide shows the addresses in use".into()
            }
            Self::BadAuthority { .. } => {
                "send one Host header of the form HOST or HOST:PORT".into()
            }
            Self::NotAService { .. } => {
                "use SERVICE or SERVICE.NAMESPACE for a Service of this cluster".into()
            }
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost { host } => write!(f, "no ingress rule matches the host {host:?}"),
            Self::NoPath { host, path } => {
                write!(
                    f,
                    "no ingress rule of the host {host:?} matches the path {path:?}"
                )
            }
            Self::NoService { name } => write!(f, "the service {name:?} does not exist"),
            Self::NoPort {
                service,
                port,
                available,
            } => {
                write!(
                    f,
                    "the service {service:?} has no port {port}; it has {available}"
                )
            }
            Self::NoEndpoints {
                namespace,
                service,
                unready,
            } => {
                write!(
                    f,
                    "the service \"{namespace}/{service}\" has no ready endpoints"
                )?;
                if *unready > 0 {
                    write!(f, " ({unready} not ready)")?;
                }
                Ok(())
            }
            Self::ExternalName { service, target } => {
                write!(
                    f,
                    "the service {service:?} is only another name for {target:?}"
                )
            }
            Self::BadBackend { ingress } => {
                write!(
                    f,
                    "the ingress {ingress:?} points at a resource that is not a service"
                )
            }
            Self::NoAddress { address } => {
                write!(f, "no service or pod has the address {address}")
            }
            Self::BadAuthority { authority } => write!(f, "{authority:?} is not a host name"),
            Self::NotAService { host } => write!(f, "{host:?} is not a service of this cluster"),
        }
    }
}

impl std::error::Error for Miss {}
