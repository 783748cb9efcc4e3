//! Upload sessions through the HTTP face, under any sequence of requests: what the client is told is there is there,
//! once, and what it is told was refused left no trace.

use std::io;

use arbitrary::Unstructured;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;

use super::Target;
use super::chunks::{self, BLOB_BYTES_MAX, Sent};
use super::wire::{Reply, Wire};
use crate::digest::Algorithm;
use crate::limits::Limits;
use crate::upload::Refusal;

pub(super) const TARGET: Target = Target {
    name: "sessions",
    seeds,
    words: &[
        "\0\0\0\0",
        "\u{1}\u{5}hello",
        "\u{2}\0\0",
        "\u{3}\0\0\0",
        "\u{7}",
    ],
    check,
};

/// Requests of one input.
const REQUESTS_MAX: usize = 40;
/// Sessions of one input.
const SESSIONS_MAX: usize = 4;
const REPOSITORIES: [&str; 2] = ["demo/a", "demo/b"];

fn seeds() -> Vec<Vec<u8>> {
    let counted: Vec<u8> = (0..=255).collect();
    vec![
        Vec::new(),
        vec![0; 40],
        counted.clone(),
        counted.iter().rev().copied().collect(),
        counted.iter().map(|b| b.wrapping_mul(37)).collect(),
        counted.iter().map(|b| b.wrapping_mul(101) % 16).collect(),
        counted.iter().map(|b| b.wrapping_mul(59) % 9).collect(),
    ]
}

/// How a session stands with its client.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Open,
    /// Finished under this digest.
    Done(String),
    /// Cancelled, or ended by a wrong digest or too many bytes.
    Gone,
}

/// One session as its client knows it.
#[derive(Debug)]
struct Session {
    repository: &'static str,
    location: String,
    held: Vec<u8>,
    standing: Standing,
}

/// How the body of a request comes in.
enum Came {
    Refused(Refusal),
    /// So many bytes before the connection broke.
    Broken(usize),
    Whole,
}

fn check(input: &[u8]) -> bool {
    run(&mut Unstructured::new(input)).unwrap_or(false)
}

fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<bool> {
    let limits = Limits {
        blob_bytes_max: BLOB_BYTES_MAX,
        ..Limits::default()
    };
    let wire = Wire::new(limits);
    let mut sessions: Vec<Session> = Vec::new();
    let mut stored = false;
    for _ in 0..REQUESTS_MAX {
        if u.is_empty() {
            break;
        }
        let step = u.int_in_range(0..=9)?;
        if sessions.is_empty() || (step == 0 && sessions.len() < SESSIONS_MAX) {
            sessions.push(start(u, &wire)?);
            continue;
        }
        if step == 1 {
            stored |= whole(u, &wire)?;
            continue;
        }
        let chosen = u.choose_index(sessions.len())?;
        let session = &mut sessions[chosen];
        match step {
            2 | 3 => stored |= put(u, &wire, session)?,
            4 => cancel(&wire, session),
            5 => elsewhere(&wire, session),
            _ => patch(u, &wire, session)?,
        }
        status(&wire, session);
    }
    for session in &sessions {
        status(&wire, session);
    }
    Ok(stored)
}

fn start(u: &mut Unstructured<'_>, wire: &Wire) -> arbitrary::Result<Session> {
    let repository: &'static str = u.choose(&REPOSITORIES)?;
    let queries = ["", "?digest-algorithm=sha256", "?digest-algorithm=sha512"];
    let uri = format!("/v2/{repository}/blobs/uploads/{}", u.choose(&queries)?);
    let reply = wire.send("POST", &uri, &[], Body::empty());
    assert_eq!(
        (reply.status, reply.header("range")),
        (202, "0-0"),
        "{reply:?}"
    );
    Ok(Session {
        repository,
        location: reply.header("location").to_owned(),
        held: Vec::new(),
        standing: Standing::Open,
    })
}

/// `Range` of a session with these bytes, as the specification writes it.
fn range(held: &[u8]) -> String {
    format!("0-{}", held.len().max(1) - 1)
}

