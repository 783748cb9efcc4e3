//! `coracle deploy`: check, push, write Deployment + Service + Ingress, wait, print the URL.

use std::time::Duration;

use coracle_api::{kinds, meta};
use serde_json::{Value, json};

use crate::args::DeployArgs;
use crate::client::{self, Client};
use crate::error::{CliError, Result};
use crate::image::{self, Component, Image};
use crate::progress::Progress;
use crate::{objects, print, wait};

/// `coracle deploy`.
pub async fn deploy(args: DeployArgs) -> Result<()> {
    let component = image::read_component(&args.file)?;
    let stem = args
        .file
        .file_stem()
        .map(|s| {
            s.to_string_lossy()
                .to_lowercase()
                .replace(['_', '.', ' '], "-")
        })
        .unwrap_or_default();
    let name = args.name.clone().unwrap_or(stem);
    let env = env(&args.env)?;
    check_service(&args.file, &component)?;
    let client = Client::find(
        args.target.kubeconfig.as_deref(),
        args.target.namespace.as_deref(),
    )
    .await?;
    let progress = Progress::new();
    let image = Image::parse(&format!("{name}:latest"))?;
    progress.step(&format!("pushing {name} ({} bytes)", component.bytes.len()));
    let digest = image::push_component(&client, &component, &image).await?;
    for line in coracle_engine::capabilities(&component.inspected) {
        progress.note(&format!("{name} may {line}"));
    }
    let host = args
        .host
        .clone()
        .unwrap_or_else(|| format!("{name}.localhost"));
    progress.step("writing Deployment, Service and Ingress");
    for object in manifests(
        &name,
        &format!("{name}:latest@{digest}"),
        args.replicas,
        &host,
        args.port,
        &env,
    ) {
        objects::apply(&client, &object, false, true).await?;
    }
    if !args.detach {
        wait::deployment(&client, &name, Duration::from_secs(args.timeout), &progress).await?;
    }
    progress.finish();
    let url = url(&client, &host).await?;
    eprintln!("{name}: {} replicas, image {}", args.replicas, digest);
    print::out(&format!(
        "{}\n",
        url.unwrap_or_else(|| format!("http://{host}/"))
    ));
    Ok(())
}

/// A component that answers no requests cannot be a service.
fn check_service(path: &std::path::Path, component: &Component) -> Result<()> {
    if component.inspected.kind.is_service() {
        return Ok(());
    }
    let message = format!(
        "{}: it exports no wasi:http/incoming-handler, so it cannot answer requests",
        path.display()
    );
    Err(if component.inspected.kind.is_command() {
        CliError::new("E_NOT_A_SERVICE", message).fix(format!(
            "it is a command: run it with `coracle run {}`",
            path.display()
        ))
    } else {
        CliError::new("E_NOT_A_SERVICE", message).fix("build it for the world wasi:http/proxy")
    })
}

/// Reads `K=V` pairs.
pub fn env(pairs: &[String]) -> Result<Vec<(String, String)>> {
    pairs
        .iter()
        .map(|p| match p.split_once('=') {
            Some((k, v)) if !k.is_empty() => Ok((k.to_string(), v.to_string())),
            _ => Err(
                CliError::new("E_ENV", format!("--env {p:?} is not NAME=VALUE"))
                    .fix("write --env NAME=VALUE"),
            ),
        })
        .collect()
}

/// The three objects of a deployed component.
pub fn manifests(
    name: &str,
    image: &str,
    replicas: u32,
    host: &str,
    port: u16,
    env: &[(String, String)],
) -> Vec<Value> {
    let labels = json!({"app": name});
    let mut container = json!({"name": name, "image": image, "ports": [{"containerPort": 80}]});
    if !env.is_empty() {
        container["env"] = env
            .iter()
            .map(|(k, v)| json!({"name": k, "value": v}))
            .collect();
    }
    vec![
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels},
            "spec": {"selector": labels, "ports": [{"port": port, "targetPort": 80}]}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "labels": labels},
            "spec": {"rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": name, "port": {"number": port}}}}]}}]}}),
    ]
}

/// Where a host is reached: the ingress of a ready node.
pub async fn url(client: &Client, host: &str) -> Result<Option<String>> {
    let kind = kinds::by_table("nodes").ok_or_else(|| CliError::new("E_KIND", "no nodes"))?;
    let nodes = client.get(&client::path(kind, None, None)).await?;
    let ingress = nodes["items"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|n| meta::annotation(n, coracle_api::INGRESS_ANNOTATION).map(str::to_string));
    Ok(ingress.map(|address| {
        let port = address
            .rsplit(':')
            .next()
            .and_then(|p| p.trim_end_matches('/').parse::<u16>().ok())
            .unwrap_or(80);
        if port == 80 {
            format!("http://{host}/")
        } else {
            format!("http://{host}:{port}/")
        }
    }))
}
