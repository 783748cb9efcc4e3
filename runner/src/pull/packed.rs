//! Wasm out of a tar layer, into the store as a file of its own.
//!
//! The layer itself comes and is kept as any other, so that other runners get it from here; nothing pins it, and it goes
//! when there is no room.

use std::io::{self, BufReader};

use coracle_registry::wasm::{Bounds, Found, Packed, unpack};
use sha2::{Digest, Sha256};

use super::reference::Reference;
use super::source::{FetchError, Source};
use super::store::Store;
use super::{Images, Pin, PullError, WASM_BYTES_MAX, disk, failed, refused, sha256};

/// Largest tar layer, in bytes. A Wasm file of the largest size fits four times.
const TAR_BYTES_MAX: u64 = 4 * WASM_BYTES_MAX;

/// What came of looking into a layer.
enum Looked {
    /// The Wasm's digest.
    Stored(String),
    Removed,
    Absent,
    /// Why it could not be looked into, as a clause about the layer.
    Refused(String),
}

impl Images {
    /// Fetches the layers from the topmost down until one has the file. Answers as if the Wasm had been a layer.
    pub(super) async fn unpack(
        &self,
        source: &impl Source,
        reference: &Reference,
        packed: &Packed,
    ) -> Result<(String, Pin, Option<(u64, String)>), PullError> {
        let mut came: Option<(u64, String)> = None;
        for target in &packed.layers {
            let digest = sha256(reference, &target.digest)?;
            let _kept = self.store.pin(&digest);
            let got = self.layer(source, reference, &digest, target.size, TAR_BYTES_MAX);
            if let Some((bytes, from)) = got.await? {
                came = Some((came.map_or(0, |(sum, _)| sum) + bytes, from));
            }
            let (store, path, layer) = (self.store.clone(), packed.path.clone(), digest.clone());
            let looked = tokio::task::spawn_blocking(move || look(&store, &layer, &path))
                .await
                .map_err(|e| disk(&io::Error::other(e)))?;
            match looked.map_err(|e| failed(reference, &e))? {
                Looked::Stored(wasm) => {
                    let pin = self.store.pin(&wasm);
                    // It may have been removed before the pin.
                    if self.store.has(&wasm) {
                        return Ok((wasm, pin, came));
                    }
                    return Err(disk(&io::Error::other("no room for the image")));
                }
                Looked::Absent => {}
                Looked::Removed => break,
                Looked::Refused(why) => {
                    let what = format!("has a tar layer that {why}");
                    return Err(refused(reference, &what, "push the image again"));
                }
            }
        }
        let what = format!(
            "starts the file {}, which none of its layers holds",
            packed.path
        );
        Err(refused(
            reference,
            &what,
            "copy the .wasm file to where ENTRYPOINT says, or push it itself with `coracle push`",
        ))
    }
}

/// Looks into a layer that is here, and stores what it finds.
fn look(store: &Store, layer: &str, path: &str) -> Result<Looked, FetchError> {
    let gone = || FetchError::Disk(io::Error::other("the layer was removed while it was read"));
    let (file, _) = store
        .open_blob(layer)
        .map_err(FetchError::Disk)?
        .ok_or_else(gone)?;
    let found = unpack(BufReader::new(file), path, &Bounds::of_file(WASM_BYTES_MAX));
    let bytes = match found {
        Ok(Found::File(bytes)) => bytes,
        Ok(Found::Removed) => return Ok(Looked::Removed),
        Ok(Found::Absent) => return Ok(Looked::Absent),
        Err(why) => return Ok(Looked::Refused(crate::api::chain(&why))),
    };
    let wasm = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
    if !store.has(&wasm) {
        let mut writer = store
            .writer(&wasm, bytes.len() as u64)
            .map_err(FetchError::Disk)?;
        writer.write(&bytes)?;
        writer.finish()?;
    }
    Ok(Looked::Stored(wasm))
}
