//! Tables of objects. API kinds take revisions from the cluster-wide counter and have an event ring; internal tables
//! (registry metadata, pki, tokens) have neither, but are in snapshot, backup and hash like everything else.

use std::sync::Arc;

use bytes::Bytes;
use coracle_api::{Attrs, Claim, Key, canonical};
use imbl::{OrdMap, OrdSet, Vector};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::ring::Event;
use crate::rows::Objects;

/// Whether a table is internal: no resourceVersion, no events. Their names begin with `coracle.`.
pub fn internal(table: &str) -> bool {
    table.starts_with("coracle.")
}

/// One stored object.
#[derive(Debug)]
pub struct Obj {
    /// Where it is.
    pub key: Key,
    /// Revision of its creation.
    pub created: u64,
    /// Revision of its last write = resourceVersion (internal tables: their own counter).
    pub revision: u64,
    /// Canonical bytes, without resourceVersion.
    pub bytes: Bytes,
    /// What it holds.
    pub claims: Vec<Claim>,
    /// Derived attributes.
    pub attrs: Attrs,
}

impl Obj {
    /// The object as JSON, with its resourceVersion.
    pub fn value(&self) -> Value {
        let mut v: Value = serde_json::from_slice(&self.bytes).unwrap_or(Value::Null);
        if v["metadata"].is_object() {
            v["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        }
        v
    }

    /// The object as a typed struct of `k8s-openapi`. Objects were validated before they were stored, so an error
    /// here means an object from another version; the caller skips it and says so.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.bytes)
    }

    /// Wire bytes with the resourceVersion spliced in.
    pub fn wire(&self) -> Bytes {
        canonical::with_revision(&self.bytes, self.revision)
    }

    /// This row's part of the state hash.
    pub(crate) fn row_hash(&self, table: &str) -> u64 {
        let mut h = Sha256::new();
        for part in [
            table.as_bytes(),
            self.key.namespace.as_bytes(),
            self.key.name.as_bytes(),
            &self.bytes,
        ] {
            h.update((part.len() as u64).to_le_bytes());
            h.update(part);
        }
        h.update(self.created.to_le_bytes());
        h.update(self.revision.to_le_bytes());
        for c in &self.claims {
            h.update(format!("{c:?}"));
        }
        let d = h.finalize();
        u64::from_le_bytes(d[..8].try_into().expect("sha256 has 32 bytes"))
    }
}

/// Objects of one kind with their indexes and events. Cloning is O(1).
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Objects by key.
    pub objects: Objects,
    /// Keys by the uid of each owner.
    pub by_owner: OrdMap<String, OrdSet<Key>>,
    /// Keys by `spec.nodeName` (pods).
    pub by_node: OrdMap<String, OrdSet<Key>>,
    /// The last changes, oldest first.
    pub ring: Vector<Arc<Event>>,
    /// Revision of the newest event that is no longer in the ring: a watch from below it is too old.
    pub ring_floor: u64,
    /// Bytes referenced by the ring.
    pub ring_bytes: usize,
}

impl Table {
    pub(crate) fn index(&mut self, obj: &Obj) {
        for owner in &obj.attrs.owners {
            self.by_owner
                .entry(owner.uid.clone())
                .or_default()
                .insert(obj.key.clone());
        }
        if !obj.attrs.node_name.is_empty() {
            self.by_node
                .entry(obj.attrs.node_name.clone())
                .or_default()
                .insert(obj.key.clone());
        }
    }

    pub(crate) fn unindex(&mut self, obj: &Obj) {
        for owner in &obj.attrs.owners {
            remove(&mut self.by_owner, &owner.uid, &obj.key);
        }
        if !obj.attrs.node_name.is_empty() {
            remove(&mut self.by_node, &obj.attrs.node_name, &obj.key);
        }
    }
}

fn remove(index: &mut OrdMap<String, OrdSet<Key>>, at: &str, key: &Key) {
    if let Some(set) = index.get_mut(at) {
        set.remove(key);
        if set.is_empty() {
            index.remove(at);
        }
    }
}
