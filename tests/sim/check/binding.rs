//! A pod is bound once; its node never changes; no node is over its allocatable.

use std::sync::Arc;

use coracle_state::{Change, Event as Changed, View};

use crate::world::World;

impl World {
    pub(super) fn check_bindings(&mut self, after: &View, pods: &[Arc<Changed>]) {
        for event in pods {
            let Some(before) = event
                .before
                .as_ref()
                .filter(|_| event.change == Change::Modified)
            else {
                continue;
            };
            let (was, is) = (&before.attrs, &event.obj.attrs);
            if was.uid != is.uid {
                self.violated(
                    "a pod is bound once",
                    format!("pod {} changed its uid in place", event.obj.key),
                );
            } else if !was.node_name.is_empty() && was.node_name != is.node_name {
                let text = format!(
                    "pod {} moved from {} to {:?}",
                    event.obj.key, was.node_name, is.node_name
                );
                self.violated("a pod is bound once", text);
            }
            if was.deleting && !is.deleting {
                self.violated(
                    "a deletion is final",
                    format!("pod {} is not being deleted any more", event.obj.key),
                );
            }
        }
        for node in after.list("nodes", None) {
            let (room, used) = (
                node.attrs.allocatable.unwrap_or_default(),
                after.used(&node.key.name),
            );
            if used.cpu_millis > room.cpu_millis
                || used.memory_bytes > room.memory_bytes
                || used.pods > room.pods
            {
                let text = format!(
                    "node {} has {room:?} and is used for {used:?}",
                    node.key.name
                );
                return self.violated("no node over its allocatable", text);
            }
        }
    }
}
