//! The upload session under any sequence of steps, against a model that is a list of bytes.
//!
//! The steps are those of a request handler that keeps the protocol of [`Upload`]: ask, write, take, ask whether it was
//! all, go back if not. An input is read as a row of steps; none is invalid.

use arbitrary::Unstructured;
use jiff::Timestamp;

use super::Target;
use super::chunks::{self, BLOB_BYTES_MAX, Sent};
use crate::digest::{Algorithm, Hash};
use crate::name::Name;
use crate::upload::{Note, Phase, Refusal, Upload};

pub(super) const TARGET: Target = Target {
    name: "uploads",
    seeds,
    words: &["\0\0\0\0", "\u{1}\u{1}\u{1}", "\u{2}\u{5}hello", "\u{7f}"],
    check,
};

/// Steps of one input.
const STEPS_MAX: usize = 200;

fn seeds() -> Vec<Vec<u8>> {
    // Meaningless to read: the first bytes choose steps, the last ones lengths.
    let counted: Vec<u8> = (0..=255).collect();
    vec![
        Vec::new(),
        vec![0; 64],
        vec![1; 64],
        counted.clone(),
        counted.iter().rev().copied().collect(),
        counted.iter().map(|b| b.wrapping_mul(37)).collect(),
        counted.iter().map(|b| b % 8).collect(),
        counted.iter().map(|b| b.wrapping_mul(101) % 16).collect(),
    ]
}

fn instant(ms: u32) -> Timestamp {
    Timestamp::from_millisecond(i64::from(ms)).expect("a u32 of milliseconds is a time")
}

/// What must be true of a session whatever happened to it.
struct Model {
    /// Bytes the client was told are there.
    held: Vec<u8>,
    /// The algorithm written down when the session began.
    announced: Algorithm,
    /// The one in use.
    algorithm: Algorithm,
    /// Has the running hash seen every byte?
    hashed: bool,
    touched: Timestamp,
    phase: Phase,
}

fn check(input: &[u8]) -> bool {
    run(&mut Unstructured::new(input)).unwrap_or(false)
}

/// `false` if no byte was ever taken.
fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<bool> {
    let repository: Name = "demo/a".parse().expect("a name");
    let algorithm = *u.choose(&Algorithm::ALL)?;
    let mut upload = Upload::start(repository, algorithm, Timestamp::UNIX_EPOCH);
    let mut model = Model {
        held: Vec::new(),
        announced: algorithm,
        algorithm,
        hashed: true,
        touched: Timestamp::UNIX_EPOCH,
        phase: Phase::Open,
    };
    // What lies on the disk; the model knows what should.
    let mut disk: Vec<u8> = Vec::new();
    let mut taken = false;
    for _ in 0..STEPS_MAX {
        if u.is_empty() {
            break;
        }
        match u.int_in_range(0..=9)? {
            0..=4 => taken |= chunk(u, &mut upload, &mut model, &mut disk)?,
            5 => rehash(u, &mut upload, &mut model, &disk)?,
            6 => restart(u, &mut upload, &mut model, &disk)?,
            7 | 8 => time(u, &mut upload, &mut model)?,
            _ => finish(u, &mut upload, &mut model, &disk)?,
        }
        invariants(&upload, &model, &disk);
    }
    Ok(taken)
}

fn invariants(upload: &Upload, model: &Model, disk: &[u8]) {
    assert_eq!(upload.phase(), &model.phase);
    assert_eq!(upload.touched(), model.touched);
    assert_eq!(upload.algorithm(), model.algorithm);
    assert_eq!(upload.repository().as_str(), "demo/a");
    if model.phase == Phase::Dropped {
        return;
    }
    // Nothing twice, nothing lost, nothing that was taken back.
    assert_eq!(upload.offset(), model.held.len() as u64);
    assert_eq!(disk, model.held);
    assert!(upload.offset() <= BLOB_BYTES_MAX);
    let want = model.hashed.then(|| model.algorithm.digest(&model.held));
    assert_eq!(upload.digest(), want);
}

