//! The policy of a namespace, enforced where it counts: after an image was pulled and before it is compiled.
//!
//! The API judged the same at admission, but on what it could see then. Here the digest is the one that runs, the imports
//! are those of the file that runs, and a pod that a controller made is judged like any other. A refusal is a failed
//! pull: it is tried again with the usual pauses, so a signature that is pushed later mends it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coracle_agent::{Image, Problem, PullFailure};
use coracle_trust::{ANNOTATION, Policy, digest_of, judge, read_imports};

use crate::api::{Api, Failure};
use crate::pull::{Images, Keyring, PullError};

/// How long a policy is used before it is asked for again: a new one is in force on every node after this time.
const FRESH: Duration = Duration::from_secs(2);
/// Namespaces whose policy is remembered, and judgements that are.
const KNOWN_MAX: usize = 1_024;

/// What is remembered of policies.
#[derive(Default)]
pub(crate) struct Trust {
    /// By namespace: the policy's text, and when it was read.
    policies: Mutex<BTreeMap<String, (Option<String>, Instant)>>,
    /// One question to the API at a time; whoever waited finds the answer.
    asking: tokio::sync::Mutex<()>,
    /// What was allowed: digest of the policy, image, digest of its manifest. Neither changes, so neither does this.
    allowed: Mutex<BTreeSet<(String, String, String)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(code: &str, message: String, fix: &str) -> PullError {
    (PullFailure::Pull, Problem::new(code, message, fix))
}

impl Trust {
    /// Whether an image that was pulled with `keyring` may run in a namespace.
    pub async fn check(
        &self,
        (api, images, keyring): (&Api, &Images, &Keyring),
        namespace: &str,
        (written, image): (&str, &Image),
    ) -> Result<(), PullError> {
        let Some(text) = self.policy(api, namespace).await? else {
            return Ok(());
        };
        let key = (
            digest_of(text.as_bytes()),
            written.to_string(),
            image.digest.clone(),
        );
        if locked(&self.allowed).contains(&key) {
            return Ok(());
        }
        let policy = Policy::parse(&text).map_err(|e| {
            refused(
                "E_TRUST_POLICY",
                format!("the policy of the namespace {namespace} does not read: {e}"),
                "Correct the annotation trust.coracle.dev/policy of the Namespace",
            )
        })?;
        let found = match policy.needs_signatures() {
            true => Some(images.signatures(written, &image.digest, keyring).await?),
            false => None,
        };
        let imports = match policy.needs_imports() {
            true => Some(imports(images, written, &image.wasm).await?),
            false => None,
        };
        let origin = images.origin(written).ok_or_else(|| {
            let fix = "Write NAME:TAG, HOST/NAME:TAG or NAME@sha256:DIGEST in lower case";
            refused(
                "E_IMAGE_NAME",
                format!("{written:?} is not an image name"),
                fix,
            )
        })?;
        let subject = coracle_trust::Image {
            written,
            host: &origin.host,
            repository: &origin.repository,
            digest: Some(&image.digest),
        };
        let verdict = judge(&policy, &subject, found.as_deref(), imports.as_ref());
        if let Some(first) = verdict.violations.first() {
            let all: Vec<&str> = verdict
                .violations
                .iter()
                .map(|v| v.message.as_str())
                .collect();
            return Err(refused(first.code, all.join("; "), &first.fix));
        }
        let mut allowed = locked(&self.allowed);
        if allowed.len() >= KNOWN_MAX {
            allowed.pop_first();
        }
        allowed.insert(key);
        Ok(())
    }

    fn fresh(&self, namespace: &str) -> Option<Option<String>> {
        locked(&self.policies)
            .get(namespace)
            .filter(|(_, at)| at.elapsed() < FRESH)
            .map(|(text, _)| text.clone())
    }

    /// The text of a namespace's policy. Where the API does not answer, the last one known holds; where none is known,
    /// nothing runs until it answers.
    async fn policy(&self, api: &Api, namespace: &str) -> Result<Option<String>, PullError> {
        if let Some(text) = self.fresh(namespace) {
            return Ok(text);
        }
        let _alone = self.asking.lock().await;
        if let Some(text) = self.fresh(namespace) {
            return Ok(text);
        }
        let asked = Instant::now();
        match api.get(&format!("/api/v1/namespaces/{namespace}")).await {
            Ok(object) => {
                let text = object["metadata"]["annotations"][ANNOTATION]
                    .as_str()
                    .map(str::to_string);
                let mut policies = locked(&self.policies);
                if policies.len() >= KNOWN_MAX && !policies.contains_key(namespace) {
                    policies.pop_first();
                }
                policies.insert(namespace.to_string(), (text.clone(), asked));
                Ok(text)
            }
            Err(error) => {
                let known = locked(&self.policies).get(namespace).cloned();
                match known {
                    Some((text, _)) if !matches!(error, Failure::Status { code: 404, .. }) => {
                        Ok(text)
                    }
                    _ => Err(refused(
                        "E_TRUST_POLICY_UNKNOWN",
                        format!("the policy of the namespace {namespace} cannot be read: {error}"),
                        "Check that the API server answers; the image is tried again by itself",
                    )),
                }
            }
        }
    }
}

async fn imports(
    images: &Images,
    written: &str,
    wasm: &str,
) -> Result<coracle_trust::Imports, PullError> {
    let path = images.wasm(wasm);
    let read = tokio::task::spawn_blocking(move || {
        let bytes = std::fs::read(&path).map_err(|e| e.to_string())?;
        read_imports(&bytes)
    })
    .await;
    read.unwrap_or_else(|e| Err(e.to_string())).map_err(|why| {
        refused(
            "E_TRUST_IMPORT",
            format!("the imports of {written} cannot be read: {why}"),
            "Push a WebAssembly component",
        )
    })
}

#[cfg(test)]
mod tests;
