//! Blobs: every way in, every way out.

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;

use super::client::{Rig, noise};
use crate::authorise::{Access, Action, Authorise, Verdict};
use crate::digest::{Algorithm, Digest};

/// A body that comes in pieces and has no length.
fn streamed(bytes: &[u8], piece: usize) -> Body {
    let pieces: Vec<_> = bytes
        .chunks(piece.max(1))
        .map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk)))
        .collect();
    Body::from_stream(stream::iter(pieces))
}

#[derive(Clone, Copy, Debug)]
enum Style {
    /// POST, PUT with the bytes.
    PostPut,
    /// One POST with the digest.
    SinglePost,
    /// One PATCH without a range, then an empty PUT: docker, skopeo.
    Streamed,
    /// PATCHes with ranges, then an empty PUT: wkg.
    Chunked,
    /// PATCHes with ranges, the last chunk in the PUT.
    ChunkedLastInPut,
    /// Many PATCHes without ranges.
    ManyStreamed,
}

const STYLES: [Style; 6] = [
    Style::PostPut,
    Style::SinglePost,
    Style::Streamed,
    Style::Chunked,
    Style::ChunkedLastInPut,
    Style::ManyStreamed,
];

async fn push(rig: &Rig, style: Style, bytes: &[u8], digest: &Digest) {
    let encoded = digest.to_string().replace(':', "%3A");
    let uploads = "/v2/demo/a/blobs/uploads/";
    if matches!(style, Style::SinglePost) {
        let uri = format!("{uploads}?digest={encoded}");
        let length = bytes.len().to_string();
        let reply = rig
            .send("POST", &uri, &[("content-length", &length)], bytes.to_vec())
            .await
            .expect(201);
        assert_eq!(reply.header("docker-content-digest"), digest.to_string());
        return;
    }
    let algorithm = digest.algorithm().name();
    let uri = match style {
        // Two styles announce the hash, the others leave it to the end.
        Style::Chunked | Style::Streamed => format!("{uploads}?digest-algorithm={algorithm}"),
        _ => uploads.to_owned(),
    };
    let reply = rig.send("POST", &uri, &[], Body::empty()).await.expect(202);
    assert_eq!(reply.header("range"), "0-0");
    let mut location = reply.header("location").to_owned();
    assert!(location.starts_with(uploads), "{location}");
    assert!(location.ends_with(reply.header("docker-upload-uuid")));

    let chunk = (bytes.len() / 3).max(1);
    let mut at = 0;
    let mut last: &[u8] = &[];
    let mut last_range = String::new();
    match style {
        Style::PostPut => last = bytes,
        Style::Streamed => {
            let reply = rig
                .send("PATCH", &location, &[], streamed(bytes, 7_001))
                .await;
            location = reply.expect(202).header("location").to_owned();
        }
        Style::ManyStreamed => {
            for piece in bytes.chunks(chunk) {
                rig.send("PATCH", &location, &[], streamed(piece, 100))
                    .await
                    .expect(202);
            }
        }
        Style::Chunked | Style::ChunkedLastInPut => {
            for piece in bytes.chunks(chunk) {
                let range = format!("{at}-{}", at + piece.len() - 1);
                at += piece.len();
                if matches!(style, Style::ChunkedLastInPut) && at == bytes.len() {
                    (last, last_range) = (piece, range);
                    break;
                }
                let reply = rig
                    .send(
                        "PATCH",
                        &location,
                        &[("content-range", &range)],
                        piece.to_vec(),
                    )
                    .await
                    .expect(202);
                assert_eq!(reply.header("range"), format!("0-{}", at - 1));
                location = reply.header("location").to_owned();
                let status = rig.get(&location).await.expect(204);
                assert_eq!(status.header("range"), format!("0-{}", at - 1));
            }
        }
        Style::SinglePost => {}
    }
    let headers: Vec<(&str, &str)> = match last_range.as_str() {
        "" => vec![],
        range => vec![("content-range", range)],
    };
    let uri = format!("{location}?digest={encoded}");
    let reply = rig
        .send("PUT", &uri, &headers, last.to_vec())
        .await
        .expect(201);
    assert_eq!(
        reply.header("location"),
        format!("/v2/demo/a/blobs/{digest}")
    );
    assert_eq!(reply.header("docker-content-digest"), digest.to_string());
}