/// One chunk, as a request brings it. Answers whether it was taken.
fn chunk(
    u: &mut Unstructured<'_>,
    upload: &mut Upload,
    model: &mut Model,
    disk: &mut Vec<u8>,
) -> arbitrary::Result<bool> {
    let sent = Sent::arbitrary(u, model.held.len() as u64)?;
    let open = model.phase == Phase::Open;
    let due = chunks::may_begin(&sent, model.held.len() as u64, open);
    let begun = upload.chunk(sent.range.as_deref(), sent.length, BLOB_BYTES_MAX);
    assert_eq!(begun.as_ref().err(), due.as_ref().err(), "{sent:?}");
    let (Ok(chunk), Ok(due)) = (begun, due) else {
        return Ok(false);
    };
    let mut came = 0;
    for (n, piece) in sent.pieces().enumerate() {
        if sent.breaks_off == Some(n) {
            // What was written before stays; the client will ask how far it came.
            model.held.extend_from_slice(&sent.body[..came]);
            return Ok(came > 0);
        }
        let after = (came + piece.len()) as u64;
        let admitted = upload.admits(&chunk, piece.len() as u64, BLOB_BYTES_MAX);
        assert_eq!(
            admitted,
            chunks::may_go_on(model.held.len() as u64, due, after)
        );
        if let Err(refusal) = admitted {
            upload.roll_back(chunk);
            cut(upload, disk);
            if matches!(refusal, Refusal::TooLarge { .. }) {
                upload.dropped();
                model.phase = Phase::Dropped;
            }
            return Ok(false);
        }
        disk.extend_from_slice(piece);
        upload.take(piece);
        came += piece.len();
    }
    let whole = chunks::may_end(due, came as u64);
    assert_eq!(upload.ended(&chunk), whole);
    if whole.is_err() {
        upload.roll_back(chunk);
        cut(upload, disk);
        return Ok(false);
    }
    model.held.extend_from_slice(&sent.body);
    Ok(came > 0)
}

/// The store is told how long the session is.
fn cut(upload: &Upload, disk: &mut Vec<u8>) {
    let keep = usize::try_from(upload.offset()).expect("below the bound");
    assert!(
        keep <= disk.len(),
        "the session holds what was never written"
    );
    disk.truncate(keep);
}

fn hash_of(algorithm: Algorithm, bytes: &[u8]) -> Hash {
    let mut hash = Hash::new(algorithm);
    hash.update(bytes);
    hash
}

/// The algorithm changes its mind.
fn rehash(
    u: &mut Unstructured<'_>,
    upload: &mut Upload,
    model: &mut Model,
    disk: &[u8],
) -> arbitrary::Result<()> {
    let algorithm = *u.choose(&Algorithm::ALL)?;
    model.hashed = disk.is_empty() || (model.hashed && model.algorithm == algorithm);
    model.algorithm = algorithm;
    assert_eq!(upload.hash_with(algorithm), model.hashed);
    if !model.hashed && u.ratio(2, 3)? {
        upload.rehashed(hash_of(algorithm, disk));
        model.hashed = true;
    }
    Ok(())
}

/// A new process finds the note and the bytes.
fn restart(
    u: &mut Unstructured<'_>,
    upload: &mut Upload,
    model: &mut Model,
    disk: &[u8],
) -> arbitrary::Result<()> {
    if model.phase != Phase::Open {
        return Ok(());
    }
    let note = Note {
        repository: upload.repository().clone(),
        algorithm: model.announced.name().to_owned(),
        started: Timestamp::UNIX_EPOCH,
    };
    let json = serde_json::to_string(&note).expect("a note can be written");
    let read: Note = serde_json::from_str(&json).expect("and read");
    assert_eq!(read, note);
    model.touched = instant(u.arbitrary()?);
    model.algorithm = model.announced;
    model.hashed = disk.is_empty();
    *upload = Upload::restore(read, disk.len() as u64, model.touched);
    Ok(())
}

/// Time passes, or seems to go back.
fn time(u: &mut Unstructured<'_>, upload: &mut Upload, model: &mut Model) -> arbitrary::Result<()> {
    let now = instant(u.arbitrary()?);
    let age = i64::from(u.arbitrary::<u16>()?);
    let idle = now.as_millisecond() - model.touched.as_millisecond();
    assert_eq!(upload.expired(now, age), idle >= age);
    if u.arbitrary()? {
        upload.touch(now);
        model.touched = model.touched.max(now);
    }
    Ok(())
}

/// The last request: right digest, wrong digest, or a client that gives up.
fn finish(
    u: &mut Unstructured<'_>,
    upload: &mut Upload,
    model: &mut Model,
    disk: &[u8],
) -> arbitrary::Result<()> {
    if model.phase != Phase::Open {
        return Ok(());
    }
    let algorithm = *u.choose(&Algorithm::ALL)?;
    let right = algorithm.digest(&model.held);
    let digest = match u.int_in_range(0..=5)? {
        0 => algorithm.digest(b"something else"),
        1 => {
            upload.dropped();
            model.phase = Phase::Dropped;
            return Ok(());
        }
        _ => right.clone(),
    };
    if !upload.hash_with(algorithm) {
        upload.rehashed(hash_of(algorithm, disk));
    }
    (model.algorithm, model.hashed) = (algorithm, true);
    assert_eq!(upload.digest(), Some(right.clone()));
    if digest != right {
        upload.dropped();
        model.phase = Phase::Dropped;
        return Ok(());
    }
    upload.stored(digest.clone());
    assert_eq!(
        upload.phase(),
        &Phase::Stored {
            digest: digest.clone()
        }
    );
    let late = upload.chunk(None, None, BLOB_BYTES_MAX);
    assert_eq!(late.err(), Some(Refusal::Complete));
    upload.linked(digest.clone());
    model.phase = Phase::Linked { digest };
    Ok(())
}
