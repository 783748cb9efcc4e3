//! Trust at admission: a Namespace's policy must be one, and what runs in the namespace must keep to it.
//!
//! What a workload names is resolved to the digest it has now, and the policy is judged on that digest: the source by its
//! name, signatures and imports by what the cluster's registry holds. What nobody here can know (an image that was not
//! pushed yet, one of a registry outside) is let through with a warning: the node that runs it judges again, on the
//! digest that it pulled, and before it compiles anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use coracle_api::error::Cause;
use coracle_api::{ApiError, Key, Kind, meta};
use coracle_registry::Registry;
use coracle_registry::digest::Digest;
use coracle_registry::error::Error;
use coracle_registry::name::Name;
use coracle_registry::wasm::{self, Choice, INDEX_DEPTH_MAX};
use coracle_server::Admission;
use coracle_state::{BoxFuture, View};
use coracle_trust::reference::{CLUSTER, Reference};
use coracle_trust::{
    ANNOTATION, Found, Image, Imports, Policy, SIGNATURE_BYTES_MAX, Signature, bundle, judge,
    listing, read_imports, simple,
};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::rotate::registries;

/// Files whose imports are remembered, by digest: they never change.
const KNOWN_MAX: usize = 1_024;
/// Largest file looked into, in bytes: what runners take.
const WASM_BYTES_MAX: u64 = 64 << 20;
/// Files looked into at once, so that they take 256 MiB at most.
const LOOKS_MAX: usize = 4;
/// Workloads: kinds with pods in them.
const WORKLOADS: [&str; 8] = [
    "pods",
    "replicationcontrollers",
    "replicasets.apps",
    "deployments.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "jobs.batch",
    "cronjobs.batch",
];

/// Judges images by the policies of namespaces.
pub(crate) struct Gate {
    registry: Arc<Registry>,
    known: Mutex<BTreeMap<Digest, Arc<Imports>>>,
    looks: Semaphore,
}

/// What the registry knows of an image.
struct Evidence {
    digest: Digest,
    found: Vec<Found>,
    imports: Option<Arc<Imports>>,
}

