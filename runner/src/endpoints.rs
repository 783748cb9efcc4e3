//! Where the API is served: the list of members, which of them is used now, and which is tried next.
//!
//! The list comes from the command line or the join, is refreshed from the cluster, and is kept on disk, so that a
//! runner that restarts while the member it joined through is gone finds the others. Addresses from the command line
//! are never forgotten: what members say about themselves may not be reachable from here.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::files;

/// Addresses kept at most; a cluster has five members at most, and each may have been given under two names.
const ADDRESSES_MAX: usize = 32;
/// Hosts that mean the embedded registry, at most.
const REGISTRIES_MAX: usize = 64;

/// `HOST:PORT` of a URL.
pub(crate) fn authority(url: &str) -> &str {
    let rest = url
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    rest.split('/').next().unwrap_or(rest)
}

/// What is kept on disk.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// `HOST:PORT` of API servers.
    #[serde(default)]
    api: Vec<String>,
    /// `HOST:PORT` of the embedded registry's listeners.
    #[serde(default)]
    registry: Vec<String>,
}

/// The members' addresses.
#[derive(Debug)]
pub(crate) struct Endpoints {
    /// From the command line; always part of the list.
    configured: Vec<String>,
    state: Mutex<State>,
    /// Hosts in image names that mean the embedded registry: from the configuration, and from the cluster.
    registries: ArcSwap<Vec<String>>,
    configured_registries: Vec<String>,
    file: PathBuf,
    moved: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    list: Vec<String>,
    current: usize,
}

