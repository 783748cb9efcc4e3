//! `coracle inspect`: what an image is, what it can do, who signed it, what is attached to it.

use coracle_registry::wasm::{self, Choice, INDEX_DEPTH_MAX, LayerRef};
use coracle_trust::capability::capabilities;
use coracle_trust::verify::verify_statements;
use coracle_trust::{Imports, read_imports, referrer};
use serde_json::{Value, json};

use super::args::InspectArgs;
use super::gather::{Gathered, gather};
use super::remote::{Manifest, Remote};
use super::{key, verify};
use crate::args::Output;
use crate::error::{CliError, Result};
use crate::print;

/// The Wasm file of an image.
pub struct File {
    /// Its layer.
    pub layer: LayerRef,
    /// Its surface.
    pub surface: Imports,
}

/// Reads the Wasm file of an image. The inner error says what the image is instead.
pub async fn file(remote: &Remote, image: &Manifest) -> Result<std::result::Result<File, String>> {
    let mut manifest = image.bytes.clone();
    let (mut config, mut depth) = (None, 0);
    let layer = loop {
        match wasm::choose(&manifest, config.as_deref()) {
            Ok(Choice::Layer(layer)) => break layer,
            Ok(Choice::Manifest(inner)) if depth < INDEX_DEPTH_MAX => {
                depth += 1;
                let digest = inner.digest.to_string();
                match remote.manifest_of(&digest).await? {
                    Some(found) if found.digest == digest => manifest = found.bytes,
                    _ => return Ok(Err(format!("names {digest}, which is not there"))),
                }
            }
            Ok(Choice::Manifest(_)) => return Ok(Err("leads to ever more indexes".into())),
            Ok(Choice::Config(target)) => match remote.blob(&target.digest.to_string()).await? {
                Some(bytes) => config = Some(bytes),
                None => return Ok(Err(format!("names {}, which is not there", target.digest))),
            },
            Ok(Choice::Packed(_)) => {
                return Ok(Err(
                    "packs its Wasm into a tar layer: pull it and push the .wasm file to look into it".into(),
                ));
            }
            Err(why) => return Ok(Err(why.to_string())),
        }
    };
    let Some(bytes) = remote.blob(&layer.digest.to_string()).await? else {
        return Ok(Err(format!("names {}, which is not there", layer.digest)));
    };
    Ok(read_imports(&bytes).map(|surface| File { layer, surface }))
}

/// Inspects.
pub async fn inspect(args: InspectArgs) -> Result<()> {
    let keys = key::public(&args.key)?;
    let remote = Remote::find(&args.image, &args.target).await?;
    let image = remote.manifest().await?;
    let file = file(&remote, &image).await?;
    let gathered = gather(&remote, &image).await?;
    let signed = coracle_trust::verify(&image.digest, &gathered.signatures, &keys);
    let vouched = verify_statements(&image.digest, &gathered.statements, &keys);
    let signatures = match keys.is_empty() {
        true => unchecked(&gathered),
        false => verify::signatures(&signed),
    };
    let attached: Vec<Value> = gathered
        .attached
        .iter()
        .map(|one| {
            let kind = one.artifact_type.as_deref().unwrap_or_default();
            let predicate = one.predicate_type();
            let by = vouched.valid.iter().find(|v| v.origin == one.digest);
            json!({
                "digest": one.digest,
                "what": referrer::describe(kind, predicate),
                "artifactType": kind,
                "predicateType": predicate,
                "created": one.annotation(referrer::CREATED),
                "verifiedBy": by.map(|v| v.key.as_str()),
            })
        })
        .collect();
    let view: Value = serde_json::from_slice(&image.bytes).map_err(|e| {
        CliError::new(
            "E_IMAGE_UNSUPPORTED",
            format!("the manifest cannot be read: {e}"),
        )
    })?;
    let report = json!({
        "image": remote.name(),
        "digest": image.digest,
        "mediaType": image.media_type,
        "size": image.bytes.len(),
        "config": view["config"],
        "annotations": view["annotations"],
        "component": component(&file),
        "signatures": signatures,
        "attached": attached,
    });
    match args.output {
        Some(form @ (Output::Json | Output::Yaml)) => print::object(&report, form),
        _ => print::out(&text(&report)),
    }
    Ok(())
}

