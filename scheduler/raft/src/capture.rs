//! The applied state of a running member with its log position, for backups: exact, taken in the applier's own order, and
//! free (the maps are shared, not copied).

use std::io::{self, Write};

use coracle_state::snapshot::census;
use coracle_state::{ProposeError, State};
use jiff::Timestamp;

use crate::replica::Replica;
use crate::snapshot::{self, About, Header};
use crate::types::SnapshotMeta;

/// A state at a log position. Holding it keeps its version of every object alive.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The state.
    pub state: State,
    /// Log position and membership.
    pub meta: SnapshotMeta,
}

impl Replica {
    /// The state this member has applied when the applier comes to it. A caller that wants every acknowledged write waits
    /// for a fresh view first.
    pub async fn capture(&self) -> Result<Captured, ProposeError> {
        let captured = self.raft().with_state_machine(|machine| {
            let captured = machine.captured();
            Box::pin(async move { captured })
        });
        captured
            .await
            .map_err(|e| ProposeError::Unavailable(format!("this member has stopped ({e})")))
    }
}

impl Captured {
    /// What a backup of this state says about itself.
    pub fn about(&self, cluster: &str, member: &str, version: &str, at: Timestamp) -> About {
        About {
            cluster: cluster.into(),
            member: member.into(),
            version: version.into(),
            at,
            revision: self.state.revision(),
            hash: self.state.hash(),
            tables: census(&self.state.view()),
        }
    }

    /// Writes a backup. Answers the writer, the length of the file and the checksum of everything but its last four bytes.
    /// Blocking, seconds per gigabyte.
    pub fn write<W: Write>(&self, out: W, about: &About) -> io::Result<(W, u64, u32)> {
        let header = Header {
            meta: self.meta.clone(),
            log_end: 0,
        };
        snapshot::write_to(out, &self.state, &header, Some(about))
    }
}
