//! registry: push and pull of blobs and manifests, ours against docker-registry. Both run at once over fresh directories
//! and take turns case by case (A-B, then B-A), so that drift of the machine hits both alike; the one whose turn it is
//! not does nothing. Before that, strace counts the syncs of each side.

mod collection;
mod content;
mod http;
mod load;
mod memory;
mod servers;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::{Map, json};

use self::content::{Contents, manifest};
use self::load::{Operation, Outcome};
use self::servers::{Registry, System};
use super::args::interleaved;
use super::servers::meter::load_average;
use super::servers::strace::Trace;
use super::{Figure, median, report, round, spread};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Clients of the full bench.
const CLIENTS: &[usize] = &[1, 8, 32];
/// Sizes, with the pushes of a run by one client and by more: enough to last, not so many that the disk is the bench.
const SIZES: &[(usize, usize, usize)] = &[(KIB, 300, 1_200), (MIB, 60, 160), (64 * MIB, 3, 32)];
/// Manifests of a run, per client.
const MANIFESTS: (usize, usize) = (300, 1_200);
/// An upload in many PATCHes.
const PATCHED: usize = 256 * KIB;
const PATCH: usize = KIB;
/// Pushes under strace.
const TRACED: usize = 50;

/// Options.
#[derive(clap::Args)]
pub struct RegistryArgs {
    /// End within 45 s: small blobs, one number of clients, fewer runs.
    #[arg(long)]
    pub quick: bool,
    /// Clients.
    #[arg(long, value_delimiter = ',')]
    pub clients: Option<Vec<usize>>,
    /// Runs of each side per case.
    #[arg(long)]
    pub runs: Option<usize>,
    /// Only cases whose name holds this.
    #[arg(long)]
    pub only: Option<String>,
    /// This `coracle` instead of building a release one.
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
}

/// One case: its name, its clients, and its operations given the run.
struct Case {
    name: String,
    clients: usize,
    unit: &'static str,
    /// Operations per unit: PATCHes of an upload.
    weight: f64,
    /// What is pushed before the clock starts.
    before: Vec<Operation>,
    operations: Vec<Operation>,
}

/// Runs the bench.
pub async fn run(args: &RegistryArgs) -> Result<()> {
    let coracle = match &args.binary {
        Some(b) => {
            ensure!(b.is_file(), "{} is not there", b.display());
            std::path::absolute(b)?
        }
        None => super::cluster::release_binary()?,
    };
    let systems = [System::Ours, System::Docker];
    let runs = args.runs.unwrap_or(if args.quick { 3 } else { 5 });
    let sizes: Vec<usize> = SIZES.iter().map(|(size, ..)| *size).collect();
    let contents = Contents::new(&sizes);
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| name.contains(only));
    if wanted("syncs") {
        for system in systems {
            syncs(system, &coracle, &contents).await?;
        }
    }
    let busy = load_average();
    let mut all: BTreeMap<String, (&'static str, f64, [Vec<Outcome>; 2])> = BTreeMap::new();
    let mut order = Vec::new();
    for run in 0..runs {
        let mut registries = [
            Registry::start(systems[0], &coracle).await?,
            Registry::start(systems[1], &coracle).await?,
        ];
        for case in cases(args, &contents, run as u64) {
            if !wanted(&case.name) {
                continue;
            }
            for i in interleaved(systems.len(), run) {
                load::run(&registries[i], 8, case.before.clone()).await?;
                let outcome =
                    load::run(&registries[i], case.clients, case.operations.clone()).await?;
                registries[i].check_alive()?;
                eprintln!(
                    "registry: {}: run {}: {}: {:.1} {}, p50 {:.2} ms, p99 {:.2} ms",
                    case.name,
                    run + 1,
                    systems[i].label(),
                    outcome.per_second * case.weight,
                    case.unit,
                    outcome.p50_ms,
                    outcome.p99_ms
                );
                let entry = all.entry(case.name.clone()).or_insert_with(|| {
                    order.push(case.name.clone());
                    (case.unit, case.weight, [Vec::new(), Vec::new()])
                });
                entry.2[i].push(outcome);
            }
        }
    }
    for name in order {
        if let Some((unit, weight, outcomes)) = all.get(&name) {
            tell(&name, unit, *weight, outcomes, busy)?;
        }
    }
    if wanted("collection") && !args.quick {
        collection::run(&coracle, &contents, runs).await?;
    }
    if wanted("memory") && !args.quick {
        memory(&systems, &coracle, &contents, runs.min(3)).await?;
    }
    Ok(())
}

