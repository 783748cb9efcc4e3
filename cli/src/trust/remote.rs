//! One repository, in the cluster's own registry or another one, as signing and looking need it: manifests, blobs and
//! referrers by name, and nothing in between.

use coracle_trust::digest_of;
use coracle_trust::listing::{self, Listed};
use coracle_trust::referrer;
use http::{HeaderValue, Method, Request, StatusCode};
use kube::client::Body;
use oci_distribution::client::{ClientConfig, ClientProtocol};
use oci_distribution::errors::{OciDistributionError, OciErrorCode};
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::{Client as OciClient, Reference};
use serde_json::{Value, json};

use crate::args::Target;
use crate::client::{Client, collect};
use crate::error::{CliError, Result};
use crate::image::Image;

/// Kinds of manifests asked for.
const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Largest blob read whole, in bytes: the largest file a runner takes.
const BLOB_BYTES_MAX: usize = 64 << 20;
/// Pages of referrers followed; a page has up to 1,000.
const PAGES_MAX: usize = 100;

/// A manifest.
pub struct Manifest {
    /// Its digest.
    pub digest: String,
    /// Its type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// One repository of a registry.
pub struct Remote {
    /// The image that was named.
    pub image: Image,
    at: At,
}

enum At {
    Cluster(Client),
    Outside { client: OciClient, host: String },
}

/// What a registry answered.
struct Answer {
    status: StatusCode,
    media_type: String,
    link: Option<String>,
    location: Option<String>,
    body: Vec<u8>,
}

impl Remote {
    /// The repository of an image name.
    pub async fn find(image: &str, target: &Target) -> Result<Self> {
        let image = Image::parse(image)?;
        let at = match &image.host {
            None => At::Cluster(Client::find(target.kubeconfig.as_deref(), None).await?),
            Some(host) => At::Outside {
                client: outside(host).await?,
                host: host.clone(),
            },
        };
        Ok(Self { image, at })
    }

    /// `HOST/NAME`, or `NAME` in the cluster's registry.
    pub fn name(&self) -> String {
        match &self.image.host {
            Some(host) => format!("{host}/{}", self.image.name),
            None => self.image.name.clone(),
        }
    }

    /// The manifest of the image that was named.
    pub async fn manifest(&self) -> Result<Manifest> {
        let what = self.image.digest.as_deref().unwrap_or(&self.image.tag);
        let Some(found) = self.manifest_of(what).await? else {
            let sign = if what.contains(':') { '@' } else { ':' };
            return Err(CliError::new(
                "E_IMAGE_NOT_FOUND",
                format!("there is no image {}{sign}{what}", self.name()),
            )
            .fix("check the name, or push it with `coracle push FILE NAME:TAG`"));
        };
        if what.starts_with("sha256:") && found.digest != what {
            return Err(corrupt(what, &found.digest));
        }
        if what.starts_with("sha512:") {
            return Err(CliError::new(
                "E_IMAGE_NAME",
                "signatures are over sha256 digests, and this name has a sha512 one",
            )
            .fix("name the image by its tag or its sha256 digest"));
        }
        Ok(found)
    }

    /// A manifest by tag or digest; `None` if there is none.
    pub async fn manifest_of(&self, what: &str) -> Result<Option<Manifest>> {
        let (bytes, media_type) = match &self.at {
            At::Cluster(client) => {
                let path = format!("/v2/{}/manifests/{what}", self.image.name);
                let answer = send(client, get(&path, &ACCEPTED.join(", "))).await?;
                match answer.status {
                    StatusCode::OK => (answer.body, answer.media_type),
                    StatusCode::NOT_FOUND => return Ok(None),
                    _ => return Err(refused(&path, &answer)),
                }
            }
            At::Outside { client, host } => {
                let reference = self.reference(host, what);
                let auth = credentials(host);
                match client.pull_manifest_raw(&reference, &auth, &ACCEPTED).await {
                    Ok((bytes, _)) => {
                        let view: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                        let media_type = view["mediaType"].as_str().unwrap_or(ACCEPTED[0]);
                        (bytes.to_vec(), media_type.to_string())
                    }
                    Err(e) if absent(&e) => return Ok(None),
                    Err(e) => return Err(failed(&e)),
                }
            }
        };
        Ok(Some(Manifest {
            digest: digest_of(&bytes),
            media_type,
            bytes,
        }))
    }

