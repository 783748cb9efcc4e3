//! What the clients were told, in a form that can be judged: for every tag, manifest and blob of every repository the
//! acts on it, each with the time from its request to its answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Nanoseconds since the run began.
pub type At = u64;
/// The answer never came.
pub const NEVER: At = At::MAX;
/// A repository or a tag.
pub type Name = Arc<str>;
/// `algorithm:hex`.
pub type Digest = Arc<str>;

/// What acts are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A tag of a repository.
    Tag(Name, Name),
    /// A manifest in a repository.
    Manifest(Name, Digest),
    /// A blob in a repository.
    Blob(Name, Digest),
    /// The bytes that one member keeps under a digest.
    Copy(usize, Digest),
}

/// How long something may not be collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until then.
    At(At),
    /// As long as this manifest is in the same repository.
    Manifest(Digest),
}

/// One act on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// It was made: a tag to name this manifest, a manifest or blob to be there.
    Set(Digest),
    /// It was deleted.
    Unset,
    /// A tag was deleted if it named this manifest.
    UnsetIf(Digest),
    /// It was there, a tag with this manifest.
    Saw(Digest),
    /// It was not there.
    Missed,
    /// A blob was promised to stay.
    Keep(Until),
    /// A bit of a copy was turned.
    Flip,
    /// A copy was written anew.
    Heal,
    /// A whole blob came and was wrong.
    Wrong(String),
    /// The same of a manifest.
    Torn(String),
    /// A part of a blob came and was wrong.
    Part(String),
}

/// An act with its interval. An act that was not confirmed (`sure` is false) happened in its interval or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The member that was asked.
    pub member: usize,
    /// When the request began.
    pub call: At,
    /// When its answer was there; [`NEVER`] if none came and it may happen at any later time.
    pub ret: At,
    /// Whether the answer said that it happened.
    pub sure: bool,
    pub act: Act,
}

/// A request that got no answer, or one of a server's own fault.
#[derive(Clone, Debug)]
pub struct Trouble {
    pub member: usize,
    pub call: At,
    pub ret: At,
    pub what: String,
}

/// Everything that was written down.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub ops: BTreeMap<Key, Vec<Op>>,
    pub troubles: Vec<Trouble>,
    /// From when to when something was broken on purpose.
    pub faults: Vec<(At, At)>,
    /// When which member was killed.
    pub kills: Vec<(usize, At)>,
    /// What is wrong whatever else happened.
    pub odd: Vec<String>,
}

impl History {
    /// An act that was under way on a member which was then killed is over `slack` later: what the member had handed on
    /// by then has arrived or is lost.
    pub fn settle(&mut self, slack: At) {
        let kills = &self.kills;
        for op in self.ops.values_mut().flatten() {
            if op.ret == NEVER {
                let after = kills
                    .iter()
                    .filter(|(m, at)| *m == op.member && *at > op.call);
                if let Some(at) = after.map(|(_, at)| *at).min() {
                    op.ret = at.saturating_add(slack);
                }
            }
        }
    }
}

/// The history while it grows, and what happened how often.
pub struct Recorder {
    start: Instant,
    history: Mutex<History>,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl Recorder {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            history: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// Now, as histories count.
    pub fn now(&self) -> At {
        At::try_from(self.start.elapsed().as_nanos()).unwrap_or(NEVER - 1)
    }

    pub fn op(&self, key: Key, op: Op) {
        let mut history = self.history.lock().unwrap();
        history.ops.entry(key).or_default().push(op);
    }

    pub fn trouble(&self, trouble: Trouble) {
        self.history.lock().unwrap().troubles.push(trouble);
    }

    pub fn fault(&self, from: At, to: At) {
        self.history.lock().unwrap().faults.push((from, to));
    }

    pub fn kill(&self, member: usize, at: At) {
        self.history.lock().unwrap().kills.push((member, at));
    }

    pub fn odd(&self, what: String) {
        self.history.lock().unwrap().odd.push(what);
    }

    /// One more of this kind.
    pub fn count(&self, what: &str) {
        let mut counts = self.counts.lock().unwrap();
        match counts.get_mut(what) {
            Some(n) => *n += 1,
            None => drop(counts.insert(what.to_string(), 1)),
        }
    }

    /// How often each thing happened whose name begins so.
    pub fn counts(&self, prefix: &str) -> BTreeMap<String, u64> {
        let counts = self.counts.lock().unwrap();
        let named = counts.iter().filter_map(|(k, n)| {
            let rest = k.strip_prefix(prefix)?;
            Some((rest.to_string(), *n))
        });
        named.collect()
    }

    /// The sum of [`Self::counts`].
    pub fn total(&self, prefix: &str) -> u64 {
        self.counts(prefix).values().sum()
    }

    /// Every key that anything was written down about.
    pub fn keys(&self) -> Vec<Key> {
        self.history.lock().unwrap().ops.keys().cloned().collect()
    }

    /// Everything so far.
    pub fn take(&self) -> History {
        std::mem::take(&mut *self.history.lock().unwrap())
    }
}
