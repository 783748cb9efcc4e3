//! Signatures in every form, and every reason why one does not count.

use serde_json::{Value, json};

use super::{DIGEST, golden, key, named, openssl};
use crate::dsse::{SIGNED, Statement, pae};
use crate::keys::{Algorithm, PublicKey};
use crate::verify::{Found, Signature, Why, verify, verify_statements};
use crate::{SIGNATURES_MAX, bundle, referrer, simple};

const OTHER: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn bundle(bytes: impl Into<Vec<u8>>) -> Found {
    Found {
        origin: "here".into(),
        signature: Signature::Bundle(bytes.into()),
    }
}

fn why(found: Found) -> Why {
    let verified = verify(DIGEST, &[found], &[openssl()]);
    assert!(verified.valid.is_empty());
    verified.refused[0].why.clone()
}

/// A golden file with a change.
fn changed(text: &str, change: impl FnOnce(&mut Value)) -> Found {
    let mut value: Value = serde_json::from_str(text).unwrap();
    change(&mut value);
    bundle(value.to_string())
}

#[test]
fn the_encoding_is_that_of_the_dsse_specification() {
    assert_eq!(
        pae("http://example.com/HelloWorld", b"hello world"),
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    );
}

#[test]
fn signatures_of_other_tools_hold() {
    let simple = Found {
        origin: "tag".into(),
        signature: Signature::Simple {
            payload: golden!("simple.json").into(),
            signature: golden!("simple.sig").into(),
        },
    };
    let all = [
        bundle(golden!("bundle.json")),
        bundle(golden!("message.bundle.json")),
        simple,
    ];
    let verified = verify(DIGEST, &all, &[openssl()]);
    assert_eq!(verified.refused, []);
    assert_eq!(verified.valid.len(), 3);
    assert_eq!(verified.keys().len(), 1, "one key is one voice");
    let verified = verify(OTHER, &all, &[openssl()]);
    assert_eq!(verified.valid, []);
    for refused in verified.refused {
        assert_eq!(refused.why, Why::OtherSubject(DIGEST.into()));
    }
}

#[test]
fn a_bundle_of_cosign_3_holds() {
    let image = "sha256:a360a10e39e32cb444fccf5a747878930ea02d91a66c56d0e85f7f74a8b80645";
    let key = PublicKey::parse(golden!("cosign.pub")).unwrap();
    let found = [bundle(golden!("cosign.bundle.json"))];
    let verified = verify(image, &found, &[named("cosign", &key)]);
    assert_eq!(verified.valid.len(), 1, "{verified:?}");
    assert!(golden!("cosign.bundle.json").contains(&key.hint()));
    assert!(verify(image, &found, &[openssl()]).valid.is_empty());
}

#[test]
fn our_own_signatures_hold_in_both_forms() {
    for algorithm in [Algorithm::P256, Algorithm::Ed25519] {
        let (ours, theirs) = (key(algorithm, 1), key(algorithm, 2));
        let (payload, signature) = simple::sign(&ours, "team/web", DIGEST);
        let all = [
            bundle(bundle::sign(&ours, &Statement::signed(DIGEST)).unwrap()),
            Found {
                origin: simple::tag(DIGEST),
                signature: Signature::Simple { payload, signature },
            },
        ];
        let keys = [
            named("theirs", theirs.public()),
            named("ours", ours.public()),
        ];
        let verified = verify(DIGEST, &all, &keys);
        assert_eq!(verified.valid.len(), 2);
        assert!(verified.valid.iter().all(|v| v.key == "ours"));
        let verified = verify(DIGEST, &all, &keys[..1]);
        assert!(verified.refused.iter().all(|r| r.why == Why::NoKey));
        assert_eq!(
            verified.reasons(),
            "the signature at here was made with none of the keys, and 1 more do not count"
        );
    }
}

