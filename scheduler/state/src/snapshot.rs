//! The snapshot: a version byte, then length-prefixed CBOR records, ending in a trailer with count and hash.
//! It holds every row and the ring, so that a watch survives a restart or an install. Written and read as streams.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use coracle_api::{Attrs, Claim, Key, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Results;
use crate::apply::State;
use crate::command::FormatError;
use crate::ring::{Change, Event, Frame};
use crate::table::{Obj, internal};
use crate::view::View;

/// Version byte of the snapshot format.
pub const FORMAT: u8 = 1;
/// Bound on one record: the largest object plus its envelope.
const RECORD_BYTES_MAX: u32 = 64 << 20;
/// How far a new history begins above the old one: far more writes than any cluster makes between a backup and its
/// restore, and small enough that nine million restores fit the 2^53 that JavaScript clients count to.
pub const NEW_HISTORY: u64 = 1_000_000_000;

/// How much one table holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Table name.
    pub table: String,
    /// Objects in it.
    pub objects: u64,
    /// Bytes of those objects, without keys and indexes.
    pub bytes: u64,
}

/// Counts what a snapshot of this view holds, by table in name order; empty tables are left out.
pub fn census(view: &View) -> Vec<Census> {
    let count = |(name, table): (&String, &crate::table::Table)| {
        let bytes = table.objects.values().map(|o| o.bytes.len() as u64).sum();
        Census {
            table: name.clone(),
            objects: table.objects.len() as u64,
            bytes,
        }
    };
    let all = view.tables.iter().map(count);
    all.filter(|c| c.objects > 0).collect()
}

/// Makes this state the beginning of a new history, of which nobody has seen anything: after a restore or the loss of
/// a quorum, clients may hold revisions that this state never reached. Counters rise by [`NEW_HISTORY`]; every ring is
/// empty with its floor at the new revision, also of kinds without objects, so that each watch of before gets 410 and
/// lists again. Answers kept for retries are forgotten: their proposals belong to the old history. No object changes.
pub fn new_history(state: &mut State) {
    state.view.revision = state.view.revision.saturating_add(NEW_HISTORY);
    state.internal_revision = state.internal_revision.saturating_add(NEW_HISTORY);
    let floor = state.view.revision;
    for kind in coracle_api::kinds::KINDS.iter().filter(|k| k.stored) {
        state.table_mut(kind.table);
    }
    for (name, table) in &mut state.view.tables {
        if !internal(name) {
            table.ring.clear();
            table.ring_bytes = 0;
            table.ring_floor = floor;
        }
    }
    state.replies.clear();
    state.reply_order.clear();
}

