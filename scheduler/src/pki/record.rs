//! The CA as the replicated state holds it, and what a rotation makes of it.
//!
//! A rotation has two phases between its begin and its end. In [`Phase::Spreading`] both roots are trusted and the old
//! one issues; in [`Phase::Renewing`] the new one issues. A certificate under the new root carries the new root signed
//! by the old one along, so whoever knows only the old root (a join token of before, a copied kubeconfig) still
//! verifies it until the old root is dropped.

use coracle_api::Timestamp;
use serde::{Deserialize, Serialize};

/// Where a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Both roots are trusted, the old one issues; everyone has to learn the new one.
    Spreading,
    /// Both roots are trusted, the new one issues; everyone has to renew.
    Renewing,
}

/// The CA record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CaRecord {
    /// Trusted roots as PEM, the issuing one first. A rotation has two for a while.
    pub roots: Vec<String>,
    /// The issuing root's key (PEM), sealed.
    pub key: String,
    /// The rotation under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
}

/// A rotation under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rotation {
    /// Where it is.
    pub phase: Phase,
    /// When it began.
    pub started: Timestamp,
    /// When this phase began.
    pub since: Timestamp,
    /// While spreading: the new root's key, sealed. Empty afterwards.
    pub next_key: String,
    /// The new root's name and key, signed by the old root (PEM).
    pub cross: String,
}

/// A root that was made for a rotation.
pub(crate) struct NewRoot {
    /// Signed by itself (PEM).
    pub root: String,
    /// Signed by the issuing root (PEM).
    pub cross: String,
    /// Its key (PEM), sealed.
    pub key: String,
}

impl CaRecord {
    /// Begins a rotation. `None` if one is under way.
    pub fn begin(&self, new: NewRoot, now: Timestamp) -> Option<Self> {
        let issuing = self.roots.first()?;
        if self.rotation.is_some() {
            return None;
        }
        Some(Self {
            roots: vec![issuing.clone(), new.root],
            key: self.key.clone(),
            rotation: Some(Rotation {
                phase: Phase::Spreading,
                started: now,
                since: now,
                next_key: new.key,
                cross: new.cross,
            }),
        })
    }

    /// The next phase, or the end of the rotation. `None` if none is under way.
    pub fn advance(&self, now: Timestamp) -> Option<Self> {
        let rotation = self.rotation.clone()?;
        let [first, second] = self.roots.as_slice() else {
            return None;
        };
        Some(match rotation.phase {
            Phase::Spreading => Self {
                roots: vec![second.clone(), first.clone()],
                key: rotation.next_key.clone(),
                rotation: Some(Rotation {
                    phase: Phase::Renewing,
                    since: now,
                    next_key: String::new(),
                    ..rotation
                }),
            },
            Phase::Renewing => Self {
                roots: vec![first.clone()],
                key: self.key.clone(),
                rotation: None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_has_one_way_through() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let alone = CaRecord {
            roots: vec!["old".into()],
            key: "old key".into(),
            rotation: None,
        };
        let new = || NewRoot {
            root: "new".into(),
            cross: "new by old".into(),
            key: "new key".into(),
        };
        assert_eq!(alone.advance(at(1)), None);
        let spreading = alone.begin(new(), at(1)).unwrap();
        assert_eq!(spreading.begin(new(), at(2)), None, "one at a time");
        assert_eq!(
            (spreading.roots.concat(), spreading.key.as_str()),
            ("oldnew".into(), "old key")
        );
        let renewing = spreading.advance(at(2)).unwrap();
        assert_eq!(
            (renewing.roots.concat(), renewing.key.as_str()),
            ("newold".into(), "new key")
        );
        let rotation = renewing.rotation.clone().unwrap();
        assert_eq!(
            (rotation.started, rotation.since, rotation.next_key.as_str()),
            (at(1), at(2), "")
        );
        assert_eq!(rotation.cross, "new by old");
        let done = renewing.advance(at(3)).unwrap();
        assert_eq!(
            done,
            CaRecord {
                roots: vec!["new".into()],
                key: "new key".into(),
                rotation: None
            }
        );
        // A record of before rotations were known reads as one without.
        let old: CaRecord = serde_json::from_str(r#"{"roots":["old"],"key":"old key"}"#).unwrap();
        assert_eq!(old, alone);
    }
}
