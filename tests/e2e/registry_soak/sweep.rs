//! The end of a run: nothing is broken any more, and everything that was ever written is asked for, from every member.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::client::Client;
use super::member::Member;
use super::model::{Digest, Key, Name};
use super::shared::Shared;
use crate::harness::cluster::LONG;
use crate::harness::program::wait_for;

/// Clients that ask.
const READERS: usize = 8;
/// Digests shown of a difference.
const SHOWN: usize = 5;

/// What was there.
#[derive(Default)]
pub struct Swept {
    tags: BTreeSet<(Name, Name)>,
    manifests: BTreeMap<(Name, Digest), Vec<u8>>,
    blobs: BTreeSet<(Name, Digest)>,
    asked: usize,
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "at the end {} things were asked for on every member: {} tags, {} manifests and {} blobs were there and compared",
            self.asked,
            self.tags.len(),
            self.manifests.len(),
            self.blobs.len()
        )
    }
}

/// Asks every member for everything. What is missing, there again or wrong is in the history then.
pub fn sweep(shared: &Arc<Shared>, seed: u64) -> Swept {
    let mut keys = shared.recorder.keys();
    keys.retain(|key| !matches!(key, Key::Copy(..)));
    let members = shared.addresses.len();
    let swept = Mutex::new(Swept {
        asked: keys.len(),
        ..Swept::default()
    });
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (keys, swept) = (&keys, &swept);
            let mut client = Client::new(shared, seed, 0);
            scope.spawn(move || {
                for key in keys.iter().skip(reader).step_by(READERS) {
                    for member in 0..members {
                        client.member = member;
                        ask(&client, key, swept);
                    }
                }
            });
        }
    });
    swept.into_inner().unwrap()
}

fn ask(client: &Client, key: &Key, swept: &Mutex<Swept>) {
    match key {
        Key::Tag(name, tag) => {
            if client.pull_manifest(name, tag).is_some() {
                let mut swept = swept.lock().unwrap();
                swept.tags.insert((name.clone(), tag.clone()));
            }
        }
        Key::Manifest(name, digest) => {
            if let Some((digest, body)) = client.pull_manifest(name, digest) {
                let mut swept = swept.lock().unwrap();
                swept.manifests.insert((name.clone(), digest), body);
            }
        }
        Key::Blob(name, digest) => {
            if client.pull_blob(name, digest) == Some(true) {
                let mut swept = swept.lock().unwrap();
                swept.blobs.insert((name.clone(), digest.clone()));
            }
        }
        Key::Copy(..) => {}
    }
}

/// Waits until the disk of every member holds what is there or named by what is there, and nothing else: what was
/// deleted does not stay for ever.
#[track_caller]
pub fn only_what_is_needed(members: &[Member], swept: &Swept) {
    let mut needed: BTreeSet<String> = BTreeSet::new();
    for ((name, digest), body) in &swept.manifests {
        needed.insert(digest.to_string());
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let layers = value["layers"].as_array().into_iter().flatten();
        for part in layers.chain([&value["config"]]) {
            let Some(blob) = part["digest"].as_str() else {
                continue;
            };
            if swept.blobs.contains(&(name.clone(), blob.into())) {
                needed.insert(blob.to_string());
            }
        }
    }
    for m in members {
        wait_for(&format!("{} to keep what is needed", m.name), LONG, || {
            let stored: BTreeSet<String> = m.stored().into_iter().collect();
            let some = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
                let all: Vec<String> = a.difference(b).cloned().collect();
                format!("{} {:?}", all.len(), &all[..all.len().min(SHOWN)])
            };
            match stored == needed {
                true => Ok(()),
                false => Err(format!(
                    "{} files; too many: {}; missing: {}\n{}",
                    stored.len(),
                    some(&stored, &needed),
                    some(&needed, &stored),
                    m.tail()
                )),
            }
        });
    }
}
