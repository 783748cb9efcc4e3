//! Strictness on the wire, before the HTTP parser.
//!
//! A lenient parser in front of another parser is how requests are smuggled: two parties disagree where a message ends.
//! hyper repairs some ambiguous heads silently (it drops a Content-Length that meets a Transfer-Encoding, and accepts line
//! feeds without carriage returns), so what the client really sent is no longer visible behind it. This guard reads the
//! bytes first, follows the framing itself, and stops the connection at the first ambiguity. It changes nothing: whatever
//! it lets through reaches hyper byte for byte.

/// Longest line kept while it arrives in pieces; hyper's own limit on heads (64 KiB) is the same.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Longest chunk-size line with its extensions; nobody sends any.
const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;

/// What made a message ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    BareLineFeed,
    BareCarriageReturn,
    Nul,
    ObsoleteFolding,
    SpaceBeforeColon,
    BadHeaderLine,
    BadRequestLine,
    BothFramings,
    RepeatedContentLength,
    BadContentLength,
    RepeatedTransferEncoding,
    BadTransferEncoding,
    TransferEncodingOn10,
    RepeatedHost,
    BadChunk,
    TooLong,
}

impl Violation {
    pub fn message(self) -> &'static str {
        match self {
            Self::BareLineFeed => "a line ends with a line feed without a carriage return",
            Self::BareCarriageReturn => "a line holds a carriage return that does not end it",
            Self::Nul => "the head holds a NUL",
            Self::ObsoleteFolding => "a header is folded over several lines",
            Self::SpaceBeforeColon => "a header has white space before its colon",
            Self::BadHeaderLine => "a header line has no name",
            Self::BadRequestLine => "the request line is not METHOD TARGET HTTP/1.0 or HTTP/1.1",
            Self::BothFramings => "the request has both Content-Length and Transfer-Encoding",
            Self::RepeatedContentLength => "the request has more than one Content-Length",
            Self::BadContentLength => "Content-Length is not one decimal number",
            Self::RepeatedTransferEncoding => "the request has more than one Transfer-Encoding",
            Self::BadTransferEncoding => "Transfer-Encoding is not exactly chunked",
            Self::TransferEncodingOn10 => "an HTTP/1.0 request has Transfer-Encoding",
            Self::RepeatedHost => "the request has more than one Host",
            Self::BadChunk => "the body is not chunked as RFC 9112 says",
            Self::TooLong => "a line is too long",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte of a request; a blank line is allowed.
    Start,
    Head,
    Body(u64),
    ChunkSize {
        size: u64,
        digits: u8,
    },
    ChunkExtension {
        size: u64,
        length: usize,
    },
    ChunkSizeEnd {
        size: u64,
    },
    Chunk(u64),
    ChunkEnd {
        seen_cr: bool,
    },
    Trailers,
    /// After CONNECT: the bytes are not HTTP any more (the request is refused and the connection closed).
    Tunnel,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Between two requests.
    Between,
    /// Inside a head.
    Head,
    /// Inside a body.
    Body,
}

/// Follows one connection's requests.
#[derive(Debug)]
pub(crate) struct Guard {
    state: State,
    /// The part of a line that came with an earlier read.
    carry: Vec<u8>,
    framing: Framing,
}

#[derive(Clone, Copy, Debug, Default)]
struct Framing {
    is_10: bool,
    connect: bool,
    content_length: Option<u64>,
    chunked: bool,
    host: bool,
}

/// A violation, and how many bytes before it are in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub violation: Violation,
    /// Length of the part that belongs to earlier requests.
    pub good: usize,
}

impl Guard {
    pub fn new() -> Self {
        Self {
            state: State::Start,
            carry: Vec::new(),
            framing: Framing::default(),
        }
    }

    pub fn place(&self) -> Place {
        match self.state {
            State::Start if self.carry.is_empty() => Place::Between,
            State::Start | State::Head => Place::Head,
            State::Tunnel => Place::Between,
            _ => Place::Body,
        }
    }

