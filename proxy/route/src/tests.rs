//! Routing told as a user sees it: objects in, destinations out.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::*;

fn sources(objects: &[(&str, Value)]) -> Sources {
    let mut s = Sources::new("n1");
    s.set_node_address("n2", "127.0.0.1:10250".parse().unwrap());
    for (plural, object) in objects {
        s.put(plural, object).unwrap_or_else(|e| panic!("{e}"));
    }
    s
}

fn service(name: &str, ip: &str, ports: Value) -> (&'static str, Value) {
    (
        "services",
        json!({"metadata": {"namespace": "default", "name": name}, "spec": {"clusterIP": ip, "ports": ports}}),
    )
}

fn endpoint(pod: &str, node: &str, ip: &str, conditions: Value) -> Value {
    json!({"addresses": [ip], "nodeName": node, "conditions": conditions,
        "targetRef": {"kind": "Pod", "name": pod, "uid": format!("uid-{pod}")}})
}

fn slice(service: &str, ports: Value, endpoints: Value) -> (&'static str, Value) {
    (
        "endpointslices",
        json!({
        "metadata": {"namespace": "default", "name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints}),
    )
}

fn app(name: &str, ip: &str, pod_ip: &str) -> Vec<(&'static str, Value)> {
    vec![
        service(name, ip, json!([{"name": "http", "port": 80}])),
        slice(
            name,
            json!([{"name": "http", "port": 8080}]),
            json!([endpoint(
                &format!("{name}-0"),
                "n1",
                pod_ip,
                json!({"ready": true})
            )]),
        ),
    ]
}

fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let paths: Vec<Value> = paths
        .iter()
        .map(|(path, kind, service)| {
            json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"number": 80}}}})
        })
        .collect();
    if host.is_empty() {
        json!({"http": {"paths": paths}})
    } else {
        json!({"host": host, "http": {"paths": paths}})
    }
}

fn ingress(name: &str, created: &str, rules: Value) -> (&'static str, Value) {
    (
        "ingresses",
        json!({"metadata": {"namespace": "default", "name": name, "creationTimestamp": created}, "spec": {"rules": rules}}),
    )
}

/// The Service a request reaches, or the code of the miss.
fn go(table: &Table, host: &str, path: &str) -> String {
    let normal = normalise(path).unwrap();
    match find(
        table,
        &Parts {
            host,
            path: &normal.matching,
            method: "GET",
        },
    ) {
        Ok(found) => found.service.unwrap().key.name.clone(),
        Err(miss) => miss.code().to_string(),
    }
}

fn inside(table: &Table, authority: &str, namespace: &str) -> String {
    match find_service(table, authority, namespace, 80) {
        Ok(found) => {
            let e = &found.endpoints.all()[found.endpoints.usable()[0] as usize];
            format!("{}:{}", e.pod_name, found.port_of(e))
        }
        Err(miss) => miss.code().to_string(),
    }
}

#[test]
fn hosts_and_paths_are_matched_in_the_order_of_kubernetes() {
    let mut all = Vec::new();
    for (i, name) in ["a", "b", "c", "d", "root", "wild", "any"]
        .iter()
        .enumerate()
    {
        all.extend(app(
            name,
            &format!("10.43.0.{}", i + 1),
            &format!("10.42.0.{}", i + 1),
        ));
    }
    all.push(ingress(
        "one",
        "2026-01-01T00:00:00Z",
        json!([
            rule(
                "x.test",
                &[
                    ("/", "Prefix", "root"),
                    ("/foo", "Prefix", "a"),
                    ("/foo/bar", "Prefix", "b"),
                    ("/foo", "Exact", "c"),
                    ("/only", "Exact", "d")
                ]
            ),
            rule("*.test", &[("/", "Prefix", "wild")]),
            rule("", &[("/any", "ImplementationSpecific", "any")]),
        ]),
    ));
    // A younger ingress does not take a path away.
    all.push(ingress(
        "two",
        "2026-02-01T00:00:00Z",
        json!([rule(
            "x.test",
            &[("/foo", "Exact", "d"), ("/new", "Prefix", "d")]
        )]),
    ));
    let table = Table::build(&sources(&all));
    for (host, path, want) in [
        ("x.test", "/", "root"),
        ("x.test", "/foo", "c"),
        ("x.test", "/foo/", "a"),
        ("x.test", "/foo/x", "a"),
        ("x.test", "/foobar", "root"),
        ("x.test", "/foo/bar", "b"),
        ("x.test", "/foo/bar/", "b"),
        ("x.test", "/foo/bar/deep/er", "b"),
        ("x.test", "/foo/barn", "a"),
        ("x.test", "/foo//bar", "b"),
        ("x.test", "/foo/./bar/../baz", "a"),
        ("x.test", "/f%6fo", "c"),
        ("x.test", "/only", "d"),
        ("x.test", "/only/", "root"),
        ("x.test", "/new/1", "d"),
        ("X.TEST:8080", "/foo", "c"),
        ("x.test.", "/foo", "c"),
        ("y.test", "/foo", "wild"),
        ("a.y.test", "/foo", "no_route"),
        ("test", "/foo", "no_route"),
        ("z.other", "/any/1", "any"),
        ("z.other", "/anything", "no_route"),
        ("", "/", "no_route"),
    ] {
        assert_eq!(go(&table, host, path), want, "{host} {path}");
    }
}

