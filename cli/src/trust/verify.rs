//! `coracle verify`: who signed an image.

use coracle_trust::verify::Verified;
use serde_json::{Value, json};

use super::args::VerifyArgs;
use super::gather::gather;
use super::key;
use super::remote::Remote;
use crate::args::Output;
use crate::error::{CliError, Result};
use crate::print;

/// Verifies.
pub async fn verify(args: VerifyArgs) -> Result<()> {
    let keys = key::public(&args.key)?;
    let remote = Remote::find(&args.image, &args.target).await?;
    let image = remote.manifest().await?;
    let gathered = gather(&remote, &image).await?;
    let verified = coracle_trust::verify(&image.digest, &gathered.signatures, &keys);
    let name = format!("{}@{}", remote.name(), image.digest);
    let signed = verified.keys();
    let missing: Vec<&str> = keys
        .iter()
        .filter(|k| !signed.contains(k.key.id().as_str()))
        .map(|k| k.name.as_str())
        .collect();
    let enough = match args.all {
        true => missing.is_empty(),
        false => !signed.is_empty(),
    };
    match args.output {
        Some(form @ (Output::Json | Output::Yaml)) => {
            print::object(&report(&name, &image.digest, enough, &verified), form);
        }
        _ => {
            let lines: String = verified
                .valid
                .iter()
                .map(|v| format!("signed by {} ({}) at {}\n", v.key, v.key_id, v.origin))
                .collect();
            print::out(&format!("{name}\n{lines}"));
        }
    }
    if enough {
        return Ok(());
    }
    let why = match signed.is_empty() {
        true => verified.reasons(),
        false => format!("{} did not sign it", missing.join(", ")),
    };
    Err(
        CliError::new("E_TRUST_UNSIGNED", format!("{name} is not trusted: {why}")).fix(
            "sign it with `coracle sign IMAGE --key FILE`, or give the key it was signed with",
        ),
    )
}

/// Signatures as JSON.
pub fn signatures(verified: &Verified) -> Vec<Value> {
    let valid = verified
        .valid
        .iter()
        .map(|v| json!({"origin": v.origin, "valid": true, "key": v.key, "keyId": v.key_id}));
    let refused = verified
        .refused
        .iter()
        .map(|r| json!({"origin": r.origin, "valid": false, "reason": r.why.to_string()}));
    valid.chain(refused).collect()
}

fn report(name: &str, digest: &str, enough: bool, verified: &Verified) -> Value {
    json!({
        "image": name,
        "digest": digest,
        "verified": enough,
        "signatures": signatures(verified),
    })
}
