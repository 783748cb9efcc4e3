//! Three members under every kind of fault, with clients and watchers on all of them.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::fleet::{Fleet, SmallDisk};
use super::nemesis::{Fault, Nemesis};
use super::shim::Shim;
use super::watcher::Watchers;
use super::workload::{PACE, Workload};
use super::{net, setting, verdict};
use crate::harness::cluster::LONG;
use crate::harness::program::wait_for;

const MEMBERS: usize = 3;
/// Each kind of fault comes at least so often.
const ROUNDS: u64 = 5;
/// Calls at least.
const OPS: u64 = 2_000;
const CLIENTS: u32 = 6;
/// The pace of a long run, which is to end some day.
const BUSY: Duration = Duration::from_millis(8);
const WATCHERS: usize = 3;
/// The member with the small disk.
const SMALL: usize = 2;
/// Large enough for the log's files, the ballast and some history.
const SMALL_MIB: u32 = 512;

#[test]
fn cluster_survives_faults() {
    if !net::possible() {
        return;
    }
    let (ops, faults) = (
        setting("CORACLE_CLUSTER_OPS", OPS),
        setting("CORACLE_CLUSTER_FAULTS", 0),
    );
    let seed = setting("CORACLE_CLUSTER_SEED", rand::random());
    println!("cluster_survives_faults: CORACLE_CLUSTER_SEED={seed}");
    let pace = if ops > OPS { BUSY } else { PACE };
    let begin = std::time::Instant::now();
    let disks = tempfile::tempdir().unwrap();
    let small = SmallDisk::new(disks.path().join("small"), SMALL_MIB);
    let shims = std::cell::RefCell::new(Vec::new());
    let mut fleet = Fleet::start_with(MEMBERS, &|m| {
        if m.index == SMALL {
            m.data = small.0.join("data");
        }
        shims.borrow_mut().push(Shim::of(m));
    });
    verdict::prepare(&fleet);
    let watchers = Watchers::start(&fleet.runtime, &fleet.credentials, MEMBERS, WATCHERS, seed);
    let work = Workload::start(
        &fleet.runtime,
        &fleet.credentials,
        MEMBERS,
        CLIENTS,
        pace,
        seed,
    );
    let mut nemesis = Nemesis {
        rng: StdRng::seed_from_u64(seed),
        shims: shims.into_inner(),
        small: (SMALL, small),
        done: Default::default(),
    };
    let mut rounds = 0;
    while rounds < ROUNDS || (nemesis.total() as u64) < faults || work.shared.calls() < ops {
        let mut order = Fault::ALL;
        order.shuffle(&mut nemesis.rng);
        for fault in order {
            nemesis.act(fault, &mut fleet, &work.shared);
        }
        rounds += 1;
    }
    wait_for("the rest of the calls", LONG, || {
        match work.shared.recorder.ended() {
            n if n >= ops => Ok(()),
            n => Err(format!("{n} calls")),
        }
    });
    let summary = verdict::judge(&fleet, work, watchers);
    verdict::same_state(&fleet);
    println!(
        "cluster_survives_faults: {} faults in {:.0} s, no violation\n{}  {summary:?}",
        nemesis.total(),
        begin.elapsed().as_secs_f64(),
        nemesis.report()
    );
    assert!(summary.ops as u64 + summary.lists as u64 >= ops);
    assert!(nemesis.done.len() == Fault::ALL.len());
}