    /// A blob, checked against its digest; `None` if there is none.
    pub async fn blob(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        let bytes = match &self.at {
            At::Cluster(client) => {
                let path = format!("/v2/{}/blobs/{digest}", self.image.name);
                let answer = send(client, get(&path, "*/*")).await?;
                match answer.status {
                    StatusCode::OK => answer.body,
                    StatusCode::NOT_FOUND => return Ok(None),
                    _ => return Err(refused(&path, &answer)),
                }
            }
            At::Outside { client, host } => {
                let mut bytes = Vec::new();
                let reference = self.reference(host, &self.image.tag);
                match client.pull_blob(&reference, digest, &mut bytes).await {
                    Ok(()) => bytes,
                    Err(e) if absent(&e) => return Ok(None),
                    Err(e) => return Err(failed(&e)),
                }
            }
        };
        if bytes.len() > BLOB_BYTES_MAX {
            return Err(CliError::new(
                "E_BLOB_TOO_LARGE",
                format!("{digest} has more than {BLOB_BYTES_MAX} bytes"),
            ));
        }
        let found = digest_of(&bytes);
        if digest.starts_with("sha256:") && found != digest {
            return Err(corrupt(digest, &found));
        }
        Ok(Some(bytes))
    }

    /// Everything that refers to a manifest.
    pub async fn referrers(&self, digest: &str) -> Result<Vec<Listed>> {
        match &self.at {
            At::Cluster(client) => {
                let mut path = format!("/v2/{}/referrers/{digest}", self.image.name);
                let mut all = Vec::new();
                for _ in 0..PAGES_MAX {
                    let answer = send(client, get(&path, INDEX)).await?;
                    if answer.status != StatusCode::OK {
                        return Err(refused(&path, &answer));
                    }
                    all.extend(listing::listed(&answer.body).map_err(unreadable)?);
                    match answer.link.as_deref().and_then(next) {
                        Some(more) => path = more,
                        None => break,
                    }
                }
                Ok(all)
            }
            At::Outside { client, host } => {
                let reference = self.reference(host, digest);
                match client.pull_referrers(&reference, None).await {
                    Ok(index) => {
                        let bytes =
                            serde_json::to_vec(&index).map_err(|e| unreadable(e.to_string()))?;
                        listing::listed(&bytes).map_err(unreadable)
                    }
                    Err(e) if absent(&e) => Ok(Vec::new()),
                    Err(e) => Err(failed(&e)),
                }
            }
        }
    }

    /// Pushes an artifact that refers to `subject`: its layers, the empty configuration, its manifest. Answers its digest.
    pub async fn attach(
        &self,
        subject: &referrer::Descriptor,
        layers: &[&[u8]],
        manifest: Vec<u8>,
    ) -> Result<String> {
        self.push_blob(referrer::EMPTY_BYTES).await?;
        for layer in layers {
            self.push_blob(layer).await?;
        }
        let digest = digest_of(&manifest);
        self.push_manifest(&digest, &manifest, referrer::MANIFEST)
            .await?;
        let listed = self.referrers(&subject.digest).await?;
        if !listed.iter().any(|one| one.digest == digest) {
            self.list_by_tag(subject, &digest, &manifest).await?;
        }
        Ok(digest)
    }