impl Gate {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            known: Mutex::default(),
            looks: Semaphore::new(LOOKS_MAX),
        }
    }

    async fn workload(
        &self,
        kind: &Kind,
        object: &Value,
        live: Option<&Value>,
        view: &View,
    ) -> Result<Vec<String>, ApiError> {
        let Some(text) = policy_text(view, meta::namespace(object)) else {
            return Ok(Vec::new());
        };
        // What is there already is not judged again: an object must stay changeable whatever became of the policy.
        let before: BTreeSet<String> = live
            .map(|live| images(kind, live).into_iter().map(|(_, i)| i).collect())
            .unwrap_or_default();
        let new: Vec<(String, String)> = images(kind, object)
            .into_iter()
            .filter(|(_, image)| !before.contains(image))
            .collect();
        if new.is_empty() {
            return Ok(Vec::new());
        }
        // Only a restored backup of another version can hold a policy that does not read; then nothing is trusted.
        let policy = Policy::parse(&text).map_err(|e| {
            let field = format!("metadata.annotations[{ANNOTATION}]");
            forbidden(kind, object, vec![cause(field, e.to_string())])
        })?;
        let own = registries(view);
        let (mut causes, mut warnings) = (Vec::new(), Vec::new());
        for (field, image) in new {
            let Some(reference) = Reference::parse(&image, &own) else {
                continue;
            };
            let evidence = match self.evidence(&policy, &reference).await {
                Ok(evidence) => evidence,
                Err(error) => {
                    tracing::warn!(
                        image,
                        error = error.message,
                        "an image could not be judged at admission"
                    );
                    None
                }
            };
            let unseen =
                evidence.is_none() && (policy.needs_signatures() || policy.needs_imports());
            if unseen {
                warnings.push(format!(
                    "{field}: {image} is not in the cluster's registry, so its signatures and imports are checked by the node that pulls it"
                ));
            }
            let digest = evidence.as_ref().map(|e| e.digest.to_string());
            let subject = Image {
                written: &image,
                host: &reference.host,
                repository: &reference.repository,
                digest: digest.as_deref(),
            };
            let verdict = judge(
                &policy,
                &subject,
                evidence.as_ref().map(|e| e.found.as_slice()),
                evidence.as_ref().and_then(|e| e.imports.as_deref()),
            );
            causes.extend(verdict.violations.into_iter().map(|v| {
                cause(
                    field.clone(),
                    format!("{}: {}. {}", v.code, v.message, v.fix),
                )
            }));
        }
        match causes.is_empty() {
            true => Ok(warnings),
            false => Err(forbidden(kind, object, causes)),
        }
    }

    /// What the registry holds about an image, as far as the policy wants to know; `None` if it has no such image.
    async fn evidence(
        &self,
        policy: &Policy,
        reference: &Reference,
    ) -> Result<Option<Evidence>, Error> {
        if reference.host != CLUSTER || !(policy.needs_signatures() || policy.needs_imports()) {
            return Ok(None);
        }
        let Ok(name) = reference.repository.parse::<Name>() else {
            return Ok(None);
        };
        let Some(manifest) = self.registry.read_manifest(&name, reference.what()).await? else {
            return Ok(None);
        };
        let found = match policy.needs_signatures() {
            true => self.signatures(&name, &manifest.digest).await?,
            false => Vec::new(),
        };
        let imports = match policy.needs_imports() {
            true => self.imports(&name, manifest.bytes).await?,
            false => None,
        };
        Ok(Some(Evidence {
            digest: manifest.digest,
            found,
            imports,
        }))
    }

    async fn signatures(&self, name: &Name, digest: &Digest) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        let list = self
            .registry
            .read_referrers(name, digest, bundle::MEDIA_TYPE)
            .await?;
        let list = listing::listed(&list).map_err(Error::internal)?;
        for one in listing::signatures(&list) {
            let Some(manifest) = self.registry.read_manifest(name, &one.digest).await? else {
                continue;
            };
            let Ok(layer) = listing::bundle_layer(&manifest.bytes) else {
                continue;
            };
            if let Some(bytes) = self.small(name, &layer).await? {
                found.push(Found {
                    origin: one.digest.clone(),
                    signature: Signature::Bundle(bytes),
                });
            }
        }
        let tag = simple::tag(&digest.to_string());
        if let Ok(Some(manifest)) = self.registry.read_manifest(name, &tag).await {
            for (layer, signature) in listing::simple_layers(&manifest.bytes).unwrap_or_default() {
                if let Some(payload) = self.small(name, &layer).await? {
                    found.push(Found {
                        origin: tag.clone(),
                        signature: Signature::Simple { payload, signature },
                    });
                }
            }
        }
        Ok(found)
    }

    async fn small(&self, name: &Name, digest: &str) -> Result<Option<Vec<u8>>, Error> {
        let Ok(digest) = digest.parse::<Digest>() else {
            return Ok(None);
        };
        let max = SIGNATURE_BYTES_MAX as u64;
        self.registry.read_blob(name, &digest, max).await
    }

    /// The imports of the image's file; `None` for what runners refuse anyway, or must unpack first.
    async fn imports(
        &self,
        name: &Name,
        mut manifest: Vec<u8>,
    ) -> Result<Option<Arc<Imports>>, Error> {
        let mut depth = 0;
        let layer = loop {
            match wasm::choose(&manifest, None) {
                Ok(Choice::Layer(layer)) => break layer,
                Ok(Choice::Manifest(inner)) if depth < INDEX_DEPTH_MAX => {
                    depth += 1;
                    let inner = inner.digest.to_string();
                    match self.registry.read_manifest(name, &inner).await? {
                        Some(next) => manifest = next.bytes,
                        None => return Ok(None),
                    }
                }
                // A file in a tar layer is judged by the runner, which takes it out.
                Ok(_) | Err(_) => return Ok(None),
            }
        };
        let known = |all: &Mutex<BTreeMap<Digest, Arc<Imports>>>| {
            let all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(&layer.digest).cloned()
        };
        if let Some(imports) = known(&self.known) {
            return Ok(Some(imports));
        }
        let Ok(_look) = self.looks.acquire().await else {
            return Ok(None);
        };
        let blob = self
            .registry
            .read_blob(name, &layer.digest, WASM_BYTES_MAX)
            .await?;
        let Some(bytes) = blob else {
            return Ok(None);
        };
        let read = tokio::task::spawn_blocking(move || read_imports(&bytes)).await;
        let Ok(Ok(imports)) = read else {
            return Ok(None);
        };
        let imports = Arc::new(imports);
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KNOWN_MAX {
            all.pop_first();
        }
        all.insert(layer.digest.clone(), imports.clone());
        Ok(Some(imports))
    }
}

