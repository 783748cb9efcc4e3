//! What is read back, compared with what was pushed.

use super::*;

impl Client {
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
