//! Chunks as clients send them, right and wrong, and what the protocol says to each.

use std::slice;

use arbitrary::Unstructured;

use crate::upload::Refusal;

/// Bound of one blob in these targets: small, so that sequences run into it.
pub(super) const BLOB_BYTES_MAX: u64 = 200;
/// Longest body of one chunk.
const BODY_BYTES_MAX: usize = 70;

/// One chunk on its way.
#[derive(Debug)]
pub(super) struct Sent {
    pub body: Vec<u8>,
    piece_bytes: usize,
    /// The piece before which the connection breaks, if it does.
    pub breaks_off: Option<usize>,
    /// `Content-Range`.
    pub range: Option<String>,
    /// `Content-Length`.
    pub length: Option<u64>,
    /// What the range says, first byte and number of bytes; `None` without a range, `Err` if it cannot be read.
    stated: Option<Result<(u64, u64), ()>>,
}

impl Sent {
    /// A chunk for a session that has `have` bytes.
    pub(super) fn arbitrary(u: &mut Unstructured<'_>, have: u64) -> arbitrary::Result<Sent> {
        let mut body = vec![0; u.int_in_range(0..=BODY_BYTES_MAX)?];
        u.fill_buffer(&mut body)?;
        let len = body.len() as u64;
        let (range, stated) = range(u, have, len)?;
        let length = match u.int_in_range(0..=5)? {
            0 | 1 => None,
            2..=4 => Some(len),
            _ => Some(len.saturating_add_signed(u.int_in_range(-2..=2)?)),
        };
        let breaks_off = u.ratio(1, 8)?.then_some(u.int_in_range(0..=3)?);
        Ok(Sent {
            body,
            piece_bytes: u.int_in_range(1..=BODY_BYTES_MAX)?,
            breaks_off,
            range,
            length,
            stated,
        })
    }

    /// No bytes and no word about them.
    pub(super) fn nothing() -> Sent {
        Sent {
            body: Vec::new(),
            piece_bytes: 1,
            breaks_off: None,
            range: None,
            length: None,
            stated: None,
        }
    }

    /// The body in the pieces it arrives in.
    pub(super) fn pieces(&self) -> slice::Chunks<'_, u8> {
        self.body.chunks(self.piece_bytes)
    }
}

type Range = (Option<String>, Option<Result<(u64, u64), ()>>);

fn range(u: &mut Unstructured<'_>, have: u64, len: u64) -> arbitrary::Result<Range> {
    let written = |start: u64, last: u64| {
        let text = format!("{start}-{last}");
        (Some(text), Some(Ok((start, last - start + 1))))
    };
    Ok(match u.int_in_range(0..=9)? {
        0..=3 => (None, None),
        4..=6 if len > 0 => written(have, have + len - 1),
        7 => {
            let start = have.saturating_add_signed(u.int_in_range(-3..=3)?);
            let more: u64 = u.int_in_range(0..=80)?;
            written(start, start + more)
        }
        8 => written(have, u64::MAX - 1 - u64::from(u.arbitrary::<u8>()?)),
        _ => {
            let texts = ["", "-", "5", "9-5", "a-b", "0-18446744073709551615", "-1-4"];
            (Some((*u.choose(&texts)?).to_owned()), Some(Err(())))
        }
    })
}

fn too_large() -> Refusal {
    Refusal::TooLarge {
        max: BLOB_BYTES_MAX,
    }
}

/// May the chunk begin in a session that has `have` bytes? The number of bytes it has to have then, if it said one.
pub(super) fn may_begin(sent: &Sent, have: u64, open: bool) -> Result<Option<u64>, Refusal> {
    if !open {
        return Err(Refusal::Complete);
    }
    let due = match (sent.stated, sent.length) {
        (None, length) => length,
        (Some(Err(())), _) => return Err(Refusal::UnreadableRange),
        (Some(Ok((start, _))), _) if start != have => return Err(Refusal::OutOfOrder { have }),
        (Some(Ok((_, stated))), Some(got)) if got != stated => {
            return Err(Refusal::Length { stated, got });
        }
        (Some(Ok((_, stated))), _) => Some(stated),
    };
    if u128::from(have) + u128::from(due.unwrap_or(0)) > u128::from(BLOB_BYTES_MAX) {
        return Err(too_large());
    }
    Ok(due)
}

/// May it go on to `came` bytes of its own?
pub(super) fn may_go_on(have: u64, due: Option<u64>, came: u64) -> Result<(), Refusal> {
    match due {
        Some(stated) if came > stated => Err(Refusal::Length { stated, got: came }),
        _ if have + came > BLOB_BYTES_MAX => Err(too_large()),
        _ => Ok(()),
    }
}

/// May it end after `came` bytes?
pub(super) fn may_end(due: Option<u64>, came: u64) -> Result<(), Refusal> {
    match due {
        Some(stated) if stated != came => Err(Refusal::Length { stated, got: came }),
        _ => Ok(()),
    }
}
