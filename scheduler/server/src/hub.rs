//! Wakes watches, each only for changes that may concern it.
//!
//! One task follows the views of this member while anybody watches. It looks at every change once and wakes the
//! watches of its table, of its namespace, of its object and of its node, so that a watch of one object costs nothing
//! while others change. A watch keeps no queue: it is told the revision of the first change it has not looked at, and
//! reads the ring from there. That revision also proves that nothing before it concerned the watch, so a quiet watch
//! in a busy table does not fall behind the ring.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use coracle_api::Key;
use coracle_state::{Event, Table, View, Views};
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use crate::pieces::Pieces;

/// What a watch wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Every change of the table.
    Table,
    /// Changes in one namespace.
    Namespace(String),
    /// Changes of one object.
    Object(Key),
    /// Changes of pods on one node.
    Node(String),
}

/// Where a watch is told that it has something to read.
#[derive(Debug, Default)]
struct Bell {
    /// Revision of the first change since the last look; 0 = none.
    first: AtomicU64,
    waker: AtomicWaker,
    /// Its place among its neighbours; used under the hub's lock only.
    slot: AtomicUsize,
}

impl Bell {
    fn ring(&self, revision: u64) {
        // An earlier change that was not looked at yet stays the first.
        let _ = self
            .first
            .compare_exchange(0, revision, Ordering::AcqRel, Ordering::Acquire);
        self.waker.wake();
    }
}

/// Bells that ring together.
#[derive(Default)]
struct Bells(Vec<Arc<Bell>>);

impl Bells {
    fn add(&mut self, bell: Arc<Bell>) {
        bell.slot.store(self.0.len(), Ordering::Relaxed);
        self.0.push(bell);
    }

    fn remove(&mut self, bell: &Arc<Bell>) {
        let slot = bell.slot.load(Ordering::Relaxed);
        if self.0.get(slot).is_some_and(|b| Arc::ptr_eq(b, bell)) {
            self.0.swap_remove(slot);
            if let Some(moved) = self.0.get(slot) {
                moved.slot.store(slot, Ordering::Relaxed);
            }
        }
    }

    fn ring(&self, revision: u64) {
        for bell in &self.0 {
            bell.ring(revision);
        }
    }
}

/// The watches of one table.
#[derive(Default)]
struct Routes {
    table: Bells,
    namespaces: HashMap<String, Bells>,
    objects: HashMap<Key, Bells>,
    nodes: HashMap<String, Bells>,
    /// How many watch; shared with every [`Place`].
    watching: Arc<AtomicUsize>,
    /// What they send; likewise.
    pieces: Arc<Pieces>,
}

impl Routes {
    fn bells(&mut self, interest: &Interest) -> &mut Bells {
        match interest {
            Interest::Table => &mut self.table,
            Interest::Namespace(n) => self.namespaces.entry(n.clone()).or_default(),
            Interest::Object(k) => self.objects.entry(k.clone()).or_default(),
            Interest::Node(n) => self.nodes.entry(n.clone()).or_default(),
        }
    }

