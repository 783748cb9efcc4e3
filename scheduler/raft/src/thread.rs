//! What happens on the raft thread: open the directory, recover, serve until told to stop or until raft stops by itself.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Config as RaftConfig, ServerState, SnapshotPolicy};
use tokio::sync::{oneshot, watch};

use crate::compact;
use crate::config::{Config, Limits};
use crate::error::StartError;
use crate::gate::Gate;
use crate::journal::Journal;
use crate::journal::store::LogStore;
use crate::journal::wal::WalJournal;
use crate::machine::Machine;
use crate::network::Network;
use crate::publish::Published;
use crate::replica::Leadership;
use crate::snapshot::Snapshots;
use crate::types::{Raft, node_id_text};
use crate::version;

/// How often the need for a snapshot is looked at. One look costs microseconds; a second of log is megabytes.
const COMPACT_EVERY: Duration = Duration::from_secs(1);

/// What the raft thread hands out once it serves.
pub(crate) struct Started {
    pub raft: Raft,
    pub published: Arc<Published>,
    pub gate: Arc<Gate>,
    pub leadership: watch::Receiver<Leadership>,
}

/// The options of consensus.md section 2.3: openraft's defaults are wrong for this product.
fn raft_config(limits: &Limits) -> Result<RaftConfig, StartError> {
    let config = RaftConfig {
        cluster_name: "coracle".into(),
        election_timeout_min: 300,
        election_timeout_max: 400,
        heartbeat_interval: 75,
        heartbeat_min_interval: Some(50),
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(1_000),
        enable_leader_restore: Some(false),
        max_payload_entries: 4096,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: limits.keep_entries,
        purge_batch_size: 1,
        install_snapshot_timeout: 60_000,
        backoff: "50ms,100ms,200ms,400ms,1s".into(),
        ..Default::default()
    };
    config
        .validate()
        .map_err(|e| StartError::Raft(e.to_string()))
}

/// Everything on the raft thread: open, start, serve until told to stop or until raft stops by itself.
pub(crate) async fn run(
    config: Config,
    ready: oneshot::Sender<Result<Started, StartError>>,
    mut stop: watch::Receiver<bool>,
) {
    let fatal = config.fatal.clone();
    let opened = tokio::select! {
        opened = open(&config) => opened,
        // `start` was dropped: nobody waits for this replica any more.
        _ = stop.wait_for(|s| *s) => return,
    };
    let (raft, journal, snapshots, published, gate) = match opened {
        Ok(parts) => parts,
        Err(e) => {
            // A receiver that is gone does not want to know.
            drop(ready.send(Err(e)));
            return;
        }
    };
    let mut metrics = raft.metrics();
    let (leadership_tx, leadership) =
        watch::channel(lead(&metrics.borrow_watched().clone(), config.node_id));
    let started = Started {
        raft: raft.clone(),
        published: published.clone(),
        gate,
        leadership,
    };
    if ready.send(Ok(started)).is_err() {
        stop_raft(&raft).await;
        return;
    }
    let mut tick = tokio::time::interval(COMPACT_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|s| *s) => break,
            changed = metrics.changed() => {
                let now = metrics.borrow_watched().clone();
                let running = now.running_state.as_ref().map_err(ToString::to_string);
                if let Err(why) = running.and(changed.map_err(|_| "its task is gone".to_string())) {
                    fatal.fire(&format!("E_RAFT_STOPPED: consensus on this member has stopped ({why}); the process ends so that a restart recovers from the log"));
                    break;
                }
                let who = lead(&now, config.node_id);
                leadership_tx.send_if_modified(|l| std::mem::replace(l, who) != who);
            }
            _ = tick.tick() => compact::step(&raft, journal.as_ref(), &snapshots, published.applied(), &config.limits).await,
        }
    }
    leadership_tx.send_replace(Leadership::default());
    stop_raft(&raft).await;
}

async fn stop_raft(raft: &Raft) {
    if let Err(error) = raft.shutdown().await {
        tracing::warn!(%error, "raft did not stop cleanly");
    }
}

