//! Byte ranges against the set of bytes they ask for.
//!
//! An input is a blob's size on the first line and a header behind it.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::{Target, grammar, texts};
use crate::range::{self, Wanted};

pub(super) const TARGET: Target = Target {
    name: "ranges",
    seeds,
    words: &[
        "bytes=",
        "bytes ",
        "-",
        ",",
        "0-0",
        "/",
        "/*",
        " ",
        "\t",
        "+",
        "18446744073709551615",
        "18446744073709551614",
        "18446744073709551616",
        "99999999999999999999999999999999999999999",
        "0",
        "9",
        "10",
        "\n",
    ],
    check,
};

fn seeds() -> Vec<Vec<u8>> {
    texts(&[
        "10\nbytes=0-0",
        "10\nbytes=0-99",
        "10\nbytes=9-",
        "10\nbytes=-3",
        "10\nbytes=-30",
        "10\nbytes=10-12",
        "10\nbytes=5-2",
        "10\nbytes=-0",
        "0\nbytes=0-",
        "10\nbytes=0-1,4-5",
        "10\nlines=0-1",
        "10\nbytes=-",
        "10\nbytes = 1 - 2",
        "18446744073709551615\nbytes=0-18446744073709551615",
        "18446744073709551615\nbytes=18446744073709551614-",
        "10\nbytes=99999999999999999999-",
        "0\n0-1023",
        "0\nbytes 5-9/*",
        "0\nbytes 5-9/100",
        "0\n9-5",
        "0\n0-18446744073709551615",
        "0\n18446744073709551614-18446744073709551614",
        "0\n+1-2",
    ])
}

/// `bytes=a-b` exactly as RFC 9110 writes one range.
static EXACT: LazyLock<Regex> = LazyLock::new(|| grammar::pattern(r"\Abytes=([0-9]*)-([0-9]*)\z"));
/// The same with spaces where a lenient reader may overlook them.
static LENIENT: LazyLock<Regex> =
    LazyLock::new(|| grammar::pattern(r"\A\s*bytes=\s*([0-9]*)\s*-\s*([0-9]*)\s*\z"));
/// `a-b` exactly as the distribution specification writes a chunk's range.
static CHUNK: LazyLock<Regex> = LazyLock::new(|| grammar::pattern(r"\A([0-9]+)-([0-9]+)\z"));
/// The same as other clients write it.
static CHUNK_LENIENT: LazyLock<Regex> =
    LazyLock::new(|| grammar::pattern(r"(?s)\A\s*(?:bytes\s*)?([0-9]+)-([0-9]+)(?:/.*)?\s*\z"));

fn check(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let (size, header) = text.split_once('\n').unwrap_or(("", text));
    let size = size.parse().unwrap_or(header.len() as u64);
    assert_eq!(range::wanted(None, size), Wanted::Whole);
    let part = download(header, size);
    let taken = chunk(header);
    received(size);
    part || taken
}

/// A number of any length. Above `u128` all are equally far away.
fn number(text: &str) -> Option<u128> {
    if text.is_empty() {
        return None;
    }
    Some(text.parse().unwrap_or(u128::MAX))
}

/// The first and the last byte asked for by a range with these two numbers, `None` if it asks for no byte there is.
/// `Err` if the two are no range at all.
fn asked(first: &str, last: &str, size: u64) -> Result<Option<Range<u64>>, ()> {
    let size = u128::from(size);
    let (from, to) = match (number(first), number(last)) {
        (None, None) => return Err(()),
        (None, Some(suffix)) => (size - suffix.min(size), size),
        (Some(first), None) => (first, size),
        (Some(first), Some(last)) => (first, last.saturating_add(1).min(size)),
    };
    if from >= to {
        return Ok(None);
    }
    let narrow = |n| u64::try_from(n).expect("not above the size, which is a u64");
    Ok(Some(narrow(from)..narrow(to)))
}

fn download(header: &str, size: u64) -> bool {
    let wanted = range::wanted(Some(header), size);
    if let Wanted::Part(part) = &wanted {
        assert!(
            part.start < part.end && part.end <= size,
            "{header:?} of {size}"
        );
    }
    let Some(groups) = LENIENT.captures(header) else {
        assert_eq!(wanted, Wanted::Whole, "{header:?}");
        return false;
    };
    let model = match asked(&groups[1], &groups[2], size) {
        Ok(Some(part)) => Wanted::Part(part),
        Ok(None) => Wanted::Unsatisfiable,
        Err(()) => Wanted::Whole,
    };
    // A server may ignore a header it does not like, but not one that is right, and never read another range into it.
    if EXACT.is_match(header) || wanted != Wanted::Whole {
        assert_eq!(wanted, model, "{header:?} of {size}");
    }
    if let (Wanted::Part(part), true) = (&wanted, size <= 64) {
        by_bytes(&groups[1], &groups[2], size, part);
    }
    matches!(wanted, Wanted::Part(_))
}

/// The same once more for small blobs, byte by byte: is each one asked for?
fn by_bytes(first: &str, last: &str, size: u64, part: &Range<u64>) {
    for byte in 0..size {
        let at = u128::from(byte);
        let inside = match (number(first), number(last)) {
            (None, None) => false,
            (None, Some(suffix)) => u128::from(size - byte) <= suffix,
            (Some(first), None) => first <= at,
            (Some(first), Some(last)) => first <= at && at <= last,
        };
        assert_eq!(part.contains(&byte), inside, "byte {byte} of {size}");
    }
}

fn chunk(header: &str) -> bool {
    let answer = range::chunk(header);
    let Some(groups) = CHUNK_LENIENT.captures(header) else {
        assert_eq!(answer, None, "{header:?}");
        return false;
    };
    let model = match (number(&groups[1]), number(&groups[2])) {
        (Some(first), Some(last)) if first <= last && last < u128::from(u64::MAX) => {
            let (first, last) = (u64::try_from(first), u64::try_from(last));
            first
                .ok()
                .zip(last.ok())
                .map(|(first, last)| first..last + 1)
        }
        _ => None,
    };
    if CHUNK.is_match(header) || answer.is_some() {
        assert_eq!(answer, model, "{header:?}");
    }
    if let Some(range) = &answer {
        let printed = format!("{}-{}", range.start, range.end - 1);
        assert_eq!(range::chunk(&printed).as_ref(), Some(range));
    }
    answer.is_some()
}

/// What a session says it has is read back as what it has; only "nothing" cannot be said.
fn received(offset: u64) {
    let said = range::received(offset);
    assert!(CHUNK.is_match(&said), "{said}");
    assert_eq!(range::chunk(&said), Some(0..offset.max(1)));
}
