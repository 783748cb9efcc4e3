//! Over a real socket: what only a real HTTP server shows.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::Rig;
use crate::digest::Algorithm;
use crate::router;

/// One request on one connection, raw in and raw out.
async fn raw(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    String::from_utf8(reply).unwrap()
}

#[tokio::test]
async fn heads_chunks_and_merging() {
    let rig = Rig::disk().await;
    let other = axum::Router::new().route("/healthz", axum::routing::get(|| async { "ok" }));
    let app = other.merge(router(rig.registry.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let close = "Host: x\r\nConnection: close\r\n";
    let reply = raw(address, &format!("GET /healthz HTTP/1.1\r\n{close}\r\n")).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");

    let location = rig.start("demo/a").await;
    let patch = format!(
        "PATCH {location} HTTP/1.1\r\n{close}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    );
    let reply = raw(address, &patch).await;
    assert!(reply.starts_with("HTTP/1.1 202"), "{reply}");
    assert!(reply.contains("range: 0-10\r\n"), "{reply}");
    let digest = Algorithm::Sha256.digest(b"hello world");
    let put =
        format!("PUT {location}?digest={digest} HTTP/1.1\r\n{close}Content-Length: 0\r\n\r\n");
    assert!(raw(address, &put).await.starts_with("HTTP/1.1 201"));

    let head = format!("HEAD /v2/demo/a/blobs/{digest} HTTP/1.1\r\n{close}\r\n");
    let reply = raw(address, &head).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(reply.contains("content-length: 11\r\n"), "{reply}");
    assert!(reply.ends_with("\r\n\r\n"), "{reply}");

    let find = "GET /.well-known/wasm-pkg/registry.json HTTP/1.1\r\nHost: packages.example:5000\r\nConnection: close\r\n\r\n";
    let reply = raw(address, find).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(
        reply.contains("\"registry\":\"packages.example:5000\""),
        "{reply}"
    );

    // A part is for GET alone.
    let head =
        format!("HEAD /v2/demo/a/blobs/{digest} HTTP/1.1\r\n{close}Range: bytes=0-1\r\n\r\n");
    let reply = raw(address, &head).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(reply.contains("content-length: 11\r\n"), "{reply}");

    // A path a careful client would not send, sent as it is.
    let climb = format!("GET /v2/../../etc/passwd/tags/list HTTP/1.1\r\n{close}\r\n");
    let reply = raw(address, &climb).await;
    assert!(
        reply.starts_with("HTTP/1.1 400") && reply.contains("NAME_INVALID"),
        "{reply}"
    );

    // Expect: 100-continue is answered before the body comes.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let uri = format!(
        "/v2/demo/a/blobs/uploads/?digest={}",
        Algorithm::Sha512.digest(b"later")
    );
    let header =
        format!("POST {uri} HTTP/1.1\r\n{close}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    stream.write_all(header.as_bytes()).await.unwrap();
    let mut first = [0_u8; 25];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"later").await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 201"), "{reply}");
    server.abort();
}

#[tokio::test]
async fn a_client_that_sends_first_and_reads_later_gets_the_refusal() {
    let rig = Rig::memory().await;
    let app = router(rig.registry.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    // Refused by the path alone, before a byte of the body was needed. The body is larger than all socket buffers.
    let body = "x".repeat(6 << 20);
    for target in ["blobs/uploads/0123", "no/such/path"] {
        let request = format!(
            "PATCH /v2/demo/{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let reply = raw(address, &request).await;
        assert!(reply.starts_with("HTTP/1.1 404"), "{target}: {reply}");
        assert!(reply.contains("\"errors\""), "{target}: {reply}");
    }
    server.abort();
}
