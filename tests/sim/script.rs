//! Scripts: a cluster in words. A script is a golden file: commands at the left edge, what they say indented below.
//!
//! ```text
//! members 3                          before anything else; 1 if it is left out
//! node n1 cpu=4 pods=40              machines are called n1, n2, ...
//! apply web replicas=3 image=v2:1 cpu=500m surge=1 unavailable=0 strategy=Recreate
//! scale web 5 · delete web · cordon n1 · uncordon n1
//! kill n1 · start n1 · cut n1 · heal n1 · crash web · move leader
//! requests on · requests off         from every node to every Service, all the time
//! run until quiet · run 30s
//! explain web · show pods|sets|nodes|endpoints|events · report
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use coracle_api::{Key, kinds, meta, quantity};
use coracle_plan::{Input, explain};
use coracle_state::{Obj, View};
use serde_json::{Value, json};

use crate::server::Propagation;
use crate::user::{Change, Op};
use crate::world::{Event, World};
use crate::{Failure, Knobs};

/// Longer than a lease and an eviction, so that "quiet" is not "has not noticed yet".
const QUIET_MS: u64 = 60_000;
/// Everything a script does settles within this.
const QUIET_MS_MAX: u64 = 900_000;

/// Why a script cannot be played.
#[derive(Debug)]
pub enum Problem {
    /// A line that is no command.
    Line(String),
    /// A property did not hold.
    Failed(Box<Failure>),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Line(line) => write!(f, "not a command: {line}"),
            Problem::Failed(failure) => write!(f, "{failure}"),
        }
    }
}

impl std::error::Error for Problem {}

impl From<Box<Failure>> for Problem {
    fn from(failure: Box<Failure>) -> Self {
        Problem::Failed(failure)
    }
}

/// Plays a script; returns it with what its commands say now.
///
/// # Errors
/// [`Problem`] for a line that is no command, or a property that does not hold.
pub fn play(script: &str) -> Result<String, Problem> {
    let mut out = String::new();
    let mut world: Option<World> = None;
    for line in script.lines().filter(|l| !l.starts_with("  ")) {
        out.push_str(line);
        out.push('\n');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["members", n] = words[..] {
            let members = n.parse().map_err(|_| Problem::Line(line.into()))?;
            world = Some(start(members));
            continue;
        }
        let said = command(world.get_or_insert_with(|| start(1)), &words)
            .ok_or_else(|| Problem::Line(line.into()))??;
        for said in said.lines() {
            let _ = writeln!(out, "  {said}");
        }
    }
    Ok(out)
}

fn start(members: usize) -> World {
    let mut world = World::new(1, Knobs::quiet(members), false);
    world.bootstrap();
    world
}

fn command(world: &mut World, words: &[&str]) -> Option<Result<String, Box<Failure>>> {
    let option = |name: &str| {
        words
            .iter()
            .find_map(|w| w.strip_prefix(name)?.strip_prefix('='))
    };
    let node = |world: &World, name: &str| world.nodes.iter().position(|n| n.name == name);
    let nothing = Ok(String::new());
    Some(match words {
        ["node", name, ..] => {
            let cpu = quantity::millis(option("cpu").unwrap_or("4")).ok()?;
            let index = world.add_node(cpu, option("pods").unwrap_or("40").parse().ok()?);
            if world.nodes[index].name != *name {
                return None;
            }
            world.run_for(100).map(|()| String::new())
        }
        ["apply", name, ..] => {
            for op in apply(world, name, option)? {
                world.ask(op, 0);
                if let Err(e) = world.run_for(20) {
                    return Some(Err(e));
                }
            }
            nothing
        }
        ["scale", name, n] => ask(
            world,
            Op::Change(
                "deploy",
                Key::new("default", *name),
                Change::Replicas(n.parse().ok()?),
            ),
        ),
        ["delete", name] => ask(
            world,
            Op::Delete(
                "deploy",
                Key::new("default", *name),
                Propagation::Background,
            ),
        ),
        ["cordon", name] => ask(
            world,
            Op::Change("no", Key::new("", *name), Change::Unschedulable(true)),
        ),
        ["uncordon", name] => ask(
            world,
            Op::Change("no", Key::new("", *name), Change::Unschedulable(false)),
        ),
        ["kill", name] => {
            let n = node(world, name)?;
            world.stop_node(n);
            nothing
        }
        ["start", name] => {
            let n = node(world, name)?;
            world.start_node(n);
            nothing
        }
        ["cut", name] => {
            let n = node(world, name)?;
            world.nodes[n].cut = true;
            nothing
        }
        ["heal", name] => {
            let n = node(world, name)?;
            world.heal(n);
            nothing
        }
        ["crash", name] => {
            let view = world.view()?;
            let pod = of(&view, name)
                .into_iter()
                .find(|p| !p.attrs.node_name.is_empty())?;
            let n = node(world, &pod.attrs.node_name)?;
            world.crash_instance(n, &pod.attrs.uid, 1);
            nothing
        }
        ["move", "leader"] => {
            world.move_leader();
            nothing
        }
        ["requests", "on"] => {
            world.requests = true;
            world.schedule(1, Event::Request);
            nothing
        }
        ["requests", "off"] => {
            world.requests = false;
            nothing
        }
        ["run", "until", "quiet"] => world.quiet(QUIET_MS, QUIET_MS_MAX).map(|()| String::new()),
        ["run", time] => {
            let ms = match time.strip_suffix("ms") {
                Some(ms) => ms.parse().ok()?,
                None => time.strip_suffix('s')?.parse::<u64>().ok()? * 1000,
            };
            world.run_for(ms).map(|()| String::new())
        }
        ["explain", name] => Ok(explain_all(world, name)?),
        ["show", what] => Ok(show(world, what)?),
        ["report"] => {
            let r = &world.report;
            Ok(format!(
                "{} requests answered, {} not; {} pods drained, {} leader moves",
                r.requests, r.misses, r.drains, r.leader_moves
            ))
        }
        _ => return None,
    })
}

