//! What is known in memory about the bytes of namespaces: those of open uploads, and the last count of the rows.
//!
//! It is bounded by the upload sessions there may be and by the namespaces that have a quota.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{COUNT_FRESH_MS, Exceeded, check};
use crate::upload::UploadId;

/// The last count of a namespace.
#[derive(Clone, Copy, Default)]
struct Count {
    /// Bytes by the rows, and what this member has linked since.
    bytes: u64,
    /// When the rows were counted, in milliseconds since 1970.
    at_ms: i64,
    /// Bytes this member has linked there since it was first counted.
    added: u64,
}

/// A count that is being made: what was linked when it began.
pub(super) struct Counting {
    added: u64,
}

#[derive(Default)]
struct Inner {
    uploads: BTreeMap<UploadId, (String, u64)>,
    counts: BTreeMap<String, Count>,
}

impl Inner {
    fn uploaded(&self, namespace: &str, but: Option<&UploadId>) -> u64 {
        self.uploads
            .iter()
            .filter(|(id, (of, _))| of == namespace && Some(*id) != but)
            .map(|(_, (_, bytes))| bytes)
            .sum()
    }
}

/// The ledger.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Inner>);

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The maps are whole after every line, so a panicking holder does not spoil them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An upload holds so many bytes now.
    pub(crate) fn holds(&self, namespace: &str, id: &UploadId, bytes: u64) {
        let entry = (namespace.to_owned(), bytes);
        self.lock().uploads.insert(id.clone(), entry);
    }

    /// An upload is over.
    pub(crate) fn end(&self, id: &UploadId) {
        self.lock().uploads.remove(id);
    }

    /// Bytes were linked. They count from now on, whether or not the namespace had them: a count before the next refusal
    /// puts that right. The upload they came with no longer counts.
    pub(crate) fn linked(&self, namespace: &str, id: Option<&UploadId>, bytes: u64) {
        let mut inner = self.lock();
        if let Some(id) = id {
            inner.uploads.remove(id);
        }
        if let Some(count) = inner.counts.get_mut(namespace) {
            count.bytes = count.bytes.saturating_add(bytes);
            count.added = count.added.saturating_add(bytes);
        }
    }

    /// Open uploads by namespace.
    pub(crate) fn uploads(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (namespace, bytes) in self.lock().uploads.values() {
            *sums.entry(namespace.clone()).or_default() += bytes;
        }
        sums
    }

    /// Decides by what is known; `None`: the rows have to be counted first. With an upload, its bytes are `more` from now
    /// on if they fit: checked and taken in one step, so that two uploads cannot both take what is left.
    pub(super) fn admit(
        &self,
        namespace: &str,
        upload: Option<&UploadId>,
        limit: u64,
        more: u64,
        now_ms: i64,
    ) -> Option<Result<(), Exceeded>> {
        let mut inner = self.lock();
        let count = *inner.counts.get(namespace)?;
        if now_ms.saturating_sub(count.at_ms) > COUNT_FRESH_MS {
            return None;
        }
        let used = count
            .bytes
            .saturating_add(inner.uploaded(namespace, upload));
        let fits = check(limit, used, more);
        if let (Ok(()), Some(id)) = (fits, upload) {
            let entry = (namespace.to_owned(), more);
            inner.uploads.insert(id.clone(), entry);
        }
        Some(fits)
    }

    /// To be called before the rows of a namespace are counted.
    pub(super) fn begin_count(&self, namespace: &str) -> Counting {
        let mut inner = self.lock();
        let count = inner.counts.entry(namespace.to_owned()).or_default();
        Counting { added: count.added }
    }

    /// Takes a count. What was linked while it was made may have been seen or not, so it is added: `false` if there was
    /// something, and the count may be too high.
    pub(super) fn counted(
        &self,
        namespace: &str,
        counting: &Counting,
        bytes: u64,
        now_ms: i64,
    ) -> bool {
        let mut inner = self.lock();
        let count = inner.counts.entry(namespace.to_owned()).or_default();
        let meanwhile = count.added.saturating_sub(counting.added);
        count.bytes = bytes.saturating_add(meanwhile);
        count.at_ms = now_ms;
        meanwhile == 0
    }

    /// A namespace has no quota any more.
    pub(super) fn forget(&self, namespace: &str) {
        self.lock().counts.remove(namespace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_share_what_is_left() {
        let ledger = Ledger::default();
        let [a, b] = [1, 2].map(UploadId::from_bits);
        assert_eq!(
            ledger.admit("n", Some(&a), 10, 6, 0),
            None,
            "not counted yet"
        );
        let counting = ledger.begin_count("n");
        ledger.linked("n", None, 1);
        assert!(!ledger.counted("n", &counting, 2, 0), "blurred");
        // 3 are linked, of which one came while the rows were counted.
        assert_eq!(ledger.admit("n", Some(&a), 10, 6, 0), Some(Ok(())));
        assert!(ledger.admit("n", Some(&b), 10, 2, 0).unwrap().is_err());
        assert_eq!(ledger.admit("n", Some(&b), 10, 1, 0), Some(Ok(())));
        assert_eq!(
            ledger.admit("n", Some(&a), 10, 6, 0),
            Some(Ok(())),
            "its own"
        );
        assert_eq!(ledger.uploads(), BTreeMap::from([("n".into(), 7)]));
        ledger.linked("n", Some(&a), 6);
        assert!(ledger.admit("n", None, 10, 1, 0).unwrap().is_err());
        ledger.end(&b);
        assert_eq!(ledger.admit("n", None, 10, 1, 0), Some(Ok(())));
        assert_eq!(ledger.admit("n", None, 10, 1, COUNT_FRESH_MS + 1), None);
    }
}
