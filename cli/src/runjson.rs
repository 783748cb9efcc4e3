//! `DATA/run.json`: what runs here and where, for scripts and tests (DESIGN section 7).

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{self, Result};

/// Its contents; absent roles are `null`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunInfo {
    /// Process id.
    pub pid: u32,
    /// Node name.
    pub name: String,
    /// API URL.
    pub api: Option<String>,
    /// Ingress URL.
    pub ingress: Option<String>,
    /// Registry URL.
    pub registry: Option<String>,
    /// Mesos API URL.
    pub mesos: Option<String>,
    /// Path of the administrator's kubeconfig.
    pub kubeconfig: Option<String>,
    /// URL of the application, if there is one.
    pub url: Option<String>,
}

/// The file; removed when this is dropped.
pub struct RunFile(PathBuf);

impl RunFile {
    /// Takes away what a process that died has left.
    pub fn clear(data_dir: &Path) {
        let _ = std::fs::remove_file(data_dir.join("run.json"));
    }

    /// Writes the file by rename, so that whoever sees it sees all of it.
    pub fn write(data_dir: &Path, info: &RunInfo) -> Result<Self> {
        let path = data_dir.join("run.json");
        let temp = data_dir.join("run.json.new");
        let text = serde_json::to_string(info)
            .map_err(|e| crate::error::CliError::new("E_RUN_JSON", e.to_string()))?;
        let written = std::fs::File::create(&temp)
            .and_then(|mut f| writeln!(f, "{text}").and_then(|()| f.sync_all()));
        written
            .and_then(|()| std::fs::rename(&temp, &path))
            .map_err(|e| error::file(&path, &e))?;
        Ok(Self(path))
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
