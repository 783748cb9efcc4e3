//! A control plane of several members in one process: growing, changing, losing and restarting them.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_api::Timestamp;
use coracle_state::Views;
use http::{Method, StatusCode};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Client;
use super::{config, scheduler};
use crate::{Role, Scheduler, SchedulerConfig, start};

/// Bound on anything these tests wait for; a promotion takes about two pulses.
const PATIENCE: Duration = Duration::from_secs(60);
const MEMBERS: &str = "/coracle/v1/members";

async fn token(s: &Scheduler) -> String {
    s.create_token(Role::Scheduler, Duration::from_secs(600))
        .await
        .unwrap()
}

async fn joining(dir: &Path, name: &str, through: &Scheduler) -> SchedulerConfig {
    let mut config = config(dir);
    // Members are removed here; the process goes on.
    config.fatal = crate::Fatal::new(|line| tracing::warn!("{line}"));
    config.name = Some(name.into());
    config.join = Some(through.api_addr().to_string());
    config.token = Some(token(through).await);
    config
}

async fn join(dir: &Path, name: &str, through: &Scheduler) -> Scheduler {
    start(joining(dir, name, through).await)
        .await
        .unwrap_or_else(|e| panic!("{e}"))
}

async fn refused(config: SchedulerConfig) -> String {
    match start(config).await {
        Ok(_) => panic!("it started"),
        Err(e) => e.to_string(),
    }
}

/// The members as one of them tells.
async fn list(s: &Scheduler) -> Vec<Value> {
    let (status, answer) = Client::admin(s).get(MEMBERS).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["members"].as_array().unwrap().clone()
}

/// Waits until the members are as wanted, in the eyes of one of them.
async fn until(s: &Scheduler, what: &str, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let waiting = async {
        loop {
            let members = list(s).await;
            if done(&members) {
                return members;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(members) => members,
        Err(_) => panic!("{what} did not happen: {:#?}", list(s).await),
    }
}

fn voters(members: &[Value]) -> usize {
    members.iter().filter(|m| m["voter"] == true).count()
}

fn leader(members: &[Value]) -> Option<String> {
    let leader = members.iter().find(|m| m["leader"] == true)?;
    Some(leader["name"].as_str().unwrap().to_string())
}

/// Three voters.
pub(super) async fn three(dirs: &[TempDir; 3]) -> [Scheduler; 3] {
    let mut first = config(dirs[0].path());
    first.name = Some("a".into());
    let a = start(first).await.unwrap_or_else(|e| panic!("{e}"));
    let b = join(dirs[1].path(), "b", &a).await;
    // Through a learner: any member lets others in.
    let c = join(dirs[2].path(), "c", &b).await;
    until(&a, "three voters", |m| voters(m) == 3).await;
    [a, b, c]
}

pub(super) fn dirs() -> [TempDir; 3] {
    [(); 3].map(|()| TempDir::new().unwrap())
}

pub(super) async fn stop(members: &[Scheduler]) {
    futures_util::future::join_all(members.iter().map(Scheduler::shutdown)).await;
}

pub(super) async fn write(s: &Scheduler, name: &str) -> Value {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}});
    let path = "/api/v1/namespaces/default/configmaps";
    Client::admin(s).post(path, &map).await
}

