//! Everything that vouches for an image or is attached to it, read from its registry.

use coracle_trust::listing::{self, Listed};
use coracle_trust::{Found, Signature, bundle, dsse, referrer, simple};

use super::remote::{Manifest, Remote};
use crate::error::Result;

/// What is attached to an image.
pub struct Gathered {
    /// Signatures of the image, in both forms.
    pub signatures: Vec<Found>,
    /// Bundles with other statements (provenance, SBOMs), by the digest of their manifest.
    pub statements: Vec<Found>,
    /// Everything that is listed, except signatures of the image.
    pub attached: Vec<Listed>,
}

/// Reads it. What cannot be understood is left out: it vouches for nothing.
pub async fn gather(remote: &Remote, image: &Manifest) -> Result<Gathered> {
    let listed = remote.referrers(&image.digest).await?;
    let mut gathered = Gathered {
        signatures: Vec::new(),
        statements: Vec::new(),
        attached: Vec::new(),
    };
    let (bundles, others): (Vec<Listed>, Vec<Listed>) =
        listed.into_iter().partition(Listed::is_bundle);
    gathered.attached.extend(others);
    for mut one in bundles {
        let bytes = fetch(remote, &one.digest).await?;
        let content = bytes.as_deref().map(bundle::parse);
        // The statement itself says what it is; the annotation only repeats it, if the registry keeps it.
        let predicate = match content {
            Some(Ok(bundle::Bundle {
                content: bundle::Content::Statement { statement, .. },
                ..
            })) => Some(statement.predicate_type),
            _ => None,
        };
        let found = bytes.map(|bytes| Found {
            origin: one.digest.clone(),
            signature: Signature::Bundle(bytes),
        });
        match predicate {
            Some(predicate) if predicate != dsse::SIGNED => {
                let annotations = one.annotations.get_or_insert_default();
                annotations.insert(referrer::PREDICATE.into(), predicate);
                gathered.attached.push(one);
                gathered.statements.extend(found);
            }
            _ => gathered.signatures.extend(found),
        }
    }
    let tag = simple::tag(&image.digest);
    if let Some(manifest) = remote.manifest_of(&tag).await? {
        for (layer, signature) in listing::simple_layers(&manifest.bytes).unwrap_or_default() {
            if let Some(payload) = remote.blob(&layer).await? {
                gathered.signatures.push(Found {
                    origin: tag.clone(),
                    signature: Signature::Simple { payload, signature },
                });
            }
        }
    }
    Ok(gathered)
}

async fn fetch(remote: &Remote, digest: &str) -> Result<Option<Vec<u8>>> {
    let Some(manifest) = remote.manifest_of(digest).await? else {
        return Ok(None);
    };
    match listing::bundle_layer(&manifest.bytes) {
        Ok(layer) => remote.blob(&layer).await,
        Err(_) => Ok(None),
    }
}
