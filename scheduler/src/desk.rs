//! Messages between the scheduler layers of the members: small, volatile things that the leader must hear and that do
//! not belong into the log. One handler per topic; raft's connections carry them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use coracle_raft::Desk;
use coracle_state::BoxFuture;

/// Answers the messages of one topic. An error is a sentence for the asking member.
pub(crate) type Handler =
    Arc<dyn Fn(Bytes) -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// The registry of topics.
#[derive(Default)]
pub(crate) struct Topics {
    handlers: RwLock<BTreeMap<&'static str, Handler>>,
}

impl Topics {
    /// Answers `topic` with `handler` from now on.
    pub fn open(&self, topic: &'static str, handler: Handler) {
        self.handlers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(topic, handler);
    }

    /// Answers `topic` with a function that needs no waiting.
    pub fn open_now(
        &self,
        topic: &'static str,
        answer: impl Fn(&[u8]) -> Result<Bytes, String> + Send + Sync + 'static,
    ) {
        let handler: Handler = Arc::new(move |body| {
            let answer = answer(&body);
            Box::pin(std::future::ready(answer))
        });
        self.open(topic, handler);
    }
}

impl Desk for Topics {
    fn answer(&self, topic: &str, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        let handler = self
            .handlers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(topic)
            .cloned();
        match handler {
            Some(handler) => handler(body),
            // A member that is starting, or of another version.
            None => Box::pin(std::future::ready(Err(format!(
                "this member does not answer {topic:?} messages (yet)"
            )))),
        }
    }
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Topics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_goes_to_its_topic() {
        let topics = Topics::default();
        topics.open_now("twice", |body| Ok([body, body].concat().into()));
        let asked = |topic: &'static str| topics.answer(topic, Bytes::from_static(b"ab"));
        assert_eq!(asked("twice").await.unwrap(), "abab");
        assert!(asked("other").await.unwrap_err().contains("\"other\""));
    }
}
