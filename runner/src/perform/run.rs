//! Runs: linking, starting, serving, probing and ending containers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_agent::{At, Exit, Grants, Input, ProbeCheck, Problem};
use coracle_api::Key;
use coracle_engine::{CallContext, CallError, RunOptions, empty_body};
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::BodyExt;

use super::{Linked, Pods, Tools, entry, existing, host};
use crate::outbound::PodOutbound;
use crate::replicas::Served;

/// Pause before a command that found the node full tries again.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Frames of a probe's answer that are read.
const PROBE_FRAMES_MAX: usize = 64;
/// Memory of a container without a limit, in bytes.
const MEMORY_DEFAULT: u64 = 256 << 20;

/// Joins compiled code to its grants.
pub(super) async fn link(
    tools: Arc<Tools>,
    pods: Pods,
    at: At,
    pod: Key,
    pod_ip: String,
    grants: Grants,
) -> Input {
    let echo = at.clone();
    let linked =
        tokio::task::spawn_blocking(move || link_now(&tools, &pods, &at, &pod, &pod_ip, grants))
            .await;
    match linked.unwrap_or_else(|e| Err(host(&e))) {
        Ok(()) => Input::Linked { at: echo },
        Err(problem) => Input::LinkFailed { at: echo, problem },
    }
}

fn link_now(
    tools: &Tools,
    pods: &Pods,
    at: &At,
    pod: &Key,
    pod_ip: &str,
    grants: Grants,
) -> Result<(), Problem> {
    let here = existing(pods, &at.uid, |p| {
        Some((p.artifacts.get(&at.container)?.clone(), p.volumes.clone()))
    });
    let (artifact, volumes) = here.flatten().ok_or_else(|| {
        Problem::new(
            "E_HOST",
            "the compiled code of the container is not here",
            "Delete the pod so that it starts again",
        )
    })?;
    let mounts = tools
        .volumes
        .mounts(&at.uid, &at.container, &grants.mounts, &volumes)?;
    let log = tools.logs.open(pod, at);
    let mut given = coracle_engine::Grants::new(format!("{pod}/{}", at.container));
    given.args = grants.args;
    given.env = grants.env;
    given.mounts = mounts;
    given.memory_limit_bytes = grants.limits.memory_bytes.unwrap_or(MEMORY_DEFAULT);
    given.cpu_limit_millicores = grants
        .limits
        .cpu_millis
        .map(|m| u32::try_from(m).unwrap_or(u32::MAX));
    given.reuse = grants.limits.instance_reuse;
    given.allow_sockets = tools.settings.allow_sockets;
    if let Some(ms) = grants.limits.request_timeout_ms {
        given.request_timeout_ms = ms;
    }
    if let Some(n) = grants.limits.max_concurrency {
        given.max_concurrency = n;
    }
    given.log = log.clone();
    given.outbound = Arc::new(PodOutbound {
        net: tools.net.clone(),
        pod: pod.clone(),
        uid: at.uid.clone(),
        ip: pod_ip.parse().ok(),
    });
    let replica = tools
        .engine
        .link(&artifact, given)
        .map_err(|e| Problem::new(e.code(), e.message().to_string(), e.fix().to_string()))?;
    let linked = Linked { replica, log };
    let before = existing(pods, &at.uid, |p| {
        // Killed meanwhile: nothing may be added that no kill would reach.
        (!p.stop.is_cancelled()).then(|| p.runs.insert(at.container.clone(), (at.clone(), linked)))
    });
    if let Some((_, old)) = before.flatten().flatten() {
        old.log.close();
    }
    Ok(())
}

/// Runs a linked command.
pub(super) fn start(tools: &Arc<Tools>, pods: &Pods, at: At) {
    let found = existing(pods, &at.uid, |p| {
        let (of, run) = p.runs.get(&at.container)?;
        (*of == at).then(|| (run.replica.clone(), run.log.clone(), p.commands.token()))
    })
    .flatten();
    let (tools, results) = (tools.clone(), tools.results.clone());
    let Some((replica, log, running)) = found else {
        return;
    };
    tools.guests.spawn(async move {
        // Held until the result is sent: a kill waits for it, so that `Killed` comes after.
        let _running = running;
        drop(results.send(Input::Started { at: at.clone() }).await);
        let ended = loop {
            match replica
                .run(CallContext::default(), RunOptions::default())
                .await
            {
                // The node is full of running instances; nothing has run yet.
                Err(CallError::Busy { .. }) => tokio::time::sleep(BUSY_PAUSE).await,
                ended => break ended,
            }
        };
        let exit = match ended {
            Ok(status) => Exit::code(status.code),
            Err(error) => {
                if !matches!(error, CallError::Killed | CallError::Draining) {
                    log.say(&format!("[coracle] {}: {error}", error.code()));
                    if let CallError::Trap { backtrace, .. } = &error
                        && !backtrace.is_empty()
                    {
                        log.say(backtrace.trim_end());
                    }
                }
                exit_of(&error)
            }
        };
        log.close();
        drop(results.send(Input::Exited { at, exit }).await);
    });
}

