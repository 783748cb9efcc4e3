//! `coracle registry`: what it holds, and looking after it.

pub mod args;
mod show;

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::args::{Output, Target};
use crate::client::{self, Client};
use crate::error::{CliError, Result};
use crate::members::recoded;
use crate::misc;
use crate::print;
use args::{
    GcArgs, QuotaCommand, QuotaSetArgs, RegistryCommand, RetentionCommand, RetentionSetArgs,
    ScrubArgs, UsageArgs,
};

/// Where the API has all this.
const PATH: &str = "/coracle/v1/registry";

/// Between two looks at a scrub that runs.
const LOOK: Duration = Duration::from_millis(500);

/// `coracle registry`.
pub async fn registry(command: RegistryCommand) -> Result<()> {
    match command {
        RegistryCommand::Usage(args) => usage(args).await,
        RegistryCommand::Gc(args) => gc(args).await,
        RegistryCommand::Scrub(args) => scrub(args).await,
        RegistryCommand::Quota(QuotaCommand::Get(args)) => {
            let answer = ask(&args.target, Method::GET, "quotas", &Value::Null).await?;
            put_out(&answer["quotas"], args.output, show::quotas);
            Ok(())
        }
        RegistryCommand::Quota(QuotaCommand::Set(args)) => quota(args).await,
        RegistryCommand::Retention(RetentionCommand::Get(args)) => {
            let answer = ask(&args.target, Method::GET, "retention", &Value::Null).await?;
            put_out(&answer["policies"], args.output, show::policies);
            Ok(())
        }
        RegistryCommand::Retention(RetentionCommand::Set(args)) => retention(*args).await,
        RegistryCommand::Retention(RetentionCommand::Remove(args)) => {
            let path = format!("retention/{}", client::query(&args.name));
            ask(&args.target, Method::DELETE, &path, &Value::Null).await?;
            print::out(&format!("retention policy {} removed\n", args.name));
            Ok(())
        }
    }
}

async fn ask(target: &Target, method: Method, path: &str, body: &Value) -> Result<Value> {
    let client = Client::find(target.kubeconfig.as_deref(), None).await?;
    send(&client, method, path, body).await
}

async fn send(client: &Client, method: Method, path: &str, body: &Value) -> Result<Value> {
    let bytes = match body {
        Value::Null => Vec::new(),
        _ => body.to_string().into_bytes(),
    };
    let path = format!("{PATH}/{path}");
    let sent = client.call(method, &path, "application/json", bytes);
    sent.await.map_err(recoded)
}

fn put_out(value: &Value, output: Option<Output>, table: impl Fn(&Value) -> String) {
    match output {
        Some(form @ (Output::Json | Output::Yaml)) => print::object(value, form),
        _ => print::out(&table(value)),
    }
}

/// `10Gi` or `500M` in bytes.
fn size(field: &str, text: &str) -> Result<u64> {
    coracle_api::quantity::units(text).map_err(|e| {
        CliError::new("E_SIZE", format!("{field}: {e}")).fix("write bytes, such as 10Gi or 500M")
    })
}

async fn usage(args: UsageArgs) -> Result<()> {
    let mut answer = ask(&args.target, Method::GET, "usage", &Value::Null).await?;
    if let Some(namespace) = &args.target.namespace {
        let below = format!("{namespace}/");
        let is_in = |name: &str| name == namespace || name.starts_with(&below);
        for (list, field) in [("namespaces", "namespace"), ("repositories", "repository")] {
            if let Some(rows) = answer[list].as_array_mut() {
                rows.retain(|row| row[field].as_str().is_some_and(is_in));
            }
        }
    }
    put_out(&answer, args.output, show::usage);
    Ok(())
}

/// What members could not do, as an error.
fn failed(answer: &Value, what: &str) -> Result<()> {
    let of_status = |m: &Value| m["status"]["error"].as_str().map(str::to_owned);
    let failures: Vec<String> = show::rows(&answer["members"])
        .filter_map(|m| {
            let error = m["error"].as_str().map(str::to_owned);
            let error = error.or_else(|| of_status(m))?;
            Some(format!("{}: {error}", show::text(&m["member"])))
        })
        .collect();
    match failures.is_empty() {
        true => Ok(()),
        false => Err(CliError::new(
            "E_REGISTRY_MEMBERS",
            format!("not every member {what}: {}", failures.join("; ")),
        )
        .fix("see `coracle members`, then run this again")),
    }
}

