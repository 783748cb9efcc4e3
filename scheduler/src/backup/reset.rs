//! The last resort when the quorum of a cluster is lost for good: one member that is left becomes the only one.
//!
//! The cluster gets a new id, so that members of before can never reach this one again: raft connections check it. The CA
//! stays, since authorisation goes by the names in a certificate: runners go on without joining again, and so does the
//! kubeconfig. The log of before is kept beside the new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coracle_raft::rebuild::{self, Found, Known, Position};
use coracle_raft::{Member, durable, node_id_text};
use coracle_state::{Batch, snapshot};

use super::error::BackupError;
use super::file::{Inside, names};
use crate::data::{DataDir, Identity};
use crate::error::StartError;
use crate::pki::{cluster_of, readdress};

/// Where the new log is made, with the identity that goes with it; written completely before anything is moved.
const WORK: &str = "raft.resetting";
/// Logs of before; a number follows.
const ARCHIVE: &str = "raft.before-reset-";
/// Files of `DATA/pki` that name the old cluster; they go with the old log, new ones are made at the next start.
const OLD_CERTIFICATES: [&str; 3] = ["node.crt", "node.key", "node.key.next"];

/// What a reset gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Name of the member that stays.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The cluster's id of before.
    pub cluster: String,
    /// Last log entry on this disk.
    pub last: Position,
    /// Last log entry that this member knows to be committed.
    pub committed: Position,
    /// Newest revision on this disk.
    pub revision: u64,
    /// Objects on this disk.
    pub objects: u64,
    /// Members that are dropped.
    pub dropped: Vec<Inside>,
}

impl Lost {
    /// What the operator has to know before agreeing, a line each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "member {} ({}) of cluster {} becomes the only member of a new cluster",
                self.name, self.id, self.cluster
            ),
            format!(
                "last log entry on this disk: index {}, term {} (revision {}, {} objects)",
                self.last.index, self.last.term, self.revision, self.objects
            ),
            format!(
                "last entry known to be committed: index {}, term {}",
                self.committed.index, self.committed.term
            ),
        ];
        let uncertain = self.last.index.saturating_sub(self.committed.index);
        if uncertain > 0 {
            lines.push(format!(
                "the {uncertain} entries after it are kept; writes in them may never have been acknowledged"
            ));
        }
        lines.push(format!(
            "writes acknowledged after index {} by others may be lost",
            self.last.index
        ));
        lines.extend(self.dropped.iter().map(|m| {
            let role = if m.voter { "voter" } else { "learner" };
            format!("dropped: {} ({}, {role})", m.name, m.id)
        }));
        lines.push(
            "a dropped member must never be started on its old data directory again: delete it and join anew".into(),
        );
        lines
    }
}

/// A member's data directory that is about to be reset. It is locked; nothing has changed yet.
#[derive(Debug)]
pub struct Reset {
    data: DataDir,
    found: Found,
    lost: Lost,
}

/// A cluster of one that was made.
#[derive(Clone, Debug)]
pub struct Single {
    /// The new cluster's id.
    pub cluster: String,
    /// Revision it begins at.
    pub revision: u64,
    /// Where the log of before is.
    pub archive: PathBuf,
}

impl Reset {
    /// Opens a member's directory and reads everything in it. The member must not run.
    pub fn look(data_dir: &Path) -> Result<Self, BackupError> {
        let no_data = || BackupError::NoData {
            path: data_dir.into(),
        };
        // Before the directory is opened: opening makes one.
        if !data_dir.join("raft").is_dir() && !data_dir.join(WORK).is_dir() {
            return Err(no_data());
        }
        let data = DataDir::open(data_dir, None)?;
        super::complete(data_dir)?;
        let found = rebuild::read(&data_dir.join("raft")).map_err(StartError::Raft)?;
        let identity = data.identity();
        let own = identity.node_id();
        let others = |m: &&Known| Some(m.id) != own;
        let dropped: Vec<Known> = found.members.iter().filter(others).cloned().collect();
        if found.last.index == 0 && found.members.is_empty() {
            return Err(no_data());
        }
        if !dropped.iter().any(|m| m.voter) {
            return Err(BackupError::Single {
                path: data_dir.into(),
            });
        }
        let view = found.state.view();
        let lost = Lost {
            name: identity.name.clone(),
            id: identity.id.clone(),
            cluster: cluster_of(&view)?,
            last: found.last,
            committed: found.committed,
            revision: view.revision,
            objects: snapshot::census(&view).iter().map(|c| c.objects).sum(),
            dropped: dropped
                .into_iter()
                .map(|m| Inside {
                    name: m.member.name,
                    id: node_id_text(m.id),
                    voter: m.voter,
                })
                .collect(),
        };
        Ok(Self { data, found, lost })
    }

    /// What it would give up.
    pub fn lost(&self) -> &Lost {
        &self.lost
    }

    /// Does it. A crash at any moment leaves the old directory or the new one; the next start finishes what was begun.
    pub fn run(self) -> Result<Single, BackupError> {
        let Self { data, found, lost } = self;
        let dir = data.path().to_path_buf();
        let mut state = found.state;
        let view = state.view();
        let cluster = node_id_text(rand::random::<u64>().max(1));
        let commands = readdress(&view, &data.pki()?, &cluster)?;
        let batch = Batch {
            at: view.at,
            request_id: 0,
            commands,
        };
        for result in state.apply(&batch) {
            result.map_err(|e| StartError::Pki(e.to_string()))?;
        }
        snapshot::new_history(&mut state);
        let id = data.identity().node_id().unwrap_or_default();
        let known = found.members.into_iter().find(|m| m.id == id);
        let member = known.map_or_else(
            || Member {
                name: lost.name.clone(),
                ..Member::default()
            },
            |m| m.member,
        );
        let after = Position {
            term: found.last.term.max(found.voted),
            index: found.last.index,
        };
        let work = dir.join(WORK);
        rebuild::write(&work.join("raft"), &state, after, id, &member).map_err(StartError::Raft)?;
        let identity = Identity {
            cluster: cluster.clone(),
            ..data.identity().clone()
        };
        let identity =
            serde_json::to_vec_pretty(&identity).map_err(|e| StartError::Pki(e.to_string()))?;
        let io = |e| BackupError::io(&work, e);
        durable::write(&work.join("identity"), &identity, 0o644).map_err(io)?;
        settle(&dir)?;
        let revision = state.revision();
        let archive = newest_archive(&dir).map_err(io)?.1;
        tracing::warn!(cluster, revision, "this member was made the only one");
        Ok(Single {
            cluster,
            revision,
            archive,
        })
    }
}