#[test]
fn default_backends_take_what_is_left() {
    let mut all = app("a", "10.43.0.1", "10.42.0.1");
    all.extend(app("b", "10.43.0.2", "10.42.0.2"));
    all.push((
        "ingresses",
        json!({"metadata": {"namespace": "default", "name": "d"}, "spec": {
            "defaultBackend": {"service": {"name": "b", "port": {"name": "http"}}},
            "rules": [rule("x.test", &[("/a", "Prefix", "a")])]}}),
    ));
    let table = Table::build(&sources(&all));
    assert_eq!(go(&table, "x.test", "/a"), "a");
    assert_eq!(go(&table, "x.test", "/z"), "b");
    assert_eq!(go(&table, "elsewhere", "/"), "b");
}

#[test]
fn misses_say_what_is_missing_and_how_to_look() {
    let mut all = app("a", "10.43.0.1", "10.42.0.1");
    all.push(service("empty", "10.43.0.9", json!([{"port": 80}])));
    all.push((
        "services",
        json!({"metadata": {"namespace": "default", "name": "ext"}, "spec": {"type": "ExternalName", "externalName": "db.example.com", "ports": [{"port": 80}]}}),
    ));
    all.push(ingress(
        "i",
        "",
        json!([
            rule("gone.test", &[("/", "Prefix", "gone")]),
            rule("empty.test", &[("/", "Prefix", "empty")]),
            rule("ext.test", &[("/", "Prefix", "ext")]),
            {"host": "port.test", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "a", "port": {"number": 81}}}}]}},
            {"host": "res.test", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"resource": {"kind": "Bucket", "name": "x"}}}]}},
        ]),
    ));
    let table = Table::build(&sources(&all));
    let miss = |host| {
        find(
            &table,
            &Parts {
                host,
                path: b"/",
                method: "GET",
            },
        )
        .unwrap_err()
    };
    for (host, status, code, words) in [
        (
            "gone.test",
            503,
            "no_service",
            "\"default/gone\" does not exist",
        ),
        (
            "empty.test",
            503,
            "no_endpoints",
            "\"default/empty\" has no ready endpoints",
        ),
        ("ext.test", 502, "external_name", "db.example.com"),
        (
            "port.test",
            503,
            "no_port",
            "has no port 81; it has http:80",
        ),
        ("res.test", 502, "bad_backend", "default/i"),
        ("none.test", 404, "no_route", "none.test"),
    ] {
        let m = miss(host);
        assert_eq!((m.status(), m.code()), (status, code), "{host}");
        assert!(m.to_string().contains(words), "{m}");
        assert!(!m.fix().is_empty());
    }
    assert_eq!(
        miss("empty.test").fix(),
        "kubectl get endpointslices -n default -l kubernetes.io/service-name=empty"
    );
}

