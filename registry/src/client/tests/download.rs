//! Blobs on their way from a registry, and manifests.

use std::path::Path;

use super::*;
use crate::manifest::OCI_MANIFEST;
use crate::wasm::{Kind, MANIFEST_BYTES_MAX, artifact};

const SIZE: u32 = 300_000;

async fn pull(rig: &Rig, target: &Target, path: &Path) -> Result<(), Error> {
    rig.client().download("demo", target, path).await
}

#[tokio::test]
async fn whole_and_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.partial");
    let bytes = noise(SIZE);
    let rig = Rig::new().await;
    let target = rig.store(&bytes).await;
    pull(&rig, &target, &path).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(rig.log(), ["GET blob -> 200"]);
    {
        let steps = rig.steps.lock().unwrap();
        assert_eq!(&steps[..2], ["Begin(300000)", "At(0)"]);
        assert_eq!(&steps[steps.len() - 2..], ["At(300000)", "Done"]);
    }
    // What is there already is not asked for; the beginning of it is gone on with.
    pull(&rig, &target, &path).await.unwrap();
    assert!(rig.log().is_empty());
    std::fs::write(&path, &bytes[..100_000]).unwrap();
    pull(&rig, &target, &path).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(rig.log(), ["GET blob bytes=100000- -> 206"]);
}

#[tokio::test]
async fn a_broken_line_costs_nothing_that_came() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.partial");
    let bytes = noise(SIZE);
    let rig = Rig::new().await;
    let target = rig.store(&bytes).await;
    // Each brings a part; one brings nothing at all.
    rig.line
        .plan(&[Cut::Down(100_000), Cut::Down(0), Cut::Down(50_000)]);
    pull(&rig, &target, &path).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let log = rig.log();
    assert_eq!(log.len(), 4, "{log:?}");
    let starts: Vec<u64> = log[1..]
        .iter()
        .map(|line| {
            let range = line.split("bytes=").nth(1).expect("a range");
            range.split('-').next().unwrap().parse().unwrap()
        })
        .collect();
    // The heads of the answers count, too.
    assert!((99_000..100_000).contains(&starts[0]), "{log:?}");
    assert_eq!(starts[1], starts[0]);
    assert!((148_000..150_000).contains(&starts[2]), "{log:?}");
}

#[tokio::test]
async fn the_next_process_goes_on_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.partial");
    let bytes = noise(SIZE);
    let mut rig = Rig::new().await;
    let target = rig.store(&bytes).await;
    rig.retry.tries = 1;
    rig.line.plan(&[Cut::Down(100_000)]);
    let e = pull(&rig, &target, &path).await;
    assert!(matches!(e, Err(Error::Unreachable { .. })), "{e:?}");
    let have = std::fs::read(&path).unwrap();
    assert!(have.len() > 90_000 && bytes.starts_with(&have));
    rig.log();
    pull(&rig, &target, &path).await.unwrap();
    assert_eq!(
        rig.log(),
        [format!("GET blob bytes={}- -> 206", have.len())]
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn a_file_with_other_bytes_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.partial");
    let bytes = noise(SIZE);
    let rig = Rig::new().await;
    let target = rig.store(&bytes).await;
    let same_length = vec![7; SIZE as usize];
    let longer = vec![7; SIZE as usize + 1];
    for (there, want) in [
        (
            &same_length[..1_000],
            vec!["GET blob bytes=1000- -> 206", "GET blob -> 200"],
        ),
        (&same_length, vec!["GET blob -> 200"]),
        (&longer, vec!["GET blob -> 200"]),
    ] {
        std::fs::write(&path, there).unwrap();
        pull(&rig, &target, &path).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(rig.log(), want);
    }
}

#[tokio::test]
async fn registries_that_do_not_do_parts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.partial");
    let bytes = noise(SIZE);
    let ranged = |request: &Request| request.headers().contains_key(header::RANGE);
    let deaf = |request: &mut Request| {
        request.headers_mut().remove(header::RANGE);
        None
    };
    for (odd, requests) in [
        (first(9, ranged, deaf), 1),
        (first(1, ranged, |_| status(416, &[])), 2),
        // Another part than the one asked for.
        (
            first(1, ranged, |_| {
                status(206, &[("content-range", "bytes 0-9/300000")])
            }),
            2,
        ),
        (first(1, ranged, |_| status(206, &[])), 2),
    ] {
        let rig = Rig::odd(odd).await;
        let target = rig.store(&bytes).await;
        std::fs::write(&path, &bytes[..1_000]).unwrap();
        pull(&rig, &target, &path).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(rig.log().len(), requests);
    }
}

/// An answer with these bytes.
fn with(bytes: Vec<u8>) -> impl Fn(&mut Request) -> Option<Response> + Send + Sync {
    move |_| Some(Response::new(Body::from(bytes.clone())))
}

