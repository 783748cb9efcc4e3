//! What clients asked and what they were told, with the times between which it must have happened.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A key's content: a number that no other write of the history carries.
pub type Value = u64;
/// A resourceVersion.
pub type Revision = u64;

/// What a client asked for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create with this content.
    Create(Value),
    /// Update whatever is there.
    Put(Value),
    /// Update only if the content is still `expect` (sent as its resourceVersion).
    Cas { expect: Value, value: Value },
    /// Delete whatever is there.
    Delete,
    /// Read.
    Get,
}

impl Action {
    /// What it writes.
    pub fn value(self) -> Option<Value> {
        match self {
            Action::Create(v) | Action::Put(v) | Action::Cas { value: v, .. } => Some(v),
            Action::Delete | Action::Get => None,
        }
    }
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; the object's resourceVersion where the answer has one.
    Done(Option<Revision>),
    /// Read: content and resourceVersion.
    Seen(Value, Revision),
    /// 404.
    Absent,
    /// 409: it exists already, or it is no longer what was expected.
    Conflict,
    /// It never reached the cluster, or the cluster refused it for good: it has no effect.
    Refused(String),
    /// No answer, or one that promises nothing: it may take effect at any time after the call, or never.
    Unknown(String),
}

/// One call.
#[derive(Clone, Debug)]
pub struct Op {
    /// Which client; a client has one call open at a time.
    pub client: u32,
    /// Which member was asked.
    pub member: usize,
    /// The object's name.
    pub key: String,
    pub action: Action,
    pub outcome: Outcome,
    /// Nanoseconds since the history began.
    pub call: i64,
    /// The same; `i64::MAX` while nobody knows.
    pub ret: i64,
}

/// A list of the objects of one epoch.
#[derive(Clone, Debug)]
pub struct Listing {
    pub client: u32,
    pub member: usize,
    pub epoch: u64,
    pub revision: Revision,
    pub items: BTreeMap<String, (Value, Revision)>,
    pub call: i64,
    pub ret: i64,
}

/// Everything that was asked.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub ops: Vec<Op>,
    pub lists: Vec<Listing>,
}

/// A history while it is being written.
pub struct Recorder {
    start: Instant,
    all: Mutex<History>,
    /// Calls that have ended, lists included.
    ended: AtomicU64,
    /// Writes that were acknowledged.
    acked: AtomicU64,
    next_value: AtomicU64,
}

impl Recorder {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            all: Mutex::default(),
            ended: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            next_value: AtomicU64::new(1),
        }
    }

    /// Now, as histories count.
    pub fn now(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }

    /// A content that nobody wrote before.
    pub fn fresh_value(&self) -> Value {
        self.next_value.fetch_add(1, Ordering::SeqCst)
    }

    pub fn op(&self, mut op: Op) {
        if matches!(op.outcome, Outcome::Unknown(_)) {
            op.ret = i64::MAX;
        }
        let write = op.action != Action::Get && matches!(op.outcome, Outcome::Done(_));
        self.all.lock().unwrap().ops.push(op);
        self.acked.fetch_add(u64::from(write), Ordering::SeqCst);
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    pub fn list(&self, list: Listing) {
        self.all.lock().unwrap().lists.push(list);
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// Calls ended so far.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Writes acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// Whether a write that began at or after `since` was acknowledged, and when the first of them was.
    pub fn first_ack_since(&self, since: i64) -> Option<i64> {
        let all = self.all.lock().unwrap();
        // Calls end roughly in order: those that began after `since` are near the end.
        let done = |o: &&Op| {
            o.action != Action::Get && matches!(o.outcome, Outcome::Done(_)) && o.call >= since
        };
        let recent = all.ops.iter().rev().take_while(|o| o.ret >= since);
        recent.filter(done).map(|o| o.ret).min()
    }

    /// The history so far.
    pub fn take(&self) -> History {
        std::mem::take(&mut *self.all.lock().unwrap())
    }
}
