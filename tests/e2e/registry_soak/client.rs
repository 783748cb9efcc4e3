//! One client: every call to the registry, and what its answer means for the history.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::model::{Act, At, Digest, Key, NEVER, Name, Op, Trouble, Until};
use super::plan::{Blob, Manifest, TAGS, Way, is};
use super::shared::{Repository, Shared};
use crate::harness::cluster::LONG;
use crate::harness::http::{self, Response};

/// Pieces of an upload.
const PIECES_MAX: usize = 4;
/// How often a broken upload is taken up again.
const TRIES_MAX: usize = 6;
/// Passes of the collector that a client waits for between two steps: the first may have begun before.
const GATE_PASSES: u64 = 2;
/// A member that is down makes no pass.
const GATE_WAIT: Duration = Duration::from_secs(4);
/// Between two looks at something.
pub const LOOK: Duration = Duration::from_millis(5);

/// What became of a request.
#[derive(Debug)]
pub enum Reply {
    /// An answer, whole.
    Answer(Response),
    /// It was sent, perhaps in part, and no whole answer came.
    Lost,
    /// It never left.
    NotSent,
}

/// A reply with its interval.
#[derive(Debug)]
pub struct Heard {
    pub member: usize,
    pub call: At,
    pub ret: At,
    pub reply: Reply,
}

impl Heard {
    /// The status, 0 without an answer.
    pub fn status(&self) -> u16 {
        match &self.reply {
            Reply::Answer(r) => r.status,
            _ => 0,
        }
    }

    fn header(&self, name: &str) -> Option<String> {
        match &self.reply {
            Reply::Answer(r) => r.header(name),
            _ => None,
        }
    }

    fn body(&self) -> &[u8] {
        match &self.reply {
            Reply::Answer(r) => &r.body,
            _ => &[],
        }
    }

    /// Whether a write that got this reply may have happened although nothing says so, and until when.
    fn unsure(&self) -> Option<At> {
        match &self.reply {
            Reply::Lost => Some(NEVER),
            // The log may still carry it out.
            Reply::Answer(r) if r.status == 503 => Some(NEVER),
            Reply::Answer(r) if r.status >= 500 => Some(self.ret),
            _ => None,
        }
    }
}

/// How a manifest was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    Yes,
    /// These are not there.
    Missing(Vec<Digest>),
    /// No answer, or a refusal for a fault.
    No,
}

/// A client of one member at a time.
pub struct Client {
    pub rng: StdRng,
    pub shared: Arc<Shared>,
    pub member: usize,
}

