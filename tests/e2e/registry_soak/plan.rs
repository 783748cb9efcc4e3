//! What is done, drawn from a seed: contents, tasks, ways to upload, and the order of faults.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::{Value, json};
use sha2::{Sha256, Sha512};

use super::model::{Digest, Name};

/// Tags of every repository: few, so that clients meet on them.
pub const TAGS: [&str; 5] = ["v1", "v2", "latest", "edge", "old"];
/// Contents that every client pushes again and again.
const COMMON: u64 = 24;
/// Above this many manifests a repository is rather made smaller.
const MANIFESTS_MANY: usize = 14;

pub const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Any type may be stored.
const LAYER: &str = "application/vnd.coracle.soak.layer";
/// The type of what refers to something.
pub const ARTIFACT: &str = "application/vnd.coracle.soak.note";

/// A blob that can be made again from what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    seed: u64,
    pub len: usize,
}

impl Blob {
    fn new(seed: u64, len: usize, long: bool) -> Self {
        let mut blob = Self {
            digest: "".into(),
            seed,
            len,
        };
        blob.digest = digest(&blob.bytes(), long);
        blob
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        StdRng::seed_from_u64(self.seed).fill_bytes(&mut bytes);
        bytes
    }

    /// A content that nobody has pushed.
    pub fn fresh(rng: &mut StdRng) -> Self {
        let len = match rng.random_range(0..100) {
            0..60 => rng.random_range(1..2_048),
            60..92 => rng.random_range(2_048..65_536),
            92..98 => rng.random_range(65_536..300_000),
            // Several disk writes of the server's own.
            _ => rng.random_range(300_000..1_200_000),
        };
        Self::new(rng.random(), len, rng.random_bool(0.1))
    }

    /// A content that others push too; among them the empty one.
    pub fn common(rng: &mut StdRng) -> Self {
        let n = rng.random_range(0..COMMON);
        let len = usize::try_from(n * n * 113).unwrap_or(0);
        Self::new(n, len, n % 7 == 6)
    }
}

/// The digest of bytes, `long` of 512 bits.
pub fn digest(bytes: &[u8], long: bool) -> Digest {
    use sha2::Digest as _;
    let text = match long {
        true => format!("sha512:{}", hex::encode(Sha512::digest(bytes))),
        false => format!("sha256:{}", hex::encode(Sha256::digest(bytes))),
    };
    text.into()
}

/// Whether bytes are what a digest says.
pub fn is(bytes: &[u8], named: &str) -> bool {
    *digest(bytes, named.starts_with("sha512:")) == *named
}

/// A manifest or index as it is pushed.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: &'static str,
    pub body: Arc<Vec<u8>>,
    pub blobs: Vec<Blob>,
    pub children: Vec<Digest>,
    pub subject: Option<Digest>,
}

impl Manifest {
    fn new(
        media_type: &'static str,
        value: &Value,
        blobs: Vec<Blob>,
        children: Vec<Digest>,
        subject: Option<Digest>,
    ) -> Self {
        let body = serde_json::to_vec_pretty(value).unwrap();
        Self {
            digest: digest(&body, false),
            media_type,
            body: Arc::new(body),
            blobs,
            children,
            subject,
        }
    }

    /// An image: the first blob is its configuration. `subject`: what it refers to.
    pub fn image(blobs: Vec<Blob>, subject: Option<&Manifest>, salt: u64) -> Self {
        let part = |b: &Blob| json!({"mediaType": LAYER, "digest": &*b.digest, "size": b.len});
        let mut value = json!({
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": part(&blobs[0]),
            "layers": blobs[1..].iter().map(part).collect::<Vec<_>>(),
            "annotations": {"salt": salt.to_string()},
        });
        if let Some(subject) = subject {
            value["artifactType"] = json!(ARTIFACT);
            value["subject"] = json!({
                "mediaType": subject.media_type,
                "digest": &*subject.digest,
                "size": subject.body.len(),
            });
        }
        let subject = subject.map(|s| s.digest.clone());
        Self::new(IMAGE, &value, blobs, Vec::new(), subject)
    }

    /// An index of these.
    pub fn index(children: &[Manifest], salt: u64) -> Self {
        let part = |m: &Manifest| json!({"mediaType": m.media_type, "digest": &*m.digest, "size": m.body.len()});
        let value = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": children.iter().map(part).collect::<Vec<_>>(),
            "annotations": {"salt": salt.to_string()},
        });
        let digests = children.iter().map(|m| m.digest.clone()).collect();
        Self::new(INDEX, &value, Vec::new(), digests, None)
    }
}

/// How a blob is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One POST.
    Post,
    /// POST, then PUT with all bytes.
    Put,
    /// POST, PATCHes that say where they stand, PUT.
    Chunks,
    /// POST, PATCHes that do not, PUT.
    Stream,
    /// A PATCH breaks off; the status says where to go on.
    Resumed,
}

impl Way {
    pub const ALL: [Way; 5] = [Way::Post, Way::Put, Way::Chunks, Way::Stream, Way::Resumed];

