//! `coracle run`: a one-off pod, attached; its output and exit code are the command's.

use std::path::Path;
use std::time::Duration;

use coracle_api::{kinds, meta};
use http::Method;
use serde_json::{Value, json};

use crate::args::RunArgs;
use crate::client::{self, Client};
use crate::error::{CliError, EXIT_CRASH, Result};
use crate::image::{self, Image};
use crate::progress::Progress;
use crate::{deploy, logs, wait};

/// `coracle run`; answers the exit code.
pub async fn run(args: RunArgs) -> Result<u8> {
    let path = Path::new(&args.what);
    let is_file = path.exists() || args.what.ends_with(".wasm");
    let component = if is_file {
        Some(image::read_component(path)?)
    } else {
        None
    };
    if let Some(c) = &component
        && !c.inspected.kind.is_command()
    {
        return Err(CliError::new(
            "E_NOT_A_COMMAND",
            format!(
                "{} exports no wasi:cli/run, so there is nothing to run",
                args.what
            ),
        )
        .fix(format!(
            "if it answers HTTP requests: `coracle deploy {}`",
            args.what
        )));
    }
    let env = deploy::env(&args.env)?;
    let client = Client::find(
        args.target.kubeconfig.as_deref(),
        args.target.namespace.as_deref(),
    )
    .await?;
    let progress = Progress::new();
    let (image, base) = match &component {
        Some(c) => {
            let stem = path
                .file_stem()
                .map(|s| s.to_string_lossy().to_lowercase())
                .unwrap_or_default();
            let base: String = stem
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                .collect();
            let base = base.trim_matches('-').to_string();
            let base = if base.is_empty() {
                "run".to_string()
            } else {
                base
            };
            progress.step(&format!("pushing {base} ({} bytes)", c.bytes.len()));
            let digest =
                image::push_component(&client, c, &Image::parse(&format!("run/{base}:latest"))?)
                    .await?;
            (format!("run/{base}:latest@{digest}"), base)
        }
        None => {
            let image = Image::parse(&args.what)?;
            (
                args.what.clone(),
                image
                    .name
                    .rsplit('/')
                    .next()
                    .unwrap_or("run")
                    .replace(['_', '.'], "-"),
            )
        }
    };
    let mut container = json!({"name": "run", "image": image, "args": args.args});
    if !env.is_empty() {
        container["env"] = env
            .iter()
            .map(|(k, v)| json!({"name": k, "value": v}))
            .collect();
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": format!("{base}-"), "labels": {"coracle/run": base}},
        "spec": {"restartPolicy": "Never", "containers": [container]}});
    let pods = kinds::by_table("pods").ok_or_else(|| CliError::new("E_KIND", "no pods"))?;
    let collection = client::path(pods, Some(&client.namespace), None);
    let pod = client
        .call(
            Method::POST,
            &format!("{collection}?fieldManager=coracle"),
            "application/json",
            pod.to_string().into_bytes(),
        )
        .await?;
    let name = meta::name(&pod).to_string();
    let outcome = tokio::select! {
        outcome = attach(&client, &name, Duration::from_secs(args.timeout), progress) => outcome,
        _ = tokio::signal::ctrl_c() => Err(CliError::new("E_INTERRUPTED", "interrupted; the pod is deleted").exit(130)),
    };
    // The pod was this command's own; it leaves with it, whatever happened.
    let body = br#"{"propagationPolicy":"Background","gracePeriodSeconds":1}"#.to_vec();
    let deleted = client
        .call(
            Method::DELETE,
            &format!("{collection}/{name}"),
            "application/json",
            body,
        )
        .await;
    let code = outcome?;
    deleted?;
    Ok(code)
}

async fn attach(client: &Client, name: &str, limit: Duration, progress: Progress) -> Result<u8> {
    let pod = wait::pod_started(client, name, limit, &progress).await?;
    progress.finish();
    logs::stream(client, &pod, "container=run&follow=true").await?;
    let pod = wait::pod_ended(client, name).await?;
    let terminated = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    let code = terminated["exitCode"]
        .as_i64()
        .unwrap_or(i64::from(EXIT_CRASH));
    let reason = terminated["reason"].as_str().unwrap_or_default();
    if code != 0 && !matches!(reason, "Error" | "Completed" | "") {
        report(reason, terminated);
    }
    Ok(u8::try_from(code & 0xff)
        .unwrap_or(1)
        .max(u8::from(code != 0)))
}

fn report(reason: &str, terminated: &Value) {
    eprintln!(
        "{reason}: {}",
        terminated["message"]
            .as_str()
            .unwrap_or("the component did not end by itself")
    );
}
