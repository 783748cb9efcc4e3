//! The end of a run: clients stop, watchers catch up, and everything that was written down is judged.

use std::collections::BTreeMap;

use serde_json::json;

use super::client::{Client, Reply};
use super::fleet::Fleet;
use super::history::{Action, Outcome};
use super::trace::Counts;
use super::watcher::Watchers;
use super::workload::{NAMESPACE, Workload};
use super::{linear, revisions, trace, workload};
use crate::harness::cluster::LONG;
use crate::harness::program::wait_for;

/// Violations that are printed; one cause has many effects.
const SHOWN: usize = 20;

/// What was judged.
#[derive(Debug, Default)]
pub struct Summary {
    pub ops: usize,
    pub lists: usize,
    pub acked: usize,
    pub unknown: usize,
    pub refused: usize,
    pub keys: usize,
    /// Calls that an explanation was found for, reads taken from lists included.
    pub explained: usize,
    pub watch: Counts,
}

/// The namespace of the workload, made before anything else.
#[track_caller]
pub fn prepare(fleet: &Fleet) {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    wait_for("the workload's namespace", LONG, || {
        match fleet.call(0, http::Method::POST, "/api/v1/namespaces", Some(&object)) {
            Reply::Answer(status, _) if status.is_success() || status == 409 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // Every member knows it before a client writes there.
    for i in 0..fleet.members.len() {
        wait_for("the namespace on every member", LONG, || {
            fleet.get(i, &format!("/api/v1/namespaces/{NAMESPACE}"))
        });
    }
}

/// Stops everything, checks everything, and panics with all violations.
#[track_caller]
pub fn judge(fleet: &Fleet, mut work: Workload, watchers: Watchers) -> Summary {
    work.stop();
    // One last write that every watcher must reach.
    let shared = work.shared.clone();
    let (mut turn, before) = (0, shared.recorder.acked());
    wait_for("the last write", LONG, || {
        let member = turn % fleet.members.len();
        turn += 1;
        let mut client = Client::new(&fleet.credentials, member);
        let value = shared.recorder.fresh_value();
        // A name of its own per try: an unanswered try may still take effect.
        let key = format!("end{turn}-0");
        let create = Action::Create(value);
        let told = shared.clone();
        fleet.on_bridge(async move {
            workload::call(&told, &mut client, u32::MAX, member, key, create).await
        });
        if shared.recorder.acked() > before {
            Ok(())
        } else {
            Err(format!("not acknowledged by member {}", member + 1))
        }
    });
    let history = shared.recorder.take();
    let mut last = 0;
    let mut summary = Summary {
        ops: history.ops.len(),
        lists: history.lists.len(),
        ..Summary::default()
    };
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for op in &history.ops {
        match &op.outcome {
            Outcome::Done(r) => {
                last = last.max(r.unwrap_or(0));
                summary.acked += 1;
            }
            Outcome::Unknown(why) => {
                summary.unknown += 1;
                *reasons.entry(why.chars().take(100).collect()).or_default() += 1;
            }
            Outcome::Refused(_) => summary.refused += 1,
            _ => {}
        }
    }
    let traces = watchers.finish(last);
    let mut bad = Vec::new();
    let log = trace::merge(&traces, &mut bad);
    summary.watch = trace::check(&traces, &log, last, &mut bad);
    bad.extend(revisions::check(&history, &log));
    let never = revisions::never_happened(&history, &log);
    let verdict = linear::check(&history, &never);
    (summary.keys, summary.explained) = (verdict.keys, verdict.calls);
    bad.extend(
        verdict
            .illegal
            .iter()
            .map(|k| format!("not linearizable: {k}")),
    );
    bad.extend(verdict.undecided.iter().map(|k| format!("undecided: {k}")));
    bad.extend(shared.unexpected.lock().unwrap().iter().cloned());
    for (why, n) in reasons {
        println!("  {n} calls without a promise: {why}");
    }
    assert!(
        bad.is_empty(),
        "{} violations:\n{}",
        bad.len(),
        bad.iter()
            .take(SHOWN)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    );
    summary
}

/// Every running member has applied the same log to the same state.
#[track_caller]
pub fn same_state(fleet: &Fleet) {
    wait_for("equal state hashes", LONG, || {
        let mut all = Vec::new();
        for i in 0..fleet.members.len() {
            let s = fleet.get(i, "/coracle/v1/status")?;
            all.push((s["applied"].clone(), s["hash"].clone()));
        }
        // Only at one and the same log position do hashes say anything.
        let first = &all[0];
        if first.1.is_null() {
            return Err(format!("no hash in the status: {all:?}"));
        }
        if all.iter().all(|s| s.0 == first.0) {
            assert!(
                all.iter().all(|s| s.1 == first.1),
                "members differ in state: {all:?}"
            );
            return Ok(());
        }
        Err(format!("{all:?}"))
    });
}
