//! Registries outside the cluster, asked over HTTPS (plain HTTP for loopback hosts), anonymously or with a login of the
//! pod's (`secrets`).

use std::sync::OnceLock;
use std::time::Duration;

use coracle_trust::listing::Listed;
use futures_util::StreamExt;
use oci_distribution::client::{Client, ClientConfig, ClientProtocol};
use oci_distribution::errors::{OciDistributionError as OciError, OciErrorCode};
use oci_distribution::manifest::OciDescriptor;
use oci_distribution::secrets::RegistryAuth;

use super::reference::{Place, Reference};
use super::secrets::Chosen;
use super::source::{FetchError, MANIFEST_TYPES, SMALL_BYTES_MAX, Source};
use super::store::Writer;
use crate::api::chain;

/// Time to connect, and longest silence of an answer.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));

/// Clients for registries outside that are asked anonymously, made at first use: most clusters never need one.
#[derive(Default)]
pub(super) struct Outside {
    https: OnceLock<Result<Client, String>>,
    http: OnceLock<Result<Client, String>>,
}

/// One registry outside.
pub(super) struct Remote {
    client: Client,
    host: String,
    auth: RegistryAuth,
    /// The Secret that `auth` is from.
    secret: Option<String>,
}

fn client(protocol: ClientProtocol) -> Result<Client, String> {
    let config = ClientConfig {
        protocol,
        connect_timeout: Some(TIMEOUTS.0),
        read_timeout: Some(TIMEOUTS.1),
        platform_resolver: None,
        ..ClientConfig::default()
    };
    Client::try_from(config).map_err(|e| chain(&e))
}

impl Outside {
    /// The registry of a reference, asked with a login or without.
    pub fn source(
        &self,
        reference: &Reference,
        login: Option<&Chosen>,
    ) -> Result<Remote, FetchError> {
        let Place::Outside(host) = &reference.place else {
            return Err(FetchError::NotFound);
        };
        let name = host.split(':').next().unwrap_or(host);
        let plain = name == "localhost" || name.starts_with("127.");
        let (cell, protocol) = if plain {
            (&self.http, ClientProtocol::Http)
        } else {
            (&self.https, ClientProtocol::Https)
        };
        // A client keeps the tokens it was given: one with a login serves no other pull.
        let made = match login {
            Some(_) => client(protocol),
            None => cell.get_or_init(|| client(protocol)).clone(),
        };
        let client = made.map_err(FetchError::Unreachable)?;
        // Docker Hub's API is not where its name points.
        let host = if host == "docker.io" {
            "index.docker.io"
        } else {
            host
        };
        Ok(Remote {
            client,
            host: host.into(),
            auth: login.map_or(RegistryAuth::Anonymous, |l| l.auth.clone()),
            secret: login.map(|l| l.secret.clone()),
        })
    }
}

impl Remote {
    fn reference(&self, of: &Reference, what: &str) -> oci_distribution::Reference {
        let mut repository = of.repository.clone();
        if self.host == "index.docker.io" && !repository.contains('/') {
            repository = format!("library/{repository}");
        }
        if what.starts_with("sha256:") {
            oci_distribution::Reference::with_digest(self.host.clone(), repository, what.into())
        } else {
            oci_distribution::Reference::with_tag(self.host.clone(), repository, what.into())
        }
    }

    /// The client, which knows the login from now on, whatever is asked for first.
    async fn ready(&self, reference: &oci_distribution::Reference) -> &Client {
        let registry = reference.resolve_registry();
        self.client.store_auth_if_needed(registry, &self.auth).await;
        &self.client
    }

    fn denied(&self) -> FetchError {
        FetchError::Denied(match &self.secret {
            Some(secret) => format!("the registry refuses the login in the Secret {secret}"),
            None => "the registry asks for a login, and none is configured".into(),
        })
    }

