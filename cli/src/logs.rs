//! `coracle logs`: a container's output, followed across pods of a Deployment if one was named.

use coracle_api::{kinds, meta};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::args::LogsArgs;
use crate::client::{self, Client, query};
use crate::error::{CliError, Result};
use crate::print;

/// `coracle logs`.
pub async fn logs(args: LogsArgs) -> Result<()> {
    let client = Client::find(
        args.target.kubeconfig.as_deref(),
        args.target.namespace.as_deref(),
    )
    .await?;
    let pod = find_pod(&client, &args.what).await?;
    let containers: Vec<&str> = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| c["name"].as_str())
        .collect();
    let container = match (&args.container, containers.as_slice()) {
        (Some(c), _) => c.clone(),
        (None, [one]) => (*one).to_string(),
        (None, several) => {
            return Err(CliError::new(
                "E_CONTAINER",
                format!(
                    "pod {} has several containers: {}",
                    meta::name(&pod),
                    several.join(", ")
                ),
            )
            .fix("name one with -c CONTAINER"));
        }
    };
    let mut terms = vec![format!("container={}", query(&container))];
    for (on, term) in [
        (args.follow, "follow=true"),
        (args.previous, "previous=true"),
        (args.timestamps, "timestamps=true"),
    ] {
        if on {
            terms.push(term.into());
        }
    }
    terms.extend(args.tail.map(|n| format!("tailLines={n}")));
    terms.extend(args.since.map(|n| format!("sinceSeconds={n}")));
    stream(&client, &pod, &terms.join("&")).await
}

/// Prints a log stream until it ends.
pub async fn stream(client: &Client, pod: &Value, terms: &str) -> Result<()> {
    let kind = kinds::by_table("pods").ok_or_else(|| CliError::new("E_KIND", "no pods"))?;
    let path = format!(
        "{}/log?{terms}",
        client::path(kind, Some(meta::namespace(pod)), Some(meta::name(pod)))
    );
    let response = client.stream(&path, "text/plain, */*").await?;
    let mut body = response.into_body().into_data_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk
            .map_err(|e| CliError::new("E_UNREACHABLE", format!("the log stream broke: {e}")))?;
        print::out(&String::from_utf8_lossy(&chunk));
    }
    Ok(())
}

async fn find_pod(client: &Client, what: &str) -> Result<Value> {
    let pods = kinds::by_table("pods").ok_or_else(|| CliError::new("E_KIND", "no pods"))?;
    let (kind, name) = match what.split_once('/') {
        Some((k, n)) => (client::kind(k)?, n),
        None => (pods, what),
    };
    let object = client
        .get(&client::path(kind, Some(&client.namespace), Some(name)))
        .await?;
    if kind.table == "pods" {
        return Ok(object);
    }
    let selector = match &object["spec"]["selector"] {
        s if s["matchLabels"].is_object() || s["matchExpressions"].is_array() => {
            coracle_api::selector::LabelSelector::from_object(s)
        }
        s => Ok(coracle_api::selector::LabelSelector::from_map(
            &meta::string_map(s),
        )),
    };
    let selector = selector.map_err(|e| CliError::new("E_SELECTOR", e))?;
    if selector.is_empty() {
        return Err(
            CliError::new("E_NO_PODS", format!("{what} selects no pods"))
                .fix("name a pod, deployment, replicaset or service"),
        );
    }
    let list = client
        .get(&format!(
            "{}?labelSelector={}",
            client::path(pods, Some(&client.namespace), None),
            query(&selector.to_string())
        ))
        .await?;
    let first = list["items"].as_array().and_then(|l| l.first().cloned());
    first.ok_or_else(|| {
        CliError::new("E_NO_PODS", format!("{what} has no pods now"))
            .fix(format!("`coracle describe {what}` says why"))
    })
}
