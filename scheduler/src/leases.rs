//! Heartbeats of nodes. The member that a node talks to hands a renewal on to the leader and answers when it is in the
//! leader's memory; the leader logs what has gathered twice a second, in batches, each changed Lease with its own
//! revision. Liveness follows from the logged batches, so it is at most that half second late.
//!
//! What a renewal gives up: one that was answered less than half a second before the leader was lost may be gone. The
//! next one comes long before the lease ends. `--lease-durability=sync` logs each by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use coracle_api::{Key, canonical, claims, kinds};
use coracle_server::write::renewal::{LEASES, NODE_LEASES};
use coracle_server::{Renewal, Renewals};
use coracle_state::{BoxFuture, Command, Expect, Propose, ProposeError, View, Views};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::desk::Topics;

/// Time between batches: two log entries per second whatever the number of nodes, and nothing against a lease of 40 s.
const EVERY: Duration = Duration::from_millis(500);
/// Renewals in one log entry: at 400 bytes each well under the log's bound.
const BATCH_MAX: usize = 2_000;
/// Renewals in one message to the leader.
const MESSAGE_MAX: usize = 4_000;
/// Renewals held, waiting for the leader or for the log: more than the nodes of the largest cluster.
const HELD_MAX: usize = 200_000;
/// The desk's topic.
const TOPIC: &str = "leases";

const STOPPING: &str = "the control plane is stopping; try again";

/// How durable a renewal is when it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseDurability {
    /// In the memory of the leader; logged within half a second.
    #[default]
    Batched,
    /// In the logs of a majority, as every other write.
    Sync,
}

/// How the leader is asked: by topic and message.
pub(crate) type Ask = Arc<
    dyn Fn(&'static str, Bytes) -> BoxFuture<'static, Result<Bytes, ProposeError>> + Send + Sync,
>;

/// A renewal as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Travelling {
    name: String,
    revision: u64,
    lease: String,
}

type Waiting = (Travelling, oneshot::Sender<Result<(), ProposeError>>);

/// The renewals that a member has to hand on, and those it has to log.
pub(crate) struct Leases {
    ask: Ask,
    propose: Arc<dyn Propose>,
    views: Arc<dyn Views>,
    /// To be handed on to the leader; `None` once this member stops.
    outgoing: Mutex<Option<Vec<Waiting>>>,
    outgoing_arrived: Notify,
    /// To be logged; the newest of each node. Filled on the leader only.
    gathered: Mutex<BTreeMap<String, Travelling>>,
    gathered_arrived: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Renewals for Leases {
    fn renew(&self, renewal: Renewal) -> BoxFuture<'_, Result<(), ProposeError>> {
        Box::pin(async move {
            let lease = String::from_utf8(renewal.bytes.into())
                .map_err(|e| ProposeError::Unavailable(format!("a Lease that is not text: {e}")))?;
            let travelling = Travelling {
                name: renewal.name,
                revision: renewal.revision,
                lease,
            };
            let refused = |why: &str| Err(ProposeError::Unavailable(why.into()));
            let (done, answer) = oneshot::channel();
            match lock(&self.outgoing).as_mut() {
                None => return refused(STOPPING),
                Some(all) if all.len() >= HELD_MAX => {
                    return refused("too many heartbeats wait for the leader");
                }
                Some(all) => all.push((travelling, done)),
            }
            self.outgoing_arrived.notify_one();
            answer.await.unwrap_or_else(|_| refused(STOPPING))
        })
    }
}

impl Leases {
    /// Hands on through `ask`, logs through `propose`.
    pub fn new(ask: Ask, propose: Arc<dyn Propose>, views: Arc<dyn Views>) -> Arc<Self> {
        Arc::new(Self {
            ask,
            propose,
            views,
            outgoing: Mutex::new(Some(Vec::new())),
            outgoing_arrived: Notify::new(),
            gathered: Mutex::default(),
            gathered_arrived: Notify::new(),
        })
    }

    /// Takes what members hand on, for as long as this one leads.
    pub fn open(self: &Arc<Self>, topics: &Topics) {
        let leases = self.clone();
        topics.open_now(TOPIC, move |body| {
            leases.gather(body)?;
            Ok(Bytes::new())
        });
    }

    fn gather(&self, body: &[u8]) -> Result<(), String> {
        let renewals: Vec<Travelling> =
            serde_json::from_slice(body).map_err(|e| format!("no renewals: {e}"))?;
        let mut gathered = lock(&self.gathered);
        if gathered.len() + renewals.len() > HELD_MAX {
            return Err("too many heartbeats wait for the log".into());
        }
        for renewal in renewals {
            gathered.insert(renewal.name.clone(), renewal);
        }
        drop(gathered);
        self.gathered_arrived.notify_one();
        Ok(())
    }

