//! Runs a case: against a registry of its own, over one kind of blob store, with one digest algorithm.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use serde_json::Value;

use super::content::Names;
use super::parse::{Case, Check, Request, Row, Step, Text};
use super::sound::sound;
use crate::BoxFuture;
use crate::authorise::{Access, Authorise, Verdict};
use crate::blobs::{disk, memory};
use crate::digest::Algorithm;
use crate::limits::Limits;
use crate::manifest::OCI_MANIFEST;
use crate::meta::{self, Change, Precondition, Write};
use crate::rows::REFERRERS;
use crate::tests::client::{Reply, Rig, TestClock};

/// Where blobs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Memory,
    Disk,
}

/// What a case runs under.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub kind: Kind,
    pub algorithm: Algorithm,
}

impl Setting {
    /// Each store with each algorithm.
    pub fn every() -> Vec<Setting> {
        let mut all = Vec::new();
        for kind in [Kind::Memory, Kind::Disk] {
            for algorithm in Algorithm::ALL {
                all.push(Setting { kind, algorithm });
            }
        }
        all
    }
}

/// A request as it was sent.
pub struct Asked {
    pub method: String,
    pub target: String,
}

/// Something that spoils answers on their way to the checks.
pub type Mangle = fn(&Asked, &mut Reply);

/// What went wrong, and where.
#[derive(Debug)]
pub struct Failure {
    pub line: usize,
    pub what: String,
    /// In a row, not in what is given before it.
    pub row: bool,
}

/// An authoriser that a row can tell what to say.
///
/// `test-verdict: deny` and `challenge` refuse everything, `test-hidden: NAME` refuses to read that repository.
struct ByHeader;

impl Authorise for ByHeader {
    fn authorise<'a>(&'a self, access: Access<'a>) -> BoxFuture<'a, Verdict> {
        let told = |name: &str| {
            let value = access.headers.get(name);
            value.map_or("", |value| value.to_str().unwrap())
        };
        let hidden = told("test-hidden");
        let verdict = match told("test-verdict") {
            "deny" => Verdict::Deny("this is not for you".to_owned()),
            "challenge" => Verdict::Challenge(format!(
                "Bearer realm=\"https://auth.example/token\",service=\"r\",scope=\"repository:{}:pull\"",
                access.repository.map_or("", |name| name.as_str())
            )),
            _ if access
                .repository
                .is_some_and(|name| name.as_str() == hidden) =>
            {
                Verdict::Deny("this repository is not for you".to_owned())
            }
            _ => Verdict::Allow,
        };
        Box::pin(std::future::ready(verdict))
    }
}

async fn rig(kind: Kind, limits: Limits) -> Rig {
    let clock = TestClock::new();
    let meta = Arc::new(meta::memory::Memory::new());
    match kind {
        Kind::Memory => {
            let blobs = Arc::new(memory::Memory::new(clock.clone()));
            Rig::over(blobs, meta, clock, limits, Arc::new(ByHeader)).await
        }
        Kind::Disk => {
            let dir = tempfile::tempdir().unwrap();
            let blobs = Arc::new(disk::open(dir.path()).unwrap());
            let mut rig = Rig::over(blobs, meta, clock, limits, Arc::new(ByHeader)).await;
            rig.dir = Some(Arc::new(dir));
            rig
        }
    }
}

fn limits(case: &Case) -> Result<Limits, String> {
    let mut limits = Limits::default();
    for (key, value) in &case.limits {
        match key.as_str() {
            "manifest" => limits.manifest_bytes_max = *value,
            "blob" => limits.blob_bytes_max = *value,
            "uploads" => limits.uploads_max = usize::try_from(*value).unwrap_or(usize::MAX),
            _ => return Err(format!("{key} is not a limit")),
        }
    }
    Ok(limits)
}

/// Runs a case up to its first failure.
pub async fn run(case: &Case, setting: Setting, mangle: Option<Mangle>) -> Result<(), Failure> {
    let given = |line: usize, what: String| Failure {
        line,
        what,
        row: false,
    };
    let limits = limits(case).map_err(|what| given(case.line, what))?;
    let mut story = Story {
        rig: rig(setting.kind, limits).await,
        names: Names::new(setting.algorithm),
        mangle,
    };
    for (line, step) in &case.steps {
        let done = match step {
            Step::Row(row) => {
                let done = story.row(row).await;
                done.map_err(|what| Failure {
                    line: *line,
                    what,
                    row: true,
                })
            }
            other => story.given(other).await.map_err(|what| given(*line, what)),
        };
        done?;
    }
    Ok(())
}

struct Story {
    rig: Rig,
    names: Names,
    mangle: Option<Mangle>,
}

