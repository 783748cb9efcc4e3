//! Objects that no row names: of pushes that died between object and row, and of the losers of equal pushes.

use coracle_registry::blobs::BlobError;
use coracle_registry::digest::Digest;
use coracle_registry::garbage::is_old;
use futures_util::StreamExt;
use jiff::Timestamp;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::{Objects, found, unavailable};

/// Nothing younger is an orphan: the row of a push that is under way may come as late as half of this.
pub(crate) const ORPHAN_AGE_MS: i64 = 24 * 60 * 60 * 1000;

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects seen.
    pub objects: usize,
    /// Of them removed.
    pub removed: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Objects {
    /// Removes orphans. Safe beside any push and any other sweep; to be called now and then (once a day).
    pub async fn sweep(&self, now: Timestamp) -> Result<Swept, BlobError> {
        let mut swept = Swept::default();
        let mut objects = self.store.list(Some(&self.root()));
        while let Some(object) = objects.next().await {
            let object = object.map_err(unavailable)?;
            swept.objects += 1;
            let Some((digest, generation)) = parse(&object.location) else {
                continue;
            };
            let written = Timestamp::from_millisecond(object.last_modified.timestamp_millis());
            let Ok(written) = written else { continue };
            if !is_old(written, now, ORPHAN_AGE_MS) {
                continue;
            }
            let named = self.place_now(&digest).await?;
            if named.is_some_and(|(place, _)| place.generation == generation) {
                continue;
            }
            found(self.store.delete(&object.location).await)?;
            swept.removed += 1;
            swept.bytes += object.size;
        }
        Ok(swept)
    }
}

/// Digest and generation of a key; `None` for what somebody else put there.
fn parse(key: &Path) -> Option<(Digest, String)> {
    let parts: Vec<String> = key.parts().map(|p| p.as_ref().to_owned()).collect();
    let [.., algorithm, shard, hex, generation] = parts.as_slice() else {
        return None;
    };
    let digest: Digest = format!("{algorithm}:{hex}").parse().ok()?;
    let ours = hex.starts_with(shard.as_str())
        && generation.len() == 16
        && generation.bytes().all(|b| b.is_ascii_hexdigit());
    ours.then(|| (digest, generation.clone()))
}
