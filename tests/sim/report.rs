//! What a run had in it, and what a failed one says.

use crate::Knobs;

/// Counts of one run, or the sum over several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Events taken.
    pub steps: u64,
    /// Log entries committed.
    pub entries: u64,
    /// Machines and members that crashed.
    pub crashes: u64,
    /// Replies lost after commit.
    pub lost_replies: u64,
    /// Watches that broke and were listed anew.
    pub relists: u64,
    /// Leadership moved.
    pub leader_moves: u64,
    /// Deployments that were given another template.
    pub rollouts: u64,
    /// Requests that reached a replica.
    pub requests: u64,
    /// Requests that found no replica, or lost theirs to a crash.
    pub misses: u64,
    /// Pods drained by the handshake.
    pub drains: u64,
    /// Nodes that were given up.
    pub lost_nodes: u64,
}

impl Report {
    /// Adds the counts of another run.
    pub fn add(&mut self, more: &Report) {
        for (to, from) in self.fields_mut().into_iter().zip(more.fields()) {
            *to.1 += from.1;
        }
    }

    /// Kinds of trouble that never came up: a run of many seeds without them proves less than it seems to.
    pub fn missing(&self) -> Vec<&'static str> {
        let must = [
            "crashes",
            "lost replies",
            "relists",
            "leader moves",
            "rollouts",
            "requests",
            "drains",
            "lost nodes",
        ];
        self.fields()
            .into_iter()
            .filter(|(name, n)| *n == 0 && must.contains(name))
            .map(|(name, _)| name)
            .collect()
    }

    fn fields(&self) -> [(&'static str, u64); 11] {
        [
            ("steps", self.steps),
            ("entries", self.entries),
            ("crashes", self.crashes),
            ("lost replies", self.lost_replies),
            ("relists", self.relists),
            ("leader moves", self.leader_moves),
            ("rollouts", self.rollouts),
            ("requests", self.requests),
            ("misses", self.misses),
            ("drains", self.drains),
            ("lost nodes", self.lost_nodes),
        ]
    }

    fn fields_mut(&mut self) -> [(&'static str, &mut u64); 11] {
        [
            ("steps", &mut self.steps),
            ("entries", &mut self.entries),
            ("crashes", &mut self.crashes),
            ("lost replies", &mut self.lost_replies),
            ("relists", &mut self.relists),
            ("leader moves", &mut self.leader_moves),
            ("rollouts", &mut self.rollouts),
            ("requests", &mut self.requests),
            ("misses", &mut self.misses),
            ("drains", &mut self.drains),
            ("lost nodes", &mut self.lost_nodes),
        ]
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self
            .fields()
            .iter()
            .map(|(name, n)| format!("{n} {name}"))
            .collect();
        f.write_str(&parts.join(", "))
    }
}

/// A property that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Steps asked for.
    pub steps: u64,
    /// Virtual time since the start, in ms.
    pub at_ms: i64,
    /// Name of the property.
    pub property: &'static str,
    /// What was seen.
    pub message: String,
    /// The knobs of the world.
    pub knobs: Knobs,
    /// The last things that happened, oldest first.
    pub trail: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.trail {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "{:?}", self.knobs)?;
        writeln!(
            f,
            "VIOLATION {} at {} ms: {}",
            self.property, self.at_ms, self.message
        )?;
        write!(
            f,
            "replay: cargo xtask sim --seed {} --steps {}",
            self.seed, self.steps
        )
    }
}

impl std::error::Error for Failure {}
