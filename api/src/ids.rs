//! Seeded names and uids. Randomness is an argument: the same seed gives the same ids, so a simulation replays.

/// A deterministic source of uids and name suffixes (splitmix64).
#[derive(Clone, Debug)]
pub struct Ids(u64);

/// The alphabet of Kubernetes' generated names: no vowels, no look-alikes.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

impl Ids {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A version 4 uid in its usual form.
    pub fn uid(&mut self) -> String {
        let (a, b) = (self.next_u64(), self.next_u64());
        let b = (b & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
        let a = (a & 0xffff_ffff_ffff_0fff) | 0x4000;
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xffff,
            b >> 48,
            b & 0xffff_ffff_ffff
        )
    }

    /// Five characters for `generateName` and pods of a ReplicaSet.
    pub fn suffix(&mut self) -> String {
        let mut bits = self.next_u64();
        (0..5)
            .map(|_| {
                let c = SUFFIX[(bits % SUFFIX.len() as u64) as usize] as char;
                bits /= SUFFIX.len() as u64;
                c
            })
            .collect()
    }
}
