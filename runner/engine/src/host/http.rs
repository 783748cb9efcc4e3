//! `wasi:http`: types, and outgoing requests handed to [`Outbound`](crate::Outbound).
//!
//! wasmtime's own client is never used: it opens a connection (and a TLS configuration) for each request and knows
//! nothing of services, policies or depth.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderName;
use http::header;
use http_body_util::BodyExt;
use wasmtime::component::Linker;
use wasmtime_wasi_http::p2::bindings::LinkOptions;
use wasmtime_wasi_http::p2::bindings::http::{outgoing_handler, types};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttp, WasiHttpHooks};

use crate::body::{BoxError, into_wasi_error};
use crate::grants::{CallContext, MAX_CALL_DEPTH, OutboundError};
use crate::replica::Shared;
use crate::state::GuestState;

/// Memory of one set of header fields, in bytes as the host holds them.
pub(crate) const FIELDS_BYTES: usize = 128 << 10;
/// Body chunks a guest may write before it has to wait for the reader. Guests write 4 KiB at a time, so a page of
/// 64 KiB leaves in one go and its guest never waits.
const BODY_CHUNKS: usize = 15;
/// Bytes of one body chunk.
const BODY_CHUNK_BYTES: usize = 64 << 10;

pub(super) fn add(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let options = LinkOptions::default();
    outgoing_handler::add_to_linker::<_, WasiHttp>(linker, GuestState::wasi_http)?;
    types::add_to_linker::<_, WasiHttp>(linker, &(&options).into(), GuestState::wasi_http)
}

/// wasi:http decisions of one instance.
pub(crate) struct Hooks {
    pub shared: Arc<Shared>,
    pub ctx: CallContext,
}

type Sent = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), Error>> + Send>,
    ),
    Error,
>;

impl WasiHttpHooks for Hooks {
    // The default builds its answer from an `Arc<dyn Fn>` for each header of each request.
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        *name == header::CONNECTION
            || *name == header::HOST
            || *name == header::TRANSFER_ENCODING
            || *name == header::UPGRADE
            || *name == header::PROXY_AUTHENTICATE
            || *name == header::PROXY_AUTHORIZATION
            || matches!(
                name.as_str(),
                "keep-alive" | "proxy-connection" | "http2-settings"
            )
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        fut: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        // Reports how the request body fared to WASI 0.3 guests; there are none here.
        drop(fut);
        let depth = self.ctx.depth + 1;
        if depth > MAX_CALL_DEPTH {
            return Box::new(std::future::ready(Err(Error::LoopDetected)));
        }
        // The guest's own patience shortens the deadline of its request, never lengthens it.
        let own = options
            .and_then(|o| o.first_byte_timeout)
            .map(|timeout| Instant::now() + timeout);
        let deadline = match (own, self.ctx.deadline) {
            (Some(own), Some(given)) => Some(own.min(given)),
            (own, given) => own.or(given),
        };
        let ctx = CallContext {
            depth,
            deadline,
            origin: Some(self.shared.name.clone()),
        };
        let request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
        let response = self.shared.outbound.send(ctx, request);
        Box::new(async move {
            let response = match deadline {
                None => response.await,
                Some(at) => tokio::time::timeout_at(at.into(), response)
                    .await
                    .unwrap_or(Err(OutboundError::Timeout)),
            };
            let response = response
                .map_err(wasi_error)?
                .map(|body| body.map_err(into_wasi_error).boxed_unsync());
            let io: Box<dyn Future<Output = Result<(), Error>> + Send> =
                Box::new(std::future::ready(Ok(())));
            Ok((response, io))
        })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        BODY_CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }
}

fn wasi_error(error: OutboundError) -> Error {
    match error {
        OutboundError::NotFound(_) => Error::DestinationNotFound,
        OutboundError::Denied(_) => Error::HttpRequestDenied,
        OutboundError::Unavailable(_) => Error::DestinationUnavailable,
        OutboundError::Timeout => Error::HttpResponseTimeout,
        OutboundError::Connection(_) => Error::ConnectionTerminated,
        OutboundError::Loop => Error::LoopDetected,
        OutboundError::Internal(message) => Error::InternalError(Some(message)),
    }
}