#[derive(Serialize, Deserialize)]
enum Record {
    Header {
        revision: u64,
        internal_revision: u64,
        at: Timestamp,
    },
    Table {
        name: String,
        ring_floor: u64,
    },
    Row {
        key: Key,
        created: u64,
        revision: u64,
        bytes: serde_bytes_compat::Raw,
        claims: Vec<Claim>,
    },
    /// A ring entry; `None` bytes mean the live row of that key at that revision.
    Ring {
        revision: u64,
        at: Timestamp,
        change: u8,
        key: Key,
        obj: RingObj,
        before: Option<RingObj>,
    },
    Reply {
        id: u64,
        results: Results,
    },
    End {
        rows: u64,
        hash: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct RingObj {
    created: u64,
    revision: u64,
    bytes: serde_bytes_compat::Raw,
    claims: Vec<Claim>,
}

impl RingObj {
    fn of(o: &Obj) -> Self {
        Self {
            created: o.created,
            revision: o.revision,
            bytes: serde_bytes_compat::Raw(o.bytes.clone()),
            claims: o.claims.clone(),
        }
    }

    fn obj(self, table: &str, key: &Key) -> Arc<Obj> {
        Arc::new(make(
            table,
            key.clone(),
            self.created,
            self.revision,
            self.bytes.0,
            self.claims,
        ))
    }
}

fn make(
    table: &str,
    key: Key,
    created: u64,
    revision: u64,
    bytes: Bytes,
    claims: Vec<Claim>,
) -> Obj {
    let attrs = if internal(table) {
        Attrs::default()
    } else {
        Attrs::derive(
            table,
            &serde_json::from_slice(&bytes).unwrap_or(serde_json::Value::Null),
        )
    };
    Obj {
        key,
        created,
        revision,
        bytes,
        claims,
        attrs,
    }
}

/// Writes the whole state. Errors are the writer's.
pub fn write(state: &State, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[FORMAT])?;
    let v = &state.view;
    put(
        out,
        &Record::Header {
            revision: v.revision,
            internal_revision: state.internal_revision,
            at: v.at,
        },
    )?;
    let mut rows = 0u64;
    for (name, table) in &v.tables {
        put(
            out,
            &Record::Table {
                name: name.clone(),
                ring_floor: table.ring_floor,
            },
        )?;
        for o in table.objects.values() {
            rows += 1;
            put(
                out,
                &Record::Row {
                    key: o.key.clone(),
                    created: o.created,
                    revision: o.revision,
                    bytes: serde_bytes_compat::Raw(o.bytes.clone()),
                    claims: o.claims.clone(),
                },
            )?;
        }
        for e in &table.ring {
            let change = match e.change {
                Change::Added => 0,
                Change::Modified => 1,
                Change::Deleted => 2,
            };
            put(
                out,
                &Record::Ring {
                    revision: e.revision,
                    at: e.at,
                    change,
                    key: e.obj.key.clone(),
                    obj: RingObj::of(&e.obj),
                    before: e.before.as_deref().map(RingObj::of),
                },
            )?;
        }
    }
    for id in &state.reply_order {
        if let Some(results) = state.replies.get(id) {
            put(
                out,
                &Record::Reply {
                    id: *id,
                    results: results.as_ref().clone(),
                },
            )?;
        }
    }
    put(
        out,
        &Record::End {
            rows,
            hash: state.hash(),
        },
    )
}

fn put(out: &mut dyn Write, record: &Record) -> io::Result<()> {
    let mut buf = Vec::new();
    ciborium::into_writer(record, &mut buf).map_err(|e| io::Error::other(e.to_string()))?;
    out.write_all(&(buf.len() as u32).to_le_bytes())?;
    out.write_all(&buf)
}

/// Reads a whole state; the trailer's row count and hash must agree.
pub fn read(input: &mut dyn Read) -> Result<State, FormatError> {
    let corrupt = |e: &dyn std::fmt::Display| FormatError::Corrupt(format!("snapshot: {e}"));
    let mut version = [0u8];
    input.read_exact(&mut version).map_err(|e| corrupt(&e))?;
    if version[0] > FORMAT {
        return Err(FormatError::Newer {
            found: version[0],
            known: FORMAT,
        });
    }
    let mut state = State::default();
    let (mut table, mut rows) = (String::new(), 0u64);
    let mut buf = Vec::new();
    loop {
        let mut len = [0u8; 4];
        input.read_exact(&mut len).map_err(|e| corrupt(&e))?;
        let len = u32::from_le_bytes(len);
        if len > RECORD_BYTES_MAX {
            return Err(FormatError::Corrupt(format!(
                "snapshot record of {len} bytes"
            )));
        }
        buf.resize(len as usize, 0);
        input.read_exact(&mut buf).map_err(|e| corrupt(&e))?;
        match ciborium::from_reader(&buf[..]).map_err(|e| corrupt(&e))? {
            Record::Header {
                revision,
                internal_revision,
                at,
            } => {
                state.view.revision = revision;
                state.internal_revision = internal_revision;
                state.view.at = at;
            }
            Record::Table { name, ring_floor } => {
                state.table_mut(&name).ring_floor = ring_floor;
                table = name;
            }
            Record::Row {
                key,
                created,
                revision,
                bytes,
                claims,
            } => {
                rows += 1;
                let obj = Arc::new(make(
                    &table,
                    key.clone(),
                    created,
                    revision,
                    bytes.0,
                    claims,
                ));
                state.hold(&table, &key, &obj.claims);
                state.hash = state.hash.wrapping_add(obj.row_hash(&table));
                let t = state.table_mut(&table);
                t.index(&obj);
                t.objects.insert(key, obj);
            }
            Record::Ring {
                revision,
                at,
                change,
                key,
                obj,
                before,
            } => {
                let change = match change {
                    0 => Change::Added,
                    1 => Change::Modified,
                    _ => Change::Deleted,
                };
                let (obj, before) = (obj.obj(&table, &key), before.map(|b| b.obj(&table, &key)));
                state.table_mut(&table).push(Event {
                    revision,
                    at,
                    change,
                    obj,
                    before,
                    frame: Frame::default(),
                });
            }
            Record::Reply { id, results } => {
                state.replies.insert(id, Arc::new(results));
                state.reply_order.push_back(id);
            }
            Record::End { rows: want, hash } => {
                if rows != want || hash != state.hash() {
                    return Err(FormatError::Corrupt(format!(
                        "snapshot has {rows} rows of {want}, or its hash differs"
                    )));
                }
                return Ok(state);
            }
        }
    }
}

/// Bytes as a CBOR byte string.
mod serde_bytes_compat {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub struct Raw(pub Bytes);

    impl Serialize for Raw {
        fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.serialize_bytes(&self.0)
        }
    }

    impl<'de> Deserialize<'de> for Raw {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            struct V;
            impl de::Visitor<'_> for V {
                type Value = Raw;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("bytes")
                }
                fn visit_bytes<E: de::Error>(self, v: &[u8]) -> Result<Raw, E> {
                    Ok(Raw(Bytes::copy_from_slice(v)))
                }
                fn visit_byte_buf<E: de::Error>(self, v: Vec<u8>) -> Result<Raw, E> {
                    Ok(Raw(v.into()))
                }
            }
            d.deserialize_byte_buf(V)
        }
    }
}
