//! Which links and blobs nothing needs any more: decided over rows, without touching any.
//!
//! Two independent marks. Inside one repository a *link* is garbage if no manifest of that repository names its digest.
//! Across repositories a *blob* is garbage if neither a link nor a manifest row names it. Manifests themselves are never
//! garbage here, tagged or not, so children of indexes, signatures and other referrers are safe by construction;
//! retention policies ([`crate::retention`]), which do remove manifests, come before these marks.
//!
//! Young things are not garbage whoever names them: a push writes blobs before the manifest that will name them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::digest::Digest;
use crate::rows::{BlobRow, LinkRow, ManifestRow};

/// Is something written at `at` old enough to be looked at?
pub fn is_old(at: Timestamp, now: Timestamp, age_ms: i64) -> bool {
    now.as_millisecond().saturating_sub(at.as_millisecond()) >= age_ms
}

/// Links of one repository that none of its manifests names, young ones left out.
pub fn unneeded_links<'a>(
    links: &'a BTreeMap<Digest, LinkRow>,
    manifests: &BTreeMap<Digest, ManifestRow>,
    now: Timestamp,
    age_ms: i64,
) -> Vec<&'a Digest> {
    let needed: BTreeSet<&Digest> = manifests
        .values()
        .flat_map(|manifest| manifest.blobs.iter().chain(&manifest.children))
        .collect();
    links
        .iter()
        .filter(|(digest, link)| !needed.contains(digest) && is_old(link.at, now, age_ms))
        .map(|(digest, _)| digest)
        .collect()
}

/// Blobs that no link and no manifest row (`held`) names, young ones left out.
pub fn unheld_blobs<'a>(
    blobs: &'a BTreeMap<Digest, BlobRow>,
    held: &BTreeSet<Digest>,
    now: Timestamp,
    age_ms: i64,
) -> Vec<&'a Digest> {
    blobs
        .iter()
        .filter(|(digest, blob)| !held.contains(digest) && is_old(blob.at, now, age_ms))
        .map(|(digest, _)| digest)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn digest(n: u8) -> Digest {
        Algorithm::Sha256.digest(&[n])
    }

    #[test]
    fn only_old_and_unnamed_links_go() {
        let link = |ms| LinkRow {
            size: 1,
            at: at(ms),
        };
        let links = BTreeMap::from([
            (digest(1), link(0)),
            (digest(2), link(0)),
            (digest(3), link(95)),
            (digest(4), link(0)),
        ]);
        let manifest = ManifestRow {
            media_type: "x".into(),
            size: 1,
            at: at(0),
            blobs: BTreeSet::from([digest(1)]),
            children: BTreeSet::from([digest(4)]),
            subject: None,
        };
        let manifests = BTreeMap::from([(digest(9), manifest)]);
        let gone = unneeded_links(&links, &manifests, at(100), 10);
        assert_eq!(gone, [&digest(2)]);
        assert_eq!(unneeded_links(&links, &manifests, at(100), 0).len(), 2);
    }

    #[test]
    fn only_old_and_unheld_blobs_go() {
        let blob = |ms| BlobRow {
            size: 1,
            at: at(ms),
            touch: 0,
        };
        let blobs = BTreeMap::from([
            (digest(1), blob(0)),
            (digest(2), blob(0)),
            (digest(3), blob(99)),
        ]);
        let held = BTreeSet::from([digest(1)]);
        assert_eq!(unheld_blobs(&blobs, &held, at(100), 10), [&digest(2)]);
    }
}
