//! Which images a rollout is about to bring to this node, so that they are here and compiled before the first pod that
//! names them.
//!
//! A Deployment replaces its pods set by set, and new pods tend to go where old ones are. So: where a pod of one
//! ReplicaSet runs, the images of its Deployment's other ReplicaSets that want pods are worth having. A node without
//! pods of a Deployment fetches nothing for it, so a new version does not reach every node of a large cluster.
//!
//! This is a hint and no promise: what is not fetched here is fetched when the pod comes. That is also the answer when a
//! bound is reached, and for images behind pull secrets, which are read for a pod that may use them and for nobody else.

use std::collections::{BTreeMap, BTreeSet};

use coracle_api::{Key, meta};
use serde_json::Value;

/// ReplicaSets remembered, some 200 bytes each; of more than these the later ones are not fetched for.
const SETS_MAX: usize = 20_000;
/// Images remembered as told; the least in order is forgotten, and told again if it is still wanted.
const TOLD_MAX: usize = 1_024;
/// Containers of a pod that are looked at.
const IMAGES_MAX: usize = 32;

/// What of a ReplicaSet matters.
#[derive(Debug)]
struct Set {
    /// Uid of its Deployment.
    owner: String,
    /// It wants pods.
    wants: bool,
    /// Whose policy its images have to pass.
    namespace: String,
    images: Vec<String>,
}

/// The ReplicaSets of the cluster and the pods of this node.
#[derive(Debug, Default)]
pub struct Prefetch {
    /// By uid.
    sets: BTreeMap<String, Set>,
    /// Uids of ReplicaSets by Deployment.
    by_owner: BTreeMap<String, BTreeSet<String>>,
    /// Uid of the ReplicaSet by pod.
    pods: BTreeMap<Key, String>,
    /// Namespaces and images that were answered.
    told: BTreeSet<(String, String)>,
}

impl Prefetch {
    /// These are all ReplicaSets. Answers the images to fetch now with their namespaces, as do [`Self::set`] and
    /// [`Self::pod`]; each is told once.
    pub fn sets(&mut self, all: &[Value]) -> Vec<(String, String)> {
        self.sets.clear();
        self.by_owner.clear();
        all.iter().for_each(|set| self.put(set));
        let owners: BTreeSet<String> = self.local_owners();
        self.tell(owners)
    }

    /// A ReplicaSet is new or changed.
    pub fn set(&mut self, set: &Value) -> Vec<(String, String)> {
        self.put(set);
        let owner = self.sets.get(meta::uid(set)).map(|s| s.owner.clone());
        let owner = owner.filter(|owner| self.local_owners().contains(owner));
        self.tell(owner)
    }

    /// A ReplicaSet is gone.
    pub fn set_gone(&mut self, uid: &str) {
        let Some(set) = self.sets.remove(uid) else {
            return;
        };
        if let Some(uids) = self.by_owner.get_mut(&set.owner) {
            uids.remove(uid);
            if uids.is_empty() {
                self.by_owner.remove(&set.owner);
            }
        }
    }

    /// These are all pods of this node, each with the uid of its ReplicaSet ([`replica_set_of`]).
    pub fn pods(&mut self, all: impl IntoIterator<Item = (Key, String)>) -> Vec<(String, String)> {
        self.pods = all.into_iter().collect();
        let owners = self.local_owners();
        self.tell(owners)
    }

    /// A pod of this node is new or changed.
    pub fn pod(&mut self, pod: Key, set: String) -> Vec<(String, String)> {
        let owner = self.sets.get(&set).map(|s| s.owner.clone());
        if self.pods.insert(pod, set).is_some() {
            // Its ReplicaSet is what it was.
            return Vec::new();
        }
        self.tell(owner)
    }

    /// A pod has left this node.
    pub fn pod_gone(&mut self, pod: &Key) {
        self.pods.remove(pod);
    }

    fn put(&mut self, object: &Value) {
        let uid = meta::uid(object);
        self.set_gone(uid);
        let Some(owner) = controller(object, "Deployment") else {
            return;
        };
        if self.sets.len() >= SETS_MAX {
            return;
        }
        self.by_owner
            .entry(owner.to_string())
            .or_default()
            .insert(uid.to_string());
        let set = Set {
            owner: owner.to_string(),
            namespace: meta::namespace(object).to_string(),
            // As the API's default has it, absent means one.
            wants: object["spec"]["replicas"].as_u64() != Some(0),
            images: images(&object["spec"]["template"]["spec"]),
        };
        self.sets.insert(uid.to_string(), set);
    }

    /// Deployments with a pod here.
    fn local_owners(&self) -> BTreeSet<String> {
        let sets = self.pods.values().filter_map(|uid| self.sets.get(uid));
        sets.map(|set| set.owner.clone()).collect()
    }

    /// Images of these Deployments' ReplicaSets that want pods and have none here.
    fn tell(&mut self, owners: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
        let here: BTreeSet<&String> = self.pods.values().collect();
        let mut images = Vec::new();
        for owner in owners {
            let uids = self.by_owner.get(&owner).into_iter().flatten();
            let sets = uids.filter(|uid| !here.contains(uid));
            for set in sets.filter_map(|uid| self.sets.get(uid)) {
                if set.wants {
                    let with = |image: &String| (set.namespace.clone(), image.clone());
                    images.extend(set.images.iter().map(with));
                }
            }
        }
        images.retain(|image| self.told.insert(image.clone()));
        while self.told.len() > TOLD_MAX {
            self.told.pop_first();
        }
        images
    }
}

