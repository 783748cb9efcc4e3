//! Backups of a running member, restores into new directories, and the reset of a member that lost its quorum.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coracle_api::Timestamp;
use coracle_raft::gate::{Gate, Space};
use coracle_raft::rebuild;
use coracle_state::snapshot::NEW_HISTORY;
use coracle_state::{State, View};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Client;
use super::{config, scheduler};
use crate::backup::{self, BackupError, Keeper, Keeping, Reset, Schedule};
use crate::{Role, Scheduler, StartError, start};

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"k": name}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Every object byte by byte, but for what is the old cluster's alone.
fn objects(view: &View) -> Vec<(String, String, u64, u64, Bytes)> {
    let lost = [
        "coracle.certs",
        "coracle.cluster",
        "coracle.pki",
        "coracle.tokens",
    ];
    let tables = view
        .tables
        .iter()
        .filter(|(t, _)| !lost.contains(&t.as_str()));
    let rows = tables.flat_map(|(t, table)| {
        table.objects.values().map(move |o| {
            (
                t.clone(),
                o.key.to_string(),
                o.created,
                o.revision,
                o.bytes.clone(),
            )
        })
    });
    rows.collect()
}

/// The state in a directory whose member does not run.
fn on_disk(dir: &Path) -> State {
    rebuild::read(&dir.join("raft")).unwrap().state
}

/// A backup over the API, in a file.
async fn saved(client: &Client, dir: &Path) -> PathBuf {
    let (status, headers, bytes) = client
        .bytes(Method::GET, "/coracle/v1/backup", "", Bytes::new())
        .await
        .unwrap();
    assert_eq!(status, StatusCode::OK);
    let name = headers["content-disposition"].to_str().unwrap();
    assert!(
        name.contains("coracle-20") && name.ends_with(".backup\""),
        "{name}"
    );
    let path = dir.join("saved.backup");
    fs::write(&path, bytes).unwrap();
    path
}

/// What a watch from a revision is told first.
async fn watched(client: &Client, from: u64) -> Value {
    let path = format!("{MAPS}?watch=true&timeoutSeconds=1&resourceVersion={from}");
    let (_, answer) = client.get(&path).await;
    match answer {
        Value::String(lines) => lines
            .lines()
            .next()
            .map_or(Value::Null, |l| serde_json::from_str(l).unwrap()),
        other => other,
    }
}