    /// Looks at the next bytes of the connection.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let mut at = 0;
        // Where the request that is being read began in these bytes; 0 if it began earlier.
        let mut began = 0;
        while at < bytes.len() {
            let was_between = self.state == State::Start && self.carry.is_empty();
            if was_between {
                began = at;
            }
            match self.step(&bytes[at..]) {
                Ok(used) => at += used,
                Err(violation) => {
                    return Err(Stop {
                        violation,
                        good: began,
                    });
                }
            }
        }
        Ok(())
    }

    /// Consumes at least one byte.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        match self.state {
            State::Start | State::Head | State::Trailers => self.line(bytes),
            State::Body(left) => {
                let used = take(left, bytes.len());
                let left = left - used as u64;
                self.state = if left == 0 {
                    State::Start
                } else {
                    State::Body(left)
                };
                Ok(used)
            }
            State::Chunk(left) => {
                let used = take(left, bytes.len());
                let left = left - used as u64;
                self.state = if left == 0 {
                    State::ChunkEnd { seen_cr: false }
                } else {
                    State::Chunk(left)
                };
                Ok(used)
            }
            State::Tunnel => Ok(bytes.len()),
            State::ChunkSize { .. }
            | State::ChunkExtension { .. }
            | State::ChunkSizeEnd { .. }
            | State::ChunkEnd { .. } => {
                self.state = self.chunk_byte(bytes[0])?;
                Ok(1)
            }
        }
    }

    fn chunk_byte(&self, byte: u8) -> Result<State, Violation> {
        Ok(match (self.state, byte) {
            (State::ChunkSize { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                // 15 digits: a longer size would come near the edge of 64 bits, where parsers differ.
                if digits == 15 {
                    return Err(Violation::BadChunk);
                }
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                State::ChunkSize {
                    size: size << 4 | digit,
                    digits: digits + 1,
                }
            }
            (State::ChunkSize { digits: 0, .. }, _) => return Err(Violation::BadChunk),
            (State::ChunkSize { size, .. }, b';') => State::ChunkExtension { size, length: 0 },
            (State::ChunkSize { size, .. }, b'\r') => State::ChunkSizeEnd { size },
            (State::ChunkExtension { size, .. }, b'\r') => State::ChunkSizeEnd { size },
            (State::ChunkExtension { .. }, b'\n') => return Err(Violation::BareLineFeed),
            (State::ChunkExtension { size, length }, _) if length < CHUNK_LINE_BYTES_MAX => {
                State::ChunkExtension {
                    size,
                    length: length + 1,
                }
            }
            (State::ChunkSizeEnd { size: 0 }, b'\n') => State::Trailers,
            (State::ChunkSizeEnd { size }, b'\n') => State::Chunk(size),
            (State::ChunkEnd { seen_cr: false }, b'\r') => State::ChunkEnd { seen_cr: true },
            (State::ChunkEnd { seen_cr: true }, b'\n') => State::ChunkSize { size: 0, digits: 0 },
            _ => return Err(Violation::BadChunk),
        })
    }

    /// Takes the next line, or what there is of it.
    fn line(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
            if self.carry.len() + bytes.len() > LINE_BYTES_MAX {
                return Err(Violation::TooLong);
            }
            self.carry.extend_from_slice(bytes);
            return Ok(bytes.len());
        };
        if self.carry.is_empty() {
            self.whole_line(&bytes[..end])?;
        } else {
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(&bytes[..end]);
            self.whole_line(&line)?;
            line.clear();
            self.carry = line;
        }
        Ok(end + 1)
    }

    /// `line` is without its line feed.
    fn whole_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let Some(line) = line.strip_suffix(b"\r") else {
            return Err(Violation::BareLineFeed);
        };
        for byte in line {
            match byte {
                b'\r' => return Err(Violation::BareCarriageReturn),
                0 => return Err(Violation::Nul),
                _ => {}
            }
        }
        match self.state {
            // RFC 9112, section 2.2: a blank line before the request line is skipped.
            State::Start if line.is_empty() => Ok(()),
            State::Start => {
                self.framing = request_line(line)?;
                self.state = State::Head;
                Ok(())
            }
            State::Head if line.is_empty() => self.end_of_head(),
            State::Trailers if line.is_empty() => {
                self.state = State::Start;
                Ok(())
            }
            State::Head => self.header(line),
            _ => header_name(line).map(|_| ()),
        }
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Violation> {
        let (name, value) = header_name(line)?;
        let framing = &mut self.framing;
        // Lengths first: they rule out nearly every header.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if framing.host {
                    return Err(Violation::RepeatedHost);
                }
                framing.host = true;
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if framing.content_length.is_some() {
                    return Err(Violation::RepeatedContentLength);
                }
                framing.content_length = Some(decimal(value).ok_or(Violation::BadContentLength)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if framing.chunked {
                    return Err(Violation::RepeatedTransferEncoding);
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::BadTransferEncoding);
                }
                framing.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<(), Violation> {
        let framing = std::mem::take(&mut self.framing);
        self.state = match (framing.chunked, framing.content_length) {
            (true, Some(_)) => return Err(Violation::BothFramings),
            (true, None) if framing.is_10 => return Err(Violation::TransferEncodingOn10),
            _ if framing.connect => State::Tunnel,
            (true, None) => State::ChunkSize { size: 0, digits: 0 },
            (false, Some(length)) if length > 0 => State::Body(length),
            (false, _) => State::Start,
        };
        Ok(())
    }
}

fn take(left: u64, there: usize) -> usize {
    usize::try_from(left).map_or(there, |left| left.min(there))
}

fn request_line(line: &[u8]) -> Result<Framing, Violation> {
    let is_10 = match line {
        [.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'] => false,
        [.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'] => true,
        _ => return Err(Violation::BadRequestLine),
    };
    let mut spaces = line.iter().filter(|b| matches!(b, b' ' | b'\t')).count();
    if line.first() == Some(&b' ') {
        spaces = 0;
    }
    if spaces != 2 {
        return Err(Violation::BadRequestLine);
    }
    Ok(Framing {
        is_10,
        connect: line.starts_with(b"CONNECT "),
        ..Framing::default()
    })
}

/// Name and trimmed value.
fn header_name(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Violation::ObsoleteFolding);
    }
    let colon = line
        .iter()
        .position(|b| *b == b':')
        .ok_or(Violation::BadHeaderLine)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    match name.last() {
        None => Err(Violation::BadHeaderLine),
        Some(b' ' | b'\t') => Err(Violation::SpaceBeforeColon),
        Some(_) => Ok((name, value.trim_ascii())),
    }
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
