//! Images: from a reference in a pod to Wasm bytes on this node's disk.
//!
//! A reference is resolved to a digest once for each pod; everything after that is by digest and checked against it, so
//! it does not matter who served the bytes. Nothing pulled is ever executed as native code: what is stored is Wasm, and
//! the engine compiles it itself.
//!
//! A layer comes from this node's store if it is there, else from another runner that has it or is getting it, else from
//! the registry ([`near`]); whatever is here or coming is given to other runners in turn ([`serve`]).

mod meter;
mod near;
mod outside;
mod packed;
#[cfg(test)]
mod packed_tests;
mod partial;
mod peers;
mod reference;
mod secrets;
pub(crate) mod serve;
mod signatures;
mod source;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use coracle_agent::{Image, Problem, PullFailure, PullPolicy, Transfer};
use coracle_registry::digest::{Algorithm, Digest as Named};
use coracle_registry::wasm::{self, Choice, INDEX_DEPTH_MAX, MANIFEST_BYTES_MAX, Unsupported};
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::api::Api;
use crate::endpoints::Endpoints;
use crate::live::Live;
use crate::tls::BadTls;
use meter::Meter;
use outside::Outside;
use peers::Peers;
use reference::{Place, Reference};
pub(crate) use secrets::Keyring;
use serve::Serve;
use source::{Embedded, FetchError, Source};
pub(crate) use store::Pin;
use store::{Record, Store};

/// Pulls at once: enough to fill a network, few enough to keep memory and disk calm.
const PULLS_MAX: usize = 8;
/// Largest Wasm file, in bytes: what the engine takes.
const WASM_BYTES_MAX: u64 = coracle_engine::MAX_WASM_BYTES as u64;

/// Code of what the registry does not give to whoever asked.
const DENIED: &str = "E_IMAGE_DENIED";

/// Why there is no image, as the agent wants to hear it.
pub(crate) type PullError = (PullFailure, Problem);

/// An image that is here.
pub(crate) struct Pulled {
    pub image: Image,
    /// How it came; `None` if it was here.
    pub transfer: Option<Transfer>,
    /// Keeps it here.
    pub pin: Pin,
}

/// Pulls images and keeps them.
pub(crate) struct Images {
    store: Store,
    embedded: Embedded,
    outside: Outside,
    peers: Option<Arc<Peers>>,
    meter: Meter,
    endpoints: Arc<Endpoints>,
    permits: Semaphore,
    /// One puller per reference or digest at a time; the others wait and find it done.
    flights: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Images {
    /// Opens the store in a directory.
    pub fn open(dir: &Path, bytes_max: u64, api: Api) -> io::Result<Self> {
        Ok(Self {
            endpoints: api.endpoints().clone(),
            store: Store::open(dir, bytes_max)?,
            embedded: Embedded::new(api),
            outside: Outside::default(),
            peers: None,
            meter: Meter::default(),
            permits: Semaphore::new(PULLS_MAX),
            flights: Mutex::default(),
        })
    }

    /// Uses other runners, too, with this node's identity.
    pub fn with_peers(mut self, api: Api, live: &Arc<Live>) -> Result<Self, BadTls> {
        self.peers = Some(Arc::new(Peers::new(api, live)?));
        Ok(self)
    }

    /// What gives layers to other runners.
    pub fn serve(&self) -> Serve {
        Serve::new(self.store.clone(), self.meter.clone())
    }

    /// Shows what is counted.
    pub fn register(&self, metrics: &mut Registry) {
        self.meter.register(metrics);
    }

    /// The file of a Wasm layer.
    pub fn wasm(&self, digest: &str) -> PathBuf {
        self.store.blob(digest)
    }

    fn flight(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, f| f.strong_count() > 0);
        if let Some(flight) = flights.get(name).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(tokio::sync::Mutex::new(()));
        flights.insert(name.to_string(), Arc::downgrade(&flight));
        flight
    }

    fn reference(&self, image: &str) -> Result<Reference, PullError> {
        Reference::parse(image, &self.endpoints.registries()).map_err(|why| {
            let fix = "Write NAME:TAG, HOST/NAME:TAG or NAME@sha256:DIGEST in lower case";
            (
                PullFailure::InvalidName,
                Problem::new(
                    "E_IMAGE_NAME",
                    format!("{image:?} is not an image name: {why}"),
                    fix,
                ),
            )
        })
    }