impl Endpoints {
    /// From URLs or addresses in order of preference, and what an earlier process kept in `file`.
    ///
    /// # Errors
    /// A sentence, if there is no address at all.
    pub fn open(urls: &[String], registries: &[String], file: &Path) -> Result<Arc<Self>, String> {
        // A file that does not read costs nothing but a look at the cluster.
        let kept: Kept = std::fs::read(file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let configured = merge(urls.iter().map(|u| authority(u)), ADDRESSES_MAX);
        let list = merge(
            configured.iter().chain(&kept.api).map(String::as_str),
            ADDRESSES_MAX,
        );
        if list.is_empty() {
            return Err("no address of an API server is known".into());
        }
        let all = registries.iter().chain(&kept.registry);
        let (moved, _) = watch::channel(0);
        Ok(Arc::new(Self {
            configured,
            state: Mutex::new(State { list, current: 0 }),
            registries: ArcSwap::from_pointee(merge(all.map(String::as_str), REGISTRIES_MAX)),
            configured_registries: registries.to_vec(),
            file: file.into(),
            moved,
        }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All addresses, the one in use first, the others in the order in which they are tried.
    pub fn order(&self) -> Vec<String> {
        let state = self.state();
        let (before, from) = state.list.split_at(state.current);
        from.iter().chain(before).cloned().collect()
    }

    /// A connection to this one came about: it is the one in use.
    pub fn reached(&self, addr: &str) {
        let mut state = self.state();
        let Some(at) = state.list.iter().position(|a| a == addr) else {
            return;
        };
        if at != state.current {
            tracing::info!(
                from = state.list[state.current],
                to = addr,
                "another API server is used"
            );
            state.current = at;
            drop(state);
            self.moved.send_modify(|n| *n += 1);
        }
    }

    /// The one in use answers but cannot serve: the next one is in use. Answers whether there is another one.
    pub fn leave(&self) -> bool {
        let mut state = self.state();
        if state.list.len() < 2 {
            return false;
        }
        let from = state.current;
        state.current = (from + 1) % state.list.len();
        tracing::info!(
            from = state.list[from],
            to = state.list[state.current],
            "the API server does not serve; another one is used"
        );
        drop(state);
        self.moved.send_modify(|n| *n += 1);
        true
    }

    /// How often another one came into use.
    pub fn generation(&self) -> u64 {
        *self.moved.borrow()
    }

    /// Tells of each change of the one in use.
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Hosts that mean the embedded registry.
    pub fn registries(&self) -> Arc<Vec<String>> {
        self.registries.load_full()
    }

    /// Takes in what a member says: `{"api": [url, ..], "registry": [host, ..]?}`. An empty list is ignored. What is in
    /// use stays in use.
    pub fn learn(&self, answer: &Value) {
        let texts = |field: &str| -> Vec<String> {
            let list = answer[field].as_array().into_iter().flatten();
            list.filter_map(|v| v.as_str().map(|s| authority(s).to_string()))
                .filter(|a| !a.is_empty())
                .collect()
        };
        let (api, registry) = (texts("api"), texts("registry"));
        let mut changed = false;
        if !api.is_empty() {
            let list = merge(
                api.iter().chain(&self.configured).map(String::as_str),
                ADDRESSES_MAX,
            );
            let mut state = self.state();
            if state.list != list {
                let used = state.list[state.current].clone();
                state.current = list.iter().position(|a| *a == used).unwrap_or(0);
                state.list = list;
                changed = true;
            }
        }
        if !registry.is_empty() {
            let all = registry.iter().chain(&self.configured_registries);
            let all = merge(all.map(String::as_str), REGISTRIES_MAX);
            if **self.registries.load() != all {
                self.registries.store(Arc::new(all));
                changed = true;
            }
        }
        if changed && let Err(error) = self.keep() {
            tracing::warn!(%error, file = %self.file.display(), "the list of API servers was not kept for the next start");
        }
    }

    fn keep(&self) -> std::io::Result<()> {
        let kept = Kept {
            api: self.state().list.clone(),
            registry: self.registries.load().to_vec(),
        };
        let dir = self.file.parent().unwrap_or(Path::new("."));
        files::replace(&self.file, dir, &serde_json::to_vec(&kept)?)
    }
}

/// Each once, in order, so many at most.
fn merge<'a>(all: impl Iterator<Item = &'a str>, max: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for one in all.filter(|a| !a.is_empty()) {
        if out.len() < max && !out.iter().any(|o| o == one) {
            out.push(one.into());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_list_is_learnt_kept_and_never_loses_what_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("endpoints.json");
        let given = strings(&["https://a:1/"]);
        let e = Endpoints::open(&given, &[], &file).unwrap();
        assert_eq!(e.order(), ["a:1"]);
        assert!(!e.leave(), "there is nowhere to go");
        e.learn(&json!({"api": []}));
        e.learn(&json!({"api": ["https://x:1", "https://y:2"], "registry": ["http://r:5000"]}));
        assert_eq!(
            e.order(),
            ["a:1", "x:1", "y:2"],
            "what is used stays in use"
        );
        e.reached("y:2");
        assert_eq!(e.order(), ["y:2", "a:1", "x:1"]);
        e.learn(&json!({"api": ["https://y:2"]}));
        assert_eq!(e.order(), ["y:2", "a:1"]);
        assert_eq!(*e.registries(), ["r:5000"]);
        let again = Endpoints::open(&given, &strings(&["h:5000"]), &file).unwrap();
        assert_eq!(again.order(), ["a:1", "y:2"]);
        assert_eq!(*again.registries(), ["h:5000", "r:5000"]);
        std::fs::write(&file, "{").unwrap();
        assert!(Endpoints::open(&[], &[], &file).is_err());
    }

    #[test]
    fn every_change_of_the_one_in_use_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let given = strings(&["a:1", "b:2"]);
        let e = Endpoints::open(&given, &[], &dir.path().join("e")).unwrap();
        let moves = e.moves();
        e.reached("a:1");
        e.reached("nobody:1");
        assert_eq!(*moves.borrow(), 0);
        e.reached("b:2");
        assert!(e.leave());
        assert_eq!((*moves.borrow(), e.order()), (2, strings(&["a:1", "b:2"])));
    }
}