/// The number and path of the newest archive; 0 if there is none.
fn newest_archive(dir: &Path) -> io::Result<(u64, PathBuf)> {
    let all = names(dir)?;
    let newest = all
        .iter()
        .filter_map(|n| n.strip_prefix(ARCHIVE)?.parse::<u64>().ok())
        .max()
        .unwrap_or(0);
    Ok((newest, dir.join(format!("{ARCHIVE}{newest}"))))
}

/// Finishes a reset that was complete but not in its place yet, and throws away one that was not complete. Called with the
/// directory locked, before anything in it is read.
pub(crate) fn settle(dir: &Path) -> Result<(), StartError> {
    let work = dir.join(WORK);
    if !work.exists() {
        return Ok(());
    }
    put_in_place(dir, &work).map_err(|e| StartError::io(&work, e))
}

fn put_in_place(dir: &Path, work: &Path) -> io::Result<()> {
    let (identity, made, raft) = (work.join("identity"), work.join("raft"), dir.join("raft"));
    // The identity was written last and is moved last: without it, nothing was moved yet, or everything was.
    if !identity.exists() {
        return fs::remove_dir_all(work);
    }
    if made.exists() {
        if raft.exists() {
            let next = newest_archive(dir)?.0 + 1;
            fs::rename(&raft, dir.join(format!("{ARCHIVE}{next}")))?;
            durable::sync_dir(dir)?;
        }
        fs::rename(&made, &raft)?;
        durable::sync_dir(dir)?;
    }
    let (_, archive) = newest_archive(dir)?;
    for name in OLD_CERTIFICATES {
        move_if_there(&dir.join("pki").join(name), &archive.join(name))?;
    }
    // It asked a cluster to let it in that is no more.
    move_if_there(&dir.join("joining"), &archive.join("joining"))?;
    durable::sync_dir(&archive)?;
    fs::rename(&identity, dir.join("identity"))?;
    durable::sync_dir(dir)?;
    fs::remove_dir_all(work)
}

fn move_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A directory with an old log and a complete new one.
    fn begun() -> TempDir {
        let dir = TempDir::new().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("raft/log", "old");
        write("identity", "old");
        write("pki/node.crt", "old");
        write("pki/seal.key", "kept");
        write("raft.resetting/raft/log", "new");
        write("raft.resetting/identity", "new");
        dir
    }

    #[test]
    fn a_crash_at_any_step_is_finished_or_undone_at_the_next_start() {
        // How far a reset came before the crash: nothing moved, the old log away, the new one in place.
        for step in 0..3 {
            let dir = begun();
            let at = |path: &str| dir.path().join(path);
            if step > 0 {
                fs::rename(at("raft"), at("raft.before-reset-1")).unwrap();
            }
            if step > 1 {
                fs::rename(at("raft.resetting/raft"), at("raft")).unwrap();
            }
            for _ in 0..2 {
                settle(dir.path()).unwrap();
                let read = |path: &str| fs::read_to_string(at(path)).unwrap();
                assert_eq!(
                    (read("raft/log"), read("identity")),
                    ("new".into(), "new".into())
                );
                assert_eq!(read("raft.before-reset-1/log"), "old", "step {step}");
                assert_eq!(read("raft.before-reset-1/node.crt"), "old");
                assert_eq!(read("pki/seal.key"), "kept");
                assert!(!at("pki/node.crt").exists() && !at("raft.resetting").exists());
            }
        }
        let dir = begun();
        fs::remove_file(dir.path().join("raft.resetting/identity")).unwrap();
        fs::create_dir(dir.path().join("raft.before-reset-1")).unwrap();
        settle(dir.path()).unwrap();
        let log = fs::read_to_string(dir.path().join("raft/log")).unwrap();
        assert_eq!(log, "old", "one that was not complete never was");
        assert!(!dir.path().join("raft.resetting").exists());
    }

    #[test]
    fn what_is_given_up_is_said_in_lines() {
        let lost = Lost {
            name: "a".into(),
            id: "00000000000000a1".into(),
            cluster: "00000000000000c1".into(),
            last: Position { term: 3, index: 12 },
            committed: Position { term: 3, index: 10 },
            revision: 40,
            objects: 7,
            dropped: vec![Inside {
                name: "b".into(),
                id: "00000000000000b2".into(),
                voter: true,
            }],
        };
        assert_eq!(
            lost.lines(),
            [
                "member a (00000000000000a1) of cluster 00000000000000c1 becomes the only member of a new cluster",
                "last log entry on this disk: index 12, term 3 (revision 40, 7 objects)",
                "last entry known to be committed: index 10, term 3",
                "the 2 entries after it are kept; writes in them may never have been acknowledged",
                "writes acknowledged after index 12 by others may be lost",
                "dropped: b (00000000000000b2, voter)",
                "a dropped member must never be started on its old data directory again: delete it and join anew",
            ]
        );
    }
}
