//! A registry outside, asked with the credentials that the cluster keeps for it.
//!
//! Only hosts that the operator listed are ever asked, which the caller has checked; a listed registry may send a request
//! on to where its blobs lie, as Docker Hub does. Loopback hosts are spoken to without TLS.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle_api::Key;
use coracle_registry::digest::Digest;
use futures_util::{StreamExt, stream::BoxStream};
use oci_distribution::Reference;
use oci_distribution::client::{Client, ClientConfig, ClientProtocol};
use oci_distribution::errors::{OciDistributionError as OciError, OciErrorCode};
use oci_distribution::manifest::OciDescriptor;
use oci_distribution::secrets::RegistryAuth;
use serde_json::Value;

use super::Failure;

/// Time to connect, and longest silence of an answer.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));
/// Kinds of manifests asked for.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// The Secret (`kubernetes.io/dockerconfigjson`) with the credentials for upstreams.
const SECRET: (&str, &str) = ("kube-system", "registry-upstream");

/// Repository and reference at an upstream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    /// `HOST` or `HOST:PORT`, as listed.
    pub host: String,
    pub repository: String,
    /// Whether a manifest is wanted, or a blob.
    pub is_manifest: bool,
    /// Tag or digest.
    pub reference: String,
}

impl Wanted {
    /// As clients of the upstream name it.
    fn reference(&self) -> Reference {
        // Docker Hub's API is not where its name points.
        let host = match self.host.as_str() {
            "docker.io" => "index.docker.io",
            host => host,
        };
        let (host, repository) = (host.to_string(), self.repository.clone());
        if self.reference.contains(':') {
            Reference::with_digest(host, repository, self.reference.clone())
        } else {
            Reference::with_tag(host, repository, self.reference.clone())
        }
    }
}

/// Reads the Secret of this namespace and name.
pub(crate) type Secrets = Arc<dyn Fn(&Key) -> Option<Value> + Send + Sync>;

/// Clients by host, each with the credentials it was made with.
pub(super) struct Remotes {
    secrets: Secrets,
    clients: Mutex<BTreeMap<String, (RegistryAuth, Client)>>,
}

impl Remotes {
    pub fn new(secrets: Secrets) -> Self {
        Self {
            secrets,
            clients: Mutex::default(),
        }
    }

