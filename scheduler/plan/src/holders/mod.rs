//! Who gives a blob to whom: a tree of runners for each blob, so that the members send it once however many start it.
//!
//! A runner that wants a blob asks; it is told a parent that has the blob or is fetching it, and is offered to others
//! from that moment on, because what it has got it can pass on. Whole copies go before partial ones, shallow places
//! before deep ones, idle ones before busy ones; nobody gets more than [`FAN_OUT`] children. A parent that fails is
//! reported by asking again.
//!
//! Nothing of it is logged: it is volatile, and the leader's alone. Every answer may be wrong by the time it is used, so
//! whoever uses one checks the bytes, and falls back on the members, which have every blob. A new leader begins with
//! nothing and loses nothing but a few transfers.

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

/// Children of one runner at most, for each blob: with four, 1,000 runners are five deep, and nobody sends more than
/// four times what it gets.
pub const FAN_OUT: usize = 4;
/// Blobs known at most; beyond it the longest not asked for is forgotten.
pub const BLOBS_MAX: usize = 4_096;
/// Places of runners in all trees at most (about 100 MB); beyond it blobs are forgotten as above.
pub const PLACES_MAX: usize = 500_000;
/// A fetch that is not heard of for so long is over, in ms: the largest component on a slow line takes less.
pub const FETCH_MS: u64 = 600_000;
/// A whole copy is believed in for so long after it was last spoken of, in ms.
pub const HOLD_MS: u64 = 6 * 3_600_000;
/// A runner that a child could not use is offered to nobody for so long, in ms.
pub const SUSPENSION_MS: u64 = 30_000;

/// Why a parent was no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It has not got the blob (any more).
    Gone,
    /// It did not answer, stalled, broke off or lied.
    Failed,
    /// It has all the readers it takes.
    Busy,
}

/// Where to fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The members of the control plane.
    Members,
    /// A runner.
    Runner {
        /// Its node's name.
        name: String,
        /// Hops from the members or from a whole copy, 1 or more: whoever is deeper should be more patient, so that those
        /// who are nearer to what stalls act first.
        depth: u32,
    },
}

/// A runner's place in the tree of one blob.
#[derive(Clone, Debug)]
struct Place {
    /// 0: it has all of it. Else hops from the members or from a whole copy when it asked.
    depth: u32,
    parent: Option<String>,
    children: usize,
    /// Order of arrival: equal places are taken in it.
    arrived: u64,
    spoken_ms: u64,
    suspended_until_ms: u64,
}

impl Place {
    fn rank(&self, name: &str) -> Rank {
        (self.depth, self.children, self.arrived, name.to_string())
    }
}

/// Depth, children, arrival, name.
type Rank = (u32, usize, u64, String);

#[derive(Clone, Debug, Default)]
struct Tree {
    places: BTreeMap<String, Place>,
    /// Places that take another child, best first.
    free: BTreeSet<Rank>,
    asked_ms: u64,
}

/// The trees of all blobs.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    trees: BTreeMap<String, Tree>,
    places: usize,
    arrivals: u64,
}

impl Holders {
    /// Where `node` should fetch `blob` from; from now on it is offered to others. `trouble` is what it had with the
    /// parent it was given before, `avoid` are others it does not want.
    pub fn ask(
        &mut self,
        now_ms: u64,
        node: &str,
        blob: &str,
        trouble: Option<(&str, Trouble)>,
        avoid: &[String],
    ) -> Parent {
        self.arrive(now_ms, blob, |tree, arrived| {
            tree.expire(now_ms);
            // Whoever had it whole and asks again has lost it.
            let told = tree.release(node);
            let mut unwanted: BTreeSet<&str> = avoid.iter().map(String::as_str).collect();
            if let Some((parent, trouble)) = trouble {
                unwanted.insert(parent);
                // Only of the parent it was given: nobody can talk others out of the tree.
                if told.as_deref() == Some(parent) {
                    tree.complain(now_ms, parent, trouble);
                }
            }
            let parent = tree.choose(now_ms, node, &unwanted);
            let depth = parent.as_ref().map_or(1, |(_, depth)| depth + 1);
            tree.take(node, arrived, |place| {
                place.depth = depth;
                place.parent = parent.as_ref().map(|(name, _)| name.clone());
                place.spoken_ms = now_ms;
            });
            let Some((name, _)) = parent else {
                return Parent::Members;
            };
            tree.change(&name, |place| place.children += 1);
            Parent::Runner { name, depth }
        })
    }

    /// `node` has all of `blob`.
    pub fn have(&mut self, now_ms: u64, node: &str, blob: &str) {
        self.arrive(now_ms, blob, |tree, arrived| {
            tree.release(node);
            tree.take(node, arrived, |place| {
                place.depth = 0;
                place.spoken_ms = now_ms;
            });
        });
    }

