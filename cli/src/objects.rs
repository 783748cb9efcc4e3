//! Naming objects on the command line and reading them from files.

use std::io::Read;
use std::path::{Path, PathBuf};

use coracle_api::{Kind, doc, kinds, meta};
use serde_json::Value;

use crate::client::{self, Client};
use crate::error::{self, CliError, Result};

/// What a user named: a kind, with or without an object.
#[derive(Clone, Debug)]
pub struct Named {
    /// Kind.
    pub kind: &'static Kind,
    /// Object name.
    pub name: Option<String>,
}

/// Reads `pods`, `deploy,svc`, `all`, `pod/a svc/b`, `pod a b`.
pub fn named(words: &[String]) -> Result<Vec<Named>> {
    let Some(first) = words.first() else {
        return Err(
            CliError::new("E_USAGE", "name what you mean").fix("KIND, KIND NAME or KIND/NAME")
        );
    };
    if words.iter().any(|w| w.contains('/')) {
        return words
            .iter()
            .map(|w| match w.split_once('/') {
                Some((k, n)) if !n.is_empty() => Ok(Named {
                    kind: client::kind(k)?,
                    name: Some(n.to_string()),
                }),
                _ => Err(CliError::new("E_USAGE", format!("{w:?} is not KIND/NAME"))
                    .fix("write either `KIND NAME…` or `KIND/NAME…`")),
            })
            .collect();
    }
    let list: Vec<&'static Kind> = if first == "all" {
        kinds::KINDS
            .iter()
            .filter(|k| k.categories.contains(&"all"))
            .collect()
    } else {
        first.split(',').map(client::kind).collect::<Result<_>>()?
    };
    if words.len() == 1 {
        return Ok(list
            .into_iter()
            .map(|kind| Named { kind, name: None })
            .collect());
    }
    Ok(list
        .iter()
        .flat_map(|kind| {
            words[1..].iter().map(|n| Named {
                kind,
                name: Some(n.clone()),
            })
        })
        .collect())
}

/// Objects of files, folders (`*.yaml`, `*.yml`, `*.json`, sorted) and `-`.
pub fn from_files(paths: &[PathBuf]) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|e| error::file(path, &e))?;
            all.extend(parse(path, &text)?);
        } else if path.is_dir() {
            let mut files: Vec<PathBuf> = std::fs::read_dir(path)
                .map_err(|e| error::file(path, &e))?
                .filter_map(|e| Some(e.ok()?.path()))
                .collect();
            files.retain(|f| {
                f.extension()
                    .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
            });
            files.sort();
            for f in files {
                all.extend(read(&f)?);
            }
        } else {
            all.extend(read(path)?);
        }
    }
    if all.is_empty() {
        return Err(
            CliError::new("E_NO_OBJECTS", "no objects found in the given files")
                .fix("check the path; files end in .yaml, .yml or .json"),
        );
    }
    Ok(all)
}

/// Objects of one file.
pub fn read(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).map_err(|e| error::file(path, &e))?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Value>> {
    doc::read(text).map_err(|e| {
        CliError::new("E_MANIFEST", format!("{}: {e}", path.display()))
            .fix("mend the YAML or JSON at that place")
    })
}

/// The kind of an object read from a file.
pub fn kind_of(object: &Value) -> Result<&'static Kind> {
    let (version, kind) = (
        object["apiVersion"].as_str().unwrap_or_default(),
        object["kind"].as_str().unwrap_or_default(),
    );
    kinds::by_type(version, kind).ok_or_else(|| {
        CliError::new("E_KIND", format!("no kind {kind:?} in version {version:?}"))
            .fix("check apiVersion and kind; `kubectl api-resources` lists what the server has")
    })
}

/// `pod/web`, `deployment.apps/web`.
pub fn word(kind: &Kind, name: &str) -> String {
    if kind.group.is_empty() {
        format!("{}/{name}", kind.singular)
    } else {
        format!("{}.{}/{name}", kind.singular, kind.group)
    }
}

/// What server-side apply did to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is new.
    Created,
    /// It changed.
    Configured,
    /// Nothing changed.
    Unchanged,
}

/// Applies one object; answers what happened and the stored object.
pub async fn apply(
    client: &Client,
    object: &Value,
    dry_run: bool,
    force: bool,
) -> Result<(Done, Value)> {
    let kind = kind_of(object)?;
    let name = meta::name(object);
    if name.is_empty() {
        return Err(CliError::new(
            "E_NO_NAME",
            format!("a {} without metadata.name cannot be applied", kind.kind),
        )
        .fix("give it a name"));
    }
    if matches!(name, "." | "..") || name.contains(['/', '%']) {
        let message = format!("metadata.name: {name:?} cannot be the name of an object");
        return Err(
            CliError::new("E_NAME", message).fix("use lower-case letters, digits, '-' and '.'")
        );
    }
    let ns = match meta::namespace(object) {
        "" => client.namespace.as_str(),
        ns => ns,
    };
    let path = client::path(kind, Some(ns), Some(name));
    let before = client.find_object(&path).await?;
    let url = format!(
        "{path}?fieldManager=coracle&fieldValidation=Strict&force={force}{}",
        if dry_run { "&dryRun=All" } else { "" }
    );
    let body =
        serde_json::to_vec(object).map_err(|e| CliError::new("E_MANIFEST", e.to_string()))?;
    let after = client
        .call(
            http::Method::PATCH,
            &url,
            "application/apply-patch+yaml",
            body,
        )
        .await?;
    let done = match &before {
        None => Done::Created,
        Some(b) if b["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"] => {
            Done::Unchanged
        }
        Some(_) => Done::Configured,
    };
    Ok((done, after))
}
