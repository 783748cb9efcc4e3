//! Judges bytes without compiling them: is it Wasm, is it small enough to compile safely, what kind is it, and does
//! somebody provide what it imports.
//!
//! Compile-time denial of service is not a bug in the compiler's eyes, so the sizes that drive it are bounded here,
//! before the compile child sees the bytes. The validator runs with exactly the features the engine enables.

use std::collections::BTreeSet;

use wasmparser::{
    ComponentExternalKind, ComponentTypeRef, Encoding, Parser, Payload, TypeBounds, TypeRef,
    Validator,
};

use crate::config::wasm_features;
use crate::core_imports::{is_preview_1, unknown_core_imports};
use crate::hosted::{is_hosted, is_wasi_03, satisfies, split, track};
use crate::looks::looks_like;
use crate::problem::BadWasm;

/// Largest file taken, in bytes: four times a component that carries a whole Python or JavaScript interpreter.
pub const MAX_WASM_BYTES: usize = 64 << 20;

/// A compiler spends at most about 10 µs per small function, so this many stay within its time limit.
const MAX_FUNCTIONS: u32 = 100_000;
/// One huge function is what makes register allocation explode (8.6 s and 6.5 GB were seen for one).
const MAX_BODY_BYTES: usize = 1 << 20;
const MAX_LOCALS: u64 = 10_000;
const MAX_TYPES: u32 = 50_000;
const MAX_MODULES: u32 = 64;
const MAX_MEMORIES: u32 = 32;
const MAX_DATA_BYTES: usize = 64 << 20;
/// Components nested in components; each level costs the validator a type scope.
const MAX_DEPTH: u32 = 16;

/// The WASI generation a component speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WasiVersion {
    /// WASI 0.2.
    P2,
    /// WASI 0.3.
    P3,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers HTTP requests.
    Service(WasiVersion),
    /// Runs once and exits.
    Command(WasiVersion),
    /// Exports something else; useful only to a sibling that imports it.
    Library,
    /// A core module with `_start`: a command by way of the preview 1 adapter.
    CoreCommand,
    /// A core module without `_start`: nothing calls it.
    CoreReactor,
}

impl Kind {
    /// Whether it answers HTTP requests.
    pub fn is_service(self) -> bool {
        matches!(self, Kind::Service(_))
    }

    /// Whether it runs once and exits.
    pub fn is_command(self) -> bool {
        matches!(self, Kind::Command(_) | Kind::CoreCommand)
    }
}

/// One thing a file asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// Interface (`wasi:cli/exit@0.2.0`), or `module::name` for a core module.
    pub name: String,
    /// Whether this host provides it.
    pub hosted: bool,
}

/// What was learnt from the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// What it is for.
    pub kind: Kind,
    /// Whether it is a core module that has to be turned into a component.
    pub core: bool,
    /// What it imports, in file order.
    pub imports: Vec<Import>,
    /// What it exports, in file order.
    pub exports: Vec<String>,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// Checks a file. `provided` are interfaces that siblings export (with their versions); imports they satisfy are fine.
///
/// # Errors
/// A coded reason why this file can never run here.
pub fn inspect(bytes: &[u8], provided: &BTreeSet<String>) -> Result<Inspected, BadWasm> {
    if bytes.len() > MAX_WASM_BYTES {
        return Err(BadWasm::new(
            "E_WASM_TOO_LARGE",
            format!(
                "the file has {} bytes and the limit is {MAX_WASM_BYTES}",
                bytes.len()
            ),
            "Strip debug information (`wasm-tools strip`) or move data out of the component into a volume",
        ));
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(BadWasm::new(
            "E_NOT_WASM",
            format!(
                "this is not a WebAssembly file: it looks like {}",
                looks_like(bytes)
            ),
            "Give the .wasm file your toolchain makes, for example with `cargo build --target wasm32-wasip2`",
        ));
    }
    let scan = Scan::run(bytes)?;
    let found = scan.judge(bytes.len(), provided)?;
    Validator::new_with_features(wasm_features())
        .validate_all(bytes)
        .map_err(invalid)?;
    Ok(found)
}

fn invalid(error: wasmparser::BinaryReaderError) -> BadWasm {
    BadWasm::new(
        "E_INVALID_WASM",
        format!(
            "the file is not valid WebAssembly: {} (at byte {:#x})",
            error.message(),
            error.offset()
        ),
        "Build it again; if it needs threads, garbage collection, exceptions or 64-bit memory, turn those off",
    )
}

