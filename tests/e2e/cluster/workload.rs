//! Concurrent clients of all members that read and write a few keys and write down what they were told.
//!
//! Keys come in epochs: after [`EPOCH_CALLS`] calls the clients go on to new keys, so that no key's history grows too
//! long for the search of an explanation, however long the run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, StatusCode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};
use tokio::task::JoinHandle;

use super::client::{Client, Credentials, Reply};
use super::fleet::revision;
use super::history::{Action, Listing, Op, Outcome, Recorder, Revision, Value};

/// Calls before the clients go on to new keys.
pub const EPOCH_CALLS: u64 = 400;
/// Keys of an epoch: few, so that clients meet on them.
const KEYS: u64 = 8;
/// Calls that a client makes to one member before it goes to another.
const STAY_CALLS: u32 = 12;
/// A client begins a call this often at most: the members share two cores with it.
pub const PACE: Duration = Duration::from_millis(30);

/// Where the objects are.
pub const NAMESPACE: &str = "history";
/// The collection.
pub const COLLECTION: &str = "/api/v1/namespaces/history/configmaps";

/// What all clients share.
pub struct Shared {
    pub recorder: Recorder,
    /// Content and revision of each key as somebody last saw them; what a compare-and-swap expects.
    known: Mutex<BTreeMap<String, (Value, Revision)>>,
    calls: AtomicU64,
    stop: AtomicBool,
    /// Answers that no test client should get.
    pub unexpected: Mutex<Vec<String>>,
    members: AtomicU64,
}

/// Running clients.
pub struct Workload {
    pub shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    runtime: Arc<tokio::runtime::Runtime>,
}

impl Workload {
    /// Starts `clients` clients of `members` members.
    pub fn start(
        runtime: &Arc<tokio::runtime::Runtime>,
        credentials: &Credentials,
        members: usize,
        clients: u32,
        pace: Duration,
        seed: u64,
    ) -> Self {
        let shared = Arc::new(Shared {
            recorder: Recorder::new(),
            known: Mutex::default(),
            calls: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            unexpected: Mutex::default(),
            members: AtomicU64::new(members as u64),
        });
        let clients = (0..clients)
            .map(|id| {
                let rng = StdRng::seed_from_u64(seed ^ (u64::from(id) << 32));
                let work = work(id, shared.clone(), credentials.clone(), pace, rng);
                runtime.spawn(work)
            })
            .collect();
        Self {
            shared,
            clients,
            runtime: runtime.clone(),
        }
    }

    /// Lets every client finish its call and ends them.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for c in self.clients.drain(..) {
            self.runtime.block_on(c).unwrap();
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for c in &self.clients {
            c.abort();
        }
    }
}

async fn work(
    id: u32,
    shared: Arc<Shared>,
    credentials: Credentials,
    pace: Duration,
    mut rng: StdRng,
) {
    let mut pace = tokio::time::interval(pace);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut member = id as usize;
    let mut client: Option<Client> = None;
    let mut left = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        pace.tick().await;
        let members = shared.members.load(Ordering::SeqCst) as usize;
        if left == 0 {
            member = (member + 1 + rng.random_range(0..members)) % members;
            client = None;
            left = STAY_CALLS;
        }
        left -= 1;
        let http = client.get_or_insert_with(|| Client::new(&credentials, member));
        let epoch = shared.calls.fetch_add(1, Ordering::SeqCst) / EPOCH_CALLS;
        let reached = if rng.random_bool(0.06) {
            list(&shared, http, id, member, epoch).await
        } else {
            let key = format!("k{}-{epoch}", rng.random_range(0..KEYS));
            let action = shared.choose(&key, &mut rng);
            call(&shared, http, id, member, key, action).await
        };
        if !reached {
            left = 0;
        }
    }
}

impl Shared {
    fn choose(&self, key: &str, rng: &mut StdRng) -> Action {
        let known = self.known.lock().unwrap().get(key).copied();
        match (rng.random_range(0..100), known) {
            (0..30, _) => Action::Get,
            (30..40, Some(_)) => Action::Delete,
            (40..60, Some(_)) => Action::Put(self.recorder.fresh_value()),
            (60..90, Some((expect, _))) => Action::Cas {
                expect,
                value: self.recorder.fresh_value(),
            },
            _ => Action::Create(self.recorder.fresh_value()),
        }
    }

    /// Calls begun.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

/// The object that holds a content.
pub fn object(key: &str, value: Value, revision: Option<Revision>) -> Json {
    let mut o = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": key, "labels": {"epoch": super::linear::epoch(key).to_string()}},
        "data": {"v": value.to_string()},
    });
    if let Some(r) = revision {
        o["metadata"]["resourceVersion"] = json!(r.to_string());
    }
    o
}

