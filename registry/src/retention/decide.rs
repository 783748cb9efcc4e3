//! The decision of [`super`], over the rows of one repository.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Pattern, Policy};
use crate::digest::{Algorithm, Digest};
use crate::name::{TAG_BYTES_MAX, Tag};
use crate::rows::{ManifestRow, TagRow};

/// The rows of one repository.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Its tags.
    pub tags: BTreeMap<Tag, TagRow>,
    /// Its manifests.
    pub manifests: BTreeMap<Digest, ManifestRow>,
}

/// What goes: the tags first, then the manifests in this order, an index before what it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletions {
    /// By name.
    pub tags: Vec<Tag>,
    /// No tag that stays names any of them.
    pub manifests: Vec<Digest>,
}

/// What is to be deleted under `policies`, all of which are about this repository.
pub fn retain(contents: &Contents, policies: &[&Policy], now: Timestamp) -> Deletions {
    let abouts = Abouts::of(contents);
    let ordinary = contents.tags.iter();
    let ordinary: BTreeMap<&Tag, &TagRow> =
        ordinary.filter(|(tag, _)| !abouts.is_one(tag)).collect();
    let condemned = condemned(&ordinary, policies, now);
    let untagged = policies
        .iter()
        .filter_map(|policy| policy.untagged_older_than_seconds)
        .min();
    let is_old = |at| untagged.is_some_and(|seconds| is_older(at, now, seconds));

    let mut roots: Vec<&Digest> = Vec::new();
    let kept = ordinary.iter().filter(|(tag, _)| !condemned.contains(*tag));
    roots.extend(kept.map(|(_, row)| &row.digest));
    let young = contents.manifests.iter().filter(|(_, row)| !is_old(row.at));
    roots.extend(young.map(|(digest, _)| digest));
    // What is said about a manifest that is not here goes by its own age.
    let mut lonely: BTreeSet<&Tag> = BTreeSet::new();
    for tag in abouts.alone() {
        if let Some(row) = contents.tags.get(tag) {
            if is_old(row.at) && !is_kept(tag, policies) {
                lonely.insert(tag);
            } else {
                roots.push(&row.digest);
            }
        }
    }
    for (tag, row) in &contents.tags {
        if abouts.is_one(tag) && is_kept(tag, policies) {
            roots.push(&row.digest);
        }
    }

    let live = closure(contents, &abouts, roots);
    let dead: BTreeSet<&Digest> = contents
        .manifests
        .keys()
        .filter(|digest| !live.contains(digest))
        .collect();
    let mut tags: BTreeSet<&Tag> = condemned;
    tags.extend(lonely);
    tags.extend(
        abouts
            .of_manifests()
            .filter(|(subject, tag)| dead.contains(subject) && !is_kept(tag, policies))
            .map(|(_, tag)| tag),
    );
    Deletions {
        tags: tags.into_iter().cloned().collect(),
        manifests: parents_first(contents, &dead),
    }
}

fn is_older(at: Timestamp, now: Timestamp, seconds: u64) -> bool {
    let age = now.as_second().saturating_sub(at.as_second());
    u64::try_from(age).is_ok_and(|age| age >= seconds)
}

fn any(patterns: &[Pattern], tag: &Tag) -> bool {
    patterns.iter().any(|pattern| pattern.matches(tag.as_str()))
}

/// Whether any policy keeps a tag by its name.
fn is_kept(tag: &Tag, policies: &[&Policy]) -> bool {
    policies.iter().any(|policy| any(&policy.keep, tag))
}

/// Ordinary tags that some policy condemns and none protects.
fn condemned<'a>(
    tags: &BTreeMap<&'a Tag, &'a TagRow>,
    policies: &[&Policy],
    now: Timestamp,
) -> BTreeSet<&'a Tag> {
    let mut condemned: BTreeSet<&Tag> = BTreeSet::new();
    let mut protected: BTreeSet<&Tag> = BTreeSet::new();
    for policy in policies {
        let mut mine: Vec<(&Tag, &TagRow)> = tags
            .iter()
            .map(|(tag, row)| (*tag, *row))
            .filter(|(tag, _)| policy.tags.is_empty() || any(&policy.tags, tag))
            .collect();
        // Of tags set at once the greater name counts as newer, so that every member decides alike.
        mine.sort_by(|(a, a_row), (b, b_row)| (b_row.at, b).cmp(&(a_row.at, a)));
        let newest = policy.newest.unwrap_or_default() as usize;
        for (rank, (tag, row)) in mine.into_iter().enumerate() {
            let old = match policy.older_than_seconds {
                Some(seconds) => is_older(row.at, now, seconds),
                None => policy.newest.is_some(),
            };
            if rank < newest {
                protected.insert(tag);
            } else if old {
                condemned.insert(tag);
            }
        }
    }
    condemned
        .into_iter()
        .filter(|tag| !protected.contains(tag) && !is_kept(tag, policies))
        .collect()
}

