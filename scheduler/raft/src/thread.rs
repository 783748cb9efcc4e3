//! What happens on the raft thread: open the directory, recover, serve until told to stop or until raft stops by itself.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_state::ProposeError;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Config as RaftConfig, ServerState, SnapshotPolicy};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::compact;
use crate::config::{Begin, Config, Limits};
use crate::error::StartError;
use crate::gate::Gate;
use crate::journal::Journal;
use crate::journal::store::LogStore;
use crate::journal::wal::{Options, WalJournal};
use crate::machine::Machine;
use crate::net::peer::{AddressBook, Network};
use crate::publish::Published;
use crate::pulse::Pulses;
use crate::replica::{Leadership, OpenJournal, READS_QUEUED};
use crate::service::Service;
use crate::snapshot::Snapshots;
use crate::types::{Member, Raft, TypeConfig, hosted, node_id_text, watch};
use crate::version;

/// How often the need for a snapshot is looked at, members are asked how they are, and voters are tended.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked at whether raft still runs: a stopped core in a living process serves nobody.
const ALIVE_EVERY: Duration = Duration::from_millis(200);
/// How often a member that waits for a majority says so.
const QUORUM_TOLD_EVERY: Duration = Duration::from_secs(5);

/// What the raft thread hands out once it serves.
pub(crate) struct Started {
    pub service: Arc<Service>,
    pub reads: mpsc::Sender<oneshot::Sender<Result<(), ProposeError>>>,
}

/// The log on disk.
pub(crate) fn on_disk() -> OpenJournal {
    Box::new(|config| {
        let dir = config.data_dir.join("raft");
        let gate = Gate::new(&config.data_dir, config.limits.keep_free_bytes);
        let options = Options {
            segment_bytes: config.limits.chunk_bytes as u64,
            gate: Some(Arc::new(gate)),
            fatal: Some(config.fatal.clone()),
            ..Options::default()
        };
        let journal: Arc<dyn Journal> = Arc::new(WalJournal::open_options(&dir, options)?);
        Ok(journal)
    })
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
    journal: OpenJournal,
    ready: oneshot::Sender<Result<Started, StartError>>,
    mut stop: watch::Receiver<bool>,
) {
    let opened = tokio::select! {
        biased;
        opened = open(&config, journal) => opened,
        // `start` was dropped: nobody waits for this replica any more.
        _ = stop.wait_for(|s| *s) => return,
    };
    let Opened {
        service,
        journal,
        leadership,
        serving,
    } = match opened {
        Ok(parts) => parts,
        Err(e) => {
            // A receiver that is gone does not want to know.
            drop(ready.send(Err(e)));
            return;
        }
    };
    let (reads, reads_rx) = mpsc::channel(READS_QUEUED);
    let mut tasks = JoinSet::new();
    tasks.spawn(hosted(service.clone().answer_reads(reads_rx)));
    let started = Started {
        service: service.clone(),
        reads,
    };
    if ready.send(Ok(started)).is_ok() {
        tokio::select! {
            biased;
            _ = stop.wait_for(|s| *s) => {}
            () = watch_core(&service, leadership) => {}
            () = look_after(&service, journal.as_ref(), &config.limits) => {}
        }
    }
    tasks.shutdown().await;
    stop_raft(&service.raft).await;
    drop(serving);
}

/// Follows who leads and who is a member; returns when raft has stopped by itself.
async fn watch_core(service: &Arc<Service>, leadership: watch::Sender<Leadership>) {
    let mut metrics = service.raft.server_metrics();
    let mut roll = Roll::default();
    let mut alive = tokio::time::interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        {
            let now = metrics.borrow_watched().clone();
            let who = lead(&now, service.id);
            let before = *leadership.borrow();
            if before != who {
                told(&before, &who);
                if who.is_leader {
                    service.pulses.restart();
                }
                leadership.send_replace(who);
            }
            roll.note(service, &now);
        }
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() {
                stopped(service, "its task is gone");
                break;
            },
            _ = alive.tick() => {
                let state = service.raft.metrics().borrow_watched().running_state.clone();
                if let Err(why) = state {
                    stopped(service, &why.to_string());
                    break;
                }
            }
        }
    }
    leadership.send_replace(Leadership::default());
}

