//! A backup of a living cluster becomes a new one, and a cluster that lost its majority for good is saved from one disk.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use super::client::Credentials;
use super::fleet::{Fleet, revision};
use super::member::Member;
use super::net::{self, Net};
use super::verdict;
use super::watcher::Watchers;
use super::workload::{COLLECTION, PACE, Workload, object};
use crate::harness::cluster::LONG;
use crate::harness::program::{CORACLE, run, wait_for};

/// Kinds that are compared, with Secrets among them: a backup that leaves out anything is none.
const COLLECTIONS: [&str; 4] = [
    "/api/v1/configmaps",
    "/api/v1/secrets",
    "/api/v1/namespaces",
    "/apis/apps/v1/deployments",
];

/// Objects by path, without what a new cluster changes: the CA that every namespace is told.
#[track_caller]
fn objects(fleet: &Fleet, member: usize) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for path in COLLECTIONS {
        let list = wait_for(path, LONG, || fleet.get(member, path));
        for item in list["items"].as_array().unwrap() {
            let m = &item["metadata"];
            let (ns, name) = (
                m["namespace"].as_str().unwrap_or(""),
                m["name"].as_str().unwrap(),
            );
            if name == "kube-root-ca.crt" {
                continue;
            }
            let mut item = item.clone();
            for changing in ["resourceVersion", "managedFields"] {
                item["metadata"].as_object_mut().unwrap().remove(changing);
            }
            all.insert(format!("{path}/{ns}/{name}"), item);
        }
    }
    all
}

#[test]
fn a_backup_of_a_live_cluster_becomes_a_new_one() {
    if !net::possible() {
        return;
    }
    let mut fleet = Fleet::start(3);
    verdict::prepare(&fleet);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "v"}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}},
            "spec": {"containers": [{"name": "c", "image": "x:v1"}]}}}});
    for (path, o) in [
        ("/api/v1/namespaces/default/secrets", secret),
        ("/apis/apps/v1/namespaces/default/deployments", deployment),
    ] {
        let made = fleet.call(1, http::Method::POST, path, Some(&o));
        assert!(format!("{made:?}").contains("201"), "{made:?}");
    }
    // Clients write while it is saved; the test's own objects are written before and must all be in it.
    let work = Workload::start(&fleet.runtime, &fleet.credentials, 3, 2, PACE, 3);
    wait_for("some writes", LONG, || match work.shared.recorder.acked() {
        n if n > 30 => Ok(()),
        n => Err(format!("{n} writes")),
    });
    let file = fleet.dir.path().join("live.backup");
    let path = file.to_str().unwrap();
    fleet.coracle(1, &["backup", "save", path]).ok();
    fleet.coracle(0, &["backup", "verify", path]).ok();
    drop(work);

    // And once more in peace: now every object can be compared.
    let quiet = fleet.dir.path().join("quiet.backup");
    let path = quiet.to_str().unwrap();
    let before = wait_for("the objects to stand still", LONG, || {
        let first = objects(&fleet, 0);
        fleet.coracle(2, &["backup", "save", path]).ok();
        let second = objects(&fleet, 0);
        if first == second {
            return Ok(first);
        }
        std::fs::remove_file(&quiet).unwrap();
        Err("objects still change".to_string())
    });
    let newest = revision(&fleet.get(0, "/api/v1/configmaps").unwrap()).unwrap();
    for m in &mut fleet.members {
        m.kill9();
    }
    for (i, file) in [&quiet, &file].into_iter().enumerate() {
        let index = fleet.net.add();
        let mut single = Member::new(index, fleet.dir.path());
        run(Command::new(CORACLE)
            .args(["backup", "restore"])
            .arg(file)
            .args(["--name", &single.name, "--data-dir"])
            .arg(&single.data))
        .ok();
        single.spawn(&fleet.net, &[]);
        single.ready();
        fleet.credentials = Credentials::read(&single.data.join("kubeconfig"));
        let list = fleet.get(index, COLLECTION).unwrap();
        assert!(
            revision(&list).unwrap() > newest,
            "revisions must go on above {newest}: {}",
            list["metadata"]
        );
        if i == 0 {
            assert_eq!(objects(&fleet, index), before);
        } else {
            assert!(
                fleet
                    .get(index, "/api/v1/namespaces/default/secrets/s")
                    .is_ok()
            );
        }
        // It can grow again.
        fleet.write_marker(index).unwrap();
        single.kill9();
    }
}

#[test]
fn a_lost_majority_is_reset_to_one_member() {
    if !net::possible() {
        return;
    }
    let mut fleet = Fleet::start(3);
    verdict::prepare(&fleet);
    let watchers = Watchers::start(&fleet.runtime, &fleet.credentials, 3, 1, 5);
    let first = object("k0-0", 1, None);
    let made = fleet.call(0, http::Method::POST, COLLECTION, Some(&first));
    assert!(format!("{made:?}").contains("201"), "{made:?}");
    // It has reached every disk, so that it must survive on any one.
    for i in 0..3 {
        wait_for("the object", LONG, || {
            fleet.get(i, &format!("{COLLECTION}/k0-0"))
        });
    }
    let newest = revision(&fleet.get(2, COLLECTION).unwrap()).unwrap();
    let cluster = fleet.get(2, "/coracle/v1/status").unwrap()["cluster"].clone();
    drop(watchers);
    for m in &mut fleet.members {
        m.kill9();
    }
    // One disk is lost; another member's is not, but nobody knows that yet.
    fleet.members[0].wipe();
    let reset = |fleet: &Fleet, more: &[&str]| {
        run(Command::new(CORACLE)
            .args(["scheduler", "--reset-to-single", "--data-dir"])
            .arg(&fleet.members[2].data)
            .args(more))
    };
    // Without a yes nothing happens.
    reset(&fleet, &[]).fails_with(&["E_RESET_CONFIRM", "may be lost"]);
    let said = reset(&fleet, &["--yes"]).ok();
    for words in ["may be lost", "dropped: m1", "dropped: m2"] {
        assert!(said.contains(words), "{words:?}: {said}");
    }
    fleet.restart(2);
    let kept = fleet.get(2, &format!("{COLLECTION}/k0-0")).unwrap();
    assert_eq!(kept["data"]["v"], "1");
    let status = fleet.get(2, "/coracle/v1/status").unwrap();
    assert_ne!(status["cluster"], cluster, "a new cluster id");
    let list = fleet.get(2, COLLECTION).unwrap();
    assert!(revision(&list).unwrap() > newest, "{}", list["metadata"]);
    fleet.wait_voters(1);
    fleet.write_marker(2).unwrap();
    // The one whose disk turns up again is told that the cluster is another one by now.
    fleet.members[1].spawn(&fleet.net, &[]);
    wait_for("E_CLUSTER_MISMATCH in its log", LONG, || {
        let log = fleet.members[1].log();
        if log.contains("E_CLUSTER_MISMATCH") {
            Ok(())
        } else {
            Err(log)
        }
    });
    fleet.members[1].kill9();
    fleet.members[1].wipe();
    // Both come back empty: three again.
    fleet.enter(0, 2);
    fleet.enter(1, 2);
    fleet.wait_voters(3);
    fleet.wait_writable();
    let read = fleet.get(0, &format!("{COLLECTION}/k0-0"));
    assert!(read.is_ok(), "{read:?} at {}", Net::ip_of(0));
}
