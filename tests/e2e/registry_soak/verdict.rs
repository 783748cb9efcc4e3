//! The judge: is there an order of all acts that explains every answer?
//!
//! Each key is looked at by itself. A tag or manifest is a register: what was seen must have been written, and nothing
//! that certainly came later and was certainly over before the look may stand in between. A blob may also be collected,
//! but not while it is young, promised, or named by a manifest that is there. A bit that was turned on purpose and not
//! yet healed explains that a copy is refused or taken for absent, and wrong bytes in a part of a blob, which no digest
//! covers; nothing explains wrong bytes in a whole answer.

use super::model::{Act, At, Digest, History, Key, Name, Op, Until};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A blob that had to be there was not.
    LostBlob,
    /// A manifest that was accepted and not deleted was not there.
    LostManifest,
    /// A tag that was set and not deleted was not there.
    LostTag,
    /// A tag named what it had named before.
    StaleTag,
    /// A deleted tag was there.
    ResurrectedTag,
    /// A deleted manifest was there.
    ResurrectedManifest,
    /// A deleted blob was there.
    ResurrectedBlob,
    /// Something was there that nobody ever made.
    Invented,
    /// A whole answer had other bytes than were pushed.
    WrongBytes,
    /// The same of a manifest.
    TornManifest,
    /// No answer, or a fault of the server, while nothing was broken.
    Unserved,
    /// Anything that no order of acts could excuse.
    Odd,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Violation {
    pub kind: Kind,
    pub text: String,
}

/// Judges everything; `age` is what the collector spares, in nanoseconds.
pub fn judge(history: &History, age: At) -> Vec<Violation> {
    let mut bad = Vec::new();
    for (key, ops) in &history.ops {
        for op in ops {
            let kind = match key {
                Key::Tag(..) => tag(history, ops, op),
                Key::Manifest(_, digest) => manifest(history, digest, ops, op),
                Key::Blob(repository, digest) => blob(history, repository, digest, ops, op, age),
                Key::Copy(..) => copy(ops, op),
            };
            if let Some(kind) = kind {
                let text = format!("{kind:?} {key:?}: {op:?}");
                bad.push(Violation { kind, text });
            }
        }
    }
    for t in &history.troubles {
        let excused = history
            .faults
            .iter()
            .any(|(from, to)| t.call <= *to && *from <= t.ret);
        if !excused {
            let text = format!(
                "Unserved while nothing was broken: member {}, {} to {}: {}",
                t.member, t.call, t.ret, t.what
            );
            let kind = Kind::Unserved;
            bad.push(Violation { kind, text });
        }
    }
    bad.extend(history.odd.iter().map(|what| Violation {
        kind: Kind::Odd,
        text: what.clone(),
    }));
    bad
}

/// Whether an act leaves a register with something else than `value`.
fn ends(act: &Act, value: Option<&Digest>) -> bool {
    match (act, value) {
        (Act::Set(_), _) => true,
        (Act::Unset, Some(_)) => true,
        (Act::UnsetIf(named), Some(value)) => named == value,
        _ => false,
    }
}

/// The beginning of the last act that ended `value` and was certainly over at `before`. An act that made the value and
/// was over earlier than this does not count any more.
fn barrier(ops: &[Op], value: Option<&Digest>, before: At) -> Option<At> {
    let over = ops
        .iter()
        .filter(|w| w.sure && w.ret < before && ends(&w.act, value));
    over.map(|w| w.call).max()
}

/// Whether the register may have held `value` at some moment from `call` to `ret`.
fn possible(ops: &[Op], value: Option<&Digest>, call: At, ret: At) -> bool {
    let barrier = barrier(ops, value, call);
    let counts = |w: &&Op| w.call < ret && barrier.is_none_or(|b| w.ret >= b);
    let mut made = ops.iter().filter(counts);
    match value {
        Some(value) => made.any(|w| matches!(&w.act, Act::Set(v) if v == value)),
        // At first there is nothing.
        None => {
            barrier.is_none()
                || made.any(|w| match &w.act {
                    Act::Unset => true,
                    Act::UnsetIf(named) => possible(ops, Some(named), w.call, w.ret),
                    _ => false,
                })
        }
    }
}

/// Whether a member's copy may have had a turned bit from `call` to `ret`.
fn damaged(history: &History, member: usize, digest: &Digest, call: At, ret: At) -> bool {
    let ops = history.ops.get(&Key::Copy(member, digest.clone()));
    ops.is_some_and(|ops| turned(ops, call, ret))
}