fn stopped(service: &Service, why: &str) {
    service.end(&format!(
        "E_RAFT_STOPPED: consensus on this member has stopped ({why}); the process ends so that a restart recovers from the log"
    ));
}

fn told(before: &Leadership, now: &Leadership) {
    match now.leader {
        Some(leader) if now.is_leader => {
            tracing::info!(
                term = now.term,
                leader = node_id_text(leader),
                "this member leads"
            )
        }
        Some(leader) if before.leader != now.leader => {
            tracing::info!(
                term = now.term,
                leader = node_id_text(leader),
                "a member leads"
            )
        }
        Some(_) => {}
        None => tracing::warn!(term = now.term, "there is no leader at present"),
    }
}

/// Who was a member, to tell those who are let go.
#[derive(Default)]
struct Roll {
    committed: BTreeSet<u64>,
    voter: Option<bool>,
}

impl Roll {
    fn note(
        &mut self,
        service: &Service,
        metrics: &openraft::metrics::RaftServerMetrics<TypeConfig>,
    ) {
        let effective = &metrics.membership_config;
        service
            .book
            .set(effective.nodes().map(|(id, m)| (*id, m.raft.clone())));
        if effective.nodes().count() > 1 {
            service.alone.store(false, Ordering::Release);
        }
        let now: BTreeSet<u64> = metrics
            .committed_membership_config
            .nodes()
            .map(|(id, _)| *id)
            .collect();
        let voter = effective.voter_ids().any(|v| v == service.id);
        if self.voter.replace(voter).is_some_and(|was| was != voter) {
            tracing::info!(voter, "this member's right to vote has changed");
        }
        if now.is_empty() || now == self.committed {
            return;
        }
        {
            let mut removed = service
                .removed
                .lock()
                .expect("no panic while holding this lock");
            removed.extend(self.committed.difference(&now));
            removed.retain(|id| !now.contains(id));
        }
        if self.committed.contains(&service.id) && !now.contains(&service.id) {
            service.end(&format!(
                "E_MEMBER_REMOVED: this member ({}) was removed from the cluster; to join again, move its data directory away and start it with --join",
                node_id_text(service.id)
            ));
        }
        self.committed = now;
    }
}

/// Snapshots, pulses and voters, once a second, never two of a kind at once.
async fn look_after(service: &Arc<Service>, journal: &dyn Journal, limits: &Limits) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut pulses, mut tending) = (JoinSet::new(), JoinSet::new());
    loop {
        tick.tick().await;
        compact::step(
            &service.raft,
            journal,
            &service.snapshots,
            service.published.applied(),
            limits,
        )
        .await;
        while pulses.try_join_next().is_some() {}
        while tending.try_join_next().is_some() {}
        if pulses.is_empty() {
            pulses.spawn(hosted(service.clone().pulse_round()));
        }
        if tending.is_empty() && service.leadership.borrow().is_leader {
            let service = service.clone();
            tending.spawn(hosted(async move { service.tend_voters().await }));
        }
    }
}

async fn stop_raft(raft: &Raft) {
    if let Err(error) = raft.shutdown().await {
        tracing::warn!(%error, "raft did not stop cleanly");
    }
}

/// A member whose log is open and whose raft runs.
struct Opened {
    service: Arc<Service>,
    journal: Arc<dyn Journal>,
    leadership: watch::Sender<Leadership>,
    /// The task that answers other members; it ends with this.
    serving: JoinSet<()>,
}

