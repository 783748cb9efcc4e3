//! What vouches for an image, fetched from where the image comes from. Nothing is believed here: a signature is checked
//! against the policy's keys, so it does not matter who served it.

use coracle_trust::{Found, SIGNATURE_BYTES_MAX, Signature, bundle, listing, simple};

use super::source::{FetchError, Source};
use super::{Images, Keyring, Place, PullError, Reference, failed};

/// Where an image comes from, as a policy names it.
pub(crate) struct Origin {
    /// Host, or `cluster`.
    pub host: String,
    /// Repository there.
    pub repository: String,
}

impl Images {
    /// Where an image name points to; `None` for what is no image name.
    pub fn origin(&self, image: &str) -> Option<Origin> {
        let own = self.endpoints.registries();
        let parsed = coracle_trust::reference::Reference::parse(image, &own)?;
        Some(Origin {
            host: parsed.host,
            repository: parsed.repository,
        })
    }

    /// The signatures of the manifest with this digest, in both of cosign's forms; `keyring` as for [`Images::pull`].
    pub async fn signatures(
        &self,
        image: &str,
        digest: &str,
        keyring: &Keyring,
    ) -> Result<Vec<Found>, PullError> {
        let reference = self.reference(image)?;
        let found = match &reference.place {
            Place::Embedded => collect(&self.embedded, &reference, digest).await,
            Place::Outside(host) => {
                let logins = keyring.logins(host, &reference.repository).await;
                let mut found = Err(FetchError::NotFound);
                // As for the image itself: without a login where there is none, the next one where one is refused.
                let nobody = logins.is_empty().then_some(None);
                for login in logins.iter().map(Some).chain(nobody) {
                    found = match self.outside.source(&reference, login) {
                        Ok(source) => collect(&source, &reference, digest).await,
                        Err(e) => Err(e),
                    };
                    if !matches!(found, Err(FetchError::Denied(_))) {
                        break;
                    }
                }
                found
            }
        };
        found.map_err(|e| failed(&reference, &e))
    }
}

async fn collect(
    source: &impl Source,
    of: &Reference,
    digest: &str,
) -> Result<Vec<Found>, FetchError> {
    let mut found = Vec::new();
    let listed = source.referrers(of, digest, bundle::MEDIA_TYPE).await;
    for one in listing::signatures(&there(listed)?.unwrap_or_default()) {
        let Some(manifest) = there(source.manifest(of, &one.digest).await)? else {
            continue;
        };
        let Ok(layer) = listing::bundle_layer(&manifest) else {
            continue;
        };
        if let Some(bytes) = small(source, of, &layer).await? {
            found.push(Found {
                origin: one.digest.clone(),
                signature: Signature::Bundle(bytes),
            });
        }
    }
    let tag = simple::tag(digest);
    if let Some(manifest) = there(source.manifest(of, &tag).await)? {
        for (layer, signature) in listing::simple_layers(&manifest).unwrap_or_default() {
            if let Some(payload) = small(source, of, &layer).await? {
                found.push(Found {
                    origin: tag.clone(),
                    signature: Signature::Simple { payload, signature },
                });
            }
        }
    }
    Ok(found)
}

async fn small(
    source: &impl Source,
    of: &Reference,
    digest: &str,
) -> Result<Option<Vec<u8>>, FetchError> {
    let bytes = there(source.blob_small(of, digest).await)?;
    Ok(bytes.filter(|bytes| bytes.len() <= SIGNATURE_BYTES_MAX))
}

/// What is not there is no error; that nobody answers is one.
fn there<T>(fetched: Result<T, FetchError>) -> Result<Option<T>, FetchError> {
    match fetched {
        Ok(it) => Ok(Some(it)),
        Err(FetchError::NotFound | FetchError::Corrupt(_)) => Ok(None),
        Err(e) => Err(e),
    }
}
