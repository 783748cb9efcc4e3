//! `pull`: manifest, choice, layer, file.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use coracle_engine::MAX_WASM_BYTES;
use coracle_registry::client::{self as registry, Error, Transport};
use coracle_registry::wasm::{
    self, Bounds, CONFIG_BYTES_MAX, Choice, Found, INDEX_DEPTH_MAX, LayerRef, Packed, Target,
    Unsupported, unpack,
};
use futures_util::{StreamExt, stream};

use super::place::Place;
use super::{Image, fail};
use crate::args::PullArgs;
use crate::error::{self, CliError, Result};

/// Largest Wasm file, in bytes: what runs.
const WASM_BYTES_MAX: u64 = MAX_WASM_BYTES as u64;
/// Largest tar layer, in bytes. A Wasm file of the largest size fits four times.
const TAR_BYTES_MAX: u64 = 4 * WASM_BYTES_MAX;

/// One pull.
struct Pull<'a, T> {
    registry: &'a registry::Client<T>,
    image: &'a Image,
    repository: &'a str,
    place: Place,
    parallel: usize,
}

/// Brings the Wasm of an image to where the user wants it; answers its length in bytes.
pub async fn pull<T: Transport>(
    registry: &registry::Client<T>,
    image: &Image,
    repository: &str,
    args: &PullArgs,
) -> Result<u64> {
    let pull = Pull {
        registry,
        image,
        repository,
        place: Place::new(&args.output)?,
        parallel: usize::from(args.transfer.parallel),
    };
    match pull.choose().await? {
        Chosen::Layer(layer) => pull.layer(&layer).await,
        Chosen::Packed(packed) => pull.packed(&packed).await,
    }
}

/// What the manifests lead to.
enum Chosen {
    Layer(LayerRef),
    Packed(Packed),
}

impl<T: Transport> Pull<'_, T> {
    fn failed(&self, e: &Error) -> CliError {
        fail::coded(e, self.image)
    }

    fn unsupported(&self, what: impl Into<String>, fix: &str) -> CliError {
        let e = Unsupported {
            what: what.into(),
            fix: fix.into(),
        };
        fail::unsupported(&e, self.image)
    }

    async fn choose(&self) -> Result<Chosen> {
        let get = async |reference: &str| {
            let got = self.registry.manifest(self.repository, reference).await;
            got.map_err(|e| self.failed(&e))
        };
        let mut manifest = get(self.image.reference()).await?;
        let mut config: Option<Vec<u8>> = None;
        let mut depth = 0;
        loop {
            let choice = wasm::choose(&manifest.bytes, config.as_deref());
            match choice.map_err(|e| fail::unsupported(&e, self.image))? {
                Choice::Layer(layer) => return Ok(Chosen::Layer(layer)),
                Choice::Packed(packed) => return Ok(Chosen::Packed(packed)),
                Choice::Config(target) => {
                    let small = self
                        .registry
                        .small(self.repository, &target, CONFIG_BYTES_MAX);
                    config = Some(small.await.map_err(|e| self.failed(&e))?);
                }
                Choice::Manifest(target) if depth < INDEX_DEPTH_MAX => {
                    depth += 1;
                    manifest = get(&target.digest.to_string()).await?;
                }
                Choice::Manifest(_) => {
                    return Err(self.unsupported(
                        "has an index that leads to ever more indexes",
                        "push the image again",
                    ));
                }
            }
        }
    }

    fn bounded(&self, size: u64, max: u64) -> Result<()> {
        if size <= max {
            return Ok(());
        }
        let what = format!("has a layer of {size} bytes where {max} are the limit");
        Err(self.unsupported(what, "make it smaller"))
    }

    /// The layer is the Wasm.
    async fn layer(&self, layer: &LayerRef) -> Result<u64> {
        self.bounded(layer.size, WASM_BYTES_MAX)?;
        if self.place.holds(&layer.digest, layer.size)? {
            return Ok(layer.size);
        }
        let target = Target {
            digest: layer.digest.clone(),
            size: layer.size,
        };
        let partial = self.place.partial(&layer.digest);
        self.download(&target, &partial).await?;
        let mut head = Vec::new();
        File::open(&partial)
            .and_then(|file| file.take(8).read_to_end(&mut head))
            .map_err(|e| error::file(&partial, &e))?;
        if let Err(e) = wasm::precompiled(&head) {
            fs::remove_file(&partial).map_err(|e| error::file(&partial, &e))?;
            return Err(fail::unsupported(&e, self.image));
        }
        self.place.put(&partial)?;
        Ok(layer.size)
    }

    async fn download(&self, target: &Target, partial: &Path) -> Result<()> {
        let got = self.registry.download(self.repository, target, partial);
        got.await.map_err(|e| self.failed(&e))
    }

    /// The Wasm is a file in a tar layer. Some layers are on their way at once, and they are looked into from the topmost
    /// down.
    async fn packed(&self, packed: &Packed) -> Result<u64> {
        for target in &packed.layers {
            self.bounded(target.size, TAR_BYTES_MAX)?;
        }
        let found = self.find(packed).await?;
        let Some(bytes) = found else {
            return Err(self.unsupported(
                format!(
                    "starts the file {}, which none of its layers holds",
                    packed.path
                ),
                "copy the .wasm file to where ENTRYPOINT says, or push it itself with `coracle push`",
            ));
        };
        wasm::precompiled(&bytes).map_err(|e| fail::unsupported(&e, self.image))?;
        let written = |e: std::io::Error| error::file(self.place.dir(), &e);
        let mut file = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(self.place.dir())
            .map_err(written)?;
        file.write_all(&bytes).map_err(written)?;
        file.as_file().sync_all().map_err(written)?;
        self.place.put(file.path())?;
        Ok(bytes.len() as u64)
    }

    async fn find(&self, packed: &Packed) -> Result<Option<Vec<u8>>> {
        let downloads = packed.layers.iter().map(|target| async move {
            let partial = self.place.partial(&target.digest);
            self.download(target, &partial).await?;
            Ok::<_, CliError>(partial)
        });
        let mut found = None;
        let mut layers = stream::iter(downloads).buffered(self.parallel.max(1));
        while let Some(partial) = layers.next().await {
            let (partial, path) = (partial?, packed.path.clone());
            let looked = tokio::task::spawn_blocking(move || {
                let file = File::open(&partial).map_err(|e| error::file(&partial, &e))?;
                Ok::<_, CliError>(unpack(
                    BufReader::new(file),
                    &path,
                    &Bounds::of_file(WASM_BYTES_MAX),
                ))
            });
            let looked = looked
                .await
                .map_err(|e| CliError::new("E_IMAGE_UNPACK", e.to_string()))?;
            match looked? {
                Ok(Found::File(bytes)) => {
                    found = Some(bytes);
                    break;
                }
                Ok(Found::Removed) => break,
                Ok(Found::Absent) => {}
                Err(e) => {
                    let what = format!("has a tar layer that {}", fail::chain(&e));
                    return Err(self.unsupported(what, "push the image again"));
                }
            }
        }
        drop(layers);
        for target in &packed.layers {
            let partial = self.place.partial(&target.digest);
            match fs::remove_file(&partial) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error::file(&partial, &e));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}
