//! The file that is pushed.

use std::path::Path;

use bytes::Bytes;
use coracle_engine::{Inspected, inspect};
use coracle_registry::wasm;

use crate::error::{self, CliError, Result};

/// A component read from disk and judged.
pub struct Component {
    /// Its bytes.
    pub bytes: Bytes,
    /// What it is and needs.
    pub inspected: Inspected,
    /// Its file name.
    pub title: String,
}

/// Reads and checks a .wasm file.
pub fn read_component(path: &Path) -> Result<Component> {
    let bytes = std::fs::read(path).map_err(|e| error::file(path, &e))?;
    let inspected = inspect(&bytes, &Default::default()).map_err(|e| {
        CliError::new(e.code(), format!("{}: {}", path.display(), e.message()))
            .fix(e.fix().to_string())
    })?;
    let title = path.file_name().map_or_else(
        || "component.wasm".into(),
        |n| n.to_string_lossy().into_owned(),
    );
    Ok(Component {
        bytes: bytes.into(),
        inspected,
        title,
    })
}

impl Component {
    /// The artifact that is pushed.
    pub(super) fn artifact(&self) -> wasm::Artifact {
        let kind = if self.inspected.core {
            wasm::Kind::Module
        } else {
            wasm::Kind::Component
        };
        // No creation time: the same bytes give the same image, so a second `up` or `deploy` pushes nothing.
        wasm::artifact(
            &self.bytes,
            &self.title,
            kind,
            self.inspected
                .imports
                .iter()
                .map(|i| i.name.clone())
                .collect(),
            self.inspected.exports.clone(),
            coracle_api::Timestamp::UNIX_EPOCH,
        )
    }
}