    /// Hands on and logs until told to stop; what is gathered then is still logged.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::join!(self.hand_on(&stop), self.log(&stop));
        // Whoever waits, or comes now, is told to try again.
        lock(&self.outgoing).take();
    }

    async fn hand_on(&self, stop: &CancellationToken) {
        loop {
            let mut batch: Vec<Waiting> = {
                let mut outgoing = lock(&self.outgoing);
                let Some(outgoing) = outgoing.as_mut() else {
                    return;
                };
                let n = outgoing.len().min(MESSAGE_MAX);
                outgoing.drain(..n).collect()
            };
            if batch.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.outgoing_arrived.notified() => continue,
                }
            }
            let renewals: Vec<&Travelling> = batch.iter().map(|(r, _)| r).collect();
            let body = serde_json::to_vec(&renewals).unwrap_or_default();
            let answer = (self.ask)(TOPIC, body.into()).await.map(drop);
            for (_, done) in batch.drain(..) {
                // A client that has gone does not want to know.
                let _ = done.send(answer.clone());
            }
        }
    }

    async fn log(&self, stop: &CancellationToken) {
        let mut next = Instant::now();
        loop {
            let empty = lock(&self.gathered).is_empty();
            let stopping = stop.is_cancelled();
            if empty {
                if stopping {
                    return;
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.gathered_arrived.notified() => {}
                }
                continue;
            }
            if !stopping {
                tokio::select! {
                    () = stop.cancelled() => continue,
                    () = tokio::time::sleep_until(next) => {}
                }
            }
            next = Instant::now() + EVERY;
            if !self.flush().await && stopping {
                return;
            }
        }
    }

    /// Logs one batch; false if the log does not take it now.
    async fn flush(&self) -> bool {
        let mut batch = BTreeMap::new();
        {
            let mut gathered = lock(&self.gathered);
            while batch.len() < BATCH_MAX
                && let Some((name, renewal)) = gathered.pop_first()
            {
                batch.insert(name, renewal);
            }
        }
        let view = self.views.view();
        let (mut names, mut commands) = (Vec::new(), Vec::new());
        for (name, renewal) in &batch {
            if let Some(command) = command(&view, renewal) {
                names.push(name.clone());
                commands.push(command);
            }
        }
        drop(view);
        if commands.is_empty() {
            return true;
        }
        match self.propose.propose(commands).await {
            Ok(results) => {
                // Somebody else wrote the Lease meanwhile: the renewal goes on top of that, in the next batch.
                let lost = names.iter().zip(&results).filter(|(_, r)| r.is_err());
                self.put_back(lost.filter_map(|(name, _)| batch.remove_entry(name)));
                true
            }
            Err(error) => {
                tracing::debug!(%error, "heartbeats were not logged; they are tried again");
                self.put_back(batch);
                false
            }
        }
    }

    /// Newer ones that have come meanwhile stay.
    fn put_back(&self, renewals: impl IntoIterator<Item = (String, Travelling)>) {
        let mut gathered = lock(&self.gathered);
        for (name, renewal) in renewals {
            gathered.entry(name).or_insert(renewal);
        }
    }
}

