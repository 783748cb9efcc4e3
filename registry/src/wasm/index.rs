//! The Wasm entry of an index: by platform, else by the kind of artifact, else the only one there is.

use super::choose::{Choice, target};
use super::refuse::{container, unsupported};
use super::{CONFIG, PLATFORM_ARCHITECTURE, PLATFORM_OS, Unsupported};
use crate::manifest::{Descriptor, Platform, bare_type};

pub(super) fn choose(entries: &[Descriptor]) -> Result<Choice, Unsupported> {
    let entries: Vec<&Descriptor> = entries.iter().filter(|e| !is_attestation(e)).collect();
    if let Some(found) = PLATFORM_OS.iter().find_map(|os| of_platform(&entries, os)) {
        return target(found).map(Choice::Manifest);
    }
    let kind = |e: &Descriptor| e.artifact_type.as_deref().map(bare_type);
    let artifacts: Vec<&Descriptor> = entries
        .iter()
        .copied()
        .filter(|e| kind(e).as_deref() == Some(CONFIG))
        .collect();
    match (artifacts.as_slice(), entries.as_slice()) {
        ([only], _) => return target(only).map(Choice::Manifest),
        // One thing that says nothing about platforms can only be meant.
        ([], [only]) if stated(only).is_none() => return target(only).map(Choice::Manifest),
        _ => {}
    }
    let platforms: Vec<Platform> = entries.iter().filter_map(|e| stated(e)).cloned().collect();
    Err(match (entries.len(), platforms.is_empty()) {
        (0, _) => unsupported("is an empty image index", "push the image again"),
        (several, true) => unsupported(
            format!("is an index of {several} manifests without platforms"),
            "name one of them by its digest, as NAME@sha256:…",
        ),
        (_, false) => container(&platforms),
    })
}

fn of_platform<'a>(entries: &[&'a Descriptor], os: &str) -> Option<&'a Descriptor> {
    let fits = |p: &Platform| {
        p.os == os
            && (p.architecture.is_empty()
                || PLATFORM_ARCHITECTURE.contains(&p.architecture.as_str()))
    };
    let mut entries = entries.iter().copied();
    entries.find(|e| e.platform.as_ref().is_some_and(fits))
}

/// The platform, if the entry states one.
fn stated(entry: &Descriptor) -> Option<&Platform> {
    let platform = entry.platform.as_ref()?;
    (!platform.os.is_empty() || !platform.architecture.is_empty()).then_some(platform)
}

/// Build attestations sit in an index as manifests of their own, for a platform nobody has.
fn is_attestation(entry: &Descriptor) -> bool {
    let marked = entry
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key("vnd.docker.reference.type"));
    let unknown = entry
        .platform
        .as_ref()
        .is_some_and(|platform| platform.os == "unknown" && platform.architecture == "unknown");
    marked || unknown
}