    fn remove(&mut self, interest: &Interest, bell: &Arc<Bell>) {
        let bells = self.bells(interest);
        bells.remove(bell);
        if bells.0.is_empty() {
            match interest {
                Interest::Table => {}
                Interest::Namespace(n) => drop(self.namespaces.remove(n)),
                Interest::Object(k) => drop(self.objects.remove(k)),
                Interest::Node(n) => drop(self.nodes.remove(n)),
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.table.0.is_empty()
            && self.namespaces.is_empty()
            && self.objects.is_empty()
            && self.nodes.is_empty()
    }

    /// Tells everybody whom one change concerns, but for those who watch the whole table.
    fn route(&self, event: &Event) {
        if !self.namespaces.is_empty()
            && let Some(bells) = self.namespaces.get(&event.obj.key.namespace)
        {
            bells.ring(event.revision);
        }
        if !self.objects.is_empty()
            && let Some(bells) = self.objects.get(&event.obj.key)
        {
            bells.ring(event.revision);
        }
        if !self.nodes.is_empty() {
            let now = event.obj.attrs.node_name.as_str();
            let before = event.before.as_ref().map(|b| b.attrs.node_name.as_str());
            for node in [Some(now), before.filter(|b| *b != now)]
                .into_iter()
                .flatten()
            {
                if let Some(bells) = self.nodes.get(node) {
                    bells.ring(event.revision);
                }
            }
        }
    }

    /// Tells everybody: nobody knows any more which changes there were after `seen`.
    fn everybody(&self, revision: u64) {
        let narrow = self
            .namespaces
            .values()
            .chain(self.objects.values())
            .chain(self.nodes.values());
        for bells in narrow.chain([&self.table]) {
            bells.ring(revision);
        }
    }
}

#[derive(Default)]
struct Inner {
    tables: BTreeMap<&'static str, Routes>,
    following: bool,
}

/// The watches of this member and who wakes them.
pub struct Hub {
    views: Arc<dyn Views>,
    inner: Mutex<Inner>,
    /// Everything up to this revision was told to those it concerns.
    told: AtomicU64,
    /// Told when the last watch has gone.
    idle: Notify,
}

impl Hub {
    /// A hub without watches; it follows nothing yet.
    pub fn new(views: Arc<dyn Views>) -> Arc<Self> {
        Arc::new(Self {
            views,
            inner: Mutex::default(),
            told: AtomicU64::new(0),
            idle: Notify::new(),
        })
    }

    /// Joins. Every change that is not in this member's view yet is told; what the view holds already is for the watch
    /// to look at first. Must be called inside a tokio runtime.
    pub fn join(self: &Arc<Self>, table: &'static str, interest: Interest) -> Place {
        let bell = Arc::new(Bell::default());
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let routes = inner.tables.entry(table).or_default();
        routes.bells(&interest).add(bell.clone());
        routes.watching.fetch_add(1, Ordering::Relaxed);
        let (watching, pieces) = (routes.watching.clone(), routes.pieces.clone());
        if !std::mem::replace(&mut inner.following, true) {
            let seen = self.views.view().revision;
            self.told.store(seen, Ordering::Release);
            tokio::spawn(self.clone().follow(seen));
        }
        drop(inner);
        Place {
            hub: self.clone(),
            table,
            interest,
            bell,
            watching,
            pieces,
        }
    }

    /// Follows the views for as long as somebody watches.
    async fn follow(self: Arc<Self>, mut seen: u64) {
        loop {
            let view = tokio::select! {
                view = self.views.newer_than(seen) => view,
                () = self.idle.notified() => {
                    let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                    if inner.tables.is_empty() {
                        inner.following = false;
                        return;
                    }
                    continue;
                }
            };
            self.route(&view, seen);
            seen = view.revision;
            drop(view);
            // Those who were woken go first: under load several views become one round. (Rounds that were kept 20 us per
            // watch apart, up to 10 ms, cost as much per event and came later: a group of the log is a round already.)
            tokio::task::yield_now().await;
        }
    }

    fn route(&self, view: &View, seen: u64) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, routes) in &inner.tables {
            let Some(table) = view.tables.get(name).filter(|t| t.changed() > seen) else {
                continue;
            };
            changed(table, routes, seen);
        }
        self.told.store(view.revision, Ordering::Release);
    }

    /// Whether nobody watches and nothing is followed.
    pub fn is_idle(&self) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tables.is_empty() && !inner.following
    }
}

fn changed(table: &Table, routes: &Routes, seen: u64) {
    let Some(mut events) = table.events_since(seen) else {
        // This member was so far behind that the ring no longer has what it missed (it got a snapshot).
        return routes.everybody(seen + 1);
    };
    let narrow =
        !(routes.namespaces.is_empty() && routes.objects.is_empty() && routes.nodes.is_empty());
    let Some(first) = events.next() else { return };
    routes.table.ring(first.revision);
    if narrow {
        routes.route(first);
        events.for_each(|e| routes.route(e));
    }
}

/// A watch's place in the hub; it leaves when this is dropped.
pub struct Place {
    hub: Arc<Hub>,
    table: &'static str,
    interest: Interest,
    bell: Arc<Bell>,
    watching: Arc<AtomicUsize>,
    pieces: Arc<Pieces>,
}

impl Place {
    /// Asks to be woken at the next change. To be called before [`Self::news`], or a change in between is missed.
    pub fn register(&self, waker: &std::task::Waker) {
        self.bell.waker.register(waker);
    }

    /// What is new since the last call.
    pub fn news(&self) -> News {
        // In this order: whatever was told up to `told` has rung the bell before.
        let told = self.hub.told.load(Ordering::Acquire);
        match self.bell.first.swap(0, Ordering::AcqRel) {
            0 => News::Nothing { until: told },
            first => News::From(first),
        }
    }

    /// Whether others watch the same table, so that frames are worth sharing.
    pub fn shared(&self) -> bool {
        self.watching.load(Ordering::Relaxed) > 1
    }

    /// What watches of the table have sent of late.
    pub fn pieces(&self) -> &Pieces {
        &self.pieces
    }
}

/// What a watch learns from its bell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing up to this revision concerns it.
    Nothing {
        /// The revision.
        until: u64,
    },
    /// This change may; nothing between what was read before and this change does.
    From(u64),
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self
            .hub
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(routes) = inner.tables.get_mut(self.table) {
            routes.remove(&self.interest, &self.bell);
            routes.watching.fetch_sub(1, Ordering::Relaxed);
            if routes.is_empty() {
                inner.tables.remove(self.table);
            }
        }
        if inner.tables.is_empty() {
            self.hub.idle.notify_one();
        }
    }
}
