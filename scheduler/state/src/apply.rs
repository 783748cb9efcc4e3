//! `apply`: the one way the state changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use coracle_api::{Amounts, Attrs, Claim, Key, Timestamp};
use imbl::OrdMap;
use jiff::SignedDuration;
use serde_json::Value;

use crate::command::{Applied, Batch, Command, Expect, Op, Refused};
use crate::ring::{Change, Event, Frame};
use crate::table::{Obj, Table, internal};
use crate::{Results, View};

/// Answers kept for retried proposals: at 10,000 proposals/s this covers 6 s, longer than any retry after a failover.
pub const REPLIES_MAX: usize = 65_536;

/// Whether commands neither claim anything nor touch an object twice: then each one's outcome does not depend on the
/// others of its group.
fn independent(commands: &[Command]) -> bool {
    let plain = |c: &Command| !matches!(&c.op, Op::Put { claims, .. } if !claims.is_empty());
    // Groups are a handful of commands; larger ones are not worth a look at every pair.
    commands.len() <= 8
        && commands.iter().all(plain)
        && commands.iter().enumerate().all(|(i, a)| {
            commands
                .iter()
                .skip(i + 1)
                .all(|b| a.table != b.table || a.key != b.key)
        })
}

/// The state of the cluster on one member.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) view: View,
    /// Counter of internal tables' rows.
    pub(crate) internal_revision: u64,
    /// Commutative sum of row hashes.
    pub(crate) hash: u64,
    /// Results by request id, and the order in which to forget them.
    pub(crate) replies: OrdMap<u64, Arc<Results>>,
    pub(crate) reply_order: imbl::Vector<u64>,
}

