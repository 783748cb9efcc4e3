//! `coracle describe`: everything about one object on a page, with its events.

use coracle_api::{doc, kinds, meta};
use serde_json::Value;

use crate::args::DescribeArgs;
use crate::client::{self, Client, query};
use crate::error::{CliError, Result};
use crate::{objects, print};

/// `coracle describe`.
pub async fn describe(args: DescribeArgs) -> Result<()> {
    let client = Client::find(
        args.target.kubeconfig.as_deref(),
        args.target.namespace.as_deref(),
    )
    .await?;
    let mut first = true;
    for n in objects::named(&args.what)? {
        let names: Vec<String> = match n.name {
            Some(name) => vec![name],
            None => {
                let list = client
                    .get(&client::path(n.kind, Some(&client.namespace), None))
                    .await?;
                list["items"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|o| meta::name(o).to_string())
                    .collect()
            }
        };
        for name in names {
            let object = client
                .get(&client::path(n.kind, Some(&client.namespace), Some(&name)))
                .await?;
            if !first {
                print::out("\n\n");
            }
            first = false;
            print::out(&page(&object));
            print::out(&events(&client, &object).await?);
        }
    }
    if first {
        return Err(CliError::new(
            "NotFound",
            format!("no such objects in namespace {}", client.namespace),
        ));
    }
    Ok(())
}

/// The object itself: identity first, then spec and status as YAML without the noise.
fn page(object: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{:<14}{value}\n", format!("{name}:")));
        }
    };
    line("Name", meta::name(object));
    line("Namespace", meta::namespace(object));
    line("Kind", object["kind"].as_str().unwrap_or_default());
    line("Created", meta::text(object, "creationTimestamp"));
    line("Deleting", meta::text(object, "deletionTimestamp"));
    for (title, field) in [("Labels", "labels"), ("Annotations", "annotations")] {
        let list: Vec<String> = meta::strings(object, field)
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        line(title, &list.join("\n              "));
    }
    for o in object["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
    {
        line(
            "Owner",
            &format!(
                "{}/{}",
                o["kind"].as_str().unwrap_or_default(),
                o["name"].as_str().unwrap_or_default()
            ),
        );
    }
    for field in [
        "spec",
        "data",
        "type",
        "subsets",
        "endpoints",
        "ports",
        "status",
    ] {
        // Secrets' values stay in the cluster.
        if object["kind"] == "Secret" && field == "data" {
            for (k, v) in object["data"].as_object().into_iter().flatten() {
                text.push_str(&format!(
                    "Data:         {k}: {} bytes (base64)\n",
                    v.as_str().map_or(0, str::len)
                ));
            }
            continue;
        }
        let mut part = object[field].clone();
        if part.is_null() {
            continue;
        }
        let conditions = part.as_object_mut().and_then(|m| m.remove("conditions"));
        let title = format!("{}{}:", field[..1].to_uppercase(), &field[1..]);
        if part.as_object().is_some_and(|m| !m.is_empty()) || part.is_array() {
            text.push_str(&format!("{title}\n"));
            for l in doc::write_yaml(&part).lines().filter(|l| *l != "---") {
                text.push_str(&format!("  {l}\n"));
            }
        } else if let Some(s) = part.as_str() {
            text.push_str(&format!("{title:<14}{s}\n"));
        }
        if let Some(list) = conditions
            .as_ref()
            .and_then(Value::as_array)
            .filter(|l| !l.is_empty())
        {
            let mut rows = vec![
                ["  Type", "Status", "Reason", "Message"]
                    .map(String::from)
                    .to_vec(),
            ];
            rows.extend(list.iter().map(|c| {
                let t = |f: &str| c[f].as_str().unwrap_or_default().to_string();
                vec![
                    format!("  {}", t("type")),
                    t("status"),
                    t("reason"),
                    t("message"),
                ]
            }));
            text.push_str(&format!("Conditions:\n{}", print::align(&rows)));
        }
    }
    text
}

async fn events(client: &Client, object: &Value) -> Result<String> {
    let kind = kinds::by_table("events").ok_or_else(|| CliError::new("E_KIND", "no events"))?;
    let ns = if meta::namespace(object).is_empty() {
        "default"
    } else {
        meta::namespace(object)
    };
    let selector = format!(
        "involvedObject.name={},involvedObject.uid={}",
        meta::name(object),
        meta::uid(object)
    );
    let list = client
        .get(&format!(
            "{}?fieldSelector={}",
            client::path(kind, Some(ns), None),
            query(&selector)
        ))
        .await?;
    let mut all: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
    if all.is_empty() {
        return Ok("Events:       <none>\n".into());
    }
    all.sort_by_key(|e| e["lastTimestamp"].as_str().unwrap_or_default().to_string());
    let mut rows = vec![
        ["  Type", "Reason", "Count", "Last", "From", "Message"]
            .map(String::from)
            .to_vec(),
    ];
    for e in all {
        let t = |v: &Value| v.as_str().unwrap_or_default().to_string();
        rows.push(vec![
            format!("  {}", t(&e["type"])),
            t(&e["reason"]),
            e["count"].as_i64().unwrap_or(1).to_string(),
            t(&e["lastTimestamp"]),
            t(&e["source"]["component"]),
            t(&e["message"]).replace('\n', " "),
        ]);
    }
    Ok(format!("Events:\n{}", print::align(&rows)))
}
