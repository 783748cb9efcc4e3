//! The API as client commands use it: find the cluster, send a request, get JSON or a coded error.

use std::path::{Path, PathBuf};

use coracle_api::{ApiError, Kind};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use crate::error::{CliError, Result};

/// A connection to one cluster.
#[derive(Clone)]
pub struct Client {
    kube: kube::Client,
    /// Namespace of commands that name none.
    pub namespace: String,
    /// Where the API is, as a URL.
    pub server: String,
}

/// Where the kubeconfig is, by DESIGN section 7, "Finding the cluster".
async fn kubeconfig_path(flag: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = flag {
        return Ok(path.to_path_buf());
    }
    if let Some(path) = std::env::var_os("KUBECONFIG").filter(|p| !p.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let local = Path::new("./.coracle/kubeconfig");
    if local.exists() {
        return Ok(local.to_path_buf());
    }
    let no_cluster = || {
        CliError::new(
            "E_NO_CLUSTER",
            "no cluster found: there is no ./.coracle/kubeconfig and no $KUBECONFIG",
        )
        .fix("start one with `coracle up`, or name one with --kubeconfig FILE")
    };
    let home = std::env::var_os("HOME")
        .map(|h| PathBuf::from(h).join(".kube/config"))
        .filter(|p| p.exists())
        .ok_or_else(no_cluster)?;
    // Somebody's Kubernetes is never driven by accident: only a server that says it is Coracle counts.
    let client = Client::from_file(&home).await?;
    let version = client.get("/version").await.map_err(|_| no_cluster())?;
    if version["gitVersion"]
        .as_str()
        .is_some_and(|v| v.contains("coracle"))
    {
        Ok(home)
    } else {
        Err(no_cluster())
    }
}

impl Client {
    /// Connects by the flags of a command.
    pub async fn find(kubeconfig: Option<&Path>, namespace: Option<&str>) -> Result<Self> {
        let path = kubeconfig_path(kubeconfig).await?;
        let mut client = Self::from_file(&path).await?;
        if let Some(ns) = namespace {
            client.namespace = ns.to_string();
        }
        Ok(client)
    }

    async fn from_file(path: &Path) -> Result<Self> {
        let bad = |e: &dyn std::fmt::Display| {
            CliError::new("E_KUBECONFIG", format!("{}: {e}", path.display()))
                .fix("name a kubeconfig that `coracle up` wrote with --kubeconfig FILE")
        };
        let file = Kubeconfig::read_from(path).map_err(|e| bad(&e))?;
        let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(|e| bad(&e))?;
        // Watches and followed logs are silent for as long as nothing happens.
        config.read_timeout = None;
        let namespace = config.default_namespace.clone();
        let server = config.cluster_url.to_string();
        Ok(Self {
            server,
            kube: kube::Client::try_from(config).map_err(|e| bad(&e))?,
            namespace,
        })
    }

    /// Sends a request and hands back the response whatever its status.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>> {
        self.kube.send(request).await.map_err(|e| {
            let mut text = e.to_string();
            let mut source = std::error::Error::source(&e);
            while let Some(s) = source {
                let more = s.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                source = s.source();
            }
            CliError::new(
                "E_UNREACHABLE",
                format!("the cluster does not answer: {text}"),
            )
            .fix("is it running? `coracle up` starts one; --kubeconfig names another")
        })
    }

    /// Sends a request; a status that is no success becomes a coded error.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .header("accept", "application/json")
            .body(Body::from(body))
            .map_err(|e| CliError::new("E_REQUEST", format!("{path}: {e}")))?;
        let response = self.send(request).await?;
        let status = response.status();
        for warning in response.headers().get_all("warning") {
            if let Ok(text) = warning.to_str() {
                eprintln!(
                    "Warning: {}",
                    text.trim_start_matches("299 - ").trim_matches('"')
                );
            }
        }
        let bytes = collect(response).await?;
        if status.is_success() {
            return Ok(if bytes.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(&bytes).unwrap_or(Value::Null)
            });
        }
        Err(from_status(status, &bytes))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, "application/json", Vec::new())
            .await
    }

    /// GET that answers `None` for 404.
    pub async fn find_object(&self, path: &str) -> Result<Option<Value>> {
        match self.get(path).await {
            Ok(v) => Ok(Some(v)),
            Err(e) if e.code == "NotFound" => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// GET with the server's table columns.
    pub async fn get_table(&self, path: &str) -> Result<Value> {
        let request = Request::get(path)
            .header(
                "accept",
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            )
            .body(Body::from(Vec::new()))
            .map_err(|e| CliError::new("E_REQUEST", format!("{path}: {e}")))?;
        let response = self.send(request).await?;
        let status = response.status();
        let bytes = collect(response).await?;
        if status.is_success() {
            serde_json::from_slice(&bytes).map_err(|e| CliError::new("E_ANSWER", e.to_string()))
        } else {
            Err(from_status(status, &bytes))
        }
    }

    /// GET whose body is read as it comes.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<Response<Body>> {
        let request = Request::get(path)
            .header("accept", accept)
            .body(Body::from(Vec::new()))
            .map_err(|e| CliError::new("E_REQUEST", format!("{path}: {e}")))?;
        let response = self.send(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = collect(response).await?;
        Err(from_status(status, &bytes))
    }
}

/// Reads a whole body.
pub async fn collect(response: Response<Body>) -> Result<Vec<u8>> {
    let body = response.into_body().collect().await;
    body.map(|b| b.to_bytes().to_vec())
        .map_err(|e| CliError::new("E_UNREACHABLE", format!("the connection broke: {e}")))
}

fn from_status(status: StatusCode, bytes: &[u8]) -> CliError {
    let v: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let message = v["message"]
        .as_str()
        .map(str::to_string)
        .unwrap_or_else(|| {
            let text = String::from_utf8_lossy(bytes);
            if text.trim().is_empty() {
                format!("the server answered {status}")
            } else {
                text.trim().to_string()
            }
        });
    let reason = v["reason"]
        .as_str()
        .map_or_else(|| format!("HTTP{}", status.as_u16()), str::to_string);
    CliError::new(reason, message)
}

/// Path of a kind's collection or, with a name, of one object.
pub fn path(kind: &Kind, namespace: Option<&str>, name: Option<&str>) -> String {
    let mut p = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    if let (true, Some(ns)) = (kind.namespaced(), namespace) {
        p.push_str("/namespaces/");
        p.push_str(ns);
    }
    p.push('/');
    p.push_str(kind.plural);
    if let Some(name) = name {
        p.push('/');
        p.push_str(name);
    }
    p
}

/// Percent-encodes a query value.
pub fn query(value: &str) -> String {
    value
        .bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
                (b as char).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// The kind a user names, or an error that lists what there is.
pub fn kind(word: &str) -> Result<&'static Kind> {
    coracle_api::kinds::by_word(word).ok_or_else(|| {
        let all: Vec<&str> = coracle_api::kinds::KINDS
            .iter()
            .filter(|k| k.stored)
            .map(|k| k.plural)
            .collect();
        CliError::new(
            "E_KIND",
            format!("the server doesn't have a resource type {word:?}"),
        )
        .fix(format!("one of: {}", all.join(", ")))
    })
}

impl From<ApiError> for CliError {
    fn from(e: ApiError) -> Self {
        CliError::new(e.reason, e.message)
    }
}
