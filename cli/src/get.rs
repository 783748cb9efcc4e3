//! `get`, `describe`, `delete`, `scale`, `apply`: kubectl's everyday words.

use std::time::{Duration, Instant};

use coracle_api::{Kind, kinds, meta};
use futures_util::{StreamExt, TryStreamExt};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::args::{ApplyArgs, DeleteArgs, GetArgs, Output, ScaleArgs};
use crate::client::{self, Client, query};
use crate::error::{CliError, EXIT_TIMEOUT, Result};
use crate::objects::{self, Done, Named};
use crate::print;

fn list_path(kind: &Kind, client: &Client, args: &GetArgs) -> String {
    let ns = (!args.all_namespaces).then_some(client.namespace.as_str());
    let mut terms = vec!["limit=500".to_string()];
    if let Some(s) = &args.selector {
        terms.push(format!("labelSelector={}", query(s)));
    }
    if let Some(s) = &args.field_selector {
        terms.push(format!("fieldSelector={}", query(s)));
    }
    format!("{}?{}", client::path(kind, ns, None), terms.join("&"))
}

/// Every page of a list, as one list.
async fn pages(client: &Client, path: &str, table: bool) -> Result<Value> {
    let fetch = async |p: String| {
        if table {
            client.get_table(&p).await
        } else {
            client.get(&p).await
        }
    };
    let mut all = fetch(path.to_string()).await?;
    let field = if table { "rows" } else { "items" };
    while let Some(token) = all["metadata"]["continue"]
        .as_str()
        .filter(|t| !t.is_empty())
        .map(str::to_string)
    {
        let mut page = fetch(format!("{path}&continue={}", query(&token))).await?;
        if let (Some(to), Some(from)) = (all[field].as_array_mut(), page[field].as_array_mut()) {
            to.append(from);
        }
        all["metadata"] = page["metadata"].take();
    }
    Ok(all)
}