fn turned(ops: &[Op], call: At, ret: At) -> bool {
    let heals = ops
        .iter()
        .filter(|h| h.act == Act::Heal && h.sure && h.ret < call);
    let healed = heals.map(|h| h.call).max();
    ops.iter()
        .any(|f| f.act == Act::Flip && f.call <= ret && healed.is_none_or(|h| f.ret >= h))
}

fn tag(history: &History, ops: &[Op], op: &Op) -> Option<Kind> {
    match &op.act {
        Act::Saw(digest) => {
            if possible(ops, Some(digest), op.call, op.ret) {
                return None;
            }
            let names = |w: &Op| matches!(&w.act, Act::Set(d) if d == digest);
            if !ops.iter().any(|w| names(w) && w.call < op.ret) {
                return Some(Kind::Invented);
            }
            // What ended it: the last act that counts for nobody else.
            let over = ops
                .iter()
                .filter(|w| w.sure && w.ret < op.call && ends(&w.act, Some(digest)));
            match over.max_by_key(|w| w.call).map(|w| &w.act) {
                Some(Act::Set(_)) | None => Some(Kind::StaleTag),
                Some(_) => Some(Kind::ResurrectedTag),
            }
        }
        Act::Missed => {
            if possible(ops, None, op.call, op.ret) {
                return None;
            }
            // A manifest whose bytes are known to be bad counts as none.
            let bad = ops.iter().any(|w| match &w.act {
                Act::Set(d) => {
                    possible(ops, Some(d), op.call, op.ret)
                        && damaged(history, op.member, d, op.call, op.ret)
                }
                _ => false,
            });
            (!bad).then_some(Kind::LostTag)
        }
        _ => None,
    }
}

fn manifest(history: &History, digest: &Digest, ops: &[Op], op: &Op) -> Option<Kind> {
    match &op.act {
        Act::Saw(_) if possible(ops, Some(digest), op.call, op.ret) => None,
        Act::Saw(_) => {
            let made = |w: &Op| matches!(w.act, Act::Set(_)) && w.call < op.ret;
            Some(match ops.iter().any(made) {
                true => Kind::ResurrectedManifest,
                false => Kind::Invented,
            })
        }
        Act::Missed => {
            let fine = possible(ops, None, op.call, op.ret)
                || damaged(history, op.member, digest, op.call, op.ret);
            (!fine).then_some(Kind::LostManifest)
        }
        _ => None,
    }
}

fn blob(
    history: &History,
    repository: &Name,
    digest: &Digest,
    ops: &[Op],
    op: &Op,
    age: At,
) -> Option<Kind> {
    match &op.act {
        Act::Saw(_) => {
            if possible(ops, Some(digest), op.call, op.ret) {
                return None;
            }
            let made = |w: &Op| matches!(w.act, Act::Set(_)) && w.call < op.ret;
            Some(match ops.iter().any(made) {
                true => Kind::ResurrectedBlob,
                false => Kind::Invented,
            })
        }
        Act::Missed => {
            let kept = ops
                .iter()
                .any(|p| keeps(history, repository, p, op, age) && !deleted(ops, p, op));
            let fine = !kept || damaged(history, op.member, digest, op.call, op.ret);
            (!fine).then_some(Kind::LostBlob)
        }
        _ => None,
    }
}

/// Whether `p` keeps the collector from a blob during the whole look `op`.
fn keeps(history: &History, repository: &Name, p: &Op, op: &Op, age: At) -> bool {
    if !p.sure || p.ret > op.call {
        return false;
    }
    match &p.act {
        Act::Set(_) => op.ret <= p.call.saturating_add(age),
        Act::Keep(Until::At(until)) => op.ret <= *until,
        Act::Keep(Until::Manifest(named)) => {
            let key = Key::Manifest(repository.clone(), named.clone());
            let all = history.ops.get(&key).into_iter().flatten();
            // From the first deletion that may have come after, the manifest may be gone.
            let mut gone = all.filter(|d| d.act == Act::Unset && d.ret > p.call);
            gone.all(|d| d.call > op.ret)
        }
        _ => false,
    }
}

/// Whether a client's deletion may have come between `p` and the end of the look.
fn deleted(ops: &[Op], p: &Op, op: &Op) -> bool {
    ops.iter()
        .any(|d| d.act == Act::Unset && d.ret > p.call && d.call < op.ret)
}

fn copy(ops: &[Op], op: &Op) -> Option<Kind> {
    match &op.act {
        Act::Wrong(_) => Some(Kind::WrongBytes),
        Act::Torn(_) => Some(Kind::TornManifest),
        Act::Part(_) => (!turned(ops, op.call, op.ret)).then_some(Kind::WrongBytes),
        _ => None,
    }
}
