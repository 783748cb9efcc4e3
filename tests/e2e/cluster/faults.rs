//! Three members under every kind of fault, with clients and watchers on all of them.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::client::{Client, Reply};
use super::fleet::{Fleet, SmallDisk};
use super::history::{Action, Op, Outcome};
use super::nemesis::{Fault, Nemesis};
use super::shim::Shim;
use super::watcher::Watchers;
use super::workload::{PACE, Workload};
use super::{linear, net, setting, verdict, workload};
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

/// A member that is cut off may know nothing of a write: asked in earnest it does not answer; asked for whatever it has,
/// it answers with the past. Taken for an earnest answer, that is what the checker must find.
#[test]
fn a_cut_off_member_gives_no_stale_answer_and_the_checker_would_find_one() {
    if !net::possible() {
        return;
    }
    let mut fleet = Fleet::start(MEMBERS);
    verdict::prepare(&fleet);
    let leader = fleet.leader();
    let alone = (leader + 1) % MEMBERS;
    for other in (0..MEMBERS).filter(|o| *o != alone) {
        fleet.net.cut(alone, other);
    }
    let work = Workload::start(&fleet.runtime, &fleet.credentials, MEMBERS, 0, PACE, 0);
    let ask = |member: usize, action: Action| {
        let mut client = Client::new(&fleet.credentials, member);
        let shared = work.shared.clone();
        fleet.on_bridge(async move {
            workload::call(&shared, &mut client, 0, member, "k0-0".into(), action).await
        });
    };
    ask(leader, Action::Create(1));
    ask(alone, Action::Get);
    let mut history = work.shared.recorder.take();
    let [written, read] = &history.ops[..] else {
        panic!("two calls: {history:?}");
    };
    assert!(
        matches!(written.outcome, Outcome::Done(Some(_))),
        "{written:?}"
    );
    assert!(
        matches!(read.outcome, Outcome::Unknown(_)),
        "a stale read: {read:?}"
    );
    assert!(
        linear::check(&history, &Default::default())
            .illegal
            .is_empty()
    );

    let any = format!("{}/k0-0?resourceVersion=0", workload::COLLECTION);
    let call = work.shared.recorder.now();
    let reply = fleet.call(alone, http::Method::GET, &any, None);
    assert!(
        matches!(reply, Reply::Answer(http::StatusCode::NOT_FOUND, _)),
        "{reply:?}"
    );
    history.ops.push(Op {
        client: 0,
        member: alone,
        key: "k0-0".into(),
        action: Action::Get,
        outcome: Outcome::Absent,
        call,
        ret: work.shared.recorder.now(),
    });
    let verdict = linear::check(&history, &Default::default());
    assert_eq!(verdict.illegal.len(), 1, "{verdict:?}");
    fleet.net.heal();
    fleet.wait_writable();
}
