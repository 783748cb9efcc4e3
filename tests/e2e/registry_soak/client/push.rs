//! Uploads: every way to send a blob, broken off and taken up again.

use std::io::Write;
use std::net::TcpStream;

use super::*;

/// Pieces of an upload.
const PIECES_MAX: usize = 4;
/// How often a broken upload is taken up again.
const TRIES_MAX: usize = 6;

impl Client {
    /// Sends a blob; `true` if it was accepted.
    pub fn push(&mut self, repository: &Repository, blob: &Blob, way: Way) -> bool {
        let name = &repository.name;
        let bytes = blob.bytes();
        let done = if way == Way::Post {
            self.push_whole(name, &blob.digest, &bytes)
        } else {
            self.push_session(name, blob, &bytes, way)
        };
        if done {
            repository.known().add_blob(blob);
            self.gate("after a blob");
        }
        done
    }

    /// Sends bytes as a blob in one request.
    pub fn push_whole(&self, name: &Name, digest: &Digest, bytes: &[u8]) -> bool {
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let heard = self.ask("POST", &path, &[], bytes);
        self.count("push by one POST", &heard);
        self.refused("a push by one POST was refused", &heard);
        let key = Key::Blob(name.clone(), digest.clone());
        self.wrote(&heard, 201, vec![(key, Act::Set(digest.clone()))])
    }

    fn push_session(&mut self, name: &Name, blob: &Blob, bytes: &[u8], way: Way) -> bool {
        let Some(location) = self.begin(name) else {
            return false;
        };
        self.gate("after an upload began");
        let mut at = 0;
        if way == Way::Resumed && bytes.len() > 3 {
            self.break_off(&location, bytes);
            match self.status(&location, 0) {
                Some(have) => at = have,
                None => return false,
            }
            self.shared.recorder.count("broken off and resumed");
        }
        let last_by_put = way == Way::Put || self.rng.random_bool(0.3);
        let stop = match way {
            Way::Put => 0,
            _ if last_by_put => bytes.len() - bytes.len() / 3,
            _ => bytes.len(),
        };
        let ranged = way != Way::Stream;
        if !self.pieces(&location, bytes, &mut at, stop, ranged) {
            return false;
        }
        self.finish(name, blob, &location, &bytes[at..], at, way)
    }

    /// A new session's location.
    fn begin(&mut self, name: &Name) -> Option<String> {
        let heard = self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[], &[]);
        self.refused("an upload was not begun", &heard);
        match heard.status() {
            202 => heard.header("location"),
            _ => None,
        }
    }

    /// Sends everything from `at` in one PATCH and hangs up in the middle of it.
    fn break_off(&self, location: &str, bytes: &[u8]) {
        let head = format!(
            "PATCH {location} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\ncontent-range: 0-{}\r\n\r\n",
            self.address(),
            bytes.len(),
            bytes.len() - 1
        );
        // Whatever becomes of it: the status tells.
        if let Ok(mut stream) = TcpStream::connect(self.address()) {
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&bytes[..bytes.len() / 2]);
        }
    }

    /// How many bytes a session has; what it said it has it must have, through any crash.
    fn status(&mut self, location: &str, told: usize) -> Option<usize> {
        let until = Instant::now() + LONG;
        loop {
            let heard = self.ask("GET", location, &[], &[]);
            match heard.status() {
                204 => {
                    let range = heard.header("range").unwrap_or_default();
                    let last = range
                        .strip_prefix("0-")
                        .and_then(|t| t.parse::<usize>().ok());
                    let have = match last {
                        Some(0) => 0,
                        Some(last) => last + 1,
                        None => {
                            self.odd("a status without a range", &heard);
                            return None;
                        }
                    };
                    if have < told && told > 1 {
                        self.odd(&format!("a session forgot bytes: it had {told}"), &heard);
                        return None;
                    }
                    return Some(have.max(told.min(1)));
                }
                400..=499 if heard.status() != 429 => {
                    self.odd("an upload session was forgotten", &heard);
                    return None;
                }
                _ if Instant::now() > until || self.shared.stopped() => return None,
                _ => std::thread::park_timeout(LOOK * 5),
            }
        }
    }

    /// Sends bytes from `at` to `stop` in some pieces, going on after whatever breaks.
    fn pieces(
        &mut self,
        location: &str,
        bytes: &[u8],
        at: &mut usize,
        stop: usize,
        ranged: bool,
    ) -> bool {
        let piece = stop / self.rng.random_range(1..=PIECES_MAX) + 1;
        let mut tries = 0;
        while *at < stop {
            let end = (*at + piece).min(stop);
            let range = format!("{}-{}", *at, end - 1);
            let headers: &[(&str, &str)] = match ranged {
                true => &[("content-range", range.as_str())],
                false => &[],
            };
            let heard = self.ask("PATCH", location, headers, &bytes[*at..end]);
            match heard.status() {
                202 => {
                    *at = end;
                    self.gate("between chunks");
                }
                // 416: the PATCH that was broken off was looked at only now.
                status if matches!(status, 0 | 416 | 429) || status >= 500 => {
                    tries += 1;
                    if tries > TRIES_MAX {
                        return false;
                    }
                    match self.status(location, *at) {
                        Some(have) => *at = have,
                        None => return false,
                    }
                    self.shared.recorder.count("resumed after a fault");
                }
                _ => {
                    self.odd("a chunk was refused", &heard);
                    return false;
                }
            }
        }
        true
    }

    fn finish(
        &mut self,
        name: &Name,
        blob: &Blob,
        location: &str,
        rest: &[u8],
        at: usize,
        way: Way,
    ) -> bool {
        let joiner = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{joiner}digest={}", blob.digest);
        let range = format!("{at}-{}", (at + rest.len()).saturating_sub(1));
        let headers: &[(&str, &str)] = match at > 0 && !rest.is_empty() {
            true => &[("content-range", range.as_str())],
            false => &[],
        };
        let key = Key::Blob(name.clone(), blob.digest.clone());
        let acts = vec![(key, Act::Set(blob.digest.clone()))];
        let heard = self.ask("PUT", &path, headers, rest);
        let kind = match way {
            Way::Put => "push by POST and PUT",
            Way::Chunks => "push by chunks",
            Way::Stream => "push by streamed PATCHes",
            Way::Resumed => "push broken off and resumed",
            Way::Post => "push by one POST",
        };
        self.count(kind, &heard);
        self.refused("an upload was not finished", &heard);
        if self.wrote(&heard, 201, acts.clone()) {
            return true;
        }
        if matches!(heard.reply, Reply::Lost) && rest.is_empty() {
            // The client's right: the same last request again. The session may be gone with its work done.
            self.wait_up();
            let again = self.ask("PUT", &path, &[], &[]);
            self.shared.recorder.count("last request repeated");
            return self.wrote(&again, 201, acts);
        }
        false
    }

    /// Begins an upload and gives it up.
    pub fn cancel(&mut self, name: &Name, blob: &Blob) {
        let Some(location) = self.begin(name) else {
            return;
        };
        let bytes = blob.bytes();
        let mut at = 0;
        if !self.pieces(&location, &bytes, &mut at, bytes.len() / 2, true) {
            return;
        }
        let heard = self.ask("DELETE", &location, &[], &[]);
        self.count("cancel an upload", &heard);
        self.refused("an upload was not cancelled", &heard);
    }
}
