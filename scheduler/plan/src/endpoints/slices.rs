//! Distributing endpoints over slices: an endpoint stays in the slice it is in, so that a change touches few.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::{Key, kinds, meta};
use coracle_state::Obj;
use serde_json::{Value, json};

use super::{
    Endpoint, MANAGED_BY, MANAGER, PER_SLICE_MAX, SLICES, of_service, owner, ports, target,
};
use crate::writer::{Plan, prefix, suffix};

pub(super) fn write(plan: &mut Plan, obj: &Arc<Obj>, service: &Value, endpoints: &[Endpoint]) {
    let key = obj.key.clone();
    let existing: Vec<(Arc<Obj>, Value)> = of_service(plan, &key)
        .filter(|s| {
            s.attrs.labels.get(MANAGED_BY).is_some_and(|m| m == MANAGER) && !s.attrs.deleting
        })
        .map(|s| (s.clone(), s.value()))
        .collect();
    // Pods may resolve a named port differently; a slice holds one set of ports.
    let mut groups: BTreeMap<String, (Value, Vec<&Endpoint>)> = BTreeMap::new();
    for e in endpoints {
        groups
            .entry(e.ports.to_string())
            .or_insert_with(|| (e.ports.clone(), Vec::new()))
            .1
            .push(e);
    }
    if groups.is_empty() {
        // An empty slice says "nobody there", which is not the same as "not looked at yet".
        let ports = ports(service, &Value::Null);
        groups.insert(ports.to_string(), (ports, Vec::new()));
    }
    let mut names: BTreeSet<String> = plan
        .view
        .list(SLICES, Some(&key.namespace))
        .map(|s| s.key.name.clone())
        .collect();
    let mut kept = BTreeSet::new();
    for (ports, members) in groups.values() {
        let mine: Vec<_> = existing
            .iter()
            .filter(|(_, v)| v["ports"] == *ports && !kept.contains(meta::name(v)))
            .collect();
        let mut filled = assign(&mine, members);
        // Keep one slice even if it is empty, and no other empty ones.
        let full = filled.iter().filter(|(_, f)| !f.is_empty()).count();
        filled.retain({
            let mut spare = usize::from(full == 0);
            move |(_, f)| !f.is_empty() || std::mem::take(&mut spare) == 1
        });
        if filled.is_empty() {
            filled.push((None, Vec::new()));
        }
        for (slot, members) in filled {
            match slot {
                Some(at) => {
                    kept.insert(mine[at].0.key.name.clone());
                    put(
                        plan,
                        service,
                        Some(&mine[at].0),
                        &mine[at].0.key.clone(),
                        ports,
                        &members,
                    );
                }
                None => {
                    let name = name(&key, &obj.attrs.uid, &names);
                    names.insert(name.clone());
                    put(
                        plan,
                        service,
                        None,
                        &Key::new(&key.namespace, name),
                        ports,
                        &members,
                    );
                }
            }
        }
    }
    for (slice, _) in existing.iter().filter(|(s, _)| !kept.contains(&s.key.name)) {
        plan.remove(SLICES, slice);
    }
}

/// Puts each endpoint into the slice that has it, the rest where there is room, then into new slices (`None`).
fn assign<'e>(
    slices: &[&(Arc<Obj>, Value)],
    members: &[&'e Endpoint],
) -> Vec<(Option<usize>, Vec<&'e Endpoint>)> {
    let mut at: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, (_, value)) in slices.iter().enumerate() {
        for uid in value["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|e| e["targetRef"]["uid"].as_str())
        {
            at.entry(uid).or_insert(i);
        }
    }
    let mut filled: Vec<(Option<usize>, Vec<&Endpoint>)> =
        (0..slices.len()).map(|i| (Some(i), Vec::new())).collect();
    let mut rest = Vec::new();
    for e in members {
        match at.get(e.uid.as_str()) {
            Some(i) if filled[*i].1.len() < PER_SLICE_MAX => filled[*i].1.push(*e),
            _ => rest.push(*e),
        }
    }
    for e in rest {
        // The fullest slice with room first: others may run empty and go.
        let room = filled
            .iter_mut()
            .filter(|(_, f)| f.len() < PER_SLICE_MAX)
            .max_by_key(|(_, f)| f.len());
        match room {
            Some((_, f)) => f.push(e),
            None => filled.push((None, vec![e])),
        }
    }
    for (_, f) in &mut filled {
        f.sort_by(|a, b| a.pod.cmp(&b.pod));
    }
    filled
}

/// A name that follows from the Service, so that two leaders cannot make two slices for one purpose.
fn name(service: &Key, uid: &str, taken: &BTreeSet<String>) -> String {
    let base = prefix(&service.name, 57);
    let mut n = 0u64;
    loop {
        let name = format!("{base}-{}", suffix(&[uid, &n.to_string()], 5));
        if !taken.contains(&name) {
            return name;
        }
        n += 1;
    }
}

fn put(
    plan: &mut Plan,
    service: &Value,
    old: Option<&Arc<Obj>>,
    key: &Key,
    ports: &Value,
    members: &[&Endpoint],
) {
    let Some(kind) = kinds::by_table(SLICES) else {
        return;
    };
    let list: Vec<Value> = members
        .iter()
        .map(|e| {
            json!({"addresses": [e.address], "nodeName": e.node, "targetRef": target(e),
                "conditions": {"ready": e.ready, "serving": e.serving, "terminating": e.terminating}})
        })
        .collect();
    let mut labels = json!(meta::labels(service));
    labels["kubernetes.io/service-name"] = json!(meta::name(service));
    labels[MANAGED_BY] = json!(MANAGER);
    if service["spec"]["clusterIP"] == "None" {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    let fill = |slice: &mut Value| {
        slice["addressType"] = json!("IPv4");
        slice["endpoints"] = json!(list);
        slice["ports"] = ports.clone();
        slice["metadata"]["labels"] = labels.clone();
        slice["metadata"]["ownerReferences"] = json!([owner(service)]);
    };
    match old {
        None => {
            let generate = format!("{}-", meta::name(service));
            let mut slice = json!({"metadata": {"name": key.name, "namespace": key.namespace, "generateName": generate, "generation": 1}});
            fill(&mut slice);
            plan.create(kind, slice);
        }
        Some(old) => {
            let before = old.value();
            let mut slice = before.clone();
            fill(&mut slice);
            if slice["endpoints"] != before["endpoints"] || slice["ports"] != before["ports"] {
                meta::metadata(&mut slice)
                    .insert("generation".into(), json!(meta::generation(&before) + 1));
            }
            plan.update(SLICES, old, slice, "endpoints");
        }
    }
}