    /// Makes sure that an image is here. `asking` is called if it has to be fetched; `keyring` has the logins for
    /// registries outside.
    pub async fn pull(
        &self,
        image: &str,
        policy: PullPolicy,
        known_digest: Option<&str>,
        keyring: &Keyring,
        asking: impl FnOnce() + Send,
    ) -> Result<Pulled, PullError> {
        let reference = self.reference(image)?;
        let flight = self.flight(image);
        let _alone = flight.lock().await;
        let mut digest = reference
            .digest
            .clone()
            .or_else(|| known_digest.map(String::from));
        if digest.is_none() && policy != PullPolicy::Always {
            digest = self.store.tag(image).map_err(|e| disk(&e))?;
        }
        if let Some((record, pin)) = digest.as_deref().and_then(|d| self.here(d)) {
            return Ok(Pulled {
                image: reference.image(&record),
                transfer: None,
                pin,
            });
        }
        if policy == PullPolicy::Never {
            let problem = Problem::new(
                "E_IMAGE_NEVER_PULL",
                format!("{image} is not on this node, and imagePullPolicy is Never"),
                "Use imagePullPolicy IfNotPresent",
            );
            return Err((PullFailure::NeverPull, problem));
        }
        asking();
        let since = Instant::now();
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|e| disk(&io::Error::other(e)))?;
        let (record, pin, came) = self.pull_from_registry(&reference, digest, keyring).await?;
        if reference.digest.is_none() {
            let (store, image, digest) =
                (self.store.clone(), image.to_string(), record.digest.clone());
            off_thread(move || store.set_tag(&image, &digest)).await?;
        }
        Ok(Pulled {
            image: reference.image(&record),
            transfer: came.map(|(bytes, from)| Transfer {
                bytes,
                from,
                millis: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            }),
            pin,
        })
    }

    /// An image that is here, and stays.
    fn here(&self, digest: &str) -> Option<(Record, Pin)> {
        let record = self.store.image(digest)?;
        let pin = self.store.pin(&record.wasm);
        // It may have been removed before the pin.
        self.store.has(&record.wasm).then_some((record, pin))
    }

    async fn pull_from_registry(
        &self,
        reference: &Reference,
        digest: Option<String>,
        keyring: &Keyring,
    ) -> Result<Fetched, PullError> {
        let Place::Outside(host) = &reference.place else {
            return self.fetch(&self.embedded, reference, digest).await;
        };
        // Through the cluster's registry it costs the world outside one transfer. A cluster that may not do that says so
        // at once, and whatever is wrong there, the registry itself has the last word.
        let through = self.embedded.through(host);
        match self.fetch(&through, reference, digest.clone()).await {
            Err((PullFailure::Pull, problem)) => {
                tracing::debug!(image = reference.original, %problem, "not through the cluster's registry");
            }
            fetched => return fetched,
        }
        let logins = keyring.logins(host, &reference.repository).await;
        let mut next = logins.iter();
        let mut login = next.next();
        loop {
            let source = self.outside.source(reference, login);
            let source = source.map_err(|e| failed(reference, &e))?;
            let fetched = self.fetch(&source, reference, digest.clone()).await;
            let (failure, problem) = match fetched {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            if problem.code != DENIED {
                return Err((failure, problem));
            }
            login = next.next();
            if login.is_none() {
                let fix = keyring.fix(host);
                return Err((failure, Problem { fix, ..problem }));
            }
        }
    }

    /// Manifest, choice, layer. `digest` is the manifest to get if it is known, else the tag says.
    async fn fetch(
        &self,
        source: &impl Source,
        reference: &Reference,
        digest: Option<String>,
    ) -> Result<Fetched, PullError> {
        let what = digest.clone().unwrap_or_else(|| reference.tag.clone());
        let (mut bytes, mut found) = manifest(source, reference, &what).await?;
        let top = found.clone();
        if let Some((record, pin)) = self.here(&top) {
            return Ok((record, pin, None));
        }
        let mut depth = 0;
        let mut config: Option<Vec<u8>> = None;
        let (wasm, pin, came) = loop {
            match wasm::choose(&bytes, config.as_deref()).map_err(|e| unsupported(reference, &e))? {
                Choice::Layer(layer) => {
                    let (wasm, max) = (sha256(reference, &layer.digest)?, WASM_BYTES_MAX);
                    let pin = self.store.pin(&wasm);
                    let came = self
                        .layer(source, reference, &wasm, layer.size, max)
                        .await?;
                    break (wasm, pin, came);
                }
                Choice::Packed(packed) => break self.unpack(source, reference, &packed).await?,
                Choice::Config(target) => {
                    config = Some(configuration(source, reference, &target.digest).await?);
                }
                Choice::Manifest(target) if depth < INDEX_DEPTH_MAX => {
                    depth += 1;
                    let digest = sha256(reference, &target.digest)?;
                    (bytes, found) = manifest(source, reference, &digest).await?;
                }
                Choice::Manifest(_) => {
                    let what = format!("has an index {found} that leads to ever more indexes");
                    return Err(refused(reference, &what, "push the image again"));
                }
            }
        };
        let record = Record { digest: top, wasm };
        let (store, kept) = (self.store.clone(), record.clone());
        off_thread(move || store.set_image(&kept)).await?;
        self.prune().await?;
        Ok((record, pin, came))
    }

    /// Brings a layer of at most `max` bytes here. Answers how many bytes came from where, `None` if it was here.
    async fn layer(
        &self,
        source: &impl Source,
        reference: &Reference,
        digest: &str,
        size: u64,
        max: u64,
    ) -> Result<Option<(u64, String)>, PullError> {
        if size > max {
            let what = format!("has a layer of {size} bytes where {max} are the limit");
            return Err(refused(reference, &what, "make it smaller"));
        }
        if self.store.has(digest) {
            return Ok(None);
        }
        let flight = self.flight(digest);
        let _alone = flight.lock().await;
        if self.store.has(digest) {
            return Ok(None);
        }
        // Before anybody is asked: whoever is sent here meanwhile finds it on its way.
        let mut writer = self.store.writer(digest, size).map_err(|e| disk(&e))?;
        let peers = self.peers.as_deref();
        let fetched = near::fetch(source, peers, reference, digest, &mut writer).await;
        let from = match fetched {
            Ok(from) => from,
            Err(e) => {
                drop(writer);
                self.tell(digest, "gone");
                return Err(failed(reference, &e));
            }
        };
        tokio::task::spawn_blocking(move || writer.finish())
            .await
            .map_err(|e| disk(&io::Error::other(e)))?
            .map_err(|e| failed(reference, &e))?;
        self.tell(digest, "have");
        let counted = match from {
            Some(_) => &self.meter.from_runners,
            None => &self.meter.from_registries,
        };
        counted.inc_by(size);
        let from = from.map_or_else(|| source.shown(reference), |node| format!("node {node}"));
        Ok(Some((size, from)))
    }

    /// Removes what is beyond the bound.
    async fn prune(&self) -> Result<(), PullError> {
        let store = self.store.clone();
        let removed = tokio::task::spawn_blocking(move || store.prune()).await;
        let removed = removed
            .unwrap_or_else(|e| Err(io::Error::other(e)))
            .map_err(|e| disk(&e))?;
        for digest in removed {
            self.tell(&digest, "gone");
        }
        Ok(())
    }

    /// Tells the leader, whenever it hears it: others ask where there was something, and are told.
    fn tell(&self, digest: &str, state: &'static str) {
        if let Some(peers) = self.peers.clone() {
            let digest = digest.to_string();
            tokio::spawn(async move { peers.tell(&digest, state).await });
        }
    }
}

