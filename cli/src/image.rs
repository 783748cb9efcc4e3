//! `push` and `pull`: components as OCI artifacts, in the cluster's own registry or another one.

use std::path::Path;

use coracle_engine::{Inspected, inspect};
use coracle_registry::digest::Digest;
use coracle_registry::manifest::OCI_MANIFEST;
use coracle_registry::wasm;
use http::{Method, Request, StatusCode};
use kube::client::Body;
use serde_json::Value;

use crate::args::{PullArgs, PushArgs};
use crate::client::{Client, collect};
use crate::error::{self, CliError, Result};
use crate::print;

/// Indexes inside indexes that are followed.
const INDEX_DEPTH_MAX: usize = 3;

/// An image name taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Another registry, `None` for the cluster's own.
    pub host: Option<String>,
    /// Repository.
    pub name: String,
    /// Tag, `latest` if none was given.
    pub tag: String,
    /// Digest, if one was given.
    pub digest: Option<String>,
}

impl Image {
    /// Parses `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`. A first segment with a dot, a colon or `localhost` is a host;
    /// `localhost:5000` and `127.0.0.1:5000` mean the cluster's own registry (DESIGN section 5).
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            CliError::new("E_IMAGE_NAME", format!("{text:?} is no image name: {why}"))
                .fix("write NAME[:TAG], lower-case, e.g. web:v1 or team/web:v1")
        };
        let (rest, digest) = match text.split_once('@') {
            Some((r, d)) => (r, Some(d.to_string())),
            None => (text, None),
        };
        let (host, path) = match rest.split_once('/') {
            Some((h, p))
                if !h.starts_with('.')
                    && (h.contains('.') || h.contains(':') || h == "localhost") =>
            {
                (Some(h.to_string()), p)
            }
            _ => (None, rest),
        };
        let host = host.filter(|h| !matches!(h.as_str(), "localhost:5000" | "127.0.0.1:5000"));
        let (name, tag) = match path.rsplit_once(':') {
            Some((n, t)) => (n, t),
            None => (path, "latest"),
        };
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
        if name.is_empty()
            || !name.chars().all(good)
            || name.split('/').any(|s| {
                s.is_empty() || s.starts_with(['.', '-', '_']) || s.ends_with(['.', '-', '_'])
            })
        {
            return Err(bad(
                "the repository must be lower-case letters, digits and single separators",
            ));
        }
        if tag.is_empty()
            || tag.len() > 128
            || !tag
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            || tag.starts_with(['.', '-'])
        {
            return Err(bad(
                "the tag must be 1 to 128 letters, digits, dots, dashes or underscores",
            ));
        }
        if digest
            .as_deref()
            .is_some_and(|d| !d.starts_with("sha256:") && !d.starts_with("sha512:"))
        {
            return Err(bad("the digest must begin with sha256: or sha512:"));
        }
        Ok(Self {
            host,
            name: name.into(),
            tag: tag.into(),
            digest,
        })
    }

    fn reference(&self) -> &str {
        self.digest.as_deref().unwrap_or(&self.tag)
    }
}

/// A component read from disk and judged.
pub struct Component {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What it is and needs.
    pub inspected: Inspected,
    /// Its file name.
    pub title: String,
}

/// Reads and checks a .wasm file.
pub fn read_component(path: &Path) -> Result<Component> {
    let bytes = std::fs::read(path).map_err(|e| error::file(path, &e))?;
    let inspected = inspect(&bytes, &Default::default()).map_err(|e| {
        CliError::new(e.code(), format!("{}: {}", path.display(), e.message()))
            .fix(e.fix().to_string())
    })?;
    let title = path.file_name().map_or_else(
        || "component.wasm".into(),
        |n| n.to_string_lossy().into_owned(),
    );
    Ok(Component {
        bytes,
        inspected,
        title,
    })
}

/// Pushes a component to the cluster's registry; answers the manifest's digest.
pub async fn push_component(
    client: &Client,
    component: &Component,
    image: &Image,
) -> Result<String> {
    let artifact = artifact(component);
    for (digest, bytes) in [
        (&artifact.layer_digest, &component.bytes[..]),
        (&artifact.config_digest, &artifact.config[..]),
    ] {
        push_blob(client, &image.name, &digest.to_string(), bytes).await?;
    }
    let path = format!("/v2/{}/manifests/{}", image.name, image.tag);
    let request = Request::put(&path)
        .header("content-type", OCI_MANIFEST)
        .body(Body::from(artifact.manifest.to_vec()));
    let (status, bytes, _) = send(client, request).await?;
    if status == StatusCode::CREATED {
        Ok(artifact.manifest_digest.to_string())
    } else {
        Err(refused(&path, status, &bytes))
    }
}