fn status(wire: &Wire, session: &Session) {
    let reply = wire.send("GET", &session.location, &[], Body::empty());
    if session.standing != Standing::Open {
        assert_eq!(
            (reply.status, reply.code()),
            (404, "BLOB_UPLOAD_UNKNOWN".to_owned())
        );
        return;
    }
    assert_eq!(reply.status, 204, "{session:?}: {reply:?}");
    assert_eq!(reply.header("range"), range(&session.held), "{session:?}");
    assert_eq!(reply.header("location"), session.location);
}

/// Another repository's path leads to no session, and does not disturb it.
fn elsewhere(wire: &Wire, session: &Session) {
    let other = if session.repository == REPOSITORIES[0] {
        REPOSITORIES[1]
    } else {
        REPOSITORIES[0]
    };
    let location = session.location.replacen(session.repository, other, 1);
    for method in ["GET", "PATCH", "DELETE"] {
        let reply = wire.send(method, &location, &[], Body::from("bytes"));
        assert_eq!(
            (reply.status, reply.code()),
            (404, "BLOB_UPLOAD_UNKNOWN".to_owned())
        );
    }
}

fn cancel(wire: &Wire, session: &mut Session) {
    let reply = wire.send("DELETE", &session.location, &[], Body::empty());
    if session.standing == Standing::Open {
        assert_eq!(reply.status, 204, "{reply:?}");
        session.standing = Standing::Gone;
    } else {
        assert_eq!(reply.status, 404, "{reply:?}");
    }
}

/// The request's body, and the error of a connection that breaks.
fn body(sent: &Sent) -> Body {
    let mut pieces: Vec<Result<Bytes, io::Error>> = Vec::new();
    for (n, piece) in sent.pieces().enumerate() {
        if sent.breaks_off == Some(n) {
            pieces.push(Err(io::Error::other("the connection broke")));
            break;
        }
        pieces.push(Ok(Bytes::copy_from_slice(piece)));
    }
    Body::from_stream(stream::iter(pieces))
}

fn send(wire: &Wire, method: &str, uri: &str, sent: &Sent) -> Reply {
    let length = sent.length.map(|length| length.to_string());
    let mut headers = Vec::new();
    if let Some(range) = &sent.range {
        headers.push(("content-range", range.as_str()));
    }
    if let Some(length) = &length {
        headers.push(("content-length", length.as_str()));
    }
    wire.send(method, uri, &headers, body(sent))
}

/// What the protocol says to this body in a session that is open and has `have` bytes.
fn comes(sent: &Sent, have: usize) -> Came {
    let have = have as u64;
    let due = match chunks::may_begin(sent, have, true) {
        Ok(due) => due,
        Err(refusal) => return Came::Refused(refusal),
    };
    let mut came = 0;
    for (n, piece) in sent.pieces().enumerate() {
        if sent.breaks_off == Some(n) {
            return Came::Broken(came);
        }
        came += piece.len();
        if let Err(refusal) = chunks::may_go_on(have, due, came as u64) {
            return Came::Refused(refusal);
        }
    }
    match chunks::may_end(due, came as u64) {
        Ok(()) => Came::Whole,
        Err(refusal) => Came::Refused(refusal),
    }
}

/// The refusal as the client hears it, and what becomes of its session.
fn refused(reply: &Reply, refusal: &Refusal, session: Option<&mut Session>) {
    let (status, code) = match refusal {
        Refusal::OutOfOrder { .. } | Refusal::UnreadableRange => (416, "BLOB_UPLOAD_INVALID"),
        Refusal::Length { .. } => (400, "SIZE_INVALID"),
        Refusal::TooLarge { .. } => (413, "SIZE_INVALID"),
        Refusal::Complete | Refusal::NotAnId => (400, "BLOB_UPLOAD_INVALID"),
    };
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (status, code),
        "{refusal}"
    );
    let Some(session) = session else {
        return;
    };
    if status == 416 {
        assert_eq!(reply.header("range"), range(&session.held));
        assert_eq!(reply.header("location"), session.location);
    }
    if status == 413 {
        session.standing = Standing::Gone;
    }
}