impl Admission for Gate {
    fn concerns(&self, kind: &Kind) -> bool {
        kind.table == "namespaces" || WORKLOADS.contains(&kind.table)
    }

    fn admit<'a>(
        &'a self,
        kind: &'static Kind,
        object: &'a Value,
        live: Option<&'a Value>,
        view: &'a View,
    ) -> BoxFuture<'a, Result<Vec<String>, ApiError>> {
        match kind.table {
            "namespaces" => Box::pin(std::future::ready(namespace(kind, object, live))),
            _ => Box::pin(self.workload(kind, object, live, view)),
        }
    }
}

/// A policy that does not read is refused where it is written.
fn namespace(kind: &Kind, object: &Value, live: Option<&Value>) -> Result<Vec<String>, ApiError> {
    let policy = |o: &Value| annotation(o).map(str::to_string);
    let Some(text) = policy(object).filter(|text| live.and_then(policy).as_ref() != Some(text))
    else {
        return Ok(Vec::new());
    };
    Policy::parse(&text).map(|_| Vec::new()).map_err(|e| {
        let field = format!("metadata.annotations[{ANNOTATION}]");
        ApiError::invalid(
            kind.kind,
            kind.group,
            meta::name(object),
            vec![cause(field, e.to_string())],
        )
    })
}

fn annotation(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][ANNOTATION].as_str()
}

fn policy_text(view: &View, namespace: &str) -> Option<String> {
    let namespace = view.get("namespaces", &Key::new("", namespace))?;
    annotation(&namespace.value()).map(str::to_string)
}

/// Every image that an object names, with the path of its field.
fn images(kind: &Kind, object: &Value) -> Vec<(String, String)> {
    let path = match kind.table {
        "pods" => "spec",
        "cronjobs.batch" => "spec.jobTemplate.spec.template.spec",
        _ => "spec.template.spec",
    };
    let spec = path.split('.').fold(object, |at, field| &at[field]);
    let mut all = Vec::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (n, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            if let Some(image) = container["image"].as_str() {
                all.push((format!("{path}.{list}[{n}].image"), image.to_string()));
            }
        }
    }
    all
}

fn cause(field: String, message: String) -> Cause {
    Cause {
        field,
        reason: "FieldValueForbidden".into(),
        message,
    }
}

/// 403 with every reason, worded as admission plugins of Kubernetes do.
fn forbidden(kind: &Kind, object: &Value, causes: Vec<Cause>) -> ApiError {
    let reasons: Vec<String> = causes
        .iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect();
    let name = meta::name(object);
    let message = format!(
        "{} {name:?} is forbidden: {}",
        kind.plural,
        reasons.join("; ")
    );
    let mut error = ApiError::new(403, "Forbidden", message).about(kind.group, kind.plural, name);
    error.causes = causes;
    error
}

#[cfg(test)]
mod tests;
