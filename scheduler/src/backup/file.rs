//! Backup files as an operator looks at them.

use std::fs;
use std::path::Path;

use coracle_api::Timestamp;
use coracle_raft::node_id_text;
use coracle_raft::rebuild::{Position, members};
use coracle_raft::snapshot::{self, Begun};
use coracle_state::State;
use serde::Serialize;

use super::due::saved_at;
use super::error::BackupError;

/// What a backup holds of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Table name: the plural, with its group if it has one; Coracle's own begin with `coracle.`.
    pub table: String,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A member of the cluster that was backed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inside {
    /// Its name.
    pub name: String,
    /// Its id, 16 hex digits.
    pub id: String,
    /// Whether it voted.
    pub voter: bool,
}

/// What a backup says about itself. Strings are empty in a member's own snapshot, which says less.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Format version of the file.
    pub format: u8,
    /// Cluster id, 16 hex digits.
    pub cluster: String,
    /// Name of the member that saved it.
    pub member: String,
    /// Version of the product that saved it.
    pub version: String,
    /// When it was saved; `None` in a member's own snapshot.
    pub at: Option<Timestamp>,
    /// Newest revision inside.
    pub revision: u64,
    /// Term of the last log entry inside.
    pub term: u64,
    /// Index of the last log entry inside.
    pub index: u64,
    /// Members at that log entry.
    pub members: Vec<Inside>,
    /// State hash, 16 hex digits: members at the same log entry show the same in their status.
    pub hash: String,
    /// Objects inside.
    pub objects: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// By table.
    pub tables: Vec<Table>,
}

impl Summary {
    pub(super) fn of(begun: &Begun, bytes: u64, state: Option<&State>) -> Self {
        let meta = &begun.header.meta;
        let position = Position::of(meta.last_log_id.as_ref());
        let (revision, hash, census) = match (&begun.about, state) {
            (Some(about), _) => (about.revision, about.hash, about.tables.clone()),
            (None, Some(state)) => (
                state.revision(),
                state.hash(),
                coracle_state::snapshot::census(&state.view()),
            ),
            (None, None) => (0, 0, Vec::new()),
        };
        let members = members(&meta.last_membership).into_iter().map(|m| Inside {
            name: m.member.name,
            id: node_id_text(m.id),
            voter: m.voter,
        });
        let text = |get: fn(&snapshot::About) -> &String| {
            begun
                .about
                .as_ref()
                .map_or_else(String::new, |a| get(a).clone())
        };
        Self {
            format: begun.format,
            cluster: text(|a| &a.cluster),
            member: text(|a| &a.member),
            version: text(|a| &a.version),
            at: begun.about.as_ref().map(|a| a.at),
            revision,
            term: position.term,
            index: position.index,
            members: members.collect(),
            hash: format!("{hash:016x}"),
            objects: census.iter().map(|c| c.objects).sum(),
            bytes,
            tables: census
                .into_iter()
                .map(|c| Table {
                    table: c.table,
                    objects: c.objects,
                    bytes: c.bytes,
                })
                .collect(),
        }
    }
}

/// Reads what a backup says about itself. Only that part is checked; [`verify`] checks everything.
pub fn inspect(path: &Path) -> Result<Summary, BackupError> {
    let begun = snapshot::begin(path).map_err(|e| BackupError::reading(path, e))?;
    if begun.about.is_none() {
        return verify(path);
    }
    let bytes = fs::metadata(path)
        .map_err(|e| BackupError::io(path, e))?
        .len();
    Ok(Summary::of(&begun, bytes, None))
}

/// Reads the whole file: every checksum, every object, the state hash, and that the header says the truth.
pub fn verify(path: &Path) -> Result<Summary, BackupError> {
    load(path).map(|(summary, _)| summary)
}

/// As [`verify`], with the state.
pub(super) fn load(path: &Path) -> Result<(Summary, State), BackupError> {
    let (begun, file, state) =
        snapshot::load_begun(path).map_err(|e| BackupError::reading(path, e))?;
    Ok((Summary::of(&begun, file.len, Some(&state)), state))
}

/// The backups in a folder, newest first, by file name: each with what it says about itself, or why it does not read.
/// A folder that is not there has none.
pub fn list(folder: &Path) -> Result<Vec<(String, Result<Summary, BackupError>)>, BackupError> {
    let mut found = names(folder).map_err(|e| BackupError::io(folder, e))?;
    found.retain(|n| saved_at(n).is_some());
    found.sort_by_key(|n| std::cmp::Reverse(saved_at(n)));
    Ok(found
        .into_iter()
        .map(|name| {
            let summary = inspect(&folder.join(&name));
            (name, summary)
        })
        .collect())
}

/// Names of everything in a folder; none if there is no folder.
pub(super) fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
            .collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}