/// How the end of a run looks from outside: the codes a shell would show for a signal.
fn exit_of(error: &CallError) -> Exit {
    let (code, reason) = match error {
        CallError::Trap { .. } => (134, "Trap"),
        CallError::MemoryLimit { .. } => (137, "OOMKilled"),
        CallError::Killed | CallError::Draining => (137, "Killed"),
        CallError::DeadlineExceeded { .. } => (137, "DeadlineExceeded"),
        _ => (128, "StartError"),
    };
    let message = match error {
        CallError::Killed | CallError::Draining => String::new(),
        other => format!("{}: {other}. {}.", other.code(), other.fix()),
    };
    Exit {
        code,
        reason: reason.into(),
        message,
    }
}

/// Lets a linked service take requests.
pub(super) fn serve(tools: &Tools, pods: &Pods, at: &At, port: u16) {
    let served = existing(pods, &at.uid, |p| {
        let (of, run) = p.runs.get(&at.container)?;
        (of == at).then(|| Served {
            at: at.clone(),
            replica: run.replica.clone(),
            log: run.log.clone(),
        })
    })
    .flatten();
    if let Some(served) = served {
        tools.net.replicas.serve(port, served);
    }
}

/// Ends one container. A command tells its end itself; a service has none, so it is told for it.
pub(super) fn kill_container(tools: &Tools, pods: &Pods, at: At) {
    tools.net.replicas.withdraw(&at);
    let service = existing(pods, &at.uid, |p| {
        let (of, run) = p.runs.get(&at.container)?;
        if *of != at {
            return None;
        }
        run.replica.kill();
        run.replica.kind().is_service().then(|| run.log.clone())
    })
    .flatten();
    if let Some(log) = service {
        log.close();
        let results = tools.results.clone();
        tokio::spawn(async move {
            drop(
                results
                    .send(Input::Exited {
                        at,
                        exit: exit_of(&CallError::Killed),
                    })
                    .await,
            );
        });
    }
}

/// Ends everything of a pod.
pub(super) fn kill(tools: &Tools, pods: &Pods, uid: String) {
    let commands = entry(pods, &uid, |p| {
        p.stop.cancel();
        p.commands.close();
        for (_, run) in p.runs.values() {
            run.replica.kill();
            if run.replica.kind().is_service() {
                run.log.close();
            }
        }
        p.runs.clear();
        p.artifacts.clear();
        p.commands.clone()
    });
    tools.net.replicas.remove(&uid);
    let results = tools.results.clone();
    tokio::spawn(async move {
        commands.wait().await;
        drop(results.send(Input::Killed { uid }).await);
    });
}

/// Asks a container how it is, in process.
pub(super) async fn probe(
    tools: &Tools,
    at: &At,
    check: &ProbeCheck,
    timeout_ms: u64,
) -> Result<(), String> {
    let port = match check {
        ProbeCheck::Http { port, .. } | ProbeCheck::Tcp { port } => *port,
    };
    let pod = tools.net.replicas.pod(&at.uid);
    let served = pod
        .and_then(|p| p.on_port(port))
        .ok_or_else(|| format!("nothing in the pod serves on port {port}"))?;
    let ProbeCheck::Http { path, headers, .. } = check else {
        return Ok(());
    };
    let mut request = Request::builder()
        .uri(path.as_str())
        .header(header::USER_AGENT, "kube-probe/1.34");
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        request = request.header(header::HOST, format!("localhost:{port}"));
    }
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            request = request.header(name, value);
        }
    }
    let request = request
        .body(empty_body())
        .map_err(|e| format!("the probe is no request: {e}"))?;
    let timeout = Duration::from_millis(timeout_ms);
    let ctx = CallContext {
        deadline: Instant::now().checked_add(timeout),
        ..CallContext::default()
    };
    // On the threads for guests: a probe runs guest code too.
    let call = served.replica.call(ctx, request);
    let asked = tools
        .guests
        .spawn(tokio::time::timeout(timeout, async move {
            let response = call.await.map_err(|e| e.to_string())?;
            let status = response.status();
            let mut body = response.into_body();
            // Read on, so that the instance can finish by itself; one that has much to say is cut off.
            for _ in 0..PROBE_FRAMES_MAX {
                match body.frame().await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break,
                }
            }
            if status.as_u16() < 400 {
                Ok(())
            } else {
                Err(format!(
                    "HTTP probe failed with statuscode: {}",
                    status.as_u16()
                ))
            }
        }));
    match asked.await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(format!("no answer in {timeout_ms} ms")),
        Err(e) => Err(format!("the probe failed: {e}")),
    }
}
