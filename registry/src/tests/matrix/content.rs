//! What the names of a case stand for: content made by `let`, and text saved from an answer.
//!
//! | words | content |
//! |---|---|
//! | `text WORDS` | the words, names in them expanded |
//! | `empty` | no byte |
//! | `noise N` | N bytes that are not all alike |
//! | `part NAME A..B` | bytes A to B (exclusive) of another content |
//! | `repeat N WORDS` | the words N times, `#` being the number from 0 |
//! | `image KEY=VALUE ...` | an image manifest: `config layers config-type layer-type urls` and those below |
//! | `index KEY=VALUE ...` | an image index: `of child-type` and those below |
//!
//! Of both: `media` (the `mediaType`, or `none`), `subject`, `artifact`, `note` (`key:value`), `pad` (bytes of an
//! annotation), `extra` (`key:json`). Lists are separated by commas; sizes in descriptors are the true ones.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::parse::is_name;
use crate::digest::{Algorithm, Digest};
use crate::manifest::{OCI_INDEX, OCI_MANIFEST};
use crate::tests::client::noise;

enum Known {
    Content(Bytes),
    Saved(String),
}

/// The names of one case under one algorithm.
pub struct Names {
    algorithm: Algorithm,
    known: BTreeMap<String, Known>,
}

impl Names {
    pub fn new(algorithm: Algorithm) -> Names {
        Names {
            algorithm,
            known: BTreeMap::new(),
        }
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Makes `name` stand for what `words` describe.
    pub fn define(&mut self, name: &str, words: &str) -> Result<(), String> {
        let content = self.content(words)?;
        self.known.insert(name.to_owned(), Known::Content(content));
        Ok(())
    }

    /// Makes `name` stand for a text of an answer.
    pub fn save(&mut self, name: &str, text: String) {
        self.known.insert(name.to_owned(), Known::Saved(text));
    }

    /// The bytes of a name.
    pub fn bytes(&self, name: &str) -> Result<Bytes, String> {
        match self.known.get(name) {
            Some(Known::Content(bytes)) => Ok(bytes.clone()),
            Some(Known::Saved(text)) => Ok(Bytes::from(text.clone())),
            None => Err(format!("nothing is called {name}")),
        }
    }

    /// The digest of a name under the case's algorithm.
    pub fn digest(&self, name: &str) -> Result<Digest, String> {
        Ok(self.algorithm.digest(&self.bytes(name)?))
    }

    /// Replaces `$NAME` by its digest, or by its text if it was saved, and `$NAME.ATTRIBUTE` by
    ///
    /// * `.hex`: the digest without its algorithm, `.enc`: the digest as it stands percent-encoded,
    /// * `.sha256`, `.sha512`: the digest under that algorithm, `.other`: under the one the case does not run with,
    /// * `.size`, `.last`: the length in bytes, and the number of the last byte,
    /// * `.text`: the content itself,
    /// * `.tag`: the tag under which clients keep referrers where the API is missing,
    /// * `.id`: the last segment of a saved path.
    ///
    /// `$ALG` is the algorithm and `$OTHER` the one the case does not run with.
    pub fn expand(&self, text: &str) -> Result<String, String> {
        let mut pieces = text.split('$');
        let mut out = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let end = piece
                .find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit())
                .unwrap_or(piece.len());
            let (name, rest) = piece.split_at(end);
            if !is_name(name) {
                return Err(format!("$ without a name in {text:?}"));
            }
            let (value, rest) = self.value(name, rest)?;
            out.push_str(&value);
            out.push_str(rest);
        }
        Ok(out)
    }

    /// The value of a name, and what stands behind it and its attribute.
    fn value<'a>(&self, name: &str, rest: &'a str) -> Result<(String, &'a str), String> {
        match name {
            "ALG" => return Ok((self.algorithm.name().to_owned(), rest)),
            "OTHER" => return Ok((other(self.algorithm).name().to_owned(), rest)),
            _ => {}
        }
        let bytes = self.bytes(name)?;
        let digest = self.algorithm.digest(&bytes);
        let attributes: [(&str, &dyn Fn() -> String); 10] = [
            (".hex", &|| digest.hex().to_owned()),
            (".enc", &|| digest.to_string().replace(':', "%3A")),
            (".sha256", &|| Algorithm::Sha256.digest(&bytes).to_string()),
            (".sha512", &|| Algorithm::Sha512.digest(&bytes).to_string()),
            (".other", &|| {
                other(self.algorithm).digest(&bytes).to_string()
            }),
            (".size", &|| bytes.len().to_string()),
            (".last", &|| bytes.len().saturating_sub(1).to_string()),
            (".text", &|| String::from_utf8_lossy(&bytes).into_owned()),
            (".tag", &|| {
                let hex: String = digest.hex().chars().take(64).collect();
                format!("{}-{hex}", digest.algorithm().name())
            }),
            (".id", &|| {
                let text = String::from_utf8_lossy(&bytes);
                text.rsplit('/').next().unwrap_or_default().to_owned()
            }),
        ];
        for (attribute, make) in attributes {
            if let Some(rest) = rest.strip_prefix(attribute) {
                return Ok((make(), rest));
            }
        }
        match self.known.get(name) {
            Some(Known::Saved(text)) => Ok((text.clone(), rest)),
            _ => Ok((digest.to_string(), rest)),
        }
    }

    fn content(&self, words: &str) -> Result<Bytes, String> {
        let (kind, rest) = words.split_once(' ').unwrap_or((words, ""));
        let rest = rest.trim();
        let number = |text: &str| {
            let number = text.parse::<usize>();
            number.map_err(|_| format!("{text:?} is not a number"))
        };
        match kind {
            "text" => Ok(Bytes::from(self.expand(rest)?)),
            "empty" if rest.is_empty() => Ok(Bytes::new()),
            "noise" => Ok(Bytes::from(noise(number(rest)?, 7))),
            "part" => {
                let (of, range) = rest.split_once(' ').ok_or("part NAME A..B")?;
                let (from, to) = range.split_once("..").ok_or("part NAME A..B")?;
                let (from, to) = (number(from)?, number(to)?);
                let bytes = self.bytes(of)?;
                if from > to || to > bytes.len() {
                    return Err(format!("{of} has no bytes {range}"));
                }
                Ok(bytes.slice(from..to))
            }
            "repeat" => {
                let (times, words) = rest.split_once(' ').ok_or("repeat N WORDS")?;
                let one = |n: usize| words.replace('#', &n.to_string());
                Ok(Bytes::from(
                    (0..number(times)?).map(one).collect::<String>(),
                ))
            }
            "image" => self.image(rest),
            "index" => self.index(rest),
            _ => Err(format!("{kind:?} is no kind of content")),
        }
    }

    fn descriptor(&self, name: &str, media_type: &str) -> Result<Value, String> {
        let size = self.bytes(name)?.len();
        let digest = self.digest(name)?.to_string();
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": size }))
    }

    fn descriptors(&self, names: &str, media_type: &str) -> Result<Vec<Value>, String> {
        let names = names.split(',').filter(|name| !name.is_empty());
        names
            .map(|name| self.descriptor(name, media_type))
            .collect()
    }

    fn image(&self, words: &str) -> Result<Bytes, String> {
        let mut keys = Keys::parse(words)?;
        let config_type = keys.or("config-type", "application/vnd.example.config.v1+json");
        let layer_type = keys.or("layer-type", "application/vnd.example.layer.v1");
        let config = keys.take("config").ok_or("an image needs config=NAME")?;
        let layers = keys.or("layers", "");
        let mut layers = self.descriptors(&layers, &layer_type)?;
        if let Some(urls) = keys.take("urls") {
            for layer in &mut layers {
                layer["urls"] = json!([urls]);
            }
        }
        let mut manifest = Map::new();
        manifest.insert("config".to_owned(), self.descriptor(&config, &config_type)?);
        manifest.insert("layers".to_owned(), Value::from(layers));
        self.finish(manifest, keys, OCI_MANIFEST)
    }

    fn index(&self, words: &str) -> Result<Bytes, String> {
        let mut keys = Keys::parse(words)?;
        let child_type = keys.or("child-type", OCI_MANIFEST);
        let children = keys.or("of", "");
        let mut index = Map::new();
        let children = self.descriptors(&children, &child_type)?;
        index.insert("manifests".to_owned(), Value::from(children));
        self.finish(index, keys, OCI_INDEX)
    }

    /// The fields an image and an index share. The bytes are deliberately not those a JSON writer would make.
    fn finish(
        &self,
        mut manifest: Map<String, Value>,
        mut keys: Keys,
        media_type: &str,
    ) -> Result<Bytes, String> {
        manifest.insert("schemaVersion".to_owned(), Value::from(2));
        let media_type = keys.or("media", media_type);
        if media_type != "none" {
            manifest.insert("mediaType".to_owned(), Value::from(media_type));
        }
        if let Some(artifact) = keys.take("artifact") {
            manifest.insert("artifactType".to_owned(), Value::from(artifact));
        }
        if let Some(subject) = keys.take("subject") {
            manifest.insert(
                "subject".to_owned(),
                self.descriptor(&subject, OCI_MANIFEST)?,
            );
        }
        let mut annotations = Map::new();
        if let Some(note) = keys.take("note") {
            let (key, value) = note.split_once(':').ok_or("note=KEY:VALUE")?;
            annotations.insert(key.to_owned(), Value::from(value));
        }
        if let Some(pad) = keys.take("pad") {
            let pad = pad.parse().map_err(|_| "pad=NUMBER")?;
            annotations.insert("pad".to_owned(), Value::from("x".repeat(pad)));
        }
        if !annotations.is_empty() {
            manifest.insert("annotations".to_owned(), Value::from(annotations));
        }
        if let Some(extra) = keys.take("extra") {
            let (key, value) = extra.split_once(':').ok_or("extra=KEY:JSON")?;
            let value = serde_json::from_str(value).map_err(|error| error.to_string())?;
            manifest.insert(key.to_owned(), value);
        }
        keys.end()?;
        Ok(Bytes::from(format!(" {}\n\t\n", Value::from(manifest))))
    }
}

fn other(algorithm: Algorithm) -> Algorithm {
    match algorithm {
        Algorithm::Sha256 => Algorithm::Sha512,
        Algorithm::Sha512 => Algorithm::Sha256,
    }
}

/// `KEY=VALUE` pairs, each to be taken once.
struct Keys(BTreeMap<String, String>);

impl Keys {
    fn parse(words: &str) -> Result<Keys, String> {
        let mut keys = BTreeMap::new();
        for pair in words.split_whitespace() {
            let (key, value) = pair.split_once('=').ok_or("KEY=VALUE")?;
            if keys.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(format!("{key} stands twice"));
            }
        }
        Ok(Keys(keys))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    fn or(&mut self, key: &str, default: &str) -> String {
        self.take(key).unwrap_or_else(|| default.to_owned())
    }

    fn end(self) -> Result<(), String> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(key) => Err(format!("{key} is not a key here")),
        }
    }
}