#[test]
fn a_bundle_reads_as_cosign_writes_it() {
    let ours = key(Algorithm::P256, 1);
    let made: Value =
        serde_json::from_slice(&bundle::sign(&ours, &Statement::signed(DIGEST)).unwrap()).unwrap();
    assert_eq!(made["mediaType"], bundle::MEDIA_TYPE);
    assert_eq!(
        made["verificationMaterial"],
        json!({"publicKey": {"hint": ours.public().hint()}})
    );
    assert_eq!(
        made["dsseEnvelope"]["payloadType"],
        "application/vnd.in-toto+json"
    );
    assert!(made.get("messageSignature").is_none());
    let parsed = bundle::parse(made.to_string().as_bytes()).unwrap();
    let bundle::Content::Statement { statement, .. } = parsed.content else {
        panic!("a statement was written");
    };
    assert_eq!(statement.predicate_type, SIGNED);
    assert!(statement.names(DIGEST) && !statement.names(OTHER));
}

#[test]
fn what_does_not_count_says_why() {
    let text = golden!("bundle.json");
    let unreadable = |found: Found, words: &str| match why(found) {
        Why::Unreadable(sentence) => assert!(sentence.contains(words), "{sentence}"),
        other => panic!("{other:?} instead of {words}"),
    };
    unreadable(bundle("no json"), "not a Sigstore bundle");
    unreadable(bundle("{}"), "mediaType");
    unreadable(
        changed(text, |v| v["mediaType"] = json!("text/plain")),
        "mediaType",
    );
    unreadable(
        changed(text, |v| {
            v.as_object_mut().unwrap().remove("dsseEnvelope");
        }),
        "no signature",
    );
    unreadable(
        changed(text, |v| {
            v["messageSignature"] = json!({"signature": "AA=="});
        }),
        "two contents",
    );
    unreadable(
        changed(text, |v| v["dsseEnvelope"]["signatures"] = json!([])),
        "0 signatures",
    );
    unreadable(
        changed(text, |v| {
            let one = v["dsseEnvelope"]["signatures"][0].clone();
            v["dsseEnvelope"]["signatures"] = json!([one, one]);
        }),
        "2 signatures",
    );
    unreadable(
        changed(text, |v| {
            v["dsseEnvelope"]["payloadType"] = json!("text/plain")
        }),
        "not an in-toto statement",
    );
    unreadable(
        changed(text, |v| v["dsseEnvelope"]["payload"] = json!("%")),
        "payload is not base64",
    );
    unreadable(
        changed(text, |v| v["dsseEnvelope"]["payload"] = json!("e30=")),
        "statement cannot be read",
    );
    unreadable(
        changed(text, |v| {
            v["dsseEnvelope"]["signatures"][0]["sig"] = json!("%")
        }),
        "signature is not base64",
    );
    assert_eq!(
        why(changed(
            text,
            |v| v["dsseEnvelope"]["signatures"][0]["sig"] = json!("AAAA")
        )),
        Why::NoKey
    );
    assert_eq!(
        why(changed(text, |v| {
            v["verificationMaterial"] = json!({"certificate": {"rawBytes": "AA=="}});
        })),
        Why::Keyless
    );
    let simple = |payload: &str| Found {
        origin: "tag".into(),
        signature: Signature::Simple {
            payload: payload.into(),
            signature: golden!("simple.sig").into(),
        },
    };
    unreadable(simple("[]"), "payload cannot be read");
    unreadable(
        simple(&golden!("simple.json").replace("cosign container", "another")),
        "unknown type",
    );
    // The signature is over the bytes: a space more is another message.
    assert_eq!(
        why(simple(&format!("{} ", golden!("simple.json")))),
        Why::NoKey
    );
}

#[test]
fn a_signed_statement_of_another_kind_is_no_signature_of_the_image() {
    let ours = key(Algorithm::P256, 1);
    let provenance = Statement::new(
        DIGEST,
        "https://slsa.dev/provenance/v1",
        json!({"buildDefinition": {}}),
    );
    let found = [bundle(bundle::sign(&ours, &provenance).unwrap())];
    let keys = [named("ours", ours.public())];
    let verified = verify(DIGEST, &found, &keys);
    assert_eq!(
        verified.refused[0].why,
        Why::OtherStatement("https://slsa.dev/provenance/v1".into())
    );
    let verified = verify_statements(DIGEST, &found, &keys);
    assert_eq!(verified.valid[0].statement.as_ref(), Some(&provenance));
    assert!(verify_statements(OTHER, &found, &keys).valid.is_empty());
}

