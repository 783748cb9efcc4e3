//! Trouble with peers, told once when it begins and once when it ends, not at every attempt.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{NetError, Target};
use crate::types::node_id_text;

/// What is wrong with whom at present.
#[derive(Debug, Default)]
pub struct Faults(Mutex<BTreeMap<u64, String>>);

impl Faults {
    /// A dial failed.
    pub fn failed(&self, to: &Target, error: &NetError) {
        let text = error.to_string();
        let mut known = self.0.lock().expect("no panic while holding this lock");
        if known.get(&to.id) == Some(&text) {
            return;
        }
        known.insert(to.id, text);
        match error {
            NetError::Wrong(why) => {
                tracing::error!(member = node_id_text(to.id), addr = to.addr, "{why}");
            }
            _ => {
                tracing::warn!(member = node_id_text(to.id), addr = to.addr, %error, "a member is not reached")
            }
        }
    }

    /// A dial worked.
    pub fn reached(&self, to: &Target) {
        let mut known = self.0.lock().expect("no panic while holding this lock");
        if known.remove(&to.id).is_some() {
            tracing::info!(
                member = node_id_text(to.id),
                addr = to.addr,
                "the member is reached again"
            );
        }
    }

    /// What is wrong with a member, if anything.
    pub fn of(&self, id: u64) -> Option<String> {
        let known = self.0.lock().expect("no panic while holding this lock");
        known.get(&id).cloned()
    }
}
