//! Whether an image may run under a policy.

use std::collections::BTreeSet;

use crate::capability::interface;
use crate::imports::Imports;
use crate::pattern::Pattern;
use crate::policy::{Policy, Signatures};
use crate::verify::{Found, verify};

/// Imports named in one violation; the rest is a number.
const NAMED_MAX: usize = 5;

/// The image that is judged. Its tag is not part of it.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// As somebody wrote it, for messages.
    pub written: &'a str,
    /// Where it comes from: a host, or `cluster` for the cluster's own registry.
    pub host: &'a str,
    /// The repository there.
    pub repository: &'a str,
    /// The digest of its manifest, once it is known.
    pub digest: Option<&'a str>,
}

/// One reason why an image may not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `E_TRUST_SOURCE`, `E_TRUST_UNSIGNED` or `E_TRUST_IMPORT`.
    pub code: &'static str,
    /// The part of the policy.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub fix: String,
}

/// What a policy says of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Names of the policy's keys that vouch for it.
    pub signed_by: BTreeSet<String>,
    /// Why it may not run; empty if it may, as far as it was judged.
    pub violations: Vec<Violation>,
}

impl Verdict {
    /// Whether it may run.
    pub fn allowed(&self) -> bool {
        self.violations.is_empty()
    }
}

/// Judges. A part of the policy whose evidence is `None` is not judged: what nobody can know yet (an image that was not
/// pushed) is judged when it is there, by the node that runs it. Signatures are checked against the digest only, so
/// without one there can be none.
pub fn judge(
    policy: &Policy,
    image: &Image<'_>,
    found: Option<&[Found]>,
    imports: Option<&Imports>,
) -> Verdict {
    let mut verdict = Verdict::default();
    if let Some(allowed) = &policy.sources {
        verdict.violations.extend(source(allowed, image));
    }
    if let (Some(wanted), Some(found)) = (&policy.signatures, found) {
        signed(wanted, image, found, &mut verdict);
    }
    if let (Some(allowed), Some(imports)) = (&policy.imports, imports) {
        verdict.violations.extend(imported(allowed, image, imports));
    }
    verdict
}

fn source(allowed: &[Pattern], image: &Image<'_>) -> Option<Violation> {
    let name = format!("{}/{}", image.host, image.repository);
    (!allowed.iter().any(|p| p.matches(&name))).then(|| Violation {
        code: "E_TRUST_SOURCE",
        field: "sources",
        message: format!(
            "{} comes from {name}, and images of this namespace come from {}",
            image.written,
            list(allowed.iter().map(ToString::to_string))
        ),
        fix: "Use an image from there, or let an administrator add the source to the namespace's policy".into(),
    })
}

fn signed(wanted: &Signatures, image: &Image<'_>, found: &[Found], verdict: &mut Verdict) {
    let digest = image.digest.unwrap_or_default();
    let verified = verify(digest, found, &wanted.keys);
    let have = verified.keys().len();
    verdict
        .signed_by
        .extend(verified.valid.iter().map(|v| v.key.clone()));
    if have >= wanted.required {
        return;
    }
    let names = list(wanted.keys.iter().map(|k| k.name.clone()));
    let needed = match (wanted.required, wanted.keys.len()) {
        (1, 1) => format!("the key {names}"),
        (1, _) => format!("one of the keys {names}"),
        (n, all) => format!("{n} of the {all} keys {names}"),
    };
    let why = match have {
        0 => verified.reasons(),
        _ => format!("only {} signed it", list(verdict.signed_by.iter().cloned())),
    };
    verdict.violations.push(Violation {
        code: "E_TRUST_UNSIGNED",
        field: "signatures",
        message: format!(
            "{} ({}) must be signed by {needed}: {why}",
            image.written,
            if digest.is_empty() {
                "no digest"
            } else {
                digest
            },
        ),
        fix: "Sign it with `coracle sign IMAGE --key FILE` or `cosign sign --key FILE`".into(),
    });
}

fn imported(allowed: &[Pattern], image: &Image<'_>, imports: &Imports) -> Option<Violation> {
    let refused: Vec<&String> = imports
        .imports
        .iter()
        .filter(|import| {
            let bare = interface(import);
            !allowed.iter().any(|p| p.matches(import) || p.matches(bare))
        })
        .collect();
    if refused.is_empty() {
        return None;
    }
    let more = refused.len().saturating_sub(NAMED_MAX);
    let mut names = list(refused.iter().take(NAMED_MAX).map(ToString::to_string));
    if more > 0 {
        names = format!("{names} and {more} more");
    }
    Some(Violation {
        code: "E_TRUST_IMPORT",
        field: "imports",
        message: format!(
            "{} imports {names}, which this namespace does not allow",
            image.written
        ),
        fix: "Build the component without it, or let an administrator add the import to the namespace's policy".into(),
    })
}

fn list(names: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = names.collect();
    match all.is_empty() {
        true => "nowhere".into(),
        false => all.join(", "),
    }
}