#[test]
fn names_and_addresses_inside_the_cluster_resolve() {
    let mut all = app("web", "10.43.0.1", "10.42.0.1");
    all.push(("services", json!({"metadata": {"namespace": "other", "name": "api"}, "spec": {"clusterIP": "10.43.0.2", "ports": [{"port": 9000}]}})));
    all.push(("endpointslices", json!({"metadata": {"namespace": "other", "name": "api-1", "labels": {"kubernetes.io/service-name": "api"}},
        "ports": [{"port": 1234}], "endpoints": [endpoint("api-0", "n2", "10.42.0.2", json!({}))]})));
    let table = Table::build(&sources(&all));
    for (authority, namespace, want) in [
        ("web", "default", "web-0:8080"),
        ("web:80", "default", "web-0:8080"),
        ("WEB", "default", "web-0:8080"),
        ("web", "other", "not_a_service"),
        ("web.default", "other", "web-0:8080"),
        ("web.default.svc", "other", "web-0:8080"),
        ("web.default.svc.cluster.local", "other", "web-0:8080"),
        ("web.default.svc.cluster.local.:80", "other", "web-0:8080"),
        ("api.other:9000", "default", "api-0:1234"),
        ("api.other", "default", "no_port"),
        ("10.43.0.1", "default", "web-0:8080"),
        ("10.43.0.2:9000", "default", "api-0:1234"),
        ("10.42.0.2:5555", "default", "api-0:5555"),
        ("10.42.0.1", "x", "web-0:80"),
        ("10.43.9.9", "default", "no_address"),
        ("10.42.9.9", "default", "no_address"),
        ("93.184.216.34", "default", "not_a_service"),
        ("[::1]:80", "default", "not_a_service"),
        ("example.com", "default", "not_a_service"),
        ("nope.default.svc", "default", "no_service"),
        ("nope.svc.cluster.local", "default", "no_service"),
        ("user@web", "default", "bad_authority"),
        ("web:0", "default", "bad_authority"),
        ("web:x", "default", "bad_authority"),
        ("", "default", "bad_authority"),
    ] {
        assert_eq!(
            inside(&table, authority, namespace),
            want,
            "{authority} from {namespace}"
        );
    }
}

#[test]
fn terminating_replicas_serve_only_when_no_other_is_ready() {
    let ready = endpoint("r", "n2", "10.42.0.1", json!({"ready": true}));
    let leaving = endpoint(
        "l",
        "n1",
        "10.42.0.2",
        json!({"ready": false, "serving": true, "terminating": true}),
    );
    let starting = endpoint("s", "n1", "10.42.0.3", json!({"ready": false}));
    let gone = endpoint(
        "g",
        "n1",
        "10.42.0.4",
        json!({"ready": false, "serving": false, "terminating": true}),
    );
    let usable = |endpoints: Value| -> Vec<String> {
        let all = [
            service("w", "10.43.0.1", json!([{"port": 80}])),
            slice("w", json!([{"port": 1}]), endpoints),
        ];
        let table = Table::build(&sources(&all));
        match find_service(&table, "w", "default", 80) {
            Ok(m) => m
                .endpoints
                .usable()
                .iter()
                .map(|&i| m.endpoints.all()[i as usize].pod_name.to_string())
                .collect(),
            Err(e) => vec![e.code().to_string()],
        }
    };
    assert_eq!(usable(json!([ready, leaving, starting, gone])), ["r"]);
    assert_eq!(usable(json!([leaving, starting, gone])), ["l"]);
    assert_eq!(usable(json!([starting, gone])), ["no_endpoints"]);
}

#[test]
fn endpoints_outside_the_cluster_have_their_own_slots() {
    let all = [
        service(
            "ext",
            "10.43.0.1",
            json!([{"name": "http", "port": 80}, {"name": "alt", "port": 81}]),
        ),
        slice(
            "ext",
            json!([{"name": "http", "port": 8080}, {"name": "alt", "port": 8081}]),
            json!([{"addresses": ["192.0.2.1"]}]),
        ),
    ];
    let table = Table::build(&sources(&all));
    let slot = |authority| {
        let m = find_service(&table, authority, "default", 80).unwrap();
        let e = &m.endpoints.all()[0];
        assert!(e.is_external() && !e.local);
        e.slot
    };
    assert_ne!(slot("ext"), slot("ext:81"));
    assert_eq!(table.pods().len(), 2);
}

#[test]
fn a_bad_object_is_refused_and_the_old_one_stays() {
    let mut s = sources(&app("a", "10.43.0.1", "10.42.0.1"));
    let bad = json!({"metadata": {"namespace": "default", "name": "a"}, "spec": {"ports": [{"port": 70000}]}});
    assert_eq!(
        s.put("services", &bad).unwrap_err().field,
        "spec.ports.port"
    );
    assert_eq!(inside(&Table::build(&s), "a", "default"), "a-0:8080");
    s.remove("services", &coracle_api::Key::new("default", "a"));
    assert_eq!(inside(&Table::build(&s), "a", "default"), "not_a_service");
}

fn many(local: usize, remote: usize) -> Endpoints {
    let endpoint = |i: usize, local: bool| Endpoint {
        pod_uid: format!("{i:03}").into(),
        pod_name: format!("p{i}").into(),
        node: if local { "n1".into() } else { "n2".into() },
        node_addr: None,
        ip: std::net::Ipv4Addr::new(10, 42, 0, i as u8).into(),
        port: 80,
        ready: true,
        serving: true,
        terminating: false,
        local,
        slot: i,
    };
    Endpoints::new(
        (0..local + remote)
            .map(|i| endpoint(i, i < local))
            .collect(),
    )
}

