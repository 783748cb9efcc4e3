//! A namespace's policy: which images may run in it.
//!
//! It stands in the annotation [`ANNOTATION`] of the Namespace, not in an object inside it: whoever may only work in the
//! namespace cannot loosen it. YAML or JSON:
//!
//! ```yaml
//! signatures:
//!   keys:
//!     - name: release
//!       publicKey: |
//!         -----BEGIN PUBLIC KEY-----
//!         ...
//!   required: 1              # how many of the keys must have signed; 1 if left out
//! sources: [cluster/*, ghcr.io/acme/*]
//! imports: [wasi:http/*, wasi:cli/*, wasi:io/*, wasi:clocks/*]
//! ```
//!
//! Each part that is left out allows everything. `cluster` stands for the cluster's own registry. A pattern for imports
//! without a version matches every version.

use serde::Deserialize;

use crate::keys::{NamedKey, PublicKey};
use crate::pattern::Pattern;

/// The annotation of a Namespace that holds its policy.
pub const ANNOTATION: &str = "trust.coracle.dev/policy";
/// Longest policy, in bytes; all annotations together may have 256 KiB.
pub const POLICY_BYTES_MAX: usize = 64 << 10;
/// Most keys, sources or imports in one policy.
pub const ENTRIES_MAX: usize = 256;

/// What may run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Who must have signed.
    pub signatures: Option<Signatures>,
    /// Where images may come from: `HOST/REPOSITORY`.
    pub sources: Option<Vec<Pattern>>,
    /// What components may import.
    pub imports: Option<Vec<Pattern>>,
}

/// Who must have signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signatures {
    /// Keys that count.
    pub keys: Vec<NamedKey>,
    /// How many of them, at least 1.
    pub required: usize,
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("E_TRUST_POLICY: {field}: {message}; {fix}")]
pub struct PolicyError {
    /// The field inside the policy, or `policy`.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub fix: String,
}

impl PolicyError {
    fn new(field: impl Into<String>, message: impl Into<String>, fix: &str) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
            fix: fix.into(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    signatures: Option<WireSignatures>,
    sources: Option<Vec<String>>,
    imports: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignatures {
    keys: Vec<WireKey>,
    required: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireKey {
    name: String,
    public_key: String,
}

impl Policy {
    /// Reads the text of the annotation.
    ///
    /// # Errors
    /// Everything that is not exactly a policy: a mistyped field must not mean that everything is allowed.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::new(
                "policy",
                format!(
                    "it has {} bytes, and {POLICY_BYTES_MAX} are the limit",
                    text.len()
                ),
                "name fewer keys, or use patterns that end in *",
            ));
        }
        if text.trim().is_empty() {
            return Err(PolicyError::new(
                "policy",
                "it is empty",
                "remove the annotation to allow everything",
            ));
        }
        let wire: Wire = serde_saphyr::from_str(text).map_err(|e| {
            let message = e.without_snippet().to_string();
            let first = message.lines().next().unwrap_or_default();
            PolicyError::new(
                "policy",
                format!(
                    "it cannot be read: {}",
                    first.trim().trim_start_matches("error: ")
                ),
                "write the fields signatures (keys, required), sources and imports as YAML or JSON",
            )
        })?;
        Ok(Self {
            signatures: wire.signatures.map(signatures).transpose()?,
            sources: patterns("sources", wire.sources)?,
            imports: patterns("imports", wire.imports)?,
        })
    }

    /// Whether signatures have to be looked for.
    pub fn needs_signatures(&self) -> bool {
        self.signatures.is_some()
    }

    /// Whether the file has to be looked into.
    pub fn needs_imports(&self) -> bool {
        self.imports.is_some()
    }
}

fn signatures(wire: WireSignatures) -> Result<Signatures, PolicyError> {
    let field = "signatures.keys";
    if wire.keys.is_empty() || wire.keys.len() > ENTRIES_MAX {
        return Err(PolicyError::new(
            field,
            format!(
                "it has {} keys, and 1 to {ENTRIES_MAX} are allowed",
                wire.keys.len()
            ),
            "name the public keys of those who sign, or leave signatures out",
        ));
    }
    let mut keys: Vec<NamedKey> = Vec::with_capacity(wire.keys.len());
    for (n, key) in wire.keys.into_iter().enumerate() {
        let parsed = PublicKey::parse(&key.public_key).map_err(|e| {
            PolicyError::new(
                format!("{field}[{n}].publicKey"),
                format!("the key {:?} {e}", key.name),
                "paste the .pub file that `coracle key generate` or `cosign generate-key-pair` wrote",
            )
        })?;
        // The same key twice would let one signature count for two.
        if let Some(twin) = keys.iter().find(|k| k.key == parsed || k.name == key.name) {
            return Err(PolicyError::new(
                format!("{field}[{n}]"),
                format!(
                    "{:?} and {:?} have the same name or key",
                    twin.name, key.name
                ),
                "name every key once",
            ));
        }
        keys.push(NamedKey {
            name: key.name,
            key: parsed,
        });
    }
    let required = wire.required.unwrap_or(1);
    if required == 0 || required > keys.len() {
        return Err(PolicyError::new(
            "signatures.required",
            format!("{required} of {} keys cannot be required", keys.len()),
            "write a number from 1 to the number of keys",
        ));
    }
    Ok(Signatures { keys, required })
}

fn patterns(field: &str, texts: Option<Vec<String>>) -> Result<Option<Vec<Pattern>>, PolicyError> {
    let Some(texts) = texts else {
        return Ok(None);
    };
    if texts.len() > ENTRIES_MAX {
        return Err(PolicyError::new(
            field,
            format!(
                "it has {} entries, and {ENTRIES_MAX} are the limit",
                texts.len()
            ),
            "use patterns that end in *",
        ));
    }
    texts
        .iter()
        .enumerate()
        .map(|(n, text)| {
            Pattern::parse(text).map_err(|why| {
                PolicyError::new(
                    format!("{field}[{n}]"),
                    why,
                    "write a whole name, or a prefix that ends in /* or :*",
                )
            })
        })
        .collect::<Result<Vec<_>, _>>()
        .map(Some)
}
