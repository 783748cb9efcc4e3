//! What a Wasm file imports and exports at its surface, read from the file itself.
//!
//! Only names are read; nothing is validated or compiled, so that images for other hosts (WASI 0.3, plugins of a foreign
//! framework) can be shown and compared too. The configuration of an artifact repeats these names, but whoever pushed it
//! wrote it: a policy is judged on the file.

use std::collections::BTreeSet;

use wasmparser::{ComponentExternalKind, ComponentTypeRef, Encoding, Parser, Payload, TypeBounds};

/// Most imports and exports read of one file; real ones have some dozens.
pub const NAMES_MAX: usize = 10_000;

/// The surface of a Wasm file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imports {
    /// Whether it is a core module instead of a component.
    pub core: bool,
    /// Interfaces (`wasi:cli/exit@0.2.0`) or, for a core module, `module::name`.
    pub imports: BTreeSet<String>,
    /// What it exports.
    pub exports: BTreeSet<String>,
}

/// Reads the surface. The error is a sentence that reads on after the file's name.
pub fn read_imports(bytes: &[u8]) -> Result<Imports, String> {
    if !bytes.starts_with(b"\0asm") {
        return Err("is not a WebAssembly file".into());
    }
    let mut found = Imports::default();
    let mut depth = 0u32;
    for payload in Parser::new(0).parse_all(bytes) {
        let top = depth == 1;
        match payload.map_err(invalid)? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if depth == 1 {
                    found.core = encoding == Encoding::Module;
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ImportSection(section) if top && found.core => {
                for import in section.into_imports() {
                    let import = import.map_err(invalid)?;
                    found
                        .imports
                        .insert(format!("{}::{}", import.module, import.name));
                }
            }
            Payload::ExportSection(section) if top && found.core => {
                for export in section {
                    found.exports.insert(export.map_err(invalid)?.name.into());
                }
            }
            Payload::ComponentImportSection(section) if top => {
                for import in section {
                    let import = import.map_err(invalid)?;
                    // An alias of a type of another import asks for nothing by itself.
                    if !matches!(import.ty, ComponentTypeRef::Type(TypeBounds::Eq(_))) {
                        found.imports.insert(import.name.name.to_string());
                    }
                }
            }
            Payload::ComponentExportSection(section) if top => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    if export.kind != ComponentExternalKind::Type {
                        found.exports.insert(export.name.name.to_string());
                    }
                }
            }
            _ => {}
        }
        if found.imports.len() + found.exports.len() > NAMES_MAX {
            return Err(format!("has more than {NAMES_MAX} imports and exports"));
        }
    }
    Ok(found)
}

fn invalid(error: wasmparser::BinaryReaderError) -> String {
    format!(
        "is not valid WebAssembly: {} (at byte {:#x})",
        error.message(),
        error.offset()
    )
}