/// `coracle get`.
pub async fn get(args: GetArgs) -> Result<()> {
    let client = Client::find(
        args.target.kubeconfig.as_deref(),
        args.target.namespace.as_deref(),
    )
    .await?;
    let what = objects::named(&args.what)?;
    if args.watch {
        let [one] = what.as_slice() else {
            return Err(CliError::new("E_USAGE", "--watch takes one kind"));
        };
        return watch(&client, &args, one).await;
    }
    let several = what
        .iter()
        .map(|n| n.kind.table)
        .collect::<std::collections::BTreeSet<_>>()
        .len()
        > 1;
    let machine = args.output.filter(|o| *o != Output::Wide);
    let mut items: Vec<Value> = Vec::new();
    let (mut printed, mut last_kind) = (false, "");
    for n in &what {
        let path = match &n.name {
            Some(name) => client::path(n.kind, Some(&client.namespace), Some(name)),
            None => list_path(n.kind, &client, &args),
        };
        if machine.is_some() {
            let mut v = if n.name.is_some() {
                client.get(&path).await?
            } else {
                pages(&client, &path, false).await?
            };
            if n.name.is_some() {
                items.push(v);
            } else if let Some(list) = v["items"].as_array_mut() {
                // Items of a list carry no type of their own on the wire.
                for item in list.iter_mut() {
                    item["apiVersion"] = json!(n.kind.api_version());
                    item["kind"] = json!(n.kind.kind);
                }
                items.append(list);
            }
            continue;
        }
        let t = if n.name.is_some() {
            client.get_table(&path).await?
        } else {
            pages(&client, &path, true).await?
        };
        if t["rows"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        let header = last_kind != n.kind.table;
        if printed && header {
            print::out("\n");
        }
        let prefix = several.then(|| objects::word(n.kind, ""));
        let prefix = prefix.as_deref().map(|p| p.trim_end_matches('/'));
        print::out(&print::table(
            &t,
            args.output == Some(Output::Wide),
            args.all_namespaces && n.kind.namespaced(),
            header,
            prefix,
        ));
        printed = true;
        last_kind = n.kind.table;
    }
    if let Some(form) = machine {
        let single = what.len() == 1 && what[0].name.is_some();
        let value = if single {
            items.remove(0)
        } else {
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
        };
        print::object(&value, form);
    } else if !printed {
        let scope = if args.all_namespaces || what.iter().all(|n| !n.kind.namespaced()) {
            String::new()
        } else {
            format!(" in {} namespace", client.namespace)
        };
        eprintln!("No resources found{scope}.");
    }
    Ok(())
}

async fn watch(client: &Client, args: &GetArgs, one: &Named) -> Result<()> {
    let mut path = list_path(one.kind, client, args);
    if let Some(name) = &one.name {
        path.push_str(&format!(
            "&fieldSelector={}",
            query(&format!("metadata.name={name}"))
        ));
    }
    let machine = args.output.filter(|o| *o != Output::Wide);
    let namespaces = args.all_namespaces && one.kind.namespaced();
    let first = client.get_table(&path).await?;
    if machine.is_none() {
        print::out(&print::table(
            &first,
            args.output == Some(Output::Wide),
            namespaces,
            true,
            None,
        ));
    }
    let accept = if machine.is_some() {
        "application/json"
    } else {
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    };
    let columns = first["columnDefinitions"].clone();
    let mut from = first["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or("0")
        .to_string();
    loop {
        let response = client
            .stream(&format!("{path}&watch=true&resourceVersion={from}"), accept)
            .await?;
        let mut lines = lines(response);
        while let Some(line) = lines.next().await {
            let event: Value = serde_json::from_slice(&line?)
                .map_err(|e| CliError::new("E_ANSWER", e.to_string()))?;
            if event["type"] == "ERROR" {
                return Err(CliError::new(
                    "E_WATCH",
                    event["object"]["message"]
                        .as_str()
                        .unwrap_or("the watch ended")
                        .to_string(),
                ));
            }
            let mut object = event["object"].clone();
            let inner = if object["kind"] == "Table" {
                &object["rows"][0]["object"]
            } else {
                &object
            };
            if let Some(rv) = inner["metadata"]["resourceVersion"].as_str() {
                from = rv.to_string();
            }
            match machine {
                Some(form) => print::object(&object, form),
                None => {
                    if object["columnDefinitions"]
                        .as_array()
                        .is_none_or(Vec::is_empty)
                    {
                        object["columnDefinitions"] = columns.clone();
                    }
                    print::out(&print::table(
                        &object,
                        args.output == Some(Output::Wide),
                        namespaces,
                        false,
                        None,
                    ));
                }
            }
        }
    }
}

/// Lines of a streamed body.
pub fn lines(
    response: http::Response<kube::client::Body>,
) -> impl futures_util::Stream<Item = Result<Vec<u8>>> + Unpin {
    let broken = |e: &dyn std::fmt::Display| {
        CliError::new("E_UNREACHABLE", format!("the connection broke: {e}"))
    };
    let stream = response
        .into_body()
        .into_data_stream()
        .map_err(|e| std::io::Error::other(e.to_string()));
    let reader = tokio_util::io::StreamReader::new(stream);
    Box::pin(futures_util::stream::unfold(
        tokio::io::BufReader::new(reader),
        move |mut r| async move {
            let mut line = Vec::new();
            match tokio::io::AsyncBufReadExt::read_until(&mut r, b'\n', &mut line).await {
                Ok(0) => None,
                Ok(_) => Some((Ok(line), r)),
                Err(e) => Some((Err(broken(&e)), r)),
            }
        },
    ))
}

/// `coracle apply`.
pub async fn apply(args: ApplyArgs) -> Result<()> {
    let client = Client::find(
        args.target.kubeconfig.as_deref(),
        args.target.namespace.as_deref(),
    )
    .await?;
    let all = objects::from_files(&args.filename)?;
    for object in &all {
        objects::kind_of(object)?;
    }
    for object in &all {
        let (done, after) =
            objects::apply(&client, object, args.dry_run, args.force_conflicts).await?;
        match args.output {
            Some(form) => print::object(&after, form),
            None => {
                let word = objects::word(objects::kind_of(object)?, meta::name(object));
                let what = match done {
                    Done::Created => "created",
                    Done::Configured => "configured",
                    Done::Unchanged => "unchanged",
                };
                print::out(&format!(
                    "{word} {what}{}\n",
                    if args.dry_run { " (dry run)" } else { "" }
                ));
            }
        }
    }
    Ok(())
}

/// `coracle delete`.
pub async fn delete(args: DeleteArgs) -> Result<()> {
    let client = Client::find(
        args.target.kubeconfig.as_deref(),
        args.target.namespace.as_deref(),
    )
    .await?;
    let mut what: Vec<(&'static Kind, String, String)> = Vec::new();
    if args.filename.is_empty() {
        for n in objects::named(&args.what)? {
            let name = n.name.ok_or_else(|| {
                CliError::new("E_USAGE", "name the objects to delete").fix("KIND NAME or KIND/NAME")
            })?;
            what.push((n.kind, client.namespace.clone(), name));
        }
    } else {
        for object in objects::from_files(&args.filename)? {
            let ns = if meta::namespace(&object).is_empty() {
                client.namespace.clone()
            } else {
                meta::namespace(&object).to_string()
            };
            what.push((
                objects::kind_of(&object)?,
                ns,
                meta::name(&object).to_string(),
            ));
        }
    }
    let mut waiting = Vec::new();
    for (kind, ns, name) in what {
        let path = client::path(kind, Some(&ns), Some(&name));
        let uid = client
            .find_object(&path)
            .await?
            .map(|o| meta::uid(&o).to_string());
        match client
            .call(
                Method::DELETE,
                &path,
                "application/json",
                br#"{"propagationPolicy":"Background"}"#.to_vec(),
            )
            .await
        {
            Ok(_) => print::out(&format!("{} deleted\n", objects::word(kind, &name))),
            Err(e) if e.code == "NotFound" && args.ignore_not_found => {}
            Err(e) => return Err(e),
        }
        waiting.push((path, uid));
    }
    if args.no_wait {
        return Ok(());
    }
    for (path, uid) in waiting {
        gone(&client, &path, uid.as_deref(), Duration::from_secs(120)).await?;
    }
    Ok(())
}

/// Waits until there is no object, or another one, under a path.
pub async fn gone(client: &Client, path: &str, uid: Option<&str>, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    loop {
        match client.find_object(path).await? {
            None => return Ok(()),
            Some(o) if uid.is_some_and(|u| u != meta::uid(&o)) => return Ok(()),
            Some(o) if Instant::now() > until => {
                let why = meta::finalizers(&o);
                let why = if why.is_empty() {
                    "it is still being stopped".into()
                } else {
                    format!("finalizers hold it: {}", why.join(", "))
                };
                return Err(
                    CliError::new("E_TIMEOUT", format!("{path} is still there: {why}"))
                        .exit(EXIT_TIMEOUT),
                );
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// `coracle scale`.
pub async fn scale(args: ScaleArgs) -> Result<()> {
    let client = Client::find(
        args.target.kubeconfig.as_deref(),
        args.target.namespace.as_deref(),
    )
    .await?;
    let what: Vec<(&'static Kind, String, String)> = if args.filename.is_empty() {
        objects::named(&args.what)?
            .into_iter()
            .map(|n| {
                Ok((
                    n.kind,
                    client.namespace.clone(),
                    n.name.ok_or_else(|| {
                        CliError::new("E_USAGE", "name what to scale").fix("deployment/NAME")
                    })?,
                ))
            })
            .collect::<Result<_>>()?
    } else {
        let scalable =
            |o: &Value| objects::kind_of(o).is_ok_and(|k| k.subresource("scale").is_some());
        let all = objects::from_files(&args.filename)?;
        all.iter()
            .filter(|o| scalable(o))
            .map(|o| {
                let ns = if meta::namespace(o).is_empty() {
                    client.namespace.clone()
                } else {
                    meta::namespace(o).to_string()
                };
                Ok((objects::kind_of(o)?, ns, meta::name(o).to_string()))
            })
            .collect::<Result<_>>()?
    };
    for (kind, ns, name) in what {
        if kind.subresource("scale").is_none() {
            let can: Vec<&str> = kinds::KINDS
                .iter()
                .filter(|k| k.subresource("scale").is_some())
                .map(|k| k.plural)
                .collect();
            return Err(CliError::new(
                "E_NOT_SCALABLE",
                format!("{} have no replicas", kind.plural),
            )
            .fix(format!("one of: {}", can.join(", "))));
        }
        let path = format!(
            "{}/scale?fieldManager=coracle",
            client::path(kind, Some(&ns), Some(&name))
        );
        let patch = json!({"spec": {"replicas": args.replicas}});
        client
            .call(
                Method::PATCH,
                &path,
                "application/merge-patch+json",
                patch.to_string().into_bytes(),
            )
            .await?;
        print::out(&format!("{} scaled\n", objects::word(kind, &name)));
    }
    Ok(())
}
