//! From bytes to mapped native code: looked up in memory, then on disk, then compiled; once per digest however many
//! pods ask at the same time. All of them share one mapping.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use wasmtime::component::Component;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::compile_parent::{self, BOMB};
use crate::engine::{Engine, EngineInner};
use crate::hosted::{split, track};
use crate::inspect::{Kind, MAX_WASM_BYTES, WasiVersion, inspect};
use crate::problem::{LinkError, PrepareError, Problem};
use crate::state::GuestState;

/// How long an input that took the compiler down is refused without another try.
const BOMB_MEMORY: Duration = Duration::from_secs(3_600);
/// Such inputs remembered; beyond it the oldest is forgotten.
const MAX_BOMBS: usize = 1_024;
/// Digests with a slot before slots without an artifact are dropped.
const SLOTS_BEFORE_SWEEP: usize = 1_024;

/// Where the bytes of a component are.
#[derive(Clone, Debug)]
pub enum WasmSource {
    /// In a file; read only if it has to be compiled.
    Path(PathBuf),
    /// In memory.
    Bytes(Bytes),
}

impl From<&Path> for WasmSource {
    fn from(path: &Path) -> Self {
        WasmSource::Path(path.to_path_buf())
    }
}

impl From<PathBuf> for WasmSource {
    fn from(path: PathBuf) -> Self {
        WasmSource::Path(path)
    }
}

impl From<Bytes> for WasmSource {
    fn from(bytes: Bytes) -> Self {
        WasmSource::Bytes(bytes)
    }
}

impl From<Vec<u8>> for WasmSource {
    fn from(bytes: Vec<u8>) -> Self {
        WasmSource::Bytes(bytes.into())
    }
}

/// The digest of bytes in the form `sha256:` and 64 hex digits.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A compiled component, mapped and ready to link. Cheap to clone; the mapping goes when the last clone and the last
/// replica are gone.
#[derive(Clone)]
pub struct Artifact(pub(crate) Arc<ArtifactInner>);

pub(crate) struct ArtifactInner {
    pub digest: String,
    pub kind: Kind,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    pub component: Component,
    pub program: OnceLock<Result<Program, LinkError>>,
}

/// What is instantiated for each call.
pub(crate) enum Program {
    Service(ProxyPre<GuestState>),
    Command(CommandPre<GuestState>),
}

impl Artifact {
    /// Digest of the Wasm it was compiled from.
    pub fn digest(&self) -> &str {
        &self.0.digest
    }

    /// What it is for; a core module has become a component here, so never one of the core kinds.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Interfaces it imports.
    pub fn imports(&self) -> &[String] {
        &self.0.imports
    }

    /// Interfaces it exports.
    pub fn exports(&self) -> &[String] {
        &self.0.exports
    }

    /// Bytes of native code mapped.
    pub fn code_bytes(&self) -> u64 {
        let range = self.0.component.image_range();
        (range.end as usize).saturating_sub(range.start as usize) as u64
    }

    fn new(engine: &wasmtime::Engine, digest: String, component: Component) -> Artifact {
        let ty = component.component_type();
        let imports: Vec<String> = ty
            .imports(engine)
            .map(|(name, _)| name.to_string())
            .collect();
        let exports: Vec<String> = ty
            .exports(engine)
            .map(|(name, _)| name.to_string())
            .collect();
        let has = |interface: &str| {
            exports.iter().any(|export| {
                let name = split(export);
                name.interface == interface && name.version.map(track) == Some("0.2")
            })
        };
        let kind = if has("wasi:http/incoming-handler") {
            Kind::Service(WasiVersion::P2)
        } else if has("wasi:cli/run") {
            Kind::Command(WasiVersion::P2)
        } else {
            Kind::Library
        };
        Artifact(Arc::new(ArtifactInner {
            digest,
            kind,
            imports,
            exports,
            component,
            program: OnceLock::new(),
        }))
    }
}

/// What is known in memory about digests.
#[derive(Default)]
pub(crate) struct Artifacts {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    bombs: Mutex<Vec<(String, Instant, PrepareError)>>,
}

/// One digest: the gate lets one caller at a time load or compile it.
#[derive(Default)]
struct Slot {
    gate: tokio::sync::Mutex<Weak<ArtifactInner>>,
}

impl Artifacts {
    fn slot(&self, digest: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= SLOTS_BEFORE_SWEEP {
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1
                    || slot
                        .gate
                        .try_lock()
                        .is_ok_and(|artifact| artifact.strong_count() > 0)
            });
        }
        slots.entry(digest.to_string()).or_default().clone()
    }

    /// Digests mapped now.
    fn live(&self) -> Vec<String> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots
            .iter()
            .filter(|(_, slot)| {
                slot.gate
                    .try_lock()
                    .map_or(true, |artifact| artifact.strong_count() > 0)
            })
            .map(|(digest, _)| digest.clone())
            .collect()
    }

    fn bomb(&self, digest: &str) -> Option<PrepareError> {
        let mut bombs = self.bombs.lock().unwrap_or_else(PoisonError::into_inner);
        bombs.retain(|(_, at, _)| at.elapsed() < BOMB_MEMORY);
        bombs
            .iter()
            .find(|(known, _, _)| known == digest)
            .map(|(_, _, error)| error.clone())
    }

    fn remember_bomb(&self, digest: &str, error: &PrepareError) {
        let mut bombs = self.bombs.lock().unwrap_or_else(PoisonError::into_inner);
        if bombs.len() >= MAX_BOMBS {
            bombs.remove(0);
        }
        bombs.push((digest.to_string(), Instant::now(), error.clone()));
    }
}