/// Waits until a member has an object; followers apply a moment later.
pub(super) async fn seen(s: &Scheduler, name: &str) {
    let key = coracle_api::Key::new("default", name);
    let replica = s.replica();
    let waiting = async {
        let mut view = replica.view();
        while view.get("configmaps", &key).is_none() {
            view = replica.newer_than(view.revision).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("{} does not see {name}", s.name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_grows_to_three_and_any_member_takes_writes() {
    let dirs = dirs();
    let a = scheduler(dirs[0].path()).await;
    write(&a, "before").await;
    let b = join(dirs[1].path(), "b", &a).await;
    let two = list(&a).await;
    assert_eq!(
        (two.len(), voters(&two)),
        (2, 1),
        "two voters bear no loss: {two:?}"
    );
    assert_eq!(b.cluster(), a.cluster());
    assert_eq!(b.ca_pem(), a.ca_pem());
    seen(&b, "before").await;
    // A learner serves everything, and an administrator of one member is one of all.
    assert_eq!(Client::admin(&b).get("/readyz").await.0, StatusCode::OK);
    write(&b, "through-a-learner").await;
    seen(&a, "through-a-learner").await;

    let c = join(dirs[2].path(), "c", &b).await;
    let members = until(&c, "three voters", |m| voters(m) == 3).await;
    assert_eq!(members.len(), 3);
    for m in &members {
        assert_eq!(m["id"].as_str().unwrap().len(), 16, "{m}");
        assert!(
            m["api"].as_str().unwrap().starts_with("https://127.0.0.1:"),
            "{m}"
        );
        assert!(m["raft"].as_str().unwrap().starts_with("127.0.0.1:"), "{m}");
    }
    for (s, name) in [(&a, "by-a"), (&b, "by-b"), (&c, "by-c")] {
        write(s, name).await;
        for other in [&a, &b, &c] {
            seen(other, name).await;
        }
        let (_, read) = Client::admin(s)
            .get(&format!("/api/v1/namespaces/default/configmaps/{name}"))
            .await;
        assert_eq!(
            read["metadata"]["name"], name,
            "a member reads its own write"
        );
    }
    let (_, urls) = Client::admin(&c).get("/coracle/v1/endpoints").await;
    let urls = urls["api"].as_array().unwrap().clone();
    assert_eq!(
        (urls.len(), urls[0].as_str()),
        (3, Some(c.api_url())),
        "{urls:?}"
    );
    for s in [&a, &b, &c] {
        let (_, status) = Client::admin(s).get("/coracle/v1/status").await;
        assert_eq!(
            (&status["name"], &status["ready"]),
            (&json!(s.name()), &json!(true))
        );
        assert!(s.kubeconfig_path().exists());
    }
    stop(&[a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_where_it_is_sent_and_leaves_with_a_signal() {
    let dirs = dirs();
    let [a, b, c] = three(&dirs).await;
    let transfer = async |by: &Scheduler, to: Value| {
        let path = format!("{MEMBERS}/transfer");
        Client::admin(by)
            .send(Method::POST, &path, &json!({"to": to}))
            .await
    };
    for (by, to) in [(&a, &c), (&a, &b), (&b, &a)] {
        let (status, answer) = transfer(by, json!(to.name())).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        until(by, "the hand-over", |m| {
            leader(m).as_deref() == Some(to.name())
        })
        .await;
    }
    let (status, answer) = transfer(&b, json!("nobody")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let text = answer["message"].as_str().unwrap();
    assert!(
        text.starts_with("E_MEMBER_UNKNOWN") && text.contains("a ("),
        "{text}"
    );

    write(&a, "before").await;
    a.shutdown().await;
    let led = until(&b, "another leader", |m| {
        leader(m).is_some_and(|l| l != "a")
    })
    .await;
    assert_eq!(led.len(), 3, "a member that is down is still one");
    write(&b, "after").await;
    seen(&c, "after").await;
    drop(a);
    let a = scheduler(dirs[0].path()).await;
    seen(&a, "after").await;
    stop(&[a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_restart_with_their_old_flags_and_new_ports() {
    let dirs = dirs();
    let [a, b, c] = three(&dirs).await;
    write(&a, "kept").await;
    let again = joining(dirs[1].path(), "b", &a).await;
    let ids = [&a, &b, &c].map(|s| s.id().to_string());
    stop(&[a, b, c]).await;
    // Its ports are taken by somebody else now: it takes others and tells.
    std::fs::remove_file(dirs[2].path().join("ports.json")).unwrap();
    let (a, b, c) = tokio::join!(
        start(config(dirs[0].path())),
        // A unit file keeps --join and --token; the token was used long ago.
        start(again),
        start(config(dirs[2].path())),
    );
    let [a, b, c] = [a, b, c].map(|s| s.unwrap_or_else(|e| panic!("{e}")));
    assert_eq!([&a, &b, &c].map(|s| s.id().to_string()), ids);
    for s in [&a, &b, &c] {
        seen(s, "kept").await;
    }
    let moved = c.api_url().to_string();
    until(&a, "the announcement", |m| {
        m.iter().any(|m| m["api"] == moved)
    })
    .await;
    write(&c, "more").await;
    seen(&b, "more").await;
    stop(&[a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_removed_replaced_and_wiped() {
    let dirs = dirs();
    let [a, b, c] = three(&dirs).await;
    let admin = Client::admin(&a);
    let remove = async |which: &str, force: bool| {
        let path = format!("{MEMBERS}/{which}");
        let (status, answer) = admin
            .send(Method::DELETE, &path, &json!({"force": force}))
            .await;
        let text = answer["message"].as_str().unwrap_or_default();
        (status, text.to_string(), answer)
    };
    let (status, text, _) = remove("x", false).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(
        text.starts_with("E_MEMBER_UNKNOWN") && text.contains("b ("),
        "{text}"
    );
    let (status, text, _) = remove("b", false).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(
        text.starts_with("E_MEMBER_EVEN") && text.contains("--force"),
        "{text}"
    );

    // A member's disk is gone. Its name is free once it is silent, and it gets another id.
    let gone = c.id().to_string();
    let mut alive = joining(TempDir::new().unwrap().path(), "c", &a).await;
    alive.data_dir = dirs[2].path().join("other");
    let ended = Arc::new(Mutex::new(String::new()));
    let line = ended.clone();
    alive.fatal = crate::Fatal::new(move |text| *line.lock().unwrap() = text.to_string());
    let early = tokio::spawn(start(alive));
    // While the namesake lives the newcomer waits a while; then the namesake stops.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!early.is_finished(), "a living member's name is taken");
    c.shutdown().await;
    drop(c);
    let c = early.await.unwrap().unwrap_or_else(|e| panic!("{e}"));
    assert_ne!(c.id(), gone);
    let (status, text, _) = remove("c", false).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(
        text.starts_with("E_MEMBER_AMBIGUOUS") && text.contains(&gone),
        "{text}"
    );
    // Two of three voters are alive: neither may go, the dead one may.
    let (status, text, _) = remove("b", true).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(text.starts_with("E_MEMBER_QUORUM"), "{text}");
    let (status, text, answer) = remove(&gone, true).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert_eq!(answer["removed"]["id"], gone);
    let members = until(&b, "the replacement", |m| m.len() == 3 && voters(m) == 3).await;
    assert!(members.iter().any(|m| m["id"] == c.id()));
    write(&c, "after").await;
    seen(&b, "after").await;

    // Down to one, by force where it must be. Who was removed hears of it and ends.
    assert_eq!(*ended.lock().unwrap(), "");
    let (status, text, answer) = remove("c", true).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let told = async {
        while !ended.lock().unwrap().starts_with("E_MEMBER_REMOVED") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("c ends");
    assert!(
        answer["warning"].as_str().unwrap().contains("2 voters"),
        "{answer}"
    );
    let (status, text, _) = remove("b", false).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let (status, text, _) = remove("a", true).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(text.starts_with("E_MEMBER_LAST"), "{text}");
    write(&a, "alone").await;
    stop(&[a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_member_out_costs_no_token_and_writes_nothing() {
    let (home, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, stranger) = (scheduler(home.path()).await, scheduler(other.path()).await);
    let dir = TempDir::new().unwrap();
    let good = joining(dir.path(), "b", &a).await;
    let with = |change: &dyn Fn(&mut SchedulerConfig)| {
        let mut config = good.clone();
        change(&mut config);
        config
    };
    let late = |seconds: i64| {
        move |c: &mut SchedulerConfig| {
            c.clock = Arc::new(move || {
                Timestamp::now()
                    .checked_add(SignedDuration::from_secs(seconds))
                    .unwrap()
            });
        }
    };
    let foreign = token(&stranger).await;
    let runner = a
        .create_token(Role::Runner, Duration::from_secs(60))
        .await
        .unwrap();
    let text = good.token.clone().unwrap();
    let wrong = format!("{}0000", &text[..text.len() - 4]);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = silent.local_addr().unwrap().to_string();
    drop(silent);
    let registry = a
        .registry_url()
        .unwrap()
        .trim_start_matches("http://")
        .to_string();
    let cases: [(&str, &dyn Fn(&mut SchedulerConfig), &[&str]); 9] = [
        ("E_JOIN_TOKEN: ", &|c| c.token = None, &["--token"]),
        (
            "E_JOIN_TOKEN: ",
            &|c| c.token = Some("hello".into()),
            &["token create"],
        ),
        (
            "E_TOKEN: ",
            &|c| c.token = Some(wrong.clone()),
            &["token create"],
        ),
        (
            "E_JOIN_CA: ",
            &|c| c.token = Some(foreign.clone()),
            &["--join"],
        ),
        (
            "E_TOKEN_ROLE: ",
            &|c| c.token = Some(runner.clone()),
            &["--role scheduler"],
        ),
        (
            "E_JOIN_UNREACHABLE: ",
            &|c| c.join = Some(nobody.clone()),
            &[&nobody],
        ),
        (
            "E_JOIN_UNREACHABLE: ",
            &|c| c.join = Some(registry.clone()),
            &[&registry],
        ),
        ("E_CLOCK_SKEW: ", &late(-45), &["s behind that of", "NTP"]),
        ("E_CLOCK_SKEW: ", &late(90), &["s ahead of that of"]),
    ];
    for (code, change, parts) in cases {
        let error = refused(with(change)).await;
        assert!(error.starts_with(code), "{code}: {error}");
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!dir.path().join("raft").exists(), "{error}");
        assert!(!dir.path().join("pki").exists(), "{error}");
    }
    let mut own = good.clone();
    own.data_dir = other.path().into();
    stranger.shutdown().await;
    drop(stranger);
    let error = refused(own).await;
    assert!(error.starts_with("E_CLUSTER_MISMATCH: "), "{error}");
    // The token was not used up by any of these.
    let b = start(good).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(list(&b).await.len(), 2);
    stop(&[b, a]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_was_cut_off_goes_on_without_a_token() {
    let (home, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = scheduler(home.path()).await;
    let mut first = joining(dir.path(), "b", &a).await;
    let api = a.api_addr();
    // The certificate arrives, then the cluster is away.
    let mut data = crate::DataDir::open(dir.path(), Some("b")).unwrap();
    let newcomer = crate::enter::Newcomer {
        raft: "127.0.0.1:1",
        api: "https://127.0.0.1:2",
        clock: &first.clock,
    };
    let target = api.to_string();
    crate::enter::enter(
        &mut data,
        &target,
        first.token.as_deref().unwrap(),
        &newcomer,
    )
    .await
    .unwrap();
    let id = data.identity().id.clone();
    drop(data);
    (first.join, first.token) = (None, None);
    let b = start(first).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(b.id(), id);
    assert!(!dir.path().join("joining").exists());
    assert_eq!(list(&a).await.len(), 2);
    // A directory whose log is gone is not taken for a new cluster.
    b.shutdown().await;
    drop(b);
    std::fs::remove_dir_all(dir.path().join("raft")).unwrap();
    let error = refused(config(dir.path())).await;
    assert!(error.starts_with("E_DATA_LOG_GONE: "), "{error}");
    a.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_a_quorum_waits_for_one() {
    let dirs = dirs();
    let [a, b, c] = three(&dirs).await;
    write(&a, "kept").await;
    stop(&[a, b, c]).await;
    let alone = tokio::spawn(start(config(dirs[0].path())));
    // Several elections' time.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!alone.is_finished());
    let b = scheduler(dirs[1].path()).await;
    let a = alone.await.unwrap().unwrap_or_else(|e| panic!("{e}"));
    write(&b, "more").await;
    seen(&a, "more").await;
    seen(&a, "kept").await;
    stop(&[a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_proxies_report_to_any_member_reaches_the_leader() {
    let dirs = dirs();
    let [a, b, c] = three(&dirs).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    Client::admin(&b).post("/api/v1/nodes", &node).await;
    let path = "/coracle/v1/proxies/n1";
    let (status, _, _) = Client::node(&b, &b.node_identity_for_local_runner("n1").unwrap())
        .bytes(
            Method::PUT,
            path,
            "application/json",
            json!({"applied": 7}).to_string().into(),
        )
        .await
        .unwrap();
    assert_eq!(status, StatusCode::NO_CONTENT);
    let heard = async |s: &Scheduler| {
        while !s.acks.known().contains_key("n1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let by = leader(&list(&a).await).unwrap();
    let lead = [&a, &b, &c].into_iter().find(|s| s.name() == by).unwrap();
    tokio::time::timeout(PATIENCE, heard(lead))
        .await
        .expect("the leader hears of it");
    // A new leader is told, by whoever heard it first.
    let path = format!("{MEMBERS}/transfer");
    Client::admin(&a).post(&path, &json!({"to": "c"})).await;
    tokio::time::timeout(PATIENCE, heard(&c))
        .await
        .expect("the next leader is told");
    stop(&[a, b, c]).await;
}
