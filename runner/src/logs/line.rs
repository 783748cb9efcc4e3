//! Cutting a stream of bytes into lines, and the form of a line in a file.

use coracle_api::Timestamp;
use coracle_engine::Stream;

/// Longest line kept as one piece; a longer one is cut into pieces, as container runtimes do.
pub(super) const LINE_BYTES_MAX: usize = 16 << 10;

/// The bytes of one stream that do not end a line yet.
#[derive(Debug, Default)]
pub(super) struct Partial(Vec<u8>);

impl Partial {
    /// Takes bytes in and calls `emit` for each piece, with whether it ends a line.
    pub fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.0.len();
            let end = bytes.iter().take(room).position(|b| *b == b'\n');
            let take = end.unwrap_or_else(|| bytes.len().min(room));
            self.0.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take + usize::from(end.is_some())..];
            if end.is_some() || self.0.len() == LINE_BYTES_MAX {
                emit(&self.0, end.is_some());
                self.0.clear();
            }
        }
    }

    /// Gives out what is left, as a piece.
    pub fn flush(&mut self, emit: impl FnOnce(&[u8], bool)) {
        if !self.0.is_empty() {
            emit(&self.0, false);
            self.0.clear();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends a piece in the form of the file.
pub(super) fn write(out: &mut Vec<u8>, at: Timestamp, stream: Stream, text: &[u8], full: bool) {
    let stream = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    out.extend_from_slice(format!("{at:.9} {stream} {} ", if full { 'F' } else { 'P' }).as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// A line of a file, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub time: &'a str,
    pub full: bool,
    pub text: &'a [u8],
}

/// Takes a line (without its end) apart; `None` if it is damaged, as the last one may be after a power loss.
pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let _stream = parts.next()?;
    let full = match parts.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Line {
        time,
        full,
        text: parts.next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_lines_however_they_arrive() {
        let mut partial = Partial::default();
        let mut seen = Vec::new();
        for piece in ["he", "llo\nwor", "ld\n\nrest"] {
            partial.push(piece.as_bytes(), |t, full| {
                seen.push((String::from_utf8(t.to_vec()).unwrap(), full))
            });
        }
        partial.flush(|t, full| seen.push((String::from_utf8(t.to_vec()).unwrap(), full)));
        let want = [
            ("hello", true),
            ("world", true),
            ("", true),
            ("rest", false),
        ];
        assert_eq!(seen, want.map(|(t, f)| (t.to_string(), f)));
        assert!(partial.is_empty());
    }

    #[test]
    fn a_long_line_is_cut_into_pieces() {
        let mut partial = Partial::default();
        let mut sizes = Vec::new();
        partial.push(&vec![b'x'; LINE_BYTES_MAX * 2 + 10], |t, full| {
            sizes.push((t.len(), full))
        });
        partial.push(b"\n", |t, full| sizes.push((t.len(), full)));
        assert_eq!(
            sizes,
            [(LINE_BYTES_MAX, false), (LINE_BYTES_MAX, false), (10, true)]
        );
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut out = Vec::new();
        let at: Timestamp = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
        write(&mut out, at, Stream::Stderr, b"a b  c", true);
        assert_eq!(out, b"2026-01-02T03:04:05.000000006Z stderr F a b  c\n");
        let line = parse(out.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!(
            line,
            Line {
                time: "2026-01-02T03:04:05.000000006Z",
                full: true,
                text: b"a b  c"
            }
        );
        assert_eq!(parse(b"2026 stdout"), None);
    }
}
