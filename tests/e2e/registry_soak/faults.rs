//! What goes wrong, one fault at a time, on one member at a time, while all clients go on.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::client::{Client, LOOK, Taken};
use super::member::Member;
use super::model::{Act, At, Digest, Key, Name, Op};
use super::plan::{Blob, Fault, Manifest, Planned, Step, one};
use super::shared::{Repository, Shared};
use crate::harness::cluster::LONG;
use crate::harness::program::wait_for;

/// Time that a step of a push is held up, so that the kill meets it.
const HOLD_MS: u32 = 400;
/// How long a step of a push is waited for: clients push all the time.
const STEP_WAIT: Duration = Duration::from_secs(8);
/// A full disk stays full a little longer than its first refusal.
const FULL_LASTS: Duration = Duration::from_millis(150);
/// Operations that the other members answer while one is down.
const OPERATIONS_DURING: u64 = 10;
/// After a fault is over its last effects may still arrive: requests under way, an election.
const GRACE: Duration = Duration::from_secs(3);
/// Files looked at for one turned bit.
const TARGETS_MAX: usize = 50;

/// The members and whoever spoils them.
pub struct Nemesis {
    pub shared: Arc<Shared>,
    pub members: Vec<Member>,
    pub rng: StdRng,
}

/// What a bit was turned in.
enum Target {
    Blob(Blob),
    Manifest(Manifest),
}

impl Target {
    fn digest(&self) -> &Digest {
        match self {
            Target::Blob(b) => &b.digest,
            Target::Manifest(m) => &m.digest,
        }
    }

    fn len(&self) -> usize {
        match self {
            Target::Blob(b) => b.len,
            Target::Manifest(m) => m.body.len(),
        }
    }
}

impl Nemesis {
    /// Does one fault from its beginning to its end, and counts it if it happened.
    #[track_caller]
    pub fn act(&mut self, planned: Planned) {
        let member = planned.member % self.members.len();
        let from = self.shared.recorder.now();
        match planned.fault {
            Fault::Kill => self.kill(member, planned.step),
            Fault::Full => self.full(member, planned.step),
            Fault::Flip => self.flip(member),
        }
        let recorder = &self.shared.recorder;
        let grace = At::try_from(GRACE.as_nanos()).unwrap_or(0);
        recorder.fault(from, recorder.now().saturating_add(grace));
        for m in &mut self.members {
            assert!(m.running(), "a member ended by itself:\n{}", m.tail());
        }
    }

    fn count(&self, kind: &str, detail: &str) {
        self.shared.recorder.count(&format!("fault:{kind}"));
        self.shared.recorder.count(&format!("{kind} {detail}"));
    }

    /// Waits until the disk of a member has spoilt more calls than before.
    fn fired(&self, member: usize, before: usize, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.members[member].disk.fired() <= before {
            if Instant::now() > until {
                return false;
            }
            std::thread::park_timeout(LOOK);
        }
        true
    }

    /// SIGKILL, if need be exactly while a push is at `step`; then the member comes back.
    #[track_caller]
    fn kill(&mut self, member: usize, step: Option<Step>) {
        let mut met = "at any time".to_string();
        if let Some(Step { call, path }) = step {
            let disk = &self.members[member].disk;
            let before = disk.fired();
            disk.does(&format!("call={call} path={path} delay_ms={HOLD_MS}"));
            if self.fired(member, before, STEP_WAIT) {
                met = format!("before {call} in {path}");
            }
        }
        self.shared.set_up(member, false);
        self.members[member].kill9();
        let recorder = &self.shared.recorder;
        recorder.kill(member, recorder.now());
        self.members[member].disk.well();
        if self.members.len() > 1 {
            self.work_goes_on(OPERATIONS_DURING);
        }
        self.members[member].spawn(&[]);
        self.members[member].ready();
        self.shared.set_up(member, true);
        self.count("kill -9", &met);
    }

    /// No space, at one step of a push.
    fn full(&mut self, member: usize, step: Option<Step>) {
        let any = Step {
            call: "any",
            path: "/registry/",
        };
        let Step { call, path } = step.unwrap_or(any);
        let times = self.rng.random_range(1..=3);
        let disk = &self.members[member].disk;
        let before = disk.fired();
        disk.does(&format!(
            "call={call} path={path} errno=ENOSPC times={times}"
        ));
        if self.fired(member, before, STEP_WAIT) {
            // The rest of the calls, if they come.
            self.fired(member, before + times - 1, FULL_LASTS);
            self.count("disk full", &format!("at {call} in {path}"));
        }
        self.members[member].disk.well();
    }

