//! One request from its head to the end of its response: queues, figures and the access log hang on it.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use http::{HeaderValue, StatusCode};

use crate::access::{Note, Record};
use crate::live::{PodState, ServiceState};
use crate::shared::PerCore;

/// Counts a request as in flight until it is dropped.
pub(crate) struct Ticket {
    core: Arc<PerCore>,
    pub started: Instant,
    service: Arc<ServiceState>,
    pod: Option<Arc<PodState>>,
    status: StatusCode,
    code: Option<Cow<'static, str>>,
    bytes: u64,
    ended: bool,
    note: Option<Note>,
    request_id: HeaderValue,
}

impl Ticket {
    pub fn new(
        core: &Arc<PerCore>,
        started: Instant,
        note: Option<Note>,
        request_id: HeaderValue,
    ) -> Self {
        core.request_made();
        let service = core.shared.unrouted.clone();
        service.stats(core.index).in_flight.fetch_add(1, Relaxed);
        Self {
            core: core.clone(),
            started,
            service,
            pod: None,
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: None,
            bytes: 0,
            ended: false,
            note,
            request_id,
        }
    }

    /// Moves the request to a Service and a pod; `false` if the Service's queue on this core is full.
    pub fn assign(&mut self, service: &Arc<ServiceState>, pod: Option<Arc<PodState>>) -> bool {
        self.leave_pod();
        let here = service.stats(self.core.index);
        if !Arc::ptr_eq(service, &self.service) {
            if here.in_flight.load(Relaxed) >= service.in_flight_max {
                return false;
            }
            here.in_flight.fetch_add(1, Relaxed);
            self.service
                .stats(self.core.index)
                .in_flight
                .fetch_sub(1, Relaxed);
            self.service = service.clone();
        }
        if let Some(pod) = pod {
            pod.in_flight.fetch_add(1, Relaxed);
            self.pod = Some(pod);
        }
        true
    }

    fn leave_pod(&mut self) {
        if let Some(pod) = self.pod.take() {
            pod.in_flight.fetch_sub(1, Relaxed);
        }
    }

    pub fn answered(&mut self, status: StatusCode, code: Option<Cow<'static, str>>) {
        self.status = status;
        self.code = code;
    }

    pub fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    pub fn completed(&mut self) {
        self.ended = true;
    }

    /// The response broke off.
    pub fn failed(&mut self, code: &'static str) {
        self.ended = true;
        self.code.get_or_insert(code.into());
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave_pod();
        let took = self.started.elapsed();
        let stats = self.service.stats(self.core.index);
        stats.in_flight.fetch_sub(1, Relaxed);
        stats.finished(self.status.as_u16(), took);
        if let Some(note) = self.note.take() {
            let code = self
                .code
                .take()
                .or((!self.ended).then_some(Cow::Borrowed("client_left")));
            let record = Record {
                note,
                status: self.status.as_u16(),
                code,
                bytes: self.bytes,
                took,
                service: self.service.label.clone(),
                request_id: std::mem::replace(&mut self.request_id, HeaderValue::from_static("")),
            };
            self.core.log.push(&self.core.shared, record);
        }
    }
}
