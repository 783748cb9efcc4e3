//! `coracle token`: who may join, and who may use the registry without a certificate.

use http::Method;
use serde_json::{Value, json};

use crate::args::{Output, Role, TokenArgs, TokenCommand, TokenDelete, TokenList};
use crate::client::{self, Client};
use crate::error::{CliError, Result};
use crate::members::recoded;
use crate::{misc, print};

/// Where the API has them.
const PATH: &str = "/coracle/v1/tokens";

/// `coracle token`.
pub async fn token(command: TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Create(args) => create(args).await,
        TokenCommand::List(args) => list(args).await,
        TokenCommand::Delete(args) => delete(args).await,
    }
}

async fn create(args: TokenArgs) -> Result<()> {
    let role = match args.role {
        Role::Runner => "runner",
        Role::Scheduler => "scheduler",
        Role::Pusher => "pusher",
        Role::Puller => "puller",
    };
    let mut body = json!({"role": role, "namespaces": args.namespace});
    if let Some(ttl) = &args.ttl {
        body["ttl_seconds"] = misc::seconds(ttl)?.into();
    }
    let client = Client::find(args.kubeconfig.as_deref(), None).await?;
    let body = body.to_string().into_bytes();
    let answer = client
        .call(Method::POST, PATH, "application/json", body)
        .await
        .map_err(recoded)?;
    let token = answer["token"]
        .as_str()
        .ok_or_else(|| CliError::new("E_ANSWER", "the server sent no token"))?;
    print::out(&format!("{token}\n"));
    Ok(())
}

async fn list(args: TokenList) -> Result<()> {
    let client = Client::find(args.target.kubeconfig.as_deref(), None).await?;
    let tokens = client.get(PATH).await.map_err(recoded)?["tokens"].take();
    match args.output {
        Some(form @ (Output::Json | Output::Yaml)) => print::object(&tokens, form),
        Some(Output::Name) => {
            for token in tokens.as_array().into_iter().flatten() {
                print::out(&format!("token/{}\n", text(&token["id"])));
            }
        }
        Some(Output::Wide) | None => print::out(&table(&tokens)),
    }
    Ok(())
}

async fn delete(args: TokenDelete) -> Result<()> {
    let client = Client::find(args.target.kubeconfig.as_deref(), None).await?;
    for id in &args.id {
        let path = format!("{PATH}/{}", client::query(id));
        client
            .call(Method::DELETE, &path, "application/json", Vec::new())
            .await
            .map_err(recoded)?;
        print::out(&format!("token/{id} deleted\n"));
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn table(tokens: &Value) -> String {
    let head = ["ID", "ROLE", "NAMESPACES", "CREATED", "EXPIRES"];
    let mut rows = vec![head.map(str::to_string).to_vec()];
    for token in tokens.as_array().into_iter().flatten() {
        let role = text(&token["role"]);
        let names = token["namespaces"].as_array().into_iter().flatten();
        let names: Vec<&str> = names.filter_map(Value::as_str).collect();
        let namespaces = match role {
            "pusher" | "puller" if names.is_empty() => "all".into(),
            _ => names.join(","),
        };
        rows.push(vec![
            text(&token["id"]).into(),
            role.into(),
            namespaces,
            text(&token["created"]).into(),
            text(&token["expires"]).into(),
        ]);
    }
    print::align(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_each_token_is_for() {
        let tokens = json!([
            {"id": "01", "role": "runner", "namespaces": [], "created": "t1", "expires": "t2"},
            {"id": "02", "role": "pusher", "namespaces": ["a", "b"], "created": "t1", "expires": "t2"},
            {"id": "03", "role": "puller", "namespaces": [], "created": "t1", "expires": "t2"},
        ]);
        assert_eq!(
            table(&tokens),
            "ID   ROLE     NAMESPACES   CREATED   EXPIRES\n\
             01   runner                t1        t2\n\
             02   pusher   a,b          t1        t2\n\
             03   puller   all          t1        t2\n"
        );
    }
}
