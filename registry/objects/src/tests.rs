//! The store over a bucket in memory: the contract of `Blobs`, and what two members may do to each other.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use coracle_registry::blobs::{disk, memory};
use coracle_registry::digest::Algorithm;
use coracle_registry::meta::{self, Write};
use coracle_registry::rows::BUCKET;
use futures_util::StreamExt;
use object_store::memory::InMemory;

use super::*;

const AGE_MS: i64 = 1_000;

#[derive(Clone)]
struct Time(Arc<AtomicI64>);

impl Time {
    fn now_like_the_bucket() -> Self {
        // The bucket stamps its objects with the machine's clock.
        Self(Arc::new(AtomicI64::new(Timestamp::now().as_millisecond())))
    }

    fn pass(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Time {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

type Hook = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// Runs something before the next batch about blobs: what another member does between this one's look and its deed.
struct Between {
    inner: Arc<dyn Meta>,
    hook: Mutex<Option<Hook>>,
}

impl Meta for Between {
    fn get<'a>(
        &'a self,
        table: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Row>, MetaError>> {
        self.inner.get(table, key)
    }

    fn list<'a>(
        &'a self,
        table: &'static str,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, Row)>, MetaError>> {
        self.inner.list(table, prefix, after, limit)
    }

    fn fresh(&self) -> BoxFuture<'_, Result<(), MetaError>> {
        self.inner.fresh()
    }

    fn batch(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<(), MetaError>> {
        let mut hook = self.hook.lock().unwrap();
        let hook = writes
            .iter()
            .all(|write| write.table != BUCKET)
            .then(|| hook.take())
            .flatten();
        Box::pin(async move {
            if let Some(hook) = hook {
                hook().await;
            }
            self.inner.batch(writes).await
        })
    }
}

struct Rig {
    bucket: Arc<InMemory>,
    meta: Arc<dyn Meta>,
    time: Time,
}

impl Rig {
    fn new() -> Self {
        Self {
            bucket: Arc::new(InMemory::new()),
            meta: Arc::new(meta::memory::Memory::new()),
            time: Time::now_like_the_bucket(),
        }
    }

    fn over(&self, staging: Arc<dyn Blobs>, meta: Arc<dyn Meta>) -> Objects {
        Objects::new(Parts {
            bucket: Bucket::over(self.bucket.clone(), Path::from("some/prefix")),
            staging,
            meta,
            clock: Arc::new(self.time.clone()),
            garbage_age_ms: AGE_MS,
        })
    }

    fn member(&self) -> Objects {
        let staging = Arc::new(memory::Memory::new(self.time.clone()));
        self.over(staging, self.meta.clone())
    }

    async fn marks(&self) -> usize {
        let marks = Path::from("some/prefix/marks");
        self.bucket.list(Some(&marks)).count().await
    }

    async fn objects(&self) -> usize {
        let blobs = Path::from("some/prefix/blobs");
        self.bucket.list(Some(&blobs)).count().await
    }
}

fn bytes(length: usize, seed: u8) -> Bytes {
    (0..length)
        .map(|i| (i / 100) as u8 ^ (i as u8) ^ seed)
        .collect()
}

async fn store(objects: &Objects, what: &Bytes) -> Digest {
    let digest = Algorithm::Sha256.digest(what);
    let id = UploadId::from_bits(rand::random());
    objects.begin(&id, Bytes::new()).await.unwrap();
    for (i, piece) in what.chunks(1 << 20).enumerate() {
        let at = (i << 20) as u64;
        let piece = Bytes::copy_from_slice(piece);
        objects.append(&id, at, piece).await.unwrap();
    }
    objects
        .finish(&id, what.len() as u64, &digest)
        .await
        .unwrap();
    digest
}

async fn load(objects: &Objects, digest: &Digest, range: Option<Range<u64>>) -> Option<Bytes> {
    let opened = objects.open(&Source::Blob(digest.clone())).await.unwrap()?;
    let range = range.unwrap_or(0..opened.size);
    let pieces: Vec<Bytes> = (opened.body)(range).try_collect().await.unwrap();
    Some(pieces.concat().into())
}

#[tokio::test]
async fn what_is_stored_is_read_whole_and_in_part_by_every_member() {
    let rig = Rig::new();
    let dir = tempfile::tempdir().unwrap();
    let staged = Arc::new(disk::open(dir.path()).unwrap());
    for writer in [rig.member(), rig.over(staged, rig.meta.clone())] {
        let reader = rig.member();
        for length in [0, 1, 1000, put::PART_BYTES, 2 * put::PART_BYTES + 77] {
            let what = bytes(length, 1);
            let digest = store(&writer, &what).await;
            assert!(load(&reader, &digest, None).await.unwrap() == what);
            let end = length as u64;
            for range in [0..end / 2, end / 3..end, end..end, 0..0] {
                let part = what.slice(range.start as usize..range.end as usize);
                assert!(load(&reader, &digest, Some(range)).await.unwrap() == part);
            }
        }
        assert!(writer.staged().await.unwrap().is_empty());
    }
    let listed = rig.member().list(None, 100).await.unwrap();
    assert_eq!(listed.len(), 5);
    assert!(listed.is_sorted_by_key(|stored| stored.digest.clone()));
    let rest = rig.member().list(Some(&listed[1].digest), 2).await.unwrap();
    assert_eq!(rest, listed[2..4]);
}

#[tokio::test]
async fn what_was_not_staged_is_not_stored() {
    let rig = Rig::new();
    let objects = rig.member();
    let (digest, id) = (Algorithm::Sha256.digest(b"abc"), UploadId::from_bits(1));
    let gone = objects.finish(&id, 3, &digest).await.unwrap_err();
    assert!(matches!(gone, BlobError::UploadGone), "{gone}");
    objects.begin(&id, Bytes::new()).await.unwrap();
    objects
        .append(&id, 0, Bytes::from_static(b"ab"))
        .await
        .unwrap();
    let short = objects.finish(&id, 3, &digest).await.unwrap_err();
    assert!(
        matches!(short, BlobError::Short { have: 2, want: 3 }),
        "{short}"
    );
    assert_eq!(rig.objects().await, 0);
    assert!(load(&objects, &digest, None).await.is_none());
}

#[tokio::test]
async fn the_young_stay_and_the_old_go() {
    let rig = Rig::new();
    let (here, there) = (rig.member(), rig.member());
    let digest = store(&here, &bytes(10, 1)).await;
    rig.time.pass(AGE_MS - 1);
    assert!(!there.remove(&digest).await.unwrap());
    // Pushed again: young again.
    store(&here, &bytes(10, 1)).await;
    rig.time.pass(1);
    assert!(!there.remove(&digest).await.unwrap());
    assert!(load(&there, &digest, None).await.is_some());
    rig.time.pass(AGE_MS);
    assert!(there.remove(&digest).await.unwrap());
    assert!(!there.remove(&digest).await.unwrap());
    assert!(load(&here, &digest, None).await.is_none());
}

#[tokio::test]
async fn a_push_between_look_and_removal_wins() {
    let rig = Rig::new();
    let pusher = Arc::new(rig.member());
    let what = bytes(10, 1);
    let digest = store(&pusher, &what).await;
    rig.time.pass(AGE_MS);
    let between = Arc::new(Between {
        inner: rig.meta.clone(),
        hook: Mutex::default(),
    });
    let staging = Arc::new(memory::Memory::new(rig.time.clone()));
    let remover = rig.over(staging, between.clone());
    let again = {
        let (pusher, what) = (pusher.clone(), what.clone());
        move || -> BoxFuture<'static, ()> {
            Box::pin(async move {
                store(&pusher, &what).await;
            })
        }
    };
    *between.hook.lock().unwrap() = Some(Box::new(again));
    assert!(!remover.remove(&digest).await.unwrap());
    assert_eq!(load(&pusher, &digest, None).await.unwrap(), what);
}

#[tokio::test]
async fn a_reader_with_an_old_row_finds_the_new_object() {
    let rig = Rig::new();
    let what = bytes(10, 1);
    let objects = rig.member();
    let digest = store(&objects, &what).await;
    let (_, old) = objects.place(&digest).await.unwrap().unwrap();
    rig.time.pass(AGE_MS);
    assert!(objects.remove(&digest).await.unwrap());
    store(&objects, &what).await;
    // A member whose rows are behind still sees the first one.
    let stale = Stale {
        inner: rig.meta.clone(),
        row: old,
        fresh: AtomicBool::new(false),
    };
    let staging = Arc::new(memory::Memory::new(rig.time.clone()));
    let behind = rig.over(staging, Arc::new(stale));
    assert_eq!(load(&behind, &digest, None).await.unwrap(), what);
}

/// Rows are old until they are asked to be fresh: what [`Meta`] allows.
struct Stale {
    inner: Arc<dyn Meta>,
    row: Row,
    fresh: AtomicBool,
}

impl Meta for Stale {
    fn get<'a>(
        &'a self,
        table: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Row>, MetaError>> {
        if table == BUCKET {
            // The one question before all others, and not what the test is about.
            self.fresh.store(false, Ordering::SeqCst);
            return self.inner.get(table, key);
        }
        if self.fresh.load(Ordering::SeqCst) {
            return self.inner.get(table, key);
        }
        Box::pin(std::future::ready(Ok(Some(self.row.clone()))))
    }

