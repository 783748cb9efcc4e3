//! Who holds certificates, what they report, and when a phase of a rotation is over: pure.

use std::collections::{BTreeMap, BTreeSet};

use coracle_api::Key;
use coracle_raft::node_id_text;
use coracle_state::View;
use serde::{Deserialize, Serialize};

use crate::pki::Phase;

/// Table of reports.
pub(crate) const REPORTS: &str = "coracle.certs";
/// Holders named in a sentence; the status has all of them.
const NAMED_MAX: usize = 5;

/// Who holds a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// A scheduler member, by id (16 hex digits).
    Member(String),
    /// A runner, by name.
    Node(String),
}

impl Holder {
    /// Kind and name.
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Holder::Member(id) => ("member", id),
            Holder::Node(name) => ("node", name),
        }
    }

    /// Key of its report.
    pub fn key(&self) -> Key {
        let (kind, name) = self.parts();
        Key::new(kind, name)
    }

    /// Whose report a row is.
    pub fn of(key: &Key) -> Option<Self> {
        match key.namespace.as_str() {
            "member" => Some(Holder::Member(key.name.clone())),
            "node" => Some(Holder::Node(key.name.clone())),
            _ => None,
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, name) = self.parts();
        write!(f, "{kind} {name}")
    }
}

/// What a holder says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Node id, 16 hex digits.
    pub id: String,
    /// SHA-256 of the root that its certificate is under.
    pub issuer: String,
    /// SHA-256 of the roots it trusts.
    pub trusts: Vec<String>,
    /// When its certificate ends, RFC 3339.
    pub expires: String,
    /// A member's registry listeners, `HOST:PORT`: these hosts in image names mean the cluster's own registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registry: Vec<String>,
}

/// What follows from record and reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is no rotation.
    Idle,
    /// These have not done yet what the phase asks for.
    Wait(Vec<Holder>),
    /// All have: on to the next phase.
    Advance,
}

/// Decides. `hashes` are those of the record's roots, the issuing one first.
pub(crate) fn step(
    phase: Option<Phase>,
    hashes: &[String],
    required: &BTreeSet<Holder>,
    reports: &BTreeMap<Holder, Report>,
) -> Step {
    let (Some(phase), [issuing, other]) = (phase, hashes) else {
        return Step::Idle;
    };
    let done = |report: &Report| match phase {
        Phase::Spreading => report.trusts.contains(other),
        Phase::Renewing => report.issuer == *issuing && report.trusts.contains(issuing),
    };
    let missing: Vec<Holder> = required
        .iter()
        .filter(|h| !reports.get(h).is_some_and(done))
        .cloned()
        .collect();
    if missing.is_empty() {
        Step::Advance
    } else {
        Step::Wait(missing)
    }
}

/// Everyone who must have followed: members and registered nodes.
pub(super) fn required(members: impl IntoIterator<Item = u64>, view: &View) -> BTreeSet<Holder> {
    let members = members
        .into_iter()
        .map(|id| Holder::Member(node_id_text(id)));
    let nodes = view
        .list("nodes", None)
        .map(|n| Holder::Node(n.key.name.clone()));
    members.chain(nodes).collect()
}

/// What was reported.
pub(super) fn reports(view: &View) -> BTreeMap<Holder, Report> {
    view.list(REPORTS, None)
        .filter_map(|row| {
            // A row that does not read counts as none: its holder reports again.
            Some((
                Holder::of(&row.key)?,
                serde_json::from_slice(&row.bytes).ok()?,
            ))
        })
        .collect()
}

/// Hosts in image names that mean the cluster's own registry: its listeners on all members.
pub(crate) fn registries(view: &View) -> Vec<String> {
    let mut all: Vec<String> = reports(view)
        .into_values()
        .flat_map(|r| r.registry)
        .collect();
    all.sort();
    all.dedup();
    all
}

/// The names in a list of holders, for a sentence.
pub(super) fn named(holders: &[Holder]) -> String {
    let mut text = holders
        .iter()
        .take(NAMED_MAX)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if holders.len() > NAMED_MAX {
        text.push_str(&format!(" and {} more", holders.len() - NAMED_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(issuer: &str, trusts: &[&str]) -> Report {
        Report {
            issuer: issuer.into(),
            trusts: trusts.iter().map(ToString::to_string).collect(),
            ..Report::default()
        }
    }

    #[test]
    fn a_phase_ends_when_the_last_holder_has_followed() {
        let member = || Holder::Member("01".into());
        let node = |n: &str| Holder::Node(n.into());
        let all = [member(), node("a"), node("b")];
        let (behind, knows, renewed) = (
            report("old", &["old"]),
            report("old", &["old", "new"]),
            report("new", &["new", "old"]),
        );
        // While spreading the old root is first; while renewing the new one.
        let (spreading, renewing) = (["old", "new"], ["new", "old"]);
        let cases: [(&str, Option<Phase>, [Option<&Report>; 3], Step); 9] = [
            ("no rotation", None, [None; 3], Step::Idle),
            (
                "nobody",
                Some(Phase::Spreading),
                [None; 3],
                Step::Wait(all.to_vec()),
            ),
            (
                "one behind",
                Some(Phase::Spreading),
                [Some(&knows), Some(&behind), Some(&knows)],
                Step::Wait(vec![node("a")]),
            ),
            (
                "all know",
                Some(Phase::Spreading),
                [Some(&knows), Some(&knows), Some(&knows)],
                Step::Advance,
            ),
            (
                "one has gone ahead",
                Some(Phase::Spreading),
                [Some(&knows), Some(&renewed), Some(&knows)],
                Step::Advance,
            ),
            (
                "none has renewed",
                Some(Phase::Renewing),
                [Some(&knows), Some(&knows), Some(&knows)],
                Step::Wait(all.to_vec()),
            ),
            (
                "the member has not",
                Some(Phase::Renewing),
                [Some(&knows), Some(&renewed), Some(&renewed)],
                Step::Wait(vec![member()]),
            ),
            (
                "a new node has said nothing",
                Some(Phase::Renewing),
                [Some(&renewed), Some(&renewed), None],
                Step::Wait(vec![node("b")]),
            ),
            (
                "all have",
                Some(Phase::Renewing),
                [Some(&renewed), Some(&renewed), Some(&renewed)],
                Step::Advance,
            ),
        ];
        let required: BTreeSet<Holder> = all.iter().cloned().collect();
        for (what, phase, said, want) in cases {
            let reports = all
                .iter()
                .cloned()
                .zip(said)
                .filter_map(|(h, r)| Some((h, r?.clone())))
                .collect();
            let hashes = match phase {
                Some(Phase::Renewing) => renewing,
                _ => spreading,
            };
            let hashes = hashes.map(String::from);
            assert_eq!(step(phase, &hashes, &required, &reports), want, "{what}");
        }
        // Somebody who left is not waited for.
        let reports = [(member(), renewed.clone())].into();
        let only = [member()].into();
        let hashes = renewing.map(String::from);
        assert_eq!(
            step(Some(Phase::Renewing), &hashes, &only, &reports),
            Step::Advance
        );
        // One root is no rotation, whatever the phase says.
        assert_eq!(
            step(Some(Phase::Renewing), &hashes[..1], &only, &reports),
            Step::Idle
        );
    }

    #[test]
    fn a_long_list_is_cut_in_a_sentence() {
        let nodes: Vec<Holder> = (0..7).map(|n| Holder::Node(format!("n{n}"))).collect();
        assert_eq!(named(&nodes[..1]), "node n0");
        assert!(named(&nodes).ends_with("node n4 and 2 more"));
    }
}
