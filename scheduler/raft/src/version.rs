//! `DATA/VERSION`: the number of the on-disk format, there from the first commit, read before anything else is touched.

use std::fs;
use std::io;
use std::path::Path;

use crate::durable;
use crate::error::StartError;

/// The format this binary writes.
pub const DATA_FORMAT: u64 = 1;

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
