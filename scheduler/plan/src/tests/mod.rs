//! Scripts in a user's words against a small cluster: one member, whose nodes do what they are told at once.
//! What crosses crates, fails or races is the simulator's business (`tests/sim`).

use coracle_api::{Ids, Key, Timestamp, canonical, claims, defaults, kinds, meta};
use coracle_state::{Batch, Command, Expect, State, View};
use serde_json::{Value, json};

use crate::writer::later;
use crate::{
    Input, Queue, Settings, Task, Volatile, bootstrap, check as invariants, explain, pods,
    reconcile, tasks_after_ack,
};

mod deployments;
mod garbage;
mod leaving;
mod nodes;
mod places;
mod properties;
mod services;

/// Runs a script and compares what it says.
#[track_caller]
pub(crate) fn check(script: &str, expect: &str) {
    let clean = |t: &str| {
        t.lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(clean(&Cluster::new().play(script)), clean(expect));
}

/// A cluster with one member.
pub(crate) struct Cluster {
    pub state: State,
    pub volatile: Volatile,
    pub settings: Settings,
    pub now: Timestamp,
    pub ids: Ids,
    queue: Queue,
    /// Nodes whose runner does nothing.
    dead: Vec<String>,
    /// Pods that never become ready, by image.
    bad: Vec<String>,
    /// Nodes whose proxy does not report.
    deaf: Vec<String>,
}

impl Cluster {
    pub fn new() -> Self {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let settings = Settings {
            ca_pem: "PEM".into(),
            ..Settings::default()
        };
        let mut c = Self {
            state: State::default(),
            volatile: Volatile::default(),
            settings,
            now,
            ids: Ids::new(7),
            queue: Queue::default(),
            dead: Vec::new(),
            bad: Vec::new(),
            deaf: Vec::new(),
        };
        let commands = bootstrap(&c.state.view(), now, &mut c.ids, "PEM", 6443);
        c.commit(commands);
        assert_eq!(
            bootstrap(&c.state.view(), now, &mut c.ids, "PEM", 6443),
            [],
            "bootstrap twice is bootstrap once"
        );
        c
    }

    pub fn view(&self) -> View {
        self.state.view()
    }

    pub fn commit(&mut self, commands: Vec<Command>) {
        for r in self.state.apply(&Batch {
            at: self.now,
            request_id: 0,
            commands,
        }) {
            r.unwrap();
        }
    }

    /// Writes an object as a client would, through defaults.
    pub fn put(&mut self, word: &str, mut object: Value) {
        let kind = kinds::by_word(word).unwrap();
        if kind.namespaced() && meta::namespace(&object).is_empty() {
            object["metadata"]["namespace"] = json!("default");
        }
        let old = self.view().get(kind.table, &meta::key(&object)).cloned();
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.kind);
        defaults::apply(kind, &mut object);
        let metadata = meta::metadata(&mut object);
        let uid = old
            .as_ref()
            .map_or_else(|| self.ids.uid(), |o| o.attrs.uid.clone());
        metadata.insert("uid".into(), json!(uid));
        metadata
            .entry("creationTimestamp")
            .or_insert_with(|| json!(meta::time_text(self.now)));
        let before = old.as_ref().map(|o| o.value());
        let generation = before.as_ref().map_or(0, meta::generation);
        if !before.is_some_and(|b| b["spec"] == object["spec"]) {
            meta::metadata(&mut object).insert("generation".into(), json!(generation + 1));
        }
        let expect = old.map_or(Expect::Absent, |o| Expect::Revision(o.revision));
        let held = claims::of(kind, &object);
        self.commit(vec![Command::put(
            kind.table,
            meta::key(&object),
            expect,
            canonical::encode(&object),
            held,
        )]);
    }

    /// Changes an object that is there.
    pub fn edit(&mut self, word: &str, key: &Key, change: impl FnOnce(&mut Value)) {
        let kind = kinds::by_word(word).unwrap();
        let mut object = self
            .view()
            .get(kind.table, key)
            .unwrap_or_else(|| panic!("no {word} {key}"))
            .value();
        change(&mut object);
        self.put(word, object);
    }

    /// Deletes as the API does, in one of the three ways.
    pub fn delete(&mut self, word: &str, key: &Key, finalizer: Option<&str>) {
        let kind = kinds::by_word(word).unwrap();
        let obj = self
            .view()
            .get(kind.table, key)
            .cloned()
            .unwrap_or_else(|| panic!("no {word} {key}"));
        let mut value = obj.value();
        if let Some(f) = finalizer {
            value["metadata"]["finalizers"] = json!([f]);
        }
        let bound = kind.table == "pods" && !obj.attrs.node_name.is_empty();
        let held = !meta::finalizers(&value).is_empty()
            || value["spec"]["finalizers"]
                .as_array()
                .is_some_and(|f| !f.is_empty());
        if bound || held {
            value["metadata"]["deletionTimestamp"] = json!(meta::time_text(later(
                self.now,
                if bound { 30_000 } else { 0 }
            )));
            value["metadata"]["deletionGracePeriodSeconds"] = json!(if bound { 30 } else { 0 });
            self.put(word, value);
        } else {
            self.commit(vec![Command::delete(
                kind.table,
                key.clone(),
                Expect::Revision(obj.revision),
            )]);
        }
    }

    /// One round: what changed, what is due, what to write. Returns the notes of what was written.
    pub fn plan(&mut self) -> Vec<String> {
        let view = self.view();
        self.queue.note(&view);
        self.volatile.observe(&view, self.now);
        let input = Input {
            view: &view,
            volatile: &self.volatile,
            now: self.now,
            settings: &self.settings,
        };
        let proposals = self.queue.plan(&input, &mut self.ids);
        let mut notes = Vec::new();
        for p in &proposals {
            let results = self.state.apply(&Batch {
                at: self.now,
                request_id: 0,
                commands: p.commands.clone(),
            });
            for (note, result) in p.notes.iter().zip(&results) {
                assert!(result.is_ok(), "{note}: {result:?}");
                notes.push(note.clone());
            }
            self.queue.settle(p, &results, self.now);
        }
        assert_eq!(invariants(&self.view()), Vec::<String>::new());
        notes
    }

    /// What every living node does at once: starts, reports, stops. Returns whether anything changed.
    pub fn nodes(&mut self) -> bool {
        let view = self.view();
        let newest = view.revision;
        for node in view
            .list("nodes", None)
            .map(|n| n.key.name.clone())
            .filter(|n| !self.deaf.contains(n))
        {
            if self.volatile.ack(&node, newest) {
                self.queue.add(tasks_after_ack(&view));
            }
        }
        let all: Vec<_> = view
            .list("pods", None)
            .filter(|p| !p.attrs.node_name.is_empty())
            .cloned()
            .collect();
        let mut changed = false;
        for pod in all {
            let value = pod.value();
            if self.dead.contains(&pod.attrs.node_name) {
                continue;
            }
            if pod.attrs.deleting && pods::holds(&value, coracle_api::DRAINED) {
                self.commit(vec![Command::delete(
                    "pods",
                    pod.key.clone(),
                    Expect::Revision(pod.revision),
                )]);
                changed = true;
            } else if !pod.attrs.deleting
                && !pods::ready(&value)
                && !self
                    .bad
                    .iter()
                    .any(|i| value["spec"]["containers"][0]["image"] == **i)
            {
                let now = self.now;
                self.edit("po", &pod.key, |p| {
                    p["status"]["phase"] = json!("Running");
                    pods::set_condition(p, "Ready", "True", "", "", now);
                });
                changed = true;
            }
        }
        changed
    }

    /// Plans and acts until nothing more happens.
    pub fn run(&mut self) {
        for _ in 0..500 {
            let planned = !self.plan().is_empty();
            if !(self.nodes() | planned | self.queue.busy()) {
                return;
            }
        }
        panic!("the cluster does not come to rest: {:?}", self.plan());
    }

    /// Lets time pass, waking when something is due; living nodes renew their leases.
    pub fn wait(&mut self, seconds: i64) {
        let end = later(self.now, seconds * 1000);
        while self.now < end {
            let next = self
                .queue
                .next_wake()
                .unwrap_or(end)
                .min(later(self.now, 10_000))
                .min(end);
            self.now = next.max(later(self.now, 1));
            self.renew();
            self.run();
        }
    }

    fn renew(&mut self) {
        let living: Vec<String> = self
            .view()
            .list("nodes", None)
            .map(|n| n.key.name.clone())
            .filter(|n| !self.dead.contains(n))
            .collect();
        for node in living {
            let lease = json!({"metadata": {"name": node, "namespace": "kube-node-lease"},
                "spec": {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": self.now.to_string()}});
            self.put("leases", lease);
        }
    }

    pub fn input<'a>(&'a self, view: &'a View) -> Input<'a> {
        Input {
            view,
            volatile: &self.volatile,
            now: self.now,
            settings: &self.settings,
        }
    }

    /// Runs one task on its own, without writing.
    pub fn look(&self, task: &Task) -> crate::Outcome {
        let view = self.view();
        reconcile(&self.input(&view), task, &mut Ids::new(1))
    }

    pub fn play(&mut self, script: &str) -> String {
        let mut out = String::new();
        for line in script
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            let said = self.line(line);
            if !said.is_empty() {
                out += &said;
                out += "\n";
            }
        }
        out
    }

    fn line(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let option = |name: &str| {
            words
                .iter()
                .find_map(|w| w.strip_prefix(&format!("{name}=")).map(str::to_string))
        };
        let number = |name: &str| {
            option(name).map(|n| n.parse::<i64>().map_or_else(|_| json!(n), |n| json!(n)))
        };
        let word = |i: usize| words.get(i).copied().unwrap_or_default();
        let key = |i: usize| match word(i).split_once('/') {
            Some((ns, name)) => Key::new(ns, name),
            None => Key::new("default", word(i)),
        };
        match word(0) {
            "node" => {
                let amounts = json!({"cpu": option("cpu").unwrap_or("4".into()), "memory": option("memory").unwrap_or("4Gi".into()), "pods": option("pods").unwrap_or("110".into())});
                let mut node = json!({"metadata": {"name": word(1), "labels": {}}, "spec": {}, "status": {"allocatable": amounts,
                    "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "conditions": [{"type": "Ready", "status": "True"}]}});
                if let Some(zone) = option("zone") {
                    node["metadata"]["labels"]["zone"] = json!(zone);
                }
                if let Some(taint) = option("taint") {
                    let mut parts = taint.split(':');
                    node["spec"]["taints"] = json!([{"key": parts.next(), "value": parts.next(), "effect": parts.next()}]);
                }
                self.put("nodes", node);
                self.renew();
            }
            "deploy" => {
                let name = word(1);
                let labels = json!({"app": name});
                let mut d = match self.view().get("deployments.apps", &key(1)) {
                    Some(old) => old.value(),
                    None => {
                        json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
                        "spec": {"containers": [{"name": "c", "image": "v1", "ports": [{"name": "http", "containerPort": 8080}]}]}}}})
                    }
                };
                let container = &mut d["spec"]["template"]["spec"]["containers"][0];
                if let Some(image) = option("image") {
                    container["image"] = json!(image);
                }
                if let Some(cpu) = option("cpu") {
                    container["resources"]["requests"]["cpu"] = json!(cpu);
                }
                if let Some(zone) = option("zone") {
                    d["spec"]["template"]["spec"]["nodeSelector"]["zone"] = json!(zone);
                }
                for (name, field) in [
                    ("replicas", "replicas"),
                    ("minReady", "minReadySeconds"),
                    ("history", "revisionHistoryLimit"),
                    ("deadline", "progressDeadlineSeconds"),
                ] {
                    if let Some(n) = number(name) {
                        d["spec"][field] = n;
                    }
                }
                for (name, field) in [("surge", "maxSurge"), ("unavailable", "maxUnavailable")] {
                    if let Some(n) = number(name) {
                        d["spec"]["strategy"]["type"] = json!("RollingUpdate");
                        d["spec"]["strategy"]["rollingUpdate"][field] = n;
                    }
                }
                if let Some(strategy) = option("strategy") {
                    d["spec"]["strategy"] = json!({"type": strategy});
                }
                if let Some(paused) = option("paused") {
                    d["spec"]["paused"] = json!(paused == "true");
                }
                self.put("deploy", d);
            }
            "rc" => {
                let labels = json!({"app": word(1)});
                self.put("rc", json!({"metadata": {"name": word(1)}, "spec": {"replicas": number("replicas"), "selector": labels,
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}}}));
            }
            "pod" => {
                let mut pod = json!({"metadata": {"name": word(1), "labels": {"app": option("app").unwrap_or(word(1).into())}},
                    "spec": {"containers": [{"name": "c", "image": "v1", "resources": {"requests": {"cpu": option("cpu").unwrap_or("0".into())}}}]}});
                if let Some(tolerates) = option("tolerates") {
                    pod["spec"]["tolerations"] = json!([{"key": tolerates, "operator": "Exists"}]);
                }
                self.put("po", pod);
            }
            "service" => {
                let target = option("target").map_or(json!(8080), |t| {
                    t.parse::<i64>().map_or_else(|_| json!(t), |n| json!(n))
                });
                self.put("svc", json!({"metadata": {"name": word(1)}, "spec": {"selector": {"app": word(1)}, "ports": [{"port": 80, "targetPort": target}]}}));
            }
            "namespace" => self.put("ns", json!({"metadata": {"name": word(1)}})),
            "bad" => self.bad.push(word(1).into()),
            "good" => self.bad.retain(|b| b != word(1)),
            "kill" => self.dead.push(word(1).into()),
            "deaf" => self.deaf.push(word(1).into()),
            "hears" => self.deaf.retain(|d| d != word(1)),
            "delete" => {
                let kind = kinds::by_word(word(1)).unwrap();
                let key = if kind.namespaced() {
                    key(2)
                } else {
                    Key::new("", word(2))
                };
                self.delete(word(1), &key, option("finalizer").as_deref());
            }
            "run" => self.run(),
            "wait" => self.wait(word(1).trim_end_matches('s').parse().unwrap()),
            "say" => return line[4..].to_string(),
            "show" => return self.show(word(1), word(2)),
            other => panic!("what is {other:?}?"),
        }
        String::new()
    }

    fn show(&mut self, what: &str, name: &str) -> String {
        let view = self.view();
        let mut lines: Vec<String> = match what {
            "rs" | "rc" => {
                let table = kinds::by_word(what).unwrap().table;
                let mut sets: Vec<Value> = view.list(table, None).map(|o| o.value()).collect();
                sets.sort_by_key(|s| {
                    meta::annotation(s, crate::deployment::REVISION)
                        .and_then(|r| r.parse::<i64>().ok())
                });
                let line = |s: &Value| {
                    let n = |f: &str| s["status"][f].as_i64().unwrap_or(0);
                    format!(
                        "{} image={} want={} have={} ready={} available={}",
                        revision(s),
                        image(&s["spec"]["template"]),
                        s["spec"]["replicas"],
                        n("replicas"),
                        n("readyReplicas"),
                        n("availableReplicas")
                    )
                };
                sets.iter().map(line).collect()
            }
            "pods" => view
                .list("pods", None)
                .map(|o| {
                    let v = o.value();
                    let owned = o
                        .attrs
                        .controller()
                        .map_or(o.key.name.clone(), |_| image(&v));
                    let ready = if pods::ready(&v) {
                        "ready"
                    } else {
                        "not ready"
                    };
                    let leaving = if o.attrs.deleting { " leaving" } else { "" };
                    format!("{owned} on {:?} {ready}{leaving}", o.attrs.node_name)
                })
                .collect(),
            "deploy" => view
                .list("deployments.apps", None)
                .map(|o| {
                    let v = o.value();
                    let n = |f: &str| v["status"][f].as_i64().unwrap_or(0);
                    let c = |t: &str| {
                        pods::condition(&v, t).map_or("-".into(), |c| {
                            format!(
                                "{}/{}",
                                c["status"].as_str().unwrap(),
                                c["reason"].as_str().unwrap()
                            )
                        })
                    };
                    format!(
                        "{} revision {}: {} updated={} available={} Available={} Progressing={}",
                        o.key.name,
                        revision(&v),
                        n("replicas"),
                        n("updatedReplicas"),
                        n("availableReplicas"),
                        c("Available"),
                        c("Progressing")
                    )
                })
                .collect(),
            "slices" => view
                .list(crate::endpoints::SLICES, None)
                .map(|o| {
                    let v = o.value();
                    let all = v["endpoints"].as_array().unwrap().iter();
                    let flags = |e: &Value| {
                        ["ready", "serving", "terminating"]
                            .iter()
                            .filter(|f| e["conditions"][**f] == true)
                            .copied()
                            .collect::<Vec<_>>()
                            .join("+")
                    };
                    let mut all: Vec<String> = all.map(flags).collect();
                    all.sort();
                    format!(
                        "{} ports {}: {}",
                        o.attrs.labels["kubernetes.io/service-name"],
                        v["ports"]
                            .as_array()
                            .unwrap()
                            .iter()
                            .map(|p| p["port"].to_string())
                            .collect::<Vec<_>>()
                            .join(","),
                        all.join(" ")
                    )
                })
                .collect(),
            "events" => view
                .list("events", None)
                .map(|o| o.value())
                .filter(|e| name.is_empty() || e["reason"] == *name)
                .map(|e| {
                    format!(
                        "{} {}: {} (x{})",
                        e["type"].as_str().unwrap(),
                        e["reason"].as_str().unwrap(),
                        e["message"].as_str().unwrap(),
                        e["count"]
                    )
                })
                .collect(),
            "nodes" => view
                .list("nodes", None)
                .map(|o| {
                    let v = o.value();
                    let taints = v["spec"]["taints"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(|t| {
                            format!(
                                "{}:{}",
                                t["key"].as_str().unwrap(),
                                t["effect"].as_str().unwrap()
                            )
                        });
                    format!(
                        "{} Ready={} {}",
                        o.key.name,
                        pods::condition(&v, "Ready").map_or("-", |c| c["status"].as_str().unwrap()),
                        taints.collect::<Vec<_>>().join(" ")
                    )
                })
                .collect(),
            "waits" => {
                let input = self.input(&view);
                view.list("pods", None)
                    .filter_map(|p| explain(&input, &p.key))
                    .flat_map(|e| e.waits)
                    .map(|w| w.to_string())
                    .collect()
            }
            "all" => crate::tables()
                .flat_map(|k| {
                    view.list(k.table, Some(name))
                        .map(|o| format!("{} {}", k.plural, o.key.name))
                        .collect::<Vec<_>>()
                })
                .collect(),
            "namespaces" => view
                .list("namespaces", None)
                .map(|o| {
                    format!(
                        "{} {}",
                        o.key.name,
                        o.value()["status"]["phase"].as_str().unwrap()
                    )
                })
                .collect(),
            other => panic!("show {other:?}?"),
        };
        if matches!(what, "pods" | "waits" | "events") {
            lines.sort();
        }
        if lines.is_empty() {
            "nothing".into()
        } else {
            lines.join("\n")
        }
    }
}

fn image(object: &Value) -> String {
    object["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap_or_default()
        .into()
}

fn revision(object: &Value) -> &str {
    meta::annotation(object, crate::deployment::REVISION).unwrap_or("-")
}