    /// Lets somebody in at the tree of `blob`, made if there is none, and keeps the count of places. `enter` is given the
    /// order of arrival.
    fn arrive<T>(&mut self, now_ms: u64, blob: &str, enter: impl FnOnce(&mut Tree, u64) -> T) -> T {
        self.arrivals += 1;
        self.forget_for(blob);
        let tree = self.trees.entry(blob.to_string()).or_default();
        let before = tree.places.len();
        tree.asked_ms = tree.asked_ms.max(now_ms);
        let entered = enter(tree, self.arrivals);
        self.places = self.places + tree.places.len() - before;
        entered
    }

    /// `node` has not got `blob` and is not fetching it.
    pub fn leave(&mut self, node: &str, blob: &str) {
        let Some(tree) = self.trees.get_mut(blob) else {
            return;
        };
        let before = tree.places.len();
        tree.remove(node);
        self.places -= before - tree.places.len();
        if tree.places.is_empty() {
            self.trees.remove(blob);
        }
    }

    /// Runners in the tree of a blob.
    pub fn runners(&self, blob: &str) -> usize {
        self.trees.get(blob).map_or(0, |tree| tree.places.len())
    }

    /// Makes room for one more place, in the tree of `blob`.
    fn forget_for(&mut self, blob: &str) {
        let new = usize::from(!self.trees.contains_key(blob));
        while self.trees.len() + new > BLOBS_MAX || self.places >= PLACES_MAX {
            // The bounds are far above a tree of all nodes, so that there is another one, or this is all of it.
            let other = |(name, _): &(&String, &Tree)| self.trees.len() == 1 || *name != blob;
            let oldest = self.trees.iter().filter(other);
            let Some(oldest) = oldest.min_by_key(|(_, tree)| tree.asked_ms) else {
                return;
            };
            let oldest = oldest.0.clone();
            if let Some(tree) = self.trees.remove(&oldest) {
                self.places -= tree.places.len();
            }
        }
    }
}

impl Tree {
    /// Changes a place that is there, keeping `free` true.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.places.get_mut(name) {
            self.free.remove(&place.rank(name));
            change(place);
            if place.children < FAN_OUT {
                self.free.insert(place.rank(name));
            }
        }
    }

    /// Changes a place, made if it is not there.
    fn take(&mut self, name: &str, arrived: u64, change: impl FnOnce(&mut Place)) {
        self.places
            .entry(name.to_string())
            .or_insert_with(|| Place {
                depth: 1,
                parent: None,
                children: 0,
                arrived,
                spoken_ms: 0,
                suspended_until_ms: 0,
            });
        self.change(name, change);
    }

    /// Takes a runner from under its parent; answers who that was.
    fn release(&mut self, name: &str) -> Option<String> {
        let parent = self.places.get_mut(name)?.parent.take()?;
        self.change(&parent, |place| {
            place.children = place.children.saturating_sub(1);
        });
        Some(parent)
    }

    fn remove(&mut self, name: &str) {
        self.release(name);
        if let Some(place) = self.places.remove(name) {
            self.free.remove(&place.rank(name));
            // Its children go on with what they were told, and ask when it fails them.
            if place.children > 0 {
                for other in self.places.values_mut() {
                    if other.parent.as_deref() == Some(name) {
                        other.parent = None;
                    }
                }
            }
        }
    }

    fn complain(&mut self, now_ms: u64, parent: &str, trouble: Trouble) {
        match trouble {
            Trouble::Gone => self.remove(parent),
            Trouble::Failed => self.change(parent, |place| {
                place.suspended_until_ms = now_ms + SUSPENSION_MS;
            }),
            Trouble::Busy => {}
        }
    }

    fn expire(&mut self, now_ms: u64) {
        let over = |place: &Place| {
            let life = if place.depth == 0 { HOLD_MS } else { FETCH_MS };
            place.spoken_ms + life < now_ms
        };
        // Looked for where it stands out: the best place is the one that is about to be given away.
        while let Some(name) = self
            .free
            .first()
            .map(|(.., name)| name.clone())
            .filter(|name| self.places.get(name).is_some_and(over))
        {
            self.remove(&name);
        }
    }

    /// The best place for a child that wants none of `unwanted`, with its depth.
    fn choose(&self, now_ms: u64, child: &str, unwanted: &BTreeSet<&str>) -> Option<(String, u32)> {
        let good = |name: &str, place: &Place| {
            let life = if place.depth == 0 { HOLD_MS } else { FETCH_MS };
            place.suspended_until_ms <= now_ms
                && place.spoken_ms + life >= now_ms
                && !unwanted.contains(name)
                && !self.is_below(name, child)
        };
        self.free.iter().find_map(|(depth, .., name)| {
            let place = self.places.get(name)?;
            good(name, place).then(|| (name.clone(), *depth))
        })
    }

    /// Whether `name` is `above` or gets its bytes through it.
    fn is_below(&self, name: &str, above: &str) -> bool {
        let mut at = name;
        // A chain is never longer than there are places.
        for _ in 0..=self.places.len() {
            if at == above {
                return true;
            }
            match self
                .places
                .get(at)
                .and_then(|place| place.parent.as_deref())
            {
                Some(parent) => at = parent,
                None => return false,
            }
        }
        true
    }
}
