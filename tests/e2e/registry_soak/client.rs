//! One client: every call to the registry, and what its answer means for the history.

mod pull;
mod push;

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

    /// Waits until the member that was asked is up again, or may as well not be.
    pub fn wait_up(&self) {
        let until = Instant::now() + LONG;
        while !self.shared.is_up(self.member) && Instant::now() < until && !self.shared.stopped() {
            std::thread::park_timeout(LOOK);
        }
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
}

/// Whether an answer is shorter than it says.
fn cut(method: &str, r: &Response) -> bool {
    let length = r.header("content-length").and_then(|t| t.parse().ok());
    method != "HEAD" && length.is_some_and(|n: usize| n != r.body.len())
}
