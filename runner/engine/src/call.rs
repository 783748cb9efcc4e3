//! One request through one instance.
//!
//! The guest is polled on the task that brought the request. Most handlers set their response, write the body and
//! return without ever waiting: then nothing was spawned, nothing was woken, the body is complete and its length known.
//! Only a guest that still runs when its response head is there moves to a task of its own, and streams.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};

use crate::artifact::ArtifactInner;
use crate::body::{Body, BoxError, Streaming, collect, into_wasi_error};
use crate::cpu::Timed;
use crate::error::{CallError, translate};
use crate::grants::CallContext;
use crate::metrics::bump;
use crate::replica::{Replica, Shared};
use crate::reuse::{Instance, WarmList};
use crate::state::{GuestState, TimeLimit};

type Head = Result<Response<WasiBody>, ErrorCode>;

/// What the guest, its response body and its caller share.
pub(crate) struct CallCell {
    head: Mutex<Option<Head>>,
    failure: OnceLock<CallError>,
    /// Microseconds since [`start`]; moved on by each frame of the response body.
    deadline_us: AtomicU64,
    timeout: Duration,
}

/// The zero of `deadline_us`.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn micros(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(start()).as_micros()).unwrap_or(u64::MAX)
}

impl CallCell {
    fn new(deadline: Instant, timeout: Duration) -> Self {
        CallCell {
            head: Mutex::new(None),
            failure: OnceLock::new(),
            deadline_us: AtomicU64::new(micros(deadline)),
            timeout,
        }
    }

