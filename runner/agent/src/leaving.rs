//! The way out of a pod: the drain handshake, then the end, then the final delete.
//!
//! A pod that serves stays in service until every live proxy has stopped choosing it (condition `coracle/Drained`) or
//! its grace is over; only then does it take no more requests, finish what it has, and end. Wasm has no signals: what
//! SIGTERM does to a program that does not handle it, an end at once, is what commands get.
//!
//! Grace counts on this node's clock from when the deletion was first seen, so that a clock that differs from the
//! API server's neither shortens nor stretches it.

use coracle_api::Timestamp;

use crate::action::{Action, EventType};
use crate::config::WRITE_RETRY_MS;
use crate::events::Out;
use crate::input::{ContainerKind, Exit, after};
use crate::pod::Pod;

/// Where a pod is between running and gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Should run.
    Active,
    /// Waits until no proxy chooses it.
    AwaitDrained,
    /// Takes no requests, finishes what it has.
    Stopping,
    /// `Kill` was sent.
    Killing,
    /// Nothing of it runs, and nothing ever will.
    Done,
}

impl Pod {
    /// Whether the pod has to go.
    fn must_leave(&self) -> bool {
        self.gone || self.spec.deleting.is_some()
    }

    /// One pass over the way out.
    pub(crate) fn leave(&mut self, now: Timestamp, out: &mut Out) {
        if !self.must_leave() {
            return;
        }
        let since = *self.leaving_since.get_or_insert(now);
        let deadline = after(since, self.spec.deleting.unwrap_or(0));
        let out_of_time = self.gone || now >= deadline;
        if self.life == Life::Active {
            let serving = self.containers.iter().any(|c| c.serves());
            for c in self.containers.iter().filter(|c| c.live()) {
                let text = format!("Stopping container {}", c.spec.name);
                out.event(
                    self.spec.who(),
                    &c.spec.name,
                    EventType::Normal,
                    "Killing",
                    text,
                );
            }
            if serving && !out_of_time {
                self.life = Life::AwaitDrained;
            } else {
                self.kill(out);
            }
        }
        if self.life == Life::AwaitDrained && (self.spec.drained || out_of_time) {
            self.life = Life::Stopping;
            out.push(Action::StopAccepting {
                uid: self.spec.uid.clone(),
            });
        }
        if self.life == Life::Stopping && (self.stopped || out_of_time) {
            self.kill(out);
        }
        self.wake_at(match self.life {
            Life::AwaitDrained | Life::Stopping => Some(deadline),
            _ => None,
        });
    }

    /// Ends everything at once.
    pub(crate) fn kill(&mut self, out: &mut Out) {
        self.life = Life::Killing;
        out.push(Action::Kill {
            uid: self.spec.uid.clone(),
        });
    }

    /// Everything has ended. What no `Exited` told about ended by the kill, or cleanly if nothing was in flight.
    pub(crate) fn killed(&mut self, now: Timestamp, config: &crate::config::AgentConfig) {
        if self.life != Life::Killing {
            return;
        }
        self.life = Life::Done;
        let policy = self.spec.restart_policy;
        for c in self.containers.iter_mut() {
            if c.live() {
                let clean = match c.kind {
                    Some(ContainerKind::Library) => true,
                    Some(ContainerKind::Service) => self.stopped,
                    _ => false,
                };
                let exit = if clean {
                    Exit::code(0)
                } else {
                    Exit {
                        reason: "Killed".into(),
                        ..Exit::code(137)
                    }
                };
                c.run_ended(&self.spec.uid, &exit, now, policy, true, config);
            } else if c.ended.is_some() {
                c.stage = crate::container::Stage::Ended {
                    restart_at: None,
                    pause_ms: 0,
                };
            }
        }
    }

    /// The final delete, once the terminal status is written; repeated because its answer may be lost.
    pub(crate) fn delete(&mut self, now: Timestamp, out: &mut Out) {
        if self.life != Life::Done
            || self.gone
            || self.spec.deleting.is_none()
            || !self.report.settled()
        {
            return;
        }
        let due = self
            .delete_sent_at
            .is_none_or(|t| now >= after(t, WRITE_RETRY_MS));
        if due {
            self.delete_sent_at = Some(now);
            out.push(Action::DeletePod {
                key: self.spec.key.clone(),
                uid: self.spec.uid.clone(),
            });
        }
        self.wake_at(self.delete_sent_at.map(|t| after(t, WRITE_RETRY_MS)));
    }
}