/// Tags that are about a manifest by their name.
struct Abouts<'a> {
    by_subject: BTreeMap<&'a Digest, Vec<&'a Tag>>,
    alone: BTreeSet<&'a Tag>,
    all: BTreeSet<&'a Tag>,
}

impl<'a> Abouts<'a> {
    fn of(contents: &'a Contents) -> Abouts<'a> {
        let mut abouts = Abouts {
            by_subject: BTreeMap::new(),
            alone: BTreeSet::new(),
            all: BTreeSet::new(),
        };
        for tag in contents.tags.keys() {
            let Some((algorithm, hex)) = about(tag) else {
                continue;
            };
            abouts.all.insert(tag);
            match subject(contents, algorithm, hex) {
                Some(subject) => abouts.by_subject.entry(subject).or_default().push(tag),
                None => {
                    abouts.alone.insert(tag);
                }
            }
        }
        abouts
    }

    fn is_one(&self, tag: &Tag) -> bool {
        self.all.contains(tag)
    }

    fn alone(&self) -> impl Iterator<Item = &'a Tag> {
        self.alone.iter().copied()
    }

    fn of_manifests(&self) -> impl Iterator<Item = (&'a Digest, &'a Tag)> {
        self.by_subject
            .iter()
            .flat_map(|(subject, tags)| tags.iter().map(move |tag| (*subject, *tag)))
    }
}

/// What a tag such as `sha256-<hex>` or `sha256-<hex>.sig` is about: the algorithm, and as much of the digits as fit into
/// a tag (those of sha512 do not all).
fn about(tag: &Tag) -> Option<(Algorithm, &str)> {
    let text = tag.as_str();
    let stem = text.split_once('.').map_or(text, |(stem, _)| stem);
    let (algorithm, hex) = stem.split_once('-')?;
    let algorithm: Algorithm = algorithm.parse().ok()?;
    let fits = TAG_BYTES_MAX - algorithm.name().len() - 1;
    let whole = algorithm.hex_len().min(fits);
    let digits = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (digits && hex.len() == whole).then_some((algorithm, hex))
}

/// The manifest whose digits begin with these.
fn subject<'a>(contents: &'a Contents, algorithm: Algorithm, hex: &str) -> Option<&'a Digest> {
    let (name, width) = (algorithm.name(), algorithm.hex_len());
    let first: Digest = format!("{name}:{hex:0<width$}").parse().ok()?;
    let (found, _) = contents.manifests.range(first..).next()?;
    (found.algorithm() == algorithm && found.hex().starts_with(hex)).then_some(found)
}

/// Everything that what stays leads to: what an index names, what refers to a manifest, what tags say about it.
fn closure<'a>(
    contents: &'a Contents,
    abouts: &Abouts<'a>,
    roots: Vec<&'a Digest>,
) -> BTreeSet<&'a Digest> {
    let mut referrers: BTreeMap<&Digest, Vec<&Digest>> = BTreeMap::new();
    for (digest, row) in &contents.manifests {
        if let Some(subject) = &row.subject {
            referrers.entry(subject).or_default().push(digest);
        }
    }
    let mut live: BTreeSet<&Digest> = BTreeSet::new();
    let mut next = roots;
    while let Some(digest) = next.pop() {
        if !live.insert(digest) {
            continue;
        }
        if let Some(row) = contents.manifests.get(digest) {
            next.extend(&row.children);
        }
        next.extend(referrers.get(digest).into_iter().flatten());
        for tag in abouts.by_subject.get(digest).into_iter().flatten() {
            next.extend(contents.tags.get(*tag).map(|row| &row.digest));
        }
    }
    live
}

/// `dead` in an order in which no manifest comes before one that names it, so that a run that is cut short leaves no index
/// with holes.
fn parents_first(contents: &Contents, dead: &BTreeSet<&Digest>) -> Vec<Digest> {
    let mut named: BTreeMap<&Digest, usize> = dead.iter().map(|digest| (*digest, 0)).collect();
    for digest in dead {
        for child in children(contents, digest) {
            if let Some(by) = named.get_mut(child) {
                *by += 1;
            }
        }
    }
    let mut ready: Vec<&Digest> = named
        .iter()
        .filter(|(_, by)| **by == 0)
        .map(|(digest, _)| *digest)
        .collect();
    let mut order = Vec::new();
    while let Some(digest) = ready.pop() {
        order.push(digest.clone());
        for child in children(contents, digest) {
            if let Some(by) = named.get_mut(child) {
                *by -= 1;
                if *by == 0 {
                    ready.push(child);
                }
            }
        }
    }
    order
}

/// What an index names.
fn children<'a>(contents: &'a Contents, digest: &Digest) -> Vec<&'a Digest> {
    let row = contents.manifests.get(digest);
    row.into_iter().flat_map(|row| &row.children).collect()
}
