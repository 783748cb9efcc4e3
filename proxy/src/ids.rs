//! Request ids and trace context: taken over from the client where they are well formed, made here otherwise.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::{HeaderMap, HeaderName, HeaderValue};

/// Names a request in logs and answers.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Longest request id taken over from a client; longer ones would fill the log.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// A source of numbers that differ between cores, processes and requests. Not secret.
#[derive(Debug)]
pub(crate) struct Numbers(AtomicU64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub fn next(&self) -> u64 {
        // SplitMix64; the counter belongs to one core, so the atomic is not contended.
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The id of the request: the caller's if it is short and printable.
pub(crate) fn request_id(headers: &HeaderMap, numbers: &Numbers) -> HeaderValue {
    match headers.get(REQUEST_ID) {
        Some(given) if is_token(given.as_bytes()) => given.clone(),
        _ => {
            let mut text = [0u8; 16];
            hex(numbers.next(), &mut text);
            value(&text)
        }
    }
}

/// The trace context for the next hop: the caller's trace with a span of ours, or a new trace.
pub(crate) fn traceparent(given: Option<&HeaderValue>, numbers: &Numbers) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    match given.map(HeaderValue::as_bytes) {
        Some(old) if is_traceparent(old) => {
            text[3..35].copy_from_slice(&old[3..35]);
            text[53..55].copy_from_slice(&old[53..55]);
        }
        _ => {
            hex(numbers.next(), &mut text[3..19]);
            hex(numbers.next() | 1, &mut text[19..35]);
        }
    }
    hex(numbers.next() | 1, &mut text[36..52]);
    value(&text)
}

fn value(ascii: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(ascii).expect("hexadecimal digits and dashes make a header value")
}

fn hex(number: u64, out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = DIGITS[(number >> (60 - 4 * i)) as usize & 15];
    }
}

fn is_token(bytes: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// Version 00 as W3C writes it: `00-TRACE-SPAN-FLAGS`, lower-case hexadecimal, trace and span not all zero.
fn is_traceparent(bytes: &[u8]) -> bool {
    let hex = |range: std::ops::Range<usize>| {
        bytes[range]
            .iter()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let not_zero = |range: std::ops::Range<usize>| bytes[range].iter().any(|b| *b != b'0');
    bytes.len() == 55
        && bytes.starts_with(b"00-")
        && bytes[35] == b'-'
        && bytes[52] == b'-'
        && hex(3..35)
        && hex(36..52)
        && hex(53..55)
        && not_zero(3..35)
        && not_zero(36..52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ids_are_kept_and_bad_ones_replaced() {
        let numbers = Numbers::new(1);
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(text).unwrap());
            request_id(&headers, &numbers)
        };
        assert_eq!(id("abc-1"), "abc-1");
        for bad in ["", "a b", &"x".repeat(129)] {
            assert_eq!(id(bad).len(), 16, "{bad:?}");
        }
    }

    #[test]
    fn a_trace_goes_on_with_a_new_span() {
        let numbers = Numbers::new(1);
        let old =
            HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        let new = traceparent(Some(&old), &numbers);
        let new = new.to_str().unwrap();
        assert!(new.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && new.ends_with("-00"));
        assert_ne!(&new[36..52], "00f067aa0ba902b7");
        for bad in [
            "",
            "00-xyz",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "01-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
        ] {
            let made = traceparent(Some(&HeaderValue::from_str(bad).unwrap()), &numbers);
            assert!(is_traceparent(made.as_bytes()), "{made:?}");
        }
    }
}