type Opened = (
    Raft,
    Arc<dyn Journal>,
    Arc<Snapshots>,
    Arc<Published>,
    Arc<Gate>,
);

async fn open(config: &Config) -> Result<Opened, StartError> {
    version::check(&config.data_dir)?;
    let gate = Arc::new(Gate::new(&config.data_dir, config.limits.keep_free_bytes));
    gate.check_start()?;
    let dir = config.data_dir.join("raft");
    let journal: Arc<dyn Journal> =
        Arc::new(WalJournal::open_with(&dir, config.limits.chunk_bytes)?);
    let (snapshots, loaded) = Snapshots::open(&dir.join("snapshots"))?;
    check_joint(
        &dir,
        journal.as_ref(),
        loaded
            .as_ref()
            .and_then(|(s, _)| s.header.meta.last_log_id.as_ref().map(|id| id.index)),
    )?;
    let (snapshots, published) = (Arc::new(snapshots), Arc::new(Published::default()));
    let machine = Machine::new(
        loaded,
        snapshots.clone(),
        published.clone(),
        journal.clone(),
        gate.clone(),
        config.fatal.clone(),
    );
    let raft_error = |e: &dyn std::fmt::Display| StartError::Raft(e.to_string());
    let raft_config = Arc::new(raft_config(&config.limits)?);
    let raft = Raft::new(
        config.node_id,
        raft_config,
        Network,
        LogStore::new(journal.clone()),
        machine,
    )
    .await
    .map_err(|e| raft_error(&e))?;
    // The metrics are filled in only after the core's first round; its state is there at once.
    let voters: Vec<u64> = raft
        .with_raft_state(|state| state.membership_state.effective().voter_ids().collect())
        .await
        .map_err(|e| raft_error(&e))?;
    if raft.is_initialized().await.map_err(|e| raft_error(&e))? {
        if !voters.contains(&config.node_id) {
            return Err(StartError::Raft(format!(
                "the log belongs to other members ({}), not to {}; DATA/identity was changed or copied",
                voters
                    .iter()
                    .map(|v| node_id_text(*v))
                    .collect::<Vec<_>>()
                    .join(", "),
                node_id_text(config.node_id)
            )));
        }
        if voters.len() == 1 {
            // Nobody else can win: no reason to wait for the election timeout.
            raft.trigger()
                .elect(false)
                .await
                .map_err(|e| raft_error(&e))?;
        }
    } else {
        let members = std::collections::BTreeMap::from([(config.node_id, config.member.clone())]);
        raft.initialize(members).await.map_err(|e| raft_error(&e))?;
    }
    // Everything in the log when we started is committed and applied again, so reads after a restart see every answer given before.
    raft.wait_for_recovery(None)
        .await
        .map_err(|e| raft_error(&e))?;
    if voters.len() <= 1 {
        raft.wait(None)
            .state(ServerState::Leader, "the only voter leads")
            .await
            .map_err(|e| raft_error(&e))?;
    }
    Ok((raft, journal, snapshots, published, gate))
}

/// Log and snapshot must meet: what the log has purged is in the snapshot.
fn check_joint(
    dir: &std::path::Path,
    journal: &dyn Journal,
    snapshot: Option<u64>,
) -> Result<(), StartError> {
    match journal.purged() {
        Some(purged) if snapshot.is_none_or(|s| s < purged.index) => {
            Err(StartError::SnapshotCorrupt {
                path: dir.join("snapshots"),
                why: format!(
                    "the log begins after index {} but the newest snapshot ends at {}",
                    purged.index,
                    snapshot.unwrap_or(0)
                ),
            })
        }
        _ => Ok(()),
    }
}

fn lead(metrics: &openraft::RaftMetrics<crate::types::TypeConfig>, id: u64) -> Leadership {
    Leadership {
        leader: metrics.current_leader,
        is_leader: metrics.state == ServerState::Leader && metrics.current_leader == Some(id),
        term: metrics.current_term,
    }
}
