//! Which bucket: a URL, and the credentials that its provider's own tools read from the environment.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

/// What may stand before `://`: names of the providers' own tools.
const SCHEMES: &[&str] = &["s3", "s3a", "gs", "az", "azure", "abfs", "abfss"];

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is not a URL of a known provider.
    #[error(
        "REGISTRY_STORAGE_URL: {url} is not the address of a bucket ({why}): write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
    )]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// It cannot be written.
    #[error(
        "REGISTRY_STORAGE: cannot write to {url} ({source}): check the name of the bucket, the network, and the credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY; AWS_ENDPOINT_URL, and AWS_ALLOW_HTTP for plain HTTP, name a store that speaks S3)"
    )]
    Unwritable {
        /// The bucket.
        url: String,
        /// What it answered.
        source: object_store::Error,
    },
}

/// A bucket, and where in it.
pub struct Bucket {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
}

impl Bucket {
    /// A store that is made already.
    pub fn over(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { store, prefix }
    }

    /// The bucket at `url`, with options under the names of environment variables; any that is not an option of the
    /// provider is ignored, so the whole environment may be given. Touches no network.
    pub fn parse(
        url: &str,
        options: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, AddressError> {
        let bad = |why: String| AddressError::Url {
            url: url.to_owned(),
            why,
        };
        let parsed = Url::parse(url).map_err(|e| bad(e.to_string()))?;
        if !SCHEMES.contains(&parsed.scheme()) {
            return Err(bad(format!("{} is no provider", parsed.scheme())));
        }
        if parsed.host_str().is_none_or(str::is_empty) {
            return Err(bad("it names no bucket".into()));
        }
        if !parsed.username().is_empty() && !parsed.scheme().starts_with("abfs")
            || parsed.password().is_some()
        {
            return Err(bad(
                "credentials belong into the environment, where `ps` does not show them".into(),
            ));
        }
        let (store, prefix) =
            object_store::parse_url_opts(&parsed, options).map_err(|e| bad(e.to_string()))?;
        Ok(Self {
            store: store.into(),
            prefix,
        })
    }

    /// Proves that it can be written: what a wrong key would otherwise spoil is the first push.
    pub async fn probe(&self, url: &str, name: &str) -> Result<(), AddressError> {
        let key = self.prefix.clone().join("probe").join(name);
        let done = async {
            self.store.put(&key, "coracle".into()).await?;
            self.store.delete(&key).await
        };
        done.await.map_err(|source| AddressError::Unwritable {
            url: url.to_owned(),
            source,
        })
    }
}
