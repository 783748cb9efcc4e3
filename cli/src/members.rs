//! `coracle members`: who the control plane is, and changes of it.

use http::Method;
use serde_json::{Value, json};

use crate::args::{
    MemberChange, MemberTransfer, MembersArgs, MembersCommand, MembersList, Output, Target,
};
use crate::client::{self, Client};
use crate::error::{CliError, Result};
use crate::print;

/// Where the API has them.
const PATH: &str = "/coracle/v1/members";

/// `coracle members`.
pub async fn members(args: MembersArgs) -> Result<()> {
    match args.command {
        None => list(args.list).await,
        Some(MembersCommand::List(args)) => list(args).await,
        Some(MembersCommand::Remove(args)) => remove(args).await,
        Some(MembersCommand::Promote(args)) => promote(args).await,
        Some(MembersCommand::Transfer(args)) => transfer(args).await,
    }
}

async fn find(target: &Target) -> Result<Client> {
    Client::find(target.kubeconfig.as_deref(), None).await
}

async fn ask(client: &Client, method: Method, path: &str, body: &Value) -> Result<Value> {
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    client
        .call(method, path, "application/json", bytes)
        .await
        .map_err(recoded)
}

/// The refusals of these endpoints begin with a code; it is theirs that is shown.
pub fn recoded(e: CliError) -> CliError {
    match e.message.split_once(": ") {
        Some((code, rest)) if code.starts_with("E_") && !code.contains(' ') => {
            let (what, fix) = match rest.split_once("; ") {
                Some((what, fix)) => (what, Some(fix)),
                None => (rest, None),
            };
            let error = CliError::new(code, what);
            match fix {
                Some(fix) => error.fix(fix),
                None => error,
            }
        }
        _ => e,
    }
}

async fn list(args: MembersList) -> Result<()> {
    let client = find(&args.target).await?;
    let answer = ask(&client, Method::GET, PATH, &Value::Null).await?;
    show(&answer["members"], args.output);
    Ok(())
}

async fn remove(args: MemberChange) -> Result<()> {
    let client = find(&args.target).await?;
    let path = format!("{PATH}/{}", client::query(&args.member));
    let answer = ask(
        &client,
        Method::DELETE,
        &path,
        &json!({"force": args.force}),
    )
    .await?;
    done(&answer, "removed", args.output);
    Ok(())
}

async fn promote(args: MemberChange) -> Result<()> {
    let client = find(&args.target).await?;
    let path = format!("{PATH}/{}/promote", client::query(&args.member));
    let answer = ask(&client, Method::POST, &path, &json!({"force": args.force})).await?;
    done(&answer, "promoted", args.output);
    Ok(())
}

async fn transfer(args: MemberTransfer) -> Result<()> {
    let client = find(&args.target).await?;
    let body = json!({"to": args.member});
    let answer = ask(&client, Method::POST, &format!("{PATH}/transfer"), &body).await?;
    let leader = answer["members"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|m| m["leader"] == true);
    match (args.output, leader) {
        (Some(form), _) => show(&answer["members"], Some(form)),
        (None, Some(m)) => print::out(&format!(
            "member {} ({}) leads\n",
            text(&m["name"]),
            text(&m["id"])
        )),
        (None, None) => print::out("leadership was handed over; an election is under way\n"),
    }
    Ok(())
}

/// Says what was done to which member, and what the operator should know now.
fn done(answer: &Value, what: &str, output: Option<Output>) {
    let member = &answer[what];
    match output {
        Some(form) => show(&json!([member]), Some(form)),
        None if answer["already"] == true => {
            print::out(&format!(
                "member {} is a voter already\n",
                text(&member["name"])
            ));
        }
        None => print::out(&format!(
            "member {} ({}) {what}\n",
            text(&member["name"]),
            text(&member["id"])
        )),
    }
    if let Some(warning) = answer["warning"].as_str() {
        eprintln!("Warning: {warning}");
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The fields that scripts may count on.
fn plain(members: &Value) -> Value {
    let rows = members.as_array().into_iter().flatten().map(|m| {
        json!({
            "name": m["name"], "id": m["id"], "voter": m["voter"], "leader": m["leader"],
            "api": m["api"], "raft": m["raft"], "applied": m["applied"],
        })
    });
    Value::Array(rows.collect())
}

fn show(members: &Value, output: Option<Output>) {
    match output {
        Some(form @ (Output::Json | Output::Yaml)) => print::object(&plain(members), form),
        Some(Output::Name) => {
            for m in members.as_array().into_iter().flatten() {
                print::out(&format!("member/{}\n", text(&m["name"])));
            }
        }
        Some(Output::Wide) | None => print::out(&table(members)),
    }
}

/// Longer without an answer is shown: heartbeats come ten times a second, pulses each second.
const SILENT_SHOWN_MS: u64 = 3_000;

fn table(members: &Value) -> String {
    let head = ["NAME", "ID", "ROLE", "LEADER", "API", "RAFT", "APPLIED"];
    let mut rows = vec![head.map(str::to_string).to_vec()];
    for m in members.as_array().into_iter().flatten() {
        let mut applied = m["applied"]
            .as_u64()
            .map_or_else(|| "<unknown>".into(), |n| n.to_string());
        if let Some(ms) = m["silentMs"].as_u64().filter(|ms| *ms >= SILENT_SHOWN_MS) {
            applied.push_str(&format!(" (silent for {} s)", ms / 1_000));
        }
        rows.push(vec![
            text(&m["name"]).into(),
            text(&m["id"]).into(),
            if m["voter"] == true {
                "voter"
            } else {
                "learner"
            }
            .into(),
            if m["leader"] == true { "yes" } else { "" }.into(),
            text(&m["api"]).into(),
            text(&m["raft"]).into(),
            applied,
        ]);
    }
    print::align(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_who_votes_leads_and_is_silent() {
        let members = json!([
            {"name": "a", "id": "0000000000000001", "voter": true, "leader": true, "api": "https://a:1", "raft": "a:2", "applied": 7, "silentMs": 0},
            {"name": "bb", "id": "0000000000000002", "voter": false, "leader": false, "api": "https://b:1", "raft": "b:2", "applied": null, "silentMs": 61_000},
        ]);
        assert_eq!(
            table(&members),
            "NAME   ID                 ROLE      LEADER   API           RAFT   APPLIED\n\
             a      0000000000000001   voter     yes      https://a:1   a:2    7\n\
             bb     0000000000000002   learner            https://b:1   b:2    <unknown> (silent for 61 s)\n"
        );
        let plain = plain(&members);
        assert_eq!(plain[0].as_object().unwrap().len(), 7);
        assert_eq!(plain[1]["applied"], Value::Null);
    }

    #[test]
    fn a_refusals_own_code_is_shown() {
        let e = recoded(CliError::new(
            "Conflict",
            "E_MEMBER_LAST: the last voter cannot be removed; stop the cluster instead",
        ));
        assert_eq!(
            (e.code.as_str(), e.message.as_str(), e.fix.as_deref()),
            (
                "E_MEMBER_LAST",
                "the last voter cannot be removed",
                Some("stop the cluster instead")
            )
        );
        let e = recoded(CliError::new("Forbidden", "forbidden: User \"x\""));
        assert_eq!(e.code, "Forbidden");
    }
}