    /// One bit of one stored file is turned. The client that meets it finds it by the digest, the others' members have
    /// it as it was, and pushing it again heals it.
    #[track_caller]
    fn flip(&mut self, member: usize) {
        let shared = self.shared.clone();
        let Some((repository, target)) = self.turn(&shared, member) else {
            return;
        };
        let (name, digest) = (&repository.name, target.digest().clone());
        let mut client = Client::new(&shared, self.rng.random(), member);
        let there = read(&client, name, &target);
        self.count(
            "bit flip",
            match there {
                Some(true) => "served right",
                Some(false) => "found by the client or not served",
                None => "refused",
            },
        );
        for other in (0..self.members.len()).filter(|o| *o != member) {
            client.member = other;
            read(&client, name, &target);
        }
        client.member = member;
        let (call, ret) = wait_for("a push that heals", LONG, || {
            let call = shared.recorder.now();
            let done = match &target {
                Target::Blob(blob) => client.push_whole(name, &blob.digest, &blob.bytes()),
                // If a part of it was deleted meanwhile, its bytes alone.
                Target::Manifest(m) => {
                    client.put_manifest(repository, m, &[]) == Taken::Yes
                        || client.push_whole(name, &m.digest, &m.body)
                }
            };
            match done {
                true => Ok((call, shared.recorder.now())),
                false => Err("it was not accepted".to_string()),
            }
        });
        self.copy(member, &digest, call, ret, Act::Heal);
        read(&client, name, &target);
    }

    fn copy(&self, member: usize, digest: &Digest, call: At, ret: At, act: Act) {
        let op = Op {
            member,
            call,
            ret,
            sure: true,
            act,
        };
        let key = Key::Copy(member, digest.clone());
        self.shared.recorder.op(key, op);
    }

    /// Turns a bit of something that is named somewhere.
    fn turn<'a>(
        &mut self,
        shared: &'a Arc<Shared>,
        member: usize,
    ) -> Option<(&'a Repository, Target)> {
        for _ in 0..TARGETS_MAX {
            let repository = one(&mut self.rng, &shared.repositories)?;
            let manifests: Vec<Manifest> = repository.known().manifests.values().cloned().collect();
            let Some(manifest) = one(&mut self.rng, &manifests) else {
                continue;
            };
            let blob = one(&mut self.rng, &manifest.blobs).cloned();
            let target = match blob.filter(|_| self.rng.random_bool(0.7)) {
                Some(blob) => Target::Blob(blob),
                None => Target::Manifest(manifest.clone()),
            };
            if target.len() == 0 {
                continue;
            }
            let at = self.rng.random_range(0..target.len()) as u64;
            let bit = 1u8 << self.rng.random_range(0..8u32);
            let path = self.members[member].file(target.digest());
            let call = shared.recorder.now();
            // Not there: deleted, collected, or not yet copied to this member.
            if turn_bit(&path, at, bit).is_ok_and(|turned| turned) {
                let ret = shared.recorder.now();
                self.copy(member, target.digest(), call, ret, Act::Flip);
                return Some((repository, target));
            }
        }
        None
    }

    /// Clients get answers.
    #[track_caller]
    pub fn work_goes_on(&self, more: u64) {
        let begin = self.shared.operations();
        wait_for("clients to go on", LONG, || {
            match self.shared.operations() - begin {
                n if n >= more => Ok(()),
                n => Err(format!("{n} operations; {}", self.tails())),
            }
        });
    }

    /// The ends of all logs.
    pub fn tails(&self) -> String {
        self.members.iter().map(Member::tail).collect()
    }
}

impl Drop for Nemesis {
    fn drop(&mut self) {
        self.shared.stop();
        if std::thread::panicking() {
            eprintln!("{}", self.tails());
        }
    }
}

fn read(client: &Client, name: &Name, target: &Target) -> Option<bool> {
    match target {
        Target::Blob(b) => client.pull_blob(name, &b.digest),
        Target::Manifest(m) => Some(client.pull_manifest(name, &m.digest).is_some()),
    }
}

/// `false`: the file was replaced meanwhile.
fn turn_bit(path: &std::path::Path, at: u64, bit: u8) -> std::io::Result<bool> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ bit], at)?;
    Ok(file.metadata()?.ino() == std::fs::metadata(path)?.ino())
}