#[tokio::test]
async fn wrong_bytes_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.partial");
    let bytes = noise(1_000);
    let target = target(&bytes);
    let get = |request: &Request| request.method() == "GET";
    for wrong in [vec![7; 1_000], [&bytes[..], b"more"].concat()] {
        let rig = Rig::odd(first(9, get, with(wrong))).await;
        let e = pull(&rig, &target, &path).await;
        assert!(matches!(e, Err(Error::Corrupt { .. })), "{e:?}");
        assert_eq!(rig.log().len(), 1, "the registry will not change its mind");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }
    let rig = Rig::new().await;
    let e = pull(&rig, &target, &path).await.unwrap_err();
    assert!(
        matches!(&e, Error::Refused { code, .. } if code == "BLOB_UNKNOWN"),
        "{e}"
    );
    assert_eq!(rig.log(), ["GET blob -> 404"]);
    let nowhere = dir.path().join("no/such/dir");
    let e = pull(&rig, &target, &nowhere).await.unwrap_err();
    assert!(matches!(e, Error::File { .. }), "{e}");
}

#[tokio::test]
async fn silence_is_not_waited_for_forever() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::odd(first(
        1,
        |request| request.method() == "GET",
        |_| {
            let silent = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
            Some(Response::new(Body::from_stream(silent)))
        },
    ))
    .await;
    rig.retry.tries = 1;
    let target = rig.store(b"x").await;
    let options = Options {
        stall: Duration::from_millis(20),
        ..rig.options()
    };
    let client = Client::new(Wire::new(), rig.base(), options);
    let e = client
        .download("demo", &target, &dir.path().join("x"))
        .await
        .unwrap_err();
    assert!(e.to_string().contains("no byte came"), "{e}");
}

#[tokio::test]
async fn manifests_are_bounded_and_checked() {
    let rig = Rig::new().await;
    let wasm = noise(2_000);
    let made = artifact(
        &wasm,
        "x.wasm",
        Kind::Component,
        vec![],
        vec![],
        jiff::Timestamp::UNIX_EPOCH,
    );
    let client = rig.client();
    client.push("demo", "v1", &made, &wasm).await.unwrap();
    let by_tag = client.manifest("demo", "v1").await.unwrap();
    assert_eq!(by_tag.bytes, made.manifest);
    assert_eq!(by_tag.digest, made.manifest_digest);
    let digest = made.manifest_digest.to_string();
    assert_eq!(client.manifest("demo", &digest).await.unwrap(), by_tag);
    rig.log();
    // A second push says only what is there already.
    client.push("demo", "v1", &made, &wasm).await.unwrap();
    assert_eq!(
        rig.log(),
        [
            "HEAD blob -> 200",
            "HEAD blob -> 200",
            "PUT manifest -> 201"
        ]
    );
    let e = client.manifest("demo", "v2").await.unwrap_err();
    assert!(
        matches!(&e, Error::Refused { code, .. } if code == "MANIFEST_UNKNOWN"),
        "{e}"
    );

    let large = Rig::odd(first(9, |_| true, with(vec![b' '; MANIFEST_BYTES_MAX + 1]))).await;
    let e = large.client().manifest("demo", "v1").await.unwrap_err();
    assert!(
        matches!(e, Error::TooLarge { limit, .. } if limit == 8 << 20),
        "{e}"
    );
    let other = Rig::odd(first(9, |_| true, with(b"{}".to_vec()))).await;
    let e = other.client().manifest("demo", &digest).await.unwrap_err();
    assert!(matches!(e, Error::Corrupt { .. }), "{e}");
    // The digest that comes with it counts for a tag.
    let named = Rig::odd(first(
        9,
        |_| true,
        move |_| {
            let response = Response::builder()
                .header("docker-content-digest", &digest)
                .header("content-type", OCI_MANIFEST);
            Some(response.body(Body::from("{}")).unwrap())
        },
    ))
    .await;
    let e = named.client().manifest("demo", "v1").await.unwrap_err();
    assert!(matches!(e, Error::Corrupt { .. }), "{e}");
}

#[tokio::test]
async fn a_blob_collected_between_question_and_manifest_is_pushed_again() {
    // The registry says that all is there, which it is not.
    let head = |request: &Request| request.method() == "HEAD";
    let rig = Rig::odd(first(2, head, |_| status(200, &[]))).await;
    let wasm = noise(2_000);
    let made = artifact(
        &wasm,
        "x.wasm",
        Kind::Module,
        vec![],
        vec![],
        jiff::Timestamp::UNIX_EPOCH,
    );
    let client = rig.client();
    client.push("demo", "v1", &made, &wasm).await.unwrap();
    let log = rig.log();
    assert_eq!(log[2], "PUT manifest -> 400", "{log:?}");
    assert_eq!(log.last().unwrap(), "PUT manifest -> 201");
}