struct Fake<'a>(&'a [u32], &'a BTreeSet<usize>);

impl Load for Fake<'_> {
    fn in_flight(&self, e: &Endpoint) -> u32 {
        self.0[e.slot]
    }
    fn ejected(&self, e: &Endpoint) -> bool {
        self.1.contains(&e.slot)
    }
}

proptest! {
    #[test]
    fn a_pick_is_usable_repeatable_and_avoids_the_refused_and_the_ejected(
        (local, remote) in (0usize..6, 0usize..6),
        loads in prop::collection::vec(0u32..50, 12),
        ejected in prop::collection::btree_set(0usize..12, 0..12),
        seed in any::<u64>(),
        refused in prop::option::of(0usize..12),
    ) {
        let endpoints = many(local, remote);
        let load = Fake(&loads, &ejected);
        let picked = pick_except(&endpoints, &load, seed, refused);
        prop_assert_eq!(picked, pick_except(&endpoints, &load, seed, refused));
        prop_assert_eq!(picked.is_none(), local + remote == 0);
        if let Some(index) = picked {
            let slot = endpoints.get(index).unwrap().slot;
            if local + remote > 1 {
                prop_assert_ne!(Some(slot), refused);
            }
            let healthy = |slots: std::ops::Range<usize>| slots.clone().filter(|s| !ejected.contains(s) && Some(*s) != refused).count();
            // With a healthy majority on either side nobody ejected is chosen.
            let majority = |slots: std::ops::Range<usize>| {
                let out = slots.clone().filter(|s| ejected.contains(s)).count();
                healthy(slots.clone()) > 0 && out * 2 <= slots.len()
            };
            if majority(0..local) && (remote == 0 || majority(local..local + remote)) {
                prop_assert!(!ejected.contains(&slot));
            }
        }
    }

    #[test]
    fn the_longest_queue_is_never_chosen_among_two(a in 0u32..100, b in 0u32..100, seed in any::<u64>()) {
        let endpoints = many(2, 0);
        let index = pick(&endpoints, &|e: &Endpoint| if e.slot == 0 { a } else { b }, seed).unwrap();
        let chosen = if endpoints.get(index).unwrap().slot == 0 { a } else { b };
        prop_assert_eq!(chosen, a.min(b));
    }

    #[test]
    fn a_replica_on_this_node_is_preferred_until_its_queue_is_longer(near in 0u32..100, far in 0u32..100, seed in any::<u64>()) {
        let endpoints = many(1, 1);
        let index = pick(&endpoints, &|e: &Endpoint| if e.local { near } else { far }, seed).unwrap();
        prop_assert_eq!(endpoints.get(index).unwrap().local, near <= far + pick::LOCAL_BIAS);
    }

    #[test]
    fn find_never_panics_and_prefix_rules_respect_elements(
        prefix in "(/[a-c]{1,2}){1,3}/?",
        path in "(/[a-c]{0,3}){1,5}",
        host in "[a-zA-Z.:0-9\\[\\]]{0,12}",
    ) {
        let mut all = app("a", "10.43.0.1", "10.42.0.1");
        all.push(ingress("i", "", json!([rule("x.test", &[(&prefix, "Prefix", "a")])])));
        let table = Table::build(&sources(&all));
        let normal = normalise(&path).unwrap().matching.into_owned();
        let elements = |p: &str| p.split('/').filter(|e| !e.is_empty()).map(str::to_string).collect::<Vec<_>>();
        let want = elements(&path).starts_with(&elements(&prefix));
        let found = find(&table, &Parts { host: "x.test", path: &normal, method: "GET" }).is_ok();
        prop_assert_eq!(found, want);
        let _ = find(&table, &Parts { host: &host, path: &normal, method: "GET" });
        let _ = find_service(&table, &host, "default", 80);
    }
}

#[test]
fn two_choices_spread_requests_evenly() {
    let endpoints = many(8, 0);
    let mut load = [0u32; 8];
    for seed in 0..8_000 {
        let index = pick(&endpoints, &|e: &Endpoint| load[e.slot], seed).unwrap();
        load[endpoints.get(index).unwrap().slot] += 1;
    }
    assert!(load.iter().all(|n| (980..=1020).contains(n)), "{load:?}");
}