async fn gc(args: GcArgs) -> Result<()> {
    let body = json!({"dryRun": args.dry_run});
    let answer = ask(&args.target, Method::POST, "gc", &body).await?;
    put_out(&answer, args.output, |answer| {
        show::gc(answer, args.dry_run)
    });
    failed(&answer, "collected")
}

async fn scrub(args: ScrubArgs) -> Result<()> {
    let rate = args.rate.as_deref().map(|text| size("rate", text));
    let client = Client::find(args.target.kubeconfig.as_deref(), None).await?;
    let body = match rate.transpose()? {
        Some(rate) => json!({"bytesPerSecond": rate}),
        None => json!({}),
    };
    let mut answer = send(&client, Method::POST, "scrub", &body).await?;
    while show::rows(&answer["members"]).any(|m| m["status"]["running"] == true) {
        tokio::time::sleep(LOOK).await;
        answer = send(&client, Method::GET, "scrub", &Value::Null).await?;
    }
    put_out(&answer, args.output, show::scrub);
    failed(&answer, "was scrubbed")?;
    match show::lost(&answer) {
        0 => Ok(()),
        lost => Err(CliError::new(
            "E_REGISTRY_LOST",
            format!("{lost} blobs have no good copy on any member"),
        )
        .fix("push the images that need them again, to any of the repositories named")),
    }
}

async fn quota(args: QuotaSetArgs) -> Result<()> {
    let path = format!("quotas/{}", client::query(&args.of));
    if args.size == "none" {
        ask(&args.target, Method::DELETE, &path, &Value::Null).await?;
        print::out(&format!("namespace {} has no quota\n", args.of));
        return Ok(());
    }
    let bytes = size("SIZE", &args.size)?;
    ask(&args.target, Method::PUT, &path, &json!({"bytes": bytes})).await?;
    let shown = show::bytes(&json!(bytes));
    print::out(&format!("namespace {} may hold {shown}\n", args.of));
    Ok(())
}

/// A policy as the API takes it.
fn policy(args: &RetentionSetArgs) -> Result<Value> {
    let seconds = |text: &Option<String>| text.as_deref().map(misc::seconds).transpose();
    let mut policy = json!({
        "repositories": args.repositories, "tags": args.tags, "keep": args.keep,
        "newest": args.newest,
    });
    policy["olderThanSeconds"] = json!(seconds(&args.older_than)?);
    policy["untaggedOlderThanSeconds"] = json!(seconds(&args.untagged_older_than)?);
    Ok(policy)
}

async fn retention(args: RetentionSetArgs) -> Result<()> {
    let path = format!("retention/{}", client::query(&args.name));
    ask(&args.target, Method::PUT, &path, &policy(&args)?).await?;
    print::out(&format!(
        "retention policy {} set; `coracle registry gc --dry-run` shows what it lets go\n",
        args.name
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_failed_are_named() {
        let fine =
            json!({"members": [{"member": "a", "report": {}}, {"member": "b", "status": {}}]});
        assert!(failed(&fine, "collected").is_ok());
        let bad = json!({"members": [
            {"member": "a", "error": "no connection"}, {"member": "b", "status": {"error": "disk"}},
        ]});
        let error = failed(&bad, "collected").unwrap_err();
        assert_eq!(
            error.message,
            "not every member collected: a: no connection; b: disk"
        );
    }

    #[test]
    fn sizes_are_quantities() {
        assert_eq!(size("SIZE", "10Gi").unwrap(), 10 << 30);
        assert_eq!(size("SIZE", "1500").unwrap(), 1_500);
        let error = size("SIZE", "much").unwrap_err();
        assert_eq!(error.code, "E_SIZE");
        assert!(error.message.starts_with("SIZE: "), "{error}");
    }
}
