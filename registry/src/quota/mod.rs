//! Quotas: how many bytes a namespace may hold.
//!
//! What counts are the distinct blobs and manifests that the rows show in the namespace, as [`crate::usage`] counts them,
//! and what its unfinished uploads on this member hold. Whatever would take it over its quota is refused with 403: the
//! start of an upload, the piece of a body with which it becomes too long, a mount, a manifest.
//!
//! The rows are the truth. What is kept in memory ([`ledger`]) is a count of them that is at most
//! [`COUNT_FRESH_MS`] old, to which this member's own pushes are added at once; nobody is refused before the rows have
//! been counted anew. So a member may accept too much by what others have accepted in these ten seconds, and never refuses
//! what would fit. A namespace without a quota is not counted at all.

mod enforce;
mod ledger;

use serde_json::json;

use crate::error::{Code, Error};

pub(crate) use ledger::Ledger;

/// Age in milliseconds above which the bytes of a namespace are counted anew.
pub const COUNT_FRESH_MS: i64 = 10_000;

/// Most namespaces with a quota.
pub const QUOTAS_MAX: usize = 10_000;

/// Something does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The quota in bytes.
    pub limit: u64,
    /// Bytes in use without what was asked for.
    pub used: u64,
    /// Bytes asked for.
    pub more: u64,
}

/// May a namespace that holds `used` bytes take `more`? One that is full may not even begin (`more` is at least one).
///
/// # Errors
/// It may not.
pub fn check(limit: u64, used: u64, more: u64) -> Result<(), Exceeded> {
    match used.checked_add(more.max(1)) {
        Some(sum) if sum <= limit => Ok(()),
        _ => Err(Exceeded { limit, used, more }),
    }
}

/// The refusal as a client gets it.
pub(crate) fn denied(namespace: &str, exceeded: Exceeded) -> Error {
    let Exceeded { limit, used, more } = exceeded;
    Error::new(
        Code::Denied,
        format!(
            "E_REGISTRY_QUOTA: namespace {namespace} may hold {limit} bytes and holds {used}: {more} more do not fit; delete images there, or let an administrator raise it with `coracle registry quota set {namespace} SIZE`"
        ),
    )
    .detail(json!({ "namespace": namespace, "limit": limit, "used": used, "requested": more }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits() {
        for (limit, used, more, fits) in [
            (10, 0, 10, true),
            (10, 0, 11, false),
            (10, 9, 1, true),
            (10, 9, 0, true),
            (10, 10, 0, false),
            (10, 11, 0, false),
            (0, 0, 0, false),
            (u64::MAX, 1, u64::MAX, false),
        ] {
            assert_eq!(
                check(limit, used, more).is_ok(),
                fits,
                "{limit} {used} {more}"
            );
        }
        let error = denied("demo", check(10, 9, 2).unwrap_err());
        assert_eq!(error.status.as_u16(), 403);
        for part in [
            "demo",
            "10 bytes",
            "holds 9",
            "2 more",
            "quota set demo SIZE",
        ] {
            assert!(error.message.contains(part), "{part}: {}", error.message);
        }
    }
}