    fn translate(&self, error: OciError) -> FetchError {
        use OciErrorCode::{
            BlobUnknown, Denied, ManifestUnknown, NameUnknown, NotFound, Unauthorized,
        };
        let refused = |e: &OciError| {
            let OciError::RegistryError { envelope, .. } = e else {
                return false;
            };
            let mut codes = envelope.errors.iter().map(|e| &e.code);
            codes.any(|code| matches!(code, Denied | Unauthorized))
        };
        match error {
            OciError::ImageManifestNotFoundError(_) | OciError::ServerError { code: 404, .. } => {
                FetchError::NotFound
            }
            OciError::UnauthorizedError { .. }
            | OciError::AuthenticationFailure(_)
            | OciError::ServerError {
                code: 401 | 403, ..
            } => self.denied(),
            error if refused(&error) => self.denied(),
            OciError::RegistryError { envelope, .. }
                if envelope.errors.iter().any(|e| {
                    matches!(
                        e.code,
                        BlobUnknown | ManifestUnknown | NameUnknown | NotFound
                    )
                }) =>
            {
                FetchError::NotFound
            }
            OciError::DigestError(e) => FetchError::Corrupt(chain(&e)),
            OciError::IoError(e) => FetchError::Unreachable(chain(&e)),
            other => FetchError::Unreachable(chain(&other)),
        }
    }
}

fn descriptor(digest: &str) -> OciDescriptor {
    OciDescriptor {
        digest: digest.into(),
        ..OciDescriptor::default()
    }
}

impl Source for Remote {
    async fn manifest(&self, of: &Reference, what: &str) -> Result<Vec<u8>, FetchError> {
        let reference = self.reference(of, what);
        let got = self
            .client
            .pull_manifest_raw(&reference, &self.auth, &MANIFEST_TYPES)
            .await;
        got.map(|(bytes, _)| bytes.to_vec())
            .map_err(|e| self.translate(e))
    }

    async fn blob(
        &self,
        of: &Reference,
        digest: &str,
        into: &mut Writer,
    ) -> Result<(), FetchError> {
        let layer = descriptor(digest);
        let reference = self.reference(of, &of.tag);
        let client = self.ready(&reference).await;
        let mut stream = client
            .pull_blob_stream(&reference, &layer)
            .await
            .map_err(|e| self.translate(e))?;
        while let Some(chunk) = stream.next().await {
            into.write(
                &chunk.map_err(|e| FetchError::Unreachable(format!("the layer broke off: {e}")))?,
            )?;
        }
        Ok(())
    }

    async fn referrers(
        &self,
        of: &Reference,
        digest: &str,
        artifact_type: &str,
    ) -> Result<Vec<Listed>, FetchError> {
        let reference = self.reference(of, digest);
        let client = self.ready(&reference).await;
        let index = client.pull_referrers(&reference, Some(artifact_type)).await;
        let index = match index.map_err(|e| self.translate(e)) {
            Err(FetchError::NotFound) => return Ok(Vec::new()),
            index => index?,
        };
        Ok(index
            .manifests
            .into_iter()
            .map(|entry| Listed {
                media_type: entry.media_type,
                digest: entry.digest,
                size: u64::try_from(entry.size).unwrap_or(0),
                artifact_type: Some(artifact_type.to_string()),
                annotations: entry.annotations,
            })
            .collect())
    }

    async fn blob_small(&self, of: &Reference, digest: &str) -> Result<Vec<u8>, FetchError> {
        let layer = descriptor(digest);
        let reference = self.reference(of, &of.tag);
        let client = self.ready(&reference).await;
        let mut stream = client
            .pull_blob_stream(&reference, &layer)
            .await
            .map_err(|e| self.translate(e))?;
        let mut all = Vec::new();
        while let Some(chunk) = stream.next().await {
            all.extend_from_slice(&chunk.map_err(|e| FetchError::Unreachable(e.to_string()))?);
            if all.len() > SMALL_BYTES_MAX {
                return Err(FetchError::Corrupt("its configuration is too large".into()));
            }
        }
        Ok(all)
    }
}