#[test]
fn a_flood_of_signatures_is_bounded() {
    let ours = key(Algorithm::P256, 1);
    let good = bundle(bundle::sign(&ours, &Statement::signed(DIGEST)).unwrap());
    let mut all = vec![bundle("junk"); SIGNATURES_MAX];
    all.push(good.clone());
    let keys = [named("ours", ours.public())];
    let verified = verify(DIGEST, &all, &keys);
    assert_eq!(
        (verified.valid.len(), verified.refused.len()),
        (0, SIGNATURES_MAX)
    );
    all[SIGNATURES_MAX - 1] = good;
    assert_eq!(verify(DIGEST, &all, &keys).valid.len(), 1);
}

#[test]
fn manifests_are_those_of_cosigns_specification() {
    let subject = referrer::Descriptor {
        media_type: referrer::MANIFEST.into(),
        digest: DIGEST.into(),
        size: 4,
    };
    let made: Value = serde_json::from_slice(&referrer::bundle_manifest(
        &subject,
        b"{}",
        SIGNED,
        "2026-01-01T00:00:00Z",
    ))
    .unwrap();
    assert_eq!(made["artifactType"], bundle::MEDIA_TYPE);
    assert_eq!(made["subject"]["digest"], DIGEST);
    assert_eq!(made["layers"][0]["mediaType"], bundle::MEDIA_TYPE);
    assert_eq!(made["config"]["mediaType"], referrer::EMPTY);
    assert_eq!(made["config"]["size"], 2);
    assert_eq!(made["annotations"][referrer::CONTENT], "dsse-envelope");
    assert_eq!(made["annotations"][referrer::PREDICATE], SIGNED);
    assert_eq!(
        simple::tag(DIGEST),
        format!("sha256-{}.sig", DIGEST.trim_start_matches("sha256:"))
    );
}

#[test]
fn lists_are_read_as_registries_write_them() {
    use crate::listing::{bundle_layer, listed, only_layer, signatures, simple_layers};
    let entry = |artifact: &str, predicate: Option<&str>| {
        let mut entry = json!({
            "mediaType": referrer::MANIFEST, "digest": DIGEST, "size": 1, "artifactType": artifact,
        });
        if let Some(predicate) = predicate {
            entry["annotations"] = json!({ referrer::PREDICATE: predicate });
        }
        entry
    };
    let index = json!({"manifests": [
        entry("application/spdx+json", None),
        entry(bundle::MEDIA_TYPE, Some("https://slsa.dev/provenance/v1")),
        entry(bundle::MEDIA_TYPE, Some(SIGNED)),
        entry(bundle::MEDIA_TYPE, None),
        {"digest": DIGEST},
    ]});
    let all = listed(index.to_string().as_bytes()).unwrap();
    assert_eq!((all.len(), signatures(&all).len()), (5, 2));
    assert_eq!(listed(br#"{"manifests":null}"#).unwrap(), []);
    assert!(listed(b"x").is_err());

    let subject = referrer::Descriptor {
        media_type: referrer::MANIFEST.into(),
        digest: DIGEST.into(),
        size: 4,
    };
    let made = referrer::bundle_manifest(&subject, b"bundle", SIGNED, "2026-01-01T00:00:00Z");
    assert_eq!(bundle_layer(&made).unwrap(), crate::digest_of(b"bundle"));
    assert_eq!(only_layer(&made).unwrap(), crate::digest_of(b"bundle"));
    assert_eq!(simple_layers(&made).unwrap(), []);
    let large = String::from_utf8(made)
        .unwrap()
        .replace("\"size\":6", "\"size\":60000000");
    assert!(
        bundle_layer(large.as_bytes())
            .unwrap_err()
            .contains("limit")
    );
    let made = referrer::simple_manifest(&[(b"payload".to_vec(), "c2ln".into())]);
    assert_eq!(
        simple_layers(&made).unwrap(),
        [(crate::digest_of(b"payload"), "c2ln".to_string())]
    );
    assert!(bundle_layer(&made).is_err());
}
