//! Blobs on their way to a registry.

use super::*;
use crate::client::retry::Attempts;

/// Four chunks and a part of a fifth.
const BIG: u32 = 1_200_000;

#[tokio::test]
async fn a_small_blob_goes_in_one_request_and_only_once() {
    let rig = Rig::new().await;
    let bytes = noise(4 << 10);
    let target = target(&bytes);
    let client = rig.client();
    let sent = client.upload("demo", &target.digest, &bytes).await.unwrap();
    assert_eq!(sent, Uploaded::Sent);
    assert_eq!(
        rig.log(),
        ["HEAD blob -> 404", "POST uploads/?digest -> 201"]
    );
    assert_eq!(rig.stored(&target).await, bytes);
    rig.log();
    let again = client.upload("demo", &target.digest, &bytes).await.unwrap();
    assert_eq!(again, Uploaded::Existed);
    assert_eq!(rig.log(), ["HEAD blob -> 200"]);
    let empty = super::target(b"");
    let sent = client.upload("demo", &empty.digest, &Bytes::new()).await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
    assert_eq!(rig.stored(&empty).await, b"");
}

#[tokio::test]
async fn a_large_blob_goes_in_chunks() {
    let rig = Rig::new().await;
    let bytes = noise(BIG);
    let target = target(&bytes);
    rig.client()
        .upload("demo", &target.digest, &bytes)
        .await
        .unwrap();
    assert_eq!(
        rig.log(),
        [
            "HEAD blob -> 404",
            "POST uploads/ -> 202",
            "PATCH session 0-262143 -> 202",
            "PATCH session 262144-524287 -> 202",
            "PATCH session 524288-786431 -> 202",
            "PATCH session 786432-1048575 -> 202",
            "PATCH session 1048576-1199999 -> 202",
            "PUT session?digest -> 201",
        ]
    );
    assert_eq!(rig.stored(&target).await, bytes);
    let steps = rig.steps.lock().unwrap();
    assert_eq!(steps[0], "Begin(1200000)");
    assert!(steps.contains(&"At(524288)".to_owned()), "{steps:?}");
    assert_eq!(steps.last().unwrap(), "Done");
}

/// The first bytes of the chunks that reached the registry.
fn chunks(log: &[String]) -> Vec<u64> {
    let ranges = log.iter().filter_map(|l| l.strip_prefix("PATCH session "));
    ranges
        .map(|r| r.split('-').next().unwrap().parse().unwrap())
        .collect()
}

#[tokio::test]
async fn a_broken_line_costs_at_most_a_chunk() {
    let bytes = noise(BIG);
    let target = target(&bytes);
    let rig = Rig::new().await;
    // HEAD, POST, two chunks; the third breaks in its middle, and so does what comes after it.
    let never = Cut::Never;
    let cuts = [
        never,
        never,
        never,
        never,
        Cut::Up(20_000),
        never,
        never,
        Cut::Up(30_000),
    ];
    rig.line.plan(&cuts);
    let client = rig.client();
    client.upload("demo", &target.digest, &bytes).await.unwrap();
    let log = rig.log();
    assert_eq!(rig.stored(&target).await, bytes);
    assert_eq!(
        log.iter().filter(|l| l.starts_with("POST")).count(),
        1,
        "{log:?}"
    );
    assert_eq!(
        log.iter().filter(|l| l.starts_with("GET session")).count(),
        2,
        "{log:?}"
    );
    let chunks = chunks(&log);
    assert!(chunks.is_sorted() && chunks[3] >= 524_288, "{log:?}");
    assert_eq!(rig.pauses.lock().unwrap().len(), 2);
    assert!(rig.steps.lock().unwrap().contains(&"Again".to_owned()));
}

#[tokio::test]
async fn the_next_process_goes_on_with_the_session() {
    let mut rig = Rig::new().await;
    let bytes = noise(BIG);
    let target = target(&bytes);
    rig.retry.tries = 1;
    rig.line.plan(&[
        Cut::Never,
        Cut::Never,
        Cut::Never,
        Cut::Never,
        Cut::Up(10_000),
    ]);
    let client = rig.client();
    let e = client.upload("demo", &target.digest, &bytes).await;
    assert!(matches!(e, Err(Error::Unreachable { .. })), "{e:?}");
    rig.log();
    // Another client, the same memory.
    let client = rig.client();
    let sent = client.upload("demo", &target.digest, &bytes).await.unwrap();
    assert_eq!(sent, Uploaded::Sent);
    let log = rig.log();
    assert_eq!(&log[..2], ["HEAD blob -> 404", "GET session -> 204"]);
    assert!(chunks(&log)[0] >= 524_288, "{log:?}");
    assert!(!log.iter().any(|l| l.starts_with("POST")), "{log:?}");
    assert_eq!(rig.stored(&target).await, bytes);
    let key = client.path("demo", "uploads", &target.digest.to_string());
    assert_eq!(rig.sessions.get(&key), None, "what is over is forgotten");
}

#[tokio::test]
async fn a_session_that_is_gone_is_begun_anew() {
    let rig = Rig::new().await;
    let bytes = noise(BIG);
    let target = target(&bytes);
    let client = rig.client();
    let key = client.path("demo", "uploads", &target.digest.to_string());
    for location in [
        format!("{}/v2/demo/blobs/uploads/0123456789abcdef", rig.base()),
        "not an address".to_owned(),
    ] {
        rig.sessions.put(&key, &location);
        let sent = client.upload("demo", &target.digest, &bytes).await;
        sent.unwrap();
        assert_eq!(rig.sessions.get(&key), None);
    }
    assert_eq!(rig.stored(&target).await, bytes);
}

