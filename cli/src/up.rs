//! `coracle up`: scheduler and runner in one process, and an application on it.

use std::path::Path;
use std::time::{Duration, Instant};

use coracle_api::{kinds, meta};
use coracle_runner::RunnerConfig;
use coracle_scheduler::Scheduler;
use serde_json::Value;

use crate::args::UpArgs;
use crate::client::{self, Client};
use crate::config;
use crate::error::{self, CliError, EXIT_TIMEOUT, Result};
use crate::progress::Progress;
use crate::runjson::{RunFile, RunInfo};
use crate::{app, deploy, print, role, wait};

/// A node that takes longer to register is stuck.
const NODE_WAIT: Duration = Duration::from_secs(30);
/// What ran here before is given this long before the cluster counts as ready without it.
const REVIVE_WAIT: Duration = Duration::from_secs(60);

/// `coracle up`.
pub async fn up(args: UpArgs) -> Result<()> {
    // Bad input first: nothing is started for an application that cannot run.
    let app = args.app.as_deref().map(app::read).transpose()?;
    let s = config::Settings {
        // This is a cluster of its own, whatever the file says for other roles.
        join: None,
        token: None,
        ..config::resolve(&args.node, &args.scheduler, &args.runner, "./.coracle")?
    };
    role::log(s.log.as_deref())?;
    role::free(s.ingress_addr, "--ingress-addr")?;
    role::free(s.runner_addr, "--runner-addr")?;
    let progress = Progress::new();
    progress.step("starting the control plane");
    let scheduler = role::start_scheduler(&s, role::RAFT_ANY).await?;
    RunFile::clear(&s.data_dir);
    progress.step("starting the runner");
    let identity = scheduler
        .node_identity_for_local_runner(scheduler.name())
        .map_err(|e| role::coded(&e))?;
    let runner = coracle_runner::start(RunnerConfig {
        name: scheduler.name().to_string(),
        data_dir: s.data_dir.join("runner"),
        api_urls: vec![scheduler.api_url().to_string()],
        ca_pem: identity.ca,
        cert_pem: identity.certificate,
        key_pem: identity.key,
        identity_dir: None,
        runner_addr: role::kept(s.runner_addr, scheduler.kept_port("runner")),
        ingress_addr: role::kept(s.ingress_addr, scheduler.kept_port("ingress")),
        advertise_ip: None,
        compiler: role::compiler()?,
        registry_hosts: scheduler
            .registry_url()
            .map(|u| u.split_once("://").map_or(u, |(_, host)| host).to_string())
            .into_iter()
            .collect(),
        settings: Default::default(),
    })
    .await
    .map_err(|e| role::coded(&e))?;
    scheduler
        .keep_port("runner", runner.runner_addr().port())
        .map_err(|e| role::coded(&e))?;
    scheduler
        .keep_port("ingress", runner.ingress_addr().port())
        .map_err(|e| role::coded(&e))?;

    let ready = tokio::select! {
        done = ready(&scheduler, app, &progress) => Some(done),
        stopped = role::stop_signal() => { stopped?; None }
    };
    let outcome = match ready {
        None => Ok(()),
        Some(Err(e)) => Err(e),
        Some(Ok(url)) => serve(&args, &s.data_dir, &scheduler, &runner, url, &progress).await,
    };
    progress.finish();
    runner.shutdown().await;
    scheduler.shutdown().await;
    outcome
}

/// Waits for the node, starts or revives what is to run; answers the application's URL.
async fn ready(
    scheduler: &Scheduler,
    app: Option<app::App>,
    progress: &Progress,
) -> Result<Option<String>> {
    let client = Client::find(Some(scheduler.kubeconfig_path()), None).await?;
    node_ready(&client, scheduler.name()).await?;
    match app {
        Some(app) => app.start(&client, progress).await?,
        None => revive(&client, progress).await?,
    }
    let kind = kinds::by_table("ingresses.networking.k8s.io")
        .ok_or_else(|| CliError::new("E_KIND", "no ingresses"))?;
    let list = client.get(&client::path(kind, None, None)).await?;
    let host = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|i| i["spec"]["rules"][0]["host"].as_str().map(str::to_string));
    match host {
        Some(host) => deploy::url(&client, &host).await,
        None => Ok(None),
    }
}