/// What was fetched, what keeps it here, and how many bytes came from where.
type Fetched = (Record, Pin, Option<(u64, String)>);

/// Disk work that may wait for the disk.
async fn off_thread(
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), PullError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)))
        .map_err(|e| disk(&e))
}

/// Gets a manifest and checks it against the digest asked for.
async fn manifest(
    source: &impl Source,
    reference: &Reference,
    what: &str,
) -> Result<(Vec<u8>, String), PullError> {
    let bytes = source
        .manifest(reference, what)
        .await
        .map_err(|e| failed(reference, &e))?;
    let found = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
    if what.starts_with("sha256:") && what != found {
        let e = FetchError::Corrupt(format!(
            "the manifest asked for as {what} has digest {found}"
        ));
        return Err(failed(reference, &e));
    }
    Ok((bytes, found))
}

fn failed(reference: &Reference, error: &FetchError) -> PullError {
    let name = &reference.original;
    let problem = match (error, &reference.place) {
        (FetchError::NotFound, Place::Embedded) => Problem::new(
            "E_IMAGE_NOT_FOUND",
            format!("{name} is not in the cluster's registry"),
            "Push it with `coracle push FILE NAME:TAG`, or write the registry's host in front of the name",
        ),
        (FetchError::NotFound, Place::Outside(host)) => Problem::new(
            "E_IMAGE_NOT_FOUND",
            format!("{name} is not at {host}"),
            "Check the name and the tag",
        ),
        (FetchError::Denied(why), _) => Problem::new(
            DENIED,
            format!("{name} may not be pulled: {why}"),
            "Make the image public, or push it to the cluster's registry",
        ),
        (FetchError::Corrupt(why), _) => Problem::new(
            "E_IMAGE_CORRUPT",
            format!("{name} arrived damaged: {why}"),
            "Push the image again",
        ),
        (FetchError::Unreachable(why), _) => Problem::new(
            "E_IMAGE_UNREACHABLE",
            format!("{name} cannot be fetched: {why}"),
            "Check the registry and the network",
        ),
        (FetchError::Disk(e), _) => return disk(e),
    };
    (PullFailure::Pull, problem)
}