fn component(file: &std::result::Result<File, String>) -> Value {
    match file {
        Err(why) => json!({"unsupported": why}),
        Ok(file) => {
            let can = capabilities(&file.surface.imports);
            json!({
                "kind": if file.surface.core { "module" } else { "component" },
                "digest": file.layer.digest.to_string(),
                "mediaType": file.layer.media_type,
                "size": file.layer.size,
                "title": file.layer.title,
                "imports": file.surface.imports,
                "exports": file.surface.exports,
                "capabilities": can.iter().map(|c| c.word()).collect::<Vec<_>>(),
            })
        }
    }
}

/// Signatures that nobody was asked to check.
fn unchecked(gathered: &Gathered) -> Vec<Value> {
    gathered
        .signatures
        .iter()
        .map(|f| json!({"origin": f.origin, "valid": null}))
        .collect()
}

/// The report for people.
fn text(report: &Value) -> String {
    let str = |v: &Value| v.as_str().unwrap_or("-").to_string();
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.into(), value]);
    row(
        "Image:",
        format!("{}@{}", str(&report["image"]), str(&report["digest"])),
    );
    row(
        "Manifest:",
        format!("{}, {} bytes", str(&report["mediaType"]), report["size"]),
    );
    let component = &report["component"];
    if let Some(why) = component["unsupported"].as_str() {
        row("Component:", format!("none: the image {why}"));
    } else {
        row(
            "Component:",
            format!(
                "{} {}, {} bytes",
                str(&component["kind"]),
                str(&component["digest"]),
                component["size"]
            ),
        );
        several(&mut row, "Can:", &component["capabilities"]);
        several(&mut row, "Imports:", &component["imports"]);
        several(&mut row, "Exports:", &component["exports"]);
    }
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let signatures = list(&report["signatures"]);
    if signatures.is_empty() {
        row("Signatures:", "none".into());
    }
    for (n, one) in signatures.iter().enumerate() {
        let what = match one["valid"].as_bool() {
            Some(true) => format!("signed by {}", str(&one["key"])),
            Some(false) => str(&one["reason"]),
            None => "not checked: give --key FILE".into(),
        };
        let name = if n == 0 { "Signatures:" } else { "" };
        row(name, format!("{} {what}", str(&one["origin"])));
    }
    let attached = list(&report["attached"]);
    if attached.is_empty() {
        row("Attached:", "nothing".into());
    }
    for (n, one) in attached.iter().enumerate() {
        let by = match one["verifiedBy"].as_str() {
            Some(key) => format!(", signed by {key}"),
            None => String::new(),
        };
        let name = if n == 0 { "Attached:" } else { "" };
        row(
            name,
            format!("{} {}{by}", str(&one["digest"]), str(&one["what"])),
        );
    }
    print::align(&rows)
}

fn several(row: &mut impl FnMut(&str, String), name: &str, list: &Value) {
    let all: Vec<&str> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if all.is_empty() {
        row(name, "nothing".into());
    }
    for (n, one) in all.iter().enumerate() {
        row(if n == 0 { name } else { "" }, (*one).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_for_people() {
        let report = json!({
            "image": "team/web", "digest": "sha256:aa", "mediaType": "m", "size": 7,
            "component": {
                "kind": "component", "digest": "sha256:bb", "size": 9, "imports": ["wasi:cli/exit@0.2.0"],
                "exports": [], "capabilities": ["network"],
            },
            "signatures": [
                {"origin": "sha256:cc", "valid": true, "key": "k.pub"},
                {"origin": "sha256:dd", "valid": false, "reason": "was made with none of the keys"},
            ],
            "attached": [{"digest": "sha256:ee", "what": "SBOM, SPDX", "verifiedBy": null}],
        });
        assert_eq!(
            text(&report),
            "Image:        team/web@sha256:aa\n\
             Manifest:     m, 7 bytes\n\
             Component:    component sha256:bb, 9 bytes\n\
             Can:          network\n\
             Imports:      wasi:cli/exit@0.2.0\n\
             Exports:      nothing\n\
             Signatures:   sha256:cc signed by k.pub\n\
             \u{20}             sha256:dd was made with none of the keys\n\
             Attached:     sha256:ee SBOM, SPDX\n"
        );
    }
}
