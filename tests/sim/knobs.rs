//! Swarm knobs: how large, how slow and how broken the world of a seed is.

use crate::dice::Dice;

/// The knobs of one world. Chances are in thousandths, times in milliseconds.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// Members of the control plane: 1, 3 or 5.
    pub members: usize,
    /// Nodes that run pods.
    pub nodes: usize,
    /// CPU of each node in thousandths.
    pub node_cpu_millis: u64,
    /// How long a lease runs; renewed four times in that time.
    pub lease_ms: u64,
    /// How long pods stay on a node that was found unreachable.
    pub eviction_ms: i64,
    /// Longest way of a proposal to the leader.
    pub propose_ms_max: u64,
    /// Longest time until a follower has an entry.
    pub follow_ms_max: u64,
    /// Longest way of a watch event.
    pub watch_ms_max: u64,
    /// Longest start of an instance (each of its steps).
    pub start_ms_max: u64,
    /// Longest request.
    pub request_ms_max: u64,
    /// Grace period of pods in seconds.
    pub grace_seconds: u64,
    /// Replies lost after commit.
    pub lost_reply: u64,
    /// Proposals lost before commit.
    pub lost_proposal: u64,
    /// Watches that break when they deliver.
    pub broken_watch: u64,
    /// Proxy reports lost.
    pub lost_ack: u64,
    /// Pulls that fail for a while.
    pub failed_pull: u64,
    /// Longest time between two faults.
    pub fault_ms_max: u64,
    /// Longest time between two acts of the user.
    pub user_ms_max: u64,
    /// Longest time between two requests.
    pub between_requests_ms_max: u64,
    /// Old leaders' proposals that arrive late instead of never.
    pub late_proposal: u64,
}

impl Knobs {
    /// Draws the knobs of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut d = Dice::new(seed, "knobs");
        let mut one_of = |choices: &[u64]| d.pick(choices).copied().unwrap_or_default();
        Self {
            members: one_of(&[1, 3, 3, 5]) as usize,
            nodes: one_of(&[1, 2, 3, 3, 4, 5]) as usize,
            node_cpu_millis: one_of(&[900, 4000, 4000, 8000]),
            lease_ms: one_of(&[1_000, 2_000, 4_000, 10_000]),
            eviction_ms: one_of(&[0, 500, 1_000]) as i64,
            propose_ms_max: one_of(&[2, 5, 20]),
            follow_ms_max: one_of(&[3, 20, 200]),
            watch_ms_max: one_of(&[3, 10, 60]),
            start_ms_max: one_of(&[5, 50, 400]),
            request_ms_max: one_of(&[2, 20, 200]),
            grace_seconds: one_of(&[3, 10, 30]),
            lost_reply: one_of(&[0, 20, 60, 150]),
            lost_proposal: one_of(&[0, 10, 50]),
            broken_watch: one_of(&[2, 10, 40]),
            lost_ack: one_of(&[0, 50, 300]),
            failed_pull: one_of(&[0, 20, 200]),
            fault_ms_max: one_of(&[500, 1_500, 4_000]),
            user_ms_max: one_of(&[200, 1_000, 4_000]),
            between_requests_ms_max: one_of(&[10, 50, 200]),
            late_proposal: one_of(&[0, 300, 1000]),
        }
    }

    /// A quiet world, for scripts: nothing is lost, and everything takes a few milliseconds.
    pub fn quiet(members: usize) -> Self {
        Self {
            members,
            nodes: 0,
            node_cpu_millis: 4000,
            lease_ms: 40_000,
            eviction_ms: 1_000,
            propose_ms_max: 2,
            follow_ms_max: 3,
            watch_ms_max: 3,
            start_ms_max: 5,
            request_ms_max: 20,
            grace_seconds: 30,
            lost_reply: 0,
            lost_proposal: 0,
            broken_watch: 0,
            lost_ack: 0,
            failed_pull: 0,
            fault_ms_max: 1_000,
            user_ms_max: 1_000,
            between_requests_ms_max: 10,
            late_proposal: 0,
        }
    }
}