/// The write of one renewal; `None` if its Lease is gone.
fn command(view: &View, renewal: &Travelling) -> Option<Command> {
    let key = Key::new(NODE_LEASES, renewal.name.clone());
    let live = view.get(LEASES, &key)?;
    let mut lease: Value = serde_json::from_str(&renewal.lease).ok()?;
    if live.revision != renewal.revision {
        // It was made from an older form: only its time counts.
        let time = lease["spec"]["renewTime"].take();
        lease = live.value();
        lease["spec"]["renewTime"] = time;
    }
    let claims = kinds::by_table(LEASES).map_or_else(Vec::new, |kind| claims::of(kind, &lease));
    let expect = Expect::Revision(live.revision);
    Some(Command::put(
        LEASES,
        key,
        expect,
        canonical::encode(&lease),
        claims,
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use coracle_api::Timestamp;
    use coracle_state::{Batch, Results, State};
    use serde_json::json;

    use super::*;

    /// A cluster of one member whose log is a state.
    #[derive(Default)]
    struct Log {
        state: Mutex<State>,
        entries: AtomicUsize,
        /// Commands of somebody else that get in first.
        rival: Mutex<Vec<Command>>,
    }

    impl Log {
        fn apply(&self, commands: Vec<Command>) -> Results {
            let at = Timestamp::from_second(1_800_000_000).unwrap();
            lock(&self.state).apply(&Batch {
                at,
                request_id: 0,
                commands,
            })
        }

        fn put(&self, name: &str, spec: Value) -> u64 {
            let object =
                json!({"metadata": {"name": name, "namespace": NODE_LEASES}, "spec": spec});
            let key = Key::new(NODE_LEASES, name);
            let bytes = canonical::encode(&object);
            let put = Command::put(LEASES, key, Expect::Any, bytes, Vec::new());
            self.apply(vec![put])[0].as_ref().unwrap().revision
        }

        fn lease(&self, name: &str) -> Value {
            let key = Key::new(NODE_LEASES, name);
            self.view().get(LEASES, &key).unwrap().value()
        }
    }

    impl Propose for Log {
        fn propose(&self, commands: Vec<Command>) -> BoxFuture<'_, Result<Results, ProposeError>> {
            let rival = std::mem::take(&mut *lock(&self.rival));
            self.apply(rival);
            self.entries.fetch_add(1, Ordering::SeqCst);
            let results = self.apply(commands);
            Box::pin(std::future::ready(Ok(results)))
        }
    }

    impl Views for Log {
        fn view(&self) -> Arc<View> {
            Arc::new(lock(&self.state).view())
        }

        fn newer_than(&self, _: u64) -> BoxFuture<'_, Arc<View>> {
            Box::pin(std::future::pending())
        }

        fn fresh(&self) -> BoxFuture<'_, Result<Arc<View>, ProposeError>> {
            Box::pin(std::future::ready(Ok(self.view())))
        }
    }

    /// The leader is the member itself.
    fn leases(log: &Arc<Log>) -> Arc<Leases> {
        Arc::new_cyclic(|me: &Weak<Leases>| {
            let me = me.clone();
            let ask: Ask = Arc::new(move |topic, body| {
                assert_eq!(topic, TOPIC);
                let answer = me.upgrade().unwrap().gather(&body);
                let answer = answer
                    .map(|()| Bytes::new())
                    .map_err(ProposeError::Unavailable);
                Box::pin(std::future::ready(answer))
            });
            Leases {
                ask,
                propose: log.clone(),
                views: log.clone(),
                outgoing: Mutex::new(Some(Vec::new())),
                outgoing_arrived: Notify::new(),
                gathered: Mutex::default(),
                gathered_arrived: Notify::new(),
            }
        })
    }

    fn renewal(name: &str, revision: u64, time: &str) -> Renewal {
        let object = json!({"metadata": {"name": name, "namespace": NODE_LEASES}, "spec": {"holderIdentity": name, "renewTime": time}});
        Renewal {
            name: name.into(),
            revision,
            bytes: canonical::encode(&object),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_renewals_are_few_entries_and_each_lease_has_its_own_revision() {
        let log = Arc::new(Log::default());
        let mut revisions = Vec::new();
        for i in 0..1_000 {
            revisions.push(log.put(&format!("n{i}"), json!({"holderIdentity": format!("n{i}")})));
        }
        let leases = leases(&log);
        let stop = CancellationToken::new();
        let running = tokio::spawn(leases.clone().run(stop.clone()));
        for round in 0..10 {
            let all = (0..1_000).map(|i| {
                leases.renew(renewal(
                    &format!("n{i}"),
                    revisions[i],
                    &format!("t{round}"),
                ))
            });
            for answer in futures_util::future::join_all(all).await {
                answer.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop.cancel();
        running.await.unwrap();
        let entries = log.entries.load(Ordering::SeqCst);
        assert!(
            entries <= 4,
            "{entries} entries for 10,000 renewals in one second"
        );
        let view = log.view();
        let mut seen: Vec<u64> = view
            .list(LEASES, Some(NODE_LEASES))
            .map(|o| o.revision)
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1_000);
        assert_eq!(
            log.lease("n7")["spec"]["renewTime"],
            "t9",
            "also what came last before the stop"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_keeps_what_somebody_else_wrote() {
        let log = Arc::new(Log::default());
        let revision = log.put("n", json!({"holderIdentity": "n", "renewTime": "t0"}));
        log.put("gone", json!({"holderIdentity": "gone"}));
        let leases = leases(&log);
        let stop = CancellationToken::new();
        let running = tokio::spawn(leases.clone().run(stop.clone()));
        let other = json!({"metadata": {"name": "n", "namespace": NODE_LEASES}, "spec": {"holderIdentity": "other", "renewTime": "t0"}});
        let key = |name: &str| Key::new(NODE_LEASES, name);
        *lock(&log.rival) = vec![
            Command::put(
                LEASES,
                key("n"),
                Expect::Any,
                canonical::encode(&other),
                Vec::new(),
            ),
            Command::delete(LEASES, key("gone"), Expect::Any),
        ];
        leases.renew(renewal("n", revision, "t1")).await.unwrap();
        leases
            .renew(renewal("gone", revision + 1, "t1"))
            .await
            .unwrap();
        while log.lease("n")["spec"]["renewTime"] != "t1" {
            tokio::time::sleep(EVERY).await;
        }
        assert_eq!(log.lease("n")["spec"]["holderIdentity"], "other");
        stop.cancel();
        running.await.unwrap();
        assert!(log.view().get(LEASES, &key("gone")).is_none());
        let late = leases.renew(renewal("n", revision, "t2")).await;
        assert_eq!(late, Err(ProposeError::Unavailable(STOPPING.into())));
    }
}
