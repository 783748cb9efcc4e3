//! Retention: the decision by tables and by random rows, and what the collector makes of it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::client::{Rig, image};
use crate::digest::{Algorithm, Digest};
use crate::manifest::{OCI_INDEX, OCI_MANIFEST};
use crate::name::Tag;
use crate::retention::{Contents, Deletions, Policy, retain};
use crate::rows::{ManifestRow, TagRow};

/// The clock of the pure tests stands at this second.
const NOW: i64 = 1_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn digest(n: u8) -> Digest {
    Algorithm::Sha256.digest(&[n])
}

fn policy(json: serde_json::Value) -> Policy {
    let policy: Policy = serde_json::from_value(json).unwrap();
    policy.check().unwrap();
    policy
}

/// `(tag, manifest, set at)` and `(manifest, pushed at, children, subject)`.
fn contents(tags: &[(&str, u8, i64)], manifests: &[(u8, i64, &[u8], Option<u8>)]) -> Contents {
    let tags = tags.iter().map(|(tag, of, set)| {
        let row = TagRow {
            digest: digest(*of),
            at: at(*set),
        };
        (tag.parse().unwrap(), row)
    });
    let manifests = manifests.iter().map(|(n, pushed, children, subject)| {
        let row = ManifestRow {
            media_type: "x".into(),
            size: 1,
            at: at(*pushed),
            blobs: BTreeSet::new(),
            children: children.iter().map(|n| digest(*n)).collect(),
            subject: subject.map(digest),
        };
        (digest(*n), row)
    });
    Contents {
        tags: tags.collect(),
        manifests: manifests.collect(),
    }
}

fn decided(contents: &Contents, policies: &[Policy]) -> Deletions {
    let policies: Vec<&Policy> = policies.iter().collect();
    retain(contents, &policies, at(NOW))
}

fn tags(deletions: &Deletions) -> Vec<&str> {
    deletions.tags.iter().map(Tag::as_str).collect()
}

#[test]
fn tags_go_by_number_age_and_name() {
    let rows = contents(
        &[
            ("v1", 1, 100),
            ("v2", 2, 200),
            ("v3", 3, 300),
            ("v4", 4, 990),
            ("pr-1", 5, 100),
            ("pr-2", 6, 990),
            ("latest", 1, 100),
        ],
        &[],
    );
    for (policies, want) in [
        // The newest of those that match; of all.
        (vec![json!({"tags": ["v*"], "newest": 2})], vec!["v1", "v2"]),
        (vec![json!({"newest": 6})], vec!["latest"]),
        (vec![json!({"newest": 9})], vec![]),
        // By age; both must agree.
        (
            vec![json!({"tags": ["pr-*"], "olderThanSeconds": 500})],
            vec!["pr-1"],
        ),
        (
            vec![json!({"tags": ["v*"], "newest": 3, "olderThanSeconds": 500})],
            vec!["v1"],
        ),
        (
            vec![json!({"tags": ["v*"], "newest": 1, "olderThanSeconds": 750})],
            vec!["v1", "v2"],
        ),
        (
            vec![json!({"olderThanSeconds": 900})],
            vec!["latest", "pr-1", "v1"],
        ),
        (vec![json!({"olderThanSeconds": 901})], vec![]),
        // Names that stay.
        (
            vec![json!({"keep": ["latest", "v*"], "olderThanSeconds": 0})],
            vec!["pr-1", "pr-2"],
        ),
        // What one protects no other takes.
        (
            vec![
                json!({"olderThanSeconds": 0}),
                json!({"tags": ["v*"], "newest": 3}),
            ],
            vec!["latest", "pr-1", "pr-2", "v1"],
        ),
        (
            vec![
                json!({"olderThanSeconds": 0}),
                json!({"keep": ["*"], "newest": 1}),
            ],
            vec![],
        ),
        // Nothing is said about tags.
        (vec![json!({"untaggedOlderThanSeconds": 0})], vec![]),
    ] {
        let policies: Vec<Policy> = policies
            .into_iter()
            .map(|mut value| {
                value["repositories"] = json!(["**"]);
                policy(value)
            })
            .collect();
        let got = decided(&rows, &policies);
        assert_eq!(tags(&got), want, "{policies:?}");
        assert!(got.manifests.is_empty());
    }
}

