//! The smallest service: greets, and tells which path was asked for.

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Hello;

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let who = std::env::var("GREETING").unwrap_or_else(|_| "Hello from Coracle".into());
        let path = request.path_with_query().unwrap_or_else(|| "/".into());
        let text = if path == "/" { format!("{who}!\n") } else { format!("{who}! You asked for {path}\n") };
        let headers = Fields::from_list(&[("content-type".to_string(), b"text/plain; charset=utf-8".to_vec())]).unwrap();
        let response = OutgoingResponse::new(headers);
        let body = response.body().unwrap();
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().unwrap();
        // A client that went away is no reason to trap.
        let _ = stream.blocking_write_and_flush(text.as_bytes());
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

wasi::http::proxy::export!(Hello);