fn patch(u: &mut Unstructured<'_>, wire: &Wire, session: &mut Session) -> arbitrary::Result<()> {
    let sent = Sent::arbitrary(u, session.held.len() as u64)?;
    let reply = send(wire, "PATCH", &session.location, &sent);
    match &session.standing {
        Standing::Gone => assert_eq!(reply.status, 404, "{reply:?}"),
        Standing::Done(_) => refused(&reply, &Refusal::Complete, None),
        Standing::Open => match comes(&sent, session.held.len()) {
            Came::Refused(refusal) => refused(&reply, &refusal, Some(session)),
            Came::Broken(came) => {
                assert_eq!(reply.status, 400, "{reply:?}");
                session.held.extend_from_slice(&sent.body[..came]);
            }
            Came::Whole => {
                session.held.extend_from_slice(&sent.body);
                assert_eq!(reply.status, 202, "{sent:?}: {reply:?}");
                assert_eq!(reply.header("range"), range(&session.held));
                assert_eq!(reply.header("location"), session.location);
            }
        },
    }
    Ok(())
}

/// The last request of a session. Answers whether a blob was stored.
fn put(u: &mut Unstructured<'_>, wire: &Wire, session: &mut Session) -> arbitrary::Result<bool> {
    let algorithm = *u.choose(&Algorithm::ALL)?;
    let sent = if u.arbitrary()? {
        Sent::arbitrary(u, session.held.len() as u64)?
    } else {
        Sent::nothing()
    };
    let all = [session.held.as_slice(), &sent.body].concat();
    let right = algorithm.digest(&all).to_string();
    let digest = match (&session.standing, u.int_in_range(0..=3)?) {
        (_, 0) => algorithm.digest(b"something else").to_string(),
        (Standing::Done(digest), _) => digest.clone(),
        _ => right.clone(),
    };
    let uri = format!("{}?digest={digest}", session.location);
    let reply = send(wire, "PUT", &uri, &sent);
    match &session.standing {
        Standing::Gone => assert_eq!(reply.status, 404, "{reply:?}"),
        Standing::Done(done) if *done == digest => assert_eq!(reply.status, 201, "{reply:?}"),
        Standing::Done(_) => refused(&reply, &Refusal::Complete, None),
        Standing::Open => match comes(&sent, session.held.len()) {
            Came::Refused(refusal) => refused(&reply, &refusal, Some(session)),
            Came::Broken(came) => {
                assert_eq!(reply.status, 400, "{reply:?}");
                session.held.extend_from_slice(&sent.body[..came]);
            }
            Came::Whole if digest == right => {
                created(wire, &reply, session.repository, &digest, &all);
                session.standing = Standing::Done(digest);
                return Ok(true);
            }
            Came::Whole => {
                assert_eq!(
                    (reply.status, reply.code()),
                    (400, "DIGEST_INVALID".to_owned())
                );
                session.standing = Standing::Gone;
            }
        },
    }
    Ok(false)
}

/// A blob in one request. Answers whether it was stored.
fn whole(u: &mut Unstructured<'_>, wire: &Wire) -> arbitrary::Result<bool> {
    let repository: &'static str = u.choose(&REPOSITORIES)?;
    let algorithm = *u.choose(&Algorithm::ALL)?;
    let sent = Sent::arbitrary(u, 0)?;
    let right = algorithm.digest(&sent.body).to_string();
    let wrong = u.ratio(1, 4)?;
    let digest = if wrong {
        algorithm.digest(b"something else").to_string()
    } else {
        right
    };
    let uri = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    let reply = send(wire, "POST", &uri, &sent);
    match comes(&sent, 0) {
        Came::Refused(refusal) => refused(&reply, &refusal, None),
        Came::Broken(_) => assert_eq!(reply.status, 400, "{reply:?}"),
        Came::Whole if wrong => {
            assert_eq!(
                (reply.status, reply.code()),
                (400, "DIGEST_INVALID".to_owned())
            );
        }
        Came::Whole => {
            created(wire, &reply, repository, &digest, &sent.body);
            return Ok(true);
        }
    }
    Ok(false)
}

/// What was acknowledged can be read, byte for byte.
fn created(wire: &Wire, reply: &Reply, repository: &str, digest: &str, content: &[u8]) {
    let location = format!("/v2/{repository}/blobs/{digest}");
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.header("docker-content-digest"), digest);
    assert_eq!(reply.header("location"), location);
    let read = wire.send("GET", &location, &[], Body::empty());
    assert_eq!((read.status, read.body.as_ref()), (200, content));
}
