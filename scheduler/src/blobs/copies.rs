//! A finished blob to the other members: all at once, done when a majority has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coracle_registry::blobs::{BlobError, Source};
use coracle_registry::digest::Digest;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Inner;
use super::peers::{Failure, Peer};

/// How long a push waits for a majority: a restart of a member and an election fit in, a client's patience is longer. A
/// transfer that is under way then may end; none begins any more.
const PATIENCE: Duration = Duration::from_secs(30);
/// Wait after a member did not take a copy.
const RETRY: Duration = Duration::from_secs(1);

/// Returns when a majority of the voters has `digest`, which lies on this member's disk. What is left then goes on in
/// the background, without further tries: what fails there is brought by the healer or by the first who asks for it.
pub(super) async fn spread(inner: &Arc<Inner>, digest: &Digest) -> Result<(), BlobError> {
    let round = inner.peers.round();
    let need = round.voters / 2 + 1;
    let mut have = usize::from(round.votes);
    let enough = Arc::new(AtomicBool::new(have >= need));
    let deadline = Instant::now() + PATIENCE;
    let (tell, mut told) = mpsc::channel(round.others.len().max(1));
    for peer in round.others {
        let (inner, digest) = (inner.clone(), digest.clone());
        let (enough, tell) = (enough.clone(), tell.clone());
        tokio::spawn(async move {
            let copied = copy(&inner, &peer, &digest, deadline, &enough).await;
            if let Err(error) = &copied {
                tracing::warn!(target: crate::LOG, %digest, member = peer.name, %error, "a member did not take a blob; it fetches it later");
            }
            let outcome = copied.map_err(|error| format!("{}: {error}", peer.name));
            // Nobody listens once a majority has it.
            let _ = tell.send((peer.voter, outcome)).await;
        });
    }
    drop(tell);
    let mut failures = Vec::new();
    while have < need {
        match told.recv().await {
            Some((voter, Ok(()))) => have += usize::from(voter),
            Some((_, Err(failure))) => failures.push(failure),
            None => {
                return Err(BlobError::Unavailable(format!(
                    "E_REGISTRY_MAJORITY: {have} of {} voting members took {digest}, {need} are needed ({}); push again when a majority is up, see `coracle members`",
                    round.voters,
                    failures.join("; ")
                )));
            }
        }
    }
    enough.store(true, Ordering::Relaxed);
    Ok(())
}

async fn copy(
    inner: &Inner,
    peer: &Peer,
    digest: &Digest,
    deadline: Instant,
    enough: &AtomicBool,
) -> Result<(), Failure> {
    let trying = async {
        loop {
            let error = match once(inner, peer, digest).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if enough.load(Ordering::Relaxed) || Instant::now() + RETRY > deadline {
                return Err(error);
            }
            tracing::debug!(%digest, member = peer.name, %error, "a member did not take a blob; again in 1 s");
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        copied = trying => copied,
        () = inner.stop.cancelled() => Err("this member is stopping".into()),
    }
}

async fn once(inner: &Inner, peer: &Peer, digest: &Digest) -> Result<(), Failure> {
    let source = Source::Blob(digest.clone());
    let opened = inner.disk.open(&source).await?;
    let opened = opened.ok_or("it was removed meanwhile")?;
    inner.peers.put(peer, digest, opened).await
}
