//! Names and addresses inside the cluster: what a component means by the authority of its own request.

use std::net::IpAddr;

use crate::source::PortName;
use crate::table::{Addressee, host_only};
use crate::{Match, Miss, Table};

/// First address of the pod range 10.42.0.0/16.
const POD_RANGE: [u8; 2] = [10, 42];
/// First address of the service range 10.43.0.0/16.
const SERVICE_RANGE: [u8; 2] = [10, 43];
/// What follows a Service's namespace in its full name.
const CLUSTER_DOMAIN: &str = "svc.cluster.local";

/// Finds the destination of a request made by a pod of `caller_namespace`. The authority is `SERVICE`,
/// `SERVICE.NAMESPACE`, `SERVICE.NAMESPACE.svc`, `SERVICE.NAMESPACE.svc.cluster.local`, a cluster IP or a pod IP, each with
/// an optional port; without one `default_port` counts (80 for http, 443 for https).
///
/// # Errors
/// [`Miss::NotAService`] for a name or address that is none of the cluster's; any other [`Miss`] for one that is, but leads
/// nowhere.
pub fn find_service<'a>(
    table: &'a Table,
    authority: &str,
    caller_namespace: &str,
    default_port: u16,
) -> Result<Match<'a>, Miss> {
    let bad = || Miss::BadAuthority {
        authority: authority.into(),
    };
    // Credentials in an authority are nobody's host name.
    if authority.is_empty() || authority.contains(['@', '/', ' ']) {
        return Err(bad());
    }
    let host = host_only(authority);
    let port = match authority.rsplit_once(':') {
        Some((front, digits)) if !authority.ends_with(']') && !front.ends_with(':') => {
            digits.parse().ok().filter(|p| *p != 0).ok_or_else(bad)?
        }
        _ => default_port,
    };
    let literal = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(&host);
    if let Ok(ip) = literal.parse::<IpAddr>() {
        return by_address(table, ip, port);
    }
    let (name, namespace, is_cluster_name) = split(&host, caller_namespace);
    match table.service_slot(namespace, name) {
        Some(slot) => table.at(slot, table.port_slot(slot, &PortName::Number(port))?),
        None if is_cluster_name => Err(Miss::NoService {
            name: format!("{namespace}/{name}"),
        }),
        None => Err(Miss::NotAService {
            host: host.into_owned(),
        }),
    }
}

/// Service, namespace, and whether the name can be nothing but a Service's.
fn split<'a>(host: &'a str, caller_namespace: &'a str) -> (&'a str, &'a str, bool) {
    let in_cluster = [
        ".svc",
        CLUSTER_DOMAIN.strip_prefix("svc").unwrap_or_default(),
    ];
    let full = host
        .strip_suffix(in_cluster[1])
        .and_then(|h| h.strip_suffix(in_cluster[0]));
    let short = full.or_else(|| host.strip_suffix(in_cluster[0]));
    let rest = short.unwrap_or(host);
    match rest.split_once('.') {
        Some((name, namespace)) => (name, namespace, short.is_some()),
        None => (rest, caller_namespace, short.is_some()),
    }
}

fn by_address(table: &Table, ip: IpAddr, port: u16) -> Result<Match<'_>, Miss> {
    match table.addressee(ip) {
        Some(Addressee::Service(slot)) => {
            table.at(*slot, table.port_slot(*slot, &PortName::Number(port))?)
        }
        Some(Addressee::Pod(endpoints)) => Ok(Match {
            service_slot: None,
            service: None,
            endpoints,
            port,
        }),
        None if is_ours(ip) => Err(Miss::NoAddress {
            address: ip.to_string(),
        }),
        None => Err(Miss::NotAService {
            host: ip.to_string(),
        }),
    }
}

/// Whether an address is virtual, so that trying it outside would reach a stranger.
fn is_ours(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => [POD_RANGE, SERVICE_RANGE]
            .iter()
            .any(|range| v4.octets().starts_with(range)),
        IpAddr::V6(_) => false,
    }
}