/// Prints where everything is and stays until told to stop.
async fn serve(
    args: &UpArgs,
    data_dir: &Path,
    scheduler: &Scheduler,
    runner: &coracle_runner::Runner,
    url: Option<String>,
    progress: &Progress,
) -> Result<()> {
    let kubeconfig = role::absolute(scheduler.kubeconfig_path());
    if args.merge_kubeconfig {
        merge_kubeconfig(scheduler.kubeconfig_path())?;
    }
    let info = RunInfo {
        pid: std::process::id(),
        name: scheduler.name().to_string(),
        api: Some(scheduler.api_url().to_string()),
        ingress: Some(role::ingress_url(runner)),
        registry: scheduler.registry_url().map(str::to_string),
        mesos: None,
        kubeconfig: Some(kubeconfig.clone()),
        url: url.clone(),
    };
    let file = RunFile::write(data_dir, &info)?;
    progress.finish();
    let mut text = format!(
        "Coracle is ready: node {}\n  API         {}\n  registry    {}\n  ingress     {}\n  kubeconfig  {kubeconfig}\n",
        info.name,
        scheduler.api_url(),
        scheduler.registry_url().unwrap_or("under the API"),
        role::ingress_url(runner)
    );
    match &url {
        Some(url) => text.push_str(&format!("\n  {url}\n\n")),
        None => text.push_str("\nnext: coracle deploy FILE.wasm\n\n"),
    }
    text.push_str("stop with Ctrl-C\n");
    print::out(&text);
    role::stop_signal().await?;
    drop(file);
    eprintln!("draining");
    Ok(())
}

async fn node_ready(client: &Client, name: &str) -> Result<()> {
    let kind = kinds::by_table("nodes").ok_or_else(|| CliError::new("E_KIND", "no nodes"))?;
    let path = client::path(kind, None, Some(name));
    let until = Instant::now() + NODE_WAIT;
    loop {
        let node = client.find_object(&path).await?.unwrap_or(Value::Null);
        let ready = node["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        if ready {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(CliError::new(
                "E_NODE",
                format!(
                    "node {name} did not become Ready within {} s",
                    NODE_WAIT.as_secs()
                ),
            )
            .fix("start with --log info to see what the runner does")
            .exit(EXIT_TIMEOUT));
        }
        tokio::time::sleep(role::LOOK).await;
    }
}

/// Waits for the Deployments of an earlier run; one that does not come is said, and the cluster is up all the same.
async fn revive(client: &Client, progress: &Progress) -> Result<()> {
    let kind = kinds::by_table("deployments.apps")
        .ok_or_else(|| CliError::new("E_KIND", "no deployments"))?;
    let list = client.get(&client::path(kind, None, None)).await?;
    for d in list["items"].as_array().into_iter().flatten() {
        let mut client = client.clone();
        client.namespace = meta::namespace(d).to_string();
        if let Err(e) = wait::deployment(&client, meta::name(d), REVIVE_WAIT, progress).await {
            progress.note(&format!(
                "deployment {} is not ready: {}",
                meta::name(d),
                e.message
            ));
        }
    }
    Ok(())
}

/// Adds the cluster to `~/.kube/config` as `coracle`, keeping everything else there.
fn merge_kubeconfig(own: &Path) -> Result<()> {
    use kube::config::Kubeconfig;
    let bad = |e: &dyn std::fmt::Display| {
        CliError::new("E_KUBECONFIG", e.to_string())
            .fix("use --kubeconfig with the printed file instead")
    };
    let home = std::env::var_os("HOME").ok_or_else(|| bad(&"$HOME is not set"))?;
    let path = Path::new(&home).join(".kube/config");
    let mut ours = Kubeconfig::read_from(own).map_err(|e| bad(&e))?;
    if path.exists() {
        let mut theirs = Kubeconfig::read_from(&path).map_err(|e| bad(&e))?;
        theirs
            .clusters
            .retain(|c| ours.clusters.iter().all(|o| o.name != c.name));
        theirs
            .contexts
            .retain(|c| ours.contexts.iter().all(|o| o.name != c.name));
        theirs
            .auth_infos
            .retain(|c| ours.auth_infos.iter().all(|o| o.name != c.name));
        ours = ours.merge(theirs).map_err(|e| bad(&e))?;
    }
    let value = serde_json::to_value(&ours).map_err(|e| bad(&e))?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| error::file(dir, &e))?;
    }
    let temp = path.with_extension("coracle-new");
    let write = || -> std::io::Result<()> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let mut f = std::fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temp)?;
        f.write_all(coracle_api::doc::write_yaml(&value).as_bytes())?;
        f.sync_all()?;
        std::fs::rename(&temp, &path)
    };
    write().map_err(|e| error::file(&path, &e))
}