impl Story {
    async fn given(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Let { name, words } => self.names.define(name, words),
            Step::Blob { name, repository } => {
                let uri = format!(
                    "/v2/{repository}/blobs/uploads/?digest={}",
                    self.names.digest(name)?
                );
                let bytes = self.names.bytes(name)?;
                let reply = self.rig.send("POST", &uri, &[], bytes).await;
                created(&reply, 201)
            }
            Step::Manifest {
                name,
                repository,
                tag,
            } => {
                let digest = self.names.digest(name)?;
                let tag = tag
                    .as_ref()
                    .map_or(String::new(), |tag| format!("?tag={tag}"));
                let tag = self.names.expand(&tag)?;
                let uri = format!("/v2/{repository}/manifests/{digest}{tag}");
                let bytes = self.names.bytes(name)?;
                let own: Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
                let media_type = own["mediaType"].as_str().unwrap_or(OCI_MANIFEST);
                let header = [("content-type", media_type)];
                created(&self.rig.send("PUT", &uri, &header, bytes).await, 201)
            }
            Step::Session { name, repository } => {
                let uri = format!("/v2/{repository}/blobs/uploads/");
                let reply = self.rig.send("POST", &uri, &[], Body::empty()).await;
                created(&reply, 202)?;
                let location = reply.header("location").to_owned();
                self.names.save(name, location);
                Ok(())
            }
            Step::Act(words) => self.act(words).await,
            Step::Row(_) => Err("a row is not given".to_owned()),
        }
    }

    /// Things that are no requests:
    ///
    /// * `restart`: a new process over the same stores;
    /// * `expire`: a day and a minute pass, and the sweep of idle uploads runs;
    /// * `forget referrers`: the manifests look as if they had been pushed before there was a referrers API.
    async fn act(&mut self, words: &str) -> Result<(), String> {
        match words {
            "restart" => {
                let old = &self.rig;
                let mut rig = Rig::over(
                    old.blobs.clone(),
                    old.meta.clone(),
                    old.clock.clone(),
                    old.limits.clone(),
                    Arc::new(ByHeader),
                )
                .await;
                rig.dir = old.dir.clone();
                self.rig = rig;
                Ok(())
            }
            "expire" => {
                let idle_ms = self.rig.limits.upload_age_ms_max + 60_000;
                let now = self.rig.clock.advance(idle_ms);
                let done = self.rig.registry.expire_uploads(now).await;
                done.map(|_| ()).map_err(|error| error.to_string())
            }
            "forget referrers" => {
                let meta = &self.rig.meta;
                let rows = meta.list(REFERRERS, "", None, 1_000).await;
                let rows = rows.map_err(|error| error.to_string())?;
                if rows.is_empty() {
                    return Err("there is nothing to forget".to_owned());
                }
                let write = |(key, _)| Write {
                    table: REFERRERS,
                    key,
                    precondition: Precondition::Any,
                    change: Change::Delete,
                };
                let done = meta.batch(rows.into_iter().map(write).collect()).await;
                done.map_err(|error| error.to_string())
            }
            _ => Err(format!("nobody knows how to {words}")),
        }
    }

    fn text(&self, text: &Text) -> Result<Bytes, String> {
        match text {
            Text::Of(name) => self.names.bytes(name),
            Text::Words(words) => Ok(Bytes::from(self.names.expand(words)?)),
        }
    }

    async fn row(&mut self, row: &Row) -> Result<(), String> {
        let (asked, mut reply) = self.ask(&row.request).await?;
        if let Some(mangle) = self.mangle {
            mangle(&asked, &mut reply);
        }
        let checked = self.check(row, &asked, &reply);
        checked.map_err(|what| {
            let body: String = String::from_utf8_lossy(&reply.body)
                .chars()
                .take(400)
                .collect();
            format!(
                "[{}] {} {}: {what}; the answer is {} {:?} {body:?}",
                row.reference, asked.method, asked.target, reply.status, reply.headers
            )
        })
    }

    async fn ask(&self, request: &Request) -> Result<(Asked, Reply), String> {
        let target = self.names.expand(&request.target)?;
        let mut headers = Vec::new();
        for (key, value) in &request.headers {
            headers.push((key.clone(), self.names.expand(value)?));
        }
        let body = match &request.body {
            Some(text) => self.text(text)?,
            None => Bytes::new(),
        };
        let has = |name: &str| headers.iter().any(|(key, _)| key == name);
        let sends =
            request.body.is_some() || matches!(request.method.as_str(), "POST" | "PUT" | "PATCH");
        if sends && !has("content-length") && !has("transfer-encoding") {
            headers.push(("content-length".to_owned(), body.len().to_string()));
        }
        let pairs: Vec<(&str, &str)> = headers
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let reply = self.rig.send(&request.method, &target, &pairs, body).await;
        let asked = Asked {
            method: request.method.clone(),
            target,
        };
        Ok((asked, reply))
    }

    fn check(&mut self, row: &Row, asked: &Asked, reply: &Reply) -> Result<(), String> {
        if reply.status.as_u16() != row.status {
            return Err(format!("the status is not {}", row.status));
        }
        sound(asked, reply)?;
        for check in &row.checks {
            self.one(check, reply)?;
        }
        Ok(())
    }

    fn one(&mut self, check: &Check, reply: &Reply) -> Result<(), String> {
        let expand = |text: &str| self.names.expand(text);
        match check {
            Check::Header(key, want) => {
                let got = reply.headers.get_all(key).iter().count();
                same(key, &expand(want)?, reply.header(key))?;
                same(&format!("times that {key} stands"), &1_usize, &got)
            }
            Check::Like(key, pattern) => {
                let pattern = expand(pattern)?;
                if reply.headers.contains_key(key) && like(&pattern, reply.header(key)) {
                    Ok(())
                } else {
                    Err(format!("{key} is not like {pattern}"))
                }
            }
            Check::Without(key) => match reply.headers.get(key) {
                None => Ok(()),
                Some(_) => Err(format!("{key} is there")),
            },
            Check::All(key, want) => {
                let mut want = want
                    .iter()
                    .map(|v| expand(v))
                    .collect::<Result<Vec<_>, _>>()?;
                want.sort();
                let got = reply.headers.get_all(key).iter();
                let mut got: Vec<String> = got
                    .map(|v| v.to_str().unwrap_or_default().to_owned())
                    .collect();
                got.sort();
                same(key, &want, &got)
            }
            Check::Code(code) => {
                let body = json(reply)?;
                let errors = body["errors"].as_array().map_or(0, Vec::len);
                same("number of errors", &1_usize, &errors)?;
                same(
                    "code",
                    code,
                    body["errors"][0]["code"].as_str().unwrap_or_default(),
                )
            }
            Check::Empty => same("length of the body", &0_usize, &reply.body.len()),
            Check::Body(text) => {
                let want = self.text(text)?;
                if want == reply.body {
                    Ok(())
                } else {
                    Err(format!("the body is not the {} bytes expected", want.len()))
                }
            }
            Check::Json(pointer, want) => {
                let body = json(reply)?;
                self.pointed(&body, pointer, want.as_deref())
            }
            Check::Digests(want) => {
                let mut want = want
                    .iter()
                    .map(|v| expand(v))
                    .collect::<Result<Vec<_>, _>>()?;
                want.sort();
                let body = json(reply)?;
                let listed = body["manifests"].as_array().ok_or("no manifests")?;
                let mut got: Vec<String> = listed
                    .iter()
                    .map(|entry| entry["digest"].as_str().unwrap_or_default().to_owned())
                    .collect();
                got.sort();
                same("digests", &want, &got)
            }
            Check::Entry(digest, pointer, want) => {
                let digest = expand(digest)?;
                let body = json(reply)?;
                let listed = body["manifests"].as_array().ok_or("no manifests")?;
                let entry = listed
                    .iter()
                    .find(|entry| entry["digest"] == digest.as_str());
                let entry = entry.ok_or_else(|| format!("{digest} is not listed"))?;
                self.pointed(entry, pointer, want.as_deref())
            }
            Check::Save(name, key) => {
                let mut value = reply.header(key);
                if value.is_empty() {
                    return Err(format!("there is no {key}"));
                }
                if key == "link" {
                    let target = value
                        .strip_prefix('<')
                        .and_then(|rest| rest.split_once('>'));
                    value = target.ok_or("Link is not <target>")?.0;
                }
                let value = value.to_owned();
                self.names.save(name, value);
                Ok(())
            }
        }
    }

    fn pointed(&self, body: &Value, pointer: &str, want: Option<&str>) -> Result<(), String> {
        let got = body.pointer(pointer);
        let Some(want) = want else {
            return match got {
                None => Ok(()),
                Some(_) => Err(format!("{pointer} is there")),
            };
        };
        let want = self.names.expand(want)?;
        let want: Value = serde_json::from_str(&want).map_err(|e| format!("{want}: {e}"))?;
        same(pointer, &want, got.unwrap_or(&Value::Null))
    }
}

fn created(reply: &Reply, status: u16) -> Result<(), String> {
    if reply.status.as_u16() == status {
        Ok(())
    } else {
        Err(format!("what is given was refused: {reply:?}"))
    }
}

fn json(reply: &Reply) -> Result<Value, String> {
    serde_json::from_slice(&reply.body).map_err(|e| format!("the body is not JSON: {e}"))
}

fn same<A: PartialEq<B> + std::fmt::Debug + ?Sized, B: std::fmt::Debug + ?Sized>(
    what: &str,
    want: &A,
    got: &B,
) -> Result<(), String> {
    if want == got {
        Ok(())
    } else {
        Err(format!("{what} should be {want:?} and is {got:?}"))
    }
}

/// Does `text` match a pattern in which `*` is any text?
pub fn like(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(rest) = text.strip_prefix(head) else {
        return false;
    };
    let mut starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    starts.any(|at| like(tail, &rest[at..]))
}
