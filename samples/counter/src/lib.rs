//! Counts requests in a file on a volume that it shares with the container `ticker` of the same pod, and shows how
//! often that one has ticked.

use std::io::Write;

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Counter;

/// A line more in the file, then its number of lines. A missing or unreadable volume is an answer, not a trap.
fn count() -> Result<(usize, usize), std::io::Error> {
    let mut hits = std::fs::OpenOptions::new().create(true).append(true).open("/data/hits")?;
    hits.write_all(b"hit\n")?;
    drop(hits);
    let hits = std::fs::read_to_string("/data/hits")?.lines().count();
    let ticks = std::fs::read_to_string("/data/ticks").map(|t| t.lines().count()).unwrap_or(0);
    Ok((hits, ticks))
}

impl Guest for Counter {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        let (status, text) = match count() {
            Ok((hits, ticks)) => (200, format!("{{\"hits\":{hits},\"ticks\":{ticks}}}\n")),
            Err(e) => (500, format!("{{\"error\":\"{e}\"}}\n")),
        };
        let headers = Fields::from_list(&[("content-type".to_string(), b"application/json".to_vec())]).unwrap();
        let response = OutgoingResponse::new(headers);
        response.set_status_code(status).unwrap();
        let body = response.body().unwrap();
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().unwrap();
        let _ = stream.blocking_write_and_flush(text.as_bytes());
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

wasi::http::proxy::export!(Counter);
