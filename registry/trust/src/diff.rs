//! What a new version of an image can do that the old one could not.

use std::collections::BTreeSet;

use crate::capability::{Capability, capabilities};
use crate::imports::Imports;

/// The difference between two files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Imports only the new one has.
    pub imports_added: BTreeSet<String>,
    /// Imports only the old one has.
    pub imports_removed: BTreeSet<String>,
    /// Exports only the new one has.
    pub exports_added: BTreeSet<String>,
    /// Exports only the old one has.
    pub exports_removed: BTreeSet<String>,
    /// What the new one can do and the old one could not. Another version of the same interface is no gain.
    pub gained: BTreeSet<Capability>,
    /// The reverse.
    pub lost: BTreeSet<Capability>,
}

impl Diff {
    /// Whether the two have the same surface.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares an old file with a new one.
pub fn diff(old: &Imports, new: &Imports) -> Diff {
    fn less<T: Ord + Clone>(a: &BTreeSet<T>, b: &BTreeSet<T>) -> BTreeSet<T> {
        a.difference(b).cloned().collect()
    }
    let (could, can) = (capabilities(&old.imports), capabilities(&new.imports));
    Diff {
        imports_added: less(&new.imports, &old.imports),
        imports_removed: less(&old.imports, &new.imports),
        exports_added: less(&new.exports, &old.exports),
        exports_removed: less(&old.exports, &new.exports),
        gained: less(&can, &could),
        lost: less(&could, &can),
    }
}
