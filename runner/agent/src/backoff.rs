//! Growing pauses between tries, as numbers.

use crate::config::AgentConfig;

/// How often in a row something failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause before the next try of a pull or a preparation: the base, doubling to the maximum.
    pub fn next_ms(&mut self, config: &AgentConfig) -> u64 {
        let pause = doubled(config, self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// The pause before the next restart: none the first time (most first crashes are races at start), then as
    /// [`Backoff::next_ms`].
    pub fn next_restart_ms(&mut self, config: &AgentConfig) -> u64 {
        let pause = if self.failures == 0 {
            0
        } else {
            doubled(config, self.failures - 1)
        };
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// Starts anew.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

fn doubled(config: &AgentConfig, times: u32) -> u64 {
    let factor = 1u64.checked_shl(times.min(32)).unwrap_or(u64::MAX);
    config
        .backoff_base_ms
        .saturating_mul(factor)
        .min(config.backoff_max_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_the_maximum_and_the_first_restart_is_at_once() {
        let config = AgentConfig::new("n", "127.0.0.1");
        let mut pulls = Backoff::default();
        let seen: Vec<u64> = (0..7).map(|_| pulls.next_ms(&config) / 1_000).collect();
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
        let mut restarts = Backoff::default();
        let seen: Vec<u64> = (0..4)
            .map(|_| restarts.next_restart_ms(&config) / 1_000)
            .collect();
        assert_eq!(seen, [0, 10, 20, 40]);
        restarts.reset();
        assert_eq!(restarts.next_restart_ms(&config), 0);
    }
}
