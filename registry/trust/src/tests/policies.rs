//! Policies: what is refused as a policy, and what a policy refuses.

use std::collections::BTreeSet;

use super::{DIGEST, golden, key, named};
use crate::dsse::Statement;
use crate::keys::Algorithm;
use crate::policy::{Policy, Signatures};
use crate::verify::{Found, Signature};
use crate::{Image, Imports, bundle, judge};

const IMAGE: Image<'static> = Image {
    written: "team/web:v1",
    host: "cluster",
    repository: "team/web",
    digest: Some(DIGEST),
};

fn policy(text: &str) -> Policy {
    Policy::parse(text).unwrap()
}

fn surface(imports: &[&str]) -> Imports {
    Imports {
        core: false,
        imports: imports.iter().map(ToString::to_string).collect(),
        exports: BTreeSet::new(),
    }
}

#[test]
fn a_policy_is_yaml_or_json() {
    let pem = golden!("p256.pub");
    let yaml = format!(
        "signatures:\n  keys:\n  - name: release\n    publicKey: |\n{}\nsources: [cluster/*, ghcr.io/acme/*]\nimports:\n- wasi:http/*\n",
        pem.lines()
            .map(|l| format!("      {l}\n"))
            .collect::<String>()
    );
    let json = serde_json::json!({
        "signatures": {"keys": [{"name": "release", "publicKey": pem}], "required": 1},
        "sources": ["cluster/*", "ghcr.io/acme/*"],
        "imports": ["wasi:http/*"],
    })
    .to_string();
    assert_eq!(policy(&yaml), policy(&json));
    assert_eq!(policy(&yaml).signatures.unwrap().required, 1);
    assert_eq!(policy("{}"), Policy::default());
}