/// The configuration of an image, which says where its Wasm is.
async fn configuration(
    source: &impl Source,
    reference: &Reference,
    digest: &Named,
) -> Result<Vec<u8>, PullError> {
    let name = sha256(reference, digest)?;
    let bytes = source
        .blob_small(reference, &name)
        .await
        .map_err(|e| failed(reference, &e))?;
    let found = digest.algorithm().digest(&bytes);
    if found != *digest {
        let e = FetchError::Corrupt(format!(
            "the configuration asked for as {digest} has digest {found}"
        ));
        return Err(failed(reference, &e));
    }
    Ok(bytes)
}

/// A digest as this node's store takes it.
fn sha256(reference: &Reference, digest: &Named) -> Result<String, PullError> {
    match digest.algorithm() {
        Algorithm::Sha256 => Ok(digest.to_string()),
        Algorithm::Sha512 => Err(refused(
            reference,
            "names its parts by sha512 digests, which nodes do not keep",
            "push it with sha256 digests, as `coracle push` does",
        )),
    }
}

fn unsupported(reference: &Reference, refusal: &Unsupported) -> PullError {
    refused(reference, &refusal.what, &refusal.fix)
}

/// What the image is, beginning with a verb, and what to do.
fn refused(reference: &Reference, what: &str, fix: &str) -> PullError {
    let mut fix = fix.to_string();
    if let Some(first) = fix.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    (
        PullFailure::Unsupported,
        Problem::new(
            "E_IMAGE_UNSUPPORTED",
            format!("{} {what}", reference.original),
            fix,
        ),
    )
}

fn disk(error: &io::Error) -> PullError {
    let fix = "Free space in the node's data directory and check its permissions";
    (
        PullFailure::Pull,
        Problem::new(
            "E_IMAGE_STORE",
            format!("the node cannot store images: {error}"),
            fix,
        ),
    )
}

/// Fetches a layer from the embedded registry, for tests of what happens on the way.
#[cfg(test)]
pub(crate) async fn test_blob(api: Api, dir: &Path, bytes: &[u8]) -> Vec<u8> {
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
    let dir = tempfile::tempdir_in(dir).unwrap();
    let store = Store::open(dir.path(), 1 << 30).unwrap();
    let mut writer = store.writer(&digest, bytes.len() as u64).unwrap();
    let reference = Reference::parse("demo:v1", &[]).unwrap();
    let embedded = Embedded::new(api);
    embedded
        .blob(&reference, &digest, &mut writer)
        .await
        .unwrap();
    writer.finish().unwrap();
    std::fs::read(store.blob(&digest)).unwrap()
}