    /// A registry that does not know referrers finds them by an index under the tag `sha256-<hex>`
    /// (distribution-spec, "Referrers Tag Schema").
    async fn list_by_tag(
        &self,
        subject: &referrer::Descriptor,
        digest: &str,
        manifest: &[u8],
    ) -> Result<()> {
        let tag = subject.digest.replacen(':', "-", 1);
        let view: Value = serde_json::from_slice(manifest).unwrap_or_default();
        let mut index = match self.manifest_of(&tag).await? {
            Some(found) => serde_json::from_slice(&found.bytes).unwrap_or_default(),
            None => json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}),
        };
        let Some(entries) = index["manifests"].as_array_mut() else {
            return Err(unreadable(format!(
                "the tag {tag} is taken by something that is no index"
            )));
        };
        entries.push(json!({
            "mediaType": referrer::MANIFEST,
            "digest": digest,
            "size": manifest.len(),
            "artifactType": view["artifactType"],
            "annotations": view["annotations"],
        }));
        self.push_manifest(&tag, index.to_string().as_bytes(), INDEX)
            .await
    }

    /// Pushes a manifest under a tag or its digest.
    pub async fn push_manifest(&self, what: &str, bytes: &[u8], media_type: &str) -> Result<()> {
        match &self.at {
            At::Cluster(client) => {
                let path = format!("/v2/{}/manifests/{what}", self.image.name);
                let request = Request::put(&path)
                    .header("content-type", media_type)
                    .body(Body::from(bytes.to_vec()));
                let answer = send(client, request).await?;
                match answer.status {
                    StatusCode::CREATED => Ok(()),
                    _ => Err(refused(&path, &answer)),
                }
            }
            At::Outside { client, host } => {
                let kind = HeaderValue::from_str(media_type).map_err(|e| failed(&e))?;
                client
                    .push_manifest_raw(&self.reference(host, what), bytes.to_vec(), kind)
                    .await
                    .map(|_| ())
                    .map_err(|e| failed(&e))
            }
        }
    }

    /// Pushes a blob that is not there yet.
    pub async fn push_blob(&self, bytes: &[u8]) -> Result<()> {
        let digest = digest_of(bytes);
        match &self.at {
            At::Cluster(client) => {
                let path = format!("/v2/{}/blobs/{digest}", self.image.name);
                let head = Request::builder().method(Method::HEAD).uri(&path);
                let answer = send(client, head.body(Body::from(Vec::new()))).await?;
                if answer.status == StatusCode::OK {
                    return Ok(());
                }
                let path = format!("/v2/{}/blobs/uploads/", self.image.name);
                let begin = Request::post(&path).header("content-length", "0");
                let answer = send(client, begin.body(Body::from(Vec::new()))).await?;
                let location = match (&answer.status, &answer.location) {
                    (&StatusCode::ACCEPTED, Some(location)) => location.clone(),
                    _ => return Err(refused(&path, &answer)),
                };
                let join = if location.contains('?') { '&' } else { '?' };
                let path = format!("{location}{join}digest={digest}");
                let request = Request::put(&path)
                    .header("content-type", "application/octet-stream")
                    .body(Body::from(bytes.to_vec()));
                let answer = send(client, request).await?;
                match answer.status {
                    StatusCode::CREATED => Ok(()),
                    _ => Err(refused(&path, &answer)),
                }
            }
            At::Outside { client, host } => {
                let reference = self.reference(host, &self.image.tag);
                if client
                    .blob_exists(&reference, &digest)
                    .await
                    .unwrap_or(false)
                {
                    return Ok(());
                }
                client
                    .push_blob(&reference, bytes.to_vec(), &digest)
                    .await
                    .map(|_| ())
                    .map_err(|e| failed(&e))
            }
        }
    }

    fn reference(&self, host: &str, what: &str) -> Reference {
        let (host, name, what) = (host.to_string(), self.image.name.clone(), what.to_string());
        match what.contains(':') {
            true => Reference::with_digest(host, name, what),
            false => Reference::with_tag(host, name, what),
        }
    }
}

/// A client for a registry outside, with the login that docker keeps for it.
async fn outside(host: &str) -> Result<OciClient> {
    // Loopback registries speak plain HTTP everywhere else too.
    let loopback = host.starts_with("localhost") || host.starts_with("127.");
    let config = ClientConfig {
        protocol: match loopback {
            true => ClientProtocol::Http,
            false => ClientProtocol::Https,
        },
        connect_timeout: Some(std::time::Duration::from_secs(10)),
        read_timeout: Some(std::time::Duration::from_secs(30)),
        ..ClientConfig::default()
    };
    let client = OciClient::try_from(config).map_err(|e| failed(&e))?;
    client.store_auth_if_needed(host, &credentials(host)).await;
    Ok(client)
}

