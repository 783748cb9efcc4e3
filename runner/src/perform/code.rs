//! From pulled bytes to compiled code: judge, join with siblings if it needs them, compile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_agent::{At, ContainerKind, Image};
use coracle_engine::{
    Artifact, BadWasm, Inspected, Kind, PrepareError, Problem, WasmSource, compose, digest_of,
    inspect,
};

use super::Tools;

/// Judgements remembered: ten thousand pods of a few images are judged once per image.
const KNOWN_MAX: usize = 1_024;

/// What is known about bytes, by digest.
#[derive(Default)]
pub(crate) struct Known(Mutex<BTreeMap<String, Arc<Result<Inspected, BadWasm>>>>);

impl Known {
    fn get(&self, digest: &str) -> Option<Arc<Result<Inspected, BadWasm>>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(digest)
            .cloned()
    }

    fn put(&self, digest: &str, judged: Arc<Result<Inspected, BadWasm>>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.pop_first();
        }
        known.insert(digest.to_string(), judged);
    }
}

/// Code of an import that nobody provides, as far as the file alone tells.
const UNKNOWN_IMPORT: &str = "E_UNKNOWN_IMPORT";

/// Prepares one container. No artifact for a library: its code becomes part of its siblings.
pub(super) async fn prepare(
    tools: &Tools,
    at: &At,
    image: &Image,
    siblings: &[(String, Image)],
) -> Result<(ContainerKind, Option<Artifact>), PrepareError> {
    let alone = judge(tools, image).await?;
    let kind = match alone.as_ref() {
        Ok(inspected) if inspected.kind == Kind::Library && !siblings.is_empty() => {
            return Ok((ContainerKind::Library, None));
        }
        Ok(_) => {
            let artifact = tools
                .engine
                .artifact(
                    &image.wasm,
                    WasmSource::Path(tools.images.wasm(&image.wasm)),
                )
                .await?;
            return kind_of(&artifact).map(|kind| (kind, Some(artifact)));
        }
        Err(bad) if bad.code() == UNKNOWN_IMPORT && !siblings.is_empty() => bad.clone(),
        Err(bad) => return Err(bad.clone().into()),
    };
    // Its siblings may export what nobody else provides.
    let composed = composed(tools, at, image, siblings).await?;
    match composed {
        None => Err(kind.into()),
        Some(bytes) => {
            let artifact = tools.engine.artifact(&digest_of(&bytes), bytes).await?;
            kind_of(&artifact).map(|kind| (kind, Some(artifact)))
        }
    }
}

/// Compiles an image that no pod has named yet. What only its siblings can complete is left to them.
pub(crate) async fn prepare_ahead(tools: &Tools, image: &Image) -> Result<(), PrepareError> {
    let judged = judge(tools, image).await?;
    let ready = matches!(judged.as_ref(), Ok(inspected) if inspected.kind != Kind::Library);
    if ready {
        let path = WasmSource::Path(tools.images.wasm(&image.wasm));
        tools.engine.artifact(&image.wasm, path).await?;
    }
    Ok(())
}

fn kind_of(artifact: &Artifact) -> Result<ContainerKind, PrepareError> {
    match artifact.kind() {
        Kind::Service(_) => Ok(ContainerKind::Service),
        Kind::Command(_) | Kind::CoreCommand => Ok(ContainerKind::Command),
        Kind::Library | Kind::CoreReactor => {
            let problem = Problem::new(
                "E_NOT_RUNNABLE",
                format!(
                    "the component exports nothing that can be run: {}",
                    artifact.exports().join(", ")
                ),
                "Export wasi:http/incoming-handler@0.2 (a service) or wasi:cli/run@0.2 (a command), or put it in a pod \
                 with a container that imports what it exports",
            );
            Err(PrepareError {
                problem,
                permanent: true,
            })
        }
    }
}

async fn judge(
    tools: &Tools,
    image: &Image,
) -> Result<Arc<Result<Inspected, BadWasm>>, PrepareError> {
    if let Some(judged) = tools.known.get(&image.wasm) {
        return Ok(judged);
    }
    let path = tools.images.wasm(&image.wasm);
    let judged =
        off_thread(move || read(&path).map(|bytes| inspect(&bytes, &BTreeSet::new()))).await?;
    let judged = Arc::new(judged);
    tools.known.put(&image.wasm, judged.clone());
    Ok(judged)
}

async fn composed(
    tools: &Tools,
    at: &At,
    image: &Image,
    siblings: &[(String, Image)],
) -> Result<Option<Vec<u8>>, PrepareError> {
    let mut parts = vec![(at.container.clone(), tools.images.wasm(&image.wasm))];
    parts.extend(
        siblings
            .iter()
            .map(|(name, image)| (name.clone(), tools.images.wasm(&image.wasm))),
    );
    let root = at.container.clone();
    off_thread(move || {
        let read: Result<Vec<(String, Vec<u8>)>, PrepareError> = parts
            .into_iter()
            .map(|(name, path)| Ok((name, read(&path)?)))
            .collect();
        let read = read?;
        let parts: Vec<(&str, &[u8])> = read
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
            .collect();
        compose(&root, &parts).map_err(PrepareError::from)
    })
    .await
}

fn read(path: &PathBuf) -> Result<Vec<u8>, PrepareError> {
    std::fs::read(path).map_err(|e| PrepareError {
        problem: Problem::new(
            "E_IMAGE_STORE",
            format!("an image cannot be read: {e}"),
            "Free space in the node's data directory and check its permissions",
        ),
        permanent: false,
    })
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PrepareError> + Send + 'static,
) -> Result<T, PrepareError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        let problem = Problem::new(
            "E_HOST",
            format!("the node failed: {e}"),
            "Look at the node's log and report this",
        );
        Err(PrepareError {
            problem,
            permanent: false,
        })
    })
}
