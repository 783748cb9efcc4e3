//! Tests against other tools' keys and signatures, and of every reason to refuse.

mod keys;
mod policies;
mod signatures;
mod surfaces;

use crate::keys::{Algorithm, NamedKey, PrivateKey, PublicKey};

/// SHA-256 of the four bytes `test`: the image of these tests.
pub const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// A file of the folder `golden`.
macro_rules! golden {
    ($file:literal) => {
        include_str!(concat!("../../golden/", $file))
    };
}
pub(crate) use golden;

/// Bytes that look random and are the same in every run.
pub fn noise(seed: u8) -> impl FnMut(&mut [u8]) {
    let mut state = u64::from(seed) + 1;
    move |out: &mut [u8]| {
        for byte in out {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
    }
}

/// A key of this seed.
pub fn key(algorithm: Algorithm, seed: u8) -> PrivateKey {
    PrivateKey::generate(algorithm, &mut noise(seed)).unwrap()
}

/// The key of openssl's signatures, named `openssl`.
pub fn openssl() -> NamedKey {
    named("openssl", &PublicKey::parse(golden!("p256.pub")).unwrap())
}

/// A named key.
pub fn named(name: &str, key: &PublicKey) -> NamedKey {
    NamedKey {
        name: name.into(),
        key: key.clone(),
    }
}