/// The cases in the order they run: a pull follows the push that made its blobs' size known to the caches.
fn cases(args: &RegistryArgs, contents: &Contents, run: u64) -> Vec<Case> {
    let clients = args.clients.clone().unwrap_or(match args.quick {
        true => vec![8],
        false => CLIENTS.to_vec(),
    });
    let sizes = if args.quick { &SIZES[..2] } else { SIZES };
    let mut series = run * 1_000;
    let mut next = || {
        series += 1;
        series
    };
    let some = |one: usize, more: usize, clients: usize| if clients == 1 { one } else { more };
    let mut list = Vec::new();
    for (size, one, more) in sizes {
        for c in &clients {
            let s = next();
            let blobs: Vec<_> = (0..some(*one, *more, *c) as u64)
                .map(|n| contents.blob(*size, s, n))
                .collect();
            let pull = blobs.iter().cloned().map(Operation::Pull).collect();
            let size = match size / MIB {
                0 => format!("{}KiB", size / KIB),
                mib => format!("{mib}MiB"),
            };
            let case = |what, operations| Case {
                name: format!("{what}-{size}-{c}c"),
                clients: *c,
                unit: "blobs/s",
                weight: 1.0,
                before: Vec::new(),
                operations,
            };
            list.push(case(
                "push",
                blobs.into_iter().map(Operation::Push).collect(),
            ));
            list.push(case("pull", pull));
        }
    }
    for c in &clients {
        let s = next();
        let (config, layer) = (contents.blob(KIB, s, 0), contents.blob(KIB, s, 1));
        let bodies: Vec<_> = (0..some(MANIFESTS.0, MANIFESTS.1, *c) as u64)
            .map(|n| (format!("v{s}.{n}"), manifest(&config, &layer, s, n)))
            .collect();
        let get = bodies.iter().map(|(tag, body)| Operation::GetManifest {
            tag: tag.clone(),
            length: body.len(),
        });
        let case = |what, before, operations| Case {
            name: format!("{what}-manifest-{c}c"),
            clients: *c,
            unit: "manifests/s",
            weight: 1.0,
            before,
            operations,
        };
        let get = get.collect();
        let put = bodies
            .into_iter()
            .map(|(tag, body)| Operation::PutManifest { tag, body })
            .collect();
        let before = vec![Operation::Push(config), Operation::Push(layer)];
        list.push(case("put", before, put));
        list.push(case("get", Vec::new(), get));
    }
    for c in &clients {
        let s = next();
        let uploads = (0..*c as u64).map(|n| Operation::Patches {
            blob: contents.blob(PATCHED, s, n),
            piece: PATCH,
        });
        list.push(Case {
            name: format!("patch-1KiB-{c}c"),
            clients: *c,
            unit: "PATCHes/s",
            weight: PATCHED.div_ceil(PATCH) as f64,
            before: Vec::new(),
            operations: uploads.collect(),
        });
    }
    list
}