/// What `docker login` wrote into its configuration, if it wrote it there.
fn credentials(host: &str) -> RegistryAuth {
    let dir = std::env::var_os("DOCKER_CONFIG")
        .map(std::path::PathBuf::from)
        .or_else(|| Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    dir.and_then(|dir| std::fs::read(dir.join("config.json")).ok())
        .and_then(|bytes| login(&bytes, host))
        .map_or(RegistryAuth::Anonymous, |(user, password)| {
            RegistryAuth::Basic(user, password)
        })
}

fn login(config: &[u8], host: &str) -> Option<(String, String)> {
    use base64::Engine;
    let config: Value = serde_json::from_slice(config).ok()?;
    let auth = config["auths"][host]["auth"].as_str()?;
    let pair = base64::engine::general_purpose::STANDARD
        .decode(auth)
        .ok()?;
    let (user, password) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
    Some((user.to_string(), password.to_string()))
}

fn get(path: &str, accept: &str) -> http::Result<Request<Body>> {
    Request::get(path)
        .header("accept", accept)
        .body(Body::from(Vec::new()))
}

async fn send(client: &Client, request: http::Result<Request<Body>>) -> Result<Answer> {
    let request = request.map_err(|e| CliError::new("E_REQUEST", e.to_string()))?;
    let response = client.send(request).await?;
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::to_string)
    };
    Ok(Answer {
        status: response.status(),
        media_type: header("content-type").unwrap_or_default(),
        link: header("link"),
        location: header("location"),
        body: collect(response).await?,
    })
}

/// The path of the next page, out of a `Link` header.
fn next(link: &str) -> Option<String> {
    let (path, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    (rest.contains("rel=\"next\"") && path.starts_with("/v2/")).then(|| path.to_string())
}

fn refused(path: &str, answer: &Answer) -> CliError {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let first = &body["errors"][0];
    let message = first["message"].as_str().map_or_else(
        || format!("{path}: the registry answered {}", answer.status),
        str::to_string,
    );
    CliError::new(first["code"].as_str().unwrap_or("E_REGISTRY"), message)
        .fix("check the image's name and whether you may do this")
}

fn failed(e: &dyn std::fmt::Display) -> CliError {
    CliError::new("E_REGISTRY", e.to_string())
        .fix("check the registry's address and whether it wants a login (`docker login HOST`)")
}

fn unreadable(why: String) -> CliError {
    CliError::new("E_REGISTRY", why).fix("check that the address is that of an OCI registry")
}

fn corrupt(wanted: &str, found: &str) -> CliError {
    CliError::new(
        "E_DIGEST",
        format!("the registry sent {found} for {wanted}"),
    )
    .fix("push the image again")
}

fn absent(e: &OciDistributionError) -> bool {
    match e {
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => true,
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|e| {
            matches!(
                e.code,
                OciErrorCode::BlobUnknown
                    | OciErrorCode::ManifestUnknown
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::NotFound
            )
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_of_docker_is_read() {
        // user:pass
        let config = br#"{"auths":{"reg.io":{"auth":"dXNlcjpwYXNz"},"x":{}}}"#;
        assert_eq!(
            login(config, "reg.io"),
            Some(("user".into(), "pass".into()))
        );
        assert_eq!(login(config, "x"), None);
        assert_eq!(login(b"no", "reg.io"), None);
    }

    #[test]
    fn only_a_next_page_of_the_same_registry_is_followed() {
        assert_eq!(
            next(r#"</v2/a/referrers/d?last=x>; rel="next""#).as_deref(),
            Some("/v2/a/referrers/d?last=x")
        );
        assert_eq!(next(r#"<https://evil.io/v2/a>; rel="next""#), None);
        assert_eq!(next(r#"</v2/a>; rel="prev""#), None);
        assert_eq!(next(""), None);
    }
}
