//! What `coracle up` runs: a folder with coracle.toml, or a .wasm file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_api::meta;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::client::Client;
use crate::error::{self, CliError, Result};
use crate::image::{self, Component, Image};
use crate::progress::Progress;
use crate::{deploy, objects, wait};

/// `coracle.toml` of an application folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppFile {
    /// File with the objects, beside it.
    manifest: PathBuf,
    /// Folder (with `prebuilt.wasm`) or .wasm file of each image.
    images: BTreeMap<String, PathBuf>,
}

/// An application read and checked, before anything is started.
pub struct App {
    images: Vec<(Image, Component)>,
    objects: Vec<Value>,
}

/// Reads an application. Nothing is compiled: see DESIGN section 7, "Samples".
pub fn read(path: &Path) -> Result<App> {
    if path.is_file() {
        return from_wasm(path);
    }
    let file = path.join("coracle.toml");
    let text = std::fs::read_to_string(&file).map_err(|e| {
        error::file(&file, &e)
            .fix("name a .wasm file, or a folder with a coracle.toml such as samples/hello")
    })?;
    let app: AppFile = toml::from_str(&text).map_err(|e| {
        CliError::new(
            "E_APP",
            format!("{}: {}", file.display(), e.to_string().trim()),
        )
        .fix("it holds `manifest = \"FILE\"` and a table [images]")
    })?;
    let mut images = Vec::new();
    for (name, from) in &app.images {
        let mut component = image::read_component(&component_file(&path.join(from))?)?;
        let image = Image::parse(name)?;
        component.title = format!(
            "{}.wasm",
            image.name.rsplit('/').next().unwrap_or("component")
        );
        images.push((image, component));
    }
    let objects = objects::read(&path.join(&app.manifest))?;
    for o in &objects {
        objects::kind_of(o)?;
    }
    Ok(App { images, objects })
}

fn from_wasm(path: &Path) -> Result<App> {
    let component = image::read_component(path)?;
    let name = path
        .file_stem()
        .map(|s| {
            s.to_string_lossy()
                .to_lowercase()
                .replace(['_', '.', ' '], "-")
        })
        .unwrap_or_default();
    if !component.inspected.kind.is_service() {
        return Err(CliError::new(
            "E_NOT_A_SERVICE",
            format!("{}: it answers no HTTP requests", path.display()),
        )
        .fix("start the cluster with `coracle up`, then `coracle run FILE`"));
    }
    let image = Image::parse(&format!("{name}:latest"))?;
    let objects = deploy::manifests(
        &name,
        &format!("{name}:latest"),
        1,
        &format!("{name}.localhost"),
        80,
        &[],
    );
    Ok(App {
        images: vec![(image, component)],
        objects,
    })
}

/// What `cargo xtask samples` built from these very sources if it is there, else the prebuilt component.
fn component_file(at: &Path) -> Result<PathBuf> {
    if at.is_file() {
        return Ok(at.to_path_buf());
    }
    let dir = at.canonicalize().map_err(|e| error::file(at, &e))?;
    if let (Some(name), Some(root)) = (
        dir.file_name().and_then(|n| n.to_str()),
        dir.parent().and_then(Path::parent),
    ) {
        let built = root.join("target/samples");
        let recorded =
            std::fs::read_to_string(built.join(format!("{name}.source"))).unwrap_or_default();
        if !recorded.is_empty() && source_hash(&dir).is_some_and(|h| h == recorded.trim()) {
            return Ok(built.join(format!("{name}.wasm")));
        }
    }
    let prebuilt = dir.join("prebuilt.wasm");
    if prebuilt.is_file() {
        Ok(prebuilt)
    } else {
        Err(error::file(
            &prebuilt,
            &std::io::Error::from(std::io::ErrorKind::NotFound),
        ))
    }
}

/// The hash that `cargo xtask samples` records: over Cargo.toml, Cargo.lock and src.
fn source_hash(dir: &Path) -> Option<String> {
    let mut files = vec![dir.join("Cargo.toml"), dir.join("Cargo.lock")];
    for entry in std::fs::read_dir(dir.join("src")).ok()? {
        files.push(entry.ok()?.path());
    }
    files.sort();
    let mut hash = Sha256::new();
    for f in files {
        let bytes = std::fs::read(&f).ok()?;
        hash.update(f.file_name()?.to_string_lossy().as_bytes());
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    Some(hex::encode(hash.finalize()))
}

impl App {
    /// Pushes what the registry lacks, applies the objects with images by digest, waits until all of it is ready.
    pub async fn start(mut self, client: &Client, progress: &Progress) -> Result<()> {
        let mut by_name = BTreeMap::new();
        for (image, component) in &self.images {
            progress.step(&format!("pushing {}:{}", image.name, image.tag));
            let digest = image::push_component(client, component, image).await?;
            by_name.insert(
                format!("{}:{}", image.name, image.tag),
                format!("{}:{}@{digest}", image.name, image.tag),
            );
        }
        for object in &mut self.objects {
            pin(object, &by_name);
        }
        for object in &self.objects {
            objects::apply(client, object, false, true).await?;
        }
        for object in &self.objects {
            let name = meta::name(object);
            match object["kind"].as_str() {
                Some("Deployment") => {
                    wait::deployment(client, name, Duration::from_secs(120), progress).await?
                }
                Some("Pod") => {
                    drop(wait::pod_started(client, name, Duration::from_secs(120), progress).await?)
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Writes the digest into every container that names one of the images just pushed.
fn pin(value: &mut Value, images: &BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            if let Some(pinned) = map
                .get("image")
                .and_then(Value::as_str)
                .and_then(|i| images.get(i))
            {
                map.insert("image".into(), json!(pinned));
            }
            map.values_mut().for_each(|v| pin(v, images));
        }
        Value::Array(items) => items.iter_mut().for_each(|v| pin(v, images)),
        _ => {}
    }
}
