//! One layer from wherever it is nearest: another runner that has it or is getting it, the members, the registry outside.
//!
//! What came from one source is not thrown away when it fails: the next goes on where it stopped. Nobody is believed;
//! if the whole does not match its digest, it begins again from nothing, and whoever sent the last of it is dropped for
//! a while.

use super::peers::{Peers, Trouble};
use super::reference::Reference;
use super::source::{FetchError, Source};
use super::store::Writer;

/// Layers below this come from the members at once: asking the leader costs as much as the layer.
const SMALL_BYTES: u64 = 64 << 10;
/// Runners tried for one layer, before the members are asked.
const RUNNERS_MAX: u32 = 6;

/// Fetches a layer into `writer`, complete and checked. Answers which runner sent the last of it, if one did.
pub(super) async fn fetch(
    source: &impl Source,
    peers: Option<&Peers>,
    reference: &Reference,
    digest: &str,
    writer: &mut Writer,
) -> Result<Option<String>, FetchError> {
    let peers = peers.filter(|_| writer.size() >= SMALL_BYTES);
    if let Some(peers) = peers
        && let Some(node) = runners(peers, digest, writer).await?
    {
        return Ok(Some(node));
    }
    if writer.have() > 0 && !source.resumes() {
        writer.restart()?;
    }
    let from_nothing = writer.have() == 0;
    let sent = source.blob(reference, digest, writer).await;
    match sent.and_then(|()| writer.check()) {
        Err(FetchError::Corrupt(why)) if !from_nothing => {
            tracing::warn!(
                digest,
                why,
                "what runners sent of a layer was wrong; it is fetched anew"
            );
            writer.restart()?;
            source.blob(reference, digest, writer).await?;
            writer.check()?;
        }
        checked => checked?,
    }
    Ok(None)
}

/// Goes from runner to runner. `None`: the rest has to come from elsewhere.
async fn runners(
    peers: &Peers,
    digest: &str,
    writer: &mut Writer,
) -> Result<Option<String>, FetchError> {
    let mut before: Option<(String, Trouble)> = None;
    for _ in 0..RUNNERS_MAX {
        let trouble = before
            .as_ref()
            .map(|(node, trouble)| (node.as_str(), trouble));
        let Some(holder) = peers.ask(digest, trouble).await else {
            return Ok(None);
        };
        let mut fetched = peers.fetch(&holder, digest, writer).await;
        if fetched.is_ok()
            && let Err(error) = writer.check()
        {
            fetched = Err(match error {
                FetchError::Corrupt(why) => Trouble::Lied(why),
                other => Trouble::Here(other),
            });
        }
        let trouble = match fetched {
            Ok(()) => return Ok(Some(holder.node)),
            Err(Trouble::Here(error)) => return Err(error),
            Err(trouble) => trouble,
        };
        let node = holder.node;
        tracing::info!(digest, node, %trouble, "a runner does not give a layer; another source is asked");
        if let Trouble::Lied(_) = trouble {
            writer.restart()?;
        }
        if matches!(trouble, Trouble::Failed(_) | Trouble::Lied(_)) {
            peers.drop_for_a_while(&node);
        }
        before = Some((node, trouble));
    }
    Ok(None)
}
