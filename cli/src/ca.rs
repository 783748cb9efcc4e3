//! `coracle ca`: the cluster's certificate authority, and its rotation.

use clap::{Args, Subcommand};
use coracle_api::Timestamp;
use http::Method;
use serde_json::{Value, json};

use crate::args::{Output, Target};
use crate::client::Client;
use crate::error::Result;
use crate::members::recoded;
use crate::print;

/// Digits of a root's hash in a table; all of them with `-o json`.
const HASH_DIGITS: usize = 16;

/// `coracle ca`.
#[derive(Subcommand, Clone, Debug)]
pub enum CaCommand {
    /// Show the roots, the rotation under way, and who holds which certificate.
    Show(ShowArgs),
    /// Replace the root: a new one is spread, then issues, then is alone. Nothing restarts.
    ///
    /// Members and runners follow by themselves; those that do not run hold the rotation up. Copies of the kubeconfig
    /// elsewhere end with the old root: fetch them again.
    Rotate(RotateArgs),
}

/// `coracle ca show`.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle ca rotate`.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// Go on to the next step without the runners that are still missing; they have to join again.
    #[arg(long)]
    pub finish: bool,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// Runs a command.
pub async fn ca(command: CaCommand) -> Result<()> {
    let (output, status) = match command {
        CaCommand::Show(args) => {
            let client = Client::find(args.target.kubeconfig.as_deref(), None).await?;
            let status = client.get("/coracle/v1/ca/status").await;
            (args.output, status.map_err(recoded)?)
        }
        CaCommand::Rotate(args) => {
            let client = Client::find(args.target.kubeconfig.as_deref(), None).await?;
            let body = json!({"finish": args.finish}).to_string().into_bytes();
            let status = client
                .call(
                    Method::POST,
                    "/coracle/v1/ca/rotate",
                    "application/json",
                    body,
                )
                .await;
            (args.output, status.map_err(recoded)?)
        }
    };
    match output {
        Some(form @ (Output::Json | Output::Yaml)) => print::object(&status, form),
        _ => print::out(&table(&status, Timestamp::now())),
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn short(hash: &Value) -> String {
    text(hash).chars().take(HASH_DIGITS).collect()
}

/// What a person wants to know.
fn table(status: &Value, now: Timestamp) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut out = format!("cluster {}\n\n", text(&status["cluster"]));
    let mut rows = vec![["ROOT", "ROLE", "EXPIRES"].map(String::from).to_vec()];
    rows.extend(list(&status["roots"]).iter().map(|r| {
        let role = match r["issuing"].as_bool() {
            Some(true) => "issues",
            _ => "trusted",
        };
        vec![short(&r["sha256"]), role.into(), text(&r["expires"]).into()]
    }));
    out.push_str(&print::align(&rows));
    let rotation = &status["rotation"];
    if rotation.is_object() {
        let what = match text(&rotation["phase"]) {
            "spreading" => "the new root is being spread",
            "renewing" => "everyone renews under the new root",
            other => other,
        };
        out.push_str(&format!(
            "\nrotation: {what}, since {}\n",
            text(&rotation["since"])
        ));
        for h in list(&rotation["waitingFor"]) {
            out.push_str(&format!(
                "  waits for {} {}\n",
                text(&h["kind"]),
                text(&h["name"])
            ));
        }
    }
    let holders = list(&status["certificates"]);
    if !holders.is_empty() {
        let mut rows = vec![
            ["HOLDER", "NAME", "ROOT", "EXPIRES"]
                .map(String::from)
                .to_vec(),
        ];
        rows.extend(holders.iter().map(|h| {
            let expired = text(&h["expires"])
                .parse::<Timestamp>()
                .is_ok_and(|end| end <= now);
            let end = format!(
                "{}{}",
                text(&h["expires"]),
                if expired { " (over)" } else { "" }
            );
            vec![
                text(&h["kind"]).into(),
                text(&h["name"]).into(),
                short(&h["issuer"]),
                end,
            ]
        }));
        out.push('\n');
        out.push_str(&print::align(&rows));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_says_whom_it_waits_for() {
        let status = json!({
            "cluster": "c1",
            "roots": [
                {"sha256": "aa".repeat(32), "issuing": true, "expires": "2036-01-01T00:00:00Z"},
                {"sha256": "bb".repeat(32), "issuing": false, "expires": "2030-01-01T00:00:00Z"},
            ],
            "rotation": {"phase": "renewing", "since": "2026-01-01T00:00:00Z", "waitingFor": [{"kind": "node", "name": "n1"}]},
            "certificates": [{"kind": "node", "name": "n1", "issuer": "bb".repeat(32), "expires": "2026-01-02T00:00:00Z"}],
        });
        let now = "2026-01-03T00:00:00Z".parse().unwrap();
        let text = table(&status, now);
        for part in [
            "cluster c1",
            "everyone renews",
            "waits for node n1",
            "(over)",
            "issues",
            &"a".repeat(HASH_DIGITS),
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains(&"a".repeat(HASH_DIGITS + 1)), "{text}");
    }
}