fn too_complex(what: &str, found: u64, limit: u64) -> BadWasm {
    BadWasm::new(
        "E_WASM_TOO_COMPLEX",
        format!("the file has {what}: {found}, and the limit is {limit}"),
        "Build with optimisation for size, or split the component",
    )
}

/// What one pass over the structure collects.
#[derive(Default)]
struct Scan {
    core: bool,
    has_wit: bool,
    shared_memory: bool,
    imports: Vec<(String, String)>,
    unknown_items: Vec<String>,
    exports: Vec<String>,
}

impl Scan {
    fn run(bytes: &[u8]) -> Result<Scan, BadWasm> {
        let mut scan = Scan::default();
        let (mut depth, mut modules, mut functions, mut types, mut memories) =
            (0u32, 0u32, 0u32, 0u32, 0u32);
        let mut data = 0usize;
        for payload in Parser::new(0).parse_all(bytes) {
            let top = depth == 1;
            match payload.map_err(invalid)? {
                Payload::Version { encoding, .. } => {
                    depth += 1;
                    if depth == 1 {
                        scan.core = encoding == Encoding::Module;
                    }
                    if depth > MAX_DEPTH {
                        return Err(too_complex(
                            "nesting of components",
                            depth.into(),
                            MAX_DEPTH.into(),
                        ));
                    }
                    if encoding == Encoding::Module {
                        modules += 1;
                        bound("core modules", modules.into(), MAX_MODULES.into())?;
                    }
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::TypeSection(s) => {
                    types = types.saturating_add(s.count());
                    bound("types", types.into(), MAX_TYPES.into())?;
                }
                Payload::FunctionSection(s) => {
                    functions = functions.saturating_add(s.count());
                    bound("functions", functions.into(), MAX_FUNCTIONS.into())?;
                }
                Payload::MemorySection(s) => {
                    memories = memories.saturating_add(s.count());
                    bound("memories", memories.into(), MAX_MEMORIES.into())?;
                    for memory in s {
                        scan.shared_memory |= memory.map_err(invalid)?.shared;
                    }
                }
                Payload::DataSection(s) => {
                    data = data.saturating_add(s.range().len());
                    bound("bytes of data", data as u64, MAX_DATA_BYTES as u64)?;
                }
                Payload::CodeSectionEntry(body) => {
                    bound(
                        "bytes in one function",
                        body.range().len() as u64,
                        MAX_BODY_BYTES as u64,
                    )?;
                    let mut locals = 0u64;
                    for local in body.get_locals_reader().map_err(invalid)? {
                        locals += u64::from(local.map_err(invalid)?.0);
                    }
                    bound("local variables in one function", locals, MAX_LOCALS)?;
                }
                Payload::ImportSection(s) => {
                    for import in s.into_imports() {
                        let import = import.map_err(invalid)?;
                        if let TypeRef::Memory(memory) = import.ty {
                            scan.shared_memory |= memory.shared;
                        }
                        if top && scan.core {
                            scan.imports
                                .push((import.module.into(), import.name.into()));
                        }
                    }
                }
                Payload::ExportSection(s) if top && scan.core => {
                    for export in s {
                        scan.exports.push(export.map_err(invalid)?.name.into());
                    }
                }
                Payload::ComponentImportSection(s) if top => {
                    for import in s {
                        let import = import.map_err(invalid)?;
                        let name = import.name.name.to_string();
                        match import.ty {
                            ComponentTypeRef::Instance(_) => {
                                scan.imports.push((name, String::new()))
                            }
                            // An alias of a type of another import asks for nothing by itself.
                            ComponentTypeRef::Type(TypeBounds::Eq(_)) => {}
                            _ => scan.unknown_items.push(name),
                        }
                    }
                }
                Payload::ComponentExportSection(s) if top => {
                    for export in s {
                        let export = export.map_err(invalid)?;
                        if export.kind != ComponentExternalKind::Type {
                            scan.exports.push(export.name.name.into());
                        }
                    }
                }
                Payload::CustomSection(s) if top && s.name().starts_with("component-type") => {
                    scan.has_wit = true
                }
                _ => {}
            }
        }
        Ok(scan)
    }

    fn judge(self, bytes: usize, provided: &BTreeSet<String>) -> Result<Inspected, BadWasm> {
        let needs_03: Vec<&str> = self
            .exports
            .iter()
            .chain(self.imports.iter().map(|(name, _)| name))
            .map(String::as_str)
            .filter(|name| is_wasi_03(name))
            .collect();
        if let Some(name) = needs_03.first() {
            return Err(BadWasm::new(
                "E_NEEDS_WASI_03",
                format!("the component needs WASI 0.3 (`{name}`) and this node runs WASI 0.2"),
                "Build it for WASI 0.2 (target wasm32-wasip2), which exports wasi:http/incoming-handler@0.2",
            ));
        }
        let imports = if self.core {
            self.core_imports(provided)?
        } else {
            self.component_imports(provided)?
        };
        Ok(Inspected {
            kind: self.kind(),
            core: self.core,
            imports,
            exports: self.exports,
            bytes: bytes as u64,
        })
    }

    fn kind(&self) -> Kind {
        let exports = |interface: &str, version: &str| {
            self.exports.iter().any(|export| {
                let name = split(export.split('#').next().unwrap_or(export));
                name.interface == interface && name.version.map(track) == Some(version)
            })
        };
        if exports("wasi:http/incoming-handler", "0.2") {
            Kind::Service(WasiVersion::P2)
        } else if exports("wasi:cli/run", "0.2") {
            Kind::Command(WasiVersion::P2)
        } else if !self.core {
            Kind::Library
        } else if self.exports.iter().any(|e| e == "_start") {
            Kind::CoreCommand
        } else {
            Kind::CoreReactor
        }
    }

    fn component_imports(&self, provided: &BTreeSet<String>) -> Result<Vec<Import>, BadWasm> {
        let mut missing: Vec<&str> = self.unknown_items.iter().map(String::as_str).collect();
        let mut imports = Vec::with_capacity(self.imports.len());
        for (name, _) in &self.imports {
            let hosted = is_hosted(name);
            if !hosted && !provided.iter().any(|export| satisfies(export, name)) {
                missing.push(name);
            }
            imports.push(Import {
                name: name.clone(),
                hosted,
            });
        }
        if missing.is_empty() {
            Ok(imports)
        } else {
            Err(unknown_imports(&missing))
        }
    }

    fn core_imports(&self, provided: &BTreeSet<String>) -> Result<Vec<Import>, BadWasm> {
        if self.shared_memory
            || self
                .imports
                .iter()
                .any(|(module, name)| module == "wasi" && name == "thread-spawn")
        {
            return Err(BadWasm::new(
                "E_WASI_THREADS",
                "the module needs shared memory (wasi-threads), which no component can have",
                "Build without threads, for example for wasm32-wasip1 instead of wasm32-wasip1-threads",
            ));
        }
        let mut missing = Vec::new();
        let mut imports = Vec::with_capacity(self.imports.len());
        for (module, name) in &self.imports {
            let preview_1 = module == "wasi_snapshot_preview1" && is_preview_1(name);
            let hosted = preview_1 || (self.has_wit && is_hosted(module));
            let wit = self.has_wit
                && (module.starts_with("[export]")
                    || provided.iter().any(|export| satisfies(export, module)));
            if !hosted && !wit {
                missing.push((module.as_str(), name.as_str()));
            }
            imports.push(Import {
                name: format!("{module}::{name}"),
                hosted,
            });
        }
        match missing.first() {
            None => Ok(imports),
            Some((module, _)) => Err(unknown_core_imports(module, &missing)),
        }
    }
}

fn bound(what: &str, found: u64, limit: u64) -> Result<(), BadWasm> {
    if found > limit {
        Err(too_complex(what, found, limit))
    } else {
        Ok(())
    }
}

/// Names shown before "and N more": enough to recognise the toolchain, short enough for an Event.
const NAMES_SHOWN: usize = 8;

pub(crate) fn listed(names: &[String]) -> String {
    let shown = names
        .iter()
        .take(NAMES_SHOWN)
        .map(|n| format!("`{n}`"))
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().checked_sub(NAMES_SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

fn unknown_imports(missing: &[&str]) -> BadWasm {
    let names: Vec<String> = missing.iter().map(|n| (*n).to_string()).collect();
    BadWasm::new(
        "E_UNKNOWN_IMPORT",
        format!(
            "the component imports what nobody here provides: {}",
            listed(&names)
        ),
        "Add a container to the pod that exports it, or build the component without it; the node provides wasi:cli, \
         clocks, filesystem, http, io, random and sockets at 0.2",
    )
}
