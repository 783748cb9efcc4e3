//! Collects what a step asks for, and words Events.

use coracle_api::Key;

use crate::action::{Action, EventType};
use crate::config::MESSAGE_BYTES_MAX;

/// The actions of one step, with the words for Events about one pod.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pub actions: Vec<Action>,
}

impl Out {
    pub fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub fn event(
        &mut self,
        who: (&Key, &str),
        container: &str,
        kind: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.push(Action::Event {
            key: who.0.clone(),
            uid: who.1.to_string(),
            container: container.to_string(),
            kind,
            reason,
            message: bounded(message.into()),
        });
    }
}

/// Cuts a message to its bound at a character's end.
pub(crate) fn bounded(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let mut end = MESSAGE_BYTES_MAX - '…'.len_utf8();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}