    fn take_head(&self) -> Option<Head> {
        self.head
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn set_head(&self, head: Head) {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
    }

    /// The body moved, so the guest has time again.
    pub(crate) fn touch(&self) {
        self.deadline_us
            .fetch_max(micros(Instant::now() + self.timeout), Relaxed);
    }

    fn deadline(&self) -> Instant {
        start() + Duration::from_micros(self.deadline_us.load(Relaxed))
    }

    pub(crate) fn expired(&self, now: Instant) -> bool {
        micros(now) >= self.deadline_us.load(Relaxed)
    }

    /// Must be set before the store goes, because the body ends with the store.
    fn fail(&self, error: &CallError) {
        // The first failure is the cause of the others.
        drop(self.failure.set(error.clone()));
    }

    /// Why the guest ended early, if it did.
    pub(crate) fn failure(&self) -> Option<CallError> {
        self.failure.get().cloned()
    }
}

impl Replica {
    /// Sends a request to the component, to a fresh instance unless reuse is granted, and answers when the response head
    /// is there; the body follows as the guest writes it. Dropping the future ends the guest. Needs a tokio runtime with
    /// time, and is made for a current-thread one.
    ///
    /// # Errors
    /// A [`CallError`]; [`CallError::is_retriable`] ones ran no guest code.
    pub fn call<B>(
        &self,
        ctx: CallContext,
        req: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, CallError>> + Send + use<B>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        call(
            self.clone(),
            ctx,
            req.map(|body| body.map_err(|e| into_wasi_error(e.into()))),
        )
    }
}

/// How far a guest got.
enum Step {
    Returned(Result<(), CallError>),
    Answered(Head),
    Waiting,
}

async fn call<B>(
    replica: Replica,
    ctx: CallContext,
    mut req: Request<B>,
) -> Result<Response<Body>, CallError>
where
    B: http_body::Body<Data = Bytes, Error = wasmtime_wasi_http::Error> + Send + 'static,
{
    Replica::service(&replica.artifact)?;
    let Replica {
        shared,
        artifact,
        warm,
    } = replica;
    let admitted = shared.admit(ctx.depth)?;
    let shared = admitted.shared();
    let timeout = Duration::from_millis(shared.request_timeout_ms);
    let now = Instant::now();
    let deadline = ctx
        .deadline
        .map_or(now + timeout, |given| given.min(now + timeout));
    if req.uri().authority().is_none() {
        match req.headers().get(HOST).map(HeaderValue::to_str) {
            Some(Ok(_)) => {}
            Some(Err(_)) => {
                return Err(CallError::BadRequest {
                    message: "its Host is not text".into(),
                });
            }
            // HTTP/1.0 has no Host; wasi:http wants an authority.
            None => drop(
                req.headers_mut()
                    .insert(HOST, HeaderValue::from_static("localhost")),
            ),
        }
    }
    let head_only = req.method() == Method::HEAD;
    let cell = Arc::new(CallCell::new(deadline, timeout));
    let ctx = CallContext {
        deadline: Some(deadline),
        ..ctx
    };
    let guest = Box::pin(run(shared.clone(), artifact, warm, ctx, cell.clone(), req));
    let mut guest = Timed { guest, admitted };

    match answer(&mut guest, &cell, now, deadline, head_only).await {
        Ok(Answer::Whole(response)) => Ok(response),
        Ok(Answer::Begun(response)) => {
            cell.touch();
            let body_cell = cell.clone();
            tokio::task::spawn(rest(guest, cell));
            Ok(response.map(|body| {
                Streaming {
                    body,
                    cell: body_cell,
                }
                .boxed_unsync()
            }))
        }
        Err(error) => {
            if !error.is_retriable() {
                guest.admitted.shared().count(&error);
            }
            Err(error)
        }
    }
}

enum Answer {
    /// The guest has returned; this is all of it.
    Whole(Response<Body>),
    /// The guest still runs.
    Begun(Response<WasiBody>),
}

/// Runs the guest until the response head is there.
async fn answer(
    guest: &mut Timed<Result<(), CallError>>,
    cell: &CallCell,
    now: Instant,
    deadline: Instant,
    head_only: bool,
) -> Result<Answer, CallError> {
    let late = || CallError::DeadlineExceeded {
        timeout_ms: u64::try_from(deadline.saturating_duration_since(now).as_millis())
            .unwrap_or(u64::MAX),
    };
    if deadline <= now {
        return Err(late());
    }
    let mut step = poll_fn(|cx| Poll::Ready(advance(guest, cell, cx))).await;
    if let Step::Waiting = step {
        // Only now is a timer worth its cost.
        let shared = guest.admitted.shared().clone();
        let waiting = poll_fn(|cx| match advance(guest, cell, cx) {
            Step::Waiting => Poll::Pending,
            step => Poll::Ready(step),
        });
        step = tokio::select! {
            biased;
            step = waiting => step,
            () = shared.killed() => Step::Returned(Err(CallError::Killed)),
            () = tokio::time::sleep_until(deadline.into()) => Step::Returned(Err(late())),
        };
    }
    let head = match step {
        Step::Returned(Err(error)) => return Err(error),
        Step::Returned(Ok(())) => cell.take_head().ok_or(CallError::NoResponse)?,
        Step::Answered(Ok(response)) => return Ok(Answer::Begun(response)),
        Step::Answered(Err(code)) => Err(code),
        Step::Waiting => {
            return Err(CallError::Host {
                message: "a guest was polled and forgotten".into(),
            });
        }
    };
    let (parts, body) = head
        .map_err(|code| CallError::Handler {
            message: code.to_string(),
        })?
        .into_parts();
    let body = collect(body, !head_only).map_err(|e| CallError::Handler {
        message: e.to_string(),
    })?;
    Ok(Answer::Whole(Response::from_parts(parts, body)))
}

fn advance(
    guest: &mut Timed<Result<(), CallError>>,
    cell: &CallCell,
    cx: &mut std::task::Context<'_>,
) -> Step {
    match Pin::new(guest).poll(cx) {
        Poll::Ready(result) => Step::Returned(result),
        Poll::Pending => cell.take_head().map_or(Step::Waiting, Step::Answered),
    }
}

/// Runs a guest whose head has gone out until it returns, is killed, or its body stands still for too long.
async fn rest(mut guest: Timed<Result<(), CallError>>, cell: Arc<CallCell>) {
    let shared = guest.admitted.shared().clone();
    let error = loop {
        let deadline = cell.deadline();
        tokio::select! {
            biased;
            result = &mut guest => break result.err(),
            () = shared.killed() => break Some(CallError::Killed),
            () = tokio::time::sleep_until(deadline.into()) => {
                if cell.expired(Instant::now()) {
                    break Some(CallError::DeadlineExceeded { timeout_ms: shared.request_timeout_ms });
                }
            }
        }
    };
    // Before the guest goes and its body with it.
    if let Some(error) = error {
        cell.fail(&error);
        shared.count(&error);
        tracing::debug!(replica = %shared.name, %error, "a response ended early");
    }
}

/// The guest's side: instance, request, handler, and the instance back or dropped.
async fn run<B>(
    shared: Arc<Shared>,
    artifact: Arc<ArtifactInner>,
    warm: Option<Arc<WarmList>>,
    ctx: CallContext,
    cell: Arc<CallCell>,
    req: Request<B>,
) -> Result<(), CallError>
where
    B: http_body::Body<Data = Bytes, Error = wasmtime_wasi_http::Error> + Send + 'static,
{
    if shared.cpu.is_some() {
        shared.wait_for_cpu().await;
    }
    let timeout_ms = shared.request_timeout_ms;
    let time = TimeLimit::Call(cell.clone());
    let mut instance = match warm.as_ref().and_then(|warm| warm.take()) {
        Some(mut instance) => {
            bump(&shared.metrics.reused);
            instance.store.data_mut().begin(ctx, time);
            instance.store.set_epoch_deadline(1);
            instance
        }
        None => {
            bump(&shared.metrics.instances);
            let pre = Replica::service(&artifact)?;
            let mut store = GuestState::new(shared, ctx, time).into_store(pre.engine());
            match pre.instantiate_async(&mut store).await {
                Ok(proxy) => Instance {
                    store,
                    proxy,
                    served: 0,
                },
                Err(error) => {
                    let error = translate(&error, store.data().limits(timeout_ms));
                    if error.is_retriable() {
                        bump(&store.data().hooks.shared.metrics.refused);
                    }
                    return Err(error);
                }
            }
        }
    };
    match serve(&mut instance, cell.clone(), req).await {
        Ok(()) => {
            instance.served += 1;
            if let Some(warm) = &warm {
                warm.put(instance);
            }
            Ok(())
        }
        Err(error) => {
            let error = translate(&error, instance.store.data().limits(timeout_ms));
            cell.fail(&error);
            Err(error)
        }
    }
}

async fn serve<B>(
    instance: &mut Instance,
    cell: Arc<CallCell>,
    req: Request<B>,
) -> wasmtime::Result<()>
where
    B: http_body::Body<Data = Bytes, Error = wasmtime_wasi_http::Error> + Send + 'static,
{
    let scheme = match req.uri().scheme_str() {
        Some("https") => Scheme::Https,
        _ => Scheme::Http,
    };
    let mut http = instance.store.data_mut().wasi_http();
    let request = http.new_incoming_request(scheme, req)?;
    let out = http.new_response_outparam_from_callback(move |head| cell.set_head(head))?;
    instance
        .proxy
        .wasi_http_incoming_handler()
        .call_handle(&mut instance.store, request, out)
        .await
}