/// The figure of a case.
fn tell(
    name: &str,
    unit: &str,
    weight: f64,
    outcomes: &[Vec<Outcome>; 2],
    busy: f64,
) -> Result<()> {
    let rates =
        |i: usize| -> Vec<f64> { outcomes[i].iter().map(|o| o.per_second * weight).collect() };
    let mut extra = Map::new();
    for (i, who) in ["ours", "theirs"].into_iter().enumerate() {
        let over = |f: &dyn Fn(&Outcome) -> f64| round(median(outcomes[i].iter().map(f).collect()));
        extra.insert(format!("{who}_p50_ms"), json!(over(&|o| o.p50_ms)));
        extra.insert(format!("{who}_p99_ms"), json!(over(&|o| o.p99_ms)));
        extra.insert(format!("{who}_max_ms"), json!(over(&|o| o.max_ms)));
        extra.insert(format!("{who}_cpu_s"), json!(over(&|o| o.cpu_seconds)));
        extra.insert(format!("{who}_spread"), json!(spread(&rates(i))));
    }
    extra.insert("load_before".into(), json!(busy));
    let (ours, theirs) = (median(rates(0)), median(rates(1)));
    report(&Figure {
        bench: "registry",
        case: name,
        ours: round(ours),
        peer: &System::Docker.label(),
        theirs: round(theirs),
        ratio: round(ours / theirs),
        unit,
        runs: rates(0)
            .into_iter()
            .zip(rates(1))
            .map(|(a, b)| [round(a), round(b)])
            .collect(),
        extra,
    })
}

/// Counts the syncs of some pushes at one client: each acknowledged blob and manifest must have cost at least one.
async fn syncs(system: System, coracle: &std::path::Path, contents: &Contents) -> Result<()> {
    let registry = Registry::start(system, coracle).await?;
    let (config, layer) = (
        contents.blob(KIB, u64::MAX, 0),
        contents.blob(KIB, u64::MAX, 1),
    );
    let first = vec![
        Operation::Push(config.clone()),
        Operation::Push(layer.clone()),
    ];
    load::run(&registry, 1, first).await?;
    for what in ["blobs", "manifests"] {
        let operations = (0..TRACED as u64).map(|n| match what {
            "blobs" => Operation::Push(contents.blob(KIB, u64::MAX - 1, n)),
            _ => Operation::PutManifest {
                tag: format!("traced{n}"),
                body: manifest(&config, &layer, u64::MAX, n),
            },
        });
        let trace = Trace::attach(&[registry.pid()])?;
        load::run(&registry, 1, operations.collect()).await?;
        let calls = trace.finish()?;
        let line = json!({
            "bench": "registry",
            "case": format!("syncs-{what}-1KiB-1c"),
            "system": system.label(),
            "acknowledged": TRACED,
            "syncs_each": round(calls.syncs() as f64 / TRACED as f64),
            "promise_kept": calls.syncs() >= TRACED as u64,
            "synced_writes": calls.synced_writes,
            "calls": calls.by_name,
        });
        super::keep("registry", &line.to_string())?;
    }
    Ok(())
}

/// Memory while many large uploads run.
async fn memory(
    systems: &[System; 2],
    coracle: &std::path::Path,
    contents: &Contents,
    runs: usize,
) -> Result<()> {
    let mut rises = [Vec::new(), Vec::new()];
    for run in 0..runs {
        for i in interleaved(systems.len(), run) {
            let registry = Registry::start(systems[i], coracle).await?;
            let rise = memory::run(&registry, contents, 1_000_000 + run as u64).await?;
            eprintln!(
                "registry: memory: run {}: {}: from {:.1} to {:.1} MiB, {:.0} MiB/s",
                run + 1,
                systems[i].label(),
                rise.before as f64 / MIB as f64,
                rise.peak as f64 / MIB as f64,
                rise.bytes_per_second / MIB as f64
            );
            rises[i].push(rise);
        }
    }
    let mib = |i: usize| -> Vec<f64> {
        let rises: &Vec<memory::Rise> = &rises[i];
        rises
            .iter()
            .map(|r| r.bytes() as f64 / MIB as f64)
            .collect()
    };
    let (ours, theirs) = (median(mib(0)), median(mib(1)));
    report(&Figure {
        bench: "registry",
        case: "memory-64MiB-64c",
        ours: round(ours),
        peer: &System::Docker.label(),
        theirs: round(theirs),
        ratio: round(theirs / ours),
        unit: "MiB risen",
        runs: mib(0)
            .into_iter()
            .zip(mib(1))
            .map(|(a, b)| [round(a), round(b)])
            .collect(),
        extra: Map::new(),
    })
}
