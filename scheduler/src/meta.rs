//! The registry's metadata over the replicated state: repositories, tags and links are internal tables, so they are in
//! every snapshot, backup and state hash.
//!
//! A client may push through one member and pull through the next, so what was acknowledged anywhere must be seen
//! everywhere. Rows under a digest say the same whenever they are read: the one that is here is good, and only a miss asks
//! the leader how far this member must be. What may have moved, tags and lists, asks first. Without a quorum that is "not
//! available, try again", never "not there". A single member pays nothing for it.

use std::ops::Bound;
use std::sync::Arc;

use coracle_registry::BoxFuture;
use coracle_registry::meta::{Change, Meta, MetaError, Precondition, Row, Write};
use coracle_registry::rows::TAGS;
use coracle_state::{Command, Expect, Key, Obj, Op, Propose, ProposeError, Refused, View, Views};

/// [`Meta`] through the log.
pub(crate) struct ReplicatedMeta {
    propose: Arc<dyn Propose>,
    views: Arc<dyn Views>,
}

/// `registry/tags` is `coracle.registry.tags` in the state.
fn table(name: &str) -> String {
    format!("coracle.{}", name.replace('/', "."))
}

fn row(obj: &Obj) -> Row {
    Row {
        version: obj.revision,
        value: obj.bytes.clone(),
    }
}

impl ReplicatedMeta {
    pub fn new(propose: Arc<dyn Propose>, views: Arc<dyn Views>) -> Self {
        Self { propose, views }
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), MetaError> {
        let commands = writes.iter().map(|w| Command {
            table: table(w.table),
            key: Key::new("", &w.key),
            expect: match w.precondition {
                Precondition::Any => Expect::Any,
                Precondition::Absent => Expect::Absent,
                Precondition::Version(v) => Expect::Revision(v),
            },
            op: match &w.change {
                Change::Keep => Op::Check,
                Change::Put(bytes) => Op::Put {
                    bytes: bytes.clone(),
                    claims: Vec::new(),
                },
                Change::Delete => Op::Delete,
            },
            group: 1,
        });
        let results = self
            .propose
            .propose(commands.collect())
            .await
            .map_err(failed)?;
        for (write, result) in writes.iter().zip(results) {
            match result {
                Ok(_) | Err(Refused::Group) => {}
                Err(Refused::Precondition { .. }) => {
                    // What it was decided on was old here; deciding anew on the same rows would be no better.
                    self.fresh().await?;
                    return Err(MetaError::Conflict {
                        table: write.table.into(),
                        key: write.key.clone(),
                    });
                }
                Err(other) => return Err(MetaError::Internal(other.to_string())),
            }
        }
        Ok(())
    }
}

impl ReplicatedMeta {
    /// Every row that was acknowledged before the call, by whichever member.
    async fn fresh(&self) -> Result<Arc<View>, MetaError> {
        self.views.fresh().await.map_err(failed)
    }

    async fn one(&self, name: &'static str, key: &str) -> Result<Option<Row>, MetaError> {
        let (table, key) = (table(name), Key::new("", key));
        if name != TAGS
            && let Some(obj) = self.views.view().get(&table, &key)
        {
            return Ok(Some(row(obj)));
        }
        Ok(self.fresh().await?.get(&table, &key).map(|o| row(o)))
    }

    async fn some(
        &self,
        name: &'static str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Row)>, MetaError> {
        let view = self.fresh().await?;
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(Key::new("", after)),
            _ => Bound::Included(Key::new("", prefix)),
        };
        Ok(view.tables.get(&table(name)).map_or_else(Vec::new, |t| {
            let range = t.objects.range((from, Bound::Unbounded));
            range
                .take_while(|(k, _)| k.name.starts_with(prefix))
                .take(limit)
                .map(|(k, o)| (k.name.clone(), row(o)))
                .collect()
        }))
    }
}

fn failed(e: ProposeError) -> MetaError {
    match e {
        ProposeError::TooLarge { .. } => MetaError::Internal(e.to_string()),
        ProposeError::NoLeader(_) | ProposeError::Unavailable(_) => {
            MetaError::Unavailable(e.to_string())
        }
    }
}

impl Meta for ReplicatedMeta {
    fn get<'a>(
        &'a self,
        name: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Row>, MetaError>> {
        Box::pin(self.one(name, key))
    }

    fn list<'a>(
        &'a self,
        name: &'static str,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, Row)>, MetaError>> {
        Box::pin(self.some(name, prefix, after, limit))
    }

    fn batch(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<(), MetaError>> {
        Box::pin(self.write(writes))
    }
}