/// Uid of the ReplicaSet a pod belongs to.
pub fn replica_set_of(pod: &Value) -> Option<&str> {
    controller(pod, "ReplicaSet")
}

fn controller<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    let owner = owners
        .iter()
        .find(|o| o["controller"] == true && o["kind"] == kind)?;
    owner["uid"].as_str()
}

/// Images of a pod template; none where pull secrets are named.
fn images(spec: &Value) -> Vec<String> {
    let secrets = spec["imagePullSecrets"].as_array();
    if secrets.is_some_and(|secrets| !secrets.is_empty()) {
        return Vec::new();
    }
    let lists = ["initContainers", "containers"].map(|list| spec[list].as_array());
    let containers = lists.into_iter().flatten().flatten();
    let images = containers.filter_map(|c| c["image"].as_str().map(String::from));
    images.take(IMAGES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(uid: &str, deployment: &str, replicas: u64, image: &str) -> Value {
        let owner = json!({"kind": "Deployment", "controller": true, "uid": deployment});
        json!({
            "metadata": {"name": uid, "namespace": "team", "uid": uid, "ownerReferences": [owner]},
            "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"image": image}]}}},
        })
    }

    fn key(name: &str) -> Key {
        Key::new("team", name)
    }

    type Told = Vec<(String, String)>;

    fn nothing() -> Told {
        Vec::new()
    }

    fn told(images: &[&str]) -> Told {
        let of = |image: &&str| ("team".to_string(), image.to_string());
        images.iter().map(of).collect()
    }

    #[test]
    fn the_next_version_goes_where_the_last_one_runs() {
        let mut here = Prefetch::default();
        assert_eq!(here.sets(&[set("web-1", "web", 3, "web:v1")]), nothing());
        assert_eq!(here.pod(key("a"), "web-1".into()), nothing());
        assert_eq!(
            here.set(&set("web-2", "web", 1, "web:v2")),
            told(&["web:v2"])
        );
        // Once.
        assert_eq!(here.set(&set("web-2", "web", 2, "web:v2")), nothing());
        assert_eq!(here.pod(key("b"), "web-1".into()), nothing());

        // Where nothing of the Deployment runs, nothing is fetched for it.
        let mut elsewhere = Prefetch::default();
        assert_eq!(elsewhere.pod(key("x"), "other-1".into()), nothing());
        let both = [
            set("web-1", "web", 3, "web:v1"),
            set("web-2", "web", 1, "web:v2"),
            set("other-1", "other", 1, "other:v1"),
        ];
        assert_eq!(elsewhere.sets(&both), nothing());
        // Until it comes.
        assert_eq!(elsewhere.pod(key("y"), "web-1".into()), told(&["web:v2"]));
    }

    #[test]
    fn a_set_that_wants_no_pods_or_has_some_here_is_not_fetched_for() {
        let mut here = Prefetch::default();
        here.pods([(key("a"), "web-2".into())]);
        let sets = [
            set("web-1", "web", 0, "web:v1"),
            set("web-2", "web", 3, "web:v2"),
        ];
        assert_eq!(here.sets(&sets), nothing());
        // A rollback wants the first again.
        assert_eq!(
            here.set(&set("web-1", "web", 1, "web:v1")),
            told(&["web:v1"])
        );
        here.set_gone("web-1");
        here.pod_gone(&key("a"));
        assert_eq!(here.set(&set("web-3", "web", 1, "web:v3")), nothing());
        assert_eq!(here.pod(key("b"), "web-2".into()), told(&["web:v3"]));
    }

    #[test]
    fn init_containers_count_and_pull_secrets_keep_away() {
        let mut here = Prefetch::default();
        here.pods([(key("a"), "web-1".into())]);
        here.sets(&[set("web-1", "web", 1, "web:v1")]);
        let mut next = set("web-2", "web", 1, "web:v2");
        let spec = &mut next["spec"]["template"]["spec"];
        spec["initContainers"] = json!([{"image": "init:v2"}]);
        spec["imagePullSecrets"] = json!([{"name": "login"}]);
        assert_eq!(here.set(&next), nothing());
        next["spec"]["template"]["spec"]["imagePullSecrets"] = json!([]);
        assert_eq!(here.set(&next), told(&["init:v2", "web:v2"]));
    }

    #[test]
    fn what_belongs_to_no_deployment_is_left_alone() {
        let mut here = Prefetch::default();
        let mut own = set("web-1", "web", 1, "web:v1");
        own["metadata"]["ownerReferences"] = json!([]);
        assert_eq!(here.set(&own), nothing());
        assert_eq!(here.pod(key("a"), "web-1".into()), nothing());
        let pod = json!({"metadata": {"ownerReferences": [
            {"kind": "ReplicaSet", "controller": false, "uid": "no"},
            {"kind": "ReplicaSet", "controller": true, "uid": "web-1"},
        ]}});
        assert_eq!(replica_set_of(&pod), Some("web-1"));
    }

    #[test]
    fn bounds_hold() {
        let mut here = Prefetch::default();
        let many: Vec<Value> = (0..SETS_MAX + 10)
            .map(|n| set(&format!("s{n}"), "web", 1, &format!("web:{n:06}")))
            .collect();
        here.pods([(key("a"), "s0".into())]);
        let told = here.sets(&many);
        assert_eq!(here.sets.len(), SETS_MAX);
        assert_eq!(told.len(), SETS_MAX - 1);
        assert_eq!(here.told.len(), TOLD_MAX);
    }
}
