//! Digests against the specification's regular expression, and hashes against hashing in one go.

use sha2::{Digest as _, Sha256, Sha512};

use super::{Target, grammar, texts};
use crate::digest::{Algorithm, Digest, Hash};

pub(super) const TARGET: Target = Target {
    name: "digests",
    seeds,
    words: &[
        "sha256:", "sha512:", "sha384:", "md5:", "SHA256:", ":", "0", "f", "A", "g", "/", "..",
        "\n",
    ],
    check,
};

fn seeds() -> Vec<Vec<u8>> {
    let hex = "0123456789abcdef";
    let mut seeds = texts(&["", "sha256", "sha256:", "sha256:zz", ":", "sha384:00"]);
    for (algorithm, len) in [("sha256", 64), ("sha512", 128), ("sha512", 64), ("md5", 32)] {
        seeds.push(format!("{algorithm}:{}", hex.repeat(len / 16)).into_bytes());
    }
    seeds.push(format!("sha256:{}", hex.to_uppercase().repeat(4)).into_bytes());
    seeds.push(format!("sha256:{}\n", hex.repeat(4)).into_bytes());
    seeds
}

fn check(input: &[u8]) -> bool {
    hashing(input);
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    if let Ok(algorithm) = text.parse::<Algorithm>() {
        assert_eq!(algorithm.name(), text);
    }
    let digest = text.parse::<Digest>();
    assert_eq!(digest.is_ok(), grammar::is_digest(text), "{text:?}");
    match digest {
        Ok(digest) => {
            assert_eq!(digest.to_string(), text);
            assert_eq!(String::from(digest.clone()), text);
            assert_eq!(digest.hex().len(), digest.algorithm().hex_len());
            let again = format!("{}:{}", digest.algorithm().name(), digest.hex());
            assert_eq!(again, text);
            let json = serde_json::to_string(&digest).expect("a digest is a string");
            assert_eq!(serde_json::from_str::<Digest>(&json).ok(), Some(digest));
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 640, "{error}");
            false
        }
    }
}

/// However bytes are cut, whenever the state is looked at, the digest is that of the whole.
fn hashing(input: &[u8]) {
    let whole = |algorithm| match algorithm {
        Algorithm::Sha256 => format!("sha256:{}", hex::encode(Sha256::digest(input))),
        Algorithm::Sha512 => format!("sha512:{}", hex::encode(Sha512::digest(input))),
    };
    for algorithm in Algorithm::ALL {
        let want = whole(algorithm);
        assert!(grammar::is_digest(&want));
        assert_eq!(algorithm.digest(input).to_string(), want);
        // The first byte says where to cut.
        let cut = input.first().map_or(0, |b| usize::from(*b) % input.len());
        let mut hash = Hash::new(algorithm);
        assert_eq!(hash.algorithm(), algorithm);
        hash.update(&input[..cut]);
        let kept = hash.clone();
        let before = hash.digest();
        hash.update(&input[cut..]);
        assert_eq!(hash.digest().to_string(), want);
        assert_eq!(kept.digest(), before);
        assert_eq!(before, algorithm.digest(&input[..cut]));
    }
}
