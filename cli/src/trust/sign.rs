//! `coracle sign`: a signature over the digest that an image has now, attached to it as cosign 3 does.

use coracle_trust::dsse::{SIGNED, Statement};
use coracle_trust::referrer::{self, Descriptor};
use coracle_trust::{NamedKey, PrivateKey, bundle, simple, verify};
use jiff::Timestamp;
use serde_json::Value;

use super::args::SignArgs;
use super::gather::gather;
use super::key;
use super::remote::{Manifest, Remote};
use crate::error::{CliError, Result};
use crate::print;

/// Tries to add a signature to the tag of the older form while others write it.
const TRIES_MAX: usize = 5;

/// Signs.
pub async fn sign(args: SignArgs) -> Result<()> {
    let key = key::private(&args.key)?;
    let remote = Remote::find(&args.image, &args.target).await?;
    let image = remote.manifest().await?;
    let mine = [NamedKey {
        name: args.key.display().to_string(),
        key: key.public().clone(),
    }];
    let there = verify(
        &image.digest,
        &gather(&remote, &image).await?.signatures,
        &mine,
    );
    let tag = simple::tag(&image.digest);
    let mut lines = format!("{}@{}\n", remote.name(), image.digest);
    let attached = match there.valid.iter().find(|v| v.origin != tag) {
        Some(valid) => format!("signed before as {}", valid.origin),
        None => format!("signed as {}", push(&remote, &image, &key).await?),
    };
    lines.push_str(&format!("{attached}\n"));
    if args.legacy {
        if !there.valid.iter().any(|v| v.origin == tag) {
            push_legacy(&remote, &image, &key).await?;
        }
        lines.push_str(&format!("signed under the tag {tag}\n"));
    }
    print::out(&lines);
    Ok(())
}

/// The manifest of an image, as its referrers name it.
pub fn subject(image: &Manifest) -> Descriptor {
    Descriptor {
        media_type: image.media_type.clone(),
        digest: image.digest.clone(),
        size: image.bytes.len() as u64,
    }
}

/// Now, as annotations have it.
pub fn created() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn push(remote: &Remote, image: &Manifest, key: &PrivateKey) -> Result<String> {
    push_statement(remote, image, key, &Statement::signed(&image.digest)).await
}

/// Signs a statement about an image and attaches it; answers the digest of its manifest.
pub async fn push_statement(
    remote: &Remote,
    image: &Manifest,
    key: &PrivateKey,
    statement: &Statement,
) -> Result<String> {
    let bundle = bundle::sign(key, statement)
        .map_err(|e| CliError::new("E_SIGN", format!("the statement cannot be written: {e}")))?;
    let subject = subject(image);
    let predicate = statement.predicate_type.as_str();
    debug_assert!(predicate == SIGNED || statement.names(&image.digest));
    let manifest = referrer::bundle_manifest(&subject, &bundle, predicate, &created());
    remote.attach(&subject, &[&bundle], manifest).await
}

/// Adds a signature to those under the tag. The registry has no compare-and-swap for tags, so it is looked at again.
async fn push_legacy(remote: &Remote, image: &Manifest, key: &PrivateKey) -> Result<()> {
    let tag = simple::tag(&image.digest);
    let (payload, signature) = simple::sign(key, &remote.name(), &image.digest);
    remote.push_blob(referrer::EMPTY_BYTES).await?;
    remote.push_blob(&payload).await?;
    let ours: Value =
        serde_json::from_slice(&referrer::simple_manifest(&[(payload, signature.clone())]))
            .unwrap_or_default();
    for _ in 0..TRIES_MAX {
        let manifest = match remote.manifest_of(&tag).await? {
            None => ours.clone(),
            Some(found) => {
                let mut theirs: Value = serde_json::from_slice(&found.bytes).unwrap_or_default();
                let Some(layers) = theirs["layers"].as_array_mut() else {
                    return Err(CliError::new(
                        "E_SIGN",
                        format!("the tag {tag} is taken by something that holds no signatures"),
                    )
                    .fix("delete the tag, or sign without --legacy"));
                };
                if layers
                    .iter()
                    .any(|l| l["annotations"][simple::ANNOTATION] == signature.as_str())
                {
                    return Ok(());
                }
                layers.push(ours["layers"][0].clone());
                theirs
            }
        };
        remote
            .push_manifest(&tag, manifest.to_string().as_bytes(), referrer::MANIFEST)
            .await?;
    }
    Err(
        CliError::new("E_SIGN", format!("others write the tag {tag} all the time"))
            .fix("try again"),
    )
}
