//! What may be tried again, how often, and after how long. Pure: the headers, the time and the dice are arguments.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;

/// Attempts for one thing altogether, however much each of them brought.
const ATTEMPTS_MAX: u32 = 100;

/// How often, and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in a row that bring nothing, the first one included.
    pub tries: u32,
    /// The pause after the first; doubled after each further one.
    pub first: Duration,
    /// The longest pause of our own.
    pub longest: Duration,
    /// The longest pause a registry may ask for; one that asks for more is not waited for.
    pub asked_longest: Duration,
}

impl Default for Retry {
    /// Five attempts within about 4 s: long enough for a member to be replaced, short enough to be told.
    fn default() -> Self {
        Retry {
            tries: 5,
            first: Duration::from_millis(250),
            longest: Duration::from_secs(8),
            asked_longest: Duration::from_secs(60),
        }
    }
}

/// The attempts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    in_a_row: u32,
    total: u32,
}

impl Attempts {
    /// How many there were.
    pub fn made(&self) -> u32 {
        self.total
    }

    /// One more failed. Answers how long to wait before the next, `None` if there is to be none.
    ///
    /// `progress`: it brought something, so the count of those that did not begins anew. `asked`: the pause the registry
    /// wants. `jitter`: 0 to 1; half of our own pause is left to it, so that many clients do not come back together.
    pub fn failed(
        &mut self,
        retry: &Retry,
        progress: bool,
        asked: Option<Duration>,
        jitter: f64,
    ) -> Option<Duration> {
        self.total += 1;
        self.in_a_row = if progress { 1 } else { self.in_a_row + 1 };
        let asked = asked.unwrap_or_default();
        if self.in_a_row >= retry.tries || self.total >= ATTEMPTS_MAX || asked > retry.asked_longest
        {
            return None;
        }
        let doubled = retry
            .first
            .saturating_mul(1 << (self.in_a_row - 1).min(16))
            .min(retry.longest);
        let own = doubled.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        Some(own.max(asked))
    }
}

/// Whether the same request may be answered differently later: 408, 429, and what went wrong on the other side.
pub fn may_retry(status: StatusCode) -> bool {
    match status {
        // It never will be able to.
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => false,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => true,
        status => status.is_server_error(),
    }
}

/// The pause that `Retry-After` asks for, in seconds or until a date (RFC 9110, 10.2.3). Nothing readable is nothing.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Retry = Retry {
        tries: 4,
        first: Duration::from_millis(100),
        longest: Duration::from_millis(300),
        asked_longest: Duration::from_secs(10),
    };

    #[test]
    fn pauses_double_up_to_a_bound_and_end() {
        let ms = |a: &mut Attempts, jitter| {
            let pause = a.failed(&RETRY, false, None, jitter);
            pause.map(|p| p.as_millis())
        };
        let mut full = Attempts::default();
        let pauses: Vec<_> = (0..4).map(|_| ms(&mut full, 1.0)).collect();
        assert_eq!(pauses, [Some(100), Some(200), Some(300), None]);
        assert_eq!(full.made(), 4);
        let mut half = Attempts::default();
        assert_eq!(ms(&mut half, 0.0), Some(50));
        assert_eq!(ms(&mut half, 0.5), Some(150));
    }

    #[test]
    fn progress_begins_the_count_anew_but_not_forever() {
        let mut attempts = Attempts::default();
        let mut pauses = 0;
        while let Some(pause) = attempts.failed(&RETRY, true, None, 1.0) {
            assert_eq!(pause, RETRY.first);
            pauses += 1;
        }
        assert_eq!(pauses + 1, ATTEMPTS_MAX);
    }

    #[test]
    fn a_registry_may_ask_for_longer_within_reason() {
        let asked =
            |s| Attempts::default().failed(&RETRY, false, Some(Duration::from_secs(s)), 0.0);
        assert_eq!(asked(0), Some(Duration::from_millis(50)));
        assert_eq!(asked(7), Some(Duration::from_secs(7)));
        assert_eq!(asked(11), None);
    }

    #[test]
    fn only_what_may_change_is_tried_again() {
        for (status, want) in [
            (200, false),
            (301, false),
            (400, false),
            (401, false),
            (403, false),
            (404, false),
            (408, true),
            (409, false),
            (413, false),
            (416, false),
            (429, true),
            (500, true),
            (501, false),
            (502, true),
            (503, true),
            (504, true),
            (505, false),
        ] {
            assert_eq!(
                may_retry(StatusCode::from_u16(status).unwrap()),
                want,
                "{status}"
            );
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:30Z".parse().unwrap();
        for (text, want) in [
            ("0", Some(0)),
            (" 12 ", Some(12)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            let found = retry_after(&headers, now).map(|pause| pause.as_secs());
            assert_eq!(found, want, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
