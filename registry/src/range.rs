//! The two byte-range dialects of the protocol, parsed exactly.
//!
//! A download uses HTTP's `Range: bytes=a-b`; an upload chunk uses `Content-Range: a-b` without a unit. Both ends are
//! inclusive on the wire and half-open in here: the off-by-one happens in this file and nowhere else.

use std::ops::Range;

/// What a download's `Range` header asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The whole blob: no header, another unit, a list of ranges or something unreadable (HTTP lets a server ignore it).
    Whole,
    /// This part, never empty and inside the blob.
    Part(Range<u64>),
    /// Nothing of the blob lies in the range, or it is reversed: answer 416.
    Unsatisfiable,
}

/// Reads a `Range` header against a blob of `size` bytes.
pub fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    if spec.contains(',') {
        return Wanted::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Wanted::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let Some(suffix) = digits(last) else {
            return Wanted::Whole;
        };
        if suffix == 0 || size == 0 {
            return Wanted::Unsatisfiable;
        }
        return Wanted::Part(size.saturating_sub(suffix)..size);
    }
    let Some(first) = digits(first) else {
        return Wanted::Whole;
    };
    let end = if last.is_empty() {
        size
    } else {
        match digits(last) {
            Some(last) if last < first => return Wanted::Unsatisfiable,
            Some(last) => last.saturating_add(1).min(size),
            None => return Wanted::Whole,
        }
    };
    if first >= size {
        return Wanted::Unsatisfiable;
    }
    Wanted::Part(first..end)
}

/// Reads a chunk's `Content-Range`: `a-b`, and `bytes a-b/*` as HTTP would write it. `None` if it is neither.
pub fn chunk(header: &str) -> Option<Range<u64>> {
    let text = header.trim();
    let text = text.strip_prefix("bytes").map_or(text, str::trim_start);
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text.split_once('-')?;
    let (first, last) = (digits(first)?, digits(last)?);
    if last < first {
        return None;
    }
    Some(first..last.checked_add(1)?)
}

/// The `Range` header of an upload that holds `offset` bytes. An empty one says `0-0`: the protocol has no way to write
/// "nothing", and clients fail on `0--1`.
pub fn received(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

/// Only ASCII digits: no sign, no space, no overflow.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // More digits than a u64 holds still means "very far", which every bound above treats alike.
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn download_ranges() {
        use Wanted::{Part, Unsatisfiable, Whole};
        for (header, size, want) in [
            (None, 10, Whole),
            (Some("bytes=0-0"), 10, Part(0..1)),
            (Some("bytes=0-9"), 10, Part(0..10)),
            (Some("bytes=0-99"), 10, Part(0..10)),
            (Some("bytes=9-"), 10, Part(9..10)),
            (Some("bytes=-3"), 10, Part(7..10)),
            (Some("bytes=-30"), 10, Part(0..10)),
            (Some("bytes=10-"), 10, Unsatisfiable),
            (Some("bytes=10-12"), 10, Unsatisfiable),
            (Some("bytes=5-2"), 10, Unsatisfiable),
            (Some("bytes=-0"), 10, Unsatisfiable),
            (Some("bytes=0-"), 0, Unsatisfiable),
            (Some("bytes=-1"), 0, Unsatisfiable),
            (Some("bytes=0-1,4-5"), 10, Whole),
            (Some("lines=0-1"), 10, Whole),
            (Some("bytes=x-1"), 10, Whole),
            (Some("bytes=-"), 10, Whole),
            (Some("bytes=1"), 10, Whole),
            (Some("bytes=0-18446744073709551615"), 10, Part(0..10)),
            (Some("bytes=99999999999999999999-"), 10, Unsatisfiable),
        ] {
            assert_eq!(wanted(header, size), want, "{header:?} of {size}");
        }
    }

    #[test]
    fn chunk_ranges() {
        for (header, want) in [
            ("0-0", Some(0..1)),
            ("0-1023", Some(0..1024)),
            ("bytes 5-9/*", Some(5..10)),
            ("bytes 5-9/100", Some(5..10)),
            ("9-5", None),
            ("", None),
            ("-", None),
            ("a-b", None),
            ("1-", None),
            ("+1-2", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(chunk(header), want, "{header}");
        }
        assert_eq!(received(0), "0-0");
        assert_eq!(received(1), "0-0");
        assert_eq!(received(10), "0-9");
    }
}