fn ask(world: &mut World, op: Op) -> Result<String, Box<Failure>> {
    world.ask(op, 0);
    world.run_for(20).map(|()| String::new())
}

fn apply<'a>(
    world: &mut World,
    name: &str,
    option: impl Fn(&str) -> Option<&'a str>,
) -> Option<Vec<Op>> {
    let key = Key::new("default", name);
    let replicas = option("replicas").map(str::parse::<u64>).transpose().ok()?;
    let number =
        |name: &str| option(name).map(|n| n.parse::<i64>().map_or_else(|_| json!(n), |n| json!(n)));
    let bounds = match (option("strategy"), number("surge"), number("unavailable")) {
        (Some(kind), ..) => Some(json!({"type": kind})),
        (None, None, None) => None,
        (None, surge, unavailable) => {
            let rolling = json!({"maxSurge": surge.unwrap_or(json!("25%")), "maxUnavailable": unavailable.unwrap_or(json!("25%"))});
            Some(json!({"type": "RollingUpdate", "rollingUpdate": rolling}))
        }
    };
    let mut ops = Vec::new();
    if world.view()?.get("deployments.apps", &key).is_none() {
        let strategy = bounds
            .clone()
            .unwrap_or_else(|| json!({"type": "RollingUpdate"}));
        let grace_seconds = world.knobs.grace_seconds;
        let mut all =
            world
                .user
                .application(&key, replicas.unwrap_or(1), Some(strategy), grace_seconds);
        if let Some(Op::Create(_, deployment)) = all.last_mut() {
            let container = &mut deployment["spec"]["template"]["spec"]["containers"][0];
            container["resources"]["requests"]["cpu"] = json!(option("cpu").unwrap_or("100m"));
            container["image"] = json!(option("image").unwrap_or("v1:1"));
        }
        return Some(all);
    }
    ops.extend(bounds.map(Change::Bounds));
    ops.extend(replicas.map(Change::Replicas));
    ops.extend(option("cpu").map(|c| Change::Cpu(c.into())));
    ops.extend(option("image").map(|i| Change::Image(i.into())));
    Some(
        ops.into_iter()
            .map(|c| Op::Change("deploy", key.clone(), c))
            .collect(),
    )
}

/// Pods of an application, in order of creation.
fn of<'a>(view: &'a View, name: &str) -> Vec<&'a Obj> {
    let mut pods: Vec<&Obj> = view
        .list("pods", Some("default"))
        .map(|p| p.as_ref())
        .filter(|p| p.attrs.labels.get("app").is_some_and(|a| a == name))
        .collect();
    pods.sort_by_key(|p| p.created);
    pods
}

fn explain_all(world: &World, name: &str) -> Option<String> {
    let view = world.view()?;
    let input = Input {
        view: &view,
        volatile: &world.control.volatile,
        now: world.now,
        settings: &world.control.settings,
    };
    let mut lines = Vec::new();
    for pod in of(&view, name) {
        let e = explain(&input, &pod.key)?;
        let place = if e.node.is_empty() {
            "no node".to_string()
        } else {
            e.node.clone()
        };
        if e.waits.is_empty() {
            lines.push(format!("{} on {place}: {}", pod.key.name, e.phase));
        }
        lines.extend(
            e.waits
                .iter()
                .map(|w| format!("{} on {place}: {}: {w}", pod.key.name, e.phase)),
        );
    }
    Some(if lines.is_empty() {
        "nothing".into()
    } else {
        lines.join("\n")
    })
}

