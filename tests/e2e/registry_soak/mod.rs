//! The registry never loses what it accepted: real members, clients that push, mount, tag, pull, delete and push again
//! all at once, a collector that goes through many times a second, and members that are killed, run out of space and get
//! their bits turned. At the end everything that was accepted and not deleted is pulled and compared with what was
//! pushed, everything deleted is gone, and every answer on the way must fit some order of all that was done.
//!
//! Needs `gcc`; otherwise the tests say that they are skipped, or fail if `CORACLE_REQUIRE` holds it. Larger runs:
//! `CORACLE_SOAK_OPS=100000 CORACLE_SOAK_FAULTS=100 cargo test -p coracle --test e2e registry_soak --
//! --nocapture --test-threads=1`; `CORACLE_SOAK_SEED` repeats an order of faults and the clients' tasks.

mod client;
mod faults;
mod member;
mod model;
mod plan;
mod planted;
mod shared;
mod sweep;
mod verdict;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use client::Client;
use faults::Nemesis;
use member::{Garbage, Member};
use model::At;
use plan::Fault;
use shared::{Passes, Repository, Shared};
use verdict::Kind;

use crate::cluster::setting;
use crate::harness::program;

/// Operations at least.
const OPS: u64 = 2_000;
/// Each kind of fault comes at least so often, and so often the collector goes through between each two steps of a push.
const FAULTS: u64 = 5;
const CLIENTS: usize = 8;
/// Repositories in which all clients work.
const COMMON: usize = 2;
/// What the collector spares: longer than the steps of most pushes, shorter than the run by far.
const AGE: Duration = Duration::from_millis(800);
/// Time between two passes of a collector.
const EVERY: Duration = Duration::from_millis(20);
/// What a killed member has handed on to the others arrives within this time, or not at all.
const SLACK: Duration = Duration::from_secs(10);
/// Steps after which clients wait for the collector now and then.
const GATES: [&str; 9] = [
    "after an upload began",
    "between chunks",
    "after a blob",
    "after a mount",
    "after a HEAD",
    "between children",
    "after a manifest",
    "after a deletion",
    "before a push again",
];
/// Violations that are printed; one cause has many effects.
const SHOWN: usize = 20;

#[test]
fn registry_soak_one_member() {
    soak("registry_soak_one_member", 1);
}

#[test]
fn registry_soak_three_members() {
    soak("registry_soak_three_members", 3);
}

/// The whole way from a loss on a disk to the verdict: bytes that vanish behind the registry's back are found.
#[test]
fn registry_soak_finds_what_a_disk_lost() {
    if program::client("gcc").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let members = members(dir.path(), 1);
    let shared = shared(&members, 0.0);
    let mut client = Client::new(&shared, 1, 0);
    let repository = &shared.repositories[0];
    let blobs = [1u64, 2].map(|seed| {
        let blob = plan::Blob::fresh(&mut StdRng::seed_from_u64(seed));
        assert!(client.push(repository, &blob, plan::Way::Post));
        blob
    });
    let manifest = plan::Manifest::image(blobs.to_vec(), None, 1);
    let tag: model::Name = plan::TAGS[0].into();
    let tags = std::slice::from_ref(&tag);
    assert_eq!(
        client.put_manifest(repository, &manifest, tags),
        client::Taken::Yes
    );
    for lost in [&blobs[0].digest, &manifest.digest] {
        std::fs::remove_file(members[0].file(lost)).unwrap();
    }
    sweep::sweep(&shared, 1);
    let bad = verdict::judge(&shared.recorder.take(), nanos(AGE));
    let kinds: Vec<Kind> = bad.iter().map(|v| v.kind).collect();
    assert_eq!(
        kinds,
        [Kind::LostTag, Kind::LostManifest, Kind::LostBlob],
        "{bad:?}"
    );
}

/// Members that know each other and have nothing.
#[track_caller]
fn members(dir: &std::path::Path, n: usize) -> Vec<Member> {
    let garbage = Garbage {
        age: AGE,
        every: EVERY,
    };
    let mut all: Vec<Member> = Vec::new();
    for i in 0..n {
        let mut member = Member::new(i, dir, garbage);
        let join = all.first().map(Member::join_args);
        member.spawn(&join.unwrap_or_default());
        member.ready();
        all.push(member);
    }
    all[0].wait_voters(n);
    all
}

