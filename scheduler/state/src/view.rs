//! An immutable snapshot of the state: what planners decide on and servers answer from.

use std::sync::Arc;

use coracle_api::{Amounts, Key, Timestamp};
use imbl::OrdMap;

use crate::ring::Event;
use crate::rows::Tables;
use crate::table::Obj;

/// A snapshot. Cloning is one reference count per table.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The newest revision.
    pub revision: u64,
    /// Logged time of the last batch.
    pub at: Timestamp,
    /// Tables by name.
    pub tables: Tables,
    /// What bound pods use, by node.
    pub node_used: OrdMap<String, Amounts>,
    /// Holder (`table`, key) of each unique value, by (space, value).
    pub held: OrdMap<(String, String), (String, Key)>,
}

impl View {
    /// One object.
    pub fn get(&self, table: &str, key: &Key) -> Option<&Arc<Obj>> {
        self.tables.get(table)?.objects.get(key)
    }

    /// Objects of a table in key order, in one namespace or all of them.
    pub fn list<'a>(
        &'a self,
        table: &str,
        namespace: Option<&str>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Obj>> + 'a> {
        let Some(t) = self.tables.get(table) else {
            return Box::new(std::iter::empty());
        };
        match namespace {
            None => Box::new(t.objects.values()),
            Some(ns) => {
                let ns = ns.to_string();
                Box::new(
                    t.objects
                        .range(Key::new(ns.clone(), "")..)
                        .take_while(move |(k, _)| k.namespace == ns)
                        .map(|(_, o)| o),
                )
            }
        }
    }

    /// Objects of a table owned by this uid.
    pub fn owned_by<'a>(
        &'a self,
        table: &str,
        uid: &str,
    ) -> Box<dyn Iterator<Item = &'a Arc<Obj>> + 'a> {
        let Some(t) = self.tables.get(table) else {
            return Box::new(std::iter::empty());
        };
        let Some(keys) = t.by_owner.get(uid) else {
            return Box::new(std::iter::empty());
        };
        Box::new(keys.iter().filter_map(|k| t.objects.get(k)))
    }

    /// Pods bound to this node.
    pub fn on_node<'a>(&'a self, node: &str) -> Box<dyn Iterator<Item = &'a Arc<Obj>> + 'a> {
        let Some(t) = self.tables.get("pods") else {
            return Box::new(std::iter::empty());
        };
        let Some(keys) = t.by_node.get(node) else {
            return Box::new(std::iter::empty());
        };
        Box::new(keys.iter().filter_map(|k| t.objects.get(k)))
    }

    /// What bound pods use on a node.
    pub fn used(&self, node: &str) -> Amounts {
        self.node_used.get(node).copied().unwrap_or_default()
    }

    /// Whether a unique value is free.
    pub fn free(&self, space: &str, value: &str) -> bool {
        !self
            .held
            .contains_key(&(space.to_string(), value.to_string()))
    }

    /// Events of a table after `revision`, oldest first; `None` if some are no longer kept (410 Expired).
    pub fn events_after(&self, table: &str, revision: u64) -> Option<Vec<Arc<Event>>> {
        match self.tables.get(table) {
            None => Some(Vec::new()),
            Some(t) => t.events_after(revision),
        }
    }

    /// This view with one table as it was at an earlier revision; `None` if that is no longer known. Only that table
    /// and the revision are of then.
    pub fn rewound(&self, table: &str, revision: u64) -> Option<Self> {
        if revision > self.revision {
            return None;
        }
        let mut then = self.clone();
        then.revision = revision;
        if let Some(now) = self.tables.get(table) {
            then.tables.insert(table.to_string(), now.at(revision)?);
        }
        Some(then)
    }
}
