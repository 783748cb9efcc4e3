//! When a member saves a backup, what the file is called, and which files are kept. Times and lists are arguments.

use std::time::Duration;

use coracle_api::Timestamp;
use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Time from the start of a process to its first backup, if there is none yet: a start has enough to do.
pub(crate) const FIRST_AFTER: Duration = Duration::from_secs(300);
/// Time to the next attempt after one that failed.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(600);
const BEFORE: &str = "coracle-";
const AFTER: &str = ".backup";
const STAMP: &str = "%Y%m%dT%H%M%SZ";

/// How often a member saves its own backup, and how many it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Time between two backups; zero: none are saved.
    pub every: Duration,
    /// Files kept, at least the newest; zero: none are saved.
    pub keep: usize,
}

impl Default for Schedule {
    /// Twice a day, five files: two and a half days to notice a mistake, on every member.
    fn default() -> Self {
        Self {
            every: Duration::from_secs(12 * 3_600),
            keep: 5,
        }
    }
}

impl Schedule {
    /// Whether backups are saved at all.
    pub fn on(&self) -> bool {
        !self.every.is_zero() && self.keep > 0
    }

    /// Whether a backup is due: since the last one (or without one since the process started) enough time has passed. One
    /// from the future was saved by a clock that was wrong and says nothing.
    pub(crate) fn due(&self, now: Timestamp, started: Timestamp, last: Option<Timestamp>) -> bool {
        let passed = |since: Timestamp, wait: Duration| {
            now.duration_since(since)
                >= SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX)
        };
        if !self.on() {
            return false;
        }
        match last.filter(|l| *l <= now) {
            Some(last) => passed(last, self.every),
            None => passed(started, FIRST_AFTER.min(self.every)),
        }
    }

    /// Which of these files go. Files that were not named by [`file_name`] are somebody else's and stay.
    pub(crate) fn prune(&self, names: &[String]) -> Vec<String> {
        let mut ours: Vec<(Timestamp, &String)> = names
            .iter()
            .filter_map(|n| Some((saved_at(n)?, n)))
            .collect();
        ours.sort();
        let surplus = ours.len().saturating_sub(self.keep.max(1));
        ours.into_iter()
            .take(surplus)
            .map(|(_, n)| n.clone())
            .collect()
    }
}

/// `coracle-20261122T113000Z-r4711.backup`.
pub(crate) fn file_name(at: Timestamp, revision: u64) -> String {
    format!("{BEFORE}{}-r{revision}{AFTER}", at.strftime(STAMP))
}

/// The time in a name made by [`file_name`].
pub(crate) fn saved_at(name: &str) -> Option<Timestamp> {
    let (stamp, revision) = name
        .strip_prefix(BEFORE)?
        .strip_suffix(AFTER)?
        .split_once("-r")?;
    revision.parse::<u64>().ok()?;
    let at = DateTime::strptime(STAMP, stamp).ok()?;
    Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-{text}Z").parse().unwrap()
    }

    #[test]
    fn backups_are_due_by_the_clock() {
        let twice = Schedule::default();
        let often = Schedule {
            every: Duration::from_secs(60),
            keep: 1,
        };
        let off = Schedule {
            every: Duration::ZERO,
            keep: 5,
        };
        let none = Schedule { keep: 0, ..twice };
        let start = at("22T10:00:00");
        for (schedule, now, last, due, why) in [
            (
                twice,
                "22T10:00:01",
                None,
                false,
                "a start has enough to do",
            ),
            (twice, "22T10:04:59", None, false, "not yet"),
            (twice, "22T10:05:00", None, true, "the first"),
            (
                often,
                "22T10:01:00",
                None,
                true,
                "no later than its interval",
            ),
            (
                twice,
                "22T10:00:00",
                Some("21T22:00:00"),
                true,
                "missed while it was down",
            ),
            (
                twice,
                "22T10:00:00",
                Some("21T22:00:01"),
                false,
                "a second too early",
            ),
            (
                twice,
                "22T21:59:59",
                Some("22T10:00:00"),
                false,
                "again not yet",
            ),
            (
                twice,
                "22T22:00:00",
                Some("22T10:00:00"),
                true,
                "twelve hours",
            ),
            (
                twice,
                "22T12:00:00",
                Some("25T00:00:00"),
                true,
                "one from the future does not count",
            ),
            (
                twice,
                "22T10:00:01",
                Some("25T00:00:00"),
                false,
                "nor does it make one due at once",
            ),
            (off, "30T10:00:00", None, false, "off"),
            (none, "30T10:00:00", None, false, "keeping none is off"),
        ] {
            let last = last.map(at);
            assert_eq!(schedule.due(at(now), start, last), due, "{now}: {why}");
        }
    }

    #[test]
    fn the_oldest_go_and_strangers_stay() {
        let names: Vec<String> = [
            file_name(at("22T10:00:00"), 5),
            file_name(at("20T10:00:00"), 900),
            file_name(at("21T10:00:00"), 4),
            "before-the-upgrade.backup".into(),
            "coracle-20261119T100000Z-rx.backup".into(),
            ".coracle-20261119T100000Z-r1.backup.partial".into(),
        ]
        .into();
        let keep = |keep| Schedule {
            keep,
            ..Schedule::default()
        };
        assert_eq!(keep(3).prune(&names), Vec::<String>::new());
        assert_eq!(keep(2).prune(&names), [names[1].clone()]);
        assert_eq!(keep(1).prune(&names), [names[1].clone(), names[2].clone()]);
        assert_eq!(keep(0).prune(&names).len(), 2, "never the newest");
        assert_eq!(keep(1).prune(&[]), Vec::<String>::new());
    }

    #[test]
    fn names_say_when_and_what() {
        let name = file_name(at("22T10:00:00.25"), 1_000_000_007);
        assert_eq!(name, "coracle-20261122T100000Z-r1000000007.backup");
        assert_eq!(saved_at(&name), Some(at("22T10:00:00")));
        for other in [
            "",
            "coracle-.backup",
            "coracle-20261322T100000Z-r1.backup",
            "x",
        ] {
            assert_eq!(saved_at(other), None, "{other}");
        }
    }
}