#[test]
fn what_is_not_exactly_a_policy_is_refused_with_its_field() {
    let pem = golden!("p256.pub").replace('\n', "\\n");
    let one = format!(r#"{{"name":"a","publicKey":"{pem}"}}"#);
    let two = format!(r#"{{"name":"b","publicKey":"{pem}"}}"#);
    for (text, field, words) in [
        (String::new(), "policy", "empty"),
        ("[".into(), "policy", "cannot be read"),
        ("surces: []".into(), "policy", "surces"),
        ("sources: 1".into(), "policy", "cannot be read"),
        (
            "sources: ['ghcr.io/acme*']".into(),
            "sources[0]",
            "after / or :",
        ),
        (
            "sources: ['*/acme']".into(),
            "sources[0]",
            "at the end only",
        ),
        ("imports: [wasi:io/*, 'a b']".into(), "imports[1]", "space"),
        ("imports: ['']".into(), "imports[0]", "1 to 512"),
        ("signatures: {keys: []}".into(), "signatures.keys", "0 keys"),
        (
            "signatures: {keys: [{name: a, publicKey: x}]}".into(),
            "signatures.keys[0].publicKey",
            "not a PEM file",
        ),
        (
            format!(r#"{{"signatures":{{"keys":[{one}],"required":2}}}}"#),
            "signatures.required",
            "2 of 1",
        ),
        (
            format!(r#"{{"signatures":{{"keys":[{one}],"required":0}}}}"#),
            "signatures.required",
            "0 of 1",
        ),
        (
            format!(r#"{{"signatures":{{"keys":[{one},{two}],"required":2}}}}"#),
            "signatures.keys[1]",
            "same name or key",
        ),
        ("x".repeat(70_000), "policy", "limit"),
    ] {
        let e = Policy::parse(&text).unwrap_err();
        assert_eq!(e.field, field, "{e}");
        assert!(e.message.contains(words), "{e}");
        assert!(!e.fix.is_empty() && e.to_string().starts_with("E_TRUST_POLICY"));
    }
}

#[test]
fn sources_are_judged_by_host_and_repository() {
    let p = policy("sources: [cluster/team/*, ghcr.io/acme/*]");
    let at = |host, repository| {
        let image = Image {
            host,
            repository,
            ..IMAGE
        };
        judge(&p, &image, None, None).allowed()
    };
    assert!(at("cluster", "team/web"));
    assert!(at("ghcr.io", "acme/web"));
    assert!(!at("cluster", "other/web"));
    assert!(!at("ghcr.io", "acme-evil/web"));
    assert!(!at("evil.io", "ghcr.io/acme/web"));
    let image = Image {
        repository: "x",
        ..IMAGE
    };
    let violation = &judge(&p, &image, None, None).violations[0];
    assert_eq!(violation.code, "E_TRUST_SOURCE");
    assert!(violation.message.contains("cluster/x"));
    // An empty list allows nothing.
    assert!(!judge(&policy("sources: []"), &IMAGE, None, None).allowed());
}

#[test]
fn imports_are_judged_by_interface_whatever_the_version() {
    let p = policy("imports: [wasi:http/*, 'wasi:cli/stdout', 'wasi:clocks/wall-clock@0.2.0']");
    let may = |imports: &[&str]| judge(&p, &IMAGE, None, Some(&surface(imports))).allowed();
    assert!(may(&[]));
    assert!(may(&["wasi:http/types@0.2.3", "wasi:cli/stdout@0.2.0"]));
    assert!(may(&["wasi:clocks/wall-clock@0.2.0"]));
    assert!(!may(&["wasi:clocks/wall-clock@0.2.1"]));
    assert!(!may(&["wasi:cli/stdout-x"]));
    assert!(!may(&["wasi:sockets/tcp@0.2.0"]));
    // A core module's functions are judged by the interface behind them; unknown ones are never allowed by accident.
    assert!(may(&["wasi_snapshot_preview1::fd_write"]));
    assert!(!may(&["wasi_snapshot_preview1::sock_send"]));
    assert!(!may(&["wasi_snapshot_preview1::made_up"]));
    assert!(!may(&["env::system"]));
    let many = [
        "a:b/c", "a:b/d", "a:b/e", "a:b/f", "a:b/g", "a:b/h", "a:b/i",
    ];
    let violation = &judge(&p, &IMAGE, None, Some(&surface(&many))).violations[0];
    assert_eq!(violation.code, "E_TRUST_IMPORT");
    assert!(
        violation.message.contains("a:b/g and 2 more"),
        "{}",
        violation.message
    );
}

#[test]
fn as_many_distinct_keys_as_required_must_have_signed() {
    let keys: Vec<_> = (1..4).map(|n| key(Algorithm::P256, n)).collect();
    let found: Vec<Found> = keys
        .iter()
        .map(|k| Found {
            origin: "here".into(),
            signature: Signature::Bundle(bundle::sign(k, &Statement::signed(DIGEST)).unwrap()),
        })
        .collect();
    let p = |required| Policy {
        signatures: Some(Signatures {
            keys: vec![
                named("one", keys[0].public()),
                named("two", keys[1].public()),
            ],
            required,
        }),
        ..Policy::default()
    };
    let verdict = judge(&p(1), &IMAGE, Some(&found[..1]), None);
    assert!(verdict.allowed());
    assert_eq!(verdict.signed_by, BTreeSet::from(["one".to_string()]));
    assert!(judge(&p(2), &IMAGE, Some(&found[..2]), None).allowed());
    let twice = [found[0].clone(), found[0].clone()];
    let verdict = judge(&p(2), &IMAGE, Some(&twice), None);
    assert_eq!(verdict.violations[0].code, "E_TRUST_UNSIGNED");
    assert!(verdict.violations[0].message.contains("only one signed it"));
    for (evidence, words) in [
        (&found[2..], "none of the keys"),
        (&found[..0], "it has no signature"),
    ] {
        let verdict = judge(&p(1), &IMAGE, Some(evidence), None);
        assert!(verdict.violations[0].message.contains(words), "{verdict:?}");
        assert!(verdict.violations[0].message.contains(DIGEST));
    }
    // Without a digest nothing can be signed; without evidence nothing is judged.
    let tag = Image {
        digest: None,
        ..IMAGE
    };
    assert!(!judge(&p(1), &tag, Some(&found), None).allowed());
    assert!(judge(&p(1), &tag, None, None).allowed());
}