/// Equal lines once, with their number.
fn counted(lines: impl IntoIterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines {
        *counts.entry(line).or_default() += 1;
    }
    let lines: Vec<String> = counts
        .into_iter()
        .map(|(line, n)| format!("{n} × {line}"))
        .collect();
    if lines.is_empty() {
        "nothing".into()
    } else {
        lines.join("\n")
    }
}

fn show(world: &World, what: &str) -> Option<String> {
    let view = world.view()?;
    let image = |o: &Value| {
        o["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap_or_default()
            .to_string()
    };
    let ready = |o: &Value| {
        if crate::node::holds(o, "Ready") {
            "ready"
        } else {
            "not ready"
        }
    };
    Some(match what {
        "pods" => counted(view.list("pods", None).map(|p| {
            let v = p.value();
            let app = p.attrs.labels.get("app").cloned().unwrap_or_default();
            let node = if p.attrs.node_name.is_empty() {
                "no node"
            } else {
                &p.attrs.node_name
            };
            let restarts = &v["status"]["containerStatuses"][0]["restartCount"];
            let restarted = match restarts.as_u64() {
                Some(n @ 1..) => format!(", restarts: {n}"),
                _ => String::new(),
            };
            format!(
                "{app} {} on {node}: {}{}{restarted}",
                image(&v),
                ready(&v),
                if p.attrs.deleting { ", leaving" } else { "" }
            )
        })),
        "sets" => {
            let mut sets: Vec<Value> = view
                .list("replicasets.apps", None)
                .map(|s| s.value())
                .collect();
            let revision = |s: &Value| {
                meta::annotation(s, "deployment.kubernetes.io/revision")
                    .and_then(|r| r.parse::<u64>().ok())
                    .unwrap_or(0)
            };
            sets.sort_by_key(revision);
            let lines: Vec<String> = sets
                .iter()
                .map(|s| {
                    let n = |f: &str| s["status"][f].as_i64().unwrap_or(0);
                    format!(
                        "revision {} {}: {} wanted, {} there, {} available",
                        revision(s),
                        image(&s["spec"]["template"]),
                        s["spec"]["replicas"],
                        n("replicas"),
                        n("availableReplicas")
                    )
                })
                .collect();
            lines.join("\n")
        }
        "nodes" => counted(view.list("nodes", None).map(|n| {
            let v = n.value();
            let taints = v["spec"]["taints"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|t| {
                    format!(
                        " {}:{}",
                        t["key"].as_str().unwrap_or_default(),
                        t["effect"].as_str().unwrap_or_default()
                    )
                });
            format!("{} {}{}", n.key.name, ready(&v), taints.collect::<String>())
        })),
        "endpoints" => counted(
            view.list("endpointslices.discovery.k8s.io", None)
                .flat_map(|s| {
                    let service = s
                        .attrs
                        .labels
                        .get("kubernetes.io/service-name")
                        .cloned()
                        .unwrap_or_default();
                    let endpoints = s.value()["endpoints"]
                        .as_array()
                        .cloned()
                        .unwrap_or_default();
                    endpoints.into_iter().map(move |e| {
                        let flags: Vec<&str> = ["ready", "serving", "terminating"]
                            .into_iter()
                            .filter(|f| e["conditions"][*f] == true)
                            .collect();
                        format!(
                            "{service} on {}: {}",
                            e["nodeName"].as_str().unwrap_or_default(),
                            flags.join(" ")
                        )
                    })
                }),
        ),
        "events" => {
            let mut events: Vec<&std::sync::Arc<Obj>> = view.list("events", None).collect();
            events.sort_by_key(|e| e.created);
            let lines = events.into_iter().map(|e| e.value()).filter(|e| {
                !matches!(
                    e["reason"].as_str(),
                    Some("SuccessfulCreate" | "SuccessfulDelete" | "Scheduled")
                )
            });
            let kind = |e: &Value| {
                kinds::by_type(
                    e["involvedObject"]["apiVersion"]
                        .as_str()
                        .unwrap_or_default(),
                    e["involvedObject"]["kind"].as_str().unwrap_or_default(),
                )
                .map_or("?", |k| k.singular)
            };
            let lines: Vec<String> = lines
                .map(|e| {
                    format!(
                        "{} {} {}: {}",
                        e["type"].as_str().unwrap_or_default(),
                        e["reason"].as_str().unwrap_or_default(),
                        kind(&e),
                        e["message"].as_str().unwrap_or_default()
                    )
                })
                .collect();
            if lines.is_empty() {
                "nothing".into()
            } else {
                lines.join("\n")
            }
        }
        _ => return None,
    })
}