    fn client(&self, host: &str) -> Result<(RegistryAuth, Client), Failure> {
        let auth = match (self.secrets)(&Key::new(SECRET.0, SECRET.1)) {
            Some(secret) => credentials(&secret, host).map_err(Failure::Credentials)?,
            None => RegistryAuth::Anonymous,
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((with, client)) = clients.get(host)
            && *with == auth
        {
            return Ok((auth, client.clone()));
        }
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let plain = name == "localhost" || name.starts_with("127.");
        let config = ClientConfig {
            protocol: if plain {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            connect_timeout: Some(TIMEOUTS.0),
            read_timeout: Some(TIMEOUTS.1),
            platform_resolver: None,
            user_agent: concat!("coracle/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(translate)?;
        // One for each listed host at most.
        clients.insert(host.into(), (auth.clone(), client.clone()));
        Ok((auth, client))
    }

    /// The digest that a tag means.
    pub async fn digest(&self, of: &Wanted) -> Result<String, Failure> {
        let (auth, client) = self.client(&of.host)?;
        let digest = client.fetch_manifest_digest(&of.reference(), &auth).await;
        digest.map_err(translate)
    }

    /// A manifest; one asked for by digest has it.
    pub async fn manifest(&self, of: &Wanted) -> Result<Bytes, Failure> {
        let (auth, client) = self.client(&of.host)?;
        let reference = of.reference();
        let got = client.pull_manifest_raw(&reference, &auth, &MANIFEST_TYPES);
        let (bytes, _) = got.await.map_err(translate)?;
        Ok(bytes)
    }

    /// A blob; its bytes are not checked here.
    pub async fn blob(
        &self,
        of: &Wanted,
        digest: &Digest,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, Failure> {
        let (auth, client) = self.client(&of.host)?;
        let reference = of.reference();
        client
            .store_auth_if_needed(reference.resolve_registry(), &auth)
            .await;
        let layer = OciDescriptor {
            digest: digest.to_string(),
            ..OciDescriptor::default()
        };
        let stream = client.pull_blob_stream(&reference, &layer).await;
        Ok(stream.map_err(translate)?.stream.boxed())
    }
}

/// What a Secret says about a host; nothing said is anonymous.
fn credentials(secret: &Value, host: &str) -> Result<RegistryAuth, String> {
    let data = secret["data"][".dockerconfigjson"]
        .as_str()
        .ok_or("it has no data[\".dockerconfigjson\"]")?;
    let config = STANDARD.decode(data).map_err(|e| e.to_string())?;
    let config: Value = serde_json::from_slice(&config).map_err(|e| e.to_string())?;
    let hub = [
        "docker.io",
        "index.docker.io",
        "https://index.docker.io/v1/",
    ];
    let names = match host {
        "docker.io" => hub.to_vec(),
        host => vec![host],
    };
    let Some(found) = names
        .iter()
        .map(|n| &config["auths"][*n])
        .find(|v| !v.is_null())
    else {
        return Ok(RegistryAuth::Anonymous);
    };
    if let (Some(user), Some(password)) = (found["username"].as_str(), found["password"].as_str()) {
        return Ok(RegistryAuth::Basic(user.into(), password.into()));
    }
    let auth = found["auth"].as_str();
    let auth = auth.ok_or("its entry has neither auth nor username and password")?;
    let auth = STANDARD.decode(auth).map_err(|e| e.to_string())?;
    let auth = String::from_utf8(auth).map_err(|e| e.to_string())?;
    let (user, password) = auth.split_once(':').ok_or("auth is not USER:PASSWORD")?;
    Ok(RegistryAuth::Basic(user.into(), password.into()))
}

fn translate(error: OciError) -> Failure {
    use OciErrorCode::{BlobUnknown, ManifestUnknown, NameUnknown, NotFound};
    match error {
        OciError::ImageManifestNotFoundError(_) | OciError::ServerError { code: 404, .. } => {
            Failure::NotFound
        }
        OciError::UnauthorizedError { .. }
        | OciError::AuthenticationFailure(_)
        | OciError::ServerError {
            code: 401 | 403, ..
        } => Failure::Denied,
        OciError::RegistryError { envelope, .. }
            if envelope.errors.iter().any(|e| {
                matches!(
                    e.code,
                    BlobUnknown | ManifestUnknown | NameUnknown | NotFound
                )
            }) =>
        {
            Failure::NotFound
        }
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(&other);
            while let Some(e) = cause {
                text = format!("{text}: {e}");
                cause = e.source();
            }
            Failure::Unreachable(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(config: &Value) -> Value {
        json!({"data": {".dockerconfigjson": STANDARD.encode(config.to_string())}})
    }

    #[test]
    fn credentials_are_those_of_the_host() {
        let basic = |u: &str, p: &str| RegistryAuth::Basic(u.into(), p.into());
        let all = secret(&json!({"auths": {
            "ghcr.io": {"username": "u", "password": "p"},
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("hub:a:b")},
            "bad.io": {"email": "x"},
        }}));
        assert_eq!(credentials(&all, "ghcr.io"), Ok(basic("u", "p")));
        assert_eq!(credentials(&all, "docker.io"), Ok(basic("hub", "a:b")));
        assert_eq!(credentials(&all, "quay.io"), Ok(RegistryAuth::Anonymous));
        assert!(credentials(&all, "bad.io").is_err());
        assert!(credentials(&json!({}), "ghcr.io").is_err());
    }
}