    fn list<'a>(
        &'a self,
        table: &'static str,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, Row)>, MetaError>> {
        self.inner.list(table, prefix, after, limit)
    }

    fn fresh(&self) -> BoxFuture<'_, Result<(), MetaError>> {
        self.fresh.store(true, Ordering::SeqCst);
        self.inner.fresh()
    }

    fn batch(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<(), MetaError>> {
        self.inner.batch(writes)
    }
}

#[tokio::test]
async fn a_damaged_object_is_set_aside_until_it_is_pushed_again() {
    let rig = Rig::new();
    let objects = rig.member();
    let what = bytes(1000, 1);
    let digest = store(&objects, &what).await;
    assert!(!objects.quarantine(&digest).await.unwrap(), "it is sound");
    let (place, _) = objects.place(&digest).await.unwrap().unwrap();
    let key = objects.key(&digest, &place.generation);
    let mut damaged = what.to_vec();
    damaged[500] ^= 1;
    rig.bucket.put(&key, damaged.into()).await.unwrap();
    let other = rig.member();
    assert!(other.quarantine(&digest).await.unwrap());
    assert!(!other.quarantine(&digest).await.unwrap(), "once");
    assert!(load(&objects, &digest, None).await.is_none());
    assert_eq!(rig.objects().await, 1, "it is kept for whoever looks");
    store(&objects, &what).await;
    assert_eq!(load(&other, &digest, None).await.unwrap(), what);
}

