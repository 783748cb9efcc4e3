//! Startup, liveness and readiness probes as counters; the asking itself is the runner's.

use coracle_api::Timestamp;
use serde_json::Value;

use crate::action::{ProbeCheck, ProbeKind};
use crate::input::after;
use crate::spec::{each, text};

/// One probe of one container.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub kind: ProbeKind,
    pub check: ProbeCheck,
    pub timeout_ms: u64,
    period_ms: u64,
    initial_delay_ms: u64,
    failure_threshold: u64,
    success_threshold: u64,
    next_at: Option<Timestamp>,
    in_flight: bool,
    failures: u64,
    successes: u64,
    passed: bool,
}

/// What an answer leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Nothing,
    /// Failed, though not often enough to act on; or readiness was lost.
    Unhealthy(String),
    /// The container has to be restarted.
    Restart(String),
}

/// The probes of a container, and what could not be turned into one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probes {
    list: Vec<Probe>,
    /// Probes of a sort that is not run here, by field name.
    pub ignored: Vec<&'static str>,
}

impl Probes {
    /// Reads the probes of a container.
    pub fn parse(container: &Value) -> Self {
        let mut found = Self::default();
        for (kind, field) in [
            (ProbeKind::Startup, "startupProbe"),
            (ProbeKind::Liveness, "livenessProbe"),
            (ProbeKind::Readiness, "readinessProbe"),
        ] {
            let p = &container[field];
            if p.is_null() {
                continue;
            }
            match check(container, p) {
                Some(check) => found.list.push(probe(kind, check, p)),
                None => found.ignored.push(field),
            }
        }
        found
    }

    /// A run began.
    pub fn start(&mut self, now: Timestamp) {
        for p in &mut self.list {
            p.next_at = Some(after(now, p.initial_delay_ms));
            (p.in_flight, p.failures, p.successes, p.passed) = (false, 0, 0, false);
        }
    }

    /// A run ended.
    pub fn stop(&mut self) {
        for p in &mut self.list {
            p.next_at = None;
            p.passed = false;
        }
    }

    fn passed(&self, kind: ProbeKind) -> bool {
        self.list
            .iter()
            .find(|p| p.kind == kind)
            .is_none_or(|p| p.passed)
    }

    /// Whether the container has started as far as its startup probe says.
    pub fn started(&self) -> bool {
        self.passed(ProbeKind::Startup)
    }

    /// Whether the container is ready as far as its probes say.
    pub fn ready(&self) -> bool {
        self.started() && self.passed(ProbeKind::Readiness)
    }

    /// The probes to send now; they count as sent.
    pub fn due(&mut self, now: Timestamp) -> Vec<Probe> {
        let started = self.started();
        let mut due = Vec::new();
        for p in &mut self.list {
            let wanted = if p.kind == ProbeKind::Startup {
                !p.passed
            } else {
                started
            };
            if wanted && !p.in_flight && p.next_at.is_some_and(|t| t <= now) {
                p.in_flight = true;
                due.push(p.clone());
            }
        }
        due
    }

    /// When the next probe wants to be sent.
    pub fn next_at(&self) -> Option<Timestamp> {
        let started = self.started();
        let wanted = |p: &&Probe| {
            !p.in_flight
                && if p.kind == ProbeKind::Startup {
                    !p.passed
                } else {
                    started
                }
        };
        self.list
            .iter()
            .filter(wanted)
            .filter_map(|p| p.next_at)
            .min()
    }

    /// An answer came.
    pub fn answered(
        &mut self,
        kind: ProbeKind,
        outcome: &Result<(), String>,
        now: Timestamp,
    ) -> Verdict {
        let Some(p) = self.list.iter_mut().find(|p| p.kind == kind && p.in_flight) else {
            return Verdict::Nothing;
        };
        p.in_flight = false;
        p.next_at = p.next_at.map(|_| after(now, p.period_ms));
        match outcome {
            Ok(()) => {
                p.failures = 0;
                p.successes = (p.successes + 1).min(p.success_threshold);
                p.passed |= p.successes >= p.success_threshold;
                Verdict::Nothing
            }
            Err(why) => {
                p.successes = 0;
                p.failures = (p.failures + 1).min(p.failure_threshold);
                let word = match kind {
                    ProbeKind::Startup => "Startup",
                    ProbeKind::Liveness => "Liveness",
                    ProbeKind::Readiness => "Readiness",
                };
                let message = format!("{word} probe failed: {why}");
                if p.failures < p.failure_threshold {
                    return Verdict::Unhealthy(message);
                }
                if kind == ProbeKind::Readiness {
                    p.passed = false;
                    return Verdict::Unhealthy(message);
                }
                Verdict::Restart(message)
            }
        }
    }
}

fn probe(kind: ProbeKind, check: ProbeCheck, p: &Value) -> Probe {
    let seconds = |field: &str, default: u64| p[field].as_u64().unwrap_or(default);
    Probe {
        kind,
        check,
        timeout_ms: seconds("timeoutSeconds", 1).max(1).saturating_mul(1_000),
        period_ms: seconds("periodSeconds", 10).max(1).saturating_mul(1_000),
        initial_delay_ms: seconds("initialDelaySeconds", 0).saturating_mul(1_000),
        failure_threshold: seconds("failureThreshold", 3).max(1),
        success_threshold: seconds("successThreshold", 1).max(1),
        next_at: None,
        in_flight: false,
        failures: 0,
        successes: 0,
        passed: false,
    }
}

fn check(container: &Value, p: &Value) -> Option<ProbeCheck> {
    if let Some(http) = p["httpGet"].as_object() {
        let path = http
            .get("path")
            .and_then(Value::as_str)
            .filter(|p| !p.is_empty())
            .unwrap_or("/");
        return Some(ProbeCheck::Http {
            path: if path.starts_with('/') {
                path.into()
            } else {
                format!("/{path}")
            },
            port: port(container, http.get("port")?)?,
            headers: each(&p["httpGet"]["httpHeaders"])
                .map(|h| (text(&h["name"]), text(&h["value"])))
                .collect(),
        });
    }
    p["tcpSocket"].as_object().and_then(|tcp| {
        Some(ProbeCheck::Tcp {
            port: port(container, tcp.get("port")?)?,
        })
    })
}

/// A port by number or by the name the container gives it.
fn port(container: &Value, value: &Value) -> Option<u16> {
    match value {
        Value::Number(n) => u16::try_from(n.as_u64()?).ok(),
        Value::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                let named = each(&container["ports"]).find(|p| p["name"] == name.as_str())?;
                u16::try_from(named["containerPort"].as_u64()?).ok()
            }
        },
        _ => None,
    }
}
