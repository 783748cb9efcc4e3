//! `DATA/VERSION`: the number of the on-disk format, there from the first commit, read before anything else is touched.

use std::fs;
use std::io;
use std::path::Path;

use crate::durable;
use crate::error::StartError;

/// The format this binary writes. 1: the log is one of the crate `raft-log`. 2: the log has files of our own.
pub const DATA_FORMAT: u64 = 2;

/// Checks `DATA/VERSION`, creating directory and file if the directory is new (or holds nothing of the control plane).
pub fn check(data_dir: &Path) -> Result<(), StartError> {
    durable::create_dir(data_dir).map_err(|e| StartError::io(data_dir, e))?;
    let path = data_dir.join("VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u64>() {
            Ok(0) | Err(_) => {
                let shown: String = text.trim().chars().take(40).collect();
                Err(StartError::DataUnreadable {
                    path,
                    why: format!("holds {shown:?} instead of a format number"),
                })
            }
            Ok(found) if found > DATA_FORMAT => Err(StartError::DataNewer {
                path,
                found,
                known: DATA_FORMAT,
            }),
            Ok(_) => Ok(()),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if data_dir.join("raft").exists() {
                return Err(StartError::DataUnreadable {
                    path,
                    why: "is missing beside a raft log".into(),
                });
            }
            durable::write(&path, format!("{DATA_FORMAT}\n").as_bytes(), 0o644)
                .map_err(|e| StartError::io(&path, e))
        }
        Err(e)
            if e.kind() == io::ErrorKind::InvalidData
                || e.kind() == io::ErrorKind::IsADirectory =>
        {
            Err(StartError::DataUnreadable {
                path,
                why: e.to_string(),
            })
        }
        Err(e) => Err(StartError::io(&path, e)),
    }
}

/// Says that the directory `raft` is in has the current format from now on, so that an older version refuses it. Called
/// before the first byte is written that an older version does not know. Without the file there is nothing to say.
pub fn raise(raft: &Path) -> Result<(), StartError> {
    let path = raft.with_file_name("VERSION");
    let found = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse::<u64>().ok(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(StartError::io(&path, e)),
    };
    if found.is_some_and(|f| f < DATA_FORMAT) {
        durable::write(&path, format!("{DATA_FORMAT}\n").as_bytes(), 0o644)
            .map_err(|e| StartError::io(&path, e))?;
    }
    Ok(())
}