impl Engine {
    /// The compiled form of the Wasm with this digest: shared if it is mapped already, mapped from the cache if this
    /// node compiled it before, else checked against the digest, inspected and compiled. Core modules become
    /// components on the way. Must run on a tokio runtime with I/O and time, and not on one that serves requests.
    ///
    /// # Errors
    /// A [`PrepareError`]; `permanent` says whether the same bytes can ever succeed.
    pub async fn artifact(
        &self,
        digest: &str,
        wasm: impl Into<WasmSource>,
    ) -> Result<Artifact, PrepareError> {
        let engine = &self.inner;
        let hash = digest
            .strip_prefix("sha256:")
            .filter(|hash| {
                hash.len() == 64
                    && hash
                        .bytes()
                        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            })
            .ok_or_else(|| {
                PrepareError::permanent(Problem::new(
                    "E_DIGEST",
                    format!("`{digest}` is not a sha256 digest"),
                    "Give sha256: and 64 lower-case hex digits",
                ))
            })?;
        let slot = engine.artifacts.slot(digest);
        let mut gate = slot.gate.lock().await;
        if let Some(artifact) = gate.upgrade() {
            return Ok(Artifact(artifact));
        }
        if let Some(error) = engine.artifacts.bomb(digest) {
            return Err(error);
        }
        let name = format!("{hash}-{}", engine.compatibility);
        let component = match load(engine, &name).await? {
            Some(component) => component,
            None => {
                build(engine, digest, &name, wasm.into())
                    .await
                    .inspect_err(|error| {
                        if error.code() == BOMB {
                            engine.artifacts.remember_bomb(digest, error);
                        }
                    })?;
                load(engine, &name).await?.ok_or_else(|| {
                    PrepareError::transient(Problem::new(
                        "E_CACHE_LOST",
                        "the compiled code vanished or was changed before it could be mapped",
                        "Let nothing else write to the cache directory",
                    ))
                })?
            }
        };
        let artifact = Artifact::new(&engine.wasmtime, digest.to_string(), component);
        *gate = Arc::downgrade(&artifact.0);
        Ok(artifact)
    }
}

async fn load(engine: &Arc<EngineInner>, name: &str) -> Result<Option<Component>, PrepareError> {
    let (engine, name) = (engine.clone(), name.to_string());
    blocking(move || {
        let Some(component) = engine.cache.load(&engine.wasmtime, &name)? else {
            return Ok(None);
        };
        component
            .initialize_copy_on_write_image()
            .map_err(io::Error::other)?;
        Ok(Some(component))
    })
    .await?
    .map_err(|error| disk("read", &error))
}

async fn build(
    engine: &Arc<EngineInner>,
    digest: &str,
    name: &str,
    source: WasmSource,
) -> Result<(), PrepareError> {
    let digest = digest.to_string();
    let here = engine.clone();
    let (wasm, out) = blocking(move || {
        let wasm = checked(&here, &digest, source)?;
        let out = here.cache.temp().map_err(|e| disk("write", &e))?;
        Ok::<_, PrepareError>((wasm, out))
    })
    .await??;
    let child_out = out.as_file().try_clone().map_err(|e| disk("write", &e))?;
    let permit = engine.compilers.acquire().await.map_err(|_| {
        PrepareError::transient(Problem::new(
            "E_ENGINE_CLOSED",
            "the engine is shutting down",
            "Start it again",
        ))
    })?;
    compile_parent::compile(&engine.config, &engine.compatibility, wasm, child_out).await?;
    drop(permit);
    let (here, name) = (engine.clone(), name.to_string());
    blocking(move || {
        here.cache.store(&name, out)?;
        let suffix = format!("-{}", here.compatibility);
        let mut keep: BTreeSet<String> = here
            .artifacts
            .live()
            .iter()
            .map(|d| format!("{}{suffix}", d.trim_start_matches("sha256:")))
            .collect();
        keep.insert(name);
        here.cache.prune(&keep)
    })
    .await?
    .map_err(|error| disk("write", &error))
}

/// The bytes as an open file at its start, after the digest and the structure were checked.
fn checked(engine: &EngineInner, digest: &str, source: WasmSource) -> Result<File, PrepareError> {
    let bytes = match source {
        WasmSource::Bytes(bytes) => bytes,
        WasmSource::Path(path) => {
            let mut bytes = Vec::new();
            File::open(&path)
                .and_then(|file| file.take(MAX_WASM_BYTES as u64 + 1).read_to_end(&mut bytes))
                .map_err(|e| disk("read", &e))?;
            bytes.into()
        }
    };
    // A file over the size limit is cut above; its size is the better complaint.
    let found = digest_of(&bytes);
    if found != digest && bytes.len() <= MAX_WASM_BYTES {
        return Err(PrepareError::permanent(Problem::new(
            "E_DIGEST_MISMATCH",
            format!("the bytes have digest {found}, not {digest}"),
            "Pull the image again",
        )));
    }
    inspect(&bytes, &BTreeSet::new())?;
    // The child gets exactly the bytes that were checked, whatever happens to the file meanwhile.
    let mut file =
        tempfile::tempfile_in(&engine.config.cache_dir).map_err(|e| disk("write", &e))?;
    file.write_all(&bytes)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .map_err(|e| disk("write", &e))?;
    Ok(file)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PrepareError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        PrepareError::transient(Problem::new(
            "E_HOST",
            format!("preparing failed: {error}"),
            "Look at the node's log",
        ))
    })
}

fn disk(what: &str, error: &io::Error) -> PrepareError {
    PrepareError::transient(Problem::new(
        "E_CACHE_IO",
        format!("the compile cache could not be used ({what}): {error}"),
        "Free space in the data directory and check its permissions",
    ))
}
