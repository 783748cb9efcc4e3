//! Addresses and node ports of Services, and addresses of pods bound through the API: chosen from the view, claimed in
//! the same command. If the claim is refused because somebody was faster, the writer looks at a newer view and chooses
//! again; apply is the only judge, so there is no allocator state to repair.

use std::net::Ipv4Addr;

use coracle_api::error::Cause;
use coracle_api::{ApiError, meta};
use coracle_state::View;
use serde_json::{Value, json};

use crate::context::Context;

/// Node ports, Kubernetes' default range.
pub const NODE_PORTS: std::ops::RangeInclusive<u64> = 30_000..=32_767;
/// Addresses at the start of the service range that are given only when asked for by name (Kubernetes' static band).
const STATIC_BAND: u32 = 256;

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub base: Ipv4Addr,
    /// Prefix length in bits, at most 30.
    pub prefix: u8,
}

impl Range {
    /// The default service range 10.43.0.0/16.
    pub const SERVICES: Self = Self {
        base: Ipv4Addr::new(10, 43, 0, 0),
        prefix: 16,
    };
    /// The default pod range 10.42.0.0/16.
    pub const PODS: Self = Self {
        base: Ipv4Addr::new(10, 42, 0, 0),
        prefix: 16,
    };

    fn size(&self) -> u32 {
        1u32.checked_shl(32 - u32::from(self.prefix.clamp(1, 30)))
            .unwrap_or(u32::MAX)
    }

