//! Metadata in memory: for tests. The semantics, including refused no-ops and versions, are those of the cluster.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Change, Meta, MetaError, Precondition, Row, Write};
use crate::BoxFuture;

#[derive(Default)]
struct Inner {
    revision: u64,
    rows: BTreeMap<(&'static str, String), Row>,
}

/// The store.
#[derive(Default)]
pub struct Memory {
    inner: Mutex<Inner>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section leaves the map whole, so a panicking holder does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn apply(&mut self, writes: Vec<Write>) -> Result<(), MetaError> {
        for write in &writes {
            let found = self
                .rows
                .get(&(write.table, write.key.clone()))
                .map(|row| row.version);
            let holds = match write.precondition {
                Precondition::Any => true,
                Precondition::Absent => found.is_none(),
                Precondition::Version(version) => found == Some(version),
            };
            if !holds {
                return Err(MetaError::Conflict {
                    table: write.table.to_owned(),
                    key: write.key.clone(),
                });
            }
        }
        for write in writes {
            let at = (write.table, write.key);
            match write.change {
                Change::Keep => {}
                Change::Put(value) => {
                    if self.rows.get(&at).is_none_or(|row| row.value != value) {
                        self.revision += 1;
                        let version = self.revision;
                        self.rows.insert(at, Row { version, value });
                    }
                }
                Change::Delete => {
                    self.rows.remove(&at);
                }
            }
        }
        Ok(())
    }
}

impl Meta for Memory {
    fn get<'a>(
        &'a self,
        table: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Row>, MetaError>> {
        let row = self.lock().rows.get(&(table, key.to_owned())).cloned();
        Box::pin(std::future::ready(Ok(row)))
    }

    fn list<'a>(
        &'a self,
        table: &'static str,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, Row)>, MetaError>> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded((table, after.to_owned())),
            _ => Bound::Included((table, prefix.to_owned())),
        };
        let rows = self
            .lock()
            .rows
            .range((from, Bound::Unbounded))
            .take_while(|((at, key), _)| *at == table && key.starts_with(prefix))
            .take(limit)
            .map(|((_, key), row)| (key.clone(), row.clone()))
            .collect();
        Box::pin(std::future::ready(Ok(rows)))
    }

    fn batch(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<(), MetaError>> {
        let done = self.lock().apply(writes);
        Box::pin(std::future::ready(done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn put(key: &str, precondition: Precondition, value: &'static [u8]) -> Write {
        Write {
            table: "t",
            key: key.into(),
            precondition,
            change: Change::Put(Bytes::from_static(value)),
        }
    }

    #[tokio::test]
    async fn batches_are_all_or_nothing() {
        let meta = Memory::new();
        meta.batch(vec![put("a", Precondition::Absent, b"1")])
            .await
            .unwrap();
        let refused = meta
            .batch(vec![
                put("b", Precondition::Any, b"1"),
                put("a", Precondition::Absent, b"2"),
            ])
            .await;
        assert!(matches!(refused, Err(MetaError::Conflict { .. })));
        assert!(meta.get("t", "b").await.unwrap().is_none());
        let version = meta.get("t", "a").await.unwrap().unwrap().version;
        meta.batch(vec![put("a", Precondition::Version(version), b"2")])
            .await
            .unwrap();
        let stale = meta
            .batch(vec![put("a", Precondition::Version(version), b"3")])
            .await;
        assert!(stale.is_err());
    }

    #[tokio::test]
    async fn lists_page_in_key_order() {
        let meta = Memory::new();
        for key in ["r:b", "r:a", "s:a", "r:c", "q:z"] {
            meta.batch(vec![put(key, Precondition::Any, b"x")])
                .await
                .unwrap();
        }
        let keys = |rows: Vec<(String, Row)>| rows.into_iter().map(|(k, _)| k).collect::<Vec<_>>();
        let all = meta.list("t", "r:", None, 10).await.unwrap();
        assert_eq!(keys(all), ["r:a", "r:b", "r:c"]);
        let rest = meta.list("t", "r:", Some("r:a"), 1).await.unwrap();
        assert_eq!(keys(rest), ["r:b"]);
        assert!(
            meta.list("t", "r:", Some("r:c"), 9)
                .await
                .unwrap()
                .is_empty()
        );
    }
}
