//! Randomness: one stream per purpose and node, each from the seed, so that adding one does not shift the others.

use coracle_api::Ids;

/// A stream of choices.
#[derive(Clone, Debug)]
pub(crate) struct Dice(Ids);

impl Dice {
    pub fn new(seed: u64, stream: &str) -> Self {
        // FNV-1a: spreads the names of streams over all bits.
        let hash = stream.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(Ids::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash))
    }

    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `n`; 0 for 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// Whether something that happens `permille` times in a thousand happens now.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of these; `None` if there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let n = self.below(from.len() as u64) as usize;
        from.get(n)
    }

    pub fn ids(&mut self) -> &mut Ids {
        &mut self.0
    }
}