fn is_expired(answer: &Value) -> bool {
    answer["code"] == 410 || answer["object"]["code"] == 410
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_has_every_object_and_nothing_of_the_old_cluster() {
    let (old, files, new) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    let s = scheduler(old.path()).await;
    let admin = Client::admin(&s);
    for n in 0..20 {
        admin.post(MAPS, &config_map(&format!("n{n}"))).await;
    }
    admin
        .post("/api/v1/namespaces/default/secrets", &json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "s", "namespace": "default"}, "stringData": {"password": "hunter2"}}))
        .await;
    admin
        .post(
            "/api/v1/nodes",
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}),
        )
        .await;
    admin
        .post("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", &json!({"apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease", "metadata": {"name": "n1", "namespace": "kube-node-lease"}, "spec": {"leaseDurationSeconds": 40}}))
        .await;
    s.create_token(Role::Runner, Duration::from_secs(60))
        .await
        .unwrap();
    let node = Client::node(&s, &s.node_identity_for_local_runner("n1").unwrap());
    let (refused, _) = node.get("/coracle/v1/backup").await;
    assert_eq!(refused, StatusCode::FORBIDDEN, "Secrets are in a backup");
    let file = saved(&admin, files.path()).await;
    let (ca, cluster, id) = (s.ca_pem(), s.cluster().to_string(), s.id().to_string());
    let (_, list) = admin.get(MAPS).await;
    let before: u64 = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    // What is written after the backup is lost; its revisions were handed out all the same.
    admin.post(MAPS, &config_map("later")).await;
    assert!(matches!(
        backup::restore(&file, old.path(), None),
        Err(BackupError::Start(StartError::Locked { .. }))
    ));
    s.shutdown().await;
    drop(s);

    let says = backup::inspect(&file).unwrap();
    assert_eq!(says, backup::verify(&file).unwrap());
    assert_eq!((&says.cluster, says.members.len()), (&cluster, 1));
    assert!(says.revision >= before);
    assert!(matches!(
        backup::restore(&file, old.path(), None),
        Err(BackupError::NotEmpty { .. })
    ));
    let done = backup::restore(&file, new.path(), Some("fresh")).unwrap();
    assert_eq!(
        (done.name.as_str(), done.revision),
        ("fresh", says.revision + NEW_HISTORY)
    );
    assert_ne!(done.id, id, "node ids are never used again");
    let restored = on_disk(new.path());
    let mut kept = objects(&restored.view());
    let mut had = objects(&on_disk(old.path()).view());
    // Only what came after the backup differs.
    had.retain(|o| o.3 <= says.revision || o.0.starts_with("coracle."));
    kept.sort();
    had.sort();
    assert_eq!(kept, had);
    assert!(kept.iter().any(|o| o.1.contains("n19")) && kept.len() > 25);
    assert_eq!(restored.view().list("coracle.tokens", None).count(), 0);

    for round in 0..2 {
        let s = scheduler(new.path()).await;
        assert_ne!(s.cluster(), cluster);
        assert_ne!(s.ca_pem(), ca);
        assert_eq!((s.name(), s.id()), ("fresh", done.id.as_str()));
        let fresh = Client::admin(&s);
        let (_, list) = fresh.get(MAPS).await;
        let now: u64 = list["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(now >= before + NEW_HISTORY, "{now}");
        for n in 0..20 {
            assert_eq!(fresh.get(&format!("{MAPS}/n{n}")).await.0, StatusCode::OK);
        }
        assert_eq!(
            fresh.get(&format!("{MAPS}/later")).await.0,
            StatusCode::NOT_FOUND
        );
        let (_, secret) = fresh.get("/api/v1/namespaces/default/secrets/s").await;
        assert_eq!(secret["data"]["password"], "aHVudGVyMg==");
        assert!(is_expired(&watched(&fresh, before).await), "lists again");
        assert!(!is_expired(&watched(&fresh, now).await));
        let (_, root) = fresh.get(&format!("{MAPS}/kube-root-ca.crt")).await;
        assert_eq!(root["data"]["ca.crt"], s.ca_pem());
        let made = fresh
            .post(MAPS, &config_map(&format!("round{round}")))
            .await;
        let at: u64 = made["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(at > now);
        s.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_cannot_be_leaves_nothing_behind() {
    let (dir, files) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let s = scheduler(dir.path()).await;
    let file = saved(&Client::admin(&s), files.path()).await;
    s.shutdown().await;
    let whole = fs::read(&file).unwrap();
    let target = files.path().join("new");
    let damaged = files.path().join("damaged.backup");
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    for n in 0..100 {
        let at = n * whole.len() / 100;
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (n % 8);
        cases.push((format!("bit flip at {at}"), bytes));
        cases.push((format!("cut at {at}"), whole[..at].to_vec()));
    }
    for (what, bytes) in cases {
        fs::write(&damaged, bytes).unwrap();
        let verified = backup::verify(&damaged).unwrap_err().to_string();
        let known = ["E_BACKUP_CORRUPT: ", "E_FORMAT_NEWER: "]
            .iter()
            .any(|c| verified.starts_with(c));
        assert!(
            known && verified.contains("damaged.backup"),
            "{what}: {verified}"
        );
        assert!(backup::restore(&damaged, &target, None).is_err(), "{what}");
        assert!(!target.exists(), "{what}");
    }
    let refused = backup::restore(&file, &target, Some("No Name")).unwrap_err();
    assert!(refused.to_string().starts_with("E_BAD_NAME"), "{refused}");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);

    // A restore that was cut off by a crash is no new cluster.
    fs::create_dir_all(target.join("raft.restoring/raft")).unwrap();
    let error = start(config(&target)).await.unwrap_err().to_string();
    assert!(error.starts_with("E_RESTORE_UNFINISHED: "), "{error}");
    let error = backup::restore(&file, &target, None)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("E_RESTORE_UNFINISHED: "), "{error}");
    fs::remove_dir_all(&target).unwrap();
    backup::restore(&file, &target, None).unwrap();
    assert!(!target.join("raft.restoring").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_saves_backups_of_its_own_and_keeps_the_newest() {
    let dir = TempDir::new().unwrap();
    let s = scheduler(dir.path()).await;
    let admin = Client::admin(&s);
    let (_, status) = admin.get("/coracle/v1/status").await;
    assert_eq!(
        (
            &status["backup"]["everySeconds"],
            &status["backup"]["keep"],
            &status["backup"]["error"]
        ),
        (&json!(43_200), &json!(5), &Value::Null)
    );
    let seconds = Arc::new(AtomicI64::new(1_700_000_000));
    let ticks = seconds.clone();
    let mut keeper = Keeper::new(Keeping {
        replica: s.replica.clone(),
        data_dir: dir.path(),
        cluster: s.cluster(),
        member: s.name(),
        version: "0.0.0",
        clock: Arc::new(move || {
            Timestamp::from_second(ticks.fetch_add(60, Ordering::Relaxed)).unwrap()
        }),
        schedule: Schedule {
            every: Duration::from_secs(60),
            keep: 2,
        },
        keep_free_bytes: Some(1),
    });
    let folder = dir.path().join(backup::FOLDER);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("coracle-x.backup.partial"), "of a crash").unwrap();
    let mut names = Vec::new();
    for n in 0..4 {
        admin.post(MAPS, &config_map(&format!("n{n}"))).await;
        names.push(keeper.save().await.unwrap().name);
    }
    let (_, list) = admin.get("/coracle/v1/backups").await;
    let listed: Vec<&str> = list["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        listed,
        [names[3].as_str(), names[2].as_str()],
        "newest first"
    );
    assert_eq!(list["backups"][0]["cluster"], s.cluster());
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        2,
        "nothing else is left"
    );
    let newest = backup::verify(&folder.join(&names[3])).unwrap();
    assert_eq!(newest.member, s.name());
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(
        (mode(&folder), mode(&folder.join(&names[3]))),
        (0o700, 0o600)
    );

    // A full disk: said, and nothing taken away.
    let full = Box::new(|_: &Path| {
        Ok(Space {
            free: 1_000,
            total: 1 << 30,
        })
    });
    Arc::get_mut(&mut keeper).unwrap().gate = Gate::with(dir.path(), Some(1), full);
    let error = keeper.save().await.unwrap_err();
    assert!(error.starts_with("E_BACKUP_NO_ROOM: "), "{error}");
    assert_eq!(keeper.status()["error"], error);
    assert_eq!(keeper.status()["last"]["name"], names[3]);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    drop(keeper);
    s.shutdown().await;
}

/// A member that joins through another.
async fn joined(through: &Scheduler, dir: &Path) -> Scheduler {
    let token = through
        .create_token(Role::Scheduler, Duration::from_secs(600))
        .await
        .unwrap();
    let mut c = config(dir);
    c.join = Some(through.api_addr().to_string());
    c.token = Some(token);
    start(c).await.unwrap_or_else(|e| panic!("{e}"))
}

/// Waits until this many members vote.
async fn voters(s: &Scheduler, wanted: usize) {
    loop {
        let all = s.replica().members();
        if all.iter().filter(|m| m.voter).count() == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_its_quorum_becomes_the_only_one() {
    let dirs = [
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    ];
    let a = scheduler(dirs[0].path()).await;
    let single = Reset::look(dirs[0].path()).unwrap_err().to_string();
    assert!(single.starts_with("E_DATA_LOCKED"), "{single}");
    let b = joined(&a, dirs[1].path()).await;
    let c = joined(&a, dirs[2].path()).await;
    voters(&a, 3).await;
    let admin = Client::admin(&a);
    for n in 0..10 {
        admin.post(MAPS, &config_map(&format!("n{n}"))).await;
    }
    let (_, list) = admin.get(MAPS).await;
    let before: u64 = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let node = Client::node(&a, &a.node_identity_for_local_runner("n1").unwrap());
    let (cluster, ca, id) = (a.cluster().to_string(), a.ca_pem(), a.id().to_string());
    let names = [b.name().to_string(), c.name().to_string()];
    // All at once: the two that are lost take their votes with them.
    tokio::join!(c.shutdown(), b.shutdown(), a.shutdown());
    drop((a, b, c));
    let had = objects(&on_disk(dirs[0].path()).view());

    let reset = Reset::look(dirs[0].path()).unwrap();
    let lost = reset.lost().clone();
    assert_eq!((&lost.cluster, &lost.id), (&cluster, &id));
    let mut dropped: Vec<&str> = lost.dropped.iter().map(|m| m.name.as_str()).collect();
    dropped.sort_unstable();
    let mut expected = [names[0].as_str(), names[1].as_str()];
    expected.sort_unstable();
    assert_eq!(dropped, expected);
    assert!(lost.last.index >= lost.committed.index && lost.revision >= before);
    let done = reset.run().unwrap();
    assert_ne!(done.cluster, cluster);
    assert_eq!(done.revision, lost.revision + NEW_HISTORY);
    assert!(
        done.archive.join("snapshots").is_dir(),
        "the old log is kept"
    );
    assert_eq!(objects(&on_disk(dirs[0].path()).view()), had);
    let again = Reset::look(dirs[0].path()).unwrap_err().to_string();
    assert!(again.starts_with("E_RESET_SINGLE"), "{again}");

    let a = scheduler(dirs[0].path()).await;
    assert_eq!(
        (a.cluster(), a.ca_pem(), a.id()),
        (done.cluster.as_str(), ca, id.as_str())
    );
    // The kubeconfig and the runner of before go on.
    let (status, list) = admin.get(MAPS).await;
    assert_eq!(status, StatusCode::OK);
    let now: u64 = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(now >= before + NEW_HISTORY);
    assert_eq!(node.get(&format!("{MAPS}/n9")).await.0, StatusCode::OK);
    assert!(is_expired(&watched(&admin, before).await));
    admin.post(MAPS, &config_map("after")).await;
    // A dropped member joins anew, in an empty directory.
    let fresh = TempDir::new().unwrap();
    let d = joined(&a, fresh.path()).await;
    assert_eq!(d.cluster(), done.cluster);
    assert_eq!(
        Client::admin(&d).get(&format!("{MAPS}/after")).await.0,
        StatusCode::OK
    );
    d.shutdown().await;
    a.shutdown().await;
}

#[test]
fn there_must_be_something_to_reset() {
    let dir = TempDir::new().unwrap();
    let error = Reset::look(dir.path()).unwrap_err().to_string();
    assert!(error.starts_with("E_RESET_NO_DATA: "), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