/// Name, content and revision of an object of the workload; `None` for anything else in the namespace.
pub fn read_object(o: &Json) -> Option<(String, Value, Revision)> {
    o["metadata"]["labels"]["epoch"].as_str()?;
    let value = o["data"]["v"].as_str()?.parse().ok()?;
    Some((
        o["metadata"]["name"].as_str()?.to_string(),
        value,
        revision(o)?,
    ))
}

/// One call for one key, written down. Answers whether the member was reached and answered.
pub async fn call(
    shared: &Shared,
    client: &mut Client,
    id: u32,
    member: usize,
    key: String,
    action: Action,
) -> bool {
    let expected = match action {
        Action::Cas { expect, .. } => {
            let known = shared.known.lock().unwrap().get(&key).copied();
            match known.filter(|(v, _)| *v == expect) {
                Some((_, r)) => Some(r),
                // Somebody learnt something newer in between: nothing was asked.
                None => return true,
            }
        }
        _ => None,
    };
    let one = format!("{COLLECTION}/{key}");
    let begin = shared.recorder.now();
    let reply = match action {
        Action::Create(v) => {
            let body = object(&key, v, None);
            client.call(Method::POST, COLLECTION, Some(&body)).await
        }
        Action::Put(v) | Action::Cas { value: v, .. } => {
            let body = object(&key, v, expected);
            client.call(Method::PUT, &one, Some(&body)).await
        }
        Action::Delete => client.call(Method::DELETE, &one, None).await,
        Action::Get => client.call(Method::GET, &one, None).await,
    };
    let end = shared.recorder.now();
    let answered = matches!(reply, Reply::Answer(..));
    let outcome = match reply {
        Reply::NotSent(e) => Outcome::Refused(e),
        Reply::NoAnswer(e) => Outcome::Unknown(e),
        Reply::Answer(status, body) => match (status, action) {
            (StatusCode::OK, Action::Get) => match read_object(&body) {
                Some((_, v, r)) => Outcome::Seen(v, r),
                None => shared.odd(&key, action, status, &body),
            },
            (StatusCode::OK, Action::Delete) => Outcome::Done(None),
            (StatusCode::OK | StatusCode::CREATED, _) => Outcome::Done(revision(&body)),
            (StatusCode::NOT_FOUND, _) => Outcome::Absent,
            (StatusCode::CONFLICT, _) => Outcome::Conflict,
            (StatusCode::TOO_MANY_REQUESTS, _) => Outcome::Refused(body.to_string()),
            // Nothing is promised: the write may still be on its way through the log.
            (s, _) if s.is_server_error() => Outcome::Unknown(format!("{s}: {body}")),
            (s, _) => shared.odd(&key, action, s, &body),
        },
    };
    let now_known = match (&outcome, action.value()) {
        (Outcome::Done(Some(r)), Some(v)) => Some(Some((v, *r))),
        (Outcome::Seen(v, r), _) => Some(Some((*v, *r))),
        (Outcome::Absent, _) | (Outcome::Done(None), None) => Some(None),
        _ => None,
    };
    if let Some(known) = now_known {
        let mut table = shared.known.lock().unwrap();
        match known {
            Some(k) => drop(table.insert(key.clone(), k)),
            None => drop(table.remove(&key)),
        }
    }
    shared.recorder.op(Op {
        client: id,
        member,
        key,
        action,
        outcome,
        call: begin,
        ret: end,
    });
    answered
}

impl Shared {
    /// An answer that has no place here.
    fn odd(&self, key: &str, action: Action, status: StatusCode, body: &Json) -> Outcome {
        let text = format!("{action:?} of {key}: {status} {body}");
        self.unexpected.lock().unwrap().push(text.clone());
        Outcome::Unknown(text)
    }
}

async fn list(shared: &Shared, client: &mut Client, id: u32, member: usize, epoch: u64) -> bool {
    let path = format!("{COLLECTION}?labelSelector=epoch%3D{epoch}");
    let call = shared.recorder.now();
    let reply = client.call(Method::GET, &path, None).await;
    let ret = shared.recorder.now();
    match reply {
        Reply::Answer(StatusCode::OK, body) => {
            let items = body["items"].as_array().into_iter().flatten();
            let items = items.filter_map(read_object).map(|(k, v, r)| (k, (v, r)));
            shared.recorder.list(Listing {
                client: id,
                member,
                epoch,
                revision: revision(&body).unwrap_or_default(),
                items: items.collect(),
                call,
                ret,
            });
            true
        }
        Reply::Answer(status, body) if !status.is_server_error() && status != 429 => {
            let text = format!("list: {status} {body}");
            shared.unexpected.lock().unwrap().push(text);
            true
        }
        Reply::Answer(..) => true,
        _ => false,
    }
}
