//! From a backup to a data directory. Offline: it needs no cluster, and makes one.

use std::fs;
use std::path::{Path, PathBuf};

use coracle_raft::Member;
use coracle_raft::durable;
use coracle_raft::rebuild::{self, Position};
use coracle_state::{Batch, Command, Expect, State, snapshot};

use super::error::BackupError;
use super::file::{self, Summary, names};
use crate::data::{DataDir, Identity};
use crate::error::StartError;
use crate::pki::{CLUSTER, PKI};
use crate::rotate::REPORTS;
use crate::tokens::TOKENS;

/// Where the log is made; it moves to its place when it is complete.
const UNFINISHED: &str = "raft.restoring";

/// A data directory that was made.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The directory.
    pub data_dir: PathBuf,
    /// Name of the node in it.
    pub name: String,
    /// Id of the node in it: a new one.
    pub id: String,
    /// What the backup said.
    pub from: Summary,
    /// Revision that the new cluster begins at.
    pub revision: u64,
    /// Objects restored, without what belonged to the old cluster alone (its CA, its id, its tokens).
    pub objects: u64,
}

/// Makes a data directory from a backup. Nothing is written before the whole file was checked.
///
/// Every object is there byte by byte at its old revision; the cluster's revision is [`snapshot::NEW_HISTORY`] higher than
/// in the backup. The cluster's id and CA are made at the first start: certificates and tokens of the old cluster are
/// worth nothing here, so nodes and members join again. Nodes that do not become NotReady when their leases are old.
pub fn restore(path: &Path, data_dir: &Path, name: Option<&str>) -> Result<Restored, BackupError> {
    check_empty(data_dir)?;
    let (from, mut state) = file::load(path)?;
    forget_cluster(&mut state);
    snapshot::new_history(&mut state);
    // Before anything that looks like a data directory, so that no start takes an unfinished one for a new one.
    let work = data_dir.join(UNFINISHED);
    durable::create_dir(&work).map_err(|e| BackupError::io(&work, e))?;
    let made = make(&work, data_dir, name, &from, &state);
    let identity = match made {
        Ok(identity) => identity,
        Err(e) => {
            // The directory was empty: everything in it is of this attempt, and would be in the way of the next.
            for name in ["identity", "VERSION", "lock"] {
                let _ = fs::remove_file(data_dir.join(name));
            }
            let _ = fs::remove_dir_all(&work);
            return Err(e);
        }
    };
    complete(data_dir)?;
    Ok(Restored {
        data_dir: data_dir.into(),
        name: identity.name,
        id: identity.id,
        from,
        revision: state.revision(),
        objects: snapshot::census(&state.view())
            .iter()
            .map(|c| c.objects)
            .sum(),
    })
}

/// Everything that is written, under the lock.
fn make(
    work: &Path,
    data_dir: &Path,
    name: Option<&str>,
    from: &Summary,
    state: &State,
) -> Result<Identity, BackupError> {
    let data = DataDir::open(data_dir, name)?;
    let identity = data.identity().clone();
    let member = Member {
        name: identity.name.clone(),
        ..Member::default()
    };
    let after = Position {
        term: from.term,
        index: from.index,
    };
    let id = identity.node_id().unwrap_or_default();
    let raft = |e| BackupError::Start(StartError::Raft(e));
    rebuild::write(&work.join("raft"), state, after, id, &member).map_err(raft)?;
    let io = |e| BackupError::io(data_dir, e);
    fs::rename(work.join("raft"), data_dir.join("raft")).map_err(io)?;
    durable::sync_dir(data_dir).map_err(io)?;
    Ok(identity)
}

/// A directory with nothing in it, or none.
fn check_empty(dir: &Path) -> Result<(), BackupError> {
    let found = names(dir).map_err(|e| BackupError::io(dir, e))?;
    if found.is_empty() {
        return Ok(());
    }
    // A process that uses it is the better answer.
    if found.iter().any(|n| n == "lock") {
        crate::data::check_lock(dir)?;
    }
    if found.iter().any(|n| n == UNFINISHED) && !dir.join("raft").exists() {
        return Err(BackupError::Unfinished { path: dir.into() });
    }
    let found = found.into_iter().min().unwrap_or_default();
    Err(BackupError::NotEmpty {
        path: dir.into(),
        found,
    })
}

/// Removes what makes the old cluster that cluster: its id, its CA (whose key only its members can open), what holders of
/// its certificates said about them, and the tokens that pin it.
fn forget_cluster(state: &mut State) {
    let view = state.view();
    let rows = [CLUSTER, PKI, REPORTS, TOKENS]
        .into_iter()
        .flat_map(|table| {
            view.list(table, None)
                .map(move |o| Command::delete(table, o.key.clone(), Expect::Any))
        });
    let commands = rows.collect();
    state.apply(&Batch {
        at: view.at,
        request_id: 0,
        commands,
    });
}

/// Refuses to start on a directory whose restore did not finish; tidies up after one that did.
pub(crate) fn complete(data_dir: &Path) -> Result<(), StartError> {
    let work = data_dir.join(UNFINISHED);
    if !work.exists() {
        return Ok(());
    }
    if !data_dir.join("raft").exists() {
        return Err(StartError::Backup(
            BackupError::Unfinished {
                path: data_dir.into(),
            }
            .to_string(),
        ));
    }
    fs::remove_dir_all(&work).map_err(|e| StartError::io(&work, e))
}