#[tokio::test]
async fn every_push_style_every_hash_every_store() {
    for rig in Rig::every().await {
        for (n, style) in STYLES.into_iter().enumerate() {
            for algorithm in Algorithm::ALL {
                for len in [0, 1, 5, 300_000] {
                    let bytes = noise(len, n as u8);
                    let digest = algorithm.digest(&bytes);
                    push(&rig, style, &bytes, &digest).await;
                    let uri = format!("/v2/demo/a/blobs/{digest}");
                    let got = rig.get(&uri).await.expect(200);
                    assert_eq!(got.body, bytes, "{style:?} {len} {}", rig.kind);
                    assert_eq!(got.header("docker-content-digest"), digest.to_string());
                    let head = rig.head(&uri).await.expect(200);
                    assert_eq!(head.header("content-length"), len.to_string());
                    assert!(head.body.is_empty());
                    rig.delete(&uri).await.expect(202);
                    rig.get(&uri).await.refused(404, "BLOB_UNKNOWN");
                    rig.delete(&uri).await.refused(404, "BLOB_UNKNOWN");
                }
            }
        }
        let staged = rig.blobs.staged().await.unwrap();
        assert!(staged.is_empty(), "{staged:?}");
    }
}

#[tokio::test]
async fn parts_of_a_blob() {
    for rig in Rig::every().await {
        let bytes = noise(300_000, 9);
        let digest = rig.push_blob("demo/a", &bytes, Algorithm::Sha256).await;
        let uri = format!("/v2/demo/a/blobs/{digest}");
        let etag = format!("\"{digest}\"");
        for (range, want) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=10-19", Some(10..20)),
            ("bytes=140000-", Some(140_000..300_000)),
            ("bytes=-7", Some(299_993..300_000)),
            ("bytes=5-2", None),
            ("bytes=300000-", None),
        ] {
            let got = rig
                .send("GET", &uri, &[("range", range)], Body::empty())
                .await;
            match want {
                Some(want) => {
                    let got = got.expect(206);
                    assert_eq!(got.body, bytes[want.clone()], "{range}");
                    let text = format!("bytes {}-{}/300000", want.start, want.end - 1);
                    assert_eq!(got.header("content-range"), text);
                }
                None => {
                    let got = got.expect(416);
                    assert_eq!(got.header("content-range"), "bytes */300000");
                }
            }
        }
        let known = [("if-none-match", etag.as_str())];
        rig.send("GET", &uri, &known, Body::empty())
            .await
            .expect(304);
        let other = [("range", "bytes=0-0"), ("if-range", "\"other\"")];
        rig.send("GET", &uri, &other, Body::empty())
            .await
            .expect(200);
    }
}

