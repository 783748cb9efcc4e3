//! Which stored blobs were hashed lately, so that serving one again costs no hash.
//!
//! A blob that was pushed or served whole with the right digest, and whose bytes were not written since, is taken for
//! sound for as long as a scrub takes to come round: what rots in between is found by that. Hashing every answer would
//! cost as much as sending it. Kept in memory: after a start everything is hashed once more.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::digest::Digest;
use crate::garbage::is_old;

/// How long a look counts, in milliseconds: the time between two scrubs.
const LOOK_MS: i64 = 24 * 60 * 60 * 1000;
/// Looks remembered, about 10 MB; when they are full all are forgotten, and blobs are hashed again as they are served.
const LOOKS_MAX: usize = 65_536;

/// The looks.
#[derive(Default)]
pub(crate) struct Verified(Mutex<BTreeMap<Digest, Timestamp>>);

impl Verified {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Timestamp>> {
        // The map is whole after every line, so a panicking holder does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes were those of the digest when they were read, which began at `at`.
    pub fn note(&self, digest: &Digest, at: Timestamp) {
        let mut looks = self.lock();
        if looks.len() >= LOOKS_MAX && !looks.contains_key(digest) {
            looks.clear();
        }
        looks.insert(digest.clone(), at);
    }

    /// Whether bytes last written at `modified` were looked at since, and lately.
    pub fn holds(&self, digest: &Digest, modified: Timestamp, now: Timestamp) -> bool {
        let seen = self.lock().get(digest).copied();
        seen.is_some_and(|seen| modified < seen && !is_old(seen, now, LOOK_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    #[test]
    fn a_look_counts_until_the_bytes_are_written_or_a_day_has_passed() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let (digest, other) = (
            Algorithm::Sha256.digest(b"a"),
            Algorithm::Sha256.digest(b"b"),
        );
        let verified = Verified::default();
        verified.note(&digest, at(1_000));
        for (modified, now, holds) in [
            (999, 1_000, true),
            (999, 1_000 + LOOK_MS - 1, true),
            (999, 1_000 + LOOK_MS, false),
            // Written when it was being read, or after.
            (1_000, 1_000, false),
            (1_001, 2_000, false),
        ] {
            let held = verified.holds(&digest, at(modified), at(now));
            assert_eq!(held, holds, "{modified} {now}");
        }
        assert!(!verified.holds(&other, at(0), at(1_000)));
    }
}