    /// Whether a host address of the range.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        let offset = u32::from(ip).wrapping_sub(u32::from(self.base));
        offset > 0 && offset < self.size() - 1
    }

    /// A free address of a space, searched from a drawn place on so that writers at the same time seldom meet.
    pub fn pick(&self, view: &View, space: &str, reserved: u32, draw: u64) -> Option<String> {
        let low = if self.size() > reserved.saturating_mul(2) + 2 {
            reserved.max(1)
        } else {
            1
        };
        let count = self.size() - 1 - low;
        let start = (draw % u64::from(count)) as u32;
        (0..count)
            .map(|i| Ipv4Addr::from(u32::from(self.base) + low + (start + i) % count).to_string())
            .find(|ip| view.free(space, ip))
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// Whether a spec names this value itself, so that choosing another one is no option.
pub fn explicit(spec: &Value, space: &str, value: &str) -> bool {
    match space {
        "clusterIP" => spec["clusterIP"] == value,
        "nodePort" => {
            ports(spec).any(|p| p["nodePort"].as_u64().is_some_and(|n| value == claim(p, n)))
        }
        _ => false,
    }
}

fn ports(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["ports"].as_array().into_iter().flatten()
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

fn claim(port: &Value, number: u64) -> String {
    format!("{}/{number}", protocol(port))
}

/// Completes a Service: what is missing is kept from the live one or chosen; what is impossible is a 422.
pub fn allocate(
    ctx: &Context,
    view: &View,
    live: Option<&Value>,
    service: &mut Value,
) -> Result<(), ApiError> {
    let name = meta::name(service).to_string();
    let invalid = |field: String, message: String| {
        ApiError::invalid(
            "Service",
            "",
            &name,
            vec![Cause {
                field,
                reason: "FieldValueInvalid".into(),
                message: format!("Invalid value: {message}"),
            }],
        )
    };
    let old = live.map(|l| &l["spec"]);
    let Some(spec) = service["spec"].as_object_mut() else {
        return Ok(());
    };
    let kind = spec
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or("ClusterIP")
        .to_string();
    if kind == "ExternalName" {
        // An address kept from an earlier type is given back.
        if old.is_some_and(|o| o["type"] != "ExternalName") {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
        }
        drop_node_ports(&mut service["spec"], old);
        return Ok(());
    }
    let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or_default().to_string();
    let had = old
        .filter(|o| o["type"] != "ExternalName")
        .map(|o| text(o.get("clusterIP")))
        .unwrap_or_default();
    let listed = spec
        .get("clusterIPs")
        .and_then(|l| l.as_array())
        .and_then(|l| l.first())
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_string();
    let given = Some(text(spec.get("clusterIP")))
        .filter(|g| !g.is_empty())
        .unwrap_or(listed);
    let ip = match (given.as_str(), had.as_str()) {
        ("", "") => ctx.config.service_range.pick(view, "clusterIP", STATIC_BAND, ctx.ids(|ids| ids.next_u64())).ok_or_else(|| {
            ApiError::new(500, "InternalError", format!("E_SERVICE_RANGE_FULL: no free address is left in {}; delete Services or make them headless", ctx.config.service_range))
        })?,
        ("", had) => had.to_string(),
        (given, had) if !had.is_empty() && given != had => {
            return Err(invalid("spec.clusterIPs[0]".into(), format!("{given:?}: may not change once set")));
        }
        ("None", _) => "None".into(),
        (given, had) => {
            let fits = given.parse().is_ok_and(|ip| ctx.config.service_range.contains(ip));
            if !fits && had.is_empty() {
                return Err(invalid("spec.clusterIPs".into(), format!("{given:?}: the provided IP is not in the valid range {}", ctx.config.service_range)));
            }
            given.to_string()
        }
    };
    spec.insert("clusterIP".into(), json!(ip));
    spec.insert("clusterIPs".into(), json!([ip]));
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy")
        .or_insert_with(|| json!("SingleStack"));
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        node_ports(ctx, view, old, &mut service["spec"])
            .map_err(|(field, message)| invalid(field, message))
    } else {
        drop_node_ports(&mut service["spec"], old);
        Ok(())
    }
}

/// A node port kept from an earlier type is given back; one that the client sets by hand is validation's business.
fn drop_node_ports(spec: &mut Value, old: Option<&Value>) {
    let Some(old) = old.filter(|o| matches!(o["type"].as_str(), Some("NodePort" | "LoadBalancer")))
    else {
        return;
    };
    let kept: Vec<u64> = ports(old).filter_map(|p| p["nodePort"].as_u64()).collect();
    for port in spec["ports"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        if port
            .get("nodePort")
            .and_then(Value::as_u64)
            .is_some_and(|n| kept.contains(&n))
        {
            port.remove("nodePort");
        }
    }
}

fn node_ports(
    ctx: &Context,
    view: &View,
    old: Option<&Value>,
    spec: &mut Value,
) -> Result<(), (String, String)> {
    let mut chosen: Vec<String> = ports(spec)
        .filter_map(|p| Some(claim(p, p["nodePort"].as_u64().filter(|n| *n > 0)?)))
        .collect();
    for (i, port) in spec["ports"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let field = || format!("spec.ports[{i}].nodePort");
        let before = old
            .into_iter()
            .flat_map(ports)
            .find(|o| o["port"] == port["port"] && protocol(o) == protocol(port))
            .and_then(|o| o["nodePort"].as_u64());
        let number = match (port["nodePort"].as_u64().filter(|n| *n > 0), before) {
            (Some(n), before) if !NODE_PORTS.contains(&n) && before != Some(n) => {
                return Err((
                    field(),
                    format!(
                        "{n}: provided port is not in the valid range. The range of valid ports is 30000-32767"
                    ),
                ));
            }
            (Some(n), _) => n,
            (None, Some(n)) => n,
            (None, None) => {
                let (low, count) = (
                    *NODE_PORTS.start(),
                    NODE_PORTS.end() - NODE_PORTS.start() + 1,
                );
                let start = ctx.ids(|ids| ids.next_u64()) % count;
                let free = |n: &u64| {
                    !chosen.contains(&claim(port, *n)) && view.free("nodePort", &claim(port, *n))
                };
                let found = (0..count).map(|k| low + (start + k) % count).find(free);
                found.ok_or_else(|| (field(), "E_NODE_PORTS_FULL: no free node port is left in 30000-32767; delete Services of type NodePort".into()))?
            }
        };
        chosen.push(claim(port, number));
        port["nodePort"] = json!(number);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_range_is_used_up_exactly() {
        let range = Range {
            base: Ipv4Addr::new(10, 0, 0, 0),
            prefix: 30,
        };
        let mut view = View::default();
        for _ in 0..2 {
            let ip = range.pick(&view, "clusterIP", STATIC_BAND, 7).unwrap();
            assert!(range.contains(ip.parse().unwrap()), "{ip}");
            view.held.insert(
                ("clusterIP".into(), ip),
                ("services".into(), coracle_state::Key::new("a", "b")),
            );
        }
        assert_eq!(range.pick(&view, "clusterIP", STATIC_BAND, 7), None);
    }
}