/// What the clients of these members share.
fn shared(members: &[Member], gates: f64) -> Arc<Shared> {
    let passes = Passes::read(members.iter().map(|m| m.log.clone()).collect());
    let own = (0..CLIENTS).map(|c| Repository::new(format!("soak/own-{c}")));
    let common = (0..COMMON).map(|c| Repository::new(format!("soak/common-{c}")));
    Arc::new(Shared::new(
        members.iter().map(|m| m.registry.clone()).collect(),
        own.chain(common).collect(),
        passes,
        nanos(AGE),
        gates,
    ))
}

fn nanos(d: Duration) -> At {
    At::try_from(d.as_nanos()).unwrap_or(At::MAX)
}

fn soak(name: &str, n: usize) {
    if program::client("gcc").is_none() {
        return;
    }
    let (ops, faults) = (
        setting("CORACLE_SOAK_OPS", OPS),
        setting("CORACLE_SOAK_FAULTS", FAULTS),
    );
    let seed = setting("CORACLE_SOAK_SEED", rand::random());
    println!("{name}: CORACLE_SOAK_SEED={seed}");
    let begin = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let members = members(dir.path(), n);
    // In a short run all gates must be met.
    let shared = shared(&members, if ops > OPS { 0.1 } else { 0.2 });
    let mut nemesis = Nemesis {
        shared: shared.clone(),
        members,
        rng: StdRng::seed_from_u64(seed),
    };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|c| {
            let client = Client::new(&shared, seed ^ ((c as u64 + 1) << 32), 0);
            std::thread::spawn(move || work::run(client, c, COMMON))
        })
        .collect();

    let pace = (ops / (faults.max(1) * Fault::ALL.len() as u64)).clamp(20, 400);
    let mut planned = plan::Faults::new(seed);
    while !enough(&shared, ops, faults) {
        nemesis.work_goes_on(pace);
        nemesis.act(planned.draw());
    }
    shared.stop();
    for client in clients {
        client.join().unwrap();
    }
    let done = shared.operations();

    let swept = sweep::sweep(&shared, seed);
    sweep::only_what_is_needed(&nemesis.members, &swept);
    let mut history = shared.recorder.take();
    history.settle(if n > 1 { nanos(SLACK) } else { 0 });
    let bad = verdict::judge(&history, nanos(AGE));
    println!(
        "{name}: {done} operations, and {} at the end, in {:.0} s, {} violations",
        shared.operations() - done,
        begin.elapsed().as_secs_f64(),
        bad.len()
    );
    report(&shared, n);
    println!("  {swept}");
    assert!(
        bad.is_empty(),
        "{} violations:\n{}",
        bad.len(),
        bad.iter()
            .take(SHOWN)
            .map(|v| v.text.clone())
            .collect::<Vec<_>>()
            .join("\n")
    );
    assert!(enough(&shared, ops, faults));
}

/// Whether everything has happened often enough.
fn enough(shared: &Shared, ops: u64, faults: u64) -> bool {
    let recorder = &shared.recorder;
    let (kinds, gates) = (recorder.counts("fault:"), recorder.counts("gate:"));
    shared.operations() >= ops
        && kinds.len() == Fault::ALL.len()
        && kinds.values().all(|n| *n >= faults)
        && GATES
            .iter()
            .all(|g| gates.get(*g).is_some_and(|n| *n >= faults))
}

/// What happened how often.
fn report(shared: &Shared, n: usize) {
    let recorder = &shared.recorder;
    let lines = |title: &str, prefix: &str| {
        println!("  {title}:");
        for (what, n) in recorder.counts(prefix) {
            println!("    {n:>7} {what}");
        }
    };
    lines("operations", "op:");
    lines("faults", "fault:");
    for kind in recorder.counts("fault:").keys() {
        lines(kind, &format!("{kind} "));
    }
    lines("passes of the collector between two steps", "gate:");
    let passes: u64 = (0..n).map(|m| shared.passes.of(m)).sum();
    println!("  {passes} passes of the collector in all");
    let others = recorder.counts("");
    let named = |what: &str| {
        let kinds = recorder.counts("fault:");
        !what.contains(':') && !kinds.keys().any(|k| what.starts_with(k.as_str()))
    };
    println!("  beside:");
    for (what, n) in others.iter().filter(|(what, _)| named(what)) {
        println!("    {n:>7} {what}");
    }
}
