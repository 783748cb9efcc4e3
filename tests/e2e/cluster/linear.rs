//! Linearizability per key: a key is a register that can be absent; porcupine searches an order of the calls that
//! explains every answer and agrees with real time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};

use super::history::{Action, History, Outcome, Value};

/// Time for one key. Keys have some 60 calls of 8 clients, which takes milliseconds; the limit is for histories with so
/// many unanswered calls that the search explodes.
const KEY_LIMIT: Duration = Duration::from_secs(20);

/// A register that can be absent.
#[derive(Clone, Debug)]
struct Register;

/// One call and its answer.
#[derive(Clone, Debug)]
struct Step {
    action: Action,
    answer: Answer,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Done,
    Seen(Value),
    Absent,
    Conflict,
    /// Takes effect if it can, else does nothing: since its return lies at the end of time, "never" is covered too.
    Unknown,
}

impl Model for Register {
    type State = Option<Value>;
    type Op = Step;
    /// The member that was asked.
    type Metadata = usize;

    fn init() -> Self::State {
        None
    }

    fn step(state: &Self::State, op: &Step) -> (bool, Self::State) {
        let s = *state;
        // What the call does to this state: the new state, or why not.
        let effect = match op.action {
            Action::Create(_) if s.is_some() => Err(Answer::Conflict),
            Action::Create(v) => Ok(Some(v)),
            Action::Get => Ok(s),
            _ if s.is_none() => Err(Answer::Absent),
            Action::Put(v) => Ok(Some(v)),
            Action::Cas { expect, value } if s == Some(expect) => Ok(Some(value)),
            Action::Cas { .. } => Err(Answer::Conflict),
            Action::Delete => Ok(None),
        };
        // Between a look at the object and the write it may be deleted: it is not what was expected either.
        let vanished = matches!(op.action, Action::Cas { .. }) && s.is_none();
        match (op.answer, effect) {
            (Answer::Conflict, Err(Answer::Absent)) => (vanished, s),
            (Answer::Unknown, Ok(new)) => (true, new),
            (Answer::Unknown, Err(_)) => (true, s),
            (Answer::Seen(v), Ok(_)) => (s == Some(v), s),
            (Answer::Absent, Ok(_)) if op.action == Action::Get => (s.is_none(), s),
            (Answer::Done, Ok(new)) => (op.action != Action::Get, new),
            (Answer::Absent, Err(Answer::Absent)) | (Answer::Conflict, Err(Answer::Conflict)) => {
                (true, s)
            }
            _ => (false, s),
        }
    }
}

/// What the check found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Keys that were checked.
    pub keys: usize,
    /// Calls that were checked, reads taken from lists included.
    pub calls: usize,
    /// Keys whose history has no explanation, with that history.
    pub illegal: Vec<String>,
    /// Keys that could not be decided in time.
    pub undecided: Vec<String>,
}

/// Checks every key. `never` holds contents that are known never to have been written: their unanswered calls are left
/// out, which only makes a second, narrower search possible where the first one explodes.
pub fn check(history: &History, never: &BTreeSet<Value>) -> Verdict {
    let mut keys: BTreeMap<&str, Vec<Operation<Register>>> = BTreeMap::new();
    let mut life: BTreeMap<&str, (u64, i64, i64)> = BTreeMap::new();
    for op in &history.ops {
        let life = life
            .entry(&op.key)
            .or_insert((epoch(&op.key), i64::MAX, i64::MIN));
        life.1 = life.1.min(op.call);
        if op.ret != i64::MAX {
            life.2 = life.2.max(op.ret);
        }
        let answer = match &op.outcome {
            Outcome::Done(_) => Answer::Done,
            Outcome::Seen(v, _) => Answer::Seen(*v),
            Outcome::Absent => Answer::Absent,
            Outcome::Conflict => Answer::Conflict,
            Outcome::Refused(_) => continue,
            Outcome::Unknown(_) if op.action == Action::Get => continue,
            Outcome::Unknown(_) => Answer::Unknown,
        };
        keys.entry(&op.key).or_default().push(Operation {
            client_id: Some(op.client),
            call_time: op.call,
            return_time: op.ret,
            op: Step {
                action: op.action,
                answer,
            },
            metadata: Some(op.member),
        });
    }
    // A list reads every key of its epoch at one moment.
    for list in &history.lists {
        for (key, (epoch, first, last)) in &life {
            if *epoch != list.epoch || *last < list.call || *first > list.ret {
                continue;
            }
            let answer = match list.items.get(*key) {
                Some((v, _)) => Answer::Seen(*v),
                None => Answer::Absent,
            };
            keys.entry(key).or_default().push(Operation {
                client_id: Some(list.client),
                call_time: list.call,
                return_time: list.ret,
                op: Step {
                    action: Action::Get,
                    answer,
                },
                metadata: Some(list.member),
            });
        }
    }
    let mut verdict = Verdict {
        keys: keys.len(),
        calls: keys.values().map(Vec::len).sum(),
        ..Verdict::default()
    };
    for (key, ops) in keys {
        let mut result = check_operations_timeout(&ops, KEY_LIMIT);
        if result == CheckResult::Unknown {
            let happened = |o: &Operation<Register>| {
                !matches!(o.op.answer, Answer::Unknown)
                    || o.op.action.value().is_none_or(|v| !never.contains(&v))
            };
            let narrower: Vec<_> = ops.iter().filter(|o| happened(o)).cloned().collect();
            result = check_operations_timeout(&narrower, KEY_LIMIT);
        }
        match result {
            CheckResult::Ok => {}
            CheckResult::Illegal => verdict.illegal.push(told(key, ops)),
            CheckResult::Unknown => verdict.undecided.push(told(key, ops)),
        }
    }
    verdict
}

/// The epoch in a key's name, `kI-EPOCH`.
pub fn epoch(key: &str) -> u64 {
    key.rsplit_once('-')
        .and_then(|(_, e)| e.parse().ok())
        .unwrap_or(0)
}

/// A key's history in order of its calls, for a person to read.
fn told(key: &str, mut ops: Vec<Operation<Register>>) -> String {
    ops.sort_by_key(|o| o.call_time);
    let lines: Vec<String> = ops
        .iter()
        .map(|o| {
            let ret = match o.return_time {
                i64::MAX => "-".into(),
                t => format!("{:.3}", t as f64 / 1e6),
            };
            format!(
                "  {:.3}..{ret} ms client {} on member {} {:?} -> {:?}",
                o.call_time as f64 / 1e6,
                o.client_id.unwrap_or_default(),
                o.metadata.unwrap_or_default() + 1,
                o.op.action,
                o.op.answer
            )
        })
        .collect();
    format!("{key}:\n{}", lines.join("\n"))
}
