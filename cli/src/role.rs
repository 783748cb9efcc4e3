//! The roles of a process: scheduler, runner, and what they share with `up`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_runner::{Runner, RunnerConfig};
use coracle_scheduler::{DataDir, Fatal, Lives, Scheduler, SchedulerConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{RunnerArgs, SchedulerArgs};
use crate::config::{self, Settings};
use crate::error::{CliError, Result};
use crate::print;
use crate::runjson::{RunFile, RunInfo};

/// Warnings, and what happens to the control plane's membership. openraft warns at each heartbeat that a member which is
/// down does not take; the transport says once that it is not reached.
const LOG_DEFAULT: &str = "warn,openraft=error,coracle::members=info";

/// Starts logging to standard error.
pub fn log(filter: Option<&str>) -> Result<()> {
    let text = filter
        .map(str::to_string)
        .or_else(|| std::env::var("CORACLE_LOG").ok())
        .unwrap_or_else(|| LOG_DEFAULT.into());
    let filter = tracing_subscriber::EnvFilter::try_new(&text).map_err(|e| {
        CliError::new("E_LOG_FILTER", format!("--log {text:?}: {e}"))
            .fix("write a level (warn, info, debug) or TARGET=LEVEL")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init()
        .map_err(|e| CliError::new("E_LOG", e.to_string()))
}

/// An error whose text is `CODE: what happened; fix`.
pub fn coded(e: &dyn std::fmt::Display) -> CliError {
    let text = e.to_string();
    match text.split_once(": ") {
        Some((code, rest)) if code.starts_with("E_") && !code.contains(' ') => {
            CliError::new(code, rest)
        }
        _ => CliError::new("E_START", text),
    }
}

/// Starts a control-plane member. `raft_addr` holds where nothing else was said.
pub async fn start_scheduler(s: &Settings, raft_addr: std::net::SocketAddr) -> Result<Scheduler> {
    let config = SchedulerConfig {
        name: s.name.clone(),
        api_addr: s.api_addr,
        registry_addr: Some(s.registry_addr),
        registry: s.registry.clone(),
        registry_upstreams: s.registry_upstreams.clone(),
        registry_storage: s.registry_storage.clone(),
        raft_addr: s.raft_addr.unwrap_or(raft_addr),
        advertise: s.advertise.clone(),
        lease_durability: s.lease_durability,
        join: s.join.clone(),
        token: s.token.clone(),
        backups: s.backups,
        registry_garbage: s.registry_garbage,
        lives: Lives {
            leaf: s.certificate_life.unwrap_or(Lives::default().leaf),
            ..Lives::default()
        },
        fatal: Fatal::new(fatal),
        ..SchedulerConfig::new(&s.data_dir)
    };
    coracle_scheduler::start(config)
        .await
        .map_err(|e| coded(&e))
}

/// The end of the process when going on would break a promise: one line. What an operator did (a member was removed, a
/// directory copied) is no crash; everything else is, and leaves a core where those are collected.
fn fatal(line: &str) {
    eprintln!("{}", coded(&line).line());
    if line.starts_with("E_MEMBER_") {
        std::process::exit(1);
    }
    std::process::abort();
}

/// This very program as the engine's compiler.
pub fn compiler() -> Result<(PathBuf, Vec<String>)> {
    let program = std::env::current_exe()
        .map_err(|e| CliError::new("E_EXE", format!("cannot find this program's own file: {e}")))?;
    Ok((program, vec!["compile-child".into()]))
}

/// Where a listener that was asked for port 0 tries first: the port it had last time, if nobody else has it now.
pub fn kept(asked: std::net::SocketAddr, kept: Option<u16>) -> std::net::SocketAddr {
    match kept {
        Some(port) if asked.port() == 0 => {
            let before = std::net::SocketAddr::new(asked.ip(), port);
            if std::net::TcpListener::bind(before).is_ok() {
                before
            } else {
                asked
            }
        }
        _ => asked,
    }
}

/// Fails early and clearly if a fixed address is taken: listeners that share a port on purpose would not notice.
pub fn free(addr: std::net::SocketAddr, flag: &str) -> Result<()> {
    if addr.port() == 0 {
        return Ok(());
    }
    match std::net::TcpListener::bind(addr) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Err(CliError::new(
            "E_PORT_IN_USE",
            format!("{addr} is in use by another process"),
        )
        .fix(format!(
            "stop it, or name another address with {flag} (port 0 takes a free one)"
        ))),
        Err(e) => Err(
            CliError::new("E_LISTEN", format!("cannot listen on {addr}: {e}"))
                .fix(format!("name another address with {flag}")),
        ),
    }
}

/// Resolves at SIGINT or SIGTERM; a second one ends the process at once.
pub async fn stop_signal() -> Result<()> {
    let failed =
        |e: std::io::Error| CliError::new("E_SIGNAL", format!("cannot wait for signals: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        std::process::exit(130);
    });
    Ok(())
}

/// Where a member listens for the others.
const RAFT_DEFAULT: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2380);
/// Where `up` listens for them: mostly there are none, and several clusters on a laptop must not collide.
pub const RAFT_ANY: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// `coracle scheduler`.
pub async fn scheduler(args: SchedulerArgs) -> Result<()> {
    let mut s = config::resolve(
        &args.node,
        &args.scheduler,
        &Default::default(),
        "./.coracle-scheduler",
    )?;
    s.join = args.join.clone().or(s.join);
    s.token = args.token.clone().or(s.token);
    log(s.log.as_deref())?;
    if args.reset_to_single {
        return crate::backup::reset(&s.data_dir, args.yes).await;
    }
    RunFile::clear(&s.data_dir);
    let scheduler = start_scheduler(&s, RAFT_DEFAULT).await?;
    let info = RunInfo {
        pid: std::process::id(),
        name: scheduler.name().to_string(),
        api: Some(scheduler.api_url().to_string()),
        registry: scheduler.registry_url().map(str::to_string),
        kubeconfig: Some(absolute(scheduler.kubeconfig_path())),
        ..RunInfo::default()
    };
    let file = RunFile::write(&s.data_dir, &info)?;
    print::out(&format!(
        "scheduler {} is ready\n  API         {}\n  registry    {}\n  kubeconfig  {}\nstop with Ctrl-C\n",
        info.name,
        scheduler.api_url(),
        scheduler.registry_url().unwrap_or("under the API"),
        info.kubeconfig.as_deref().unwrap_or_default()
    ));
    stop_signal().await?;
    drop(file);
    scheduler.shutdown().await;
    Ok(())
}

/// `coracle runner`.
pub async fn runner(args: RunnerArgs) -> Result<()> {
    let mut s = config::resolve(
        &args.node,
        &Default::default(),
        &args.runner,
        "./.coracle-runner",
    )?;
    s.join = args.join.clone().or(s.join);
    s.token = args.token.clone().or(s.token);
    log(s.log.as_deref())?;
    let data = DataDir::open(&s.data_dir, s.name.as_deref()).map_err(|e| coded(&e))?;
    RunFile::clear(&s.data_dir);
    let name = data.identity().name.clone();
    let (api_urls, identity) = membership(&s, &name).await?;
    free(s.ingress_addr, "--ingress-addr")?;
    free(s.runner_addr, "--runner-addr")?;
    let config = RunnerConfig {
        name: name.clone(),
        data_dir: s.data_dir.join("runner"),
        api_urls,
        ca_pem: identity.ca_pem,
        cert_pem: identity.cert_pem,
        key_pem: identity.key_pem,
        identity_dir: Some(s.data_dir.clone()),
        runner_addr: kept(s.runner_addr, data.kept_port("runner")),
        ingress_addr: kept(s.ingress_addr, data.kept_port("ingress")),
        advertise_ip: None,
        compiler: compiler()?,
        registry_hosts: Vec::new(),
        settings: Default::default(),
    };
    let runner = coracle_runner::start(config).await.map_err(|e| coded(&e))?;
    data.keep_port("runner", runner.runner_addr().port())
        .map_err(|e| coded(&e))?;
    data.keep_port("ingress", runner.ingress_addr().port())
        .map_err(|e| coded(&e))?;
    let info = RunInfo {
        pid: std::process::id(),
        name,
        ingress: Some(ingress_url(&runner)),
        ..RunInfo::default()
    };
    let file = RunFile::write(&s.data_dir, &info)?;
    print::out(&format!(
        "runner {} is ready\n  ingress  {}\nstop with Ctrl-C\n",
        info.name,
        info.ingress.as_deref().unwrap_or_default()
    ));
    stop_signal().await?;
    drop(file);
    runner.shutdown().await;
    drop(data);
    Ok(())
}

/// The certificate of an earlier join, or a new one for `--join` and `--token`; and where the API is, kept beside it.
async fn membership(
    s: &Settings,
    name: &str,
) -> Result<(Vec<String>, coracle_runner::join::Identity)> {
    use coracle_runner::join;
    let kept = s.data_dir.join("api");
    let had = join::load(&s.data_dir).map_err(|e| coded(&e))?;
    let given = s
        .join
        .clone()
        .or_else(|| std::fs::read_to_string(&kept).ok());
    let given = given.map(|text| join::addresses(&text)).unwrap_or_default();
    if given.is_empty() {
        return Err(CliError::new("E_JOIN", "this runner belongs to no cluster yet")
            .fix("start it once with --join HOST:PORT --token TOKEN; `coracle token create --role runner` makes a token"));
    }
    // One whose time is over opens no door any more; a token does.
    let now = coracle_api::Timestamp::now();
    let had = had.filter(|i| s.token.is_none() || !i.is_expired(now));
    let (addresses, identity) = match (had, &s.token) {
        (Some(identity), _) => (given, identity),
        (None, Some(token)) => {
            let joined = join::join(&s.data_dir, &given.join(","), token, name)
                .await
                .map_err(|e| coded(&e))?;
            let mut all = given;
            for known in join::addresses(&joined.api_urls.join(",")) {
                if !all.contains(&known) {
                    all.push(known);
                }
            }
            (all, joined.identity)
        }
        (None, None) => {
            return Err(CliError::new("E_JOIN_TOKEN", "a first join needs --token")
                .fix("make one with `coracle token create --role runner`"));
        }
    };
    std::fs::write(&kept, format!("{}\n", addresses.join(",")))
        .map_err(|e| crate::error::file(&kept, &e))?;
    let urls = addresses.iter().map(|a| format!("https://{a}")).collect();
    Ok((urls, identity))
}

/// URL of a runner's ingress.
pub fn ingress_url(runner: &Runner) -> String {
    runner.ingress_url()
}

/// A path that means the same from any folder.
pub fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_path_buf())
        .to_string_lossy()
        .into_owned()
}

/// Between two looks at the cluster while it starts.
pub const LOOK: Duration = Duration::from_millis(20);