fn artifact(component: &Component) -> wasm::Artifact {
    let kind = if component.inspected.core {
        wasm::Kind::Module
    } else {
        wasm::Kind::Component
    };
    // No creation time: the same bytes give the same image, so a second `up` or `deploy` pushes nothing.
    wasm::artifact(
        &component.bytes,
        &component.title,
        kind,
        component
            .inspected
            .imports
            .iter()
            .map(|i| i.name.clone())
            .collect(),
        component.inspected.exports.clone(),
        coracle_api::Timestamp::UNIX_EPOCH,
    )
}

async fn push_blob(client: &Client, name: &str, digest: &str, bytes: &[u8]) -> Result<()> {
    let path = format!("/v2/{name}/blobs/{digest}");
    let (status, _, _) = send(
        client,
        Request::builder()
            .method(Method::HEAD)
            .uri(&path)
            .body(Body::from(Vec::new())),
    )
    .await?;
    if status == StatusCode::OK {
        return Ok(());
    }
    let path = format!("/v2/{name}/blobs/uploads/");
    let (status, body, location) = send(
        client,
        Request::post(&path)
            .header("content-length", "0")
            .body(Body::from(Vec::new())),
    )
    .await?;
    let location = match (status, location) {
        (StatusCode::ACCEPTED, Some(l)) => l,
        _ => return Err(refused(&path, status, &body)),
    };
    let join = if location.contains('?') { '&' } else { '?' };
    let url = format!("{location}{join}digest={digest}");
    let request = Request::put(&url)
        .header("content-type", "application/octet-stream")
        .body(Body::from(bytes.to_vec()));
    let (status, body, _) = send(client, request).await?;
    if status == StatusCode::CREATED {
        Ok(())
    } else {
        Err(refused(&url, status, &body))
    }
}

async fn send(
    client: &Client,
    request: http::Result<Request<Body>>,
) -> Result<(StatusCode, Vec<u8>, Option<String>)> {
    let response = client
        .send(request.map_err(|e| CliError::new("E_REQUEST", e.to_string()))?)
        .await?;
    let status = response.status();
    let location = response
        .headers()
        .get("location")
        .and_then(|l| l.to_str().ok())
        .map(str::to_string);
    Ok((status, collect(response).await?, location))
}

fn refused(path: &str, status: StatusCode, body: &[u8]) -> CliError {
    let v: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let first = &v["errors"][0];
    let code = first["code"].as_str().unwrap_or("E_REGISTRY");
    let message = first["message"].as_str().map_or_else(
        || format!("{path}: the registry answered {status}"),
        str::to_string,
    );
    CliError::new(code, message)
}

/// `coracle push`.
pub async fn push(args: PushArgs) -> Result<()> {
    let component = read_component(&args.file)?;
    let image = Image::parse(&args.image)?;
    if image.digest.is_some() {
        return Err(
            CliError::new("E_IMAGE_NAME", "a push names a tag, not a digest")
                .fix("write NAME[:TAG]"),
        );
    }
    let digest = match &image.host {
        None => {
            let client = Client::find(args.target.kubeconfig.as_deref(), None).await?;
            push_component(&client, &component, &image).await?
        }
        Some(host) => outside::push(host, &image, &component.bytes, &artifact(&component)).await?,
    };
    let host = image
        .host
        .as_ref()
        .map_or_else(String::new, |h| format!("{h}/"));
    print::out(&format!("{host}{}:{}@{digest}\n", image.name, image.tag));
    Ok(())
}

/// `coracle pull`.
pub async fn pull(args: PullArgs) -> Result<()> {
    let image = Image::parse(&args.image)?;
    let bytes = match &image.host {
        None => {
            let client = Client::find(args.target.kubeconfig.as_deref(), None).await?;
            pull_bytes(&client, &image).await?
        }
        Some(host) => outside::pull(host, &image).await?,
    };
    std::fs::write(&args.output, &bytes).map_err(|e| error::file(&args.output, &e))?;
    eprintln!("{}: {} bytes", args.output.display(), bytes.len());
    Ok(())
}

async fn pull_bytes(client: &Client, image: &Image) -> Result<Vec<u8>> {
    let path = format!("/v2/{}/manifests/{}", image.name, image.reference());
    let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json";
    let (status, mut manifest, _) = send(
        client,
        Request::get(&path)
            .header("accept", accept)
            .body(Body::from(Vec::new())),
    )
    .await?;
    if status != StatusCode::OK {
        return Err(refused(&path, status, &manifest));
    }
    for _ in 0..INDEX_DEPTH_MAX {
        if !wasm::is_index(None, &manifest) {
            break;
        }
        let inner = wasm::select_manifest(&manifest).map_err(|e| unsupported(&e))?;
        let path = format!("/v2/{}/manifests/{}", image.name, inner.digest);
        let (status, bytes, _) = send(
            client,
            Request::get(&path)
                .header("accept", accept)
                .body(Body::from(Vec::new())),
        )
        .await?;
        if status != StatusCode::OK {
            return Err(refused(&path, status, &bytes));
        }
        manifest = bytes;
    }
    let layer = wasm::select_layer(&manifest, None).map_err(|e| unsupported(&e))?;
    let path = format!("/v2/{}/blobs/{}", image.name, layer.digest);
    let (status, bytes, _) = send(client, Request::get(&path).body(Body::from(Vec::new()))).await?;
    if status != StatusCode::OK {
        return Err(refused(&path, status, &bytes));
    }
    verify(&layer.digest, &bytes)?;
    Ok(bytes)
}

