//! The one loop of a node: inputs in, actions out. It waits for nothing but inputs.

use std::sync::Arc;
use std::time::Duration;

use coracle_agent::{Action, Agent, Input};
use coracle_api::{Timestamp, meta};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::feed::PodChange;
use crate::perform::Performer;
use crate::prefetch::Local;
use crate::watch::Change;

/// Runs until it is stopped, then ends what runs.
pub(crate) async fn drive(
    mut agent: Agent,
    mut performer: Performer,
    mut pods: mpsc::Receiver<Change>,
    mut results: mpsc::Receiver<Input>,
    (feed, ahead): (mpsc::Sender<PodChange>, mpsc::Sender<Local>),
    stop: CancellationToken,
) {
    let mut wake: Option<Instant> = None;
    let mut swept = false;
    loop {
        let asleep = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let inputs = tokio::select! {
            () = stop.cancelled() => break,
            Some(change) = pods.recv() => {
                if let Change::Listed { items, .. } = &change
                    && !std::mem::replace(&mut swept, true)
                {
                    performer.sweep(items.iter().map(|i| meta::uid(i).to_string()).collect());
                }
                tell(&feed, &change).await;
                if let Some(local) = Local::of(&change) {
                    // Like the feed it never waits for this loop.
                    drop(ahead.send(local).await);
                }
                inputs(change)
            }
            Some(result) = results.recv() => vec![result],
            () = asleep => {
                wake = None;
                vec![Input::Tick]
            }
        };
        for input in inputs {
            let now = Timestamp::now();
            for action in agent.step(now, input) {
                match action {
                    Action::WakeAt(at) => {
                        let ms = u64::try_from(at.duration_since(now).as_millis()).unwrap_or(0);
                        // One more: a timer that fires within the millisecond would find nothing due.
                        wake = Some(Instant::now() + Duration::from_millis(ms + 1));
                    }
                    action => performer.perform(action),
                }
            }
        }
    }
    performer.end_all();
}

/// What a change of the watch means to the agent.
fn inputs(change: Change) -> Vec<Input> {
    match change {
        Change::Listed { items, .. } => {
            let uids = items.iter().map(|i| meta::uid(i).to_string()).collect();
            let mut all: Vec<Input> = items.into_iter().map(|i| Input::Pod(Arc::new(i))).collect();
            all.push(Input::Relisted { uids });
            all
        }
        Change::Put { object, .. } => vec![Input::Pod(Arc::new(object))],
        Change::Gone { uid, .. } => vec![Input::Gone { uid }],
        Change::Seen { .. } => Vec::new(),
    }
}

/// Routing by a pod's own address needs the pods too.
async fn tell(feed: &mpsc::Sender<PodChange>, change: &Change) {
    let told = match change {
        Change::Listed { items, .. } => PodChange::All(items.clone()),
        Change::Put { object, .. } => PodChange::Put(object.clone()),
        Change::Gone { key, .. } => PodChange::Gone(key.clone()),
        Change::Seen { .. } => return,
    };
    // The feed never waits for this loop, so waiting for the feed ends.
    drop(feed.send(told).await);
}