impl State {
    /// A snapshot of what is applied.
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.view.revision
    }

    /// Hash over every row and counter; equal on members that applied the same log.
    pub fn hash(&self) -> u64 {
        self.hash
            .wrapping_add(self.view.revision.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .wrapping_add(self.internal_revision.wrapping_mul(0xff51_afd7_ed55_8ccd))
    }

    /// Applies one log entry. One result per command, in order.
    pub fn apply(&mut self, batch: &Batch) -> Results {
        if batch.request_id != 0
            && let Some(known) = self.replies.get(&batch.request_id)
        {
            return known.as_ref().clone();
        }
        // Logged time rises by at least a millisecond per entry, whatever the leaders' clocks say.
        let floor = self
            .view
            .at
            .checked_add(SignedDuration::from_millis(1))
            .unwrap_or(self.view.at);
        self.view.at = batch.at.max(floor);
        let at = self.view.at;
        let mut results = Vec::with_capacity(batch.commands.len());
        let mut rest = &batch.commands[..];
        while let Some(first) = rest.first() {
            let n = if first.group == 0 {
                1
            } else {
                rest.iter().take_while(|c| c.group == first.group).count()
            };
            let (group, tail) = rest.split_at(n);
            rest = tail;
            if n == 1 {
                results.push(self.command(at, first));
            } else {
                self.group(at, group, &mut results);
            }
        }
        self.view.tables.trim(at);
        if batch.request_id != 0 {
            self.replies
                .insert(batch.request_id, Arc::new(results.clone()));
            self.reply_order.push_back(batch.request_id);
            while self.reply_order.len() > REPLIES_MAX {
                if let Some(old) = self.reply_order.pop_front() {
                    self.replies.remove(&old);
                }
            }
        }
        results
    }

    /// All or none. Where only preconditions can refuse, they are looked at first and nothing has to be taken back; that
    /// is every create in a namespace. Otherwise it is tried on a clone, which is kept only if nothing was refused.
    fn group(&mut self, at: Timestamp, commands: &[Command], results: &mut Results) {
        if independent(commands) {
            let checked: Vec<Option<Refused>> =
                commands.iter().map(|c| self.precondition(c)).collect();
            if checked.iter().all(Option::is_none) {
                results.extend(commands.iter().map(|c| self.command(at, c)));
            } else {
                results.extend(
                    checked
                        .into_iter()
                        .map(|refused| Err(refused.unwrap_or(Refused::Group))),
                );
            }
            return;
        }
        let saved = self.clone();
        let tried: Results = commands.iter().map(|c| self.command(at, c)).collect();
        if tried.iter().all(Result::is_ok) {
            results.extend(tried);
        } else {
            *self = saved;
            results.extend(tried.into_iter().map(|r| r.and(Err(Refused::Group))));
        }
    }

    /// Why a command's precondition does not hold, if it does not.
    fn precondition(&self, command: &Command) -> Option<Refused> {
        let found = self
            .view
            .get(&command.table, &command.key)
            .map(|o| o.revision);
        let holds = match command.expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Present => found.is_some(),
            Expect::Revision(r) => found == Some(r),
        };
        (!holds).then_some(Refused::Precondition { found })
    }

    fn command(&mut self, at: Timestamp, command: &Command) -> Result<Applied, Refused> {
        let old = self.view.get(&command.table, &command.key).cloned();
        let found = old.as_ref().map(|o| o.revision);
        if let Some(refused) = self.precondition(command) {
            return Err(refused);
        }
        match &command.op {
            Op::Check => Ok(Applied {
                revision: found.unwrap_or(0),
                changed: false,
            }),
            Op::Delete => match old {
                None => Ok(Applied {
                    revision: 0,
                    changed: false,
                }),
                Some(old) => Ok(self.delete(at, &command.table, &old)),
            },
            Op::Put { bytes, claims } => self.put(at, command, bytes, claims, old),
        }
    }

    fn put(
        &mut self,
        at: Timestamp,
        command: &Command,
        bytes: &Bytes,
        claims: &[Claim],
        old: Option<Arc<Obj>>,
    ) -> Result<Applied, Refused> {
        if let Some(o) = &old
            && o.bytes == *bytes
            && o.claims == *claims
        {
            return Ok(Applied {
                revision: o.revision,
                changed: false,
            });
        }
        let held: &[Claim] = old.as_ref().map_or(&[], |o| &o.claims);
        self.check_claims(&command.table, &command.key, held, claims)?;
        self.release(held);
        self.hold(&command.table, &command.key, claims);
        let is_internal = internal(&command.table);
        let revision = self.next(is_internal);
        let attrs = if is_internal {
            Attrs::default()
        } else {
            // An object that is not JSON cannot be indexed; it is stored all the same, so that members never differ.
            Attrs::derive(
                &command.table,
                &serde_json::from_slice(bytes).unwrap_or(Value::Null),
            )
        };
        let obj = Arc::new(Obj {
            key: command.key.clone(),
            created: old.as_ref().map_or(revision, |o| o.created),
            revision,
            bytes: bytes.clone(),
            claims: claims.to_vec(),
            attrs,
        });
        let table = self.view.tables.open(&command.table);
        if let Some(o) = &old {
            self.hash = self.hash.wrapping_sub(o.row_hash(&command.table));
            table.unindex(o);
        }
        self.hash = self.hash.wrapping_add(obj.row_hash(&command.table));
        table.index(&obj);
        table.objects.insert(command.key.clone(), obj.clone());
        if !is_internal {
            let change = if old.is_some() {
                Change::Modified
            } else {
                Change::Added
            };
            table.push(Event {
                revision,
                at,
                change,
                obj,
                before: old,
                frame: Frame::default(),
            });
        }
        Ok(Applied {
            revision,
            changed: true,
        })
    }

    fn delete(&mut self, at: Timestamp, table_name: &str, old: &Arc<Obj>) -> Applied {
        self.release(&old.claims);
        let is_internal = internal(table_name);
        let revision = self.next(is_internal);
        let table = self.view.tables.open(table_name);
        self.hash = self.hash.wrapping_sub(old.row_hash(table_name));
        table.unindex(old);
        table.objects.remove(&old.key);
        if !is_internal {
            let last = Arc::new(Obj {
                key: old.key.clone(),
                created: old.created,
                revision,
                bytes: old.bytes.clone(),
                claims: Vec::new(),
                attrs: old.attrs.clone(),
            });
            table.push(Event {
                revision,
                at,
                change: Change::Deleted,
                obj: last,
                before: Some(old.clone()),
                frame: Frame::default(),
            });
        }
        Applied {
            revision,
            changed: true,
        }
    }

    fn next(&mut self, is_internal: bool) -> u64 {
        let counter = if is_internal {
            &mut self.internal_revision
        } else {
            &mut self.view.revision
        };
        *counter += 1;
        *counter
    }

    fn check_claims(
        &self,
        table: &str,
        key: &Key,
        held: &[Claim],
        wanted: &[Claim],
    ) -> Result<(), Refused> {
        let mut more: BTreeMap<&str, Amounts> = BTreeMap::new();
        for claim in wanted {
            match claim {
                Claim::Unique { space, value } => {
                    if let Some((t, k)) = self.view.held.get(&(space.clone(), value.clone()))
                        && (t != table || k != key)
                    {
                        return Err(Refused::Taken {
                            space: space.clone(),
                            value: value.clone(),
                            holder: format!("{t} {k}"),
                        });
                    }
                }
                Claim::Node { node, amounts } => add(more.entry(node).or_default(), amounts),
            }
        }
        for (node, amounts) in more {
            let mut used = self.view.used(node);
            for claim in held {
                if let Claim::Node { node: n, amounts } = claim
                    && n == node
                {
                    subtract(&mut used, amounts);
                }
            }
            // What the object holds already may stay even if the node has shrunk or gone since.
            let was = held.iter().any(
                |c| matches!(c, Claim::Node { node: n, amounts: a } if n == node && *a == amounts),
            );
            if was {
                continue;
            }
            let Some(room) = self
                .view
                .get("nodes", &Key::new("", node))
                .and_then(|o| o.attrs.allocatable)
            else {
                return Err(Refused::NodeFull {
                    node: node.into(),
                    what: "node".into(),
                });
            };
            add(&mut used, &amounts);
            for (what, used, room) in [
                ("cpu", used.cpu_millis, room.cpu_millis),
                ("memory", used.memory_bytes, room.memory_bytes),
                ("pods", used.pods, room.pods),
            ] {
                if used > room {
                    return Err(Refused::NodeFull {
                        node: node.into(),
                        what: what.into(),
                    });
                }
            }
        }
        Ok(())
    }

    pub(crate) fn hold(&mut self, table: &str, key: &Key, claims: &[Claim]) {
        for claim in claims {
            match claim {
                Claim::Unique { space, value } => {
                    self.view.held.insert(
                        (space.clone(), value.clone()),
                        (table.to_string(), key.clone()),
                    );
                }
                Claim::Node { node, amounts } => add(
                    self.view.node_used.entry(node.clone()).or_default(),
                    amounts,
                ),
            }
        }
    }

    fn release(&mut self, claims: &[Claim]) {
        for claim in claims {
            match claim {
                Claim::Unique { space, value } => {
                    self.view.held.remove(&(space.clone(), value.clone()));
                }
                Claim::Node { node, amounts } => {
                    let used = self.view.node_used.entry(node.clone()).or_default();
                    subtract(used, amounts);
                    if *used == Amounts::default() {
                        self.view.node_used.remove(node);
                    }
                }
            }
        }
    }

    pub(crate) fn table_mut(&mut self, name: &str) -> &mut Table {
        self.view.tables.open(name)
    }
}

fn add(to: &mut Amounts, more: &Amounts) {
    to.cpu_millis += more.cpu_millis;
    to.memory_bytes += more.memory_bytes;
    to.pods += more.pods;
}

fn subtract(from: &mut Amounts, less: &Amounts) {
    from.cpu_millis = from.cpu_millis.saturating_sub(less.cpu_millis);
    from.memory_bytes = from.memory_bytes.saturating_sub(less.memory_bytes);
    from.pods = from.pods.saturating_sub(less.pods);
}