fn unsupported(e: &wasm::Unsupported) -> CliError {
    CliError::new("E_IMAGE_UNSUPPORTED", format!("the image {e}"))
        .fix("push a .wasm file with `coracle push FILE NAME:TAG`")
}

/// What arrived is what was named.
fn verify(digest: &Digest, bytes: &[u8]) -> Result<()> {
    let found = digest.algorithm().digest(bytes);
    if found == *digest {
        Ok(())
    } else {
        Err(CliError::new(
            "E_DIGEST",
            format!("the registry sent {found} for {digest}"),
        )
        .fix("push the image again"))
    }
}

/// Registries other than the cluster's own, through the OCI client.
mod outside {
    use coracle_registry::wasm::Artifact;
    use oci_distribution::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
    use oci_distribution::manifest::OciImageManifest;
    use oci_distribution::secrets::RegistryAuth;
    use oci_distribution::{Client, Reference};

    use super::Image;
    use crate::error::{CliError, Result};

    fn client(host: &str) -> Result<Client> {
        // Loopback registries speak plain HTTP everywhere else too.
        let loopback = host.starts_with("localhost") || host.starts_with("127.");
        let config = ClientConfig {
            protocol: if loopback {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            connect_timeout: Some(std::time::Duration::from_secs(10)),
            ..ClientConfig::default()
        };
        Client::try_from(config).map_err(|e| failed(&e))
    }

    fn failed(e: &dyn std::fmt::Display) -> CliError {
        CliError::new("E_REGISTRY", e.to_string())
            .fix("check the registry's address and whether it wants a login")
    }

    fn reference(host: &str, image: &Image) -> Result<Reference> {
        let tail = image
            .digest
            .as_ref()
            .map_or_else(|| format!(":{}", image.tag), |d| format!("@{d}"));
        format!("{host}/{}{tail}", image.name)
            .parse()
            .map_err(|e| failed(&e))
    }

    pub async fn push(
        host: &str,
        image: &Image,
        bytes: &[u8],
        artifact: &Artifact,
    ) -> Result<String> {
        let layer = ImageLayer::new(bytes.to_vec(), super::wasm::LAYER.into(), None);
        let config = Config::new(artifact.config.to_vec(), super::wasm::CONFIG.into(), None);
        let manifest: OciImageManifest =
            serde_json::from_slice(&artifact.manifest).map_err(|e| failed(&e))?;
        let reference = reference(host, image)?;
        client(host)?
            .push(
                &reference,
                &[layer],
                config,
                &RegistryAuth::Anonymous,
                Some(manifest),
            )
            .await
            .map_err(|e| failed(&e))?;
        Ok(artifact.manifest_digest.to_string())
    }

    pub async fn pull(host: &str, image: &Image) -> Result<Vec<u8>> {
        let client = client(host)?;
        let reference = reference(host, image)?;
        let auth = RegistryAuth::Anonymous;
        let accepted = [
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.docker.distribution.manifest.v2+json",
        ];
        let (manifest, _) = client
            .pull_manifest_raw(&reference, &auth, &accepted)
            .await
            .map_err(|e| failed(&e))?;
        let layer =
            super::wasm::select_layer(&manifest, None).map_err(|e| super::unsupported(&e))?;
        let mut bytes = Vec::new();
        client
            .pull_blob(&reference, layer.digest.to_string().as_str(), &mut bytes)
            .await
            .map_err(|e| failed(&e))?;
        super::verify(&layer.digest, &bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_parse_or_say_why() {
        let ok = |t: &str| Image::parse(t).map(|i| (i.host, i.name, i.tag)).unwrap();
        assert_eq!(ok("web"), (None, "web".into(), "latest".into()));
        assert_eq!(ok("team/web:v1"), (None, "team/web".into(), "v1".into()));
        assert_eq!(
            ok("localhost:5000/web:v1"),
            (None, "web".into(), "v1".into())
        );
        assert_eq!(
            ok("127.0.0.1:5000/web"),
            (None, "web".into(), "latest".into())
        );
        assert_eq!(
            ok("ghcr.io/a/b:1"),
            (Some("ghcr.io".into()), "a/b".into(), "1".into())
        );
        for bad in [
            "",
            "Web",
            "../x",
            "a/../b",
            "web:",
            "web:a b",
            "-web",
            "web@md5:x",
            "a//b",
        ] {
            let e = Image::parse(bad).unwrap_err();
            assert_eq!(e.code, "E_IMAGE_NAME", "{bad}");
            assert!(e.fix.is_some());
        }
    }
}
