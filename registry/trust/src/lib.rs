//! Who vouches for an image, and whether that is enough: keys, signatures, policies, capabilities.
//!
//! Everything here is a function of its arguments. Bytes come from whoever fetched them, randomness from the caller, and
//! no clock is read: a signature made with a key is valid until the policy stops naming the key.
//!
//! What is signed is always the digest of a manifest, never a tag. Written is what cosign 3 writes and reads: a DSSE
//! envelope around an in-toto statement in a Sigstore bundle v0.3 ([`bundle`]), attached as a referrer ([`referrer`]).
//! Read are these and cosign's older signatures under `sha256-<hex>.sig` tags ([`simple`]). Keyless signatures are not
//! judged: they need a transparency log and a root of trust that an offline cluster does not have.
//!
//! Invariant: nothing found in a registry can make a call fail; what cannot be understood is a refusal with its reason
//! ([`verify::Why`]), and only keys the caller names can turn it into an acceptance.

#![forbid(unsafe_code)]

pub mod bundle;
pub mod capability;
pub mod diff;
pub mod dsse;
pub mod imports;
pub mod judge;
pub mod keys;
pub mod listing;
pub mod pattern;
pub mod policy;
pub mod reference;
pub mod referrer;
pub mod simple;
pub mod verify;

mod sealed;

#[cfg(test)]
mod tests;

pub use imports::{Imports, read_imports};
pub use judge::{Image, Verdict, Violation, judge};
pub use keys::{Algorithm, KeyError, NamedKey, PrivateKey, PublicKey, SecretText};
pub use policy::{ANNOTATION, Policy, PolicyError};
pub use verify::{Found, Signature, verify};

/// Signatures looked at for one image. Many people sign an image once, nobody signs it a thousand times; what lies
/// beyond is not looked at, so that a flood of referrers costs bounded time.
pub const SIGNATURES_MAX: usize = 64;

/// Largest bundle or payload read, in bytes. A bundle with certificate and log entry has some 6 kB, a signed SBOM is
/// read elsewhere.
pub const SIGNATURE_BYTES_MAX: usize = 1 << 20;

/// `sha256:<hex>` of bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}
