//! The log: one total order of batches, and the members that apply it at their own pace. Each has the production
//! `State`; a member that restarts reads its own snapshot back.

use std::sync::Arc;

use coracle_api::Timestamp;
use coracle_state::{Batch, Command, Results, State, View, snapshot};

/// A member of the control plane.
#[derive(Debug, Default)]
pub(crate) struct Member {
    pub state: State,
    /// Entries applied.
    pub applied: usize,
    pub up: bool,
    /// Whether it is going to look at the log.
    pub following: bool,
    /// What is on its disk while it is down.
    disk: Vec<u8>,
    disk_applied: usize,
}

/// The log and its members.
#[derive(Debug)]
pub(crate) struct Order {
    pub log: Vec<Arc<Batch>>,
    /// State hash after each entry, from the first member that applied it.
    hashes: Vec<u64>,
    pub members: Vec<Member>,
    pub leader: Option<usize>,
    pub term: u64,
}

impl Order {
    pub fn new(members: usize) -> Self {
        let members = (0..members)
            .map(|_| Member {
                up: true,
                ..Member::default()
            })
            .collect();
        Self {
            log: Vec::new(),
            hashes: Vec::new(),
            members,
            leader: Some(0),
            term: 1,
        }
    }

    /// What the leader has applied: everything that is committed.
    pub fn leader_view(&self) -> Option<View> {
        self.leader.map(|l| self.members[l].state.view())
    }

    /// Puts a batch into the log and applies it on the leader. `None` without a leader.
    pub fn commit(
        &mut self,
        at: Timestamp,
        request_id: u64,
        commands: Vec<Command>,
    ) -> Option<Result<Results, String>> {
        let leader = self.leader?;
        // Through the log's format and back, as production does.
        let batch = Batch {
            at,
            request_id,
            commands,
        };
        let read = Batch::decode(&batch.encode()).map_err(|e| e.to_string());
        match read {
            Ok(read) if read == batch => {}
            Ok(_) => {
                return Some(Err(
                    "a batch is another one after encoding and decoding".into()
                ));
            }
            Err(e) => return Some(Err(e)),
        }
        self.log.push(Arc::new(batch));
        Some(self.follow(leader, self.log.len()))
    }

    /// Applies entries up to `end` on a member; the results are those of the last one.
    pub fn follow(&mut self, member: usize, end: usize) -> Result<Results, String> {
        let mut results = Vec::new();
        while self.members[member].applied < end.min(self.log.len()) {
            let m = &mut self.members[member];
            let index = m.applied;
            let before = m.state.revision();
            results = m.state.apply(&self.log[index]);
            m.applied += 1;
            if m.state.revision() < before {
                return Err(format!(
                    "the revision of member {member} went back from {before} to {}",
                    m.state.revision()
                ));
            }
            let hash = m.state.hash();
            match self.hashes.get(index) {
                None => self.hashes.push(hash),
                Some(first) if *first == hash => {}
                Some(first) => {
                    return Err(format!(
                        "member {member} differs after entry {index}: {hash:x}, not {first:x}"
                    ));
                }
            }
        }
        Ok(results)
    }

    /// A member goes down; its memory is lost.
    pub fn crash(&mut self, member: usize) -> Result<(), String> {
        let m = &mut self.members[member];
        let mut disk = Vec::new();
        snapshot::write(&m.state, &mut disk).map_err(|e| e.to_string())?;
        (m.disk, m.disk_applied) = (disk, m.applied);
        m.state = State::default();
        m.applied = 0;
        m.up = false;
        if self.leader == Some(member) {
            self.leader = None;
        }
        Ok(())
    }

    /// A member comes back from what is on its disk.
    pub fn restart(&mut self, member: usize) -> Result<(), String> {
        let m = &mut self.members[member];
        m.state = snapshot::read(&mut std::mem::take(&mut m.disk).as_slice())
            .map_err(|e| e.to_string())?;
        m.applied = m.disk_applied;
        m.up = true;
        match m.applied.checked_sub(1).and_then(|i| self.hashes.get(i)) {
            Some(want) if *want != m.state.hash() => Err(format!(
                "member {member} is not what it was before its restart"
            )),
            _ => Ok(()),
        }
    }

    /// Whether a majority is up.
    pub fn quorum(&self) -> bool {
        self.members.iter().filter(|m| m.up).count() * 2 > self.members.len()
    }

    /// Makes a member the leader: it applies everything that is committed before it decides anything.
    pub fn elect(&mut self, member: usize) -> Result<(), String> {
        self.follow(member, self.log.len())?;
        self.leader = Some(member);
        self.term += 1;
        Ok(())
    }
}
