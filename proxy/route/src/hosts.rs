//! The paths of one host, compiled: exact ones and prefixes, both found by binary search.

use std::collections::BTreeMap;

use crate::source::PathType;

/// The rules of one host. `T` is what a rule leads to.
#[derive(Clone, Debug)]
pub(crate) struct HostRules<T> {
    exact: Vec<(Box<[u8]>, T)>,
    /// Without their trailing slash; the root is the empty prefix.
    prefix: Vec<(Box<[u8]>, T)>,
    /// Of the ingress that named the host first.
    pub default: Option<T>,
}

impl<T> HostRules<T> {
    /// The rule for a normalised path: an exact one before the longest prefix, then the default.
    pub fn find(&self, path: &[u8]) -> Option<&T> {
        if let Some(found) = get(&self.exact, path) {
            return Some(found);
        }
        if !self.prefix.is_empty() {
            let mut rest = path.strip_suffix(b"/").unwrap_or(path);
            loop {
                if let Some(found) = get(&self.prefix, rest) {
                    return Some(found);
                }
                match rest.iter().rposition(|b| *b == b'/') {
                    Some(cut) => rest = &rest[..cut],
                    None => break,
                }
            }
        }
        self.default.as_ref()
    }
}

fn get<'a, T>(sorted: &'a [(Box<[u8]>, T)], path: &[u8]) -> Option<&'a T> {
    // A host with one or two rules is the common one.
    if sorted.len() <= 2 {
        return sorted
            .iter()
            .find(|(p, _)| p.as_ref() == path)
            .map(|(_, t)| t);
    }
    sorted
        .binary_search_by(|(p, _)| p.as_ref().cmp(path))
        .ok()
        .map(|i| &sorted[i].1)
}

/// Rules being collected; of two for the same path the first stays.
#[derive(Debug)]
pub(crate) struct HostBuilder<T> {
    exact: BTreeMap<Box<[u8]>, T>,
    prefix: BTreeMap<Box<[u8]>, T>,
    default: Option<T>,
}

impl<T> Default for HostBuilder<T> {
    fn default() -> Self {
        Self {
            exact: BTreeMap::new(),
            prefix: BTreeMap::new(),
            default: None,
        }
    }
}

impl<T> HostBuilder<T> {
    pub fn add(&mut self, path: &str, kind: PathType, target: T) {
        // A rule is written in the plain or in the encoded spelling; both mean the path that requests are matched by.
        let normal = crate::path::normalise(path)
            .map_or_else(|_| path.as_bytes().to_vec(), |n| n.matching.into_owned());
        match kind {
            PathType::Exact => drop(self.exact.entry(normal.into()).or_insert(target)),
            PathType::Prefix => {
                let stem = normal.strip_suffix(b"/").unwrap_or(&normal);
                self.prefix.entry(stem.into()).or_insert(target);
            }
        }
    }

    pub fn default(&mut self, target: T) {
        self.default.get_or_insert(target);
    }

    pub fn build(self) -> HostRules<T> {
        HostRules {
            exact: self.exact.into_iter().collect(),
            prefix: self.prefix.into_iter().collect(),
            default: self.default,
        }
    }
}