#[tokio::test]
async fn orphans_go_when_nobody_can_name_them_any_more() {
    let rig = Rig::new();
    let objects = rig.member();
    let kept = store(&objects, &bytes(10, 1)).await;
    // Pushed twice: the first generation has no row now.
    store(&objects, &bytes(10, 1)).await;
    let foreign = Path::from("some/prefix/blobs/readme.txt");
    rig.bucket.put(&foreign, "mine".into()).await.unwrap();
    let now = rig.time.now();
    let young = objects.sweep(now).await.unwrap();
    assert_eq!((young.objects, young.removed), (3, 0));
    rig.time.pass(sweep::ORPHAN_AGE_MS + 60_000);
    let swept = objects.sweep(rig.time.now()).await.unwrap();
    assert_eq!(
        swept,
        Swept {
            objects: 3,
            removed: 1,
            bytes: 10
        }
    );
    assert!(load(&objects, &kept, None).await.is_some());
    assert_eq!(rig.objects().await, 2, "what is not ours stays");
}

#[test]
fn addresses() {
    // Whoever is first of the tests has installed it.
    drop(rustls::crypto::ring::default_provider().install_default());
    for (url, why) in [
        ("bucket/prefix", "relative URL"),
        ("file:///tmp", "no provider"),
        ("ftp://bucket", "no provider"),
        ("s3://", "no bucket"),
        ("s3://key:secret@bucket/x", "environment"),
    ] {
        let error = Bucket::parse(url, []).err().unwrap().to_string();
        assert!(error.contains(why), "{url}: {error}");
        assert!(error.starts_with("REGISTRY_STORAGE_URL: "), "{error}");
    }
    let environment = [("AWS_REGION", "eu-central-1"), ("PATH", "/bin")];
    let environment = environment.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let bucket = Bucket::parse("s3://bucket/one/two", environment).unwrap();
    assert_eq!(bucket.prefix, Path::from("one/two"));
}

#[tokio::test]
async fn members_that_name_another_bucket_touch_nothing() {
    let rig = Rig::new();
    let what = bytes(100, 1);
    let digest = store(&rig.member(), &what).await;
    let other = Rig {
        bucket: Arc::new(InMemory::new()),
        meta: rig.meta.clone(),
        time: rig.time.clone(),
    };
    let stranger = other.member();
    rig.time.pass(2 * AGE_MS);
    let source = Source::Blob(digest.clone());
    let id = UploadId::from_bits(9);
    let failures = [
        stranger.put(&id, &digest, what.clone()).await.err(),
        stranger.open(&source).await.err(),
        stranger.remove(&digest).await.err(),
        stranger.quarantine(&digest).await.err(),
    ];
    for failure in failures {
        let text = failure.unwrap().to_string();
        assert!(text.starts_with("E_REGISTRY_STORAGE_OTHER: "), "{text}");
        assert!(text.contains("--registry-storage"), "{text}");
    }
    assert_eq!((other.objects().await, other.marks().await), (0, 0));
    // The row is untouched, and the bucket that was right is still.
    let again = rig.member();
    assert!(again.open(&source).await.unwrap().is_some());
    assert_eq!((rig.objects().await, rig.marks().await), (1, 1));
}

#[tokio::test]
async fn of_members_that_begin_at_once_one_marks_the_bucket() {
    let rig = Rig::new();
    let members: Vec<Objects> = (0..8).map(|_| rig.member()).collect();
    let all = members.iter().map(Objects::ours);
    for done in futures_util::future::join_all(all).await {
        done.unwrap();
    }
    assert_eq!(rig.marks().await, 1);
}
