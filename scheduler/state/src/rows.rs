//! The containers of a view: cheap to clone, because a view is published after every batch and kept by readers, and
//! cheap to change after a clone, because every write comes after one.

use std::borrow::Borrow;
use std::ops::{Index, RangeBounds};
use std::sync::Arc;

use coracle_api::{Key, Timestamp};
use imbl::OrdSet;

use crate::table::{Obj, Table};

/// An object ordered by its key. The tree holds references only: changing a shared tree copies the nodes on the way,
/// and copying a node must not copy the texts of its keys. (Inner nodes may go on holding an object that was replaced,
/// one in thirty at most.)
#[derive(Clone, Debug)]
struct Row(Arc<Obj>);

impl Borrow<Key> for Row {
    fn borrow(&self) -> &Key {
        &self.0.key
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Row {}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

/// Objects by key. Cloning is O(1).
#[derive(Clone, Debug, Default)]
pub struct Objects(OrdSet<Row>);

impl Objects {
    /// The object under a key.
    pub fn get(&self, key: &Key) -> Option<&Arc<Obj>> {
        self.0.get(key).map(|row| &row.0)
    }

    /// Whether there is one.
    pub fn contains_key(&self, key: &Key) -> bool {
        self.0.contains(key)
    }

    /// Stores an object under its own key; returns the one it replaces.
    pub fn insert(&mut self, key: Key, obj: Arc<Obj>) -> Option<Arc<Obj>> {
        debug_assert_eq!(key, obj.key);
        self.0.insert(Row(obj)).map(|row| row.0)
    }

    /// Takes out the object under a key.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Obj>> {
        self.0.remove(key).map(|row| row.0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In key order.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Arc<Obj>> + '_ {
        self.0.iter().map(|row| &row.0)
    }

    /// With keys, in key order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Key, &Arc<Obj>)> + '_ {
        self.values().map(|obj| (&obj.key, obj))
    }

    /// Those in a range of keys, in key order.
    pub fn range(
        &self,
        range: impl RangeBounds<Key>,
    ) -> impl DoubleEndedIterator<Item = (&Key, &Arc<Obj>)> + '_ {
        self.0.range(range).map(|row| (&row.0.key, &row.0))
    }
}

/// Tables by name. Cloning copies one reference per table; changing one table after that copies that table's handful
/// of roots. There are a few dozen, so they are a sorted list.
#[derive(Clone, Debug, Default)]
pub struct Tables(Vec<(Arc<String>, Arc<Table>)>);

impl Tables {
    fn at(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(n, _)| n.as_str().cmp(name))
    }

    /// The table of a name.
    pub fn get(&self, name: &str) -> Option<&Table> {
        self.at(name).ok().map(|at| self.0[at].1.as_ref())
    }

    /// The table of a name, to be changed; made if it is not there.
    pub fn open(&mut self, name: &str) -> &mut Table {
        let at = self.at(name).unwrap_or_else(|at| {
            let new = (Arc::new(name.to_string()), Arc::default());
            self.0.insert(at, new);
            at
        });
        Arc::make_mut(&mut self.0[at].1)
    }

    /// Puts a table in the place of another, or of none.
    pub fn insert(&mut self, name: String, table: Table) {
        *self.open(&name) = table;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With names, in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Table)> + '_ {
        self.0.iter().map(|(n, t)| (n.as_ref(), t.as_ref()))
    }

    /// In name order.
    pub fn values(&self) -> impl Iterator<Item = &Table> + '_ {
        self.0.iter().map(|(_, t)| t.as_ref())
    }

    /// With names, in name order, all to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut Table)> + '_ {
        self.0.iter_mut().map(|entry| {
            let name: &String = &entry.0;
            (name, Arc::make_mut(&mut entry.1))
        })
    }

    /// Trims the rings of those that need it; the others stay shared with earlier clones.
    pub(crate) fn trim(&mut self, now: Timestamp) {
        for (_, table) in &mut self.0 {
            if table.untrimmed(now) {
                Arc::make_mut(table).trim(now);
            }
        }
    }
}

impl Index<&str> for Tables {
    type Output = Table;

    /// Panics if there is no such table.
    fn index(&self, name: &str) -> &Table {
        self.get(name).expect("a table of that name")
    }
}

impl<'a> IntoIterator for &'a Tables {
    type Item = (&'a String, &'a Table);
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl<'a> IntoIterator for &'a mut Tables {
    type Item = (&'a String, &'a mut Table);
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter_mut())
    }
}
