//! `coracle attach`: an SBOM, provenance or any statement, attached to an image; signed if a key is given.

use coracle_trust::dsse::Statement;
use coracle_trust::referrer::{self, Document};
use serde_json::Value;

use super::args::AttachArgs;
use super::key;
use super::remote::{Manifest, Remote};
use super::sign::{created, push_statement, subject};
use crate::error::{self, CliError, Result};
use crate::print;

/// Largest document, in bytes: a registry takes more, but readers hold it in memory.
const DOCUMENT_BYTES_MAX: usize = 32 << 20;
/// Largest document that is signed: its bundle must be readable by [`coracle_trust::SIGNATURE_BYTES_MAX`], in base64.
const SIGNED_BYTES_MAX: usize = coracle_trust::SIGNATURE_BYTES_MAX / 8 * 5;

/// Attaches.
pub async fn attach(args: AttachArgs) -> Result<()> {
    let bytes = std::fs::read(&args.file).map_err(|e| error::file(&args.file, &e))?;
    let document = Document::from(args.kind);
    let bad = |why: String| {
        CliError::new("E_DOCUMENT", format!("{}: {why}", args.file.display()))
            .fix("give the JSON file that the tool wrote, and its --type")
    };
    let bound = match &args.key {
        Some(_) => SIGNED_BYTES_MAX,
        None => DOCUMENT_BYTES_MAX,
    };
    if bytes.len() > bound {
        return Err(bad(format!(
            "it has {} bytes, and {bound} are the limit",
            bytes.len()
        )));
    }
    let json: Value =
        serde_json::from_slice(&bytes).map_err(|e| bad(format!("it is not JSON: {e}")))?;
    check(document, &json, args.key.is_some()).map_err(bad)?;
    let key = args.key.as_deref().map(key::private).transpose()?;
    let remote = Remote::find(&args.image, &args.target).await?;
    let image = remote.manifest().await?;
    let digest = match key {
        Some(key) => {
            let statement = statement(document, json, &image).map_err(bad)?;
            push_statement(&remote, &image, &key, &statement).await?
        }
        None => {
            let predicate = json["predicateType"].as_str();
            let title = args.file.file_name().map_or_else(
                || "document.json".to_string(),
                |n| n.to_string_lossy().into_owned(),
            );
            let about = (title.as_str(), predicate, created());
            let about = (about.0, about.1, about.2.as_str());
            let subject = subject(&image);
            let manifest = referrer::document_manifest(&subject, document, &bytes, about);
            remote.attach(&subject, &[&bytes], manifest).await?
        }
    };
    print::out(&format!(
        "{}@{}\nattached as {digest}\n",
        remote.name(),
        image.digest
    ));
    Ok(())
}

/// Whether a document is what it is said to be, by the field that every writer of its kind sets.
fn check(document: Document, json: &Value, signed: bool) -> std::result::Result<(), String> {
    let statement = json["_type"]
        .as_str()
        .is_some_and(|t| t.starts_with("https://in-toto.io/Statement/"));
    let (holds, wanted) = match document {
        Document::Spdx => (
            json["spdxVersion"].is_string() || json["@context"].is_string(),
            "it is no SPDX document: it has no spdxVersion",
        ),
        Document::CycloneDx => (
            json["bomFormat"] == "CycloneDX",
            "it is no CycloneDX document: its bomFormat is not CycloneDX",
        ),
        // The predicate alone will do where the statement around it is made here.
        Document::Provenance => (
            statement || (signed && json["buildDefinition"].is_object()),
            "it is no in-toto statement with provenance: it has no _type",
        ),
        Document::InToto => (statement, "it is no in-toto statement: it has no _type"),
    };
    match holds {
        true => Ok(()),
        false => Err(wanted.into()),
    }
}

/// The statement to sign. One that is a statement already must be about the image.
fn statement(
    document: Document,
    json: Value,
    image: &Manifest,
) -> std::result::Result<Statement, String> {
    if json["_type"].is_string() {
        let made: Statement =
            serde_json::from_value(json).map_err(|e| format!("it is no in-toto statement: {e}"))?;
        return match made.names(&image.digest) {
            true => Ok(made),
            false => Err(format!(
                "it is about {}, not about {}",
                made.subjects(),
                image.digest
            )),
        };
    }
    let predicate = document
        .predicate_type()
        .ok_or("it is no in-toto statement: it has no _type")?;
    Ok(Statement::new(&image.digest, predicate, json))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_must_be_what_it_is_said_to_be() {
        let ok = |d, v: Value| check(d, &v, false).is_ok();
        assert!(ok(Document::Spdx, json!({"spdxVersion": "SPDX-2.3"})));
        assert!(ok(Document::CycloneDx, json!({"bomFormat": "CycloneDX"})));
        assert!(!ok(Document::CycloneDx, json!({"spdxVersion": "SPDX-2.3"})));
        let predicate = json!({"buildDefinition": {}});
        assert!(!ok(Document::Provenance, predicate.clone()));
        assert!(check(Document::Provenance, &predicate, true).is_ok());
        assert!(!ok(Document::InToto, json!([])));
    }

    #[test]
    fn a_statement_about_another_image_is_not_signed() {
        let image = Manifest {
            digest: coracle_trust::digest_of(b"image"),
            media_type: referrer::MANIFEST.into(),
            bytes: b"image".to_vec(),
        };
        let about =
            |digest: &str| serde_json::to_value(Statement::new(digest, "x:y", json!({}))).unwrap();
        assert!(statement(Document::InToto, about(&image.digest), &image).is_ok());
        let other = coracle_trust::digest_of(b"other");
        let why = statement(Document::InToto, about(&other), &image).unwrap_err();
        assert!(why.contains(&other), "{why}");
        let made = statement(Document::Spdx, json!({"spdxVersion": "1"}), &image).unwrap();
        assert_eq!(made.predicate_type, "https://spdx.dev/Document");
        assert!(made.names(&image.digest));
    }
}
