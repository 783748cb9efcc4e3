//! The second half of joining: this process has a certificate and an empty log, and asks to be let in; then the leader
//! sends it everything.

use std::sync::Arc;
use std::time::Duration;

use coracle_raft::{Member, Replica, node_id_text};
use coracle_state::Views;
use http::Method;
use serde_json::json;
use tokio::time::Instant;

use crate::ask::ask;
use crate::enter::coded;
use crate::error::StartError;
use crate::pki::{NodeIdentity, PKI, client_config, record_key};

/// Time for one request; the leader commits a membership in it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long nobody may answer before the process gives up: a restart of the whole cluster is over by then.
const PATIENCE: Duration = Duration::from_secs(120);
/// Refused as a copy for so long, it is one: the process of before may have been heard a moment ago.
const COPY_PATIENCE: Duration = Duration::from_secs(10);
/// First wait between two rounds; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest such wait.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Between two looks at whether everything has arrived.
const LOOK: Duration = Duration::from_millis(20);

/// Asks the members' APIs in turn until one says yes, or no for good.
pub(crate) async fn ask_in(
    replica: &Replica,
    me: &Member,
    own: &NodeIdentity,
    through: &[String],
) -> Result<(), StartError> {
    let tls = Arc::new(client_config(&own.ca, own)?);
    let id = node_id_text(replica.id());
    let body = json!({"id": id, "name": me.name, "raft": me.raft, "api": me.api});
    let (since, mut pause) = (Instant::now(), PAUSE_MIN);
    let mut last = String::new();
    loop {
        for addr in through {
            let path = "/coracle/v1/members";
            match ask(addr, tls.clone(), Method::POST, path, Some(&body), TIMEOUT).await {
                Ok(answered) if answered.status.is_success() => {
                    tracing::info!(
                        target: crate::LOG,
                        "joined as a learner through {addr}; catching up"
                    );
                    return Ok(());
                }
                // No leader at the moment, too many requests, an older answer still valid: it passes.
                Ok(answered) if answered.status.is_server_error() || answered.status == 429 => {
                    last = format!("{addr}: {}", answered.message());
                }
                Ok(answered) => {
                    let message = answered.message();
                    return Err(StartError::Join(match coded(&message) {
                        true => message,
                        false => {
                            format!("E_JOIN_REFUSED: {addr} did not let this member in: {message}")
                        }
                    }));
                }
                Err(e) => last = format!("{addr}: {e}"),
            }
        }
        if since.elapsed() >= PATIENCE {
            return Err(StartError::Join(format!(
                "E_JOIN_UNREACHABLE: no member let this one in within {} s ({last}); start them, then start this one again (no new token is needed)",
                PATIENCE.as_secs()
            )));
        }
        tracing::warn!(target: crate::LOG, "not let in yet, asking again: {last}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Tells the others' APIs that this member is elsewhere now. Needed where its log cannot be caught up before the leader
/// knows where to send it. Goes on until dropped; an error means that this process is a copy of a living member.
pub(crate) async fn announce(
    id: &str,
    me: &Member,
    own: &NodeIdentity,
    others: &[String],
) -> StartError {
    let body = json!({"id": id, "name": me.name, "raft": me.raft, "api": me.api});
    let (since, mut pause) = (Instant::now(), PAUSE_MIN);
    if let Ok(tls) = client_config(&own.ca, own) {
        let tls = Arc::new(tls);
        'rounds: loop {
            for addr in others {
                let path = "/coracle/v1/members";
                match ask(addr, tls.clone(), Method::POST, path, Some(&body), TIMEOUT).await {
                    Ok(answered) if answered.status.is_success() => {
                        tracing::info!(
                            target: crate::LOG,
                            "told {addr} that this member is at {} now",
                            me.raft
                        );
                        break 'rounds;
                    }
                    Ok(answered)
                        if answered.message().starts_with("E_MEMBER_DUPLICATE")
                            && since.elapsed() >= COPY_PATIENCE =>
                    {
                        return StartError::Join(answered.message());
                    }
                    // Mostly the process of before, heard a moment ago.
                    Ok(answered) if answered.message().starts_with("E_MEMBER_DUPLICATE") => {}
                    Ok(answered) => {
                        tracing::warn!(target: crate::LOG, "{addr} did not take this member's new addresses: {}", answered.message());
                    }
                    Err(e) => {
                        tracing::warn!(target: crate::LOG, "{addr} could not be told this member's new addresses: {e}");
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    std::future::pending().await
}

/// Waits until the cluster's first records are here: with them the member can work.
pub(crate) async fn arrive(replica: &Replica) {
    // These records have no revision of their own, so there is nothing to be woken by.
    while replica.view().get(PKI, &record_key()).is_none() {
        tokio::time::sleep(LOOK).await;
    }
}