#[tokio::test]
async fn chunks_out_of_order_keep_the_session() {
    for rig in Rig::every().await {
        let location = rig.start("demo/a").await;
        let patch = async |range: &str, body: &'static [u8]| {
            rig.send("PATCH", &location, &[("content-range", range)], body)
                .await
        };
        patch("1-3", b"ell")
            .await
            .refused(416, "BLOB_UPLOAD_INVALID");
        patch("0-3", b"hell").await.expect(202);
        for range in ["0-3", "5-5", "3-3", "nonsense", "9-4"] {
            let reply = patch(range, b"o").await.refused(416, "BLOB_UPLOAD_INVALID");
            assert_eq!(reply.header("range"), "0-3");
            assert_eq!(reply.header("location"), location);
            assert_eq!(rig.get(&location).await.expect(204).header("range"), "0-3");
        }
        // Longer and shorter than announced: the chunk is taken back.
        patch("4-4", b"oops").await.refused(400, "SIZE_INVALID");
        patch("4-9", b"oops").await.refused(400, "SIZE_INVALID");
        let wrong = [("content-range", "4-4"), ("content-length", "2")];
        rig.send("PATCH", &location, &wrong, "o")
            .await
            .refused(400, "SIZE_INVALID");
        assert_eq!(rig.get(&location).await.expect(204).header("range"), "0-3");
        let digest = Algorithm::Sha256.digest(b"hello");
        let uri = format!("{location}?digest={digest}");
        let range = [("content-range", "5-5")];
        rig.send("PUT", &uri, &range, "o").await.expect(416);
        let range = [("content-range", "4-4")];
        rig.send("PUT", &uri, &range, "o").await.expect(201);
        let got = rig.get(&format!("/v2/demo/a/blobs/{digest}")).await;
        assert_eq!(got.body, "hello");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_can_be_resumed() {
    for rig in Rig::every().await {
        let location = rig.start("demo/a").await;
        let broken = stream::iter(vec![
            Ok(Bytes::from_static(b"hel")),
            Err(std::io::Error::other("line cut")),
        ]);
        rig.send("PATCH", &location, &[], Body::from_stream(broken))
            .await
            .refused(400, "BLOB_UPLOAD_INVALID");
        assert_eq!(rig.get(&location).await.expect(204).header("range"), "0-2");
        let digest = Algorithm::Sha256.digest(b"hello");
        let uri = format!("{location}?digest={digest}");
        let range = [("content-range", "3-4")];
        rig.send("PUT", &uri, &range, "lo").await.expect(201);
    }
}

#[tokio::test]
async fn a_wrong_digest_stores_nothing() {
    for rig in Rig::every().await {
        for algorithm in Algorithm::ALL {
            let wrong = algorithm.digest(b"something else");
            let location = rig.start("demo/a").await;
            rig.send("PATCH", &location, &[], "hello").await.expect(202);
            let uri = format!("{location}?digest={wrong}");
            let reply = rig
                .send("PUT", &uri, &[], "")
                .await
                .refused(400, "DIGEST_INVALID");
            let detail = &reply.json()["errors"][0]["detail"];
            assert_eq!(detail["received"], algorithm.digest(b"hello").to_string());
            rig.get(&location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
            let uri = format!("/v2/demo/a/blobs/uploads/?digest={wrong}");
            rig.send("POST", &uri, &[], "hello")
                .await
                .refused(400, "DIGEST_INVALID");
            rig.get(&format!("/v2/demo/a/blobs/{wrong}"))
                .await
                .expect(404);
        }
        assert!(rig.blobs.list(None, 9).await.unwrap().is_empty());
        assert!(rig.blobs.staged().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_blob_is_read_only_where_it_is_linked() {
    let rig = Rig::memory().await;
    let digest = rig.push_blob("demo/a", b"secret", Algorithm::Sha512).await;
    let there = format!("/v2/demo/b/blobs/{digest}");
    rig.get(&there).await.refused(404, "BLOB_UNKNOWN");
    rig.head(&there).await.expect(404);
    let mount = |from: &str| format!("/v2/demo/b/blobs/uploads/?mount={digest}{from}");
    // A source that does not have it: an upload begins instead.
    let reply = rig
        .send("POST", &mount("&from=demo%2Fc"), &[], "")
        .await
        .expect(202);
    assert!(reply.header("location").contains("/blobs/uploads/"));
    let reply = rig
        .send("POST", &mount("&from=demo%2Fa"), &[], "")
        .await
        .expect(201);
    assert_eq!(reply.header("location"), there);
    assert_eq!(rig.get(&there).await.expect(200).body, "secret");
    // Anonymous.
    let anywhere = format!("/v2/demo/d/blobs/uploads/?mount={digest}");
    rig.send("POST", &anywhere, &[], "").await.expect(201);
    rig.get(&format!("/v2/demo/d/blobs/{digest}"))
        .await
        .expect(200);
    // Deleting in one repository leaves the others.
    rig.delete(&format!("/v2/demo/a/blobs/{digest}"))
        .await
        .expect(202);
    rig.get(&there).await.expect(200);
    let unknown = Algorithm::Sha256.digest(b"nobody has it");
    let nowhere = format!("/v2/demo/d/blobs/uploads/?mount={unknown}");
    rig.send("POST", &nowhere, &[], "").await.expect(202);
}

/// Lets the caller named in a header do what their name says.
struct ByName;

impl Authorise for ByName {
    fn authorise<'a>(&'a self, access: Access<'a>) -> crate::BoxFuture<'a, Verdict> {
        let caller = access.headers.get("x-caller").map(|v| v.to_str().unwrap());
        let own = access
            .repository
            .is_none_or(|name| name.as_str().starts_with("mine/"));
        let verdict = match (caller, access.action) {
            (None, _) => Verdict::Challenge("Bearer realm=\"r\",service=\"s\",scope=\"x\"".into()),
            (Some("owner"), _) if own => Verdict::Allow,
            (Some("reader"), Action::Pull | Action::Ping) => Verdict::Allow,
            _ => Verdict::Deny("not yours".into()),
        };
        Box::pin(std::future::ready(verdict))
    }
}

#[tokio::test]
async fn the_hook_guards_every_door() {
    let open = Rig::memory().await;
    let digest = open.push_blob("theirs/a", b"x", Algorithm::Sha256).await;
    open.push_image("mine/a", "v1", "x").await;
    let rig = Rig::over(
        open.blobs.clone(),
        open.meta.clone(),
        open.clock.clone(),
        open.limits.clone(),
        std::sync::Arc::new(ByName),
    )
    .await;
    let doors = [
        ("GET", "/v2/".to_owned()),
        ("GET", "/v2/_catalog".into()),
        ("GET", "/v2/theirs/a/tags/list".into()),
        ("GET", format!("/v2/theirs/a/blobs/{digest}")),
        ("HEAD", format!("/v2/theirs/a/blobs/{digest}")),
        ("DELETE", format!("/v2/theirs/a/blobs/{digest}")),
        ("GET", "/v2/theirs/a/manifests/v1".into()),
        ("PUT", "/v2/theirs/a/manifests/v1".into()),
        ("DELETE", "/v2/theirs/a/manifests/v1".into()),
        ("GET", format!("/v2/theirs/a/referrers/{digest}")),
        ("POST", "/v2/theirs/a/blobs/uploads/".into()),
        ("PATCH", "/v2/theirs/a/blobs/uploads/0".into()),
        ("PUT", "/v2/theirs/a/blobs/uploads/0".into()),
        ("GET", "/v2/theirs/a/blobs/uploads/0".into()),
        ("DELETE", "/v2/theirs/a/blobs/uploads/0".into()),
    ];
    for (method, uri) in &doors {
        let reply = rig.send(method, uri, &[], "").await.expect(401);
        assert!(
            reply.header("www-authenticate").contains("scope"),
            "{method} {uri}"
        );
        if !matches!(uri.as_str(), "/v2/" | "/v2/_catalog") {
            let owner = [("x-caller", "owner")];
            rig.send(method, uri, &owner, "").await.expect(403);
        }
    }
    let reader = [("x-caller", "reader")];
    rig.send("GET", &doors[3].1, &reader, "").await.expect(200);
    // A mount must not tell what another repository has.
    let owner = [("x-caller", "owner")];
    for from in ["", "&from=theirs/a"] {
        let uri = format!("/v2/mine/b/blobs/uploads/?mount={digest}{from}");
        let reply = rig.send("POST", &uri, &owner, "").await;
        // mine/a holds the same bytes, so only the anonymous mount may find them.
        reply.expect(if from.is_empty() { 201 } else { 202 });
    }
}

#[tokio::test]
async fn a_new_push_heals_a_damaged_blob() {
    let rig = Rig::disk().await;
    let dir = rig.dir.clone().unwrap();
    let digest = rig.push_blob("demo/a", b"healthy", Algorithm::Sha256).await;
    let uri = format!("/v2/demo/a/blobs/{digest}");
    let hex = digest.hex();
    let path = dir.path().join(format!("blobs/sha256/{}/{hex}", &hex[..2]));
    std::fs::write(&path, b"flipped").unwrap();
    rig.push_blob("demo/a", b"healthy", Algorithm::Sha256).await;
    assert_eq!(rig.get(&uri).await.expect(200).body, "healthy");
    // Cut or gone: it says it has no such blob, so that clients send it again.
    std::fs::write(&path, b"heal").unwrap();
    rig.head(&uri).await.expect(404);
    std::fs::remove_file(&path).unwrap();
    rig.get(&uri).await.refused(404, "BLOB_UNKNOWN");
    rig.push_blob("demo/a", b"healthy", Algorithm::Sha256).await;
    assert_eq!(rig.get(&uri).await.expect(200).body, "healthy");
}