impl Client {
    pub fn new(shared: &Arc<Shared>, seed: u64, member: usize) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            shared: shared.clone(),
            member,
        }
    }

    /// Another client, as far along as this one.
    pub fn fork(&mut self) -> Self {
        Self::new(&self.shared, self.rng.random(), self.member)
    }

    /// One request.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Heard {
        let recorder = &self.shared.recorder;
        let call = recorder.now();
        let sent = http::send(self.address(), method, path, headers, body);
        let ret = recorder.now();
        let (reply, trouble) = match sent {
            Ok(r) if cut(method, &r) => (Reply::Lost, Some("the answer was cut".to_string())),
            Ok(r) => {
                let trouble = (r.status >= 500).then(|| format!("{} {}", r.status, r.text()));
                (Reply::Answer(r), trouble)
            }
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                (Reply::NotSent, Some(e.to_string()))
            }
            Err(e) => (Reply::Lost, Some(e.to_string())),
        };
        let member = self.member;
        if let Some(why) = trouble {
            let what = format!("{method} {path}: {why}");
            recorder.trouble(Trouble {
                member,
                call,
                ret,
                what,
            });
        }
        Heard {
            member,
            call,
            ret,
            reply,
        }
    }

    fn address(&self) -> &str {
        &self.shared.addresses[self.member]
    }

    /// Counts an operation that left.
    fn count(&self, kind: &str, heard: &Heard) {
        if !matches!(heard.reply, Reply::NotSent) {
            self.shared.recorder.count(&format!("op:{kind}"));
        }
    }

    fn note(&self, heard: &Heard, key: Key, act: Act) {
        let op = Op {
            member: heard.member,
            call: heard.call,
            ret: heard.ret,
            sure: true,
            act,
        };
        self.shared.recorder.op(key, op);
    }

    /// Writes down what a write did or may have done; `true` if the answer has the wanted status.
    fn wrote(&self, heard: &Heard, wanted: u16, acts: Vec<(Key, Act)>) -> bool {
        let sure = heard.status() == wanted;
        let ret = match heard.unsure() {
            Some(ret) => ret,
            None if sure => heard.ret,
            None => return false,
        };
        for (key, act) in acts {
            // A promise that nobody heard is none.
            if !sure && matches!(act, Act::Keep(_)) {
                continue;
            }
            let (member, call) = (heard.member, heard.call);
            let op = Op {
                member,
                call,
                ret,
                sure,
                act,
            };
            self.shared.recorder.op(key, op);
        }
        sure
    }

    /// An answer that this request never gets from a sound registry.
    fn odd(&self, what: &str, heard: &Heard) {
        let text = match &heard.reply {
            Reply::Answer(r) => format!("{} {}", r.head, r.text()),
            other => format!("{other:?}"),
        };
        let place = format!("member {}, {} to {}", heard.member, heard.call, heard.ret);
        self.shared
            .recorder
            .odd(format!("{what} ({place}): {text}"));
    }

    /// Refusals that may come at any time: too busy.
    fn refused(&self, what: &str, heard: &Heard) {
        if matches!(heard.status(), 300..=499) && heard.status() != 429 {
            self.odd(what, heard);
        }
    }

    /// Now and then waits until the collector has been through everything since the step before.
    pub fn gate(&mut self, step: &str) {
        if self.rng.random_bool(self.shared.gates) {
            let from = self.shared.passes.of(self.member);
            let until = Instant::now() + GATE_WAIT;
            while self.shared.passes.of(self.member) < from + GATE_PASSES {
                if Instant::now() > until || self.shared.stopped() {
                    return;
                }
                std::thread::park_timeout(LOOK);
            }
            self.shared.recorder.count(&format!("gate:{step}"));
        }
    }

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

    /// Waits until the member that was asked is up again, or may as well not be.
    pub fn wait_up(&self) {
        let until = Instant::now() + LONG;
        while !self.shared.is_up(self.member) && Instant::now() < until && !self.shared.stopped() {
            std::thread::park_timeout(LOOK);
        }
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

    /// Mounts a blob; `true` if it was there.
    pub fn mount(&mut self, repository: &Repository, from: &Name, blob: &Blob) -> bool {
        let (name, digest) = (&repository.name, &blob.digest);
        let path = format!("/v2/{name}/blobs/uploads/?mount={digest}&from={from}");
        let heard = self.ask("POST", &path, &[], &[]);
        self.count("mount", &heard);
        self.refused("a mount was refused", &heard);
        if heard.status() == 202 {
            // An upload instead: the other repository does not have it.
            self.note(&heard, Key::Blob(from.clone(), digest.clone()), Act::Missed);
            if let Some(location) = heard.header("location") {
                self.ask("DELETE", &location, &[], &[]);
            }
            return false;
        }
        let key = Key::Blob(name.clone(), digest.clone());
        let done = self.wrote(&heard, 201, vec![(key, Act::Set(digest.clone()))]);
        if done {
            repository.known().add_blob(blob);
            self.gate("after a mount");
        }
        done
    }

    /// Asks whether a blob is there, which is a promise that it stays for a while.
    pub fn head(&mut self, repository: &Repository, blob: &Blob) -> Option<bool> {
        let (name, digest) = (&repository.name, &blob.digest);
        let heard = self.ask("HEAD", &format!("/v2/{name}/blobs/{digest}"), &[], &[]);
        self.count("HEAD a blob", &heard);
        let key = Key::Blob(name.clone(), digest.clone());
        match heard.status() {
            200 => {
                let length = heard.header("content-length").and_then(|t| t.parse().ok());
                if length != Some(blob.len) {
                    self.odd("HEAD with another length", &heard);
                }
                let until = Until::At(heard.call.saturating_add(self.shared.promise()));
                self.note(&heard, key.clone(), Act::Saw(digest.clone()));
                self.note(&heard, key, Act::Keep(until));
                self.gate("after a HEAD");
                Some(true)
            }
            404 => {
                self.note(&heard, key, Act::Missed);
                Some(false)
            }
            _ => {
                self.refused("HEAD was refused", &heard);
                None
            }
        }
    }

    /// Pulls a blob and compares it.
    pub fn pull_blob(&self, name: &Name, digest: &Digest) -> Option<bool> {
        let heard = self.ask("GET", &format!("/v2/{name}/blobs/{digest}"), &[], &[]);
        self.count("pull a blob", &heard);
        let key = Key::Blob(name.clone(), digest.clone());
        match heard.status() {
            200 => {
                self.note(&heard, key, Act::Saw(digest.clone()));
                Some(self.compare(&heard, digest, is(heard.body(), digest), Act::Wrong))
            }
            404 => {
                self.note(&heard, key, Act::Missed);
                Some(false)
            }
            _ => {
                self.refused("a blob was refused", &heard);
                None
            }
        }
    }

    /// Writes down wrong bytes; answers whether they are right.
    fn compare(
        &self,
        heard: &Heard,
        digest: &Digest,
        right: bool,
        wrong: fn(String) -> Act,
    ) -> bool {
        if !right {
            let text = format!("{} bytes that are not of {digest}", heard.body().len());
            self.note(heard, Key::Copy(heard.member, digest.clone()), wrong(text));
            self.shared.recorder.count("wrong bytes found by a client");
        }
        right
    }

    /// Pulls a part of a blob.
    pub fn pull_range(&mut self, name: &Name, blob: &Blob) {
        if blob.len < 2 {
            return;
        }
        let from = self.rng.random_range(0..blob.len);
        let to = self.rng.random_range(from..blob.len);
        let range = format!("bytes={from}-{to}");
        let path = format!("/v2/{name}/blobs/{}", blob.digest);
        let heard = self.ask("GET", &path, &[("range", range.as_str())], &[]);
        self.count("pull a range", &heard);
        let key = Key::Blob(name.clone(), blob.digest.clone());
        match heard.status() {
            206 => {
                self.note(&heard, key, Act::Saw(blob.digest.clone()));
                let right = heard.body() == &blob.bytes()[from..=to];
                self.compare(&heard, &blob.digest, right, Act::Part);
            }
            200 => self.odd("a range was answered with everything", &heard),
            404 => self.note(&heard, key, Act::Missed),
            _ => self.refused("a range was refused", &heard),
        }
    }

    /// Pulls a manifest by tag or digest; the digest that came, with its bytes, if they are right.
    pub fn pull_manifest(&self, name: &Name, reference: &str) -> Option<(Digest, Vec<u8>)> {
        let path = format!("/v2/{name}/manifests/{reference}");
        let heard = self.ask("GET", &path, &[("accept", "*/*")], &[]);
        let by_digest = reference.contains(':');
        let (kind, key) = match by_digest {
            true => (
                "pull a manifest by digest",
                Key::Manifest(name.clone(), reference.into()),
            ),
            false => (
                "pull a manifest by tag",
                Key::Tag(name.clone(), reference.into()),
            ),
        };
        self.count(kind, &heard);
        match heard.status() {
            200 => {
                let digest: Digest = heard.header("docker-content-digest")?.into();
                if by_digest && *digest != *reference {
                    self.odd("another manifest than the one asked for", &heard);
                    return None;
                }
                self.note(&heard, key, Act::Saw(digest.clone()));
                let right = is(heard.body(), &digest);
                self.compare(&heard, &digest, right, Act::Torn)
                    .then(|| (digest, heard.body().to_vec()))
            }
            404 => {
                self.note(&heard, key, Act::Missed);
                None
            }
            _ => {
                self.refused("a manifest was refused", &heard);
                None
            }
        }
    }

    /// Pushes a manifest under its digest or these tags.
    pub fn put_manifest(
        &mut self,
        repository: &Repository,
        manifest: &Manifest,
        tags: &[Name],
    ) -> Taken {
        let (name, digest) = (&repository.name, &manifest.digest);
        let (path, kind) = match tags {
            [] => (digest.to_string(), "push a manifest by digest"),
            [tag] => (tag.to_string(), "push a manifest by tag"),
            many => {
                let query: Vec<String> = many.iter().map(|t| format!("tag={t}")).collect();
                (
                    format!("{digest}?{}", query.join("&")),
                    "push a manifest with tags",
                )
            }
        };
        let path = format!("/v2/{name}/manifests/{path}");
        let headers = [("content-type", manifest.media_type)];
        let heard = self.ask("PUT", &path, &headers, &manifest.body);
        self.count(kind, &heard);
        let key = Key::Manifest(name.clone(), digest.clone());
        let mut acts = vec![(key, Act::Set(digest.clone()))];
        for tag in tags {
            let key = Key::Tag(name.clone(), tag.clone());
            acts.push((key, Act::Set(digest.clone())));
        }
        for blob in &manifest.blobs {
            let key = Key::Blob(name.clone(), blob.digest.clone());
            acts.push((key, Act::Keep(Until::Manifest(digest.clone()))));
        }
        if self.wrote(&heard, 201, acts) {
            let subject = heard.header("oci-subject");
            if heard.header("docker-content-digest").as_deref() != Some(&**digest)
                || subject.as_deref() != manifest.subject.as_deref()
            {
                self.odd("a manifest was taken for another one", &heard);
            }
            repository.known().add_manifest(manifest);
            self.gate("after a manifest");
            return Taken::Yes;
        }
        if heard.unsure().is_some() {
            repository.known().add_manifest(manifest);
        }
        let value: Value = serde_json::from_slice(heard.body()).unwrap_or_default();
        let error = &value["errors"][0];
        if error["code"] != "MANIFEST_BLOB_UNKNOWN" {
            self.refused("a manifest was not taken", &heard);
            return Taken::No;
        }
        self.shared
            .recorder
            .count("manifest refused for what is missing");
        let missing = error["detail"]["missing"].as_array().into_iter().flatten();
        let missing: Vec<Digest> = missing.filter_map(|d| Some(d.as_str()?.into())).collect();
        if missing.is_empty() {
            self.odd("nothing is missing", &heard);
        }
        for digest in &missing {
            let key = match manifest.children.contains(digest) {
                true => Key::Manifest(name.clone(), digest.clone()),
                false => Key::Blob(name.clone(), digest.clone()),
            };
            self.note(&heard, key, Act::Missed);
        }
        Taken::Missing(missing)
    }

    /// Deletes a tag.
    pub fn delete_tag(&mut self, name: &Name, tag: &Name) {
        let heard = self.ask("DELETE", &format!("/v2/{name}/manifests/{tag}"), &[], &[]);
        self.count("delete a tag", &heard);
        let key = Key::Tag(name.clone(), tag.clone());
        match heard.status() {
            404 => self.note(&heard, key, Act::Missed),
            _ => {
                self.refused("a tag was not deleted", &heard);
                self.wrote(&heard, 202, vec![(key, Act::Unset)]);
            }
        }
        self.gate("after a deletion");
    }

    /// Deletes a manifest and with it every tag that names it.
    pub fn delete_manifest(&mut self, repository: &Repository, digest: &Digest) {
        let name = &repository.name;
        repository.known().drop_manifest(digest);
        let path = format!("/v2/{name}/manifests/{digest}");
        let heard = self.ask("DELETE", &path, &[], &[]);
        self.count("delete a manifest", &heard);
        let key = Key::Manifest(name.clone(), digest.clone());
        if heard.status() == 404 {
            self.note(&heard, key, Act::Missed);
            return;
        }
        self.refused("a manifest was not deleted", &heard);
        let mut acts = vec![(key, Act::Unset)];
        for tag in TAGS {
            let key = Key::Tag(name.clone(), tag.into());
            acts.push((key, Act::UnsetIf(digest.clone())));
        }
        self.wrote(&heard, 202, acts);
        self.gate("after a deletion");
    }

    /// Deletes a blob from a repository.
    pub fn delete_blob(&mut self, repository: &Repository, digest: &Digest) {
        let name = &repository.name;
        repository.known().drop_blob(digest);
        let heard = self.ask("DELETE", &format!("/v2/{name}/blobs/{digest}"), &[], &[]);
        self.count("delete a blob", &heard);
        let key = Key::Blob(name.clone(), digest.clone());
        match heard.status() {
            404 => self.note(&heard, key, Act::Missed),
            _ => {
                self.refused("a blob was not deleted", &heard);
                self.wrote(&heard, 202, vec![(key, Act::Unset)]);
            }
        }
        self.gate("after a deletion");
    }

    /// Who refers to a manifest: everyone who was accepted, nobody who was deleted.
    pub fn referrers(&mut self, repository: &Repository, subject: &Digest) {
        let name = &repository.name;
        let known = repository.known().referrers_of(subject);
        let path = format!("/v2/{name}/referrers/{subject}");
        let heard = self.ask("GET", &path, &[], &[]);
        self.count("list referrers", &heard);
        if heard.status() != 200 {
            self.refused("referrers were not listed", &heard);
            return;
        }
        let value: Value = serde_json::from_slice(heard.body()).unwrap_or_default();
        let Some(list) = value["manifests"].as_array() else {
            self.odd("referrers that are no index", &heard);
            return;
        };
        let listed: Vec<Digest> = list
            .iter()
            .filter_map(|m| Some(m["digest"].as_str()?.into()))
            .collect();
        for digest in &listed {
            let key = Key::Manifest(name.clone(), digest.clone());
            self.note(&heard, key, Act::Saw(digest.clone()));
        }
        for digest in known.iter().filter(|d| !listed.contains(d)) {
            let key = Key::Manifest(name.clone(), digest.clone());
            self.note(&heard, key, Act::Missed);
        }
    }
}

/// Whether an answer is shorter than it says.
fn cut(method: &str, r: &Response) -> bool {
    let length = r.header("content-length").and_then(|t| t.parse().ok());
    method != "HEAD" && length.is_some_and(|n: usize| n != r.body.len())
}