async fn open(config: &Config, journal: OpenJournal) -> Result<Opened, StartError> {
    version::check(&config.data_dir)?;
    let gate = Arc::new(Gate::new(&config.data_dir, config.limits.keep_free_bytes));
    gate.check_start()?;
    let dir = config.data_dir.join("raft");
    let journal = journal(config)?;
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
    let book = Arc::new(AddressBook::default());
    let network = Network {
        id: config.node_id,
        transport: config.transport.clone(),
        book: book.clone(),
    };
    let raft = Raft::new(
        config.node_id,
        raft_config,
        network,
        LogStore::new(journal.clone()),
        machine,
    )
    .await
    .map_err(|e| raft_error(&e))?;
    let who = lead(
        &raft.server_metrics().borrow_watched().clone(),
        config.node_id,
    );
    let (leadership_tx, leadership) = watch::channel(who);
    // The metrics are filled in only after the core's first round; its state is there at once.
    let (voters, nodes): (Vec<u64>, Vec<(u64, Member)>) = raft
        .with_raft_state(|state| {
            let membership = state.membership_state.effective();
            (
                membership.voter_ids().collect(),
                membership.nodes().map(|(id, m)| (*id, m.clone())).collect(),
            )
        })
        .await
        .map_err(|e| raft_error(&e))?;
    let initialized = raft.is_initialized().await.map_err(|e| raft_error(&e))?;
    let stranger =
        initialized && !nodes.is_empty() && !nodes.iter().any(|(id, _)| *id == config.node_id);
    if stranger && config.begin == Begin::Alone {
        return Err(StartError::Raft(format!(
            "the log belongs to other members ({}), not to {}; DATA/identity was changed or copied, or this member was removed from its cluster",
            voters
                .iter()
                .map(|v| node_id_text(*v))
                .collect::<Vec<_>>()
                .join(", "),
            node_id_text(config.node_id)
        )));
    }
    book.set(nodes.iter().map(|(id, m)| (*id, m.raft.clone())));
    let others = nodes.iter().any(|(id, _)| *id != config.node_id);
    let service = Arc::new(Service {
        id: config.node_id,
        raft: raft.clone(),
        clock: config.clock.clone(),
        published,
        gate,
        snapshots,
        leadership,
        transport: config.transport.clone(),
        book,
        desk: config.desk.clone(),
        fatal: config.fatal.clone(),
        pulses: Pulses::default(),
        removed: Mutex::default(),
        alone: AtomicBool::new(!others && (initialized || config.begin == Begin::Alone)),
        changing: tokio::sync::Mutex::new(()),
        runtime: tokio::runtime::Handle::current(),
    });
    let listener = match &config.listener {
        Some(listener) => Some(
            listener
                .try_clone()
                .map_err(|e| StartError::Raft(format!("the raft listener: {e}")))?,
        ),
        None => None,
    };
    let mut serving = JoinSet::new();
    serving.spawn(config.transport.clone().serve(listener, service.clone()));
    let opened = Opened {
        service,
        journal,
        leadership: leadership_tx,
        serving,
    };
    let sole = voters == [config.node_id];
    if sole {
        // Nobody else can win: no reason to wait for the election timeout.
        raft.trigger()
            .elect(false)
            .await
            .map_err(|e| raft_error(&e))?;
    } else if !initialized && config.begin == Begin::Alone {
        let members = std::collections::BTreeMap::from([(config.node_id, config.member.clone())]);
        raft.initialize(members).await.map_err(|e| raft_error(&e))?;
    } else if !initialized || stranger {
        // A member that was stopped while it joined may have no entry yet that names it.
        // It waits to be added; what it will have to know comes with that.
        return Ok(opened);
    }
    // Everything in the log when we started is committed and applied again, so reads after a restart see every answer given before.
    while let Err(e) = raft.wait_for_recovery(Some(QUORUM_TOLD_EVERY)).await {
        match e {
            openraft::metrics::WaitError::Timeout(..) => tracing::warn!(
                voters = voters.len(),
                "E_NO_QUORUM: waiting for a majority of the voters; this member serves as soon as one is reached"
            ),
            e => return Err(raft_error(&e)),
        }
    }
    if voters.len() <= 1 && (sole || !initialized) {
        raft.wait(None)
            .state(ServerState::Leader, "the only voter leads")
            .await
            .map_err(|e| raft_error(&e))?;
        let who = lead(
            &raft.server_metrics().borrow_watched().clone(),
            config.node_id,
        );
        opened.leadership.send_replace(who);
    }
    Ok(opened)
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

fn lead(metrics: &openraft::metrics::RaftServerMetrics<TypeConfig>, id: u64) -> Leadership {
    Leadership {
        leader: metrics.current_leader,
        is_leader: metrics.state == ServerState::Leader && metrics.current_leader == Some(id),
        term: metrics.vote.leader_id.term,
    }
}