#[test]
fn manifests_go_when_nothing_that_stays_leads_to_them() {
    let name = |n: u8| format!("sha256-{}", digest(n).hex());
    let (sig, fallback, lonely) = (format!("{}.sig", name(1)), name(2), name(77));
    let rows = contents(
        &[
            ("live", 1, 100),
            ("old", 2, 100),
            (&sig, 11, 100),
            (&fallback, 12, 100),
            (&lonely, 13, 100),
            ("index", 30, 100),
        ],
        &[
            (1, 100, &[], None),
            (2, 100, &[], None),
            // Signatures: by tag, by subject, of a signature; and young ones of something old.
            (11, 100, &[], None),
            (12, 100, &[22], None),
            (13, 100, &[], None),
            (21, 100, &[], Some(1)),
            (22, 100, &[], Some(2)),
            (23, 100, &[], Some(21)),
            (24, 990, &[], Some(2)),
            // An index of an index.
            (30, 100, &[31, 32], None),
            (31, 100, &[33], None),
            (32, 100, &[], None),
            (33, 100, &[], None),
            // Never tagged, old and young; about something that is not here.
            (40, 100, &[], None),
            (41, 990, &[], None),
            (42, 100, &[], Some(78)),
        ],
    );
    let all = |keep: &[&str], untagged: Option<u64>| {
        let mut value = json!({"repositories": ["**"], "keep": keep, "olderThanSeconds": 500});
        value["untaggedOlderThanSeconds"] = json!(untagged);
        vec![policy(value)]
    };
    let gone = |got: &Deletions| -> BTreeSet<Digest> { got.manifests.iter().cloned().collect() };
    let set = |numbers: &[u8]| -> BTreeSet<Digest> { numbers.iter().map(|n| digest(*n)).collect() };

    let got = decided(&rows, &all(&["live", "index"], Some(500)));
    let mut want = vec!["old", &fallback, &lonely];
    want.sort_unstable();
    assert_eq!(tags(&got), want);
    assert_eq!(gone(&got), set(&[2, 12, 13, 22, 40, 42]));

    let got = decided(&rows, &all(&["live", "old"], Some(500)));
    assert_eq!(gone(&got), set(&[13, 30, 31, 32, 33, 40, 42]));
    let place = |n| got.manifests.iter().position(|d| *d == digest(n)).unwrap();
    assert!(place(30) < place(31) && place(31) < place(33) && place(30) < place(32));

    // Kept by its name is kept with what it names, whatever it is about.
    let got = decided(&rows, &all(&["live", "index", "sha256-*"], Some(500)));
    assert_eq!(tags(&got), ["old"]);
    assert_eq!(gone(&got), set(&[2, 40, 42]));

    // Without an age for manifests only tags go, and none that is about a manifest.
    let got = decided(&rows, &all(&["live"], None));
    assert_eq!(tags(&got), ["index", "old"]);
    assert!(got.manifests.is_empty());
    assert_eq!(decided(&rows, &[]), Deletions::default());
}

#[test]
fn a_tag_about_a_long_digest_is_cut() {
    let subject = Algorithm::Sha512.digest(b"subject");
    let cut: String = format!("sha512-{}", subject.hex())
        .chars()
        .take(128)
        .collect();
    let mut rows = contents(&[(&cut, 1, 100), ("v1", 2, 100)], &[(1, 100, &[], None)]);
    let row = rows.manifests[&digest(1)].clone();
    rows.manifests.insert(subject.clone(), row);
    let rule = policy(json!({"repositories": ["**"], "untaggedOlderThanSeconds": 500}));
    let got = decided(&rows, std::slice::from_ref(&rule));
    assert_eq!(tags(&got), [cut.as_str()]);
    assert_eq!(got.manifests.len(), 2);
    let tag: Tag = "v1".parse().unwrap();
    rows.tags.get_mut(&tag).unwrap().digest = subject;
    assert_eq!(decided(&rows, &[rule]), Deletions::default());
}

const MANIFESTS: u8 = 8;

fn tag_name() -> impl Strategy<Value = String> {
    let about = (
        0..MANIFESTS + 2,
        prop_oneof![Just(""), Just(".sig"), Just(".att")],
    );
    prop_oneof![
        (0..6_u8).prop_map(|n| format!("v{n}")),
        (0..3_u8).prop_map(|n| format!("pr-{n}")),
        Just("latest".to_owned()),
        about.prop_map(|(n, end)| format!("sha256-{}{end}", digest(n).hex())),
    ]
}

