//! Which replica gets the request: the less loaded of two drawn at random, on this node unless its queue is longer.
//!
//! Two random choices keep the longest queue near the shortest without looking at every endpoint, and without the herding
//! that "always the shortest" causes when several proxies act on the same news.

use crate::{Endpoint, Endpoints};

/// How much longer (in requests in flight) the queue of a replica on this node may be before one on another node is
/// preferred. A call in process costs a tenth of a hop over the network, so a few requests of queue are worth it.
pub const LOCAL_BIAS: u32 = 8;

/// What the proxy knows about endpoints at this moment.
pub trait Load {
    /// Requests in flight to the endpoint from this proxy.
    fn in_flight(&self, endpoint: &Endpoint) -> u32;

    /// Whether the endpoint is ejected for failing. Ejections are ignored where they would leave less than half.
    fn ejected(&self, _endpoint: &Endpoint) -> bool {
        false
    }
}

impl<F: Fn(&Endpoint) -> u32> Load for F {
    fn in_flight(&self, endpoint: &Endpoint) -> u32 {
        self(endpoint)
    }
}

/// Chooses an endpoint; `None` if none is usable. The same arguments always give the same answer.
pub fn pick(endpoints: &Endpoints, load: &impl Load, seed: u64) -> Option<usize> {
    pick_except(endpoints, load, seed, None)
}

/// [`pick`] for a second attempt: leaves out the pod slot that has just refused, if there is any other.
pub fn pick_except(
    endpoints: &Endpoints,
    load: &impl Load,
    seed: u64,
    refused_slot: Option<usize>,
) -> Option<usize> {
    let (local, remote) = endpoints.usable().split_at(endpoints.usable_local());
    let near = draw(endpoints, local, load, seed, refused_slot);
    // The common case: a single node, or a local queue short enough that no remote one could beat it.
    if let Some((index, queue)) = near
        && (remote.is_empty() || queue <= LOCAL_BIAS)
    {
        return Some(index);
    }
    let far = draw(endpoints, remote, load, mix(seed), refused_slot);
    match (near, far) {
        (Some((near, near_queue)), Some((far, far_queue))) => {
            Some(if near_queue > far_queue.saturating_add(LOCAL_BIAS) {
                far
            } else {
                near
            })
        }
        (Some((index, _)), None) | (None, Some((index, _))) => Some(index),
        // Everything else is left out: rather the one that refused, or one that fails, than nobody.
        (None, None) => least(endpoints, endpoints.usable(), load, |e| {
            Some(e.slot) != refused_slot
        })
        .or_else(|| least(endpoints, endpoints.usable(), load, |_| true))
        .map(|(index, _)| index),
    }
}

/// The better of two drawn at random among `candidates`, with its queue.
fn draw(
    endpoints: &Endpoints,
    candidates: &[u32],
    load: &impl Load,
    seed: u64,
    refused_slot: Option<usize>,
) -> Option<(usize, u32)> {
    let all = endpoints.all();
    let fits = |index: u32| {
        let e = &all[index as usize];
        (Some(e.slot) != refused_slot && !load.ejected(e))
            .then(|| (index as usize, load.in_flight(e)))
    };
    match candidates {
        [] => return None,
        [only] => return fits(*only),
        _ => {}
    }
    let count = candidates.len() as u64;
    let first = scale(mix(seed), count);
    // Drawn among the others, so that the two always differ.
    let second = (first + 1 + scale(mix(seed ^ 0x9e37_79b9_7f4a_7c15), count - 1)) % count;
    let (a, b) = (
        fits(candidates[first as usize]),
        fits(candidates[second as usize]),
    );
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.1 < a.1 { b } else { a }),
        (Some(one), None) | (None, Some(one)) => Some(one),
        (None, None) => {
            let ejected = candidates
                .iter()
                .filter(|&&i| load.ejected(&all[i as usize]))
                .count();
            let panic = ejected * 2 > candidates.len();
            least(endpoints, candidates, load, |e| {
                Some(e.slot) != refused_slot && (panic || !load.ejected(e))
            })
        }
    }
}

/// The shortest queue among those that pass, the first of them on a tie.
fn least(
    endpoints: &Endpoints,
    candidates: &[u32],
    load: &impl Load,
    passes: impl Fn(&Endpoint) -> bool,
) -> Option<(usize, u32)> {
    candidates
        .iter()
        .map(|&index| (index as usize, &endpoints.all()[index as usize]))
        .filter(|(_, e)| passes(e))
        .map(|(index, e)| (index, load.in_flight(e)))
        .min_by_key(|&(_, queue)| queue)
}

/// Maps 64 random bits to `0..count` without division; `count` must not be 0.
fn scale(random: u64, count: u64) -> u64 {
    ((u128::from(random) * u128::from(count)) >> 64) as u64
}

/// One round of SplitMix64: spreads consecutive seeds over all bits.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
