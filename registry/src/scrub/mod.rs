//! Scrub: every stored blob read and hashed, so that rot is found while another copy may still be good.
//!
//! Files and rows are walked side by side in digest order ([`next`]). A file whose bytes are not what its name says is
//! moved aside, and a blob that a row names and that is not here is brought from another member, if the store knows any:
//! opening an absent blob is what asks them. What came of it is decided by [`fate`]. A blob that no member has a good copy
//! of is lost until somebody pushes it again; until then it counts as absent everywhere, so that clients do push it:
//! `HEAD` answers 404, a mount falls back to an upload, a manifest that names it is refused.
//!
//! Reading is bounded in bytes per second ([`pause`]), so that it may go on beside pushes and pulls.

mod run;
mod status;

use std::time::Duration;

use serde::Serialize;

use crate::digest::Digest;

pub use run::ScrubRun;
pub use status::ScrubStatus;
pub(crate) use status::Scrubs;

/// Lost blobs that a report names; more are counted.
pub const LOST_NAMED_MAX: usize = 100;

/// Repositories named for one lost blob.
pub const REPOSITORIES_NAMED_MAX: usize = 16;

/// What one blob costs at least, in bytes of the bound: opening a small file is worth as much as reading this.
pub const BLOB_COST_BYTES: u64 = 16 * 1024;

/// What one scrub of one member found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubReport {
    /// Blobs read and hashed.
    pub checked: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Copies that were not what their digest says; they were moved aside.
    pub corrupt: u64,
    /// Blobs that a repository needs and that were not here at all, or were moved aside by an earlier scrub.
    pub missing: u64,
    /// Corrupt and missing ones that were brought from another member.
    pub healed: u64,
    /// Those that could not be brought yet: a member does not answer, or the disk failed. The next round tries again.
    pub pending: u64,
    /// Those that a repository needs and no member has.
    pub lost: u64,
    /// The first [`LOST_NAMED_MAX`] of these, by digest.
    pub lost_blobs: Vec<LostBlob>,
}

/// A blob without a good copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes, from its row.
    pub size: u64,
    /// Repositories that need it, up to [`REPOSITORIES_NAMED_MAX`]: pushing it to any of them heals all.
    pub repositories: Vec<String>,
}

/// What the walk comes to next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A file, with or without a row.
    File {
        /// Whether the row at hand is this file's.
        row: bool,
    },
    /// A row without a file.
    Row,
}

/// The smaller of the next row's and the next file's digest; `None` when both lists have ended.
pub fn next(row: Option<&Digest>, file: Option<&Digest>) -> Option<Step> {
    match (row, file) {
        (None, None) => None,
        (None, Some(_)) => Some(Step::File { row: false }),
        (Some(_), None) => Some(Step::Row),
        (Some(row), Some(file)) if row < file => Some(Step::Row),
        (Some(row), Some(file)) => Some(Step::File { row: row == file }),
    }
}

/// What opening a blob found after its bad copy was moved aside, or because it was not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// A blob of this many bytes: one from another member, verified on its way, or a push's.
    Bytes(u64),
    /// Every member answered, none has it.
    Nowhere,
    /// Not every member answered, or the disk failed.
    Unknown,
}

/// What became of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A good copy is here.
    Healed,
    /// There is no good copy.
    Lost,
    /// To be tried again.
    Pending,
    /// Nobody needs it.
    Unneeded,
}

/// Decides by the length its row says (`None`: it has no row) and what is there.
pub fn fate(needed_bytes: Option<u64>, there: There) -> Fate {
    match (needed_bytes, there) {
        (None, _) => Fate::Unneeded,
        (Some(want), There::Bytes(have)) if want == have => Fate::Healed,
        (Some(_), There::Bytes(_) | There::Nowhere) => Fate::Lost,
        (Some(_), There::Unknown) => Fate::Pending,
    }
}

/// How long to wait after reading `bytes` in `took`, so that no more than `bytes_per_second` are read.
pub fn pause(bytes: u64, took: Duration, bytes_per_second: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    due.saturating_sub(took)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    #[test]
    fn rows_and_files_are_walked_side_by_side() {
        let mut digests = [1, 2].map(|n: u8| Algorithm::Sha256.digest(&[n]));
        digests.sort();
        let [a, b] = &digests;
        for (row, file, step) in [
            (None, None, None),
            (Some(a), None, Some(Step::Row)),
            (None, Some(a), Some(Step::File { row: false })),
            (Some(a), Some(a), Some(Step::File { row: true })),
            (Some(a), Some(b), Some(Step::Row)),
            (Some(b), Some(a), Some(Step::File { row: false })),
        ] {
            assert_eq!(next(row, file), step, "{row:?} {file:?}");
        }
        // As rows are keyed: by the text, algorithm first.
        let long = Algorithm::Sha512.digest(&[1]);
        assert_eq!(next(Some(a), Some(&long)), Some(Step::Row));
        assert!(a.to_string() < long.to_string());
    }

    #[test]
    fn fates() {
        for (needed, there, want) in [
            (None, There::Nowhere, Fate::Unneeded),
            (None, There::Unknown, Fate::Unneeded),
            (Some(3), There::Bytes(3), Fate::Healed),
            (Some(3), There::Bytes(2), Fate::Lost),
            (Some(3), There::Nowhere, Fate::Lost),
            (Some(3), There::Unknown, Fate::Pending),
        ] {
            assert_eq!(fate(needed, there), want, "{needed:?} {there:?}");
        }
    }

    #[test]
    fn reading_is_bounded() {
        let ms = Duration::from_millis;
        for (bytes, took, rate, want) in [
            (1_000, ms(0), 1_000, ms(1_000)),
            (1_000, ms(400), 1_000, ms(600)),
            (1_000, ms(1_400), 1_000, ms(0)),
            (0, ms(0), 1, ms(0)),
            (1, ms(0), u64::MAX, ms(0)),
            (1, ms(0), 0, ms(1_000)),
        ] {
            assert_eq!(pause(bytes, took, rate), want, "{bytes} {took:?} {rate}");
        }
        assert!(pause(u64::MAX, ms(0), 1) > ms(1_000));
    }
}