    pub fn draw(rng: &mut StdRng) -> Self {
        Self::ALL[rng.random_range(0..Self::ALL.len())]
    }
}

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Blobs, then their manifest.
    Image,
    /// Children, then their index, perhaps an index of that.
    Index,
    /// Something that refers to a manifest, and the list of what does.
    Referrer,
    /// A tag moves to another manifest.
    MoveTag,
    /// One blob at once from several clients, into two repositories.
    Race,
    /// A blob that grew old is found by HEAD, not sent again, and named by a manifest.
    Lease,
    /// A blob that no manifest ever names.
    Orphan,
    /// An upload that is given up.
    Cancel,
    /// Everything behind a tag, compared byte by byte.
    Pull,
    /// A part of a blob.
    Range,
    /// A tag goes.
    DeleteTag,
    /// A manifest goes.
    DeleteManifest,
    /// A blob that no manifest names goes.
    DeleteBlob,
    /// A manifest goes and is pushed again, blobs and all.
    PushAgain,
}

impl Task {
    /// Draws one for a repository of so many manifests.
    pub fn draw(rng: &mut StdRng, manifests: usize) -> Self {
        let wear = if manifests > MANIFESTS_MANY { 80 } else { 0 };
        match rng.random_range(0..100 + wear) {
            0..18 => Task::Image,
            18..25 => Task::Index,
            25..31 => Task::Referrer,
            31..38 => Task::MoveTag,
            38..44 => Task::Race,
            44..48 => Task::Lease,
            48..51 => Task::Orphan,
            51..53 => Task::Cancel,
            53..72 => Task::Pull,
            72..78 => Task::Range,
            78..82 => Task::DeleteTag,
            82..89 => Task::DeleteManifest,
            89..93 => Task::DeleteBlob,
            93..100 => Task::PushAgain,
            _ => Task::DeleteManifest,
        }
    }
}

/// Kinds of faults. The collector is the fourth: it runs all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL to a member, which comes back.
    Kill,
    /// A member's disk is full at one step of a push.
    Full,
    /// One bit of a stored file is turned.
    Flip,
}

impl Fault {
    pub const ALL: [Fault; 3] = [Fault::Kill, Fault::Full, Fault::Flip];
}

/// A step by which the store reaches the disk: the call, and what its path contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub call: &'static str,
    pub path: &'static str,
}

/// Every step of a push, in its order.
pub const STEPS: [Step; 7] = [
    Step {
        call: "mkdir",
        path: "/uploads/",
    },
    Step {
        call: "open",
        path: "/uploads/",
    },
    Step {
        call: "write",
        path: "/uploads/",
    },
    Step {
        call: "fsync",
        path: "/uploads/",
    },
    Step {
        call: "rename",
        path: "/uploads/",
    },
    Step {
        call: "fsync",
        path: "/blobs/",
    },
    Step {
        call: "unlink",
        path: "/uploads/",
    },
];

/// One fault of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub fault: Fault,
    /// Which member; a number to be taken modulo the members.
    pub member: usize,
    /// At which step of a push; `None`: whenever it is.
    pub step: Option<Step>,
}

/// The faults of one run, in rounds of one of each kind, for as long as they are asked for.
pub struct Faults {
    rng: StdRng,
    round: Vec<Fault>,
    drawn: usize,
}

impl Faults {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            round: Vec::new(),
            drawn: 0,
        }
    }

    /// The next one. Steps come in turn, so that every one of them is met by every kind.
    pub fn draw(&mut self) -> Planned {
        if self.round.is_empty() {
            self.round = Fault::ALL.to_vec();
            self.round.shuffle(&mut self.rng);
            self.drawn += 1;
        }
        let turn = self.drawn % (STEPS.len() + 1);
        Planned {
            fault: self.round.pop().unwrap_or(Fault::Kill),
            member: self.rng.random_range(0..60),
            step: STEPS.get(turn).copied(),
        }
    }
}

/// One of several.
pub fn one<'a, T>(rng: &mut StdRng, all: &'a [T]) -> Option<&'a T> {
    match all.len() {
        0 => None,
        n => Some(&all[rng.random_range(0..n)]),
    }
}

/// A tag.
pub fn tag(rng: &mut StdRng) -> Name {
    TAGS[rng.random_range(0..TAGS.len())].into()
}

#[test]
fn registry_soak_plan_repeats_and_meets_every_step() {
    let draw = |seed| {
        let mut faults = Faults::new(seed);
        (0..90).map(|_| faults.draw()).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    for fault in Fault::ALL {
        for step in STEPS.map(Some).into_iter().chain([None]) {
            let planned = draw(3);
            assert!(
                planned.iter().any(|p| p.fault == fault && p.step == step),
                "{fault:?} at {step:?}"
            );
        }
    }
    let mut rng = StdRng::seed_from_u64(1);
    let blob = Blob::fresh(&mut rng);
    assert!(is(&blob.bytes(), &blob.digest) && !is(b"other", &blob.digest));
}