#[tokio::test]
async fn an_answer_that_got_lost_was_a_yes() {
    let small = noise(1_000);
    let big = noise(300_000);
    // The answer to the single POST; the one to the PUT that ends a session.
    for (bytes, before) in [(small, 1), (big, 4)] {
        let rig = Rig::new().await;
        let target = target(&bytes);
        rig.line.plan(&vec![Cut::Never; before]);
        rig.line.plan(&[Cut::Down(0)]);
        let client = rig.client();
        let sent = client.upload("demo", &target.digest, &bytes).await.unwrap();
        assert_eq!(sent, Uploaded::Sent);
        let log = rig.log();
        assert!(log[before].ends_with("?digest -> 201"), "{log:?}");
        assert_eq!(&log[before + 1..], ["HEAD blob -> 200"]);
    }
}

fn is(method: &'static str) -> impl Fn(&Request) -> bool + Send + Sync {
    move |request| request.method() == method
}

#[tokio::test]
async fn registries_that_know_fewer_ways() {
    let whole = |bytes: &Bytes| {
        let bytes = bytes.clone();
        move |rig: &Rig| {
            let target = target(&bytes);
            let (client, bytes) = (rig.client(), bytes.clone());
            async move {
                client.upload("demo", &target.digest, &bytes).await.unwrap();
                target
            }
        }
    };
    // A session in answer to the single POST, and a registry that does not know what is meant by it.
    let small = noise(1_000);
    for odd in [
        first(9, is("POST"), |request| {
            *request.uri_mut() = "/v2/demo/blobs/uploads/".parse().unwrap();
            None
        }),
        first(1, is("POST"), |_| status(404, &[])),
    ] {
        let rig = Rig::odd(odd).await;
        let target = whole(&small)(&rig).await;
        assert_eq!(rig.log().last().unwrap(), "PUT session?digest -> 201");
        assert_eq!(rig.stored(&target).await, small);
    }
    // No chunks; chunks that get lost; a session that lags behind what it was sent.
    let big = noise(BIG);
    for odd in [
        first(99, is("PATCH"), |_| status(405, &[])),
        first(
            1,
            |request| {
                let range = request.headers().get(header::CONTENT_RANGE);
                range.is_some_and(|r| r == "1048576-1199999")
            },
            |_| status(202, &[("range", "0-1199999")]),
        ),
        first(1, is("PATCH"), |_| status(202, &[("range", "0-0")])),
    ] {
        let rig = Rig::odd(odd).await;
        let target = whole(&big)(&rig).await;
        let log = rig.log();
        assert_eq!(log.last().unwrap(), "PUT session?digest -> 201", "{log:?}");
        assert_eq!(log[log.len() - 2], "POST uploads/ -> 202", "{log:?}");
        assert_eq!(rig.stored(&target).await, big);
    }
    // Chunks of a least size.
    let rig = Rig::odd(Arc::new(|request| {
        let begins = request.method() == "POST";
        begins.then(|| {
            let location = "/v2/demo/blobs/uploads/1";
            status(
                202,
                &[("location", location), ("oci-chunk-min-length", "600000")],
            )
            .unwrap()
        })
    }))
    .await;
    let target = target(&big);
    let sent = rig.client().upload("demo", &target.digest, &big).await;
    assert!(sent.is_err(), "there is no such session");
    assert_eq!(rig.log()[2], "PATCH session 0-599999 -> 404");
}

#[tokio::test]
async fn a_refusal_is_final() {
    for (code, requests) in [(401, 1), (403, 1), (413, 2)] {
        let odd = first(
            99,
            move |request| code != 413 || request.method() == "POST",
            move |_| status(code, &[]),
        );
        let rig = Rig::odd(odd).await;
        let bytes = noise(BIG);
        let target = target(&bytes);
        let e = rig.client().upload("demo", &target.digest, &bytes).await;
        let Err(Error::Refused { status, .. }) = e else {
            panic!("{e:?}");
        };
        assert_eq!(status.as_u16(), code);
        assert_eq!(rig.log().len(), requests);
        assert!(rig.pauses.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_registry_in_trouble_is_waited_for_within_bounds() {
    let bytes = noise(1_000);
    let target = target(&bytes);
    let upload = async |rig: &Rig| rig.client().upload("demo", &target.digest, &bytes).await;
    // It says when.
    let rig = Rig::odd(first(2, |_| true, |_| status(429, &[("retry-after", "7")]))).await;
    upload(&rig).await.unwrap();
    let seven = Duration::from_secs(7);
    assert_eq!(*rig.pauses.lock().unwrap(), [seven, seven]);
    // Longer than anybody waits.
    let rig = Rig::odd(first(
        9,
        |_| true,
        |_| status(503, &[("retry-after", "3600")]),
    ))
    .await;
    let e = upload(&rig).await.unwrap_err();
    assert!(e.to_string().contains("503"), "{e}");
    assert_eq!(rig.log().len(), 1);
    // Never.
    let rig = Rig::odd(first(99, |_| true, |_| status(500, &[]))).await;
    let e = upload(&rig).await.unwrap_err();
    assert!(e.to_string().ends_with("(tried 5 times)"), "{e}");
    assert_eq!(rig.log().len(), 5);
    let pauses = rig.pauses.lock().unwrap().clone();
    let mut attempts = Attempts::default();
    for pause in pauses {
        let most = attempts.failed(&rig.retry, false, None, 1.0).unwrap();
        assert!(pause <= most && pause * 2 >= most, "{pause:?} {most:?}");
    }
    // Nobody there.
    let gone = Client::new(Wire::new(), "http://127.0.0.1:1", rig.options());
    let e = gone.upload("demo", &target.digest, &bytes).await;
    assert!(
        matches!(e, Err(Error::Unreachable { tries: 5, .. })),
        "{e:?}"
    );
}