fn any_contents() -> impl Strategy<Value = Contents> {
    let tag = (tag_name(), 0..MANIFESTS, 0..NOW);
    let children = prop::collection::btree_set(0..MANIFESTS, 0..3);
    let manifest = (
        any::<bool>(),
        0..NOW,
        children,
        prop::option::of(0..MANIFESTS),
    );
    let manifests = prop::collection::vec(manifest, usize::from(MANIFESTS));
    (prop::collection::vec(tag, 0..12), manifests).prop_map(|(tags, manifests)| {
        let tags: Vec<(&str, u8, i64)> = tags.iter().map(|(t, n, at)| (&**t, *n, *at)).collect();
        let mut rows = contents(&tags, &[]);
        for (n, (there, pushed, children, subject)) in (0..MANIFESTS).zip(manifests) {
            // Nothing can name its own hash, so names only lead downwards.
            let children: Vec<u8> = children.into_iter().filter(|child| *child < n).collect();
            let one = (
                n,
                pushed,
                &children[..],
                subject.filter(|subject| *subject < n),
            );
            if there {
                rows.manifests.extend(contents(&[], &[one]).manifests);
            }
        }
        rows
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let patterns = || {
        prop::collection::vec(
            prop_oneof![
                Just("v*"),
                Just("pr-*"),
                Just("latest"),
                Just("*"),
                Just("*1"),
                Just("sha256-*")
            ],
            0..2,
        )
    };
    let seconds = || prop::option::of(0..2 * NOW as u64);
    let parts = (
        patterns(),
        patterns(),
        prop::option::of(1..5_u32),
        seconds(),
        seconds(),
    );
    parts.prop_map(|(tags, keep, newest, older, untagged)| Policy {
        repositories: vec!["**".parse().unwrap()],
        tags: tags.iter().map(|p| p.parse().unwrap()).collect(),
        keep: keep.iter().map(|p| p.parse().unwrap()).collect(),
        newest,
        older_than_seconds: older,
        untagged_older_than_seconds: untagged,
    })
}

fn age(at: Timestamp) -> u64 {
    (NOW - at.as_second()) as u64
}

fn is_about(tag: &Tag) -> bool {
    tag.as_str().starts_with("sha256-")
}

proptest! {
    #[test]
    fn what_a_rule_keeps_is_never_deleted(
        rows in any_contents(),
        policies in prop::collection::vec(any_policy(), 1..4),
    ) {
        let got = decided(&rows, &policies);
        let gone: BTreeSet<&Tag> = got.tags.iter().collect();
        let dead: BTreeSet<&Digest> = got.manifests.iter().collect();
        prop_assert_eq!(gone.len(), got.tags.len());
        prop_assert_eq!(dead.len(), got.manifests.len());
        for policy in &policies {
            for tag in &gone {
                prop_assert!(!policy.keep.iter().any(|p| p.matches(tag.as_str())), "{} is kept", tag);
            }
            let mut mine: Vec<(&Tag, &TagRow)> = rows.tags.iter()
                .filter(|(tag, _)| !is_about(tag))
                .filter(|(tag, _)| policy.tags.is_empty() || policy.tags.iter().any(|p| p.matches(tag.as_str())))
                .collect();
            mine.sort_by_key(|(tag, row)| std::cmp::Reverse((row.at, (*tag).clone())));
            for (tag, _) in mine.iter().take(policy.newest.unwrap_or_default() as usize) {
                prop_assert!(!gone.contains(*tag), "{} is among the newest", tag);
            }
        }
        // Whatever goes, some rule says so.
        for tag in gone.iter().filter(|tag| !is_about(tag)) {
            let old = age(rows.tags[*tag].at);
            let why = policies.iter().any(|p| {
                let mine = p.tags.is_empty() || p.tags.iter().any(|p| p.matches(tag.as_str()));
                mine && p.older_than_seconds.map_or(p.newest.is_some(), |least| old >= least)
            });
            prop_assert!(why, "{} for no reason", tag);
        }
        for digest in &dead {
            let old = age(rows.manifests[*digest].at);
            let why = policies.iter().any(|p| p.untagged_older_than_seconds.is_some_and(|least| old >= least));
            prop_assert!(why, "{} for no reason", digest);
        }
        // What stays is whole: tags name manifests that stay, indexes their children, subjects their referrers.
        for (tag, row) in rows.tags.iter().filter(|(tag, _)| !gone.contains(tag)) {
            prop_assert!(!dead.contains(&row.digest), "{} names nothing", tag);
        }
        for (digest, row) in rows.manifests.iter().filter(|(digest, _)| !dead.contains(digest)) {
            for child in &row.children {
                prop_assert!(!dead.contains(child), "{} has a hole", digest);
            }
        }
        for (digest, row) in &rows.manifests {
            if let Some(subject) = &row.subject
                && rows.manifests.contains_key(subject)
                && !dead.contains(subject)
            {
                prop_assert!(!dead.contains(digest), "{} lost its referrer", subject);
            }
        }
        for digest in rows.manifests.keys().filter(|digest| !dead.contains(digest)) {
            for end in ["", ".sig", ".att"] {
                let tag: Tag = format!("sha256-{}{end}", digest.hex()).parse().unwrap();
                prop_assert!(!gone.contains(&tag), "{} lost {}", digest, tag);
            }
        }
        // A second run finds nothing more.
        let mut left = rows.clone();
        left.tags.retain(|tag, _| !gone.contains(tag));
        left.manifests.retain(|digest, _| !dead.contains(digest));
        prop_assert_eq!(decided(&left, &policies), Deletions::default());
    }
}

#[tokio::test]
async fn the_collector_goes_by_the_policies() {
    let rig = Rig::memory().await;
    let now = || crate::Clock::now(&rig.clock);
    let (first, _) = rig.push_image("demo/a", "v1", "first").await;
    let (elsewhere, _) = rig.push_image("other/a", "v1", "elsewhere").await;
    let entry = json!({ "mediaType": OCI_MANIFEST, "digest": first.to_string(), "size": 1 });
    let config = rig.push_blob("demo/a", b"{}", Algorithm::Sha256).await;
    let proof = rig.push_blob("demo/a", b"proof", Algorithm::Sha256).await;
    let mut signature = image(&[&config], &[&proof]);
    signature["subject"] = entry.clone();
    let signed = format!("sha256-{}.sig", first.hex());
    rig.put_manifest("demo/a", &signed, &signature)
        .await
        .expect(201);
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] });
    rig.put_manifest("demo/a", "idx", &index).await.expect(201);
    rig.clock.advance(3_600_000);
    for n in 2..5 {
        rig.clock.advance(1_000);
        let (tag, text) = (format!("v{n}"), format!("text {n}"));
        rig.push_image("demo/a", &tag, &text).await;
    }

    let rule =
        policy(json!({"repositories": ["demo/*"], "newest": 2, "untaggedOlderThanSeconds": 1_800}));
    rig.registry.set_policy("versions", &rule).await.unwrap();
    let planned = rig.registry.collect_dry(now()).await.unwrap();
    assert_eq!(
        planned.tags,
        [
            "demo/a:idx",
            &format!("demo/a:{signed}"),
            "demo/a:v1",
            "demo/a:v2"
        ]
    );
    assert_eq!(planned.manifests_removed, 3, "{planned:?}");
    rig.get("/v2/demo/a/manifests/idx").await.expect(200);
    // Links are young, or were just shown to a client.
    rig.clock.advance(rig.limits.garbage_age_ms);
    let planned = rig.registry.collect_dry(now()).await.unwrap();
    let done = rig.registry.collect(now()).await.unwrap();
    assert_eq!(done, planned, "a dry run says what is done");
    assert_eq!(
        (done.tags_removed, done.manifests_removed),
        (4, 4),
        "{done:?}"
    );
    // Three layers; the configuration they share is needed by what stays.
    assert_eq!(done.links_removed, 3, "{done:?}");
    for gone in ["idx", "v1", "v2", &signed, &first.to_string()] {
        let uri = format!("/v2/demo/a/manifests/{gone}");
        rig.get(&uri).await.expect(404);
    }
    rig.get(&format!("/v2/demo/a/blobs/{proof}"))
        .await
        .expect(404);
    let list = rig.get(&format!("/v2/demo/a/referrers/{first}")).await;
    assert_eq!(list.json()["manifests"], json!([]));
    for kept in ["v3", "v4"] {
        let uri = format!("/v2/demo/a/manifests/{kept}");
        rig.get(&uri).await.expect(200);
    }
    let uri = format!("/v2/other/a/manifests/{elsewhere}");
    rig.get(&uri).await.expect(200);

    assert!(rig.registry.remove_policy("versions").await.unwrap());
    assert!(!rig.registry.remove_policy("versions").await.unwrap());
    assert_eq!(rig.registry.policies().await.unwrap(), BTreeMap::new());
    for (name, rule) in [("a/b", &rule), ("A", &rule), ("a", &Policy::default())] {
        let error = rig.registry.set_policy(name, rule).await.unwrap_err();
        assert_eq!(error.status.as_u16(), 400, "{name}");
    }
}
