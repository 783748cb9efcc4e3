//! Watch checking: a client follows a table from a position, as the API's watch handler does, moving between members; in
//! the end every change of its span was delivered once and in order, or it was told that its position has expired.

use std::time::Duration;

use super::history::{TABLE, decode};
use super::oracle::{Change, Oracle};

/// One delivered event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its revision.
    pub revision: u64,
    /// Key number.
    pub key: u64,
    /// Value; `None`: deleted.
    pub value: Option<u64>,
    /// From which member.
    pub member: u64,
    /// When.
    pub at: Duration,
}

/// What a watcher got between a list and an expiry (or the end).
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// Revision of the list it began with.
    pub from: u64,
    /// Objects of that list: (key, revision, value).
    pub listed: Vec<(u64, u64, u64)>,
    /// Everything up to here was delivered.
    pub to: u64,
    /// The events.
    pub events: Vec<Seen>,
}

/// Compares spans with the log.
pub fn check(spans: &[Span], oracle: &Oracle) {
    let truth = oracle.truth();
    let truth: Vec<&Change> = truth.iter().filter(|c| c.table == TABLE).collect();
    for span in spans {
        let a = truth.partition_point(|c| c.revision <= span.from);
        let b = truth.partition_point(|c| c.revision <= span.to);
        let expected: Vec<(u64, u64, Option<u64>)> = truth[a..b.max(a)]
            .iter()
            .map(|c| {
                let key = decode(c.key.name.as_bytes());
                (c.revision, key, c.value.as_ref().map(|v| decode(v)))
            })
            .collect();
        let got: Vec<_> = span
            .events
            .iter()
            .map(|s| (s.revision, s.key, s.value))
            .collect();
        if let Some(w) = span
            .events
            .windows(2)
            .find(|w| w[0].revision >= w[1].revision)
        {
            oracle.violated("a_watch_is_in_order", format!("{:?} then {:?}", w[0], w[1]));
        } else if got != expected {
            let n = got
                .iter()
                .zip(&expected)
                .take_while(|(g, e)| g == e)
                .count();
            oracle.violated(
                "a_watch_delivers_every_change_once",
                format!(
                    "span {}..{}: delivered {:?} where the log has {:?}",
                    span.from,
                    span.to,
                    span.events.get(n),
                    expected.get(n)
                ),
            );
        }
        listed(span, &truth[..a], oracle);
    }
}

/// The list a watch begins with is the log up to its revision.
fn listed(span: &Span, before: &[&Change], oracle: &Oracle) {
    let mut objects = std::collections::BTreeMap::new();
    for c in before {
        let key = decode(c.key.name.as_bytes());
        match &c.value {
            Some(v) => objects.insert(key, (key, c.revision, decode(v))),
            None => objects.remove(&key),
        };
    }
    let mut listed = span.listed.clone();
    listed.sort_unstable();
    if listed != objects.into_values().collect::<Vec<_>>() {
        oracle.violated(
            "a_view_is_the_log_up_to_its_revision",
            format!("a list at {} has {:?}", span.from, span.listed),
        );
    }
}
