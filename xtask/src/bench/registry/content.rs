//! Unique blobs without the cost of making them: the same noise with a number at the end, so that a digest is the state
//! of the hash after the noise, cloned, and a few bytes more.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Bytes at the end of each blob that make it unique.
pub const MARK: usize = 16;

/// A blob to push.
#[derive(Clone)]
pub struct Blob {
    /// `sha256:...`
    pub digest: String,
    /// Its bytes: shared noise, then the mark.
    pub pieces: [Bytes; 2],
}

impl Blob {
    /// Length in bytes.
    pub fn size(&self) -> usize {
        self.pieces[0].len() + self.pieces[1].len()
    }
}

/// Blobs of given sizes.
pub struct Contents {
    noise: Bytes,
    states: Arc<BTreeMap<usize, Sha256>>,
}

impl Contents {
    /// For these sizes, each of at least [`MARK`] bytes.
    pub fn new(sizes: &[usize]) -> Self {
        let largest = sizes.iter().copied().max().unwrap_or(0);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut noise = Vec::with_capacity(largest + 8);
        while noise.len() < largest {
            // xorshift64: neither side can compress it.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend_from_slice(&state.to_le_bytes());
        }
        let noise = Bytes::from(noise);
        let states = sizes.iter().map(|size| {
            let mut hash = Sha256::new();
            hash.update(&noise[..size.saturating_sub(MARK)]);
            (*size, hash)
        });
        Self {
            states: Arc::new(states.collect()),
            noise: noise.clone(),
        }
    }

    /// The `n`th blob of a size given to [`Contents::new`].
    pub fn blob(&self, size: usize, series: u64, n: u64) -> Blob {
        let mut mark = series.to_be_bytes().to_vec();
        mark.extend_from_slice(&n.to_be_bytes());
        let mut hash = self.states.get(&size).cloned().unwrap_or_else(|| {
            let mut hash = Sha256::new();
            hash.update(&self.noise[..size.saturating_sub(MARK)]);
            hash
        });
        hash.update(&mark);
        Blob {
            digest: format!("sha256:{}", hex::encode(hash.finalize())),
            pieces: [
                self.noise.slice(..size.saturating_sub(MARK)),
                Bytes::from(mark),
            ],
        }
    }
}

/// An image manifest over two blobs that are there, unique by its annotation.
pub fn manifest(config: &Blob, layer: &Blob, series: u64, n: u64) -> Bytes {
    let text = format!(
        concat!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
            r#""config":{{"mediaType":"application/vnd.wasm.config.v0+json","digest":"{}","size":{}}},"#,
            r#""layers":[{{"mediaType":"application/wasm","digest":"{}","size":{}}}],"#,
            r#""annotations":{{"org.opencontainers.image.version":"{}.{}"}}}}"#
        ),
        config.digest,
        config.size(),
        layer.digest,
        layer.size(),
        series,
        n
    );
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_bytes() {
        let contents = Contents::new(&[1024, 4096]);
        for size in [1024, 4096, 2048] {
            let blob = contents.blob(size, 3, 17);
            assert_eq!(blob.size(), size);
            let whole = Sha256::digest(blob.pieces.concat());
            assert_eq!(blob.digest, format!("sha256:{}", hex::encode(whole)));
        }
        let (a, b) = (contents.blob(1024, 3, 1), contents.blob(1024, 3, 2));
        assert_ne!(a.digest, b.digest);
    }
}
