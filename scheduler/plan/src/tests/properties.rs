//! Properties over many seeded histories: whatever the sizes, the bounds and the order in which pods become ready, a
//! rollout stays between its bounds, no node is over capacity, and the cluster comes to rest.

use coracle_api::{Ids, Key};
use serde_json::json;

use super::Cluster;
use crate::pods;

/// Histories tried; each takes a few milliseconds.
const HISTORIES: u64 = 30;

#[test]
fn a_rollout_stays_between_its_bounds() {
    for seed in 0..HISTORIES {
        let mut ids = Ids::new(seed);
        let mut draw = |n: u64| (ids.next_u64() % n) as i64;
        let (replicas, surge) = (draw(8) + 1, draw(4));
        // A replica that settles slowly must not be counted on early.
        let unavailable = if surge == 0 { draw(3) + 1 } else { draw(4) }.min(replicas);
        let mut c = Cluster::new();
        c.play("node n1 cpu=3\nnode n2 cpu=4\nnode n3 cpu=9\nservice web");
        c.play(&format!(
            "deploy web replicas={replicas} surge={surge} unavailable={unavailable} cpu=100m\nrun"
        ));
        for round in 0..3 {
            c.play(&format!("deploy web image=r{round}"));
            for step in 0..400 {
                let planned = c.plan();
                let all = active(&c);
                let ready = all.iter().filter(|(_, ready)| *ready).count() as i64;
                assert!(
                    ready >= replicas - unavailable,
                    "seed {seed} round {round} step {step}: {ready} of {replicas} ready, at most {unavailable} may be missing"
                );
                assert!(
                    all.len() as i64 <= replicas + surge,
                    "seed {seed}: {} pods for {replicas}+{surge}",
                    all.len()
                );
                // One node at a time acts, and rarely: the rollout has to live with any order.
                let acted = if draw(3) == 0 { c.nodes() } else { false };
                if planned.is_empty()
                    && !acted
                    && !c.queue.busy()
                    && draw(6) == 0
                    && !c.nodes()
                    && c.plan().is_empty()
                {
                    break;
                }
            }
            c.run();
            let images: Vec<String> = active(&c).into_iter().map(|(image, _)| image).collect();
            assert_eq!(
                images,
                vec![format!("r{round}"); replicas as usize],
                "seed {seed}"
            );
        }
    }
}

fn active(c: &Cluster) -> Vec<(String, bool)> {
    let view = c.view();
    let all = view.list("pods", None).filter(|p| pods::active(p));
    all.map(|p| p.value())
        .map(|v| {
            (
                v["spec"]["containers"][0]["image"]
                    .as_str()
                    .unwrap()
                    .to_string(),
                pods::ready(&v),
            )
        })
        .collect()
}

#[test]
fn nodes_are_never_over_capacity_and_nothing_that_fits_waits() {
    for seed in 0..HISTORIES {
        let mut ids = Ids::new(seed);
        let mut draw = |n: u64| ids.next_u64() % n;
        let mut c = Cluster::new();
        for n in 0..1 + draw(6) {
            c.play(&format!(
                "node n{n} cpu={}m pods={}",
                500 + draw(4000),
                1 + draw(12)
            ));
        }
        for p in 0..draw(40) {
            c.play(&format!("pod p{p} cpu={}m", draw(1200)));
        }
        c.run();
        for _ in 0..draw(10) {
            let victim = c
                .view()
                .list("pods", None)
                .nth(draw(20) as usize)
                .map(|p| p.key.clone());
            if let Some(key) = victim {
                c.delete("po", &key, None);
            }
        }
        c.run();
        // The invariants were checked after each plan; what waits must really not fit.
        let view = c.view();
        for pod in view
            .list("pods", None)
            .filter(|p| p.attrs.node_name.is_empty())
        {
            let needs = coracle_api::attrs::pod_amounts(&pod.value());
            for node in view.list("nodes", None) {
                let (room, used) = (node.attrs.allocatable.unwrap(), view.used(&node.key.name));
                let fits =
                    used.cpu_millis + needs.cpu_millis <= room.cpu_millis && used.pods < room.pods;
                assert!(
                    !fits,
                    "seed {seed}: {} waits but fits on {}",
                    pod.key, node.key
                );
            }
        }
    }
}

#[test]
fn whatever_is_done_twice_is_done_once() {
    let mut c = Cluster::new();
    c.play("node n1\nnode n2\nservice web\ndeploy web replicas=5\nrc other replicas=2\nnamespace team\nrun");
    c.put("ing", json!({"metadata": {"name": "web"}, "spec": {}}));
    c.run();
    c.queue = crate::Queue::default();
    assert_eq!(
        c.plan(),
        Vec::<String>::new(),
        "a resync of a cluster at rest plans nothing"
    );
    assert!(
        c.view()
            .get("deployments.apps", &Key::new("default", "web"))
            .is_some()
    );
}
