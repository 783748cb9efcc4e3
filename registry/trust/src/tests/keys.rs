//! Keys of openssl and of our own making.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{golden, key, noise};
use crate::keys::{Algorithm, KeyError, PrivateKey, PublicKey};

const MESSAGE: &[u8] = golden!("message").as_bytes();

fn signature(text: &str) -> Vec<u8> {
    STANDARD.decode(text.trim()).unwrap()
}

#[test]
fn openssls_keys_and_signatures_are_read() {
    for (private, public, made, algorithm) in [
        (
            golden!("p256.key"),
            golden!("p256.pub"),
            golden!("p256.sig"),
            Algorithm::P256,
        ),
        (
            golden!("sec1.key"),
            golden!("sec1.pub"),
            golden!("sec1.sig"),
            Algorithm::P256,
        ),
        (
            golden!("ed25519.key"),
            golden!("ed25519.pub"),
            golden!("ed25519.sig"),
            Algorithm::Ed25519,
        ),
    ] {
        let public = PublicKey::parse(public).unwrap();
        let private = PrivateKey::parse(private, None).unwrap();
        assert_eq!(private.public(), &public);
        assert_eq!(public.algorithm(), algorithm);
        assert!(public.verifies(MESSAGE, &signature(made)));
        assert!(!public.verifies(b"another message", &signature(made)));
        let ours = private.sign(MESSAGE);
        assert!(public.verifies(MESSAGE, &ours));
        assert_eq!(ours, private.sign(MESSAGE), "no randomness in a signature");
    }
}

#[test]
fn ed25519_is_deterministic_across_tools() {
    let private = PrivateKey::parse(golden!("ed25519.key"), None).unwrap();
    assert_eq!(private.sign(MESSAGE), signature(golden!("ed25519.sig")));
}

#[test]
fn ed25519ph_of_cosign_is_taken_too() {
    use sha2::{Digest, Sha512};
    let seed = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let made = seed
        .sign_prehashed(Sha512::new().chain_update(MESSAGE), None)
        .unwrap();
    let private = PrivateKey::generate(Algorithm::Ed25519, &mut |out| out.fill(7)).unwrap();
    assert!(private.public().verifies(MESSAGE, &made.to_bytes()));
    assert!(!private.public().verifies(b"x", &made.to_bytes()));
}

#[test]
fn what_is_written_is_what_openssl_writes() {
    for (private, public) in [
        (golden!("p256.key"), golden!("p256.pub")),
        (golden!("ed25519.key"), golden!("ed25519.pub")),
    ] {
        let key = PrivateKey::parse(private, None).unwrap();
        assert_eq!(key.public().pem(), public);
        let again = PrivateKey::parse(key.pem().unwrap().expose(), None).unwrap();
        assert_eq!(again.public(), key.public());
    }
    // Version 1 of PKCS#8, which is what openssl writes for Ed25519, byte for byte.
    let key = PrivateKey::parse(golden!("ed25519.key"), None).unwrap();
    assert_eq!(key.pem().unwrap().expose(), golden!("ed25519.key"));
}

#[test]
fn a_sealed_key_opens_with_its_password_only() {
    for algorithm in [Algorithm::P256, Algorithm::Ed25519] {
        let made = key(algorithm, 1);
        let sealed = made.sealed_pem(b"secret", &mut noise(9)).unwrap();
        let text = sealed.expose();
        assert!(text.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n"));
        let opened = PrivateKey::parse(text, Some(b"secret")).unwrap();
        assert_eq!(opened.public(), made.public());
        assert_eq!(
            PrivateKey::parse(text, Some(b"other")).unwrap_err(),
            KeyError::WrongPassword
        );
        assert_eq!(PrivateKey::parse(text, None).unwrap_err(), KeyError::Locked);
    }
}

#[test]
fn cosigns_sealed_key_opens() {
    let text = golden!("cosign.key");
    let private = PrivateKey::parse(text, Some(b"")).unwrap();
    assert_eq!(private.public().pem().trim(), golden!("cosign.pub").trim());
    assert_eq!(
        PrivateKey::parse(text, Some(b"x")).unwrap_err(),
        KeyError::WrongPassword
    );
}

#[test]
fn a_sealed_key_that_asks_for_all_memory_is_refused() {
    for params in [
        r#"{"N":1099511627776,"r":8,"p":1}"#,
        r#"{"N":65536,"r":8,"p":4000000}"#,
        r#"{"N":65537,"r":8,"p":1}"#,
        r#"{"N":65536,"r":4294967295,"p":1}"#,
        r#"{"N":0,"r":0,"p":0}"#,
        r#"{"N":1,"r":1,"p":1}"#,
    ] {
        let document = format!(
            r#"{{"kdf":{{"name":"scrypt","params":{params},"salt":"AA=="}},"cipher":{{"name":"nacl/secretbox","nonce":"{}"}},"ciphertext":"AA=="}}"#,
            STANDARD.encode([0u8; 24])
        );
        let text = pem::encode(&pem::Pem::new(
            "ENCRYPTED SIGSTORE PRIVATE KEY",
            document.into_bytes(),
        ));
        let e = PrivateKey::parse(&text, Some(b"")).unwrap_err();
        assert!(
            matches!(e, KeyError::Malformed(_) | KeyError::WrongPassword),
            "{params}: {e:?}"
        );
    }
}

#[test]
fn other_keys_are_refused_by_name() {
    let refused = |text: &str| PublicKey::parse(text).unwrap_err().to_string();
    assert!(refused(golden!("rsa.pub")).contains("RSA"));
    assert!(refused(golden!("p384.pub")).contains("other than P-256"));
    assert!(refused("no key").contains("not a PEM file"));
    assert!(refused(golden!("p256.key")).contains("holds a PRIVATE KEY"));
    assert!(matches!(
        PrivateKey::parse(golden!("p256.pub"), None),
        Err(KeyError::Label { .. })
    ));
    let cut = golden!("p256.pub").replace("MFkw", "MFkA");
    assert!(PublicKey::parse(&cut).is_err());
}

#[test]
fn secrets_are_never_shown() {
    let made = key(Algorithm::P256, 3);
    let shown = format!("{made:?} {:?}", made.pem().unwrap());
    assert_eq!(shown, "PrivateKey(P-256, ..) SecretText(..)");
}

#[test]
fn random_numbers_that_are_none_are_noticed() {
    let e = PrivateKey::generate(Algorithm::P256, &mut |out| out.fill(0)).unwrap_err();
    assert_eq!(e, KeyError::Entropy);
}

#[test]
fn signatures_of_the_wrong_shape_are_no_signatures() {
    let public = PublicKey::parse(golden!("p256.pub")).unwrap();
    for bytes in [&b""[..], &[0; 64], &[0x30, 0x06, 2, 1, 0, 2, 1, 0]] {
        assert!(!public.verifies(MESSAGE, bytes));
        assert!(!public.verifies_sha256(&[0; 32], bytes));
    }
    let ed = PublicKey::parse(golden!("ed25519.pub")).unwrap();
    assert!(!ed.verifies(MESSAGE, &[0; 64]));
    assert!(!ed.verifies(MESSAGE, &[0; 63]));
}
